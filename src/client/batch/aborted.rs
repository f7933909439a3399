//! `read_committed`: which batches of a fetch response belong to aborted transactions.

use super::read::{Batch, ControlType};
use crate::error::Result;

/// Decides batch by batch, in offset order, whether the records may be delivered, as Java's `CompletedFetch` does.
///
/// One filter serves one partition of one fetch response: the broker lists anew every aborted transaction that overlaps
/// what it returns.
#[derive(Debug, Default)]
pub(crate) struct AbortedFilter {
    /// `(first offset, producer)` of transactions that have not begun yet, the next one last.
    ahead: Vec<(i64, i64)>,
    /// Producers whose current transaction is aborted: few, so a list.
    open: Vec<i64>,
}

impl AbortedFilter {
    /// A filter for the response's list of `(producer id, first offset)`, in any order. With an empty list (also that
    /// of `read_uncommitted`) it only holds back control batches.
    pub(crate) fn new(aborted: impl IntoIterator<Item = (i64, i64)>) -> Self {
        let mut ahead: Vec<_> = aborted.into_iter().map(|(producer, first)| (first, producer)).collect();
        ahead.sort_unstable_by(|a, b| b.cmp(a));
        Self { ahead, open: Vec::new() }
    }

    /// Whether the batch's records are for the application. Every batch must be shown, in offset order.
    pub(crate) fn admits(&mut self, batch: &Batch) -> Result<bool> {
        if (self.ahead.is_empty() && self.open.is_empty()) || batch.producer_id() < 0 {
            return Ok(!batch.is_control());
        }
        while let Some(&(first, producer)) = self.ahead.last()
            && first < batch.next_offset()
        {
            self.ahead.pop();
            if !self.open.contains(&producer) {
                self.open.push(producer);
            }
        }
        if batch.is_control() {
            if batch.control_type()? == Some(ControlType::Abort) {
                self.open.retain(|&producer| producer != batch.producer_id());
            }
            return Ok(false);
        }
        Ok(!(batch.is_transactional() && self.open.contains(&batch.producer_id())))
    }
}
