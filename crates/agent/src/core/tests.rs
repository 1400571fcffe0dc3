use std::time::Duration;

use domain::clock::Timestamp;
use domain::handover::Credential;
use domain::ids::JobId;
use domain::report::{AgentReport, AgentStatus};
use proptest::prelude::*;

use super::verdict::{Cause, Facts, verdict};
use super::{Action, Agent, Assignment, Evidence, Exit, Input, Limits, Moment, Phase, Resource, Signal};

const GRACE: Duration = Duration::from_secs(90);
const CEILING: Duration = Duration::from_secs(3_600);
const PICKUP: Duration = Duration::from_secs(600);

fn at(seconds: u64) -> Moment {
    Moment {
        elapsed: Duration::from_secs(seconds),
        wall: Timestamp::from_second(1_700_000_000 + i64::try_from(seconds).unwrap()).unwrap(),
    }
}

fn assignment() -> Assignment {
    Assignment {
        job: JobId::new(7),
        run: "70".to_owned(),
        dispatch: Some("d".into()),
        token: Credential::new("proof"),
        max_runtime: None,
        idle_exit: None,
    }
}

fn agent() -> Agent {
    Agent::new("i-1".into(), Limits { grace: GRACE, max_runtime: CEILING, pickup: PICKUP })
}

fn ready() -> Input {
    Input::Prepared {
        version: Some("2.330.0".to_owned()),
        runner: Duration::from_secs(1),
        register: Duration::from_millis(500),
    }
}

/// An agent that found its hand-over at second 2 and spawned `run.sh` at second 4.
fn running() -> Agent {
    let mut agent = agent();
    assert_eq!(agent.handle(at(2), Input::Found(Box::new(assignment()))), [Action::Prepare]);
    assert_eq!(agent.handle(at(4), ready()), [Action::Spawn]);
    assert_eq!(agent.handle(at(4), Input::Spawned), []);
    assert_eq!(agent.phase(), Phase::Running);
    agent
}

fn report_of(actions: &[Action]) -> AgentReport {
    match actions {
        [.., Action::Finish { report: Some(report), code: 0, spare_machine: false, .. }] => (**report).clone(),
        other => panic!("no completion in {other:?}"),
    }
}

fn only_report(actions: &[Action]) -> AgentReport {
    match actions {
        [Action::Report(report)] => (**report).clone(),
        other => panic!("not one report: {other:?}"),
    }
}

#[test]
fn the_result_table() {
    let plain = Facts::default();
    let completed = Facts { received: true, completed: true, ..plain };
    let received = Facts { received: true, ..plain };
    let failed = |code| Facts { listener_failure: Some(code), ..plain };
    let stopped = |cause, killed| Facts { stop: Some((cause, killed)), ..plain };
    let stopped_late = |cause| Facts { stop: Some((cause, false)), ..received };
    let term = Cause::Signal(Signal::Terminate);
    let int = Cause::Signal(Signal::Interrupt);
    let ceiling = Cause::Ceiling(Duration::from_secs(3_600));
    let odd_ceiling = Cause::Ceiling(Duration::from_secs(90));
    let idle = Cause::NoJob(Duration::from_secs(600));
    use AgentStatus::{Failure, Interrupted, Success, Timeout};
    let code = Exit::Code;
    let rows = [
        (code(0), plain, Success, 0, None, None),
        (code(0), completed, Success, 0, None, None),
        (code(0), Facts { listener_failure: Some(1), ..completed }, Success, 0, None, None),
        (code(0), failed(1), Failure, 1, Some("listener_error: terminated"), None),
        (code(0), failed(5), Failure, 5, Some("listener_error: session_conflict"), None),
        (code(0), failed(9), Failure, 9, Some("listener_error: code 9"), None),
        (
            code(0),
            Facts { listener_failure: Some(5), ..received },
            Failure,
            5,
            Some("listener_error: session_conflict"),
            None,
        ),
        (code(7), plain, Failure, 7, Some("runner_version_deprecated"), None),
        (code(42), plain, Failure, 42, None, None),
        (code(42), completed, Failure, 42, None, None),
        (Exit::Signal(9), plain, Failure, -1, Some("runner killed by signal 9"), None),
        (Exit::Unknown("lost".to_owned()), plain, Failure, -1, Some("execution_failed: lost"), None),
        (code(0), stopped(term, false), Interrupted, 0, None, Some("terminated")),
        (code(3), stopped(int, false), Interrupted, 3, None, Some("interrupt")),
        (Exit::Signal(15), stopped(term, false), Interrupted, -1, None, Some("terminated")),
        (Exit::Signal(9), stopped(term, true), Interrupted, -1, Some("killed after timeout"), Some("terminated")),
        (code(0), stopped(term, true), Interrupted, -1, Some("killed after timeout"), Some("terminated")),
        (code(0), stopped(ceiling, false), Timeout, -1, Some("max runtime 60m exceeded"), None),
        (Exit::Signal(9), stopped(ceiling, true), Timeout, -1, Some("max runtime 60m exceeded"), None),
        (code(0), stopped(odd_ceiling, false), Timeout, -1, Some("max runtime 90s exceeded"), None),
        (code(0), stopped(idle, false), Failure, -1, Some("no_job_received: listening for 600 s without a job"), None),
        (code(0), stopped_late(idle), Interrupted, 0, None, Some("terminated")),
    ];
    for (exit, facts, status, exit_code, error, by) in rows {
        let found = verdict(&exit, facts);
        let found = (found.status, found.exit_code, found.error.as_deref(), found.interrupted_by);
        assert_eq!(found, (status, exit_code, error, by), "{exit:?} {facts:?}");
    }
}

