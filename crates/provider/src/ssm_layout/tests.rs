use domain::clock::Rng;
use serde_json::{Value, json};

use super::*;

fn document() -> HandOver {
    HandOver {
        org: "org".into(),
        repo: "org/repo".into(),
        run_id: "67890".into(),
        labels: vec!["linux".into()],
        job_id: "12345".into(),
        cache_token: Credential::new("cache-secret"),
        dispatch_id: "d1".into(),
        instance_id: "i-0abc".into(),
        ..HandOver::default()
    }
}

fn with_jit(jit: &str) -> HandOver {
    HandOver { jit_config: Credential::new(jit), ..document() }
}

/// Random bytes that are the same in every run.
struct Sequence(std::sync::atomic::AtomicU64);

impl Rng for Sequence {
    fn next_u64(&self) -> u64 {
        // SplitMix64.
        let state = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, std::sync::atomic::Ordering::Relaxed);
        let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let random = Sequence(seed.into());
    (0..length.div_ceil(8)).flat_map(|_| random.next_u64().to_le_bytes()).take(length).collect()
}

/// A configuration built as GitHub builds it: files, each in base64, in a JSON object, again in base64; the key of the
/// runner is noise.
fn github_jit() -> String {
    let number = |seed, length| STANDARD.encode(noise(seed, length));
    let runner = json!({"AgentId": "123456", "AgentName": "runs-fleet-i-0123456789abcdef0-n1", "DisableUpdate": "True",
        "Ephemeral": "True", "PoolId": "1", "PoolName": "Default", "WorkFolder": "_work",
        "ServerUrl": "https://pipelinesghubeus22.actions.githubusercontent.com/abcdefghijklmnopqrstuvwxyz/",
        "ServerUrlV2": "https://broker.actions.githubusercontent.com/", "UseV2Flow": "True",
        "GitHubUrl": "https://github.com/organisation/repository"});
    let credentials = json!({"Scheme": "OAuth", "Data": {"ClientId": "00000000-0000-4000-8000-000000000000",
        "AuthorizationUrl": "https://vstoken.actions.githubusercontent.com/_apis/oauth2/token/00000000",
        "RequireFipsCryptography": "True"}});
    let key = json!({"exponent": "AQAB", "modulus": number(1, 256), "d": number(2, 256), "p": number(3, 128),
        "q": number(4, 128), "dp": number(5, 128), "dq": number(6, 128), "inverseQ": number(7, 128)});
    let file = |content: &Value| STANDARD.encode(content.to_string());
    STANDARD.encode(
        json!({".runner": file(&runner), ".credentials": file(&credentials), ".credentials_rsaparams": file(&key)})
            .to_string(),
    )
}

#[test]
fn a_hand_over_survives_both_layouts() {
    let token = HandOver { jit_token: Credential::new("reg-secret"), ..document() };
    let both = HandOver { jit_token: Credential::new("reg-secret"), ..with_jit(&github_jit()) };
    for document in [token, both, with_jit("not base64 !"), with_jit("aGk="), with_jit(&github_jit())] {
        let packed = pack(&document);
        assert_eq!(packed.credential.is_some(), !document.jit_config.is_empty());
        assert_eq!(unpack(&packed.config, packed.credential.as_deref()), Ok(Some(document)));
    }
}

#[test]
fn configurations_of_every_length_survive() {
    for length in (0..200).chain([4096, INFLATED_LIMIT, INFLATED_LIMIT + 1]) {
        for bytes in [noise(length as u64, length), vec![b'x'; length]] {
            let document = HandOver { jit_token: Credential::new("t"), ..with_jit(&STANDARD.encode(bytes)) };
            let packed = pack(&document);
            assert_eq!(unpack(&packed.config, packed.credential.as_deref()), Ok(Some(document)), "{length} bytes");
        }
    }
}

#[test]
fn a_configuration_of_github_s_size_fits_a_standard_parameter() {
    let jit = github_jit();
    assert!((4000..6000).contains(&jit.len()), "{} characters", jit.len());
    let packed = pack(&with_jit(&jit));
    let credential = packed.credential.unwrap();
    assert!(credential.len() <= STANDARD_TIER && credential.len() < jit.len(), "{} bytes", credential.len());
    assert!(packed.config.len() <= STANDARD_TIER);
}

#[test]
fn the_config_half_names_no_credential_of_github() {
    let packed = pack(&HandOver { jit_token: Credential::new("reg"), ..with_jit(&github_jit()) });
    let fields: Value = serde_json::from_str(&packed.config).unwrap();
    assert_eq!(fields.get("jit_config").or(fields.get("jit_token")), None);
    let credential: Value = serde_json::from_str(&packed.credential.unwrap()).unwrap();
    assert_eq!((&credential["compressed"], &credential["dispatch_id"]), (&json!(true), &json!("d1")));
}

