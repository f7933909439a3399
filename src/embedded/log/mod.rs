//! The log of a partition, in memory: Kafka's `UnifiedLog`.
//!
//! Batches are kept as they came, with their place written into them. All replicas share the log, so that the high
//! watermark is its end, except while a test [holds it](Log::hold).

mod clean;
mod lookup;
mod producers;
mod validate;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError;

pub(crate) use lookup::{Found, Spec};
pub(crate) use producers::Aborted;
pub(crate) use validate::{Refused, only_batch};

use crate::client::batch::{Batch, Batches, patch};
use crate::embedded::config::TopicConfig;
use producers::Producers;

/// A batch in the log.
#[derive(Debug)]
struct Stored {
    base: i64,
    next: i64,
    max_timestamp: i64,
    bytes: Bytes,
    /// When compaction may drop the tombstones and markers in it, in ms of the wall clock (KAFKA-8522).
    horizon: Option<i64>,
}

impl Stored {
    fn of(batch: &Batch) -> Self {
        Self {
            base: batch.base_offset(),
            next: batch.next_offset(),
            max_timestamp: batch.max_timestamp(),
            bytes: batch.bytes().clone(),
            horizon: None,
        }
    }

    fn batch(&self) -> Option<Batch> {
        Batches::new(self.bytes.clone()).next()?.ok()
    }
}

/// What is kept and deleted together; the last one is active, which compaction leaves alone.
#[derive(Debug, Clone, Copy)]
struct Segment {
    base: i64,
    size: usize,
    first_timestamp: i64,
}

/// A partition's log.
#[derive(Debug, Default)]
pub(crate) struct Log {
    batches: VecDeque<Stored>,
    segments: VecDeque<Segment>,
    start: i64,
    end: i64,
    high_watermark: i64,
    held: bool,
    /// The bytes of all batches.
    size: usize,
    /// Compaction has seen everything before this.
    clean_to: i64,
    /// Leader epochs and where each begins, in order.
    epochs: Vec<(i32, i64)>,
    producers: Producers,
}

/// Where a batch is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Appended {
    pub(crate) base_offset: i64,
    /// What follows the log's last record.
    pub(crate) end: i64,
    /// The broker's time, where the topic goes by it; else -1, but for a duplicate the time of its records.
    pub(crate) append_time: i64,
    /// Whether it was there before.
    pub(crate) duplicate: bool,
}

/// What a fetch reads.
#[derive(Debug, Default)]
pub(crate) struct Read {
    pub(crate) records: Bytes,
    pub(crate) aborted: Vec<Aborted>,
}

impl Log {
    /// The first offset that can be read.
    pub(crate) fn start(&self) -> i64 {
        self.start
    }

    /// What follows the last record.
    pub(crate) fn end(&self) -> i64 {
        self.end
    }

    /// Readers get what is below.
    pub(crate) fn high_watermark(&self) -> i64 {
        self.high_watermark
    }

    /// Readers of committed records get what is below.
    pub(crate) fn last_stable_offset(&self) -> i64 {
        // A transaction may have begun before the log does: then it is the batch that the log begins in
        // (`UnifiedLog.maybeIncrementFirstUnstableOffset`), which may itself begin before.
        let unstable = self.producers.first_unstable().map(|first| match first < self.start {
            true => self.batches.get(self.position(self.start)).map_or(self.end, |batch| batch.base),
            false => first,
        });
        unstable.map_or(self.high_watermark, |first| first.min(self.high_watermark))
    }

    fn readable(&self, committed: bool) -> i64 {
        if committed { self.last_stable_offset() } else { self.high_watermark }
    }

    /// The bytes of all batches.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Whether a producer's transaction is open here in this epoch.
    pub(crate) fn has_transaction(&self, producer_id: i64, epoch: i16) -> bool {
        self.producers.has_transaction(producer_id, epoch)
    }

    /// Forgets producers that have been idle since `before`.
    pub(crate) fn expire_producers(&mut self, before: i64) {
        self.producers.expire(before);
    }

    /// Takes a client's batch.
    pub(crate) fn append(
        &mut self,
        batch: Batch,
        config: &TopicConfig,
        leader_epoch: i32,
        now: i64,
    ) -> Result<Appended, Refused> {
        let max_timestamp = validate::validate(&batch, config, now)?;
        let append_time = if config.append_time { now } else { -1 };
        if batch.producer_id() >= 0
            && let Some(before) = self.producers.check(&batch)?
        {
            // Set for either kind of timestamp, as in `UnifiedLog.append`.
            let (append_time, base_offset) = (before.timestamp, before.base_offset);
            return Ok(Appended { base_offset, end: self.end, append_time, duplicate: true });
        }
        // A copy, so that the log does not keep the whole request alive.
        let mut bytes = BytesMut::from(&batch.bytes()[..]);
        if config.append_time {
            patch::set_append_time(&mut bytes, now);
        } else if batch.max_timestamp() != max_timestamp {
            patch::set_max_timestamp(&mut bytes, max_timestamp);
        }
        let base_offset = self.end;
        self.push(bytes, config, leader_epoch)?;
        Ok(Appended { base_offset, end: self.end, append_time, duplicate: false })
    }

