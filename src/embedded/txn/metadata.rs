//! One transactional id and its transitions, after `TransactionMetadata` and `TransactionCoordinator`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kafka_protocol::ResponseError as Code;

use super::{NO_EPOCH, NO_PRODUCER_ID, Participant, Producer};

/// What a transactional id is doing. Kafka's `PrepareEpochFence` and `Dead` have no place here: no transition waits for
/// a log, and no id expires (docs/DESIGN.md, "embedded").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransactionState {
    /// A producer has initialised, and nothing has been added since.
    Empty,
    /// Something has been added.
    Ongoing,
    /// It is committed; markers are on their way.
    PrepareCommit,
    /// It is aborted; markers are on their way.
    PrepareAbort,
    /// It is committed, and every participant knows.
    CompleteCommit,
    /// It is aborted, and every participant knows.
    CompleteAbort,
}

impl TransactionState {
    /// Whether markers are on their way, and whether of a commit.
    pub(crate) fn ending(self) -> Option<bool> {
        match self {
            Self::PrepareCommit => Some(true),
            Self::PrepareAbort => Some(false),
            _ => None,
        }
    }
}

/// The state of one transactional id.
#[derive(Debug, Clone)]
pub(crate) struct Transaction {
    /// Who may write now.
    pub(super) producer: Producer,
    /// The producer id before the last one ran out of epochs.
    previous_producer_id: i64,
    /// The producer that goes on when the transaction has ended, because the epochs of this one are used up (version 2).
    next_producer: Option<Producer>,
    /// The epoch before the last bump that its own producer asked for (KIP-360); a retry of that bump names it.
    last_epoch: i16,
    /// What the producer asked for at its initialisation.
    pub(super) timeout_ms: i32,
    pub(super) state: TransactionState,
    /// Who is told how the transaction ends; while markers are on their way, who has not been told yet.
    pub(super) participants: BTreeSet<Participant>,
    /// When the first participant was added to the open transaction.
    pub(super) started: Option<Instant>,
}

/// Epochs of a producer id that are left for clients (`TransactionMetadata.isEpochExhausted`): the very last one is kept
/// for fencing.
fn exhausted(epoch: i16) -> bool {
    epoch >= i16::MAX - 1
}

/// What InitProducerId leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Initialised {
    /// This producer goes on.
    With(Producer),
    /// The epochs of the producer id are used up; [`Transaction::rotate`] is next.
    NeedsProducerId,
    /// A transaction was open and is being aborted; the client asks again.
    Aborting,
}

impl Transaction {
    /// An id that no producer has initialised yet.
    pub(super) fn new(producer_id: i64) -> Self {
        Self {
            producer: Producer { id: producer_id, epoch: NO_EPOCH },
            previous_producer_id: NO_PRODUCER_ID,
            next_producer: None,
            last_epoch: NO_EPOCH,
            timeout_ms: 0,
            state: TransactionState::Empty,
            participants: BTreeSet::new(),
            started: None,
        }
    }

    /// `prepareInitProducerIdTransit`: `expected` is what a producer that wants to go on after an error holds (KIP-360).
    pub(super) fn init(&mut self, timeout_ms: i32, expected: Option<Producer>) -> Result<Initialised, Code> {
        if let Some(expected) = expected {
            let retry_of_rotation = expected.id == self.previous_producer_id && exhausted(expected.epoch);
            if self.producer.epoch != NO_EPOCH && expected.id != self.producer.id && !retry_of_rotation {
                return Err(Code::ProducerFenced);
            }
        }
        match self.state {
            TransactionState::PrepareCommit | TransactionState::PrepareAbort => {
                return Err(Code::ConcurrentTransactions);
            }
            TransactionState::Ongoing => {
                self.fence();
                return Ok(Initialised::Aborting);
            }
            _ => {}
        }
        let current = self.producer.epoch;
        let (epoch, last_epoch) = match expected {
            _ if exhausted(current) && expected.is_none_or(|producer| producer.epoch == current) => {
                return Ok(Initialised::NeedsProducerId);
            }
            None => (current + 1, NO_EPOCH),
            Some(expected) if expected.epoch == self.last_epoch && current != NO_EPOCH => {
                (current, self.last_epoch)
            }
            Some(expected) if current == NO_EPOCH || expected.epoch == current => (current + 1, current),
            Some(_) => return Err(Code::ProducerFenced),
        };
        self.producer.epoch = epoch;
        self.become_empty(timeout_ms, last_epoch);
        Ok(Initialised::With(self.producer))
    }

