//! `[http]` of the configuration.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::tls;
use crate::home;

/// The most proxies that can be named.
const MAX_PROXIES: usize = 64;

/// `[http]` of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// The TCP address; port 0 takes any that is free.
    pub listen: SocketAddr,
    /// A second Unix socket, for this machine's other users; empty for none. An absolute path of at most
    /// [`home::MAX_SOCKET_BYTES`], in a folder of the host's user or root's that nobody else may write to.
    pub shared_socket: PathBuf,
    /// Which other users may connect to it.
    pub shared_socket_users: SharedWith,
    /// Time for a TLS handshake, in seconds (1 to 3600).
    pub handshake_timeout_secs: u64,
    /// Time for a request's headers from their first byte, or from a connection's beginning, in seconds (1 to 3600).
    pub header_timeout_secs: u64,
    /// Time for a request's body, in seconds (1 to 3600).
    pub body_timeout_secs: u64,
    /// Time without a byte that a client takes of its answer, in seconds (1 to 3600); then its connection is closed.
    pub write_timeout_secs: u64,
    /// Time without a request on a connection that has had one, in seconds (1 to 3600).
    pub idle_timeout_secs: u64,
    /// TCP connections at once (1 to 100,000); the next ones wait in the kernel's backlog.
    pub max_connections: usize,
    /// Answers at once that go on after their handler (1 to 100,000); the next one is a 503.
    pub max_relays: usize,
    /// The peers whose word on their clients' addresses is taken, at most 64.
    pub trust_forwarded_from: Vec<IpAddr>,
    /// What is needed to speak TLS on the TCP address.
    pub tls: tls::Config,
}

/// The users who may connect to the shared socket. Whoever they are, their uid gives them no rights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SharedWith {
    /// The group of the socket: that of its folder if it is setgid, else the host's own.
    #[default]
    Group,
    All,
}

impl SharedWith {
    /// The mode of the socket.
    pub(super) fn mode(self) -> u32 {
        match self {
            SharedWith::Group => 0o660,
            SharedWith::All => 0o666,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 2787)),
            shared_socket: PathBuf::new(),
            shared_socket_users: SharedWith::default(),
            handshake_timeout_secs: 10,
            header_timeout_secs: 10,
            body_timeout_secs: 30,
            write_timeout_secs: 60,
            idle_timeout_secs: 60,
            max_connections: 10_000,
            max_relays: 10_000,
            trust_forwarded_from: Vec::new(),
            tls: tls::Config::default(),
        }
    }
}

impl Config {
    pub fn check(&self) -> Result<(), String> {
        for (key, value) in [
            ("handshake-timeout-secs", self.handshake_timeout_secs),
            ("header-timeout-secs", self.header_timeout_secs),
            ("body-timeout-secs", self.body_timeout_secs),
            ("write-timeout-secs", self.write_timeout_secs),
            ("idle-timeout-secs", self.idle_timeout_secs),
        ] {
            if !(1..=3600).contains(&value) {
                return Err(format!("http.{key} = {value} must be 1 to 3600"));
            }
        }
        for (key, value) in [("max-connections", self.max_connections), ("max-relays", self.max_relays)] {
            if !(1..=100_000).contains(&value) {
                return Err(format!("http.{key} = {value} must be 1 to 100000"));
            }
        }
        let proxies = self.trust_forwarded_from.len();
        if proxies > MAX_PROXIES {
            return Err(format!("http.trust-forwarded-from has {proxies} addresses; at most {MAX_PROXIES} are taken"));
        }
        if let Some(socket) = self.shared() {
            home::check_socket_path(socket).map_err(|e| format!("http.shared-socket: {e}"))?;
        }
        self.tls.check()
    }

    /// This one with what a running host can take over of another: all but the listeners, and whether there is TLS.
    pub fn adopt(&self, other: &Self) -> Self {
        let tls = if self.tls.is_on() == other.tls.is_on() { other.tls.clone() } else { self.tls.clone() };
        Self {
            listen: self.listen,
            shared_socket: self.shared_socket.clone(),
            shared_socket_users: self.shared_socket_users,
            max_connections: self.max_connections,
            tls,
            ..other.clone()
        }
    }

    /// The socket for other users, if there is to be one.
    pub fn shared(&self) -> Option<&Path> {
        Some(self.shared_socket.as_path()).filter(|path| !path.as_os_str().is_empty())
    }

    /// That whoever can see the network can read credentials, with what to do.
    pub fn warning(&self) -> Option<(String, String)> {
        let listen = self.listen;
        let open = !listen.ip().to_canonical().is_loopback() && !self.tls.is_on();
        open.then(|| {
            (
                format!("http.listen = {listen} is no loopback address, and there is no TLS: credentials can be read"),
                "name a certificate and its key in [http.tls], or listen on 127.0.0.1 behind a proxy that speaks TLS"
                    .into(),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_others_can_read_on_the_way_is_warned_of() {
        let tls = tls::Config { cert: "a".into(), key: "b".into(), ..Default::default() };
        let warns = |listen: &str, tls: &tls::Config| {
            Config { listen: listen.parse().unwrap(), tls: tls.clone(), ..Default::default() }.warning().is_some()
        };
        for (listen, open) in [
            ("127.0.0.1:1", false),
            ("127.9.9.9:1", false),
            ("[::1]:1", false),
            ("[::ffff:127.0.0.1]:1", false),
            ("0.0.0.0:1", true),
            ("[::]:1", true),
            ("192.168.0.9:1", true),
        ] {
            assert_eq!(warns(listen, &tls::Config::default()), open, "{listen}");
            assert!(!warns(listen, &tls), "{listen}");
        }
    }
}
