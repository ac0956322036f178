//! The host itself: for the one capsule that operators trust with its operations. Needs the grant `sys:host`.

pub use crate::bindings::imports::astrid::sys::host::{
    Capsule, Direction, EnvError, HostStatus, InstallError, Installed, LogLine, LogQuery, PrincipalUsage, Setting,
    Topic, TopicType, capsules, config, env_clear, env_fields, env_set, install, logs, shutdown, status, topics, usage,
};
