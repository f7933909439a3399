//! A broker with topics of its own for each test, applications in the background, and waiting on conditions.

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{
    ApiKey, GroupId, OffsetFetchRequest, OffsetFetchResponse, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use mainstem::client::{
    Admin, Cluster, Isolation, LogRecord, NewTopic, OffsetSpec, Producer, ProducerOptions, ReadOptions,
    Reader,
};
use mainstem::config::ConfigBuilder;
use mainstem::{App, AppHandle, AppState, Config, Headers, Record, Result, TopicPartition};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::{broker, connect, unique};

/// The tests' own clock: deadlines, and the pause between two looks at a condition.
pub mod clock {
    #![allow(clippy::disallowed_methods, reason = "tests wait for other processes")]
    use std::time::{Duration, Instant};

    pub fn monotonic() -> Instant {
        Instant::now()
    }

    pub async fn sleep(duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    pub async fn timeout<F: Future>(within: Duration, future: F) -> Option<F::Output> {
        tokio::time::timeout(within, future).await.ok()
    }
}

/// Far more than anything here takes: who waits this long has found a hang.
pub const DEADLINE: Duration = Duration::from_secs(90);

pub struct Rig {
    pub broker: String,
    pub cluster: Cluster,
    pub producer: Producer,
    pub app_id: String,
    /// The test's own, so that nothing is left in the home of whoever runs it.
    pub state_dir: tempfile::TempDir,
}

/// The broker that is there for tests.
pub async fn rig(test: &str) -> Rig {
    rig_at(&broker(test), test).await
}

pub async fn rig_at(broker: &str, test: &str) -> Rig {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
    let cluster = connect(broker).await;
    let producer = Producer::new(&cluster, ProducerOptions::default()).unwrap();
    let state_dir = tempfile::tempdir().unwrap();
    Rig { broker: broker.to_owned(), cluster, producer, app_id: unique(test), state_dir }
}

impl Rig {
    pub fn admin(&self) -> Admin {
        Admin::new(&self.cluster)
    }

    pub async fn topic(&self, name: &str, partitions: i32) -> String {
        crate::common::topic(&self.cluster, name, partitions).await
    }

    pub async fn topic_with(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> String {
        let name = unique(name);
        let topic = NewTopic::new(&name, partitions).config("retention.ms", "-1");
        let topic = configs.iter().fold(topic, |topic, (name, value)| topic.config(*name, *value));
        self.admin().create_topic(topic).await.unwrap();
        name
    }

    /// Short intervals, so that tests wait for little.
    pub fn config(&self) -> ConfigBuilder {
        Config::builder(&self.app_id, &self.broker)
            .workers(1)
            .state_dir(self.state_dir.path())
            .cache_bytes(0)
            .set("commit.interval.ms", "100")
            .set("poll.ms", "20")
    }

    pub async fn send(&self, topic: &str, partition: i32, key: &str, value: &str, timestamp: i64) {
        let bytes = |text: &str| Some(Bytes::copy_from_slice(text.as_bytes())).filter(|b| !b.is_empty());
        let record = Record::new(bytes(key), bytes(value), timestamp);
        self.producer.send(topic, Some(partition), record).await.unwrap();
    }

    pub async fn flush(&self) {
        self.producer.flush().await.unwrap();
    }

    /// Everything a topic holds now.
    pub async fn read(&self, topic: &str) -> Vec<LogRecord> {
        self.read_with(ReadOptions::new(topic)).await
    }

    /// What of it is committed.
    pub async fn read_committed(&self, topic: &str) -> Vec<LogRecord> {
        self.read_with(ReadOptions::new(topic).isolation(Isolation::ReadCommitted)).await
    }

    /// The same, once no transaction is open: the markers of a transaction may come after the answer to its commit.
    pub async fn read_settled(&self, topic: &str) -> Vec<LogRecord> {
        let admin = self.admin();
        let partitions = admin.describe_topics(&[topic]).await.unwrap().remove(0).unwrap().partitions.len();
        for partition in 0..partitions as i32 {
            let at = TopicPartition::new(topic, partition);
            eventually(&format!("no transaction is open in {at:?}"), async || {
                let mut ends = Vec::new();
                for isolation in [Isolation::ReadCommitted, Isolation::ReadUncommitted] {
                    ends.push(admin.list_offset(&at, OffsetSpec::Latest, isolation).await.unwrap().offset);
                }
                ends[0] == ends[1]
            })
            .await;
        }
        self.read_committed(topic).await
    }

    async fn read_with(&self, options: ReadOptions) -> Vec<LogRecord> {
        let mut reader = Reader::new(&self.cluster, options.until_end()).await.unwrap();
        let mut records = Vec::new();
        while let Some(record) = reader.next().await.unwrap() {
            records.push(record);
        }
        records
    }

    /// Keys and values of a topic as texts, once there are so many records.
    pub async fn texts(&self, topic: &str, count: usize) -> Vec<(String, String)> {
        let mut found = Vec::new();
        eventually(&format!("{count} records in {topic}"), async || {
            found = self.read(topic).await.iter().map(|r| (text(&r.key), text(&r.value))).collect();
            found.len() >= count
        })
        .await;
        found
    }

    /// The last value of every key of a topic of counts.
    pub async fn counts(&self, topic: &str) -> BTreeMap<String, i64> {
        counts(&self.read(topic).await)
    }

    /// The committed offset of a partition and its metadata.
    pub async fn committed(&self, topic: &str, partition: i32) -> Option<(i64, String)> {
        offset_fetch(&self.broker, &self.app_id, topic, partition).await
    }

    pub async fn wait_committed(&self, topic: &str, partition: i32, offset: i64) {
        eventually(&format!("offset {offset} of {topic}-{partition} committed"), async || {
            self.committed(topic, partition).await.is_some_and(|(committed, _)| committed >= offset)
        })
        .await;
    }

    pub async fn offset(&self, topic: &str, partition: i32, spec: OffsetSpec) -> i64 {
        let isolation = mainstem::client::Isolation::ReadUncommitted;
        let at = TopicPartition::new(topic, partition);
        self.admin().list_offset(&at, spec, isolation).await.unwrap().offset.unwrap()
    }
}

pub fn text(bytes: &Option<Bytes>) -> String {
    bytes.as_deref().map(|b| String::from_utf8_lossy(b).into_owned()).unwrap_or_default()
}

pub fn header(headers: &Headers, name: &str) -> String {
    let found = headers.last(name).and_then(|header| header.value().map(<[u8]>::to_vec));
    String::from_utf8_lossy(&found.unwrap_or_default()).into_owned()
}

pub fn counts(records: &[LogRecord]) -> BTreeMap<String, i64> {
    let mut table = BTreeMap::new();
    for record in records {
        match record.value.as_deref() {
            Some(value) => _ = table.insert(text(&record.key), i64::from_be_bytes(value.try_into().unwrap())),
            None => _ = table.remove(&text(&record.key)),
        }
    }
    table
}

/// Waits until a condition holds; fails with `what` when it never does.
pub async fn eventually(what: &str, condition: impl AsyncFnMut() -> bool) {
    assert!(holds_within(DEADLINE, condition).await, "not within {DEADLINE:?}: {what}");
}

pub async fn holds_within(deadline: Duration, mut condition: impl AsyncFnMut() -> bool) -> bool {
    let until = clock::monotonic() + deadline;
    while !condition().await {
        if clock::monotonic() > until {
            return false;
        }
        clock::sleep(Duration::from_millis(30)).await;
    }
    true
}

/// An application in the background.
pub struct Running {
    pub handle: AppHandle,
    pub task: tokio::task::JoinHandle<Result<()>>,
}

pub fn start(app: App) -> Running {
    let handle = app.handle();
    Running { handle, task: tokio::spawn(app.run().into_future()) }
}

impl Running {
    /// Waits until all its tasks run.
    pub async fn running(self) -> Self {
        let reached = clock::timeout(DEADLINE, self.handle.wait_for(AppState::Running)).await;
        if reached != Some(true) {
            self.handle.stop();
            panic!("it does not run: {reached:?} {:?}", self.task.await);
        }
        self
    }

    /// Waits for the end.
    pub async fn ended(self) -> Result<()> {
        clock::timeout(DEADLINE, self.task).await.expect("it hangs").expect("it does not panic")
    }

    pub async fn stop(self) {
        self.handle.stop();
        self.ended().await.unwrap();
    }
}

/// Starts an application that must fail, and gives its error and all its causes as one text.
pub async fn failure(app: App) -> (mainstem::Error, String) {
    let error = start(app).ended().await.expect_err("it should not run");
    let text = format!("{error:?}");
    (error, text)
}

/// Asks the broker one thing, in a version without tagged fields; `None` if it does not answer now.
pub async fn ask<R: Decodable>(
    broker: &str,
    key: ApiKey,
    version: i16,
    request: &impl Encodable,
) -> Option<R> {
    let header = RequestHeader::default()
        .with_request_api_key(key as i16)
        .with_request_api_version(version)
        .with_correlation_id(1);
    let mut frame = BytesMut::new();
    header.encode(&mut frame, 1).unwrap();
    request.encode(&mut frame, version).unwrap();
    let mut socket = tokio::net::TcpStream::connect(broker).await.ok()?;
    socket.write_all(&(frame.len() as u32).to_be_bytes()).await.ok()?;
    socket.write_all(&frame).await.ok()?;
    let length = socket.read_u32().await.ok()?;
    let mut answer = vec![0; length as usize];
    socket.read_exact(&mut answer).await.ok()?;
    let mut answer = Bytes::from(answer);
    ResponseHeader::decode(&mut answer, 0).unwrap();
    Some(R::decode(&mut answer, version).unwrap())
}

/// OffsetFetch version 5, by hand: a second reading of what the application commits.
pub async fn offset_fetch(broker: &str, group: &str, topic: &str, partition: i32) -> Option<(i64, String)> {
    let name = TopicName(StrBytes::from_string(topic.to_owned()));
    let topics =
        vec![OffsetFetchRequestTopic::default().with_name(name).with_partition_indexes(vec![partition])];
    let group = GroupId(StrBytes::from_string(group.to_owned()));
    let request = OffsetFetchRequest::default().with_group_id(group).with_topics(Some(topics));
    let response: OffsetFetchResponse = ask(broker, ApiKey::OffsetFetch, 5, &request).await?;
    let found = &response.topics.first()?.partitions.first()?;
    let metadata = found.metadata.as_ref().map(ToString::to_string).unwrap_or_default();
    (found.committed_offset >= 0).then_some((found.committed_offset, metadata))
}
