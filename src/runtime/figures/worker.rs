//! The figures of a worker and of its tasks: where the plain cells are read out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Counter, Gauge, Histogram, Registry, Scope, table};
use crate::client::produce::Producer;
use crate::config::Config;
use crate::record::Timestamp;
use crate::store::StoreMemory;
use crate::task::Task;
use crate::task_id::TaskId;

/// How old a figure may be.
const FOLD: Duration = Duration::from_secs(1);

/// What a worker does with its time.
#[derive(Debug, Clone, Copy)]
pub(in crate::runtime) enum Activity {
    Process,
    Punctuate,
    Commit,
    Idle,
}

/// The figures of one worker.
#[derive(Debug)]
pub(in crate::runtime) struct WorkerFigures {
    registry: Arc<Registry>,
    worker: String,
    scope: Scope,
    tasks: Gauge,
    restoring: Gauge,
    created: Counter,
    closed: Counter,
    processed: Counter,
    slice: Histogram,
    time: [(Duration, Counter); 4],
    punctuations: Counter,
    punctuate: Histogram,
    commits: Counter,
    postponed: Counter,
    rolled_back: Counter,
    commit: Histogram,
    batches: Counter,
    bytes: Counter,
    retries: Counter,
    errors: Counter,
    buffer: Gauge,
    /// Records and bytes of each topic that the worker writes to, in the order of its output.
    produced: Vec<(Counter, Counter)>,
    next_fold: Instant,
    summary: Option<Summary>,
    counted: Totals,
}

/// When to log what was done since the last time (`StreamThread`'s summary).
#[derive(Debug)]
struct Summary {
    interval: Duration,
    next: Instant,
    last: Totals,
}

#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    processed: u64,
    punctuations: u64,
    commits: u64,
}

impl WorkerFigures {
    pub(in crate::runtime) fn new(
        registry: &Arc<Registry>,
        worker: usize,
        config: &Config,
        wall_ms: i64,
        now: Instant,
    ) -> Self {
        let worker = worker.to_string();
        let mut scope = Scope::new(registry, vec![("worker", worker.clone())]);
        scope.gauge(&table::WORKER_START, &[]).set(seconds(wall_ms));
        let time = ["process", "punctuate", "commit", "idle"]
            .map(|activity| (Duration::ZERO, scope.counter(&table::WORKER_TIME, &[("activity", activity)])));
        let summary = config.log_summary_interval().map(|interval| Summary {
            interval,
            next: now + interval,
            last: Totals::default(),
        });
        Self {
            registry: registry.clone(),
            worker,
            tasks: scope.gauge(&table::WORKER_TASKS, &[]),
            restoring: scope.gauge(&table::WORKER_RESTORING, &[]),
            created: scope.counter(&table::WORKER_TASKS_CREATED, &[]),
            closed: scope.counter(&table::WORKER_TASKS_CLOSED, &[]),
            processed: scope.counter(&table::WORKER_PROCESSED, &[]),
            slice: scope.histogram(&table::WORKER_SLICE, &[]),
            time,
            punctuations: scope.counter(&table::WORKER_PUNCTUATIONS, &[]),
            punctuate: scope.histogram(&table::WORKER_PUNCTUATE, &[]),
            commits: scope.counter(&table::WORKER_COMMITS, &[]),
            postponed: scope.counter(&table::WORKER_COMMITS_POSTPONED, &[]),
            rolled_back: scope.counter(&table::WORKER_ROLLED_BACK, &[]),
            commit: scope.histogram(&table::WORKER_COMMIT, &[]),
            batches: scope.counter(&table::PRODUCER_BATCHES, &[]),
            bytes: scope.counter(&table::PRODUCER_BYTES, &[]),
            retries: scope.counter(&table::PRODUCER_RETRIES, &[]),
            errors: scope.counter(&table::PRODUCER_ERRORS, &[]),
            buffer: scope.gauge(&table::PRODUCER_BUFFER, &[]),
            produced: Vec::new(),
            scope,
            next_fold: now,
            summary,
            counted: Totals::default(),
        }
    }

