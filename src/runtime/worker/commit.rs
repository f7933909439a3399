//! The producer's failures, and commits: caches are flushed, the producer is drained, the offsets are committed.
//!
//! ORDER: an offset is committed only when everything that its records made has been written. So whatever loses such
//! records (a failure that is not dropped by a policy, a fence, a lost lease) ends the commit under way, and either the
//! tasks go or no further commit is made.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::{Owned, Worker};
use crate::client::batch::{Batches, record_len};
use crate::client::group::CommittedOffset;
use crate::client::produce::Failed;
use crate::clock;
use crate::config::Role;
use crate::error::{BoxError, Error, ErrorClass, ErrorKind, Result};
use crate::group::OffsetMetadata;
use crate::record::TopicPartition;
use crate::runtime::coordinator::is_unheard;
use crate::runtime::figures::Activity;
use crate::runtime::housekeeping::LATE;
use crate::runtime::message::{Epochs, ToCoordinator};
use crate::runtime::task_timeout::TaskTimeout;
use crate::task::Partition;
use crate::task::errors::{
    DropReason, ErrorContext, ErrorResponse, ErrorStage, dead_letter_headers, java_exception,
};
use crate::task_id::TaskId;

/// How long the last commit waits for a generation that it can be made in.
const LAST_COMMIT: Duration = Duration::from_secs(10);

/// Errors of records that no policy is asked about (`RecordCollectorImpl.isFatalException`): they are not the record's.
fn is_fatal(error: &Error) -> bool {
    const UNKNOWN_SERVER_ERROR: i16 = -1;
    const INVALID_TOPIC: i16 = 17;
    matches!(error.kind(), ErrorKind::Authorization | ErrorKind::Authentication)
        || matches!(error.code(), Some(UNKNOWN_SERVER_ERROR | INVALID_TOPIC))
}

/// How a commit ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Committed {
    Yes,
    /// Not in this generation: to be tried again with the next lease.
    Later,
}

impl Worker {
    // ---- the producer ----

    pub(super) fn look_after_producer(&mut self, now: Instant) {
        let polled = self.output.borrow_mut().producer.poll(now);
        let outcome = polled.and_then(|()| self.handle_failures());
        if let Err(error) = outcome {
            self.fail(None, error);
        }
    }

    /// Records that could not be written go to the production policy, one by one.
    pub(super) fn handle_failures(&mut self) -> Result<()> {
        let failures = self.output.borrow().producer.take_failures();
        for failed in failures {
            self.handle_failure(failed)?;
        }
        Ok(())
    }

