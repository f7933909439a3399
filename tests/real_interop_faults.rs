//! The client while brokers die and come back: nothing is lost, nothing is doubled, order stays.
#![allow(clippy::unwrap_used, reason = "that is how a test fails")]
#![allow(clippy::disallowed_methods, reason = "deadlines, and pauses between looks at a real cluster")]

mod common;
#[path = "common/nodes.rs"]
mod nodes;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::unique;
use mainstem::Record;
use mainstem::client::{
    Admin, ClientConfig, Cluster, Isolation, NewTopic, Producer, ProducerOptions, ReadOptions, Reader,
};
use mainstem::clock::{Clock, SystemClock};
use nodes::{Nodes, leader};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

const PARTITIONS: usize = 3;
/// How many records of a partition may be written and not read yet: so both are under way whenever a broker dies.
const AHEAD: usize = 2_000;
const PATIENCE: Duration = Duration::from_secs(120);

/// Numbers written to every partition of a topic, and read back at once.
struct Traffic {
    topic: String,
    stop: Arc<AtomicBool>,
    read: watch::Receiver<[u64; PARTITIONS]>,
    reading: tokio::task::JoinHandle<()>,
    writing: JoinSet<(usize, u64)>,
    producer: Arc<Producer>,
}

impl Traffic {
    async fn start(cluster: &Cluster, topic: NewTopic, name: String) -> Self {
        Admin::new(cluster).create_topic(topic).await.unwrap();
        let producer = Arc::new(Producer::new(cluster, ProducerOptions::default()).unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let room: Arc<[Semaphore; PARTITIONS]> = Arc::new(std::array::from_fn(|_| Semaphore::new(AHEAD)));
        let mut writing = JoinSet::new();
        for partition in 0..PARTITIONS {
            let (producer, stop, room) = (Arc::clone(&producer), Arc::clone(&stop), Arc::clone(&room));
            let name = name.clone();
            writing.spawn(async move {
                let mut number = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    room[partition].acquire().await.unwrap().forget();
                    let value = Bytes::copy_from_slice(&number.to_be_bytes());
                    // Of today: a broker that was killed forgets producers whose records are a day old.
                    let record = Record::new(None, value, SystemClock.wall_ms());
                    producer.send(&name, Some(partition as i32), record).await.unwrap();
                    number += 1;
                }
                (partition, number)
            });
        }
        let (progress, read) = watch::channel([0; PARTITIONS]);
        let mut reader = Reader::new(cluster, ReadOptions::new(&name)).await.unwrap();
        let reading = tokio::spawn(async move {
            loop {
                let record = match reader.next().await {
                    // A partition whose only broker is away for long, on a busy machine: it comes back.
                    Err(error) if error.is_retriable() => continue,
                    next => next.unwrap().unwrap(),
                };
                let partition = record.partition as usize;
                progress.send_modify(|next| {
                    assert_eq!(number(record.value.as_deref()), next[partition], "partition {partition}");
                    next[partition] += 1;
                });
                room[partition].add_permits(1);
            }
        });
        Self { topic: name, stop, read, reading, writing, producer }
    }

    /// Waits until these partitions have moved on by so many records since now.
    async fn moves_on(&mut self, partitions: &[usize], by: u64) {
        let before = *self.read.borrow();
        let moved = |now: &[u64; PARTITIONS]| partitions.iter().all(|&at| now[at] >= before[at] + by);
        let waited = timeout(PATIENCE, self.read.wait_for(moved)).await.map(|seen| seen.is_ok());
        let now = *self.read.borrow();
        assert_eq!(waited, Ok(true), "{}: {partitions:?} stand still: {before:?}, {now:?}", self.topic);
    }

    /// Ends the writers, and counts what is in the log.
    async fn finish(mut self, cluster: &Cluster) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut written = [0; PARTITIONS];
        while let Some(done) = timeout(PATIENCE, self.writing.join_next()).await.unwrap() {
            let (partition, count) = done.unwrap();
            written[partition] = count;
        }
        timeout(PATIENCE, self.producer.flush()).await.expect("everything is written in time").unwrap();
        let all = self.read.wait_for(|read| *read == written);
        assert!(timeout(PATIENCE, all).await.is_ok_and(|read| read.is_ok()), "everything written is read");
        self.reading.abort();
        let options = ReadOptions::new(&self.topic).isolation(Isolation::ReadCommitted).until_end();
        let mut reader = Reader::new(cluster, options).await.unwrap();
        let mut found = [0; PARTITIONS];
        while let Some(record) = reader.next().await.unwrap() {
            let next = &mut found[record.partition as usize];
            assert_eq!(number(record.value.as_deref()), *next, "{}-{}", self.topic, record.partition);
            *next += 1;
        }
        assert_eq!(found, written, "{}: nothing lost, nothing doubled", self.topic);
        written.iter().sum()
    }
}

fn number(value: Option<&[u8]>) -> u64 {
    u64::from_be_bytes(value.unwrap().try_into().unwrap())
}

async fn in_sync(cluster: &Cluster, topic: &str) {
    let admin = Admin::new(cluster);
    let all = async {
        loop {
            let info = admin.describe_topics(&[topic]).await.unwrap().pop().unwrap().unwrap();
            if info.partitions.iter().all(|p| p.in_sync.len() == 3) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, all).await.expect("every replica catches up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_die_and_come_back_and_nothing_is_lost_doubled_or_out_of_order() {
    let nodes = Nodes::start(3).await;
    // Addresses where nobody listens come first.
    let bootstrap = format!("127.0.0.1:1,localhost:2,[::1]:3,{}", nodes.bootstrap);
    let cluster = Cluster::connect(ClientConfig::new(&bootstrap)).await.unwrap();
    // The leaders of one move when a broker dies; the partition of the other that a dead broker keeps waits for it.
    let (moving, waiting) = (unique("moving"), unique("waiting"));
    let new = NewTopic::new(&moving, PARTITIONS as i32).replication(3);
    let mut moving = Traffic::start(&cluster, new.config("retention.ms", "-1"), moving).await;
    let new = NewTopic::new(&waiting, PARTITIONS as i32).replication(1).config("min.insync.replicas", "1");
    let mut waiting = Traffic::start(&cluster, new.config("retention.ms", "-1"), waiting).await;
    let all = [0, 1, 2];
    for round in 0..2 {
        moving.moves_on(&all, 3_000).await;
        waiting.moves_on(&all, 3_000).await;
        let dead = leader(&cluster, &moving.topic, round).await;
        let mut others = Vec::new();
        for partition in all {
            if leader(&cluster, &waiting.topic, partition).await != dead {
                others.push(partition);
            }
        }
        assert_eq!(others.len(), 2, "one partition on each node");
        nodes.kill(dead).await;
        moving.moves_on(&all, 3_000).await;
        waiting.moves_on(&others, 3_000).await;
        // Who comes now finds the cluster although the first of its addresses is that of the dead one.
        let late = nodes.bootstrap.split(',').nth(dead as usize - 1).unwrap();
        let late = ClientConfig::new(format!("{late},{}", nodes.bootstrap));
        let late = Cluster::connect(late).await.unwrap();
        assert_eq!(Admin::new(&late).describe_topics(&[&moving.topic]).await.unwrap().len(), 1);
        // It returns at the port it had, and finds what it kept.
        nodes.revive(dead).await;
        waiting.moves_on(&all, 3_000).await;
        in_sync(&cluster, &moving.topic).await;
    }
    let (moved, waited) = (moving.finish(&cluster).await, waiting.finish(&cluster).await);
    println!("{moved} and {waited} records, each once and in order");
}
