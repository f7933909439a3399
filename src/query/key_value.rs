//! The typed handle on a key-value store.

use std::collections::VecDeque;
use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::local::{LocalStores, Wanted};
use crate::config::IsolationLevel;
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::record::Timestamp;
use crate::serde::SerdeCx;
use crate::store::engine::KeyRange;
use crate::store::{KvOptions, PAGE, View, decode_row, prefix_end};

/// Reads a key-value store of the tasks that are on this instance, from any thread
/// (`org.apache.kafka.streams.state.ReadOnlyKeyValueStore`).
///
/// It is cheap to clone and stays good for the life of the application. `T` is what stands for a row: the value, or
/// [`ValueAndTimestamp`](crate::store::ValueAndTimestamp). A key is looked for in every task that is here, because only
/// whoever wrote the input knows how it was partitioned; no row means that none of them has it. Scans go through the
/// tasks in the order of their ids, and inside each in the order of the keys' bytes.
///
/// Reading never waits for a worker, with one exception: the first read after the very first handle on a store was made
/// while the application runs waits for the end of the slice of records in hand.
///
/// ```
/// use mainstem::prelude::*;
/// use mainstem::testing::TopologyTestDriver;
///
/// let builder = StreamsBuilder::new();
/// builder.stream::<String, String>("in").group_by_key("by-key").count("counts").to_stream().to("out");
/// let mut driver = TopologyTestDriver::new(&builder.build()?)?;
/// let input = driver.input_topic::<String, String>("in");
/// for key in ["b", "a", "b", "c"] {
///     input.pipe(&mut driver, Record::new(key.to_owned(), "x".to_owned(), 10))?;
/// }
///
/// let counts = driver.key_value_store::<String, i64>("counts")?;
/// assert_eq!(counts.get(&"b".to_owned())?, Some(2));
/// let from_b = counts.range("b".to_owned()..)?.collect::<Result<Vec<_>>>()?;
/// assert_eq!(from_b, [("b".to_owned(), 2), ("c".to_owned(), 1)]);
///
/// let wrong = driver.key_value_store::<String, String>("counts").unwrap_err();
/// assert_eq!(wrong.kind(), ErrorKind::StoreType);
/// # Ok::<(), mainstem::Error>(())
/// ```
pub struct ReadOnlyKeyValueStore<K, V, T = V> {
    stores: Arc<LocalStores>,
    options: Arc<KvOptions<K, V>>,
    /// What its serdes are told.
    topic: Arc<str>,
    subtopology: i32,
    partition: Option<i32>,
    stale: bool,
    level: IsolationLevel,
    row: fn((V, Timestamp)) -> T,
}

impl<K, V, T> Clone for ReadOnlyKeyValueStore<K, V, T> {
    fn clone(&self) -> Self {
        Self {
            stores: self.stores.clone(),
            options: self.options.clone(),
            topic: self.topic.clone(),
            ..*self
        }
    }
}

impl<K, V, T> fmt::Debug for ReadOnlyKeyValueStore<K, V, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadOnlyKeyValueStore")
            .field("name", &self.options.name)
            .field("partition", &self.partition)
            .field("stale", &self.stale)
            .field("isolation_level", &self.level)
            .finish_non_exhaustive()
    }
}

impl<K: 'static, V: 'static, T> ReadOnlyKeyValueStore<K, V, T> {
    pub(super) fn new(
        stores: Arc<LocalStores>,
        options: Arc<KvOptions<K, V>>,
        topic: String,
        subtopology: i32,
        level: IsolationLevel,
        row: fn((V, Timestamp)) -> T,
    ) -> Self {
        stores.want(&options.name, level);
        Self { stores, options, topic: topic.into(), subtopology, partition: None, stale: false, level, row }
    }

    /// The store's name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Reads one partition alone (`StoreQueryParameters.withPartition`). Where it is on another instance, reads give
    /// [`ErrorKind::Moved`] instead of nothing.
    #[must_use]
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Reads what is there while some of this instance's tasks are still being restored, without those
    /// (`StoreQueryParameters.enableStaleStores`), instead of giving [`ErrorKind::Rebalancing`].
    #[must_use]
    pub fn enable_stale_stores(mut self) -> Self {
        self.stale = true;
        self
    }

    /// Reads what is committed, or all that the workers have published. Under exactly-once what is not committed may still be
    /// aborted, and is then as if it had never been; so [`ReadCommitted`](IsolationLevel::ReadCommitted) is the default
    /// there, and [`ReadUncommitted`](IsolationLevel::ReadUncommitted), which is fresher by a commit interval, under
    /// at-least-once.
    #[must_use]
    pub fn isolation_level(mut self, level: IsolationLevel) -> Self {
        self.stores.want(&self.options.name, level);
        self.level = level;
        self
    }

    /// The row of a key.
    ///
    /// # Errors
    /// See the [module](crate::query); also if the key cannot be written, or the row not read, by the store's serdes.
    pub fn get(&self, key: &K) -> Result<Option<T>> {
        let key = self.key_bytes(key)?;
        for view in self.views()? {
            if let Some(row) = view.get(&key)? {
                return self.decode(&row).map(Some);
            }
        }
        Ok(None)
    }

