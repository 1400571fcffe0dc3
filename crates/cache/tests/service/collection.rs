//! What goes, and what stays.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use bytes::Bytes;

use crate::lookups::walk;
use crate::support::{BACKS, Back, Service, noise, path, settings, token, token_in};

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_nobody_reads_go_and_their_bytes_an_hour_later() {
    for &back in BACKS {
        let ttl = Some(7 * DAY);
        let service = Service::with(back, cache::Settings { ttl, ..settings() }, true).await;
        let token = token("1");
        service.save(&token, "k", "bytes").await;
        service.cache.finish().await;
        assert_eq!(service.cache.collect().await.unwrap(), cache::Collected::default(), "nothing to do");
        let stats = service.cache.stats();
        assert_eq!((stats.total.entries, stats.total.bytes), (1, 5));
        let url = path(service.lookup(&token, "k", &[]).await["signed_download_url"].as_str().unwrap());
        service.clock.advance(8 * DAY);
        assert_eq!(service.cache.collect().await.unwrap().entries, 1);
        assert_eq!(service.found(&token, "k", &[]).await, None);
        assert_eq!(service.cache.stats().total.entries, 0);
        // What was promised to a reader a moment ago is still there: by the clock of the store, nothing is old yet.
        if back == Back::Fs {
            assert!(walk(service.dir.path()).iter().any(|file| file.to_string_lossy().contains("/dat/")));
            service.clock.advance(Duration::from_secs(2 * 3600));
            service.cache.collect().await.unwrap();
            service.clock.advance(2 * DAY);
            service.cache.collect().await.unwrap();
            assert_eq!(walk(&service.dir.path().join("caches")), Vec::<std::path::PathBuf>::new());
        }
        let gone = service.send(Request::get(&url).body(Body::empty()).unwrap()).await;
        assert_eq!(gone.status, 403, "the address is too old by now");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_stays_within_its_limit() {
    let service = Service::with(Back::Fs, cache::Settings { per_repo: Some(250), ..settings() }, true).await;
    let (token, other) = (token("1"), token_in("1", "acme/other", &[("main", 3)]));
    for key in ["a", "b", "c"] {
        service.save(&token, key, Bytes::from(vec![0; 100])).await;
        service.save(&other, key, Bytes::from(vec![0; 50])).await;
    }
    service.cache.finish().await;
    assert_eq!(service.found(&token, "a", &[]).await.as_deref(), Some("a"), "too young to go");
    service.clock.advance(Duration::from_secs(3600));
    assert_eq!(service.cache.collect().await.unwrap().entries, 1);
    let mut left = Vec::new();
    for key in ["a", "b", "c"] {
        left.push(service.found(&token, key, &[]).await.is_some());
        assert!(service.found(&other, key, &[]).await.is_some(), "within its own limit");
    }
    assert_eq!(left.iter().filter(|found| **found).count(), 2);
    assert!(left[0], "the one that was read lately stays: {left:?}");
    let stats = service.cache.stats();
    assert_eq!((stats.repos["acme/app"].bytes, stats.repos["acme/other"].bytes), (200, 150));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_used_by_one_process_and_survives_it() {
    let service = Service::new(Back::Fs).await;
    service.save(&token("1"), "k", noise(1000, 1)).await;
    service.cache.finish().await;
    let refused = cache::store::FsStore::open(service.dir.path()).err().unwrap();
    assert!(refused.to_string().contains("another process"), "{refused}");
    let (dir, clock) = service.stop();
    std::fs::write(dir.path().join("tmp/9"), "unfinished").unwrap();
    let store = std::sync::Arc::new(cache::store::FsStore::open(dir.path()).unwrap());
    assert!(walk(&dir.path().join("tmp")).is_empty());
    let service = Service::on(store, settings(), true, dir, clock);
    assert_eq!(service.load(&token("2"), "k").await, Some(noise(1000, 1)));
    let mode = |path: &std::path::Path| {
        use std::os::unix::fs::PermissionsExt;
        path.metadata().unwrap().permissions().mode() & 0o777
    };
    for file in walk(&service.dir.path().join("caches")) {
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700), "{}", file.display());
    }
}