    /// The figures of a task that begins on this worker.
    pub(in crate::runtime) fn task(&mut self, id: TaskId, task: &Task) -> TaskFigures {
        self.created.add(1);
        TaskFigures::new(&self.registry, &self.worker, id, task)
    }

    pub(in crate::runtime) fn closed(&mut self) {
        self.closed.add(1);
    }

    /// A round over all tasks has ended.
    pub(in crate::runtime) fn processed(&mut self, records: usize, took: Duration) {
        self.spent(Activity::Process, took);
        if records > 0 {
            self.counted.processed += records as u64;
            #[allow(clippy::cast_precision_loss, reason = "a slice is small")]
            self.slice.record(records as f64);
        }
    }

    pub(in crate::runtime) fn punctuated(&mut self, calls: u64, took: Duration) {
        self.spent(Activity::Punctuate, took);
        if calls > 0 {
            self.counted.punctuations += calls;
            self.punctuate.took(took);
        }
    }

    pub(in crate::runtime) fn committed(&mut self, took: Duration) {
        self.counted.commits += 1;
        self.commit.took(took);
    }

    pub(in crate::runtime) fn postponed(&mut self) {
        self.postponed.add(1);
    }

    pub(in crate::runtime) fn rolled_back(&mut self) {
        self.rolled_back.add(1);
    }

    pub(in crate::runtime) fn spent(&mut self, activity: Activity, took: Duration) {
        self.time[activity as usize].0 += took;
    }

    /// When the figures are to be read out again.
    pub(in crate::runtime) fn next_fold(&self) -> Instant {
        self.next_fold
    }