    /// The rows whose keys lie in a range, in the order of the keys' bytes.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn range(&self, keys: impl RangeBounds<K>) -> Result<ReadOnlyKeyValueIterator<K, V, T>> {
        self.scan(self.bound(keys.start_bound())?, self.bound(keys.end_bound())?, false)
    }

    /// As [`range`](Self::range), in each task from the greatest key down.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn reverse_range(&self, keys: impl RangeBounds<K>) -> Result<ReadOnlyKeyValueIterator<K, V, T>> {
        self.scan(self.bound(keys.start_bound())?, self.bound(keys.end_bound())?, true)
    }

    /// All rows.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn all(&self) -> Result<ReadOnlyKeyValueIterator<K, V, T>> {
        self.scan(Bound::Unbounded, Bound::Unbounded, false)
    }

    /// All rows, in each task from the greatest key down.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn reverse_all(&self) -> Result<ReadOnlyKeyValueIterator<K, V, T>> {
        self.scan(Bound::Unbounded, Bound::Unbounded, true)
    }

    /// The rows whose keys' bytes start with `prefix`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn prefix_scan(&self, prefix: &[u8]) -> Result<ReadOnlyKeyValueIterator<K, V, T>> {
        self.scan(Bound::Included(Bytes::copy_from_slice(prefix)), prefix_end(prefix), false)
    }

    /// How many rows there are.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn approximate_num_entries(&self) -> Result<u64> {
        self.views()?.iter().map(|view| view.approximate_len()).sum()
    }

    fn views(&self) -> Result<Vec<Arc<View>>> {
        self.stores.views(&Wanted {
            name: &self.options.name,
            subtopology: self.subtopology,
            partition: self.partition,
            stale: self.stale,
            level: self.level,
        })
    }

    fn scan(
        &self,
        from: Bound<Bytes>,
        to: Bound<Bytes>,
        reverse: bool,
    ) -> Result<ReadOnlyKeyValueIterator<K, V, T>> {
        let range = KeyRange { from, to, reverse };
        let views = self.views()?.into();
        Ok(ReadOnlyKeyValueIterator {
            store: self.clone(),
            views,
            whole: range.clone(),
            range,
            page: VecDeque::new(),
        })
    }

    fn failed(&self, what: &str, error: impl Into<BoxError>) -> Error {
        let text = format!("{what} of the store {} failed", self.options.name);
        let error = Error::new(ErrorKind::Serde, text).because(error);
        if let Some(partition) = self.partition { error.at_partition(partition) } else { error }
    }

    fn key_bytes(&self, key: &K) -> Result<Bytes> {
        let mut bytes = BytesMut::new();
        let written = self.options.key_serde.write(key, &SerdeCx::key(&self.topic), &mut bytes);
        written.map_err(|error| self.failed("writing a key", error))?;
        Ok(bytes.freeze())
    }

    fn bound(&self, key: Bound<&K>) -> Result<Bound<Bytes>> {
        Ok(match key {
            Bound::Included(key) => Bound::Included(self.key_bytes(key)?),
            Bound::Excluded(key) => Bound::Excluded(self.key_bytes(key)?),
            Bound::Unbounded => Bound::Unbounded,
        })
    }

    fn decode(&self, row: &Bytes) -> Result<T> {
        let options = &self.options;
        let row = decode_row(row, options.timestamped, &options.value_serde, &self.topic);
        row.map(self.row).map_err(|error| self.failed("reading a row", error))
    }
}

/// The rows of a scan. They are those of the moment at which the scan began, whatever has changed since.
pub struct ReadOnlyKeyValueIterator<K, V, T = V> {
    store: ReadOnlyKeyValueStore<K, V, T>,
    /// The tasks still to come, with the one in hand.
    views: VecDeque<Arc<View>>,
    /// What was asked for, of every task.
    whole: KeyRange,
    /// What is still to come of the task in hand.
    range: KeyRange,
    page: VecDeque<(Bytes, Bytes)>,
}

impl<K, V, T> fmt::Debug for ReadOnlyKeyValueIterator<K, V, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadOnlyKeyValueIterator({})", self.store.options.name)
    }
}

impl<K: 'static, V: 'static, T> ReadOnlyKeyValueIterator<K, V, T> {
    /// Reads the next rows, of the next task if need be; none only at the end.
    fn turn_page(&mut self) -> Result<()> {
        while self.page.is_empty() {
            let Some(view) = self.views.front() else { return Ok(()) };
            self.page = view.range(&self.range).take(PAGE).collect::<Result<_>>()?;
            match self.page.back() {
                Some((last, _)) if self.range.reverse => self.range.to = Bound::Excluded(last.clone()),
                Some((last, _)) => self.range.from = Bound::Excluded(last.clone()),
                None => {
                    self.views.pop_front();
                    self.range = self.whole.clone();
                }
            }
        }
        Ok(())
    }
}

impl<K: 'static, V: 'static, T> Iterator for ReadOnlyKeyValueIterator<K, V, T> {
    type Item = Result<(K, T)>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.turn_page() {
            self.views.clear();
            return Some(Err(error));
        }
        let (key, row) = self.page.pop_front()?;
        let store = &self.store;
        let key = store.options.key_serde.read(&key, &SerdeCx::key(&store.topic));
        let key = key.map_err(|error| store.failed("reading a key", error));
        Some(key.and_then(|key| Ok((key, store.decode(&row)?))))
    }
}
