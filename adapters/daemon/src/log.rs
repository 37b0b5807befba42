//! Logger on standard error, set up by the configuration.

use std::io::IsTerminal as _;

use longshore_cluster_config::{Log, LogFormat};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Starts the logger. Libraries log from `warn` on, unless `RUST_LOG` is set.
pub(crate) fn init(log: &Log) {
    // A prefix: applies to all crates of the workspace.
    let default = format!("warn,longshore={}", log.level.name());
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let lines = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter);
    // A second call, as by tests in one process, has no effect.
    let _ = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
        LogFormat::Text => lines.finish().try_init(),
    };
}
