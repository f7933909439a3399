//! For tests of one's own service: typed topics to write to, and to wait for.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::EmbeddedKafka;
use crate::client::{
    Admin, ClientConfig, Cluster, Isolation, LogRecord, NewTopic, Producer, ProducerOptions, ReadOptions,
    Reader,
};
use crate::record::Record;
use crate::serde::erased::SerdeRef;
use crate::serde::{DefaultSerde, Serde, SerdeCx};
use crate::{Error, ErrorKind, Result, clock};

/// A topic whose keys are `K` and whose values are `V`, for tests.
///
/// Waiting goes by what is in the topic, never by the time that passed: it ends as soon as the condition holds, and the
/// deadline is there for the day when it never does. Only committed records count. Nothing here takes longer than its
/// deadline, whatever has become of the brokers: [`patience`](TestTopic::patience) is that of writing and reading.
///
/// ```
/// use std::time::Duration;
///
/// use mainstem::embedded::EmbeddedKafka;
/// use mainstem::prelude::*;
/// use mainstem::{App, Config};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let kafka = EmbeddedKafka::start()?;
/// let words = kafka.topic::<String, String>("words", 2).await?;
/// let counts = kafka.topic::<String, i64>("counts", 1).await?;
///
/// let builder = StreamsBuilder::new();
/// builder.stream::<String, String>("words").group_by_key("by-word").count("count").to_stream().to("counts");
/// let state = tempfile::tempdir().unwrap();
/// let config = Config::builder("test", kafka.bootstrap()).state_dir(state.path()).cache_bytes(0).build()?;
/// let app = App::new(builder.build()?, config)?;
/// let handle = app.handle();
/// let running = tokio::spawn(app.run().into_future());
///
/// for word in ["a", "b", "a"] {
///     words.send(Record::new(word.to_owned(), String::new(), 0)).await?;
/// }
/// let table = counts.wait_for_table(Duration::from_secs(60), |table| table.len() == 2 && table["a"] == 2).await?;
/// assert_eq!(table["b"], 1);
/// assert_eq!(counts.read().await?.len(), 3, "every update, because the record cache is off");
///
/// handle.stop();
/// running.await.unwrap()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TestTopic<K, V> {
    name: String,
    cluster: Cluster,
    producer: Producer,
    keys: SerdeRef<K>,
    values: SerdeRef<V>,
    patience: Duration,
}

/// How long writing and reading may take, unless a test says something else.
const PATIENCE: Duration = Duration::from_secs(30);

/// What `doing` gives, if that is within the time.
async fn within<T>(
    limit: Duration,
    topic: &str,
    what: &str,
    doing: impl Future<Output = Result<T>>,
) -> Result<T> {
    let late = || Error::new(ErrorKind::Timeout, format!("not {what} within {limit:?}")).at_topic(topic);
    clock::timeout(limit, doing).await.unwrap_or_else(|| Err(late()))
}

impl EmbeddedKafka {
    /// A topic with the serdes that its types name. It is made, with records that stay whatever their age, unless it is
    /// there. What is returned lives on the tokio runtime that this is called on.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when it is there with another number of partitions, or when the cluster has
    /// [users](super::EmbeddedKafkaBuilder::user), because the client of these topics does not authenticate;
    /// [`ErrorKind::Timeout`] after 30 s; otherwise as [`Admin::create_topic`].
    pub async fn topic<K, V>(&self, name: &str, partitions: i32) -> Result<TestTopic<K, V>>
    where
        K: DefaultSerde + 'static,
        V: DefaultSerde + 'static,
    {
        self.test_topic(name, partitions, (SerdeRef::of(), SerdeRef::of())).await
    }

    /// The same with these serdes.
    ///
    /// # Errors
    /// As [`topic`](Self::topic).
    pub async fn topic_with<K: 'static, V: 'static>(
        &self,
        name: &str,
        partitions: i32,
        keys: impl Serde<K>,
        values: impl Serde<V>,
    ) -> Result<TestTopic<K, V>> {
        self.test_topic(name, partitions, (SerdeRef::new(keys), SerdeRef::new(values))).await
    }

