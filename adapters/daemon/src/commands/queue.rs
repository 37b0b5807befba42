//! `longshore queue`.

use longshore_cluster_config::{BuiltinQueue, ClusterConfig};
use longshore_queue::{Database, QueueConfig, QueueError, QueueServer, Tokens};
use tokio::net::TcpListener;

use super::{block_on, load, terminated};
use crate::address::resolve;
use crate::cli::QueueArgs;
use crate::error::{CliError, CliResult, Context as _};
use crate::log;

pub(crate) fn run(args: &QueueArgs) -> CliResult {
    let cluster = load(&args.config)?;
    log::init(&cluster.log);
    let queue = builtin(&cluster)?;
    let listen = resolve("Longshore.Queue.Listen", &queue.listen)?;
    block_on(async {
        let listener = TcpListener::bind(listen).await.map_err(|source| {
            let error = QueueError::Bind {
                addr: listen,
                source,
            };
            CliError::usage("Longshore.Queue.Listen").because(error)
        })?;
        let config = queue_config(&cluster, queue);
        // The root token is valid from the first request on.
        let tokens = Tokens::open(&config).await.failed("the queue")?;
        let root = &cluster.system_root_token;
        tokens.set_root(root).await.failed("the queue")?;
        drop(tokens);
        let server = QueueServer::serve(listener, config)
            .await
            .failed("the queue")?;
        tracing::info!(address = %server.local_addr(), database = %queue.database.display(), "serving");
        terminated().await?;
        server.shutdown().await.failed("the queue")
    })
}

/// Settings of the built-in queue, or an error with advice if the settings are missing.
pub(crate) fn builtin(cluster: &ClusterConfig) -> CliResult<&BuiltinQueue> {
    cluster.queue.as_ref().ok_or_else(|| {
        CliError::usage(format!(
            "Clusters.{}.Longshore.Queue.Database is not set: expected the path of a file, created \
             if missing",
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
