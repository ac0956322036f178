//! What a host says of itself to whoever has no session yet.

use serde_json::json;

use super::Answers::Json;
use super::{Operation, op};

pub(super) fn rows() -> Vec<Operation> {
    vec![
        op("GET /api/openapi.json", "describe", "distribution", "This document", json!({}), Json(json!({ "openapi": "3.1.0" })))
            .own(200, None, Some("gateway.document")),
        op(
            "GET /api/distribution",
            "showDistribution",
            "distribution",
            "What the host is called and whether it lets others in",
            json!({}),
            Json(json!({
                "id": "notes", "name": "Notes", "description": "Notes for small teams", "homepage": "https://notes.example",
                "invites_enabled": true, "branding": { "primary_color": "#204060", "accent_color": "#fa0" },
            })),
        )
        .refuses(&[404]),
        op(
            "GET /api/distribution/onboarding",
            "showOnboarding",
            "distribution",
            "What whoever sets the host up is asked",
            json!({}),
            Json(json!({ "fields": [
                { "key": "api-key", "secret": true, "description": "The key of the model's provider" },
                { "key": "region", "secret": false, "default": "eu" },
            ] })),
        )
        .refuses(&[404]),
    ]
}
