//! The Actions cache: what `actions/cache` and its like save and restore, kept in a bucket or a directory.
//!
//! * [`router`] — everything it answers, from a [`Cache`].
//! * [`Cache`] — reserve, receive, commit, look up, evict; what it promises is written there.
//! * [`store`] — the port to where objects are kept, with a directory and a bucket behind it.
//! * [`token`], [`scope`] — who calls, and what that lets them see. [`name`], [`layout`] — what things are called.
//! * [`blocks`], [`range`], [`plan`], [`proto`] — what clients send, and how pieces become a whole. Pure.
//!
//! Properties wanted: unmodified clients of both protocols save and restore; an entry is whole, final and unique; a
//! repository sees its own entries alone, and a branch those that GitHub would show it; no request names a file or an
//! object; however large the entries, memory stays small; and whatever fails here, a job goes on without its cache.

mod address;
pub mod blocks;
mod body;
mod engine;
mod evict;
mod http;
pub mod layout;
pub mod name;
pub mod plan;
pub mod range;
pub mod scope;
pub mod store;
pub mod token;

pub use engine::{Cache, Collected, Committed, RepoStats, Reserved, Settings, Stats};
pub use http::{proto, router};
