//! A task: its nodes, queues and stores, and the steps of its life.

use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use super::blueprint::{BuildCx, Children, ErasedPort, NodeKind, Plan};
use super::context::Source;
use super::counts::{NodeCount, SourceCount, TaskCounts};
use super::errors::{DropReason, ErrorPolicies};
use super::queue::{InputQueue, RawBatch};
use super::{Collector, Flow, Lifecycle, NodeIx, Stop, TaskCx};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Timestamp, TopicPartition};
use crate::store::{AnyStore, GlobalStores, StoreRow};
use crate::task_id::TaskId;

/// What a task is told from outside.
#[derive(Debug, Clone)]
pub(crate) struct TaskConfig {
    pub(crate) task: TaskId,
    pub(crate) application_id: Arc<str>,
    /// The partitions to read, by the topics' names in the cluster.
    pub(crate) partitions: Vec<TopicPartition>,
    pub(crate) policies: ErrorPolicies,
    /// The task's share of the record cache; 0 turns it off.
    pub(crate) cache_bytes: usize,
    /// How often closed windows are looked for, in milliseconds of the wall clock; 0 at every record.
    pub(crate) window_emit_interval: i64,
    /// What it may read beside its own stores.
    pub(crate) globals: GlobalStores,
}

/// An offset to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Committable {
    pub(crate) partition: TopicPartition,
    pub(crate) offset: i64,
    pub(crate) partition_time: Timestamp,
}

/// A running task. Not `Send`: it lives on the worker that built it.
pub(crate) struct Task {
    cx: TaskCx,
    queues: Vec<Box<dyn InputQueue>>,
    /// The head of each queue as far as it is known.
    heads: Vec<Option<Timestamp>>,
    lifecycles: Vec<(NodeIx, Rc<RefCell<dyn Lifecycle>>)>,
    stores: Vec<Rc<dyn AnyStore>>,
    flushers: HashMap<Arc<str>, Rc<RefCell<dyn Lifecycle>>>,
    cache_bytes: usize,
    commit_needed: bool,
    /// The position of each queue at the last commit.
    committed: Vec<Option<i64>>,
    /// What a roll-back goes back to.
    base: Base,
}

/// Where the inputs of a task were at the last commit, or when it started.
#[derive(Clone)]
struct Base {
    /// The position and the partition time of each queue.
    queues: Vec<(Option<i64>, Timestamp)>,
    stream_time: Timestamp,
    clocks: Vec<Timestamp>,
}

impl Task {
    /// Builds a task's nodes, queues and stores from the plan. Nothing runs yet.
    pub(crate) fn build(
        plan: &Plan,
        config: TaskConfig,
        collector: Box<dyn Collector>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        Self::over(plan, config, collector, clock, None)
    }

    /// Goes back to the last commit: what came after it was part of a transaction that is aborted. Nodes are built anew from
    /// the plan, because nobody knows what they have kept of their own, and are to be initialised; the stores stay, without
    /// what was not committed. Positions, partition times and stream time are those of the commit, and nothing waits in the
    /// queues. What was counted stays counted.
    pub(crate) fn roll_back(
        &mut self,
        plan: &Plan,
        config: TaskConfig,
        collector: Box<dyn Collector>,
        clock: Arc<dyn Clock>,
    ) -> Result<()> {
        self.stores.iter().for_each(|store| store.roll_back());
        let mut next = Self::over(plan, config, collector, clock, Some(self.stores.clone()))?;
        for (queue, (position, time)) in next.queues.iter_mut().zip(&self.base.queues) {
            if let Some(position) = position {
                queue.start_at(*position);
            }
            queue.restore_partition_time(*time);
        }
        next.cx.stream_time = self.base.stream_time;
        next.cx.clocks.set_times(&self.base.clocks);
        next.cx.count_on(&mut self.cx);
        (next.committed, next.base) = (self.committed.clone(), self.base.clone());
        *self = next;
        Ok(())
    }

