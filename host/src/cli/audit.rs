//! `astrid audit`: checking a log of facts, and proving one of them, from its files alone. No host is needed, and none is
//! asked: whoever checks must not have to believe it. What asks one is in [`facts`].

use std::fs::File;
use std::path::PathBuf;

use base64ct::{Base64, Encoding};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::failure::{Exit, Failure};
use super::keystore::{KeyName, Keystore};
use super::{Context, facts, table, text, time};
use crate::config::Config;
use crate::files;
use crate::journal::note::{self, Checkpoint, Key, MAX_NOTE};
use crate::journal::tiles::Difference;
use crate::journal::verify::{self, Inclusion};
use crate::journal::{Fact, log_key};
use crate::keys::Keys;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Show facts of the host, newest first
    Query(facts::Query),
    /// Show facts of the host as they are recorded
    Tail(facts::Tail),
    /// Copy the host's log, or without audit:read_all your own facts with their proofs, into a folder, and check the copy
    Export(facts::Export),
    #[command(flatten)]
    Offline(Box<Offline>),
}

#[derive(Subcommand)]
pub(super) enum Offline {
    /// Check every fact of a log, its order and its signature; name the first difference
    Verify {
        #[command(flatten)]
        log: Log,
        /// A checkpoint that was kept elsewhere, which the log must go on from; may be repeated
        #[arg(long, value_name = "FILE")]
        against: Vec<PathBuf>,
        /// The public key of the witness whose cosignature each of those must have [default: the log's own]
        #[arg(long, value_name = "NAME+ID+KEY", value_parser = parse_key)]
        witness: Option<Key>,
    },
    /// Print the proof that a fact stands in a log (C2SP tlog-proof)
    Prove {
        /// The fact's index
        index: u64,
        #[command(flatten)]
        log: Log,
    },
    /// Print the proof that a log goes on from an older checkpoint of it
    Extends {
        /// The older checkpoint
        checkpoint: PathBuf,
        #[command(flatten)]
        log: Log,
    },
    /// Show a fact, once it is proven
    Show {
        /// Its index
        index: u64,
        #[command(flatten)]
        log: Log,
    },
    /// Print the public key of this home's log
    Key,
    /// Cosign a log's checkpoint, if the log goes on from the last one that was cosigned
    Witness {
        #[command(flatten)]
        log: Log,
        /// Where cosigned checkpoints are kept: the last one is read, the new one written. Not where the log's owner can write
        #[arg(long, value_name = "FILE")]
        keep: PathBuf,
        /// Which of your own key pairs signs
        #[arg(long, value_name = "NAME", value_parser = KeyName::parse)]
        keypair: KeyName,
        /// The witness's name in the note: 1 to 256 characters, no spaces, no `+`
        #[arg(long, value_name = "NAME")]
        name: String,
    },
}

/// Which log.
#[derive(Args)]
pub(super) struct Log {
    /// The log's folder, or a copy of it [default: the home's]
    path: Option<PathBuf>,
    /// The public key of its checkpoints, as `astrid audit key` prints it [default: that of the home]
    #[arg(long, value_name = "NAME+ID+KEY", value_parser = parse_key)]
    key: Option<Key>,
}

pub(super) fn parse_key(text: &str) -> Result<Key, String> {
    Key::parse(text).map_err(|error| error.to_string())
}

fn different(difference: Difference) -> Failure {
    Failure::failed("different", difference.to_string())
}

fn unreadable(path: &std::path::Path, why: impl ToString) -> Failure {
    Failure::failed("audit", format!("{}: {}", path.display(), why.to_string()))
}

impl Log {
    /// Its folder, and the key that its checkpoints must be signed with.
    fn open(self, context: &Context<'_>) -> Result<(PathBuf, Key), Failure> {
        let key = self.key.map_or_else(|| own_key(context), Ok)?;
        Ok((self.path.unwrap_or_else(|| context.home.audit()), key))
    }
}

