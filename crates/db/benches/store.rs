//! What a job costs the store: accepting it (one conditional create), and one pinned step, as a claim is.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::expect_used, reason = "a benchmark that cannot run has nothing to say")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use criterion::{Criterion, criterion_group, criterion_main};
use db::{Jobs, Memory, Sqlite, Table};
use domain::clock::{Clock, SystemClock};
use domain::job::Job;
use domain::testing::{accepted, claimed};

fn store(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let directory = tempfile::tempdir().expect("a directory");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let sqlite = Sqlite::open(&directory.path().join("store.db"), Arc::clone(&clock)).expect("a new store");
    let tables: [(&str, Arc<dyn Table>); 2] =
        [("memory", Arc::new(Memory::new(Arc::clone(&clock)))), ("sqlite", Arc::new(sqlite))];
    for (name, table) in tables {
        let jobs = Jobs::new(table, Arc::clone(&clock));
        let next = AtomicU64::new(1);
        c.bench_function(&format!("accept/{name}"), |bencher| {
            bencher.to_async(&runtime).iter(|| async {
                let job = accepted(next.fetch_add(1, Ordering::Relaxed));
                jobs.create(&job).await.expect("allowed").applied().expect("a new id")
            });
        });
        c.bench_function(&format!("claim/{name}"), |bencher| {
            bencher.to_async(&runtime).iter_custom(|rounds| {
                let (jobs, next) = (&jobs, &next);
                async move {
                    let job = accepted(next.fetch_add(1, Ordering::Relaxed));
                    let mut job = jobs.create(&job).await.expect("allowed").applied().expect("a new id");
                    let start = tokio::time::Instant::now();
                    for round in 0..rounds {
                        let step = claimed(job.id.get(), &format!("{round:032x}"));
                        let step = Job { version: job.version, ..step };
                        job = jobs.write(&job, step).await.expect("allowed").applied().expect("nobody else writes");
                    }
                    start.elapsed()
                }
            });
        });
    }
}

criterion_group!(benches, store);
criterion_main!(benches);
