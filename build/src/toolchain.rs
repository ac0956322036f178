//! That wasm32-wasip2 can be built here.
//!
//! The first of these that holds is used: the active rustc has the target; a cache folder has what an earlier run
//! made; rustup can fetch the target; on Debian, the distribution's own rustc with the source of std and its wasi-libc
//! make a sysroot. Else there is one error that names the command to run. Whatever takes time or installs something is
//! announced before.
//!
//! Owns `<cache>/astrid/toolchain/`: one folder per rustc, made under a lock, complete or absent. Never runs when a
//! host runs: only tools build.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::{files, run, say};

/// The target of every component.
pub(crate) const TARGET: &str = "wasm32-wasip2";

/// How long rustup may try; where it reaches its server the target is there in seconds.
const RUSTUP_LIMIT: Duration = Duration::from_secs(60);

/// Raised whenever what is made in the cache folder changes.
const RECIPE: u32 = 1;

/// Debian's rustc, newer than the release's own and with the source of its std.
const PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// The Debian release whose wasi-libc is built for wasm32-wasip2; the package fits every architecture.
const LIBC_SUITE: &str = "forky";
const LIBC_PACKAGE: &str = "wasi-libc";

/// The C library's files that rustc links into a component.
const SELF_CONTAINED: [&str; 3] = ["crt1-command.o", "crt1-reactor.o", "libc.a"];

/// What links a component; both come with rustup's toolchain.
const LINKERS: [&str; 2] = ["rust-lld", "wasm-component-ld"];

/// How to call cargo so that it can build components.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// None: the active rustc does it.
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    rustc: PathBuf,
    /// The folder of [`LINKERS`], to stand first on PATH.
    linkers: PathBuf,
}

/// `toolchain`.
pub(crate) fn verb(print_env: bool, json: bool) -> Result<ExitCode> {
    let toolchain = ensure()?;
    if json {
        // No rustc: the active one builds the target by itself.
        let own = toolchain.own.as_ref();
        println!("{}", json!({ "target": TARGET, "rustc": own.map(|o| &o.rustc), "linkers": own.map(|o| &o.linkers) }));
        return Ok(ExitCode::SUCCESS);
    }
    match (&toolchain.own, print_env) {
        (Some(own), true) => {
            println!("export RUSTC={}", run::quoted(&own.rustc));
            println!("export PATH={}:\"$PATH\"", run::quoted(&own.linkers));
        }
        (None, true) => println!("# The active rustc builds {TARGET} by itself."),
        (Some(own), false) => println!("{TARGET} is built with {}", own.rustc.display()),
        (None, false) => println!("{TARGET} is built with the active rustc"),
    }
    Ok(ExitCode::SUCCESS)
}

impl Toolchain {
    /// Lets `command`, a cargo, build components.
    pub(crate) fn apply(&self, command: &mut Command) -> Result<()> {
        if let Some(own) = &self.own {
            command.env("RUSTC", &own.rustc).env("PATH", path_with(&own.linkers)?);
        }
        Ok(())
    }

    /// The linker and the C library of its components.
    pub(crate) fn linker(&self) -> Result<Linker> {
        let (rustc, linkers) = match &self.own {
            Some(own) => (own.rustc.clone(), own.linkers.clone()),
            None => {
                let active = Rustc::active()?;
                let linkers = linkers(&active)?;
                (active.program, linkers)
            }
        };
        let libraries = target_libraries(&rustc)?.join("self-contained");
        Ok(Linker { program: linkers.join("wasm-component-ld"), lld: linkers.join("gcc-ld/wasm-ld"), libraries })
    }
}

/// What links objects of C into a component.
pub(crate) struct Linker {
    pub(crate) program: PathBuf,
    /// What `program` calls (`--wasm-ld-path`).
    pub(crate) lld: PathBuf,
    /// The folder of [`SELF_CONTAINED`].
    pub(crate) libraries: PathBuf,
}

