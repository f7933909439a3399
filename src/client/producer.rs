//! Writing to topics, for tools, tests and services that only write.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::Cluster;
use super::compression::Compression;
use super::produce::{self, ProducerConfig, Sender, TopicIx};
use crate::{Error, ErrorKind, Record, Result, clock, partition_for_key};

/// How to write.
#[derive(Debug, Clone, Default)]
pub struct ProducerOptions(ProducerConfig);

impl ProducerOptions {
    /// Kafka's `compression.type`: `none`, `gzip`, `snappy`, `lz4` or `zstd`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when there is none of that name.
    pub fn compression(mut self, name: &str) -> Result<Self> {
        self.0.compression = Compression::from_name(name).ok_or_else(|| {
            Error::new(
                ErrorKind::Config,
                format!("compression.type has {name:?}; there are none, gzip, snappy, lz4 and zstd"),
            )
        })?;
        Ok(self)
    }

    /// `linger.ms`: how long a batch may wait for more records. 5 ms.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.0.linger = linger;
        self
    }

    /// `batch.size`, in bytes. 256 KiB.
    #[must_use]
    pub fn batch_size(mut self, bytes: usize) -> Self {
        self.0.batch_size = bytes;
        self
    }

    /// `delivery.timeout.ms`: how long a record is tried. 2 min.
    #[must_use]
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.0.delivery_timeout = timeout;
        self
    }
}

#[derive(Debug)]
struct Front {
    producer: produce::Producer,
    topics: HashMap<String, (TopicIx, i32)>,
}

/// Writes records to topics: idempotent, in order for each partition, batched.
///
/// A record that could not be written is an error of a later [`send`](Self::send) or of [`flush`](Self::flush). Call
/// `flush` before dropping it: what is still being batched is given up otherwise.
///
/// ```no_run
/// # async fn example() -> mainstem::Result<()> {
/// use mainstem::Record;
/// use mainstem::client::{ClientConfig, Cluster, Producer, ProducerOptions};
///
/// let cluster = Cluster::connect(ClientConfig::new("localhost:9092")).await?;
/// let producer = Producer::new(&cluster, ProducerOptions::default().compression("lz4")?)?;
/// producer.send("words", None, Record::new(bytes::Bytes::from("k"), bytes::Bytes::from("v"), 0)).await?;
/// producer.flush().await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Producer {
    cluster: Cluster,
    front: Arc<Mutex<Front>>,
    progress: Arc<Notify>,
    begun: Arc<Notify>,
    lingering: AbortHandle,
}

impl Producer {
    /// Begins without topics; they are looked up as records come.
    ///
    /// # Errors
    /// When this build cannot compress as asked.
    pub fn new(cluster: &Cluster, options: ProducerOptions) -> Result<Self> {
        let linger = options.0.linger;
        let (progress, begun) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let signal = Arc::clone(&progress);
        let (producer, outbox) =
            produce::Producer::new(options.0, Arc::new(move || signal.notify_waiters()))?;
        cluster.runtime().spawn(Sender::new(outbox, Arc::new(cluster.clone())).run());
        let front = Arc::new(Mutex::new(Front { producer, topics: HashMap::new() }));
        let (watched, signal) = (Arc::downgrade(&front), Arc::clone(&begun));
        let lingering = cluster.runtime().spawn(hand_over_in_time(watched, signal, linger)).abort_handle();
        Ok(Self { cluster: cluster.clone(), front, progress, begun, lingering })
    }

    fn front(&self) -> MutexGuard<'_, Front> {
        self.front.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a record to a partition, or to the one of its key, or, without either, to any. Says which. Waits only while
    /// too much is under way.
    ///
    /// # Errors
    /// [`ErrorKind::Topic`] when the topic or partition does not exist; [`ErrorKind::Production`] when the record is too
    /// large, or when one given before could not be written.
    pub async fn send(
        &self,
        topic: &str,
        partition: Option<i32>,
        record: Record<Bytes, Bytes>,
    ) -> Result<i32> {
        let known = self.front().topics.get(topic).copied();
        let (at, count) = match known {
            Some(known) => known,
            None => {
                let count = self.cluster.partitions(topic).await?;
                let mut front = self.front();
                let at = front.producer.register(topic, count)?;
                front.topics.insert(topic.to_owned(), (at, count));
                (at, count)
            }
        };
        loop {
            let waiting = self.progress.notified();
            {
                let mut front = self.front();
                report(&front)?;
                if front.producer.has_credit() {
                    return self.give(&mut front.producer, at, count, partition, &record);
                }
                front.producer.flush()?;
            }
            waiting.await;
        }
    }

    fn give(
        &self,
        producer: &mut produce::Producer,
        at: TopicIx,
        count: i32,
        partition: Option<i32>,
        record: &Record<Bytes, Bytes>,
    ) -> Result<i32> {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let (timestamp, headers) = (record.timestamp, &record.headers);
        let quiet = producer.next_poll().is_none();
        let partition = match partition.or_else(|| key.map(|key| partition_for_key(key, count))) {
            Some(partition) => {
                producer.send(at, partition, timestamp, key, value, headers)?;
                partition
            }
            None => producer.send_keyless(at, timestamp, value, headers)?,
        };
        if quiet {
            self.begun.notify_one();
        }
        Ok(partition)
    }

    /// Waits until everything given so far is written.
    ///
    /// # Errors
    /// [`ErrorKind::Production`] and others when some of it could not be.
    pub async fn flush(&self) -> Result<()> {
        loop {
            let waiting = self.progress.notified();
            {
                let mut front = self.front();
                front.producer.flush()?;
                if front.producer.is_drained() {
                    return report(&front);
                }
            }
            waiting.await;
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.lingering.abort();
    }
}

/// The first failure since the last look, with how many batches failed.
fn report(front: &Front) -> Result<()> {
    let mut failures = front.producer.take_failures();
    if failures.is_empty() {
        return Ok(());
    }
    let what = match failures.len() {
        1 => "a batch".to_owned(),
        count => format!("{count} batches"),
    };
    let first = failures.swap_remove(0);
    let (kind, class) = (first.error.kind(), first.error.class());
    Err(Error::new(kind, format!("{what} could not be written"))
        .with_class(class)
        .at_topic(&*first.topic)
        .at_partition(first.partition)
        .because(first.error))
}

/// Batches that nobody fills up go out when their time is over.
async fn hand_over_in_time(front: Weak<Mutex<Front>>, begun: Arc<Notify>, linger: Duration) {
    loop {
        begun.notified().await;
        loop {
            clock::sleep(linger.max(Duration::from_millis(1))).await;
            let Some(front) = front.upgrade() else { return };
            let mut front = front.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = front.producer.poll(clock::monotonic()) {
                // The next send or flush gets the same error.
                tracing::warn!(?error, "cannot hand batches over");
                return;
            }
            if front.producer.next_poll().is_none() {
                break;
            }
        }
    }
}
