//! What a host takes and an author should look at: what a manifest declares and its component does not use, and the other
//! way round.
//!
//! Judged by what the component imports and exports, function by function: that is what it can do, whatever its code says.
//! A component whose tool chain imports interfaces as a whole (QuickJS, CPython) says nothing of that kind: what is missing in
//! its manifest can't be known. Refuses to know errors; those are `astrid_capsule::check`'s.

use astrid_capsule::check::{
    AUTHENTICATOR, BUS_HANDLER, BUS_INTERCEPTOR, HTTP_HANDLER, LIFECYCLE, STATE, Surface, WASI_HTTP_HANDLER,
};
use astrid_capsule::manifest::{Manifest, grant};

use crate::wit::Border;

const BUS: &str = "astrid:bus/bus";
const ENV: &str = "astrid:env/env";
const HELD: &str = "astrid:authority/held";
const SESSIONS: &str = "astrid:authority/sessions";

/// Functions that send, so that a topic must stand in `[[publish]]`.
const SENDING: [(&str, &str); 8] = [
    (BUS, "publish"),
    (BUS, "request"),
    (BUS, "request-stream"),
    (BUS, "[method]caller.publish"),
    (BUS, "[method]caller.request"),
    (SESSIONS, "[method]session.publish"),
    (SESSIONS, "[method]session.request"),
    (SESSIONS, "[method]session.request-stream"),
];

/// Functions that open subscriptions, so that a topic must stand in a `[[subscribe]]` with `delivery`.
const SUBSCRIBING: [(&str, &str); 2] = [(BUS, "[static]subscription.open"), (SESSIONS, "[method]session.subscribe")];

/// Functions that hardly anybody uses together: where all of an interface are imported, its whole is.
const TOGETHER: [(&str, [&str; 4]); 2] = [
    (BUS, ["request", "request-stream", "send-piece", "[static]subscription.open"]),
    (
        SESSIONS,
        [
            "[method]session.publish",
            "[method]session.request",
            "[method]session.request-stream",
            "[method]session.subscribe",
        ],
    ),
];

/// Exports that mean something to a host beside those that a manifest speaks of.
const OTHER_EXPORTS: [&str; 4] = [LIFECYCLE, "astrid:http/relay", "astrid:capsule/run-loop", STATE];

