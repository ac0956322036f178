//! `astrid quota`: what a principal may use beside what it has used. Quotas are `identity`'s record, usage and the limits
//! in force are the host's: two answers, one table.

use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::client::Answer;
use super::failure::{Exit, Failure};
use super::{Context, table, text};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Show a principal's quotas, the limits in force and what it has used since the host started
    Show {
        /// The principal [default: the caller]
        principal: Option<String>,
    },
    /// Change quotas of a principal; the others stay as they are
    Set {
        principal: String,
        /// FIELD=N, FIELD=NKiB, NMiB or NGiB, or FIELD=default; `quota show` lists the fields
        #[arg(required = true, value_name = "FIELD=VALUE", value_parser = parse_change)]
        quotas: Vec<(String, Option<u64>)>,
    },
}

#[derive(Deserialize)]
struct Me {
    principal: String,
}

#[derive(Deserialize)]
struct Quotas {
    principal: String,
    quotas: Map<String, Value>,
}

#[derive(Deserialize)]
struct Usage {
    cpu_fuel_consumed_total: u64,
    cpu_fuel_per_sec_limit: u64,
    exempt: bool,
    memory_bytes_limit_per_instance: u64,
    memory_bytes_peak_total: u64,
    storage_bytes_used: u64,
    storage_bytes_limit: u64,
    ipc_bytes_sent_total: u64,
    ipc_bytes_per_sec_limit: u64,
    calls_total: u64,
    concurrent_calls_limit: u64,
    wall_ms_total: u64,
    timeout_secs_limit: u64,
    processes_running: u32,
    processes_limit: u32,
}

/// `field=value`; none for `default`.
fn parse_change(text: &str) -> Result<(String, Option<u64>), String> {
    let (field, value) = text.split_once('=').ok_or("write it as FIELD=VALUE")?;
    if field.is_empty() {
        return Err("write it as FIELD=VALUE".to_owned());
    }
    Ok((field.to_owned(), if value == "default" { None } else { Some(parse_amount(value)?) }))
}

/// A whole number, with a binary unit or without.
fn parse_amount(value: &str) -> Result<u64, String> {
    let end = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let shift = match &value[end..] {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(format!("`{value}` must be a whole number, alone or with KiB, MiB or GiB, or `default`")),
    };
    let number: u64 = value[..end].parse().map_err(|_| format!("`{value}` must be a whole number below 2^64"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("`{value}` must be below 2^64"))
}

impl Verb {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        match self {
            Verb::Show { principal } => show(context, principal).await,
            Verb::Set { principal, quotas } => set(context, &principal, quotas).await,
        }
    }
}

async fn show(context: &mut Context<'_>, principal: Option<String>) -> Result<Exit, Failure> {
    let what = "show the quotas";
    let principal = match principal {
        Some(principal) => principal,
        None => context.client.get(what, "/api/auth/me").await?.read::<Me>()?.principal,
    };
    let path = path(&principal);
    let quotas = context.client.get(what, &format!("{path}/quotas")).await?;
    let usage = context.client.get(what, &format!("{path}/usage")).await?;
    if context.console.json {
        let (Quotas { principal, quotas }, usage) = (quotas.read()?, usage.read::<Value>()?);
        let document = json!({ "principal": principal, "quotas": quotas, "usage": usage });
        context.console.document(document.to_string().as_bytes())?;
        return Ok(Exit::Done);
    }
    let (Quotas { principal, quotas }, usage) = (quotas.read()?, usage.read::<Usage>()?);
    let set = |field: &str| match quotas.get(field) {
        None | Some(Value::Null) => "default".to_owned(),
        Some(value) => value.to_string(),
    };
    let rate = |limit: u64| if usage.exempt { "exempt".to_owned() } else { limit.to_string() };
    let row = |field: &str, limit: String, used: String| [field.to_owned(), set(field), limit, used];
    let rows = [
        row(
            "max_memory_bytes",
            usage.memory_bytes_limit_per_instance.to_string(),
            format!("{} at most in one instance", usage.memory_bytes_peak_total),
        ),
        row("max_timeout_secs", usage.timeout_secs_limit.to_string(), format!("{} ms in all", usage.wall_ms_total)),
        row(
            "max_cpu_fuel_per_sec",
            rate(usage.cpu_fuel_per_sec_limit),
            format!("{} in all", usage.cpu_fuel_consumed_total),
        ),
        row(
            "max_ipc_throughput_bytes",
            rate(usage.ipc_bytes_per_sec_limit),
            format!("{} sent in all", usage.ipc_bytes_sent_total),
        ),
        row("max_storage_bytes", usage.storage_bytes_limit.to_string(), format!("{} now", usage.storage_bytes_used)),
        row("max_concurrent_calls", usage.concurrent_calls_limit.to_string(), format!("{} in all", usage.calls_total)),
        row("max_background_processes", usage.processes_limit.to_string(), format!("{} now", usage.processes_running)),
    ];
    let text = format!("{}\n{}", text::shown(&principal), table::table(["QUOTA", "SET", "LIMIT", "USED"], &rows));
    context.console.print(&text)?;
    Ok(Exit::Done)
}

