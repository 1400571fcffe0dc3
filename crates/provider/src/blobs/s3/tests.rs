use tokio::time::Instant;

use super::*;

#[test]
fn codes_mean_what_the_caller_must_do() {
    let passing = |status, code| matches!(coded(status, code, Some("words")), Fault::Passing(_));
    assert_eq!(coded(404, Some("NoSuchKey"), None), Fault::Missing);
    assert_eq!(coded(412, Some("PreconditionFailed"), None), Fault::Exists);
    assert!(passing(503, Some("SlowDown")) && passing(409, Some("ConditionalRequestConflict")));
    assert!(passing(500, Some("Anything")) && passing(502, None));
    let lasting = |text: &str| Fault::Lasting(text.to_owned());
    assert_eq!(coded(403, Some("AccessDenied"), Some("words")), lasting("AccessDenied: words"));
    assert_eq!(coded(404, Some("NoSuchBucket"), Some("words")), lasting("NoSuchBucket"));
}

#[tokio::test]
async fn a_list_follows_every_page() {
    let mut store = S3Blobs::new(&emulator::shared().sdk(), emulator::silent(), "pages");
    store.client.create_bucket().bucket("pages").send().await.unwrap();
    for n in 0..5 {
        store.put(&format!("many/{n}"), Bytes::from_static(b"x")).await.unwrap();
    }
    store.page = 2;
    let keys: Vec<_> = store.list("many/").await.unwrap().into_iter().map(|blob| blob.key).collect();
    assert_eq!(keys, ["many/0", "many/1", "many/2", "many/3", "many/4"]);
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_tried_three_times() {
    let nobody = S3Blobs::new(&emulator::sdk("http://127.0.0.1:9"), emulator::silent(), "bucket");
    let begun = Instant::now();
    let error = nobody.put("a/b", Bytes::from_static(b"content")).await.unwrap_err();
    assert!(matches!(&error, Error::Transient(_)), "{error:?}");
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(1440) && waited < Duration::from_secs(4), "{waited:?}");
}
