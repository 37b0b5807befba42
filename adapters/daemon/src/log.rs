//! Log lines on standard error, as the configuration says.

use std::io::IsTerminal as _;

use longshore_cluster_config::{Log, LogFormat};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Begins to write log lines. Libraries are heard from `warn` on, unless `RUST_LOG` says otherwise.
pub(crate) fn init(log: &Log) {
    let ours = [
        "",
        "_arvados",
        "_cloud",
        "_ec2",
        "_http",
        "_loopback",
        "_queue",
        "_ssh",
    ];
    let level = log.level.name();
    let default = ours.iter().fold("warn".to_owned(), |filter, part| {
        format!("{filter},longshore{part}={level}")
    });
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let lines = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter);
    // A second call, as by tests in one process, changes nothing.
    let _ = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
        LogFormat::Text => lines.finish().try_init(),
    };
}
