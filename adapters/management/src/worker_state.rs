//! State of an instance in the peer's terms.

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

    /// State by phase. A cordoned instance counts as idle or running, since it may be uncordoned.
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
