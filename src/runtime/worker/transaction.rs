//! Exactly-once: all that a worker's tasks do between two commits is one transaction of its producer, the offsets of their
//! inputs included. It stands as a whole, or it is aborted and the tasks go back to the last commit; a worker that is not
//! told which of the two it was is replaced, and its tasks find out from the group's stable offsets.
//!
//! docs/DESIGN.md, *runtime: exactly once*, has the picture, and who does what in which kind of trouble.

use std::time::{Duration, Instant};

use super::commit::Committed;
use super::{Owned, Worker};
use crate::client::group::CommittedOffset;
use crate::client::produce::{End, EndTicket, Ended, GroupMetadata};
use crate::clock;
use crate::error::{Error, ErrorClass, ErrorKind, Result};
use crate::record::TopicPartition;
use crate::runtime::idle::Idle;
use crate::runtime::message::{Epochs, ToCoordinator};
use crate::runtime::output::TaskOutput;
use crate::runtime::uncaught::UncaughtErrorResponse;
use crate::store::faults;
use crate::task::TaskConfig;
use crate::task::errors::DropReason;
use crate::task_id::TaskId;

/// How long the end of a worker waits for its last transaction to be aborted; its coordinator does it later.
const LAST_ABORT: Duration = Duration::from_secs(5);

/// How much longer than a commit takes the time between two is.
const PACE: u32 = 10;

/// What a worker knows of its transactions.
pub(super) struct Transactions {
    /// Who it is in the group, in the generation of the gate.
    pub(super) group: GroupMetadata,
    /// Something that was sent belongs to a task that is gone: the transaction must not be committed.
    pub(super) spoiled: bool,
    /// Since when there is something in the transaction.
    pub(super) open_since: Option<Instant>,
    /// Aborts that have not ended.
    aborts: Vec<EndTicket>,
    /// The broker aborts a transaction of this age.
    timeout: Duration,
    /// The coordinator knows that the producer may write.
    ready: bool,
    began: Instant,
    gate_shut_since: Option<Instant>,
    /// How long a commit takes.
    took: Duration,
}

impl Transactions {
    pub(super) fn new(timeout: Duration, now: Instant) -> Self {
        Self {
            group: GroupMetadata::default(),
            spoiled: false,
            open_since: None,
            aborts: Vec::new(),
            timeout,
            ready: false,
            began: now,
            gate_shut_since: None,
            took: Duration::ZERO,
        }
    }

    pub(super) fn gate(&mut self, open: bool) {
        self.gate_shut_since = match open {
            true => None,
            false => Some(self.gate_shut_since.unwrap_or_else(clock::monotonic)),
        };
    }

    /// When nothing can be committed for so long, nothing more is added.
    pub(super) fn waits(&self, now: Instant) -> bool {
        self.gate_shut_since.is_some_and(|since| now.saturating_duration_since(since) > self.timeout / 2)
    }

    /// The time until the next commit: commits are a tenth of the work at most, as far as the limits allow.
    pub(super) fn pace(&self, (least, most): (Duration, Duration)) -> Duration {
        (self.took * PACE).clamp(least, most)
    }
}

impl Worker {
    /// Sees to aborts under way, to a producer in trouble, and to a transaction that gets too old.
    pub(super) fn look_after_transactions(&mut self, now: Instant) {
        let Some(txn) = &mut self.transactions else { return };
        if self.failed {
            return;
        }
        while let Some(ended) = txn.aborts.first_mut().and_then(EndTicket::poll) {
            txn.aborts.remove(0);
            if let Ended::Failed(error) = ended {
                return self.lose_producer(error);
            }
        }
        if txn.spoiled {
            return self.roll_back("a task was given up with something uncommitted in the transaction");
        }
        let is_old = |since: Instant| now.saturating_duration_since(since) > txn.timeout * 3 / 4;
        if txn.open_since.is_some_and(is_old) {
            return self
                .roll_back("it could not be committed for so long that a broker is about to abort it");
        }
        let state = self.output.borrow().producer.is_ready();
        match state {
            Ok(true) if !txn.ready => {
                txn.ready = true;
                self.tell(ToCoordinator::Ready { worker: self.id });
            }
            Ok(false) if !txn.ready => {
                let (limit, waited) = (self.config.task_timeout(), now.saturating_duration_since(txn.began));
                if !limit.is_zero() && waited > limit {
                    let text = format!(
                        "the transaction coordinator has not given the worker's producer an id within task.timeout.ms \
                         ({limit:?}): are all brokers of __transaction_state up?"
                    );
                    self.fail(None, Error::new(ErrorKind::Timeout, text));
                }
            }
            Ok(_) => {}
            // What was wrong is thrown away already.
            Err(_) if !txn.aborts.is_empty() => {}
            Err(error) => self.in_trouble(error),
        }
    }

