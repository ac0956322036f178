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

#[doc(hidden)]
pub fn unknown_handler(name: &str) -> crate::bus::Answer {
    Err(crate::bus::Refusal::not_found(format!("this capsule has no handler `{name}`")))
}

#[doc(hidden)]
pub fn unknown_interceptor(name: &str) -> crate::bus::Verdict {
    panic!("this capsule has no interceptor `{name}`")
}