    fn over(
        plan: &Plan,
        config: TaskConfig,
        collector: Box<dyn Collector>,
        clock: Arc<dyn Clock>,
        kept: Option<Vec<Rc<dyn AnyStore>>>,
    ) -> Result<Self> {
        let TaskConfig {
            task,
            application_id,
            mut partitions,
            policies,
            cache_bytes,
            window_emit_interval,
            globals,
        } = config;
        // Equal timestamps are taken in the order of (topic, partition).
        partitions.sort();
        let mut cx = TaskCx::new(task, application_id.clone(), collector, clock, policies);
        cx.window_emit_interval = window_emit_interval;
        cx.sources =
            partitions.into_iter().map(|p| Source { topic: p.topic, partition: p.partition }).collect();
        let topic_name = |topic: &str| plan.topic_name(&application_id, topic);

        let stores = match kept {
            Some(stores) => stores,
            None => build_stores(plan, &mut cx, cache_bytes > 0)?,
        };
        let by_name = stores.iter().map(|s| (s.name().clone(), s.clone())).collect();

        let mut lifecycles = Vec::new();
        let mut flushers = HashMap::new();
        let mut ports: Vec<Option<Rc<ErasedPort>>> = plan.nodes.iter().map(|_| None).collect();
        let mut queues: Vec<Option<Box<dyn InputQueue>>> = cx.sources.iter().map(|_| None).collect();
        let nodes: Vec<NodeIx> = plan.nodes.iter().map(|node| cx.add_node(&node.name)).collect();
        cx.counts.sources = vec![SourceCount::default(); cx.sources.len()];
        let counts: Vec<NodeCount> = nodes.iter().map(|node| cx.node_count(*node).clone()).collect();
        // ORDER: children are built before their parents, which hold the edges.
        for (at, node) in plan.nodes.iter().enumerate().rev() {
            let children = || {
                let child = |&c: &usize| {
                    let port = ports[c].clone();
                    let name: Rc<str> = (&*plan.nodes[c].name).into();
                    port.map(|port| (name, port, counts[c].clone())).ok_or_else(|| {
                        Error::new(
                            ErrorKind::Topology,
                            format!("{} stands before its parent", plan.nodes[c].name),
                        )
                    })
                };
                node.children.iter().map(child).collect::<Result<Vec<_>>>().map(Children)
            };
            let sources = cx.sources.clone();
            let mut build = BuildCx {
                task: &mut cx,
                node: nodes[at],
                stores: &by_name,
                connected: &node.stores,
                lifecycles: &mut lifecycles,
                flushers: &mut flushers,
                globals: &globals,
                topic_name: &topic_name,
            };
            match &node.kind {
                NodeKind::Processor { factory } => {
                    let port = factory(&mut build, children()?)?;
                    ports[at] = Some(Rc::new(port));
                }
                NodeKind::Source { topics, factory } => {
                    let topics: Vec<String> = topics.iter().map(|t| topic_name(t)).collect();
                    for (source, place) in sources.into_iter().enumerate() {
                        if topics.iter().any(|t| **t == *place.topic) {
                            queues[source] = Some(factory(&mut build, children()?, source, place.topic)?);
                        }
                    }
                }
            }
        }
        lifecycles.reverse();
        let queues: Vec<_> = queues
            .into_iter()
            .zip(&cx.sources)
            .map(|(queue, source)| {
                queue.ok_or_else(|| {
                    Error::new(ErrorKind::Topology, "no source node of the task reads this topic")
                        .at_topic(&*source.topic)
                        .at_partition(source.partition)
                })
            })
            .collect::<Result<_>>()?;
        let (heads, committed) = (vec![None; queues.len()], vec![None; queues.len()]);
        let commit_needed = false;
        let clocks = cx.clocks.times().to_vec();
        let base = Base { queues: vec![(None, -1); queues.len()], stream_time: cx.stream_time, clocks };
        Ok(Self {
            cx,
            queues,
            heads,
            lifecycles,
            stores,
            flushers,
            cache_bytes,
            commit_needed,
            committed,
            base,
        })
    }

    #[allow(dead_code, reason = "asked by tests")]
    pub(crate) fn id(&self) -> TaskId {
        self.cx.task
    }

    /// The partitions that the task reads, in the order of their queues.
    pub(crate) fn sources(&self) -> &[Source] {
        &self.cx.sources
    }

    pub(crate) fn stores(&self) -> &[Rc<dyn AnyStore>] {
        &self.stores
    }

    /// Records that went no further than a node, by reason.
    pub(crate) fn drops(&self) -> impl Iterator<Item = (&str, DropReason, u64)> {
        self.cx.drops()
    }

