//! The macros that make a crate a component: each gives the world one export. Use each at most once in a crate.
//!
//! Natively the same code compiles without exporting anything, so that a crate's domain logic has native tests.

/// Exports `astrid:bus/handler`: the names that the manifest gives to its bindings, and the functions that serve them.
/// A name that is not listed is refused as `not-found`.
///
/// ```
/// use astrid_sdk::prelude::*;
///
/// fn echo(message: Message) -> Answer {
///     Ok(message.payload)
/// }
///
/// handlers! { "echo" => echo }
/// ```
#[macro_export]
macro_rules! handlers {
    ($($name:literal => $function:path),+ $(,)?) => {
        const _: () = {
            struct Component;

            impl $crate::bindings::handler::exports::astrid::bus::handler::Guest for Component {
                fn handle(handler: ::std::string::String, message: $crate::bus::Message) -> $crate::bus::Answer {
                    match handler.as_str() {
                        $($name => $function(message),)+
                        _ => $crate::export::unknown_handler(&handler),
                    }
                }
            }

            #[cfg(target_family = "wasm")]
            $crate::bindings::handler::export_handler!(Component with_types_in $crate::bindings::handler);
            #[cfg(not(target_family = "wasm"))]
            const _: fn(::std::string::String, $crate::bus::Message) -> $crate::bus::Answer =
                <Component as $crate::bindings::handler::exports::astrid::bus::handler::Guest>::handle;
        };
    };
}

/// Exports `astrid:bus/interceptor`: the names that the manifest gives to its interceptions, and functions from
/// [`bus::Message`](crate::bus::Message) to [`bus::Verdict`](crate::bus::Verdict). A name that is not listed traps, so
/// that the manifest's `fail` decides.
///
/// ```
/// use astrid_sdk::prelude::*;
///
/// fn short(message: Message) -> Verdict {
///     if message.payload.len() > 100 {
///         return Verdict::denied("at most 100 bytes");
///     }
///     Verdict::Pass
/// }
///
/// interceptor! { "short" => short }
/// ```
#[macro_export]
macro_rules! interceptor {
    ($($name:literal => $function:path),+ $(,)?) => {
        const _: () = {
            struct Component;

            impl $crate::bindings::interceptor::exports::astrid::bus::interceptor::Guest for Component {
                fn intercept(handler: ::std::string::String, message: $crate::bus::Message) -> $crate::bus::Verdict {
                    match handler.as_str() {
                        $($name => $function(message),)+
                        _ => $crate::export::unknown_interceptor(&handler),
                    }
                }
            }

            #[cfg(target_family = "wasm")]
            $crate::bindings::interceptor::export_interceptor!(
                Component with_types_in $crate::bindings::interceptor
            );
            #[cfg(not(target_family = "wasm"))]
            const _: fn(::std::string::String, $crate::bus::Message) -> $crate::bus::Verdict =
                <Component as $crate::bindings::interceptor::exports::astrid::bus::interceptor::Guest>::intercept;
        };
    };
}

/// Exports `astrid:http/handler`: a function from [`http::Request`](crate::http::Request) to
/// [`http::Response`](crate::http::Response).
#[macro_export]
macro_rules! front_end {
    ($function:path) => {
        const _: () = {
            struct Component;

            impl $crate::bindings::front_end::exports::astrid::http::handler::Guest for Component {
                fn handle(request: $crate::http::Request) -> $crate::http::Response {
                    $function(request)
                }
            }

            #[cfg(target_family = "wasm")]
    $crate::bindings::front_end::export_front_end!(Component with_types_in $crate::bindings::front_end);
            #[cfg(not(target_family = "wasm"))]
            const _: fn($crate::http::Request) -> $crate::http::Response =
                <Component as $crate::bindings::front_end::exports::astrid::http::handler::Guest>::handle;
        };
    };
}

