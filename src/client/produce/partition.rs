//! The batches of one partition on their way to the log: their order, their sequence numbers, and when to send what.
//!
//! It is a plain state machine. Batches stay in one queue, in order, until they are written or given up; those that have
//! been sent carry a stamp. Four rules keep every record exactly once and in order:
//!
//! 1. A broker remembers a producer's last five batches, so none is sent that is more than four after the oldest whose
//!    answer is open, however many between them are written. A batch that has to be sent again goes only when it is the
//!    first of the queue; until then nothing new follows it.
//! 2. A batch keeps its stamp through retries, so that the broker recognises what it has written already. Only when the
//!    broker has refused the first of the queue for its number, and none behind it can have been written, do the numbers
//!    start again at 0, in the next producer epoch (KIP-360). After a crash a broker remembers a producer's last batch
//!    only, so a first batch whose outcome is open may be refused although it is written: then those behind it are tried
//!    from the last to the first, because the one that is taken says that all before it are in the log; so does one that
//!    was taken earlier. The Java client does not have this rule.
//! 3. Numbers start again only while nothing of the partition is in flight.
//! 4. Nothing follows the first batch of a numbering before that is acknowledged: a broker that does not know a producer
//!    takes any number from it (`ProducerAppendInfo.checkSequence`), so the second batch could overtake a first one that
//!    is lost. The same after a pause, in which the broker may have forgotten (`producer.id.expiration.ms`). The Java
//!    client does not have this rule.
//!
//! What no producer can promise: when a batch has been given up for its time, and requests of it and of the one behind it
//! still wander through the network after their connection broke, the broker may take both just before the new epoch
//! begins, and the second is then there twice. Likewise if the broker crashes, and the one batch that it remembers is
//! given up before it is asked for. In both cases a batch was reported as failed, so the owner knows. And a broker counts
//! the age of a producer by the records' own timestamps: after a crash it does not know a producer whose records are
//! older than `producer.id.expiration.ms` (a day) and may take its last batch again; the same from time to time without
//! a crash.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;

use super::answer::Answer;
use super::config::ProducerConfig;
use super::producer::fenced;
use super::transaction::BUSY;
use crate::client::batch::{ClosedBatch, ProducerStamp, next_sequence};
/// A producer id and the epoch that numbers count in.
pub(super) use crate::client::group::ProducerIdentity as Identity;
use crate::error::{Error, ErrorClass, ErrorKind};

/// How many batches of a partition may be on their way, because a broker remembers five of a producer; and requests to a
/// broker, unless the configuration says otherwise.
pub(super) const MAX_IN_FLIGHT: usize = 5;

/// How long a partition may have nothing to write before the broker is no longer expected to remember: far below the
/// day of `producer.id.expiration.ms`, because asking costs a round trip at most.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Who leads the partition, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leader {
    Unknown,
    Asked,
    Node(i32),
}

#[derive(Debug)]
struct Pending {
    id: u64,
    batch: ClosedBatch,
    /// What it counts for in the credit; halves of a split batch share it.
    bytes: usize,
    send_epoch: u64,
    deadline: Instant,
    stamp: Option<ProducerStamp>,
    /// How many batches were stamped before it. Halves of a split batch share it.
    ordinal: u64,
    /// An attempt has ended without saying whether it was written.
    open: bool,
    sent: Option<Sent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// Nothing of the partition was before it in the queue.
    AsFirst,
    /// Behind others under way.
    Behind,
    /// To find out whether it is written, and so those before it.
    AsProbe,
}

/// A batch that is through, one way or the other.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) bytes: usize,
    pub(super) failure: Option<Failure>,
}

#[derive(Debug)]
pub(super) struct Failure {
    pub(super) batch: Bytes,
    pub(super) guilty: Vec<usize>,
    pub(super) error: Error,
}

#[derive(Debug)]
pub(super) struct Partition {
    pub(super) topic: Arc<str>,
    pub(super) topic_name: TopicName,
    pub(super) partition: i32,
    pub(super) leader: Leader,
    /// Whether its batches are parts of transactions: then numbers start again only between two of them.
    transactional: bool,
    queue: VecDeque<Pending>,
    last_id: u64,
    identity: Option<Identity>,
    /// A producer id whose epochs are used up here.
    spent: Option<i64>,
    next_sequence: i32,
    next_ordinal: u64,
    /// The offset behind the last batch that was written.
    pub(super) end_offset: Option<i64>,
    /// The largest ordinal known to be written.
    last_written: u64,
    /// When the broker last took a batch in this numbering.
    known_at: Option<Instant>,
    /// A stamped batch was given up: its numbers may be missing in the log.
    gap: bool,
    /// The broker refused the first batch for its number, and none behind it is written.
    renumber: bool,
    /// The batch to try next to find out what is written.
    probe: Option<u64>,
    failures: u32,
    retry_at: Option<Instant>,
    last_error: Option<Arc<Error>>,
}

