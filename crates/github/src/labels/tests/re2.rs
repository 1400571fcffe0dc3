use crate::labels::re2::compile;

#[test]
fn means_what_re2_means() {
    for (pattern, yes, no) in [
        (r"^\d+$", "42", "٤٢"),
        (r"^\D$", "٤", "4"),
        (r"^\w+$", "a_1", "é"),
        (r"^\W$", "é", "_"),
        (r"^a\sb$", "a b", "a\u{a0}b"),
        (r"^a\Sb$", "a\u{a0}b", "a b"),
        (r"\bci\b", "éci-x", "xci"),
        (r"x\By", "xy", "x y"),
        (r"^[\d-]+$", "1-2", "a"),
        (r"^[^\w]$", "é", "z"),
        (r"^[\W]$", "é", "z"),
        (r"^[a[]$", "[", "]"),
        (r"^[]a]$", "]", "["),
        (r"^[^]a]$", "b", "]"),
        (r"^[a&&b]+$", "a&b", "c"),
        (r"^[a~~b]+$", "a~b", "c"),
        (r"^[-a]+$", "a-", "b"),
        (r"^[+--]+$", "+,-", "."),
        (r"^[[:alpha:]-]+$", "a-b", "1"),
        (r"^[[:]$", "[", "x"),
        (r"^[^[:^digit:]x]$", "1", "x"),
        (r"^\<x\>$", "<x>", "x"),
        (r"(?i)^CI-", "ci-1", "xci-1"),
        (r"(?i)^\w$", "k", "\u{212a}"),
        (r"^\\d$", r"\d", "1"),
        (r"^\[\d\]$", "[1]", "1"),
        (r"^(?P<n>[a-z]+)-(\d)x$", "ci-8x", "ci-x"),
    ] {
        let regex = compile(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}"));
        assert!(regex.is_match(yes), "{pattern} should match {yes}");
        assert!(!regex.is_match(no), "{pattern} should not match {no}");
    }
}

#[test]
fn refuses_what_no_linear_engine_can_do() {
    for pattern in [r"(?=a)", r"(?!a)", r"(a)\1", r"(?<=a)b", "(", "[a", "a**b(", r"\", r"[\"] {
        let error = compile(pattern).unwrap_err();
        assert!(!error.is_empty() && !error.contains('\n'), "{pattern}: {error:?}");
    }
}
