//! Three clients that know nothing of each other (this crate, rskafka, Java's) must agree on what lies in the log.
#![allow(clippy::unwrap_used, reason = "that is how a test fails")]

mod common;
#[path = "common/java.rs"]
mod java;
#[path = "common/log.rs"]
mod log;

use common::{connect, topic, unique, with_java};
use log::{CODECS, Logs, Rec};
use mainstem::client::{Admin, Isolation, OffsetSpec};
use mainstem::{TopicPartition, partition_for_key};
use rskafka::client::ClientBuilder;

/// A generator of numbers that is the same in every run (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| (self.next() >> 32) as u8).collect()
    }
}

/// What is odd in a record, as far as every client can say it: nulls, empties, bytes that are no text, timestamps that go
/// back and forth (all past: a broker refuses those more than an hour ahead), values that compress well and that do not at all.
fn plain() -> Vec<Rec> {
    let mut numbers = Numbers(7);
    let some = |bytes: &[u8]| Some(bytes.to_vec());
    let header = |name: &str, value: &[u8]| (name.to_owned(), Some(value.to_vec()));
    let all = some(&(0..=255).collect::<Vec<u8>>());
    let mut records = vec![
        Rec { key: some(b"k"), value: some(b"v"), timestamp: 1, headers: vec![] },
        Rec { key: None, value: some(b"no key"), timestamp: 0, headers: vec![] },
        Rec { key: some(b"no value"), value: None, timestamp: 86_400_000, headers: vec![] },
        Rec { key: None, value: None, timestamp: 2, headers: vec![] },
        Rec { key: some(b""), value: some(b""), timestamp: 1_000_000_000_000, headers: vec![] },
        Rec {
            key: all.clone(),
            value: all.clone(),
            timestamp: 3,
            headers: vec![header("all", &all.clone().unwrap())],
        },
        Rec {
            key: some("ключ ☃ 🦀".as_bytes()),
            value: some("värde".as_bytes()),
            timestamp: 4,
            headers: vec![],
        },
        Rec {
            key: some(b"h"),
            value: some(b"headers"),
            timestamp: 5,
            headers: vec![
                // By name: that is the order in which rskafka writes them.
                header("", b"no name"),
                header("a", b"1"),
                header("b", b""),
                header("ünï", b"\xff\x00"),
            ],
        },
        Rec { key: some(b"big"), value: some(&vec![b'x'; 300_000]), timestamp: 6, headers: vec![] },
        Rec { key: some(b"noise"), value: Some(numbers.bytes(100_000)), timestamp: 7, headers: vec![] },
    ];
    for at in 0..500 {
        let (key, value) = ((numbers.next() % 40) as usize, (numbers.next() % 200) as usize);
        records.push(Rec {
            key: (at % 3 != 0).then(|| numbers.bytes(key)),
            value: (at % 7 != 0).then(|| numbers.bytes(value)),
            timestamp: (numbers.next() % 1_500_000_000_000) as i64,
            headers: vec![],
        });
    }
    records
}

/// Headers that repeat, in an order that matters, and null header values beside empty ones. rskafka keeps headers in a map
/// by name and refuses null values, so these are for Java and this crate only.
fn with_headers() -> Vec<Rec> {
    let mut records = plain();
    let all: Vec<(String, Option<Vec<u8>>)> =
        [("h", Some("1")), ("g", None), ("h", Some("")), ("h", None), ("h", Some("1")), ("a", Some("last"))]
            .map(|(name, value)| (name.to_owned(), value.map(|v| v.as_bytes().to_vec())))
            .to_vec();
    for (at, record) in records.iter_mut().enumerate().filter(|(at, _)| at % 5 == 0) {
        record.headers.extend_from_slice(&all[..at % (all.len() + 1)]);
    }
    records
}

/// Repeated names, but no nulls: rskafka can read them, and shows the last of each name.
fn with_repeats() -> Vec<Rec> {
    let mut records = plain();
    for record in records.iter_mut().step_by(4) {
        record.headers.extend(["1", "2", ""].map(|value| ("h".to_owned(), Some(value.as_bytes().to_vec()))));
    }
    records
}