    /// What has been counted since the task was built.
    pub(crate) fn counts(&mut self) -> &mut TaskCounts {
        &mut self.cx.counts
    }

    /// The records that have reached each node.
    pub(crate) fn node_counts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.cx.node_counts()
    }

    /// The bytes that the task's record caches hold.
    pub(crate) fn cached_bytes(&self) -> usize {
        self.cx.cached_bytes
    }

    /// The offset of the next record to take from a partition.
    pub(crate) fn position(&self, source: usize) -> Option<i64> {
        self.queues[source].position()
    }

    pub(crate) fn stream_time(&self) -> Timestamp {
        self.cx.stream_time
    }

    /// Initialises the processors. The stores have been restored before.
    pub(crate) fn init(&mut self) -> Result<()> {
        let now = self.cx.clock.wall_ms();
        self.cx.begin_punctuation(now);
        let lifecycles = self.lifecycles.clone();
        self.guarded(|task| {
            for (_, node) in &lifecycles {
                node.borrow_mut().init(&mut task.cx)?;
            }
            Ok(())
        })
    }

    /// Adds records to the queue of a partition.
    pub(crate) fn push(&mut self, source: usize, batch: RawBatch) {
        self.queues[source].push(batch);
    }

    /// About how many records wait in a queue.
    pub(crate) fn queued(&self, source: usize) -> usize {
        self.queues[source].len()
    }

    /// Sets where reading a partition starts; records before that are passed over.
    pub(crate) fn start_at(&mut self, source: usize, offset: i64) {
        self.queues[source].start_at(offset);
        self.base.queues[source].0 = Some(offset);
    }

    /// Sets the task's share of the record cache. What is over it is flushed after the next record.
    pub(crate) fn share_cache(&mut self, bytes: usize) {
        self.cache_bytes = bytes;
    }

    /// Sets the partition time that was committed with a partition's offset.
    pub(crate) fn restore_partition_time(&mut self, source: usize, time: Timestamp) {
        self.queues[source].restore_partition_time(time);
        self.base.queues[source].1 = time;
    }

    /// Sets what a node had committed with the offsets, by the name it has for it.
    pub(crate) fn restore_clock(&mut self, name: &str, time: Timestamp) {
        self.cx.clocks.restore(name, time);
        self.base.clocks = self.cx.clocks.times().to_vec();
    }

    /// What nodes know of time, in the order in which they were built.
    #[cfg(test)]
    pub(crate) fn clocks(&self) -> &[Timestamp] {
        self.cx.clocks.times()
    }

    /// What nodes keep with the offsets of a commit.
    pub(crate) fn committed_clocks(&self) -> impl Iterator<Item = (&Arc<str>, Timestamp)> {
        self.cx.clocks.to_commit()
    }

    /// Whether there is nothing to process nor to find out: one input, which nothing has come for. (With several, what is
    /// empty keeps count of the time since.)
    pub(crate) fn is_at_rest(&self) -> bool {
        matches!((&self.queues[..], &self.heads[..]), ([queue], [None]) if queue.is_empty())
    }

    /// Looks at the head of every queue; the answer says which queues have one.
    pub(crate) fn heads(&mut self) -> Result<&[Option<Timestamp>]> {
        self.guarded(|task| {
            for (head, queue) in task.heads.iter_mut().zip(&mut task.queues) {
                if head.is_none() {
                    *head = queue.head_timestamp(&mut task.cx)?;
                }
            }
            Ok(())
        })?;
        Ok(&self.heads)
    }

    /// Processes up to `max` records, least timestamp first, as long as `go_on` holds between them and every queue but
    /// those that `may_be_empty` names has a head. Returns how many.
    pub(crate) fn process(
        &mut self,
        max: usize,
        may_be_empty: impl Fn(usize) -> bool,
        mut go_on: impl FnMut() -> bool,
    ) -> Result<usize> {
        self.heads()?;
        let mut done = 0;
        let mut run = |task: &mut Self| {
            while done < max && go_on() {
                let mut next: Option<(Timestamp, usize)> = None;
                for (source, head) in task.heads.iter().enumerate() {
                    match head {
                        Some(timestamp) if next.is_none_or(|(least, _)| *timestamp < least) => {
                            next = Some((*timestamp, source));
                        }
                        None if !may_be_empty(source) => return Ok(()),
                        _ => {}
                    }
                }
                let Some((_, source)) = next else { return Ok(()) };
                task.take_head(source)?;
                done += 1;
                if task.cx.stream_punctuations.next_due().is_some_and(|due| due <= task.cx.stream_time) {
                    return Ok(());
                }
            }
            Ok(())
        };
        let result = self.guarded(&mut run);
        self.cx.end();
        result.map(|()| done)
    }

    /// Processes the head of a queue, which `heads` has found, whatever the others hold.
    #[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "for the test driver"))]
    pub(crate) fn process_head_of(&mut self, source: usize) -> Result<()> {
        let result = self.guarded(|task| task.take_head(source));
        self.cx.end();
        result
    }

    fn take_head(&mut self, source: usize) -> Flow {
        self.queues[source].process_head(&mut self.cx)?;
        self.commit_needed = true;
        self.heads[source] = self.queues[source].head_timestamp(&mut self.cx)?;
        if self.cx.cached_bytes > self.cache_bytes {
            self.cx.counts.cache_overflows += 1;
            self.flush_caches_now()?;
        }
        Ok(())
    }

    /// Runs the stream-time punctuations that are due. Returns whether there were any.
    pub(crate) fn punctuate_stream_time(&mut self) -> Result<bool> {
        let now = self.cx.stream_time;
        if now < 0 || self.cx.stream_punctuations.next_due().is_none_or(|due| due > now) {
            return Ok(false);
        }
        self.punctuate(now, |cx| cx.stream_punctuations.take_due(now))
    }

    /// Runs the wall-clock punctuations that are due. Returns whether there were any.
    pub(crate) fn punctuate_wall_clock(&mut self) -> Result<bool> {
        if self.cx.wall_punctuations.next_due().is_none() {
            return Ok(false);
        }
        let now = self.cx.clock.wall_ms();
        self.punctuate(now, |cx| cx.wall_punctuations.take_due(now))
    }

    /// When the next wall-clock punctuation is due.
    pub(crate) fn next_wall_clock_punctuation(&self) -> Option<Timestamp> {
        self.cx.wall_punctuations.next_due()
    }

    fn punctuate(
        &mut self,
        now: Timestamp,
        mut due: impl FnMut(&mut TaskCx) -> Option<(NodeIx, super::punctuation::Token)>,
    ) -> Result<bool> {
        let mut any = false;
        let any_seen = &mut any;
        self.guarded(|task| {
            while let Some((node, token)) = due(&mut task.cx) {
                *any_seen = true;
                task.cx.counts.punctuations += 1;
                task.cx.begin_punctuation(now);
                let target = task.lifecycles.iter().find(|(n, _)| *n == node).map(|(_, node)| node.clone());
                if let Some(target) = target {
                    target.borrow_mut().punctuate(token, now, &mut task.cx)?;
                }
            }
            Ok(())
        })?;
        self.commit_needed |= any;
        Ok(any)
    }

    /// Whether something has happened since the last commit. Offsets that moved on over records that were dropped, or
    /// over control records, count (`StreamTask.commitNeeded`).
    pub(crate) fn commit_needed(&self) -> bool {
        let positions = self.queues.iter().map(|queue| queue.position());
        self.commit_needed || !positions.eq(self.committed.iter().copied())
    }

    /// Something was sent that no record has made.
    pub(crate) fn needs_commit(&mut self) {
        self.commit_needed = true;
    }

    /// Whether anything that was done since the last commit may have sent records, dead letters among them.
    pub(crate) fn is_dirty(&self) -> bool {
        let positions = self.queues.iter().map(|queue| queue.position());
        self.commit_needed || !positions.eq(self.base.queues.iter().map(|(position, _)| *position))
    }

    /// Whether a processor has asked for a commit.
    pub(crate) fn commit_requested(&self) -> bool {
        self.cx.commit_requested
    }

    /// First step of a commit: whatever record caches hold back goes to changelogs and downstream.
    pub(crate) fn flush_caches(&mut self) -> Result<()> {
        self.guarded(Self::flush_caches_now)
    }

    fn flush_caches_now(&mut self) -> Flow {
        // ORDER: as the stores were added, upstream before downstream, so that what one cache lets go reaches the next.
        for at in 0..self.stores.len() {
            let store = self.stores[at].clone();
            if !store.is_cached() {
                continue;
            }
            match self.flushers.get(store.name()).cloned() {
                Some(node) => node.borrow_mut().flush_cache(&mut self.cx)?,
                None => store.flush(&mut self.cx).map_err(|error| self.cx.fail(error))?,
            }
        }
        Ok(())
    }

    /// The offsets that a commit writes: of every partition that something was taken from.
    pub(crate) fn committable(&self) -> Vec<Committable> {
        let places = self.cx.sources.iter().zip(&self.queues);
        places
            .filter_map(|(source, queue)| {
                Some(Committable {
                    partition: TopicPartition::new(source.topic.clone(), source.partition),
                    offset: queue.position()?,
                    partition_time: queue.partition_time(),
                })
            })
            .collect()
    }

    /// Last step of a commit: the changes since the last one are the committed state. `next_offset` says where the changelog
    /// of a store ends, if that is known.
    pub(crate) fn post_commit(&mut self, next_offset: impl Fn(&dyn AnyStore) -> Option<i64>) -> Result<()> {
        for store in &self.stores {
            store.commit(next_offset(&**store))?;
        }
        self.commit_needed = false;
        self.cx.commit_requested = false;
        for (committed, queue) in self.committed.iter_mut().zip(&self.queues) {
            *committed = queue.position();
        }
        let queues = self.queues.iter().map(|queue| (queue.position(), queue.partition_time()));
        let clocks = self.cx.clocks.times().to_vec();
        self.base = Base { queues: queues.collect(), stream_time: self.cx.stream_time, clocks };
        Ok(())
    }

    /// Shows readers on other threads what has changed in the stores that they have asked for.
    pub(crate) fn publish(&self) -> Result<()> {
        self.stores.iter().try_for_each(|store| store.publish())
    }

    /// Closes the processors. The caller has committed before, or gives the task up.
    pub(crate) fn close(&mut self) -> Result<()> {
        let lifecycles = self.lifecycles.clone();
        self.guarded(|task| {
            for (_, node) in &lifecycles {
                node.borrow_mut().close(&mut task.cx)?;
            }
            Ok(())
        })
    }

    /// All rows of a store in key order.
    #[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "for the test driver"))]
    pub(crate) fn rows(&self, store: &str) -> Option<Result<Vec<StoreRow>>> {
        self.stores.iter().find(|s| &**s.name() == store).map(|s| s.rows())
    }

    /// Runs a step; a failure noted in the context becomes its error, a panic too. After either the task must be rebuilt.
    fn guarded(&mut self, step: impl FnOnce(&mut Self) -> Flow) -> Result<()> {
        let outcome = catch_unwind(AssertUnwindSafe(|| step(self)));
        match outcome {
            Ok(Ok(())) => match self.cx.take_failure() {
                None => Ok(()),
                // A node has swallowed the answer of forward(): the failure stands all the same.
                Some(error) => Err(error),
            },
            Ok(Err(Stop)) => Err(self
                .cx
                .take_failure()
                .unwrap_or_else(|| Error::new(ErrorKind::Processing, "a node stopped without a reason"))),
            Err(panic) => {
                let text = panic
                    .downcast_ref::<&str>()
                    .map(|s| (*s).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_else(|| "a panic without a text".to_owned());
                let mut error = Error::new(ErrorKind::Panic, "user code panicked").because(text);
                if let Some(node) = self.cx.current_node() {
                    error = error.at_node(node);
                }
                if let Some(source) = self.cx.source() {
                    error = error
                        .at_topic(&*source.topic)
                        .at_partition(source.partition)
                        .at_offset(self.cx.raw.offset);
                }
                Err(error)
            }
        }
    }
}

fn build_stores(plan: &Plan, cx: &mut TaskCx, cache: bool) -> Result<Vec<Rc<dyn AnyStore>>> {
    let build = |store: &Arc<dyn crate::store::StoreBlueprint>| {
        let topic = store.changelog_topic(&cx.application_id);
        let changelog = store.changelog().map(|_| cx.collector.register(&topic)).transpose()?;
        Ok(store.build(&topic, changelog, cache))
    };
    plan.stores.iter().map(build).collect()
}
