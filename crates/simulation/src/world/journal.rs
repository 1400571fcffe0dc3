//! What happened, in lines: so that the story of a job can be read, and two runs compared byte for byte.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use db::schema::{JOBS, POOLS, RUNNERS};
use db::table::{Item, Name, Schema, Value};
use domain::clock::{Timestamp, since};
use domain::ids::{JobId, RunnerKey};

use super::clock::WorldClock;
use super::happening::{Happening, Witness};
use super::replica::lock;

/// What is kept of what happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// So many lines, the last ones.
    Last(usize),
    /// Every line.
    All,
}

/// A line, and what it is about.
#[derive(Debug, Clone)]
struct Line {
    at: Timestamp,
    job: Option<JobId>,
    machine: Option<RunnerKey>,
    text: String,
}

/// See the module.
pub struct Journal {
    keep: Keep,
    lines: Mutex<VecDeque<Line>>,
}

impl Journal {
    /// An empty journal.
    pub fn new(keep: Keep) -> Arc<Self> {
        Arc::new(Self { keep, lines: Mutex::default() })
    }

    /// Everything that is kept.
    pub fn everything(&self) -> String {
        lock(&self.lines).iter().fold(String::new(), |text, line| text + &shown(line) + "\n")
    }

    /// What is kept of a job: lines about it, and about the machines that were bound to it or served it.
    pub fn story(&self, job: JobId) -> String {
        let lines = lock(&self.lines);
        let of_job = |line: &&Line| line.job == Some(job);
        let machines: BTreeSet<&RunnerKey> =
            lines.iter().filter(of_job).filter_map(|line| line.machine.as_ref()).collect();
        let mut text = String::new();
        for line in &*lines {
            let about = line.job == Some(job) || line.machine.as_ref().is_some_and(|key| machines.contains(key));
            let of_nobody = line.job.is_none() && line.machine.is_none() && !line.text.contains("answer lost");
            if about || (of_nobody && !text.is_empty()) {
                let _ = writeln!(text, "{}", shown(line));
            }
        }
        text
    }

