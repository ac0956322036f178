//! What wit-bindgen makes of `wit/`: the imports once, and each world with an export on top of them.
//!
//! Nothing is written by hand here; [`crate`]'s other modules give it names.
#![allow(
    unsafe_code,
    unreachable_pub,
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::undocumented_unsafe_blocks,
    reason = "generated code; its unsafe blocks are the canonical ABI"
)]

/// [`wit_bindgen::generate`] over all of `wit/`.
macro_rules! generate {
    ($($options:tt)*) => {
        wit_bindgen::generate!({
            path: [
                "../wit/bus",
                "../wit/store",
                "../wit/keys",
                "../wit/process",
                "../wit/env",
                "../wit/journal",
                "../wit/sys",
                "../wit/authority",
                "../wit/http",
                "../wit/capsule",
            ],
            generate_all,
            $($options)*
        });
    };
}

/// Everything that a capsule may import; what a component does not call does not appear in it.
pub mod imports {
    generate! {
        world: "astrid:capsule/imports",
        generate_unused_types: true,
    }
}

/// One world that includes the imports and has one export, its shared interfaces mapped onto [`imports`].
macro_rules! export_world {
    ($name:ident, $world:literal, $module:literal) => {
        pub mod $name {
            generate! {
                world: $world,
                with: {
                    "astrid:bus/types@0.1.0": crate::bindings::imports::astrid::bus::types,
                    "astrid:bus/bus@0.1.0": crate::bindings::imports::astrid::bus::bus,
                    "astrid:store/kv@0.1.0": crate::bindings::imports::astrid::store::kv,
                    "astrid:keys/keys@0.1.0": crate::bindings::imports::astrid::keys::keys,
                    "astrid:journal/facts@0.1.0": crate::bindings::imports::astrid::journal::facts,
                    "astrid:journal/retention@0.1.0": crate::bindings::imports::astrid::journal::retention,
                    "astrid:sys/log@0.1.0": crate::bindings::imports::astrid::sys::log,
                    "astrid:sys/audit@0.1.0": crate::bindings::imports::astrid::sys::audit,
                    "astrid:sys/limit@0.1.0": crate::bindings::imports::astrid::sys::limit,
                    "astrid:sys/host@0.1.0": crate::bindings::imports::astrid::sys::host,
                    "astrid:sys/sink@0.1.0": crate::bindings::imports::astrid::sys::sink,
                    "astrid:process/process@0.1.0": crate::bindings::imports::astrid::process::process,
                    "astrid:env/env@0.1.0": crate::bindings::imports::astrid::env::env,
                    "astrid:authority/held@0.1.0": crate::bindings::imports::astrid::authority::held,
                    "astrid:authority/sessions@0.1.0": crate::bindings::imports::astrid::authority::sessions,
                    "astrid:authority/registrar@0.1.0": crate::bindings::imports::astrid::authority::registrar,
                    "astrid:capsule/supervision@0.1.0": crate::bindings::imports::astrid::capsule::supervision,
                },
                pub_export_macro: true,
                export_macro_name: $module,
                default_bindings_module: "bindings",
            }
        }
    };
}

export_world!(handler, "astrid:capsule/handler", "export_handler");
export_world!(interceptor, "astrid:capsule/interceptor", "export_interceptor");
export_world!(front_end, "astrid:capsule/front-end", "export_front_end");
export_world!(authenticator, "astrid:capsule/authenticator", "export_authenticator");
export_world!(relay, "astrid:capsule/relay", "export_relay");
export_world!(runner, "astrid:capsule/runner", "export_runner");
export_world!(carrier, "astrid:capsule/carrier", "export_carrier");
export_world!(installer, "astrid:capsule/installer", "export_installer");
export_world!(healthy, "astrid:capsule/healthy", "export_healthy");
export_world!(starter, "astrid:capsule/starter", "export_starter");
