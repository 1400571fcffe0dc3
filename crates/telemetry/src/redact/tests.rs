use super::*;
use domain::clock::SystemClock;
use proptest::prelude::*;

fn redactor() -> Redactor {
    Redactor::new(Arc::new(SystemClock))
}

struct At(std::sync::Mutex<Timestamp>);

impl Clock for At {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

#[test]
fn credentials_that_give_themselves_away_are_replaced_and_named() {
    let rows = [
        ("token ghs_16C7e42F292c6912E7710c838347Ae178B4a!", "token <redacted:github_token>!"),
        ("github_pat_11ABC_def rejected", "<redacted:github_pat> rejected"),
        ("key AKIAIOSFODNN7EXAMPLE.", "key <redacted:aws_key>."),
        ("Authorization: Bearer abc.def", "Authorization: <redacted:bearer>"),
        ("GET /x?X-Amz-Signature=abc&y=1", "GET /x?<redacted:presigned>&y=1"),
        ("login hvs.CAESIJ failed", "login <redacted:vault> failed"),
        ("jwt eyJhbGciOi.eyJpc3Mi.c2ln, done", "jwt <redacted:jwt>, done"),
        (
            "a\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\nxyz\n-----END RSA PRIVATE KEY-----\nb",
            "a\n<redacted:private_key>\nb",
        ),
        ("cut off: -----BEGIN PRIVATE KEY-----\\nMIIE", "cut off: <redacted:private_key>"),
        ("redis://user:hunter2@valkey:6379/0", "redis://<redacted:userinfo>@valkey:6379/0"),
        ("nothing to see at https://api.github.com/app", "nothing to see at https://api.github.com/app"),
    ];
    for (text, clean) in rows {
        assert_eq!(redact(text), clean);
        assert_eq!(redactor().redact(text), clean);
    }
}

#[test]
fn short_values_are_not_registered() {
    let r = redactor();
    r.register("ec2", None);
    r.register("  seven77 ", None);
    assert_eq!(r.redact("mode ec2, seven77"), "mode ec2, seven77");
}

#[test]
fn the_longest_of_several_known_values_wins() {
    let r = redactor();
    r.register("password-1", None);
    r.register("password-12345", None);
    assert_eq!(r.redact("is password-12345."), "is <redacted:known>.");
    assert_eq!(r.redact("is password-123."), "is <redacted:known>23.");
}

#[test]
fn minted_values_are_forgotten_after_their_life_or_when_there_are_too_many() {
    let clock = Arc::new(At(std::sync::Mutex::new(Timestamp::UNIX_EPOCH)));
    let r = Redactor::new(clock.clone());
    r.register("for ever and ever", None);
    r.register("an hour of life", Some(Duration::from_secs(3600)));
    r.register("registered twice", Some(Duration::from_secs(1)));
    r.register("registered twice", None);
    *clock.0.lock().unwrap() = after(Timestamp::UNIX_EPOCH, Duration::from_secs(3600));
    r.register("trigger of the sweep", Some(Duration::from_secs(60)));
    assert_eq!(
        r.redact("for ever and ever|an hour of life|registered twice"),
        "<redacted:known>|an hour of life|<redacted:known>"
    );
    for n in 0..MINTED_CAP {
        r.register(&format!("minted token {n:05}"), Some(Duration::from_secs(60)));
    }
    assert_eq!(r.redact("trigger of the sweep"), "trigger of the sweep", "the oldest went first");
    assert_eq!(r.redact("minted token 00000 for ever and ever"), format!("{KNOWN} {KNOWN}"));
    let known = r.known.read().unwrap();
    assert_eq!(known.minted, MINTED_CAP);
    let forms: usize = known.entries.values().map(|e| e.forms.len()).sum();
    assert_eq!(known.index.values().map(Vec::len).sum::<usize>(), forms, "the index holds nothing that is gone");
}

#[test]
fn long_values_are_found_by_their_beginning_and_cut_out_whole() {
    let r = redactor();
    let token = |n: u32, len: usize| format!("{}{}", "eyJydW5uZXIi".repeat(8), format!("{n:09}").repeat(len));
    r.register(&token(1, 400), Some(Duration::from_secs(60)));
    r.register(&token(2, 500), Some(Duration::from_secs(60)));
    assert_eq!(r.redact(&format!("a {} b", token(2, 500))), "a <redacted:known> b");
    assert_eq!(r.redact(&format!("a {}", &token(1, 400)[..200])), "a <redacted:known>", "cut off by somebody else");
    let clean = r.redact(&format!("a {} {}", token(1, 400), "é".repeat(3000)));
    assert!(clean.starts_with("a <redacted:known>é") && !clean.contains("eyJ"), "{clean}");
    let known = r.known.read().unwrap();
    assert_eq!(known.entries.len(), 2, "the same beginning is not the same value");
    assert!(known.entries.values().flat_map(|e| &e.forms).all(|f| f.head.len() <= HEAD));
}

proptest! {
    /// No form of a registered value survives, whatever stands around it.
    #[test]
    fn no_form_of_a_known_value_survives(
        secret in "[ -~äß\n\"\\\\]{12,60}",
        before in "[a-z \"\\\\é]{0,9}",
        after in "[a-z \"\\\\é]{0,9}",
    ) {
        let secret = secret.trim_ascii();
        prop_assume!(secret.len() >= 12 && secret.chars().filter(char::is_ascii_alphanumeric).count() >= 6);
        let r = redactor();
        r.register(secret, None);
        let encoded = STANDARD.encode(format!("{before}{secret}{after}"));
        let texts = [
            format!("{before}{secret}{after}"),
            format!("{:?}", format!("{before}{secret}{after}")),
            serde_json::Value::from(format!("{before}{secret}{after}")).to_string(),
            percent_encoding::utf8_percent_encode(secret, percent_encoding::NON_ALPHANUMERIC).to_string(),
        ];
        for text in &texts {
            prop_assert!(r.redact(text).contains("<redacted:"), "{text}");
            prop_assert!(!r.redact(text).contains(secret));
        }
        // At most the first and the last bytes' characters remain.
        prop_assert!(r.redact(&encoded).contains("<redacted:"), "{encoded}");
    }

    /// A text without secrets comes out as it went in.
    #[test]
    fn innocent_text_is_left_alone(text in "[a-z0-9 ,;(){}\\[\\]ü]{0,200}") {
        let r = redactor();
        r.register("UPPER-CASE-SECRET", None);
        prop_assert_eq!(r.redact(&text), text);
    }
}