    fn handle_failure(&mut self, failed: Failed) -> Result<()> {
        let Failed { topic, partition, batch, guilty, error } = failed;
        if error.class() == ErrorClass::FencedLease || self.is_of_transaction(&error) {
            // Of tasks that are gone, or will be before anything is committed: the main loop looks for a fence.
            return Ok(());
        }
        let place = |error: Error| error.at_topic(&*topic).at_partition(partition);
        if is_fatal(&error) {
            return Err(error);
        }
        let error: BoxError = error.into();
        let mut again = Vec::new();
        // Where a record came from is not known any more: its dead letter is the record itself, and its headers name the
        // topic that refused it. A dead letter that is refused gets none of its own.
        let dead_topic = self.policies.dead_letter_topic.clone().filter(|dead| **dead != *topic);
        let mut dead = Vec::new();
        for batch in Batches::new(batch) {
            for (at, record) in batch.and_then(|b| b.records()).map_err(place)?.enumerate() {
                let record = record.map_err(place)?;
                if !guilty.is_empty() && !guilty.contains(&at) {
                    again.push(record);
                    continue;
                }
                let context = ErrorContext {
                    topic: Some(&topic),
                    partition,
                    offset: -1,
                    node: "producer",
                    task: self
                        .owned
                        .first()
                        .map_or(TaskId { subtopology: -1, partition: -1 }, |o| o.lease.task),
                    timestamp: record.timestamp,
                    headers: &record.headers,
                    source_key: record.key.as_ref(),
                    source_value: record.value.as_ref(),
                };
                if dead_topic.is_some() {
                    let kind = java_exception(ErrorStage::Production, &error);
                    dead.push((record.clone(), dead_letter_headers(&error, &kind, &context)));
                }
                match self.policies.handler.handle(ErrorStage::Production, &error, &context) {
                    ErrorResponse::Continue if self.transactions.is_some() => {
                        let letter = dead_topic.clone().zip(dead.pop().map(|(_, headers)| headers));
                        tracing::warn!(
                            topic = &*topic, partition, %error,
                            "a record cannot be written: its transaction is aborted, and the next one does without it"
                        );
                        self.output.borrow_mut().refused.add(&topic, record, letter).map_err(place)?;
                    }
                    ErrorResponse::Continue => {
                        tracing::warn!(topic = &*topic, partition, %error, "dropped a record that cannot be written");
                        self.shared.dropped("producer", DropReason::Production, 1);
                    }
                    ErrorResponse::Fail => {
                        let size =
                            record_len(record.key.as_deref(), record.value.as_deref(), &record.headers);
                        let text = format!(
                            "a record of {size} bytes cannot be written; set production.exception.handler to continue past \
                             such records"
                        );
                        return Err(place(Error::new(ErrorKind::Production, text)).because(error));
                    }
                }
            }
        }
        if self.transactions.is_some() {
            // What was good of it is written again with the rest of the transaction.
            return Ok(());
        }
        let output = &mut *self.output.borrow_mut();
        if let Some(dead_topic) = dead_topic {
            let letters = output.register(&dead_topic)?;
            for (record, headers) in dead {
                let (key, value) = (record.key.as_deref(), record.value.as_deref());
                output.send(letters, Partition::Default, record.timestamp, key, value, &headers)?;
            }
        }
        let ix = output.producer.register(&topic, partition + 1)?;
        for record in again {
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            output.producer.send(ix, partition, record.timestamp, key, value, &record.headers)?;
        }
        Ok(())
    }

    // ---- commits ----

    /// Commits what can be committed now.
    pub(super) fn commit_all(&mut self) {
        if self.failed {
            return;
        }
        let began = clock::monotonic();
        self.committing = true;
        let outcome = self.commit(began);
        self.committing = false;
        let now = clock::monotonic();
        self.figures.spent(Activity::Commit, now.saturating_duration_since(began));
        self.next_commit = now + self.commit_interval();
        match outcome {
            Ok(Committed::Yes) => {
                (self.owes_commit, self.full) = (false, false);
                self.observe(now);
                self.postponed.progress();
                self.picture.stale = true;
                // ORDER: now nothing of the tasks is open.
                self.hand_over();
            }
            Ok(Committed::Later) => {
                tracing::debug!(worker = self.index, "commit postponed");
                self.figures.postponed();
                self.owes_commit = true;
                // A rebalance that never ends, or a coordinator that refuses commits and nothing else. Without a limit of
                // its own a single refusal would do.
                if !self.config.task_timeout().is_zero() && self.postponed.failed(clock::monotonic()) {
                    let tasks: Vec<String> = self.owned.iter().map(|o| o.lease.task.to_string()).collect();
                    let who = format!("each of the tasks {}", tasks.join(", "));
                    let cause = Error::new(
                        ErrorKind::Timeout,
                        "every commit was refused or postponed: the group rebalances",
                    );
                    let what =
                        "no commit has passed; look at the group (kafka-consumer-groups --describe --state)";
                    let error = self.postponed.error(who, what, cause);
                    self.fail(None, error);
                }
            }
            Err(error) => self.fail(None, error),
        }
    }

    /// The commit before the end. A rebalance may be on: the next generation is waited for, within reason.
    pub(super) fn last_commit_of_all(&mut self) {
        let until = clock::monotonic() + LAST_COMMIT;
        loop {
            self.commit_all();
            let over = |worker: &Self| worker.failed || worker.is_fenced() || clock::monotonic() >= until;
            if !self.owes_commit || over(self) {
                return;
            }
            while self.gate.is_none() && !over(self) {
                self.pump();
            }
        }
    }