/// Finds or makes a tool chain.
pub(crate) fn ensure() -> Result<Toolchain> {
    let active = Rustc::active()?;
    if active.has_target()? {
        return Ok(Toolchain { own: None });
    }
    let cache = cache_folder()?;
    if let Some(own) = cached(&cache, &active)? {
        return Ok(Toolchain { own: Some(own) });
    }
    let step = say::step(format_args!("set-up: the active rustc {} can't build {TARGET} yet", active.release));
    say::note(format_args!("trying `rustup target add {TARGET}` (at most {} s)", RUSTUP_LIMIT.as_secs()));
    let rustup = run::within(Command::new("rustup").args(["target", "add", TARGET]), RUSTUP_LIMIT);
    if rustup.is_ok() && active.has_target()? {
        step.done("rustup has added it");
        return Ok(Toolchain { own: None });
    }
    let reason = rustup.err().map_or_else(|| "it changed nothing".into(), |error| last_line(&format!("{error:#}")));
    say::note(format_args!("rustup could not: {reason}"));
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !is_debian(&release) {
        bail!("components can't be built here yet; run `rustup target add {TARGET}` (it failed just now: {reason})");
    }
    let own = Debian { cache: &cache, active: &active }.make()?;
    step.done(format_args!("{TARGET} can be built now"));
    Ok(Toolchain { own: Some(own) })
}

/// A rustc and what it says of itself.
struct Rustc {
    program: PathBuf,
    release: String,
    commit: String,
    host: String,
    sysroot: PathBuf,
}

impl Rustc {
    fn active() -> Result<Self> {
        Self::of(env::var_os("RUSTC").map_or_else(|| "rustc".into(), PathBuf::from))
            .context("Rust is missing or broken; install it with rustup")
    }

    fn of(program: PathBuf) -> Result<Self> {
        let text = run::output(Command::new(&program).arg("-vV"))?;
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            value.map(str::to_owned).with_context(|| format!("{} -vV says no `{name}`", program.display()))
        };
        let sysroot = run::output(Command::new(&program).args(["--print", "sysroot"]))?;
        Ok(Self {
            release: field("release")?,
            commit: field("commit-hash")?,
            host: field("host")?,
            sysroot: sysroot.trim_end().into(),
            program,
        })
    }

    fn has_target(&self) -> Result<bool> {
        let Ok(entries) = fs::read_dir(target_libraries(&self.program)?) else { return Ok(false) };
        Ok(entries.flatten().any(|e| e.file_name().to_string_lossy().starts_with("libstd-")))
    }

    /// The source of its std, where Debian's and rustup's packages put it.
    fn library(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib/src/rust/library")
    }

    /// Whether it is new enough for this workspace.
    fn suffices(&self) -> bool {
        minor(&self.release) >= minor(env!("CARGO_PKG_RUST_VERSION"))
    }

    fn key(&self) -> String {
        let commit: String = self.commit.chars().filter(char::is_ascii_alphanumeric).take(9).collect();
        format!("{}-{commit}-{RECIPE}", self.release)
    }
}

/// Where a rustc looks for the libraries of components.
fn target_libraries(rustc: &Path) -> Result<PathBuf> {
    let folder = run::output(Command::new(rustc).args(["--target", TARGET, "--print", "target-libdir"]))?;
    Ok(folder.trim_end().into())
}