async fn set(context: &mut Context<'_>, principal: &str, changes: Vec<(String, Option<u64>)>) -> Result<Exit, Failure> {
    let mut quotas = Map::new();
    for (field, value) in changes {
        if quotas.contains_key(&field) {
            return Err(Failure::usage(format!("{field} is given twice")));
        }
        quotas.insert(field, json!(value));
    }
    let body = json!({ "quotas": quotas }).to_string();
    let path = format!("{}/quotas", path(principal));
    let answer: Answer = context.client.put(&format!("set quotas of {principal}"), &path, body).await?;
    if context.console.json {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    let Quotas { quotas, .. } = answer.read()?;
    let rows: Vec<(&str, String)> = quotas
        .iter()
        .map(|(field, value)| (field.as_str(), if value.is_null() { "default".into() } else { value.to_string() }))
        .collect();
    context.console.print(&table::facts(&rows))?;
    Ok(Exit::Done)
}

fn path(principal: &str) -> String {
    format!("/api/sys/principals/{}", text::encoded(principal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::Host;

    const USAGE: &str = r#"{"principal":"ada","cpu_fuel_consumed_total":5,"cpu_fuel_per_sec_limit":7,"exempt":false,
        "memory_bytes_limit_per_instance":1048576,"memory_bytes_peak_total":9,"storage_bytes_used":3,
        "storage_bytes_limit":100,"ipc_bytes_sent_total":4,"ipc_bytes_per_sec_limit":8,"calls_total":2,
        "concurrent_calls_limit":64,"wall_ms_total":6,"timeout_secs_limit":300,"processes_running":1,"processes_limit":8}"#;
    const QUOTAS: &str = r#"{"principal":"ada","quotas":{"max_memory_bytes":1048576,"max_timeout_secs":null}}"#;

    fn host() -> Host {
        Host::with(|request| {
            let body = match request {
                r if r.contains("/auth/me") => r#"{"principal":"ada"}"#,
                r if r.contains("/usage") => USAGE,
                _ => QUOTAS,
            };
            (200, body.to_owned())
        })
    }

    #[test]
    fn quotas_and_usage_stand_side_by_side() {
        let host = host();
        let ran = host.astrid(&["quota", "show"]);
        assert_eq!(ran.exit, Exit::Done, "{ran:?}");
        assert!(
            ran.out.contains("max_memory_bytes          1048576  1048576  9 at most in one instance"),
            "{}",
            ran.out
        );
        assert!(ran.out.contains("max_timeout_secs          default  300      6 ms in all"), "{}", ran.out);
        let asked = host.requests();
        assert_eq!(asked[1..], ["GET /api/sys/principals/ada/quotas", "GET /api/sys/principals/ada/usage"]);
        let document: Value = serde_json::from_str(&host.astrid(&["quota", "show", "ada", "--json"]).out).unwrap();
        assert_eq!(
            (&document["quotas"]["max_memory_bytes"], &document["usage"]["calls_total"]),
            (&json!(1 << 20), &json!(2))
        );
    }

    #[test]
    fn sizes_may_have_a_unit_and_default_is_null() {
        let host = host();
        let changes = ["max_memory_bytes=64MiB", "max_timeout_secs=5", "max_storage_bytes=default"];
        let ran = host.astrid(&[&["quota", "set", "ada"], &changes[..]].concat());
        assert_eq!(ran.exit, Exit::Done, "{ran:?}");
        let quotas = json!({ "max_memory_bytes": 64 << 20, "max_timeout_secs": 5, "max_storage_bytes": null });
        let body = json!({ "quotas": quotas });
        assert_eq!(host.requests(), [format!("PUT /api/sys/principals/ada/quotas {body}")]);
        for wrong in ["x", "=1", "a=", "a=-1", "a=1MB", "a=1.5MiB", "a=99999999999GiB", "a=18446744073709551616"] {
            assert_eq!(host.astrid(&["quota", "set", "ada", wrong]).exit, Exit::Usage, "{wrong}");
        }
        assert_eq!(host.astrid(&["quota", "set", "ada", "a=1", "a=2"]).exit, Exit::Usage);
        assert_eq!(host.astrid(&["quota", "set", "ada"]).exit, Exit::Usage);
    }
}
