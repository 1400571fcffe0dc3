//! What may be done to an agent: signals, and EC2's wish to have its machine back.

use domain::handover::Credential;
use rustix::process::Signal;

use crate::cloud::Instance;
use crate::machine::{program, signal};
use crate::{Ends, HANG, REGISTRATION, Row, SERVE, row};

/// A runner that obeys a signal.
const OBEDIENT: &str = "trap 'exit 3' TERM; echo 'Listening for Jobs'; echo 'Running job: x'; echo $$ > $FAKE_DIR/up
                        while :; do sleep 0.05; done";

fn deaf() -> String {
    format!("trap '' TERM; {HANG}")
}

/// A runner that serves once it is let go.
fn held() -> String {
    format!("while [ ! -e $FAKE_DIR/go ]; do sleep 0.02; done; {SERVE}")
}

fn let_go(instance: &Instance) {
    std::fs::write(instance.machine.path("seen/go"), "").unwrap();
}

fn up(instance: &Instance) {
    instance.machine.seen("up");
}

/// A runner whose `config.sh` does not end.
fn registering(name: &'static str) -> Row {
    row(name, SERVE)
        .given(|instance| {
            program(&instance.machine.path("machine/runner/config.sh"), "echo $$ > $FAKE_DIR/up; exec sleep 1000");
            let mut document = instance.document();
            document.jit_config = Credential::default();
            document.jit_token = Credential::new(REGISTRATION);
            instance.hand_over(&document);
        })
        .told(&["interrupted"])
        .runner_code(-1)
}

pub(crate) fn rows() -> Vec<Row> {
    let interrupted = ["started", "interrupted"];
    vec![
        row("SIGTERM", OBEDIENT)
            .act(|instance, agent| {
                up(instance);
                signal(agent, Signal::TERM);
            })
            .told(&interrupted)
            .runner_code(3)
            .by("terminated"),
        row("SIGINT", OBEDIENT)
            .act(|instance, agent| {
                up(instance);
                signal(agent, Signal::INT);
            })
            .told(&interrupted)
            .runner_code(3)
            .by("interrupt"),
        row("SIGTERM to a deaf runner", &deaf())
            .set("RUNS_FLEET_GRACEFUL_SHUTDOWN_SECONDS", "1")
            .act(|instance, agent| {
                up(instance);
                signal(agent, Signal::TERM);
            })
            .told(&interrupted)
            .runner_code(-1)
            .error("killed after timeout")
            .by("terminated"),
        row("two SIGTERM", &deaf())
            .act(|instance, agent| {
                up(instance);
                signal(agent, Signal::TERM);
                instance.logged("stop_requested");
                signal(agent, Signal::TERM);
            })
            .told(&interrupted)
            .runner_code(-1)
            .error("killed after timeout")
            .by("terminated"),
        row("SIGTERM, and its log is kept", OBEDIENT)
            .given(|instance| {
                instance.make_bucket(&instance.id);
                let mut document = instance.document();
                document.runner_logs_bucket.clone_from(&instance.id);
                instance.hand_over(&document);
            })
            .act(|instance, agent| {
                up(instance);
                signal(agent, Signal::TERM);
            })
            .told(&interrupted)
            .by("terminated")
            .check(|instance, reports, _| {
                assert_eq!(reports[1].log_upload.as_deref(), Some("skipped"));
                assert_eq!(instance.keys(&instance.id), [format!("runner-logs/70/7/{}/Agent.log.gz", instance.id)]);
            }),
        row("SIGTERM while nobody came", SERVE)
            .given(|_| {})
            .act(|instance, agent| {
                instance.called("ssm", 2);
                signal(agent, Signal::TERM);
            })
            .told(&[])
            .ends(Ends::Spared),
        row("SIGINT while nobody came", SERVE)
            .given(|_| {})
            .act(|instance, agent| {
                instance.called("ssm", 1);
                signal(agent, Signal::INT);
            })
            .told(&[])
            .ends(Ends::Spared),
        registering("SIGTERM while registering").by("terminated").act(|instance, agent| {
            up(instance);
            signal(agent, Signal::TERM);
        }),
        row("SIGTERM while the report is sent", SERVE)
            .given(|instance| {
                instance.hand_over(&instance.document());
                instance
                    .weather
                    .always("sqs", crate::cloud::weather::Fault::Late(std::time::Duration::from_millis(300)));
            })
            .act(|instance, agent| {
                instance.logged("runner_exit");
                signal(agent, Signal::TERM);
            }),
        row("a reclaim, and the job is quicker", &held())
            .act(|instance, _| {
                instance.logged("runner_spawned");
                instance.metadata.reclaim_in(119);
                instance.logged("spot_notice");
                let_go(instance);
            })
            .check(|_, reports, _| assert!(reports[1].spot_notice_at.is_some())),
        row("a reclaim", OBEDIENT)
            .act(|instance, _| {
                up(instance);
                instance.metadata.reclaim_in(60);
            })
            .told(&interrupted)
            .runner_code(3)
            .by("spot_interruption")
            .check(|_, reports, _| assert!(reports[1].spot_notice_at.is_some())),
        row("a reclaim of a deaf runner", &deaf())
            .act(|instance, _| {
                up(instance);
                // What is left of the two minutes is not enough for any grace.
                instance.metadata.reclaim_in(26);
            })
            .told(&interrupted)
            .runner_code(-1)
            .error("killed after timeout")
            .by("spot_interruption"),
        row("a reclaim before the hand-over", SERVE)
            .given(|instance| instance.metadata.reclaim_in(90))
            .act(|instance, _| {
                instance.logged("spot_notice");
                instance.hand_over(&instance.document());
            })
            .told(&["interrupted"])
            .runner_code(-1)
            .error("spot notice before start")
            .by("spot_interruption"),
        registering("a reclaim while registering").error("spot notice before start").by("spot_interruption").act(
            |instance, _| {
                up(instance);
                instance.metadata.reclaim_in(100);
            },
        ),
        row("a reclaim in no known words", &held())
            .act(|instance, _| {
                instance.logged("runner_spawned");
                instance.metadata.say("meta-data/spot/instance-action", "soon");
                instance.logged("spot_notice");
                let_go(instance);
            })
            .check(|_, reports, log| {
                assert!(reports[1].spot_notice_at.is_some());
                assert_eq!(log.matches("\"spot_notice\"").count(), 1, "said once");
            }),
        row("a recommendation to rebalance", &held())
            .given(|instance| {
                instance.metadata.say("meta-data/events/recommendations/rebalance", "{\"noticeTime\":\"x\"}");
                instance.hand_over(&instance.document());
            })
            .act(|instance, _| {
                instance.logged("rebalance_notice");
                let_go(instance);
            })
            .check(|_, reports, log| {
                assert_eq!(reports[1].spot_notice_at, None);
                assert_eq!(log.matches("rebalance_notice").count(), 1);
            }),
        row("SIGTERM, then a reclaim", OBEDIENT)
            .act(|instance, agent| {
                up(instance);
                signal(agent, Signal::TERM);
                instance.metadata.reclaim_in(100);
            })
            .told(&interrupted)
            .runner_code(3)
            .by("terminated"),
    ]
}
