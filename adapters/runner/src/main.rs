//! Entry point of the runner. See the library for documentation.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(longshore_runner::main_with(std::env::args_os().collect()))
}
