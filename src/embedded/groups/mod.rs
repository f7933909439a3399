//! The group coordinator: pure, over injected time.

use std::time::Instant;

/// All groups.
#[derive(Debug, Default)]
pub(crate) struct Groups {}

impl Groups {
    /// Does what is due.
    pub(crate) fn tick(&mut self, _now: Instant) {}

    /// When something is due next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// The coordinator of these groups is another node now: whoever waits is told NOT_COORDINATOR.
    pub(crate) fn coordinator_moved(&mut self, _moved: &dyn Fn(&str) -> bool) {}

    /// A topic is gone, and with it the offsets that were committed for it.
    pub(crate) fn topic_deleted(&mut self, _topic: &str) {}
}
