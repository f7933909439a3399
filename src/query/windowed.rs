//! The typed handles on window and session stores.

use std::any::type_name;
use std::collections::VecDeque;
use std::fmt;
use std::ops::{Bound, RangeInclusive};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Asked;
use super::local::{LocalStores, Wanted};
use crate::config::IsolationLevel;
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::record::Timestamp;
use crate::serde::{SerdeCx, Window, Windowed};
#[allow(unused_imports, reason = "named in the documentation")]
use crate::store::ValueAndTimestamp;
use crate::store::engine::KeyRange;
use crate::store::{
    KvOptions, PAGE, Page, Segments, StoreBlueprint, TimeKey, Times, View, buckets, changelog_key,
    decode_row, rows_of_key, session_of,
};

/// What both kinds of handles have.
struct Reader<K, V> {
    stores: Arc<LocalStores>,
    options: Arc<KvOptions<Windowed<K>, V>>,
    segments: Segments,
    /// What its serdes are told.
    topic: Arc<str>,
    subtopology: i32,
    partition: Option<i32>,
    stale: bool,
    level: IsolationLevel,
}

impl<K, V> Clone for Reader<K, V> {
    fn clone(&self) -> Self {
        Self {
            stores: self.stores.clone(),
            options: self.options.clone(),
            topic: self.topic.clone(),
            ..*self
        }
    }
}

impl<K: Clone + 'static, V: 'static> Reader<K, V> {
    fn views(&self) -> Result<VecDeque<Arc<View>>> {
        let wanted = Wanted {
            name: &self.options.name,
            subtopology: self.subtopology,
            partition: self.partition,
            stale: self.stale,
            level: self.level,
        };
        self.stores.views(&wanted).map(Into::into)
    }

    fn failed(&self, what: &str, error: impl Into<BoxError>) -> Error {
        let text = format!("{what} of the store {} failed", self.options.name);
        let error = Error::new(ErrorKind::Serde, text).because(error);
        if let Some(partition) = self.partition { error.at_partition(partition) } else { error }
    }

    /// The bytes of a key in a window, as the changelog has them.
    fn key_bytes(&self, key: &K, window: Window) -> Result<Bytes> {
        let (mut bytes, key) = (BytesMut::new(), Windowed { key: key.clone(), window });
        let written = self.options.key_serde.write(&key, &SerdeCx::key(&self.topic), &mut bytes);
        written.map_err(|error| self.failed("writing a key", error))?;
        Ok(bytes.freeze())
    }

    fn read_key(&self, row_key: &Bytes) -> Result<Windowed<K>> {
        let read = self.options.key_serde.read(&changelog_key(row_key), &SerdeCx::key(&self.topic));
        read.map_err(|error| self.failed("reading a key", error))
    }

    fn decode(&self, row: &Bytes) -> Result<(V, Timestamp)> {
        let options = &self.options;
        decode_row(row, options.timestamped, &options.value_serde, &self.topic)
            .map_err(|error| self.failed("reading a row", error))
    }

    /// The next rows of a view, none that is too old.
    fn page(&self, view: &View, range: &KeyRange, most: usize) -> Result<Page<V>> {
        let young = |row: &Result<(Bytes, Bytes)>| {
            row.as_ref().map_or(true, |(key, _)| self.segments.time(key) >= view.visible_from())
        };
        let rows = view.range(range).filter(young).take(most);
        rows.map(|row| row.and_then(|(key, row)| Ok((key, self.decode(&row)?)))).collect()
    }

    /// The row of a key in a window.
    fn get(&self, key: &K, window: Window) -> Result<Option<(V, Timestamp)>> {
        let mut row_key = BytesMut::new();
        self.segments.row_key(&self.key_bytes(key, window)?, &mut row_key);
        let time = self.segments.time(&row_key);
        for view in self.views()? {
            if time >= view.visible_from()
                && let Some(row) = view.get(&row_key)?
            {
                return self.decode(&row).map(Some);
            }
        }
        Ok(None)
    }

    /// The rows of a key in a range of times, in the order of time.
    fn of_key(&self, key: &K, times: Times, reverse: bool) -> Result<Page<V>> {
        let bytes = self.key_bytes(key, Window { start: 0, end: 0 })?;
        let inner = &bytes[..bytes.len() - self.segments.times.suffix()];
        let mut found = Page::new();
        for view in self.views()? {
            let read = |range: &KeyRange, most: usize| self.page(&view, range, most).map_err(BoxError::from);
            rows_of_key(&self.segments, inner, times, reverse, read, |key, row| {
                found.push((key, row));
                true
            })
            .map_err(|error| self.failed("a scan", error))?;
        }
        Ok(found)
    }

