//! Tables, and migrations of older files.

use rusqlite_migration::{M, Migrations};

/// Newest supported schema version: the number of entries in [`STEPS`].
pub(crate) const VERSION: i64 = STEPS.len() as i64;

/// Application id of a queue database ("LSqu").
pub(crate) const APPLICATION_ID: i32 = 0x4c53_7175;

const STEPS: &[M<'static>] = &[M::up(FIRST)];

pub(crate) fn migrations() -> Migrations<'static> {
    Migrations::from_slice(STEPS)
}

/// - `containers_turn` answers the dispatcher's poll (state and priority) in order, without a sort.
/// - `containers_locked` answers the list of a holder's locks, in order of uuid.
/// - `containers_owner` and `containers_created` answer users' lists.
/// - Times are nanoseconds since the epoch, so they compare as numbers.
/// - The last check is the most important invariant: every lock has a holder, and no other state
///   has.
const FIRST: &str = r"
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE containers (
    id INTEGER PRIMARY KEY,
    uuid TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('Queued', 'Locked', 'Running', 'Complete', 'Cancelled')),
    priority INTEGER NOT NULL CHECK (priority >= 0),
    locked_by_uuid TEXT,
    auth_uuid TEXT,
    lock_count INTEGER NOT NULL DEFAULT 0 CHECK (lock_count >= 0),
    created_at INTEGER NOT NULL,
    modified_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    command TEXT NOT NULL,
    environment TEXT NOT NULL,
    cwd TEXT NOT NULL,
    output_path TEXT NOT NULL,
    mounts TEXT NOT NULL,
    container_image TEXT NOT NULL,
    runtime_constraints TEXT NOT NULL,
    scheduling_parameters TEXT NOT NULL,
    runtime_status TEXT NOT NULL DEFAULT '{}',
    exit_code INTEGER,
    output TEXT,
    log TEXT,
    gateway_address TEXT NOT NULL DEFAULT '',
    cost REAL NOT NULL DEFAULT 0,
    CHECK ((locked_by_uuid IS NOT NULL) = (state IN ('Locked', 'Running'))),
    CHECK ((auth_uuid IS NOT NULL) = (state IN ('Locked', 'Running')))
) STRICT;
CREATE INDEX containers_turn ON containers (state, priority DESC, uuid);
CREATE INDEX containers_locked ON containers (locked_by_uuid, uuid) WHERE locked_by_uuid IS NOT NULL;
CREATE INDEX containers_owner ON containers (owner, created_at DESC, uuid);
CREATE INDEX containers_created ON containers (created_at DESC, uuid);

CREATE TABLE tokens (
    uuid TEXT PRIMARY KEY,
    role TEXT NOT NULL CHECK (role IN ('admin', 'dispatcher', 'user', 'container')),
    owner TEXT NOT NULL,
    container_uuid TEXT REFERENCES containers (uuid) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    CHECK ((container_uuid IS NOT NULL) = (role = 'container'))
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_container ON tokens (container_uuid) WHERE container_uuid IS NOT NULL;

CREATE TABLE token_secrets (
    sha256 BLOB PRIMARY KEY CHECK (length(sha256) = 32),
    token_uuid TEXT NOT NULL REFERENCES tokens (uuid) ON DELETE CASCADE,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX token_secrets_token ON token_secrets (token_uuid, created_at);

CREATE TABLE log_totals (
    container_uuid TEXT PRIMARY KEY REFERENCES containers (uuid) ON DELETE CASCADE,
    bytes INTEGER NOT NULL,
    stdout_received INTEGER NOT NULL,
    stderr_received INTEGER NOT NULL,
    truncated INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE log_chunks (
    id INTEGER PRIMARY KEY,
    container_uuid TEXT NOT NULL REFERENCES containers (uuid) ON DELETE CASCADE,
    start INTEGER NOT NULL,
    stream TEXT NOT NULL CHECK (stream IN ('stdout', 'stderr')),
    data BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX log_chunks_place ON log_chunks (container_uuid, start);
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_apply_to_an_empty_file() {
        assert!(migrations().validate().is_ok());
    }
}
