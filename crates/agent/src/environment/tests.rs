use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use super::{Environment, Fatal};

fn read(variables: &[(&str, &str)]) -> Result<(Environment, Vec<String>), Fatal> {
    let mut all = HashMap::from([
        ("RUNS_FLEET_INSTANCE_ID", "i-1"),
        ("RUNS_FLEET_SECRETS_BACKEND", "file"),
        ("RUNS_FLEET_HANDOVER_DIR", "/h"),
    ]);
    all.extend(variables.iter().copied());
    Environment::read(|name| all.get(name).map(|value| (*value).to_owned()))
}

#[test]
fn defaults() {
    let (environment, warnings) = read(&[]).unwrap();
    assert_eq!(warnings, [""; 0]);
    assert_eq!(environment.limits.grace, Duration::from_secs(90));
    assert_eq!(environment.limits.max_runtime, Duration::from_secs(360 * 60));
    assert_eq!(environment.limits.pickup, Duration::from_secs(600));
    assert_eq!(environment.standby.deadline, Duration::from_secs(15 * 60));
    assert_eq!(environment.state_dir, PathBuf::from("/var/lib/runs-fleet"));
    assert!(environment.runner_dir.is_absolute());
    assert_eq!(environment.report_spool, None);
}

#[test]
fn a_bad_number_falls_through_to_the_next_source() {
    let ceiling = |seconds: &str, minutes: &str| {
        let (environment, warnings) =
            read(&[("RUNS_FLEET_MAX_RUNTIME_SECONDS", seconds), ("RUNS_FLEET_MAX_RUNTIME_MINUTES", minutes)]).unwrap();
        (environment.limits.max_runtime.as_secs(), warnings.len())
    };
    assert_eq!(ceiling(" 5 ", "2"), (5, 0), "seconds win");
    assert_eq!(ceiling("", "2"), (120, 0));
    assert_eq!(ceiling("0", "2"), (120, 1), "zero would be an instant timeout");
    assert_eq!(ceiling("123abc", "+2"), (21_600, 2));
    assert_eq!(ceiling("-1", "1441"), (21_600, 2));
}

#[test]
fn what_makes_the_agent_somebody_else_is_fatal() {
    assert_eq!(read(&[("RUNS_FLEET_INSTANCE_ID", " ")]).unwrap_err(), Fatal::Missing("RUNS_FLEET_INSTANCE_ID"));
    assert_eq!(read(&[("RUNS_FLEET_HANDOVER_DIR", "")]).unwrap_err(), Fatal::Missing("RUNS_FLEET_HANDOVER_DIR"));
    assert!(matches!(read(&[("RUNS_FLEET_SECRETS_BACKEND", "ssm")]), Err(Fatal::Unsupported { .. })));
    assert!(matches!(read(&[("RUNS_FLEET_SECRETS_BACKEND", "")]), Err(Fatal::Unsupported { .. })));
    assert!(matches!(read(&[("RUNS_FLEET_BACKEND", "ec2")]), Err(Fatal::Unsupported { .. })));
}

#[test]
fn lists_drop_blanks() {
    let (environment, _) = read(&[("RUNS_FLEET_JOB_ENV_PASSTHROUGH", " A, ,B ,")]).unwrap();
    assert_eq!(environment.passthrough, ["A", "B"]);
}
