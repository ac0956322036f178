//! `astrid:keys`.

use astrid_capsule::manifest::grant;

use super::Call;
use super::bindings::handler::astrid::keys::keys;
use crate::journal::{Fact, Outcome};

impl Call {
    fn allowed(&self, purpose: &str) -> Result<(), keys::Error> {
        let granted =
            grant::key_purpose(purpose).filter(|of| self.generation.granted(&format!("{}:{of}", grant::KEYS)));
        if granted.is_some() {
            return Ok(());
        }
        let shown = crate::log::clean(purpose.get(..64).unwrap_or(purpose));
        Err(keys::Error::Denied(format!("the grant keys:{shown} is needed")))
    }
}

impl keys::Host for Call {
    async fn sign(&mut self, purpose: String, bytes: Vec<u8>) -> wasmtime::Result<Result<Vec<u8>, keys::Error>> {
        let allowed = self.allowed(&purpose);
        let payload = Some(self.host.journal.digest(&bytes));
        let fact = Fact { target: Some(crate::log::clean(&purpose)), payload, ..self.fact("keys.sign") };
        self.record(match &allowed {
            Ok(()) => fact,
            Err(keys::Error::Denied(why)) => Fact { outcome: Outcome::Refused, reason: Some(why.clone()), ..fact },
        });
        Ok(allowed.map(|()| self.host.keys.sign(&purpose, &bytes).to_vec()))
    }

    async fn verify(
        &mut self,
        purpose: String,
        bytes: Vec<u8>,
        signature: Vec<u8>,
    ) -> wasmtime::Result<Result<bool, keys::Error>> {
        Ok(self.allowed(&purpose).map(|()| self.host.keys.verify(&purpose, &bytes, &signature)))
    }

    async fn public_key(&mut self, purpose: String) -> wasmtime::Result<Result<Vec<u8>, keys::Error>> {
        Ok(self.allowed(&purpose).map(|()| self.host.keys.public_key(&purpose).to_vec()))
    }
}
