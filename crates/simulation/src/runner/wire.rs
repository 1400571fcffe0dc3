//! What the stand-in runner and the simulated GitHub say to each other, in JSON.

use domain::gh::Conclusion;
use domain::ids::JobId;
use serde::{Deserialize, Serialize};

use crate::github::model::Message;

/// The just-in-time configuration, inside its base64.
#[derive(Serialize, Deserialize)]
pub(crate) struct JitDocument {
    /// Where to connect.
    pub(crate) server_url: String,
    /// What to connect with.
    pub(crate) credential: String,
}

/// The listener introduces itself.
#[derive(Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) pid: Option<u32>,
    /// Epoch milliseconds.
    pub(crate) process_started_ms: Option<u64>,
}

/// The listener asks for news.
#[derive(Serialize, Deserialize)]
pub(crate) struct Poll {
    /// The job it is running.
    pub(crate) running: Option<JobId>,
}

/// The news.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "word", rename_all = "snake_case")]
pub(crate) enum Word {
    Nothing,
    Job { id: JobId, name: String, duration_ms: u64, outcome: Conclusion },
    Cancel,
    Gone,
}

impl From<Message> for Word {
    fn from(message: Message) -> Self {
        match message {
            Message::Nothing => Self::Nothing,
            Message::Job(job) => Self::Job {
                id: job.id,
                name: job.name,
                duration_ms: u64::try_from(job.duration.as_millis()).unwrap_or(u64::MAX),
                outcome: job.outcome,
            },
            Message::Cancel => Self::Cancel,
            Message::Gone => Self::Gone,
        }
    }
}

/// The listener's job is over.
#[derive(Serialize, Deserialize)]
pub(crate) struct Complete {
    pub(crate) job: JobId,
    pub(crate) conclusion: Conclusion,
}
