//! `GET /api/openapi.json`: what this surface takes and answers, for programs that read OpenAPI 3.1.
//!
//! The document is made of the route table ([`crate::routes`]) and the types of the topics that the routes stand for, and lies
//! beside the source; `tests/openapi` makes it and fails where it is not what those would make now. Nothing is computed here.

/// OpenAPI 3.1, as JSON.
pub const DOCUMENT: &str = include_str!("../openapi.json");
