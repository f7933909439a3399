//! The reader of global stores: one thread of an instance reads all partitions of their topics, to the end before any task
//! begins, and on from there (`GlobalStreamThread`).
//!
//! The stores are in memory, and every start reads their topics from the beginning. Nothing is committed, and no time is
//! aligned: tasks see what has been read so far. What goes wrong with it ends the application, as in Kafka Streams.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::app::AppShared;
use super::message::ToCoordinator;
use super::uncaught::UncaughtErrorResponse;
use super::{input, settings};
use crate::client::Cluster;
use crate::client::admin::{Admin, OffsetSpec};
use crate::client::fetch::{FetchEvent, FetchOptions, Fetcher};
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Headers, Timestamp, TopicPartition};
use crate::store::GlobalStores;
use crate::task::blueprint::{NodeKind, Plan};
use crate::task::errors::DropReason;
use crate::task::{Collector, Partition, Task, TaskConfig, TopicIx};
use crate::task_id::TaskId;

/// How many records are processed before the stores are shown and the mailbox is looked into.
const SLICE: usize = 1000;

/// The task that fills the stores is none of the group's.
const NO_TASK: TaskId = TaskId { subtopology: -1, partition: -1 };

enum ToGlobal {
    Fetched(FetchEvent),
    Stop,
}

/// The thread, as the coordinator holds it; it ends when this is dropped.
pub(super) struct Global {
    inbox: Sender<ToGlobal>,
    thread: Option<std::thread::JoinHandle<()>>,
    _fetcher: Fetcher,
}

impl Drop for Global {
    fn drop(&mut self) {
        let _ = self.inbox.send(ToGlobal::Stop);
        if let Some(thread) = self.thread.take() {
            // It ends after the slice in hand; a panic in it was said before.
            let _ = thread.join();
        }
    }
}

/// A partition to read: where from, and where it ended when reading began.
struct Part {
    at: TopicPartition,
    begin: i64,
    end: i64,
}

/// Nothing leaves a processor that fills a store.
struct Nowhere;

impl Collector for Nowhere {
    fn register(&mut self, topic: &str) -> Result<TopicIx> {
        Err(Error::new(ErrorKind::Topology, "what fills a global store writes to no topic").at_topic(topic))
    }

    fn partitions(&self, _: TopicIx) -> i32 {
        0
    }

    fn send(
        &mut self,
        _: TopicIx,
        _: Partition,
        _: Option<&[u8]>,
        _: Option<&[u8]>,
        _: Option<Timestamp>,
        _: &Headers,
    ) -> Result<()> {
        Err(Error::new(ErrorKind::Topology, "what fills a global store writes to no topic"))
    }
}

/// Fills the global stores of the topology, if it has any, and lets the tasks see them.
pub(super) async fn start(
    shared: &Arc<AppShared>,
    cluster: &Cluster,
    own: &UnboundedSender<ToCoordinator>,
) -> Result<Option<Global>> {
    let Some(plan) = &shared.topology.inner.global else { return Ok(None) };
    let fetch = FetchOptions {
        isolation: settings::live_fetch(&shared.config).isolation,
        ..settings::bulk_fetch(&shared.config)
    };
    let parts = parts(cluster, plan, &fetch).await?;
    let (inbox, mail) = channel();
    let events = inbox.clone();
    let on_event = Arc::new(move |event| drop(events.send(ToGlobal::Fetched(event))));
    let fetcher = Fetcher::new(cluster, fetch, on_event);
    for part in &parts {
        fetcher.assign(part.at.clone(), part.begin, 0);
    }
    let (full, filled) = oneshot::channel();
    let (work, own) = (shared.clone(), own.clone());
    let thread = std::thread::Builder::new()
        .name(format!("{}-global", shared.config.application_id()))
        .spawn(move || {
            let run = || match Filling::build(&work, parts) {
                Ok(filling) => filling.run(&mail, full),
                Err(error) => {
                    // Nobody waits any more if the application was stopped meanwhile.
                    let _ = full.send(Err(error));
                    Ok(())
                }
            };
            let ended = catch_unwind(AssertUnwindSafe(run))
                .unwrap_or_else(|_| Err(Error::new(ErrorKind::Panic, "the global thread panicked")));
            if let Err(error) = ended {
                let response = UncaughtErrorResponse::ShutdownClient;
                let _ = own.send(ToCoordinator::Failed { error, response });
            }
        })
        .map_err(|error| Error::new(ErrorKind::Io, "the global thread cannot be started").because(error))?;
    let global = Global { inbox, thread: Some(thread), _fetcher: fetcher };
    match filled.await {
        Ok(stores) => {
            let _ = shared.globals.set(stores?);
            Ok(Some(global))
        }
        // It has said why; the application ends with that.
        Err(_) => Err(Error::new(ErrorKind::Processing, "the global stores could not be filled")),
    }
}

