//! Simulator of a mutant: the core with a known bug. `cargo run -p longshore-sim --example planted --
//! CordonUnconfirmed --seeds 0..20`. See `docs/simulator.md`.

use std::process::ExitCode;
use std::sync::Arc;

use longshore_core::mutants::Mutant;
use longshore_sim::cli;

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().collect();
    let name = words.get(1).cloned().unwrap_or_default();
    let Some(mutant) = Mutant::ALL.iter().copied().find(|one| one.name() == name) else {
        eprintln!("planted: expected the name of a mutant of sim/PLANTED_BUGS.md, found {name:?}");
        return ExitCode::from(4);
    };
    words.remove(1);
    let hook = Arc::new(move |core: &mut longshore_core::Dispatcher| core.plant(mutant));
    ExitCode::from(cli::run(words, Some(hook), &mut std::io::stdout()))
}
