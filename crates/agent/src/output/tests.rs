use proptest::prelude::*;

use super::{Lines, News, PIECE, evidence};
use crate::core::Evidence;

fn lines(chunks: &[&[u8]]) -> Vec<String> {
    let (mut cutter, mut out) = (Lines::default(), Vec::new());
    for chunk in chunks {
        cutter.feed(chunk, |line| out.push(line.to_owned()));
    }
    cutter.end(|line| out.push(line.to_owned()));
    out
}

#[test]
fn lines_end_where_they_end_whatever_the_chunks() {
    assert_eq!(lines(&[b"a\nb", b"c\r\n", b"\n", b"d"]), ["a", "bc", "", "d"]);
    assert_eq!(lines(&[b"\xff\n"]), ["\u{fffd}"]);
    assert_eq!(lines(&[b"a\n"]), ["a"]);
}

#[test]
fn a_long_line_comes_in_pieces_and_a_full_piece_is_no_second_line() {
    let long = vec![b'x'; 2 * PIECE + 10];
    let sizes = |chunks: &[&[u8]]| lines(chunks).iter().map(String::len).collect::<Vec<_>>();
    assert_eq!(sizes(&[&long, b"\n"]), [PIECE, PIECE, 10]);
    assert_eq!(sizes(&[&long[..PIECE], b"\n", b"y\n"]), [PIECE, 1]);
}

#[test]
fn evidence_of_the_runner() {
    let rows = [
        ("2026-01-01 00:00:00Z: Listening for Jobs", Some(Evidence::Listening)),
        ("2026-01-01 00:00:00Z: Running job: build", Some(Evidence::JobReceived)),
        ("2026-01-01 00:00:00Z: Job build completed with result: Failed", Some(Evidence::JobCompleted)),
        ("Runner listener exit with terminated error, stop the service", Some(Evidence::ListenerFailed(1))),
        ("Runner listener exit with Session Conflict error, stop", Some(Evidence::ListenerFailed(5))),
        ("Exiting with unknown error code: 13", Some(Evidence::ListenerFailed(13))),
        ("Exiting with unknown error code: -2 now", Some(Evidence::ListenerFailed(-2))),
        ("Exiting with unknown error code: many", None),
        ("Restarting runner...", Some(Evidence::Retrying)),
        ("listening for jobs", None),
    ];
    for (line, expected) in rows {
        assert_eq!(evidence(line), expected, "{line}");
    }
}

#[test]
fn evidence_is_told_once() {
    let mut news = News::default();
    assert_eq!(news.of("Listening for Jobs"), Some(Evidence::Listening));
    assert_eq!(news.of("Listening for Jobs"), None);
    let told = (0..1_000).filter_map(|code| news.of(&format!("Exiting with unknown error code: {code}"))).count();
    assert!(told < 16, "a job cannot flood the agent");
}

proptest! {
    #[test]
    fn nothing_is_lost(text in "[a-z\n]{0,400}", cuts in proptest::collection::vec(0_usize..400, 0..6)) {
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < text.len()).collect();
        cuts.sort_unstable();
        let mut chunks = Vec::new();
        let mut from = 0;
        for cut in cuts {
            chunks.push(&text.as_bytes()[from..cut]);
            from = cut;
        }
        chunks.push(&text.as_bytes()[from..]);
        let expected: Vec<&str> = text.lines().collect();
        prop_assert_eq!(lines(&chunks), expected);
    }
}
