//! `astrid capsule watch`: builds a capsule's folder and puts it in place of the running version, again whenever one of its
//! sources is saved.
//!
//! Owns what counts as a source: `Capsule.toml`, `Cargo.toml` and everything below `src/`. Bounded by [`MAX_FILES`] and
//! [`MAX_DEPTH`]; links are not followed. Refuses to know how a capsule is built: `astrid-build` does that.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;

use super::failure::{Exit, Failure};
use super::policy::Consent;
use super::{Context, capsule, text};

/// How often the sources are looked at. What is saved in several steps is built once it stays the same for so long.
const LOOK: Duration = Duration::from_millis(300);
const MAX_FILES: usize = 10_000;
const MAX_DEPTH: usize = 16;
/// What builds where nothing else is named.
const BUILDER: &str = "astrid-build";

/// What is watched, and how it is built and installed.
pub(super) struct Watch {
    pub(super) folder: PathBuf,
    pub(super) consent: Consent,
    /// Called with `--json build FOLDER`.
    pub(super) build: Option<PathBuf>,
    /// Whether to end after the first time.
    pub(super) once: bool,
}

/// What was packed.
#[derive(Deserialize)]
struct Built {
    capsules: Vec<Packed>,
}

#[derive(Deserialize)]
struct Packed {
    name: String,
    version: String,
    archive: PathBuf,
}

impl Watch {
    /// Goes on until it is interrupted: an installation that has begun then is finished by the host, or not made.
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let folder = std::path::absolute(&self.folder)
            .map_err(|error| Failure::usage(format!("{}: {error}", self.folder.display())))?;
        if !folder.join("Capsule.toml").is_file() {
            return Err(Failure::usage(format!("{} holds no Capsule.toml", folder.display())));
        }
        loop {
            // Before it is built: what is saved meanwhile is built again.
            let seen = Sources::of(&folder)?;
            let done = self.round(context, &folder).await;
            if self.once {
                return done;
            }
            if let Err(failure) = done {
                context.console.fail(&failure);
            }
            if context.console.closed() {
                return Ok(Exit::Done);
            }
            context.console.remark(&format!("watching {}", text::shown(&folder.to_string_lossy())));
            changed(&folder, seen).await?;
        }
    }

    async fn round(&self, context: &mut Context<'_>, folder: &Path) -> Result<Exit, Failure> {
        let began = Instant::now();
        let built = self.built(folder)?;
        let took = began.elapsed().as_secs_f64();
        for Packed { name, version, archive } in built {
            let shown = format!("{} {}", text::shown(&name), text::shown(&version));
            context.console.remark(&format!("built {shown} in {took:.1} s"));
            let began = Instant::now();
            capsule::install(context, &archive, &self.consent, 0).await?;
            context.console.remark(&format!("{shown} is live after {:.1} s", began.elapsed().as_secs_f64()));
        }
        Ok(Exit::Done)
    }

    fn built(&self, folder: &Path) -> Result<Vec<Packed>, Failure> {
        let program = self.build.clone().unwrap_or_else(builder);
        let mut command = Command::new(&program);
        // Its progress is for whoever watches, and its end by an interrupt is this program's, too.
        command.args(["--json", "build"]).arg(folder).stdin(Stdio::null()).stderr(Stdio::inherit());
        let output = command.output().map_err(|error| {
            Failure::failed("build", format!("{}: {error}", program.display()))
                .next(format!("install {BUILDER}, or name what builds the folder with --build"))
        })?;
        if !output.status.success() {
            return Err(Failure::failed("build", format!("{} was not built ({})", folder.display(), output.status)));
        }
        let built: Built = serde_json::from_slice(&output.stdout).map_err(|error| {
            Failure::failed("build", format!("{} did not say what it built: {error}", program.display()))
        })?;
        Ok(built.capsules)
    }
}

/// Beside this program, or wherever the shell finds it.
fn builder() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|this| this.with_file_name(BUILDER));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| BUILDER.into())
}

/// When each source was saved last, and how long it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sources(BTreeMap<PathBuf, (Option<SystemTime>, u64)>);

impl Sources {
    fn of(folder: &Path) -> Result<Self, Failure> {
        let mut sources = Self(BTreeMap::new());
        for file in ["Capsule.toml", "Cargo.toml"] {
            sources.add(folder.join(file));
        }
        sources.walk(&folder.join("src"), MAX_DEPTH)?;
        Ok(sources)
    }

    fn add(&mut self, path: PathBuf) {
        // Gone while it is being saved: that is a change as well.
        if let Ok(meta) = fs::symlink_metadata(&path) {
            self.0.insert(path, (meta.modified().ok(), meta.len()));
        }
    }

    fn walk(&mut self, folder: &Path, depth: usize) -> Result<(), Failure> {
        let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
        for entry in entries.flatten() {
            let (path, kind) = (entry.path(), entry.file_type());
            if self.0.len() >= MAX_FILES || depth == 0 {
                let what = format!("{} has more than {MAX_FILES} files or {MAX_DEPTH} levels", folder.display());
                return Err(Failure::usage(what));
            }
            if kind.as_ref().is_ok_and(fs::FileType::is_dir) {
                self.walk(&path, depth - 1)?;
            } else if kind.is_ok_and(|kind| kind.is_file()) {
                self.add(path);
            }
        }
        Ok(())
    }
}

