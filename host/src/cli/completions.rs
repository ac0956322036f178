//! `astrid completions`: a script by which a shell completes this command line. Needs no host.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::failure::{Exit, Failure};
use super::{Cli, Context};

#[derive(Args)]
pub(super) struct Options {
    /// The shell that the script is for
    #[arg(value_enum)]
    shell: Shell,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "astrid", &mut script);
        let script = String::from_utf8_lossy(&script);
        context.console.print(script.trim_end())?;
        Ok(Exit::Done)
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::failure::Exit;
    use crate::cli::testing::{astrid, home};

    #[test]
    fn every_shell_gets_a_script_that_knows_the_verbs() {
        let (_dir, home) = home();
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let ran = astrid(&home, &["completions", shell]);
            assert_eq!(ran.exit, Exit::Done, "{ran:?}");
            for verb in ["completions", "doctor", "invite", "audit"] {
                assert!(ran.out.contains(verb), "{shell}: {verb}");
            }
        }
        assert_eq!(astrid(&home, &["completions", "tcsh"]).exit, Exit::Usage);
    }
}
