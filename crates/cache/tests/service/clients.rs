//! `@actions/cache` 3.x to 6.x as published, over both protocols, on every back end.

use serde_json::{Value, json};

use crate::support::{BACKS, Back, Client, Protocol, Service, settings, token, token_in};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

const V2: [&str; 3] = ["cache-v4", "cache-v5", "cache-v6"];

fn save(key: &str) -> Value {
    json!({ "op": "save", "paths": ["data"], "key": key })
}

fn restore(key: &str, keys: &[&str]) -> Value {
    json!({ "op": "restore", "paths": ["data"], "key": key, "restore": keys })
}

fn write(size: usize) -> Value {
    json!({ "op": "write", "path": "data/file", "size": size })
}

fn remove() -> Value {
    json!({ "op": "remove", "path": "data" })
}

fn digest() -> Value {
    json!({ "op": "digest", "path": "data/file" })
}

fn as_job(token: &str) -> Value {
    json!({ "op": "env", "name": "ACTIONS_RUNTIME_TOKEN", "value": token })
}

/// Writes, saves twice, removes, restores, compares.
async fn round_trips(client: &Client, sizes: &[usize]) {
    let keys: Vec<String> = sizes.iter().map(|size| format!("round/trip {size} é..b")).collect();
    let calls = sizes
        .iter()
        .zip(&keys)
        .flat_map(|(size, key)| [write(*size), save(key), save(key), remove(), restore(key, &[]), digest()]);
    let calls: Value = std::iter::once(json!({ "op": "feature" })).chain(calls).collect();
    let (results, said) = client.run(&calls).await;
    assert_eq!(results[0]["value"], true);
    for ((steps, size), key) in results[1..].chunks(6).zip(sizes).zip(&keys) {
        let [written, saved, again, _, restored, read] = steps else { panic!("six steps") };
        assert!(saved["value"].as_i64().is_some_and(|id| id > 0), "{size} bytes are saved: {saved}\n{said}");
        assert_eq!(again["value"], -1, "{size} bytes are there already\n{said}");
        assert_eq!(restored["value"], key.as_str(), "{size} bytes are restored\n{said}");
        assert_eq!(read["value"], written["value"], "{size} bytes are the same");
    }
    assert!(!said.contains("::warning::") && !said.contains("::error::"), "nothing to complain about: {said}");
}

/// What is found by which key.
async fn finds(client: &Client) {
    let long = "k".repeat(512);
    let calls = json!([
        write(KIB),
        save("npm-1"),
        save("npm-2"),
        save(&long),
        remove(),
        restore("npm-9", &["npm-"]),
        restore("npm-1", &["npm-"]),
        restore(&long, &[]),
        restore(&format!("{}x", &long[..300]), &[&long[..300]]),
        restore("yarn-1", &["yarn-"]),
        json!({ "op": "restore", "paths": ["other"], "key": "npm-1", "restore": ["npm-"] }),
        remove(),
        json!({ "op": "restore", "paths": ["data"], "key": "npm-1", "restore": [], "options": { "lookupOnly": true } }),
        digest(),
    ]);
    let (results, said) = client.run(&calls).await;
    let value = |at: usize| &results[at]["value"];
    assert_eq!(*value(5), "npm-2", "the newest of them\n{said}");
    assert_eq!(*value(6), "npm-1", "exactly this one");
    assert_eq!((value(7), value(8)), (&json!(long), &json!(long)));
    assert_eq!((value(9), value(10)), (&Value::Null, &Value::Null), "unknown, and another version");
    assert_eq!((value(12), value(13)), (&json!("npm-1"), &Value::Null), "looked up, not downloaded");
    assert!(!said.contains("::warning::"), "{said}");
}

/// Who sees what.
async fn is_scoped(client: &Client) {
    let main = ("refs/heads/main", 3);
    let feature = token_in("2", "acme/app", &[("refs/heads/feature", 3), ("refs/heads/main", 1)]);
    let read_only = token_in("3", "acme/app", &[("refs/heads/main", 1)]);
    let other = token_in("4", "acme/other", &[main]);
    let calls = json!([
        write(KIB),
        save("scoped"),
        as_job(&feature),
        restore("scoped", &[]),
        save("scoped"),
        save("feature-1"),
        as_job(&token_in("1", "ACME/App", &[main])),
        restore("feature-1", &[]),
        as_job(&read_only),
        restore("scoped", &[]),
        save("read-only"),
        as_job(&other),
        restore("scoped", &[]),
        save("scoped"),
        as_job("not a token"),
        restore("scoped", &[]),
        save("invalid"),
    ]);
    let (results, said) = client.run(&calls).await;
    let value = |at: usize| &results[at]["value"];
    assert_eq!(*value(3), "scoped", "a branch reads what the default branch saved\n{said}");
    assert!(value(4).as_i64() > Some(0) && value(5).as_i64() > Some(0), "and saves its own");
    assert_eq!(*value(7), Value::Null, "which the default branch does not read");
    assert_eq!((value(9), value(10)), (&json!("scoped"), &json!(-1)), "read, not write\n{said}");
    assert_eq!(*value(12), Value::Null, "another repository sees nothing");
    assert!(value(13).as_i64() > Some(0), "and saves its own");
    assert_eq!((value(15), value(16)), (&Value::Null, &json!(-1)), "a job goes on without");
    for at in [15, 16] {
        assert!(results[at]["ms"].as_i64() < Some(2_000), "at once: {}\n{said}", results[at]);
    }
}

