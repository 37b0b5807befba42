//! Command line of the simulator.

use std::process::ExitCode;

fn main() -> ExitCode {
    longshore_sim::cli::main()
}