/// Exports `astrid:http/relay`: a function from the context of a [`http::Relay`](crate::http::Relay) and its next events
/// ([`http::Event`](crate::http::Event), 1 to 64 of them) to [`http::Output`](crate::http::Output). Every call has an
/// instance of its own, of the version that is live then: what must be known from one to the next is in the context or the
/// store.
///
/// ```
/// use astrid_sdk::http::{Event, Output};
///
/// fn lines(_context: Vec<u8>, events: Vec<Event>) -> Output {
///     let mut body = Vec::new();
///     for event in events {
///         if let Event::Message(message) = event {
///             body.extend(message.payload);
///             body.push(b'\n');
///         }
///     }
///     Output::more(body)
/// }
///
/// astrid_sdk::relay! { lines }
/// ```
#[macro_export]
macro_rules! relay {
    ($function:path) => {
        const _: () = {
            struct Component;

            impl $crate::bindings::relay::exports::astrid::http::relay::Guest for Component {
                fn relay(
                    context: ::std::vec::Vec<u8>,
                    events: ::std::vec::Vec<$crate::http::Event>,
                ) -> $crate::http::Output {
                    $function(context, events)
                }
            }

            #[cfg(target_family = "wasm")]
    $crate::bindings::relay::export_relay!(Component with_types_in $crate::bindings::relay);
            #[cfg(not(target_family = "wasm"))]
            const _: fn(::std::vec::Vec<u8>, ::std::vec::Vec<$crate::http::Event>) -> $crate::http::Output =
                <Component as $crate::bindings::relay::exports::astrid::http::relay::Guest>::relay;
        };
    };
}

/// Exports `astrid:authority/authenticator`: a function from [`authority::Presented`](crate::authority::Presented) to
/// `Option<`[`authority::Identified`](crate::authority::Identified)`>`.
#[macro_export]
macro_rules! authenticator {
    ($function:path) => {
        const _: () = {
            struct Component;

            impl $crate::bindings::authenticator::exports::astrid::authority::authenticator::Guest for Component {
                fn authenticate(
                    presented: $crate::authority::Presented,
                ) -> ::std::option::Option<$crate::authority::Identified> {
                    $function(presented)
                }
            }

            #[cfg(target_family = "wasm")]
            $crate::bindings::authenticator::export_authenticator!(
                Component with_types_in $crate::bindings::authenticator
            );
            #[cfg(not(target_family = "wasm"))]
            const _: fn($crate::authority::Presented) -> ::std::option::Option<$crate::authority::Identified> =
                <Component as $crate::bindings::authenticator::exports::astrid::authority::authenticator::Guest>::authenticate;
        };
    };
}

/// Exports `astrid:capsule/lifecycle`: a function of nothing to `Result<(), String>`, called each time this version is
/// about to go live. An error refuses the version.
#[macro_export]
macro_rules! starter {
    ($function:path) => {
        const _: () = {
            struct Component;

            impl $crate::bindings::starter::exports::astrid::capsule::lifecycle::Guest for Component {
                fn start() -> ::std::result::Result<(), ::std::string::String> {
                    $function()
                }
            }

            #[cfg(target_family = "wasm")]
    $crate::bindings::starter::export_starter!(Component with_types_in $crate::bindings::starter);
            #[cfg(not(target_family = "wasm"))]
            const _: fn() -> ::std::result::Result<(), ::std::string::String> =
                <Component as $crate::bindings::starter::exports::astrid::capsule::lifecycle::Guest>::start;
        };
    };
}

/// Exports `astrid:capsule/installation`: a function from `&`[`kv::Transaction`](crate::kv::Transaction) to
/// `Result<(), String>` for the first installation, and one that is also given the version that is installed for every
/// other. What they write takes effect with the installation, or not at all.
///
/// ```
/// use astrid_sdk::prelude::*;
///
/// fn install(transaction: &Transaction) -> Result<(), String> {
///     let settings = Bucket::open("settings", Scope::Capsule).map_err(|e| e.to_string())?;
///     transaction.put_json(&settings, "layout", &2).map_err(|e| e.to_string())
/// }
///
/// fn upgrade(transaction: &Transaction, _from: String) -> Result<(), String> {
///     install(transaction)
/// }
///
/// installer! { install, upgrade }
/// ```
#[macro_export]
macro_rules! installer {
    ($install:path, $upgrade:path) => {
        const _: () = {
            struct Component;

            impl $crate::bindings::installer::exports::astrid::capsule::installation::Guest for Component {
                fn install(transaction: &$crate::kv::Transaction) -> ::std::result::Result<(), ::std::string::String> {
                    $install(transaction)
                }

                fn upgrade(
                    transaction: &$crate::kv::Transaction,
                    from: ::std::string::String,
                ) -> ::std::result::Result<(), ::std::string::String> {
                    $upgrade(transaction, from)
                }
            }

            #[cfg(target_family = "wasm")]
    $crate::bindings::installer::export_installer!(Component with_types_in $crate::bindings::installer);
            #[cfg(not(target_family = "wasm"))]
            const _: fn(&$crate::kv::Transaction) -> ::std::result::Result<(), ::std::string::String> =
                <Component as $crate::bindings::installer::exports::astrid::capsule::installation::Guest>::install;
        };
    };
}

