//! Messages that were read before. A record is read many times in its life and its message never changes, so that
//! reading the message once is half of reading the record.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use domain::ids::JobId;
use domain::message::JobMessage;
use smol_str::SmolStr;

use crate::table::Value;

/// Messages remembered, of one or two kilobytes each. When they are so many, all are forgotten: those of jobs under way
/// are soon back.
const LIMIT: usize = 4096;

/// A message as stored, and as read.
type Known = (SmolStr, Arc<JobMessage>);

/// See the module.
#[derive(Default)]
pub(super) struct Messages(Mutex<HashMap<JobId, Known>>);

impl Messages {
    /// The message of a job's row, if it can be read.
    pub(super) fn read(&self, id: JobId, stored: Option<&Value>) -> Option<Arc<JobMessage>> {
        let json = match stored? {
            Value::S(json) if !json.is_empty() => json,
            _ => return None,
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((text, message)) = known.get(&id)
            && text == json
        {
            return Some(Arc::clone(message));
        }
        let message = match JobMessage::decode(json) {
            Ok(decoded) => Arc::new(decoded.message),
            Err(error) => {
                tracing::warn!(job_id = %id, %error, "stored message is unreadable; using the columns");
                return None;
            }
        };
        if known.len() >= LIMIT {
            known.clear();
        }
        known.insert(id, (json.clone(), Arc::clone(&message)));
        Some(message)
    }
}
