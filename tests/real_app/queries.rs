//! Local queries: what handles read while applications run, move their tasks and end.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use mainstem::prelude::*;
use mainstem::{App, ErrorKind};

use crate::support::{Rig, eventually, rig, start};

type Counts = ReadOnlyKeyValueStore<String, i64>;

fn counting(input: &str, output: &str) -> Topology {
    let builder = StreamsBuilder::new();
    builder.stream::<String, String>(input).group_by_key("by-key").count("counts").to_stream().to(output);
    builder.build().unwrap()
}

fn table(store: &Counts) -> Result<BTreeMap<String, i64>> {
    store.all()?.collect()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T>, kind: ErrorKind, text: &str) {
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(text), "{error}");
}

async fn generate(rig: &Rig, topic: &str, partitions: i32, records: i32) -> BTreeMap<String, i64> {
    let mut truth = BTreeMap::new();
    for i in 0..records {
        let partition = i % partitions;
        let key = format!("{partition}-{}", i * 7 % 101);
        rig.send(topic, partition, &key, "v", i64::from(i)).await;
        *truth.entry(key).or_default() += 1;
    }
    rig.flush().await;
    truth
}

/// Handles made before the start and in the middle read what the output's table has in the end, over a restart too, and
/// say before and after why there is nothing to read.
async fn reads_equal_the_table(cache: usize) {
    let rig = rig("queries").await;
    let (input, output) = (rig.topic("in", 3).await, rig.topic("out", 1).await);
    // With a long interval the readers are ahead of the commit, and of what the cache holds back.
    let config =
        || rig.config().workers(2).cache_bytes(cache).set("commit.interval.ms", "600000").build().unwrap();
    let app = App::new(counting(&input, &output), config()).unwrap();
    let store: Counts = app.handle().key_value_store("counts").unwrap();
    refused(
        app.handle().key_value_store::<String, i64>("count"),
        ErrorKind::UnknownStore,
        "did you mean counts?",
    );
    refused(app.handle().key_value_store::<i64, i64>("counts"), ErrorKind::StoreType, "asked for as");
    refused(store.get(&"0-0".to_owned()), ErrorKind::NotStarted, "run the application");
    let app = start(app).running().await;
    assert_eq!(table(&store).unwrap(), BTreeMap::new());
    let truth = generate(&rig, &input, 3, 3_000).await;
    eventually("all counts", async || table(&store).unwrap() == truth).await;
    if cache > 0 {
        assert_eq!(rig.read(&output).await.len(), 0, "nothing is committed yet");
    }
    for (key, count) in &truth {
        assert_eq!(store.get(key).unwrap(), Some(*count), "{key}");
    }
    assert_eq!(store.get(&"nobody".to_owned()).unwrap(), None);
    assert_eq!(store.approximate_num_entries().unwrap(), truth.len() as u64);
    let of_one: BTreeMap<_, _> = store.clone().partition(1).all().unwrap().collect::<Result<_>>().unwrap();
    let want: BTreeMap<_, _> = truth.clone().into_iter().filter(|(key, _)| key.starts_with("1-")).collect();
    assert_eq!(of_one, want);
    refused(
        store.clone().partition(3).all(),
        ErrorKind::UnknownStore,
        "no partition 3; the group has: 0, 1, 2",
    );
    app.stop().await;
    refused(store.get(&"0-0".to_owned()), ErrorKind::Closed, "has ended");
    assert_eq!(rig.counts(&output).await, truth, "the output has the same table");

    // Restored, and asked for only when it runs.
    let app = start(App::new(counting(&input, &output), config()).unwrap()).running().await;
    let store: Counts = app.handle.key_value_store("counts").unwrap();
    assert_eq!(table(&store).unwrap(), truth);
    let stamped = app.handle.timestamped_key_value_store::<String, i64>("counts").unwrap();
    let row = stamped.get(&"0-0".to_owned()).unwrap().unwrap();
    let last = (0..3_000i64).rev().find(|i| i % 3 == 0 && i * 7 % 101 == 0).unwrap();
    assert_eq!(row, ValueAndTimestamp { value: truth["0-0"], timestamp: last });
    app.stop().await;
}

#[tokio::test]
async fn reads_equal_the_table_without_a_cache() {
    reads_equal_the_table(0).await;
}

#[tokio::test]
async fn reads_equal_the_table_with_a_cache() {
    reads_equal_the_table(10 << 20).await;
}

/// Holds a task's start up where it is told to.
#[derive(Default)]
struct Gate {
    shut: Mutex<bool>,
    opened: Condvar,
    waiting: AtomicBool,
}