    /// Goes on with another producer id, because the epochs of the last one are used up.
    pub(super) fn rotate(&mut self, producer_id: i64, timeout_ms: i32, by_its_own: bool) -> Producer {
        let last_epoch = if by_its_own { self.producer.epoch } else { NO_EPOCH };
        self.previous_producer_id = self.producer.id;
        self.producer = Producer { id: producer_id, epoch: 0 };
        self.become_empty(timeout_ms, last_epoch);
        self.producer
    }

    fn become_empty(&mut self, timeout_ms: i32, last_epoch: i16) {
        self.last_epoch = last_epoch;
        self.timeout_ms = timeout_ms;
        self.state = TransactionState::Empty;
        self.participants.clear();
        self.started = None;
    }

    /// Aborts the open transaction with an epoch that no client has (`prepareFenceProducerEpoch`).
    pub(super) fn fence(&mut self) {
        // A client's epoch is below `i16::MAX - 1`, so that there is room for this one.
        self.producer.epoch = self.producer.epoch.saturating_add(1);
        self.last_epoch = NO_EPOCH;
        self.state = TransactionState::PrepareAbort;
        self.complete_if_told();
    }

    fn check(&self, producer: Producer) -> Result<(), Code> {
        if self.next_producer == Some(producer) {
            return Err(Code::ConcurrentTransactions);
        }
        if producer.id != self.producer.id {
            return Err(Code::InvalidProducerIdMapping);
        }
        if producer.epoch != self.producer.epoch {
            return Err(Code::ProducerFenced);
        }
        Ok(())
    }

    /// AddPartitionsToTxn and AddOffsetsToTxn.
    pub(super) fn add(
        &mut self,
        now: Instant,
        producer: Producer,
        participants: impl IntoIterator<Item = Participant>,
    ) -> Result<(), Code> {
        self.check(producer)?;
        if self.state.ending().is_some() {
            return Err(Code::ConcurrentTransactions);
        }
        // Nothing at all begins a transaction, too (`prepareAddPartitions`).
        if self.state != TransactionState::Ongoing {
            self.state = TransactionState::Ongoing;
            self.participants.clear();
            self.started = Some(now);
        }
        self.participants.extend(participants);
        Ok(())
    }

    /// Whether `producer` may write to `participant` in its transaction (KIP-890).
    pub(super) fn may_write(&self, producer: Producer, participant: &Participant) -> Result<(), Code> {
        self.check(producer)?;
        match self.state {
            TransactionState::PrepareCommit | TransactionState::PrepareAbort => {
                Err(Code::ConcurrentTransactions)
            }
            TransactionState::Ongoing if self.participants.contains(participant) => Ok(()),
            _ => Err(Code::TransactionAbortable),
        }
    }

    /// EndTxn; a repetition of what has been done succeeds.
    pub(super) fn end(&mut self, producer: Producer, commit: bool) -> Result<(), Code> {
        self.check(producer)?;
        let (prepare, complete) = match commit {
            true => (TransactionState::PrepareCommit, TransactionState::CompleteCommit),
            false => (TransactionState::PrepareAbort, TransactionState::CompleteAbort),
        };
        match self.state {
            TransactionState::Ongoing => {
                self.state = prepare;
                self.last_epoch = NO_EPOCH;
                self.complete_if_told();
                Ok(())
            }
            state if state == complete => Ok(()),
            state if state == prepare => Err(Code::ConcurrentTransactions),
            _ => Err(Code::InvalidTxnState),
        }
    }

