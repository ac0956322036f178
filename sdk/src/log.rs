//! Lines in the host's log, under the capsule's name.
//!
//! `log::error!`, `log::warn!`, `log::info!` and `log::debug!` take what `format!` takes. Never log a credential.

pub use crate::bindings::imports::astrid::sys::log::Level;

/// One line. Control characters are escaped by the host, and what exceeds 8 KiB is cut.
pub fn line(level: Level, message: &str) {
    // Natively there is no host to write to: domain logic that logs stays testable.
    if cfg!(target_family = "wasm") {
        crate::bindings::imports::astrid::sys::log::log(level, message);
    } else {
        eprintln!("{level:?} {message}");
    }
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_error {
    ($($arguments:tt)+) => { $crate::log::line($crate::log::Level::Error, &::std::format!($($arguments)+)) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_warn {
    ($($arguments:tt)+) => { $crate::log::line($crate::log::Level::Warn, &::std::format!($($arguments)+)) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_info {
    ($($arguments:tt)+) => { $crate::log::line($crate::log::Level::Info, &::std::format!($($arguments)+)) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_debug {
    ($($arguments:tt)+) => { $crate::log::line($crate::log::Level::Debug, &::std::format!($($arguments)+)) };
}

pub use crate::{__log_debug as debug, __log_error as error, __log_info as info, __log_warn as warn};
