//! What it costs to hold messages to their types: calls of one handler by a topic that has types and by one that has none,
//! in turns, on a strict host.

use std::fs::File;

use anyhow::ensure;
use astrid_capsule::archive::Archive;
use astrid_capsule::manifest::Subscribe;
use astrid_capsule::schema::{Schemas, TypeName, Wit};
use astrid_capsule::{Pattern, PrincipalId};
use astrid_host::host::Host;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::calls::{PAYLOAD_BYTES, ROUNDS, Sample, round};
use crate::report::Report;
use crate::{Setup, library, median};

const TYPED: &str = "echo.v1.say";
const BARE: &str = "echo.v1.bare";

pub(crate) fn bench(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let echo = typed_echo(setup)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let host = runtime.block_on(library::host(setup, "strict", &echo, &["bus.strict=true".to_owned()]))?;
    let (principal, payload) = (PrincipalId::parse("default")?, payload()?);

    let (mut typed, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..=ROUNDS {
        for (topic, taken) in [(TYPED, &mut typed), (BARE, &mut bare)] {
            let call = || answered(&host, &principal, topic, payload.clone());
            taken.push(round(&runtime, 1, call, || host.metrics.run_upkeep())?);
        }
    }
    let of = |samples: &[Sample], figure: fn(&Sample) -> f64| median(samples[1..].iter().map(figure));
    for (name, unit, figure) in [
        ("bus.strict", "calls/s", (|sample| sample.rate) as fn(&Sample) -> f64),
        ("bus.strict.cpu", "µs/call", |sample| sample.cpu),
    ] {
        report.add_beside(name, of(&typed, figure), unit, "without types", of(&bare, figure));
    }
    host.store.close();
    Ok(())
}

/// One request. Returns the length of the answer.
async fn answered(host: &Host, principal: &PrincipalId, topic: &str, payload: Bytes) -> anyhow::Result<usize> {
    Ok(library::ask(host, principal, topic, payload).await?.len())
}

/// A payload of small records.
fn payload() -> anyhow::Result<Bytes> {
    let notes: Vec<Value> =
        (0..14).map(|n| json!({ "id": n, "kind": "short", "text": "some words", "tags": ["a", "b"] })).collect();
    let mut text = json!({ "notes": notes, "rest": "" }).to_string();
    ensure!(text.len() <= PAYLOAD_BYTES, "{} bytes", text.len());
    let end = text.len() - "\"}".len();
    text.insert_str(end, &"x".repeat(PAYLOAD_BYTES - text.len()));
    Ok(text.into())
}

/// The echo with types on one of two topics.
fn typed_echo(setup: &Setup) -> anyhow::Result<std::path::PathBuf> {
    let record = |properties: Value| {
        let required: Vec<String> =
            properties.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
        json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
    };
    let text = json!({ "type": "string" });
    let note = record(json!({
        "id": { "type": "integer", "minimum": 0, "maximum": u32::MAX },
        "kind": { "type": "string", "enum": ["short", "long"] },
        "text": text,
        "tags": { "type": "array", "items": text },
    }));
    let list = record(json!({ "notes": { "type": "array", "items": { "$ref": "#/$defs/notes.note" } }, "rest": text }));
    let document = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": { "notes.note": note, "notes.list": list },
    });
    let schemas = Schemas::parse(document.to_string().as_bytes())?;
    let mut archive = Archive::read(File::open(setup.capsule("echo"))?)?;
    let name = TypeName::parse("notes.list")?;
    archive.manifest.subscribe[0].wit = Some(Wit { payload: name.clone(), answer: Some(name) });
    archive.manifest.subscribe.push(Subscribe::handled(Pattern::parse(BARE)?, "say"));
    let path = setup.place("typed.capsule");
    let mut typed = Archive::new(&archive.manifest, archive.component);
    typed.schemas = schemas;
    typed.write(File::create(&path)?)?;
    Ok(path)
}
