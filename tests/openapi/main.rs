//! `components/gateway/openapi.json`: that it is what the gateway's routes and the types of their topics make, and that it
//! is sound. [`mod@document`] makes it, of [`operations`] and [`types`]; [`lint`] reads it as somebody would who knows none
//! of those.
//!
//! `ASTRID_OPENAPI=write cargo astrid test openapi` writes it anew.

mod document;
mod lint;
mod operations;
mod types;

use std::path::Path;

use astrid_gateway::openapi::DOCUMENT;
use serde_json::{Value, json};

/// Set to `write`, the document is written instead of compared.
const WRITE: &str = "ASTRID_OPENAPI";

#[test]
fn the_document_is_what_routes_and_types_make_now() {
    let made = document::text();
    if std::env::var(WRITE).is_ok_and(|value| value == "write") {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../components/gateway/openapi.json");
        std::fs::write(&path, &made).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        return;
    }
    let differs = made.lines().zip(DOCUMENT.lines()).find(|(made, there)| made != there);
    assert!(
        made == DOCUMENT,
        "components/gateway/openapi.json is not what routes and types make now. \
         Write it anew: {WRITE}=write cargo astrid test openapi\n{differs:#?}"
    );
}

#[test]
fn the_document_is_sound() {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let findings = lint::findings(&document);
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[test]
fn what_is_not_sound_is_found() {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let me = "/paths/~1api~1auth~1me/get";
    let caps = "/paths/~1api~1sys~1principals~1{principal}~1caps/post";
    for (place, value, finding) in [
        ("/openapi".to_owned(), json!("3.0.0"), "3.1"),
        (format!("{me}/operationId"), json!("listPrincipals"), "stands twice"),
        (format!("{me}/operationId"), json!("Who am I"), "no name for programs"),
        (format!("{me}/summary"), json!(""), "no summary"),
        (format!("{me}/summary"), json!("Who is it."), "ends with a full stop"),
        (format!("{me}/description"), json!(null), "no description"),
        (format!("{me}/tags"), json!(["nobody"]), "no tag of the document"),
        (format!("{me}/tags"), json!([]), "one tag"),
        (format!("{me}/security"), json!([{ "nobody": [] }]), "no security scheme"),
        (format!("{me}/responses/200/content/application~1json/example"), json!(null), "no example"),
        (format!("{me}/responses/200/content/application~1json/schema"), json!(null), "no schema"),
        (format!("{me}/responses/200/headers"), json!(null), "x-request-id"),
        (format!("{me}/responses"), json!({ "200": { "description": "yes" } }), "can't answer 401"),
        (format!("{me}/responses"), json!({ "401": { "$ref": "#/components/responses/unauthorized" } }), "no success"),
        (format!("{me}/responses/401"), json!({ "description": "no" }), "not the one shape"),
        ("/components/responses/overloaded/headers/retry-after".to_owned(), json!(null), "retry-after"),
        (format!("{caps}/parameters"), json!([]), "`principal` of its path"),
        (format!("{caps}/parameters/0/required"), json!(null), "not required"),
        (format!("{caps}/parameters/0/description"), json!(null), "no description"),
        (format!("{caps}/parameters/0/example"), json!(null), "no example"),
        (
            format!("{caps}/requestBody/content/application~1json/schema"),
            json!({ "$ref": "#/components/schemas/x" }),
            "leads nowhere",
        ),
        (
            format!("{caps}/requestBody/content/application~1json/schema/required"),
            json!(["nobody"]),
            "requires `nobody`",
        ),
        ("/components/schemas/gateway.gap/properties/lost/type".to_owned(), json!("number of things"), "no type"),
        ("/components/schemas/gateway.gap/properties/lost/maximum".to_owned(), json!(0), "above its maximum"),
        ("/components/schemas/gateway.unused".to_owned(), json!({ "type": "string" }), "nobody refers to"),
    ] {
        let mut changed = document.clone();
        match changed.pointer_mut(&place) {
            Some(there) => *there = value,
            None => {
                let (parent, key) = place.rsplit_once('/').unwrap();
                changed.pointer_mut(parent).unwrap_or_else(|| panic!("{place}"))[key.replace("~1", "/")] = value;
            }
        }
        let findings = lint::findings(&changed);
        assert!(findings.iter().any(|found| found.contains(finding)), "{place}: {finding}: {findings:?}");
    }
}
