//! Database: one writer and a bounded pool of readers.
//!
//! Every change is one IMMEDIATE transaction on the writing connection, so the second of two
//! competing lock requests sees the result of the first. Journal mode WAL with
//! `synchronous=NORMAL`: a crash of this program loses nothing; a crash of the machine may lose the
//! last moments, but never half a transaction. The loss is safe: a lost lock leaves the container
//! Queued while a runner may be up, and the runner's own `state=Running` is then refused before any
//! user code runs; a lost final report looks like a runner without a report, a case handled by the
//! dispatcher anyway. In exchange a transition costs no disk flush.

use std::path::Path;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};
use tokio::sync::{Mutex, Semaphore};

use crate::config::{Database, QueueConfig};
use crate::error::{ApiError, QueueError};
use crate::events::{Change, Hub};
use crate::schema;

/// Number of reading connections. Reads are short; a few of them keep two cores busy.
const READERS: usize = 4;
/// Wait for the write lock of another process (a token command), held for milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Number of cached statements. Lists build SQL from filters; the dispatcher uses about ten forms.
const CACHED_STATEMENTS: usize = 64;

#[derive(Clone)]
pub(crate) struct Store {
    writer: Arc<Mutex<Connection>>,
    /// `None` for a database in memory, where the writer also reads.
    readers: Option<Readers>,
    hub: Arc<Hub>,
}

#[derive(Clone)]
struct Readers {
    permits: Arc<Semaphore>,
    idle: Arc<StdMutex<Vec<Connection>>>,
}

impl Store {
    /// Opens or creates the database and migrates it to the newest schema. Blocks.
    pub(crate) fn open(config: &QueueConfig, hub: Arc<Hub>) -> Result<Self, QueueError> {
        let name = database_name(&config.database);
        let failed = |source| QueueError::Database {
            database: name.clone(),
            source,
        };
        let (mut writer, readers) = match &config.database {
            Database::Memory => (Connection::open_in_memory().map_err(failed)?, None),
            Database::File(path) => {
                make_private(path);
                (Connection::open(path).map_err(failed)?, Some(path))
            }
        };
        prepare(&writer).map_err(failed)?;
        let is_new = check_origin(&writer, config, &name)?;
        if is_new {
            writer
                .pragma_update(None, "application_id", schema::APPLICATION_ID)
                .map_err(failed)?;
        }
        writer
            .pragma_update(None, "journal_mode", "WAL")
            .map_err(failed)?;
        writer
            .pragma_update(None, "synchronous", "NORMAL")
            .map_err(failed)?;
        schema::migrations()
            .to_latest(&mut writer)
            .map_err(|e| QueueError::Foreign {
                database: name.clone(),
                reason: format!("its schema cannot be brought up to date: {e}"),
            })?;
        claim(&writer, config, &name)?;
        let readers = match readers {
            None => None,
            Some(path) => Some(open_readers(path).map_err(failed)?),
        };
        Ok(Self {
            writer: Arc::new(Mutex::new(writer)),
            readers,
            hub,
        })
    }

    /// Runs a read on one consistent view of the database.
    pub(crate) async fn read<T, F>(&self, f: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, ApiError> + Send + 'static,
    {
        let Some(readers) = &self.readers else {
            let writer = Arc::clone(&self.writer).lock_owned().await;
            return blocking(move || f(&writer.unchecked_transaction()?)).await;
        };
        let permit = Arc::clone(&readers.permits)
            .acquire_owned()
            .await
            .map_err(|_| ApiError::internal("the reader pool is closed"))?;
        let idle = Arc::clone(&readers.idle);
        blocking(move || {
            let loan = Loan::take(idle)?;
            let result = f(&loan.connection()?.unchecked_transaction()?);
            drop(loan);
            drop(permit);
            result
        })
        .await
    }

    /// Runs a change in one IMMEDIATE transaction. Its events are published after the commit and
    /// before the next writer, so events have the order of the commits.
    pub(crate) async fn write<T, F>(&self, f: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>, &mut Vec<Change>) -> Result<T, ApiError> + Send + 'static,
    {
        let mut writer = Arc::clone(&self.writer).lock_owned().await;
        let hub = Arc::clone(&self.hub);
        blocking(move || {
            let mut changes = Vec::new();
            let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = f(&transaction, &mut changes)?;
            transaction.commit()?;
            for change in changes {
                hub.publish(change);
            }
            Ok(value)
        })
        .await
    }
}

/// Reading connection on loan, returned to the pool even after a panic.
struct Loan {
    connection: Option<Connection>,
    idle: Arc<StdMutex<Vec<Connection>>>,
}

impl Loan {
    fn take(idle: Arc<StdMutex<Vec<Connection>>>) -> Result<Self, ApiError> {
        let connection = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if connection.is_none() {
            return Err(ApiError::internal("no reading connection is idle"));
        }
        Ok(Self { connection, idle })
    }

