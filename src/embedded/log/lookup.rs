//! Finding offsets: by time, by leader epoch.

use super::{Log, Stored};

/// What ListOffsets is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spec {
    Earliest,
    Latest,
    MaxTimestamp,
    /// The first record of at least this time.
    Time(i64),
}

/// What it finds: nothing is -1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    pub(crate) leader_epoch: i32,
}

impl Found {
    const NOTHING: Self = Self { offset: -1, timestamp: -1, leader_epoch: -1 };
}

impl Log {
    /// `Partition.fetchOffsetForTimestamp`.
    pub(crate) fn find(&self, spec: Spec, committed: bool) -> Found {
        let end = self.readable(committed);
        let found = match spec {
            Spec::Earliest => {
                // An epoch is said only if one is known to cover the start.
                let epoch = self.epochs.first().filter(|(_, from)| *from <= self.start);
                let leader_epoch = epoch.map_or(-1, |_| self.epoch_at(self.start));
                return Found { offset: self.start, timestamp: -1, leader_epoch };
            }
            Spec::Latest => {
                // Of the epoch the leader knows better: a log without records has none.
                return Found { offset: end, ..Found::NOTHING };
            }
            Spec::MaxTimestamp => {
                let max = self.batches.iter().map(|batch| batch.max_timestamp).max();
                max.filter(|max| *max >= 0).and_then(|max| self.first_of(max))
            }
            Spec::Time(time) => self.first_of(time),
        };
        let Some((offset, timestamp)) = found.filter(|(offset, _)| *offset < end) else {
            return Found::NOTHING;
        };
        Found { offset, timestamp, leader_epoch: self.epoch_at(offset) }
    }

    /// Offset and time of the first record of at least this time.
    fn first_of(&self, time: i64) -> Option<(i64, i64)> {
        let late = self.batches.iter().filter(|batch| batch.max_timestamp >= time).filter_map(Stored::batch);
        late.filter_map(|batch| batch.records().ok())
            .flat_map(|records| records.map_while(Result::ok))
            .find(|record| record.timestamp >= time && record.offset >= self.start)
            .map(|record| (record.offset, record.timestamp))
    }

    fn epoch_at(&self, offset: i64) -> i32 {
        self.epochs.iter().rev().find(|(_, from)| *from <= offset).map_or(-1, |(epoch, _)| *epoch)
    }

    /// Notes that records from here on belong to this epoch.
    pub(super) fn begin_epoch(&mut self, leader_epoch: i32) {
        if self.epochs.last().is_none_or(|(latest, _)| *latest < leader_epoch) {
            // An epoch in which nothing was written leaves no trace.
            self.epochs.retain(|(_, from)| *from < self.end);
            self.epochs.push((leader_epoch, self.end));
        }
    }

    /// The largest epoch up to `leader_epoch` and where it ends (`LeaderEpochFileCache.endOffsetFor`); -1 if unknown.
    pub(crate) fn end_of_epoch(&self, leader_epoch: i32) -> (i32, i64) {
        let Some((latest, _)) = self.epochs.last().filter(|_| leader_epoch != -1) else { return (-1, -1) };
        if leader_epoch == *latest {
            return (leader_epoch, self.end);
        }
        let Some(higher) = self.epochs.iter().position(|(epoch, _)| *epoch > leader_epoch) else {
            return (-1, -1);
        };
        let end = self.epochs[higher].1;
        match higher.checked_sub(1) {
            Some(floor) => (self.epochs[floor].0, end),
            None => (leader_epoch, end),
        }
    }

    /// The log begins at `offset` now, if it did not begin later; what ends before it is gone.
    pub(crate) fn start_at(&mut self, offset: i64) {
        if offset < self.start {
            return;
        }
        self.start = offset;
        let gone = self.position(offset);
        for batch in self.batches.drain(..gone) {
            self.size -= batch.bytes.len();
            while self.segments.get(1).is_some_and(|second| second.base <= batch.base) {
                self.segments.pop_front();
            }
            if let Some(first) = self.segments.front_mut() {
                first.size -= batch.bytes.len();
            }
        }
        while self.segments.get(1).is_some_and(|second| second.base <= offset) {
            self.segments.pop_front();
        }
        // The epoch that covers the start begins there (`truncateFromStartAsyncFlush`).
        let covering = self.epochs.partition_point(|(_, from)| *from <= offset);
        if covering > 0 {
            self.epochs.drain(..covering - 1);
            self.epochs[0].1 = offset;
        }
        self.producers.forget_before(offset);
    }
}