/// The first two numbers of a version.
fn minor(version: &str) -> (u32, u32) {
    let mut numbers = version.split('.').map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn is_debian(os_release: &str) -> bool {
    os_release.lines().any(|line| line.strip_prefix("ID=").is_some_and(|id| id.trim_matches('"') == "debian"))
}

fn last_line(text: &str) -> String {
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("").trim().to_owned()
}

fn cache_folder() -> Result<PathBuf> {
    let own = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = own.or_else(|| env::home_dir().map(|home| home.join(".cache")));
    let cache = cache.context("there is no home folder for a cache; set XDG_CACHE_HOME to an absolute path")?;
    Ok(cache.join("astrid/toolchain"))
}

fn path_with(first: &Path) -> Result<std::ffi::OsString> {
    let rest = env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(first.to_owned()).chain(env::split_paths(&rest));
    env::join_paths(all).with_context(|| format!("{} can't stand on PATH", first.display()))
}

/// What an earlier run made for Debian's rustc as it is now.
fn cached(cache: &Path, active: &Rustc) -> Result<Option<Own>> {
    let Ok(debian) = Rustc::of(DEBIAN_RUSTC.into()) else { return Ok(None) };
    let rustc = cache.join(debian.key()).join("bin/rustc");
    if !rustc.is_file() {
        return Ok(None);
    }
    Ok(Some(Own { rustc, linkers: linkers(active)? }))
}

fn linkers(active: &Rustc) -> Result<PathBuf> {
    let folder = active.sysroot.join("lib/rustlib").join(&active.host).join("bin");
    match LINKERS.iter().find(|name| !folder.join(name).is_file()) {
        None => Ok(folder),
        Some(name) => bail!(
            "components can't be linked here: {name} is not in {}; install Rust with rustup, or run \
             `rustup target add {TARGET}` where it can be reached",
            folder.display()
        ),
    }
}

/// A sysroot out of Debian's packages.
struct Debian<'a> {
    cache: &'a Path,
    active: &'a Rustc,
}

