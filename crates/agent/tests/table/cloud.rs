//! What AWS and the hand-over's writer may do.

use std::time::Duration;

use domain::clock::{SignedDuration, Timestamp};
use domain::handover::Credential;

use crate::cloud::Instance;
use crate::cloud::weather::Fault::{Drop, Late, Lose, Pass, Refuse};
use crate::{Ends, JIT, Row, SERVE, row};

/// With a runner's log, and a bucket for it in the hand-over.
fn with_logs(name: &'static str, made: bool) -> Row {
    row(name, &format!("mkdir -p _diag; echo w > _diag/Worker_1.log; echo r > _diag/Runner_1.log; {SERVE}")).given(
        move |instance| {
            if made {
                instance.make_bucket(&instance.id);
            }
            let mut document = instance.document();
            document.runner_logs_bucket.clone_from(&instance.id);
            instance.hand_over(&document);
        },
    )
}

/// With a hand-over, and then this.
fn under(name: &'static str, weather: impl Fn(&Instance) + Send + Sync + 'static) -> Row {
    row(name, SERVE).given(move |instance| {
        instance.hand_over(&instance.document());
        weather(instance);
    })
}

/// Nobody comes in time.
fn unused(row: Row) -> Row {
    row.set("RUNS_FLEET_STANDBY_DEADLINE_SECONDS", "1").told(&[])
}

