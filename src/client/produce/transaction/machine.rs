//! The state machine of a transactional producer: events in, at most one request out at a time, and no I/O.
//!
//! It follows Java's `TransactionManager`, with these differences. After every abort the producer goes on in another epoch
//! (KIP-360 in version 1, KIP-890 in version 2), so that what was given up on the way cannot come after it. A producer that
//! its coordinator has forgotten asks to go on instead of failing. And how a transaction ended is asked until a broker says
//! it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_protocol::error::ResponseError as E;

use super::{End, Ended, GroupMetadata};
use crate::client::group::CommittedOffset;
use crate::client::produce::config::ProducerConfig;
use crate::client::produce::partition::Identity;
use crate::error::{Error, ErrorClass, ErrorKind, Result};
use crate::record::TopicPartition;

/// The longest pause while the coordinator, or a partition's leader, is still busy with the transaction before
/// (KAFKA-5477). The first is a quarter: markers are often written by then, and a short commit interval feels the rest.
pub(in crate::client::produce) const BUSY: Duration = Duration::from_millis(20);

/// What the coordinator is to be asked. Partitions are those of the sender, by their place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::client::produce) enum Ask {
    Init,
    AddPartitions(Vec<usize>),
    AddOffsets,
    CommitOffsets,
    End { commit: bool },
}

/// What has been answered.
pub(in crate::client::produce) use super::TxnSaid as Said;

/// What a commit has to do next, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    AddOffsets,
    CommitOffsets,
    End,
}

#[derive(Debug, Clone)]
enum State {
    /// Nobody has said who this producer is.
    Starting,
    /// No transaction is open.
    Ready,
    /// One is, or may be.
    Open,
    /// It is being committed.
    Committing(Step),
    /// It has to be aborted.
    Abortable(Arc<Error>),
    /// It is being aborted.
    Aborting,
    /// It is aborted; the next epoch is asked for.
    Bumping,
    /// Nothing more can be done.
    Dead(Arc<Error>),
}

/// The offsets of a commit.
pub(in crate::client::produce) type Offsets = (GroupMetadata, Arc<[(TopicPartition, CommittedOffset)]>);

#[derive(Debug)]
pub(in crate::client::produce) struct Machine {
    state: State,
    identity: Option<Identity>,
    v2: bool,
    /// Numbers start again, in this identity.
    renewed: bool,
    /// The open transaction's partitions that the coordinator knows (version 1).
    added: BTreeSet<usize>,
    /// Those that it has to be told.
    wanted: BTreeSet<usize>,
    /// Something of the open transaction may have reached a broker.
    begun: bool,
    /// The coordinator has said that it knows of the transaction (version 1).
    confirmed: bool,
    asked: Option<Ask>,
    failures: u32,
    retry_at: Option<Instant>,
    /// The end that was asked for, until it is there.
    commit: Option<Offsets>,
    /// When the end was first asked for from a broker.
    ending_since: Option<Instant>,
    /// EndTxn(commit) has been asked: it may be committed, whatever else happens.
    decided: bool,
    ended: Option<Ended>,
    /// How long an end is asked for.
    patience: Duration,
    config: ProducerConfig,
}

impl Machine {
    pub(in crate::client::produce) fn new(timeout: Duration, config: &ProducerConfig) -> Self {
        Self {
            state: State::Starting,
            identity: None,
            v2: false,
            renewed: false,
            added: BTreeSet::new(),
            wanted: BTreeSet::new(),
            begun: false,
            confirmed: false,
            asked: None,
            failures: 0,
            retry_at: None,
            commit: None,
            ending_since: None,
            decided: false,
            ended: None,
            patience: timeout.max(config.delivery_timeout),
            config: config.clone(),
        }
    }

    /// Who the producer is; all partitions number in this.
    pub(in crate::client::produce) fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// Whether the transactions are of version 2.
    pub(in crate::client::produce) fn is_v2(&self) -> bool {
        self.v2
    }

