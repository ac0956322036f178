//! `astrid trust`: whose signatures count on this host. The verbs read and write the home's `etc/trust/`; no host is
//! needed, and one that runs looks there at its next installation.

use std::fs;
use std::io;
use std::path::PathBuf;

use astrid_capsule::trust::{self as roots, Root};
use clap::Subcommand;
use serde_json::{Value, json};

use super::failure::{Exit, Failure};
use super::{Context, table, text};
use crate::{files, trust};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// List whose signatures count, and for which capsules
    List,
    /// Let a key's signatures count
    Add {
        /// A name for it: 1 to 64 of a-z 0-9 -, beginning with a letter
        name: String,
        /// The public key, 64 hex digits, as `astrid-build keygen` prints it
        key: String,
        /// The ids of the capsules that it may sign [default: all]
        #[arg(long, value_name = "A,B", value_delimiter = ',', default_values_t = [roots::ALL.to_owned()])]
        capsules: Vec<String>,
        /// A remark for people
        #[arg(long, value_name = "TEXT")]
        comment: Option<String>,
        /// Replace the one of that name
        #[arg(long)]
        force: bool,
    },
    /// No longer let its signatures count; what is installed stays
    Remove { name: String },
}

impl Verb {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        if !context.client.is_at_home() {
            let wrong = "trust is a matter of files: run it where the host's home is, without --url, --socket and $ASTRID_SOCKET";
            return Err(Failure::usage(wrong));
        }
        match self {
            Verb::List => list(context),
            Verb::Add { name, key, capsules, comment, force } => {
                let root = Root::new(&name, &key, capsules, comment).map_err(|error| Failure::usage(error.0))?;
                add(context, &root, force).map_err(|failure| failure.doing(&format!("trust `{name}`")))
            }
            Verb::Remove { name } => {
                let path = path(context, &name).ok_or_else(|| Failure::usage(bad_name(&name)))?;
                remove(context, &name, path).map_err(|failure| failure.doing(&format!("remove `{name}`")))
            }
        }
    }
}

fn bad_name(name: &str) -> String {
    format!("`{}` is no name: 1 to 64 of a-z 0-9 -, beginning with a letter", text::shown(name))
}

fn path(context: &Context<'_>, name: &str) -> Option<PathBuf> {
    roots::is_name(name).then(|| context.home.trust().join(format!("{name}.toml")))
}

fn failed(path: PathBuf) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::failed("io", format!("{}: {error}", path.display()))
}

fn document(root: &Root) -> Value {
    json!({
        "name": root.name,
        "key": root.key.to_hex(),
        "key_id": root.key.id().to_string(),
        "capsules": root.capsules,
        "comment": root.comment,
    })
}

fn list(context: &mut Context<'_>) -> Result<Exit, Failure> {
    let folder = context.home.trust();
    let read = trust::read(&folder).map_err(failed(folder.clone()))?;
    let exit = if read.iter().all(|(_, root)| root.is_ok()) { Exit::Done } else { Exit::Failed };
    if context.console.json {
        let entry = |(name, root): &(String, Result<Root, String>)| match root {
            Ok(root) => document(root),
            Err(reason) => json!({ "name": name, "error": "invalid", "reason": reason }),
        };
        let entries: Vec<Value> = read.iter().map(entry).collect();
        context.console.print(&json!({ "roots": entries }).to_string())?;
        return Ok(exit);
    }
    if read.is_empty() {
        context.console.remark(&format!("nobody's signatures count; `{} trust add NAME KEY`", context.command));
        return Ok(Exit::Done);
    }
    let row = |(name, root): (String, Result<Root, String>)| match root {
        Ok(root) => [name, root.key.id().to_string(), root.capsules.join(","), root.comment.unwrap_or_default()],
        Err(reason) => [name, "unusable".to_owned(), String::new(), reason],
    };
    let rows: Vec<[String; 4]> = read.into_iter().map(row).collect();
    context.console.print(&table::table(["NAME", "KEY ID", "CAPSULES", "COMMENT"], &rows))?;
    Ok(exit)
}

