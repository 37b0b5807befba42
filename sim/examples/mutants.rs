//! Simulator with a mutant of the core:
//! `cargo run -p longshore-sim --example mutants -- CordonUnconfirmed --seeds 0..20`. See
//! `docs/simulator.md`.

use std::process::ExitCode;
use std::sync::Arc;

use longshore_core::mutants::Mutant;
use longshore_sim::cli;

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().collect();
    let name = arguments.get(1).cloned().unwrap_or_default();
    let mut all = Mutant::ALL.iter().copied();
    let Some(mutant) = all.find(|mutant| mutant.name() == name) else {
        eprintln!("mutants: expected a mutant of sim/MUTANTS.md, found {name:?}");
        return ExitCode::from(4);
    };
    arguments.remove(1);
    let hook = Arc::new(move |core: &mut longshore_core::Dispatcher| core.plant(mutant));
    ExitCode::from(cli::run(arguments, Some(hook), &mut std::io::stdout()))
}
