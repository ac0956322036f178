//! The host as a whole: that it runs, and who is connected.

use std::collections::BTreeMap;

use astrid_sdk::host;
use serde::Serialize;

#[derive(Debug, Serialize)]
pub struct Status {
    pub pid: u32,
    pub uptime_secs: u64,
    pub version: String,
    pub connected_clients: u32,
    pub connections_by_principal: BTreeMap<String, u32>,
    pub loaded_capsules: Vec<String>,
}

impl From<host::HostStatus> for Status {
    fn from(status: host::HostStatus) -> Self {
        Self {
            pid: status.pid,
            uptime_secs: status.uptime_secs,
            version: status.version,
            connected_clients: status.connected_clients,
            connections_by_principal: status.connections_by_principal.into_iter().collect(),
            loaded_capsules: status.loaded_capsules,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, to_value};

    use super::*;

    #[test]
    fn a_status_has_the_documented_shape() {
        let status = Status::from(host::HostStatus {
            pid: 1,
            uptime_secs: 2,
            version: "0.1.0".into(),
            connected_clients: 3,
            connections_by_principal: vec![("default".into(), 3)],
            loaded_capsules: vec!["gateway".into()],
        });
        assert_eq!(
            to_value(&status).unwrap(),
            json!({"pid": 1, "uptime_secs": 2, "version": "0.1.0", "connected_clients": 3,
                   "connections_by_principal": {"default": 3}, "loaded_capsules": ["gateway"]})
        );
    }
}
