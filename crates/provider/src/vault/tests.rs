use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::clock::SystemRng;
use domain::handover::Credential;
use futures::future::join_all;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::detect::{ByConfig, by_config, by_lists};
use super::double::Double;
use super::*;

const TOKEN: &str = "hvs.given-token";

fn settings(double: &Double, login: Login) -> Settings {
    Settings {
        address: double.address.clone(),
        namespace: None,
        mount: "secret".into(),
        base: "runs-fleet/runners".into(),
        version: None,
        login,
    }
}

fn store(settings: Settings) -> VaultHandOver {
    VaultHandOver::new(settings, Arc::new(SystemRng), Arc::new(|_| ())).unwrap()
}

fn approle() -> Login {
    Login::AppRole { role_id: "server".into(), secret_id: SecretString::from("the-secret-id") }
}

fn document(dispatch: &str) -> Document {
    Document {
        repo: "acme/shop".into(),
        labels: vec!["self-hosted".into()],
        max_runtime_minutes: Some(30),
        dispatch_id: dispatch.into(),
        jit_config: Credential::new("and no base64"),
        ..Document::default()
    }
}

/// Lets that much time go by, without waiting for it.
async fn leap(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

fn count(lines: &[String], line: &str) -> usize {
    lines.iter().filter(|known| *known == line).count()
}

#[tokio::test]
async fn a_document_is_written_read_written_over_and_removed() {
    for version in [1, 2] {
        for login in [approle(), Login::Token(SecretString::from(TOKEN))] {
            let double = Double::start(version).await;
            double.model().tokens.insert(TOKEN.to_owned(), None);
            let store = store(settings(&double, login));
            let (key, other) = (RunnerKey::from("i-0aaa"), RunnerKey::from("i-0bbb"));
            assert_eq!(store.list().await, Ok(vec![]), "version {version}");
            assert_eq!(store.get(&key).await, Ok(None));
            for document in [document("d1"), document("d2")] {
                store.put(&key, &document).await.unwrap();
                assert_eq!(store.get(&key).await, Ok(Some(document)));
            }
            assert_eq!(double.model().secrets["runs-fleet/runners/i-0aaa"]["max_runtime_minutes"], 30);
            store.put(&other, &document("d3")).await.unwrap();
            double.model().secrets.insert("runs-fleet/runners/folder/x".to_owned(), json!({}));
            assert_eq!(store.list().await, Ok(vec![key.clone(), other.clone()]), "a folder is no machine");
            store.delete(&key).await.unwrap();
            store.delete(&key).await.unwrap();
            assert_eq!(store.get(&key).await, Ok(None));
            assert_eq!(store.list().await, Ok(vec![other]));
        }
    }
}

#[tokio::test]
async fn version_two_is_addressed_by_data_and_removed_by_metadata() {
    let double = Double::start(2).await;
    let store = store(Settings { namespace: Some("team".into()), ..settings(&double, approle()) });
    let key = RunnerKey::from("i-1");
    store.put(&key, &document("d")).await.unwrap();
    store.get(&key).await.unwrap();
    store.delete(&key).await.unwrap();
    store.list().await.unwrap();
    assert!(double.model().seen.iter().all(|seen| seen.namespace.as_deref() == Some("team")));
    let path = "runs-fleet/runners";
    assert_eq!(
        double.lines(),
        [
            "POST auth/approle/login".to_owned(),
            "GET secret/config".to_owned(),
            format!("POST secret/data/{path}/i-1"),
            format!("GET secret/data/{path}/i-1"),
            format!("DELETE secret/metadata/{path}/i-1"),
            format!("LIST secret/metadata/{path}"),
        ]
    );
}

#[tokio::test]
async fn a_key_cannot_address_another_machine() {
    let double = Double::start(2).await;
    let store = store(settings(&double, approle()));
    for key in ["", "a/b", "../x", "..", "a b"] {
        assert!(matches!(store.get(&RunnerKey::from(key)).await, Err(Error::Invalid(_))), "{key}");
    }
    assert_eq!(double.lines(), [""; 0]);
}

#[test]
fn the_configuration_tells_the_version() {
    let second = br#"{"data": {"max_versions": 0}}"#.as_slice();
    let rows = [
        (200, second, ByConfig::Is(Version::V2)),
        (200, br#"{"data": {"cas_required": false}}"#, ByConfig::Is(Version::V2)),
        (200, br#"{"data": {"delete_version_after": "0s"}}"#, ByConfig::Is(Version::V2)),
        (200, br#"{"data": {"a-secret": "called config"}}"#, ByConfig::Is(Version::V1)),
        (200, b"<html>", ByConfig::Is(Version::V1)),
        (404, b"", ByConfig::Is(Version::V1)),
        (403, second, ByConfig::Hidden),
        (400, second, ByConfig::Unclear),
        (307, b"", ByConfig::Unclear),
    ];
    for (status, body, expected) in rows {
        assert_eq!(by_config(status, body), expected, "{status} {}", String::from_utf8_lossy(body));
    }
}

#[test]
fn lists_tell_the_version() {
    use Version::{V1, V2};
    let rows = [
        (200, 200, Some(V2)),
        (200, 403, Some(V1)),
        (200, 404, Some(V1)),
        (403, 200, Some(V2)),
        (403, 403, Some(V1)),
        (403, 404, Some(V1)),
        (404, 200, Some(V2)),
        (404, 403, Some(V2)),
        (404, 404, Some(V1)),
        (400, 200, None),
        (200, 405, None),
    ];
    for (first, second, expected) in rows {
        assert_eq!(by_lists(Some(first), Some(second)), expected, "{first} {second}");
    }
    assert_eq!((by_lists(None, Some(200)), by_lists(Some(200), None)), (None, None));
}

#[tokio::test]
async fn lists_are_asked_where_the_configuration_is_hidden() {
    for version in [1, 2] {
        let double = Double::start(version).await;
        // What policies usually allow: nothing but hand-overs, where the engine has them.
        double.model().forbidden =
            if version == 1 { vec!["secret/config", "secret/metadata"] } else { vec!["secret/config", "secret/runs"] };
        let store = store(settings(&double, approle()));
        double.model().secrets.insert("runs-fleet/runners/i-1".into(), serde_json::to_value(document("d")).unwrap());
        assert_eq!(store.get(&"i-1".into()).await, Ok(Some(document("d"))), "version {version}");
        assert_eq!(count(&double.lines(), "POST auth/approle/login"), 1, "a probe's refusal is an answer");
    }
}

#[tokio::test]
async fn a_version_found_out_with_a_dead_token_is_found_out_again() {
    let double = Double::start(2).await;
    let store = store(settings(&double, approle()));
    // Login and the token's end, then everything is refused.
    double.model().weather.extend([503, 503, 503, 503]);
    assert!(matches!(store.get(&"i-1".into()).await, Err(Error::Transient(_))));
    leap(Duration::from_secs(2)).await;
    double.model().lease = Duration::ZERO;
    double.model().forbidden = vec!["secret/"];
    assert!(matches!(store.get(&"i-1".into()).await, Err(Error::Deployment(_))));
    double.model().forbidden = vec![];
    double.model().tokens.clear();
    leap(Duration::from_secs(100)).await;
    store.put(&"i-1".into(), &document("d")).await.unwrap();
    assert!(double.model().secrets.contains_key("runs-fleet/runners/i-1"), "as version 2 has it");
}

/// Signs nothing, but says whom it would sign for.
struct Somebody;

#[async_trait]
impl Identity for Somebody {
    async fn sign(&self, request: &Unsigned) -> Result<Vec<(String, String)>, String> {
        Ok(vec![("authorization".to_owned(), format!("signed for {} {}", request.service, request.region))])
    }
}

#[tokio::test]
async fn every_login_says_who_we_are() {
    let double = Double::start(2).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwt");
    std::fs::write(&path, "first-jwt\n").unwrap();
    let logins = [
        Login::Aws { role: "runner".into(), identity: Arc::new(Somebody) },
        Login::Jwt { mount: "eks/prod".into(), role: "server".into(), path: path.clone() },
        approle(),
    ];
    let mut bodies = Vec::new();
    for login in logins {
        store(settings(&double, login)).get(&"i-1".into()).await.unwrap();
        let first = std::mem::take(&mut double.model().seen).remove(0);
        assert_eq!(first.token, None);
        bodies.push((first.line, first.body));
    }
    let text = |value: &Value| String::from_utf8(STANDARD.decode(value.as_str().unwrap()).unwrap()).unwrap();
    let (line, aws) = &bodies[0];
    assert_eq!(line, "POST auth/aws/login");
    assert_eq!((&aws["role"], &aws["iam_http_request_method"]), (&json!("runner"), &json!("POST")));
    assert_eq!(text(&aws["iam_request_url"]), "https://sts.amazonaws.com/");
    assert_eq!(text(&aws["iam_request_body"]), "Action=GetCallerIdentity&Version=2011-06-15");
    let headers: Value = serde_json::from_str(&text(&aws["iam_request_headers"])).unwrap();
    let expected = json!({
        "authorization": ["signed for sts us-east-1"],
        "content-type": ["application/x-www-form-urlencoded; charset=utf-8"],
        "host": ["sts.amazonaws.com"],
    });
    assert_eq!(headers, expected);
    assert_eq!(bodies[1], ("POST auth/eks/prod/login".to_owned(), json!({"role": "server", "jwt": "first-jwt"})));
    let approle = json!({"role_id": "server", "secret_id": "the-secret-id"});
    assert_eq!(bodies[2], ("POST auth/approle/login".to_owned(), approle));
}

#[tokio::test]
async fn a_projected_token_is_read_at_every_login_and_hidden() {
    let double = Double::start(1).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwt");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let learnt: Learnt = {
        let heard = Arc::clone(&heard);
        Arc::new(move |secret: &str| heard.lock().unwrap().push(secret.to_owned()))
    };
    let login = Login::Jwt { mount: "kubernetes".into(), role: "server".into(), path: path.clone() };
    let store = VaultHandOver::new(settings(&double, login), Arc::new(SystemRng), learnt).unwrap();
    let missing = store.get(&"i-1".into()).await;
    assert!(matches!(missing, Err(Error::Transient(_))), "the file may come: {missing:?}");
    for jwt in ["first-jwt", "second-jwt"] {
        leap(Duration::from_secs(100)).await;
        std::fs::write(&path, jwt).unwrap();
        double.model().tokens.clear();
        store.get(&"i-1".into()).await.unwrap();
    }
    assert_eq!(*heard.lock().unwrap(), ["first-jwt", "hvs.login-1", "second-jwt", "hvs.login-2"]);
}

#[tokio::test]
async fn a_token_is_renewed_past_half_of_its_lease() {
    let double = Double::start(1).await;
    double.model().lease = Duration::from_secs(100);
    let store = store(settings(&double, approle()));
    store.list().await.unwrap();
    leap(Duration::from_secs(20)).await;
    store.list().await.unwrap();
    let lines = double.lines();
    assert_eq!((count(&lines, "POST auth/approle/login"), count(&lines, "POST auth/token/renew-self")), (1, 0));
    for _ in 0..3 {
        leap(Duration::from_secs(60)).await;
        store.list().await.unwrap();
    }
    let lines = double.lines();
    assert_eq!((count(&lines, "POST auth/approle/login"), count(&lines, "POST auth/token/renew-self")), (0, 3));
    // Near the longest life a renewal grants less and less: another login then.
    double.model().lease = Duration::from_secs(20);
    for past in [60, 12] {
        leap(Duration::from_secs(past)).await;
        store.list().await.unwrap();
    }
    let lines = double.lines();
    assert_eq!((count(&lines, "POST auth/approle/login"), count(&lines, "POST auth/token/renew-self")), (1, 1));
}

#[tokio::test]
async fn a_token_that_cannot_be_renewed_is_replaced() {
    let double = Double::start(1).await;
    double.model().renewable = false;
    double.model().lease = Duration::from_secs(100);
    let store = store(settings(&double, approle()));
    store.list().await.unwrap();
    leap(Duration::from_secs(60)).await;
    store.list().await.unwrap();
    let lines = double.lines();
    assert_eq!((count(&lines, "POST auth/approle/login"), count(&lines, "POST auth/token/renew-self")), (2, 0));
}

#[tokio::test]
async fn a_token_that_can_be_neither_is_used_until_it_ends() {
    let double = Double::start(1).await;
    double.model().renewable = false;
    double.model().lease = Duration::from_secs(100);
    let store = store(settings(&double, approle()));
    store.list().await.unwrap();
    leap(Duration::from_secs(60)).await;
    double.model().weather.push_back(400);
    assert_eq!(store.list().await, Ok(vec![]), "the login is refused, the token is good");
    double.lines();
    assert_eq!(store.list().await, Ok(vec![]));
    assert_eq!(double.lines(), ["LIST secret/runs-fleet/runners"], "the next login is not due");
    leap(Duration::from_secs(60)).await;
    assert_eq!(store.list().await, Ok(vec![]));
    assert_eq!(count(&double.lines(), "POST auth/approle/login"), 1);
}

#[tokio::test]
async fn a_given_token_is_renewed_too() {
    let double = Double::start(1).await;
    double.model().lease = Duration::from_secs(100);
    let ends = tokio::time::Instant::now() + Duration::from_secs(100);
    double.model().tokens.insert(TOKEN.to_owned(), Some(ends));
    let store = store(settings(&double, Login::Token(SecretString::from(TOKEN))));
    store.list().await.unwrap();
    for _ in 0..3 {
        leap(Duration::from_secs(60)).await;
        store.list().await.unwrap();
    }
    assert_eq!(count(&double.lines(), "POST auth/token/renew-self"), 3);
    // Whoever may not look it up uses it as it is.
    double.model().forbidden = vec!["auth/token"];
    let blind = self::store(settings(&double, Login::Token(SecretString::from(TOKEN))));
    assert_eq!(blind.list().await, Ok(vec![]));
}

#[tokio::test]
async fn a_revoked_token_is_replaced_once_for_all() {
    let double = Double::start(2).await;
    let store = store(settings(&double, approle()));
    store.put(&"i-1".into(), &document("d")).await.unwrap();
    double.lines();
    double.model().tokens.clear();
    let key = RunnerKey::from("i-1");
    for found in join_all((0..8).map(|_| store.get(&key))).await {
        assert_eq!(found, Ok(Some(document("d"))));
    }
    assert_eq!(count(&double.lines(), "POST auth/approle/login"), 1);
}

#[tokio::test]
async fn who_is_refused_again_does_not_log_in_before_every_request() {
    let double = Double::start(1).await;
    double.model().forbidden = vec!["secret/runs-fleet/runners"];
    let store = store(Settings { version: Some(Version::V1), ..settings(&double, approle()) });
    let key = RunnerKey::from("i-1");
    for _ in 0..5 {
        let denied = store.get(&key).await;
        assert!(matches!(&denied, Err(Error::Deployment(why)) if why.contains("403")), "{denied:?}");
    }
    let logins = count(&double.lines(), "POST auth/approle/login");
    assert!((2..=4).contains(&logins), "{logins}");
    // The policy is put right; the token that is held has it at once.
    double.model().forbidden = vec![];
    assert_eq!(store.get(&key).await, Ok(None));
}

#[tokio::test]
async fn a_refused_login_is_not_tried_again_at_once() {
    let double = Double::start(1).await;
    let login = Login::AppRole { role_id: "server".into(), secret_id: SecretString::from("hunter2-hunter2") };
    let store = store(settings(&double, login));
    for _ in 0..3 {
        let error = store.list().await.unwrap_err();
        assert!(matches!(&error, Error::Transient(why) if why.contains("status 400")), "{error:?}");
        assert!(!error.to_string().contains("hunter2") && !error.to_string().contains("quote"));
    }
    let refused = count(&double.lines(), "POST auth/approle/login");
    assert!(refused < 3, "{refused}");
    leap(Duration::from_secs(100)).await;
    assert!(store.list().await.is_err());
    assert_eq!(count(&double.lines(), "POST auth/approle/login"), 1, "later it is tried");
}

#[tokio::test]
async fn what_may_pass_is_tried_four_times() {
    let double = Double::start(1).await;
    let store = store(settings(&double, approle()));
    store.list().await.unwrap();
    double.lines();
    double.model().weather.extend([503, 429, 500]);
    assert_eq!(store.list().await, Ok(vec![]));
    assert_eq!(double.lines().len(), 4);
    double.model().weather.extend([502; 4]);
    let error = store.list().await;
    assert!(matches!(&error, Err(Error::Transient(why)) if why.contains("502")), "{error:?}");
    assert_eq!(double.lines().len(), 4);
}

#[tokio::test]
async fn what_stays_is_tried_once() {
    let double = Double::start(1).await;
    let store = store(settings(&double, approle()));
    let key = RunnerKey::from("i-1");
    store.list().await.unwrap();
    double.lines();
    for status in [400, 405, 307] {
        double.model().weather.extend([status; 4]);
        let told = |error: Error| matches!(&error, Error::Deployment(why) if why.ends_with(&status.to_string()));
        assert!(told(store.list().await.unwrap_err()), "{status}");
        assert!(told(store.get(&key).await.unwrap_err()), "{status}");
        assert!(told(store.put(&key, &document("d")).await.unwrap_err()), "{status}");
        assert!(told(store.delete(&key).await.unwrap_err()), "{status}");
    }
    assert_eq!(double.lines().len(), 12);
}

#[tokio::test]
async fn what_is_no_hand_over_is_unreadable_and_not_quoted() {
    for version in [1, 2] {
        let double = Double::start(version).await;
        let store = store(Settings {
            version: Some(if version == 1 { Version::V1 } else { Version::V2 }),
            ..settings(&double, approle())
        });
        for text in ["<html>hunter2", r#"{"data": {"data": 3, "repo": 7, "jit_token": "hunter2"}}"#, "{}"] {
            double.model().garbled = Some(text);
            let error = store.get(&"i-1".into()).await.unwrap_err();
            assert!(matches!(&error, Error::Invalid(why) if !why.contains("hunter2")), "{version} {text} {error:?}");
        }
    }
}

#[tokio::test]
async fn nobody_there_is_transient_and_an_address_must_be_one() {
    let double = Double::start(1).await;
    let nobody = Settings { address: "http://127.0.0.1:9".into(), ..settings(&double, approle()) };
    assert!(matches!(store(nobody).list().await, Err(Error::Transient(_))));
    for address in ["", "vault.example", "mailto:vault"] {
        let settings = Settings { address: address.into(), ..settings(&double, approle()) };
        let refused = VaultHandOver::new(settings, Arc::new(SystemRng), Arc::new(|_| ())).err();
        assert!(matches!(refused, Some(Error::Deployment(_))), "{address}");
    }
}

#[cfg(feature = "aws")]
#[tokio::test]
async fn the_sdks_credentials_sign() {
    let identity = SdkIdentity::new(&emulator::shared().sdk(), Arc::new(domain::clock::SystemClock)).unwrap();
    let headers = identity.sign(&CALLER_IDENTITY).await.unwrap();
    let value = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let authorization = value("authorization").unwrap();
    assert!(authorization.contains("/us-east-1/sts/aws4_request"), "{authorization}");
    assert!(authorization.contains("SignedHeaders=content-type;host;x-amz-date"), "{authorization}");
    assert!(value("x-amz-date").is_some());
}
