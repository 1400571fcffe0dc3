use super::*;
use crate::registry::find;

fn key(name: &str) -> String {
    std::fs::read_to_string(format!("{}/testdata/{name}.pem", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn parsed(name: &str, raw: &str) -> (Option<Json>, Vec<Code>) {
    let (value, findings) = parse(find(name).unwrap(), raw);
    (value.map(|v| v.shown()), findings.list.into_iter().map(|(code, _)| code).collect())
}

fn ok(name: &str, raw: &str, value: impl Into<Json>) {
    assert_eq!(parsed(name, raw), (Some(value.into()), vec![]), "{name}={raw:?}");
}

fn fails(name: &str, raw: &str, code: Code) {
    let (value, codes) = parsed(name, raw);
    assert_eq!((value, codes.first()), (None, Some(&code)), "{name}={raw:?}");
}

fn warns(name: &str, raw: &str, value: impl Into<Json>, code: Code) {
    assert_eq!(parsed(name, raw), (Some(value.into()), vec![code]), "{name}={raw:?}");
}

#[test]
fn numbers_are_whole_and_within_bounds() {
    let name = "RUNS_FLEET_MAX_RUNTIME_MINUTES";
    for (raw, value) in [("1", 1), ("1440", 1440), (" +60\n", 60), ("0060", 60)] {
        ok(name, raw, value);
    }
    for raw in ["0", "1441", "-5", "99999999999999999999"] {
        fails(name, raw, Code::Range);
    }
    for raw in ["60m", "60.0", "1e2", "0x10", "1_000", "+", "6 0", "٦"] {
        fails(name, raw, Code::Invalid);
    }
    warns("RUNS_FLEET_ADMIN_RATE_LIMIT", "0", 60, Code::WarnDefaulted);
    fails("RUNS_FLEET_ADMIN_RATE_LIMIT", "many", Code::Invalid);
    fails("RUNS_FLEET_RUNNER_IDLE_EXIT_SECONDS", "59", Code::Range);
    ok("RUNS_FLEET_RUNNER_IDLE_EXIT_SECONDS", "0", 0);
    warns("RUNS_FLEET_TEST_TIME_DIVISOR", "20", 20, Code::WarnUnsafe);
    fails("RUNS_FLEET_TEST_TIME_DIVISOR", "101", Code::Range);
}

#[test]
fn decimal_numbers_are_finite() {
    for (raw, value) in [("0.5", 0.5), ("1e-1", 0.1), ("1", 1.0)] {
        ok("OTEL_TRACE_SAMPLING_RATIO", raw, value);
    }
    for raw in ["NaN", "Inf", "infinity", "1,5", ".", "1e", ""] {
        fails("OTEL_TRACE_SAMPLING_RATIO", raw, Code::Invalid);
    }
    fails("OTEL_TRACE_SAMPLING_RATIO", "1.1", Code::Range);
    fails("RUNS_FLEET_COST_ANOMALY_FACTOR", "0.5", Code::Range);
    ok("RUNS_FLEET_COST_ANOMALY_FACTOR", "0", 0.0);
    for raw in ["0", "1.5", "-1"] {
        warns("RUNS_FLEET_METRICS_DATADOG_SAMPLE_RATE", raw, 1.0, Code::WarnDefaulted);
    }
}

#[test]
fn a_boolean_is_one_of_six_words() {
    for raw in ["1", "t", "TRUE", "True"] {
        ok("RUNS_FLEET_SPOT_ENABLED", raw, true);
    }
    for raw in ["0", "F", "false"] {
        ok("RUNS_FLEET_SPOT_ENABLED", raw, false);
    }
    for raw in ["yes", "no", "on", "enabled", "2", "ture"] {
        fails("RUNS_FLEET_SPOT_ENABLED", raw, Code::Invalid);
    }
}

#[test]
fn words_are_spelt_exactly_unless_stated() {
    fails("RUNS_FLEET_MODE", "K8S", Code::Invalid);
    fails("RUNS_FLEET_SECRETS_BACKEND", "Vault", Code::Invalid);
    ok("RUNS_FLEET_LOG_LEVEL", "WARNING", "warning");
    warns("RUNS_FLEET_LOG_LEVEL", "verbose", "info", Code::WarnDefaulted);
    warns("RUNS_FLEET_LOG_FORMAT", "yaml", "json", Code::WarnDefaulted);
    fails("RUNS_FLEET_KUBE_CONTAINER_MODE", "kubernetes", Code::Invalid);
}

#[test]
fn lists_keep_order_and_drop_blanks_and_repetitions() {
    ok("RUNS_FLEET_SUBNET_IDS", " subnet-b, ,subnet-a,subnet-b,", vec!["subnet-b", "subnet-a"]);
    ok("RUNS_FLEET_SUBNET_IDS", " , ,", Json::Array(vec![]));
    warns("RUNS_FLEET_SUBNET_IDS", "sub-1", vec!["sub-1"], Code::WarnFormat);
    warns("RUNS_FLEET_ADMIN_OIDC_SCOPES", "email", vec!["email"], Code::WarnFormat);
    ok("RUNS_FLEET_ALLOWED_REPOS", "o/r,p/*", vec!["o/r", "p/*"]);
    for raw in ["o", "o/", "o/r/x", "*/r", "o/*/x"] {
        fails("RUNS_FLEET_ALLOWED_REPOS", raw, Code::Invalid);
    }
    ok("RUNS_FLEET_KUBE_PRIVATE_EGRESS_CIDRS", "10.0.0.0/8,fd00::/8", vec!["10.0.0.0/8", "fd00::/8"]);
    for raw in ["10.0.0.0", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/+8"] {
        fails("RUNS_FLEET_KUBE_PRIVATE_EGRESS_CIDRS", raw, Code::Invalid);
    }
}

#[test]
fn addresses_have_a_host_and_a_port() {
    for raw in ["127.0.0.1:8125", "[::1]:8125", "agent.local:65535"] {
        ok("RUNS_FLEET_METRICS_DATADOG_ADDR", raw, raw);
    }
    for raw in
        ["::1:8125", "host:0", "host:65536", "host", ":8125", "ho st:1", "http://host:1", "[::1]", "[host]:1", "h:+1"]
    {
        fails("RUNS_FLEET_METRICS_DATADOG_ADDR", raw, Code::Invalid);
    }
    ok("RUNS_FLEET_LISTEN_ADDR", ":8080", "0.0.0.0:8080");
}

#[test]
fn urls_are_absolute_and_encrypted_unless_they_stay_on_this_machine() {
    ok("RUNS_FLEET_BASE_URL", "https://runs.example.com/", "https://runs.example.com");
    for host in ["localhost:3000", "127.0.0.1", "[::1]:1"] {
        let url = format!("http://{host}");
        warns("RUNS_FLEET_BASE_URL", &url, url.clone(), Code::WarnUnsafe);
    }
    for raw in ["http://example.com", "ftp://example.com", "example.com", "https://", "/path", "https:///x y"] {
        fails("RUNS_FLEET_BASE_URL", raw, Code::Invalid);
    }
    warns("VAULT_ADDR", "http://vault:8200", "http://vault:8200", Code::WarnUnsafe);
    ok("VAULT_ADDR", "http://127.0.0.1:8200", "http://127.0.0.1:8200");
    fails("RUNS_FLEET_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/", Code::Invalid);
    ok("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317", "collector:4317");
    ok("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317", "http://collector:4317");
    fails("OTEL_EXPORTER_OTLP_ENDPOINT", "collector", Code::Invalid);
}

#[test]
fn names_of_aws_things_look_like_them() {
    for raw in ["eu-west-1", "us-gov-west-1", "ap-northeast-2"] {
        ok("AWS_REGION", raw, raw);
    }
    for raw in ["EU-west-1", "eu-1", "eu-west-10", "europe"] {
        warns("AWS_REGION", raw, raw, Code::WarnFormat);
    }
    warns("RUNS_FLEET_VPC_ID", "net-1", "net-1", Code::WarnFormat);
    warns("RUNS_FLEET_SECURITY_GROUP_ID", "x", "x", Code::WarnFormat);
    ok("RUNS_FLEET_INSTANCE_PROFILE_ARN", "arn:aws:iam::1:instance-profile/x", "arn:aws:iam::1:instance-profile/x");
    warns("RUNS_FLEET_INSTANCE_PROFILE_ARN", "arn:aws:iam::1:role/x", "arn:aws:iam::1:role/x", Code::WarnFormat);
    let digest = "a".repeat(64);
    for image in [
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com/runner".to_owned(),
        "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/team/runner:v1.2_x".to_owned(),
        format!("123456789012.dkr.ecr.eu-west-1.amazonaws.com/a/b-c:latest@sha256:{digest}"),
    ] {
        ok("RUNS_FLEET_RUNNER_IMAGE", &image, image.clone());
    }
    for image in [
        "docker.io/foo:latest",
        "12345678901.dkr.ecr.eu-west-1.amazonaws.com/runner",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com/Runner",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com/runner:",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com/runner-",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com/runner@sha256:abc",
    ] {
        fails("RUNS_FLEET_RUNNER_IMAGE", image, Code::Invalid);
    }
    ok("RUNS_FLEET_KUBE_RUNNER_IMAGE", "docker.io/foo:latest", "docker.io/foo:latest");
    for raw in ["ab", "a b c", &"x".repeat(124)] {
        fails("RUNS_FLEET_LAUNCH_TEMPLATE_NAME", raw, Code::Invalid);
    }
    for raw in ["ab", "a table", &"x".repeat(256)] {
        fails("RUNS_FLEET_JOBS_TABLE", raw, Code::Invalid);
    }
    ok("RUNS_FLEET_JOBS_TABLE", "arn:aws:dynamodb:eu-west-1:1:table/x", "arn:aws:dynamodb:eu-west-1:1:table/x");
}

#[test]
fn tags_are_bounded_in_characters_and_leave_room_for_ours() {
    let name = "RUNS_FLEET_TAGS";
    let wide = "é".repeat(128);
    ok(name, "{}", serde_json::json!({}));
    ok(name, "null", serde_json::json!({}));
    ok(name, &format!("{{\"{wide}\":\"v\"}}"), serde_json::json!({ wide: "v" }));
    for raw in [
        "[]",
        "{\"a\":1}",
        "{\"\":\"x\"}",
        "{\"AWS:x\":\"\"}",
        "{\"Runs-Fleet:y\":\"\"}",
        "{\"a\":\"b\"} x",
        "{\"a\"",
        &format!("{{\"{}\":\"\"}}", "k".repeat(129)),
        &format!("{{\"k\":\"{}\"}}", "v".repeat(257)),
    ] {
        fails(name, raw, Code::Invalid);
    }
    let many =
        |n: usize| serde_json::json!((0..n).map(|i| (format!("t{i}"), "v".into())).collect::<serde_json::Map<_, _>>());
    ok(name, &many(36).to_string(), many(36));
    let (_, findings) = parse(find(name).unwrap(), &many(37).to_string());
    assert_eq!(findings.list[0].0, Code::Range);
    assert!(findings.list[0].1.contains("36") && findings.list[0].1.contains("50"), "both numbers");
    let (_, findings) = parse(find(name).unwrap(), "{\"b\":\"x\",\"a-name\":7}");
    assert!(findings.list[0].1.contains("tag 2") && !findings.list[0].1.contains("a-name"), "position, not text");
}

#[test]
fn hot_pool_limits_fill_in_and_stay_within_theirs() {
    let name = "RUNS_FLEET_HOT_POOL_CAPS";
    let caps = |hot: u64| {
        serde_json::json!({
            "maxLingerMinutes": 30, "maxHot": hot, "minJobsToActivate": 20, "lookbackDays": 7, "burstGapMinutes": 20
        })
    };
    ok(name, "{}", caps(3));
    ok(name, "{\"maxHot\":0}", caps(3));
    ok(name, "{\"maxHot\":10}", caps(10));
    fails(name, "{\"maxHot\":11}", Code::Range);
    for raw in ["{\"maxLinger\":5}", "{\"maxHot\":-1}", "{\"maxHot\":1.5}", "{\"maxHot\":\"3\"}", "[]"] {
        fails(name, raw, Code::Invalid);
    }
}

#[test]
fn aliases_have_the_shape_of_rules() {
    let name = "RUNS_FLEET_LABEL_ALIASES";
    ok(name, "[]", Json::Array(vec![]));
    ok(name, "null", Json::Array(vec![]));
    let rule = serde_json::json!([{ "match": "big", "spec": "cpu=8" }]);
    ok(name, &rule.to_string(), rule);
    for raw in [
        "{}",
        "[1]",
        "[{\"match\":\" \",\"spec\":\"cpu=1\"}]",
        "[{\"match\":\"x\"}]",
        "[{\"match\":\"x\",\"spec\":\"y\",\"regex\":1}]",
    ] {
        fails(name, raw, Code::Invalid);
    }
    let (_, findings) = parse(find(name).unwrap(), "[{\"match\":\"a\",\"spec\":\"b\"},{\"match\":\"x\"}]");
    assert!(findings.list[0].1.starts_with("rule 1:"), "rules are counted from zero");
    let (value, codes) = parsed(name, "[{\"match\":\"a\",\"spec\":\"b\",\"pool\":\"x\"}]");
    assert!(value.is_some());
    assert_eq!(codes, [Code::WarnUnknown]);
}

#[test]
fn kubernetes_values_are_what_the_api_server_takes() {
    let long = "x".repeat(64);
    for raw in ["disk=ssd", "example.com/disk=", "a=b,c=d"] {
        assert!(parsed("RUNS_FLEET_KUBE_NODE_SELECTOR", raw).1.is_empty(), "{raw}");
    }
    for raw in
        ["disk", "=ssd", "/disk=ssd", "-a=b", "a=-b", "Ex/a=b", "ä=b", &format!("{long}=v"), &format!("k={long}")]
    {
        fails("RUNS_FLEET_KUBE_NODE_SELECTOR", raw, Code::Invalid);
    }
    for raw in [
        "[]",
        "[{\"key\":\"a\",\"operator\":\"Exists\",\"effect\":\"NoExecute\",\"tolerationSeconds\":5}]",
        "[{\"operator\":\"Exists\"}]",
        "[{\"key\":\"a\",\"value\":\"b\"}]",
    ] {
        assert!(parsed("RUNS_FLEET_KUBE_TOLERATIONS", raw).1.is_empty(), "{raw}");
    }
    for raw in [
        "{}",
        "[1]",
        "[{\"key\":\"a\",\"operator\":\"exists\"}]",
        "[{\"key\":\"a\",\"effect\":\"Never\"}]",
        "[{\"key\":\"a\",\"operator\":\"Exists\",\"value\":\"x\"}]",
        "[{\"value\":\"x\"}]",
        "[{\"key\":\"a\",\"effect\":\"NoSchedule\",\"tolerationSeconds\":5}]",
        "[{\"key\":\"a\",\"seconds\":5}]",
        "[{\"key\":7}]",
    ] {
        fails("RUNS_FLEET_KUBE_TOLERATIONS", raw, Code::Invalid);
    }
    for raw in ["{\"app\":\"x\"}", "{\"App\":\"x\"}", "{\"Kubernetes.io/x\":\"\"}", "{\"a\":\"b c\"}", "{\"a\":1}"] {
        fails("RUNS_FLEET_KUBE_RESOURCE_LABELS", raw, Code::Invalid);
    }
    ok("RUNS_FLEET_KUBE_RESOURCE_LABELS", "{\"team\":\"ci\"}", serde_json::json!({ "team": "ci" }));
    for raw in ["", "UPPER", "-a", "a.b", &long] {
        fails("RUNS_FLEET_KUBE_NAMESPACE", raw, Code::Invalid);
    }
    warns("RUNS_FLEET_KUBE_IDLE_TIMEOUT_MINUTES", "-1", 10, Code::WarnDefaulted);
}

#[test]
fn paths_and_zones() {
    for raw in ["metrics", "/a?b", "/webhook", "/health", "/api/x", "/admin/metrics", "/twirp"] {
        fails("RUNS_FLEET_METRICS_PROMETHEUS_PATH", raw, Code::Invalid);
    }
    ok("RUNS_FLEET_METRICS_PROMETHEUS_PATH", "/healthy", "/healthy");
    for raw in
        ["relative", "/etc/passwd", "/var/run/secrets", "/var/run/secrets/../../etc/passwd", "/var/run/secrets/a/.."]
    {
        fails("VAULT_K8S_JWT_PATH", raw, Code::Invalid);
    }
    ok("VAULT_K8S_JWT_PATH", "/var/run/./secrets/x", "/var/run/./secrets/x");
    ok("RUNS_FLEET_SECRETS_PATH_PREFIX", "/a/b/", "/a/b");
    fails("RUNS_FLEET_SECRETS_PATH_PREFIX", "a/b", Code::Invalid);
    ok("VAULT_BASE_PATH", "/a/b/", "a/b");
    fails("RUNS_FLEET_CONFIG_PATH", "a/../b", Code::Invalid);
    fails("RUNS_FLEET_CACHE_DIR", "cache", Code::Invalid);
    fails("RUNS_FLEET_REPORT_TIMEZONE", "Asia/Soul", Code::Invalid);
    for raw in ["UTC", "Asia/Seoul", "Europe/Berlin"] {
        ok("RUNS_FLEET_REPORT_TIMEZONE", raw, raw);
    }
}

#[test]
fn the_key_is_taken_in_all_three_forms() {
    use base64::Engine as _;
    use secrecy::ExposeSecret as _;
    for name in ["rsa-2048-pkcs1", "rsa-2048-pkcs8"] {
        let pem = key(name);
        let packed = base64::engine::general_purpose::STANDARD.encode(&pem);
        let folded = packed.as_bytes().chunks(76).map(|c| str::from_utf8(c).unwrap()).collect::<Vec<_>>().join("\n");
        for text in [pem.clone(), pem.trim_end().replace('\n', "\\n"), pem.replace('\n', "\r\n"), packed, folded] {
            let read = pem::read(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(read.expose_secret().lines().collect::<Vec<_>>(), pem.lines().collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_key_that_cannot_be_used_is_refused_with_its_reason_only() {
    let text = |name: &str| key(name);
    for (text, reason) in [
        (text("rsa-1024"), "too_short"),
        (text("ec"), "wrong_key_type"),
        (text("ec-sec1"), "wrong_key_type"),
        (text("ed25519"), "wrong_key_type"),
        (text("rsa-public"), "wrong_key_type"),
        (text("encrypted-pkcs1"), "encrypted"),
        (text("encrypted-pkcs8"), "encrypted"),
        ("-----BEGIN GARBAGE".into(), "not_pem"),
        ("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----".into(), "not_pem"),
        ("aGVsbG8gd29ybGQ=".into(), "not_pem"),
        ("certainly not base64!".into(), "not_base64"),
    ] {
        let (value, findings) = parse(find("RUNS_FLEET_GITHUB_APP_PRIVATE_KEY").unwrap(), &text);
        assert!(value.is_none());
        let [(Code::Invalid, message)] = &findings.list[..] else { panic!("{reason}: {findings:?}") };
        assert!(message.contains(reason), "{reason}: {message}");
        assert!(!message.contains("BEGIN") && !message.contains("GARBAGE"), "{message}");
    }
}

#[test]
fn references_have_their_forms() {
    for (text, scheme) in [
        ("aws-ssm:///runs-fleet/webhook", "aws-ssm"),
        ("aws-sm://arn:aws:secretsmanager:eu-west-1:1:secret:x#key", "aws-sm"),
        ("aws-sm://name", "aws-sm"),
        ("vault://secret/runs-fleet#webhook", "vault"),
    ] {
        let Some(Ok(reference)) = Reference::parse(text) else { panic!("{text}") };
        assert_eq!(reference.scheme(), scheme);
        assert_eq!(format!("{reference:?}"), format!("{scheme}://…"), "names of secrets are not printed");
    }
    for text in
        ["aws-ssm://path", "aws-ssm:///", "aws-sm://", "aws-sm://x#", "vault://secret#f", "vault://a/b", "vault:///b#c"]
    {
        assert!(matches!(Reference::parse(text), Some(Err(_))), "{text}");
        fails("RUNS_FLEET_CACHE_SECRET", text, Code::Invalid);
    }
    assert!(Reference::parse("a plain secret").is_none());
}

#[test]
fn only_a_trailing_newline_is_taken_from_a_secret() {
    use secrecy::ExposeSecret as _;
    for (raw, secret) in [(" s3cret \n", " s3cret "), ("s3cret\r\n", "s3cret"), ("s3cret\n\n", "s3cret\n")] {
        let (Some(Value::Secret(value)), _) = parse(find("RUNS_FLEET_CACHE_SECRET").unwrap(), raw) else { panic!() };
        assert_eq!(value.expose_secret(), secret);
    }
}

#[test]
fn a_quoted_value_is_short_printable_and_without_credentials() {
    assert_eq!(quote("a\n\u{7}b"), "\"a\\n\\u{7}b\"");
    assert_eq!(quote(&"é".repeat(81)), format!("\"{}…\"", "é".repeat(80)));
    assert_eq!(quote("ftp://user:pass@host/x@y"), "\"ftp://<redacted>@host/x@y\"");
}
