//! On moto, which departs from SSM: a standard parameter may be of any size. What fits is shown on the layout.

use domain::handover::Credential;

use super::fault::coded;
use super::*;

fn store(prefix: &str) -> SsmHandOver {
    let place =
        InstancePlace { partition: "aws".into(), region: "us-east-1".into(), account: emulator::ACCOUNT.into() };
    SsmHandOver::new(&emulator::shared().sdk(), emulator::silent(), prefix, Some(place))
}

fn document(dispatch: &str) -> Document {
    Document {
        repo: "acme/shop".into(),
        job_id: "7".into(),
        dispatch_id: dispatch.into(),
        jit_config: Credential::new("and no base64"),
        ..Document::default()
    }
}

async fn tags_of(store: &SsmHandOver, name: &str) -> Vec<(String, String)> {
    let request = store.client.list_tags_for_resource().resource_type(ResourceTypeForTagging::Parameter);
    let answer = request.resource_id(name).send().await.unwrap();
    let mut tags: Vec<_> = answer.tag_list().iter().map(|t| (t.key().to_owned(), t.value().to_owned())).collect();
    tags.sort();
    tags
}

#[tokio::test]
async fn a_document_is_written_read_written_over_and_removed() {
    let store = store("/round/trip/");
    let key = RunnerKey::from("i-0aaa");
    assert_eq!(store.get(&key).await, Ok(None));
    let combined = Document { jit_token: Credential::new("reg"), jit_config: Credential::default(), ..document("d3") };
    // The last one leaves nothing of the credential before it.
    for document in [document("d1"), document("d2"), combined] {
        store.put(&key, &document).await.unwrap();
        assert_eq!(store.get(&key).await, Ok(Some(document)));
    }
    store.delete(&key).await.unwrap();
    store.delete(&key).await.unwrap();
    assert_eq!(store.get(&key).await, Ok(None));
    assert_eq!(store.list().await, Ok(vec![]));
}

#[tokio::test]
async fn both_parameters_name_their_instance_from_the_first_write_on() {
    let store = store("/tagged");
    let key = RunnerKey::from("i-0bbb");
    let names = store.names(&key).unwrap();
    let expected = |job: &str| {
        [
            ("runs-fleet:instance-arn", format!("arn:aws:ec2:us-east-1:{}:instance/i-0bbb", emulator::ACCOUNT)),
            ("runs-fleet:job-id", job.to_owned()),
            ("runs-fleet:managed", "true".to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
    };
    for job in ["7", "8"] {
        store.put(&key, &Document { job_id: job.into(), ..document("d") }).await.unwrap();
        for name in [&names.config, &names.credential] {
            assert_eq!(tags_of(&store, name).await, expected(job));
        }
    }
}

#[tokio::test]
async fn a_half_is_listed_and_is_no_hand_over() {
    let store = store("/halves");
    for n in 0..12 {
        let names = store.names(&RunnerKey::from(format!("i-{n:02}"))).unwrap();
        let name = if n % 2 == 0 { names.config } else { names.credential };
        store.write(&name, "{}", &[]).await.unwrap();
    }
    let keys: Vec<_> = (0..12).map(|n| RunnerKey::from(format!("i-{n:02}"))).collect();
    assert_eq!(store.list().await, Ok(keys), "more than one page");
    assert_eq!(store.get(&RunnerKey::from("i-00")).await, Ok(None));
    assert_eq!(store.get(&RunnerKey::from("i-01")).await, Ok(None));
}

#[tokio::test]
async fn a_key_cannot_address_another_machine() {
    let store = store("/plain");
    for key in ["", "a/b", "../x", "a b"] {
        assert!(matches!(store.get(&RunnerKey::from(key)).await, Err(Error::Invalid(_))), "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_tried_three_times_and_nothing_secret_is_said() {
    let nobody = SsmHandOver::new(&emulator::sdk("http://127.0.0.1:9"), emulator::silent(), "/p", None);
    let begun = Instant::now();
    let error = nobody.put(&RunnerKey::from("i-0c"), &document("d")).await.unwrap_err();
    assert!(matches!(&error, Error::Transient(_)), "{error:?}");
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(1440) && waited < Duration::from_secs(4), "{waited:?}");
    assert!(!format!("{error:?}").contains("base64"));
}

#[test]
fn codes_mean_what_the_caller_must_do() {
    let passing = |status, code| matches!(coded(status, code, Some("words")), Fault::Passing(_));
    assert_eq!(coded(400, Some("ParameterNotFound"), None), Fault::Missing);
    assert_eq!(coded(400, Some("ParameterAlreadyExists"), None), Fault::Exists);
    assert!(passing(400, Some("ThrottlingException")) && passing(500, Some("Anything")) && passing(502, None));
    let lasting = |text: &str| Fault::Lasting(text.to_owned());
    assert_eq!(coded(400, Some("AccessDeniedException"), Some("words")), lasting("AccessDeniedException: words"));
    // The words of a validation error may quote the value.
    assert_eq!(coded(400, Some("ValidationException"), Some("secret")), lasting("ValidationException"));
}
