//! Transactions of a producer: how one is ended, what its coordinator is asked, and the state machine between them.
//!
//! A transaction begins with its first batch and ends with [`Producer::end_transaction`](super::Producer::end_transaction).
//! [`machine`] decides what is asked when, without I/O; [`drive`] is the part of the sender that obeys it; [`requests`]
//! says it to brokers. docs/DESIGN.md, *client*, has the picture.

mod drive;
mod machine;
mod requests;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use super::partition::Identity;
use crate::client::group::CommittedOffset;
use crate::clock;
use crate::error::{Error, ErrorClass, ErrorKind};
use crate::record::TopicPartition;

pub(super) use drive::{Ending, Transactions, in_trouble, not_transactional};
pub(super) use machine::BUSY;
pub(crate) use requests::call;

/// A producer's transactional id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transactional {
    /// `transactional.id`: whoever initialises a producer with it last fences those before.
    pub(crate) id: String,
    /// `transaction.timeout.ms`: an open transaction of this age is aborted by its coordinator, and the producer fenced.
    pub(crate) timeout: Duration,
}

/// Who commits offsets: what a member knows of itself (Java's `ConsumerGroupMetadata`). The group's coordinator refuses
/// the offsets of members and generations that are over (KIP-447).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupMetadata {
    /// The group.
    pub group_id: String,
    /// The generation; -1 outside of one.
    pub generation: i32,
    /// The member id; empty outside of a generation.
    pub member_id: String,
    /// `group.instance.id`, of a static member.
    pub instance_id: Option<String>,
}

impl GroupMetadata {
    /// A group that is not joined: its offsets are committed whoever is in it.
    pub fn new(group_id: impl Into<String>) -> Self {
        Self { group_id: group_id.into(), generation: -1, ..Self::default() }
    }
}

/// How a transaction is to end.
#[derive(Debug, Clone)]
pub(crate) enum End {
    /// Everything that was sent stands, together with these offsets. Without offsets and batches nothing is asked.
    Commit {
        /// Who commits the offsets.
        group: GroupMetadata,
        /// May be empty.
        offsets: Vec<(TopicPartition, CommittedOffset)>,
    },
    /// Nothing that was sent stands. What is not sent is thrown away.
    Abort,
}

/// How a transaction has ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// All of it is committed.
    Committed,
    /// All of it is aborted, and the next one may begin.
    Aborted,
    /// It has not ended as asked. The error's class tells:
    ///
    /// - `AbortTransaction`: it must be aborted, then the producer goes on. If the group refused the offsets (the
    ///   [code](Error::code) is ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID or REBALANCE_IN_PROGRESS), all
    ///   that was sent is still good: it may also be committed once more, as another generation.
    /// - `FencedLease` with a code: another producer has the transactional id, or the coordinator has aborted a transaction
    ///   that was open for too long. This producer is dead. Without a code: the worker's own fence; abort after
    ///   [`renew`](super::Producer::renew).
    /// - `Retriable`: no broker has said for long (the longer of `transaction.timeout.ms` and `delivery.timeout.ms`) how it
    ///   ended. This producer is dead; the next one of this transactional id ends the transaction, and the group's stable
    ///   offsets tell what was committed.
    /// - `Fatal`: only a person can help.
    Failed(Error),
}

/// The outcome of [`end_transaction`](super::Producer::end_transaction), once there is one. It is given out once.
#[derive(Debug)]
pub(crate) struct EndTicket(Option<Receiver<Ended>>);

impl EndTicket {
    pub(super) fn new(answer: Receiver<Ended>) -> Self {
        Self(Some(answer))
    }

    /// The outcome, if it is there.
    pub(crate) fn poll(&mut self) -> Option<Ended> {
        let ended = match self.0.as_ref()?.try_recv() {
            Ok(ended) => ended,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => Ended::Failed(closed()),
        };
        self.0 = None;
        Some(ended)
    }

    /// Waits for the outcome, at most until then; `None` if there is none by then.
    pub(crate) fn wait(&mut self, until: Instant) -> Option<Ended> {
        let left = until.saturating_duration_since(clock::monotonic());
        let ended = match self.0.as_ref()?.recv_timeout(left) {
            Ok(ended) => ended,
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => Ended::Failed(closed()),
        };
        self.0 = None;
        Some(ended)
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the producer was closed before the transaction had ended")
        .with_class(ErrorClass::Fatal)
}

/// What a coordinator is asked, on behalf of a transactional id.
#[derive(Debug, Clone)]
pub(crate) struct TxnCall {
    /// The transactional id, and `transaction.timeout.ms`.
    pub(crate) of: Arc<Transactional>,
    /// Who asks; `None` only for the first [`TxnAsk::Init`].
    pub(crate) identity: Option<Identity>,
    /// Whether in transaction version 2 (KIP-890).
    pub(crate) v2: bool,
    /// What.
    pub(crate) ask: TxnAsk,
}

/// One request of a transactional producer.
#[derive(Debug, Clone)]
pub(crate) enum TxnAsk {
    /// InitProducerId: a first identity, or, from who has one, the next epoch (KIP-360).
    Init,
    /// AddPartitionsToTxn.
    AddPartitions(Vec<TopicPartition>),
    /// AddOffsetsToTxn, for this group.
    AddOffsets(String),
    /// TxnOffsetCommit.
    CommitOffsets(GroupMetadata, Arc<[(TopicPartition, CommittedOffset)]>),
    /// EndTxn.
    End {
        /// Or abort.
        commit: bool,
    },
}

/// What the coordinator has answered, if it is no error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TxnSaid {
    /// Who the producer is from now on, where the answer says so: after Init, and after End in version 2.
    pub(crate) identity: Option<Identity>,
    /// Whether the next transaction is one of version 2: after Init and End.
    pub(crate) v2: bool,
}
