//! The host itself: for the one capsule that operators trust with its operations. Needs the grant `sys:host`.

pub use crate::bindings::imports::astrid::sys::host::{
    Applied, Branding, Capability, Capsule, CapsuleLoad, Change, Direction, Distribution, EnvError, HostStatus, Icon,
    InstallError, InstallOptions, Installed, Load, LogLine, LogQuery, Overlap, PrincipalLoad, PrincipalUsage, Process,
    Setting, Step, Topic, TopicType, Variable, apply_distro, capabilities, capsules, config, distro, env_clear,
    env_fields, env_set, gc, history, install, logs, measure, processes, reload_config, remove, rollback, shutdown,
    status, stop_process, swap, topics, usage,
};
