//! The JSON of each operation, and the host's records that it stands for. Pure: nothing here calls the host.
//!
//! [`status`], [`load`], [`logs`], [`config`]: the host itself. [`catalogue`]: what people can be granted.
//! [`capsules`], [`install`]: what runs in it.

mod capsules;
mod catalogue;
mod config;
mod install;
mod load;
mod logs;
mod status;

use serde::{Deserialize, Serialize};

pub use capsules::{Capsule, Capsules, Collected, History, Remove, RolledBack, Step, Swapped, Which};
pub use catalogue::{Capability, Catalogue};
pub use config::{Change, Reloaded, Setting, Settings};
pub use install::{Applied, Distribution, ExportConflict, Install, Installed, MissingImport, refusal};
pub use load::{CapsuleLoad, Load, LoadRequest, PrincipalLoad, Usage};
pub use logs::{Line, Lines, Logs};
pub use status::Status;

/// `{}`: of an operation that takes or answers nothing.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}