    fn scan<T>(
        &self,
        times: Times,
        reverse: bool,
        row: fn((V, Timestamp)) -> T,
    ) -> Result<ReadOnlyWindowedIterator<K, V, T>> {
        let whole = if times.from > times.to {
            KeyRange { from: Bound::Excluded(Bytes::new()), to: Bound::Excluded(Bytes::new()), reverse }
        } else {
            buckets(self.segments.bucket(times.from), self.segments.bucket(times.to), reverse)
        };
        let (views, range) = (self.views()?, whole.clone());
        Ok(ReadOnlyWindowedIterator {
            reader: self.clone(),
            times,
            views,
            whole,
            range,
            page: VecDeque::new(),
            row,
        })
    }
}

/// The rows of a scan over all keys. They are those of the moment at which the scan began, whatever has changed since.
pub struct ReadOnlyWindowedIterator<K, V, T = V> {
    reader: Reader<K, V>,
    times: Times,
    /// The tasks still to come, with the one in hand.
    views: VecDeque<Arc<View>>,
    whole: KeyRange,
    range: KeyRange,
    page: VecDeque<(Bytes, (V, Timestamp))>,
    row: fn((V, Timestamp)) -> T,
}

impl<K, V, T> fmt::Debug for ReadOnlyWindowedIterator<K, V, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadOnlyWindowedIterator({})", self.reader.options.name)
    }
}

impl<K: Clone + 'static, V: 'static, T> Iterator for ReadOnlyWindowedIterator<K, V, T> {
    type Item = Result<(Windowed<K>, T)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, row)) = self.page.pop_front() {
                if !self.times.contain(self.reader.segments.time(&key)) {
                    continue;
                }
                return Some(self.reader.read_key(&key).map(|key| (key, (self.row)(row))));
            }
            let view = self.views.front()?;
            match self.reader.page(view, &self.range, PAGE) {
                Ok(page) => match page.last() {
                    Some((last, _)) => {
                        let last = Bound::Excluded(last.clone());
                        if self.range.reverse {
                            self.range.to = last
                        } else {
                            self.range.from = last
                        }
                        self.page = page.into();
                    }
                    None => {
                        self.views.pop_front();
                        self.range = self.whole.clone();
                    }
                },
                Err(error) => {
                    self.views.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}

/// Reads a window store of the tasks that are on this instance, from any thread
/// (`org.apache.kafka.streams.state.ReadOnlyWindowStore`).
///
/// `T` is what stands for a row: the value, or [`ValueAndTimestamp`]. What holds for
/// [`ReadOnlyKeyValueStore`](super::ReadOnlyKeyValueStore) holds for it. Windows that are older than the store's retention
/// are not there.
///
/// ```
/// use std::time::Duration;
/// use mainstem::prelude::*;
/// use mainstem::testing::TopologyTestDriver;
///
/// let builder = StreamsBuilder::new();
/// builder
///     .stream::<String, String>("in")
///     .group_by_key("by-key")
///     .windowed_by(Tumbling::of(Duration::from_millis(100)))
///     .count(Materialized::named("counts").retention(Duration::from_secs(1)))
///     .to_stream()
///     .to("out");
/// let mut driver = TopologyTestDriver::new(&builder.build()?)?;
/// let input = driver.input_topic::<String, String>("in");
/// for at in [10, 20, 150] {
///     input.pipe(&mut driver, Record::new("a".to_owned(), "x".to_owned(), at))?;
/// }
///
/// let counts = driver.window_store::<String, i64>("counts")?;
/// assert_eq!(counts.fetch(&"a".to_owned(), 0)?, Some(2));
/// assert_eq!(counts.fetch_range(&"a".to_owned(), 0..=200)?, [(0, 2), (100, 1)]);
/// assert_eq!(counts.all()?.count(), 2);
/// # Ok::<(), mainstem::Error>(())
/// ```
pub struct ReadOnlyWindowStore<K, V, T = V> {
    reader: Reader<K, V>,
    row: fn((V, Timestamp)) -> T,
}

/// Reads a session store of the tasks that are on this instance, from any thread
/// (`org.apache.kafka.streams.state.ReadOnlySessionStore`).
///
/// ```
/// use std::time::Duration;
/// use mainstem::prelude::*;
/// use mainstem::testing::TopologyTestDriver;
///
/// let builder = StreamsBuilder::new();
/// builder
///     .stream::<String, String>("in")
///     .group_by_key("by-key")
///     .windowed_by(Session::with_gap(Duration::from_millis(50)).grace(Duration::from_secs(1)))
///     .count("visits")
///     .to_stream()
///     .to("out");
/// let mut driver = TopologyTestDriver::new(&builder.build()?)?;
/// let input = driver.input_topic::<String, String>("in");
/// for at in [10, 40, 200] {
///     input.pipe(&mut driver, Record::new("a".to_owned(), "x".to_owned(), at))?;
/// }
///
/// let visits = driver.session_store::<String, i64>("visits")?;
/// let first = Window { start: 10, end: 40 };
/// assert_eq!(visits.fetch_session(&"a".to_owned(), first)?, Some(2));
/// assert_eq!(visits.fetch(&"a".to_owned())?, [(first, 2), (Window { start: 200, end: 200 }, 1)]);
/// # Ok::<(), mainstem::Error>(())
/// ```
pub struct ReadOnlySessionStore<K, V> {
    reader: Reader<K, V>,
}

impl<K, V, T> Clone for ReadOnlyWindowStore<K, V, T> {
    fn clone(&self) -> Self {
        Self { reader: self.reader.clone(), row: self.row }
    }
}

impl<K, V> Clone for ReadOnlySessionStore<K, V> {
    fn clone(&self) -> Self {
        Self { reader: self.reader.clone() }
    }
}

impl<K, V, T> fmt::Debug for ReadOnlyWindowStore<K, V, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadOnlyWindowStore({})", self.reader.options.name)
    }
}

