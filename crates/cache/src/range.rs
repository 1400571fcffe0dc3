//! Ranges of bytes in headers. Pure.

/// What a download is to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// All of it.
    Whole,
    /// From `start`, `length` bytes.
    Part {
        /// Offset of the first byte.
        start: u64,
        /// At least 1.
        length: u64,
    },
    /// Something behind its end.
    Unsatisfiable,
}

/// Reads `Range` or `x-ms-range` against a size. What is malformed, or asks for several ranges, asks for everything.
pub fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let Some((from, to)) = header.and_then(|text| text.trim().strip_prefix("bytes=")).and_then(|r| r.split_once('-'))
    else {
        return Wanted::Whole;
    };
    let number = |text: &str| digits(text).then(|| text.parse().unwrap_or(u64::MAX));
    let (start, end) = match (number(from), number(to)) {
        (Some(start), Some(end)) if start <= end => (start, end),
        (Some(start), None) if to.is_empty() => (start, u64::MAX),
        (None, Some(last)) if from.is_empty() => match size.min(last) {
            0 => return Wanted::Unsatisfiable,
            last => (size - last, u64::MAX),
        },
        _ => return Wanted::Whole,
    };
    if start >= size {
        return Wanted::Unsatisfiable;
    }
    Wanted::Part { start, length: end.min(size - 1) - start + 1 }
}

/// Start and end (inclusive) of the header `Content-Range: bytes 0-9/*` of an upload.
pub fn content_range(header: &str) -> Option<(u64, u64)> {
    let (range, total) = header.strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    if !(total == "*" || digits(total)) || !digits(start) || !digits(end) {
        return None;
    }
    let (start, end): (u64, u64) = (start.parse().ok()?, end.parse().ok()?);
    // Its length has to be a number, too.
    (start <= end && end < u64::MAX).then_some((start, end))
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Whether chunks (start and end, inclusive) are exactly the bytes `0..size`, and in which order.
///
/// `None`: there is a hole, an overlap, or a byte too many or too few.
pub fn tiled(mut chunks: Vec<(u64, u64)>, size: u64) -> Option<Vec<(u64, u64)>> {
    chunks.sort_unstable();
    let end = chunks.iter().try_fold(0, |at, (start, end)| (*start == at).then(|| end + 1))?;
    (end == size).then_some(chunks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_to_what_there_is() {
        let part = |start, length| Wanted::Part { start, length };
        for (header, size, expected) in [
            ("bytes=0-0", 10, part(0, 1)),
            ("bytes=2-5", 10, part(2, 4)),
            ("bytes=2-500", 10, part(2, 8)),
            ("bytes=2-", 10, part(2, 8)),
            ("bytes=-3", 10, part(7, 3)),
            ("bytes=-30", 10, part(0, 10)),
            ("bytes=0-99999999999999999999999", 10, part(0, 10)),
            ("bytes=10-", 10, Wanted::Unsatisfiable),
            ("bytes=99999999999999999999999-", 10, Wanted::Unsatisfiable),
            ("bytes=-0", 10, Wanted::Unsatisfiable),
            ("bytes=0-0", 0, Wanted::Unsatisfiable),
            ("bytes=5-2", 10, Wanted::Whole),
            ("bytes=0-1,3-4", 10, Wanted::Whole),
            ("bytes=-", 10, Wanted::Whole),
            ("bytes=+1-2", 10, Wanted::Whole),
            ("items=0-1", 10, Wanted::Whole),
            ("", 10, Wanted::Whole),
        ] {
            assert_eq!(wanted(Some(header), size), expected, "{header} of {size}");
        }
        assert_eq!(wanted(None, 10), Wanted::Whole);
    }

    #[test]
    fn content_ranges_are_taken_literally() {
        assert_eq!(content_range("bytes 0-33554431/*"), Some((0, 33_554_431)));
        assert_eq!(content_range("bytes 5-5/6"), Some((5, 5)));
        for bad in [
            "",
            "bytes 0-9",
            "bytes 9-0/*",
            "bytes -9/*",
            "bytes 0-/*",
            "bytes=0-9/*",
            "bytes 0-9/x",
            " bytes 0-9/*",
            "bytes 0-18446744073709551615/*",
            "bytes 0-99999999999999999999/*",
            "bytes +0-9/*",
            "bytes 0-9/",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn chunks_have_to_be_all_there_is() {
        assert_eq!(tiled(vec![(5, 9), (0, 4)], 10), Some(vec![(0, 4), (5, 9)]));
        assert_eq!(tiled(Vec::new(), 0), Some(Vec::new()));
        for (chunks, size) in [
            (vec![(0, 4)], 10),
            (vec![(1, 9)], 10),
            (vec![(0, 4), (6, 9)], 10),
            (vec![(0, 5), (5, 9)], 10),
            (vec![(0, 9), (0, 4)], 10),
            (vec![(0, 9)], 9),
            (Vec::new(), 1),
        ] {
            assert_eq!(tiled(chunks.clone(), size), None, "{chunks:?} of {size}");
        }
    }
}
