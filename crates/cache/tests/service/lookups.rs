//! Which entry a lookup finds, and what it costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cache::layout::Key;
use cache::store::{Error, FsStore, Incoming, Listed, Object, Outcome, Outgoing, Page, Piece, Store, When};
use serde_json::json;
use tokio::time::Instant;

use crate::support::{BACKS, Back, Service, Shifted, VERSION, settings, token, token_in};

#[tokio::test(flavor = "multi_thread")]
async fn the_nearest_scope_and_the_first_key_win() {
    for &back in BACKS {
        let service = Service::new(back).await;
        let main = token("1");
        let branch = token_in("2", "acme/app", &[("refs/heads/topic", 3), ("refs/heads/main", 1)]);
        for key in ["npm-linux-1", "npm-mac-1", "npm-linux-2", "exact", "exact-but-newer", "100%_a", "100xya"] {
            service.save(&main, key, key.to_owned()).await;
        }
        service.save(&branch, "npm-topic", "t").await;
        for (who, key, restore, expected) in [
            (&main, "exact", &[][..], Some("exact")),
            (&main, "exac", &[], Some("exact-but-newer")),
            (&main, "npm-linux-9", &["npm-linux-", "npm-"], Some("npm-linux-2")),
            (&main, "npm-mac-9", &["npm-mac-", "npm-"], Some("npm-mac-1")),
            (&main, "NPM", &["Npm-"], None),
            (&main, "100%_", &[], Some("100%_a")),
            (&main, "npm-topic", &[], None),
            (&branch, "exact", &[], Some("exact")),
            (&branch, "npm-linux-2", &["npm-"], Some("npm-topic")),
            (&branch, "npm-linux-2", &[], Some("npm-linux-2")),
        ] {
            assert_eq!(service.found(who, key, restore).await.as_deref(), expected, "{back:?} {key} {restore:?}");
        }
        let other = json!({ "key": "exact", "version": format!("{VERSION}x") });
        let other = service.twirp(&main, "GetCacheEntryDownloadURL", other).await;
        assert_eq!(other.json(), json!({ "ok": false }), "another version");
    }
}

