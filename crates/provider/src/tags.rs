//! Names of the tags by which machines are known, to us and to the agents on them.

/// `true` on what we launched and may end.
pub const MANAGED: &str = "runs-fleet:managed";
/// The warm pool a machine belongs to.
pub const POOL: &str = "runs-fleet:pool";
/// The launch request a machine came from; of machines launched for jobs.
pub const LAUNCH_ID: &str = "runs-fleet:launch-id";
/// The job a machine was launched for, or given to.
pub const JOB_ID: &str = "runs-fleet:job-id";
/// Its workflow run.
pub const RUN_ID: &str = "runs-fleet:run-id";
/// `true` on a spare that was given to a job.
pub const ASSIGNED: &str = "runs-fleet:assigned";
/// `true` on a machine that was announced to be taken back.
pub const INTERRUPTED: &str = "runs-fleet:interrupted";
/// The repository whose job a machine runs, for whoever pays for it.
pub const ROLE: &str = "Role";
/// By whom a machine was made, when not by us.
pub const CREATED_BY: &str = "created-by";
/// The value of [`CREATED_BY`] on a machine that builds an image.
pub const IMAGE_BUILDER: &str = "runs-fleet-packer";