    /// The producer cannot commit what is open.
    fn in_trouble(&mut self, error: Error) {
        match error.class() {
            _ if self.is_fenced() => {}
            // What was refused is known before it comes again.
            ErrorClass::AbortTransaction => match self.handle_failures() {
                Ok(()) => self.roll_back(&error.to_string()),
                Err(error) => self.fail(None, error),
            },
            _ => self.lose_producer(error),
        }
    }

    /// Nothing more can be done with the producer: somebody else has its transactional id, or a broker has aborted its
    /// transaction, or nobody has said for long whether it is committed. Java gives all tasks of the thread up and joins
    /// again (`TaskMigratedException`); here the worker is replaced: its successor's producer fences this one, and then the
    /// tasks are prepared anew, from the stable offsets of the group. If they are not this instance's any more, the group
    /// says so.
    fn lose_producer(&mut self, error: Error) {
        if self.is_fenced() || self.pulse.is_dismissed() {
            return;
        }
        if error.class() == ErrorClass::Fatal {
            return self.fail(None, error);
        }
        tracing::warn!(worker = self.index, ?error, "the worker's producer is of no use any more");
        self.failed = true;
        if !self.stopping {
            if let Some(generation) = self.gate {
                // Are we still in the group?
                self.tell(ToCoordinator::CommitRefused { generation });
            }
            let response = UncaughtErrorResponse::ReplaceWorker;
            self.tell(ToCoordinator::Failed { error, response });
        }
    }

    /// Commits everything that was done since the last commit. Caches are flushed.
    pub(super) fn commit_transaction(&mut self, began: Instant) -> Result<Committed> {
        let losses = self.losses;
        let Some(generation) = self.gate else { return Ok(Committed::Later) };
        // As at least once: the group's coordinator does not check who commits for a partition.
        if self.owned.iter().any(|o| o.running && o.lease.generation != generation) {
            return Ok(Committed::Later);
        }
        let offsets = self.offsets();
        // ORDER: whoever sees an offset committed sees the drops before it counted.
        self.report_drops();
        faults::at("flushed");
        // ORDER: all that was given to the producer is in the transaction, and nothing else: nothing is processed before it
        // has ended. The producer writes it, then sends the offsets, then ends the transaction.
        match self.end(&offsets)? {
            None => return Ok(Committed::Later),
            Some(Ended::Committed | Ended::Aborted) if self.losses != losses => return Ok(Committed::Later),
            Some(Ended::Committed) => {}
            Some(Ended::Aborted) => {
                self.roll_back("it was aborted");
                return Ok(Committed::Later);
            }
            Some(Ended::Failed(error)) => {
                self.refused(generation, error);
                return Ok(Committed::Later);
            }
        }
        faults::at("committed");
        let took = clock::monotonic().saturating_duration_since(began);
        if let Some(txn) = &mut self.transactions {
            // A task that failed meanwhile had its part in what is committed, and nothing since.
            (txn.spoiled, txn.open_since, txn.took) = (false, None, (txn.took + took) / 2);
        }
        self.observe_commit();
        let left_out = self.output.borrow_mut().refused.committed();
        if left_out > 0 {
            self.shared.dropped("producer", DropReason::Production, left_out);
        }
        // ORDER: readers see it, and then engines get it, only now that it is committed.
        self.published(&offsets)?;
        faults::at("published");
        // What nothing else has is brought to the disk at once; it could not be taken back before.
        self.save_unlogged()?;
        self.tell(ToCoordinator::Purgeable(offsets.into_iter().map(|(at, o)| (at, o.offset)).collect()));
        let epochs = match self.handed_over_next().is_empty() {
            true => Epochs::new(),
            false => self.commit_offsets(generation, &[])?.1,
        };
        self.hand_stores_over(&epochs)?;
        self.figures.committed(clock::monotonic().saturating_duration_since(began));
        Ok(Committed::Yes)
    }

    /// Ends the transaction with a commit, and waits for how it ends; `None` if nobody wants to know any more.
    fn end(&mut self, offsets: &[(TopicPartition, CommittedOffset)]) -> Result<Option<Ended>> {
        let Some(txn) = &self.transactions else { return Ok(None) };
        let end = End::Commit { group: txn.group.clone(), offsets: offsets.to_vec() };
        let mut ticket = self.output.borrow_mut().producer.end_transaction(end)?;
        faults::at("asked");
        loop {
            if let Some(ended) = ticket.poll() {
                return Ok(Some(ended));
            }
            if self.pulse.is_dismissed() {
                return Ok(None);
            }
            self.pump();
        }
    }

