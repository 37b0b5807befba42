//! Where an instance is in its life, in the peer's words.

use longshore_core::Phase;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WorkerState {
    Unknown,
    Booting,
    Idle,
    Running,
    Shutdown,
}

impl WorkerState {
    pub(crate) const ALL: [Self; 5] = [
        Self::Unknown,
        Self::Booting,
        Self::Idle,
        Self::Running,
        Self::Shutdown,
    ];

    /// A fenced instance is still idle, or running again: it may stay.
    pub(crate) fn new(phase: Phase, busy: bool) -> Self {
        match phase {
            Phase::Creating | Phase::Booting => Self::Booting,
            Phase::Unknown => Self::Unknown,
            Phase::Ready | Phase::Cordoned if busy => Self::Running,
            Phase::Ready | Phase::Cordoned => Self::Idle,
            Phase::Shutdown => Self::Shutdown,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Booting => "booting",
            Self::Idle => "idle",
            Self::Running => "running",
            Self::Shutdown => "shutdown",
        }
    }
}
