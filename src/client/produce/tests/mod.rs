//! The producer against a cluster that fails by script: order, and exactly one append a record.
#![allow(clippy::disallowed_methods, reason = "tests move tokio's clock")]

mod fake;
mod faults;
mod front;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kafka_protocol::error::ResponseError as E;
use tokio::task::JoinHandle;

use self::fake::{FakeCluster, Fate};
use super::*;
use crate::client::batch::Batches;
use crate::error::ErrorKind;
use crate::record::Headers;

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Small batches, so that a test needs few records: one batch holds ten of [`Rig::send`].
fn config() -> ProducerConfig {
    ProducerConfig { batch_size: 200, ..ProducerConfig::default() }
}

struct Rig {
    cluster: Arc<FakeCluster>,
    producer: Producer,
    back: JoinHandle<()>,
    progress: Arc<AtomicUsize>,
    notify: Arc<tokio::sync::Notify>,
}

impl Rig {
    fn new(cluster: &Arc<FakeCluster>, config: ProducerConfig) -> Self {
        let (progress, notify) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Notify::new()));
        let (count, wake) = (progress.clone(), notify.clone());
        let callback = Arc::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
            wake.notify_one();
        });
        let (producer, outbox) = Producer::new(config, callback).unwrap();
        let back = tokio::spawn(Sender::with_time(outbox, cluster.clone(), now).run());
        Self { cluster: cluster.clone(), producer, back, progress, notify }
    }

    fn topic(&mut self, name: &str, partitions: i32) -> TopicIx {
        self.producer.register(name, partitions).unwrap()
    }

    /// Sends the values `from..to` to a partition, one batch.
    fn batch(&mut self, topic: TopicIx, partition: i32, from: usize, to: usize) {
        for i in from..to {
            self.send(topic, partition, &format!("{i:04}"));
        }
        self.producer.flush().unwrap();
    }

    fn send(&mut self, topic: TopicIx, partition: i32, value: &str) {
        self.producer.send(topic, partition, 0, None, Some(value.as_bytes()), &Headers::new()).unwrap();
    }

    /// Waits for the callback, and only for it, until everything is done.
    async fn drained(&mut self) -> Vec<Failed> {
        self.producer.flush().unwrap();
        let all = async {
            while !self.producer.is_drained() {
                self.notify.notified().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(3600), all).await.expect("everything ends some time");
        self.producer.take_failures()
    }

    /// Waits until the fake has seen so many requests.
    async fn requests(&self, count: usize) {
        until(|| self.cluster.with(|state| state.requests.len() >= count)).await;
    }
}

async fn until(mut holds: impl FnMut() -> bool) {
    let all = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3600), all).await.expect("the condition comes true");
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|i| format!("{i:04}")).collect()
}

fn values_of(failed: &Failed) -> Vec<String> {
    let batch = Batches::new(failed.batch.clone()).next().unwrap().unwrap();
    batch.verify_crc().unwrap();
    batch
        .records()
        .unwrap()
        .map(|record| String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap())
        .collect()
}
