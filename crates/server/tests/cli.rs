//! The command line as scripts and operators meet it: exit codes, what is printed where, and what is never printed.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::disallowed_methods, reason = "tests, against a real clock")]

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output};

use serde_json::{Value, json};
use support::{PRIVATE_KEY, program, run, run_with_input, text};

const WEBHOOK_SECRET: &str = "webhook-secret-0123456789";
#[cfg(feature = "aws")]
const AWS_SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

fn code(output: &Output) -> i32 {
    output.status.code().expect("not killed")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// Every variable an EC2 deployment cannot do without.
fn complete(command: &mut Command) -> &mut Command {
    command
        .env("AWS_REGION", "eu-west-1")
        .env("RUNS_FLEET_GITHUB_WEBHOOK_SECRET", WEBHOOK_SECRET)
        .env("RUNS_FLEET_GITHUB_APP_ID", "12345")
        .env("RUNS_FLEET_GITHUB_APP_PRIVATE_KEY", PRIVATE_KEY)
        .env("RUNS_FLEET_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/main.fifo")
        .env("RUNS_FLEET_QUEUE_DLQ_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/main-dlq.fifo")
        .env("RUNS_FLEET_EVENTS_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/events")
        .env("RUNS_FLEET_TERMINATION_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/termination")
        .env("RUNS_FLEET_JOBS_TABLE", "runs-fleet-jobs")
        .env("RUNS_FLEET_POOLS_TABLE", "runs-fleet-pools")
        .env("RUNS_FLEET_VPC_ID", "vpc-1")
        .env("RUNS_FLEET_SUBNET_IDS", "subnet-a")
        .env("RUNS_FLEET_SECURITY_GROUP_ID", "sg-1")
        .env("RUNS_FLEET_INSTANCE_PROFILE_ARN", "arn:aws:iam::123456789012:instance-profile/runner")
        .env("RUNS_FLEET_RUNNER_IMAGE", "123456789012.dkr.ecr.eu-west-1.amazonaws.com/runner:1")
}

/// What is missing when nothing is set, in the order it is listed.
const MISSING: [&[&str]; 9] = [
    &["RUNS_FLEET_GITHUB_APP_ID"],
    &["RUNS_FLEET_GITHUB_APP_PRIVATE_KEY"],
    &["RUNS_FLEET_GITHUB_WEBHOOK_SECRET"],
    &["RUNS_FLEET_INSTANCE_PROFILE_ARN"],
    &["RUNS_FLEET_QUEUE_URL"],
    &["RUNS_FLEET_RUNNER_IMAGE"],
    &["RUNS_FLEET_SECURITY_GROUP_ID"],
    &["RUNS_FLEET_SUBNET_IDS", "RUNS_FLEET_PUBLIC_SUBNET_IDS", "RUNS_FLEET_PRIVATE_SUBNET_IDS"],
    &["RUNS_FLEET_VPC_ID"],
];

/// Lines that report an error.
fn errors(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.starts_with("error: ")).collect()
}

#[test]
fn an_empty_environment_is_nine_errors_in_one_run() {
    let output = run(program().arg("check-config"));
    assert_eq!(code(&output), 1);
    assert!(output.stderr.is_empty(), "everything is on standard output: {}", text(&output));
    let stdout = stdout(&output);
    let errors = errors(&stdout);
    assert_eq!(errors.len(), MISSING.len(), "{stdout}");
    for (line, variables) in errors.iter().zip(MISSING) {
        assert!(variables.iter().all(|v| line.contains(v)) && line.contains("[E_REQUIRED]"), "{line}");
    }
    assert!(stdout.lines().last().unwrap().starts_with("not ok: mode ec2, 9 errors"), "{stdout}");

    let output = run(program().args(["check-config", "--format", "json"]));
    assert_eq!(code(&output), 1);
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!((&report["ok"], &report["mode"]), (&json!(false), &json!("ec2")));
    let listed: Vec<_> = report["errors"].as_array().unwrap().iter().map(|e| e["variables"].clone()).collect();
    assert_eq!(listed, MISSING.map(|variables| json!(variables)));
    for problem in report["errors"].as_array().unwrap().iter().chain(report["warnings"].as_array().unwrap()) {
        assert!(problem["code"].is_string() && problem["message"].is_string(), "{problem}");
    }
    assert!(report.get("values").is_none() && report.get("effective").is_none(), "only when it is ok");
}

