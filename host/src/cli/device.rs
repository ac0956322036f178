//! `astrid device` and `astrid login`: the keys by which a principal proves who it is.

use clap::Subcommand;
use serde::Deserialize;
use serde_json::json;

use super::agent::path;
use super::failure::{Exit, Failure};
use super::keystore::{KeyName, Keystore};
use super::sessions::Session;
use super::{Context, table, text, time};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Print a token by which another device becomes one of yours; it is good once
    Pair {
        /// A name for the device
        #[arg(long)]
        label: Option<String>,
        /// What the device may use of what you hold, such as self:* or agent:list [default: all of it]
        #[arg(long, value_name = "CAP", num_args = 1..)]
        scope: Vec<String>,
        /// How long it is good for, such as 30s or 5m; an hour at most
        #[arg(long, value_name = "SPAN", default_value = "5m", value_parser = time::parse_span)]
        expires: u64,
        /// Print the token and nothing else
        #[arg(long)]
        raw: bool,
    },
    /// On the other device: redeem such a token with a key pair of its own
    Redeem {
        /// The token, or `-` to read it from stdin
        token: String,
        /// The local key pair; made if there is none of that name
        #[arg(long, value_name = "NAME", default_value = "default", value_parser = KeyName::parse)]
        key: KeyName,
    },
    /// List the devices of a principal
    List {
        /// The principal [default: the caller]
        principal: Option<String>,
    },
    /// Remove a device; the sessions that began with it end
    Remove {
        /// As `device list` shows it
        fingerprint: String,
        /// The principal that it belongs to [default: the caller]
        #[arg(long, value_name = "NAME")]
        principal: Option<String>,
    },
}

#[derive(Deserialize)]
struct Me {
    principal: String,
}

#[derive(Deserialize)]
struct PairToken {
    token: String,
    principal: String,
    expires_at_epoch: u64,
    scope: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Devices {
    devices: Vec<Device>,
}

#[derive(Deserialize)]
struct Device {
    fingerprint: String,
    label: Option<String>,
    scope: Option<Vec<String>>,
    added_at_epoch: u64,
}

#[derive(Deserialize)]
struct Challenge {
    challenge: String,
}

#[derive(Deserialize)]
struct LoggedIn {
    principal: String,
    session_token: String,
    session_expires_at_epoch: u64,
}

impl Verb {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        match self {
            Verb::Pair { label, scope, expires, raw } => pair(context, label, &scope, expires, raw).await,
            Verb::Redeem { token, key } => redeem(context, &token, &key).await,
            Verb::List { principal } => list(context, principal).await,
            Verb::Remove { fingerprint, principal } => remove(context, &fingerprint, principal).await,
        }
    }
}

async fn of(context: &Context<'_>, what: &str, principal: Option<String>) -> Result<String, Failure> {
    match principal {
        Some(principal) => Ok(principal),
        None => Ok(context.client.get(what, "/api/auth/me").await?.read::<Me>()?.principal),
    }
}