impl Partition {
    pub(super) fn new(topic: Arc<str>, partition: i32, transactional: bool) -> Self {
        Self {
            topic_name: TopicName(StrBytes::from_string(topic.to_string())),
            topic,
            partition,
            leader: Leader::Unknown,
            transactional,
            queue: VecDeque::new(),
            last_id: 0,
            identity: None,
            spent: None,
            next_sequence: 0,
            next_ordinal: 0,
            end_offset: None,
            last_written: 0,
            known_at: None,
            gap: false,
            renumber: false,
            probe: None,
            failures: 0,
            retry_at: None,
            last_error: None,
        }
    }

    pub(super) fn push(&mut self, batch: ClosedBatch, send_epoch: u64, deadline: Instant) {
        let id = self.next_id();
        let bytes = batch.len();
        let pending = Pending {
            id,
            batch,
            bytes,
            send_epoch,
            deadline,
            stamp: None,
            ordinal: 0,
            open: false,
            sent: None,
        };
        self.queue.push_back(pending);
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether a batch may be sent now; [`send`](Self::send) then sends it.
    pub(super) fn is_ready(&mut self, now: Instant) -> bool {
        if self.retry_at.is_some_and(|at| at > now) {
            return false;
        }
        let Some(index) = self.next_index() else { return false };
        if self.probe.is_some() {
            // ORDER: rule 2. What is still under way would change the broker's answer.
            return self.queue.iter().all(|pending| pending.sent.is_none());
        }
        let unstamped = self.queue[index].stamp.is_none();
        if self.renumber || (self.gap && unstamped) {
            if self.transactional {
                return false;
            }
            if self.queue.iter().any(|pending| pending.sent.is_some()) {
                return false;
            }
            // ORDER: rule 3. Late requests of the former epoch are refused by the broker from the first batch of the
            // new one on.
            self.start_again();
        }
        if self.queue[index].stamp.is_some() {
            return index == 0;
        }
        let known = self.known_at.is_some_and(|at| now < at + REMEMBERED);
        // All before it are under way, so the first one has an ordinal.
        index == 0 || (known && self.next_ordinal - self.queue[0].ordinal < MAX_IN_FLIGHT as u64)
    }

    /// The place of the batch that is to be sent next, if it may be sent.
    fn next_index(&self) -> Option<usize> {
        match self.probe {
            Some(id) => self.queue.iter().position(|pending| pending.id == id),
            None => self.first_waiting(),
        }
    }

    fn first_waiting(&self) -> Option<usize> {
        self.queue.iter().position(|pending| pending.sent.is_none())
    }

    /// Numbers start again in this identity, between two transactions: nothing was sent that is not done.
    pub(super) fn renew(&mut self, identity: Identity) {
        (self.gap, self.renumber, self.next_sequence, self.known_at) = (false, false, 0, None);
        (self.probe, self.identity, self.spent) = (None, Some(identity), None);
        (self.failures, self.retry_at, self.last_error) = (0, None, None);
        for pending in &mut self.queue {
            (pending.stamp, pending.open) = (None, false);
        }
    }

    fn start_again(&mut self) {
        (self.gap, self.renumber, self.next_sequence, self.known_at) = (false, false, 0, None);
        for pending in &mut self.queue {
            (pending.stamp, pending.open) = (None, false);
        }
        if let Some(identity) = &mut self.identity {
            tracing::info!(
                topic = &*self.topic,
                partition = self.partition,
                producer_id = identity.producer_id,
                epoch = identity.epoch,
                "sequence numbers start again in the next producer epoch"
            );
            match identity.epoch.checked_add(1) {
                Some(epoch) => identity.epoch = epoch,
                None => {
                    self.spent = Some(identity.producer_id);
                    self.identity = None;
                }
            }
        }
    }

    /// The bytes of the batch that would be sent next.
    pub(super) fn next_len(&self) -> usize {
        self.next_index().map_or(0, |index| self.queue[index].batch.len())
    }

    /// Makes sure that there is a producer id to number batches with; `false` if another one than this is needed.
    pub(super) fn identify(&mut self, identity: Option<Identity>) -> bool {
        if self.identity.is_none() {
            self.identity = identity.filter(|identity| Some(identity.producer_id) != self.spent);
        }
        self.identity.is_some()
    }

    /// The next batch, stamped, as it goes into a request, with the number to answer by. Only after
    /// [`is_ready`](Self::is_ready) and [`identify`](Self::identify).
    pub(super) fn send(&mut self) -> Option<(u64, Bytes)> {
        let index = self.next_index()?;
        let identity = self.identity?;
        let pending = &mut self.queue[index];
        let stamp = *pending.stamp.get_or_insert_with(|| {
            let base_sequence = self.next_sequence;
            pending.ordinal = self.next_ordinal;
            self.next_ordinal += 1;
            self.next_sequence = next_sequence(base_sequence, pending.batch.count());
            ProducerStamp {
                producer_id: identity.producer_id,
                producer_epoch: identity.epoch,
                base_sequence,
                transactional: self.transactional,
            }
        });
        pending.sent = Some(match index {
            _ if self.probe.is_some() => Sent::AsProbe,
            0 => Sent::AsFirst,
            _ => Sent::Behind,
        });
        Some((pending.id, pending.batch.seal(stamp)))
    }

    /// Takes the answer for a batch that was sent to a node.
    pub(super) fn answer(
        &mut self,
        node: i32,
        id: u64,
        answer: Answer,
        now: Instant,
        config: &ProducerConfig,
    ) -> Vec<Done> {
        let Some(index) = self.queue.iter().position(|pending| pending.id == id) else { return Vec::new() };
        let Some(sent) = self.queue[index].sent.take() else { return Vec::new() };
        match answer {
            // The broker has taken one behind it, so this one is written too, and forgotten.
            Answer::OutOfSequence(_)
                if sent == Sent::AsFirst
                    && self.queue[0].open
                    && self.queue[0].ordinal < self.last_written =>
            {
                self.queue.pop_front().map(|p| Done { bytes: p.bytes, failure: None }).into_iter().collect()
            }
            Answer::Written { base_offset } => {
                if let Some(base_offset) = base_offset {
                    let next = base_offset + i64::from(self.queue[index].batch.count());
                    self.end_offset = self.end_offset.max(Some(next));
                }
                self.last_written = self.last_written.max(self.queue[index].ordinal);
                (self.failures, self.retry_at, self.last_error) = (0, None, None);
                self.known_at = Some(now);
                let from = if sent == Sent::AsProbe { 0 } else { index };
                self.probe = None;
                self.queue.drain(from..=index).map(|p| Done { bytes: p.bytes, failure: None }).collect()
            }
            Answer::Retry { error, stale_leader, open } => {
                if stale_leader && self.leader == Leader::Node(node) {
                    self.leader = Leader::Unknown;
                }
                self.queue[index].open |= open;
                self.back_off(error, now, config);
                Vec::new()
            }
            Answer::OutOfSequence(error) => {
                match sent {
                    Sent::AsFirst if self.queue[0].open => self.probe_before(self.queue.len()),
                    Sent::AsFirst => self.renumber = true,
                    // Those before it tell more: it goes again once it is the first.
                    Sent::Behind => {}
                    Sent::AsProbe => self.probe_before(index),
                }
                if self.renumber && self.transactional {
                    self.renumber = false;
                    return self.give_up(0, error, Vec::new());
                }
                self.back_off(error, now, config);
                Vec::new()
            }
            Answer::TooLarge(error) => match self.queue[index].batch.split() {
                Ok(Some(halves)) => {
                    self.replace(index, halves);
                    Vec::new()
                }
                Ok(None) => self.give_up(index, error, Vec::new()),
                Err(split) => self.give_up(index, error.because(split), Vec::new()),
            },
            Answer::Refused { error, guilty } => self.give_up(index, error, guilty),
        }
    }

    /// Looks for the last batch before this place, but for the first, that may be written.
    fn probe_before(&mut self, end: usize) {
        let open = (1..end).rev().find(|&index| self.queue[index].open && self.queue[index].stamp.is_some());
        self.probe = open.map(|index| self.queue[index].id);
        self.renumber = self.probe.is_none();
    }

    /// Puts the halves of a batch in its place. They share its numbers, so that those behind it stay right.
    fn replace(&mut self, index: usize, (first, second): (ClosedBatch, ClosedBatch)) {
        let (first_id, second_id) = (self.next_id(), self.next_id());
        let Some(whole) = self.queue.remove(index) else { return };
        self.probe = None;
        let stamp_at = |records| {
            whole.stamp.map(|stamp| ProducerStamp {
                base_sequence: next_sequence(stamp.base_sequence, records),
                ..stamp
            })
        };
        let half = |id, batch: ClosedBatch, bytes, stamp| Pending {
            id,
            batch,
            bytes,
            send_epoch: whole.send_epoch,
            deadline: whole.deadline,
            stamp,
            ordinal: whole.ordinal,
            open: false,
            sent: None,
        };
        let behind = stamp_at(first.count());
        let bytes = whole.bytes / 2;
        self.queue.insert(index, half(second_id, second, whole.bytes - bytes, behind));
        self.queue.insert(index, half(first_id, first, bytes, whole.stamp));
    }

    /// A call for this partition has failed for now.
    pub(super) fn back_off(&mut self, error: Error, now: Instant, config: &ProducerConfig) {
        tracing::debug!(topic = &*self.topic, partition = self.partition, ?error, "trying again");
        // What was in flight together fails together: that counts once.
        if self.retry_at.is_none_or(|at| at <= now) {
            self.failures += 1;
            let busy = error.code() == Some(ResponseError::ConcurrentTransactions.code());
            self.retry_at = Some(now + if busy { BUSY } else { config.backoff(self.failures) });
        }
        self.last_error = Some(Arc::new(error));
    }

    fn give_up(&mut self, index: usize, error: Error, guilty: Vec<usize>) -> Vec<Done> {
        let Some(mut pending) = self.queue.remove(index) else { return Vec::new() };
        // The first of the queue may be another one now: it says anew what there is to find out.
        self.probe = None;
        self.gap |= pending.stamp.is_some();
        let batch = pending.batch.seal(pending.stamp.unwrap_or(ProducerStamp::NONE));
        let error = error.at_topic(&*self.topic).at_partition(self.partition);
        vec![Done { bytes: pending.bytes, failure: Some(Failure { batch, guilty, error }) }]
    }

    /// Gives up what has been tried for too long.
    pub(super) fn expire(&mut self, now: Instant, config: &ProducerConfig) -> Vec<Done> {
        let mut done = Vec::new();
        while self.queue.front().is_some_and(|first| first.sent.is_none() && first.deadline <= now) {
            let error = Error::new(
                ErrorKind::Timeout,
                format!(
                    "a batch was not acknowledged within delivery.timeout.ms, {} ms",
                    config.delivery_timeout.as_millis()
                ),
            );
            let error = match &self.last_error {
                Some(last) => error.because(last.clone()),
                None => error,
            };
            done.extend(self.give_up(0, error, Vec::new()));
        }
        done
    }

    /// Gives up what was handed over in another send epoch and is not under way.
    pub(super) fn fence(&mut self, send_epoch: u64) -> Vec<Done> {
        self.give_up_waiting(|pending| pending.send_epoch != send_epoch, fenced)
    }

    /// Gives up everything that is not under way, because it is not wanted any more.
    pub(super) fn throw_away(&mut self) -> Vec<Done> {
        let unwanted = || Error::new(ErrorKind::Closed, "the transaction was aborted");
        let mut done = self.give_up_waiting(|_| true, unwanted);
        done.iter_mut().for_each(|done| done.failure = None);
        done
    }

    /// Gives up everything that is not under way, for this reason.
    pub(super) fn fail_waiting(&mut self, what: &str, cause: &Arc<Error>) -> Vec<Done> {
        let error = || Error::new(cause.kind(), what).with_class(cause.class()).because(cause.clone());
        self.give_up_waiting(|_| true, error)
    }

    /// Gives up everything, also what is under way: nobody will take the answer.
    pub(super) fn close(&mut self) -> Vec<Done> {
        for pending in &mut self.queue {
            pending.sent = None;
        }
        let error = || {
            Error::new(ErrorKind::Closed, "the producer was closed before a batch was acknowledged")
                .with_class(ErrorClass::Fatal)
        };
        self.give_up_waiting(|_| true, error)
    }

    fn give_up_waiting(&mut self, which: impl Fn(&Pending) -> bool, error: impl Fn() -> Error) -> Vec<Done> {
        let mut done = Vec::new();
        let mut index = 0;
        while index < self.queue.len() {
            if self.queue[index].sent.is_none() && which(&self.queue[index]) {
                done.extend(self.give_up(index, error(), Vec::new()));
            } else {
                index += 1;
            }
        }
        done
    }

    /// When to look again if no answer comes.
    pub(super) fn wake_at(&self, now: Instant) -> Option<Instant> {
        let expiry = self.queue.front().filter(|first| first.sent.is_none()).map(|first| first.deadline);
        let retry = self.retry_at.filter(|&at| at > now && self.first_waiting().is_some());
        expiry.into_iter().chain(retry).min()
    }
}