#[test]
fn a_complete_environment_is_ok_and_shows_every_value() {
    let output = run(complete(program().args(["check-config", "--format", "json"])));
    assert_eq!(code(&output), 0, "{}", text(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["ok"], &report["errors"]), (&json!(true), &json!([])));
    let values = &report["values"];
    assert_eq!(values["RUNS_FLEET_GITHUB_APP_ID"], json!(12345));
    assert_eq!(values["RUNS_FLEET_GITHUB_APP_PRIVATE_KEY"], json!("<redacted>"));
    assert_eq!(values["RUNS_FLEET_MAX_RUNTIME_MINUTES"], json!(360));
    assert_eq!(values["RUNS_FLEET_SUBNET_IDS"], json!(["subnet-a"]));
    assert_eq!(values["RUNS_FLEET_TAGS"], json!({}));
    assert_eq!(values["RUNS_FLEET_KEY_NAME"], Value::Null);
    assert_eq!(report["effective"]["store"], json!("dynamodb"));
    assert_eq!(report["effective"]["admin_api"], json!("disabled"));
}

#[test]
fn warnings_are_errors_when_asked() {
    // A misspelt variable.
    let typo = |command: &mut Command| run(complete(command.env("RUNS_FLEET_SPOT_ENABLE", "false")));
    let output = typo(program().arg("check-config"));
    assert_eq!(code(&output), 0, "{}", text(&output));
    assert!(text(&output).contains("RUNS_FLEET_SPOT_ENABLED"), "it says what was meant: {}", text(&output));
    let output = typo(program().args(["check-config", "--strict"]));
    assert_eq!(code(&output), 1);
    assert!(text(&output).contains("[W_UNKNOWN]"), "{}", text(&output));
    let output = typo(program().args(["check-config", "--strict", "--format", "json"]));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["ok"], &report["errors"][0]["code"]), (&json!(false), &json!("W_UNKNOWN")));
}

#[test]
fn aliases_are_checked_with_everything_else() {
    // What a rule expands to is knowledge of another crate than the variables'.
    let aliases = r#"[{"match": "big", "spec": "cpu=4"}, {"match": "bigger", "spec": "cpu=much"}]"#;
    let output = run(program().arg("check-config").env("RUNS_FLEET_LABEL_ALIASES", aliases));
    let stdout = stdout(&output);
    assert_eq!((code(&output), errors(&stdout).len()), (1, MISSING.len() + 1), "{stdout}");
    let line = errors(&stdout).into_iter().find(|l| l.contains("RUNS_FLEET_LABEL_ALIASES")).expect("it is listed");
    assert!(line.contains("rule 1") && line.contains("invalid_alias_config"), "{line}");
}

#[test]
fn variables_come_from_a_file_instead() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fleet.env");
    std::fs::write(&file, "# an example\nexport RUNS_FLEET_GITHUB_APP_ID=7\nRUNS_FLEET_VPC_ID='vpc-1'\n").unwrap();
    let output = run(complete(program().arg("check-config").arg("--env-file").arg(&file)));
    let all = text(&output);
    assert_eq!((code(&output), errors(&all).len()), (1, MISSING.len() - 2), "the environment is not read: {all}");

    std::fs::write(&file, "RUNS_FLEET_GITHUB_APP_ID=7\nexport hunter2-hunter2\n").unwrap();
    let output = run(program().arg("check-config").arg("--env-file").arg(&file));
    let all = text(&output);
    assert_eq!(code(&output), 1);
    assert!(all.contains("fleet.env") && all.contains("line 2"), "{all}");
    assert!(!all.contains("hunter2"), "a broken line may be a secret: {all}");

    let output = run(program().args(["check-config", "--env-file", "/nonexistent/fleet.env"]));
    assert_eq!(code(&output), 1);
    assert!(text(&output).contains("/nonexistent/fleet.env"));
}