struct Held(Arc<Gate>, KeyValueStore<String, i64>);

impl Processor<String, String, String, i64> for Held {
    fn init(&mut self, _: &mut Context<'_, String, i64>) -> Outcome {
        let shut = self.0.shut.lock().unwrap();
        self.0.waiting.store(true, Ordering::SeqCst);
        drop(self.0.opened.wait_while(shut, |shut| *shut).unwrap());
        Ok(())
    }

    fn process(&mut self, record: Record<String, String>, cx: &mut Context<'_, String, i64>) -> Outcome {
        let Some(key) = &record.key else { return Ok(()) };
        let seen = cx.store(&self.1).get(key)?.unwrap_or(0) + 1;
        cx.store(&self.1).put(key, seen)?;
        Ok(())
    }
}

fn held(input: &str) -> (Topology, Arc<Gate>) {
    let (builder, gate) = (StreamsBuilder::new(), Arc::<Gate>::default());
    let seen = KeyValue::<String, i64>::named("seen");
    let supplier = {
        let (gate, seen) = (gate.clone(), seen.clone());
        move |stores: &Stores<'_, '_>| Ok(Held(gate.clone(), stores.get(&seen)?))
    };
    builder.stream::<String, String>(input).process(supplier, &[&seen]).for_each(|_, _| ());
    (builder.build().unwrap(), gate)
}

/// Two instances: handles of both follow the tasks, and name the other where it is known.
#[tokio::test]
async fn handles_follow_the_tasks_from_instance_to_instance() {
    let rig = rig("moving-queries").await;
    let input = rig.topic("in", 2).await;
    let instance = |server: &str| {
        let config = rig.config().set("application.server", server).build().unwrap();
        let (topology, gate) = held(&input);
        let app = App::new(topology, config).unwrap();
        let store: Counts = app.handle().key_value_store("seen").unwrap();
        (app, gate, store)
    };
    let (first, _, at_first) = instance("first:1");
    let first = start(first).running().await;
    let truth = generate(&rig, &input, 2, 400).await;
    eventually("all counts", async || table(&at_first).unwrap() == truth).await;
    refused(
        first.handle.timestamped_key_value_store::<String, i64>("seen"),
        ErrorKind::StoreType,
        "asked for as a timestamped",
    );

    let (second, gate, at_second) = instance("second:2");
    *gate.shut.lock().unwrap() = true;
    let second = start(second);
    eventually("the second has a task to start", async || gate.waiting.load(Ordering::SeqCst)).await;
    // The second's task is being restored; the first has gone on with the other all the time.
    refused(at_second.all(), ErrorKind::Rebalancing, "ask again in a moment");
    let kept = eventually_table(&at_first).await;
    assert!(!kept.is_empty() && kept.len() < truth.len());
    *gate.shut.lock().unwrap() = false;
    gate.opened.notify_all();
    let second = second.running().await;
    let moved = table(&at_second).unwrap();
    let both: BTreeMap<_, _> = kept.clone().into_iter().chain(moved.clone()).collect();
    assert_eq!((both, kept.len() + moved.len()), (truth.clone(), truth.len()));
    let here: BTreeSet<bool> = [0, 1].map(|p| at_second.clone().partition(p).all().is_ok()).into();
    assert_eq!(here.len(), 2, "one partition is here, one is not");
    let elsewhere = i32::from(at_second.clone().partition(0).all().is_ok());
    refused(at_second.clone().partition(elsewhere).all(), ErrorKind::Moved, "ask first:1");

    // Back again: the same handle reads everything.
    second.stop().await;
    refused(at_second.all(), ErrorKind::Closed, "has ended");
    eventually("the first has both", async || table(&at_first).is_ok_and(|t| t == truth)).await;
    first.stop().await;
}

/// Waits until the handle answers again: no task of its own is being moved.
async fn eventually_table(store: &Counts) -> BTreeMap<String, i64> {
    let mut found = BTreeMap::new();
    eventually("an answer", async || match table(store) {
        Ok(table) => {
            found = table;
            true
        }
        Err(error) => {
            assert!(error.is_retriable(), "{error}");
            false
        }
    })
    .await;
    found
}