    fn connection(&self) -> Result<&Connection, ApiError> {
        self.connection
            .as_ref()
            .ok_or_else(|| ApiError::internal("the reading connection is gone"))
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(connection);
        }
    }
}

async fn blocking<T, F>(f: F) -> Result<T, ApiError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, ApiError> + Send + 'static,
{
    tokio::task::spawn_blocking(f)
        .await
        .map_err(|e| ApiError::internal(format!("database task: {e}")))?
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    Ok(())
}

fn open_readers(path: &Path) -> rusqlite::Result<Readers> {
    let mut idle = Vec::with_capacity(READERS);
    for _ in 0..READERS {
        let reader = Connection::open(path)?;
        prepare(&reader)?;
        reader.pragma_update(None, "query_only", true)?;
        idle.push(reader);
    }
    Ok(Readers {
        permits: Arc::new(Semaphore::new(READERS)),
        idle: Arc::new(StdMutex::new(idle)),
    })
}

/// Refuses a file of a newer version, another program or another cluster, before any write. Returns
/// true for a new file.
fn check_origin(
    connection: &Connection,
    config: &QueueConfig,
    name: &str,
) -> Result<bool, QueueError> {
    let failed = |source| QueueError::Database {
        database: name.to_owned(),
        source,
    };
    let number = |pragma: &str| {
        connection
            .pragma_query_value(None, pragma, |row| row.get::<_, i64>(0))
            .map_err(failed)
    };
    let (application, version) = (number("application_id")?, number("user_version")?);
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(failed)?;
    if application == 0 && version == 0 && tables == 0 {
        return Ok(true);
    }
    if application != i64::from(schema::APPLICATION_ID) {
        return Err(QueueError::Foreign {
            database: name.to_owned(),
            reason: "it was made by another program".to_owned(),
        });
    }
    if version > schema::VERSION {
        let path = match &config.database {
            Database::File(path) => path.clone(),
            Database::Memory => ":memory:".into(),
        };
        return Err(QueueError::NewerSchema {
            path,
            found: version,
            known: schema::VERSION,
        });
    }
    if version > 0 {
        check_cluster(connection, config, name)?;
    }
    Ok(false)
}

fn check_cluster(
    connection: &Connection,
    config: &QueueConfig,
    name: &str,
) -> Result<(), QueueError> {
    let sql = "SELECT value FROM meta WHERE key = 'cluster_id'";
    let owner: Option<String> = connection
        .query_row(sql, [], |row| row.get(0))
        .optional()
        .map_err(|source| QueueError::Database {
            database: name.to_owned(),
            source,
        })?;
    match owner {
        Some(id) if id != config.cluster_id => Err(QueueError::Foreign {
            database: name.to_owned(),
            reason: format!("it belongs to cluster {id}, not {}", config.cluster_id),
        }),
        _ => Ok(()),
    }
}

/// Marks a new file as owned by this cluster; of two concurrent creators the first wins.
fn claim(connection: &Connection, config: &QueueConfig, name: &str) -> Result<(), QueueError> {
    let sql = "INSERT INTO meta VALUES ('cluster_id', ?1) ON CONFLICT DO NOTHING";
    connection
        .execute(sql, [&config.cluster_id])
        .map_err(|source| QueueError::Database {
            database: name.to_owned(),
            source,
        })?;
    check_cluster(connection, config, name)
}

pub(crate) fn database_name(database: &Database) -> String {
    match database {
        Database::File(path) => path.display().to_string(),
        Database::Memory => ":memory:".to_owned(),
    }
}

/// Restricts a new file to its owner, since it will contain the commands and environments of all
/// users. SQLite gives its companion files the same mode. A failure here is reported by the open
/// call.
fn make_private(path: &Path) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let made = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    if let Err(error) = made {
        tracing::debug!(path = %path.display(), %error, "queue database not newly made");
    }
}