    /// Whether batches are sent, or will be as soon as their partitions are added.
    pub(in crate::client::produce) fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready | State::Open)
    }

    /// Why no batch can be sent before an abort, or ever.
    pub(in crate::client::produce) fn trouble(&self) -> Option<&Arc<Error>> {
        match &self.state {
            State::Abortable(error) | State::Dead(error) => Some(error),
            _ => None,
        }
    }

    pub(in crate::client::produce) fn is_dead(&self) -> bool {
        matches!(self.state, State::Dead(_))
    }

    /// Whether what waits to be sent is to be thrown away.
    pub(in crate::client::produce) fn is_aborting(&self) -> bool {
        matches!(self.state, State::Aborting)
    }

    /// Whether a transaction is open that somebody has to end.
    pub(in crate::client::produce) fn is_open(&self) -> bool {
        match self.state {
            State::Open | State::Abortable(_) => self.begun,
            State::Committing(_) | State::Aborting | State::Bumping => true,
            State::Starting | State::Ready | State::Dead(_) => false,
        }
    }

    /// Whether a request is on its way.
    pub(in crate::client::produce) fn is_asking(&self) -> bool {
        self.asked.is_some()
    }

    /// Whether the end is decided: it may be committed, so nothing but an answer ends this.
    pub(in crate::client::produce) fn is_decided(&self) -> bool {
        self.decided
    }

    /// What is committed with the transaction.
    pub(in crate::client::produce) fn offsets(&self) -> Option<&Offsets> {
        self.commit.as_ref()
    }

    /// Whether numbers are to start again in a new [`identity`](Self::identity); says it once.
    pub(in crate::client::produce) fn take_renewed(&mut self) -> bool {
        std::mem::take(&mut self.renewed)
    }

    /// How it ended, once.
    pub(in crate::client::produce) fn take_ended(&mut self) -> Option<Ended> {
        self.ended.take()
    }

    /// Whether a batch of this partition may be sent now. If not yet, its partition is added.
    pub(in crate::client::produce) fn admits(&mut self, place: usize) -> bool {
        if !self.is_ready() {
            return false;
        }
        if self.v2 {
            // ORDER: before the batch leaves: from now on there is something to end.
            (self.state, self.begun) = (State::Open, true);
            return true;
        }
        if self.added.contains(&place) {
            return true;
        }
        self.state = State::Open;
        self.wanted.insert(place);
        false
    }

    /// A batch of the open transaction will never be written.
    pub(in crate::client::produce) fn batch_failed(&mut self, error: &Error) {
        match self.state {
            State::Ready | State::Open | State::Committing(_) | State::Starting => {}
            State::Abortable(_) | State::Aborting | State::Bumping | State::Dead(_) => return,
        }
        let own = |class| {
            let text = "a batch of the transaction was not written";
            let own = Error::new(error.kind(), text).with_class(class).because(error.to_string());
            match error.code() {
                Some(code) => own.with_code(code),
                None => own,
            }
        };
        match error.class() {
            // Who is fenced by a broker is dead; who is fenced by its own side goes on under the next lease.
            ErrorClass::FencedLease if error.code().is_some() => self.die(own(ErrorClass::FencedLease)),
            ErrorClass::FencedLease => self.fail(own(ErrorClass::FencedLease)),
            _ if is_fatal_anywhere(error) => self.die(own(ErrorClass::Fatal)),
            _ => self.fail(own(ErrorClass::AbortTransaction)),
        }
    }

    /// The worker's lease is over. Nothing is committed unless that is decided already.
    pub(in crate::client::produce) fn fenced(&mut self, error: Error) {
        let waits = self.commit.is_some() && !self.decided;
        if waits && matches!(self.state, State::Starting | State::Ready | State::Open | State::Committing(_))
        {
            self.fail(error);
        }
    }

    /// The transaction is to end. Not again before it has.
    pub(in crate::client::produce) fn end(&mut self, end: End) {
        if let State::Dead(error) = &self.state {
            let dead = again(error);
            self.finish(Ended::Failed(dead));
            return;
        }
        (self.ending_since, self.failures, self.retry_at) = (None, 0, None);
        match end {
            End::Commit { group, offsets } => match &self.state {
                State::Abortable(error) => {
                    let error = again(error);
                    self.finish(Ended::Failed(error));
                }
                _ => self.commit = Some((group, offsets.into())),
            },
            End::Abort if matches!(self.state, State::Starting) => self.finish(Ended::Aborted),
            End::Abort => {
                self.wanted.clear();
                self.state = State::Aborting;
            }
        }
    }

    /// What to ask now. `drained`: nothing that was sent is without an answer, and nothing waits. `permitted`: what
    /// commits may be sent.
    pub(in crate::client::produce) fn next(
        &mut self,
        now: Instant,
        drained: bool,
        permitted: bool,
    ) -> Option<Ask> {
        if self.asked.is_some() || self.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        let ask = match &self.state {
            State::Starting
                if drained && self.commit.as_ref().is_some_and(|(_, offsets)| offsets.is_empty()) =>
            {
                self.finish(Ended::Committed);
                return None;
            }
            State::Starting | State::Bumping => Ask::Init,
            State::Ready | State::Open if !self.wanted.is_empty() => {
                // ORDER: before it is asked: if the answer is lost, there may be something to end.
                self.begun = true;
                Ask::AddPartitions(self.wanted.iter().copied().collect())
            }
            State::Ready | State::Open => {
                let (_, offsets) = self.commit.as_ref()?;
                // ORDER: an offset is committed after everything that it caused is written.
                if !drained {
                    return None;
                }
                self.state = match (offsets.is_empty(), self.begun) {
                    (true, false) => {
                        self.finish(Ended::Committed);
                        self.state = State::Ready;
                        return None;
                    }
                    (true, true) => State::Committing(Step::End),
                    (false, _) if self.v2 => State::Committing(Step::CommitOffsets),
                    (false, _) => State::Committing(Step::AddOffsets),
                };
                return self.next(now, drained, permitted);
            }
            State::Committing(step) => {
                if !permitted && !self.decided {
                    return None;
                }
                self.begun = true;
                match step {
                    Step::AddOffsets => Ask::AddOffsets,
                    Step::CommitOffsets => Ask::CommitOffsets,
                    Step::End => {
                        self.decided = true;
                        Ask::End { commit: true }
                    }
                }
            }
            State::Aborting => {
                // ORDER: a late batch would begin another transaction, which nobody ends.
                if !drained {
                    return None;
                }
                if !self.begun {
                    self.become_ready();
                    self.finish(Ended::Aborted);
                    return None;
                }
                Ask::End { commit: false }
            }
            State::Abortable(_) | State::Dead(_) => return None,
        };
        if !matches!(self.state, State::Ready | State::Open | State::Starting) {
            self.ending_since.get_or_insert(now);
        }
        self.asked = Some(ask.clone());
        Some(ask)
    }

    /// When [`next`](Self::next) has something to ask, if nothing happens before.
    pub(in crate::client::produce) fn wake_at(&self, now: Instant) -> Option<Instant> {
        self.retry_at.filter(|&at| at > now)
    }

    /// What was asked is answered, or not.
    pub(in crate::client::produce) fn answered(&mut self, result: Result<Said>, now: Instant) {
        let Some(asked) = self.asked.take() else { return };
        let error = match result {
            Ok(said) => {
                (self.failures, self.retry_at) = (0, None);
                return self.said(asked, said);
            }
            Err(error) => error,
        };
        if error.is_retriable() {
            return self.try_again(&asked, error, now);
        }
        (self.failures, self.retry_at) = (0, None);
        let given_up = matches!(self.state, State::Abortable(_) | State::Aborting | State::Dead(_));
        if given_up && asked != (Ask::End { commit: false }) {
            // Of a transaction that is being aborted only one thing matters.
            if error.class() == ErrorClass::FencedLease && !self.is_dead() {
                self.die(error);
            }
            return;
        }
        match asked {
            Ask::Init => self.die(error),
            Ask::AddPartitions(_) if !kills(&error) || is_of_a_topic(&error) => self.fail(error),
            Ask::AddPartitions(_) => self.die(error),
            Ask::CommitOffsets if is_of_the_group(&error) => {
                // All that was sent is good: it may be committed as another generation, or aborted.
                self.state = State::Open;
                self.finish(Ended::Failed(error));
            }
            Ask::AddOffsets | Ask::CommitOffsets if !kills(&error) || is_of_a_topic(&error) => {
                self.fail(error)
            }
            Ask::AddOffsets | Ask::CommitOffsets => self.die(error),
            // The coordinator says that it is not committed: KIP-890, or nothing of it ever arrived there.
            Ask::End { commit: true } if !kills(&error) => {
                self.decided = false;
                self.fail(error);
            }
            Ask::End { commit: true } => self.die(error),
            Ask::End { commit: false } => match error.code().and_then(E::try_from_code) {
                // Nothing of it ever arrived, or the coordinator has forgotten the producer, which it does only while
                // nothing is open.
                Some(E::InvalidTxnState) if !self.v2 && !self.confirmed => self.state = State::Bumping,
                Some(E::InvalidProducerIdMapping | E::UnknownProducerId) => self.state = State::Bumping,
                // An abort that has to be aborted would never end.
                _ => self.die(unless_fenced(error)),
            },
        }
    }

    fn said(&mut self, asked: Ask, said: Said) {
        match asked {
            Ask::Init => {
                (self.v2, self.identity, self.renewed) = (said.v2, said.identity, true);
                let bumped = matches!(self.state, State::Bumping);
                self.become_ready();
                if bumped {
                    self.finish(Ended::Aborted);
                }
            }
            Ask::AddPartitions(places) => {
                self.confirmed = true;
                for place in places {
                    self.wanted.remove(&place);
                    self.added.insert(place);
                }
            }
            Ask::AddOffsets => {
                self.confirmed = true;
                self.step(Step::CommitOffsets);
            }
            Ask::CommitOffsets => self.step(Step::End),
            Ask::End { commit } => {
                if let Some(identity) = said.identity {
                    (self.identity, self.renewed) = (Some(identity), true);
                }
                self.v2 = said.v2;
                if !commit && said.identity.is_none() {
                    // ORDER: only in another epoch can nothing of what was given up come late.
                    self.state = State::Bumping;
                    return;
                }
                self.become_ready();
                self.finish(if commit { Ended::Committed } else { Ended::Aborted });
            }
        }
    }

    fn step(&mut self, step: Step) {
        if let State::Committing(_) = self.state {
            self.state = State::Committing(step);
        }
    }

    fn try_again(&mut self, asked: &Ask, error: Error, now: Instant) {
        self.failures += 1;
        let busy = error.code() == Some(E::ConcurrentTransactions.code());
        let pause = match self.failures {
            1 if busy => BUSY / 4,
            _ if busy => BUSY,
            failures => self.config.backoff(failures),
        };
        self.retry_at = Some(now + pause);
        tracing::debug!(?asked, ?error, "trying again");
        if self.ending_since.is_none_or(|since| now < since + self.patience) {
            return;
        }
        let what = |text: String, class| {
            Error::new(ErrorKind::Timeout, text).with_class(class).because(error.to_string())
        };
        let ms = self.patience.as_millis();
        match self.state {
            State::Committing(_) if !self.decided => {
                let text = format!("the transaction could not be committed within {ms} ms");
                self.fail(what(text, ErrorClass::AbortTransaction));
            }
            State::Committing(_) => {
                let text = format!(
                    "no broker has said within {ms} ms whether the transaction is committed: the next producer of the \
                     transactional id ends it, and the stable offsets of the group tell"
                );
                self.die(what(text, ErrorClass::Retriable));
            }
            State::Aborting | State::Bumping => {
                let text = format!("the transaction could not be aborted within {ms} ms");
                self.die(what(text, ErrorClass::Retriable));
            }
            _ => {}
        }
    }

    fn become_ready(&mut self) {
        self.state = State::Ready;
        self.added.clear();
        (self.begun, self.confirmed, self.decided) = (false, false, false);
        if !self.wanted.is_empty() {
            self.state = State::Open;
        }
    }

    /// The transaction has to be aborted.
    fn fail(&mut self, error: Error) {
        tracing::warn!(?error, "the transaction has to be aborted");
        self.wanted.clear();
        let error = Arc::new(error);
        if self.commit.is_some() {
            self.finish(Ended::Failed(again(&error)));
        }
        self.state = State::Abortable(error);
    }

    /// Nothing more can be done with this producer.
    fn die(&mut self, error: Error) {
        tracing::warn!(?error, "the transactional producer is of no use any more");
        self.wanted.clear();
        let error = Arc::new(error);
        if self.commit.is_some() || matches!(self.state, State::Aborting | State::Bumping) {
            self.finish(Ended::Failed(again(&error)));
        }
        self.state = State::Dead(error);
    }

    fn finish(&mut self, ended: Ended) {
        (self.commit, self.ending_since) = (None, None);
        (self.failures, self.retry_at) = (0, None);
        self.ended = Some(ended);
    }
}