/// A rule's name, and what to look at.
pub(crate) type Warning = (&'static str, String);

/// Every warning about a component that fits its manifest.
pub(crate) fn lint(manifest: &Manifest, surface: &Surface, border: &Border) -> Vec<Warning> {
    let mut found = Vec::new();
    acl(manifest, border, &mut found);
    asks(manifest, surface, &mut found);
    env(manifest, border, &mut found);
    exports(manifest, surface, &mut found);
    let asking = surface.imports(HELD) || surface.imports(SESSIONS);
    for declared in manifest.capability.iter().filter(|_| !asking) {
        if !manifest.subscribe.iter().any(|binding| binding.requires.contains(&declared.id)) {
            let text = format!("[[capability]] {} is declared, and no binding requires it", declared.id);
            found.push(("unused-capability", text));
        }
    }
    found
}

fn acl(manifest: &Manifest, border: &Border, found: &mut Vec<Warning>) {
    let used = |functions: &[(&str, &'static str)]| {
        functions.iter().find(|(interface, function)| border.calls(interface, function)).map(|(_, function)| *function)
    };
    // What is imported whole says nothing of what is used.
    let whole = TOGETHER.iter().any(|(interface, all)| all.iter().all(|function| border.calls(interface, function)));
    match used(&SENDING) {
        None => {
            for sent in &manifest.publish {
                found.push(("unused-publish", format!("[[publish]] {}: the component sends nothing", sent.topic)));
            }
        }
        Some(function) if manifest.publish.is_empty() && !whole => found.push((
            "missing-publish",
            format!("the component calls `{function}`, and without a [[publish]] whatever it sends is denied"),
        )),
        Some(_) => {}
    }
    let mut open = manifest.subscribe.iter().filter(|binding| binding.handler.is_none()).peekable();
    match used(&SUBSCRIBING) {
        None => open.for_each(|binding| {
            let text = format!("[[subscribe]] {}: the component opens no subscription", binding.topic);
            found.push(("unused-subscribe", text));
        }),
        Some(function) if open.peek().is_none() && !whole => found.push((
            "missing-subscribe",
            format!("the component calls `{function}`, and without a [[subscribe]] with delivery it is denied"),
        )),
        Some(_) => {}
    }
}

fn asks(manifest: &Manifest, surface: &Surface, found: &mut Vec<Warning>) {
    for asked in &manifest.asks {
        let (used, what) = match asked.as_str() {
            grant::SESSIONS => (surface.imports(SESSIONS), "imports astrid:authority/sessions"),
            grant::REGISTRAR => (surface.imports("astrid:authority/registrar"), "imports astrid:authority/registrar"),
            grant::HOST => (surface.imports("astrid:sys/host"), "imports astrid:sys/host"),
            grant::JOURNAL_READ => (surface.imports("astrid:journal/facts"), "imports astrid:journal/facts"),
            grant::JOURNAL_PRUNE => (surface.imports("astrid:journal/retention"), "imports astrid:journal/retention"),
            grant::SINK => (surface.imports("astrid:sys/sink"), "imports astrid:sys/sink"),
            grant::MOUNT => (manifest.http.is_some(), "is mounted: Capsule.toml has no [http]"),
            other if other.starts_with("keys:") => (surface.imports("astrid:keys/keys"), "imports astrid:keys/keys"),
            _ => continue,
        };
        if !used {
            found.push(("unused-ask", format!("asks `{asked}`, and nothing {what}")));
        }
    }
}

fn env(manifest: &Manifest, border: &Border, found: &mut Vec<Warning>) {
    match (manifest.env.keys().next(), border.uses(ENV)) {
        (Some(field), false) => {
            found.push(("unused-env", format!("[env.{field}]: the component does not read {ENV}")));
        }
        (None, true) => {
            found.push(("missing-env", format!("the component reads {ENV}, and Capsule.toml has no [env] field")));
        }
        _ => {}
    }
}

fn exports(manifest: &Manifest, surface: &Surface, found: &mut Vec<Warning>) {
    let handled = manifest.subscribe.iter().any(|binding| binding.handler.is_some());
    let spoken_of = [
        (BUS_HANDLER, handled, "[[subscribe]] with a handler"),
        (BUS_INTERCEPTOR, !manifest.intercept.is_empty(), "[[intercept]]"),
        (HTTP_HANDLER, manifest.http.is_some(), "[http]"),
        (WASI_HTTP_HANDLER, manifest.http.is_some(), "[http]"),
    ];
    for (export, needed, section) in spoken_of {
        if surface.exports(export) && !needed {
            let text = format!("the component exports {export}, and without {section} nothing calls it");
            found.push(("uncalled-export", text));
        }
    }
    let known = |path: &str| {
        spoken_of.iter().any(|(export, ..)| *export == path) || path == AUTHENTICATOR || OTHER_EXPORTS.contains(&path)
    };
    for name in surface.exports.iter().filter(|name| name.starts_with("astrid:")) {
        if !known(name.split('@').next().unwrap_or(name)) {
            found.push(("uncalled-export", format!("the component exports {name}, which no host calls")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules that speak up for a manifest and a component with these imports (`interface#function`) and exports.
    fn rules(manifest: &str, imports: &[&str], exports: &[&str]) -> Vec<&'static str> {
        let text = format!("{manifest}\n[package]\nname = \"a\"\nversion = \"0.1.0\"\n");
        let manifest = Manifest::parse(&text).unwrap();
        let (mut surface, mut border) = (Surface::default(), Border::default());
        for import in imports {
            let (interface, function) = import.split_once('#').unwrap_or((import, ""));
            let name = format!("{interface}@0.1.0");
            border.imports.entry(name.clone()).or_default().insert(function.into(), "func()".into());
            surface.imports.insert(name);
        }
        surface.exports.extend(exports.iter().map(|export| format!("{export}@0.1.0")));
        lint(&manifest, &surface, &border).into_iter().map(|(rule, _)| rule).collect()
    }

    const HANDLED: &str = "[[subscribe]]\ntopic = \"a.b\"\nhandler = \"b\"\n";

    #[test]
    fn what_fits_is_not_spoken_of() {
        let whole = format!("[[publish]]\ntopic = \"b.c\"\n{HANDLED}[env.KEY]\ntype = \"string\"\n");
        assert!(rules(&whole, &["astrid:bus/bus#request", "astrid:env/env#get"], &[BUS_HANDLER, LIFECYCLE]).is_empty());
        // The types of http name resources of the bus; a piece of an answer needs no topic.
        assert!(rules(HANDLED, &["astrid:bus/bus", "astrid:bus/bus#send-piece"], &[BUS_HANDLER]).is_empty());
    }

    #[test]
    fn topics_are_told_that_are_not_used_or_missing() {
        assert_eq!(rules("[[publish]]\ntopic = \"b.c\"", &["astrid:bus/bus"], &[]), ["unused-publish"]);
        assert_eq!(rules("", &["astrid:bus/bus#publish"], &[]), ["missing-publish"]);
        let subscribed = "[[subscribe]]\ntopic = \"a.b\"\ndelivery = \"lossy\"\n";
        assert_eq!(rules(subscribed, &[], &[]), ["unused-subscribe"]);
        assert_eq!(rules("", &["astrid:bus/bus#[static]subscription.open"], &[]), ["missing-subscribe"]);
        assert!(rules(subscribed, &["astrid:bus/bus#[static]subscription.open"], &[]).is_empty());
    }

    #[test]
    fn an_interface_that_is_imported_whole_says_nothing_of_what_is_missing() {
        for (interface, functions) in TOGETHER {
            let all: Vec<String> = functions.iter().map(|function| format!("{interface}#{function}")).collect();
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            assert!(rules("", &all, &[]).is_empty(), "{interface}");
            assert!(!rules("", &all[..3], &[]).is_empty(), "{interface}");
        }
    }

    #[test]
    fn asks_fields_exports_and_capabilities_are_told_that_nothing_uses() {
        let all = "asks = [\"authority:sessions\", \"authority:registrar\", \"sys:host\", \"http:mount\", \"keys:x\"]";
        assert_eq!(rules(all, &[], &[]), ["unused-ask"; 5]);
        assert!(rules("asks = [\"keys:x\"]", &["astrid:keys/keys"], &[]).is_empty());
        assert_eq!(rules("[env.KEY]\ntype = \"string\"", &[], &[]), ["unused-env"]);
        assert_eq!(rules("", &["astrid:env/env#get"], &[]), ["missing-env"]);
        for export in [BUS_HANDLER, BUS_INTERCEPTOR, HTTP_HANDLER, "astrid:bus/other"] {
            assert_eq!(rules("", &[], &[export]), ["uncalled-export"], "{export}");
        }
        let declared = "[[capability]]\nid = \"a:b\"\nlabel = \"\"\ndescription = \"\"\ncategory = \"\"\n\
                        scope = \"both\"\ndanger = \"safe\"\n";
        assert_eq!(rules(declared, &[], &[]), ["unused-capability"]);
        assert!(rules(declared, &[HELD], &[]).is_empty());
        let required = format!("{declared}{HANDLED}requires = [\"a:b\"]\n");
        assert!(rules(&required, &[], &[BUS_HANDLER]).is_empty());
    }
}
