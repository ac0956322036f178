//! Whom an operator trusts to sign capsules, and whether an archive is vouched for.
//!
//! A root is a file `NAME.toml` in a home's `etc/trust/`. It says which key may sign which capsules; it never says what
//! a capsule is granted. Pure: the host and the tools read the files. Bounded by [`MAX_ROOTS`] of [`MAX_ROOT_BYTES`].

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::archive::Archive;
use crate::signature::{KeyId, PublicKey, Purpose, Signature};
use crate::{Invalid, shown};

/// The most roots that a home has.
pub const MAX_ROOTS: usize = 1000;
/// The largest file of a root, in bytes.
pub const MAX_ROOT_BYTES: u64 = 64 << 10;

/// What stands for every capsule.
pub const ALL: &str = "*";

/// Somebody who may sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// 1 to 64 of `a-z 0-9 -`, beginning with a letter. The file is called `NAME.toml`.
    pub name: String,
    pub key: PublicKey,
    /// The ids of the capsules that it may sign, or [`ALL`].
    pub capsules: Vec<String>,
    /// For people, at most 500 bytes.
    pub comment: Option<String>,
}

/// As it is written.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    /// The public key, 64 hex digits.
    key: String,
    capsules: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
}

/// Whether the text can name a root, and (the grammar is the same) a capsule.
pub fn is_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

impl Root {
    /// Checks what a file or a command line says.
    pub fn new(name: &str, key: &str, capsules: Vec<String>, comment: Option<String>) -> Result<Self, Invalid> {
        let fail = |text: String| Err(Invalid(text));
        if !is_name(name) {
            return fail(format!("name `{}` must be 1 to 64 of a-z 0-9 - and begin with a letter", shown(name)));
        }
        if capsules.is_empty() {
            return fail(format!("capsules is empty; write [\"{ALL}\"] or the ids that `{name}` may sign"));
        }
        if let Some(bad) = capsules.iter().find(|id| *id != ALL && !is_name(id)) {
            return fail(format!("capsules: `{}` is neither a capsule's id nor {ALL}", shown(bad)));
        }
        if comment.as_ref().is_some_and(|comment| comment.len() > 500) {
            return fail("comment has more than 500 bytes".into());
        }
        let key = PublicKey::parse(key).map_err(|error| Invalid(format!("key: {error}")))?;
        Ok(Self { name: name.into(), key, capsules, comment })
    }

    /// Reads the file `<stem>.toml`.
    pub fn parse(stem: &str, text: &str) -> Result<Self, Invalid> {
        let file: File = toml::from_str(text).map_err(|error| Invalid(error.to_string().trim_end().into()))?;
        if file.name != stem {
            return Err(Invalid(format!("name `{}` must be the file's: `{}`", shown(&file.name), shown(stem))));
        }
        Self::new(&file.name, &file.key, file.capsules, file.comment)
    }

    /// What [`Root::parse`] reads.
    pub fn to_toml(&self) -> String {
        let (name, key) = (self.name.clone(), self.key.to_hex());
        let file = File { name, key, capsules: self.capsules.clone(), comment: self.comment.clone() };
        toml::to_string(&file).expect("texts and a list of texts are TOML")
    }

    /// Whether it may sign this capsule.
    pub fn may_sign(&self, capsule: &str) -> bool {
        self.capsules.iter().any(|id| id == ALL || id == capsule)
    }
}

/// What becomes of what nobody vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// It is refused.
    Require,
    /// It is taken, and the log says why nobody vouches for it.
    Warn,
    /// It is taken. Nothing is verified.
    Off,
}

/// Why nobody vouches for something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Untrusted {
    Unsigned,
    /// No root has any of the keys that signed.
    UnknownKeys(Vec<KeyId>),
    /// A root's signature is good, but not for this capsule.
    NotAllowed {
        root: String,
        capsule: String,
    },
    /// A signature under a root's key is of something else.
    Altered {
        root: String,
        what: &'static str,
    },
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Untrusted::Unsigned => f.write_str("it is not signed"),
            Untrusted::UnknownKeys(ids) => {
                let ids: Vec<String> = ids.iter().map(KeyId::to_string).collect();
                write!(f, "it is signed by {}, which nothing in etc/trust names", ids.join(", "))
            }
            Untrusted::NotAllowed { root, capsule } => {
                write!(f, "it is signed by `{root}`, whose file in etc/trust does not list the capsule `{capsule}`")
            }
            Untrusted::Altered { root, what } => {
                write!(f, "the signature of `{root}` is of something else: {what} was changed after it was signed")
            }
        }
    }
}

/// The first root, by name, that vouches for an archive: its key has signed the archive's hashes, and it may sign this
/// capsule.
pub fn voucher<'a>(roots: &'a [Root], archive: &Archive) -> Result<&'a Root, Untrusted> {
    // Reading has compared every other file with `hashes`, so this is the one that is not what was signed.
    let (id, hashes) = (&archive.manifest.package.name, archive.hashes());
    vouches(roots, id, Purpose::Capsule, hashes.as_bytes(), archive.signatures(), "`hashes`")
}

