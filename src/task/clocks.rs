//! Times that nodes keep from record to record: they are part of the task's state, so that a roll-back sets them back, and
//! some are committed with the offsets (`ProcessorMetadata`).

use std::sync::Arc;

use crate::record::Timestamp;

/// The place of a clock in its task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClockIx(usize);

/// The clocks of a task, by the order in which its nodes were built.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    times: Vec<Timestamp>,
    /// Those that are committed with the offsets, under a name.
    committed: Vec<(Arc<str>, ClockIx)>,
}

impl Clocks {
    /// A clock that starts at -1 with every task.
    pub(crate) fn add(&mut self) -> ClockIx {
        self.times.push(-1);
        ClockIx(self.times.len() - 1)
    }

    /// A clock that the next owner of the task goes on with.
    pub(crate) fn add_committed(&mut self, name: &Arc<str>) -> ClockIx {
        let clock = self.add();
        self.committed.push((name.clone(), clock));
        clock
    }

    pub(crate) fn get(&self, clock: ClockIx) -> Timestamp {
        self.times[clock.0]
    }

    pub(crate) fn set(&mut self, clock: ClockIx, time: Timestamp) {
        self.times[clock.0] = time;
    }

    /// Moves a clock on, never back. Returns where it is.
    pub(crate) fn advance(&mut self, clock: ClockIx, time: Timestamp) -> Timestamp {
        let now = &mut self.times[clock.0];
        *now = (*now).max(time);
        *now
    }

    pub(super) fn times(&self) -> &[Timestamp] {
        &self.times
    }

    pub(super) fn set_times(&mut self, times: &[Timestamp]) {
        self.times.clear();
        self.times.extend_from_slice(times);
    }

    /// What a commit keeps: those that have moved.
    pub(super) fn to_commit(&self) -> impl Iterator<Item = (&Arc<str>, Timestamp)> {
        let times = self.committed.iter().map(|(name, clock)| (name, self.get(*clock)));
        times.filter(|(_, time)| *time != -1)
    }

    /// Takes over what was committed; of several partitions the greatest (`ProcessorMetadata.update`).
    pub(super) fn restore(&mut self, name: &str, time: Timestamp) {
        let found = self.committed.iter().find(|(known, _)| **known == *name).map(|(_, clock)| *clock);
        if let Some(clock) = found {
            self.advance(clock, time);
        }
    }
}
