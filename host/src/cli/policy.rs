//! What an operator grants a capsule that is installed: on the command line, and in a policy file that was written before
//! anybody was asked.
//!
//! ```toml
//! [grants]
//! notes = ["keys:notes", "bus:send:*"]   # this capsule
//! "*" = ["http:mount"]                   # every capsule
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use astrid_capsule::Capability;
use astrid_capsule::archive::Archive;
use clap::Args;
use serde::Deserialize;

use super::failure::Failure;
use crate::files;

/// The largest policy file, in bytes.
const MAX_BYTES: u64 = 256 << 10;

#[derive(Args, Default)]
pub(super) struct Consent {
    /// Grant what the manifest asks for; may be repeated
    #[arg(long = "grant", value_name = "CAP", value_parser = Capability::parse)]
    pub(super) grants: Vec<Capability>,
    /// Grant what the manifest asks for and this TOML file lets it have: `[grants]`, then `CAPSULE = ["CAP", …]`, with "*" for every capsule
    #[arg(long, value_name = "FILE")]
    pub(super) policy: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    grants: BTreeMap<String, Vec<Allowed>>,
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Allowed(Capability);

impl TryFrom<String> for Allowed {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Capability::parse(&text).map(Self).map_err(|error| error.to_string())
    }
}

impl Consent {
    /// What is granted to the capsule in the archive. With a policy, the archive must be one that can be read here: of what
    /// its manifest asks, what is covered is granted, in the words of the manifest.
    pub(super) fn to(&self, archive: &Path) -> Result<Vec<Capability>, Failure> {
        let mut grants = self.grants.clone();
        let Some(path) = &self.policy else { return Ok(grants) };
        let policy = Policy::read(path)?;
        let unread = |why: String| {
            let why = format!("{}: {why}", archive.display());
            Failure::failed("not_found", why).next("a policy is for archives that can be read here; else use --grant")
        };
        let file = File::open(archive).map_err(|error| unread(error.to_string()))?;
        let manifest = Archive::read(file).map_err(|error| unread(error.to_string()))?.manifest;
        let may = |name: &str| policy.grants.get(name).into_iter().flatten();
        let allowed: Vec<&Allowed> = may(&manifest.package.name).chain(may("*")).collect();
        grants
            .extend(manifest.asked().into_iter().filter(|asked| allowed.iter().any(|allowed| allowed.0.covers(asked))));
        Ok(grants)
    }
}

impl Policy {
    fn read(path: &Path) -> Result<Self, Failure> {
        let failed = |why: String| Failure::failed("policy", format!("{}: {why}", path.display()));
        let bytes = files::open_regular(path).and_then(|file| files::read_capped(file, MAX_BYTES));
        let bytes = bytes.map_err(|error| failed(error.to_string()))?;
        let text = String::from_utf8(bytes).map_err(|_| failed("it is not UTF-8".to_owned()))?;
        toml::from_str(&text).map_err(|error| failed(error.to_string().trim_end().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use astrid_capsule::manifest::Manifest;

    use super::*;

    fn granted(policy: &str, flags: &[&str]) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let (archive, path) = (folder.path().join("notes.capsule"), folder.path().join("policy.toml"));
        let manifest = "asks = [\"keys:session\", \"http:mount\"]\n[package]\nname = \"notes\"\nversion = \"1.0.0\"\n\
                        [http]\nmounts = [\"/notes\"]\n";
        let component = empty();
        Archive::new(&Manifest::parse(manifest).unwrap(), component).write(File::create(&archive).unwrap()).unwrap();
        std::fs::write(&path, policy).unwrap();
        let grants = flags.iter().map(|flag| Capability::parse(flag).unwrap()).collect();
        let consent = Consent { grants, policy: Some(path) };
        let granted = consent.to(&archive).map_err(|failure| failure.reason)?;
        Ok(granted.iter().map(Capability::to_string).collect())
    }

    /// An empty component.
    fn empty() -> Vec<u8> {
        vec![0, b'a', b's', b'm', 0x0d, 0, 1, 0]
    }

    #[test]
    fn of_what_is_asked_what_the_policy_covers_is_granted_and_nothing_else() {
        let given = |policy: &str| granted(policy, &[]).unwrap();
        assert_eq!(given("[grants]\nnotes = [\"keys:*\", \"sys:host\"]\n"), ["keys:session"]);
        assert_eq!(given("[grants]\n\"*\" = [\"http:mount\"]\nnotes = [\"keys:session\"]\n").len(), 2);
        assert!(given("[grants]\nother = [\"*\"]\n").is_empty());
        assert_eq!(granted("[grants]\n", &["keys:session"]).unwrap(), ["keys:session"]);
    }

    #[test]
    fn what_is_wrong_with_a_policy_is_named_with_its_place() {
        for (policy, wanted) in [
            ("[grant]\nnotes = []\n", "grant"),
            ("[grants]\nnotes = [\"no capability\"]\n", "line 2"),
            ("[grants]\nnotes = \"keys:session\"\n", "line 2"),
        ] {
            let why = granted(policy, &[]).unwrap_err();
            assert!(why.contains(wanted) && why.contains("policy.toml"), "{why}");
        }
    }
}
