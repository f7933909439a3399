//! What an application leaves in its topics is what Kafka Streams would leave there, as Java and rskafka read it; and a
//! changelog that the broker has compacted still restores the state.
#![allow(clippy::unwrap_used, reason = "that is how a test fails")]
#![allow(clippy::disallowed_methods, reason = "deadlines, and pauses between looks at a real cluster")]

mod common;
#[path = "common/java.rs"]
mod java;
#[path = "common/log.rs"]
mod log;

use std::collections::{BTreeMap, HashMap};
use std::future::IntoFuture;
use std::time::Duration;

use common::{connect, topic, unique, with_java};
use log::{Logs, Rec};
use mainstem::client::{Cluster, Isolation, ReadFrom, ReadOptions, Reader};
use mainstem::prelude::*;
use mainstem::{App, Config};
use rskafka::client::ClientBuilder;
use tokio::time::timeout;

const PARTITIONS: i32 = 3;
const PATIENCE: Duration = Duration::from_secs(90);
const WORDS: [&str; 12] = [
    "a",
    "log",
    "ключ",
    "☃",
    "🦀🦀",
    "naïve",
    "naïve",
    "stream",
    "table",
    "of",
    "kafka",
    "zzzzzzzzzzzzzzzzzzzzzzzzzz",
];
/// 2020-09-13, and on by a second a line.
const BEGIN: i64 = 1_600_000_000_000;

fn lines(from: i64, to: i64) -> Vec<(i32, Rec)> {
    let line = |at: i64| {
        let words: Vec<_> = (0..at % 4 + 1).map(|i| WORDS[((at * 7 + i * i * 5) % 12) as usize]).collect();
        let value = Some(words.join(" ").into_bytes());
        ((at % i64::from(PARTITIONS)) as i32, Rec { value, timestamp: BEGIN + at * 1_000, ..Rec::default() })
    };
    (from..to).map(line).collect()
}

fn tokens(lines: &[(i32, Rec)]) -> HashMap<Vec<u8>, i64> {
    let mut counts = HashMap::new();
    for word in lines.iter().flat_map(|(_, rec)| rec.value.as_deref().unwrap().split(|byte| *byte == b' ')) {
        *counts.entry(word.to_vec()).or_insert(0) += 1;
    }
    counts
}

fn topology(lines: &str, counts: &str) -> Topology {
    let builder = StreamsBuilder::new();
    // Small segments and no patience: the broker compacts whatever is not in the newest segment.
    let store = Materialized::named("counts")
        .changelog_config("segment.ms", "100")
        .changelog_config("max.compaction.lag.ms", "100")
        .changelog_config("min.cleanable.dirty.ratio", "0.01");
    builder
        .stream::<String, String>(lines)
        .named("lines")
        .flat_map_values(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .named("words")
        .group_by("by-word", |_, word| word.clone())
        .count(store.processor("count"))
        .to_stream()
        .named("updates")
        .to(counts);
    builder.build().unwrap()
}

/// Runs the application: writes each wave when the updates of the one before are in its output, and ends it in good order.
async fn run(broker: &str, id: &str, cluster: &Cluster, names: (&str, &str), waves: &[&[(i32, Rec)]]) {
    // What is in the repartition topic is to be looked at: it is not purged.
    let config =
        Config::builder(id, broker).workers(2).cache_bytes(0).set("repartition.purge.interval.ms", "3600000");
    let state_dir = tempfile::tempdir().unwrap();
    let config = config.state_dir(state_dir.path()).build().unwrap();
    let app = App::new(topology(names.0, names.1), config).unwrap();
    let handle = app.handle();
    let running = tokio::spawn(app.run().into_future());
    let mut reader = Reader::new(cluster, ReadOptions::new(names.1).from(ReadFrom::Latest)).await.unwrap();
    for wave in waves {
        write(cluster, names.0, wave).await;
        let read = async {
            for _ in 0..tokens(wave).values().sum::<i64>() {
                reader.next().await.unwrap();
            }
        };
        timeout(PATIENCE, read).await.expect("the updates come in time");
    }
    handle.stop();
    timeout(PATIENCE, running).await.expect("it ends in time").unwrap().unwrap();
}

async fn write(cluster: &Cluster, topic: &str, lines: &[(i32, Rec)]) {
    let records: Vec<_> = lines.iter().map(|(at, rec)| (topic.to_owned(), *at, rec.clone())).collect();
    log::produce(cluster, "none", &records).await;
}

fn of<'a>(logs: &'a Logs, topic: &str) -> Vec<(i32, i64, &'a Rec)> {
    logs.iter()
        .filter(|((name, _), _)| name == topic)
        .flat_map(|((_, partition), log)| log.iter().map(|(offset, rec)| (*partition, *offset, rec)))
        .collect()
}