/// Publishes, commits and a reader at once: what a later scan sees is never less.
#[tokio::test]
async fn scans_while_records_come_see_counts_that_only_grow() {
    let rig = rig("scanned").await;
    let (input, output) = (rig.topic("in", 2).await, rig.topic("out", 1).await);
    let config = rig.config().cache_bytes(1 << 20).set("commit.interval.ms", "50").build().unwrap();
    let app = App::new(counting(&input, &output), config).unwrap();
    let store: Counts = app.handle().key_value_store("counts").unwrap();
    let app = start(app).running().await;
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (store, done) = (store.clone(), done.clone());
        std::thread::spawn(move || {
            let (mut before, mut scans) = (BTreeMap::new(), 0);
            while !done.load(Ordering::SeqCst) {
                let now = table(&store).unwrap();
                assert!(before.iter().all(|(key, count)| now.get(key).is_some_and(|n| n >= count)));
                (before, scans) = (now, scans + 1);
            }
            scans
        })
    };
    let truth = generate(&rig, &input, 2, 4_000).await;
    eventually("all counts", async || table(&store).unwrap() == truth).await;
    done.store(true, Ordering::SeqCst);
    assert!(reader.join().unwrap() > 1);
    app.stop().await;
    assert_eq!(rig.counts(&output).await, truth);
}

/// Everything that a handle can be asked, as one line.
fn answers(store: &Counts) -> Result<String> {
    let every = store.all()?.collect::<Result<Vec<_>>>()?;
    let gets = every.iter().map(|(key, _)| store.get(key)).collect::<Result<Vec<_>>>()?;
    let keys = "0-3".to_owned()..="1-5".to_owned();
    let range = store.range(keys.clone())?.collect::<Result<Vec<_>>>()?;
    let back = store.reverse_range(keys)?.collect::<Result<Vec<_>>>()?;
    let prefix = store.prefix_scan(b"1-2")?.collect::<Result<Vec<_>>>()?;
    let count = store.approximate_num_entries()?;
    Ok(format!("{every:?} {gets:?} {range:?} {back:?} {prefix:?} {count}"))
}

/// Set for the process that answers: the broker, the application id, the topics and the state directory.
const CHILD: &str = "MAINSTEM_TEST_ANSWERS";
const ANSWER: &str = "the answers: ";

/// Runs the application, and writes what its handle answers for every line that it reads, until it is killed.
async fn answer(child: &str) {
    let [broker, app_id, input, output, state_dir] = child.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{child}")
    };
    let config = mainstem::Config::builder(app_id, broker)
        .state_dir(state_dir)
        .set("commit.interval.ms", "100")
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "1000");
    let app = App::new(counting(input, output), config.build().unwrap()).unwrap();
    let store: Counts = app.handle().key_value_store("counts").unwrap();
    let app = start(app).running().await;
    for line in std::io::stdin().lines() {
        line.unwrap();
        println!("\n{ANSWER}{}", answers(&store).unwrap());
    }
    app.stop().await;
}

/// A process of this very test.
struct Answering(std::process::Child, std::io::BufReader<std::process::ChildStdout>);

impl Answering {
    fn start(rig: &Rig, input: &str, output: &str) -> Self {
        let state_dir = rig.state_dir.path().display();
        let child = format!("{} {} {input} {output} {state_dir}", rig.broker, rig.app_id);
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "queries::answers_after_a_kill_are_those_before", "--nocapture"])
            .env(CHILD, child)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let said = std::io::BufReader::new(child.stdout.take().unwrap());
        Self(child, said)
    }

    /// Asks, and waits for the answer.
    fn ask(&mut self) -> String {
        writeln!(self.0.stdin.as_mut().unwrap()).unwrap();
        let mut lines = (&mut self.1).lines().map(Result::unwrap);
        lines.find_map(|line| line.strip_prefix(ANSWER).map(str::to_owned)).expect("it has ended by itself")
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// X2: the state is memory, so that the kill takes all of it, and the changelog brings it back.
#[tokio::test]
async fn answers_after_a_kill_are_those_before() {
    if let Ok(child) = std::env::var(CHILD) {
        return answer(&child).await;
    }
    let rig = rig("answers").await;
    let (input, output) = (rig.topic("in", 2).await, rig.topic("out", 1).await);
    let first = Answering::start(&rig, &input, &output);
    let truth = generate(&rig, &input, 2, 1_000).await;
    for partition in 0..2 {
        rig.wait_committed(&input, partition, 500).await;
    }
    let asking =
        async |mut child: Answering| tokio::task::spawn_blocking(move || (child.ask(), child)).await.unwrap();
    let (before, first) = asking(first).await;
    let every: Vec<_> = truth.into_iter().collect();
    assert!(before.starts_with(&format!("{every:?} ")), "{before}");
    // SIGKILL.
    drop(first);
    let (after, _second) = asking(Answering::start(&rig, &input, &output)).await;
    assert_eq!(after, before);
}
