//! Generated from `wit/`: every import that a capsule may have and every export that it can be called by.
#![allow(unreachable_pub, reason = "generated; only what the tests of capsules need is exported again")]

wasmtime::component::bindgen!({
    path: ["../../wit/bus", "../../wit/store", "../../wit/keys", "../../wit/process", "../../wit/env", "../../wit/journal", "../../wit/sys", "../../wit/authority", "../../wit/http", "../../wit/capsule"],
    inline: "
        package astrid:sdk-test;
        world everything {
            include astrid:capsule/imports@0.1.0;
            export astrid:bus/handler@0.1.0;
            export astrid:bus/interceptor@0.1.0;
            export astrid:http/handler@0.1.0;
            export astrid:http/relay@0.1.0;
            export astrid:capsule/run-loop@0.1.0;
            export astrid:capsule/state@0.1.0;
            export astrid:authority/authenticator@0.1.0;
            export astrid:capsule/lifecycle@0.1.0;
            export astrid:capsule/installation@0.1.0;
            export astrid:capsule/health@0.1.0;
        }
    ",
    world: "astrid:sdk-test/everything",
    imports: { default: trappable },
    with: {
        "astrid:bus/bus.answer": crate::stream::Answer,
        "astrid:bus/bus.caller": crate::stream::Caller,
        "astrid:bus/bus.subscription": crate::stream::Subscription,
        "astrid:store/kv.bucket": crate::store::Bucket,
        "astrid:store/kv.transaction": crate::store::Transaction,
        "astrid:authority/sessions.session": crate::sessions::Session,
        "astrid:sys/sink.delivery": crate::sink::Delivery,
        "astrid:process/process.child": crate::process::Child,
    },
});
