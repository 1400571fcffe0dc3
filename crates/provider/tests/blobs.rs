//! One suite for every back end: what an object store promises, whoever keeps it.
#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use provider::blobs::{BlobStore, Created, DirectoryBlobs, Error, MAX_KEY, MAX_SEGMENT, S3Blobs};

async fn keys(store: &dyn BlobStore, prefix: &str) -> Vec<String> {
    store.list(prefix).await.unwrap().into_iter().map(|blob| blob.key).collect()
}

async fn promises(store: &dyn BlobStore) {
    let (one, two) = (Bytes::from_static(b"one"), Bytes::from(vec![0_u8; 100_000]));

    // Nothing is there before it was written.
    assert_eq!(store.get("a/1").await, Ok(None));
    assert_eq!(store.list("").await, Ok(vec![]));
    store.delete("a/1").await.unwrap();

    // Written, read, written over.
    store.put("a/1", one.clone()).await.unwrap();
    assert_eq!(store.get("a/1").await, Ok(Some(one.clone())));
    store.put("a/1", two.clone()).await.unwrap();
    assert_eq!(store.get("a/1").await, Ok(Some(two.clone())));
    store.put("empty", Bytes::new()).await.unwrap();
    assert_eq!(store.get("empty").await, Ok(Some(Bytes::new())));

    // Created once. A repeat with the same content is the same writer.
    assert_eq!(store.create("b/new", one.clone()).await, Ok(Created::New));
    assert_eq!(store.create("b/new", one.clone()).await, Ok(Created::New));
    assert_eq!(store.create("b/new", two.clone()).await, Ok(Created::Exists));
    assert_eq!(store.get("b/new").await, Ok(Some(one.clone())));

    // Listed by the beginning of the key, wherever that ends, in order.
    for key in ["a/2", "a/10/x", "a b/ü=1", "ab"] {
        store.put(key, one.clone()).await.unwrap();
    }
    assert_eq!(keys(store, "").await, ["a b/ü=1", "a/1", "a/10/x", "a/2", "ab", "b/new", "empty"]);
    assert_eq!(keys(store, "a/").await, ["a/1", "a/10/x", "a/2"]);
    assert_eq!(keys(store, "a/1").await, ["a/1", "a/10/x"]);
    assert_eq!(keys(store, "a/10/").await, ["a/10/x"]);
    assert_eq!(keys(store, "nothing/").await, [""; 0]);
    let about = store.list("a/1").await.unwrap().remove(0);
    assert_eq!(about.size, 100_000);
    assert!(about.modified_at.is_some());

    // Removed, and only that.
    store.delete("a/1").await.unwrap();
    assert_eq!(store.get("a/1").await, Ok(None));
    assert_eq!(keys(store, "a/1").await, ["a/10/x"]);

    // Nothing that leads elsewhere is a key.
    let long = format!("{}/b", "a".repeat(MAX_SEGMENT + 1));
    let longer = "a/".repeat(MAX_KEY / 2) + "a";
    for key in ["", "/a", "a/", "a//b", "../a", "a/../../b", ".hidden", "a\0b", "a\\b", &long, &longer] {
        assert!(matches!(store.put(key, one.clone()).await, Err(Error::Key(_))), "{key:?}");
        assert!(matches!(store.create(key, one.clone()).await, Err(Error::Key(_))), "{key:?}");
        assert!(matches!(store.get(key).await, Err(Error::Key(_))), "{key:?}");
        assert!(matches!(store.delete(key).await, Err(Error::Key(_))), "{key:?}");
    }
}

#[tokio::test]
async fn a_directory_keeps_them() {
    let dir = tempfile::tempdir().unwrap();
    promises(&DirectoryBlobs::new(dir.path().join("blobs"))).await;
}

#[tokio::test]
async fn of_many_creators_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let store = DirectoryBlobs::new(dir.path());
    let tries = (0..20_u8).map(|n| {
        let store = store.clone();
        async move { store.create("contended", Bytes::from(vec![n])).await.unwrap() }
    });
    let created = futures::future::join_all(tries).await;
    assert_eq!(created.iter().filter(|created| **created == Created::New).count(), 1);
}

#[tokio::test]
async fn what_a_killed_writer_left_is_no_object() {
    let dir = tempfile::tempdir().unwrap();
    let store = DirectoryBlobs::new(dir.path());
    store.put("a/b", Bytes::from_static(b"whole")).await.unwrap();
    std::fs::write(dir.path().join("a/.new-1-1-c"), "half").unwrap();
    assert_eq!(keys(&store, "a/").await, ["a/b"]);
}

#[tokio::test]
async fn a_bucket_keeps_them() {
    let sdk = emulator::shared().sdk();
    let config = aws_sdk_s3::config::Builder::from(&sdk).force_path_style(true).build();
    aws_sdk_s3::Client::from_conf(config).create_bucket().bucket("blobs").send().await.unwrap();
    let store = S3Blobs::new(&sdk, emulator::silent(), "blobs");
    promises(&store).await;
    let nowhere = S3Blobs::new(&sdk, emulator::silent(), "no-such-bucket");
    assert!(matches!(nowhere.get("a").await, Err(Error::Deployment(_))));
}