/// The key of the home's log.
pub(super) fn own_key(context: &Context<'_>) -> Result<Key, Failure> {
    let path = context.home.keys().join("host.key");
    if !path.exists() {
        return Err(unreadable(&path, "there is no such key").next("say whose log it is, with --key"));
    }
    let config = Config::load(&context.home.config(), &[], crate::home::environment())
        .map_err(|error| Failure::failed("config", format!("{error:#}")))?;
    let keys = Keys::open(&path).map_err(|error| Failure::failed("audit", format!("{error:#}")))?;
    log_key(&config.audit, &keys).map_err(|error| Failure::failed("audit", error.to_string()))
}

/// A note from a file.
fn read(path: &std::path::Path) -> Result<Vec<u8>, Failure> {
    let read = File::open(path).and_then(|file| files::read_capped(file, MAX_NOTE as u64));
    read.map_err(|error| unreadable(path, error))
}

fn checkpoint(path: &std::path::Path, key: &Key) -> Result<Checkpoint, Failure> {
    Checkpoint::open(&read(path)?, key).map_err(|error| unreadable(path, error))
}

impl Verb {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        match self {
            Verb::Query(query) => query.run(context).await,
            Verb::Tail(tail) => tail.run(context).await,
            Verb::Export(export) => export.run(context).await,
            Verb::Offline(verb) => verb.run(context),
        }
    }
}

impl Offline {
    fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        if context.client.is_remote() {
            return Err(Failure::usage("this reads files: run it where the log is, without --url"));
        }
        match self {
            Offline::Verify { log, against, witness } => verify_log(context, log, &against, witness),
            Offline::Prove { index, log } => {
                let (folder, key) = log.open(context)?;
                let (proof, entry) = Inclusion::of(&folder, &key, index).map_err(different)?;
                let fact = String::from_utf8_lossy(&entry);
                let document = json!({ "index": index, "fact": fact, "proof": proof.to_string() });
                print(context, &document, proof.to_string())
            }
            Offline::Extends { checkpoint, log } => extends(context, &checkpoint, log),
            Offline::Show { index, log } => {
                let (folder, key) = log.open(context)?;
                let (_, entry) = Inclusion::of(&folder, &key, index).map_err(different)?;
                let fact = Fact::parse(&entry);
                let fact = fact.ok_or_else(|| Failure::failed("audit", format!("entry {index} is not a fact")))?;
                let document = serde_json::to_value(&fact).expect("plain records serialise");
                let text = lines(index, &document);
                print(context, &document, text)
            }
            Offline::Key => {
                let key = own_key(context)?.to_string();
                print(context, &json!({ "key": key }), key)
            }
            Offline::Witness { log, keep, keypair, name } => witness(context, log, &keep, &keypair, &name),
        }
    }
}

fn print(context: &mut Context<'_>, document: &Value, text: String) -> Result<Exit, Failure> {
    context.console.print(&if context.console.json { document.to_string() } else { text })?;
    Ok(Exit::Done)
}

fn lines(index: u64, fact: &Value) -> String {
    let mut rows = vec![("index", index.to_string())];
    for (name, value) in fact.as_object().into_iter().flatten() {
        let shown = match (name.as_str(), value) {
            ("time", Value::Number(time)) => time::moment_ms(time.as_u64().unwrap_or(0) / 1_000_000),
            (_, Value::String(value)) => text::shown(value),
            (_, other) => other.to_string(),
        };
        rows.push((name, shown));
    }
    table::facts(&rows)
}