/// Waits until the sources differ from what was seen, and then until they stay as they are.
async fn changed(folder: &Path, seen: Sources) -> Result<(), Failure> {
    let mut saving = Saving { last: seen.clone(), seen };
    loop {
        tokio::time::sleep(LOOK).await;
        if saving.is_done(Sources::of(folder)?) {
            return Ok(());
        }
    }
}

/// What was seen at first, and at the last look.
struct Saving {
    seen: Sources,
    last: Sources,
}

impl Saving {
    /// Whether something was saved, and nothing since the last look.
    fn is_done(&mut self, now: Sources) -> bool {
        let done = now != self.seen && now == self.last;
        self.last = now;
        done
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::cli::testing::{Host, home};

    /// A capsule's folder.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("src/deep")).unwrap();
        for file in ["Capsule.toml", "Cargo.toml", "src/lib.rs", "src/deep/er.rs"] {
            fs::write(folder.path().join(file), "old").unwrap();
        }
        folder
    }

    #[test]
    fn a_saved_a_new_and_a_deleted_source_is_a_change_and_what_is_built_is_none() {
        let folder = folder();
        let look = || Sources::of(folder.path()).unwrap();
        let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
        let before = look();
        assert_eq!((before.0.len(), look()), (4, before.clone()));
        fs::create_dir(folder.path().join("target")).unwrap();
        write("target/x.wasm", "built");
        write("notes.md", "no source");
        assert_eq!(look(), before);
        write("src/deep/er.rs", "newer");
        let saved = look();
        assert_ne!(saved, before);
        write("src/two.rs", "");
        let added = look();
        assert_ne!(added, saved);
        fs::remove_file(folder.path().join("src/two.rs")).unwrap();
        assert_eq!(look(), saved);
    }

    #[test]
    fn a_folder_without_an_end_is_refused() {
        let folder = folder();
        let deep = (0..20).fold(folder.path().join("src"), |path, n| path.join(n.to_string()));
        fs::create_dir_all(deep).unwrap();
        assert!(Sources::of(folder.path()).unwrap_err().reason.contains("16 levels"));
    }

    #[test]
    fn what_is_saved_in_several_steps_is_one_change() {
        let folder = folder();
        let look = || Sources::of(folder.path()).unwrap();
        let mut saving = Saving { seen: look(), last: look() };
        assert!(!saving.is_done(look()));
        for n in 1..=5 {
            fs::write(folder.path().join("src/lib.rs"), "x".repeat(10 + n)).unwrap();
            assert!(!saving.is_done(look()), "not before the last of them");
        }
        assert!(saving.is_done(look()));
    }

    /// Something that builds: it says that it has packed this archive, or fails.
    fn builder(folder: &Path, says: &str, code: u8) -> String {
        let path = folder.join("builder");
        fs::write(
            &path,
            format!("#!/bin/sh\ntest \"$1 $2\" = \"--json build\" || exit 9\necho '{says}'\nexit {code}\n"),
        )
        .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[test]
    fn what_is_built_is_installed_and_what_is_not_built_is_not() {
        let folder = folder();
        let dir = folder.path().to_str().unwrap();
        let done = r#"{"id":"a","installed_version":"1.0.0","wasm_hash":"ab","grants":[]}"#;
        let host = Host::answering(200, done);
        let says = r#"{"capsules":[{"name":"a","version":"1.0.0","archive":"/t/a.capsule","more":1}]}"#;
        let build = builder(folder.path(), says, 0);
        let ran = host.astrid(&["capsule", "watch", dir, "--once", "--build", &build]);
        assert_eq!(ran.exit, Exit::Done, "{ran:?}");
        assert!(ran.err.contains("built a 1.0.0 in ") && ran.err.contains("a 1.0.0 is live after "), "{ran:?}");
        assert_eq!(host.requests(), [r#"POST /api/capsules {"source":"/t/a.capsule"}"#]);
        for (says, code, reason) in [(says, 3, "was not built"), ("nonsense", 0, "did not say what it built")] {
            let build = builder(folder.path(), says, code);
            let ran = host.astrid(&["capsule", "watch", dir, "--once", "--build", &build]);
            assert!(ran.exit == Exit::Failed && ran.err.contains(reason), "{ran:?}");
        }
        let ran = host.astrid(&["capsule", "watch", dir, "--once", "--build", "/nowhere/builder"]);
        assert!(ran.exit == Exit::Failed && ran.err.contains("--build"), "{ran:?}");
        assert_eq!(host.requests().len(), 1);
    }

    #[test]
    fn a_folder_that_is_no_capsules_is_refused_before_anything_is_built() {
        let (empty, home) = home();
        let ran = crate::cli::testing::astrid(&home, &["capsule", "watch", empty.path().to_str().unwrap()]);
        assert!(ran.exit == Exit::Usage && ran.err.contains("Capsule.toml"), "{ran:?}");
    }
}
