//! What can keep a test from its answer. A handler's refusal is an answer and stands nowhere here.

use std::path::PathBuf;

use astrid_capsule::archive::ArchiveError;
use astrid_capsule::check::Problem;

/// Why a capsule could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{name}.capsule is in none of these folders: {}; build it with `cargo astrid build` (or run the tests with `cargo astrid test`)", list(.searched))]
    NotFound { name: String, searched: Vec<PathBuf> },
    #[error("{path}: {source}", path = .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}", path = .path.display())]
    Archive { path: PathBuf, source: ArchiveError },
    #[error("not a component that this engine compiles: {0}")]
    Compile(String),
    /// What the component imports or exports does not fit the manifest, or no host offers it.
    #[error("the component {}", sentences(.0))]
    Unfit(Vec<Problem>),
    /// An interface that is offered, with functions or types that are not.
    #[error("the component can't be linked: {0}")]
    Link(String),
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn sentences(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; and it ")
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The manifest has no `[[subscribe]]` or `[[intercept]]` with this handler, or only patterns with a `*` (name the topic then, with
    /// [`Call::with_topic`](crate::Call::with_topic)).
    #[error("the manifest binds no single topic to handler `{0}`")]
    Unbound(String),
    /// The component does not have the export that the call needs.
    #[error("the component does not export `{0}`")]
    NoExport(&'static str),
    /// The manifest's `limits.max-fuel` ran out.
    #[error("out of fuel after {0} units")]
    OutOfFuel(u64),
    /// The instance died. The text has the trap and what the guest wrote to stderr: its panic message, if any.
    #[error("trapped: {0}")]
    Trapped(String),
    /// The payload or the answer is larger than what a host delivers: this many bytes.
    #[error("the payload or the answer has more than {0} bytes")]
    TooLarge(usize),
    /// The handler answered, but not with JSON.
    #[error("the answer is not JSON: {0}")]
    NotJson(String),
}
