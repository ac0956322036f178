//! `astrid keypair`: the verbs of the [keystore](super::keystore). The only ones that call nobody.

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::failure::{Exit, Failure};
use super::keystore::{KeyName, KeyPair, Keystore, Listed};
use super::{Context, table, time};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Make a key pair
    Generate {
        #[arg(value_parser = KeyName::parse)]
        name: KeyName,
        /// Replace the pair of that name; its secret is gone for good
        #[arg(long)]
        force: bool,
    },
    /// List the key pairs
    List,
    /// Show a key pair, without its secret
    Show {
        #[arg(value_parser = KeyName::parse)]
        name: KeyName,
    },
    /// Print the public key alone
    Pubkey {
        #[arg(value_parser = KeyName::parse)]
        name: KeyName,
        #[arg(long, value_enum, default_value_t = Format::Hex)]
        format: Format,
    },
    /// Delete a key pair for good
    Delete {
        #[arg(value_parser = KeyName::parse)]
        name: KeyName,
        /// Confirm the deletion
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Format {
    /// 64 hex digits, as the HTTP surface takes it
    Hex,
    /// A line for OpenSSH
    Openssh,
}

impl Verb {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let store = Keystore::of(&context.home);
        match self {
            Verb::Generate { name, force } => {
                let what = format!("generate the key pair `{name}`");
                let pair = store.generate(&name, force).map_err(|f| f.doing(&what))?;
                show(context, &pair)?;
            }
            Verb::List => list(context, &store)?,
            Verb::Show { name } => {
                let pair = load(context, &store, &name)?;
                show(context, &pair)?;
            }
            Verb::Pubkey { name, format } => {
                let pair = load(context, &store, &name)?;
                let (format, key) = match format {
                    Format::Hex => ("hex", pair.public_hex()),
                    Format::Openssh => ("openssh", pair.openssh()),
                };
                let document = json!({ "name": name.to_string(), "format": format, "public_key": key });
                context.console.print(&if context.console.json { document.to_string() } else { key })?;
            }
            Verb::Delete { name, yes } => {
                if !yes {
                    return Err(Failure::usage(format!("deleting `{name}` is for good and needs a yes"))
                        .next(format!("{} keypair delete {name} --yes", context.command)));
                }
                let what = format!("delete the key pair `{name}`");
                if !store.delete(&name).map_err(|f| f.doing(&what))? {
                    return Err(missing(context, &name).doing(&what));
                }
                let document = json!({ "name": name.to_string(), "deleted": true });
                let text = if context.console.json { document.to_string() } else { format!("deleted {name}") };
                context.console.print(&text)?;
            }
        }
        Ok(Exit::Done)
    }
}

fn missing(context: &Context<'_>, name: &KeyName) -> Failure {
    Failure::failed("not_found", format!("there is no key pair `{name}` in {}", context.home.root().display()))
        .next(format!("{} keypair list", context.command))
}

fn load(context: &Context<'_>, store: &Keystore, name: &KeyName) -> Result<KeyPair, Failure> {
    let what = format!("read the key pair `{name}`");
    store.load(name).and_then(|pair| pair.ok_or_else(|| missing(context, name))).map_err(|f| f.doing(&what))
}

fn document(pair: &KeyPair) -> Value {
    json!({
        "name": pair.name.to_string(),
        "public_key": pair.public_hex(),
        "created_at_epoch": pair.created_at_epoch,
        "secret_file": pair.secret_file.to_string_lossy(),
    })
}

fn created(pair: &KeyPair) -> String {
    pair.created_at_epoch.map_or_else(|| "unknown".to_owned(), time::moment)
}

fn show(context: &mut Context<'_>, pair: &KeyPair) -> Result<(), Failure> {
    if context.console.json {
        return context.console.print(&document(pair).to_string());
    }
    context.console.print(&table::facts(&[
        ("name", pair.name.to_string()),
        ("public key", pair.public_hex()),
        ("created", created(pair)),
        ("secret file", pair.secret_file.display().to_string()),
    ]))
}

fn list(context: &mut Context<'_>, store: &Keystore) -> Result<(), Failure> {
    let pairs = store.list().map_err(|f| f.doing("list the key pairs"))?;
    if context.console.json {
        let entry = |(name, pair): &Listed| match pair {
            Ok(pair) => document(pair),
            Err(failure) => json!({ "name": name.to_string(), "error": failure.code, "reason": failure.reason }),
        };
        let keys: Vec<Value> = pairs.iter().map(entry).collect();
        return context.console.print(&json!({ "keys": keys }).to_string());
    }
    if pairs.is_empty() {
        context.console.remark(&format!("no key pairs yet; `{} keypair generate NAME` makes one", context.command));
        return Ok(());
    }
    let rows: Vec<[String; 3]> = pairs
        .into_iter()
        .map(|(name, pair)| match pair {
            Ok(pair) => [name.to_string(), created(&pair), pair.public_hex()],
            Err(failure) => [name.to_string(), "unusable".to_owned(), failure.reason],
        })
        .collect();
    context.console.print(&table::table(["NAME", "CREATED", "PUBLIC KEY"], &rows))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use crate::cli::failure::Exit;
    use crate::cli::testing::{astrid, home};

    #[test]
    fn a_pair_lives_from_generate_to_delete() {
        let (_dir, home) = home();
        let made = astrid(&home, &["keypair", "generate", "laptop", "--json"]);
        assert_eq!(made.exit, Exit::Done, "{made:?}");
        let made: Value = serde_json::from_str(&made.out).unwrap();
        let key = made["public_key"].as_str().unwrap();
        assert_eq!(astrid(&home, &["keypair", "pubkey", "laptop"]).out, format!("{key}\n"));
        let shown = astrid(&home, &["keypair", "show", "laptop"]).out;
        assert!(shown.contains(&format!("public key   {key}")), "{shown}");
        let listed: Value = serde_json::from_str(&astrid(&home, &["--json", "keypair", "list"]).out).unwrap();
        assert_eq!(listed["keys"][0], made);
        assert!(
            astrid(&home, &["keypair", "pubkey", "laptop", "--format", "openssh"]).out.starts_with("ssh-ed25519 AAAA")
        );
        assert_eq!(astrid(&home, &["keypair", "generate", "laptop"]).exit, Exit::Failed);

        let unsure = astrid(&home, &["keypair", "delete", "laptop"]);
        assert_eq!(unsure.exit, Exit::Usage);
        assert!(unsure.err.contains("keypair delete laptop --yes"), "{}", unsure.err);
        assert_eq!(astrid(&home, &["keypair", "delete", "laptop", "--yes"]).exit, Exit::Done);
        let gone = astrid(&home, &["keypair", "show", "laptop"]);
        assert_eq!(gone.exit, Exit::Failed);
        assert!(gone.err.contains("no key pair `laptop`"), "{}", gone.err);
    }

    #[test]
    fn a_bad_name_is_a_usage_error_in_either_form() {
        let (_dir, home) = home();
        let bad = astrid(&home, &["keypair", "generate", "../x"]);
        assert_eq!(bad.exit, Exit::Usage);
        assert!(bad.err.contains("1 to 64 of"), "{}", bad.err);
        let bad = astrid(&home, &["keypair", "generate", "../x", "--json"]);
        let document: Value = serde_json::from_str(&bad.err).unwrap();
        assert_eq!((bad.exit, document["error"].as_str()), (Exit::Usage, Some("usage")));
        assert!(bad.out.is_empty());
    }
}
