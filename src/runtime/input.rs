//! From fetched bytes to the raw records of a task's queue, on the worker.

use crate::client::batch::{Batches, Records};
use crate::client::fetch::{Credit, Fetched, Opened};
use crate::error::Result;
use crate::record::RawRecord;
use crate::task::queue::RawBatch;

/// The records of a delivery, decoded one by one. Records before the offset that was asked for are left out.
struct FetchedRecords {
    opened: Opened,
    current: Option<Records>,
    /// Given back when the last record has been taken.
    _credit: Credit,
}

/// Makes a delivery ready for a queue.
pub(super) fn raw_batch(mut fetched: Fetched) -> RawBatch {
    let count = Batches::new(fetched.records.clone()).map_while(Result::ok).map(|b| b.record_count()).sum();
    let next_offset = fetched.next_offset;
    let opened = Opened::new(&mut fetched);
    let records = FetchedRecords { opened, current: None, _credit: fetched.credit };
    RawBatch { records: Box::new(records), next_offset, count }
}

impl Iterator for FetchedRecords {
    type Item = Result<RawRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(records) = &mut self.current {
                match records.next() {
                    Some(Ok(record)) if record.offset < self.opened.fetch_offset() => continue,
                    Some(Ok(record)) => return Some(Ok(record)),
                    Some(Err(error)) => {
                        self.current = None;
                        return Some(Err(self.opened.locate(error)));
                    }
                    None => self.current = None,
                }
            }
            match self.opened.next()? {
                Ok(batch) => self.current = Some(batch.records),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
