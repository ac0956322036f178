//! The first-party components, each alone in wasmtime as the bytes that ship, with fakes for everything around it.
//!
//! What is tested here is what somebody outside may rely on: answers, refusals, statuses, what is registered and what
//! is never written down. How a component keeps its promises is its own business and has native tests beside it.
//! `cargo astrid test component` builds the capsules first.

mod audit;
mod gateway;
mod identity;
mod system;
mod types;

use astrid_sdk_test::Capsule;

/// A packed capsule, or a failure that says how to build it.
fn capsule(name: &str) -> Capsule {
    Capsule::named(name).unwrap_or_else(|error| panic!("{error}"))
}