    /// Reads out what the worker has counted. `topics` is what it has written to each topic, always in the same order.
    pub(in crate::runtime) fn fold<'a>(
        &mut self,
        now: Instant,
        (tasks, restoring): (usize, usize),
        producer: &Producer,
        topics: impl Iterator<Item = (&'a str, u64, u64)>,
    ) {
        self.next_fold = now + FOLD;
        self.tasks.count(tasks as u64);
        self.restoring.count(restoring as u64);
        let Totals { processed, punctuations, commits } = self.counted;
        self.processed.follow(processed);
        self.punctuations.follow(punctuations);
        self.commits.follow(commits);
        for (time, counter) in &mut self.time {
            counter.follow(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        }
        let counts = producer.counts();
        self.batches.follow(counts.batches);
        self.bytes.follow(counts.bytes);
        self.retries.follow(counts.retries);
        self.errors.follow(counts.failures);
        self.buffer.count((producer.open_bytes() + producer.in_flight_bytes()) as u64);
        for (at, (topic, records, bytes)) in topics.enumerate() {
            if at == self.produced.len() {
                let label = [("topic", topic)];
                let records = self.scope.counter(&table::TOPIC_RECORDS_PRODUCED, &label);
                self.produced.push((records, self.scope.counter(&table::TOPIC_BYTES_PRODUCED, &label)));
            }
            self.produced[at].0.follow(records);
            self.produced[at].1.follow(bytes);
        }
        self.summarize(now);
    }

    fn summarize(&mut self, now: Instant) {
        let Some(summary) = self.summary.as_mut().filter(|summary| now >= summary.next) else { return };
        let (now_at, before) = (self.counted, summary.last);
        tracing::info!(
            processed = now_at.processed - before.processed,
            punctuations = now_at.punctuations - before.punctuations,
            commits = now_at.commits - before.commits,
            "since the last summary"
        );
        summary.last = now_at;
        summary.next = now + summary.interval;
    }
}

/// What the runtime knows of a partition that a task reads.
#[derive(Debug, Default)]
pub(in crate::runtime) struct Reach {
    /// The bytes of the batches that came.
    pub(in crate::runtime) fetched_bytes: u64,
    /// Where the broker said that the partition ends.
    pub(in crate::runtime) end: Option<i64>,
}

/// The figures of one task on its worker.
#[derive(Debug)]
pub(in crate::runtime) struct TaskFigures {
    /// Its end is theirs.
    _scope: Scope,
    processed: Counter,
    process: Histogram,
    latency: Histogram,
    lateness: Counter,
    lateness_max: Gauge,
    enforced: Counter,
    punctuations: Counter,
    commits: Counter,
    stream_time: Gauge,
    buffered: Gauge,
    cache: Gauge,
    state_rows: Gauge,
    state_open: Gauge,
    state_runs: Gauge,
    restored: Counter,
    restore_remaining: Gauge,
    topics: Vec<TopicFigures>,
    partitions: Vec<PartitionFigures>,
    nodes: Vec<Counter>,
    stores: Vec<StoreFigures>,
}

/// The figures of one topic; it has one partition for each of these queues.
#[derive(Debug)]
struct TopicFigures {
    queues: Vec<usize>,
    records: Counter,
    bytes: Counter,
}

#[derive(Debug)]
struct PartitionFigures {
    lag: Gauge,
    fetched: Counter,
}

#[derive(Debug)]
struct StoreFigures {
    entries: Gauge,
    iterators: Gauge,
    gets: Counter,
    puts: Counter,
    deletes: Counter,
    scans: Counter,
    restored: Counter,
    hits_and_misses: Option<(Counter, Counter)>,
}

impl TaskFigures {
    fn new(registry: &Arc<Registry>, worker: &str, id: TaskId, task: &Task) -> Self {
        let mut scope = Scope::new(registry, vec![("worker", worker.to_owned()), ("task", id.to_string())]);
        let mut topics: Vec<TopicFigures> = Vec::new();
        let mut partitions = Vec::new();
        for (queue, source) in task.sources().iter().enumerate() {
            match topics.iter_mut().find(|t| task.sources()[t.queues[0]].topic == source.topic) {
                Some(known) => known.queues.push(queue),
                None => topics.push(TopicFigures {
                    queues: vec![queue],
                    records: scope.counter(&table::TOPIC_RECORDS_CONSUMED, &[("topic", &source.topic)]),
                    bytes: scope.counter(&table::TOPIC_BYTES_CONSUMED, &[("topic", &source.topic)]),
                }),
            }
            let labels = [("topic", &*source.topic), ("partition", &*source.partition.to_string())];
            partitions.push(PartitionFigures {
                lag: scope.gauge(&table::PARTITION_LAG, &labels),
                fetched: scope.counter(&table::PARTITION_FETCHED, &labels),
            });
        }
        let nodes = task
            .node_counts()
            .map(|(node, _)| scope.counter(&table::NODE_PROCESSED, &[("node", node)]))
            .collect();
        let store = |store: &std::rc::Rc<dyn crate::store::AnyStore>| {
            let label = [("store", &**store.name())];
            StoreFigures {
                entries: scope.gauge(&table::STORE_ENTRIES, &label),
                iterators: scope.gauge(&table::STORE_ITERATORS, &label),
                gets: scope.counter(&table::STORE_GETS, &label),
                puts: scope.counter(&table::STORE_PUTS, &label),
                deletes: scope.counter(&table::STORE_DELETES, &label),
                scans: scope.counter(&table::STORE_SCANS, &label),
                restored: scope.counter(&table::STORE_RESTORED, &label),
                hits_and_misses: store.is_cached().then(|| {
                    (scope.counter(&table::CACHE_HITS, &label), scope.counter(&table::CACHE_MISSES, &label))
                }),
            }
        };
        let stores = task.stores().iter().map(store).collect();
        Self {
            processed: scope.counter(&table::TASK_PROCESSED, &[]),
            process: scope.histogram(&table::TASK_PROCESS, &[]),
            latency: scope.histogram(&table::TASK_LATENCY, &[]),
            lateness: scope.counter(&table::TASK_LATENESS, &[]),
            lateness_max: scope.gauge(&table::TASK_LATENESS_MAX, &[]),
            enforced: scope.counter(&table::TASK_ENFORCED, &[]),
            punctuations: scope.counter(&table::TASK_PUNCTUATIONS, &[]),
            commits: scope.counter(&table::TASK_COMMITS, &[]),
            stream_time: scope.gauge(&table::TASK_STREAM_TIME, &[]),
            buffered: scope.gauge(&table::TASK_BUFFERED, &[]),
            cache: scope.gauge(&table::TASK_CACHE, &[]),
            state_rows: scope.gauge(&table::TASK_STATE_ROWS, &[]),
            state_open: scope.gauge(&table::TASK_STATE_OPEN, &[]),
            state_runs: scope.gauge(&table::TASK_STATE_RUNS, &[]),
            restored: scope.counter(&table::TASK_RESTORED, &[]),
            restore_remaining: scope.gauge(&table::TASK_RESTORE_REMAINING, &[]),
            topics,
            partitions,
            nodes,
            stores,
            _scope: scope,
        }
    }

