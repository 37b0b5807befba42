//! The simulator's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    longshore_sim::cli::main()
}