    /// The same, its last lines.
    pub fn tail(&self, job: JobId, lines: usize) -> String {
        let story = self.story(job);
        let all: Vec<&str> = story.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Witness for Journal {
    fn saw(&self, now: Timestamp, what: &Happening<'_>) {
        if self.keep == Keep::Nothing {
            return;
        }
        let Some(line) = line(now, what) else { return };
        let mut lines = lock(&self.lines);
        if let Keep::Last(most) = self.keep
            && lines.len() >= most
        {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

fn shown(line: &Line) -> String {
    let passed = since(line.at, WorldClock::beginning());
    let mut text = format!("+{}", span(passed));
    if let Some(job) = line.job {
        let _ = write!(text, " job {job}");
    }
    if let Some(machine) = &line.machine {
        let _ = write!(text, " {machine}");
    }
    text + " " + &line.text
}

fn span(passed: Duration) -> String {
    let seconds = passed.as_secs();
    format!("{}:{:02}:{:02}.{:03}", seconds / 3600, seconds / 60 % 60, seconds % 60, passed.subsec_millis())
}

fn line(at: Timestamp, what: &Happening<'_>) -> Option<Line> {
    let (job, machine, text) = match what {
        Happening::JobQueued { job, run, repo, attempt, labels } => {
            let text = format!("queued at GitHub: {repo}, run {run}, attempt {attempt}, {}", labels.join(" "));
            (Some(*job), None, text)
        }
        Happening::JobBegan { job, runner, machine, stolen } => {
            let how = if *stolen { " (stolen)" } else { "" };
            (Some(*job), machine.clone(), format!("began on {runner}{how}"))
        }
        Happening::JobConcluded { job, conclusion, runner_lost } => {
            let how = if *runner_lost { ", its runner was lost" } else { "" };
            (Some(*job), None, format!("concluded {}{how}", conclusion.as_str()))
        }
        Happening::WebhookAccepted { job, action } => (Some(*job), None, format!("webhook {action} accepted")),
        Happening::WebhookLost { job, action, known } => {
            let how = if *known { "" } else { ", silently" };
            (Some(*job), None, format!("webhook {action} lost{how}"))
        }
        Happening::Launched { machine, launch, pool, instance_type, zone, spot } => {
            let launch = match (launch, pool) {
                (Some(launch), _) => launch.as_str().to_owned(),
                (None, Some(pool)) => format!("for pool {pool}"),
                (None, None) => "no launch".to_owned(),
            };
            let kind = if *spot { "spot" } else { "on demand" };
            (None, Some((*machine).clone()), format!("launched: {instance_type} in {zone}, {kind}, {launch}"))
        }
        Happening::Booted { machine } => (None, Some((*machine).clone()), "booted".to_owned()),
        Happening::Stopped { machine } => (None, Some((*machine).clone()), "is stopped".to_owned()),
        Happening::Warned { machine, at } => {
            (None, Some((*machine).clone()), format!("is taken back at +{}", span(since(*at, WorldClock::beginning()))))
        }
        Happening::Ended { machine, why } => (None, Some((*machine).clone()), format!("ended: {why}")),
        Happening::TookHandOver { machine, job } => (*job, Some((*machine).clone()), "took its hand-over".to_owned()),
        Happening::Reported { report, lost } => {
            let how = if *lost { " (lost)" } else { "" };
            let error = report.error.as_deref().unwrap_or_default();
            let text = format!("reported {}{how} {error}", report.status.as_str());
            (report.job_id, Some(report.instance_id.clone()), text.trim_end().to_owned())
        }
        Happening::Wrote { table, before, after } => return wrote(at, table, *before, *after),
        Happening::Acked { queue, delivery, rejected } => {
            let word = if *rejected { "rejected" } else { "acknowledged" };
            let job = delivery
                .body
                .split("\"job_id\":")
                .nth(1)
                .and_then(|rest| rest.trim_start().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
            (job, None, format!("a message of {queue} {word}"))
        }
        Happening::HandedOver { machine, job, .. } => {
            (job.parse().ok(), Some((*machine).clone()), "hand-over stored".to_owned())
        }
        Happening::HandOverDeleted { machine } => (None, Some((*machine).clone()), "hand-over deleted".to_owned()),
        Happening::ReplicaStarted { replica } => (None, None, format!("replica {replica} starts")),
        Happening::ReplicaDied { replica, during } => (
            None,
            None,
            format!("replica {replica} dies{}", during.map(|c| format!(" during {c}")).unwrap_or_default()),
        ),
        Happening::ReplicaStopped { replica } => (None, None, format!("replica {replica} stopped")),
        Happening::Led { replica, token, others } => {
            (None, None, format!("replica {replica} leads with token {token}, besides {others} others"))
        }
        Happening::Mishap { replica, call, what } => (None, None, format!("replica {replica}: {call} {what}")),
        Happening::PoolMissed { what } => (None, None, (*what).to_owned()),
        Happening::Healthy => (None, None, "the world is healthy".to_owned()),
    };
    Some(Line { at, job, machine, text })
}

/// A row's change, as the difference of its attributes.
fn wrote(at: Timestamp, table: &Schema, before: Option<&Item>, after: Option<&Item>) -> Option<Line> {
    let row = after.or(before)?;
    let text_of = |name: &str| match row.get(name) {
        Some(Value::S(text)) => Some(&**text),
        _ => None,
    };
    let (job, machine) = if table.name == JOBS.name {
        let id = match row.get("job_id") {
            Some(Value::N(id)) => u64::try_from(*id).ok().and_then(JobId::new),
            _ => None,
        };
        (id, text_of("instance_id").map(RunnerKey::new))
    } else if table.name == RUNNERS.name {
        (None, text_of("runner_key").map(RunnerKey::new))
    } else if table.name == POOLS.name {
        let claimed = text_of("pool_name").and_then(|key| key.strip_prefix("__instance_claim:"));
        (None, claimed.map(RunnerKey::new))
    } else {
        return None;
    };
    let empty = Item::new();
    let (old, new) = (before.unwrap_or(&empty), after.unwrap_or(&empty));
    let names: BTreeSet<&Name> = old.keys().chain(new.keys()).collect();
    let of = text_of("pool_name").map(|key| format!(" {key}")).unwrap_or_default();
    let mut text = format!("{} row{of}{}", table.name, if after.is_none() { " removed" } else { "" });
    if after.is_some() {
        for name in names {
            match (old.get(name), new.get(name)) {
                (was, is) if was == is => {}
                (None, Some(is)) => drop(write!(text, ", {name} {}", brief(name, is))),
                (Some(_), None) => drop(write!(text, ", no {name}")),
                (Some(was), Some(is)) => drop(write!(text, ", {name} {} -> {}", brief(name, was), brief(name, is))),
                (None, None) => {}
            }
        }
    }
    Some(Line { at, job, machine, text })
}

fn brief(name: &str, value: &Value) -> String {
    let text = match value {
        Value::S(text) => text.to_string(),
        Value::N(number) => number.to_string(),
        Value::F(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::L(_) | Value::M(_) => "…".to_owned(),
    };
    // Tokens need to be told apart, not read.
    let most = if name.ends_with("token") || name == "dispatch_id" { 6 } else { 60 };
    text.chars().take(most).collect()
}
