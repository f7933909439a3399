//! What a partition remembers of its producers: Kafka's `ProducerStateManager` and `ProducerAppendInfo`.

use std::collections::{BTreeMap, HashMap, VecDeque};

use kafka_protocol::error::ResponseError;

use crate::client::batch::{Batch, ControlType, next_sequence};

/// How many batches of a producer are remembered (`ProducerStateEntry.NUM_BATCHES_TO_RETAIN`).
const REMEMBERED: usize = 5;

#[derive(Debug, Clone, Copy)]
struct Written {
    first_sequence: i32,
    last_sequence: i32,
    base_offset: i64,
    next_offset: i64,
    timestamp: i64,
}

/// A producer here.
#[derive(Debug, Default)]
struct Producer {
    epoch: i16,
    coordinator_epoch: i32,
    /// Of this epoch, the latest last.
    batches: VecDeque<Written>,
    last_timestamp: i64,
    /// Where its open transaction begins.
    transaction: Option<i64>,
}

/// An aborted transaction, as a reader is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Aborted {
    pub(crate) producer_id: i64,
    pub(crate) first_offset: i64,
    /// The offset of the marker.
    pub(crate) last_offset: i64,
}

/// A batch that was written before: where, and its append time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Duplicate {
    pub(crate) base_offset: i64,
    pub(crate) timestamp: i64,
}

/// The producers of a partition.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    known: HashMap<i64, Producer>,
    /// First offsets of open transactions.
    open: BTreeMap<i64, i64>,
    /// Transactions whose marker is above the high watermark: first offset, marker.
    ended: BTreeMap<i64, i64>,
    aborted: Vec<Aborted>,
}

impl Producers {
    /// Whether a batch may follow what was written, or was written before.
    pub(crate) fn check(&self, batch: &Batch) -> Result<Option<Duplicate>, ResponseError> {
        let Some(known) = self.known.get(&batch.producer_id()) else {
            // Nobody knows where it was: any number is taken (KAFKA-5793).
            return Ok(None);
        };
        let first = batch.base_sequence();
        let last = next_sequence(first, batch.header().last_offset_delta);
        if batch.producer_epoch() == known.epoch {
            let same = |w: &&Written| w.first_sequence == first && w.last_sequence == last;
            if let Some(written) = known.batches.iter().find(same) {
                return Ok(Some(Duplicate {
                    base_offset: written.base_offset,
                    timestamp: written.timestamp,
                }));
            }
        }
        if batch.producer_epoch() < known.epoch {
            return Err(ResponseError::InvalidProducerEpoch);
        }
        let follows = match (batch.producer_epoch() == known.epoch, known.batches.back()) {
            (true, Some(written)) => first == next_sequence(written.last_sequence, 1),
            // A new epoch begins at zero, also one that only a marker has used so far.
            (true, None) | (false, _) => first == 0,
        };
        if !follows {
            return Err(ResponseError::OutOfOrderSequenceNumber);
        }
        if known.transaction.is_some() && !batch.is_transactional() {
            return Err(ResponseError::InvalidTxnState);
        }
        Ok(None)
    }

    /// Whether a producer may end a transaction here with a marker.
    pub(crate) fn check_marker(
        &self,
        producer_id: i64,
        epoch: i16,
        coordinator_epoch: i32,
    ) -> Result<(), ResponseError> {
        match self.known.get(&producer_id) {
            Some(known) if epoch < known.epoch => Err(ResponseError::InvalidProducerEpoch),
            Some(known) if coordinator_epoch < known.coordinator_epoch => {
                Err(ResponseError::TransactionCoordinatorFenced)
            }
            _ => Ok(()),
        }
    }

    /// Whether a producer's transaction is open here in this epoch.
    pub(crate) fn has_transaction(&self, producer_id: i64, epoch: i16) -> bool {
        self.known.get(&producer_id).is_some_and(|known| known.transaction.is_some() && known.epoch == epoch)
    }

    /// Takes note of a batch that stands in the log, a marker included.
    pub(crate) fn written(&mut self, batch: &Batch) {
        if batch.producer_id() < 0 {
            return;
        }
        let known = self.known.entry(batch.producer_id()).or_default();
        if known.epoch != batch.producer_epoch() {
            known.epoch = batch.producer_epoch();
            known.batches.clear();
        }
        known.last_timestamp = batch.max_timestamp();
        if batch.is_control() {
            let committed = matches!(batch.control_type(), Ok(Some(ControlType::Commit)));
            known.coordinator_epoch = coordinator_epoch(batch).unwrap_or(known.coordinator_epoch);
            if let Some(first_offset) = known.transaction.take() {
                self.open.remove(&first_offset);
                self.ended.insert(first_offset, batch.base_offset());
                if !committed {
                    self.aborted.push(Aborted {
                        producer_id: batch.producer_id(),
                        first_offset,
                        last_offset: batch.base_offset(),
                    });
                }
            }
            return;
        }
        if batch.is_transactional() && known.transaction.is_none() {
            known.transaction = Some(batch.base_offset());
            self.open.insert(batch.base_offset(), batch.producer_id());
        }
        if batch.base_sequence() < 0 {
            return;
        }
        if known.batches.len() == REMEMBERED {
            known.batches.pop_front();
        }
        known.batches.push_back(Written {
            first_sequence: batch.base_sequence(),
            last_sequence: next_sequence(batch.base_sequence(), batch.header().last_offset_delta),
            base_offset: batch.base_offset(),
            next_offset: batch.next_offset(),
            timestamp: batch.max_timestamp(),
        });
    }

    /// The high watermark has come so far.
    pub(crate) fn replicated(&mut self, high_watermark: i64) {
        self.ended.retain(|_, marker| *marker >= high_watermark);
    }

    /// The first offset of what is undecided as far as readers may know.
    pub(crate) fn first_unstable(&self) -> Option<i64> {
        let open = self.open.keys().next().copied();
        open.into_iter().chain(self.ended.keys().next().copied()).min()
    }

    /// Aborted transactions with something in these offsets.
    pub(crate) fn aborted_between(&self, from: i64, to: i64) -> impl Iterator<Item = Aborted> {
        self.aborted.iter().copied().filter(move |a| a.last_offset >= from && a.first_offset < to)
    }

    /// Whether a batch holds the last record of a producer, whose sequence a restarted broker reads from it.
    pub(crate) fn ends_with(&self, batch: &Batch) -> bool {
        let last = |known: &Producer| known.batches.back().map(|written| written.next_offset);
        self.known.get(&batch.producer_id()).is_some_and(|known| last(known) == Some(batch.next_offset()))
    }

    /// The log begins at `start` now.
    pub(crate) fn forget_before(&mut self, start: i64) {
        self.aborted.retain(|aborted| aborted.last_offset >= start);
    }

    /// Forgets producers whose last records are older than `before`, open transactions excepted.
    pub(crate) fn expire(&mut self, before: i64) {
        self.known.retain(|_, known| known.transaction.is_some() || known.last_timestamp > before);
    }
}

fn coordinator_epoch(marker: &Batch) -> Option<i32> {
    let record = marker.records().ok()?.next()?.ok()?;
    record.value?.get(2..)?.first_chunk().copied().map(i32::from_be_bytes)
}
