//! One suite for every back end.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};

use super::*;
use crate::plan;

fn key(name: &str) -> Key {
    Key::test(name)
}

fn arriving(bytes: &Bytes, end: Option<Cut>) -> Incoming {
    let chunks: Vec<_> = bytes.chunks(100_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    futures::stream::iter(chunks.into_iter().chain(end.map(Err))).boxed()
}

fn noise(size: usize) -> Bytes {
    (0..size).map(|at| u8::try_from(((at * 2_654_435_761) >> 7) & 0xff).expect("a byte")).collect::<Vec<_>>().into()
}

async fn whole(store: &dyn Store, key: &Key, start: u64, length: u64) -> Option<Bytes> {
    let parts: Vec<Bytes> = store.read(key, start, length).await.expect("read")?.try_collect().await.expect("whole");
    Some(parts.concat().into())
}

async fn conditions_have_one_winner(store: Arc<dyn Store>) {
    let lease = key("lck/a");
    let racing = (0..8u8).map(|n| {
        let (store, lease) = (Arc::clone(&store), lease.clone());
        async move { store.put(&lease, Bytes::from(vec![n]), When::Absent).await.expect("put") }
    });
    let won = futures::future::join_all(racing).await.into_iter().filter(|outcome| *outcome == Outcome::Done).count();
    assert_eq!(won, 1);
    let held = store.get(&lease).await.expect("get").expect("there");
    let put = |bytes: &'static [u8], when| store.put(&lease, Bytes::from_static(bytes), when);
    assert_eq!(put(b"new", When::Same(held.tag.clone())).await.expect("put"), Outcome::Done);
    assert_eq!(put(b"late", When::Same(held.tag)).await.expect("put"), Outcome::Lost);
    assert_eq!(store.get(&lease).await.expect("get").map(|o| o.bytes).as_deref(), Some(&b"new"[..]));
    store.delete(&lease).await.expect("delete");
    store.delete(&lease).await.expect("nothing to delete");
    assert_eq!(put(b"x", When::Same(Tag("gone".into()))).await.expect("put"), Outcome::Lost);
    assert_eq!(put(b"again", When::Absent).await.expect("put"), Outcome::Done);
    let (data, entry) = (key("dat/p"), key("idx/p"));
    assert_eq!(store.put(&data, Bytes::new(), When::Always).await.expect("put"), Outcome::Done);
    for expected in [Outcome::Done, Outcome::Lost] {
        assert_eq!(store.publish(&entry, Bytes::from_static(b"{}"), &data).await.expect("publish"), expected);
    }
}

async fn objects_are_whole_or_absent(store: Arc<dyn Store>) {
    let long = noise(9 << 20);
    for (name, bytes) in [("empty", Bytes::new()), ("one", noise(1)), ("some", noise(700_000)), ("long", long.clone())]
    {
        for size in [Some(bytes.len() as u64), None] {
            let key = key(&format!("up/1/b/{name}"));
            let written = store.write(&key, size, arriving(&bytes, None)).await.expect("written");
            assert_eq!(written, bytes.len() as u64, "{name}");
            assert_eq!(store.head(&key).await.expect("head").map(|o| o.size), Some(written), "{name}");
            assert!(whole(&*store, &key, 0, written).await == Some(bytes.clone()), "{name}");
        }
    }
    for size in [Some(long.len() as u64 + 1), None] {
        let cut = key("up/1/b/cut");
        let error = store.write(&cut, size, arriving(&long, Some(Cut::Early))).await.expect_err("cut");
        assert!(matches!(error, Error::Cut(Cut::Early)), "{error}");
        assert_eq!(store.head(&cut).await.expect("head"), None);
    }
    let long_key = key("up/1/b/long");
    assert!(whole(&*store, &long_key, 5_000_000, 600_000).await == Some(long.slice(5_000_000..5_600_000)));
    assert_eq!(whole(&*store, &key("up/1/b/none"), 0, 1).await, None);
    let behind = store.read(&key("up/1/b/some"), 699_999, 2).await;
    let short = match behind {
        Ok(Some(stream)) => stream.try_collect::<Vec<_>>().await.is_err(),
        other => other.is_err(),
    };
    assert!(short, "what is missing is an error");
}

async fn pieces_become_one(store: Arc<dyn Store>) {
    let min = usize::try_from(plan::MIN).expect("small");
    for sizes in [vec![], vec![0], vec![3], vec![1, 2, 3], vec![min + 7, 10, min, 1, 2 * min + 1]] {
        let mut pieces = Vec::new();
        let mut expected = Vec::new();
        for (at, size) in sizes.iter().enumerate() {
            let (key, bytes) = (key(&format!("up/2/b/{at}")), noise(*size));
            store.write(&key, Some(*size as u64), arriving(&bytes, None)).await.expect("written");
            expected.extend_from_slice(&bytes);
            pieces.push(Piece { key, size: *size as u64 });
        }
        let to = key(&format!("dat/assembled-{}", sizes.len()));
        store.assemble(&to, &pieces).await.expect("assembled");
        assert!(whole(&*store, &to, 0, expected.len() as u64).await == Some(expected.into()), "{sizes:?}");
        for piece in &pieces {
            assert_eq!(store.head(&piece.key).await.expect("head").map(|o| o.size), Some(piece.size), "they stay");
        }
    }
    let gone = [Piece { key: key("up/2/b/none"), size: 1 }, Piece { key: key("up/2/b/0"), size: 1 }];
    assert!(store.assemble(&key("dat/never"), &gone).await.is_err());
    assert_eq!(store.head(&key("dat/never")).await.expect("head"), None);
}

async fn listings_go_by_prefix(store: Arc<dyn Store>) {
    for name in ["idx/l/a%2F1", "idx/l/a%2F2", "idx/l/b", "idx/l/deep/er", "idx/m"] {
        assert_eq!(store.put(&key(name), Bytes::from_static(b"x"), When::Always).await.expect("put"), Outcome::Done);
    }
    for (prefix, expected) in [
        ("idx/l/", vec!["idx/l/a%2F1", "idx/l/a%2F2", "idx/l/b", "idx/l/deep/er"]),
        ("idx/l/a%2F", vec!["idx/l/a%2F1", "idx/l/a%2F2"]),
        ("idx/l/a_", vec![]),
        ("idx/none/", vec![]),
    ] {
        let prefix = key(prefix);
        let mut listed: Vec<Key> =
            list_all(&*store, prefix.as_str()).await.expect("listed").into_iter().map(|object| object.key).collect();
        listed.sort();
        assert_eq!(listed, expected.into_iter().map(key).collect::<Vec<_>>(), "{}", prefix.as_str());
    }
    assert_eq!(store.clear_unfinished(Duration::from_secs(86_400)).await.expect("cleared"), 0);
}

async fn keeps_the_port_s_promises(store: Arc<dyn Store>) {
    conditions_have_one_winner(Arc::clone(&store)).await;
    objects_are_whole_or_absent(Arc::clone(&store)).await;
    pieces_become_one(Arc::clone(&store)).await;
    listings_go_by_prefix(store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_keeps_the_port_s_promises() {
    let dir = tempfile::tempdir().expect("a directory");
    keeps_the_port_s_promises(Arc::new(FsStore::open(dir.path()).expect("a store"))).await;
}

#[cfg(feature = "aws")]
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_keeps_the_port_s_promises() {
    let sdk = emulator::shared().sdk();
    let client = aws_sdk_s3::Client::new(&sdk);
    client.create_bucket().bucket("contract").send().await.expect("a bucket");
    let clock = Arc::new(domain::clock::SystemClock);
    keeps_the_port_s_promises(Arc::new(S3Store::new(&sdk, &emulator::silent(), "contract", clock))).await;
}
