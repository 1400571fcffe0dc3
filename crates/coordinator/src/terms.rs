//! The present term, for those who wait for the next one. They wake in the order in which they began to wait, so that a
//! simulation can repeat a story.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::Leadership;

struct Present {
    /// Counts the changes.
    version: u64,
    term: Option<Leadership>,
}

/// Where terms are made known.
pub(crate) struct Published {
    present: Mutex<Present>,
    changed: Notify,
}

impl Published {
    pub(crate) fn new(term: Option<Leadership>) -> Arc<Self> {
        Arc::new(Self { present: Mutex::new(Present { version: 0, term }), changed: Notify::new() })
    }

    pub(crate) fn set(&self, term: Option<Leadership>) {
        let mut present = self.present();
        present.version += 1;
        present.term = term;
        drop(present);
        self.changed.notify_waiters();
    }

    pub(crate) fn latest(&self) -> Option<Leadership> {
        self.present().term.clone()
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn subscribe(self: &Arc<Self>) -> Terms {
        Terms { from: Arc::clone(self), seen: self.present().version }
    }
}

/// The term a replica leads, and every later one.
pub struct Terms {
    from: Arc<Published>,
    seen: u64,
}

impl Terms {
    /// The latest term, if the replica leads. One that has just ended may still be shown: ask it.
    pub fn latest(&mut self) -> Option<Leadership> {
        let present = self.from.present();
        self.seen = present.version;
        present.term.clone()
    }

    /// Returns when there is something newer than what was looked at last. May be dropped at any time.
    pub async fn changed(&mut self) {
        loop {
            let changed = self.from.changed.notified();
            if self.from.present().version != self.seen {
                return;
            }
            changed.await;
        }
    }
}
