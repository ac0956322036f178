//! The capabilities that people can be granted, as the capsules' manifests declare them.

use std::collections::BTreeSet;

use astrid_sdk::host;
use serde::Serialize;

/// Every capability that people can be granted.
#[derive(Debug, Serialize)]
pub struct Catalogue {
    pub capabilities: Vec<Capability>,
    pub categories: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Capability {
    pub id: String,
    pub label: String,
    pub description: String,
    pub category: String,
    pub scope: String,
    pub danger: String,
}

impl From<Vec<host::Capability>> for Catalogue {
    fn from(declared: Vec<host::Capability>) -> Self {
        let categories: BTreeSet<_> = declared.iter().map(|one| one.category.clone()).collect();
        let capability = |one: host::Capability| Capability {
            id: one.id,
            label: one.label,
            description: one.description,
            category: one.category,
            scope: one.scope,
            danger: one.danger,
        };
        let capabilities = declared.into_iter().map(capability).collect();
        Self { capabilities, categories: categories.into_iter().collect() }
    }
}
