//! `astrid-build`: from a checkout and a plain Rust to packed capsules, passing tests and a running host.
//!
//! | module | owns |
//! |---|---|
//! | `toolchain` | that wasm32-wasip2 can be built here |
//! | `workspace` | what cargo knows of a folder |
//! | `component` | `build` and `pack`: from a cargo project to a checked `.capsule` |
//! | `types` | from a capsule's `wit/` to the types that are packed with it |
//! | `sign` | keys of publishers; `keygen`, `sign`, `verify` |
//! | `publish`, `oci` | a signed archive into a registry: a folder, or a repository of an OCI registry |
//! | `https`, `login` | requests over TLS; who asks, and how a server asks for that |
//! | `sbom` | what a component was made of |
//! | `check`, `lint` | errors and warnings about a manifest, its component and its WIT |
//! | `diff` | what an upgrade breaks, asks and changes |
//! | `wit` | interfaces in a form that can be compared; the order in a project's `wit/` |
//! | `new` | a capsule project that builds and passes its test |
//! | `test`, `usage` | which tests a filter means, and the runner; what their calls used |
//! | `foreign` | the capsules of other tool chains that tests run |
//! | `bench` | the bench program, with everything that it measures built |
//! | `up` | a home, and a daemon in it |
//! | `run`, `files`, `say` | child processes, atomic files, progress |
//!
//! Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage; `test`, `bench` and
//! a foreground `up` end with the code of what they ran. It refuses to know what a capsule does: it checks that a
//! component fits its manifest, by the rules that the host's loader uses as well.

mod bench;
mod check;
mod component;
mod diff;
mod files;
mod foreign;
mod https;
mod lint;
mod login;
mod new;
mod oci;
mod publish;
mod run;
mod say;
mod sbom;
mod sign;
mod test;
mod toolchain;
mod types;
mod up;
mod usage;
mod wit;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use astrid_capsule::signature::PublicKey;
use clap::{Parser, Subcommand};
use serde_json::json;

#[derive(Parser)]
#[command(
    name = "astrid-build",
    version,
    about = "Build, check, pack, sign, publish and test capsules; bring a host up"
)]
struct Cli {
    /// Print results as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make sure that components can be built here (the other verbs do it by themselves).
    Toolchain {
        /// Print shell lines that let plain cargo build components.
        #[arg(long)]
        print_env: bool,
    },
    /// Build, check and pack capsules.
    Build {
        /// Capsule folders, or roots of cargo workspaces that hold some.
        #[arg(default_value = ".")]
        paths: Vec<PathBuf>,
    },
    /// Check and pack capsules that are built already.
    Pack {
        /// A capsule folder, or the root of a cargo workspace that holds some.
        #[arg(default_value = ".")]
        path: PathBuf,
        /// Where the archive goes, instead of the target directory's capsules/.
        #[arg(short, long)]
        output: Option<PathBuf>,
    },
    /// Make a key to sign capsules with; print its public half and its id.
    Keygen {
        /// The file of the secret; it must not exist.
        path: PathBuf,
    },
    /// Add a key's signature to an archive.
    Sign {
        archive: PathBuf,
        /// A key that `keygen` made.
        #[arg(long, value_name = "PATH")]
        key: PathBuf,
    },
    /// Check that an archive is whole and, with a key, signed by it.
    Verify {
        archive: PathBuf,
        /// A public key, 64 hex digits.
        #[arg(long, value_name = "HEX", value_parser = PublicKey::parse)]
        key: Option<PublicKey>,
    },
    /// Publish a signed archive to a registry.
    Publish(publish::Options),
    /// Say what is wrong with a capsule, and what its author should look at.
    Check {
        /// A capsule folder, or the root of a cargo workspace that holds some.
        #[arg(default_value = ".")]
        path: PathBuf,
        /// Fail for warnings as well.
        #[arg(long)]
        strict: bool,
    },
    /// Compare two archives: what the new one breaks, asks and changes. Exit code 0: nothing is broken.
    Diff { old: PathBuf, new: PathBuf },
    /// Start a capsule project that builds and passes its test.
    New {
        /// The capsule's id: 1 to 64 of a-z 0-9 -, beginning with a letter.
        name: String,
        /// What it begins as.
        #[arg(long, default_value = new::TEMPLATES[0].name, value_parser = new::parser())]
        template: new::Template,
        /// The folder to make, instead of ./NAME.
        #[arg(long)]
        path: Option<PathBuf>,
    },
    /// Build everything and run the tests. In a capsule project, print what their calls used.
    Test {
        /// A capsule project's folder; or a part of tests' names; or, in the checkout, a test program of the package
        /// astrid-tests (story, component, sim, …), or fuzz.
        filter: Option<String>,
        #[command(flatten)]
        seeds: test::Seeds,
        /// Arguments for the runner (cargo nextest run, or cargo test).
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Build everything in release and run the benches.
    Bench {
        /// Only this bench.
        name: Option<String>,
    },
    /// Build everything in release, write a home, and run the host in it.
    Up(up::Options),
    /// Become a program in a session of its own.
    #[command(name = up::SESSION_VERB, hide = true)]
    Session {
        #[arg(required = true, last = true)]
        command: Vec<std::ffi::OsString>,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            if cli.json {
                let problems = error.downcast_ref::<component::Refused>().map(|refused| &refused.problems);
                println!("{}", json!({ "error": format!("{error:#}"), "problems": problems }));
            } else {
                eprintln!("error: {error:#}");
            }
            if error.is::<publish::Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.verb {
        Verb::Toolchain { print_env } => toolchain::verb(*print_env, cli.json),
        Verb::Build { paths } => component::build_verb(paths, cli.json),
        Verb::Pack { path, output } => component::pack_verb(path, output.as_deref(), cli.json),
        Verb::Keygen { path } => sign::keygen_verb(path, cli.json),
        Verb::Sign { archive, key } => sign::sign_verb(archive, key, cli.json),
        Verb::Verify { archive, key } => sign::verify_verb(archive, key.as_ref(), cli.json),
        Verb::Publish(options) => publish::verb(options, cli.json),
        Verb::Check { path, strict } => check::verb(path, *strict, cli.json),
        Verb::Diff { old, new } => diff::verb(old, new, cli.json),
        Verb::New { name, template, path } => new::verb(name, *template, path.as_deref(), cli.json),
        Verb::Test { filter, seeds, args } => test::verb(filter.as_deref(), seeds, args, cli.json),
        Verb::Bench { name } => bench::verb(name.as_deref(), cli.json),
        Verb::Up(options) => up::verb(options, cli.json),
        Verb::Session { command } => up::session(command),
    }
}
