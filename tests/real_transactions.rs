//! Transactions of this crate's producer, in both transaction versions, on a real Kafka where one is told (each test
//! starts clusters of its own), else on the embedded broker; and what Java reads of them.
#![allow(clippy::unwrap_used, reason = "that is how a test fails")]
#![allow(clippy::disallowed_methods, reason = "deadlines of looks at a real cluster")]

mod common;
#[path = "common/java.rs"]
mod java;
#[path = "common/log.rs"]
mod log;
#[path = "common/nodes.rs"]
mod nodes;
#[path = "embedded_peers/raw.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod raw;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{connect, is_real, topic, unique};
use kafka_protocol::messages as m;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::protocol::StrBytes;
use mainstem::client::{
    Admin, Cluster, CommittedOffset, GroupMetadata, Isolation, OffsetSpec, Producer, ProducerOptions,
    ReadOptions, Reader,
};
use mainstem::{ErrorClass, ErrorKind, Record, TopicPartition};
use nodes::Nodes;
use raw::Raw;

const LONG: Duration = Duration::from_secs(120);

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

async fn start(version: u8) -> Nodes {
    let options: &'static [&'static str] = match version {
        1 => &["--feature", "transaction.version=1", "--fast-txn-cleanup"],
        _ => &["--feature", "transaction.version=2", "--fast-txn-cleanup"],
    };
    Nodes::start_with(1, options).await
}

fn producer(cluster: &Cluster, id: &str, timeout: Duration) -> Producer {
    let options = ProducerOptions::default().transactional_id(id).transaction_timeout(timeout);
    Producer::new(cluster, options.linger(Duration::from_millis(1))).unwrap()
}

async fn send(producer: &Producer, topic: &str, partition: i32, value: &str) {
    let record = Record::new(None, Bytes::copy_from_slice(value.as_bytes()), 1_000);
    producer.send(topic, Some(partition), record).await.unwrap();
}

/// What a reader sees of each of two partitions.
/// What a topic holds, once no transaction is open: markers may be written after a commit was answered.
async fn read(cluster: &Cluster, topic: &str, isolation: Isolation) -> [Vec<String>; 2] {
    let (admin, until) = (Admin::new(cluster), Instant::now() + LONG);
    for partition in [0, 1] {
        let at = TopicPartition::new(topic, partition);
        let end = async |isolation| {
            admin.list_offset(&at, OffsetSpec::Latest, isolation).await.unwrap().offset.unwrap()
        };
        while end(Isolation::ReadCommitted).await < end(Isolation::ReadUncommitted).await {
            assert!(Instant::now() < until, "transactions end");
        }
    }
    let options = ReadOptions::new(topic).isolation(isolation).until_end();
    let mut reader = Reader::new(cluster, options).await.unwrap();
    let mut values = [Vec::new(), Vec::new()];
    while let Some(record) = reader.next().await.unwrap() {
        let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
        values[record.partition as usize].push(value);
    }
    values
}

/// The stable offset of a partition, once no transaction is in the way; -1 if there is none.
async fn stable_offset(bootstrap: &str, group: &str, topic: &str, partition: i32) -> i64 {
    let (bootstrap, group, topic) = (bootstrap.to_owned(), group.to_owned(), topic.to_owned());
    let asked = tokio::task::spawn_blocking(move || {
        let mut raw = Raw::connect(&bootstrap);
        let topic = OffsetFetchRequestTopic::default()
            .with_name(m::TopicName(text(&topic)))
            .with_partition_indexes(vec![partition]);
        let request = m::OffsetFetchRequest::default()
            .with_group_id(m::GroupId(text(&group)))
            .with_topics(Some(vec![topic]))
            .with_require_stable(true);
        let until = Instant::now() + LONG;
        loop {
            assert!(Instant::now() < until, "the transaction ends");
            let answer = raw.ask(7, &request);
            let retriable = [14, 15, 16, 88];
            if retriable.contains(&answer.error_code) {
                continue;
            }
            assert_eq!(answer.error_code, 0);
            let partition = &answer.topics[0].partitions[0];
            if !retriable.contains(&partition.error_code) {
                assert_eq!(partition.error_code, 0);
                return partition.committed_offset;
            }
        }
    });
    asked.await.unwrap()
}