fn assert_log(what: &str, got: Option<&Vec<(i64, Rec)>>, wanted: &[Rec]) {
    let got = got.map_or(&[][..], |got| &got[..]);
    for (at, ((offset, got), wanted)) in got.iter().zip(wanted).enumerate() {
        assert_eq!(*offset, at as i64, "{what}");
        assert!(got == wanted, "{what}, offset {at}: {got:?} should be {wanted:?}");
    }
    assert_eq!(got.len(), wanted.len(), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_client_reads_what_every_client_writes_in_every_codec() {
    let Some(broker) = with_java("every_client_reads_what_every_client_writes_in_every_codec") else {
        return;
    };
    let cluster = connect(&broker).await;
    let other = ClientBuilder::new(vec![broker.clone()]).build().await.unwrap();
    // Partition 0 holds what rskafka cannot read (or, written by rskafka, the same as 1); partition 1 what all can.
    let (full, repeats, plain) = (with_headers(), with_repeats(), plain());
    let mut wanted = Vec::new();
    for codec in CODECS {
        let native = topic(&cluster, &format!("native-{codec}"), 2).await;
        let java = topic(&cluster, &format!("java-{codec}"), 2).await;
        let rskafka = topic(&cluster, &format!("rskafka-{codec}"), 2).await;
        let both = |topic: &String| {
            let full = full.iter().map(|rec| (topic.clone(), 0, rec.clone()));
            full.chain(repeats.iter().map(|rec| (topic.clone(), 1, rec.clone()))).collect::<Vec<_>>()
        };
        log::produce(&cluster, codec, &both(&native)).await;
        java::produce(&broker, &["--compression", codec], &both(&java)).await;
        for partition in 0..2 {
            // In several batches, as no client of ours would cut them.
            for part in plain.chunks(97) {
                log::rskafka_produce(&other, codec, &rskafka, partition, part).await;
            }
        }
        wanted.push((native, &full, &repeats));
        wanted.push((java, &full, &repeats));
        wanted.push((rskafka, &plain, &plain));
    }
    let topics: Vec<String> = wanted.iter().map(|(topic, ..)| topic.clone()).collect();
    let by_native = log::consume_all(&cluster, &topics).await;
    let by_java = java::consume(&broker, "read_committed", &topics).await;
    let mut pairs = 0;
    for (topic, first, second) in &wanted {
        for (reader, logs) in [("native", &by_native), ("java", &by_java)] {
            for (partition, records) in [(0, first), (1, second)] {
                let what = format!("{topic}-{partition} read by {reader}");
                assert_log(&what, logs.get(&(topic.clone(), partition)), records);
            }
            pairs += 1;
        }
        let by_rskafka = log::rskafka_consume(&other, topic, 1).await;
        assert_eq!(by_rskafka.len(), second.len(), "{topic} read by rskafka");
        for (at, ((offset, got), wanted)) in by_rskafka.iter().zip(second.iter()).enumerate() {
            let what = format!("{topic}-1 read by rskafka, offset {at}");
            assert_eq!(*offset, at as i64, "{what}");
            assert!((&got.key, &got.value) == (&wanted.key, &wanted.value), "{what}: {got:?}, {wanted:?}");
            assert_eq!(got.timestamp.timestamp_millis(), wanted.timestamp, "{what}");
            assert_eq!(got.headers, log::rskafka_headers(wanted), "{what}");
        }
        pairs += 1;
    }
    assert_eq!(pairs, 45);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_of_java_are_seen_as_java_sees_them() {
    let Some(broker) = with_java("transactions_of_java_are_seen_as_java_sees_them") else { return };
    let cluster = connect(&broker).await;
    let (name, id) = (topic(&cluster, "transactions", 2).await, unique("writer"));
    let records = |what: &str, partitions: &[i32]| {
        let one = |at: i64| {
            let value = Some(format!("{what} {at}").into_bytes());
            (
                name.clone(),
                partitions[at as usize % partitions.len()],
                Rec { value, timestamp: at, ..Rec::default() },
            )
        };
        (0..10).map(one).collect::<Vec<_>>()
    };
    let transaction = async |what: &str, partitions: &[i32], more: &[&str]| {
        let arguments: Vec<&str> = ["--transactional-id", &id].iter().chain(more).copied().collect();
        java::produce(&broker, &arguments, &records(what, partitions)).await
    };
    // Partition 0 ends with a commit marker, partition 1 with an abort marker.
    transaction("committed", &[0, 1], &[]).await;
    transaction("aborted", &[0, 1], &["--abort"]).await;
    java::produce(&broker, &[], &records("outside", &[0])).await;
    transaction("aborted too", &[1], &["--abort"]).await;
    transaction("committed too", &[0], &["--compression", "lz4"]).await;
    let admin = Admin::new(&cluster);
    let end = async |partition, isolation| {
        let at = TopicPartition::new(name.as_str(), partition);
        admin.list_offset(&at, OffsetSpec::Latest, isolation).await.unwrap().offset.unwrap()
    };
    let read = async |isolation| {
        let (records, positions) = log::consume(&cluster, isolation, &name).await;
        let mut logs = Logs::new();
        for (partition, offset, rec) in records {
            logs.entry((name.clone(), partition)).or_default().push((offset, rec));
        }
        (logs, positions)
    };
    let topics = [name.clone()];
    // Records and markers: 5 + 1, 5 + 1, 10, 10 + 1 and 5 + 1, 5 + 1, 10 + 1.
    let ends = [(0, 33), (1, 23)];
    for (isolation, spelled, count) in [
        (Isolation::ReadCommitted, "read_committed", 30),
        (Isolation::ReadUncommitted, "read_uncommitted", 50),
    ] {
        let (native, positions) = read(isolation).await;
        assert_eq!(native.values().map(Vec::len).sum::<usize>(), count, "{spelled}");
        assert!(native == java::consume(&broker, spelled, &topics).await, "{spelled}");
        assert_eq!(positions, ends, "{spelled}: past the last marker");
        for (partition, wanted) in ends {
            assert_eq!(end(partition, isolation).await, wanted, "{spelled}");
        }
    }
    let (committed, _) = read(Isolation::ReadCommitted).await;
    let aborted = |rec: &Rec| rec.value.as_ref().unwrap().starts_with(b"aborted");
    assert!(committed.values().flatten().all(|(_, rec)| !aborted(rec)));

    // A transaction that nobody ends holds back what is behind it, also what is of no transaction.
    transaction("left open", &[0], &["--leave-open"]).await;
    java::produce(&broker, &[], &records("outside", &[0])).await;
    assert_eq!(end(0, Isolation::ReadCommitted).await, 33);
    assert_eq!(end(0, Isolation::ReadUncommitted).await, 53);
    let (held_back, positions) = read(Isolation::ReadCommitted).await;
    assert!(held_back == committed);
    assert_eq!(positions, ends);
    assert_eq!(read(Isolation::ReadUncommitted).await.0.values().map(Vec::len).sum::<usize>(), 70);
    // The next producer of that name has it aborted: a marker at 53, then ten records and a marker.
    transaction("after", &[0], &[]).await;
    let (after, positions) = read(Isolation::ReadCommitted).await;
    assert_eq!(after.values().map(Vec::len).sum::<usize>(), 30 + 10 + 10);
    assert_eq!(positions, [(0, 65), (1, 23)]);
    assert!(after == java::consume(&broker, "read_committed", &topics).await);
}

#[test]
fn every_key_has_the_partition_that_java_gives_it() {
    if with_java("every_key_has_the_partition_that_java_gives_it").is_none() {
        return;
    }
    let mut numbers = Numbers(42);
    let mut keys: Vec<Vec<u8>> = ["", "a", "ключ", "☃", "🦀🦀", "é", "e\u{301}", "\0", "\u{10ffff}"]
        .iter()
        .map(|key| key.as_bytes().to_vec())
        .collect();
    keys.extend((0..=255).map(|byte| vec![byte]));
    // Every remainder of the length by four has its own path through the hash.
    keys.extend((0..20_000).map(|at| numbers.bytes(at % 67)));
    for count in [1, 2, 3, 12, 97, 1_000, i32::MAX] {
        let theirs = java::partitions(&keys, count);
        assert_eq!(theirs.len(), keys.len());
        for (key, theirs) in keys.iter().zip(theirs) {
            assert_eq!(partition_for_key(key, count), theirs, "{key:?} of {count}");
        }
    }
}
