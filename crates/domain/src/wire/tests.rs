use super::*;

fn nested(depth: usize) -> String {
    format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1))
}

#[test]
fn shape_rules() {
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_BODY - 8));
    assert_eq!(long.len(), MAX_BODY);
    let cases: &[(&str, Option<Reason>)] = &[
        ("", Some(Reason::EmptyBody)),
        (" \t\r\n", Some(Reason::EmptyBody)),
        ("\u{feff}{}", Some(Reason::InvalidJson)),
        ("\u{a0}{}", Some(Reason::InvalidJson)),
        ("{} {}", Some(Reason::InvalidJson)),
        ("{},", Some(Reason::InvalidJson)),
        ("{\"a\":1", Some(Reason::InvalidJson)),
        ("{\"a\":NaN}", Some(Reason::InvalidJson)),
        ("{\"a\":\"\\ud800\"}", Some(Reason::InvalidJson)),
        ("null", Some(Reason::NotObject)),
        ("[]", Some(Reason::NotObject)),
        ("12", Some(Reason::NotObject)),
        (&nested(MAX_DEPTH), None),
        (&nested(MAX_DEPTH + 1), Some(Reason::InvalidJson)),
        (&nested(100_000), Some(Reason::InvalidJson)),
        (&long, None),
        (&format!("{long} "), Some(Reason::InvalidJson)),
        ("\r\n\t {} \n", None),
    ];
    for (body, reason) in cases {
        let head: String = body.chars().take(40).collect();
        assert_eq!(parse(body).err().map(|p| p.reason), *reason, "{head}");
    }
}

#[derive(Debug, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
struct Probe {
    n: i64,
    b: bool,
    s: String,
    l: Vec<String>,
    f: f64,
    #[serde(flatten)]
    unknown: Fields,
}

fn probe(body: &str) -> Result<Probe, Poison> {
    read(parse(body).unwrap())
}

#[test]
fn last_of_equal_keys_wins_and_null_is_absent() {
    let read = probe(r#"{"n":"x","n":2,"s":null,"other":{"d":1,"d":2},"none":null}"#).unwrap();
    let unknown = Fields::from_iter([("other".to_owned(), serde_json::json!({"d": 2}))]);
    assert_eq!(read, Probe { n: 2, unknown, ..Probe::default() });
}

#[test]
fn types_are_not_guessed_and_the_field_is_named() {
    for (value, good) in [
        ("1", "nf"),
        ("1.0", "f"),
        ("1e2", "f"),
        ("9223372036854775808", "f"),
        ("\"1\"", "s"),
        ("true", "b"),
        ("[\"x\"]", "l"),
        ("[\"x\",null]", ""),
        ("{}", ""),
    ] {
        for field in ["n", "b", "s", "l", "f"] {
            let body = format!("{{\"a\":1,\"{field}\":{value},\"z\":1}}");
            let want = (!good.contains(field)).then(|| Poison { reason: Reason::BadType, field: Some(field.into()) });
            assert_eq!(probe(&body).err(), want, "{body}");
        }
    }
}

#[test]
fn an_unusable_optional_field_is_dropped_with_its_name() {
    let mut fields = parse(r#"{"a":1,"b":"x","c":null}"#).unwrap();
    let mut warnings = Vec::new();
    assert_eq!(take::<i64>(&mut fields, "a", &mut warnings), 1);
    assert_eq!(take::<i64>(&mut fields, "b", &mut warnings), 0);
    assert_eq!(take::<i64>(&mut fields, "c", &mut warnings), 0);
    assert_eq!(take::<i64>(&mut fields, "d", &mut warnings), 0);
    assert_eq!(warnings, ["b"]);
}

#[test]
fn instants() {
    let at = "2024-05-01T10:00:00Z".parse().unwrap();
    assert_eq!(instant("2024-05-01T12:00:00+02:00").unwrap(), Some(at));
    assert_eq!(instant("2024-05-01T10:00:00.000000000Z").unwrap(), Some(at));
    for absent in ["", "  ", ZERO_TIME, "0001-01-01T00:00:00.000Z"] {
        assert_eq!(instant(absent).unwrap(), None, "{absent:?}");
    }
    for bad in ["yesterday", "2024-05-01", "2024-05-01T10:00:00", "1714557600"] {
        assert!(instant(bad).is_err(), "{bad:?}");
    }
}
