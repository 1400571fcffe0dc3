//! Fences: a row that a leader writes because it leads keeps the largest token that ever wrote it, and refuses smaller
//! ones.
//!
//! Leadership is measured with clocks, and a leader that slept may write late. The token is not measured with
//! anything: every term has a larger one than all before it. So the writes of a fenced row come in blocks, one leader
//! per block, in the order of the terms, and once a successor has written, its predecessors no longer can. A write that
//! is refused for this is [`Outcome::Lost`](crate::Outcome::Lost) like any other; [`Fence::is_passed_by`] tells it from
//! the rest by reading the row again.

use crate::attrs;
use crate::table::{Cond, Item, Update};

#[cfg(test)]
mod tests;

/// Attribute with the largest token that wrote the row.
const FENCE: &str = "leader_fence";

/// What one term of leadership writes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(i64);

impl Fence {
    /// The fence of the term with this token: a positive number, larger than that of every earlier term.
    pub const fn new(token: i64) -> Self {
        Self(token)
    }

    /// The term's token.
    pub const fn token(self) -> i64 {
        self.0
    }

    /// A write under the fence, if there is one: refused once a larger token has written the row, and leaving ours there.
    pub fn guard(fence: Option<Self>, update: Update, cond: Cond) -> (Update, Cond) {
        let Some(Self(token)) = fence else { return (update, cond) };
        let not_passed = Cond::absent(FENCE).or(Cond::lt(FENCE, token.saturating_add(1)));
        (update.set(FENCE, token), cond.and(not_passed))
    }

    /// Whether a later leader has written the row: then the holder of this fence leads no more.
    pub fn is_passed_by(self, row: &Item) -> bool {
        attrs::whole(row, FENCE).is_some_and(|stored| stored > self.0)
    }
}
