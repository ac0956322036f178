//! `astrid env` (or `astrid secret`): the values of a capsule's `[env]` fields, one's own or another principal's. A value
//! is never an argument, which other users of the machine could read, and is never printed.

use std::collections::BTreeMap;

use astrid_capsule::{PrincipalId, env};
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use super::failure::{Exit, Failure};
use super::{Context, table, text};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Set a field; the value is read from stdin, without its last line break, or typed unseen
    Set(Field),
    /// List a capsule's fields and whether each is set
    List(Capsule),
    /// Take a value away; then the distribution's holds, or the manifest's default
    Delete(Field),
}

#[derive(Args)]
pub(super) struct Capsule {
    /// The capsule's id, as `capsule list` shows it
    capsule: String,
    /// Whose value [default: your own]
    #[arg(long, value_name = "PRINCIPAL", value_parser = PrincipalId::parse)]
    principal: Option<PrincipalId>,
}

#[derive(Args)]
pub(super) struct Field {
    #[command(flatten)]
    of: Capsule,
    /// The field's name in the manifest, such as API_KEY
    #[arg(value_parser = parse_name)]
    field: String,
}

#[derive(Deserialize)]
struct Listed {
    fields: BTreeMap<String, Row>,
}

#[derive(Deserialize)]
struct Row {
    #[serde(rename = "type")]
    kind: String,
    description: Option<String>,
    default: Option<Value>,
    #[serde(default)]
    enum_values: Vec<String>,
    is_set: bool,
}

fn parse_name(name: &str) -> Result<String, String> {
    if env::is_name(name) { Ok(name.to_owned()) } else { Err("a field's name is 1 to 64 of A-Z 0-9 _".to_owned()) }
}

impl Verb {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        match self {
            Verb::Set(field) => set(context, &field).await,
            Verb::List(capsule) => list(context, &capsule).await,
            Verb::Delete(field) => delete(context, &field).await,
        }
    }
}

impl Capsule {
    fn path(&self, rest: &str) -> String {
        let principal = self.principal.as_ref().map(|p| format!("?principal={}", text::encoded(p.as_str())));
        format!("/api/capsules/{}/env{rest}{}", text::encoded(&self.capsule), principal.unwrap_or_default())
    }
}

impl Field {
    fn path(&self) -> String {
        self.of.path(&format!("/{}", self.field))
    }

    /// What there is to do about a failure.
    fn hint(&self, failure: Failure, context: &Context<'_>) -> Failure {
        match failure.code.as_str() {
            "not_found" => {
                let capsule = text::quoted(&text::shown(&self.of.capsule));
                failure.next(format!("`{} env list {capsule}` shows the fields there are", context.command))
            }
            _ => failure,
        }
    }
}

async fn set(context: &mut Context<'_>, field: &Field) -> Result<Exit, Failure> {
    let prompt = format!("{} of {}: ", field.field, text::shown(&field.of.capsule));
    let value = context.console.read_hidden(&prompt)?;
    if value.len() > env::MAX_VALUE_BYTES {
        return Err(Failure::usage(format!("the value has more than {} bytes", env::MAX_VALUE_BYTES)));
    }
    let body = json!({ "value": value.as_str() }).to_string();
    let what = format!("set {} of {}", field.field, text::shown(&field.of.capsule));
    let answer = context.client.post(&what, &field.path(), body).await;
    let answer = answer.map_err(|failure| field.hint(failure, context))?;
    finish(context, &answer.body, &what)
}

async fn delete(context: &mut Context<'_>, field: &Field) -> Result<Exit, Failure> {
    let what = format!("clear {} of {}", field.field, text::shown(&field.of.capsule));
    let answer = context.client.delete(&what, &field.path()).await.map_err(|failure| field.hint(failure, context))?;
    finish(context, &answer.body, &what)
}

fn finish(context: &mut Context<'_>, body: &[u8], done: &str) -> Result<Exit, Failure> {
    if context.console.json {
        context.console.document(body)?;
    } else {
        context.console.remark(&format!("done: {done}"));
    }
    Ok(Exit::Done)
}