    /// EndTxn of version 2: each end begins the next epoch (KIP-890), so that a repetition is known by its epoch. Gives who
    /// goes on. `new_id` is asked for a producer id when the epochs of this one are used up.
    ///
    /// After `TransactionCoordinator.endTransaction`.
    pub(super) fn end_and_bump(
        &mut self,
        producer: Producer,
        commit: bool,
        new_id: impl FnOnce() -> i64,
    ) -> Result<Producer, Code> {
        use TransactionState as S;
        if self.next_producer == Some(producer) {
            return Err(Code::ConcurrentTransactions);
        }
        let overflown =
            self.previous_producer_id == producer.id && exhausted(producer.epoch) && self.producer.epoch == 0;
        if producer.id != self.producer.id && !overflown {
            return Err(Code::InvalidProducerIdMapping);
        }
        let bumped =
            producer.epoch.checked_add(1) == Some(self.producer.epoch) && producer.id == self.producer.id;
        let again = bumped || overflown;
        let current = producer == self.producer;
        let valid = match self.state {
            S::Ongoing | S::Empty => current,
            S::PrepareCommit | S::PrepareAbort => bumped,
            S::CompleteCommit | S::CompleteAbort => again || current,
        };
        if !valid {
            return Err(Code::ProducerFenced);
        }
        match (self.state, commit) {
            (S::Ongoing, _) => {}
            (S::CompleteCommit, true) | (S::CompleteAbort, false) if again => return Ok(self.producer),
            (S::PrepareCommit, true) | (S::PrepareAbort, false) => return Err(Code::ConcurrentTransactions),
            // An abort of nothing begins the next epoch, too.
            (S::Empty | S::CompleteAbort, false) => {}
            (S::CompleteCommit, false) if !again => {}
            _ => return Err(Code::InvalidTxnState),
        }
        if exhausted(self.producer.epoch) {
            self.next_producer = Some(Producer { id: new_id(), epoch: 0 });
        }
        self.state = if commit { S::PrepareCommit } else { S::PrepareAbort };
        self.last_epoch = self.producer.epoch;
        // The markers have the new epoch, or the very last one that no client has.
        self.producer.epoch = self.producer.epoch.saturating_add(1);
        let next = self.next_producer.unwrap_or(self.producer);
        self.complete_if_told();
        Ok(next)
    }

    /// A participant knows how the transaction ended. Gives whether it was the last one.
    pub(super) fn told(&mut self, participant: &Participant) -> bool {
        if self.state.ending().is_none() {
            return false;
        }
        self.participants.remove(participant);
        self.complete_if_told()
    }

    /// Completes what is ending and has nobody left to tell. Gives whether it did.
    fn complete_if_told(&mut self) -> bool {
        let Some(commit) = self.state.ending().filter(|_| self.participants.is_empty()) else { return false };
        self.state = match commit {
            true => TransactionState::CompleteCommit,
            false => TransactionState::CompleteAbort,
        };
        self.started = None;
        if let Some(next) = self.next_producer.take() {
            self.previous_producer_id = self.producer.id;
            self.producer = next;
        }
        true
    }

    /// When it was opened.
    pub(super) fn started(&self) -> Option<Instant> {
        self.started
    }

    /// When the open transaction is aborted for its age.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let started = self.started.filter(|_| self.state == TransactionState::Ongoing)?;
        Some(started + Duration::from_millis(u64::try_from(self.timeout_ms).unwrap_or(0)))
    }
}

#[cfg(test)]
impl Transaction {
    /// Skips to an epoch, as thousands of initialisations would.
    pub(super) fn skip_to_epoch(&mut self, epoch: i16) {
        self.producer.epoch = epoch;
    }
}
