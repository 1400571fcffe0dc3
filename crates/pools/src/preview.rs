//! What the next pass over a pool would do, without doing it.

use db::pools::Pool;
use domain::ids::{PoolName, RunnerKey};

use crate::error::Error;
use crate::health;
use crate::pass::{Scope, bounded};
use crate::plan::{Member, Probed, Progress, Step};
use crate::target::Target;
use crate::warm::WarmPools;

/// A pool, and what a pass would make of it.
#[derive(Debug)]
pub struct Preview {
    /// The pool.
    pub pool: Pool,
    /// What is aimed at now.
    pub target: Target,
    /// The machines, and why those are kept that do nothing.
    pub members: Vec<(Member, Option<&'static str>)>,
    /// What would be done, if everything worked.
    pub steps: Vec<Step>,
    /// Machines that would stay because a hand-over waits for them, or cannot be read.
    pub handed: Vec<RunnerKey>,
    /// No machine would be made for so many seconds, because new ones keep failing.
    pub paused_seconds: Option<u64>,
}

impl WarmPools {
    /// What a full pass would do now, of a leader that has seen idle machines idle for long enough: this process has not
    /// watched them. Nothing is written. `None`: there is no such pool.
    ///
    /// # Errors
    /// Something could not be read; a pass would do nothing.
    pub async fn preview(&self, name: &PoolName) -> Result<Option<Preview>, Error> {
        let Some(pool) = bounded(self.ports.pools.get(name)).await? else { return Ok(None) };
        let (plan, target) = self.plan(&pool, Scope::Demand).await?;
        let now = self.ports.clock.now();
        let plan = plan.as_if_watched().allowing(health::allowance(pool.health, 0, now));
        let (mut done, mut handed) = (Progress::default(), Vec::new());
        let mut steps = Vec::new();
        while let Some(step) = plan.next(&done) {
            if let Step::Probe(key) = &step {
                let probed = self.probe(key).await;
                if probed != Probed::Free {
                    handed.push(key.clone());
                }
                done.probed.insert(key.clone(), probed);
            } else {
                done.suppose(&step);
                steps.push(step);
            }
        }
        let members = plan.members().iter().map(|member| (member.clone(), plan.kept(member))).collect();
        let paused_seconds = health::pause_left(pool.health, now).map(|left| left.as_secs());
        Ok(Some(Preview { pool, target, members, steps, handed, paused_seconds }))
    }
}