    /// At least once: sees what closed processors have sent written. Nothing is committed after it, so that nobody else would.
    /// Under exactly-once there is nothing: it is of no transaction.
    pub(super) fn write_last_words(&mut self) {
        if self.transactions.is_some() {
            return;
        }
        while !(self.failed || self.is_fenced() || self.pulse.is_dismissed()) {
            let flushed = self.output.borrow_mut().producer.flush();
            let drained = self.output.borrow().producer.is_drained();
            if let Err(error) = flushed.and_then(|()| self.handle_failures()) {
                return self.fail(None, error);
            }
            if drained && self.output.borrow().producer.is_drained() {
                return;
            }
            self.pump();
        }
    }

    /// The time to the next commit.
    pub(super) fn commit_interval(&self) -> Duration {
        let limits = self.config.commit_intervals();
        self.transactions.as_ref().map_or(limits.1, |transactions| transactions.pace(limits))
    }

    /// Caches are flushed, the producer is drained, the offsets are committed, the layers are published. Or all of it as one
    /// transaction.
    fn commit(&mut self, began: Instant) -> Result<Committed> {
        if self.is_fenced() {
            return Ok(Committed::Later);
        }
        // ORDER: nothing of a task that is gone is committed.
        if self.transactions.as_ref().is_some_and(|transactions| transactions.spoiled) {
            self.roll_back("a task was given up with something uncommitted in the transaction");
        }
        let mut failed = Vec::new();
        let any =
            self.owned.iter().any(|o| o.running && (o.task.commit_needed() || o.task.commit_requested()));
        if !any && self.offsets().is_empty() && self.closing.is_empty() {
            return Ok(Committed::Yes);
        }
        let span = tracing::info_span!("commit", worker = self.index, offsets = tracing::field::Empty);
        let _commit = span.clone().entered();
        for owned in self.owned.iter_mut().filter(|o| o.running) {
            self.pulse.beat();
            if let Err(error) = owned.span.in_scope(|| owned.task.flush_caches()) {
                failed.push((owned.lease.task, error));
            }
        }
        for (task, error) in failed {
            self.fail(Some(task), error);
        }
        if self.transactions.as_ref().is_some_and(|transactions| transactions.spoiled) {
            return Ok(Committed::Later);
        }
        if self.transactions.is_some() {
            return self.commit_transaction(began);
        }
        let losses = self.losses;
        // ORDER: the offsets are those of records whose effects the flush below has written.
        loop {
            if self.is_fenced() || self.losses != losses {
                return Ok(Committed::Later);
            }
            self.output.borrow_mut().producer.flush()?;
            let drained = self.output.borrow().producer.is_drained();
            // ORDER: failures are looked for after that, because they are there before the producer is drained.
            self.handle_failures()?;
            if drained && self.output.borrow().producer.is_drained() {
                break;
            }
            self.pump();
        }
        // ORDER: before the offsets: nothing else has these rows, and their records are not read again.
        self.save_unlogged()?;
        // ORDER: a fence may have come since, and have taken records of any task.
        if self.is_fenced() || self.losses != losses {
            return Ok(Committed::Later);
        }
        let Some(generation) = self.gate else { return Ok(Committed::Later) };
        // The coordinator does not check who commits for a partition: a task whose lease is of another generation is not
        // known to be this worker's.
        if self.owned.iter().any(|o| o.running && o.lease.generation != generation) {
            return Ok(Committed::Later);
        }
        let offsets = self.offsets();
        span.record("offsets", offsets.len());
        // ORDER: whoever sees an offset committed sees the drops before it counted.
        self.report_drops();
        let (outcome, epochs) = self.commit_offsets(generation, &offsets)?;
        if outcome == Committed::Yes {
            self.observe_commit();
            self.published(&offsets)?;
            self.await_hand_overs()?;
            self.hand_stores_over(&epochs)?;
            self.figures.committed(clock::monotonic().saturating_duration_since(began));
        }
        Ok(outcome)
    }

