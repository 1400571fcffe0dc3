//! How long it takes to read a label set: the work done for every `queued` webhook before its record is written.

#![allow(missing_docs, reason = "criterion's macros declare undocumented items")]

use criterion::{Criterion, criterion_group, criterion_main};
use github::labels::{Aliases, parse};

fn labels(c: &mut Criterion) {
    let rules = r#"[
        {"match": "ubuntu-latest-xl", "spec": "cpu=16"},
        {"match": "^ci-(?P<cpu>\\d+)x-(?P<arch>\\w+)$", "regex": true, "spec": "cpu=${cpu}/arch=${arch}"}
    ]"#;
    #[allow(clippy::expect_used, reason = "the rules are written above")]
    let aliases = Aliases::parse(rules).expect("valid rules");
    let mut group = c.benchmark_group("labels");
    for (name, label) in [
        ("bare", "runs-fleet"),
        ("fixed", "runs-fleet/runner=4cpu-linux-arm64"),
        ("flexible", "runs-fleet/cpu=4+16/ram=8+32/family=c7g+m7g/arch=arm64/disk=100/pool=default"),
        ("alias", "ci-8x-arm64"),
    ] {
        let set = ["self-hosted".to_owned(), "linux".to_owned(), label.to_owned()];
        group.bench_function(name, |b| b.iter(|| parse(std::hint::black_box(&set), &aliases)));
    }
    group.finish();
}

criterion_group!(benches, labels);
criterion_main!(benches);
