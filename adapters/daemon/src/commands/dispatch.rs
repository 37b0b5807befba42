//! `longshore dispatch`.

use tokio::signal::unix::{SignalKind, signal};

use super::{block_on, load, terminated};
use crate::cli::{ConfigArg, DispatchArgs};
use crate::engine::wiring;
use crate::error::{CliResult, Context as _};
use crate::service::{Service, Source, default_state_dir};
use crate::{leader_lock, log};

pub(crate) fn run(args: &DispatchArgs) -> CliResult {
    let cluster = load(&args.config)?;
    let source = Source::of(&args.config.config);
    log::init(&cluster.log);
    let state_dir = match &args.state_dir {
        Some(dir) => dir.clone(),
        None => default_state_dir()?,
    };
    let components = wiring::build(&cluster, &state_dir)?;
    block_on(async {
        let set = components.instance_set_id.clone();
        let _lock = tokio::select! {
            lock = leader_lock::acquire(&state_dir, &set) => lock?,
            ended = terminated() => return ended,
        };
        let mut service =
            Service::start(&cluster, source, components, args.journal.clone()).await?;
        tracing::info!(cluster = cluster.cluster_id, "dispatching");
        let mut hangups = signal(SignalKind::hangup()).failed("waiting for HUP")?;
        let mut ended = std::pin::pin!(terminated());
        loop {
            tokio::select! {
                ended = &mut ended => {
                    ended?;
                    return service.stop().await;
                }
                _ = hangups.recv() => reload(&mut service, &args.config).await,
            }
        }
    })
}

/// Reads the configuration again on HUP. An invalid configuration changes nothing.
async fn reload(service: &mut Service, config: &ConfigArg) {
    let source = Source::of(&config.config);
    let result = match load(config) {
        Ok(cluster) => service.reconfigure(cluster, source).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => tracing::info!("HUP: the new configuration is in force"),
        Err(error) => tracing::error!("HUP: the old configuration stays: {}", error.chain()),
    }
}
