//! From the environment to one typed [`Config`], with every problem reported at once.
//!
//! The environment is read once, at start; there is no file and no reload. Everything there is to know about a variable
//! — type, default, bounds, when it is required, whether it is secret — is one row of the [`registry`]; parsing,
//! checking, the printed reference and the list of values all follow from it.
//!
//! Properties:
//!
//! * **All problems at once.** A failed value is a placeholder, so that checks which depend on it are skipped and one
//!   cause is one problem. The order is stable.
//! * **No secret is printed**: not in a problem, not in the list of values, not in a debug print. Whatever text a
//!   problem quotes is searched for every secret of the environment first.
//! * **Pure**, except for reading the files secrets may be kept in, which goes through [`Files`].
//! * **One path.** `check-config`, `serve` and `local` run the same code.
//!
//! [`Config::load`] is the door; [`Loaded`] is what comes out, whether or not it is good enough to start.

mod env_file;
mod files;
mod load;
mod model;
mod parse;
mod problem;
pub mod registry;
mod render;

pub use env_file::{EnvFileError, parse_env_file};
pub use files::{FileError, Files, SecretFile, SystemFiles};
pub use load::{Effective, Loaded, substitute};
pub use model::{
    Admin, App, Cache, Config, Core, Cost, Fleet, GitHub, HandOverStore, HotPoolCaps, Kubernetes, LogFormat, Metrics,
    Mode, Oidc, Queues, Registration, Secrets, Store, StoreKind, Toleration, Tracing, Tuning, Valkey, Vault, VaultAuth,
};
pub use parse::Reference;
pub use problem::{Code, Problem};
pub use render::{reference_markdown, render_json, render_text};

#[cfg(test)]
mod tests;