async fn service(back: Back, redirect: bool) -> (Service, String) {
    let mut service = Service::with(back, cache::Settings { redirect, ..settings() }, true).await;
    let url = service.listen().await;
    (service, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_the_first_protocol_save_and_restore() {
    for &back in BACKS {
        let (_service, url) = service(back, false).await;
        let client = Client::new("cache-v3", Protocol::V1, &url, &token("1"));
        round_trips(&client, &[0, 1, MIB, 33 * MIB, 129 * MIB]).await;
        finds(&client).await;
        is_scoped(&client).await;
        let small = Client::new("cache-v3", Protocol::V1, &url, &token_in("9", "acme/chunks", &[("main", 3)]));
        let small = small.with("CACHE_UPLOAD_CHUNK_SIZE", "1").with("CACHE_UPLOAD_CONCURRENCY", "8");
        round_trips(&small, &[20 * MIB + 7]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_the_second_protocol_save_and_restore() {
    for &back in BACKS {
        for package in V2 {
            let (_service, url) = service(back, package != "cache-v5").await;
            let client = Client::new(package, Protocol::V2, &url, &token("1"));
            round_trips(&client, &[0, 1, MIB, 33 * MIB, 129 * MIB]).await;
            finds(&client).await;
            is_scoped(&client).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_clients_speak_the_first_protocol_when_told_so() {
    for &back in BACKS {
        let (_service, url) = service(back, false).await;
        for package in V2 {
            let repo = format!("acme/{package}");
            let client = Client::new(package, Protocol::V1, &url, &token_in("1", &repo, &[("main", 3)]));
            round_trips(&client, &[1, 33 * MIB]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_protocols_share_their_entries() {
    for &back in BACKS {
        let (_service, url) = service(back, false).await;
        let first = Client::new("cache-v3", Protocol::V1, &url, &token("1"));
        let second = Client::new("cache-v6", Protocol::V2, &url, &token("2"));
        let (saved, _) = first.run(&json!([write(KIB), save("one")])).await;
        assert!(saved[1]["value"].as_i64() > Some(0));
        let (shared, said) =
            second.run(&json!([write(KIB), save("one"), restore("one", &[]), save("two"), digest()])).await;
        assert_eq!((&shared[1]["value"], &shared[2]["value"]), (&json!(-1), &json!("one")), "{said}");
        assert_eq!(shared[4]["value"], saved[0]["value"], "the bytes of the first");
        let (back, said) = first.run(&json!([restore("two", &[]), save("two")])).await;
        assert_eq!((&back[0]["value"], &back[1]["value"]), (&json!("two"), &json!(-1)), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_save_one_key_at_once_one_does() {
    for &back in BACKS {
        let (service, url) = service(back, false).await;
        for (package, protocol) in [
            ("cache-v3", Protocol::V1),
            ("cache-v4", Protocol::V2),
            ("cache-v5", Protocol::V2),
            ("cache-v6", Protocol::V2),
        ] {
            let calls = json!([write(20 * MIB), save(package)]);
            let (one, other) =
                (Client::new(package, protocol, &url, &token("1")), Client::new(package, protocol, &url, &token("2")));
            let ((one, said), (other, said_too)) = tokio::join!(one.run(&calls), other.run(&calls));
            let ids = [one[1]["value"].as_i64(), other[1]["value"].as_i64()];
            assert!(ids.contains(&Some(-1)) && ids.iter().any(|id| *id > Some(0)), "{ids:?}\n{said}\n{said_too}");
            for said in [said, said_too] {
                assert!(!said.contains("::warning::") && !said.contains("::error::"), "{said}");
            }
            assert_eq!(service.found(&token("3"), package, &[]).await.as_deref(), Some(package));
        }
    }
}

/// `make test-large`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a gigabyte, several times"]
async fn a_gigabyte() {
    let (_service, url) = service(Back::Fs, false).await;
    round_trips(&Client::new("cache-v3", Protocol::V1, &url, &token("1")), &[1023 * MIB]).await;
    for package in V2 {
        let repo = format!("acme/{package}");
        let client = Client::new(package, Protocol::V2, &url, &token_in("1", &repo, &[("main", 3)]));
        round_trips(&client, &[300 * MIB, 1023 * MIB]).await;
    }
}
