//! Transactions, after Kafka's `TransactionCoordinator`, in both transaction versions: in version 1 clients add partitions
//! themselves; in version 2 (KIP-890) leaders do, and every end begins the next epoch. A request's version says which.
//!
//! The coordinator decides and keeps time by what it is told; it writes nothing. Ending a transaction leaves
//! [`markers`](Transactions::markers) to be written: whoever drives it writes each to its partition or to its
//! group's pending offsets, and says so with [`marker_written`](Transactions::marker_written).

mod metadata;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use kafka_protocol::ResponseError as Code;

pub(crate) use metadata::{Transaction, TransactionState};

use self::metadata::Initialised;
use crate::TopicPartition;

const NO_PRODUCER_ID: i64 = -1;
const NO_EPOCH: i16 = -1;

/// Who writes: the two numbers that stand in every batch of an idempotent producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Producer {
    /// The producer id.
    pub(crate) id: i64,
    /// Its epoch; who has an older one is fenced.
    pub(crate) epoch: i16,
}

/// What takes part in a transaction, and is told of its end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Participant {
    /// A partition that records are written to.
    Partition(TopicPartition),
    /// A group whose offsets are committed. (Kafka has the partition of `__consumer_offsets` here.)
    Group(String),
}

/// What is to be written to one participant of a transaction that ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Marker {
    /// Whose transaction.
    pub(crate) transactional_id: String,
    /// The producer that the marker is for; after a fencing the epoch is one that no client has.
    pub(crate) producer: Producer,
    /// Goes into the value of the control record.
    pub(crate) coordinator_epoch: i32,
    /// Where to.
    pub(crate) participant: Participant,
    /// Commit or abort.
    pub(crate) commit: bool,
}

/// A transactional id, as tools are told of it.
#[derive(Debug)]
pub(crate) struct Described<'a> {
    pub(crate) id: &'a str,
    pub(crate) producer: Producer,
    pub(crate) state: TransactionState,
    pub(crate) timeout_ms: i32,
    pub(crate) started: Option<Instant>,
    pub(crate) participants: &'a BTreeSet<Participant>,
}

impl<'a> Described<'a> {
    fn of(id: &'a str, transaction: &'a Transaction) -> Self {
        Self {
            id,
            producer: transaction.producer,
            state: transaction.state,
            timeout_ms: transaction.timeout_ms,
            started: transaction.started(),
            participants: &transaction.participants,
        }
    }
}

/// The transactions of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Transactions {
    ids: BTreeMap<String, Transaction>,
    /// The ids whose markers are on their way.
    ending: BTreeSet<String>,
    next_producer_id: i64,
    coordinator_epoch: i32,
}

impl Transactions {
    /// Another node coordinates from now on.
    pub(crate) fn moved(&mut self) {
        self.coordinator_epoch += 1;
    }

    /// A producer id that nobody has.
    pub(crate) fn new_producer_id(&mut self) -> i64 {
        self.next_producer_id += 1;
        self.next_producer_id - 1
    }

    /// InitProducerId. Without a transactional id: a new idempotent producer. `max_timeout_ms` is the broker's
    /// `transaction.max.timeout.ms`.
    pub(crate) fn init_producer_id(
        &mut self,
        transactional_id: Option<&str>,
        timeout_ms: i32,
        max_timeout_ms: i64,
        expected: Option<Producer>,
    ) -> Result<Producer, Code> {
        let Some(transactional_id) = transactional_id else {
            return Ok(Producer { id: self.new_producer_id(), epoch: 0 });
        };
        if transactional_id.is_empty() {
            return Err(Code::InvalidRequest);
        }
        if timeout_ms <= 0 || i64::from(timeout_ms) > max_timeout_ms {
            return Err(Code::InvalidTransactionTimeout);
        }
        if !self.ids.contains_key(transactional_id) {
            let producer_id = self.new_producer_id();
            self.ids.insert(transactional_id.to_owned(), Transaction::new(producer_id));
        }
        match self.transaction(transactional_id)?.init(timeout_ms, expected)? {
            Initialised::With(producer) => Ok(producer),
            Initialised::Aborting => {
                self.note_ending(transactional_id);
                Err(Code::ConcurrentTransactions)
            }
            Initialised::NeedsProducerId => {
                let producer_id = self.new_producer_id();
                let transaction = self.transaction(transactional_id)?;
                Ok(transaction.rotate(producer_id, timeout_ms, expected.is_some()))
            }
        }
    }

    fn transaction(&mut self, transactional_id: &str) -> Result<&mut Transaction, Code> {
        match transactional_id.is_empty() {
            true => Err(Code::InvalidRequest),
            false => self.ids.get_mut(transactional_id).ok_or(Code::InvalidProducerIdMapping),
        }
    }

    /// AddPartitionsToTxn and AddOffsetsToTxn: opens a transaction unless one is open.
    pub(crate) fn add(
        &mut self,
        now: Instant,
        transactional_id: &str,
        producer: Producer,
        participants: impl IntoIterator<Item = Participant>,
    ) -> Result<(), Code> {
        self.transaction(transactional_id)?.add(now, producer, participants)
    }