/// As [`voucher`], for a registry's index and the signatures beside it: a root that may sign `capsule` vouches for what
/// the index says of it.
pub fn index_voucher<'a>(
    roots: &'a [Root],
    capsule: &str,
    index: &[u8],
    signatures: &[Signature],
) -> Result<&'a Root, Untrusted> {
    vouches(roots, capsule, Purpose::Index, index, signatures, "index.toml")
}

fn vouches<'a>(
    roots: &'a [Root],
    capsule: &str,
    purpose: Purpose,
    bytes: &[u8],
    signatures: &[Signature],
    what: &'static str,
) -> Result<&'a Root, Untrusted> {
    if signatures.is_empty() {
        return Err(Untrusted::Unsigned);
    }
    let mut why = Untrusted::UnknownKeys(signatures.iter().map(|signature| signature.key).collect());
    for root in roots {
        for signature in signatures.iter().filter(|signature| signature.key == root.key.id()) {
            if !root.key.verifies(purpose, bytes, signature) {
                why = Untrusted::Altered { root: root.name.clone(), what };
            } else if root.may_sign(capsule) {
                return Ok(root);
            } else {
                why = Untrusted::NotAllowed { root: root.name.clone(), capsule: capsule.into() };
            }
        }
    }
    Err(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;
    use crate::signature::SecretKey;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes(&[n; 32])
    }

    fn root(name: &str, n: u8, capsules: &[&str]) -> Root {
        let capsules = capsules.iter().map(|id| (*id).to_owned()).collect();
        Root::new(name, &key(n).public().to_hex(), capsules, None).unwrap()
    }

    fn archive(signers: &[u8]) -> Archive {
        let manifest = Manifest::parse("[package]\nname = \"notes\"\nversion = \"1.0.0\"\n").unwrap();
        let mut archive = Archive::new(&manifest, b"wasm".to_vec());
        signers.iter().for_each(|n| archive.sign(&key(*n)).unwrap());
        archive
    }

    /// Who vouches, or why nobody does.
    fn said(roots: &[Root], archive: &Archive) -> Result<String, String> {
        voucher(roots, archive).map(|root| root.name.clone()).map_err(|why| why.to_string())
    }

    #[test]
    fn one_good_signature_of_a_root_that_may_sign_the_capsule_is_enough() {
        let roots = [root("a", 1, &["other"]), root("b", 2, &["x", "notes"]), root("c", 3, &["*"])];
        for (signers, who) in [(&[2][..], "b"), (&[3], "c"), (&[1, 2], "b"), (&[9, 3], "c"), (&[2, 3], "b")] {
            assert_eq!(said(&roots, &archive(signers)), Ok(who.into()));
        }
    }

    #[test]
    fn what_nobody_vouches_for_is_told_with_its_reason() {
        let roots = [root("a", 1, &["other"]), root("b", 2, &["*"])];
        assert_eq!(said(&roots, &archive(&[])), Err("it is not signed".into()));
        let unknown = said(&roots, &archive(&[7])).unwrap_err();
        assert!(unknown.contains(&key(7).public().id().to_string()), "{unknown}");
        let not_allowed = said(&roots, &archive(&[1, 7])).unwrap_err();
        assert!(not_allowed.contains("`a`") && not_allowed.contains("`notes`"), "{not_allowed}");
        let mut altered = archive(&[2]);
        altered.component = b"other".to_vec();
        let altered = said(&roots, &altered).unwrap_err();
        assert!(altered.contains("`b`") && altered.contains("`hashes` was changed after it was signed"), "{altered}");
    }

    #[test]
    fn an_index_is_vouched_for_as_an_archive_is_and_neither_for_the_other() {
        let roots = [root("a", 1, &["notes"])];
        let by = |purpose| [key(1).sign(purpose, b"index")];
        assert!(index_voucher(&roots, "notes", b"index", &by(Purpose::Index)).is_ok());
        for (capsule, bytes, signatures, want) in [
            ("other", &b"index"[..], &by(Purpose::Index)[..], "does not list the capsule `other`"),
            ("notes", b"index2", &by(Purpose::Index), "index.toml was changed"),
            ("notes", b"index", &by(Purpose::Capsule), "index.toml was changed"),
            ("notes", b"index", &[], "not signed"),
        ] {
            let why = index_voucher(&roots, capsule, bytes, signatures).unwrap_err().to_string();
            assert!(why.contains(want), "{why}");
        }
    }

    #[test]
    fn a_root_reads_back_and_what_is_wrong_with_one_is_named() {
        let mut whole = root("acme", 1, &["notes", "b-2"]);
        whole.comment = Some("who \"they\" are".into());
        let text = whole.to_toml();
        assert_eq!(Root::parse("acme", &text).unwrap(), whole);
        let key = key(1).public().to_hex();
        for (from, to, want) in [
            ("name = \"acme\"", "name = \"other\"", "must be the file's"),
            ("[\"notes\", \"b-2\"]", "[]", "capsules is empty"),
            ("\"notes\"", "\"No\\u001b\"", "`No\\u{1b}`"),
            (&key[..], &key[1..], "key: "),
            ("comment", "remark", "remark"),
            ("who", &"w".repeat(500), "comment has more than"),
        ] {
            assert!(text.contains(from), "{text}");
            let error = Root::parse("acme", &text.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
        assert!(Root::new("../x", &key, vec![ALL.into()], None).is_err());
    }
}
