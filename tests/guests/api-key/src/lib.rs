//! An identity of one principal: whoever presents the API key is it, and nobody else is anybody. Stores nothing of its own,
//! and leaves everything that it does not serve to answer that nobody handles it.

use std::time::SystemTime;

use astrid_sdk::authority::{Identified, Presented, held, registrar};
use astrid_sdk::prelude::*;

/// Who presents the key.
const PRINCIPAL: &str = "robot";
/// What it holds: enough to see the host and to put another identity here.
const GRANTS: [&str; 3] = ["system:status", "capsule:*", "bus:request"];
/// How long the host may remember what was answered, in seconds. A changed key is out after that.
const REMEMBERED_SECS: u64 = 60;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Serialize)]
struct Me {
    principal: String,
    groups: Vec<String>,
    capabilities: Vec<String>,
}

/// The key, if it is one that a bearer can carry and nobody guesses.
fn key() -> Result<String, Refusal> {
    let key = env::require("API_KEY")?;
    let legal = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte));
    if (16..=256).contains(&key.len()) && legal {
        Ok(key)
    } else {
        Err(Refusal::unavailable("API_KEY must be 16 to 256 of A-Z a-z 0-9 - . _ ~ + /"))
    }
}

/// Whether both are the same, in a time that does not tell where they differ.
fn same(left: &str, right: &str) -> bool {
    left.len() == right.len() && left.bytes().zip(right.bytes()).fold(0, |differs, (l, r)| differs | (l ^ r)) == 0
}

fn authenticate(presented: Presented) -> Option<Identified> {
    // A trap says that the credential could not be judged; None would say that it is bad.
    let key = key().unwrap_or_else(|refusal| panic!("{}", refusal.reason));
    let Presented::Bearer(token) = presented else { return None };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    same(&token, &key).then(|| Identified {
        principal: PRINCIPAL.into(),
        expires_at: now + REMEMBERED_SECS,
        ceiling: None,
        session: None,
    })
}

/// Tells the host what the principal holds. Without a key that is good nothing starts, and who was here before stays.
fn start() -> Result<(), String> {
    key().map_err(|refusal| refusal.reason)?;
    let quotas = registrar::Quotas {
        max_memory_bytes: None,
        max_timeout_secs: None,
        max_cpu_fuel_per_sec: None,
        max_ipc_throughput_bytes: None,
        max_storage_bytes: None,
        max_concurrent_calls: None,
        max_background_processes: None,
    };
    let standing = registrar::Standing {
        principal: PRINCIPAL.into(),
        enabled: true,
        groups: vec![],
        grants: GRANTS.map(String::from).into(),
        revokes: vec![],
        quotas,
    };
    let transaction = Transaction::new();
    registrar::set_principal(&transaction, &standing)?;
    Transaction::commit(transaction).map_err(|error| format!("the store: {error:?}"))
}

fn me(message: Message) -> Answer {
    let Nothing {} = message.object()?;
    json(&Me { principal: message.principal, groups: vec![], capabilities: held::capabilities() })
}

handlers! { "me" => me }
authenticator!(authenticate);
starter!(start);
