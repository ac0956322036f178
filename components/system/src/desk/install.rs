//! Installing a capsule, or all of the distribution: what is asked for, what came of it, and how it fails.

use astrid_sdk::bus::Refusal;
use astrid_sdk::host::{self, InstallError};
use serde::{Deserialize, Serialize};

/// The longest path of an archive, in bytes.
const MAX_SOURCE_BYTES: usize = 4096;

/// What to install, and what the operator grants it of what its manifest asks.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Install {
    /// The absolute path of a `.capsule` file on the host's machine.
    pub source: String,
    pub grants: Option<Vec<String>>,
    /// Calls of the live version that the new one must answer alike before it replaces it.
    pub shadow: Option<u32>,
}

impl Install {
    /// Itself, if its source can be a path; else `invalid`.
    pub fn checked(self) -> Result<Self, Refusal> {
        if self.source.len() > MAX_SOURCE_BYTES {
            return Err(Refusal::invalid(format!("source has more than {MAX_SOURCE_BYTES} bytes")));
        }
        if !self.source.starts_with('/') || self.source.contains('\0') {
            let source = self.source.escape_debug();
            return Err(Refusal::invalid(format!("source `{source}` must be the absolute path of a .capsule file")));
        }
        Ok(self)
    }
}

#[derive(Debug, Serialize)]
pub struct Installed {
    pub id: String,
    /// The folder that holds the component.
    pub target_dir: String,
    /// `install` or `upgrade`.
    pub phase: &'static str,
    pub installed_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_version: Option<String>,
    /// BLAKE3 of the component, hex.
    pub wasm_hash: String,
    /// Where its environment is set.
    pub env_path: String,
    /// Whether a field of its environment has neither a value nor a default.
    pub env_needs_prompt: bool,
    /// Topics that it sends to and no installed capsule handles.
    pub missing_imports: Vec<MissingImport>,
    /// What it serves and another capsule serves in part.
    pub export_conflicts: Vec<ExportConflict>,
    /// Everything that the manifest asks.
    pub asks: Vec<String>,
    pub grants: Vec<String>,
    /// Whoever of the operator's `etc/trust/` vouches for the archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publisher: Option<String>,
    /// Live calls that both versions answered alike before the new one replaced the old.
    #[serde(skip_serializing_if = "is_zero")]
    pub shadowed: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A topic that somebody has to handle.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct MissingImport {
    /// The topic's first segment, by custom the capsule that handles it.
    pub namespace: String,
    /// The topic.
    pub interface: String,
    /// `handler`.
    pub requirement: &'static str,
}

/// Nothing is taken from either: the better match of a topic and the longer mount of a path is who serves.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ExportConflict {
    /// The topic pattern or mount of the capsule that was installed.
    pub interface: String,
    pub existing_capsule: String,
}

impl From<host::Installed> for Installed {
    fn from(installed: host::Installed) -> Self {
        let missing = |topic: String| MissingImport {
            namespace: topic.split('.').next().unwrap_or_default().to_owned(),
            interface: topic,
            requirement: "handler",
        };
        let conflict = |overlap: host::Overlap| ExportConflict {
            interface: overlap.interface,
            existing_capsule: overlap.existing_capsule,
        };
        Self {
            target_dir: installed.target_dir,
            phase: if installed.previous_version.is_some() { "upgrade" } else { "install" },
            installed_version: installed.version,
            previous_version: installed.previous_version,
            wasm_hash: installed.hash,
            env_path: format!("/api/capsules/{}/env", installed.id),
            env_needs_prompt: installed.env_needs_prompt,
            missing_imports: installed.unhandled.into_iter().map(missing).collect(),
            export_conflicts: installed.overlaps.into_iter().map(conflict).collect(),
            asks: installed.asks,
            grants: installed.grants,
            publisher: installed.publisher,
            shadowed: installed.shadowed,
            id: installed.id,
        }
    }
}

/// In the order of the distribution.
#[derive(Debug, Serialize)]
pub struct Distribution {
    pub capsules: Vec<Applied>,
}

