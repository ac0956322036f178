//! `astrid version`: the versions of this program and of the host that it calls.

use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::failure::{Exit, Failure};
use super::{Context, table};
use crate::VERSION;

#[derive(Deserialize)]
struct Health {
    version: String,
}

/// A host that does not answer is no failure: the version of this program is known without it.
pub(super) async fn run(context: &mut Context<'_>) -> Result<Exit, Failure> {
    let answer = context.client.exchange(Method::GET, "/healthz", None).await;
    let host = answer.ok().and_then(|answer| answer.read::<Health>().ok()).map(|health| health.version);
    let (commit, compiler) = (env!("ASTRID_GIT_SHA"), env!("ASTRID_RUSTC"));
    if context.console.json {
        let host = host.map_or(Value::Null, Value::String);
        let document = json!({ "version": VERSION, "commit": commit, "rustc": compiler, "host": host });
        context.console.print(&document.to_string())?;
        return Ok(Exit::Done);
    }
    let differs = host.as_ref().is_some_and(|host| host != VERSION);
    context.console.print(&table::facts(&[
        ("astrid", VERSION.to_owned()),
        ("commit", commit.to_owned()),
        ("rustc", compiler.to_owned()),
        ("host", host.unwrap_or_else(|| "none answers".to_owned())),
    ]))?;
    if differs {
        context.console.remark("the host is of another version: verbs may not fit its routes");
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use crate::cli::failure::Exit;
    use crate::cli::testing::{Host, astrid, home};

    #[test]
    fn both_versions_are_said_and_a_host_is_not_needed() {
        let host = Host::answering(200, r#"{"status":"ok","version":"9.9.9"}"#);
        let ran = host.astrid(&["version"]);
        assert!(
            ran.out.contains(&format!("astrid  {}\n", crate::VERSION)) && ran.out.contains("host    9.9.9"),
            "{ran:?}"
        );
        assert!(ran.err.contains("another version"), "{ran:?}");
        let (_dir, home) = home();
        let ran = astrid(&home, &["version", "--json"]);
        assert!(ran.exit == Exit::Done && ran.out.contains("\"host\":null"), "{ran:?}");
        assert!(astrid(&home, &["version"]).out.contains("none answers"));
    }
}
