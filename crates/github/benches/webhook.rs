//! How long it takes to check and read a delivery: the work done for every webhook before anything is written.

#![allow(missing_docs, reason = "criterion's macros declare undocumented items")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use github::webhook::{Secrets, WorkflowJobEvent, sign, verify};
use secrecy::SecretString;
use serde_json::json;

/// About as large as GitHub sends them: 10 KB, most of it fields nobody reads.
fn body() -> Vec<u8> {
    let links: serde_json::Map<_, _> = (0..60)
        .map(|n| (format!("link_{n}_url"), format!("https://api.github.com/repos/org/repo/resource/{n}{{/id}}").into()))
        .collect();
    let steps: Vec<_> = (0..30)
        .map(|n| {
            json!({"name": format!("Step number {n}"), "status": "completed", "conclusion": "success", "number": n,
                   "started_at": "2026-01-01T00:00:00Z", "completed_at": "2026-01-01T00:00:01Z"})
        })
        .collect();
    let event = json!({
        "action": "queued",
        "workflow_job": {
            "id": 289_782_451, "run_id": 2_202_229_078_u64, "run_attempt": 1, "name": "build", "workflow_name": "CI",
            "head_branch": "main", "labels": ["self-hosted", "linux", "runs-fleet/cpu=4+16/ram=8+32"],
            "status": "queued", "conclusion": null, "created_at": "2026-01-01T00:00:00Z",
            "started_at": "2026-01-01T00:00:00Z", "completed_at": null, "runner_id": null, "runner_name": null,
            "runner_group_id": null, "html_url": "https://github.com/org/repo/actions/runs/2202229078/job/289782451",
            "steps": steps
        },
        "repository": {"full_name": "org/repo", "private": true, "links": links},
        "installation": {"id": 99}
    });
    event.to_string().into_bytes()
}

fn webhook(c: &mut Criterion) {
    let body = body();
    let secrets = Secrets { current: SecretString::from("a secret of the App".to_owned()), previous: None };
    let header = sign(&secrets.current, &body);
    let mut group = c.benchmark_group("webhook");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("verify", |b| b.iter(|| verify(&secrets, black_box(&header), black_box(&body))));
    group.bench_function("decode", |b| b.iter(|| WorkflowJobEvent::decode(black_box(&body))));
    group.bench_function("verify and decode", |b| {
        b.iter(|| verify(&secrets, black_box(&header), black_box(&body)).map(|()| WorkflowJobEvent::decode(&body)));
    });
    group.finish();
}

criterion_group!(benches, webhook);
criterion_main!(benches);