#[test]
fn a_served_job_is_reported_twice_with_its_times() {
    let mut agent = running();
    let started = only_report(&agent.handle(at(6), Input::Seen(Evidence::Listening)));
    assert_eq!(started.status, AgentStatus::Started);
    assert_eq!(started.started_at, Some(at(6).wall));
    assert_eq!(started.completed_at, None);
    assert_eq!(started.runner_listening_seconds, Some(4.0));
    assert_eq!(started.token, Some(Credential::new("proof")));
    let bootstrap = started.bootstrap;
    assert_eq!(
        (bootstrap.boot, bootstrap.config, bootstrap.runner, bootstrap.register, bootstrap.total),
        (None, Some(2.0), Some(1.0), Some(0.5), Some(2.0)),
        "what was not measured is absent"
    );
    assert_eq!(agent.handle(at(7), Input::Seen(Evidence::JobReceived)), []);
    assert_eq!(agent.handle(at(60), Input::Seen(Evidence::JobCompleted)), []);
    let completion = report_of(&agent.handle(at(64), Input::Exited(Exit::Code(0))));
    assert_eq!(completion.status, AgentStatus::Success);
    assert_eq!(completion.started_at, Some(at(4).wall));
    assert_eq!(completion.completed_at, Some(at(64).wall));
    assert_eq!(completion.duration_seconds, 60);
    assert_eq!(completion.job_id, JobId::new(7));
    assert_eq!(completion.run_id.as_deref(), Some("70"));
    assert_eq!(completion.runner_version.as_deref(), Some("2.330.0"));
    assert_eq!(completion.job_received, Some(true));
    assert_eq!(completion.job_pickup_seconds, Some(5.0));
    assert_eq!(agent.phase(), Phase::Over);
}

#[test]
fn started_is_confirmed_by_time_or_by_success_and_by_nothing_else() {
    let mut silent = running();
    assert_eq!(silent.next_wake(), Some(Duration::from_secs(14)));
    assert_eq!(silent.handle(at(13), Input::Tick), []);
    assert_eq!(only_report(&silent.handle(at(14), Input::Tick)).status, AgentStatus::Started);
    assert_eq!(silent.handle(at(15), Input::Seen(Evidence::Listening)), [], "only once");

    let ended = running().handle(at(5), Input::Exited(Exit::Code(0)));
    assert!(matches!(&ended[0], Action::Report(report) if report.status == AgentStatus::Started), "{ended:?}");
    assert_eq!(report_of(&ended).status, AgentStatus::Success);

    let failed = running().handle(at(5), Input::Exited(Exit::Code(42)));
    assert_eq!(failed.len(), 1, "a runner that died early never started: {failed:?}");
    assert_eq!(report_of(&failed).exit_code, 42);
    assert_eq!(report_of(&failed).job_received, None);
}

