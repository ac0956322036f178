//! Write a capsule: a WebAssembly component that an Astrid host loads, and that talks to others by messages.
//!
//! A whole capsule is a manifest and a few functions. `Capsule.toml` binds topics to handlers and says what they
//! require:
//!
//! ```toml
//! [package]
//! name = "greeter"
//! version = "0.1.0"
//!
//! [[subscribe]]
//! topic = "greeter.v1.greet"
//! handler = "greet"
//! ```
//!
//! `src/lib.rs`, in a crate with `crate-type = ["cdylib", "rlib"]` that depends on `astrid-sdk` and `serde`:
//!
//! ```
//! use astrid_sdk::prelude::*;
//!
//! #[derive(Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Greet {
//!     name: String,
//! }
//!
//! #[derive(Serialize)]
//! struct Greeting {
//!     text: String,
//!     times: u64,
//! }
//!
//! fn greet(message: Message) -> Answer {
//!     let Greet { name } = message.json()?;
//!     if name.is_empty() {
//!         return Err(Refusal::invalid("name is empty"));
//!     }
//!     let greeted = Bucket::open("greeted", Scope::Principal)?;
//!     let times = kv::transact(|transaction| {
//!         let times = transaction.get_json::<u64>(&greeted, &name)?.unwrap_or(0) + 1;
//!         transaction.put_json(&greeted, &name, &times)?;
//!         Ok::<_, kv::Error>(times)
//!     })?;
//!     log::info!("{} greets {name}", message.principal);
//!     json(&Greeting { text: format!("Hello, {name}!"), times })
//! }
//!
//! handlers! { "greet" => greet }
//! ```
//!
//! What to know of a call:
//! - It runs in an instance of its own, and nothing stays in memory afterwards; what must stay goes into [`kv`]. With
//!   `[component] isolation = "principal"` it may meet the instance of an earlier call of the same principal, and then
//!   statics are as that call left them. Sessions and transactions end with their call nevertheless.
//! - The host has checked what the binding requires, against the message's principal and target. A handler doesn't
//!   repeat it, and nothing in a payload says who is calling: [`bus::Message::principal`] does.
//! - It ends: by its answer, or by its deadline, its fuel or its memory. A panic is a trap: the caller gets `trapped`,
//!   and nobody else notices.
//! - `?` turns a failed [`bus`] request, a [`kv`], an [`mod@env`] or a [`keys`] error into a fitting [`bus::Refusal`].
//!
//! Build it with `astrid-build build`, which makes a component of it for `wasm32-wasip2`. Natively everything compiles
//! and nothing of the host answers, so logic that deserves native tests sits in modules that call none of it.
//!
//! This crate owns names, JSON and the macros of [`export`]; every effect is an import that the host implements.

pub mod audit;
pub mod authority;
#[doc(hidden)]
pub mod bindings;
pub mod bus;
pub mod env;
pub mod export;
pub mod host;
pub mod http;
pub mod journal;
pub mod keys;
pub mod kv;
pub mod limit;
pub mod log;
pub mod process;
pub mod run;
pub mod sink;

/// What most capsules need: `use astrid_sdk::prelude::*;`.
pub mod prelude {
    pub use serde::{Deserialize, Serialize};

    pub use crate::bus::{self, Answer, Failure, Message, Refusal, Verdict, json};
    pub use crate::kv::{self, Bucket, Scope, Transaction};
    pub use crate::{
        audit, authenticator, env, front_end, handlers, health, installer, interceptor, log, relay, run, run_loop,
        starter, state,
    };
}
