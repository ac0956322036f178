//! The host itself: for the one capsule that operators trust with its operations. Needs the grant `sys:host`.

pub use crate::bindings::imports::astrid::sys::host::{
    Capsule, HostStatus, InstallError, Installed, LogLine, LogQuery, Setting, capsules, config, install, logs,
    shutdown, status,
};
