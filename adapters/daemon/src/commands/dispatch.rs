//! `longshore dispatch`.

use super::{block_on, load, terminated};
use crate::cli::DispatchArgs;
use crate::exit::Outcome;
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
        let service = Service::start(&cluster, source, parts, args.journal.clone()).await?;
        tracing::info!(cluster = cluster.cluster_id, "dispatching");
        terminated().await?;
        service.stop().await
    })
}
