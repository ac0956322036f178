//! `diff`: what becomes of those who use a capsule, and of its operator, when a new version replaces an old one.
//!
//! Compared are the archives alone: the manifests, and the interfaces at the components' borders as they can be decoded.
//! What a payload means is in neither. Exit code 0: nothing that worked with the old version stops to; 1: something does,
//! or an archive can't be read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use astrid_capsule::archive::Archive;
use astrid_capsule::manifest::{Manifest, Subscribe};
use semver::Version;
use serde::Serialize;
use serde_json::json;

use crate::wit::{Border, Items};

/// What a difference means, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// Somebody who uses the old version can't use the new one in the same way.
    Breaking,
    /// The operator, or a principal, has something to decide or to set.
    Consent,
    /// There is more than before.
    Added,
    /// Neither.
    Changed,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Difference {
    kind: Kind,
    text: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Breaking => "breaks",
            Kind::Consent => "asks",
            Kind::Added => "adds",
            Kind::Changed => "changes",
        };
        write!(f, "{kind:8}{}", self.text)
    }
}

/// `diff`.
pub(crate) fn verb(old: &Path, new: &Path, json: bool) -> Result<ExitCode> {
    let (old, new) = (open(old)?, open(new)?);
    let border = |archive: &Archive| Border::read(&archive.component);
    let found = differences((&old.manifest, &border(&old)?), (&new.manifest, &border(&new)?));
    let same = old.component == new.component;
    let (from, to) = (&old.manifest.package.version, &new.manifest.package.version);
    let least = least(from, &found, same);
    let breaking = found.iter().any(|difference| difference.kind == Kind::Breaking);
    let advice = if to >= &least {
        format!("{to} is a fitting version after {from}")
    } else {
        format!("after {from} this should be at least {least}, not {to}")
    };
    if json {
        let report = json!({
            "name": new.manifest.package.name, "old": from, "new": to, "compatible": !breaking,
            "same_component": same, "differences": found, "least_version": least, "version_fits": to >= &least,
        });
        println!("{report}");
    } else {
        println!("{} {from} -> {to}", new.manifest.package.name);
        found.iter().for_each(|difference| println!("  {difference}"));
        match (found.is_empty(), same) {
            (true, true) => println!("  nothing differs"),
            (true, false) => println!("  only the code differs"),
            _ => {}
        }
        println!("{}; {advice}", if breaking { "breaking" } else { "compatible" });
    }
    Ok(if breaking { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn open(path: &Path) -> Result<Archive> {
    let file = File::open(path).with_context(|| format!("can't read {}", path.display()))?;
    Archive::read(BufReader::new(file)).with_context(|| format!("in {}", path.display()))
}

/// The lowest version that promises no more than is kept. Before 1.0.0 the second number stands for what breaks.
fn least(from: &Version, found: &[Difference], same: bool) -> Version {
    let worst = found.iter().map(|difference| difference.kind).min();
    let initial = from.major == 0;
    match worst {
        None if same => from.clone(),
        Some(Kind::Breaking) if !initial => Version::new(from.major + 1, 0, 0),
        Some(Kind::Breaking) => Version::new(0, from.minor + 1, 0),
        Some(Kind::Added | Kind::Consent) if !initial => Version::new(from.major, from.minor + 1, 0),
        _ if !from.pre.is_empty() => Version::new(from.major, from.minor, from.patch),
        _ => Version::new(from.major, from.minor, from.patch + 1),
    }
}

/// Everything that differs, the worst first.
fn differences(old: (&Manifest, &Border), new: (&Manifest, &Border)) -> Vec<Difference> {
    let mut report = Report(Vec::new());
    let ((old, old_border), (new, new_border)) = (old, new);
    if old.package.name != new.package.name {
        let (old, new) = (&old.package.name, &new.package.name);
        report.tell(
            Kind::Breaking,
            format!("it is another capsule: `{new}` does not replace `{old}`, and has none of its data"),
        );
    }
    asked(old, new, &mut report);
    bound(old, new, &mut report);
    sent(old, new, &mut report);
    capabilities(old, new, &mut report);
    mounts(old, new, &mut report);
    fields(old, new, &mut report);
    rest(old, new, &mut report);
    imports(old_border, new_border, &mut report);
    exports(old_border, new_border, &mut report);
    report.0.sort();
    report.0
}

struct Report(Vec<Difference>);

impl Report {
    fn tell(&mut self, kind: Kind, text: String) {
        self.0.push(Difference { kind, text });
    }
}

fn asked(old: &Manifest, new: &Manifest, report: &mut Report) {
    let list = |manifest: &Manifest| manifest.asked().iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    let (old, new) = (list(old), list(new));
    new.difference(&old).for_each(|asked| report.tell(Kind::Consent, format!("asks the operator for `{asked}`")));
    old.difference(&new).for_each(|asked| report.tell(Kind::Changed, format!("no longer asks for `{asked}`")));
}

fn bound(old: &Manifest, new: &Manifest, report: &mut Report) {
    let list = |manifest: &Manifest| -> BTreeMap<String, Subscribe> {
        manifest.subscribe.iter().map(|binding| (binding.topic.to_string(), binding.clone())).collect()
    };
    let (old_list, new_list) = (list(old), list(new));
    for (topic, was) in &old_list {
        let Some(is) = new_list.get(topic) else {
            let text = match was.handler {
                Some(_) => format!("no longer handles `{topic}`: who requests it gets no-responder"),
                None => format!("no longer subscribes to `{topic}`"),
            };
            report.tell(if was.handler.is_some() { Kind::Breaking } else { Kind::Changed }, text);
            continue;
        };
        if was.handler.is_some() && is.handler.is_none() {
            let text = format!("subscribes to `{topic}` instead of handling it: who requests it gets no-responder");
            report.tell(Kind::Breaking, text);
        }
        for required in is.requires.iter().filter(|required| !was.requires.contains(required)) {
            report.tell(Kind::Breaking, format!("`{topic}` requires `{required}`: who lacks it is denied"));
        }
        for required in was.requires.iter().filter(|required| !is.requires.contains(required)) {
            report.tell(Kind::Changed, format!("`{topic}` no longer requires `{required}`: more may reach it"));
        }
        match (was.public, is.public) {
            (true, false) => report.tell(Kind::Breaking, format!("`{topic}` is no longer open to `anonymous`")),
            (false, true) => report.tell(Kind::Changed, format!("`{topic}` is open to `anonymous`")),
            _ => {}
        }
        for (key, was, is) in changed(was, is, &["topic", "handler", "requires", "public"]) {
            report.tell(Kind::Changed, format!("`{topic}`: {key} was {was}, is {is}"));
        }
    }
    for (topic, is) in new_list.iter().filter(|(topic, _)| !old_list.contains_key(*topic)) {
        let what = if is.handler.is_some() { "handles" } else { "subscribes to" };
        report.tell(Kind::Added, format!("{what} `{topic}`"));
    }
}

fn sent(old: &Manifest, new: &Manifest, report: &mut Report) {
    let topics = |manifest: &Manifest| manifest.publish.iter().map(|sent| sent.topic.to_string()).collect();
    let (was, is): (BTreeSet<String>, BTreeSet<String>) = (topics(old), topics(new));
    was.difference(&is).for_each(|topic| {
        report.tell(Kind::Changed, format!("no longer sends to `{topic}`: who waits for it gets nothing"))
    });
    is.difference(&was).for_each(|topic| report.tell(Kind::Added, format!("may send to `{topic}`")));
    let judged = |manifest: &Manifest| {
        manifest.intercept.iter().map(|one| (one.topic.to_string(), one.clone())).collect::<BTreeMap<_, _>>()
    };
    let (was, is) = (judged(old), judged(new));
    for (topic, one) in &was {
        match is.get(topic) {
            None => report.tell(Kind::Changed, format!("no longer intercepts `{topic}`: nobody judges it")),
            Some(now) => changed(one, now, &["topic", "handler"]).into_iter().for_each(|(key, was, is)| {
                report.tell(Kind::Changed, format!("intercepting `{topic}`: {key} was {was}, is {is}"));
            }),
        }
    }
    is.keys().filter(|topic| !was.contains_key(*topic)).for_each(|topic| {
        report.tell(Kind::Added, format!("intercepts `{topic}`: it can change and deny what others send"))
    });
}

fn capabilities(old: &Manifest, new: &Manifest, report: &mut Report) {
    for was in &old.capability {
        match new.capability.iter().find(|is| is.id == was.id) {
            None => {
                let text = format!(
                    "no longer declares `{}`: who holds it holds nothing, and its self form counts nowhere",
                    was.id
                );
                report.tell(Kind::Breaking, text);
            }
            Some(is) => changed(was, is, &["id"]).into_iter().for_each(|(key, old, new)| {
                let kind = if key == "scope" { Kind::Breaking } else { Kind::Changed };
                report.tell(kind, format!("capability `{}`: {key} was {old}, is {new}", was.id));
            }),
        }
    }
    for is in new.capability.iter().filter(|is| !old.capability.iter().any(|was| was.id == is.id)) {
        report.tell(Kind::Added, format!("declares the capability `{}` ({})", is.id, is.label));
    }
}

fn mounts(old: &Manifest, new: &Manifest, report: &mut Report) {
    let list = |manifest: &Manifest| -> BTreeSet<String> {
        manifest.http.iter().flat_map(|http| http.mounts.iter().cloned()).collect()
    };
    let (was, is) = (list(old), list(new));
    was.difference(&is)
        .for_each(|mount| report.tell(Kind::Breaking, format!("no longer serves `{mount}`: its clients get 404")));
    is.difference(&was).for_each(|mount| report.tell(Kind::Added, format!("serves `{mount}`")));
    let (Some(was), Some(is)) = (&old.http, &new.http) else { return };
    for mount in is.mounts.iter().filter(|mount| was.mounts.contains(mount)) {
        let (bytes_was, bytes) = (was.body_bytes(mount), is.body_bytes(mount));
        if bytes_was != bytes {
            let kind = if bytes < bytes_was { Kind::Breaking } else { Kind::Changed };
            let text =
                format!("bodies below `{mount}` may have {bytes} bytes instead of {bytes_was}; larger ones get 413");
            report.tell(kind, text);
        }
        let (most_was, most) = (was.concurrent(mount), is.concurrent(mount));
        if most_was != most {
            let said = |most: Option<u32>| most.map_or_else(|| "as many as come".to_owned(), |most| most.to_string());
            let text = format!("requests below `{mount}` at once: {} instead of {}", said(most), said(most_was));
            report.tell(Kind::Changed, text);
        }
        for (what, was, is) in [
            ("a body", was.body_time(mount), is.body_time(mount)),
            ("an answer", was.answer_time(mount), is.answer_time(mount)),
        ] {
            if was != is {
                let said = |time: Option<Duration>| {
                    time.map_or_else(|| "no bound of its own".to_owned(), |time| format!("{time:?}"))
                };
                report.tell(
                    Kind::Changed,
                    format!("time for {what} below `{mount}`: {} instead of {}", said(is), said(was)),
                );
            }
        }
    }
}

fn fields(old: &Manifest, new: &Manifest, report: &mut Report) {
    for (name, was) in &old.env {
        let Some(is) = new.env.get(name) else {
            report
                .tell(Kind::Changed, format!("has no env field `{name}` any more: values that were set are not used"));
            continue;
        };
        if was.kind != is.kind {
            let text = format!(
                "env field `{name}` is a {} instead of a {}: values that were set may not fit",
                is.kind, was.kind
            );
            report.tell(Kind::Breaking, text);
        }
        let narrowed = !is.enum_values.is_empty()
            && (was.enum_values.is_empty() || was.enum_values.iter().any(|value| !is.enum_values.contains(value)));
        if narrowed && was.kind == is.kind {
            report.tell(Kind::Breaking, format!("env field `{name}` takes fewer values: one that was set may not fit"));
        }
        if was.default.is_some() && is.default.is_none() {
            report.tell(Kind::Consent, format!("env field `{name}` has no default any more: it must be set"));
        }
        for (key, was, is) in changed(was, is, &["type", "enum-values"]) {
            if !(key == "default" && is == "nothing") {
                report.tell(Kind::Changed, format!("env field `{name}`: {key} was {was}, is {is}"));
            }
        }
    }
    for (name, is) in new.env.iter().filter(|(name, _)| !old.env.contains_key(*name)) {
        match is.default {
            Some(_) => report.tell(Kind::Added, format!("has an env field `{name}`, with a default")),
            None => report.tell(Kind::Consent, format!("has an env field `{name}` without a default: it must be set")),
        }
    }
}

/// Sections that are read key by key: whatever else there is in them, now or later.
fn rest(old: &Manifest, new: &Manifest, report: &mut Report) {
    for (key, was, is) in changed(&old.limits, &new.limits, &[]) {
        report.tell(Kind::Changed, format!("limits.{key} was {was}, is {is}"));
    }
    for (key, was, is) in changed(&old.component, &new.component, &["wasm"]) {
        report.tell(Kind::Changed, format!("component.{key} was {was}, is {is}"));
    }
    let spoken_of =
        ["package", "component", "publish", "subscribe", "intercept", "capability", "asks", "env", "http", "limits"];
    for (section, ..) in changed(old, new, &spoken_of) {
        report.tell(Kind::Changed, format!("[{section}] differs"));
    }
}

/// The keys of two values of one type that differ, with both values as TOML has them.
fn changed<T: Serialize>(old: &T, new: &T, but: &[&str]) -> Vec<(String, String, String)> {
    let table = |value: &T| toml::Table::try_from(value).unwrap_or_default();
    let (old, new) = (table(old), table(new));
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let shown = |value: Option<&toml::Value>| value.map_or("nothing".to_owned(), ToString::to_string);
    let differing = keys.into_iter().filter(|key| !but.contains(&key.as_str()) && old.get(*key) != new.get(*key));
    differing.map(|key| (key.clone(), shown(old.get(key)), shown(new.get(key)))).collect()
}

/// An interface by name, whatever the patch of its version: `wasi:io/poll@0.2`.
fn track(name: &str) -> String {
    match name.rsplit_once('.') {
        Some((track, patch)) if name.contains('@') && patch.bytes().all(|b| b.is_ascii_digit()) => track.into(),
        _ => name.into(),
    }
}

fn tracks(side: &BTreeMap<String, Items>) -> BTreeMap<String, Items> {
    let mut tracks: BTreeMap<String, Items> = BTreeMap::new();
    for (name, items) in side {
        tracks.entry(track(name)).or_default().extend(items.clone());
    }
    tracks
}

fn imports(old: &Border, new: &Border, report: &mut Report) {
    let (was, is) = (tracks(&old.imports), tracks(&new.imports));
    for name in is.keys().filter(|name| !was.contains_key(*name)) {
        report.tell(Kind::Changed, format!("imports {name}: the host must offer it"));
    }
    was.keys().filter(|name| !is.contains_key(*name)).for_each(|name| {
        report.tell(Kind::Changed, format!("no longer imports {name}"));
    });
    for (name, items) in &is {
        let Some(before) = was.get(name) else { continue };
        let differing = items.iter().filter(|(item, text)| before.get(*item).is_some_and(|before| before != *text));
        differing.for_each(|(item, _)| {
            report.tell(Kind::Changed, format!("imports another {name}.{item}: the host must offer that one"));
        });
    }
}

fn exports(old: &Border, new: &Border, report: &mut Report) {
    let (was, is) = (tracks(&old.exports), tracks(&new.exports));
    for (name, before) in &was {
        let Some(now) = is.get(name) else {
            report.tell(Kind::Breaking, format!("no longer exports {name}: who calls it can't"));
            continue;
        };
        for (item, text) in before {
            match now.get(item) {
                None => report.tell(Kind::Breaking, format!("{name} has no `{item}` any more")),
                Some(now) if now != text => {
                    report
                        .tell(Kind::Breaking, format!("{name}: `{item}` was `{text}`, is `{now}`: who calls it can't"));
                }
                Some(_) => {}
            }
        }
        now.keys().filter(|item| !before.contains_key(*item)).for_each(|item| {
            report.tell(Kind::Added, format!("{name} has `{item}`"));
        });
    }
    is.keys()
        .filter(|name| !was.contains_key(*name))
        .for_each(|name| report.tell(Kind::Added, format!("exports {name}")));
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = r#"
        asks = ["http:mount", "keys:a"]
        [package]
        name = "notes"
        version = "1.2.3"
        [[publish]]
        topic = "notes.v1.added"
        [[subscribe]]
        topic = "notes.v1.add"
        handler = "add"
        [[subscribe]]
        topic = "notes.v1.open"
        handler = "open"
        public = true
        [[subscribe]]
        topic = "notes.v1.gone"
        handler = "gone"
        [[capability]]
        id = "notes:add"
        label = "Add"
        description = "Add notes"
        category = "notes"
        scope = "both"
        danger = "safe"
        [env.MODEL]
        type = "string"
        default = "a"
        [env.N]
        type = "string"
        [http]
        mounts = ["/notes"]
        max-body-bytes = 100
        [limits]
        timeout-ms = 100
    "#;

    fn manifest(text: &str) -> Manifest {
        Manifest::parse(text).unwrap()
    }

    fn told(old: &str, new: &str) -> Vec<String> {
        let border = Border::default();
        let found = differences((&manifest(old), &border), (&manifest(new), &border));
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_breaks_asks_adds_and_changes_is_told_in_words() {
        let edits = [
            (
                "handler = \"add\"",
                "handler = \"add\"\nrequires = [\"notes:add\"]",
                "breaks  `notes.v1.add` requires `notes:add`",
            ),
            ("public = true", "", "breaks  `notes.v1.open` is no longer open to `anonymous`"),
            ("topic = \"notes.v1.gone\"", "topic = \"notes.v2.new\"", "breaks  no longer handles `notes.v1.gone`"),
            ("topic = \"notes.v1.gone\"", "topic = \"notes.v2.new\"", "adds    handles `notes.v2.new`"),
            ("scope = \"both\"", "scope = \"global\"", "breaks  capability `notes:add`: scope was"),
            ("danger = \"safe\"", "danger = \"extreme\"", "changes capability `notes:add`: danger was"),
            ("id = \"notes:add\"", "id = \"notes:put\"", "breaks  no longer declares `notes:add`"),
            ("mounts = [\"/notes\"]", "mounts = [\"/n\"]", "breaks  no longer serves `/notes`"),
            ("max-body-bytes = 100", "max-body-bytes = 10", "breaks  bodies below `/notes` may have 10 bytes"),
            ("max-body-bytes = 100", "max-body-bytes = 1000", "changes bodies below `/notes` may have 1000 bytes"),
            (
                "max-body-bytes = 100",
                "max-body-bytes = 100\n        max-concurrent = 9",
                "changes requests below `/notes` at once: 9 instead of as many as come",
            ),
            (
                "[env.N]\n        type = \"string\"",
                "[env.N]\n        type = \"number\"",
                "breaks  env field `N` is a number",
            ),
            ("default = \"a\"", "default = \"a\"\nenum-values = [\"a\"]", "breaks  env field `MODEL` takes fewer"),
            ("default = \"a\"", "", "asks    env field `MODEL` has no default"),
            ("[env.N]", "[env.M]", "asks    has an env field `M` without a default"),
            ("[env.N]", "[env.M]", "changes has no env field `N` any more"),
            ("\"keys:a\"", "\"keys:b\"", "asks    asks the operator for `keys:b`"),
            ("\"keys:a\"", "\"keys:b\"", "changes no longer asks for `keys:a`"),
            ("topic = \"notes.v1.added\"", "topic = \"other.v1\"", "asks    asks the operator for `bus:send:other:v1`"),
            ("topic = \"notes.v1.added\"", "topic = \"other.v1\"", "changes no longer sends to `notes.v1.added`"),
            ("timeout-ms = 100", "timeout-ms = 99", "changes limits.timeout-ms was 100, is 99"),
            ("name = \"notes\"", "name = \"memo\"", "breaks  it is another capsule"),
            (
                "handler = \"add\"",
                "handler = \"add\"\nordered = false",
                "changes `notes.v1.add`: ordered was nothing, is false",
            ),
        ];
        for (from, to, want) in edits {
            assert!(OLD.contains(from), "{from}");
            let told = told(OLD, &OLD.replacen(from, to, 1));
            assert!(told.iter().any(|line| line.starts_with(want)), "{want}: {told:#?}");
            assert!(told.is_sorted_by_key(|line| {
                ["breaks", "asks", "adds", "changes"].iter().position(|kind| line.starts_with(kind))
            }));
        }
        assert!(told(OLD, OLD).is_empty());
    }

    fn border(imports: &[(&str, &str, &str)], exports: &[(&str, &str, &str)]) -> Border {
        let side = |list: &[(&str, &str, &str)]| {
            let mut side: BTreeMap<String, Items> = BTreeMap::new();
            for (name, item, text) in list {
                side.entry((*name).into()).or_default().insert((*item).into(), (*text).into());
            }
            side
        };
        Border { imports: side(imports), exports: side(exports) }
    }

    #[test]
    fn interfaces_are_compared_item_by_item_and_patches_of_a_version_are_one() {
        let plain = manifest("[package]\nname = \"a\"\nversion = \"0.1.0\"\n");
        let told = |old: &Border, new: &Border| -> Vec<String> {
            differences((&plain, old), (&plain, new)).iter().map(ToString::to_string).collect()
        };
        let old = border(&[("wasi:io/poll@0.2.3", "poll", "func()")], &[("a:b/c@1.0.0", "f", "func(x: u8)")]);
        let patched = border(&[("wasi:io/poll@0.2.12", "poll", "func()")], &[("a:b/c@1.0.1", "f", "func(x: u8)")]);
        assert!(told(&old, &patched).is_empty());
        let changed = border(&[], &[("a:b/c@1.0.0", "f", "func(x: u16)"), ("a:b/c@1.0.0", "g", "func()")]);
        let lines = told(&old, &changed);
        assert!(lines[0].starts_with("breaks  a:b/c@1.0: `f` was `func(x: u8)`, is `func(x: u16)`"), "{lines:#?}");
        assert!(lines.contains(&"adds    a:b/c@1.0 has `g`".to_owned()), "{lines:#?}");
        assert!(lines.contains(&"changes no longer imports wasi:io/poll@0.2".to_owned()), "{lines:#?}");
        assert!(told(&old, &border(&[], &[]))[0].starts_with("breaks  no longer exports a:b/c@1.0"));
    }

    #[test]
    fn the_advice_follows_semver() {
        let least = |from: &str, kinds: &[Kind], same: bool| {
            let found: Vec<_> = kinds.iter().map(|kind| Difference { kind: *kind, text: String::new() }).collect();
            super::least(&Version::parse(from).unwrap(), &found, same).to_string()
        };
        assert_eq!(least("1.2.3", &[], true), "1.2.3");
        assert_eq!(least("1.2.3", &[], false), "1.2.4");
        assert_eq!(least("1.2.3", &[Kind::Changed], true), "1.2.4");
        assert_eq!(least("1.2.3", &[Kind::Changed, Kind::Added], true), "1.3.0");
        assert_eq!(least("1.2.3", &[Kind::Added, Kind::Breaking], true), "2.0.0");
        assert_eq!(least("0.2.3", &[Kind::Breaking], true), "0.3.0");
        assert_eq!(least("0.2.3", &[Kind::Added], true), "0.2.4");
        assert_eq!(least("1.0.0-rc.1", &[Kind::Changed], true), "1.0.0");
    }
}