fn add(context: &mut Context<'_>, root: &Root, force: bool) -> Result<Exit, Failure> {
    context.home.create().map_err(|error| Failure::failed("home", error.to_string()))?;
    let path = path(context, &root.name).ok_or_else(|| Failure::usage(bad_name(&root.name)))?;
    let text = root.to_toml();
    let there = match fs::read_to_string(&path) {
        Ok(there) => Some(there),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(path)(error)),
    };
    if there.as_ref().is_some_and(|there| *there != text) && !force {
        return Err(Failure::failed("conflict", format!("{} says something else", path.display())).next(format!(
            "to replace it, repeat the command with --force; `{} trust list` shows it",
            context.command
        )));
    }
    if there.as_ref() != Some(&text) {
        // Public keys: nothing here is secret, and the home is private anyway.
        files::write(&path, text.as_bytes(), 0o644).map_err(failed(path))?;
    }
    if context.console.json {
        context.console.print(&document(root).to_string())?;
        return Ok(Exit::Done);
    }
    let capsules = if root.capsules.iter().any(|id| id == roots::ALL) {
        "every capsule".to_owned()
    } else {
        root.capsules.join(", ")
    };
    context.console.print(&table::facts(&[
        ("name", root.name.clone()),
        ("key id", root.key.id().to_string()),
        ("may sign", capsules),
    ]))?;
    Ok(Exit::Done)
}

fn remove(context: &mut Context<'_>, name: &str, path: PathBuf) -> Result<Exit, Failure> {
    match fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::failed("not_found", format!("there is no {}", path.display()))
                .next(format!("`{} trust list` shows the names there are", context.command)));
        }
        Err(error) => return Err(failed(path)(error)),
    }
    let document = json!({ "name": name, "removed": true });
    let text = format!("removed {name}; what it vouched for stays installed");
    context.console.print(&if context.console.json { document.to_string() } else { text })?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use astrid_capsule::signature::SecretKey;

    use super::*;
    use crate::cli::testing::{astrid, home};

    fn key(n: u8) -> String {
        SecretKey::from_bytes(&[n; 32]).public().to_hex()
    }

    #[test]
    fn a_root_lives_from_add_to_remove() {
        let (_dir, home) = home();
        assert!(astrid(&home, &["trust", "list"]).err.contains("trust add NAME KEY"));
        let added = astrid(&home, &["trust", "add", "acme", &key(1), "--capsules", "notes,b-2"]);
        assert!(added.exit == Exit::Done && added.out.contains("may sign  notes, b-2"), "{added:?}");
        assert_eq!(fs::metadata(home.trust().join("acme.toml")).unwrap().mode() & 0o777, 0o644);
        assert_eq!(astrid(&home, &["trust", "add", "acme", &key(1), "--capsules", "notes,b-2"]).exit, Exit::Done);
        let other = astrid(&home, &["trust", "add", "acme", &key(2)]);
        assert!(other.exit == Exit::Failed && other.err.contains("--force"), "{other:?}");
        assert_eq!(astrid(&home, &["trust", "add", "acme", &key(2), "--force"]).exit, Exit::Done);
        let listed: Value = serde_json::from_str(&astrid(&home, &["trust", "list", "--json"]).out).unwrap();
        assert_eq!((&listed["roots"][0]["key"], &listed["roots"][0]["capsules"]), (&json!(key(2)), &json!(["*"])));
        let id = listed["roots"][0]["key_id"].as_str().unwrap();
        assert!(astrid(&home, &["trust", "list"]).out.contains(&format!("acme  {id}  *")));
        assert_eq!(astrid(&home, &["trust", "remove", "acme"]).exit, Exit::Done);
        let gone = astrid(&home, &["trust", "remove", "acme"]);
        assert!(gone.exit == Exit::Failed && gone.err.contains("acme.toml"), "{gone:?}");
        assert_eq!(fs::read_dir(home.trust()).unwrap().count(), 0, "nothing is left beside it");
    }

    #[test]
    fn what_is_no_root_is_refused_and_a_broken_file_is_shown() {
        let (_dir, home) = home();
        let weak = format!("01{}", "00".repeat(31));
        for (args, want) in [
            (&["trust", "add", "../x", &key(1)][..], "must be 1 to 64"),
            (&["trust", "add", "acme", "abc"], "64 hex digits"),
            (&["trust", "add", "acme", &weak], "no usable Ed25519 key"),
            (&["trust", "add", "acme", &key(1), "--capsules", "No"], "neither a capsule's id nor *"),
            (&["trust", "remove", "../x"], "is no name"),
            (&["--url", "http://127.0.0.1:1", "trust", "list"], "without --url"),
        ] {
            let ran = astrid(&home, args);
            assert!(ran.exit == Exit::Usage && ran.err.contains(want), "{ran:?}");
        }
        fs::write(home.trust().join("odd.toml"), "name = \"even\"\n").unwrap();
        let ran = astrid(&home, &["trust", "list"]);
        assert!(ran.exit == Exit::Failed && ran.out.contains("unusable") && ran.out.contains("odd.toml"), "{ran:?}");
    }
}