impl Debian<'_> {
    fn make(&self) -> Result<Own> {
        let linkers = linkers(self.active)?;
        files::private_folder(self.cache)?;
        let lock = self.cache.join("lock");
        let lock = File::create(&lock).with_context(|| format!("can't open {}", lock.display()))?;
        if lock.try_lock().is_err() {
            say::note("another astrid-build is setting up the tool chain; waiting for it");
            lock.lock().context("can't lock the tool chain's cache folder")?;
            if let Some(own) = cached(self.cache, self.active)? {
                return Ok(own);
            }
        }
        say::note(format_args!("making a {TARGET} sysroot from Debian's packages in {}", self.cache.display()));
        let debian = self.packages()?;
        let whole = self.cache.join(debian.key());
        let partial = self.cache.join(format!("{}.partial", debian.key()));
        files::remove_folder(&partial)?;
        files::private_folder(&partial)?;
        let sysroot = partial.join("sysroot");
        self.std(&debian, &partial, &sysroot)?;
        self.libc(&partial, &sysroot)?;
        self.finish(&debian, &sysroot, &whole)?;
        self.probe(&debian, &partial, &sysroot, &linkers)?;
        files::remove_folder(&whole)?;
        fs::rename(&sysroot, &whole).with_context(|| format!("can't rename to {}", whole.display()))?;
        files::remove_folder(&partial)?;
        Ok(Own { rustc: whole.join("bin/rustc"), linkers })
    }

    /// Debian's rustc and the source of its std, installed if they are not.
    fn packages(&self) -> Result<Rustc> {
        let usable = || Rustc::of(DEBIAN_RUSTC.into()).ok().filter(|r| r.suffices() && r.library().is_dir());
        if let Some(rustc) = usable() {
            say::note(format_args!("1/4 Debian's rustc {} and the source of its std are installed", rustc.release));
            return Ok(rustc);
        }
        let names = PACKAGES.join(" ");
        // /proc/self belongs to the effective user.
        if fs::metadata("/proc/self").map_or(1, |m| m.uid()) != 0 {
            bail!(
                "components can't be built here yet; run `sudo apt-get update && sudo apt-get install \
                 --no-install-recommends {names}`, then this again (or `rustup target add {TARGET}` where rustup's \
                 server can be reached)"
            );
        }
        say::note(format_args!("1/4 installing Debian's packages {names} (a compiler and its source, about 100 MB)"));
        let mut update = Command::new("apt-get");
        if let Err(error) = run::succeed(update.args(["-q", "update"])) {
            say::note(format_args!("{error:#}; trying with the lists that are there"));
        }
        let mut install = Command::new("apt-get");
        install.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        install.args(["-q", "-y", "--no-install-recommends", "--no-remove", "install"]).args(PACKAGES);
        run::succeed(&mut install)?;
        let minimum = env!("CARGO_PKG_RUST_VERSION");
        usable().with_context(|| {
            format!(
                "{names} did not bring a rustc {minimum} or newer with its source to {DEBIAN_RUSTC}; run \
                 `rustup target add {TARGET}` where rustup's server can be reached"
            )
        })
    }

    /// std for the target, built with the same rustc that will use it.
    fn std(&self, debian: &Rustc, partial: &Path, sysroot: &Path) -> Result<()> {
        say::note(format_args!("2/4 building std for {TARGET} (about a minute)"));
        let library = fs::canonicalize(debian.library()).context("the source of std is gone")?;
        let mut flags = vec!["-Zforce-unstable-if-unmarked".to_owned(), "-Cembed-bitcode=yes".to_owned()];
        flags.push(format!("--remap-path-prefix={}=/rustc/{}/library", library.display(), debian.commit));
        if let Some(home) = cargo_home() {
            flags.push(format!("--remap-path-prefix={}=/cargo", home.display()));
        }
        let target = partial.join("std");
        let mut build = run::cargo();
        for name in ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET"] {
            build.env_remove(name);
        }
        build
            .env("RUSTC", &debian.program)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("__CARGO_DEFAULT_LIB_METADATA", "stable")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .env("CARGO_TARGET_DIR", &target)
            .current_dir(partial)
            .args(["build", "--release", "--locked", "--package", "sysroot", "--target", TARGET])
            .args(["--features", "panic-unwind,backtrace", "--manifest-path"])
            .arg(library.join("Cargo.toml"));
        run::succeed(&mut build)?;
        let to = sysroot.join("lib/rustlib").join(TARGET).join("lib");
        files::private_folder(&to)?;
        let built = target.join(TARGET).join("release/deps");
        for entry in fs::read_dir(&built).with_context(|| format!("can't read {}", built.display()))? {
            let entry = entry?.path();
            if let (Some("rlib"), Some(name)) = (entry.extension().and_then(|e| e.to_str()), entry.file_name()) {
                fs::copy(&entry, to.join(name)).with_context(|| format!("can't copy {}", entry.display()))?;
            }
        }
        Ok(())
    }

    /// The C library below std, out of a package that this machine need not install: apt reads its index and fetches it
    /// with lists and caches of its own, from the mirror that this machine uses.
    fn libc(&self, partial: &Path, sysroot: &Path) -> Result<()> {
        say::note(format_args!("3/4 fetching {LIBC_PACKAGE} of Debian {LIBC_SUITE}"));
        let state = partial.join("apt");
        for folder in ["lists/partial", "cache/archives/partial", "unpacked"] {
            files::private_folder(&state.join(folder))?;
        }
        let sources = state.join("sources.list");
        fs::write(&sources, source_line(&mirror()?)).with_context(|| format!("can't write {}", sources.display()))?;
        let apt = || {
            let mut command = Command::new("apt-get");
            for (option, value) in [
                ("Dir::Etc::SourceList", sources.as_path()),
                ("Dir::Etc::SourceParts", Path::new("/dev/null")),
                ("Dir::State::Lists", &state.join("lists")),
                ("Dir::Cache", &state.join("cache")),
            ] {
                command.arg("-o").arg(format!("{option}={}", value.display()));
            }
            // The folders are this user's alone; apt's own unprivileged user could not enter them.
            command.args(["-q", "-o", &format!("APT::Sandbox::User={}", user())]).current_dir(state.join("unpacked"));
            command
        };
        run::succeed(apt().arg("update"))?;
        run::succeed(apt().args(["download", LIBC_PACKAGE]))?;
        let unpacked = state.join("unpacked");
        let archive =
            fs::read_dir(&unpacked)?.flatten().map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "deb"));
        let archive = archive.with_context(|| format!("apt-get download {LIBC_PACKAGE} left no package"))?;
        run::succeed(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&unpacked))?;
        let to = sysroot.join("lib/rustlib").join(TARGET).join("lib/self-contained");
        files::private_folder(&to)?;
        for name in SELF_CONTAINED {
            let from = unpacked.join("usr/lib").join(TARGET).join(name);
            fs::copy(&from, to.join(name)).with_context(|| format!("{LIBC_PACKAGE} has no usr/lib/{TARGET}/{name}"))?;
        }
        Ok(())
    }

    /// What makes the folder a sysroot for proc-macros and build scripts too, and the rustc that uses it.
    fn finish(&self, debian: &Rustc, sysroot: &Path, whole: &Path) -> Result<()> {
        let native = Path::new("lib/rustlib").join(&debian.host);
        symlink(debian.sysroot.join(&native), sysroot.join(&native)).context("can't link the native std")?;
        files::private_folder(&sysroot.join("bin"))?;
        let wrapper = sysroot.join("bin/rustc");
        let text =
            format!("#!/bin/sh\nexec {} --sysroot {} \"$@\"\n", run::quoted(&debian.program), run::quoted(whole));
        fs::write(&wrapper, text).with_context(|| format!("can't write {}", wrapper.display()))?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).context("can't make rustc executable")
    }

    /// Builds one component, so that what is missing shows now.
    fn probe(&self, debian: &Rustc, partial: &Path, sysroot: &Path, linkers: &Path) -> Result<()> {
        say::note("4/4 building a component with it");
        let (source, wasm) = (partial.join("probe.rs"), partial.join("probe.wasm"));
        let text = "#[unsafe(no_mangle)] pub extern \"C\" fn probe() -> usize { std::env::args().count() }\n";
        File::create(&source).and_then(|mut file| file.write_all(text.as_bytes())).context("can't write the probe")?;
        let mut rustc = Command::new(&debian.program);
        rustc.env("PATH", path_with(linkers)?).arg("--sysroot").arg(sysroot);
        rustc.args(["--target", TARGET, "--edition", "2024", "--crate-type", "cdylib", "-o"]).arg(&wasm).arg(&source);
        run::output(&mut rustc).context("the new sysroot does not work")?;
        let bytes = fs::read(&wasm).context("the new sysroot built nothing")?;
        match astrid_capsule::check::Surface::read(&bytes) {
            Ok(_) => Ok(()),
            Err(problem) => bail!("the new sysroot's component {problem}"),
        }
    }
}

fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")))
}

fn user() -> String {
    run::output(Command::new("id").arg("-un")).map_or_else(|_| "root".into(), |name| name.trim_end().into())
}

/// Where this machine's own apt fetches Debian from.
fn mirror() -> Result<String> {
    let mut targets = Command::new("apt-get");
    targets.args(["indextargets", "--format", "$(REPO_URI) $(CODENAME)"]);
    targets.args(["Created-By: Packages", "Label: Debian", "Component: main"]);
    let text = run::output(&mut targets)?;
    let found = main_mirror(&text).map(str::to_owned);
    found.context("apt has no lists of a Debian mirror; run `apt-get update` as root, then this again")
}

/// The first line's address whose code name is a release itself, not its updates or security.
fn main_mirror(targets: &str) -> Option<&str> {
    targets.lines().filter_map(|line| line.split_once(' ')).find(|(_, name)| !name.contains('-')).map(|(uri, _)| uri)
}

fn source_line(mirror: &str) -> String {
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let signed = if Path::new(keyring).is_file() { format!(" signed-by={keyring}") } else { String::new() };
    format!("deb [target=Packages{signed}] {mirror} {LIBC_SUITE} main\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_of_the_release() {
        let text = "http://a.example/debian/ bookworm-updates\nhttp://b.example/debian/ bookworm\n";
        assert_eq!(main_mirror(text), Some("http://b.example/debian/"));
        assert_eq!(main_mirror(""), None);
        assert!(source_line("http://b.example/debian/").ends_with("http://b.example/debian/ forky main\n"));
    }

    #[test]
    fn debian_is_told_from_what_derives_from_it() {
        assert!(is_debian("PRETTY_NAME=\"Debian\"\nID=debian\n"));
        assert!(!is_debian("ID=ubuntu\nID_LIKE=debian\n"));
        assert!(!is_debian(""));
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(minor("1.100.0") > minor("1.96.0"));
        assert!(minor("1.96.0-nightly") >= minor(env!("CARGO_PKG_RUST_VERSION")));
        assert!(minor("1.63.0") < minor("1.95"));
    }
}
