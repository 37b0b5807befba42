//! Implementations of the commands.

pub(crate) mod cloudtest;
pub(crate) mod containers;
pub(crate) mod dispatch;
pub(crate) mod explain;
pub(crate) mod health;
pub(crate) mod init;
pub(crate) mod instances;
pub(crate) mod queue;
pub(crate) mod replay;
pub(crate) mod token;

use longshore_cluster_config::{ClusterConfig, load_file};

use crate::cli::ConfigArg;
use crate::error::{CliResult, Context as _};

/// Reads the configuration; warnings go to standard error.
pub(crate) fn load(arg: &ConfigArg) -> CliResult<ClusterConfig> {
    let loaded = load_file(&arg.config).usage(arg.config.display())?;
    for warning in &loaded.warnings {
        eprintln!("{}: warning: {warning}", arg.config.display());
    }
    Ok(loaded.cluster)
}

/// Runs a future to completion.
pub(crate) fn block_on<T>(work: impl Future<Output = CliResult<T>>) -> CliResult<T> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .failed("starting the runtime")?
        .block_on(work)
}

/// Waits for TERM or INT.
pub(crate) async fn terminated() -> CliResult {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).failed("waiting for TERM")?;
    let mut int = signal(SignalKind::interrupt()).failed("waiting for INT")?;
    tokio::select! {
        _ = term.recv() => tracing::info!("TERM: shutting down"),
        _ = int.recv() => tracing::info!("INT: shutting down"),
    }
    Ok(())
}