    /// Whether a transactional batch may be written to a partition: asked before each append of a producer that has no
    /// transaction there yet (KIP-890). `version` is that of the Produce request.
    pub(crate) fn verify(
        &self,
        transactional_id: &str,
        (id, epoch): (i64, i16),
        (topic, partition): (&str, i32),
        version: i16,
    ) -> Result<(), Code> {
        let participant = Participant::Partition(TopicPartition::new(topic, partition));
        self.may_write(transactional_id, Producer { id, epoch }, &participant).map_err(|code| match code {
            // A fenced producer hears the word of the log; one that is too quick tries again.
            Code::ProducerFenced => Code::InvalidProducerEpoch,
            Code::ConcurrentTransactions => Code::NotEnoughReplicas,
            Code::TransactionAbortable if version < 11 => Code::InvalidTxnState,
            code => code,
        })
    }

    /// Whether `producer` may write to `participant` now: that must have been added to its transaction, which is open.
    pub(crate) fn may_write(
        &self,
        transactional_id: &str,
        producer: Producer,
        participant: &Participant,
    ) -> Result<(), Code> {
        let transaction = self.ids.get(transactional_id).ok_or(Code::InvalidProducerIdMapping)?;
        transaction.may_write(producer, participant)
    }

    /// EndTxn.
    pub(crate) fn end(
        &mut self,
        transactional_id: &str,
        producer: Producer,
        commit: bool,
    ) -> Result<(), Code> {
        self.transaction(transactional_id)?.end(producer, commit)?;
        self.note_ending(transactional_id);
        Ok(())
    }

    /// EndTxn of version 2, which gives who goes on.
    pub(crate) fn end_and_bump(
        &mut self,
        transactional_id: &str,
        producer: Producer,
        commit: bool,
    ) -> Result<Producer, Code> {
        let new_id = self.next_producer_id;
        let mut taken = false;
        let next = self.transaction(transactional_id)?.end_and_bump(producer, commit, || {
            taken = true;
            new_id
        })?;
        self.next_producer_id += i64::from(taken);
        self.note_ending(transactional_id);
        Ok(next)
    }

    /// Adds a partition as its leader asks for it, on behalf of a Produce of version 2.
    pub(crate) fn add_for_leader(
        &mut self,
        now: Instant,
        transactional_id: &str,
        (id, epoch): (i64, i16),
        participant: Participant,
    ) -> Result<(), Code> {
        self.add(now, transactional_id, Producer { id, epoch }, [participant]).map_err(|code| match code {
            // As the log says it (`AddPartitionsToTxnManager`).
            Code::ProducerFenced => Code::InvalidProducerEpoch,
            code => code,
        })
    }

    /// What is known of a transactional id.
    pub(crate) fn describe(&self, transactional_id: &str) -> Option<Described<'_>> {
        self.ids.get_key_value(transactional_id).map(|(id, transaction)| Described::of(id, transaction))
    }

    /// All transactional ids.
    pub(crate) fn all(&self) -> impl Iterator<Item = Described<'_>> {
        self.ids.iter().map(|(id, transaction)| Described::of(id, transaction))
    }

    /// Whoever has participants to tell is ending from now on; one with none has ended already.
    fn note_ending(&mut self, transactional_id: &str) {
        let transaction = self.ids.get(transactional_id);
        if transaction.is_some_and(|transaction| transaction.state.ending().is_some()) {
            self.ending.insert(transactional_id.to_owned());
        }
    }

    /// Aborts the transactions that are open for too long.
    pub(crate) fn tick(&mut self, now: Instant) {
        for (id, transaction) in &mut self.ids {
            if transaction.deadline().is_some_and(|deadline| deadline <= now) {
                transaction.fence();
                if transaction.state.ending().is_some() {
                    self.ending.insert(id.clone());
                }
            }
        }
    }

    /// The first time at which [`tick`](Self::tick) has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.ids.values().filter_map(Transaction::deadline).min()
    }

    /// What is to be written now, each once.
    pub(crate) fn markers(&self) -> Vec<Marker> {
        let ending = self.ending.iter().filter_map(|id| Some((id, self.ids.get(id)?)));
        ending
            .flat_map(|(id, transaction)| {
                transaction.participants.iter().map(|participant| Marker {
                    transactional_id: id.clone(),
                    producer: transaction.producer,
                    coordinator_epoch: self.coordinator_epoch,
                    participant: participant.clone(),
                    commit: transaction.state == TransactionState::PrepareCommit,
                })
            })
            .collect()
    }

    /// The marker is where it belongs, or its partition is gone; the last one completes the transaction.
    pub(crate) fn marker_written(&mut self, marker: &Marker) {
        if let Some(transaction) = self.ids.get_mut(&marker.transactional_id)
            && transaction.told(&marker.participant)
        {
            self.ending.remove(&marker.transactional_id);
        }
    }

    /// All transactional ids with their states.
    #[cfg(test)]
    fn transactions(&self) -> impl Iterator<Item = (&str, &Transaction)> {
        self.ids.iter().map(|(id, transaction)| (id.as_str(), transaction))
    }
}
