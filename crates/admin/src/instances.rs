//! Machines, and the runners on them.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::{RawQuery, State};
use domain::clock::Timestamp;
use domain::ids::{JobId, PoolName, Repo, RunnerKey};
use domain::runner::{Runner, RunnerState};
use provider::compute::Filter;
use provider::{Machine, MachineState};
use serde::Serialize;

use crate::error::ApiError;
use crate::params::Params;
use crate::state::AdminState;

const STATES: [MachineState; 6] = [
    MachineState::Pending,
    MachineState::Running,
    MachineState::Stopping,
    MachineState::Stopped,
    MachineState::ShuttingDown,
    MachineState::Terminated,
];

#[derive(Serialize)]
pub(crate) struct Instances {
    instances: Vec<InstanceView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// `state` is `null` for a runner whose machine the provider does not list (any more).
#[derive(Serialize)]
struct InstanceView {
    instance_id: RunnerKey,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_type: Option<String>,
    pool: Option<String>,
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    launch_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    availability_zone: Option<String>,
    spot: Option<bool>,
    busy: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<JobId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repo: Option<Repo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runner_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runner_state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    online_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    running_since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interrupted_at: Option<Timestamp>,
}

/// `GET /api/instances`: what the provider lists, and the rows of live runners. Ended ones only when asked for.
pub(crate) async fn list(
    State(state): State<AdminState>,
    RawQuery(query): RawQuery,
) -> Result<Json<Instances>, ApiError> {
    let params = Params::read(query.as_deref(), &["pool", "state"])?;
    let pool: Option<PoolName> = params.parsed("pool")?;
    let words = || STATES.map(MachineState::as_str).to_vec();
    let wanted = params.words("state", words, |word| STATES.into_iter().find(|state| state.as_str() == word))?;
    let ports = state.dispatch.ports();
    let filter = Filter { include_gone: wanted.iter().any(|state| state.is_gone()), ..Filter::default() };
    let machines = ports.compute.list(&filter).await.map_err(|error| state.failed(&error))?;
    let mut warnings = Vec::new();
    let runners = match live_runners(&state, filter.include_gone).await {
        Ok(runners) => Some(runners),
        Err(error) => {
            tracing::warn!(%error, "the list of machines lacks their runners");
            warnings.push("The runner records could not be read.".to_owned());
            None
        }
    };
    let mut instances = join(machines, runners);
    instances.retain(|instance| {
        let in_pool = pool.as_ref().is_none_or(|pool| instance.pool.as_deref() == Some(pool.as_str()));
        in_pool && (wanted.is_empty() || wanted.iter().any(|state| instance.state == Some(state.as_str())))
    });
    Ok(Json(Instances { instances, warnings }))
}

type Rows = BTreeMap<RunnerKey, Runner>;

async fn live_runners(state: &AdminState, include_ended: bool) -> Result<Rows, db::Error> {
    let mut rows = Rows::new();
    for wanted in RunnerState::ALL.into_iter().filter(|state| include_ended || state.is_live()) {
        let runners = state.dispatch.ports().runners.in_state(wanted, None, None).await?;
        rows.extend(runners.into_iter().map(|runner| (runner.key.clone(), runner)));
    }
    Ok(rows)
}

/// Newest first. A live runner without a machine is shown, too: that is a difference somebody should see.
fn join(machines: Vec<Machine>, runners: Option<Rows>) -> Vec<InstanceView> {
    let listed: BTreeSet<RunnerKey> = machines.iter().map(|machine| machine.key.clone()).collect();
    let known = runners.is_some();
    let mut runners = runners.unwrap_or_default();
    let lost: Vec<Runner> =
        runners.values().filter(|r| r.state.is_live() && !listed.contains(&r.key)).cloned().collect();
    let mut views: Vec<_> = machines
        .into_iter()
        .map(|machine| {
            let runner = runners.remove(&machine.key);
            InstanceView::of(&machine, runner, known)
        })
        .chain(lost.into_iter().map(InstanceView::lost))
        .collect();
    views.sort_by(|a, b| (b.launch_time, &b.instance_id).cmp(&(a.launch_time, &a.instance_id)));
    views
}

impl InstanceView {
    fn of(machine: &Machine, runner: Option<Runner>, known: bool) -> Self {
        let pool = machine.pool().map(str::to_owned);
        let view = Self {
            instance_id: machine.key.clone(),
            instance_type: Some(machine.instance_type.clone()),
            pool,
            state: Some(machine.state.as_str()),
            launch_time: Some(machine.launched_at),
            availability_zone: machine.zone.clone(),
            spot: Some(machine.spot),
            // Without its row nobody knows; without a row there is no runner that could be busy.
            busy: known.then_some(false),
            job_id: None,
            repo: None,
            runner_name: None,
            runner_state: None,
            online_at: None,
            running_since: None,
            interrupted_at: None,
        };
        match runner {
            Some(runner) => view.with(runner),
            None => view,
        }
    }

    fn lost(runner: Runner) -> Self {
        let view = Self {
            instance_id: runner.key.clone(),
            instance_type: None,
            pool: None,
            state: None,
            launch_time: Some(runner.minted_at),
            availability_zone: None,
            spot: None,
            busy: None,
            job_id: None,
            repo: None,
            runner_name: None,
            runner_state: None,
            online_at: None,
            running_since: None,
            interrupted_at: None,
        };
        view.with(runner)
    }

    fn with(self, runner: Runner) -> Self {
        Self {
            pool: self.pool.or_else(|| runner.pool.as_ref().map(ToString::to_string)),
            busy: Some(runner.state == RunnerState::Busy),
            // The job GitHub gave it, else the one it waits for.
            job_id: runner.running_job.or(runner.bound_job),
            repo: Some(runner.repo),
            runner_name: Some(runner.name).filter(|name| !name.is_empty()),
            runner_state: Some(runner.state.as_str()),
            online_at: runner.online_at,
            running_since: runner.running_since,
            interrupted_at: runner.interrupted_at,
            ..self
        }
    }
}