#[test]
fn a_signal_stops_after_grace_and_a_second_one_at_once() {
    let mut patient = running();
    assert_eq!(patient.handle(at(5), Input::Signal(Signal::Terminate)), [Action::Terminate]);
    assert_eq!(patient.phase(), Phase::Stopping);
    assert_eq!(patient.next_wake(), Some(Duration::from_secs(95)));
    assert_eq!(patient.handle(at(94), Input::Tick), []);
    assert_eq!(patient.handle(at(95), Input::Tick), [Action::Kill]);
    assert_eq!(patient.next_wake(), None);
    assert_eq!(patient.handle(at(96), Input::Signal(Signal::Terminate)), [], "killed is killed");
    let report = report_of(&patient.handle(at(96), Input::Exited(Exit::Signal(9))));
    assert_eq!((report.status, report.exit_code), (AgentStatus::Interrupted, -1));
    assert_eq!(report.error.as_deref(), Some("killed after timeout"));
    assert_eq!(report.interrupted_by.as_deref(), Some("terminated"));

    let mut hasty = running();
    assert_eq!(hasty.handle(at(5), Input::Signal(Signal::Interrupt)), [Action::Terminate]);
    assert_eq!(hasty.handle(at(6), Input::Signal(Signal::Terminate)), [Action::Kill]);
    let report = report_of(&hasty.handle(at(6), Input::Exited(Exit::Signal(9))));
    assert_eq!(report.interrupted_by.as_deref(), Some("interrupt"), "the first cause decides");
}

#[test]
fn a_signal_means_nothing_before_a_hand_over_and_interrupts_after_it() {
    let unused = agent().handle(at(1), Input::Signal(Signal::Terminate));
    assert_eq!(unused, [Action::Finish { report: None, code: 0, logs_within: Duration::ZERO, spare_machine: true }]);

    let mut preparing = agent();
    preparing.handle(at(2), Input::Found(Box::new(assignment())));
    let report = report_of(&preparing.handle(at(3), Input::Signal(Signal::Terminate)));
    assert_eq!((report.status, report.exit_code), (AgentStatus::Interrupted, -1));
    assert_eq!(report.started_at, Some(at(2).wall), "nothing was spawned: the claim's time");
    assert_eq!(report.duration_seconds, 0);
}

#[test]
fn the_ceiling_counts_from_the_claim_and_the_hand_over_sets_it() {
    let mut agent = running();
    agent.handle(at(14), Input::Tick);
    agent.handle(at(15), Input::Seen(Evidence::JobReceived));
    assert_eq!(agent.next_wake(), Some(Duration::from_secs(3_602)));
    assert_eq!(agent.handle(at(3_602), Input::Tick), [Action::Terminate]);
    assert_eq!(agent.next_wake(), Some(Duration::from_secs(3_632)), "grace is 30 s here");
    let report = report_of(&agent.handle(at(3_603), Input::Exited(Exit::Code(0))));
    assert_eq!((report.status, report.exit_code), (AgentStatus::Timeout, -1));

    let mut short = self::agent();
    let limited = Assignment { max_runtime: Some(Duration::from_secs(60)), ..assignment() };
    short.handle(at(2), Input::Found(Box::new(limited)));
    assert_eq!(short.next_wake(), Some(Duration::from_secs(62)));
    let report = report_of(&short.handle(at(62), Input::Tick));
    assert_eq!(report.error.as_deref(), Some("max runtime 1m exceeded"), "also while preparing");
}

