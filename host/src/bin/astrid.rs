//! The `astrid` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    astrid_host::cli::run(std::env::args_os())
}