/// The counts of each key in the order of the log, with their timestamps; what must hold for each record is checked.
fn updates(logs: &Logs, topic: &str) -> BTreeMap<Vec<u8>, Vec<(i64, i64)>> {
    let mut updates: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let mut homes = HashMap::new();
    for (partition, _, rec) in of(logs, topic) {
        let key = rec.key.clone().expect("every update has a key");
        assert!(WORDS.contains(&std::str::from_utf8(&key).expect("keys are UTF-8")), "{rec:?}");
        let value: [u8; 8] =
            rec.value.as_deref().unwrap().try_into().expect("eight bytes, nothing before them");
        assert_eq!(rec.headers, [], "no headers");
        assert_eq!(*homes.entry(key.clone()).or_insert(partition), partition, "a key has one partition");
        updates.entry(key).or_default().push((i64::from_be_bytes(value), rec.timestamp));
    }
    let keys: Vec<_> = homes.keys().cloned().collect();
    for (key, partition) in keys.iter().zip(java::partitions(&keys, PARTITIONS)) {
        assert_eq!(homes[key], partition, "{topic}: {key:?} is where Java puts it");
    }
    updates
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_applications_topics_hold_what_kafka_streams_would_write() {
    let Some(broker) = with_java("an_applications_topics_hold_what_kafka_streams_would_write") else {
        return;
    };
    let cluster = connect(&broker).await;
    let source = topic(&cluster, "lines", PARTITIONS).await;
    let output = topic(&cluster, "counts", PARTITIONS).await;
    let id = unique("interop");
    let (changelog, repartition) = (format!("{id}-counts-changelog"), format!("{id}-by-word-repartition"));
    let first = lines(0, 300);
    let truth = tokens(&first);
    let total = truth.values().sum::<i64>() as usize;
    // In waves: a broker does not compact what was written last.
    let waves: Vec<_> = first.chunks(60).collect();
    run(&broker, &id, &cluster, (&source, &output), &waves).await;

    let topics = [output.clone(), changelog.clone(), repartition.clone()];
    let logs = java::consume(&broker, "read_committed", &topics).await;
    let results = updates(&logs, &output);
    assert_eq!(results.len(), truth.len());
    for (key, updates) in &results {
        let counts: Vec<_> = updates.iter().map(|(count, _)| *count).collect();
        assert!(
            counts.iter().copied().eq(1..=truth[key]),
            "{key:?}: {counts:?} should be 1 to {}",
            truth[key]
        );
    }
    // The changelog has the latest of each key at least; what is there are the same values with the same timestamps.
    let logged = updates(&logs, &changelog);
    assert_eq!(logged.keys().collect::<Vec<_>>(), results.keys().collect::<Vec<_>>());
    for (key, logged) in &logged {
        assert_eq!(logged.last(), results[key].last(), "{key:?}");
        assert!(logged.iter().all(|update| results[key].contains(update)), "{key:?}: {logged:?}");
        assert!(logged.is_sorted(), "{key:?}: {logged:?}");
    }
    // What is still in the repartition topic is a word under itself, where Java puts it, with the line's timestamp.
    let words = of(&logs, &repartition);
    let keys: Vec<_> = words.iter().map(|(_, _, rec)| rec.key.clone().unwrap()).collect();
    for ((partition, _, rec), javas) in words.iter().zip(java::partitions(&keys, PARTITIONS)) {
        assert_eq!((&rec.key, rec.headers.len(), *partition), (&rec.value, 0, javas));
        assert_eq!((rec.timestamp - BEGIN) % 1_000, 0);
    }
    // A count has the highest timestamp that its key has had so far (KStreamAggregate).
    assert_eq!(words.len(), total);
    let mut seen: BTreeMap<Vec<u8>, Vec<(i64, i64)>> = BTreeMap::new();
    for (_, _, rec) in &words {
        let so_far = seen.entry(rec.key.clone().unwrap()).or_default();
        let (count, high) = so_far.last().copied().unwrap_or((0, i64::MIN));
        so_far.push((count + 1, high.max(rec.timestamp)));
    }
    assert_eq!(seen, results);
    // rskafka, which shares no code with either, sees the same.
    let other = ClientBuilder::new(vec![broker.clone()]).build().await.unwrap();
    for name in [&output, &repartition] {
        for partition in 0..PARTITIONS {
            let theirs = log::rskafka_consume(&other, name, partition).await;
            let javas = logs.get(&(name.clone(), partition)).map_or(&[][..], |log| &log[..]);
            assert_eq!(theirs.len(), javas.len(), "{name}-{partition}");
            for ((offset, record), (wanted_offset, wanted)) in theirs.iter().zip(javas) {
                assert_eq!((offset, &record.key, &record.value), (wanted_offset, &wanted.key, &wanted.value));
                assert_eq!(record.timestamp.timestamp_millis(), wanted.timestamp);
            }
        }
    }
    // The changelog may have been compacted since Java read it: what rskafka finds is part of that, latest counts included.
    let mut latest: HashMap<Vec<u8>, i64> = HashMap::new();
    for partition in 0..PARTITIONS {
        let javas = logs.get(&(changelog.clone(), partition)).map_or(&[][..], |log| &log[..]);
        for (offset, record) in log::rskafka_consume(&other, &changelog, partition).await {
            let (_, wanted) = javas.iter().find(|(at, _)| *at == offset).expect("Java has read this offset");
            assert_eq!((&record.key, &record.value), (&wanted.key, &wanted.value));
            assert_eq!(record.timestamp.timestamp_millis(), wanted.timestamp);
            let count = i64::from_be_bytes(record.value.as_deref().unwrap().try_into().unwrap());
            latest.insert(record.key.clone().unwrap(), count);
        }
    }
    assert_eq!(latest, truth);

    // The broker takes away what later records of a key replace; the counts go on from what is left.
    let compacted = async {
        loop {
            let left = log::consume(&cluster, Isolation::ReadCommitted, &changelog).await.0.len();
            if left < total / 2 {
                return left;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let left = timeout(PATIENCE, compacted).await.expect("the broker compacts in time");
    println!("{left} of {total} changelog records are left");
    let second = lines(300, 400);
    run(&broker, &id, &cluster, (&source, &output), &[&second]).await;
    let results =
        updates(&java::consume(&broker, "read_committed", std::slice::from_ref(&output)).await, &output);
    for (key, count) in tokens(&lines(0, 400)) {
        let counts: Vec<_> = results[&key].iter().map(|(count, _)| *count).collect();
        assert!(counts.iter().copied().eq(1..=count), "{key:?}: {counts:?} should be 1 to {count}");
    }
}
