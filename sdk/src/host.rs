//! The host itself: for the one capsule that operators trust with its operations. Needs the grant `sys:host`.

pub use crate::bindings::imports::astrid::sys::host::{
    Applied, Capability, Capsule, Direction, EnvError, HostStatus, InstallError, InstallOptions, Installed, LogLine,
    LogQuery, Overlap, PrincipalUsage, Setting, Step, Topic, TopicType, apply_distro, capabilities, capsules, config,
    env_clear, env_fields, env_set, gc, history, install, logs, remove, rollback, shutdown, status, swap, topics,
    usage,
};