/// Exports `astrid:capsule/health`: a function of nothing to `Result<(), String>`, called before this version goes live. An
/// error refuses the version.
#[macro_export]
macro_rules! health {
    ($function:path) => {
        const _: () = {
            struct Component;

            impl $crate::bindings::healthy::exports::astrid::capsule::health::Guest for Component {
                fn check() -> ::std::result::Result<(), ::std::string::String> {
                    $function()
                }
            }

            #[cfg(target_family = "wasm")]
    $crate::bindings::healthy::export_healthy!(Component with_types_in $crate::bindings::healthy);
            #[cfg(not(target_family = "wasm"))]
            const _: fn() -> ::std::result::Result<(), ::std::string::String> =
                <Component as $crate::bindings::healthy::exports::astrid::capsule::health::Guest>::check;
        };
    };
}

/// Exports `astrid:capsule/run-loop`: a function of nothing to `Result<(), String>` that runs for as long as this version
/// is live. It calls [`run::ready`](crate::run::ready) once it has what it needs.
#[macro_export]
macro_rules! run_loop {
    ($function:path) => {
        const _: () = {
            struct Component;

            impl $crate::bindings::runner::exports::astrid::capsule::run_loop::Guest for Component {
                fn run() -> ::std::result::Result<(), ::std::string::String> {
                    $function()
                }
            }

            #[cfg(target_family = "wasm")]
    $crate::bindings::runner::export_runner!(Component with_types_in $crate::bindings::runner);
            #[cfg(not(target_family = "wasm"))]
            const _: fn() -> ::std::result::Result<(), ::std::string::String> =
                <Component as $crate::bindings::runner::exports::astrid::capsule::run_loop::Guest>::run;
        };
    };
}

/// Exports `astrid:capsule/state`, beside [`run_loop!`](crate::run_loop): a function of nothing to
/// `Result<`[`run::Snapshot`](crate::run::Snapshot)`, String>`, called when `run` has returned for another version, and one of
/// such a snapshot to `Result<(), String>`, called in that version before its first `run`. What they carry lies in statics,
/// which `run` must not reset: it may be called again in the same instance.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use astrid_sdk::prelude::*;
/// use astrid_sdk::run::Snapshot;
///
/// static SEEN: AtomicU64 = AtomicU64::new(0);
///
/// fn export() -> Result<Snapshot, String> {
///     Snapshot::json(1, &SEEN.load(Ordering::Relaxed))
/// }
///
/// fn import(snapshot: Snapshot) -> Result<(), String> {
///     match snapshot.schema {
///         1 => SEEN.store(snapshot.read()?, Ordering::Relaxed),
///         other => return Err(format!("a state of schema {other} is none of mine")),
///     }
///     Ok(())
/// }
///
/// state! { export, import }
/// ```
#[macro_export]
macro_rules! state {
    ($export:path, $import:path) => {
        const _: () = {
            struct Component;

            impl $crate::bindings::carrier::exports::astrid::capsule::state::Guest for Component {
                fn export_state() -> ::std::result::Result<$crate::run::Snapshot, ::std::string::String> {
                    $export()
                }

                fn import_state(snapshot: $crate::run::Snapshot) -> ::std::result::Result<(), ::std::string::String> {
                    $import(snapshot)
                }
            }

            #[cfg(target_family = "wasm")]
    $crate::bindings::carrier::export_carrier!(Component with_types_in $crate::bindings::carrier);
            #[cfg(not(target_family = "wasm"))]
            const _: fn() -> ::std::result::Result<$crate::run::Snapshot, ::std::string::String> =
                <Component as $crate::bindings::carrier::exports::astrid::capsule::state::Guest>::export_state;
        };
    };
}

#[doc(hidden)]
pub fn unknown_handler(name: &str) -> crate::bus::Answer {
    Err(crate::bus::Refusal::not_found(format!("this capsule has no handler `{name}`")))
}

#[doc(hidden)]
pub fn unknown_interceptor(name: &str) -> crate::bus::Verdict {
    panic!("this capsule has no interceptor `{name}`")
}
