//! From fetched bytes to the raw records of a task's queue, on the worker.

use crate::client::batch::{AbortedFilter, Batch, Batches, Records};
use crate::client::fetch::{Credit, Fetched};
use crate::error::{Error, Result};
use crate::record::{RawRecord, TopicPartition};
use crate::task::queue::RawBatch;

/// The records of a delivery, decoded one by one. CRCs are checked batch by batch; what belongs to aborted transactions,
/// control records, and records before the offset that was asked for are left out.
struct FetchedRecords {
    at: TopicPartition,
    fetch_offset: i64,
    batches: Batches,
    aborted: AbortedFilter,
    current: Option<Records>,
    /// Given back when the last record has been taken.
    _credit: Credit,
}

/// Makes a delivery ready for a queue.
pub(super) fn raw_batch(fetched: Fetched) -> RawBatch {
    let count = Batches::new(fetched.records.clone()).map_while(Result::ok).map(|b| b.record_count()).sum();
    let next_offset = fetched.next_offset;
    let records = FetchedRecords {
        at: fetched.at,
        fetch_offset: fetched.fetch_offset,
        batches: Batches::new(fetched.records),
        aborted: AbortedFilter::new(fetched.aborted),
        current: None,
        _credit: fetched.credit,
    };
    RawBatch { records: Box::new(records), next_offset, count }
}

impl FetchedRecords {
    fn open(&mut self, batch: &Batch) -> Result<Option<Records>> {
        batch.verify_crc()?;
        if !self.aborted.admits(batch)? {
            return Ok(None);
        }
        batch.records().map(Some)
    }

    fn locate(&self, error: Error, offset: i64) -> Error {
        error.at_topic(&*self.at.topic).at_partition(self.at.partition).at_offset(offset)
    }
}

impl Iterator for FetchedRecords {
    type Item = Result<RawRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(records) = &mut self.current {
                match records.next() {
                    Some(Ok(record)) if record.offset < self.fetch_offset => continue,
                    Some(Ok(record)) => return Some(Ok(record)),
                    Some(Err(error)) => {
                        self.current = None;
                        let error = self.locate(error, self.fetch_offset);
                        return Some(Err(error));
                    }
                    None => self.current = None,
                }
            }
            let opened = match self.batches.next()? {
                Ok(batch) => {
                    let base = batch.base_offset();
                    self.open(&batch).map_err(|error| self.locate(error, base))
                }
                Err(error) => Err(self.locate(error, self.fetch_offset)),
            };
            match opened {
                Ok(records) => self.current = records,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