async fn pair(
    context: &mut Context<'_>,
    label: Option<String>,
    scope: &[String],
    expires: u64,
    raw: bool,
) -> Result<Exit, Failure> {
    let mut body = json!({ "expires_secs": expires });
    if !scope.is_empty() {
        body["scope"] = json!(scope);
    }
    if let Some(label) = label {
        body["label"] = json!(label);
    }
    let answer = context.client.post("make a pair token", "/api/auth/pair-device", body.to_string()).await?;
    if context.console.json && !raw {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    let PairToken { token, principal, expires_at_epoch, scope } = answer.read()?;
    if raw {
        context.console.print(&text::shown(&token))?;
        return Ok(Exit::Done);
    }
    let expires = time::moment(expires_at_epoch);
    let scope = scope_shown(scope);
    let facts = [("principal", principal), ("scope", scope), ("expires", expires), ("token", token)];
    context.console.print(&table::facts(&facts))?;
    Ok(Exit::Done)
}

async fn redeem(context: &mut Context<'_>, token: &str, key: &KeyName) -> Result<Exit, Failure> {
    let what = "redeem the pair token";
    let token = if token == "-" { context.console.read_input()? } else { token.to_owned() };
    let store = Keystore::of(&context.home);
    let pair = match store.load(key).map_err(|f| f.doing(what))? {
        Some(pair) => pair,
        None => store.generate(key, false).map_err(|f| f.doing(what))?,
    };
    let body = json!({ "token": token.trim(), "public_key": pair.public_hex() }).to_string();
    let answer = context.client.post(what, "/api/auth/pair-device/redeem", body).await.map_err(|f| {
        if f.code == "unauthorized" {
            f.because("the host does not take this token")
                .next("it may be mistyped, used or expired: make another with `device pair`")
        } else {
            f
        }
    })?;
    if context.console.json {
        context.console.document(&answer.body)?;
    }
    remember(context, answer.read()?, key)
}

/// Remembers a session and, unless as JSON, says whose it is.
fn remember(context: &mut Context<'_>, session: LoggedIn, key: &KeyName) -> Result<Exit, Failure> {
    let LoggedIn { principal, session_token, session_expires_at_epoch } = session;
    if !context.client.is_remote() {
        let session =
            Session { bearer: session_token, expires_at_epoch: session_expires_at_epoch, key: key.to_string() };
        let is_current = context.sessions.remember(&principal, session)?;
        if !context.console.json {
            let expires = time::moment(session_expires_at_epoch);
            context.console.print(&text::shown(&format!("{principal} has a session until {expires}")))?;
            if !is_current {
                context.console.remark(&format!("`{} agent switch {principal}` speaks with it", context.command));
            }
        }
    } else if !context.console.json {
        context.console.print(&text::shown(&session_token))?;
    }
    Ok(Exit::Done)
}

async fn list(context: &mut Context<'_>, principal: Option<String>) -> Result<Exit, Failure> {
    let what = "list the devices";
    let path = path(&of(context, what, principal).await?);
    let answer = context.client.get(what, &format!("{path}/devices")).await?;
    if context.console.json {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    let Devices { devices } = answer.read()?;
    let row =
        |d: Device| [d.fingerprint, time::moment(d.added_at_epoch), d.label.unwrap_or_default(), scope_shown(d.scope)];
    let rows: Vec<[String; 4]> = devices.into_iter().map(row).collect();
    context.console.print(&table::table(["FINGERPRINT", "ADDED", "LABEL", "SCOPE"], &rows))?;
    Ok(Exit::Done)
}

fn scope_shown(scope: Option<Vec<String>>) -> String {
    scope.map_or_else(|| "all".into(), |scope| scope.join(" "))
}

async fn remove(context: &mut Context<'_>, fingerprint: &str, principal: Option<String>) -> Result<Exit, Failure> {
    let what = "remove the device";
    let path = path(&of(context, what, principal).await?);
    let answer = context.client.delete(what, &format!("{path}/devices/{}", text::encoded(fingerprint))).await?;
    if context.console.json {
        context.console.document(&answer.body)?;
    } else {
        context
            .console
            .print(&text::shown(&format!("removed {fingerprint}; the sessions that began with it ended")))?;
    }
    Ok(Exit::Done)
}

/// Signs a challenge with a local key and remembers the session.
pub(super) async fn login(context: &mut Context<'_>, principal: &str, key: &KeyName) -> Result<Exit, Failure> {
    let what = format!("log in as {principal}");
    let store = Keystore::of(&context.home);
    let Some(pair) = store.load(key).map_err(|f| f.doing(&what))? else {
        return Err(Failure::failed("not_found", format!("there is no key pair `{key}`"))
            .doing(&what)
            .next(format!("{} keypair list", context.command)));
    };
    let asked = json!({ "principal": principal }).to_string();
    let Challenge { challenge } = context.client.post(&what, "/api/auth/challenge", asked).await?.read()?;
    let signature = hex::encode(store.sign(key, challenge.as_bytes()).map_err(|f| f.doing(&what))?);
    let body = json!({ "principal": principal, "challenge": challenge, "public_key": pair.public_hex(),
                       "signature": signature });
    let answer = context.client.post(&what, "/api/auth/login", body.to_string()).await.map_err(|f| {
        if f.code == "unauthorized" {
            f.because(format!("the host does not let `{principal}` in with the key pair `{key}`"))
                .next("is it a key of that principal, and is the principal enabled?")
        } else {
            f
        }
    })?;
    if context.console.json {
        context.console.document(&answer.body)?;
    }
    remember(context, answer.read()?, key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::Host;

    const SESSION: &str =
        r#"{"principal":"bo","public_key_fingerprint":"f","session_token":"a.b","session_expires_at_epoch":9}"#;

    #[test]
    fn a_login_signs_the_challenge_with_the_local_key_and_remembers_the_session() {
        let host = Host::with(|request| match request {
            r if r.contains("/auth/challenge") => (200, r#"{"challenge":"sign-me","expires_at_epoch":9}"#.to_owned()),
            _ => (200, SESSION.to_owned()),
        });
        let missing = host.astrid(&["login", "bo"]);
        assert!(missing.exit == Exit::Failed && missing.err.contains("no key pair `default`"), "{missing:?}");
        host.astrid(&["keypair", "generate", "laptop"]);
        let ran = host.astrid(&["login", "bo", "--key", "laptop"]);
        assert!(ran.out.starts_with("bo has a session until") && ran.err.contains("agent switch bo"), "{ran:?}");
        let requests = host.requests();
        let body: serde_json::Value = serde_json::from_str(requests[1].rsplit_once("login ").unwrap().1).unwrap();
        let key = host.astrid(&["keypair", "pubkey", "laptop"]).out;
        assert_eq!((body["public_key"].as_str(), body["challenge"].as_str()), (Some(key.trim()), Some("sign-me")));
        let bytes = |field: &str| hex::decode(body[field].as_str().unwrap()).unwrap();
        let key: [u8; 32] = bytes("public_key").try_into().unwrap();
        let signature = ed25519_dalek::Signature::from_slice(&bytes("signature")).unwrap();
        ed25519_dalek::VerifyingKey::from_bytes(&key).unwrap().verify_strict(b"sign-me", &signature).unwrap();
        assert!(host.astrid(&["agent", "switch", "bo"]).out.contains("key pair laptop"));
    }

    #[test]
    fn each_verb_is_one_call_about_the_caller_unless_somebody_is_named() {
        let host = Host::with(|request| match request {
            r if r.starts_with("DELETE") => (204, String::new()),
            r if r.contains("/auth/me") => (200, r#"{"principal":"bo"}"#.to_owned()),
            r if r.contains("/devices") => (
                200,
                r#"{"devices":[{"fingerprint":"f1","label":"phone","scope":["a","b:*"],"added_at_epoch":0}]}"#
                    .to_owned(),
            ),
            r if r.contains("redeem") => (200, SESSION.to_owned()),
            _ => (200, r#"{"token":"t","principal":"bo","expires_at_epoch":9}"#.to_owned()),
        });
        assert_eq!(host.astrid(&["device", "pair", "--label", "phone", "--raw"]).out, "t\n");
        let scoped = host.astrid(&["device", "pair", "--scope", "self:*", "agent:list", "--expires", "1m"]);
        assert!(scoped.out.contains("scope") && scoped.out.contains("all"), "{scoped:?}");
        assert!(host.astrid(&["device", "list"]).out.contains("f1           1970-01-01 00:00:00Z  phone  a b:*"));
        assert!(host.astrid(&["device", "remove", "f1", "--principal", "al"]).out.starts_with("removed f1"));
        assert!(host.astrid(&["device", "redeem", "t", "--key", "phone"]).out.starts_with("bo has a session"));
        let requests = host.requests();
        assert_eq!(
            requests[..5],
            [
                r#"POST /api/auth/pair-device {"expires_secs":300,"label":"phone"}"#,
                r#"POST /api/auth/pair-device {"expires_secs":60,"scope":["self:*","agent:list"]}"#,
                "GET /api/auth/me",
                "GET /api/sys/principals/bo/devices",
                "DELETE /api/sys/principals/al/devices/f1",
            ]
        );
        assert!(requests[5].starts_with("POST /api/auth/pair-device/redeem "), "{}", requests[5]);
    }
}