    pub(super) fn offsets(&self) -> Vec<(TopicPartition, CommittedOffset)> {
        let mut offsets = Vec::new();
        let may_be_set_back = self.unheard_until.is_some_and(|until| clock::monotonic() < until);
        for owned in self.owned.iter().filter(|o| o.running) {
            let processors: BTreeMap<String, i64> =
                owned.task.committed_clocks().map(|(name, time)| (name.to_string(), time)).collect();
            for (committable, input) in owned.task.committable().into_iter().filter_map(|c| {
                let input = owned.inputs.iter().find(|i| i.at == c.partition)?;
                Some((c, input))
            }) {
                if input.committed == Some(committable.offset) && !may_be_set_back {
                    continue;
                }
                let metadata = OffsetMetadata {
                    partition_time: committable.partition_time,
                    processors: processors.clone(),
                };
                let offset = CommittedOffset {
                    offset: committable.offset,
                    leader_epoch: None,
                    metadata: metadata.encode(),
                };
                offsets.push((committable.partition, offset));
            }
        }
        offsets
    }

    /// Commits until there is an answer that says yes or no; and the leader epochs of changelogs that are handed over next.
    pub(super) fn commit_offsets(
        &mut self,
        generation: i32,
        offsets: &[(TopicPartition, CommittedOffset)],
    ) -> Result<(Committed, Epochs)> {
        let changelogs = self.handed_over_next();
        if offsets.is_empty() && changelogs.is_empty() {
            return Ok((Committed::Yes, Epochs::new()));
        }
        let losses = self.losses;
        let config = self.config.clone();
        let connection = config.consumer(Role::Main).connection();
        let mut trouble = TaskTimeout::new(config.task_timeout());
        let mut pause = connection.retry_backoff();
        loop {
            self.last_commit += 1;
            let commit = self.last_commit;
            self.awaited = Some((commit, None));
            self.tell(ToCoordinator::Commit {
                worker: self.id,
                commit,
                generation,
                offsets: offsets.to_vec(),
                changelogs: changelogs.clone(),
            });
            let answer = loop {
                if let Some((_, answer @ Some(_))) = &mut self.awaited {
                    break answer.take();
                }
                if self.gate != Some(generation) || self.losses != losses || self.is_fenced() {
                    self.awaited = None;
                    return Ok((Committed::Later, Epochs::new()));
                }
                self.pump();
            };
            self.awaited = None;
            match answer {
                Some(Ok(epochs)) => return Ok((Committed::Yes, epochs)),
                Some(Err(error)) if error.class() == ErrorClass::FencedLease => {
                    tracing::info!(
                        ?error,
                        "the generation has gone on: the commit follows with the next lease"
                    );
                    self.tell(ToCoordinator::CommitRefused { generation });
                    return Ok((Committed::Later, Epochs::new()));
                }
                Some(Err(error)) if error.is_retriable() => {
                    if trouble.failed(clock::monotonic()) {
                        let tasks: Vec<String> =
                            self.owned.iter().map(|o| o.lease.task.to_string()).collect();
                        let who = format!("each of the tasks {}", tasks.join(", "));
                        return Err(trouble.error(who, "their offsets cannot be committed", error));
                    }
                    if is_unheard(&error) {
                        self.unheard_until = Some(clock::monotonic() + LATE);
                    }
                    tracing::warn!(?error, "the commit is tried again");
                    let again = clock::monotonic() + pause;
                    while clock::monotonic() < again && self.gate == Some(generation) && !self.is_fenced() {
                        self.pump();
                    }
                    pause = (pause * 2).min(connection.retry_backoff_max());
                }
                Some(Err(error)) => return Err(error),
                None => return Ok((Committed::Later, Epochs::new())),
            }
        }
    }

    pub(super) fn published(&mut self, offsets: &[(TopicPartition, CommittedOffset)]) -> Result<()> {
        let offsets: HashMap<&TopicPartition, i64> = offsets.iter().map(|(at, o)| (at, o.offset)).collect();
        for owned in self.owned.iter_mut().filter(|o| o.running) {
            self.rebuilt.remove(&owned.lease.task);
            for input in &mut owned.inputs {
                input.committed = offsets.get(&input.at).copied().or(input.committed);
            }
            let (Owned { task, changelogs, .. }, output) = (owned, self.output.borrow());
            let partition = task.id().partition;
            task.post_commit(|store| {
                output.producer.end_offset(&changelogs.get(store.name())?.origin.at.topic, partition)
            })?;
        }
        Ok(())
    }

    /// Adds the drops since the last time to the application's.
    pub(super) fn report_drops(&mut self) {
        for owned in &mut self.owned {
            owned.report_drops(&self.shared);
        }
    }
}
