//! `astrid:env`, and what `astrid:sys/host` has of it for operators.

use astrid_capsule::PrincipalId;
use astrid_capsule::env::{Field, Fields, Kind};
use zeroize::Zeroizing;

use super::Call;
use super::bindings::handler::astrid::env::env;
use super::bindings::handler::astrid::sys::host::EnvError;
use crate::env::{Error, Place};
use crate::journal::{Fact, Outcome};

impl From<Error> for env::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound(why) => Self::UnknownField(why),
            // Only writing finds a value or principal invalid.
            Error::Invalid(_) | Error::Unavailable => Self::Unavailable,
        }
    }
}

impl From<Error> for EnvError {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound(why) => Self::NotFound(why),
            Error::Invalid(why) => Self::Invalid(why),
            Error::Unavailable => Self::Unavailable,
        }
    }
}

fn outcome(error: &EnvError) -> Outcome {
    if matches!(error, EnvError::Unavailable) { Outcome::Failed } else { Outcome::Refused }
}

fn why(error: &EnvError) -> String {
    match error {
        EnvError::NotFound(why) | EnvError::Invalid(why) => why.clone(),
        EnvError::Unavailable => "unavailable".to_owned(),
    }
}

fn to_wit((name, field, is_set): (&str, &Field, bool)) -> env::Field {
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

impl env::Host for Call {
    async fn get(&mut self, name: String) -> wasmtime::Result<Result<Option<String>, env::Error>> {
        let place = Place { capsule: &self.generation.id, principal: &self.turn.sender.principal };
        let value = self.host.env.get(place, &self.generation.manifest.env, &name);
        let field = self.generation.manifest.env.get(&name);
        if field.is_some_and(|field| field.kind == Kind::Secret) {
            let outcome = if value.is_ok() { Outcome::Ok } else { Outcome::Failed };
            let reason = value.is_err().then(|| "it can't be read".to_owned());
            self.record(Fact { target: Some(name), outcome, reason, ..self.fact("env.read") });
        }
        Ok(value.map_err(Into::into))
    }

    async fn list(&mut self) -> wasmtime::Result<Result<Vec<env::Field>, env::Error>> {
        let place = Place { capsule: &self.generation.id, principal: &self.turn.sender.principal };
        let fields = self.host.env.list(place, &self.generation.manifest.env);
        Ok(fields.map(|fields| fields.into_iter().map(to_wit).collect()).map_err(Into::into))
    }
}

impl Call {
    fn env_of(&self, capsule: &str, principal: &str) -> Result<(Fields, PrincipalId), EnvError> {
        let fields = self.host.loader.env(capsule).ok_or_else(|| {
            let shown: String = capsule.chars().take(64).flat_map(char::escape_debug).collect();
            EnvError::NotFound(format!("no capsule `{shown}` is installed"))
        })?;
        let principal = PrincipalId::parse(principal).map_err(|error| EnvError::Invalid(error.to_string()))?;
        Ok((fields, principal))
    }

    pub(super) fn env_fields(&self, capsule: &str, principal: &str) -> Result<Vec<env::Field>, EnvError> {
        let (fields, principal) = self.env_of(capsule, principal)?;
        self.host.env.exists(&principal)?;
        let listed = self.host.env.list(Place { capsule, principal: &principal }, &fields)?;
        Ok(listed.into_iter().map(to_wit).collect())
    }

    /// Without a value: clears. Owns what it needs: a call's store can't be shared while it waits.
    pub(super) fn env_write(
        &self,
        capsule: String,
        field: String,
        principal: &str,
        value: Option<Zeroizing<String>>,
    ) -> impl Future<Output = Result<(), EnvError>> + Send + use<> {
        let (host, known, rehearsal) =
            (self.host.clone(), self.env_of(&capsule, principal), self.turn.sender.rehearsal);
        let fact = self.fact(if value.is_some() { "env.set" } else { "env.clear" });
        let fact = Fact { target: Some(principal.to_owned()), detail: Some(format!("{capsule}: {field}")), ..fact };
        async move {
            let write = async {
                let (fields, principal) = known?;
                if rehearsal {
                    return Ok(());
                }
                let place = Place { capsule: &capsule, principal: &principal };
                match value {
                    Some(value) => host.env.set(place, &fields, &field, &value).await?,
                    None => host.env.clear(place, &fields, &field).await?,
                }
                Ok(())
            };
            let done = write.await;
            if !rehearsal {
                host.journal.append(match &done {
                    Ok(()) => fact,
                    Err(error) => Fact { outcome: outcome(error), reason: Some(why(error)), ..fact },
                });
            }
            done
        }
    }
}