fn offsets(topic: &str, offset: i64) -> [(TopicPartition, CommittedOffset); 1] {
    [(TopicPartition::new(topic, 0), CommittedOffset::new(offset))]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_committed_transactions_are_seen_and_java_agrees() {
    for version in [1, 2] {
        let nodes = start(version).await;
        let cluster = connect(&nodes.bootstrap).await;
        let (out, input) = (topic(&cluster, "out", 2).await, topic(&cluster, "in", 1).await);
        let (id, group) = (unique("id"), unique("group"));
        let writer = producer(&cluster, &id, Duration::from_secs(60));
        writer.init_transactions().await.unwrap();
        let refused = writer.send(&out, Some(0), Record::new(None, Bytes::from("x"), 0)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::IllegalState, "outside of a transaction");
        let mut wanted = [Vec::new(), Vec::new()];
        for at in 0..20 {
            writer.begin_transaction().unwrap();
            for partition in [0, 1] {
                let value = format!("{at} of {partition}");
                send(&writer, &out, partition, &value).await;
                if at % 3 != 1 {
                    wanted[partition as usize].push(value);
                }
            }
            writer.send_offsets_to_transaction(offsets(&input, at), GroupMetadata::new(&group)).unwrap();
            match at % 3 {
                1 => writer.abort_transaction().await.unwrap(),
                _ => writer.commit_transaction().await.unwrap(),
            }
        }
        writer.begin_transaction().unwrap();
        writer.commit_transaction().await.unwrap();
        // The last one, 19, was aborted (19 % 3 == 1): 18 stands.
        assert_eq!(stable_offset(&nodes.bootstrap, &group, &input, 0).await, 18, "version {version}");
        assert_eq!(read(&cluster, &out, Isolation::ReadCommitted).await, wanted, "version {version}");
        let all = read(&cluster, &out, Isolation::ReadUncommitted).await;
        assert!(
            all.iter().all(|values| values.len() >= 13 && values.len() <= 20),
            "aborts may come before a batch"
        );
        if is_real() || std::env::var("MAINSTEM_JAVA").as_deref() == Ok("1") {
            let logs = java::consume(&nodes.bootstrap, "read_committed", std::slice::from_ref(&out)).await;
            for partition in [0, 1] {
                let records = &logs[&(out.clone(), partition)];
                let values: Vec<_> = records
                    .iter()
                    .map(|(_, rec)| String::from_utf8(rec.value.clone().unwrap()).unwrap())
                    .collect();
                assert_eq!(values, wanted[partition as usize], "Java, version {version}");
            }
        }
        let listed = Admin::new(&cluster).list_transactions(&id).await.unwrap();
        assert_eq!((listed.len(), listed[0].transactional_id.as_str()), (1, id.as_str()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_producer_fences_the_first() {
    for version in [1, 2] {
        let nodes = start(version).await;
        let cluster = connect(&nodes.bootstrap).await;
        let (out, id) = (topic(&cluster, "out", 2).await, unique("id"));
        let old = producer(&cluster, &id, Duration::from_secs(60));
        old.init_transactions().await.unwrap();
        old.begin_transaction().unwrap();
        send(&old, &out, 0, "old").await;
        old.flush().await.unwrap();
        let new = producer(&cluster, &id, Duration::from_secs(60));
        new.init_transactions().await.unwrap();
        let error = old.commit_transaction().await.unwrap_err();
        assert_eq!((error.class(), error.kind()), (ErrorClass::FencedLease, ErrorKind::Fenced), "{error:?}");
        assert!(old.begin_transaction().is_err());
        new.begin_transaction().unwrap();
        send(&new, &out, 0, "new").await;
        new.commit_transaction().await.unwrap();
        // As whoever takes the tasks of a member that has gone.
        new.begin_transaction().unwrap();
        send(&new, &out, 0, "too late").await;
        new.flush().await.unwrap();
        let fenced = Admin::new(&cluster).fence_producers(&[&id]).await.unwrap();
        assert!(fenced.iter().all(Result::is_ok), "{fenced:?}");
        let error = new.commit_transaction().await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::FencedLease, "{error:?}");
        let committed = read(&cluster, &out, Isolation::ReadCommitted).await;
        assert_eq!(committed, [vec!["new".to_owned()], vec![]], "version {version}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_brokers_abort_a_transaction_that_is_open_for_too_long() {
    for version in [1, 2] {
        let nodes = start(version).await;
        let cluster = connect(&nodes.bootstrap).await;
        let (out, id) = (topic(&cluster, "out", 2).await, unique("id"));
        let writer = producer(&cluster, &id, Duration::from_secs(1));
        writer.init_transactions().await.unwrap();
        writer.begin_transaction().unwrap();
        send(&writer, &out, 0, "late").await;
        writer.flush().await.unwrap();
        let admin = Admin::new(&cluster);
        let until = Instant::now() + LONG;
        loop {
            assert!(Instant::now() < until, "it is aborted");
            let described = admin.describe_transactions(&[&id]).await.unwrap().pop().unwrap().unwrap();
            if described.listing.state == "CompleteAbort" {
                break;
            }
        }
        let error = writer.commit_transaction().await.unwrap_err();
        // In version 2 the coordinator tells what has ended from what is another producer's.
        match error.class() {
            ErrorClass::FencedLease => {}
            ErrorClass::AbortTransaction if version == 2 => writer.abort_transaction().await.unwrap(),
            class => panic!("version {version}: {class:?}: {error:?}"),
        }
        let next = producer(&cluster, &id, Duration::from_secs(60));
        next.init_transactions().await.unwrap();
        next.begin_transaction().unwrap();
        send(&next, &out, 0, "next").await;
        next.commit_transaction().await.unwrap();
        let committed = read(&cluster, &out, Isolation::ReadCommitted).await;
        assert_eq!(committed, [vec!["next".to_owned()], vec![]], "version {version}");
    }
}

/// The broker is ended while transactions are being committed one after the other, three times. Every one of them is
/// committed, once, with its offset; whoever does not know what became of it asks until it is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_dies_in_the_midst_of_commits_loses_and_repeats_nothing() {
    for version in [1, 2] {
        let nodes = start(version).await;
        let cluster = connect(&nodes.bootstrap).await;
        let (out, input) = (topic(&cluster, "out", 2).await, topic(&cluster, "in", 1).await);
        let (id, group) = (unique("id"), unique("group"));
        let (done, mut told) = tokio::sync::watch::channel(0i64);
        let (name, source, members) = (out.clone(), input.clone(), group.clone());
        let writing = tokio::spawn(async move {
            let writer = producer(&cluster, &id, Duration::from_secs(60));
            writer.init_transactions().await.unwrap();
            let mut wanted = [Vec::new(), Vec::new()];
            let mut at = 0;
            while !done.is_closed() {
                at += 1;
                loop {
                    writer.begin_transaction().unwrap();
                    for partition in [0, 1] {
                        send(&writer, &name, partition, &format!("{at}")).await;
                    }
                    writer
                        .send_offsets_to_transaction(offsets(&source, at), GroupMetadata::new(&members))
                        .unwrap();
                    match writer.commit_transaction().await {
                        Ok(()) => break,
                        Err(error) if error.class() == ErrorClass::AbortTransaction => {
                            writer.abort_transaction().await.unwrap();
                        }
                        Err(error) => panic!("version {version}, transaction {at}: {error:?}"),
                    }
                }
                wanted.iter_mut().for_each(|values| values.push(at.to_string()));
                let _ = done.send(at);
            }
            (cluster, wanted)
        });
        for round in 1..=3 {
            let more = round * 30;
            let reached = tokio::time::timeout(LONG, told.wait_for(|at| *at >= more)).await;
            reached.expect("transactions are committed").unwrap();
            nodes.kill(1).await;
            nodes.revive(1).await;
        }
        let last = *told.borrow() + 20;
        tokio::time::timeout(LONG, told.wait_for(|at| *at >= last)).await.expect("it goes on").unwrap();
        drop(told);
        let (cluster, wanted) = writing.await.unwrap();
        assert_eq!(read(&cluster, &out, Isolation::ReadCommitted).await, wanted, "version {version}");
        let offset = stable_offset(&nodes.bootstrap, &group, &input, 0).await;
        assert_eq!(offset, wanted[0].len() as i64, "version {version}");
    }
}