/// Names of the variables that the reference calls secret.
fn secrets() -> Vec<String> {
    let reference = stdout(&run(program().args(["check-config", "--print-reference"])));
    let rows = reference.lines().filter(|line| line.starts_with("| `"));
    let columns = rows.map(|line| line.split(" | ").map(str::to_owned).collect::<Vec<_>>());
    columns.filter(|c| c[1].contains("secret")).map(|c| c[0].trim_matches(['|', ' ', '`']).to_owned()).collect()
}

#[test]
fn no_secret_is_printed_whatever_is_wrong_with_it() {
    let secrets = secrets();
    assert!(secrets.len() >= 10, "the reference was read: {secrets:?}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "from-a-file-hunter2\n").unwrap();
    let garbage = |command: &mut Command| {
        for name in &secrets {
            command.env(name, "-----BEGIN GARBAGE hunter2 short");
        }
        // Both forms at once, a file that is none, and a reference that leads nowhere.
        command.env("RUNS_FLEET_GITHUB_WEBHOOK_SECRET_FILE", file.path());
        command.env("RUNS_FLEET_CACHE_SECRET_FILE", "/nonexistent/hunter2");
        command.env("RUNS_FLEET_ADMIN_SESSION_SECRET", "vault://hunter2");
        command.env("RUNS_FLEET_ADMIN_OIDC_ISSUER_URL", "https://issuer.example");
        command.env("VAULT_ADDR", "https://vault.example");
    };
    for mode in ["ec2", "k8s"] {
        for arguments in [
            &["check-config"][..],
            &["check-config", "--strict", "--format", "json"],
            &["check-config", "--format", "json"],
            &["serve"],
        ] {
            let mut command = program();
            garbage(&mut command);
            let output = run(command.args(arguments).env("RUNS_FLEET_MODE", mode));
            let all = text(&output);
            assert_eq!(code(&output), 1, "{all}");
            assert!(all.contains("RUNS_FLEET_GITHUB_APP_PRIVATE_KEY"), "{all}");
            assert!(all.contains("RUNS_FLEET_GITHUB_WEBHOOK_SECRET_FILE"), "{all}");
            for part in ["GARBAGE", "from-a-file", "short", "-----"] {
                assert!(!all.contains(part), "{mode} {arguments:?} prints {part:?} of a secret: {all}");
            }
        }
    }
    // Nor when nothing is wrong.
    for format in ["text", "json"] {
        let output = run(complete(program().args(["check-config", "--format", format])));
        let all = text(&output);
        assert_eq!(code(&output), 0, "{all}");
        assert!(!all.contains(WEBHOOK_SECRET) && !all.contains("PRIVATE KEY"), "{all}");
    }
}

#[test]
fn the_reference_is_a_table() {
    let output = run(program().args(["check-config", "--print-reference"]));
    assert_eq!(code(&output), 0);
    let stdout = stdout(&output);
    let rows: Vec<_> = stdout.lines().filter(|line| line.starts_with("| `")).collect();
    assert!(rows.len() > 150, "{} rows", rows.len());
    for row in rows {
        assert_eq!(row.matches(" | ").count(), 6, "{row}");
    }
    for name in ["RUNS_FLEET_QUEUE_URL", "RUNS_FLEET_LABEL_ALIASES", "RUNS_FLEET_TEST_TIME_DIVISOR"] {
        assert!(stdout.contains(name), "{name}");
    }
}

#[test]
fn wrong_usage_is_exit_code_two() {
    let cases: [&[&str]; 12] = [
        &[],
        &["destroy"],
        &["check-config", "--format", "yaml"],
        &["check-config", "--loud"],
        &["labels"],
        &["labels", "--json", "runs-fleet"],
        &["why"],
        &["why", "the-big-one"],
        &["local", "--parallel", "0"],
        &["local", "--theft", "1.5"],
        &["local", "--exit-when-done"],
        &["serve", "now"],
    ];
    for arguments in cases {
        let output = run(program().args(arguments));
        assert_eq!(code(&output), 2, "{arguments:?}: {}", text(&output));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}: {}", text(&output));
    }
    for arguments in [&["--help"][..], &["--version"], &["local", "--help"]] {
        assert_eq!(code(&run(program().args(arguments))), 0, "{arguments:?}");
    }
}

