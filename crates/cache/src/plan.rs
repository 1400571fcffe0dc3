//! How the pieces of an upload become one object of a bucket: which parts are copied inside the bucket, and which have
//! to be stitched together here, because a part has a smallest size. Pure.

const MIB: u64 = 1 << 20;
/// Smallest part, but for the last.
pub const MIN: u64 = 5 * MIB;
/// Most parts of an object, with room to spare: the bucket's limit is 10,000.
const PARTS: u64 = 9_000;
/// Largest part, and largest object that one request can write or copy.
pub const MAX: u64 = 5 << 30;

/// Bytes of one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Which piece.
    pub piece: usize,
    /// Offset of its first byte.
    pub start: u64,
    /// At least 1.
    pub length: u64,
}

/// One part of the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Copied by the bucket; its bytes never come here.
    Copy(Slice),
    /// Read and written again, as one.
    Stitch(Vec<Slice>),
}

impl Part {
    /// Bytes.
    pub fn length(&self) -> u64 {
        match self {
            Self::Copy(slice) => slice.length,
            Self::Stitch(slices) => slices.iter().map(|slice| slice.length).sum(),
        }
    }
}

/// Plans the parts of pieces of these sizes, in order. Every part but the last has at least [`MIN`] bytes.
pub fn parts(sizes: &[u64]) -> Vec<Part> {
    let total: u64 = sizes.iter().sum();
    let stitch = (8 * MIB).max(total.div_ceil(PARTS));
    // A part this large, even when the bucket would take smaller ones: there may only be so many.
    let min = MIN.max(total.div_ceil(PARTS));
    let part = (64 * MIB).max(total.div_ceil(PARTS)).min(MAX);
    let mut parts = Vec::new();
    let mut pending: Vec<Slice> = Vec::new();
    let mut held = 0;
    for (piece, &size) in sizes.iter().enumerate() {
        let mut start = 0;
        while start < size {
            let left = size - start;
            if held == 0 && left >= min {
                // What is left behind a copy must be a part of its own, or small enough to be stitched to what follows.
                let length = left.min(part);
                parts.push(Part::Copy(Slice { piece, start, length }));
                start += length;
                continue;
            }
            // From a large piece only what the stitch lacks, so that the rest can be copied.
            let lack = if left >= 2 * min { min.saturating_sub(held).max(1) } else { left };
            let length = lack.min(left);
            pending.push(Slice { piece, start, length });
            held += length;
            start += length;
            if held >= stitch || (held >= min && size - start >= min) {
                parts.push(Part::Stitch(std::mem::take(&mut pending)));
                held = 0;
            }
        }
    }
    if held > 0 {
        parts.push(Part::Stitch(pending));
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All bytes of all pieces, once and in order; no part too small, none too large, not too many.
    fn is_sound(sizes: &[u64]) -> Result<(), String> {
        let parts = parts(sizes);
        let slices = parts.iter().flat_map(|part| match part {
            Part::Copy(slice) => std::slice::from_ref(slice),
            Part::Stitch(slices) => slices,
        });
        let mut at = (0, 0);
        for slice in slices {
            while at.0 < sizes.len() && at.1 == sizes[at.0] {
                at = (at.0 + 1, 0);
            }
            if (slice.piece, slice.start) != at || slice.length == 0 {
                return Err(format!("{slice:?} where {at:?} was due"));
            }
            at.1 += slice.length;
        }
        let end =
            sizes.get(at.0).is_none_or(|size| at.1 == *size) && sizes.iter().skip(at.0 + 1).all(|size| *size == 0);
        let small = parts.iter().rev().skip(1).any(|part| part.length() < MIN);
        let large = parts.iter().any(|part| part.length() > MAX);
        if !end || small || large || parts.len() > 10_000 {
            return Err(format!("{} parts, end {end}, small {small}, large {large}", parts.len()));
        }
        Ok(())
    }

    #[test]
    fn real_uploads_are_copied_and_small_blocks_stitched() {
        let copies = |sizes: &[u64]| parts(sizes).iter().filter(|part| matches!(part, Part::Copy(_))).count();
        assert_eq!(copies(&[64 * MIB; 160]), 160);
        assert_eq!(copies(&[MIB; 1000]), 0);
        for sizes in [
            &[64 * MIB; 4][..],
            &[MIB; 1000],
            &[6 * MIB, 10, 6 * MIB, 1],
            &[1],
            &[],
            &[0, 5, 0],
            &[10, 64 * MIB, 10, 64 * MIB],
            &[5 << 40],
            &[4000 * MIB; 1_300],
            &[4 * MIB; 50_000],
            &[100 << 20; 50_000],
        ] {
            assert_eq!(is_sound(sizes), Ok(()), "{} of {:?}", sizes.len(), sizes.first());
        }
    }

    proptest! {
        #[test]
        fn any_sizes_have_a_sound_plan(sizes in prop::collection::vec(
            prop_oneof![0..10u64, 0..12 * MIB, 0..200 * MIB, Just(MIN), Just(MIN - 1), Just(8 * MIB)], 0..60)) {
            prop_assert_eq!(is_sound(&sizes), Ok(()));
        }
    }
}