    async fn test_topic<K, V>(
        &self,
        name: &str,
        partitions: i32,
        (keys, values): (SerdeRef<K>, SerdeRef<V>),
    ) -> Result<TestTopic<K, V>> {
        if !self.broker.users.is_empty() {
            let text = "a TestTopic does not authenticate: start the cluster without user() to use one";
            return Err(Error::new(ErrorKind::Config, text).at_topic(name));
        }
        let (cluster, producer) = within(PATIENCE, name, "made", self.connect(name, partitions)).await?;
        Ok(TestTopic { name: name.to_owned(), cluster, producer, keys, values, patience: PATIENCE })
    }

    async fn connect(&self, name: &str, partitions: i32) -> Result<(Cluster, Producer)> {
        let cluster = Cluster::connect(ClientConfig::new(self.bootstrap())).await?;
        let topic = NewTopic::new(name, partitions).config("retention.ms", "-1");
        match Admin::new(&cluster).create_topic(topic).await {
            Err(error) if Admin::already_exists(&error) => {
                let there = cluster.partitions(name).await?;
                if there != partitions {
                    let text = format!("the topic is there with {there} partitions, not {partitions}");
                    return Err(Error::new(ErrorKind::Config, text).at_topic(name));
                }
            }
            made => made?,
        }
        let producer = Producer::new(&cluster, ProducerOptions::default().linger(Duration::ZERO))?;
        Ok((cluster, producer))
    }
}

impl<K: 'static, V: 'static> TestTopic<K, V> {
    /// The topic's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long [`send`](Self::send), [`send_all`](Self::send_all) and [`read`](Self::read) may take each; 30 s by
    /// default.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Writes a record, to the partition of its key as everybody's producers place it. It is in the topic when this
    /// returns.
    ///
    /// # Errors
    /// [`ErrorKind::Serde`] when the serdes refuse it; [`ErrorKind::Timeout`] when the [patience](Self::patience) is over
    /// (it may be written all the same, also later); otherwise as [`Producer::send`].
    pub async fn send(&self, record: Record<K, V>) -> Result<()> {
        self.send_all([record]).await
    }

