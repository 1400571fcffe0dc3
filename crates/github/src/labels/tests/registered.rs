use domain::ids::{JobId, Repo, RunId};
use domain::launch::LaunchSpec;
use domain::message::JobMessage;

use super::*;

fn repo(name: &str) -> Repo {
    name.parse().unwrap()
}

fn message(spec: LaunchSpec) -> JobMessage {
    JobMessage {
        job_id: JobId::new(1).unwrap(),
        run_id: RunId::new(42),
        repo: repo("acme/app"),
        spec,
        original_label: String::new(),
        labels: Vec::new(),
        retry_count: 0,
        force_on_demand: false,
        dispatch_seq: 0,
        displaced_count: 0,
        run_attempt: 1,
        installation_id: None,
        job_name: String::new(),
        workflow_name: String::new(),
        created_at: None,
        queued_at: None,
        traceparent: None,
        unknown: serde_json::Map::new(),
    }
}

#[test]
fn the_whole_set_in_order_without_repeats() {
    let labels = set(&["Linux", "self-hosted", "linux", "runs-fleet/cpu=4", "self-hosted"]);
    assert_eq!(registered_labels(&labels), ["Linux", "self-hosted", "runs-fleet/cpu=4"]);
    assert!(registered_labels(&[]).is_empty());
}

#[test]
fn the_class_is_the_repository_and_the_set() {
    // sha256("acme/app\nlinux\nruns-fleet/cpu=4"), worked out with another program.
    let key = class_key(&repo("Acme/App"), &set(&["runs-fleet/cpu=4", "Linux"]));
    assert_eq!(key.as_str(), "a640e9977491776a1019782a7061be0ef5252077301c6003eff16531057089ef");
    assert_eq!(class_key(&repo("acme/app"), &set(&["linux", "RUNS-FLEET/cpu=4", "LINUX"])), key);
    assert_ne!(class_key(&repo("acme/other"), &set(&["linux", "runs-fleet/cpu=4"])), key);
    assert_ne!(class_key(&repo("acme/app"), &set(&["linux"])), key);
    // sha256("acme/app\n")
    assert_eq!(
        class_key(&repo("acme/app"), &[]).as_str(),
        "34dd60815ff72be6e8021e0d905a43c3979cfd0c6ca726e88437d8db8310a034"
    );
}

#[test]
fn old_messages_fall_back_to_the_marker_and_then_to_an_invention() {
    let mut old = message(LaunchSpec { spot: true, ..LaunchSpec::default() });
    old.labels = set(&["a", "A", "b"]);
    old.original_label = "runs-fleet/cpu=2".to_owned();
    assert_eq!(fallback_labels(&old), Fallback { labels: set(&["a", "b"]), synthesized: false });
    old.labels.clear();
    assert_eq!(fallback_labels(&old), Fallback { labels: set(&["runs-fleet/cpu=2"]), synthesized: false });
    old.original_label.clear();
    assert_eq!(fallback_labels(&old), Fallback { labels: set(&["runs-fleet=42"]), synthesized: true });
    let full = message(LaunchSpec {
        runner_spec: "4cpu-linux-arm64".to_owned(),
        pool: Some("p".parse().unwrap()),
        private: true,
        spot: false,
        ..LaunchSpec::default()
    });
    let label = "runs-fleet=42/runner=4cpu-linux-arm64/pool=p/private=true/spot=false";
    assert_eq!(fallback_labels(&full).labels, [label]);
    // What is invented says the same as the message did.
    let read = spec(label).launch_spec();
    assert_eq!(
        (read.runner_spec, read.pool, read.private, read.spot),
        (full.spec.runner_spec, full.spec.pool, true, false)
    );
}