fn verify_log(context: &mut Context<'_>, log: Log, against: &[PathBuf], witness: Option<Key>) -> Result<Exit, Failure> {
    let (folder, key) = log.open(context)?;
    let older = against.iter().map(|path| checkpoint(path, witness.as_ref().unwrap_or(&key)));
    let older = older.collect::<Result<Vec<_>, _>>()?;
    if verify::holds_proofs(&folder) {
        if !older.is_empty() {
            return Err(Failure::usage(
                "facts without their log say nothing of an older checkpoint: leave --against out",
            ));
        }
        return verify_facts(context, &folder, &key);
    }
    let verified = verify::verify(&folder, &key, &older).map_err(different)?;
    let Checkpoint { origin, size, root } = verified.checkpoint;
    let (root, pruned) = (Base64::encode_string(&root), verified.pruned);
    let document = json!({ "origin": origin, "facts": size, "root": root, "pruned": pruned });
    let text = table::facts(&[
        ("log", text::shown(&origin)),
        ("facts", format!("{size}, all as they were signed")),
        ("pruned", if pruned == 0 { "nothing".to_owned() } else { format!("the first {pruned}, as a fact says") }),
        ("root", root),
    ]);
    print(context, &document, text)
}

/// Some of a log's facts.
fn verify_facts(context: &mut Context<'_>, folder: &std::path::Path, key: &Key) -> Result<Exit, Failure> {
    let verify::VerifiedFacts { checkpoint, proven, redacted } =
        verify::verify_facts(folder, key).map_err(different)?;
    let Checkpoint { origin, size, root } = checkpoint;
    let root = Base64::encode_string(&root);
    let document = json!({ "origin": origin, "proven": proven, "redacted": redacted, "size": size, "root": root });
    let text = table::facts(&[
        ("log", text::shown(&origin)),
        ("proven", format!("{proven} facts of the log's {size}, each as it was signed")),
        ("redacted", format!("{redacted}, which have no proof")),
        ("root", root),
    ]);
    print(context, &document, text)
}

fn extends(context: &mut Context<'_>, older: &std::path::Path, log: Log) -> Result<Exit, Failure> {
    let (folder, key) = log.open(context)?;
    let older = checkpoint(older, &key)?;
    let (hashes, newer) = verify::consistency(&folder, &key, &older).map_err(different)?;
    let hashes: Vec<String> = hashes.iter().map(|hash| Base64::encode_string(hash)).collect();
    let document = json!({ "old_size": older.size, "size": newer.size, "proof": hashes });
    print(context, &document, hashes.join("\n"))
}