/// The partitions of the topics that a plan reads.
async fn parts(cluster: &Cluster, plan: &Plan, fetch: &FetchOptions) -> Result<Vec<Part>> {
    let topics = plan.nodes.iter().filter_map(|node| match &node.kind {
        NodeKind::Source { topics, .. } => Some(topics),
        NodeKind::Processor { .. } => None,
    });
    let mut at = Vec::new();
    for topic in topics.flatten() {
        let count = cluster.partitions(topic).await?;
        at.extend((0..count).map(|partition| TopicPartition::new(topic.clone(), partition)));
    }
    let admin = Admin::new(cluster);
    let list = async |spec: OffsetSpec| {
        let of: Vec<_> = at.iter().map(|at| (at.clone(), spec)).collect();
        let offsets = admin.list_offsets(&of, fetch.isolation).await?;
        offsets.into_iter().map(|offset| Ok(offset?.offset.unwrap_or(0))).collect::<Result<Vec<_>>>()
    };
    let (begins, ends) = (list(OffsetSpec::Earliest).await?, list(OffsetSpec::Latest).await?);
    let parts = at.into_iter().zip(begins).zip(ends);
    Ok(parts.map(|((at, begin), end)| Part { at, begin, end }).collect())
}

type Full = oneshot::Sender<Result<GlobalStores>>;

/// What the thread has: a task of its own kind, which reads every partition and keeps the stores.
struct Filling {
    task: Task,
    /// Until which offset each source must be read before the tasks begin.
    ends: Vec<i64>,
    stores: GlobalStores,
    /// The drops that were counted for the application, by node and reason.
    dropped: HashMap<(String, DropReason), u64>,
    shared: Arc<AppShared>,
}

impl Filling {
    fn build(shared: &Arc<AppShared>, parts: Vec<Part>) -> Result<Self> {
        let Some(plan) = &shared.topology.inner.global else {
            return Err(Error::new(ErrorKind::Topology, "the topology has no global stores"));
        };
        let config = TaskConfig {
            task: NO_TASK,
            application_id: shared.config.application_id().into(),
            partitions: parts.iter().map(|part| part.at.clone()).collect(),
            policies: shared.policies.clone(),
            cache_bytes: 0,
            window_emit_interval: 0,
            globals: GlobalStores::default(),
        };
        let mut task = Task::build(plan, config, Box::new(Nowhere), shared.clock.clone())?;
        let mut ends = vec![0; parts.len()];
        for part in parts {
            let is_of = |source: &crate::task::context::Source| {
                *source.topic == *part.at.topic && source.partition == part.at.partition
            };
            if let Some(source) = task.sources().iter().position(is_of) {
                task.start_at(source, part.begin);
                ends[source] = part.end;
            }
        }
        let stores = GlobalStores::of(&plan.stores, task.stores(), shared.config.application_id());
        task.init()?;
        Ok(Self { task, ends, stores, dropped: HashMap::new(), shared: shared.clone() })
    }

    /// Reads until it is told to stop. What goes wrong before the stores are full is said to whoever waits for them.
    fn run(mut self, mail: &Receiver<ToGlobal>, full: Full) -> Result<()> {
        let mut full = Some(full);
        match (self.follow(mail, &mut full), full) {
            (Err(error), Some(full)) => {
                let _ = full.send(Err(error));
                Ok(())
            }
            (ended, _) => ended,
        }
    }

    fn follow(&mut self, mail: &Receiver<ToGlobal>, full: &mut Option<Full>) -> Result<()> {
        self.show(full)?;
        while let Ok(message) = mail.recv() {
            for message in std::iter::once(message).chain(mail.try_iter()) {
                match message {
                    ToGlobal::Stop => return self.task.close(),
                    ToGlobal::Fetched(event) => self.fetched(event)?,
                }
            }
            while self.task.process(SLICE, |_| true, || true)? > 0 {
                self.show(full)?;
            }
            self.show(full)?;
        }
        self.task.close()
    }

    fn fetched(&mut self, event: FetchEvent) -> Result<()> {
        let source = |task: &Task, at: &TopicPartition| {
            task.sources().iter().position(|s| *s.topic == *at.topic && s.partition == at.partition)
        };
        match event {
            FetchEvent::Data(fetched) => {
                if let Some(source) = source(&self.task, &fetched.at) {
                    self.task.push(source, input::raw_batch(fetched));
                }
                Ok(())
            }
            FetchEvent::Progress { at, next_offset, .. } => {
                if let Some(source) = source(&self.task, &at)
                    && self.task.queued(source) == 0
                {
                    self.task.start_at(source, next_offset);
                }
                Ok(())
            }
            FetchEvent::Error { error, .. } if error.is_retriable() => {
                tracing::warn!(?error, "a global store's topic cannot be fetched yet");
                Ok(())
            }
            // Records are gone that were not read: only a new start can tell which rows are left.
            FetchEvent::Error { at, error, .. } => Err(error.at_topic(&*at.topic).at_partition(at.partition)),
        }
    }

    /// Lets readers see what has been read, and the tasks begin once everything has that was there at the start.
    fn show(&mut self, full: &mut Option<Full>) -> Result<()> {
        self.task.post_commit(|_| None)?;
        self.task.publish()?;
        for (node, reason, count) in self.task.drops() {
            let known = self.dropped.entry((node.to_owned(), reason)).or_default();
            let more = count - std::mem::replace(known, count);
            if more > 0 {
                self.shared.dropped(node, reason, more);
            }
        }
        let is_read = |(source, end): (usize, &i64)| {
            *end == 0 || self.task.position(source).is_some_and(|position| position >= *end)
        };
        if full.is_some()
            && self.ends.iter().enumerate().all(is_read)
            && let Some(full) = full.take()
        {
            let _ = full.send(Ok(self.stores.clone()));
        }
        Ok(())
    }
}