#[tokio::test]
async fn the_newest_is_found_among_many_whatever_its_name() {
    let service = Service::new(Back::Fs).await;
    let token = token("1");
    for n in 0..105 {
        service.save(&token, &format!("p-z{n:03}"), "x").await;
    }
    service.save(&token, "p-a", "x").await;
    assert_eq!(service.found(&token, "p-", &[]).await.as_deref(), Some("p-a"));
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_keys_are_found_as_they_are() {
    for &back in BACKS {
        let service = Service::new(back).await;
        let token = token("1");
        let long = format!("{}é{}", "a/".repeat(100), "b".repeat(300));
        let keys =
            ["a..b/c d%2F", "a+b#c?d&e=f", r"C:\dir\x", "ключ", ".hidden", "~tilde", "dir/", "UPPER", "upper", &long];
        for key in keys {
            service.save(&token, key, key.to_owned()).await;
        }
        for key in keys {
            assert_eq!(service.load(&token, key).await, Some(key.to_owned().into()), "{back:?} {key}");
        }
        let begin: String = long.chars().take(300).collect();
        assert_eq!(service.found(&token, &format!("{begin}?"), &[&begin]).await, Some(long.clone()));
        assert_eq!(service.found(&token, &long.replace("bbb", "bbc"), &[]).await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_without_its_bytes_is_forgotten() {
    let service = Service::new(Back::Fs).await;
    let token = token("1");
    for key in ["k-1", "k-2"] {
        service.save(&token, key, "bytes").await;
    }
    service.cache.finish().await;
    let root = service.dir.path().join("caches/_v2/dat");
    let lost = walk(&root).into_iter().find(|path| path.to_string_lossy().contains("/k-2/")).unwrap();
    std::fs::write(lost, "byte").unwrap();
    assert_eq!(service.found(&token, "k-", &[]).await.as_deref(), Some("k-1"), "the search goes on");
    assert_eq!(service.found(&token, "k-2", &[]).await, None);
    assert!(service.metrics.render().contains("cache_evictions_total{reason=\"stale\"} 1"));
    service.save(&token, "k-2", "again").await;
    assert_eq!(service.load(&token, "k-2").await.as_deref(), Some(&b"again"[..]));
}

pub(crate) fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .flat_map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { vec![entry.path()] })
        .collect()
}

/// Counts calls, and lists as a bucket does: a thousand objects at a time.
struct Counted {
    store: FsStore,
    calls: AtomicUsize,
}

impl Counted {
    fn count(&self) -> &FsStore {
        self.calls.fetch_add(1, Ordering::Relaxed);
        &self.store
    }
}

#[async_trait]
impl Store for Counted {
    async fn get(&self, key: &Key) -> Result<Option<Object>, Error> {
        self.count().get(key).await
    }
    async fn put(&self, key: &Key, bytes: Bytes, when: When) -> Result<Outcome, Error> {
        self.count().put(key, bytes, when).await
    }
    async fn publish(&self, key: &Key, bytes: Bytes, data: &Key) -> Result<Outcome, Error> {
        self.count().publish(key, bytes, data).await
    }
    async fn head(&self, key: &Key) -> Result<Option<Listed>, Error> {
        self.count().head(key).await
    }
    async fn delete(&self, key: &Key) -> Result<(), Error> {
        self.count().delete(key).await
    }
    async fn list(&self, prefix: &str, after: Option<String>) -> Result<Page, Error> {
        let mut objects = self.count().list(prefix, None).await?.objects;
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        let start = after.map_or(0, |at| at.parse().unwrap());
        let next = (start + 1000 < objects.len()).then(|| (start + 1000).to_string());
        Ok(Page { objects: objects.into_iter().skip(start).take(1000).collect(), next })
    }
    async fn write(&self, key: &Key, size: Option<u64>, bytes: Incoming) -> Result<u64, Error> {
        self.count().write(key, size, bytes).await
    }
    async fn read(&self, key: &Key, start: u64, length: u64) -> Result<Option<Outgoing>, Error> {
        self.count().read(key, start, length).await
    }
    async fn assemble(&self, key: &Key, pieces: &[Piece]) -> Result<(), Error> {
        self.count().assemble(key, pieces).await
    }
    async fn presign(&self, key: &Key) -> Result<Option<String>, Error> {
        self.store.presign(key).await
    }
    async fn clear_unfinished(&self, older: Duration) -> Result<usize, Error> {
        self.store.clear_unfinished(older).await
    }
    fn granularity(&self) -> Duration {
        self.store.granularity()
    }
}

/// Puts entries in place as so many saves, a tenth of a second apart, would: by copying the one that was saved.
fn multiply(service: &Service, count: usize, name: impl Fn(usize) -> String) {
    let root = service.dir.path().join("caches/_v2");
    let manifest = walk(&root.join("idx")).into_iter().find(|path| path.ends_with("seed")).unwrap();
    let text = std::fs::read_to_string(&manifest).unwrap();
    let now = std::fs::metadata(&manifest).unwrap().modified().unwrap();
    for n in 0..count {
        let key = name(n);
        let copy = text.replace("\"key\":\"seed\"", &format!("\"key\":\"{key}\""));
        let path = manifest.with_file_name(&key);
        std::fs::write(&path, copy).unwrap();
        let age = Duration::from_millis(100) * u32::try_from(count - n).unwrap();
        std::fs::File::open(&path).unwrap().set_modified(now - age).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_do_not_match_cost_a_lookup_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Counted { store: FsStore::open(dir.path()).unwrap(), calls: AtomicUsize::new(0) });
    let service = Service::on(store.clone(), settings(), true, dir, Arc::new(Shifted::default()));
    let token = token("1");
    service.save(&token, "seed", "x").await;
    service.save(&token, "wanted-1", "x").await;
    service.cache.finish().await;
    let mut costs = Vec::new();
    for count in [0, 3_000] {
        multiply(&service, count, |n| format!("other-{n}"));
        // The first read of an entry is noted behind the answer.
        service.found(&token, "wanted-2", &["wanted-"]).await;
        service.cache.finish().await;
        let before = store.calls.load(Ordering::Relaxed);
        assert_eq!(service.found(&token, "wanted-2", &["wanted-"]).await.as_deref(), Some("wanted-1"));
        costs.push(store.calls.load(Ordering::Relaxed) - before);
    }
    assert_eq!(costs[0], costs[1]);
    assert!(costs[0] <= 6, "{costs:?}");
}

#[cfg(feature = "aws")]
#[tokio::test(flavor = "multi_thread")]
async fn entries_that_do_not_match_cost_no_request_to_a_bucket() {
    use aws_smithy_runtime_api::box_error::BoxError;
    use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextRef;
    use aws_smithy_runtime_api::client::interceptors::{Intercept, SharedInterceptor};
    use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
    use aws_smithy_types::config_bag::ConfigBag;
    use tokio::task::JoinSet;

    #[derive(Debug, Clone, Default)]
    struct Requests(Arc<AtomicUsize>);

    impl Intercept for Requests {
        fn name(&self) -> &'static str {
            "Requests"
        }

        fn read_before_transmit(
            &self,
            _: &BeforeTransmitInterceptorContextRef<'_>,
            _: &RuntimeComponents,
            _: &mut ConfigBag,
        ) -> Result<(), BoxError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }

    let ((client, name), clock) = (crate::support::bucket().await, Arc::new(Shifted::default()));
    let requests = Requests::default();
    let seen = SharedInterceptor::new(requests.clone());
    let store = cache::store::S3Store::new(&emulator::shared().sdk(), &seen, name.clone(), clock.clone());
    let service = Service::on(Arc::new(store), settings(), true, tempfile::tempdir().unwrap(), clock);
    let token = token("1");
    service.save(&token, "wanted-1", "x").await;
    service.cache.finish().await;
    let listed = client.list_objects_v2().bucket(&name).prefix("caches/_v2/idx/").send().await.unwrap();
    let saved = listed.contents()[0].key().unwrap().to_owned();
    let mut costs = Vec::new();
    for round in 0..2 {
        // The first read of an entry is noted behind the answer.
        service.found(&token, "wanted-2", &["wanted-"]).await;
        service.cache.finish().await;
        let before = requests.0.load(Ordering::Relaxed);
        assert_eq!(service.found(&token, "wanted-2", &["wanted-"]).await.as_deref(), Some("wanted-1"));
        costs.push(requests.0.load(Ordering::Relaxed) - before);
        // More than a bucket lists at once, on both sides of those that match.
        let mut others = JoinSet::new();
        for n in 0..if round == 0 { 1_200 } else { 0 } {
            let other = saved.replace("wanted-1", &format!("{}-{n}", if n % 2 == 0 { "a" } else { "z" }));
            others.spawn(client.put_object().bucket(&name).key(other).body(b"{}".to_vec().into()).send());
            if others.len() == 16 {
                others.join_next().await.unwrap().unwrap().unwrap();
            }
        }
        others.join_all().await.into_iter().for_each(|put| drop(put.unwrap()));
    }
    assert_eq!(costs[0], costs[1]);
    assert!(costs[0] <= 6, "{costs:?}");
}

/// Prints the figures of `docs/BENCHMARKS.md`, of a release build; here they are only held to what a slow machine under
/// load still does.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_entries_are_searched_in_milliseconds() {
    let service = Service::new(Back::Fs).await;
    let token = token("1");
    service.save(&token, "seed", "x").await;
    service.cache.finish().await;
    multiply(&service, 10_000, |n| format!("key-{:02}-{n}", n % 100));
    // What changed a moment ago is read every time.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    for matching in [100, 10_000] {
        let mut took = Vec::new();
        for n in 0..200 {
            let restore = if matching == 100 { format!("key-{:02}-", n % 100) } else { "key-".to_owned() };
            let started = Instant::now();
            let found = service.found(&token, "absent", &[&restore]).await;
            took.push(started.elapsed());
            assert!(found.is_some());
        }
        took.sort_unstable();
        println!(
            "among 10,000 entries, of which {matching} match: median {:?}, p99 {:?}, slowest {:?}",
            took[100], took[197], took[199]
        );
        assert!(took[100] < Duration::from_secs(1), "{:?}", took[100]);
    }
}