#[derive(Debug, Serialize)]
pub struct Applied {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    pub what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl From<Vec<host::Applied>> for Distribution {
    fn from(applied: Vec<host::Applied>) -> Self {
        let row = |host::Applied { name, version, what, why }| Applied { name, version, what, why };
        Self { capsules: applied.into_iter().map(row).collect() }
    }
}

/// An installation that failed, as a refusal that says what to do next where something can be done.
pub fn refusal(error: InstallError) -> Refusal {
    match error {
        InstallError::Invalid(reason) => Refusal::invalid(reason),
        InstallError::NotFound(reason) => Refusal::not_found(reason),
        InstallError::Conflict(reason) => Refusal::conflict(reason),
        InstallError::Untrusted(reason) => Refusal::denied(reason),
        InstallError::Failed(reason) => Refusal::unavailable(reason),
        InstallError::Ungranted(asked) => Refusal::denied(format!(
            "the capsule asks for {} and was not granted it; repeat the request with it in grants to allow that",
            asked.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use astrid_sdk::bus::RefusalCode;
    use serde_json::{json, to_value};

    use super::*;

    #[test]
    fn an_install_wants_an_absolute_path() {
        let install = |source: &str| Install { source: source.into(), grants: None, shadow: None }.checked();
        assert!(install("/srv/notes.capsule").is_ok());
        for source in ["", "notes.capsule", "../notes.capsule", "https://example.org/a.capsule", "/a\0b"] {
            let refusal = install(source).unwrap_err();
            assert_eq!(refusal.code, RefusalCode::Invalid);
            assert!(refusal.reason.contains("absolute path"), "{}", refusal.reason);
        }
        assert!(install(&format!("/{}", "a".repeat(4096))).is_err());
    }

    #[test]
    fn an_ungranted_install_names_what_was_asked_and_what_to_do() {
        let refusal = refusal(InstallError::Ungranted(vec!["sys:host".into(), "keys:session".into()]));
        assert_eq!(refusal.code, RefusalCode::Denied);
        assert!(refusal.reason.contains("sys:host, keys:session"), "{}", refusal.reason);
        assert!(refusal.reason.contains("repeat"), "{}", refusal.reason);
    }

    #[test]
    fn every_install_error_has_its_code() {
        let code = |error| refusal(error).code;
        assert_eq!(code(InstallError::Invalid("a".into())), RefusalCode::Invalid);
        assert_eq!(code(InstallError::NotFound("a".into())), RefusalCode::NotFound);
        assert_eq!(code(InstallError::Conflict("a".into())), RefusalCode::Conflict);
        assert_eq!(code(InstallError::Untrusted("a".into())), RefusalCode::Denied);
        assert_eq!(code(InstallError::Failed("a".into())), RefusalCode::Unavailable);
        assert_eq!(code(InstallError::Ungranted(vec!["a".into()])), RefusalCode::Denied);
    }

    #[test]
    fn what_came_of_an_installation_has_the_documented_shape() {
        let installed = |previous: Option<&str>| {
            let done = host::Installed {
                id: "a".into(),
                version: "2.0.0".into(),
                previous_version: previous.map(String::from),
                hash: "00".into(),
                grants: vec![],
                asks: vec!["http:mount".into()],
                target_dir: "/bin".into(),
                env_needs_prompt: true,
                unhandled: vec!["b.v1.c".into()],
                overlaps: vec![host::Overlap { interface: "/api/x".into(), existing_capsule: "gateway".into() }],
                shadowed: 0,
                publisher: previous.map(|_| "acme".into()),
            };
            to_value(Installed::from(done)).unwrap()
        };
        assert_eq!(
            installed(None),
            json!({"id": "a", "target_dir": "/bin", "phase": "install", "installed_version": "2.0.0", "wasm_hash": "00",
                   "env_path": "/api/capsules/a/env", "env_needs_prompt": true, "asks": ["http:mount"], "grants": [],
                   "missing_imports": [{"namespace": "b", "interface": "b.v1.c", "requirement": "handler"}],
                   "export_conflicts": [{"interface": "/api/x", "existing_capsule": "gateway"}]})
        );
        assert_eq!(
            (&installed(Some("1.0.0"))["publisher"], &installed(Some("1.0.0"))["phase"]),
            (&json!("acme"), &json!("upgrade"))
        );
    }
}