impl<K, V> fmt::Debug for ReadOnlySessionStore<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadOnlySessionStore({})", self.reader.options.name)
    }
}

/// What is said of how a handle reads, the same for both kinds.
macro_rules! reading {
    ($handle:ident $(, $row:ident)?) => {
        impl<K: Clone + 'static, V: 'static $(, $row)?> $handle<K, V $(, $row)?> {
            /// The store's name.
            pub fn name(&self) -> &str {
                &self.reader.options.name
            }

            /// Reads one partition alone. Where it is on another instance, reads give [`ErrorKind::Moved`].
            #[must_use]
            pub fn partition(mut self, partition: i32) -> Self {
                self.reader.partition = Some(partition);
                self
            }

            /// Reads what is there while some of this instance's tasks are still being restored.
            #[must_use]
            pub fn enable_stale_stores(mut self) -> Self {
                self.reader.stale = true;
                self
            }

            /// Reads what is committed, or all that the workers have published; see
            /// [`ReadOnlyKeyValueStore::isolation_level`](super::ReadOnlyKeyValueStore::isolation_level).
            #[must_use]
            pub fn isolation_level(mut self, level: IsolationLevel) -> Self {
                self.reader.stores.want(&self.reader.options.name, level);
                self.reader.level = level;
                self
            }
        }
    };
}

reading!(ReadOnlyWindowStore, T);
reading!(ReadOnlySessionStore);

/// A range of times as it was asked for.
fn times(range: &RangeInclusive<Timestamp>) -> Times {
    Times::new((*range.start()).max(0), *range.end())
}

impl<K: Clone + 'static, V: 'static, T> ReadOnlyWindowStore<K, V, T> {
    /// The row of a key in the window that starts at a time.
    ///
    /// # Errors
    /// See the [module](crate::query); also if the key cannot be written, or the row not read, by the store's serdes.
    pub fn fetch(&self, key: &K, start: Timestamp) -> Result<Option<T>> {
        Ok(self.reader.get(key, Window { start, end: start })?.map(self.row))
    }

    /// The rows of a key in the windows that start in a range of times, with those starts, in their order.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub fn fetch_range(&self, key: &K, starts: RangeInclusive<Timestamp>) -> Result<Vec<(Timestamp, T)>> {
        self.of_key(key, &starts, false)
    }

    /// As [`fetch_range`](Self::fetch_range), in each task from the last window down.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub fn backward_fetch_range(
        &self,
        key: &K,
        starts: RangeInclusive<Timestamp>,
    ) -> Result<Vec<(Timestamp, T)>> {
        self.of_key(key, &starts, true)
    }

    fn of_key(
        &self,
        key: &K,
        starts: &RangeInclusive<Timestamp>,
        reverse: bool,
    ) -> Result<Vec<(Timestamp, T)>> {
        let rows = self.reader.of_key(key, times(starts), reverse)?;
        Ok(rows.into_iter().map(|(key, row)| (self.reader.segments.time(&key), (self.row)(row))).collect())
    }

    /// The rows of all keys in the windows that start in a range of times, in the order of segments of time and keys.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub fn fetch_all(&self, starts: RangeInclusive<Timestamp>) -> Result<ReadOnlyWindowedIterator<K, V, T>> {
        self.reader.scan(times(&starts), false, self.row)
    }

    /// As [`fetch_all`](Self::fetch_all), in each task in the opposite order.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub fn backward_fetch_all(
        &self,
        starts: RangeInclusive<Timestamp>,
    ) -> Result<ReadOnlyWindowedIterator<K, V, T>> {
        self.reader.scan(times(&starts), true, self.row)
    }

    /// All rows.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub fn all(&self) -> Result<ReadOnlyWindowedIterator<K, V, T>> {
        self.fetch_all(0..=Timestamp::MAX)
    }
}

