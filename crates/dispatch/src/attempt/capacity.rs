//! A machine for a job: one that a dead attempt left, else a new one, launched together with others.

use domain::ids::LaunchId;
use domain::job::{FailureClass, JobState};
use provider::compute::{self, Filter, Machine, Slot};
use tracing::info;

use super::{Attempt, Failure};
use crate::batch::Member;
use crate::context::Dispatch;

impl Dispatch {
    /// A machine that a dead attempt of this job launched and nobody was bound to. Binding it is what claims it: of
    /// several jobs of that launch one wins, and the others look again.
    pub(super) async fn adopt(
        &self,
        attempt: &Attempt,
        previous_launch: Option<&LaunchId>,
    ) -> Result<Option<Machine>, Failure> {
        let Some(launch_id) = previous_launch else { return Ok(None) };
        let filter = Filter { launch_id: Some(launch_id.clone()), ..Filter::default() };
        for machine in self.ports.compute.list(&filter).await.map_err(|e| failed_launch(&e))? {
            if machine.state.is_gone() || (machine.spot && attempt.job.force_on_demand) {
                continue;
            }
            if self.ports.runners.get(&machine.key).await?.is_none() {
                info!(job_id = attempt.job.id.get(), instance_id = machine.key.as_str(), "adopting a launched machine");
                return Ok(Some(machine));
            }
        }
        Ok(None)
    }

    pub(super) async fn launch(&self, attempt: &mut Attempt) -> Result<Machine, Failure> {
        let Some(message) = attempt.job.next_message() else { return Err(Failure::Fenced) };
        if message.spec.os == "windows" {
            return Err(Failure::Failed {
                class: FailureClass::WindowsUnsupported,
                until: None,
                error: "no launch template for Windows is configured".to_owned(),
            });
        }
        if self.draining.is_cancelled() {
            return Err(Failure::Draining);
        }
        attempt.answered = false;
        let place = self.batcher.join(&message.spec, message.spec.spot && !message.force_on_demand);
        // Before the call, so that a crash leaves its trace. A record that is no longer ours leaves the batch.
        self.fenced(attempt, JobState::Claiming, |job, cx| job.launching(place.launch_id().clone(), cx)).await?;
        let ticket = place.submit(Member {
            slot: Slot { job: attempt.job.id, run: message.run_id, repo: message.repo },
            queued_at: attempt.job.queued_at,
            until: attempt.deadline,
            class: attempt.job.class.clone(),
        });
        attempt.approach = None;
        let answer = ticket.machine().await;
        // Only an answer that says so leaves nothing behind; after any other the record keeps the launch's name.
        attempt.answered = !matches!(answer, Err(compute::Error::Transient(_)));
        answer.map_err(|e| failed_launch(&e))
    }
}

fn failed_launch(error: &compute::Error) -> Failure {
    let class = match error {
        compute::Error::Capacity(_) => FailureClass::Capacity,
        compute::Error::Transient(_) | compute::Error::Deployment(_) => FailureClass::Transient,
        compute::Error::Invalid(_) => FailureClass::Invalid,
    };
    Failure::Failed { class, until: None, error: error.to_string() }
}
