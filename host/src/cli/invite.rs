//! `astrid invite`: how others become principals. A token is named by its fingerprint wherever it need not be shown.

use std::collections::BTreeMap;

use clap::{Subcommand, value_parser};
use serde::Deserialize;
use serde_json::{Value, json};

use super::failure::{Exit, Failure};
use super::keystore::{KeyName, Keystore};
use super::sessions::Session;
use super::{Context, table, text, time};

/// The bytes of BLAKE3 that name a token.
const FINGERPRINT_BYTES: usize = 16;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Issue an invite and print its token, which is shown only now
    Issue {
        /// The group of whoever redeems it [default: the distribution's, else agent]
        #[arg(long)]
        group: Option<String>,
        /// How many may redeem it
        #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..))]
        uses: u32,
        /// How long it is good for, such as 30s, 5m, 2h or 7d [default: as the distribution says, else 7d]
        #[arg(long, value_name = "SPAN", value_parser = time::parse_span)]
        expires: Option<u64>,
        /// A remark that stays with the invite; may be repeated
        #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
        metadata: Vec<(String, String)>,
        /// Print the token and nothing else
        #[arg(long)]
        raw: bool,
    },
    /// List the invites that can still be redeemed
    List {
        /// Go on after this fingerprint
        #[arg(long, value_name = "FINGERPRINT")]
        after: Option<String>,
    },
    /// End an invite
    Revoke {
        /// As `invite list` shows it, or the token itself (`-`: read from stdin), which does not leave this machine
        #[arg(value_name = "FINGERPRINT|TOKEN")]
        invite: String,
    },
    /// Become a principal: redeem an invite with a key pair of your own
    Redeem {
        /// The token, or `-` to read it from stdin
        token: String,
        /// The local key pair; made if there is none of that name
        #[arg(long, value_name = "NAME", default_value = "default", value_parser = KeyName::parse)]
        key: KeyName,
        /// A name for people to see
        #[arg(long, value_name = "DISPLAY")]
        name: Option<String>,
        /// Print the bearer and nothing else
        #[arg(long)]
        raw: bool,
    },
}

#[derive(Deserialize)]
struct Issued {
    invite: IssuedInvite,
}

#[derive(Deserialize)]
struct IssuedInvite {
    token: String,
    group: String,
    remaining_uses: u64,
    expires_at_epoch: Option<u64>,
}

#[derive(Deserialize)]
struct Invites {
    invites: Vec<Invite>,
    /// There are more after this fingerprint.
    next_after: Option<String>,
}

#[derive(Deserialize)]
struct Invite {
    token_fingerprint: String,
    group: String,
    remaining_uses: u64,
    expires_at_epoch: Option<u64>,
    issued_at_epoch: u64,
    metadata: Option<Value>,
}

#[derive(Deserialize)]
struct Redeemed {
    principal: String,
    group: String,
    session_token: String,
    session_expires_at_epoch: u64,
}

impl Verb {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        match self {
            Verb::Issue { group, uses, expires, metadata, raw } => {
                let mut body = json!({ "max_uses": uses });
                if let Some(group) = group {
                    body["group"] = group.into();
                }
                if let Some(expires) = expires {
                    body["expires_secs"] = expires.into();
                }
                if !metadata.is_empty() {
                    body["metadata"] = json!(unique(metadata)?);
                }
                issue(context, &body, raw).await
            }
            Verb::List { after } => list(context, after.as_deref()).await,
            Verb::Revoke { invite } => revoke(context, &invite).await,
            Verb::Redeem { token, key, name, raw } => redeem(context, &token, &key, name.as_deref(), raw).await,
        }
    }
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

fn unique(pairs: Vec<(String, String)>) -> Result<BTreeMap<String, String>, Failure> {
    let mut out = BTreeMap::new();
    for (key, value) in pairs {
        if out.contains_key(&key) {
            return Err(Failure::usage(format!("--metadata names `{key}` twice")));
        }
        out.insert(key, value);
    }
    Ok(out)
}