pub(crate) fn rows() -> Vec<Row> {
    let throttled = Refuse(400, "ThrottlingException");
    let denied = Refuse(400, "AccessDeniedException");
    vec![
        // Parameter Store.
        under("SSM throttles", move |instance| instance.weather.next("ssm", &[throttled; 2])),
        under("SSM denies at first", move |instance| instance.weather.next("ssm", &[denied; 3])),
        under("SSM breaks off", |instance| {
            instance.weather.next("ssm", &[Drop, Lose, Refuse(500, "InternalServerError")]);
        }),
        unused(under("SSM denies to the end", move |instance| instance.weather.always("ssm", denied)))
            .given(|instance| {
                instance.metadata.tag("runs-fleet:termination-queue-url", &instance.queue_url);
                instance.weather.always("ssm", Refuse(400, "AccessDeniedException"));
            })
            .told(&["bootstrap_failed"])
            .error("config_invalid: it could not be read before the deadline"),
        unused(row("nobody comes", SERVE).given(|_| {})),
        unused(
            row("a hand-over for another machine", SERVE).document(|document| document.instance_id = "i-2".to_owned()),
        ),
        unused(row("a hand-over of three hours ago", SERVE).document(|document| {
            document.created_at = Some(Timestamp::now() - SignedDuration::from_hours(3));
        })),
        row("a clock that is ahead", SERVE).document(|document| {
            document.created_at = Some(Timestamp::now() + SignedDuration::from_mins(10));
        }),
        row("a clock that is behind", SERVE)
            .set("RUNS_FLEET_PROC_ROOT", "/nowhere")
            .document(|document| document.created_at = Some(Timestamp::now() - SignedDuration::from_mins(10))),
        row("the credential comes later", SERVE)
            .given(|instance| {
                let packed = provider::ssm_layout::pack(&instance.document());
                instance.put("config", &packed.config);
            })
            .act(|instance, _| {
                instance.called("ssm", 3);
                let packed = provider::ssm_layout::pack(&instance.document());
                instance.put("credential", &packed.credential.unwrap());
            }),
        row("halves of two assignments", SERVE)
            .given(|instance| {
                instance.hand_over(&instance.document());
                let mut other = instance.document();
                other.dispatch_id = "another".to_owned();
                instance.put("credential", &provider::ssm_layout::pack(&other).credential.unwrap());
            })
            .act(|instance, _| {
                instance.called("ssm", 3);
                instance.hand_over(&instance.document());
            }),
        row("no document", SERVE)
            .given(|instance| {
                instance.metadata.tag("runs-fleet:termination-queue-url", &instance.queue_url);
                instance.put("config", &format!("{{\"jit_config\": {JIT}"));
            })
            .told(&["bootstrap_failed"])
            .error("config_invalid: "),
        row("a repository that is none", SERVE)
            .document(|document| document.repo = "nonsense".to_owned())
            .told(&["failure"])
            .error("config_invalid: repo must be owner/name"),
        unused(row("no credential", SERVE).document(|document| document.jit_config = Credential::default())),
        row("a job without a number", SERVE)
            .document(|document| document.job_id = String::new())
            .told(&[])
            .check(|_, _, log| assert_eq!(log.matches("telemetry_sent").count(), 2, "{log}")),
        // The queue.
        under("SQS throttles", move |instance| instance.weather.next("sqs", &[throttled, Pass, throttled, throttled])),
        under("SQS loses its answers", |instance| instance.weather.next("sqs", &[Lose, Pass, Lose, Lose])),
        under("SQS is down", |instance| instance.weather.always("sqs", Drop)).told(&[]),
        under("SQS is slow", |instance| instance.weather.always("sqs", Late(Duration::from_millis(300)))),
        row("a queue that does not exist", SERVE)
            .document(|document| document.termination_queue_url.push('x'))
            .told(&[]),
        row("no queue", SERVE)
            .document(|document| document.termination_queue_url = String::new())
            .told(&[])
            .check(|_, _, log| assert!(log.contains("telemetry_skipped"))),
        row("a queue in the metadata", SERVE).given(|instance| {
            instance.metadata.tag("runs-fleet:termination-queue-url", &instance.queue_url);
            let mut document = instance.document();
            document.termination_queue_url = String::new();
            instance.hand_over(&document);
        }),
        // EC2.
        under("EC2 throttles", |instance| instance.weather.next("ec2", &[Refuse(503, "RequestLimitExceeded"); 3])),
        under("EC2 loses its answer", |instance| instance.weather.next("ec2", &[Lose])),
        under("EC2 breaks off", |instance| instance.weather.next("ec2", &[Drop, Drop])),
        under("EC2 denies", |instance| instance.weather.always("ec2", Refuse(403, "UnauthorizedOperation")))
            .ends(Ends::PoweredOff),
        under("EC2 is down", |instance| instance.weather.always("ec2", Drop)).ends(Ends::PoweredOff),
        under("EC2 denies, and the switch is broken", |instance| {
            instance.weather.always("ec2", Refuse(403, "UnauthorizedOperation"));
        })
        .set("RUNS_FLEET_SHUTDOWN_COMMAND", "false")
        .ends(Ends::GivenUp),
        // The metadata.
        under("the metadata come late", |instance| instance.metadata.fail(1)),
        under("the metadata forget their tokens", |_| {}).act(|instance, _| {
            instance.logged("agent_start");
            instance.metadata.forget();
        }),
        under("the metadata fail now and then", |instance| instance.metadata.fail(0))
            .act(|instance, _| instance.metadata.fail(2)),
        under("another store is named", |instance| instance.metadata.tag("runs-fleet:secrets-backend", "elsewhere"))
            .told(&[])
            .ends(Ends::GivenUp),
        row("a spare is assigned", SERVE)
            .set("RUNS_FLEET_STANDBY_FAST_POLLS", "1")
            .set("RUNS_FLEET_STANDBY_SLOW_POLL_MS", "600000")
            .given(|instance| instance.metadata.tag("runs-fleet:pool", "p"))
            .act(|instance, _| {
                instance.called("ssm", 2);
                instance.hand_over(&instance.document());
                instance.metadata.tag("runs-fleet:assigned", "true");
            }),
        // Logs.
        with_logs("logs are kept", true).check(|instance, reports, _| {
            assert_eq!(reports[1].log_upload.as_deref(), Some("uploaded"));
            let at = format!("runner-logs/70/7/{}", instance.id);
            assert_eq!(instance.keys(&instance.id), [format!("{at}/Runner_1.log.gz"), format!("{at}/Worker_1.log.gz")]);
        }),
        with_logs("no such bucket", false)
            .check(|_, reports, _| assert_eq!(reports[1].log_upload.as_deref(), Some("failed"))),
        with_logs("a bucket that takes half", true)
            .act(|instance, _| instance.weather.next("s3", &[Refuse(403, "AccessDenied")]))
            .check(|_, reports, _| assert_eq!(reports[1].log_upload.as_deref(), Some("partial"))),
        with_logs("a bucket that never answers", true)
            .set("RUNS_FLEET_LOG_UPLOAD_TIMEOUT_SECONDS", "1")
            .act(|instance, _| instance.weather.always("s3", Late(Duration::from_secs(5))))
            .check(|_, reports, _| assert_eq!(reports[1].log_upload.as_deref(), Some("failed"))),
    ]
}