#[test]
fn a_runner_without_a_job_ends_when_nothing_contradicts() {
    let idle = || {
        let mut agent = running();
        agent.handle(at(10), Input::Seen(Evidence::Listening));
        assert_eq!(agent.next_wake(), Some(Duration::from_secs(610)));
        assert_eq!(agent.handle(at(609), Input::Tick), []);
        assert_eq!(agent.handle(at(610), Input::Tick), [Action::LookForWorker]);
        assert_eq!(agent.handle(at(611), Input::Tick), [], "asked once");
        agent
    };
    let mut alone = idle();
    assert_eq!(alone.handle(at(611), Input::Idle), [Action::Terminate]);
    assert_eq!(alone.next_wake(), Some(Duration::from_secs(631)), "grace is 20 s here");
    let report = report_of(&alone.handle(at(612), Input::Exited(Exit::Code(0))));
    assert_eq!(report.status, AgentStatus::Failure);
    assert!(report.error.unwrap().starts_with("no_job_received: "));
    assert_eq!(report.job_received, Some(false));

    let mut busy = idle();
    assert_eq!(busy.handle(at(611), Input::Seen(Evidence::JobReceived)), []);
    assert_eq!(busy.phase(), Phase::Running);
    assert_eq!(busy.handle(at(700), Input::Idle), [], "a late answer changes nothing");

    let mut unlucky = idle();
    unlucky.handle(at(611), Input::Idle);
    unlucky.handle(at(612), Input::Seen(Evidence::JobReceived));
    let report = report_of(&unlucky.handle(at(613), Input::Exited(Exit::Code(0))));
    assert_eq!(report.status, AgentStatus::Interrupted);
    assert_eq!(report.interrupted_by.as_deref(), Some("terminated"));
}

#[test]
fn idleness_needs_evidence_and_can_be_switched_off() {
    let mut silent = running();
    silent.handle(at(14), Input::Tick);
    assert_eq!(silent.next_wake(), Some(CEILING + Duration::from_secs(2)), "no evidence, no clock");

    let mut retrying = running();
    retrying.handle(at(14), Input::Seen(Evidence::Retrying));
    assert_eq!(retrying.next_wake(), Some(Duration::from_secs(604)), "from the spawn");

    let mut off = agent();
    off.handle(at(2), Input::Found(Box::new(Assignment { idle_exit: Some(Duration::ZERO), ..assignment() })));
    off.handle(at(4), ready());
    off.handle(at(4), Input::Spawned);
    off.handle(at(5), Input::Seen(Evidence::Listening));
    assert_eq!(off.next_wake(), Some(CEILING + Duration::from_secs(2)));
}

#[test]
fn what_cannot_run_is_reported_once() {
    let reports = [
        (Input::PrepareFailed("download_failed: checksum mismatch".to_owned()), "download_failed: checksum mismatch"),
        (Input::SpawnFailed("run.sh not found".to_owned()), "execution_failed: run.sh not found"),
        (Input::Panicked("oh".to_owned()), "agent panic: oh"),
    ];
    for (input, error) in reports {
        let mut agent = agent();
        agent.handle(at(2), Input::Found(Box::new(assignment())));
        let report = report_of(&agent.handle(at(3), input.clone()));
        assert_eq!((report.status, report.exit_code), (AgentStatus::Failure, -1));
        assert_eq!(report.error.as_deref(), Some(error));
        assert_eq!(agent.handle(at(4), input), [], "the first cause decides");
    }
    let report = report_of(&running().handle(at(9), Input::Panicked("oh".to_owned())));
    assert_eq!(report.duration_seconds, 5);

    let unreadable = report_of(&agent().handle(at(2), Input::Unusable(None, "line 1\nx".to_owned())));
    assert_eq!(unreadable.status, AgentStatus::BootstrapFailed);
    assert_eq!(unreadable.job_id, None);
    assert_eq!(unreadable.error.as_deref(), Some("config_invalid: line 1 x"), "one line");
    let known = Input::Unusable(Some(Box::new(assignment())), "x".repeat(3_000));
    let report = report_of(&agent().handle(at(2), known));
    assert_eq!(report.status, AgentStatus::Failure);
    assert_eq!(report.error.unwrap().len(), 1_024);

    let recovered = Input::Recovered(Box::new(assignment()), at(0).wall, "agent_restarted: x".to_owned());
    let report = report_of(&agent().handle(at(9), recovered));
    assert_eq!(report.started_at, Some(at(0).wall));
    assert_eq!(report.error.as_deref(), Some("agent_restarted: x"));
}

