//! One file for each command, or group of them.

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
use crate::exit::{Context as _, Outcome};

/// Reads the configuration; what is strange in it goes to standard error.
pub(crate) fn load(arg: &ConfigArg) -> Outcome<ClusterConfig> {
    let loaded = load_file(&arg.config).usage(arg.config.display())?;
    for warning in &loaded.warnings {
        eprintln!("{}: warning: {warning}", arg.config.display());
    }
    Ok(loaded.cluster)
}

/// Runs async work to its end.
pub(crate) fn block_on<T>(work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .failed("starting the runtime")?
        .block_on(work)
}

/// Waits for TERM or INT.
pub(crate) async fn terminated() -> Outcome {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).failed("waiting for TERM")?;
    let mut int = signal(SignalKind::interrupt()).failed("waiting for INT")?;
    tokio::select! {
        _ = term.recv() => tracing::info!("TERM: ending"),
        _ = int.recv() => tracing::info!("INT: ending"),
    }
    Ok(())
}
