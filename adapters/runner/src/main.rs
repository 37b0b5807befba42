//! The worker side: see the library for what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(longshore_runner::main_with(std::env::args_os().collect()))
}
