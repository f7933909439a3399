//! The part of the sender that obeys the state machine of transactions.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use super::machine::{Ask, Machine, again};
use super::{End, Ended, Transactional, TxnAsk, TxnCall};
use crate::client::produce::config::ProducerConfig;
use crate::client::produce::partition::Partition;
use crate::client::produce::producer::fenced;
use crate::client::produce::sender::{Event, Sender};
use crate::client::produce::transport::ProduceTransport;
use crate::error::{Error, ErrorClass, ErrorKind, Result};
use crate::record::TopicPartition;

/// From the front: the transaction is to end.
#[derive(Debug)]
pub(in crate::client::produce) struct Ending {
    pub(in crate::client::produce) end: End,
    pub(in crate::client::produce) answer: SyncSender<Ended>,
    pub(in crate::client::produce) send_epoch: u64,
}

/// What a transactional producer's sender has more than another one's.
#[derive(Debug)]
pub(in crate::client::produce) struct Transactions {
    pub(in crate::client::produce) machine: Machine,
    of: Arc<Transactional>,
    /// The end under way: who waits for it, and the lease that it was asked for under. `None` for the abort of a producer
    /// that was dropped.
    ending: Option<(Option<SyncSender<Ended>>, u64)>,
}

impl Transactions {
    pub(in crate::client::produce) fn new(config: &ProducerConfig) -> Option<Self> {
        let of = Arc::new(config.transactional.clone()?);
        Some(Self { machine: Machine::new(of.timeout, config), of, ending: None })
    }

    /// Whether an end is under way. What comes after it from the front waits.
    pub(in crate::client::produce) fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    pub(in crate::client::produce) fn id(&self) -> &str {
        &self.of.id
    }
}

impl<T> Sender<T> {
    /// The front wants the transaction to end.
    pub(in crate::client::produce) fn begin_ending(&mut self, ending: Ending) {
        let Some(txn) = &mut self.txn else { return };
        txn.ending = Some((Some(ending.answer), ending.send_epoch));
        txn.machine.end(ending.end);
    }

    /// A batch will never be written.
    pub(in crate::client::produce) fn note_failure(&mut self, error: &Error) {
        if let Some(txn) = &mut self.txn {
            txn.machine.batch_failed(error);
        }
    }
}

impl<T: ProduceTransport> Sender<T> {
    /// The front is gone: an open transaction is aborted.
    pub(in crate::client::produce) fn abort_abandoned(&mut self) {
        let send_epoch = self.shared.send_epoch();
        if let Some(txn) = self.txn.as_mut().filter(|txn| !txn.is_ending() && txn.machine.is_open()) {
            txn.ending = Some((None, send_epoch));
            txn.machine.end(End::Abort);
        }
    }

    /// Gives up what cannot be sent any more, asks what is to be asked, and says what has ended.
    pub(in crate::client::produce) fn drive_transactions(&mut self, now: Instant) {
        self.discard();
        let (send_epoch, permits) = (self.shared.send_epoch(), self.shared.permits(now));
        let Some(txn) = &mut self.txn else { return };
        let drained = self.partitions.iter().all(Partition::is_empty);
        if txn.ending.as_ref().is_some_and(|(_, of)| *of != send_epoch) {
            txn.machine.fenced(fenced());
        }
        // ORDER: the last look at the permit before a commit leaves.
        if let Some(ask) = txn.machine.next(now, drained, permits) {
            self.ask_coordinator(ask);
        }
        self.tell();
    }

    /// Gives up batches that wait although they may not be sent any more.
    fn discard(&mut self) {
        let Some(txn) = &self.txn else { return };
        if txn.machine.is_aborting() {
            for place in 0..self.partitions.len() {
                for done in self.partitions[place].throw_away() {
                    self.shared.done(done.bytes);
                }
            }
        } else if let Some(error) = txn.machine.trouble().cloned() {
            for place in 0..self.partitions.len() {
                if !self.partitions[place].is_empty() {
                    let done =
                        self.partitions[place].fail_waiting("its transaction cannot be committed", &error);
                    self.finish(place, done);
                }
            }
        }
    }

    fn ask_coordinator(&mut self, ask: Ask) {
        let Some(txn) = &self.txn else { return };
        let ask = match ask {
            Ask::Init => TxnAsk::Init,
            Ask::AddPartitions(places) => {
                let place = |place: usize| {
                    let partition = &self.partitions[place];
                    TopicPartition::new(&*partition.topic, partition.partition)
                };
                TxnAsk::AddPartitions(places.into_iter().map(place).collect())
            }
            Ask::AddOffsets => TxnAsk::AddOffsets(
                txn.machine.offsets().map(|(group, _)| group.group_id.clone()).unwrap_or_default(),
            ),
            Ask::CommitOffsets => {
                let (group, offsets) = txn.machine.offsets().cloned().unwrap_or_default();
                TxnAsk::CommitOffsets(group, offsets)
            }
            Ask::End { commit } => TxnAsk::End { commit },
        };
        let call =
            TxnCall { of: txn.of.clone(), identity: txn.machine.identity(), v2: txn.machine.is_v2(), ask };
        let transport = self.transport.clone();
        self.calls.push(async move { Event::Transaction(transport.transaction(call).await) });
    }

    /// A coordinator has answered.
    pub(in crate::client::produce) fn take_transaction(
        &mut self,
        result: Result<super::TxnSaid>,
        now: Instant,
    ) {
        let Some(txn) = &mut self.txn else { return };
        txn.machine.answered(result, now);
        if txn.machine.take_renewed()
            && let Some(identity) = txn.machine.identity()
        {
            tracing::debug!(
                transactional_id = txn.id(),
                producer_id = identity.producer_id,
                epoch = identity.epoch,
                "producer epoch"
            );
            for partition in &mut self.partitions {
                partition.renew(identity);
            }
        }
        self.tell();
    }

    /// Lets the front know how it stands.
    fn tell(&mut self) {
        let Some(txn) = &mut self.txn else { return };
        self.shared.tell_transactions(txn.machine.is_ready(), txn.machine.trouble());
        let Some(ended) = txn.machine.take_ended() else { return };
        if let Some((Some(answer), _)) = txn.ending.take() {
            // Who does not wait any more does not want to know.
            let _ = answer.send(ended);
            self.shared.progressed();
        }
    }
}

/// Why a producer cannot be used as it is now.
pub(in crate::client::produce) fn in_trouble(error: &Arc<Error>) -> Error {
    again(error)
}

/// Ends of transactions make sense with a transactional id only.
pub(in crate::client::produce) fn not_transactional() -> Error {
    Error::new(
        ErrorKind::IllegalState,
        "the producer has no transactional.id: give it one, or end no transaction",
    )
    .with_class(ErrorClass::Fatal)
}