/// What names a token where the token itself must not appear.
fn fingerprint(token: &str) -> String {
    hex::encode(&blake3::hash(token.as_bytes()).as_bytes()[..FINGERPRINT_BYTES])
}

/// The argument, or the text on stdin for `-`.
fn token_of(context: &mut Context<'_>, argument: &str) -> Result<String, Failure> {
    let token = if argument == "-" { context.console.read_input()? } else { argument.to_owned() };
    let token = token.trim();
    if token.is_empty() { Err(Failure::usage("the token is empty")) } else { Ok(token.to_owned()) }
}

async fn issue(context: &mut Context<'_>, body: &Value, raw: bool) -> Result<Exit, Failure> {
    let answer = context.client.post("issue an invite", "/api/sys/invites", body.to_string()).await?;
    if context.console.json && !raw {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    let Issued { invite } = answer.read()?;
    if raw {
        context.console.print(&text::shown(&invite.token))?;
        return Ok(Exit::Done);
    }
    context.console.print(&table::facts(&[
        ("token", invite.token.clone()),
        ("fingerprint", fingerprint(&invite.token)),
        ("group", invite.group),
        ("uses", invite.remaining_uses.to_string()),
        ("expires", expiry(invite.expires_at_epoch)),
    ]))?;
    let token = text::quoted(&text::shown(&invite.token));
    context
        .console
        .remark(&format!("\nThe token is not shown again. To use it: {} invite redeem {token}", context.command));
    Ok(Exit::Done)
}

fn expiry(epoch: Option<u64>) -> String {
    epoch.map_or_else(|| "never".to_owned(), time::moment)
}

async fn list(context: &mut Context<'_>, after: Option<&str>) -> Result<Exit, Failure> {
    let query = after.map_or_else(String::new, |after| format!("?after={}", text::encoded(after)));
    let answer = context.client.get("list the invites", &format!("/api/sys/invites{query}")).await?;
    if context.console.json {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    let Invites { invites, next_after } = answer.read()?;
    if invites.is_empty() {
        context.console.remark(&format!("no invites; `{} invite issue` makes one", context.command));
        return Ok(Exit::Done);
    }
    let rows: Vec<[String; 6]> = invites
        .into_iter()
        .map(|i| {
            let metadata = i.metadata.filter(|m| !m.is_null()).map_or_else(String::new, |m| m.to_string());
            let (issued, expires) = (time::moment(i.issued_at_epoch), expiry(i.expires_at_epoch));
            [i.token_fingerprint, i.group, i.remaining_uses.to_string(), issued, expires, metadata]
        })
        .collect();
    context.console.print(&table::table(["FINGERPRINT", "GROUP", "LEFT", "ISSUED", "EXPIRES", "METADATA"], &rows))?;
    if let Some(after) = next_after {
        let after = text::quoted(&text::shown(&after));
        context.console.remark(&format!("There are more: {} invite list --after {after}", context.command));
    }
    Ok(Exit::Done)
}

async fn revoke(context: &mut Context<'_>, invite: &str) -> Result<Exit, Failure> {
    let named = token_of(context, invite)?;
    let is_fingerprint = named.len() == 2 * FINGERPRINT_BYTES && named.bytes().all(|b| b.is_ascii_hexdigit());
    let fingerprint = if is_fingerprint { named.to_ascii_lowercase() } else { fingerprint(&named) };
    let what = format!("revoke the invite {fingerprint}");
    let answer = context.client.delete(&what, &format!("/api/sys/invites/{fingerprint}")).await.map_err(|f| {
        if f.code == "not_found" {
            f.next(format!("`{} invite list` shows those that are left", context.command))
        } else {
            f
        }
    })?;
    if context.console.json {
        context.console.document(&answer.body)?;
    } else {
        context.console.print(&format!("revoked {fingerprint}"))?;
    }
    Ok(Exit::Done)
}

async fn redeem(
    context: &mut Context<'_>,
    token: &str,
    key: &KeyName,
    name: Option<&str>,
    raw: bool,
) -> Result<Exit, Failure> {
    let what = "redeem the invite";
    let token = token_of(context, token)?;
    let store = Keystore::of(&context.home);
    let pair = match store.load(key).map_err(|f| f.doing(what))? {
        Some(pair) => pair,
        None => {
            let pair = store.generate(key, false).map_err(|f| f.doing(what))?;
            context.console.remark(&format!("made the key pair `{key}` ({})", pair.secret_file.display()));
            pair
        }
    };
    let mut body = json!({ "token": token, "public_key": pair.public_hex() });
    if let Some(name) = name {
        body["display_name"] = json!(name);
    }
    let answer =
        context.client.post(what, "/api/auth/redeem", body.to_string()).await.map_err(|f| match f.code.as_str() {
            "unauthorized" | "forbidden" => f
                .because("the host does not take this token")
                .next("it may be mistyped, used up, expired or revoked: ask who sent it for another"),
            "conflict" => f.next(format!("redeem it with another key pair: --key NAME (not `{key}`)")),
            _ => f,
        })?;
    let redeemed: Redeemed = answer.read()?;
    if !context.client.is_remote() {
        let session = Session {
            bearer: redeemed.session_token.clone(),
            expires_at_epoch: redeemed.session_expires_at_epoch,
            key: key.to_string(),
        };
        context.sessions.remember(&redeemed.principal, session)?;
    }
    if context.console.json && !raw {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    if raw {
        context.console.print(&text::shown(&redeemed.session_token))?;
        return Ok(Exit::Done);
    }
    context.console.print(&table::facts(&[
        ("principal", redeemed.principal),
        ("group", redeemed.group),
        ("key pair", key.to_string()),
        ("expires", time::moment(redeemed.session_expires_at_epoch)),
        ("bearer", redeemed.session_token),
    ]))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::{Host, astrid_at};

    #[test]
    fn issue_sends_what_was_asked_and_raw_prints_the_token_alone() {
        let host = Host::answering(
            200,
            r#"{"invite":{"token":"tok-1","group":"ops","remaining_uses":2,"expires_at_epoch":1767225600}}"#,
        );
        let raw = host.astrid(&["invite", "issue", "--raw"]);
        assert_eq!((raw.out.as_str(), raw.err.as_str()), ("tok-1\n", ""));
        let args = ["invite", "issue", "--group", "ops", "--uses", "2", "--expires", "2h", "--metadata", "for=a=b"];
        let table = host.astrid(&args).out;
        assert!(table.contains("token        tok-1") && table.contains("2026-01-01 00:00:00Z"), "{table}");
        assert!(table.contains(&fingerprint("tok-1")));
        let requests = host.requests();
        assert_eq!(requests[0], r#"POST /api/sys/invites {"max_uses":1}"#);
        assert_eq!(
            requests[1],
            r#"POST /api/sys/invites {"expires_secs":7200,"group":"ops","max_uses":2,"metadata":{"for":"a=b"}}"#
        );
    }

    #[test]
    fn bad_arguments_of_issue_send_nothing() {
        let host = Host::answering(500, "{}");
        for bad in [["--uses", "0"], ["--expires", "7"], ["--metadata", "novalue"], ["--metadata", "=x"]] {
            let ran = host.astrid(&["invite", "issue", bad[0], bad[1]]);
            assert_eq!(ran.exit, Exit::Usage, "{ran:?}");
        }
        assert_eq!(host.astrid(&["invite", "issue", "--metadata", "a=1", "--metadata", "a=2"]).exit, Exit::Usage);
        assert!(host.requests().is_empty());
    }

    #[test]
    fn list_is_a_table_or_the_servers_document_unchanged() {
        let document = r#"{"invites":[{"token_fingerprint":"ab","group":"agent","remaining_uses":1,"issued_at_epoch":0,"metadata":{"z":1,"a":"\u001b"}}],"extra":1.10}"#;
        let host = Host::answering(200, &format!("{document}\n"));
        assert_eq!(host.astrid(&["invite", "list", "--json"]).out, format!("{document}\n"));
        let table = host.astrid(&["invite", "list"]).out;
        assert!(table.starts_with("FINGERPRINT  GROUP  LEFT  ISSUED"), "{table}");
        assert!(table.contains("never") && !table.contains('\x1b'), "{table}");
        assert_eq!(host.requests()[1], "GET /api/sys/invites");
    }

    #[test]
    fn a_list_that_is_not_complete_says_how_to_go_on() {
        let host = Host::answering(
            200,
            r#"{"invites":[{"token_fingerprint":"ab","group":"agent","remaining_uses":1,"issued_at_epoch":0}],"next_after":"ab"}"#,
        );
        let ran = host.astrid(&["invite", "list", "--after", "0f"]);
        assert!(ran.err.contains("invite list --after ab"), "{ran:?}");
        assert_eq!(host.requests(), ["GET /api/sys/invites?after=0f"]);
    }

    #[test]
    fn revoke_takes_either_name_and_never_sends_the_token() {
        let host = Host::answering(204, "");
        let print = fingerprint("secret-token");
        for named in ["secret-token", &print, &print.to_uppercase()] {
            let ran = host.astrid(&["invite", "revoke", named]);
            assert_eq!(ran.out, format!("revoked {print}\n"), "{ran:?}");
        }
        assert_eq!(astrid_at(&host.home, &["invite", "revoke", "-"], "secret-token\n", false).exit, Exit::Done);
        assert_eq!(host.requests(), vec![format!("DELETE /api/sys/invites/{print}"); 4]);
    }

    #[test]
    fn redeem_makes_a_key_pair_once_and_prints_the_bearer() {
        let host = Host::answering(
            200,
            r#"{"principal":"p1","group":"agent","public_key_fingerprint":"f","session_token":"a.b.c.d","session_expires_at_epoch":9}"#,
        );
        let first = host.astrid(&["invite", "redeem", "tok", "--name", "Ann", "--raw"]);
        assert_eq!(first.out, "a.b.c.d\n");
        assert!(first.err.contains("made the key pair `default`"), "{}", first.err);
        let again = host.astrid(&["invite", "redeem", "tok"]);
        assert!(again.out.contains("principal  p1") && again.out.contains("bearer     a.b.c.d"), "{}", again.out);
        assert!(again.err.is_empty());
        let key = host.astrid(&["keypair", "pubkey", "default"]).out;
        let key = key.trim();
        let requests = host.requests();
        assert_eq!(
            requests[0],
            format!(r#"POST /api/auth/redeem {{"display_name":"Ann","public_key":"{key}","token":"tok"}}"#)
        );
        assert_eq!(requests[1], format!(r#"POST /api/auth/redeem {{"public_key":"{key}","token":"tok"}}"#));
    }

    #[test]
    fn a_refused_token_and_a_used_key_pair_say_what_to_do() {
        let host = Host::answering(403, r#"{"error":"forbidden","reason":"the invite is not valid"}"#);
        let ran = host.astrid(&["invite", "redeem", "tok"]);
        assert_eq!(ran.exit, Exit::Failed);
        assert!(ran.err.contains("used up, expired or revoked: ask"), "{}", ran.err);
        let host = Host::answering(409, r#"{"error":"conflict","reason":"taken"}"#);
        let ran = host.astrid(&["invite", "redeem", "tok", "--key", "mine"]);
        assert!(ran.err.contains("taken [conflict]") && ran.err.contains("--key NAME (not `mine`)"), "{}", ran.err);
    }
}