#[test]
#[cfg(not(feature = "aws"))]
fn serve_refuses_to_start_without_a_cloud_back_end() {
    let output = run(complete(program().arg("serve")));
    let all = text(&output);
    assert_eq!(code(&output), 1, "{all}");
    assert!(all.contains("no back end for RUNS_FLEET_MODE=ec2") && all.contains("runs-fleet-server local"), "{all}");
    assert!(!all.contains(WEBHOOK_SECRET) && !all.contains("PRIVATE KEY"), "{all}");
}

#[test]
#[cfg(feature = "aws")]
fn serve_says_that_aws_does_not_answer() {
    let nobody = format!("http://127.0.0.1:{}", support::free_port());
    let mut serve = program();
    complete(serve.arg("serve"))
        .env("AWS_ENDPOINT_URL", nobody)
        .env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", AWS_SECRET);
    let output = run(&mut serve);
    let all = text(&output);
    assert_eq!(code(&output), 1, "{all}");
    assert!(all.contains("runs-fleet-server: the tables are not as they must be: the store did not answer"), "{all}");
    for secret in [WEBHOOK_SECRET, "PRIVATE KEY", AWS_SECRET] {
        assert!(!all.contains(secret), "{all}");
    }
}

#[test]
fn serve_lists_what_is_missing_like_check_config() {
    let output = run(program().arg("serve"));
    assert_eq!(code(&output), 1);
    assert_eq!(errors(&text(&output)).len(), MISSING.len(), "{}", text(&output));
}

#[test]
#[cfg(target_os = "linux")]
fn a_variable_that_is_not_utf8_is_nobodys_business() {
    use std::os::unix::ffi::OsStrExt;
    let odd = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    for command in ["serve", "check-config"] {
        let output = run(program().arg(command).env("LESSOPEN", odd));
        assert_eq!(errors(&text(&output)).len(), MISSING.len(), "{}", text(&output));
    }
}

/// Feeds lines, returns one parsed line of output for each.
fn labels_of(lines: &[&str], aliases: Option<&str>) -> Vec<Value> {
    let mut command = program();
    command.args(["labels", "--json"]);
    if let Some(aliases) = aliases {
        command.env("RUNS_FLEET_LABEL_ALIASES", aliases);
    }
    let output = run_with_input(&mut command, lines.join("\n").as_bytes());
    assert_eq!(code(&output), 0, "{}", text(&output));
    stdout(&output).lines().map(|line| serde_json::from_str(line).expect("one object per line")).collect()
}

#[test]
fn every_field_of_an_understood_set_is_there() {
    let bare = r#"["self-hosted", "runs-fleet"]"#;
    let full = r#"["runs-fleet=9/cpu=4-8/ram=8.5+16/family=C7G+m7g+c7g/gen=7/arch=ARM64/disk=100/pool=p-1/private=true/public=1/spot=false/region=eu-west-1/env=prod/backend=k8s/nope=1", "Linux"]"#;
    let answers = labels_of(&[bare, full], None);
    assert_eq!(
        answers[0],
        json!({
            "form": "bare", "run_id": "", "original_label": "runs-fleet", "alias_label": "",
            "runner_spec": "2cpu-linux", "os": "linux", "arch": "",
            "cpu_min": 2, "cpu_max": 4, "ram_min": 0.0, "ram_max": 0.0,
            "families": [], "gen": 0, "storage_gib": 0, "pool": "",
            "private": false, "public": false, "spot": true, "region": "", "environment": "", "backend": "",
            "instance_type": "c8g.large",
            "instance_types": [
                "c8g.large", "c7g.large", "c6i.large", "c7i.large",
                "m8g.large", "m7g.large", "m6i.large", "m7i.large", "r8g.large",
                "c8g.xlarge", "c7g.xlarge", "c6i.xlarge", "c7i.xlarge",
                "m8g.xlarge", "m7g.xlarge", "m6i.xlarge", "m7i.xlarge", "r8g.xlarge",
            ],
            "warnings": [],
        })
    );
    assert_eq!(
        answers[1],
        json!({
            "form": "legacy", "run_id": "9", "alias_label": "",
            "original_label": serde_json::from_str::<Vec<String>>(full).unwrap()[0],
            "runner_spec": "4-8cpu-linux-arm64", "os": "linux", "arch": "arm64",
            "cpu_min": 4, "cpu_max": 8, "ram_min": 8.5, "ram_max": 16.0,
            "families": ["C7G", "m7g"], "gen": 7, "storage_gib": 100, "pool": "p-1",
            "private": true, "public": true, "spot": false, "region": "eu-west-1", "environment": "prod",
            "backend": "k8s", "instance_type": "m7g.xlarge",
            "instance_types": ["m7g.xlarge", "c7g.2xlarge"],
            "warnings": ["unknown_key"],
        })
    );
}

