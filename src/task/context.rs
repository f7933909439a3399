//! What every node of a task can reach while a record is on its way: where it came from, time, the way out, errors.

use std::any::TypeId;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::clocks::Clocks;
use super::counts::{NodeCount, TaskCounts, one_more};
use super::errors::{
    DropReason, ErrorContext, ErrorPolicies, ErrorResponse, ErrorStage, dead_letter_headers, java_exception,
};
use super::punctuation::{PunctuationType, Punctuations, Token, Tokens};
use super::{Collector, Flow, NodeIx, Partition, Stop, TopicIx};
use crate::clock::Clock;
use crate::error::{BoxError, Error, ErrorClass, ErrorKind, Result};
use crate::record::{Headers, RawRecord, Timestamp};
use crate::serde::SerdeCx;
use crate::serde::erased::SerdeRef;
use crate::task_id::TaskId;

/// A partition that a task reads.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
}

/// The bytes of the key in hand, if they are known, and the canonical serde that they belong to.
#[derive(Debug, Default)]
pub(crate) enum KeyBytes {
    #[default]
    Unknown,
    /// Those of the source record.
    Source(TypeId),
    Written(TypeId, Bytes),
}

/// A record in hand that waits.
pub(crate) struct Aside {
    source: Option<usize>,
    raw: RawRecord,
    timestamp: Timestamp,
    key: KeyBytes,
}

/// The common ground of a task's nodes.
pub(crate) struct TaskCx {
    pub(crate) task: TaskId,
    pub(crate) application_id: Arc<str>,
    pub(crate) collector: Box<dyn Collector>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) policies: ErrorPolicies,
    /// The greatest timestamp seen by the task, -1 before the first record.
    pub(crate) stream_time: Timestamp,
    /// The partitions that the task reads.
    pub(crate) sources: Vec<Source>,
    /// Which of them the record in hand came from; `None` in a punctuation.
    pub(crate) source: Option<usize>,
    /// The record in hand as it was read.
    pub(crate) raw: RawRecord,
    /// The timestamp that stores without timestamps log with: that of the record in hand as the current node sees it.
    pub(crate) timestamp: Timestamp,
    /// What nodes know of time.
    pub(crate) clocks: Clocks,
    /// How often closed windows are looked for, in milliseconds of the wall clock.
    pub(crate) window_emit_interval: i64,
    /// Set when a processor asked for a commit.
    pub(crate) commit_requested: bool,
    /// The record caches of the task hold this many bytes.
    pub(crate) cached_bytes: usize,
    pub(crate) stream_punctuations: Punctuations,
    pub(crate) wall_punctuations: Punctuations,
    /// The node whose user code runs, for panics.
    pub(crate) current: Option<NodeIx>,
    pub(crate) counts: TaskCounts,
    tokens: Tokens,
    node_names: Vec<Rc<str>>,
    node_counts: Vec<NodeCount>,
    drops: Vec<[u64; DropReason::ALL.len()]>,
    key: KeyBytes,
    failure: Option<Error>,
    dead_letters: Option<TopicIx>,
    scratch_key: BytesMut,
    scratch_value: BytesMut,
}

impl TaskCx {
    pub(crate) fn new(
        task: TaskId,
        application_id: Arc<str>,
        collector: Box<dyn Collector>,
        clock: Arc<dyn Clock>,
        policies: ErrorPolicies,
    ) -> Self {
        Self {
            task,
            application_id,
            collector,
            clock,
            policies,
            stream_time: -1,
            sources: Vec::new(),
            source: None,
            raw: RawRecord { offset: -1, timestamp: -1, key: None, value: None, headers: Headers::new() },
            timestamp: -1,
            clocks: Clocks::default(),
            window_emit_interval: 0,
            commit_requested: false,
            cached_bytes: 0,
            stream_punctuations: Punctuations::default(),
            wall_punctuations: Punctuations::default(),
            current: None,
            counts: TaskCounts::default(),
            tokens: Tokens::default(),
            node_names: Vec::new(),
            node_counts: Vec::new(),
            drops: Vec::new(),
            key: KeyBytes::Unknown,
            failure: None,
            dead_letters: None,
            scratch_key: BytesMut::new(),
            scratch_value: BytesMut::new(),
        }
    }

    pub(crate) fn add_node(&mut self, name: &str) -> NodeIx {
        self.node_names.push(name.into());
        self.node_counts.push(NodeCount::default());
        self.drops.push(Default::default());
        NodeIx(u32::try_from(self.node_names.len() - 1).expect("a topology has fewer than 2^32 nodes"))
    }

