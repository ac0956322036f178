//! Generated from `wit/`: the host's side of every interface, and one world for each export.
#![allow(unreachable_pub, missing_docs, reason = "generated code")]

/// Imports, and the export of message handlers.
pub mod handler {
    wasmtime::component::bindgen!({
        path: ["../wit/bus", "../wit/store", "../wit/keys", "../wit/process", "../wit/env", "../wit/journal", "../wit/sys", "../wit/authority", "../wit/http", "../wit/capsule"],
        world: "astrid:capsule/handler",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "astrid:bus/bus.answer": crate::link::bus::AnswerOfCall,
            "astrid:bus/bus.caller": crate::link::bus::CallerOfCall,
            "astrid:bus/bus.subscription": crate::link::bus::SubscriptionOfCall,
            "astrid:store/kv.bucket": crate::link::store::Bucket,
            "astrid:store/kv.transaction": crate::link::store::TransactionOfCall,
            "astrid:authority/sessions.session": crate::link::authority::SessionOfCall,
            "astrid:sys/sink.delivery": crate::link::sink::Delivery,
            "astrid:process/process.child": crate::link::process::ChildOfCall,
        },
    });
}

macro_rules! export_world {
    ($name:ident, $world:literal) => {
        pub mod $name {
            wasmtime::component::bindgen!({
                path: ["../wit/bus", "../wit/store", "../wit/keys", "../wit/process", "../wit/env", "../wit/journal", "../wit/sys", "../wit/authority", "../wit/http", "../wit/capsule"],
                world: $world,
                imports: { default: async | trappable },
                exports: { default: async },
                with: {
                    "astrid:bus/types": super::handler::astrid::bus::types,
                    "astrid:bus/bus": super::handler::astrid::bus::bus,
                    "astrid:store/kv": super::handler::astrid::store::kv,
                    "astrid:keys/keys": super::handler::astrid::keys::keys,
                    "astrid:process/process": super::handler::astrid::process::process,
                    "astrid:env/env": super::handler::astrid::env::env,
                    "astrid:capsule/supervision": super::handler::astrid::capsule::supervision,
                    "astrid:journal/facts": super::handler::astrid::journal::facts,
                    "astrid:journal/retention": super::handler::astrid::journal::retention,
                    "astrid:sys/log": super::handler::astrid::sys::log,
                    "astrid:sys/audit": super::handler::astrid::sys::audit,
                    "astrid:sys/limit": super::handler::astrid::sys::limit,
                    "astrid:sys/host": super::handler::astrid::sys::host,
                    "astrid:sys/sink": super::handler::astrid::sys::sink,
                    "astrid:authority/held": super::handler::astrid::authority::held,
                    "astrid:authority/sessions": super::handler::astrid::authority::sessions,
                    "astrid:authority/registrar": super::handler::astrid::authority::registrar,
                },
            });
        }
    };
}

export_world!(interceptor, "astrid:capsule/interceptor");
export_world!(front_end, "astrid:capsule/front-end");
export_world!(authenticator, "astrid:capsule/authenticator");
export_world!(relay, "astrid:capsule/relay");
export_world!(runner, "astrid:capsule/runner");
export_world!(carrier, "astrid:capsule/carrier");
export_world!(installer, "astrid:capsule/installer");
export_world!(healthy, "astrid:capsule/healthy");
export_world!(starter, "astrid:capsule/starter");
