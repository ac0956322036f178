//! What a principal may use: the numbers in its record, read and changed. The host enforces them, and has a default for
//! each that is not set; its bounds are the host's, checked here so that a request hears of them by name.

use serde::{Deserialize, Serialize};
use serde_json::Number;

use crate::payload::{self, given, invalid};
use crate::ports::{Ports, transact};
use crate::principals;
use crate::refusal::Refusal;

/// None: the host's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quotas {
    /// Linear memory of one instance, in bytes.
    pub max_memory_bytes: Option<u64>,
    /// Seconds of one call.
    pub max_timeout_secs: Option<u64>,
    pub max_cpu_fuel_per_sec: Option<u64>,
    /// Payloads sent, in bytes per second.
    pub max_ipc_throughput_bytes: Option<u64>,
    /// Bytes that its buckets hold in all capsules.
    pub max_storage_bytes: Option<u64>,
    pub max_concurrent_calls: Option<u64>,
    /// Sandboxed children at once.
    pub max_background_processes: Option<u64>,
}

const MAX_TIMEOUT_SECS: u64 = 86_400;
const MAX_PROCESSES: u64 = 256;

impl Quotas {
    /// Whether nothing is set.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The answer to `quota.get` and `quota.set`. A quota that is not set is null.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    pub principal: String,
    pub quotas: Quotas,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetRequest {
    principal: String,
    #[serde(deserialize_with = "payload::object")]
    quotas: Update,
}

/// A field that is not there stays as it is; null sets the host's default.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    #[serde(default, deserialize_with = "given")]
    max_memory_bytes: Option<Option<Number>>,
    #[serde(default, deserialize_with = "given")]
    max_timeout_secs: Option<Option<Number>>,
    #[serde(default, deserialize_with = "given")]
    max_cpu_fuel_per_sec: Option<Option<Number>>,
    #[serde(default, deserialize_with = "given")]
    max_ipc_throughput_bytes: Option<Option<Number>>,
    #[serde(default, deserialize_with = "given")]
    max_storage_bytes: Option<Option<Number>>,
    #[serde(default, deserialize_with = "given")]
    max_concurrent_calls: Option<Option<Number>>,
    #[serde(default, deserialize_with = "given")]
    max_background_processes: Option<Option<Number>>,
}

impl Update {
    fn apply(&self, quotas: &mut Quotas) -> Result<(), Refusal> {
        adopt("max_memory_bytes", &self.max_memory_bytes, u64::MAX, &mut quotas.max_memory_bytes)?;
        adopt("max_timeout_secs", &self.max_timeout_secs, MAX_TIMEOUT_SECS, &mut quotas.max_timeout_secs)?;
        adopt("max_cpu_fuel_per_sec", &self.max_cpu_fuel_per_sec, u64::MAX, &mut quotas.max_cpu_fuel_per_sec)?;
        let (bytes, quota) = (&self.max_ipc_throughput_bytes, &mut quotas.max_ipc_throughput_bytes);
        adopt("max_ipc_throughput_bytes", bytes, u64::MAX, quota)?;
        adopt("max_storage_bytes", &self.max_storage_bytes, u64::MAX, &mut quotas.max_storage_bytes)?;
        adopt("max_concurrent_calls", &self.max_concurrent_calls, u64::MAX, &mut quotas.max_concurrent_calls)?;
        let (children, quota) = (&self.max_background_processes, &mut quotas.max_background_processes);
        adopt("max_background_processes", children, MAX_PROCESSES, quota)
    }
}

/// 1 to `most`.
fn adopt(field: &str, update: &Option<Option<Number>>, most: u64, quota: &mut Option<u64>) -> Result<(), Refusal> {
    let Some(update) = update else { return Ok(()) };
    *quota = match update {
        None => None,
        Some(number) => {
            let value = number.as_u64().filter(|value| (1..=most).contains(value));
            Some(value.ok_or_else(|| invalid(format!("{field} = {number}"), format!("1 to {most}")))?)
        }
    };
    Ok(())
}

/// The quotas of a principal that exists.
pub fn get<P: Ports>(ports: &P, id: &str, payload: &[u8]) -> Result<Answer, Refusal> {
    payload::read_empty(payload)?;
    let principal = principals::existing(ports, id)?;
    Ok(Answer { principal: id.into(), quotas: principal.quotas })
}

