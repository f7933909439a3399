//! Kafka Streams itself as a client of the embedded broker: two instances, one of them killed, and the right table.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use kafka_protocol::messages as m;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::protocol::StrBytes;
use mainstem::TopicPartition;
use mainstem::client::{Admin, Cluster, Isolation, OffsetSpec, ReadOptions, Reader};
use mainstem::embedded::EmbeddedKafka;
use tokio::sync::mpsc;

use super::common::{connect, topic, unique, with_java};
use super::log::{self, Rec};
use super::raw::Raw;

const WORDS: usize = 23;
const HALF: usize = 3_000;
const LIMIT: Duration = Duration::from_secs(150);

/// A Kafka Streams process.
struct Instance {
    process: Child,
    /// It ends in good order when this is dropped.
    input: Option<ChildStdin>,
    states: mpsc::UnboundedReceiver<String>,
}

impl Instance {
    fn start(arguments: &[&str], state: &str, guarantee: &str) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/java-client");
        let mut command = Command::new(script);
        command.arg("streams").args(arguments).args(["--state", state]);
        for set in [
            &format!("processing.guarantee={guarantee}"),
            "commit.interval.ms=100",
            "main.consumer.session.timeout.ms=3000",
            "main.consumer.heartbeat.interval.ms=500",
            "main.consumer.auto.offset.reset=earliest",
            "producer.transaction.timeout.ms=3000",
        ] {
            command.args(["--set", set]);
        }
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (says, states) = mpsc::unbounded_channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| says.send(line)));
        Self { input: process.stdin.take(), process, states }
    }

    /// Waits until it says that it runs.
    async fn running(&mut self) {
        loop {
            match self.states.recv().await.expect("the instance lives").as_str() {
                "RUNNING" => return,
                "ERROR" => panic!("the instance fails: see its log above"),
                _ => {}
            }
        }
    }

    fn kill(&mut self) {
        // SIGKILL.
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    async fn close(mut self) {
        drop(self.input.take());
        let status = tokio::task::spawn_blocking(move || {
            let status = self.process.wait();
            (status, self)
        });
        assert!(status.await.unwrap().0.unwrap().success());
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            _ = self.process.kill();
            _ = self.process.wait();
        }
    }
}

fn words(from: usize, to: usize, topic: &str) -> Vec<(String, i32, Rec)> {
    let rec = |at: usize| {
        let word = format!("word-{}", at * at % WORDS);
        let rec = Rec { value: Some(word.into_bytes()), timestamp: at as i64, ..Rec::default() };
        (topic.to_owned(), (at % 4) as i32, rec)
    };
    (from..to).map(rec).collect()
}

fn truth(records: usize) -> BTreeMap<String, i64> {
    let mut table = BTreeMap::new();
    for (_, _, rec) in words(0, records, "") {
        *table.entry(String::from_utf8(rec.value.unwrap()).unwrap()).or_default() += 1;
    }
    table
}

/// The output so far: the counts of each word in their order.
#[derive(Default)]
struct Output(BTreeMap<String, Vec<i64>>);

impl Output {
    /// Reads on until the last counts are `wanted`, as a reader of committed records sees them.
    async fn until(&mut self, reader: &mut Reader, wanted: &BTreeMap<String, i64>) {
        while &self.table() != wanted {
            self.next(reader).await;
        }
    }

    async fn next(&mut self, reader: &mut Reader) {
        let record = reader.next().await.unwrap().expect("it goes on");
        let word = String::from_utf8(record.key.unwrap().to_vec()).unwrap();
        let count = i64::from_be_bytes(record.value.unwrap()[..].try_into().unwrap());
        self.0.entry(word).or_default().push(count);
    }

    fn table(&self) -> BTreeMap<String, i64> {
        let last = |(word, counts): (&String, &Vec<i64>)| (word.clone(), *counts.last().unwrap());
        self.0.iter().map(last).collect()
    }
}