    /// Ends a producer's transaction; the offset of the marker.
    pub(crate) fn append_marker(
        &mut self,
        (producer_id, producer_epoch): (i64, i16),
        coordinator_epoch: i32,
        commit: bool,
        config: &TopicConfig,
        leader_epoch: i32,
        now: i64,
    ) -> Result<i64, ResponseError> {
        self.producers.check_marker(producer_id, producer_epoch, coordinator_epoch)?;
        let marker = patch::end_of_transaction(producer_id, producer_epoch, coordinator_epoch, commit, now)
            .map_err(|_| ResponseError::UnknownServerError)?;
        let offset = self.end;
        self.push(marker, config, leader_epoch).map_err(|refused| refused.error)?;
        Ok(offset)
    }

    fn push(&mut self, mut bytes: BytesMut, config: &TopicConfig, leader_epoch: i32) -> Result<(), Refused> {
        patch::place(&mut bytes, self.end, leader_epoch);
        let placed = Batches::new(bytes.freeze()).next();
        let Some(Ok(batch)) = placed else {
            return Err(Refused::new(ResponseError::CorruptMessage, "The batch would pass the last offset"));
        };
        self.begin_epoch(leader_epoch);
        let rolled = self.roll(&batch, config);
        self.size += batch.size();
        self.end = batch.next_offset();
        self.producers.written(&batch);
        self.batches.push_back(Stored::of(&batch));
        self.advance();
        if rolled {
            // Memory is all that there is: what is too much does not wait for the next check.
            self.delete_segments(config, None);
        }
        Ok(())
    }

    /// Begins a segment if the batch does not belong to the active one (`LogSegment.shouldRoll`); says whether it did.
    fn roll(&mut self, batch: &Batch, config: &TopicConfig) -> bool {
        let timestamp = batch.max_timestamp();
        let fits = |active: &Segment| {
            active.size + batch.size() <= config.segment_bytes.min(config.roll_bytes)
                && timestamp.saturating_sub(active.first_timestamp) <= config.segment_ms
        };
        match self.segments.back_mut() {
            Some(active) if fits(active) => {
                active.size += batch.size();
                false
            }
            _ => {
                let (base, size) = (batch.base_offset(), batch.size());
                self.segments.push_back(Segment { base, size, first_timestamp: timestamp });
                true
            }
        }
    }

    fn advance(&mut self) {
        if !self.held {
            self.high_watermark = self.end;
            self.producers.replicated(self.high_watermark);
        }
    }

    /// While held, the high watermark stays where it is, as if no follower fetched.
    pub(crate) fn hold(&mut self, held: bool) {
        self.held = held;
        self.advance();
    }

    /// Another leader takes over. What was above the high watermark, only the old one had: it is gone.
    pub(crate) fn lead(&mut self, leader_epoch: i32) {
        self.truncate(self.high_watermark);
        self.begin_epoch(leader_epoch);
    }

    fn truncate(&mut self, to: i64) {
        if to >= self.end {
            return;
        }
        while self.batches.back().is_some_and(|last| last.base >= to) {
            let Some(gone) = self.batches.pop_back() else { break };
            self.size -= gone.bytes.len();
            if let Some(active) = self.segments.back_mut() {
                active.size -= gone.bytes.len();
                if active.base == gone.base {
                    self.segments.pop_back();
                }
            }
        }
        self.end = to;
        self.epochs.retain(|(_, start)| *start < to);
        self.producers = Producers::default();
        for batch in self.batches.iter().filter_map(Stored::batch) {
            self.producers.written(&batch);
        }
        self.producers.replicated(self.high_watermark);
    }

    /// The place in `batches` of the first one that ends behind `offset`.
    fn position(&self, offset: i64) -> usize {
        self.batches.partition_point(|batch| batch.next <= offset)
    }

    fn check_range(&self, offset: i64) -> Result<(), ResponseError> {
        match (self.start..=self.end).contains(&offset) {
            true => Ok(()),
            false => Err(ResponseError::OffsetOutOfRange),
        }
    }

    /// How many bytes could be read from `offset`, at most `limit`.
    pub(crate) fn available(
        &self,
        offset: i64,
        committed: bool,
        limit: usize,
    ) -> Result<usize, ResponseError> {
        self.check_range(offset)?;
        let end = self.readable(committed);
        let mut bytes = 0;
        for batch in self.batches.range(self.position(offset)..) {
            if batch.base >= end || bytes >= limit {
                break;
            }
            bytes += batch.bytes.len();
        }
        Ok(bytes.min(limit))
    }

    /// Reads from the batch that holds `offset` on, about `max_bytes`: the last batch may be cut off, as by a broker
    /// that sends from a file, but the first is whole. If it does not fit, there is nothing, or with `at_least_one` the
    /// whole of it.
    pub(crate) fn read(
        &self,
        offset: i64,
        committed: bool,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<Read, ResponseError> {
        self.check_range(offset)?;
        let end = self.readable(committed);
        let from = self.position(offset);
        let Some(first) = self.batches.get(from).filter(|first| first.base < end) else {
            return Ok(Read::default());
        };
        let max_bytes = if at_least_one { max_bytes.max(first.bytes.len()) } else { max_bytes };
        if max_bytes < first.bytes.len() {
            return Ok(Read::default());
        }
        let capacity = self.available(offset, committed, max_bytes)?;
        let (mut records, mut upper) = (BytesMut::with_capacity(capacity), first.next);
        let mut left = max_bytes;
        for batch in self.batches.range(from..) {
            if batch.base >= end || left == 0 {
                break;
            }
            let take = batch.bytes.len().min(left);
            records.extend_from_slice(&batch.bytes[..take]);
            left -= take;
            upper = batch.next;
        }
        let aborted = match committed {
            true => self.producers.aborted_between(offset, upper).collect(),
            false => Vec::new(),
        };
        Ok(Read { records: records.freeze(), aborted })
    }
}