#[test]
fn a_reclaim_lets_the_job_run_until_a_minute_before() {
    let mut lucky = running();
    lucky.handle(at(20), Input::Tick);
    assert_eq!(lucky.handle(at(100), Input::SpotNotice(at(220).wall)), []);
    assert_eq!(lucky.next_wake(), Some(Duration::from_secs(160)));
    let report = report_of(&lucky.handle(at(159), Input::Exited(Exit::Code(0))));
    assert_eq!((report.status, report.interrupted_by), (AgentStatus::Success, None), "a notice alone changes nothing");
    assert_eq!(report.spot_notice_at, Some(at(100).wall));

    let mut cut = running();
    cut.handle(at(20), Input::Tick);
    cut.handle(at(100), Input::SpotNotice(at(220).wall));
    cut.handle(at(105), Input::SpotNotice(at(220).wall));
    assert_eq!(cut.handle(at(160), Input::Tick), [Action::Terminate]);
    assert_eq!(cut.next_wake(), Some(Duration::from_secs(190)), "30 s of grace");
    assert_eq!(cut.handle(at(190), Input::Tick), [Action::Kill]);
    let actions = cut.handle(at(191), Input::Exited(Exit::Signal(9)));
    assert!(matches!(&actions[..], [Action::Finish { logs_within, .. }] if *logs_within == Duration::from_secs(10)));
    let report = report_of(&actions);
    assert_eq!(report.status, AgentStatus::Interrupted);
    assert_eq!(report.interrupted_by.as_deref(), Some("spot_interruption"));
    assert_eq!(report.spot_notice_at, Some(at(100).wall), "the first notice");
}

#[test]
fn a_reclaim_shortens_every_grace() {
    let mut late = running();
    late.handle(at(100), Input::SpotNotice(at(140).wall));
    assert_eq!(late.next_wake(), Some(Duration::from_secs(115)), "less than a minute is left: stopped at once");

    let mut stopping = running();
    stopping.handle(at(50), Input::Signal(Signal::Terminate));
    assert_eq!(stopping.next_wake(), Some(Duration::from_secs(140)));
    stopping.handle(at(60), Input::SpotNotice(at(100).wall));
    assert_eq!(stopping.next_wake(), Some(Duration::from_secs(75)));

    let mut warned = running();
    warned.handle(at(50), Input::SpotNotice(at(170).wall));
    warned.handle(at(100), Input::Signal(Signal::Terminate));
    assert_eq!(warned.next_wake(), Some(Duration::from_secs(145)));
    let report = report_of(&warned.handle(at(101), Input::Exited(Exit::Code(0))));
    assert_eq!(report.interrupted_by.as_deref(), Some("terminated"), "the first cause decides");
}

#[test]
fn nothing_is_started_on_a_machine_that_is_taken_back() {
    let refused = |actions: &[Action]| {
        let report = report_of(actions);
        assert_eq!((report.status, report.exit_code), (AgentStatus::Interrupted, -1));
        assert_eq!(report.error.as_deref(), Some("spot notice before start"));
        assert_eq!(report.interrupted_by.as_deref(), Some("spot_interruption"));
    };
    let mut standing_by = agent();
    assert_eq!(standing_by.handle(at(1), Input::SpotNotice(at(120).wall)), []);
    refused(&standing_by.handle(at(2), Input::Found(Box::new(assignment()))));

    let mut preparing = agent();
    preparing.handle(at(2), Input::Found(Box::new(assignment())));
    assert_eq!(preparing.handle(at(3), Input::SpotNotice(at(133).wall)), []);
    assert_eq!(preparing.next_wake(), Some(Duration::from_secs(13)));
    refused(&preparing.handle(at(14), ready()));
}

#[test]
fn what_ran_short_is_reported_once_each() {
    let mut agent = running();
    for resource in [Resource::Memory, Resource::Disk, Resource::Memory] {
        agent.handle(at(5), Input::Low(resource));
    }
    let report = report_of(&agent.handle(at(6), Input::Exited(Exit::Code(0))));
    assert_eq!(report.resource_warnings, ["low_disk", "low_memory"]);
    assert_eq!(report.status, AgentStatus::Success);
}

