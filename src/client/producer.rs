//! Writing to topics, for tools, tests and services that only write.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::Cluster;
use super::compression::Compression;
use super::group::CommittedOffset;
use super::produce::{
    self, End, EndTicket, Ended, GroupMetadata, ProducerConfig, Sender, TopicIx, Transactional,
};
use crate::{Error, ErrorClass, ErrorKind, Record, Result, TopicPartition, clock, partition_for_key};

/// Java's default of `transaction.timeout.ms`.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);

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

    /// `transactional.id`: what is sent becomes visible, all or nothing, with
    /// [`commit_transaction`](Producer::commit_transaction). A second producer with the same id fences the first.
    #[must_use]
    pub fn transactional_id(mut self, id: impl Into<String>) -> Self {
        let timeout = self.0.transactional.map_or(TRANSACTION_TIMEOUT, |transactional| transactional.timeout);
        self.0.transactional = Some(Transactional { id: id.into(), timeout });
        self
    }

    /// `transaction.timeout.ms`, with a [transactional id](Self::transactional_id): a transaction that is open for so long
    /// is aborted by the brokers, and its producer is fenced. 1 min.
    #[must_use]
    pub fn transaction_timeout(mut self, timeout: Duration) -> Self {
        let id = self.0.transactional.map(|transactional| transactional.id).unwrap_or_default();
        self.0.transactional = Some(Transactional { id, timeout });
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
    /// The transaction that was begun, if one was.
    transaction: Option<Begun>,
}

