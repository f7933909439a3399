//! Windows and aborts: what a transaction took back is as if it had never been.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::dsl::{
    BufferConfig, EmitStrategy, Hopping, KGroupedStream, Session, Sliding, Suppressed, Tumbling,
};
use crate::store::StoreRow;
use crate::topology::Topology;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn grouped(b: &StreamsBuilder) -> KGroupedStream<String, String> {
    b.stream("in").group_by_key(())
}

fn joined(a: String, b: String) -> String {
    a + "," + &b
}

const ON_CLOSE: EmitStrategy = EmitStrategy::OnWindowClose;

type Build = fn(&StreamsBuilder);

/// Each with its name; the windows are small against the times of the records, so that rows and clocks grow old.
const TOPOLOGIES: &[(&str, Build)] = &[
    ("hopping", |b| {
        let windows = grouped(b).windowed_by(Hopping::of(ms(40), ms(15)).grace(ms(10)));
        windows.reduce("s", joined).to_stream().to("out");
    }),
    ("sliding", |b| {
        let windows = grouped(b).windowed_by(Sliding::of(ms(20)).grace(ms(15)));
        windows.reduce("s", joined).to_stream().to("out");
    }),
    ("session", |b| {
        let windows = grouped(b).windowed_by(Session::with_gap(ms(15)).grace(ms(10)));
        windows.reduce("s", joined).to_stream().to("out");
    }),
    ("final hopping", |b| {
        let windows = grouped(b).windowed_by(Hopping::of(ms(40), ms(15)).grace(ms(10)));
        windows.emit_strategy(ON_CLOSE).reduce("s", joined).to_stream().to("out");
    }),
    ("final sliding", |b| {
        let windows = grouped(b).windowed_by(Sliding::of(ms(20)).grace(ms(15)));
        windows.emit_strategy(ON_CLOSE).reduce("s", joined).to_stream().to("out");
    }),
    ("final session", |b| {
        let windows = grouped(b).windowed_by(Session::with_gap(ms(15)).grace(ms(10)));
        windows.emit_strategy(ON_CLOSE).reduce("s", joined).to_stream().to("out");
    }),
    ("suppressed", |b| {
        let windows = grouped(b).windowed_by(Tumbling::of(ms(30)).grace(ms(10)));
        let table = windows.reduce("s", joined);
        let final_results = Suppressed::until_window_closes(BufferConfig::unbounded());
        table.suppress(final_results.named("final")).to_stream().to("out");
    }),
    ("rate limited", |b| {
        let limit = Suppressed::until_time_limit(ms(25), BufferConfig::max_records(3));
        grouped(b).reduce("s", joined).suppress(limit.named("limit")).to_stream().to("out");
    }),
];

#[derive(Debug, Clone)]
enum Step {
    Record(u8, i64),
    Commit,
    Abort,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Time goes on, with records that are late.
    let record = (0u8..3, -60i64..60).prop_map(|(key, late)| Step::Record(key, late));
    let step = prop_oneof![8 => record, 2 => Just(Step::Commit), 2 => Just(Step::Abort)];
    proptest::collection::vec(step, 1..60)
}

/// What a run has left behind.
#[derive(Debug, PartialEq)]
struct Left {
    sent: Vec<Sent>,
    rows: Vec<(Arc<str>, Vec<StoreRow>)>,
    committed: Vec<(Arc<str>, Timestamp)>,
    clocks: Vec<Timestamp>,
    stream_time: Timestamp,
}

struct Worker {
    topology: Topology,
    config: TaskConfig,
    task: Task,
    out: Capture,
    clock: Arc<ManualClock>,
}

impl Worker {
    fn start(build: Build, cache_bytes: usize) -> Self {
        let builder = StreamsBuilder::new();
        build(&builder);
        let topology = builder.allow_generated_names().build().unwrap();
        let config = TaskConfig {
            task: TaskId { subtopology: 0, partition: 0 },
            application_id: "app".into(),
            partitions: vec![TopicPartition::new("in", 0)],
            policies: ErrorPolicies {
                handler: Arc::new(FAIL),
                dead_letter_topic: None,
                timestamps: crate::config::TimestampPolicy::Fail,
            },
            cache_bytes,
            window_emit_interval: 0,
            globals: Default::default(),
        };
        let (out, clock) = (Capture::default(), Arc::new(ManualClock::at(0)));
        let (sink, plan) = (Box::new(out.clone()), &topology.inner.whole);
        let mut task = Task::build(plan, config.clone(), sink, clock.clone()).unwrap();
        task.init().unwrap();
        task.start_at(0, 0);
        Self { topology, config, task, out, clock }
    }

    fn take(&mut self, records: &[(i64, String, i64)]) {
        let end = records.last().map_or(0, |(offset, ..)| offset + 1);
        let records: Vec<_> = records
            .iter()
            .map(|(at, key, time)| Ok(raw((*at, Some(key), Some(&at.to_string()), *time))))
            .collect();
        let count = records.len();
        self.task.push(0, RawBatch { records: Box::new(records.into_iter()), next_offset: end, count });
        while self.task.process(usize::MAX, |_| true, || true).unwrap() > 0 {}
    }

    fn commit(&mut self) -> usize {
        self.task.flush_caches().unwrap();
        self.task.post_commit(|_| None).unwrap();
        self.out.0.borrow().sent.len()
    }

    fn abort(&mut self, committed: usize) {
        self.out.0.borrow_mut().sent.truncate(committed);
        let (sink, config) = (Box::new(self.out.clone()), self.config.clone());
        let plan = &self.topology.inner.whole;
        self.task.roll_back(plan, config, sink, self.clock.clone()).unwrap();
        self.task.init().unwrap();
    }

    fn left(self) -> Left {
        let stores = self.task.stores().iter();
        Left {
            rows: stores.map(|store| (store.name().clone(), store.rows().unwrap())).collect(),
            committed: self.task.committed_clocks().map(|(name, time)| (name.clone(), time)).collect(),
            clocks: self.task.clocks().to_vec(),
            stream_time: self.task.stream_time(),
            sent: std::mem::take(&mut self.out.0.borrow_mut().sent),
        }
    }
}

/// Runs the steps, with their aborts or without.
fn run(build: Build, cache_bytes: usize, steps: &[Step], aborts: bool) -> Left {
    let mut worker = Worker::start(build, cache_bytes);
    let (mut open, mut committed, mut offset, mut now) = (Vec::new(), 0, 0, 60);
    for step in steps {
        match step {
            Step::Record(key, late) => {
                now += 9;
                let record = (offset, format!("k{key}"), (now + late).max(0));
                offset += 1;
                worker.take(std::slice::from_ref(&record));
                open.push(record);
            }
            Step::Commit => {
                committed = worker.commit();
                open.clear();
            }
            Step::Abort if aborts && !open.is_empty() => {
                worker.abort(committed);
                // The records are fetched again.
                worker.take(&open);
            }
            Step::Abort => {}
        }
    }
    worker.commit();
    worker.left()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn an_abort_is_as_if_it_had_never_been(steps in steps()) {
        for (name, build) in TOPOLOGIES {
            for cache_bytes in [0, 10 << 20] {
                let (with, without) = (run(*build, cache_bytes, &steps, true), run(*build, cache_bytes, &steps, false));
                prop_assert_eq!(&with, &without, "{} with {} bytes of cache", name, cache_bytes);
            }
        }
    }
}
