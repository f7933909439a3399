//! Records in a shape that every client can be compared in, and reading and writing them with this crate and with rskafka.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;

use bytes::Bytes;
use mainstem::client::{Cluster, Isolation, Producer, ProducerOptions, ReadOptions, Reader};
use mainstem::{Headers, Record};
use rskafka::client::Client;
use rskafka::client::partition::{Compression, OffsetAt, PartitionClient, UnknownTopicHandling};

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Rec {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) timestamp: i64,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Offsets and records by topic and partition.
pub(crate) type Logs = BTreeMap<(String, i32), Vec<(i64, Rec)>>;

pub(crate) const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

fn own(bytes: &Option<Bytes>) -> Option<Vec<u8>> {
    bytes.as_ref().map(|bytes| bytes.to_vec())
}

/// Writes with this crate.
pub(crate) async fn produce(cluster: &Cluster, codec: &str, records: &[(String, i32, Rec)]) {
    let options = ProducerOptions::default().compression(codec).expect("a codec");
    let producer = Producer::new(cluster, options).expect("a producer");
    for (topic, partition, rec) in records {
        let headers: Headers =
            rec.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        let (key, value) = (rec.key.clone().map(Bytes::from), rec.value.clone().map(Bytes::from));
        let record = Record::new(key, value, rec.timestamp).with_headers(headers);
        producer.send(topic, Some(*partition), record).await.expect("taken");
    }
    producer.flush().await.expect("written");
}

/// Reads one topic with this crate; also says where reading would go on.
pub(crate) async fn consume(
    cluster: &Cluster,
    isolation: Isolation,
    topic: &str,
) -> (Vec<(i32, i64, Rec)>, Vec<(i32, i64)>) {
    let options = ReadOptions::new(topic).isolation(isolation).until_end();
    let mut reader = Reader::new(cluster, options).await.expect("the topic is there");
    let mut records = Vec::new();
    while let Some(record) = reader.next().await.expect("it can be read") {
        let headers =
            record.headers.iter().map(|h| (h.key().into_owned(), h.value().map(<[u8]>::to_vec))).collect();
        let rec =
            Rec { key: own(&record.key), value: own(&record.value), timestamp: record.timestamp, headers };
        records.push((record.partition, record.offset, rec));
    }
    (records, reader.positions())
}

/// Reads topics with this crate.
pub(crate) async fn consume_all(cluster: &Cluster, topics: &[String]) -> Logs {
    let mut logs = Logs::new();
    for topic in topics {
        for (partition, offset, rec) in consume(cluster, Isolation::ReadCommitted, topic).await.0 {
            logs.entry((topic.clone(), partition)).or_default().push((offset, rec));
        }
    }
    logs
}

async fn rskafka_partition(client: &Client, topic: &str, partition: i32) -> PartitionClient {
    client
        .partition_client(topic, partition, UnknownTopicHandling::Retry)
        .await
        .expect("the partition is there")
}

/// Writes with rskafka, which has neither null header values nor two headers of a name: the records must not either.
pub(crate) async fn rskafka_produce(
    client: &Client,
    codec: &str,
    topic: &str,
    partition: i32,
    records: &[Rec],
) {
    let compression = match codec {
        "none" => Compression::NoCompression,
        "gzip" => Compression::Gzip,
        "snappy" => Compression::Snappy,
        "lz4" => Compression::Lz4,
        "zstd" => Compression::Zstd,
        other => panic!("no codec {other}"),
    };
    let records = records.iter().map(|rec| rskafka::record::Record {
        key: rec.key.clone(),
        value: rec.value.clone(),
        headers: rskafka_headers(rec),
        timestamp: chrono::DateTime::from_timestamp_millis(rec.timestamp).expect("a time"),
    });
    let at = rskafka_partition(client, topic, partition).await;
    at.produce(records.collect(), compression).await.expect("rskafka can write");
}

/// What rskafka makes of headers: by name, the last wins. It refuses records with a null header value.
pub(crate) fn rskafka_headers(rec: &Rec) -> BTreeMap<String, Vec<u8>> {
    let value = |(name, value): &(String, Option<Vec<u8>>)| {
        (name.clone(), value.clone().expect("rskafka has no null header values"))
    };
    rec.headers.iter().map(value).collect()
}

/// Reads a partition with rskafka, from its beginning to its end.
pub(crate) async fn rskafka_consume(
    client: &Client,
    topic: &str,
    partition: i32,
) -> Vec<(i64, rskafka::record::Record)> {
    let at = rskafka_partition(client, topic, partition).await;
    let (mut next, end) = (
        at.get_offset(OffsetAt::Earliest).await.expect("an offset"),
        at.get_offset(OffsetAt::Latest).await.expect("an offset"),
    );
    let mut records = Vec::new();
    while next < end {
        let (some, _) = at.fetch_records(next, 1..10_000_000, 1_000).await.expect("rskafka can read");
        let Some(last) = some.last() else { break };
        next = last.offset + 1;
        records.extend(some.into_iter().map(|record| (record.offset, record.record)));
    }
    records
}
