//! How many records a worker takes of a task between two looks at its mailbox: as many as go in a moment. A revocation
//! does not wait for a thousand slow records, and a worker whose records are slow is not taken for one that is stuck
//! (`TaskExecutor` and `StreamThread.numIterations` do the same by `max.poll.interval.ms`).

use std::time::Duration;

const MOST: usize = 1000;
/// How long a slice should take at most.
const MOMENT: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Slice(usize);

impl Slice {
    /// Begins with one record: nobody knows yet what it costs.
    pub(super) fn new() -> Self {
        Self(1)
    }

    pub(super) fn records(&self) -> usize {
        self.0
    }

    /// After a round of all tasks that took so long, others are to have a word.
    pub(super) fn is_long(took: Duration) -> bool {
        took > MOMENT * 2
    }

    pub(super) fn took(&mut self, processed: usize, took: Duration) {
        if took > MOMENT {
            // To what goes in a moment, if records go on as these did.
            self.0 = (self.0 * MOMENT.as_millis() as usize / took.as_millis().max(1) as usize).max(1);
        } else if processed >= self.0 && took < MOMENT / 2 {
            self.0 = (self.0 * 2).min(MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_records_go_in_large_slices_and_slow_ones_alone() {
        let mut slice = Slice::new();
        for _ in 0..10 {
            slice.took(slice.records(), Duration::from_millis(1));
        }
        assert_eq!(slice.records(), MOST);
        slice.took(7, Duration::from_millis(1));
        assert_eq!(slice.records(), MOST, "a queue that runs dry says nothing");
        slice.took(MOST, Duration::from_secs(10));
        assert_eq!(slice.records(), 10);
        slice.took(10, Duration::from_secs(3600));
        assert_eq!(slice.records(), 1);
        slice.took(1, Duration::from_millis(70));
        assert_eq!(slice.records(), 1, "that is a moment");
    }
}
