//! `[[process]]`: a program of the system that the capsule may start, in a sandbox.

use serde::{Deserialize, Serialize};

use super::grant;
use crate::{Capability, shown};

/// The longest path of a program, in bytes.
const MAX_PROGRAM: usize = 256;

/// A program, by the path under which the capsule starts it.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Process {
    /// Absolute, without `.`, `..` and empty segments.
    pub program: String,
}

impl Process {
    /// What the operator must grant: `process:start:` and the path, its segments as a capability's. What a segment of a
    /// capability can't hold, and `_`, stand there as `_` and two hex digits: `/usr/bin/python3.11` is
    /// `process:start:usr:bin:python3_2e11`. No two paths have the same. None if it is too long.
    pub fn grant(&self) -> Option<Capability> {
        let mut text = grant::START.to_owned();
        for byte in self.program.bytes() {
            match byte {
                b'/' => text.push(':'),
                b'-' => text.push('-'),
                byte if byte.is_ascii_alphanumeric() => text.push(byte.into()),
                byte => text.push_str(&format!("_{byte:02x}")),
            }
        }
        Capability::parse(&text).ok()
    }

    /// `before`: the programs above it.
    pub(super) fn check(&self, before: &[Self]) -> Result<(), String> {
        let program = &self.program;
        let segments = program.strip_prefix('/').filter(|_| program.len() <= MAX_PROGRAM).map(|rest| rest.split('/'));
        let sound = |segment: &str| !matches!(segment, "" | "." | "..") && !segment.chars().any(char::is_control);
        if !segments.is_some_and(|mut segments| segments.all(sound)) {
            return Err(format!(
                "process.program `{}` must be an absolute path of at most {MAX_PROGRAM} bytes, without `.`, `..` and empty \
                 segments",
                shown(program)
            ));
        }
        if self.grant().is_none() {
            return Err(format!("process.program `{}` is too long for a capability", shown(program)));
        }
        if before.iter().any(|other| other.program == *program) {
            return Err(format!("process.program `{program}` stands there twice"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(program: &str) -> Process {
        Process { program: program.to_owned() }
    }

    #[test]
    fn a_program_asks_for_a_capability_of_its_own() {
        let grant = |program: &str| of(program).grant().unwrap().as_str().to_owned();
        assert_eq!(grant("/usr/bin/git"), "process:start:usr:bin:git");
        assert_eq!(grant("/usr/bin/python3.11"), "process:start:usr:bin:python3_2e11");
        assert_eq!(grant("/usr/bin/python3_2e11"), "process:start:usr:bin:python3_5f2e11");
        assert_eq!(grant("/opt/a*b"), "process:start:opt:a_2ab");
        assert_eq!(grant("/opt/é"), "process:start:opt:_c3_a9");
    }

    #[test]
    fn a_path_that_is_not_absolute_and_plain_is_refused_and_so_is_one_twice() {
        let long = format!("/{}", "x".repeat(256));
        let dots = format!("/{}", ".".repeat(200));
        for program in ["", "git", "/", "/usr//git", "/usr/../git", "/usr/./git", "/usr/git/", "/a\nb", &long, &dots] {
            assert!(of(program).check(&[]).is_err(), "{program}");
        }
        assert_eq!(of("/usr/bin/git").check(&[]), Ok(()));
        assert!(of("/usr/bin/git").check(&[of("/usr/bin/git")]).is_err());
    }
}
