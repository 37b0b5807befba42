//! `longshore queue`.

use std::net::{SocketAddr, ToSocketAddrs as _};

use longshore_cluster_config::{BuiltinQueue, ClusterConfig};
use longshore_queue::{Database, QueueConfig, QueueError, QueueServer};

use super::{block_on, load, terminated};
use crate::cli::QueueArgs;
use crate::exit::{Context as _, Failure, Outcome};
use crate::log;

pub(crate) fn run(args: &QueueArgs) -> Outcome {
    let cluster = load(&args.config)?;
    log::init(&cluster.log);
    let queue = builtin(&cluster)?;
    let listen = resolve("Longshore.Queue.Listen", &queue.listen)?;
    block_on(async {
        let server = QueueServer::bind(listen, queue_config(&cluster, queue))
            .await
            .map_err(|error| match error {
                QueueError::Bind { .. } => {
                    Failure::Usage(format!("Longshore.Queue.Listen: {error}"))
                }
                _ => Failure::Failed(format!("the queue: {error}")),
            })?;
        let root = &cluster.system_root_token;
        server.tokens().set_root(root).await.failed("the queue")?;
        tracing::info!(address = %server.local_addr(), database = %queue.database.display(), "serving");
        terminated().await?;
        server.shutdown().await.failed("the queue")
    })
}

/// The built-in queue's settings, or what to do about it that there are none.
pub(crate) fn builtin(cluster: &ClusterConfig) -> Outcome<&BuiltinQueue> {
    cluster.queue.as_ref().ok_or_else(|| {
        Failure::Usage(format!(
            "Clusters.{}.Longshore.Queue.Database is not set: expected the path of a file, which \
             will be made if need be",
            cluster.cluster_id
        ))
    })
}

pub(crate) fn queue_config(cluster: &ClusterConfig, queue: &BuiltinQueue) -> QueueConfig {
    let database = Database::File(queue.database.clone());
    QueueConfig {
        max_dispatch_attempts: cluster.api.max_dispatch_attempts,
        max_items_per_response: cluster.api.max_items_per_response,
        ..QueueConfig::new(cluster.cluster_id.clone(), database)
    }
}

/// The first address of `host:port`.
pub(crate) fn resolve(key: &str, listen: &str) -> Outcome<SocketAddr> {
    let mut found = listen.to_socket_addrs().usage(format!("{key}: {listen}"))?;
    let none = || Failure::Usage(format!("{key}: {listen}: no address found"));
    found.next().ok_or_else(none)
}