#[test]
fn only_a_document_without_jit_config_is_combined_and_always_names_its_token() {
    let packed = pack(&document());
    assert_eq!(packed.credential, None);
    let fields: Value = serde_json::from_str(&packed.config).unwrap();
    assert_eq!(fields["jit_token"], json!(""));
}

#[test]
fn between_the_writes_of_the_halves_there_is_nothing_yet() {
    let (first, second) = (with_jit(&github_jit()), HandOver { dispatch_id: "d2".into(), ..with_jit("aGk=") });
    let (old, new) = (pack(&first), pack(&second));
    // A first write: the credential is not visible.
    assert_eq!(unpack(&new.config, None), Ok(None));
    // An overwrite: the credential is the new one, the document still the old one.
    assert_eq!(unpack(&old.config, new.credential.as_deref()), Ok(None));
    // An old writer names no assignment in its credential.
    assert_eq!(unpack(&new.config, Some(r#"{"jit_config":"aGk="}"#)), Ok(Some(second)));
}

#[test]
fn a_credential_half_supersedes_the_document_also_with_nothing() {
    let inline = r#"{"jit_token":"old","jit_config":"old"}"#;
    let found = unpack(inline, Some(r#"{"jit_token":"new"}"#)).unwrap().unwrap();
    assert_eq!((found.jit_token.expose(), found.jit_config.expose()), ("new", ""));
    assert_eq!(unpack(inline, Some("{}")), Ok(None));
}

#[test]
fn a_bomb_is_refused_and_the_limit_itself_is_not() {
    let zipped = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        json!({"jit_config": STANDARD.encode(encoder.finish().unwrap()), "compressed": true}).to_string()
    };
    let limit = vec![0; INFLATED_LIMIT];
    let found = unpack("{}", Some(&zipped(&limit))).unwrap().unwrap();
    assert_eq!(found.jit_config.expose(), STANDARD.encode(&limit));
    assert_eq!(unpack("{}", Some(&zipped(&vec![0; INFLATED_LIMIT + 1]))), Err(Unreadable::TooLarge));
    assert_eq!(unpack("{}", Some(&zipped(&vec![0; 64 << 20]))), Err(Unreadable::TooLarge));
}

#[test]
fn what_is_torn_is_an_error_without_its_text() {
    let config = r#"{"jit_token":"inline-secret"}"#;
    let whole = pack(&with_jit(&github_jit())).credential.unwrap();
    let half: Value = serde_json::from_str(&whole).unwrap();
    let bytes = STANDARD.decode(half["jit_config"].as_str().unwrap()).unwrap();
    let of = |bytes: &[u8]| json!({"jit_config": STANDARD.encode(bytes), "compressed": true}).to_string();
    assert_eq!(unpack(config, Some(&of(&bytes[..bytes.len() - 1]))), Err(Unreadable::Gzip));
    assert_eq!(unpack(config, Some(&of(&[&bytes[..], b"tail"].concat()))), Err(Unreadable::Gzip));
    assert_eq!(unpack(config, Some(r#"{"jit_config":"?","compressed":true}"#)), Err(Unreadable::Base64));
    assert!(matches!(unpack(config, Some("{\"jit_config\":\"cut")), Err(Unreadable::Credential { .. })));
    let error = unpack("{\"jit_token\":\"inline-secret\"", None).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("secret"));
    assert!(!format!("{:?}", pack(&with_jit("jit-secret"))).contains("secret"));
}

#[test]
fn names_lead_to_the_machine_and_back() {
    let key = RunnerKey::from("i-0abc");
    for prefix in ["/runs-fleet/runners", "/runs-fleet/runners/"] {
        let names = names(prefix, &key);
        assert_eq!(names.config, "/runs-fleet/runners/i-0abc/config");
        assert_eq!(names.credential, "/runs-fleet/runners/i-0abc/credential");
        assert_eq!(credential_name(&names.config), Some(names.credential.clone()));
        for name in [&names.config, &names.credential] {
            assert_eq!(key_of(prefix, name), Some(key.clone()));
        }
    }
    assert_eq!(credential_name("/somewhere/else"), None);
    let foreign = [
        "/runs-fleet/runnersx/i/config",
        "/runs-fleet/runners/config",
        "/runs-fleet/runners//config",
        "/runs-fleet/runners/a/b/config",
        "/runs-fleet/runners/i-0abc/other",
    ];
    for name in foreign {
        assert_eq!(key_of("/runs-fleet/runners", name), None, "{name}");
    }
}

#[test]
fn tags_identify_and_hold_no_secret() {
    let arn = "arn:aws:ec2:us-east-1:123456789012:instance/i-0abc";
    let all = tags(&with_jit("jit-secret"), Some(arn));
    assert_eq!(
        all,
        [
            ("runs-fleet:managed", "true".to_owned()),
            ("runs-fleet:job-id", "12345".to_owned()),
            ("runs-fleet:instance-arn", arn.to_owned()),
        ]
    );
    assert_eq!(tags(&HandOver::default(), None), [("runs-fleet:managed", "true".to_owned())]);
}