#[test]
fn the_boot_counts_only_for_a_machine_that_was_started_for_this_job() {
    for (found, boot) in [(2, Some(9.5)), (60, Some(9.5)), (61, None)] {
        let mut agent = agent().booted(Some(Duration::from_millis(9_500)));
        agent.handle(at(found), Input::Found(Box::new(assignment())));
        agent.handle(at(found + 1), ready());
        agent.handle(at(found + 1), Input::Spawned);
        let started = only_report(&agent.handle(at(found + 2), Input::Seen(Evidence::Listening)));
        assert_eq!(started.bootstrap.boot, boot);
    }
}

#[test]
fn nobody_came() {
    let end = |code| [Action::Finish { report: None, code, logs_within: Duration::ZERO, spare_machine: false }];
    assert_eq!(agent().handle(at(900), Input::NobodyCame), end(0));
    assert_eq!(agent().handle(at(1), Input::Panicked("oh".to_owned())), end(1));
}

fn any_input() -> impl Strategy<Value = Input> {
    let evidence = prop_oneof![
        Just(Evidence::Listening),
        Just(Evidence::JobReceived),
        Just(Evidence::JobCompleted),
        (-3..9).prop_map(Evidence::ListenerFailed),
        Just(Evidence::Retrying),
    ];
    let exit = prop_oneof![(0..50).prop_map(Exit::Code), (1..20).prop_map(Exit::Signal)];
    prop_oneof![
        4 => Just(Input::Found(Box::new(assignment()))),
        1 => Just(Input::NobodyCame),
        4 => Just(ready()),
        1 => Just(Input::PrepareFailed("download_failed: x".to_owned())),
        4 => Just(Input::Spawned),
        1 => Just(Input::SpawnFailed("x".to_owned())),
        6 => evidence.prop_map(Input::Seen),
        2 => Just(Input::Idle),
        2 => exit.prop_map(Input::Exited),
        2 => prop_oneof![Just(Signal::Terminate), Just(Signal::Interrupt)].prop_map(Input::Signal),
        1 => (0_u64..20_000).prop_map(|second| Input::SpotNotice(at(second).wall)),
        1 => prop_oneof![Just(Resource::Disk), Just(Resource::Memory)].prop_map(Input::Low),
        1 => Just(Input::Panicked("x".to_owned())),
        8 => Just(Input::Tick),
    ]
}

proptest! {
    /// Whatever happens, in whatever order: one end, one completion exactly for a claimed hand-over, at most one
    /// `started`, one SIGTERM, one SIGKILL, and while something is claimed there is a deadline or a kill on its way.
    #[test]
    fn every_claim_ends_once(steps in proptest::collection::vec((any_input(), 0_u64..2_000), 0..60)) {
        let mut agent = agent();
        let mut now = 0;
        let (mut ends, mut completions, mut started, mut terms, mut kills, mut claimed) = (0, 0, 0, 0, 0, false);
        for (input, later) in steps {
            now += later;
            claimed |= agent.phase() == Phase::Standby && matches!(input, Input::Found(_));
            for action in agent.handle(at(now), input) {
                prop_assert_eq!(ends, 0, "nothing follows the end");
                match action {
                    Action::Prepare => prop_assert!(claimed),
                    Action::Report(report) => {
                        prop_assert_eq!(report.status, AgentStatus::Started);
                        started += 1;
                    }
                    Action::Terminate => terms += 1,
                    Action::Kill => kills += 1,
                    Action::Finish { report, spare_machine, .. } => {
                        prop_assert!(!(claimed && spare_machine), "a used machine ends");
                        ends += 1;
                        completions += usize::from(report.is_some());
                    }
                    Action::Spawn | Action::LookForWorker => {}
                }
            }
            if matches!(agent.phase(), Phase::Preparing | Phase::Running) {
                prop_assert!(agent.next_wake().is_some());
            }
            if agent.phase() == Phase::Stopping {
                prop_assert!(agent.next_wake().is_some() || kills == 1);
            }
        }
        prop_assert!(ends <= 1 && started <= 1 && terms <= 1 && kills <= terms);
        prop_assert_eq!(completions == 1, claimed && ends == 1);
    }
}