/// Changes the quotas that are given, all or none of them; in force when it returns. The principal stands in the
/// payload and never in the message's target: about oneself the `self:` form of a capability would be enough, and
/// nobody raises their own quotas with that.
pub fn set<P: Ports>(ports: &P, target: Option<&str>, payload: &[u8]) -> Result<Answer, Refusal> {
    if target.is_some() {
        return Err(Refusal::Invalid("a change of quotas has no target; the payload names the principal".into()));
    }
    let SetRequest { principal: id, quotas: update } = payload::read(payload)?;
    payload::principal("principal", &id)?;
    transact(ports, |transaction| {
        let mut principal = principals::existing_in(transaction, &id)?;
        update.apply(&mut principal.quotas)?;
        principals::save(transaction, &id, &principal)?;
        Ok(Answer { principal: id.clone(), quotas: principal.quotas })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::principals::{DEFAULT, bootstrap};
    use crate::testing::Fake;

    fn change(fake: &Fake, quotas: Value) -> Result<Quotas, String> {
        let payload = json!({ "principal": DEFAULT, "quotas": quotas }).to_string();
        set(fake, None, payload.as_bytes()).map(|a| a.quotas).map_err(|refusal| refusal.reason().to_owned())
    }

    #[test]
    fn a_change_touches_what_it_names_and_is_told_to_the_host_in_the_same_commit() {
        let fake = Fake::started();
        assert_eq!(fake.told()[DEFAULT].quotas, Quotas::default());
        let first = change(&fake, json!({ "max_timeout_secs": 86400, "max_storage_bytes": 1 })).unwrap();
        let want = Quotas { max_timeout_secs: Some(86_400), max_storage_bytes: Some(1), ..Quotas::default() };
        assert_eq!((first, fake.told()[DEFAULT].quotas), (want, want));
        let second = change(&fake, json!({ "max_timeout_secs": null, "max_concurrent_calls": 2 })).unwrap();
        let want = Quotas { max_storage_bytes: Some(1), max_concurrent_calls: Some(2), ..Quotas::default() };
        assert_eq!((second, fake.told()[DEFAULT].quotas), (want, want));
        assert_eq!(change(&fake, json!({})).unwrap(), want);
        assert_eq!(get(&fake, DEFAULT, b"{}").unwrap(), Answer { principal: DEFAULT.into(), quotas: want });
        bootstrap(&fake).unwrap();
        assert_eq!(fake.told()[DEFAULT].quotas, want, "a start keeps them");
    }

    #[test]
    fn what_is_out_of_bounds_or_unknown_is_refused_by_name_and_changes_nothing() {
        let fake = Fake::started();
        for (quotas, reason) in [
            (json!({ "max_timeout_secs": 86401 }), "max_timeout_secs = 86401 must be 1 to 86400"),
            (json!({ "max_timeout_secs": 0 }), "max_timeout_secs = 0 must be 1 to 86400"),
            (json!({ "max_memory_bytes": 0 }), "max_memory_bytes = 0 must be 1 to 18446744073709551615"),
            (json!({ "max_cpu_fuel_per_sec": -1 }), "max_cpu_fuel_per_sec = -1 must be 1"),
            (json!({ "max_ipc_throughput_bytes": 1.5 }), "max_ipc_throughput_bytes = 1.5 must be 1"),
            (json!({ "max_storage_bytes": 0 }), "max_storage_bytes = 0 must be 1"),
            (json!({ "max_background_processes": 257 }), "max_background_processes = 257 must be 1 to 256"),
            (json!({ "max_concurrent_calls": 0, "max_timeout_secs": 5 }), "max_concurrent_calls = 0 must be 1"),
            (json!({ "max_processes": 1 }), "unknown field `max_processes`"),
            (json!([]), "expected a JSON object"),
        ] {
            let error = change(&fake, quotas).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        assert_eq!(fake.told()[DEFAULT].quotas, Quotas::default());
        let set = |target, payload: Value| set(&fake, target, payload.to_string().as_bytes());
        let payload = |id: &str| json!({ "principal": id, "quotas": {} });
        assert!(matches!(set(None, payload("nobody")), Err(Refusal::NotFound(_))));
        assert!(matches!(set(None, payload("a b")), Err(Refusal::Invalid(_))));
        assert!(matches!(set(Some(DEFAULT), payload(DEFAULT)), Err(Refusal::Invalid(_))));
        assert!(matches!(get(&fake, "nobody", b"{}"), Err(Refusal::NotFound(_))));
    }
}