    pub(crate) fn node_name(&self, node: NodeIx) -> &str {
        &self.node_names[node.0 as usize]
    }

    pub(crate) fn node_count(&self, node: NodeIx) -> &NodeCount {
        &self.node_counts[node.0 as usize]
    }

    /// The records that have reached each node.
    pub(crate) fn node_counts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.node_names.iter().zip(&self.node_counts).map(|(name, count)| (&**name, count.get()))
    }

    /// A source node takes a record from a partition.
    pub(crate) fn taken(&mut self, source: usize, node: NodeIx, raw: &RawRecord, timestamp: Timestamp) {
        one_more(&self.node_counts[node.0 as usize]);
        self.counts.taken(source, raw, timestamp, self.stream_time);
    }

    /// The name of the node whose user code ran last.
    pub(crate) fn current_node(&self) -> Option<&str> {
        self.current.map(|node| self.node_name(node))
    }

    // ---- the record in hand ----

    /// Makes a record the one in hand. `key_serde` names the canonical serde that its key was read with.
    pub(crate) fn begin(
        &mut self,
        source: usize,
        raw: RawRecord,
        timestamp: Timestamp,
        key_serde: Option<TypeId>,
    ) {
        self.key = match (&raw.key, key_serde) {
            (Some(_), Some(serde)) => KeyBytes::Source(serde),
            _ => KeyBytes::Unknown,
        };
        self.source = Some(source);
        self.raw = raw;
        self.timestamp = timestamp;
    }

    /// No record is in hand: a punctuation runs, or a cache is flushed.
    pub(crate) fn begin_punctuation(&mut self, at: Timestamp) {
        self.key = KeyBytes::Unknown;
        self.source = None;
        self.raw = RawRecord { offset: -1, timestamp: at, key: None, value: None, headers: Headers::new() };
        self.timestamp = at;
    }

    /// Puts the record in hand aside, for another that goes on in between.
    pub(crate) fn put_aside(&mut self) -> Aside {
        let none = RawRecord { offset: -1, timestamp: -1, key: None, value: None, headers: Headers::new() };
        let raw = std::mem::replace(&mut self.raw, none);
        Aside { source: self.source, raw, timestamp: self.timestamp, key: self.take_key_bytes() }
    }

    /// Goes on with a record that was put aside.
    pub(crate) fn take_up(&mut self, aside: Aside) {
        let Aside { source, raw, timestamp, key } = aside;
        (self.source, self.raw, self.timestamp, self.key) = (source, raw, timestamp, key);
    }

    /// A change that a record cache held back goes on, in the context of the record that made it.
    pub(crate) fn begin_flush(
        &mut self,
        source: Option<usize>,
        offset: i64,
        timestamp: Timestamp,
        headers: Headers,
    ) {
        self.begin_punctuation(timestamp);
        self.source = source;
        self.raw.offset = offset;
        self.raw.headers = headers;
    }

    /// A source is about to read a record: the place to name if a serde or a timestamp extractor panics.
    pub(crate) fn begin_reading(&mut self, node: NodeIx, source: usize, offset: i64) {
        self.current = Some(node);
        self.source = Some(source);
        self.raw.offset = offset;
    }

    /// Lets go of the frame that the record in hand is part of.
    pub(crate) fn end(&mut self) {
        self.key = KeyBytes::Unknown;
        self.raw.key = None;
        self.raw.value = None;
        self.raw.headers = Headers::new();
    }

    pub(crate) fn source(&self) -> Option<&Source> {
        self.source.map(|s| &self.sources[s])
    }

    pub(crate) fn take_key_bytes(&mut self) -> KeyBytes {
        std::mem::take(&mut self.key)
    }

    pub(crate) fn put_back_key_bytes(&mut self, known: KeyBytes) {
        self.key = known;
    }

    /// The bytes of a key: those it was read from where that is known to be the same, else written anew.
    pub(crate) fn key_bytes<K: 'static>(
        &mut self,
        key: &K,
        serde: &SerdeRef<K>,
        topic: &str,
        headers: &Headers,
    ) -> Result<Bytes, BoxError> {
        let canonical = serde.canonical();
        match (&self.key, &self.raw.key) {
            (KeyBytes::Source(known), Some(bytes)) if canonical == Some(*known) => return Ok(bytes.clone()),
            (KeyBytes::Written(known, bytes), _) if canonical == Some(*known) => return Ok(bytes.clone()),
            _ => {}
        }
        self.scratch_key.clear();
        serde.write(key, &SerdeCx { topic, is_key: true, headers }, &mut self.scratch_key)?;
        let bytes = self.scratch_key.split().freeze();
        if let Some(serde) = canonical {
            // ORDER: nodes below see the same key until somebody takes these bytes away (`forward_rekeyed`).
            self.key = KeyBytes::Written(serde, bytes.clone());
        }
        Ok(bytes)
    }

    /// Writes a value into the task's scratch space; give the space back with [`return_scratch`](Self::return_scratch).
    pub(crate) fn write_value<V: 'static>(
        &mut self,
        value: &V,
        serde: &SerdeRef<V>,
        topic: &str,
        headers: &Headers,
    ) -> Result<BytesMut, BoxError> {
        let mut out = std::mem::take(&mut self.scratch_value);
        out.clear();
        match serde.write(value, &SerdeCx { topic, is_key: false, headers }, &mut out) {
            Ok(()) => Ok(out),
            Err(error) => {
                self.scratch_value = out;
                Err(error.into())
            }
        }
    }

    pub(crate) fn return_scratch(&mut self, scratch: BytesMut) {
        self.scratch_value = scratch;
    }

    // ---- punctuation ----

    pub(crate) fn schedule(
        &mut self,
        node: NodeIx,
        kind: PunctuationType,
        start: Option<Timestamp>,
        interval: i64,
    ) -> Token {
        let token = self.tokens.make();
        let anchored = start.is_some();
        match kind {
            PunctuationType::StreamTime => {
                let now = self.stream_time;
                self.stream_punctuations.add(token, node, start.unwrap_or(0), interval, anchored, now);
            }
            PunctuationType::WallClockTime => {
                let now = self.clock.wall_ms();
                self.wall_punctuations.add(
                    token,
                    node,
                    start.unwrap_or(now + interval),
                    interval,
                    anchored,
                    now,
                );
            }
        }
        token
    }

    pub(crate) fn cancel(&mut self, token: Token) {
        if !self.stream_punctuations.cancel(token) {
            self.wall_punctuations.cancel(token);
        }
    }

    // ---- the way out ----

    /// Sends a record. What a topic refuses is an error of that record, for the caller's policy; anything else that the
    /// collector reports (a lost lease, a closed client) ends the task's run, whatever the policies say.
    pub(crate) fn send(
        &mut self,
        topic: TopicIx,
        partition: Partition,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: Option<Timestamp>,
        headers: &Headers,
    ) -> Result<(), BoxError> {
        let sent = self.collector.send(topic, partition, key, value, timestamp, headers);
        sent.map_err(|error| self.refused(error))
    }

    /// Makes a topic known to the collector while records are on their way.
    pub(crate) fn register(&mut self, topic: &str) -> Result<TopicIx, BoxError> {
        let registered = self.collector.register(topic);
        registered.map_err(|error| self.refused(error.at_topic(topic)))
    }

    fn refused(&mut self, error: Error) -> BoxError {
        if error.kind() == ErrorKind::Production {
            return error.into();
        }
        let node = self.current_node().map(str::to_owned);
        self.fail(match node {
            Some(node) => error.at_node(node),
            None => error,
        });
        "the task has failed; it reports the error itself".into()
    }

    /// Takes over what another context of the same plan has counted.
    pub(crate) fn count_on(&mut self, before: &mut Self) {
        self.counts = std::mem::take(&mut before.counts);
        self.drops = std::mem::take(&mut before.drops);
        self.node_counts.iter().zip(&before.node_counts).for_each(|(count, before)| count.set(before.get()));
    }

    // ---- drops and failures ----

    /// Counts a record that goes no further.
    pub(crate) fn dropped(&mut self, node: NodeIx, reason: DropReason) {
        self.drops[node.0 as usize][reason as usize] += 1;
    }

    /// The drops so far: node, reason, count; none that are zero.
    pub(crate) fn drops(&self) -> impl Iterator<Item = (&str, DropReason, u64)> {
        self.drops.iter().zip(&self.node_names).flat_map(|(counts, node)| {
            DropReason::ALL
                .into_iter()
                .zip(counts)
                .filter(|(_, count)| **count > 0)
                .map(move |(reason, count)| (&**node, reason, *count))
        })
    }

    /// Ends the task's run with an error.
    pub(crate) fn fail(&mut self, error: Error) -> Stop {
        if self.failure.is_none() {
            self.failure = Some(error);
        }
        Stop
    }

    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// An error of user code, or of a serde it uses: asks the handler. `Ok` means that the record is dropped here.
    pub(crate) fn processing_error(&mut self, node: NodeIx, error: BoxError) -> Flow {
        self.record_error(node, ErrorStage::Processing, ErrorKind::Processing, "a node failed", error)
    }

    /// A record that cannot be written.
    pub(crate) fn production_error(&mut self, node: NodeIx, error: BoxError) -> Flow {
        self.record_error(
            node,
            ErrorStage::Production,
            ErrorKind::Production,
            "a record cannot be written",
            error,
        )
    }

    /// A source record that cannot be read; the record is the one in hand.
    pub(crate) fn deserialization_error(&mut self, node: NodeIx, error: BoxError) -> Flow {
        let message =
            "a record cannot be read; set deserialization.exception.handler to continue past such records";
        self.record_error(node, ErrorStage::Deserialization, ErrorKind::Serde, message, error)
    }

    fn record_error(
        &mut self,
        node: NodeIx,
        stage: ErrorStage,
        kind: ErrorKind,
        message: &str,
        error: BoxError,
    ) -> Flow {
        if self.has_failed() {
            return Err(Stop);
        }
        if is_corrupt(&*error) {
            // Not the record's fault: no policy may drop it (`ProcessorNode.process` rethrows a TaskCorruptedException).
            return Err(self.fail_at(node, ErrorKind::Store, "the state of the task is damaged", error));
        }
        let source = self.source.map(|s| &self.sources[s]);
        let context = ErrorContext {
            topic: source.map(|s| &*s.topic),
            partition: source.map_or(-1, |s| s.partition),
            offset: self.raw.offset,
            node: &self.node_names[node.0 as usize],
            task: self.task,
            timestamp: self.raw.timestamp,
            headers: &self.raw.headers,
            source_key: self.raw.key.as_ref(),
            source_value: self.raw.value.as_ref(),
        };
        let response = self.policies.handler.handle(stage, &error, &context);
        tracing::warn!(
            ?stage, ?response, task = %self.task, node = context.node, topic = context.topic,
            partition = context.partition, offset = context.offset, %error, "a record failed"
        );
        if let Some(topic) = &self.policies.dead_letter_topic {
            let headers = dead_letter_headers(&error, &java_exception(stage, &error), &context);
            let timestamp = Some(self.raw.timestamp).filter(|timestamp| *timestamp >= 0);
            let sent = match self.dead_letters {
                Some(ix) => Ok(ix),
                None => self.collector.register(topic),
            }
            .and_then(|ix| {
                self.dead_letters = Some(ix);
                let (key, value) = (self.raw.key.as_deref(), self.raw.value.as_deref());
                self.collector.send(ix, Partition::Default, key, value, timestamp, &headers)
            });
            if let Err(failed) = sent {
                return Err(self.fail(failed));
            }
        }
        match response {
            ErrorResponse::Continue => {
                self.dropped(
                    node,
                    match stage {
                        ErrorStage::Deserialization => DropReason::Deserialization,
                        ErrorStage::Processing => DropReason::Processing,
                        ErrorStage::Production => DropReason::Production,
                    },
                );
                Ok(())
            }
            ErrorResponse::Fail => Err(self.fail_at(node, kind, message, error)),
        }
    }

    /// Fails at a node, over the record in hand.
    fn fail_at(&mut self, node: NodeIx, kind: ErrorKind, message: &str, error: BoxError) -> Stop {
        let mut failed = Error::new(kind, message).at_node(self.node_name(node).to_owned());
        if is_corrupt(&*error) {
            failed = failed.with_class(ErrorClass::CorruptTask);
        }
        if let Some(source) = self.source() {
            failed =
                failed.at_topic(&*source.topic).at_partition(source.partition).at_offset(self.raw.offset);
        }
        self.fail(failed.because(error))
    }
}

/// Whether an error, or one of its causes, says that the state of the task cannot be trusted.
fn is_corrupt(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| {
        cause.downcast_ref::<Error>().is_some_and(|error| error.class() == ErrorClass::CorruptTask)
    })
}

/// A store, borrowed for one call at a time (`cx.store(&self.counts).get(&key)?`).
pub struct StoreRef<'a, S> {
    pub(crate) store: &'a S,
    pub(crate) cx: &'a mut TaskCx,
}

impl<S: std::fmt::Debug> std::fmt::Debug for StoreRef<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.store.fmt(f)
    }
}
