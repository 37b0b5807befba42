//! Settings of the queue server.

use std::path::PathBuf;

use crate::error::QueueError;

/// Location of the queue's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    /// File, created if missing; `-wal` and `-shm` files appear beside it.
    File(PathBuf),
    /// Memory: all records are lost when the server stops.
    Memory,
}

/// Settings of the queue server. [`QueueConfig::new`] gives the defaults named below.
#[derive(Clone, Debug)]
pub struct QueueConfig {
    /// Cluster id of five characters of `0-9a-z`: the first part of every uuid.
    pub cluster_id: String,
    /// Location of the records.
    pub database: Database,
    /// Number of locks after which an unlock cancels a container. At least 1; default 10.
    pub max_dispatch_attempts: u32,
    /// Maximum size of a request body in bytes; a larger body is answered 413. Default 4 MiB.
    pub max_body_bytes: usize,
    /// Maximum number of records in one list answer, for any `limit`. Default 1000.
    pub max_items_per_response: u32,
    /// Size in bytes after which a list answer ends, so pages may be shorter than `limit`. Default
    /// 2 MiB.
    pub max_response_bytes: usize,
    /// Log bytes kept for one container; further bytes are replaced by one note. Default 64 MiB.
    pub max_log_bytes: u64,
    /// Number of changes buffered for a slow subscriber; beyond it the subscriber learns the number
    /// of lost changes. At least 1; default 1024.
    pub event_buffer: usize,
    /// Number of concurrent event subscribers and log followers; more are answered 503. Default
    /// 256.
    pub max_streams: usize,
    /// Number of open connections; more wait for a connection to close. At least 1; default 1024.
    pub max_connections: usize,
    /// Number of concurrent requests; more are answered 503, `lock` requests already at half of it.
    /// At least 2; default 128.
    pub max_requests_in_flight: usize,
}

impl QueueConfig {
    /// Default settings of a cluster.
    #[must_use]
    pub fn new(cluster_id: impl Into<String>, database: Database) -> Self {
        Self {
            cluster_id: cluster_id.into(),
            database,
            max_dispatch_attempts: 10,
            max_body_bytes: 4 << 20,
            max_items_per_response: 1000,
            max_response_bytes: 2 << 20,
            max_log_bytes: 64 << 20,
            event_buffer: 1024,
            max_streams: 256,
            max_connections: 1024,
            max_requests_in_flight: 128,
        }
    }

    pub(crate) fn check(&self) -> Result<(), QueueError> {
        let id = self.cluster_id.as_bytes();
        if id.len() != 5
            || !id
                .iter()
                .all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
        {
            return Err(QueueError::Config(format!(
                "cluster_id: expected five characters of 0-9a-z, got {:?}",
                self.cluster_id
            )));
        }
        let at_least = [
            (
                "max_dispatch_attempts",
                u64::from(self.max_dispatch_attempts),
                1,
            ),
            ("max_body_bytes", self.max_body_bytes as u64, 1024),
            (
                "max_items_per_response",
                u64::from(self.max_items_per_response),
                1,
            ),
            ("max_response_bytes", self.max_response_bytes as u64, 1),
            ("event_buffer", self.event_buffer as u64, 1),
            ("max_connections", self.max_connections as u64, 1),
            (
                "max_requests_in_flight",
                self.max_requests_in_flight as u64,
                2,
            ),
        ];
        for (name, value, least) in at_least {
            if value < least {
                return Err(QueueError::Config(format!(
                    "{name}: expected at least {least}, got {value}"
                )));
            }
        }
        let at_most = [
            ("event_buffer", self.event_buffer as u64, 1 << 20),
            (
                "max_requests_in_flight",
                self.max_requests_in_flight as u64,
                1 << 16,
            ),
            ("max_connections", self.max_connections as u64, 1 << 16),
            ("max_streams", self.max_streams as u64, 1 << 16),
            ("max_log_bytes", self.max_log_bytes, 1 << 40),
        ];
        for (name, value, most) in at_most {
            if value > most {
                return Err(QueueError::Config(format!(
                    "{name}: expected at most {most}, got {value}"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_absurd_values_are_named() {
        let good = QueueConfig::new("zzzzz", Database::Memory);
        assert!(good.check().is_ok());
        type Spoil = fn(&mut QueueConfig);
        let cases: [(&str, Spoil); 5] = [
            ("cluster_id", |c| c.cluster_id = "ZZZZZ".into()),
            ("cluster_id", |c| c.cluster_id = "zzzz".into()),
            ("max_dispatch_attempts", |c| c.max_dispatch_attempts = 0),
            ("event_buffer", |c| c.event_buffer = 0),
            ("max_log_bytes", |c| c.max_log_bytes = u64::MAX),
        ];
        for (name, spoil) in cases {
            let mut bad = good.clone();
            spoil(&mut bad);
            let message = bad
                .check()
                .map_err(|e| e.to_string())
                .err()
                .unwrap_or_default();
            assert!(message.contains(name), "{name}: {message}");
        }
    }
}
