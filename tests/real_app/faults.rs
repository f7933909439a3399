//! The word count under faults (X1, X4): brokers of their own, real processes, real SIGKILL. Faults fire on what has been
//! counted or committed, never on a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mainstem::client::OffsetSpec;
use mainstem::prelude::*;
use mainstem::{App, ErrorKind, MetricValue};
use tokio::net::TcpListener;

use crate::common::{kafka, unique};
use crate::proxy::Proxy;
use crate::support::{DEADLINE, Rig, clock, counts, eventually, offset_fetch, rig, rig_at, start, text};
use crate::tokens::tokens;
use crate::{data, truth};

const PARTITIONS: i32 = 4;

/// A broker that a test may stop; it ends with the test.
pub struct OwnKafka {
    dir: tempfile::TempDir,
    pub address: String,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka")
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl OwnKafka {
    pub async fn up(more: &[&str]) -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let own = Self { dir, address: format!("127.0.0.1:{port}") };
        let port = port.to_string();
        let base =
            ["--port", &port, "--heap", "300m", "--min-session-timeout", "1000", "--rebalance-delay", "0"];
        own.script("up", &[&base[..], more].concat()).await;
        own
    }

    async fn script(&self, command: &str, arguments: &[&str]) {
        let mut script = tokio::process::Command::new(script());
        script.arg(command).arg("--dir").arg(self.dir.path()).args(arguments).stdin(Stdio::null());
        let output = script.output().await.unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for OwnKafka {
    fn drop(&mut self) {
        let _ = Command::new(script()).arg("down").arg("--dir").arg(self.dir.path()).output();
    }
}

/// The word count as a process. SIGKILL if the test ends before it.
struct WordCount(Child);

struct Names<'a> {
    broker: &'a str,
    app_id: &'a str,
    lines: &'a str,
    counts: &'a str,
}

impl WordCount {
    fn start(names: &Names<'_>, command: &[&str]) -> Self {
        let mut program = std::env::current_exe().unwrap();
        program.pop();
        program.pop();
        program.push("examples/word_count");
        assert!(
            program.exists(),
            "{program:?} is not built: cargo build --example word_count --all-features"
        );
        let child = Command::new(program)
            .args(["--bootstrap", names.broker, "--app-id", names.app_id])
            .args(["--lines", names.lines, "--counts", names.counts])
            .args(["--set", "commit.interval.ms=200", "--set", "session.timeout.ms=6000"])
            .args(["--set", "heartbeat.interval.ms=1000"])
            .args(command)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Waits for its own end.
    async fn ended(mut self) {
        eventually("the process ends", async || self.0.try_wait().unwrap().is_some()).await;
        assert!(self.0.wait().unwrap().success());
    }

    fn is_alive(&mut self) -> bool {
        assert!(self.0.try_wait().unwrap().is_none(), "the process has ended by itself");
        true
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    async fn terminate(self) {
        assert!(Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status().unwrap().success());
        self.ended().await;
    }
}

impl Drop for WordCount {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn the_truth() -> BTreeMap<String, i64> {
    truth::counts(data::Words::default().iter().map(|(_, line)| line))
}

/// How many of the 10 000 lines are committed.
async fn lines_committed(names: &Names<'_>) -> i64 {
    let mut sum = 0;
    for partition in 0..PARTITIONS {
        let committed = offset_fetch(names.broker, names.app_id, names.lines, partition).await;
        sum += committed.map_or(0, |(offset, _)| offset);
    }
    sum
}

async fn committed(rig: &Rig, topic: &str, partition: i32) -> i64 {
    rig.committed(topic, partition).await.map_or(0, |(offset, _)| offset)
}

/// By how much updates went up by more than one, and by how much they went back: a kill may come between a change of the
/// state and the update that tells of it, either way.
fn jumps(records: &[mainstem::client::LogRecord]) -> (i64, i64) {
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    let (mut up, mut down) = (0, 0);
    for record in records {
        let count = i64::from_be_bytes(record.value.as_deref().unwrap().try_into().unwrap());
        let before = last.insert(text(&record.key), count).unwrap_or(0);
        up += (count - before - 1).max(0);
        down += (before + 1 - count).max(0);
    }
    (up, down)
}

/// How far an application has come, as Kafka has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Reach {
    /// Lines that are committed, of each partition.
    lines: Vec<i64>,
    /// Words that are committed.
    words: i64,
    /// Words that were written to the repartition topic.
    written: i64,
    /// Changes of the counts, in the changelog.
    counted: i64,
}

impl Reach {
    async fn now(rig: &Rig, lines: &str) -> Self {
        let repartition = format!("{}-by-word-repartition", rig.app_id);
        let changelog = format!("{}-counts-changelog", rig.app_id);
        let mut reach = Self { lines: Vec::new(), words: 0, written: 0, counted: 0 };
        for partition in 0..PARTITIONS {
            reach.lines.push(committed(rig, lines, partition).await);
            reach.words += committed(rig, &repartition, partition).await;
            reach.written += rig.offset(&repartition, partition, OffsetSpec::Latest).await;
            reach.counted += rig.offset(&changelog, partition, OffsetSpec::Latest).await;
        }
        reach
    }

    fn lines(&self) -> i64 {
        self.lines.iter().sum()
    }
}

/// Watches committed offsets until the sender is dropped: none ever goes back.
fn watch(rig: &Rig, lines: &str) -> (tokio::sync::oneshot::Sender<()>, tokio::task::JoinHandle<u64>) {
    let (over, mut is_over) = tokio::sync::oneshot::channel::<()>();
    let (broker, group) = (rig.broker.clone(), rig.app_id.clone());
    let topics = [lines.to_owned(), format!("{group}-by-word-repartition")];
    let task = tokio::spawn(async move {
        let (mut last, mut looks) = (BTreeMap::new(), 0);
        while is_over.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
            for (topic, partition) in topics.iter().flat_map(|t| (0..PARTITIONS).map(move |p| (t, p))) {
                let Some((now, _)) = offset_fetch(&broker, &group, topic, partition).await else { continue };
                let before = last.insert((topic, partition), now).unwrap_or(0);
                assert!(now >= before, "{topic}-{partition} went back from {before} to {now}");
            }
            looks += 1;
            clock::sleep(Duration::from_millis(20)).await;
        }
        looks
    });
    (over, task)
}

/// X1. At least once: nothing is lost, and what is done twice is exactly what was open when the process was killed. It is
/// killed three times between two commits, when some of the last lines are written on.
#[tokio::test]
async fn kill_9_loses_nothing_and_repeats_exactly_what_was_not_committed() {
    let rig = rig("kill-9").await;
    let (lines, output) = (rig.topic("lines", PARTITIONS).await, rig.topic("counts", PARTITIONS).await);
    let names = Names { broker: &rig.broker, app_id: &rig.app_id, lines: &lines, counts: &output };
    let run = || WordCount::start(&names, &["--set", "commit.interval.ms=1000", "run"]);
    let all = |lines: i64| vec![lines / i64::from(PARTITIONS); PARTITIONS as usize];
    // As the last kill has left it.
    let mut last = Reach { lines: all(0), words: 0, written: 0, counted: 0 };
    // All lines so far are done, none too often.
    let done = async |app: &mut WordCount, last: &Reach, sent: i64| {
        let (mut reach, written) = (last.clone(), last.written + tokens(&all(sent)) - tokens(&last.lines));
        eventually(&format!("{sent} lines are done"), async || {
            reach = Reach::now(&rig, &lines).await;
            app.is_alive()
                && reach.lines() == sent
                && reach.written >= written
                && reach.words == reach.written
        })
        .await;
        assert_eq!(reach.written, written, "words that were written since {last:?}");
        assert_eq!(
            reach.counted,
            last.counted + written - last.words,
            "words that were counted since {last:?}"
        );
        reach
    };
    let mut app = run();
    // It looks for the internal topics, which it has made when it has tasks.
    generate(&rig, &lines, 0..1_000).await;
    eventually("the first lines committed", async || lines_committed(&names).await == 1_000).await;
    let (over, watching) = watch(&rig, &lines);
    let (mut sent, mut open, mut recounted) = (1_000, 0, 0);
    for _ in 0..3 {
        let quiet = done(&mut app, &last, sent as i64).await;
        generate(&rig, &lines, sent..sent + 800).await;
        sent += 800;
        eventually("some of it is done", async || Reach::now(&rig, &lines).await.counted > quiet.counted)
            .await;
        app.kill();
        // What it had sent may still be on its way.
        let mut same = 0;
        eventually("the broker has all of it", async || {
            let reach = Reach::now(&rig, &lines).await;
            same = if reach == last { same + 1 } else { 0 };
            last = reach;
            same == 10
        })
        .await;
        assert!(last.written <= quiet.written + tokens(&all(sent as i64)) - tokens(&quiet.lines), "{last:?}");
        open += last.written - last.words;
        recounted += last.counted - quiet.counted - (last.words - quiet.words);
        app = run();
        generate(&rig, &lines, sent..sent + 1_000).await;
        sent += 1_000;
    }
    assert!(recounted > 0, "it was never killed between two commits");
    generate(&rig, &lines, sent..10_000).await;
    let reach = done(&mut app, &last, 10_000).await;
    app.terminate().await;
    drop(over);
    assert!(watching.await.unwrap() > 10, "nobody has watched");

    let truth = the_truth();
    let records = rig.read(&output).await;
    let table = counts(&records);
    assert!(table.keys().eq(truth.keys()), "words from nowhere");
    assert!(truth.iter().all(|(word, count)| table[word] >= *count), "words are lost");
    // The state goes on from the changelog: each change is one more.
    assert_eq!(table.values().sum::<i64>(), reach.counted, "the table is what the changelog adds up to");
    // Every update is one more than the one before it, but for those whose predecessor the kill has kept from the topic.
    let (up, down) = jumps(&records);
    let updates = records.len() as i64;
    assert_eq!(updates + up - down, reach.counted, "every update of the table is explained");
    assert!(up <= open && down <= open, "{up} up, {down} down, {open} were open");
    let above = reach.counted - truth.values().sum::<i64>();
    println!(
        "{above} counted twice, {recounted} of them a second time, {updates} updates, {up} up, {down} down"
    );
}

async fn generate(rig: &Rig, lines: &str, which: std::ops::Range<usize>) {
    for (i, (timestamp, line)) in data::Words::default().iter().enumerate() {
        if which.contains(&i) {
            let partition = (i % PARTITIONS as usize) as i32;
            rig.send(lines, partition, "", line.as_deref().unwrap_or_default(), timestamp).await;
        }
    }
    rig.flush().await;
}

/// X4: every connection is cut for 5 s, longer than the session timeout, in the middle of the input; then the broker is
/// restarted. The application lives through both.
#[tokio::test]
async fn a_cut_of_all_connections_and_a_broker_restart_lose_nothing() {
    if kafka("cut-and-restart").is_none() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let advertised = listener.local_addr().unwrap().to_string();
    let broker = OwnKafka::up(&["--advertise", &advertised]).await;
    let proxy = Proxy::start(listener, broker.address.clone());
    let rig = rig_at(&proxy.address, "cut").await;
    let (lines, output) = (rig.topic("lines", PARTITIONS).await, rig.topic("counts", PARTITIONS).await);
    let names = Names { broker: &proxy.address, app_id: &rig.app_id, lines: &lines, counts: &output };
    let short_session = ["--set", "session.timeout.ms=3000", "--set", "heartbeat.interval.ms=300", "run"];
    let mut app = WordCount::start(&names, &short_session);

    let all = |lines: i64| vec![lines / i64::from(PARTITIONS); PARTITIONS as usize];
    let done = async |app: &mut WordCount, sent: i64| {
        let mut reach = Reach::default();
        eventually(&format!("{sent} lines are done"), async || {
            reach = Reach::now(&rig, &lines).await;
            app.is_alive() && reach.lines() == sent && reach.words == reach.written
        })
        .await;
        reach
    };
    // What one fault has repeated, of lines and of words: never more than was not committed before it.
    let repeated = |quiet: &Reach, before: &Reach, after: &Reach| {
        let written = after.written - quiet.written - (tokens(&after.lines) - tokens(&quiet.lines));
        let open = tokens(&after.lines) - tokens(&before.lines);
        assert!((0..=open).contains(&written), "{written} words were written again, {open} were open");
        let counted = after.counted - quiet.counted - (after.written - quiet.written);
        let open = after.written - before.words;
        assert!((0..=open).contains(&counted), "{counted} words were counted again, {open} were open");
        written + counted
    };

    generate(&rig, &lines, 0..5_000).await;
    let nothing = Reach { lines: all(0), ..Reach::default() };
    eventually("a part is committed", async || app.is_alive() && lines_committed(&names).await > 500).await;
    let before = Reach::now(&rig, &lines).await;
    proxy.close();
    let began = clock::monotonic();
    eventually("5 s", async || began.elapsed() > Duration::from_secs(5)).await;
    proxy.open();
    let quiet = done(&mut app, 5_000).await;
    let by_the_cut = repeated(&nothing, &before, &quiet);

    generate(&rig, &lines, 5_000..10_000).await;
    eventually("a part of the rest is committed", async || lines_committed(&names).await > 5_500).await;
    let before = Reach::now(&rig, &lines).await;
    broker.script("restart", &[]).await;
    let reach = done(&mut app, 10_000).await;
    let by_the_restart = repeated(&quiet, &before, &reach);
    app.terminate().await;

    let (truth, table) = (the_truth(), rig.counts(&output).await);
    assert!(table.keys().eq(truth.keys()), "words from nowhere");
    assert!(truth.iter().all(|(word, count)| table[word] >= *count), "words are lost");
    let above = table.values().sum::<i64>() - truth.values().sum::<i64>();
    assert_eq!(above, by_the_cut + by_the_restart, "the table is what the changelog adds up to");
    println!("{by_the_cut} tokens counted twice by the cut, {by_the_restart} by the restart");
}

#[tokio::test]
async fn stopping_while_the_broker_is_down_ends_in_time_and_says_what_was_not_committed() {
    if kafka("stop-without-broker").is_none() {
        return;
    }
    let broker = OwnKafka::up(&[]).await;
    let rig = rig_at(&broker.address, "down").await;
    let (lines, output) = (rig.topic("lines", 1).await, rig.topic("counts", 1).await);
    let (hold, held) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let builder = StreamsBuilder::new();
    let (wait, reached) = (hold.clone(), held.clone());
    builder
        .stream::<String, String>(lines.as_str())
        .map_values(move |value| {
            reached.store(true, Ordering::SeqCst);
            while wait.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            value
        })
        .to(&output);
    let app =
        start(App::new(builder.build().unwrap(), rig.config().build().unwrap()).unwrap()).running().await;
    rig.send(&lines, 0, "k", "v", 1).await;
    rig.flush().await;
    eventually("the record is in hand", async || held.load(Ordering::SeqCst)).await;
    broker.script("kill", &["--node", "1"]).await;
    hold.store(false, Ordering::SeqCst);
    // Figures go on while the worker waits in its commit.
    eventually("the batch that cannot be sent is seen", async || {
        let mut figures = app.handle.metrics().into_iter();
        let buffered = figures.find(|m| m.name == "mainstem_producer_buffered_bytes").unwrap().value;
        matches!(buffered, MetricValue::Gauge(bytes) if bytes > 0.0)
    })
    .await;
    app.handle.stop_within(Duration::from_secs(2));
    let error = app.ended().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    assert!(error.to_string().contains("processed again"), "{error}");
}

/// A worker that never comes back from user code does not keep the application from ending.
#[tokio::test]
async fn a_worker_stuck_for_ever_is_left_behind() {
    let rig = rig("stuck-for-ever").await;
    let input = rig.topic("in", 1).await;
    let builder = StreamsBuilder::new();
    let (stuck, never) = (Arc::new(AtomicBool::new(false)), unique("never"));
    let reached = stuck.clone();
    builder.stream::<String, String>(input.as_str()).for_each(move |_, _| {
        reached.store(true, Ordering::SeqCst);
        while !never.is_empty() {
            std::thread::park();
        }
    });
    let app =
        start(App::new(builder.build().unwrap(), rig.config().build().unwrap()).unwrap()).running().await;
    rig.send(&input, 0, "k", "v", 1).await;
    rig.flush().await;
    eventually("it is stuck", async || stuck.load(Ordering::SeqCst)).await;
    app.handle.stop_within(Duration::from_secs(1));
    let ended = clock::timeout(DEADLINE, app.ended()).await.unwrap().unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::Timeout, "{ended:?}");
    assert_eq!(rig.committed(&input, 0).await, None);
}