fn witness(
    context: &mut Context<'_>,
    log: Log,
    keep: &std::path::Path,
    keypair: &KeyName,
    name: &str,
) -> Result<Exit, Failure> {
    let (folder, key) = log.open(context)?;
    let store = Keystore::of(&context.home);
    let pair = store.load(keypair)?;
    let pair = pair.ok_or_else(|| Failure::failed("not_found", format!("there is no key pair `{keypair}`")))?;
    let own = Key::new(name, note::Kind::Witness, &pair.public_key).map_err(|e| Failure::usage(e.to_string()))?;
    // What this witness has cosigned is what it knows; a file that somebody else has written says nothing.
    let last = if keep.exists() { Some(checkpoint(keep, &own)?) } else { None };
    let older: Vec<Checkpoint> = last.into_iter().collect();
    let (mut note, now) = verify::checkpoint(&folder, &key).map_err(different)?;
    for before in &older {
        if *before != now {
            verify::consistency(&folder, &key, before).map_err(different)?;
        }
    }
    let mut failure = None;
    note.cosign(&own, time::now(), |bytes| {
        store.sign(keypair, bytes).unwrap_or_else(|error| {
            failure = Some(error);
            [0; 64]
        })
    });
    if let Some(failure) = failure {
        return Err(failure);
    }
    let text = note.to_string();
    files::write(keep, text.as_bytes(), 0o644).map_err(|error| unreadable(keep, error))?;
    let document = json!({ "facts": now.size, "key": own.to_string(), "checkpoint": text });
    print(context, &document, format!("{text}\ncosigned by {own}"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::super::testing::{Ran, astrid, home};
    use super::*;
    use crate::home::Home;
    use crate::journal::{self, Journal};

    fn grow(home: &Home, facts: usize) {
        let keys = Arc::new(Keys::open(&home.keys().join("host.key")).unwrap());
        let journal = Journal::open(&home.audit(), &journal::Config::default(), &keys).unwrap();
        (0..facts).for_each(|_| journal.append(journal.fact("test.one")));
    }

    fn done(home: &Home, args: &[&str]) -> Value {
        let ran = astrid(home, &[&["--json", "audit"], args].concat());
        assert_eq!(ran.exit, Exit::Done, "{ran:?}");
        serde_json::from_str(&ran.out).unwrap()
    }

    fn refused(home: &Home, args: &[&str]) -> Ran {
        let ran = astrid(home, &[&["audit"], args].concat());
        assert!(ran.exit == Exit::Failed && ran.out.is_empty(), "{ran:?}");
        ran
    }

    #[test]
    fn a_copied_log_is_checked_with_its_public_key_and_a_fact_of_it_is_proven() {
        let (_dir, theirs) = home();
        let (_other, mine) = home();
        assert!(refused(&mine, &["verify"]).err.contains("--key"));
        grow(&theirs, 500);
        let key = done(&theirs, &["key"])["key"].as_str().unwrap().to_owned();
        let path = theirs.audit().display().to_string();
        let there = [&*path, "--key", &key];
        assert_eq!(done(&mine, &[&["verify"], &there[..]].concat())["facts"], 502);
        let proven = done(&mine, &[&["prove", "300"], &there[..]].concat());
        let proof = Inclusion::parse(proven["proof"].as_str().unwrap()).unwrap();
        let public = Key::parse(&key).unwrap();
        assert_eq!(proof.check(proven["fact"].as_str().unwrap().as_bytes(), &public).unwrap().size, 502);
        assert_eq!(done(&mine, &[&["show", "0"], &there[..]].concat())["action"], "host.start");
        assert!(refused(&mine, &[&["show", "502"], &there[..]].concat()).err.contains("502 facts"));
        let file = theirs.audit().join("tile/entries/000");
        let mut bytes = fs::read(&file).unwrap();
        bytes[100] ^= 1;
        fs::write(file, bytes).unwrap();
        assert!(refused(&mine, &[&["verify"], &there[..]].concat()).err.contains("tile/entries/000, entry 0"));
    }

    #[test]
    fn a_witness_cosigns_what_goes_on_and_never_what_was_rewritten() {
        let (_dir, theirs) = home();
        let (other, mine) = home();
        grow(&theirs, 100);
        assert_eq!(astrid(&mine, &["keypair", "generate", "w"]).exit, Exit::Done);
        let (keep, first) = (other.path().join("kept"), other.path().join("first"));
        let keep = keep.to_str().unwrap().to_owned();
        let key = done(&theirs, &["key"])["key"].as_str().unwrap().to_owned();
        let path = theirs.audit().display().to_string();
        let there = [&*path, "--key", &key];
        let cosign = [&["witness", "--keypair", "w", "--name", "w.example", "--keep", &keep], &there[..]].concat();
        let witness = done(&mine, &cosign)["key"].as_str().unwrap().to_owned();
        fs::copy(&keep, &first).unwrap();
        grow(&theirs, 400);
        assert_eq!(done(&mine, &cosign)["facts"], 504);
        let against = ["--against", first.to_str().unwrap(), "--against", &keep, "--witness", &witness];
        assert_eq!(done(&mine, &[&["verify"], &there[..], &against[..]].concat())["facts"], 504);
        let since = [&["extends", first.to_str().unwrap()], &there[..]].concat();
        assert!(!done(&mine, &since)["proof"].as_array().unwrap().is_empty());

        fs::remove_dir_all(theirs.audit()).unwrap();
        fs::create_dir(theirs.audit()).unwrap();
        grow(&theirs, 600);
        assert_eq!(done(&mine, &[&["verify"], &there[..]].concat())["facts"], 602, "the owner has signed it");
        assert!(refused(&mine, &cosign).err.contains("rewritten"));
        assert!(refused(&mine, &[&["verify"], &there[..], &against[..]].concat()).err.contains("rewritten"));
    }
}