async fn list(context: &mut Context<'_>, capsule: &Capsule) -> Result<Exit, Failure> {
    let what = format!("list the environment of {}", text::shown(&capsule.capsule));
    let answer = context.client.get(&what, &capsule.path("")).await?;
    if context.console.json {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    let Listed { fields } = answer.read()?;
    if fields.is_empty() {
        context.console.remark("this capsule has no environment");
        return Ok(Exit::Done);
    }
    let rows: Vec<[String; 6]> = fields
        .into_iter()
        .map(|(name, row)| {
            let default = match row.default {
                None => "-".to_owned(),
                Some(Value::String(text)) => text,
                Some(other) => other.to_string(),
            };
            let set = if row.is_set { "yes" } else { "no" }.to_owned();
            [name, row.kind, set, default, row.enum_values.join(", "), row.description.unwrap_or_default()]
        })
        .collect();
    let header = ["NAME", "TYPE", "SET", "DEFAULT", "ONE OF", "DESCRIPTION"];
    context.console.print(&table::table(header, &rows))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::{Host, astrid_at};

    #[test]
    fn set_sends_what_stands_on_stdin_and_says_nothing_of_it() {
        let host = Host::answering(204, "");
        for (verb, input) in [("env", "s e\"cret\n"), ("secret", "s e\"cret\r\n"), ("env", "s e\"cret")] {
            let ran = astrid_at(&host.home, &[verb, "set", "notes", "API_KEY"], input, false);
            assert_eq!(ran.exit, Exit::Done, "{ran:?}");
            assert!(!ran.out.contains("cret") && !ran.err.contains("cret") && ran.err.contains("API_KEY"), "{ran:?}");
        }
        let want = r#"POST /api/capsules/notes/env/API_KEY {"value":"s e\"cret"}"#;
        assert_eq!(host.requests(), [want; 3]);
        astrid_at(&host.home, &["env", "set", "notes", "A", "--principal", "bob"], "a\n\n", false);
        assert_eq!(host.requests()[3], r#"POST /api/capsules/notes/env/A?principal=bob {"value":"a\n"}"#);
    }

    #[test]
    fn a_value_on_the_command_line_a_bad_name_and_a_large_value_send_nothing() {
        let host = Host::answering(204, "");
        let large = "x".repeat(env::MAX_VALUE_BYTES + 1);
        for (args, input) in [
            (&["env", "set", "notes", "KEY", "secret"][..], ""),
            (&["env", "set", "notes", "key"], "x"),
            (&["env", "delete", "notes", "../KEY"], ""),
            (&["env", "list", "notes", "--principal", "a b"], ""),
            (&["env", "set", "notes", "KEY"], &large),
        ] {
            let ran = astrid_at(&host.home, args, input, false);
            assert_eq!(ran.exit, Exit::Usage, "{ran:?}");
        }
        assert!(host.requests().is_empty());
    }

    #[test]
    fn list_is_a_table_or_the_servers_document_and_delete_names_what_it_deleted() {
        let document = r#"{"capsule_id":"notes","fields":{"KEY":{"type":"secret","enum_values":[],"is_set":true},"N":{"type":"number","default":3,"enum_values":[],"is_set":false}}}"#;
        let host = Host::with(move |request| match request.starts_with("GET") {
            true => (200, document.to_owned()),
            false => (204, String::new()),
        });
        let table = host.astrid(&["env", "list", "notes", "--principal", "bob"]).out;
        assert!(table.starts_with("NAME  TYPE    SET  DEFAULT"), "{table}");
        assert!(table.contains("KEY   secret  yes  -") && table.contains("N     number  no   3"), "{table}");
        assert_eq!(host.astrid(&["--json", "env", "list", "notes"]).out, format!("{document}\n"));
        assert!(host.astrid(&["secret", "delete", "no/tes", "KEY"]).err.contains("clear KEY of no/tes"));
        let want = ["GET /api/capsules/notes/env?principal=bob", "GET /api/capsules/notes/env"];
        assert_eq!(host.requests()[..2], want);
        assert_eq!(host.requests()[2], "DELETE /api/capsules/no%2Ftes/env/KEY");
    }

    #[test]
    fn an_unknown_field_says_how_to_see_those_there_are() {
        let host = Host::answering(404, r#"{"error":"not_found","reason":"no [env.KEY]"}"#);
        let ran = astrid_at(&host.home, &["env", "set", "notes", "KEY"], "x", false);
        assert!(ran.exit == Exit::Failed && ran.err.contains("env list notes"), "{ran:?}");
    }
}
