//! Child processes: each either succeeds or becomes an error that names the command.

use std::env;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The cargo that runs this program, or the one on PATH.
pub(crate) fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A command as it can be typed.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(quoted).collect::<Vec<_>>().join(" ")
}

/// A word as a POSIX shell takes it.
pub(crate) fn quoted(word: impl AsRef<OsStr>) -> String {
    let word = word.as_ref().to_string_lossy();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-=:@%+,".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// Runs with the terminal's stdin and stderr; stdout goes to stderr, where progress belongs.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let status = status(command.stdout(io::stderr()))?;
    if !status.success() {
        bail!("`{}` failed ({})", shown(command), ended(status));
    }
    Ok(())
}

/// Runs with the terminal's streams.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    command.status().with_context(|| format!("can't run `{}`", shown(command)))
}

/// What it prints. What it prints on stderr becomes the error if it fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("can't run `{}`", shown(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({})\n{}", shown(command), ended(output.status), said.trim_end());
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` printed something that is not UTF-8", shown(command)))
}

/// Runs for at most `limit` and is killed then. What it printed on stderr becomes the error.
pub(crate) fn within(command: &mut Command, limit: Duration) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("can't run `{}`", shown(command)))?;
    let mut stderr = child.stderr.take().expect("stderr is piped");
    let said = thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stderr.read_to_end(&mut text);
        text
    });
    match wait_until(&mut child, Instant::now() + limit)? {
        None => {
            child.kill()?;
            child.wait()?;
            bail!("`{}` took longer than {} s", shown(command), limit.as_secs());
        }
        Some(status) if status.success() => Ok(()),
        Some(status) => {
            let text = said.join().unwrap_or_default();
            bail!("`{}` failed ({})\n{}", shown(command), ended(status), String::from_utf8_lossy(&text).trim_end())
        }
    }
}

fn wait_until(child: &mut Child, end: Instant) -> Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// How a process ended, for people.
pub(crate) fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended".into(),
    }
}

/// The code to end with when a child ended so: its own, or 128 and its signal, as shells do.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_survives_the_shell() {
        for word in ["plain/path-1.0", "with space", "it's", "", "$HOME", "a\nb"] {
            let printed = output(Command::new("sh").arg("-c").arg(format!("printf %s {}", quoted(word)))).unwrap();
            assert_eq!(printed, word);
        }
    }

    #[test]
    fn what_takes_too_long_is_ended_and_what_fails_says_why() {
        let began = Instant::now();
        let error = within(Command::new("sleep").arg("60"), Duration::from_millis(100)).unwrap_err();
        assert!(error.to_string().contains("took longer"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(30));
        let mut command = Command::new("sh");
        let error = within(command.args(["-c", "echo why >&2; exit 3"]), Duration::from_secs(60)).unwrap_err();
        assert!(error.to_string().contains("exit code 3") && error.to_string().ends_with("why"), "{error}");
    }
}
