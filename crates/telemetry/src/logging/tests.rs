use super::*;
use domain::clock::SystemClock;
use std::io::Write;
use std::time::Duration;

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn config(format: Format) -> LogConfig {
    LogConfig {
        level: Level::INFO,
        format,
        host: "host-1".into(),
        replica_id: "replica-1".into(),
        version: "1.2.3".into(),
    }
}

/// What was written while `work` ran.
fn logged(format: Format, secrets: &[&str], work: impl FnOnce()) -> Vec<String> {
    let redactor = Redactor::new(Arc::new(SystemClock));
    for secret in secrets {
        redactor.register(secret, None);
    }
    let memory = Memory::default();
    let (layer, guard) = layer(config(format), redactor, Arc::new(SystemClock), Metrics::new(), memory.clone());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
    drop(guard);
    let bytes = memory.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
}

fn parsed(lines: &[String]) -> Vec<Value> {
    lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[test]
fn a_line_is_one_json_object_with_the_fields_of_all_spans() {
    let lines = logged(Format::Json, &[], || {
        let task = tracing::info_span!(target: "dispatch::attempt", "attempt", job_id = 7, repo = "o/r", instance_id = tracing::field::Empty);
        let _in_task = task.enter();
        task.record("instance_id", "i-0123456789abcdef0");
        let _inner = tracing::info_span!(target: "dispatch::attempt", "bind", job_id = 8, attempt = 2_u64).entered();
        let error = std::io::Error::other("line one\nline two");
        tracing::info!(
            target: "dispatch::attempt", event = "job_claimed", duration_ms = 12, spot = true, share = 0.5,
            error = &error as &(dyn std::error::Error + 'static), "a job was claimed"
        );
    });
    let [line] = &parsed(&lines)[..] else { panic!("one line: {lines:?}") };
    for (name, value) in [
        ("level", Value::from("INFO")),
        ("msg", "a job was claimed".into()),
        ("event", "job_claimed".into()),
        ("host", "host-1".into()),
        ("replica_id", "replica-1".into()),
        ("version", "1.2.3".into()),
        ("log_type", "queue".into()),
        ("component", "dispatch::attempt".into()),
        ("job_id", 8.into()),
        ("repo", "o/r".into()),
        ("instance_id", "i-0123456789abcdef0".into()),
        ("attempt", 2.into()),
        ("duration_ms", 12.into()),
        ("spot", true.into()),
        ("share", 0.5.into()),
        ("error", "line one\nline two".into()),
    ] {
        assert_eq!(line[name], value, "{name}");
    }
    let time = line["time"].as_str().unwrap();
    assert!(time.ends_with('Z') && time.len() == "2026-01-02T03:04:05.678Z".len(), "{time}");
    time.parse::<Timestamp>().unwrap();
    assert!(line.get("message").is_none());
    assert!(lines[0].starts_with("{\"time\":"), "time first, for people who read raw lines");
}

#[test]
fn levels_apply_to_our_crates_and_strangers_speak_up_only_for_warnings() {
    let lines = logged(Format::Json, &[], || {
        tracing::debug!(target: "db::sqlite", "too detailed");
        tracing::info!(target: "db::sqlite", "ours");
        tracing::info!(target: "hyper::client", "theirs");
        tracing::warn!(target: "hyper::client", "theirs, worrying");
        tracing::error!(target: "rustls", "theirs, worse");
    });
    let messages: Vec<_> = parsed(&lines).iter().map(|l| format!("{}/{}", l["msg"], l["log_type"])).collect();
    assert_eq!(messages, [r#""ours"/"db""#, r#""theirs, worrying"/"stdlib""#, r#""theirs, worse"/"stdlib""#]);
}

#[test]
fn no_secret_reaches_a_line_by_any_way() {
    let known = "S3cret-value\n\"with\\quotes";
    let digits = "8675309867530";
    for format in [Format::Json, Format::Text] {
        let lines = logged(format, &[known, digits], || {
            let _span = tracing::info_span!(target: "server", "task", token = known).entered();
            let error = std::io::Error::other(format!("the body was {known}"));
            let value = ("debug", known);
            tracing::info!(target: "server", text = known, "a field");
            tracing::info!(target: "server", debug = ?value, "a debug print");
            tracing::info!(target: "server", error = &error as &(dyn std::error::Error + 'static), "an error");
            tracing::info!(target: "server", number = 8_675_309_867_530_u64, "a number");
            tracing::info!(target: "server", "a message with {known}");
            tracing::info!(target: "server", header = "Bearer abcdefgh", url = "https://x/?X-Amz-Signature=feed", "forms");
            let long = format!("{}{known}{}", "x".repeat(MAX_LINE - 9), "y".repeat(4000));
            tracing::info!(target: "server", long, "cut in the middle of it");
        });
        assert_eq!(lines.len(), 7);
        let all = lines.join("\n");
        for leak in ["S3cret", "with\\", "8675309867530", "abcdefgh", "feed"] {
            assert!(!all.contains(leak), "{leak} in {all}");
        }
        assert!(all.matches("<redacted:known>").count() >= 11, "{all}");
        if format == Format::Json {
            parsed(&lines);
        }
    }
}

#[test]
fn a_line_never_exceeds_its_bound_and_says_what_was_cut() {
    let lines = logged(Format::Json, &[], || {
        tracing::info!(target: "server", body = "é\u{1}".repeat(20_000), short = "kept", "one long field");
        tracing::info!(target: "server", a = "a".repeat(16_000), b = "b".repeat(16_000), "two long fields");
        let spans: Vec<_> = (0..300)
            .map(|_| tracing::info_span!(target: "server", "deep", field = "z".repeat(100)).entered())
            .collect();
        tracing::info!(target: "server", "nested");
        for span in spans.into_iter().rev() {
            drop(span);
        }
    });
    for line in &lines {
        assert!(line.len() < MAX_LINE, "{}", line.len());
    }
    let lines = parsed(&lines);
    let body = lines[0]["body"].as_str().unwrap();
    let kept = body.chars().take_while(|c| matches!(c, 'é' | '\u{1}')).map(char::len_utf8).sum::<usize>();
    assert!(body.ends_with(" bytes)") && kept > 1000, "{body}");
    assert_eq!(lines[0]["short"], "kept");
    for field in ["a", "b"] {
        assert!(lines[1][field].as_str().unwrap().len() > 4000, "both keep something");
    }
}

#[test]
fn the_same_warning_is_written_once_a_minute_with_the_number_of_its_repetitions() {
    struct Stepping(Mutex<Timestamp>);
    impl Clock for Stepping {
        fn now(&self) -> Timestamp {
            *self.0.lock().unwrap()
        }
    }
    let clock = Arc::new(Stepping(Mutex::new(Timestamp::UNIX_EPOCH)));
    let memory = Memory::default();
    let redactor = Redactor::new(clock.clone());
    let (layer, guard) = layer(config(Format::Json), redactor, clock.clone(), Metrics::new(), memory.clone());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        let warn = |n: u32| tracing::warn!(target: "db", n, "degraded");
        for _ in 0..5 {
            warn(1);
        }
        warn(2);
        *clock.0.lock().unwrap() = domain::clock::after(Timestamp::UNIX_EPOCH, Duration::from_secs(60));
        warn(1);
        for _ in 0..3 {
            tracing::error!(target: "db", "an error is never suppressed");
        }
    });
    drop(guard);
    let text = String::from_utf8(memory.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let warned: Vec<_> = lines
        .iter()
        .filter(|l| l["level"] == "WARN")
        .map(|l| (l["n"].as_u64(), l["suppressed_count"].as_u64()))
        .collect();
    assert_eq!(warned, [(Some(1), None), (Some(2), None), (Some(1), Some(4))]);
    assert_eq!(lines.len(), 6);
}

#[test]
fn a_stuck_writer_costs_details_first_and_never_the_caller() {
    struct Stuck(Arc<Mutex<()>>, Memory);
    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _free = self.0.lock().unwrap();
            self.1.write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (gate, memory, metrics) = (Arc::new(Mutex::new(())), Memory::default(), Metrics::new());
    let redactor = Redactor::new(Arc::new(SystemClock));
    let stuck = Stuck(gate.clone(), memory.clone());
    let (layer, guard) = layer(config(Format::Json), redactor, Arc::new(SystemClock), metrics.clone(), stuck);
    let held = gate.lock().unwrap();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        // The writer may hold one batch in its hands; all that comes then goes to the queue, and over.
        for n in 0..2 * QUEUE + 100 {
            tracing::info!(target: "server", n, "detail");
        }
        tracing::error!(target: "server", "waits, then gives up");
        drop(held);
        tracing::error!(target: "server", "finds room");
    });
    drop(guard);
    let text = String::from_utf8(memory.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("finds room"));
    let written = text.lines().count();
    let line =
        metrics.render().lines().find(|l| l.starts_with("runs_fleet_log_events_dropped_total")).map(str::to_owned);
    let dropped: usize = line.and_then(|l| l.rsplit(' ').next()?.parse().ok()).unwrap();
    assert_eq!(written + dropped, 2 * QUEUE + 102, "every line is either written or counted");
    assert!(dropped >= 100);
}
