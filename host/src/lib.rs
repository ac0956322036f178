//! The native half of Astrid: it moves bytes and counts costs; components decide.
//!
//! # Where things are
//!
//! | room | owns |
//! |---|---|
//! | [`bus`] | messages: routes, fair queues, delivery, request and reply |
//! | [`sched`] | what runs next: fair shares by fuel |
//! | [`runtime`] | how much of the machine is used at once |
//! | [`pool`] | the engines, their instance pools, admission |
//! | [`meter`] | what one call may use and used |
//! | [`authority`] | is this capability held? authentication and its memory |
//! | [`store`], [`buckets`] | durable bytes; what a capsule sees of them |
//! | [`journal`] | facts: the append-only Merkle log, its checkpoints |
//! | [`keys`] | signing keys that no guest sees |
//! | [`mod@env`] | values of capsules' `[env]` fields, each principal's own, sealed |
//! | [`http`] | listeners, limits, mounts, `/healthz`, `/metrics` |
//! | [`process`] | programs of the system that capsules start, each in a jail |
//! | [`limit`] | the memory of rate limits that capsules set |
//! | [`loader`] | installed capsules and the change from one generation to the next |
//! | [`trust`] | who may sign capsules, and what becomes of what nobody vouches for |
//! | [`link`] | WIT conversion, one file for each interface |
//! | [`reload`] | the configuration, read again while the host runs |
//! | [`config`], [`home`], [`log`], [`observe`], [`shutdown`], [`files`] | what a process needs |
//! | [`host`] | all of it together, from command line to exit |
//! | [`cli`] | the verbs of `astrid`, each a call of the HTTP surface |
//!
//! A request: `http` reads it, finds the mount and calls that generation's component in a fresh instance; the component
//! hands its credential to `authority` and asks the `bus` for what it needs; the bus checks the binding's requirements
//! and calls another component in another instance; its answer travels back by value.
//!
//! # What never happens
//!
//! - A store (in wasmtime's sense) is used for two principals, for two calls at once, or for two calls where the
//!   manifest does not say so; or the caller of a call changes.
//! - A payload says who is calling: only the host stamps principal and sender.
//! - Something is granted by a manifest: it asks, the operator grants.
//! - A room other than `home` and `cli` reads the environment, or any reads another's configuration.
//! - The host looks into a payload, or knows what an invite, a role, a route or a tool is.
//! - A loss, a refusal or a fallback is silent.

pub mod authority;
pub mod buckets;
pub mod bus;
pub mod cli;
pub mod config;
pub mod distro;
pub mod env;
pub mod fault;
pub mod files;
pub mod home;
pub mod host;
pub mod http;
pub mod journal;
pub mod keys;
pub mod limit;
pub mod link;
pub mod loader;
pub mod log;
pub mod meter;
pub mod observe;
pub mod pool;
pub mod process;
pub mod reload;
pub mod runtime;
pub mod sched;
pub mod seal;
pub mod shutdown;
pub mod sink;
pub mod store;
pub mod trust;

use std::collections::HashMap;
use std::pin::Pin;

/// This build's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A future behind a pointer, where a trait object must return one.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// For keys that only operators and administrators choose: quick, seeded, but no match for somebody who chooses keys to
/// collide.
pub(crate) type QuickMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