    /// Writes records, in this order within each partition. All are in the topic when this returns.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_all(&self, records: impl IntoIterator<Item = Record<K, V>>) -> Result<()> {
        within(self.patience, &self.name, "written", self.write(records)).await
    }

    async fn write(&self, records: impl IntoIterator<Item = Record<K, V>>) -> Result<()> {
        for record in records {
            let headers = record.headers;
            let write = |bytes: std::result::Result<BytesMut, _>| {
                bytes.map(BytesMut::freeze).map_err(|error| {
                    Error::new(ErrorKind::Serde, "a record cannot be written")
                        .at_topic(&*self.name)
                        .because(error)
                })
            };
            let key = record.key.as_ref().map(|key| {
                let (cx, mut out) = (SerdeCx::key(&self.name).headers(&headers), BytesMut::new());
                write(self.keys.write(key, &cx, &mut out).map(|()| out))
            });
            let value = record.value.as_ref().map(|value| {
                let (cx, mut out) = (SerdeCx::value(&self.name).headers(&headers), BytesMut::new());
                write(self.values.write(value, &cx, &mut out).map(|()| out))
            });
            let (key, value) = (key.transpose()?, value.transpose()?);
            let record: Record<Bytes, Bytes> = Record { key, value, timestamp: record.timestamp, headers };
            self.producer.send(&self.name, None, record).await?;
        }
        self.producer.flush().await
    }

    /// All records that are in the topic now, those of each partition in their order.
    ///
    /// # Errors
    /// [`ErrorKind::Serde`] when a record is no `K` and `V`; [`ErrorKind::Timeout`] when the
    /// [patience](Self::patience) is over; otherwise as [`Reader::next`].
    pub async fn read(&self) -> Result<Vec<Record<K, V>>> {
        within(self.patience, &self.name, "read to the end", self.read_all()).await
    }

    async fn read_all(&self) -> Result<Vec<Record<K, V>>> {
        let mut reader = self.reader(ReadOptions::until_end).await?;
        let mut records = Vec::new();
        while let Some(record) = reader.next().await? {
            records.push(self.typed(record)?);
        }
        Ok(records)
    }

    /// Reads the topic from its beginning until `done` says of the records so far that they are enough, and returns them.
    /// It is asked after every record, and once before the first.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] after the time `within`, with what was there by then; otherwise as [`read`](Self::read).
    pub async fn wait_for(
        &self,
        within: Duration,
        mut done: impl FnMut(&[Record<K, V>]) -> bool,
    ) -> Result<Vec<Record<K, V>>>
    where
        K: Debug,
        V: Debug,
    {
        let last = |records: &Vec<Record<K, V>>| format!("the last is {:?}", records.last());
        self.fold(within, Vec::new(), Vec::push, |records| done(records), last).await
    }

    /// As [`wait_for`](Self::wait_for), for the table that the records add up to: the last value of each key; null deletes.
    /// Records without a key are passed over.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for).
    pub async fn wait_for_table(
        &self,
        within: Duration,
        mut done: impl FnMut(&BTreeMap<K, V>) -> bool,
    ) -> Result<BTreeMap<K, V>>
    where
        K: Debug + Ord,
        V: Debug,
    {
        let take = |table: &mut BTreeMap<K, V>, record: Record<K, V>| match (record.key, record.value) {
            (Some(key), Some(value)) => _ = table.insert(key, value),
            (Some(key), None) => _ = table.remove(&key),
            (None, _) => {}
        };
        self.fold(
            within,
            BTreeMap::new(),
            take,
            |table| done(table),
            |table| format!("the table is {table:?}"),
        )
        .await
    }

    /// Reads from the beginning until `done`; `said` tells what there was when the time is over.
    async fn fold<S>(
        &self,
        within: Duration,
        mut state: S,
        take: impl Fn(&mut S, Record<K, V>),
        mut done: impl FnMut(&S) -> bool,
        said: impl Fn(&S) -> String,
    ) -> Result<S> {
        if done(&state) {
            return Ok(state);
        }
        let mut count = 0;
        let reading = async {
            let mut reader = self.reader(|options| options).await?;
            let ended = || Error::new(ErrorKind::Closed, "the reader has ended").at_topic(&*self.name);
            loop {
                take(&mut state, self.typed(reader.next().await?.ok_or_else(ended)?)?);
                count += 1;
                if done(&state) {
                    return Ok(());
                }
            }
        };
        match clock::timeout(within, reading).await {
            Some(read) => read.map(|()| state),
            None => {
                let text = format!("not within {within:?}: of {count} records {}", said(&state));
                Err(Error::new(ErrorKind::Timeout, text).at_topic(&*self.name))
            }
        }
    }

    async fn reader(&self, options: impl FnOnce(ReadOptions) -> ReadOptions) -> Result<Reader> {
        let committed = ReadOptions::new(&*self.name).isolation(Isolation::ReadCommitted);
        Reader::new(&self.cluster, options(committed)).await
    }

    fn typed(&self, record: LogRecord) -> Result<Record<K, V>> {
        let LogRecord { partition, offset, timestamp, key, value, headers } = record.detached();
        let refused = |error| {
            Error::new(ErrorKind::Serde, "a record is not what the test says it is")
                .at_topic(&*self.name)
                .at_partition(partition)
                .at_offset(offset)
                .because(error)
        };
        let cx = SerdeCx::key(&self.name).headers(&headers);
        let key = key.map(|key| self.keys.read(&key, &cx)).transpose().map_err(refused)?;
        let cx = SerdeCx::value(&self.name).headers(&headers);
        let value = value.map(|value| self.values.read(&value, &cx)).transpose().map_err(refused)?;
        Ok(Record { key, value, timestamp, headers })
    }
}