    /// A slice of records has been processed; `oldest` is the least of their timestamps.
    pub(in crate::runtime) fn processed(&mut self, took: Duration, oldest: Timestamp, wall_ms: i64) {
        self.process.took(took);
        if oldest <= wall_ms {
            self.latency.record(seconds(wall_ms - oldest));
        }
    }

    /// A slice went on although an input had nothing.
    pub(in crate::runtime) fn enforced(&mut self) {
        self.enforced.add(1);
    }

    pub(in crate::runtime) fn committed(&mut self) {
        self.commits.add(1);
    }

    /// Reads out what the task and its stores have counted. `reaches` is in the order of the task's queues, and empty while
    /// it is restored; `remaining` is what is left of that.
    pub(in crate::runtime) fn fold<'a>(
        &mut self,
        task: &mut Task,
        reaches: impl Iterator<Item = &'a Reach>,
        remaining: i64,
    ) {
        let counts = task.counts();
        self.lateness.follow(counts.lateness);
        self.lateness_max.set(whole(std::mem::take(&mut counts.lateness_max)));
        self.punctuations.follow(counts.punctuations);
        let mut processed = 0;
        for topic in &mut self.topics {
            let of = |count: fn(&crate::task::counts::SourceCount) -> u64| -> u64 {
                topic.queues.iter().map(|queue| count(&counts.sources[*queue])).sum()
            };
            let (records, bytes) = (of(|s| s.records), of(|s| s.bytes));
            processed += records;
            topic.records.follow(records);
            topic.bytes.follow(bytes);
        }
        self.processed.follow(processed);
        self.stream_time.set(seconds(task.stream_time().max(0)));
        self.cache.count(task.cached_bytes() as u64);
        let mut buffered = 0;
        for (queue, (reach, partition)) in reaches.zip(&mut self.partitions).enumerate() {
            buffered += task.queued(queue);
            partition.fetched.follow(reach.fetched_bytes);
            if let (Some(end), Some(position)) = (reach.end, task.position(queue)) {
                partition.lag.set(whole((end - position).max(0)));
            }
        }
        self.buffered.count(buffered as u64);
        for (counter, (_, count)) in self.nodes.iter_mut().zip(task.node_counts()) {
            counter.follow(count);
        }
        let memory = task.stores().iter().fold(StoreMemory::default(), |sum, store| sum + store.memory());
        self.state_rows.count(memory.rows as u64);
        self.state_open.count(memory.open as u64);
        self.state_runs.count(memory.runs as u64);
        let mut restored = 0;
        for (figures, store) in self.stores.iter_mut().zip(task.stores()) {
            let counts = store.counts();
            restored += counts.restored.get();
            figures.entries.count(store.approximate_len());
            figures.iterators.count(counts.open_iterators.get());
            figures.gets.follow(counts.gets.get());
            figures.puts.follow(counts.puts.get());
            figures.deletes.follow(counts.deletes.get());
            figures.scans.follow(counts.scans.get());
            figures.restored.follow(counts.restored.get());
            if let Some((hits, misses)) = &mut figures.hits_and_misses {
                hits.follow(counts.hits.get());
                misses.follow(counts.misses.get());
            }
        }
        self.restored.follow(restored);
        self.restore_remaining.set(whole(remaining.max(0)));
    }
}

/// Milliseconds as seconds.
#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// A whole number as it is.
#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
fn whole(count: i64) -> f64 {
    count as f64
}