    /// A commit was not made, or nobody knows.
    fn refused(&mut self, generation: i32, error: Error) {
        if self.is_fenced() {
            // Everything is given up anyway.
            return;
        }
        let state = self.output.borrow().producer.is_ready();
        match state {
            // The group has refused the offsets; all that was sent is still good, and follows as another generation.
            Ok(_) => {
                tracing::info!(
                    ?error,
                    "the generation has gone on: the transaction follows with the next lease"
                );
                self.tell(ToCoordinator::CommitRefused { generation });
            }
            Err(_) => self.in_trouble(error),
        }
    }

    /// Aborts the transaction, and puts all tasks back to the last commit, in place: nothing is wiped, restored or rejoined.
    pub(super) fn roll_back(&mut self, why: &str) {
        let Some(txn) = &mut self.transactions else { return };
        tracing::warn!(
            worker = self.index,
            why,
            "the transaction is aborted: its tasks go back to the last commit"
        );
        (txn.spoiled, txn.open_since) = (false, None);
        self.full = false;
        self.figures.rolled_back();
        // ORDER: first: what is given to the producer after this belongs to the next transaction.
        if let Err(error) = self.abort() {
            return self.fail(None, error);
        }
        for at in (0..self.owned.len()).rev() {
            // Backwards, because one that fails is taken out.
            let Some(Owned { lease, running: true, .. }) = self.owned.get(at) else { continue };
            let task = lease.task;
            if let Err(error) = self.rewind(at) {
                self.fail(Some(task), error);
            }
        }
    }

    /// Begins to abort. What could not be written does not matter any more.
    pub(super) fn abort(&mut self) -> Result<()> {
        let Some(txn) = &mut self.transactions else { return Ok(()) };
        let output = &mut *self.output.borrow_mut();
        output.refused.aborted();
        txn.aborts.push(output.producer.end_transaction(End::Abort)?);
        drop(output.producer.take_failures());
        Ok(())
    }

    /// Puts a task back to its last commit.
    fn rewind(&mut self, at: usize) -> Result<()> {
        let id = self.owned[at].lease.task;
        let partitions = self.owned[at].inputs.iter().map(|input| input.at.clone()).collect();
        let config = self.task_config(id, partitions);
        let collector = TaskOutput { shared: self.output.clone(), clock: self.clock.clone() };
        let topology = self.topology.clone();
        let plan = &Self::subtopology(&topology, id)?.plan;
        let owned = &mut self.owned[at];
        owned.close(&self.output, true);
        owned.task.roll_back(plan, config, Box::new(collector), self.clock.clone())?;
        for place in 0..self.owned[at].inputs.len() {
            // ORDER: another token, so that what is on its way is not taken for what comes next.
            let token = self.token();
            let owned = &mut self.owned[at];
            let (epoch, position) = (owned.lease.epoch, owned.task.position(place));
            let input = &mut owned.inputs[place];
            self.live.revoke(input.at.clone(), input.token);
            self.tokens.remove(&input.token);
            (input.token, input.idle) = (token, Idle::default());
            self.tokens.insert(token, (id, place));
            if let Some(position) = position {
                self.live.assign(input.at.clone(), position, token, epoch);
            }
        }
        let owned = &mut self.owned[at];
        owned.idle_since = None;
        self.init(at)?;
        self.owned[at].task.publish()
    }

    /// What a task is built with.
    pub(super) fn task_config(&self, id: TaskId, partitions: Vec<TopicPartition>) -> TaskConfig {
        let others = self.owned.iter().filter(|o| o.lease.task != id).count();
        TaskConfig {
            task: id,
            application_id: self.config.application_id().into(),
            partitions,
            policies: self.policies.clone(),
            cache_bytes: self.cache_share(others + 1),
            window_emit_interval: i64::try_from(self.config.window_emit_interval().as_millis())
                .unwrap_or(i64::MAX),
            globals: self.shared.globals.get().cloned().unwrap_or_default(),
        }
    }

    /// Before the worker ends: what is open is aborted, so that no reader waits for it.
    pub(super) fn last_abort(&mut self) {
        let Some(txn) = &self.transactions else { return };
        if !(txn.spoiled || txn.open_since.is_some()) || self.is_fenced() || self.abort().is_err() {
            return;
        }
        let until = clock::monotonic() + LAST_ABORT;
        if let Some(last) = self.transactions.as_mut().and_then(|txn| txn.aborts.last_mut()) {
            last.wait(until);
        }
    }

    /// The tasks are gone: so is what they had in the transaction.
    pub(super) fn forget_transaction(&mut self) {
        if let Some(txn) = &mut self.transactions {
            (txn.spoiled, txn.open_since) = (false, None);
        }
        if let Err(error) = self.abort() {
            self.fail(None, error);
        }
    }

    /// Whether a record that could not be written ends nothing but its transaction.
    pub(super) fn is_of_transaction(&self, error: &Error) -> bool {
        self.transactions.is_some()
            && matches!(error.class(), ErrorClass::AbortTransaction | ErrorClass::Retriable)
    }
}
