//! What a capsule is, in one place for the host, the tools and the components: the grammar of topics, capabilities
//! and principal ids, and (feature `package`) the manifest, the archive, its signatures, the types of topics, a
//! registry's index, and what a component must look like.
//!
//! Owns every definition of a name. Knows nothing of wasm, sockets, stores or who may do what.

/// Shows a name as its text, to people and in logs.
macro_rules! shows_its_text {
    ($name:ident) => {
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

pub mod capability;
pub mod near;
pub mod principal;
pub mod topic;

#[cfg(feature = "package")]
pub mod archive;
#[cfg(feature = "package")]
pub mod check;
#[cfg(feature = "package")]
pub mod distro;
#[cfg(feature = "package")]
pub mod env;
#[cfg(feature = "package")]
pub mod faults;
#[cfg(feature = "package")]
pub mod manifest;
#[cfg(feature = "package")]
mod probe;
#[cfg(feature = "package")]
pub mod registry;
#[cfg(feature = "package")]
pub mod schema;
#[cfg(feature = "package")]
pub mod shape;
#[cfg(feature = "package")]
pub mod signature;
#[cfg(feature = "package")]
pub mod tool;
#[cfg(feature = "package")]
pub mod trust;

pub use capability::Capability;
pub use principal::PrincipalId;
pub use topic::{Pattern, Topic};

/// A name that does not fit its grammar. The text names the value and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// A value as it may stand in an error: at most 64 bytes of it, without control characters.
pub(crate) fn shown(value: &str) -> String {
    let mut out: String = value.chars().take(64).flat_map(char::escape_debug).collect();
    if value.chars().count() > 64 {
        out.push('…');
    }
    out
}
