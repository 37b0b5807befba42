//! `longshore dispatch`.

use tokio::signal::unix::{SignalKind, signal};

use super::{block_on, load, terminated};
use crate::cli::{ConfigArg, DispatchArgs};
use crate::exit::{Context as _, Outcome};
use crate::service::{self, Service, Source, default_state_dir};
use crate::{lease, log};

pub(crate) fn run(args: &DispatchArgs) -> Outcome {
    let cluster = load(&args.config)?;
    let source = Source::of(&args.config.config);
    log::init(&cluster.log);
    let state_dir = match &args.state_dir {
        Some(dir) => dir.clone(),
        None => default_state_dir()?,
    };
    let parts = service::parts(&cluster, &state_dir)?;
    block_on(async {
        let set = parts.instance_set_id.clone();
        let _lease = tokio::select! {
            lease = lease::acquire(&state_dir, &set) => lease?,
            ended = terminated() => return ended,
        };
        let mut service = Service::start(&cluster, source, parts, args.journal.clone()).await?;
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

/// HUP: reads the configuration again. A wrong one changes nothing.
async fn reload(service: &mut Service, config: &ConfigArg) {
    let source = Source::of(&config.config);
    let taken = match load(config) {
        Ok(cluster) => service.reconfigure(cluster, source).await,
        Err(failure) => Err(failure),
    };
    match taken {
        Ok(()) => tracing::info!("HUP: the new configuration is in force"),
        Err(failure) => tracing::error!("HUP: the old configuration stays: {failure}"),
    }
}