#[test]
fn the_edge_cases_of_the_label_grammar() {
    let understood = [
        (
            r#"["runs-fleet=12345/cpu=4+16/ram=8+32/family=c7g+m7g"]"#,
            json!({"run_id": "12345", "cpu_min": 4, "cpu_max": 16, "instance_types":
                ["c7g.xlarge", "m7g.xlarge", "c7g.2xlarge", "m7g.2xlarge", "c7g.4xlarge"]}),
        ),
        (r#"["runs-fleet=cpu=4"]"#, json!({"form": "legacy", "run_id": "cpu=4", "cpu_min": 2, "cpu_max": 4})),
        (r#"["runs-fleet=/cpu=4"]"#, json!({"form": "legacy", "run_id": "", "cpu_min": 4, "cpu_max": 8})),
        (r#"["runs-fleet/cpu=0"]"#, json!({"cpu_min": 2, "cpu_max": 4, "runner_spec": "2cpu-linux"})),
        (r#"["runs-fleet/cpu=0+8"]"#, json!({"cpu_min": 2, "cpu_max": 8, "runner_spec": "2-8cpu-linux"})),
        (r#"["runs-fleet/cpu=4+0"]"#, json!({"cpu_min": 4, "cpu_max": 8, "runner_spec": "4cpu-linux"})),
        (
            r#"["runs-fleet/cpu=1/arch=arm64"]"#,
            json!({"cpu_min": 1, "cpu_max": 2, "instance_type": "c8g.medium", "arch": "arm64"}),
        ),
        (r#"["runs-fleet/arch=sparc"]"#, json!({"arch": "", "warnings": ["unknown_arch"]})),
        (r#"["runs-fleet/pool=__instance_claim:i-0"]"#, json!({"pool": "", "warnings": ["invalid_pool"]})),
        (r#"["runs-fleet/spot=False"]"#, json!({"spot": true, "warnings": ["ambiguous_bool"]})),
        (r#"["runs-fleet/cpu=4/cpu="]"#, json!({"cpu_min": 4, "warnings": ["empty_value"]})),
        (r#"["runs-fleet/cpu=8/cpu=4"]"#, json!({"cpu_min": 4, "warnings": ["duplicate_key"]})),
        (r#"["runs-fleet", "runs-fleet/cpu=16"]"#, json!({"cpu_min": 2, "warnings": ["multiple_markers"]})),
        (
            r#"["runs-fleet/zone=a/fast/env=test"]"#,
            json!({"environment": "", "warnings": ["ignored_segment", "unknown_env", "unknown_key"]}),
        ),
        (
            r#"["runs-fleet=1/runner=2cpu-linux-arm64"]"#,
            json!({"runner_spec": "2cpu-linux-arm64", "arch": "arm64", "cpu_min": 0, "cpu_max": 0,
                "instance_types": ["t4g.medium", "t4g.large"], "warnings": []}),
        ),
        (
            r#"["runs-fleet/runner=2cpu-linux-amd64-x"]"#,
            json!({"instance_type": "t3.medium", "warnings": ["unknown_runner_spec"]}),
        ),
        (
            r#"["runs-fleet/runner=4cpu-windows-amd64"]"#,
            json!({"os": "windows", "instance_types": ["m6i.xlarge", "m7i.xlarge", "c6i.xlarge"]}),
        ),
        (
            r#"["runs-fleet/runner=4cpu-linux-amd64/cpu=8"]"#,
            json!({"runner_spec": "8cpu-linux-amd64", "arch": "amd64", "cpu_min": 8, "cpu_max": 16}),
        ),
    ];
    for (labels, expected) in &understood {
        let answer = &labels_of(&[labels], None)[0];
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(&answer[field], value, "{labels} {field}: {answer}");
        }
    }
    let refused = [
        ("[]", "no_marker"),
        (r#"["runs-fleetish", "runs-fleet-foo", "Runs-Fleet", " runs-fleet"]"#, "no_marker"),
        (r#"["runs-fleet/cpu=8+4"]"#, "invalid_cpu"),
        (r#"["runs-fleet/cpu=-4"]"#, "invalid_cpu"),
        (r#"["runs-fleet/cpu=+4"]"#, "invalid_cpu"),
        (r#"["runs-fleet/cpu=4+"]"#, "invalid_cpu"),
        (r#"["runs-fleet/cpu=4.5"]"#, "invalid_cpu"),
        (r#"["runs-fleet/cpu=99999999999"]"#, "invalid_cpu"),
        (r#"["runs-fleet/cpu=0+1"]"#, "invalid_cpu"),
        (r#"["runs-fleet/ram=NaN"]"#, "invalid_ram"),
        (r#"["runs-fleet/ram=32+8"]"#, "invalid_ram"),
        (r#"["runs-fleet/gen=11"]"#, "invalid_gen"),
        (r#"["runs-fleet/disk=0"]"#, "invalid_disk"),
        (r#"["runs-fleet/disk=16385"]"#, "invalid_disk"),
        (r#"["runs-fleet/disk=+50"]"#, "invalid_disk"),
        (r#"["runs-fleet/backend=EC2"]"#, "invalid_backend"),
        (r#"["runs-fleet/runner=2cpu-windows-amd64/arch=arm64"]"#, "os_conflict"),
        (r#"["runs-fleet/runner=4cpu-linux-amd64/arch=arm64"]"#, "arch_conflict"),
        (r#"["runs-fleet/gen=8/family=t3"]"#, "no_matching_instance"),
        (r#"["runs-fleet/gen=4"]"#, "no_matching_instance"),
        // Of several errors, the first in the order of keys.
        (r#"["runs-fleet/disk=0/gen=0/ram=x/cpu=x"]"#, "invalid_cpu"),
    ];
    let lines: Vec<_> = refused.iter().map(|(labels, _)| *labels).collect();
    for (answer, (labels, category)) in labels_of(&lines, None).iter().zip(refused) {
        assert_eq!(answer, &json!({"error": category, "warnings": []}), "{labels}");
    }
    let long = json!(["runs-fleet", "x".repeat(257)]).to_string();
    assert_eq!(labels_of(&[&long], None)[0]["error"], json!("label_too_long"));
}

#[test]
fn an_alias_serves_a_foreign_label_and_a_marker_wins_over_it() {
    let aliases = r#"[{"match": "ci-([0-9]+)x-(?P<arch>\\w+)$", "regex": true, "spec": "cpu=$1/arch=${arch}"}]"#;
    let lines = [r#"["ci-8x-arm64"]"#, r#"["ci-8x-arm64", "runs-fleet/cpu=2"]"#, r#"["ci-x-arm64"]"#];
    let answers = labels_of(&lines, Some(aliases));
    for (field, value) in
        [("form", "alias"), ("alias_label", "ci-8x-arm64"), ("original_label", "ci-8x-arm64"), ("pool", "ci-8x-arm64")]
    {
        assert_eq!(answers[0][field], json!(value), "{field}");
    }
    assert_eq!((&answers[0]["cpu_min"], &answers[0]["arch"]), (&json!(8), &json!("arm64")));
    assert_eq!((&answers[1]["form"], &answers[1]["cpu_min"]), (&json!("slash"), &json!(2)));
    assert_eq!(answers[2]["error"], json!("no_marker"));
}

#[test]
fn a_line_in_is_a_line_out() {
    let bad = json!({"error": "invalid_input", "warnings": []});
    let lines = [r#"["runs-fleet"]"#, "", "not json", r#"{"labels": []}"#, "[1]", r#"["runs-fleet"] x"#, r#"["x"]"#];
    let answers = labels_of(&lines, None);
    assert_eq!(answers.len(), lines.len());
    assert_eq!(answers[0]["form"], json!("bare"));
    assert_eq!(answers[1..6], [(); 5].map(|()| bad.clone()));
    assert_eq!(answers[6]["error"], json!("no_marker"));

    let output = run_with_input(program().args(["labels", "--json"]), b"[\"\xff\"]\r\n[\"runs-fleet\"]\r\n");
    let stdout = stdout(&output);
    let answers: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((answers.len(), &answers[0], &answers[1]["form"]), (2, &bad, &json!("bare")));
    assert!(run_with_input(program().args(["labels", "--json"]), b"").stdout.is_empty());
}

#[test]
fn labels_are_explained_to_people() {
    let output = run(program().args(["labels", "self-hosted", "runs-fleet/cpu=4/arch=arm64/pool=web/arc=x"]));
    assert_eq!(code(&output), 0);
    let explained = text(&output);
    for part in ["runs-fleet/cpu=4/arch=arm64", "4cpu-linux-arm64", "4 to 8", "web", "c8g.xlarge", "unknown_key"] {
        assert!(explained.contains(part), "{part}: {explained}");
    }
    let output = run(program().args(["labels", "runs-fleet/cpu=x"]));
    assert_eq!(code(&output), 1);
    assert!(text(&output).contains("invalid_cpu"), "{}", text(&output));
}

#[test]
fn why_says_when_there_is_nothing_to_ask() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(program().args(["why", "12", "--dir"]).arg(dir.path()));
    assert_eq!(code(&output), 1, "{}", text(&output));
    assert!(!text(&output).is_empty());
    // With nothing named, the newest run of this machine is asked; there is none.
    let output = run(program().args(["why", "12"]).env("TMPDIR", dir.path()));
    assert_eq!(code(&output), 1);
    assert!(text(&output).contains("--dir"), "{}", text(&output));
    assert!(support::files(dir.path()).is_empty(), "asking creates nothing");
}

#[test]
fn the_health_check_asks_where_the_server_listens() {
    // 127.0.0.2 is this machine too, but only for who asks for it.
    for (bind, listen) in [("127.0.0.1", "0.0.0.0"), ("127.0.0.1", ""), ("127.0.0.2", "127.0.0.2")] {
        for (status, healthy) in [("200 OK", true), ("503 Service Unavailable", false), ("nonsense", false)] {
            let listener = TcpListener::bind((bind, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 512];
                let n = stream.read(&mut request).unwrap();
                write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 3\r\n\r\nOK\n").unwrap();
                String::from_utf8_lossy(&request[..n]).into_owned()
            });
            let output = run(program().arg("healthcheck").env("RUNS_FLEET_LISTEN_ADDR", format!("{listen}:{port}")));
            assert!(server.join().unwrap().starts_with("GET /health HTTP/1.1\r\n"));
            assert_eq!(code(&output), i32::from(!healthy), "{listen} {status}: {}", text(&output));
        }
    }
    let nobody = format!("127.0.0.1:{}", support::free_port());
    let output = run(program().arg("healthcheck").env("RUNS_FLEET_LISTEN_ADDR", nobody));
    assert_eq!(code(&output), 1);
    // Somebody who accepts and says nothing.
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let silent = listener.local_addr().unwrap().to_string();
    assert_eq!(code(&run(program().arg("healthcheck").env("RUNS_FLEET_LISTEN_ADDR", silent))), 1);
}
