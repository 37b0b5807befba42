//! Notification of event subscribers and log followers.

use std::sync::Arc;

use tokio::sync::broadcast;

/// Number of buffered wake-ups for a log follower; a lagging follower reads the database anyway.
const TOUCH_BUFFER: usize = 256;

/// Change of a container.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// Record changed or created.
    Record {
        uuid: Arc<str>,
        owner: Arc<str>,
        state: &'static str,
        priority: i64,
    },
    /// Record deleted.
    Deleted { uuid: Arc<str>, owner: Arc<str> },
    /// Log extended.
    Log { uuid: Arc<str> },
}

impl Change {
    fn uuid(&self) -> &Arc<str> {
        match self {
            Self::Record { uuid, .. } | Self::Deleted { uuid, .. } | Self::Log { uuid } => uuid,
        }
    }

    /// True if visible to a caller limited to this owner's containers.
    pub(crate) fn is_visible_to(&self, only_owner: Option<&str>) -> bool {
        match self {
            Self::Record { owner, .. } | Self::Deleted { owner, .. } => {
                only_owner.is_none_or(|name| name == &**owner)
            }
            Self::Log { .. } => false,
        }
    }
}

/// Two bounded channels: a slow listener loses the oldest events and learns their number, without
/// delaying others.
pub(crate) struct Hub {
    records: broadcast::Sender<Change>,
    touched: broadcast::Sender<Arc<str>>,
}

impl Hub {
    pub(crate) fn new(event_buffer: usize) -> Self {
        Self {
            records: broadcast::Sender::new(event_buffer),
            touched: broadcast::Sender::new(TOUCH_BUFFER),
        }
    }

    /// Publishes a change. A hub without listeners is no error.
    pub(crate) fn publish(&self, change: Change) {
        let _ = self.touched.send(Arc::clone(change.uuid()));
        if !matches!(change, Change::Log { .. }) {
            let _ = self.records.send(change);
        }
    }

    pub(crate) fn records(&self) -> broadcast::Receiver<Change> {
        self.records.subscribe()
    }

    pub(crate) fn touched(&self) -> broadcast::Receiver<Arc<str>> {
        self.touched.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(owner: &str) -> Change {
        Change::Record {
            uuid: "u".into(),
            owner: owner.into(),
            state: "Queued",
            priority: 1,
        }
    }

    #[test]
    fn slow_listener_learns_number_of_lost_events() {
        let hub = Hub::new(2);
        let mut listener = hub.records();
        for _ in 0..5 {
            hub.publish(change("alice"));
        }
        assert!(matches!(
            listener.try_recv(),
            Err(broadcast::error::TryRecvError::Lagged(3))
        ));
        assert!(listener.try_recv().is_ok());
    }

    #[test]
    fn log_change_wakes_followers_only() {
        let hub = Hub::new(2);
        let (mut records, mut touched) = (hub.records(), hub.touched());
        hub.publish(Change::Log { uuid: "u".into() });
        assert!(records.try_recv().is_err());
        assert_eq!(touched.try_recv().as_deref(), Ok("u"));
    }

    #[test]
    fn users_see_their_own() {
        assert!(change("alice").is_visible_to(None));
        assert!(change("alice").is_visible_to(Some("alice")));
        assert!(!change("alice").is_visible_to(Some("bob")));
    }
}