impl<K: Clone + 'static, V: 'static> ReadOnlySessionStore<K, V> {
    /// The sessions of a key, by their ends.
    ///
    /// # Errors
    /// See the [module](crate::query); also if the key cannot be written, or the row not read, by the store's serdes.
    pub fn fetch(&self, key: &K) -> Result<Vec<(Window, V)>> {
        self.find_sessions(key, 0, Timestamp::MAX)
    }

    /// The sessions of a key that end at `earliest_end` or later and start at `latest_start` or before, by their ends.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub fn find_sessions(
        &self,
        key: &K,
        earliest_end: Timestamp,
        latest_start: Timestamp,
    ) -> Result<Vec<(Window, V)>> {
        let times = Times::new(earliest_end.max(0), Timestamp::MAX);
        let rows = self.reader.of_key(key, times, false)?;
        let sessions = rows.into_iter().map(|(key, (value, _))| (session_of(&key), value));
        Ok(sessions.filter(|(session, _)| session.start <= latest_start).collect())
    }

    /// The row of one session of a key.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub fn fetch_session(&self, key: &K, session: Window) -> Result<Option<V>> {
        Ok(self.reader.get(key, session)?.map(|(value, _)| value))
    }

    /// All sessions, in the order of segments of time and keys.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub fn all(&self) -> Result<ReadOnlyWindowedIterator<K, V>> {
        self.reader.scan(Times::new(0, Timestamp::MAX), false, |(value, _)| value)
    }
}

impl Asked<'_> {
    /// As [`key_value_store`](Self::key_value_store), of windows.
    pub(crate) fn window_store<'a, K: Clone + 'static, V: 'static, T>(
        &self,
        known: impl Iterator<Item = (i32, &'a Arc<dyn StoreBlueprint>)> + Clone,
        needs_timestamps: bool,
        row: fn((V, Timestamp)) -> T,
    ) -> Result<ReadOnlyWindowStore<K, V, T>> {
        let fits = |options: &KvOptions<Windowed<K>, V>| {
            let windows = options.segments.is_some_and(|segments| segments.times == TimeKey::Window);
            windows && (options.timestamped || !needs_timestamps)
        };
        let kind = if needs_timestamps { "a timestamped window store" } else { "a window store" };
        Ok(ReadOnlyWindowStore { reader: self.reader(known, kind, fits)?, row })
    }

    /// As [`key_value_store`](Self::key_value_store), of sessions.
    pub(crate) fn session_store<'a, K: Clone + 'static, V: 'static>(
        &self,
        known: impl Iterator<Item = (i32, &'a Arc<dyn StoreBlueprint>)> + Clone,
    ) -> Result<ReadOnlySessionStore<K, V>> {
        let fits = |options: &KvOptions<Windowed<K>, V>| {
            options.segments.is_some_and(|segments| segments.times == TimeKey::Session)
        };
        Ok(ReadOnlySessionStore { reader: self.reader(known, "a session store", fits)? })
    }

    fn reader<'a, K: 'static, V: 'static>(
        &self,
        known: impl Iterator<Item = (i32, &'a Arc<dyn StoreBlueprint>)> + Clone,
        kind: &str,
        fits: impl Fn(&KvOptions<Windowed<K>, V>) -> bool,
    ) -> Result<Reader<K, V>> {
        let types = (type_name::<K>(), type_name::<V>());
        let (subtopology, options) = self.find(known, kind, types, |options| fits(options))?;
        let segments =
            options.segments.ok_or_else(|| Error::new(ErrorKind::StoreType, "no store of windows"))?;
        self.stores.want(&options.name, self.level);
        let topic = format!("{}-{}-changelog", self.application_id, self.name).into();
        let stores = self.stores.clone();
        Ok(Reader {
            stores,
            options,
            segments,
            topic,
            subtopology,
            partition: None,
            stale: false,
            level: self.level,
        })
    }
}
