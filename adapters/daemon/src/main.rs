//! Dispatches containers to cloud VMs.

mod address;
mod cli;
mod client;
mod clock;
mod commands;
mod demo;
mod engine;
mod error;
mod leader_lock;
mod log;
mod service;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};
use crate::error::{CliResult, Context as _};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("longshore: {}", error.chain());
            ExitCode::from(error.status())
        }
    }
}

/// Runs one command; returns the exit status.
fn run(command: Command) -> CliResult<u8> {
    let done = match command {
        Command::Init(args) => commands::init::run(&args),
        Command::Queue(args) => commands::queue::run(&args),
        Command::Dispatch(args) => commands::dispatch::run(&args),
        Command::Cloudtest(args) => commands::cloudtest::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Submit(args) => return commands::containers::submit(&args),
        Command::Ps(args) => commands::containers::ps(&args),
        Command::Logs(args) => commands::containers::logs(&args),
        Command::Cancel(args) => commands::containers::cancel(&args),
        Command::Explain(args) => commands::explain::run(&args),
        Command::Health(args) => return commands::health::run(&args),
        Command::Instances(args) => commands::instances::run(&args),
        Command::Token(args) => commands::token::run(&args),
        Command::Replay(args) => commands::replay::run(&args),
        Command::LoopbackVm { dir } => loopback_vm(&dir),
    };
    done.map(|()| 0)
}

fn loopback_vm(dir: &std::path::Path) -> CliResult {
    log::init(&longshore_cluster_config::Log {
        format: longshore_cluster_config::LogFormat::Text,
        level: longshore_cluster_config::LogLevel::Info,
    });
    commands::block_on(async {
        longshore_driver_loopback::run_vm(dir)
            .await
            .failed(dir.display())
    })
}
