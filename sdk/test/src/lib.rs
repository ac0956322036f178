//! Test a capsule as the bytes that ship: one component alone in wasmtime, with fakes for everything that it imports.
//!
//! ```no_run
//! use astrid_sdk_test::Capsule;
//! use serde_json::json;
//!
//! let mut capsule = Capsule::named("greeter")?;
//! let answer = capsule.as_principal("alice").handle("greet", json!({ "name": "Bo" }))?;
//! assert_eq!(answer.unwrap()["text"], "Hello, Bo!");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Owns the fakes: a store in memory, responders for the bus, real ed25519 keys from fixed seeds, environment, sessions, the
//! registrar and the host. They keep the contracts of `wit/`: what the manifest does not ask for is denied, topics
//! that it does not name can't be sent to, a conflict is a conflict. Everything is deterministic but the guest's
//! random numbers; the clock stands still until the test moves it.
//!
//! Bounds: every call runs in a fresh instance, whatever the manifest says of `component.isolation` (a host may drop what
//! it keeps at any time, so a capsule must stand that); within the manifest's memory and fuel. Deadlines are not simulated;
//! an endless loop ends by fuel.
//!
//! Where `$ASTRID_USAGE` names a file, every call adds a line with its test, fuel and memory to it; `astrid-build test`
//! makes a table of them.
//!
//! Refuses to know: routing and what bindings require (the host checks before a handler runs, so a test here decides
//! itself who calls), listeners, other capsules. Stories across capsules belong to tests against a real host.

mod bindings;
mod bus;
mod call;
mod capsule;
mod engine;
mod env;
mod equal;
mod error;
mod find;
mod generation;
mod http;
mod journal;
mod keys;
mod process;
mod registrar;
mod relay;
mod run_loop;
mod sessions;
mod sink;
mod state;
mod store;
mod stream;
mod sys;
mod usage;

pub use bindings::astrid::authority::registrar::{Quotas, Standing};
pub use bindings::astrid::authority::sessions::Rejection;
pub use bindings::astrid::bus::types::{Failure, Message, Refusal, RefusalCode};
pub use bindings::astrid::env::env::{Field, Kind};
pub use bindings::astrid::http::types::{Certificate, Connection, Request, Response};
pub use bindings::astrid::store::kv::Entry;
pub use bindings::astrid::sys::host::{
    Applied, Branding, Capability, Capsule as CapsuleRow, CapsuleLoad, Change, Direction, Distribution, EnvError,
    HostStatus, Icon, InstallError, InstallOptions, Installed, Load, LogLine, PrincipalLoad, PrincipalUsage, Process,
    Setting, Step, Topic, TopicType, Variable,
};
pub use bindings::astrid::sys::log::Level;
pub use bindings::exports::astrid::authority::authenticator::{ClientCertificate, Identified, Presented, UnixPeer};
pub use bindings::exports::astrid::bus::interceptor::Verdict;
pub use bindings::exports::astrid::capsule::state::Snapshot;
pub use bindings::exports::astrid::http::relay::{Event, Output};
pub use call::{Call, Streamed};
pub use capsule::{Capsule, Usage};
pub use engine::DEFAULT_TIME;
pub use error::{CallError, OpenError};
pub use find::packed;
pub use journal::FakeJournal;
pub use process::{FakeProcesses, FakeProgram, Started};
pub use registrar::{Ended, Registrar};
pub use run_loop::Ran;
pub use sessions::OWNER_UID;
pub use sink::FakeSinks;
pub use store::{MemoryStore, Owner, Slot};
pub use sys::{FakeHost, Logged};
