//! The batches of a delivery, opened by whoever owns the partition.

use super::Fetched;
use crate::client::batch::{AbortedFilter, Batch, Batches, Records};
use crate::error::{Error, Result};
use crate::record::TopicPartition;

/// The batches of a delivery that are for applications, one by one: CRCs are checked, and control batches and those of
/// aborted transactions are passed over. Errors say where.
pub(crate) struct Opened {
    at: TopicPartition,
    fetch_offset: i64,
    batches: Batches,
    aborted: AbortedFilter,
}

/// A batch that was opened.
pub(crate) struct OpenedBatch {
    /// Its records. Those before [`Opened::fetch_offset`] are not for the receiver.
    pub(crate) records: Records,
    /// The offset that follows the batch.
    pub(crate) next_offset: i64,
    /// The leader epoch it was appended in.
    pub(crate) leader_epoch: i32,
}

impl Opened {
    /// Opens a delivery. Its credit is the caller's to give back.
    pub(crate) fn new(fetched: &mut Fetched) -> Self {
        Self {
            at: fetched.at.clone(),
            fetch_offset: fetched.fetch_offset,
            batches: Batches::new(std::mem::take(&mut fetched.records)),
            aborted: AbortedFilter::new(std::mem::take(&mut fetched.aborted)),
        }
    }

    /// What was asked for.
    pub(crate) fn fetch_offset(&self) -> i64 {
        self.fetch_offset
    }

    /// An error of one of its records, with its place.
    pub(crate) fn locate(&self, error: Error) -> Error {
        let offset = error.offset().unwrap_or(self.fetch_offset);
        error.at_topic(&*self.at.topic).at_partition(self.at.partition).at_offset(offset)
    }

    fn open(&mut self, batch: &Batch) -> Result<Option<OpenedBatch>> {
        batch.verify_crc()?;
        if !self.aborted.admits(batch)? {
            return Ok(None);
        }
        let (next_offset, leader_epoch) = (batch.next_offset(), batch.partition_leader_epoch());
        Ok(Some(OpenedBatch { records: batch.records()?, next_offset, leader_epoch }))
    }
}

impl Iterator for Opened {
    type Item = Result<OpenedBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let opened = match self.batches.next()? {
                Ok(batch) => {
                    let base = batch.base_offset();
                    self.open(&batch).map_err(|error| self.locate(error.at_offset(base)))
                }
                Err(error) => Err(self.locate(error)),
            };
            if let Some(opened) = opened.transpose() {
                return Some(opened);
            }
        }
    }
}