/// Waits until the whole of these topics is committed: only then does a killed instance leave nothing to be done again.
async fn committed(cluster: &Cluster, bootstrap: &str, app: &str, topics: &[String]) {
    let admin = Admin::new(cluster);
    for topic in topics {
        let partitions: Vec<i32> = (0..4).collect();
        let mut ends = Vec::new();
        for partition in &partitions {
            let at = TopicPartition::new(topic.as_str(), *partition);
            let end = admin.list_offset(&at, OffsetSpec::Latest, Isolation::ReadUncommitted).await.unwrap();
            ends.push(end.offset.unwrap());
        }
        assert!(ends.iter().any(|end| *end > 0), "{topic} holds records");
        let (bootstrap, app, topic) = (bootstrap.to_owned(), app.to_owned(), topic.clone());
        let wait = move || {
            // A partition without records need not be committed.
            let is = |(offset, end): (i64, &i64)| *end == 0 || offset == *end;
            while !offsets(&bootstrap, &app, &topic, &partitions).into_iter().zip(&ends).all(is) {}
        };
        tokio::task::spawn_blocking(wait).await.unwrap();
    }
}

fn offsets(bootstrap: &str, group: &str, topic: &str, partitions: &[i32]) -> Vec<i64> {
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let find = m::FindCoordinatorRequest::default().with_key(text(group));
    let port = Raw::connect(bootstrap).ask(2, &find).port;
    let topic = OffsetFetchRequestTopic::default()
        .with_name(m::TopicName(text(topic)))
        .with_partition_indexes(partitions.to_vec());
    let fetch = m::OffsetFetchRequest::default()
        .with_group_id(m::GroupId(text(group)))
        .with_topics(Some(vec![topic]));
    let answer = Raw::connect(&format!("127.0.0.1:{port}")).ask(5, &fetch);
    answer.topics[0].partitions.iter().map(|partition| partition.committed_offset).collect()
}

async fn count_with_a_kill(guarantee: &str) {
    let kafka =
        EmbeddedKafka::builder().nodes(2).config("group.min.session.timeout.ms", "1000").start().unwrap();
    let cluster = connect(kafka.bootstrap()).await;
    let input = topic(&cluster, "lines", 4).await;
    let output = topic(&cluster, "counts", 2).await;
    let app = unique("app");
    let state = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let arguments = ["--bootstrap", kafka.bootstrap(), "--app", &app, "--input", &input, "--output", &output];
    let mut instances =
        state.each_ref().map(|dir| Instance::start(&arguments, dir.path().to_str().unwrap(), guarantee));
    for instance in &mut instances {
        instance.running().await;
    }
    let exactly_once = guarantee == "exactly_once_v2";
    let isolation = if exactly_once { Isolation::ReadCommitted } else { Isolation::ReadUncommitted };
    let mut reader = Reader::new(&cluster, ReadOptions::new(&output).isolation(isolation)).await.unwrap();
    let mut got = Output::default();
    log::produce(&cluster, "lz4", &words(0, HALF, &input)).await;
    if exactly_once {
        // In the midst of it, with a transaction open that only time ends.
        got.next(&mut reader).await;
    } else {
        got.until(&mut reader, &truth(HALF)).await;
        let repartitioned = format!("{app}-by-word-repartition");
        committed(&cluster, kafka.bootstrap(), &app, &[repartitioned, input.clone()]).await;
    }
    instances[0].kill();
    log::produce(&cluster, "none", &words(HALF, 2 * HALF, &input)).await;
    got.until(&mut reader, &truth(2 * HALF)).await;
    if exactly_once {
        for (word, counts) in &got.0 {
            let each_once: Vec<i64> = (1..=counts.len() as i64).collect();
            assert_eq!(*counts, each_once, "{word} goes through every count, once and in order");
        }
    }
    let [_, left] = instances;
    left.close().await;
}

async fn within_the_limit(test: impl Future<Output = ()>) {
    #[expect(clippy::disallowed_methods, reason = "the other side is a process")]
    let within = tokio::time::timeout(LIMIT, test);
    within.await.expect("the table is right in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_streams_counts_at_least_once() {
    let Some(_) = with_java("kafka_streams_counts_at_least_once") else { return };
    within_the_limit(count_with_a_kill("at_least_once")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_streams_counts_exactly_once() {
    let Some(_) = with_java("kafka_streams_counts_exactly_once") else { return };
    within_the_limit(count_with_a_kill("exactly_once_v2")).await;
}
