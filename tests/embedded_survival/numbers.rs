//! Records that show when one is lost, doubled or out of order: each key counts from 1.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mainstem::Record;
use mainstem::client::{
    Admin, ClientConfig, Cluster, Isolation, NewTopic, Producer, ProducerOptions, ReadOptions, Reader,
};
use mainstem::config::ConfigBuilder;
use mainstem::embedded::{Api, EmbeddedKafka, Fault};
use mainstem::prelude::*;
use mainstem::{App, Config};

use crate::support::{DEADLINE, Running, clock, start, text};

pub const KEYS: i64 = 7;

/// Patient as always, but quick to try again.
pub fn impatient(kafka: &EmbeddedKafka) -> ClientConfig {
    let mut config = ClientConfig::new(kafka.bootstrap());
    (config.retry_backoff, config.retry_backoff_max) = (Duration::from_millis(1), Duration::from_millis(50));
    (config.reconnect_backoff, config.reconnect_backoff_max) =
        (config.retry_backoff, config.retry_backoff_max);
    config.request_timeout = Duration::from_secs(2);
    config
}

pub async fn connect(kafka: &EmbeddedKafka) -> Cluster {
    Cluster::connect(impatient(kafka)).await.unwrap()
}

pub fn producer(cluster: &Cluster) -> Producer {
    Producer::new(cluster, ProducerOptions::default().linger(Duration::ZERO)).unwrap()
}

pub async fn topic(kafka: &EmbeddedKafka, name: &str, partitions: i32, replication: i16) {
    let topic = NewTopic::new(name, partitions).replication(replication).config("retention.ms", "-1");
    Admin::new(&connect(kafka).await).create_topic(topic).await.unwrap();
}

/// What must happen happens within [`DEADLINE`].
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let Some(output) = clock::timeout(DEADLINE, future).await else { panic!("{what} does not happen") };
    output
}

/// Sends the next value of each key so many times.
pub async fn send(producer: &Producer, topic: &str, values: std::ops::RangeInclusive<i64>) {
    for value in values {
        for key in 0..KEYS {
            let key = Bytes::from(format!("k{key}"));
            let value = Bytes::copy_from_slice(&value.to_be_bytes());
            producer.send(topic, None, Record::new(Some(key), value, 1_000)).await.unwrap();
        }
    }
}

/// The committed values of each key, in the order of the log.
pub async fn read(cluster: &Cluster, topic: &str) -> BTreeMap<String, Vec<i64>> {
    let options = ReadOptions::new(topic).isolation(Isolation::ReadCommitted).until_end();
    let mut reader = Reader::new(cluster, options).await.unwrap();
    let mut found: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    while let Some(record) = reader.next().await.unwrap() {
        let value = i64::from_be_bytes(record.value.as_deref().unwrap().try_into().unwrap());
        found.entry(text(&record.key)).or_default().push(value);
    }
    found
}

/// Each key has each of its values once, in order.
pub fn assert_exact(found: &BTreeMap<String, Vec<i64>>, last: i64) {
    assert_eq!(found.len() as i64, KEYS, "{:?}", found.keys());
    for (key, values) in found {
        let first = values.iter().zip(1..).find(|(value, due)| *value != due);
        assert_eq!(first, None, "of {key}, value and what was due");
        assert_eq!(values.len() as i64, last, "values of {key}");
    }
}

pub async fn wait_exact(cluster: &Cluster, topic: &str, last: i64) {
    let all = (KEYS * last) as usize;
    let until = clock::monotonic() + DEADLINE;
    let mut found = read(cluster, topic).await;
    while found.values().map(Vec::len).sum::<usize>() < all {
        assert!(clock::monotonic() < until, "{topic} is not complete: {:?}", lengths(&found));
        clock::sleep(Duration::from_millis(30)).await;
        found = read(cluster, topic).await;
    }
    assert_exact(&found, last);
}

pub fn lengths(found: &BTreeMap<String, Vec<i64>>) -> BTreeMap<&str, (usize, i64)> {
    found.iter().map(|(k, v)| (k.as_str(), (v.len(), v.iter().copied().max().unwrap_or(0)))).collect()
}

/// Has every other request of a kind go wrong, in these ways one after another; tells how many have.
pub fn every_other(kafka: &EmbeddedKafka, api: Api, faults: Vec<Fault>) -> Arc<AtomicUsize> {
    let (asked, used) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&used);
    kafka.on(api, move |_| {
        let at = asked.fetch_add(1, Ordering::SeqCst);
        let fault = faults.get(at / 2).filter(|_| at % 2 == 0).cloned().unwrap_or(Fault::Pass);
        count.fetch_add(usize::from(fault != Fault::Pass), Ordering::SeqCst);
        fault
    });
    used
}

/// The same, without a request between them that goes well.
pub fn one_after_another(kafka: &EmbeddedKafka, api: Api, faults: Vec<Fault>) -> Arc<AtomicUsize> {
    let used = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&used);
    kafka.on(api, move |_| {
        let fault = faults.get(count.load(Ordering::SeqCst)).cloned().unwrap_or(Fault::Pass);
        count.fetch_add(usize::from(fault != Fault::Pass), Ordering::SeqCst);
        fault
    });
    used
}

/// An application that commits often and is quick to try again.
pub fn quick(kafka: &EmbeddedKafka, app_id: &str, state_dir: &tempfile::TempDir) -> ConfigBuilder {
    Config::builder(app_id, kafka.bootstrap())
        .workers(1)
        .state_dir(state_dir.path())
        .cache_bytes(0)
        .set("commit.interval.ms", "50")
        .set("poll.ms", "20")
        .set("linger.ms", "5")
        .set("heartbeat.interval.ms", "100")
        .set("fetch.max.wait.ms", "100")
        .set("request.timeout.ms", "2000")
        .set("retry.backoff.ms", "1")
        .set("retry.backoff.max.ms", "50")
        .set("reconnect.backoff.ms", "1")
        .set("reconnect.backoff.max.ms", "50")
}

/// Hands on each record as it is.
pub fn copy(input: &str, output: &str) -> Topology {
    let builder = StreamsBuilder::new();
    builder.stream::<String, i64>(input).map_values(|value| value).to(output);
    builder.build().unwrap()
}

/// Counts the records of each key, through a repartition topic.
pub fn count(input: &str, output: &str) -> Topology {
    let builder = StreamsBuilder::new();
    let stream = builder.stream::<String, i64>(input);
    let grouped = stream.group_by("by-key", |key, _| key.cloned().unwrap_or_default());
    grouped.count("counts").to_stream().to(output);
    builder.build().unwrap()
}

pub fn run(topology: Topology, config: ConfigBuilder) -> Running {
    start(App::new(topology, config.build().unwrap()).unwrap())
}

/// Waits for all of them, in one thread; panics with the first that did.
pub async fn side_by_side<F: Future<Output = ()> + 'static>(all: impl IntoIterator<Item = F>) {
    let set = tokio::task::LocalSet::new();
    let all: Vec<_> = all.into_iter().map(|one| set.spawn_local(one)).collect();
    let joined = async {
        for one in all {
            one.await.unwrap();
        }
    };
    set.run_until(joined).await;
}
