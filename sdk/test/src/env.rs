//! `astrid:env`: values that the test sets, over the manifest's defaults.

use std::collections::HashMap;

use astrid_capsule::env::{Field, Kind};
use astrid_capsule::principal::ANONYMOUS;
use wasmtime::Result as Wasm;

use crate::bindings::astrid::env::env::{self, Error};
use crate::engine::State;

/// Values by principal and field.
pub(crate) type Values = HashMap<(String, String), String>;

fn to_wit(name: &str, field: &Field, is_set: bool) -> env::Field {
    env::Field {
        name: name.into(),
        kind: match field.kind {
            Kind::String => env::Kind::String,
            Kind::Number => env::Kind::Number,
            Kind::Boolean => env::Kind::Boolean,
            Kind::Secret => env::Kind::Secret,
        },
        description: field.description.clone(),
        request: field.request.clone(),
        default: field.default_value(),
        enum_values: field.enum_values.clone(),
        placeholder: field.placeholder.clone(),
        is_set,
    }
}

impl State {
    fn own(&self, name: &str) -> Option<&String> {
        let principal = &self.caller.principal;
        let own = self.fakes.env.get(&(principal.clone(), name.into()));
        own.filter(|_| principal != ANONYMOUS)
    }

    /// What the distribution says.
    fn everybodys(&self, name: &str) -> Option<&String> {
        self.fakes.env.get(&(ANONYMOUS.into(), name.into()))
    }
}

impl env::Host for State {
    fn get(&mut self, name: String) -> Wasm<Result<Option<String>, Error>> {
        let Some(field) = self.manifest.env.get(&name) else {
            return Ok(Err(Error::UnknownField(format!("the manifest has no [env.{}]", name.escape_debug()))));
        };
        Ok(Ok(self.own(&name).or_else(|| self.everybodys(&name)).cloned().or_else(|| field.default_value())))
    }

    fn list(&mut self) -> Wasm<Result<Vec<env::Field>, Error>> {
        let fields = self.manifest.env.iter().map(|(name, field)| to_wit(name, field, self.own(name).is_some()));
        Ok(Ok(fields.collect()))
    }
}