/// An error of an abort: fenced stays fenced, everything else needs a person.
fn unless_fenced(error: Error) -> Error {
    match error.class() {
        ErrorClass::FencedLease => error,
        _ => error.with_class(ErrorClass::Fatal),
    }
}

/// The same error once more.
pub(in crate::client::produce) fn again(error: &Arc<Error>) -> Error {
    let own = Error::new(error.kind(), "the transaction cannot go on").with_class(error.class());
    let own = match error.code() {
        Some(code) => own.with_code(code),
        None => own,
    };
    own.because(error.clone())
}

/// Whether an error ends the producer.
fn kills(error: &Error) -> bool {
    match error.class() {
        ErrorClass::FencedLease | ErrorClass::Fatal | ErrorClass::CorruptTask => true,
        ErrorClass::Retriable | ErrorClass::AbortTransaction => false,
    }
}

/// Whether an error is about what was named, and not about the producer: the next transaction can do without.
fn is_of_a_topic(error: &Error) -> bool {
    error.code().and_then(E::try_from_code).is_some_and(|code| {
        matches!(
            code,
            E::TopicAuthorizationFailed
                | E::InvalidTopicException
                | E::GroupAuthorizationFailed
                | E::InvalidGroupId
                | E::OffsetMetadataTooLarge
                | E::InvalidCommitOffsetSize
        )
    })
}

/// Whether the group refused the member, and the transaction is as good as before.
fn is_of_the_group(error: &Error) -> bool {
    error.code().and_then(E::try_from_code).is_some_and(|code| {
        matches!(
            code,
            E::IllegalGeneration
                | E::UnknownMemberId
                | E::FencedInstanceId
                | E::RebalanceInProgress
                | E::FencedMemberEpoch
                | E::StaleMemberEpoch
        )
    })
}

/// What makes Java's producer fatal wherever it is said (`TransactionManager.maybeTransitionToErrorState`).
fn is_fatal_anywhere(error: &Error) -> bool {
    error.kind() == ErrorKind::Closed
        || error.code().and_then(E::try_from_code).is_some_and(|code| {
            matches!(
                code,
                E::TransactionalIdAuthorizationFailed | E::ClusterAuthorizationFailed | E::UnsupportedVersion
            )
        })
}