/// The offsets that are to be committed with a transaction.
#[derive(Debug, Default)]
struct Begun {
    group: Option<GroupMetadata>,
    offsets: HashMap<TopicPartition, CommittedOffset>,
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
///
/// With a transactional id it writes in transactions, as Java's producer does: a reader that reads committed records sees
/// all of one or nothing.
///
/// ```
/// # #[cfg(feature = "embedded")]
/// # #[tokio::main]
/// # async fn main() -> mainstem::Result<()> {
/// use bytes::Bytes;
/// use mainstem::Record;
/// use mainstem::client::{ClientConfig, Cluster, CommittedOffset, GroupMetadata, Producer, ProducerOptions};
/// use mainstem::TopicPartition;
///
/// let kafka = mainstem::embedded::EmbeddedKafka::start()?;
/// let cluster = Cluster::connect(ClientConfig::new(kafka.bootstrap())).await?;
/// # for topic in ["words", "input"] {
/// #     let topic = mainstem::client::NewTopic::new(topic, 1);
/// #     mainstem::client::Admin::new(&cluster).create_topic(topic).await?;
/// # }
/// let producer = Producer::new(&cluster, ProducerOptions::default().transactional_id("words-1"))?;
/// producer.init_transactions().await?;
///
/// producer.begin_transaction()?;
/// producer.send("words", None, Record::new(Bytes::from("k"), Bytes::from("v"), 0)).await?;
/// // The input up to here is done if, and only if, the output above is there.
/// let done = (TopicPartition::new("input", 0), CommittedOffset::new(42));
/// producer.send_offsets_to_transaction([done], GroupMetadata::new("copies"))?;
/// match producer.commit_transaction().await {
///     Ok(()) => {}
///     // Nothing of it will be seen; the producer goes on.
///     Err(error) if error.class() == mainstem::ErrorClass::AbortTransaction => producer.abort_transaction().await?,
///     Err(error) => return Err(error),
/// }
/// # Ok(()) }
/// # #[cfg(not(feature = "embedded"))]
/// # fn main() {}
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
        let front = Arc::new(Mutex::new(Front { producer, topics: HashMap::new(), transaction: None }));
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
    /// large, or when one given before could not be written; [`ErrorKind::IllegalState`] outside of a transaction, of a
    /// producer with a transactional id.
    pub async fn send(
        &self,
        topic: &str,
        partition: Option<i32>,
        record: Record<Bytes, Bytes>,
    ) -> Result<i32> {
        self.check_begun()?;
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

    /// Waits until the coordinator knows this producer: earlier ones of its transactional id are fenced then, and what they
    /// left open is aborted.
    ///
    /// # Errors
    /// [`ErrorKind::IllegalState`] without a transactional id; [`ErrorKind::Timeout`] after
    /// [`ClientConfig::api_timeout`](super::ClientConfig::api_timeout); [`ErrorKind::Fenced`] when another producer of this
    /// id came later; and what the coordinator refuses.
    pub async fn init_transactions(&self) -> Result<()> {
        self.check_transactional()?;
        let limit = self.cluster.config().api_timeout;
        let ready = async {
            loop {
                let waiting = self.progress.notified();
                if self.front().producer.is_ready()? {
                    return Ok(());
                }
                waiting.await;
            }
        };
        clock::timeout(limit, ready).await.unwrap_or_else(|| {
            let text = format!("no coordinator of the transactional id has answered within {limit:?}");
            Err(Error::new(ErrorKind::Timeout, text).with_class(ErrorClass::Retriable))
        })
    }

    /// Begins a transaction: what is sent from now on belongs to it. No broker is asked.
    ///
    /// # Errors
    /// [`ErrorKind::IllegalState`] when one is begun already, or without a transactional id; and when the producer is of no
    /// use any more.
    pub fn begin_transaction(&self) -> Result<()> {
        self.check_transactional()?;
        let mut front = self.front();
        if front.transaction.is_some() {
            let text = "a transaction is begun already: commit or abort it first";
            return Err(Error::new(ErrorKind::IllegalState, text));
        }
        front.producer.is_ready()?;
        front.transaction = Some(Begun::default());
        Ok(())
    }

    /// Has offsets committed together with the transaction, as the member that `group` says; a later offset of a partition
    /// replaces an earlier one.
    ///
    /// # Errors
    /// [`ErrorKind::IllegalState`] outside of a transaction, or if the transaction has offsets of another group already.
    pub fn send_offsets_to_transaction(
        &self,
        offsets: impl IntoIterator<Item = (TopicPartition, CommittedOffset)>,
        group: GroupMetadata,
    ) -> Result<()> {
        let mut front = self.front();
        let begun = front.transaction.as_mut().ok_or_else(none_begun)?;
        if begun.group.as_ref().is_some_and(|known| known.group_id != group.group_id) {
            let text = "a transaction commits offsets of one group: use a transaction for each";
            return Err(Error::new(ErrorKind::IllegalState, text));
        }
        begun.group = Some(group);
        begun.offsets.extend(offsets);
        Ok(())
    }

    /// Waits until everything sent is written, and commits it together with the offsets. If nothing was sent, no broker is
    /// asked.
    ///
    /// # Errors
    /// The [class](Error::class) says what to do: with [`ErrorClass::AbortTransaction`]
    /// [abort](Self::abort_transaction) it, and go on. With [`ErrorClass::FencedLease`] another producer has taken the
    /// transactional id over, or the transaction was open for longer than its timeout: this one is of no use any more, and
    /// the transaction is not committed, unless this call was repeated or its answer was lost, in which case the offsets of
    /// the group tell. With [`ErrorClass::Retriable`] no broker has said how it ended, for minutes: a new producer of this
    /// id ends it.
    pub async fn commit_transaction(&self) -> Result<()> {
        let begun = self.front().transaction.take().ok_or_else(none_begun)?;
        let offsets = begun.offsets.into_iter().collect();
        let ticket = self
            .front()
            .producer
            .end_transaction(End::Commit { group: begun.group.unwrap_or_default(), offsets });
        let outcome = self.ended(ticket?).await;
        let failures = report(&self.front());
        let Err(error) = outcome else { return failures };
        if error.class() == ErrorClass::AbortTransaction {
            // It is to be aborted, and nothing else.
            self.front().transaction = Some(Begun::default());
        }
        Err(match failures {
            Err(cause) => error.because(cause),
            Ok(()) => error,
        })
    }

    /// Aborts the transaction. Nobody who reads committed records sees any of it.
    ///
    /// # Errors
    /// [`ErrorKind::IllegalState`] outside of a transaction; otherwise the producer is of no use any more, and its
    /// successor, or the brokers after its timeout, abort the transaction.
    pub async fn abort_transaction(&self) -> Result<()> {
        let ticket = {
            let mut front = self.front();
            front.transaction.take().ok_or_else(none_begun)?;
            front.producer.end_transaction(End::Abort)?
        };
        let outcome = self.ended(ticket).await;
        // Of what is aborted nobody wants to know why it was not written.
        drop(self.front().producer.take_failures());
        outcome
    }

    async fn ended(&self, mut ticket: EndTicket) -> Result<()> {
        loop {
            let waiting = self.progress.notified();
            match ticket.poll() {
                Some(Ended::Failed(error)) => return Err(error),
                Some(Ended::Committed | Ended::Aborted) => return Ok(()),
                None => waiting.await,
            }
        }
    }

    fn check_transactional(&self) -> Result<()> {
        match self.front().producer.is_transactional() {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::IllegalState,
                "the producer has no transactional.id: give it one with ProducerOptions::transactional_id",
            )),
        }
    }

    fn check_begun(&self) -> Result<()> {
        let front = self.front();
        match front.producer.is_transactional() && front.transaction.is_none() {
            true => Err(none_begun()),
            false => Ok(()),
        }
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

fn none_begun() -> Error {
    Error::new(ErrorKind::IllegalState, "no transaction is begun: call begin_transaction first")
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
