//! The operator's view: an API that reads, and a page that shows what it says.
//!
//! * [`router`] — everything under `/api` and `/admin`, from an [`AdminState`].
//! * `jobs`, `instances`, `queues`, `cache`, `status` — the endpoints, one module per thing.
//! * [`timeline`] — how long each step of a job took. Pure.
//! * `events` — changes as they happen, as server-sent events.
//! * `page` — the page, a few files inside the binary. It knows nothing that the API does not say.
//!
//! Properties wanted: reading changes nothing; what is not known is `null` or absent, never zero; a bad parameter is
//! refused by name, never replaced by a default; whatever the store does, an answer comes within fifteen seconds; what
//! workflows and repositories are called is never markup. Nothing here can act on a job or a machine.
//!
//! Races survived: rows move while somebody turns pages (a page is found by its neighbour, not by counting); events are
//! lost, doubled or late (they are hints, and a reader that fell behind is told to read again).

mod cache;
mod error;
mod events;
mod instances;
mod jobs;
mod page;
mod params;
mod queues;
mod router;
mod snapshot;
mod state;
mod status;
pub mod timeline;

pub use router::{root_redirect, router};
pub use state::{About, Access, AdminState, ConfigWarning, WatchedQueue};
