//! Progress on stderr: what is being done, and how long it took.

use std::fmt::Display;
use std::time::Instant;

/// A step that was announced and is under way.
pub(crate) struct Step {
    began: Instant,
}

/// Announces a step.
pub(crate) fn step(text: impl Display) -> Step {
    eprintln!("==> {text}");
    Step { began: Instant::now() }
}

impl Step {
    /// Says how it ended, with the seconds that it took.
    pub(crate) fn done(self, text: impl Display) {
        eprintln!("    {text} ({:.1} s)", self.began.elapsed().as_secs_f64());
    }
}

/// One line about what is going on.
pub(crate) fn note(text: impl Display) {
    eprintln!("    {text}");
}
