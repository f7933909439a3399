//! The key-value store: a typed table of recent rows over the layers, with the changelog writer and the record cache
//! built in, so that an update costs one look-up.

mod handles;

pub(crate) use handles::prefix_end;
pub use handles::{KeyValueIterator, KeyValueStore, TimestampedKeyValueStore};

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use bytes::{BufMut, Bytes, BytesMut};

use super::engine::{Engine, KeyRange, MemoryEngine, SortedRun};
use super::java_set;
use super::keeper::{HandOver, Keeper};
use super::layers::{Layers, View};
use super::options::KvOptions;
use super::row_key::RowKey;
use super::run::RunBuilder;
use super::segments::{BUCKET, Segments, changelog_key};
use super::table::{Table, Withheld};
use super::versioned::{VERSION_HEAD, parse as parse_versions};
use super::visible::{Publisher, Visible};
use super::{AnyStore, HandOverWhen, RowFormat, StoreCounts, StoreMemory, StoreRow, Validity, add};
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::record::{Headers, Timestamp};
use crate::serde::SerdeCx;
use crate::serde::erased::SerdeRef;
use crate::task::{Partition, TaskCx, TopicIx};

/// A value and its event time, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueAndTimestamp<V> {
    /// The value.
    pub value: V,
    /// The event time.
    pub timestamp: Timestamp,
}

/// Rows in the order of their keys.
pub(crate) type Page<V> = Vec<(Bytes, (V, Timestamp))>;

/// What a change in the record cache counts for beside its key, value and headers, in bytes: Java's `NamedCache.LRUNode`,
/// `LRUCacheEntry` and `ProcessorRecordContext`, with a timestamp in the value and a topic's name of usual length.
const CACHE_ENTRY: usize = 80;

/// How many rows an iterator reads at once. It holds no lock on the store between pages.
pub(crate) const PAGE: usize = 256;

/// A change that the record cache lets go.
pub(crate) struct Flushed<V> {
    pub(crate) key: Bytes,
    pub(crate) old: Option<(V, Timestamp)>,
    pub(crate) new: Option<(V, Timestamp)>,
    pub(crate) timestamp: Timestamp,
    pub(crate) headers: Headers,
    pub(crate) source: Option<usize>,
    pub(crate) offset: i64,
}

struct Inner<V> {
    table: Table<V>,
    /// The keys of open rows.
    open: Vec<RowKey>,
    /// The same in order, kept from the first scan on.
    open_sorted: Option<BTreeSet<RowKey>>,
    withheld: Vec<RowKey>,
    sequence: u64,
    layers: Layers,
    /// Since the first time that another thread asked for what is uncommitted.
    publisher: Option<Publisher>,
    /// Other threads are shown what is committed.
    shows_committed: bool,
    scratch: BytesMut,
    /// What a row has taken on average at the last commits, its key and its value as bytes.
    row_bytes: usize,
    /// The greatest time of a row that was put, -1 before the first; of a store whose rows have one.
    observed: Timestamp,
    /// The same at the last commit.
    committed_observed: Timestamp,
    /// No row is later, not even one that the record cache holds back.
    newest: Timestamp,
    /// The rows of all buckets before it are gone.
    purged: i64,
}

impl<V> Inner<V> {
    /// What a row of the table takes, about.
    fn row_cost(&self) -> usize {
        Table::<V>::ROW + self.row_bytes
    }

    /// Notes what the rows of a commit take.
    fn weigh_rows(&mut self, run: &SortedRun) {
        if !run.is_empty() {
            let bytes = run.bytes() / run.len() - SortedRun::ROW;
            self.row_bytes = (self.row_bytes + bytes) / 2;
        }
    }
}

/// A key-value store of one task.
pub(crate) struct KvStore<K, V> {
    name: Arc<str>,
    topic: String,
    key_serde: SerdeRef<K>,
    value_serde: SerdeRef<V>,
    timestamped: bool,
    segments: Option<Segments>,
    cached: bool,
    buffers: bool,
    logs_headers: bool,
    /// How much of the past it knows, if its rows are versions, in milliseconds.
    history: Option<i64>,
    /// The greatest time of a version, now and at the last commit; -1 before the first, as in Kafka Streams also after a
    /// start.
    observed: Cell<(Timestamp, Timestamp)>,
    changelog: Option<TopicIx>,
    visible: Arc<Visible>,
    counts: StoreCounts,
    inner: RefCell<Inner<V>>,
}

/// The value and the timestamp of a row; -1 where the store keeps none.
pub(crate) fn decode_row<V: 'static>(
    row: &Bytes,
    timestamped: bool,
    value_serde: &SerdeRef<V>,
    topic: &str,
) -> Result<(V, Timestamp), BoxError> {
    let (timestamp, value) = if timestamped {
        let (head, _) = row.split_first_chunk::<8>().ok_or("a row of the store has no timestamp")?;
        (i64::from_be_bytes(*head), row.slice(8..))
    } else {
        (-1, row.clone())
    };
    Ok((value_serde.read(&value, &SerdeCx::value(topic))?, timestamp))
}

/// What an update has done.
pub(crate) struct Updated<V> {
    pub(crate) old: Option<(V, Timestamp)>,
    pub(crate) new: Option<(V, Timestamp)>,
    /// The record cache holds it back; it goes downstream when the cache is flushed.
    pub(crate) withheld: bool,
}

/// Where Java's set of changed keys has the one that came as the `at`th of `count`.
fn place_in_set(key: &[u8], at: usize, count: usize) -> u64 {
    (u64::from(java_set::bucket(key, count)) << 32) | at as u64
}

/// The headers of a suppression's changelog: the version of a value's format (`InMemoryTimeOrderedKeyValueChangeBuffer`).
fn buffer_headers(has_value: bool) -> &'static Headers {
    static VERSIONED: LazyLock<Headers> = LazyLock::new(|| {
        let mut headers = Headers::new();
        headers.add("v", Some(&[crate::serde::buffered::VERSION]));
        headers
    });
    if has_value { &VERSIONED } else { no_headers() }
}

pub(super) fn no_headers() -> &'static Headers {
    static NONE: Headers = Headers::new();
    &NONE
}

impl<K: Clone + 'static, V: Clone + 'static> KvStore<K, V> {
    pub(crate) fn new(
        options: &KvOptions<K, V>,
        topic: &str,
        changelog: Option<TopicIx>,
        cached: bool,
    ) -> Self {
        Self {
            name: options.name.clone(),
            topic: topic.to_owned(),
            key_serde: options.key_serde.clone(),
            value_serde: options.value_serde.clone(),
            timestamped: options.timestamped,
            segments: options.segments,
            cached,
            buffers: options.buffers,
            logs_headers: options.logs_headers,
            history: options.history,
            observed: Cell::new((-1, -1)),
            changelog,
            visible: Arc::default(),
            counts: StoreCounts::default(),
            inner: RefCell::new(Inner {
                table: Table::new(),
                open: Vec::new(),
                open_sorted: None,
                withheld: Vec::new(),
                sequence: 0,
                layers: Layers::new(MemoryEngine::default()),
                publisher: None,
                shows_committed: false,
                scratch: BytesMut::new(),
                row_bytes: 64,
                observed: -1,
                committed_observed: -1,
                newest: -1,
                purged: i64::MIN,
            }),
        }
    }

    fn serde_cx(&self, is_key: bool) -> SerdeCx<'_> {
        SerdeCx { topic: &self.topic, is_key, headers: no_headers() }
    }

    /// The bytes of the key of a record in hand, which may be known already.
    pub(crate) fn key_bytes(&self, key: &K, cx: &mut TaskCx) -> Result<Bytes, BoxError> {
        cx.key_bytes(key, &self.key_serde, &self.topic, no_headers())
    }

    /// Reads a key back from the bytes of its row.
    pub(crate) fn read_key(&self, bytes: &Bytes) -> Result<K, BoxError> {
        let bytes = &self.logged_key(bytes);
        Ok(self.key_serde.read(bytes, &self.serde_cx(true))?)
    }

    /// What the changelog has as key, of a row's.
    fn logged_key(&self, row_key: &Bytes) -> Bytes {
        if self.segments.is_some() { changelog_key(row_key) } else { row_key.clone() }
    }

    /// How its rows have a time, if they have.
    pub(super) fn time_of_rows(&self) -> Option<&Segments> {
        self.segments.as_ref()
    }

    /// The topic that its serdes are told.
    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// No row is later.
    pub(super) fn newest(&self) -> Timestamp {
        self.inner.borrow().newest
    }

    /// The greatest time of a row that was put.
    pub(super) fn observed(&self) -> Timestamp {
        self.inner.borrow().observed
    }

    fn decode(&self, row: &Bytes) -> Result<(V, Timestamp), BoxError> {
        decode_row(row, self.timestamped, &self.value_serde, &self.topic)
    }

    fn write_row(&self, value: &V, timestamp: Timestamp, out: &mut BytesMut) -> Result<(), BoxError> {
        if self.timestamped {
            out.put_i64(timestamp);
        }
        Ok(self.value_serde.write(value, &self.serde_cx(false), out)?)
    }

    /// Replaces a row by what `change` makes of it. `now` is the time that a deletion is logged with. On an error nothing
    /// has changed. It counts as a read and a write.
    pub(crate) fn update(
        &self,
        key: &[u8],
        now: Timestamp,
        headers: &Headers,
        cx: &mut TaskCx,
        change: impl FnOnce(Option<&(V, Timestamp)>) -> Result<Option<(V, Timestamp)>, BoxError>,
    ) -> Result<Updated<V>, BoxError> {
        add(&self.counts.gets, 1);
        add(&self.counts.puts, 1);
        self.replace(key, now, headers, cx, change)
    }

    fn replace(
        &self,
        key: &[u8],
        now: Timestamp,
        headers: &Headers,
        cx: &mut TaskCx,
        change: impl FnOnce(Option<&(V, Timestamp)>) -> Result<Option<(V, Timestamp)>, BoxError>,
    ) -> Result<Updated<V>, BoxError> {
        let Inner {
            table, open, open_sorted, withheld, sequence, layers, publisher, observed, newest, ..
        } = &mut *self.inner.borrow_mut();
        if let Some(segments) = &self.segments {
            *newest = (*newest).max(segments.time(key));
        }
        add(&self.counts.hits, 1);
        let row = table.get_or_load(key, || self.load(layers, key))?;
        let visible = row.withheld.is_some() || self.is_read(key, *observed);
        let new = change(row.current.as_ref().filter(|_| visible))?;
        // ORDER: the record is in the producer's hands before the row changes, so that an error leaves both as they were.
        // A withheld change is written to nowhere, so that an error belongs to this record and not to the flush.
        let bytes = if self.history.is_some() {
            // The version was logged, not the row.
            0
        } else if self.cached {
            self.weigh(key, new.as_ref(), headers, cx)?
        } else {
            let headers = if self.logs_headers { headers } else { no_headers() };
            self.log_with(key, new.as_ref(), now, headers, cx)?;
            0
        };
        if !self.cached && !self.keeps(key, observed) {
            return Ok(Updated { old: None, new, withheld: false });
        }
        let old = std::mem::replace(&mut row.current, new.clone()).filter(|_| visible);
        if !row.open {
            row.open = true;
            if let Some(sorted) = open_sorted {
                sorted.insert(row.key.clone());
            }
            open.push(row.key.clone());
        }
        if let Some(publisher) = publisher
            && !row.fresh
        {
            row.fresh = true;
            publisher.fresh.push(row.key.clone());
        }
        if self.cached {
            *sequence += 1;
            let before = match row.withheld.take() {
                Some(held) => {
                    cx.cached_bytes = cx.cached_bytes.saturating_sub(held.bytes);
                    held.before
                }
                None => {
                    withheld.push(row.key.clone());
                    old.clone()
                }
            };
            cx.cached_bytes += bytes;
            let mut headers = headers.clone();
            headers.detach();
            let (source, offset) = (cx.source, cx.raw.offset);
            let held =
                Withheld { before, sequence: *sequence, timestamp: now, headers, source, offset, bytes };
            row.withheld = Some(Box::new(held));
        }
        Ok(Updated { old, new, withheld: self.cached })
    }

    /// Whether a row that was put is read. What Java's record cache has it shows however old it is, also after it was
    /// flushed (`CachingWindowStore.fetch`): so with the cache on, rows are read until they go.
    fn is_read(&self, key: &[u8], observed: Timestamp) -> bool {
        match &self.segments {
            Some(segments) if self.cached => segments.is_live(segments.time(key), observed),
            _ => self.is_visible(key, observed),
        }
    }

    /// Whether a row is read from the store below the record cache (`AbstractRocksDBSegmentedBytesStore.get`).
    fn is_visible(&self, key: &[u8], observed: Timestamp) -> bool {
        self.segments.is_none_or(|segments| segments.is_visible(segments.time(key), observed))
    }

    /// Notes the time of a row that is being put. Says whether it is kept: it is logged even if not
    /// (`ChangeLoggingWindowBytesStore.put`, `AbstractRocksDBSegmentedBytesStore.put`).
    fn keeps(&self, key: &[u8], observed: &mut Timestamp) -> bool {
        let Some(segments) = &self.segments else { return true };
        let time = segments.time(key);
        *observed = (*observed).max(time);
        segments.is_live(time, *observed)
    }

    /// Reads a row that the table does not have.
    fn load(&self, layers: &Layers, key: &[u8]) -> Result<Option<(V, Timestamp)>, BoxError> {
        // It was counted as found already, which it is nearly always.
        self.counts.hits.set(self.counts.hits.get() - 1);
        add(&self.counts.misses, 1);
        layers.get(key)?.map(|row| self.decode(&row)).transpose()
    }

    /// What a change counts for in the record cache: about as much as in Kafka Streams', so that the same
    /// `statestore.cache.max.bytes` holds back as much.
    fn weigh(
        &self,
        key: &[u8],
        new: Option<&(V, Timestamp)>,
        headers: &Headers,
        cx: &mut TaskCx,
    ) -> Result<usize, BoxError> {
        if self.buffers {
            // It is no record cache: what it holds back counts for itself.
            return Ok(0);
        }
        let mut bytes = key.len() + headers.wire().len() + CACHE_ENTRY;
        if let Some((value, _)) = new {
            let written = cx.write_value(value, &self.value_serde, &self.topic, no_headers())?;
            bytes += written.len();
            cx.return_scratch(written);
        }
        Ok(bytes)
    }

    /// The keys of everything that the record cache holds back, in the order of the last updates. Each is to be
    /// [taken](Self::take_withheld), one by one: all at once would be another copy of what may be large.
    pub(crate) fn withheld(&self) -> impl Iterator<Item = RowKey> + use<K, V> {
        let inner = &mut *self.inner.borrow_mut();
        let mut keys = Vec::with_capacity(inner.withheld.len());
        let count = inner.withheld.len();
        for (at, key) in inner.withheld.drain(..).enumerate() {
            if let Some(held) = inner.table.get(&key).and_then(|row| row.withheld.as_ref()) {
                let place = if self.buffers { place_in_set(&key, at, count) } else { held.sequence };
                keys.push((place, key));
            }
        }
        keys.sort_unstable_by_key(|(sequence, _)| *sequence);
        keys.into_iter().map(|(_, key)| key)
    }

    /// Lets go of a change that the record cache holds back. With a node downstream a row that came and went in between is
    /// forgotten, else its deletion is logged (`CachingKeyValueStore.putAndMaybeForward`).
    pub(crate) fn take_withheld(&self, key: RowKey, downstream: bool, cx: &mut TaskCx) -> Option<Flushed<V>> {
        let inner = &mut *self.inner.borrow_mut();
        let row = inner.table.get_mut(&key)?;
        let Withheld { mut before, timestamp, headers, source, offset, bytes, .. } = *row.withheld.take()?;
        cx.cached_bytes = cx.cached_bytes.saturating_sub(bytes);
        let new = row.current.clone();
        if !self.is_visible(&key, inner.observed) {
            before = None;
        }
        if downstream && new.is_none() && before.is_none() {
            return None;
        }
        // ORDER: time moves on with each row that leaves the cache, and decides about the next.
        if !self.keeps(&key, &mut inner.observed) {
            row.current = None;
        }
        Some(Flushed { key: key.into(), old: before, new, timestamp, headers, source, offset })
    }

    /// From when on a versioned store knows what was.
    pub(crate) fn history_begins(&self) -> Timestamp {
        self.observed.get().0.saturating_sub(self.history.unwrap_or(i64::MAX))
    }

    /// Notes the time of a version.
    pub(crate) fn observe(&self, timestamp: Timestamp) {
        let (now, committed) = self.observed.get();
        self.observed.set((now.max(timestamp), committed));
    }

    /// The bytes of a key that need not be the one in hand.
    pub(crate) fn key_bytes_anew(&self, key: &K) -> Result<Bytes, BoxError> {
        let mut bytes = BytesMut::new();
        self.key_serde.write(key, &self.serde_cx(true), &mut bytes)?;
        Ok(bytes.freeze())
    }

    /// Writes a version to the changelog: `one` is a row that has nothing else.
    pub(crate) fn log_version(
        &self,
        key: &[u8],
        one: Option<&V>,
        timestamp: Timestamp,
        cx: &mut TaskCx,
    ) -> Result<(), BoxError> {
        let Some(topic) = self.changelog else { return Ok(()) };
        let partition = Partition::Exactly(cx.task.partition);
        let Some(one) = one else {
            return cx.send(topic, partition, Some(key), None, Some(timestamp), no_headers());
        };
        let bytes = cx.write_value(one, &self.value_serde, &self.topic, no_headers())?;
        let value = bytes.get(VERSION_HEAD..);
        let sent = cx.send(topic, partition, Some(key), value, Some(timestamp), no_headers());
        cx.return_scratch(bytes);
        sent
    }

    /// Writes a change to the changelog.
    pub(crate) fn log(
        &self,
        key: &[u8],
        new: Option<&(V, Timestamp)>,
        now: Timestamp,
        cx: &mut TaskCx,
    ) -> Result<(), BoxError> {
        self.log_with(key, new, now, no_headers(), cx)
    }

    fn log_with(
        &self,
        key: &[u8],
        new: Option<&(V, Timestamp)>,
        now: Timestamp,
        headers: &Headers,
        cx: &mut TaskCx,
    ) -> Result<(), BoxError> {
        let Some(topic) = self.changelog else { return Ok(()) };
        let key = if self.segments.is_some() { &key[BUCKET..] } else { key };
        let partition = Partition::Exactly(cx.task.partition);
        let (now, headers) =
            if self.buffers { (None, buffer_headers(new.is_some())) } else { (Some(now), headers) };
        let Some((value, timestamp)) = new else {
            return cx.send(topic, partition, Some(key), None, now, headers);
        };
        let timestamp = if self.timestamped { Some(*timestamp) } else { now };
        let bytes = cx.write_value(value, &self.value_serde, &self.topic, no_headers())?;
        let sent = cx.send(topic, partition, Some(key), Some(&bytes), timestamp, headers);
        cx.return_scratch(bytes);
        sent
    }

    /// The row of a key.
    pub(crate) fn get(&self, key: &K) -> Result<Option<(V, Timestamp)>, BoxError> {
        add(&self.counts.gets, 1);
        let inner = &mut *self.inner.borrow_mut();
        inner.scratch.clear();
        self.write_key(key, &mut inner.scratch)?;
        let Inner { table, layers, scratch, observed, .. } = inner;
        add(&self.counts.hits, 1);
        let row = table.get_or_load(scratch, || self.load(layers, scratch))?;
        let visible = row.withheld.is_some() || self.is_read(scratch, *observed);
        Ok(row.current.clone().filter(|_| visible))
    }

    /// Appends the key of a row.
    fn write_key(&self, key: &K, out: &mut BytesMut) -> Result<(), BoxError> {
        match &self.segments {
            None => Ok(self.key_serde.write(key, &self.serde_cx(true), out)?),
            Some(segments) => {
                out.put_bytes(0, BUCKET);
                self.key_serde.write(key, &self.serde_cx(true), out)?;
                let bucket = Segments::bucket_bytes(segments.bucket(segments.time(out)));
                out[..BUCKET].copy_from_slice(&bucket);
                Ok(())
            }
        }
    }

    fn put(
        &self,
        key: &K,
        value: Option<(V, Timestamp)>,
        cx: &mut TaskCx,
    ) -> Result<Option<(V, Timestamp)>, BoxError> {
        let mut bytes = std::mem::take(&mut self.inner.borrow_mut().scratch);
        bytes.clear();
        let (now, headers) = (cx.timestamp, cx.raw.headers.clone());
        let updated = self
            .write_key(key, &mut bytes)
            .and_then(|()| self.replace(&bytes, now, &headers, cx, |_| Ok(value)));
        self.inner.borrow_mut().scratch = bytes;
        Ok(updated?.old)
    }

    /// The rows of some keys as they are now, in order.
    fn run_of(&self, table: &Table<V>, keys: &[RowKey]) -> Result<SortedRun> {
        let mut run = RunBuilder::with_capacity(keys.len(), keys.len() * 48);
        for key in keys {
            let Some(row) = table.get(key) else { continue };
            run.push_with(key, |out| {
                let (value, timestamp) = row.current.as_ref()?;
                Some(self.write_row(value, *timestamp, out))
            })
            .map_err(|error| {
                let text = format!("a row of the store {} cannot be written", self.name);
                Error::new(ErrorKind::Store, text).because(error)
            })?;
        }
        Ok(run.sorted())
    }

    /// Freezes what has changed since the store was last shown, if it is shown at all. Says whether there was anything.
    fn freeze_fresh(&self, inner: &mut Inner<V>) -> Result<bool> {
        let Some(publisher) = &mut inner.publisher else { return Ok(false) };
        let rebased = std::mem::take(&mut publisher.rebased);
        if publisher.fresh.is_empty() {
            return Ok(rebased);
        }
        let run = self.run_of(&inner.table, &publisher.fresh)?;
        for key in publisher.fresh.drain(..) {
            if let Some(row) = inner.table.get_mut(&key) {
                row.fresh = false;
            }
        }
        publisher.push(run);
        Ok(true)
    }

    /// A row for each version that a row has, but for what the history no longer reaches.
    fn version_rows(&self, key: &Bytes, row: &Bytes) -> Result<Vec<StoreRow>, BoxError> {
        let versions = parse_versions(row)?;
        let ends = versions.iter().skip(1).map(|(from, _)| Some(*from)).chain([None]);
        let is_known = |to: Option<Timestamp>| to.is_none_or(|to| to > self.history_begins());
        let rows = versions.iter().zip(ends).filter_map(|((from, value), to)| {
            let (value, validity) = (value.clone()?, Some(Validity { from: *from, to }));
            is_known(to).then(|| StoreRow { key: key.clone(), value, timestamp: None, validity })
        });
        Ok(rows.collect())
    }

    /// The least time of a row that has not gone.
    pub(crate) fn live_from(&self) -> Timestamp {
        self.segments.map_or(Timestamp::MIN, |segments| segments.live_from(self.observed()))
    }

    /// The next rows of a scan; none only at its end.
    pub(crate) fn page(&self, range: &KeyRange) -> Result<Page<V>, BoxError> {
        self.page_from(range, self.visible_from(), PAGE)
    }

    /// The least time of a row that is read.
    pub(crate) fn visible_from(&self) -> Timestamp {
        match self.segments {
            Some(segments) if !self.cached => segments.visible_from(self.observed()),
            _ => self.live_from(),
        }
    }

    /// The same, so many rows at most, none that is older than a time. What the record cache holds back is never too old.
    pub(super) fn page_from(
        &self,
        range: &KeyRange,
        oldest: Timestamp,
        most: usize,
    ) -> Result<Page<V>, BoxError> {
        let mut page = Page::new();
        if range.is_empty() {
            return Ok(page);
        }
        let Inner { table, open, open_sorted, layers, .. } = &mut *self.inner.borrow_mut();
        let too_old = |key: &[u8]| self.segments.is_some_and(|segments| segments.time(key) < oldest);
        let sorted = open_sorted.get_or_insert_with(|| open.iter().cloned().collect());
        let mut keys = sorted.range::<[u8], _>(range.bounds());
        let mut next_key = || if range.reverse { keys.next_back() } else { keys.next() };
        let mut rows = layers.range(range, std::iter::empty());
        let (mut key, mut row) = (next_key(), rows.next().transpose()?);
        while page.len() < most {
            let order = match (key, &row) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(key), Some((row, _))) if range.reverse => row[..].cmp(key),
                (Some(key), Some((row, _))) => key[..].cmp(row),
            };
            // An open row lies over that of the layers.
            if order != Ordering::Greater
                && let Some(open) = key.take()
            {
                let kept = table.get(open);
                let current = kept.and_then(|row| row.current.as_ref());
                if let Some(current) = current
                    && (kept.is_some_and(|row| row.withheld.is_some()) || !too_old(open))
                {
                    page.push((open.clone().into(), current.clone()));
                }
                key = next_key();
            }
            if order != Ordering::Less {
                if let Some((key, row)) = row.filter(|(key, _)| order.is_gt() && !too_old(key)) {
                    let decoded = self.decode(&row)?;
                    page.push((key, decoded));
                }
                row = rows.next().transpose()?;
            }
        }
        Ok(page)
    }

    /// Takes what is too old out of a store whose rows have a time, whole segments at once: from the table, from the run
    /// that is about to be committed, and with it from the layers.
    fn expire(&self, inner: &mut Inner<V>, run: SortedRun) -> Result<SortedRun> {
        let Some(segments) = &self.segments else { return Ok(run) };
        inner.committed_observed = inner.observed;
        let first = segments.first_live_bucket(inner.observed);
        if first <= inner.purged {
            return Ok(run);
        }
        inner.purged = first;
        inner.table.retain(|key| Segments::bucket_of(key) >= first);
        let mut rows = RunBuilder::with_capacity(run.len(), run.bytes());
        for (key, row) in run.iter() {
            rows.push(key, row.filter(|_| Segments::bucket_of(key) >= first))?;
        }
        let to = Bound::Excluded(Bytes::copy_from_slice(&Segments::bucket_bytes(first)));
        let range = KeyRange { from: Bound::Unbounded, to, reverse: false };
        let mut gone = RunBuilder::with_capacity(0, 0);
        for row in inner.layers.range(&range, std::iter::empty()) {
            gone.push(&row?.0, None)?;
        }
        Ok(SortedRun::merged(&gone.in_order(), &rows.in_order()))
    }

    /// The greatest time of the rows that are in the layers.
    fn newest_time(&self, inner: &Inner<V>) -> Result<Timestamp> {
        let Some(segments) = &self.segments else { return Ok(-1) };
        let mut range = KeyRange { reverse: true, ..KeyRange::ALL };
        let Some(newest) = inner.layers.range(&range, std::iter::empty()).next().transpose()? else {
            return Ok(-1);
        };
        let bucket = Segments::bucket_bytes(Segments::bucket_of(&newest.0));
        range.from = Bound::Included(Bytes::copy_from_slice(&bucket));
        let rows = inner.layers.range(&range, std::iter::empty());
        rows.map(|row| row.map(|(key, _)| segments.time(&key)))
            .try_fold(-1, |newest, time| Ok(newest.max(time?)))
    }

    /// What other threads see of committed rows, with runs of open ones on top.
    fn view(&self, inner: &Inner<V>, open: &[Arc<SortedRun>]) -> View {
        let mut view = inner.layers.view(open);
        if let Some(segments) = &self.segments {
            let observed = if open.is_empty() { inner.committed_observed } else { inner.observed };
            view.visible_from =
                if self.cached { segments.live_from(observed) } else { segments.visible_from(observed) };
        }
        view
    }
}

impl<K: Clone + 'static, V: Clone + 'static> AnyStore for KvStore<K, V> {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn into_any(self: Rc<Self>) -> Rc<dyn Any> {
        self
    }

    fn is_cached(&self) -> bool {
        self.cached
    }

    fn changelog(&self) -> Option<TopicIx> {
        self.changelog
    }

    fn row_format(&self) -> RowFormat {
        match self.history {
            Some(history) => RowFormat::Versioned(history),
            None if self.timestamped => RowFormat::Timestamped,
            None => RowFormat::Plain,
        }
    }

    fn flush(&self, cx: &mut TaskCx) -> Result<()> {
        let store_error = |error: BoxError| {
            Error::new(ErrorKind::Store, format!("the store {} cannot be flushed", self.name)).because(error)
        };
        for key in self.withheld() {
            let Some(change) = self.take_withheld(key, false, cx) else { continue };
            self.log(&change.key, change.new.as_ref(), change.timestamp, cx).map_err(store_error)?;
        }
        Ok(())
    }

    fn segments(&self) -> Option<Segments> {
        self.segments
    }

    fn attach(&self, engine: Box<dyn Engine>, next_offset: i64, keeper: Option<Keeper>) -> Result<()> {
        let inner = &mut *self.inner.borrow_mut();
        debug_assert!(inner.open.is_empty(), "an engine is attached before the first record");
        // ORDER: the table lies over the layers; a row it kept from before would hide what is below now.
        inner.table.clear();
        if let Some(publisher) = &mut inner.publisher {
            publisher.rebased = true;
        }
        inner.layers.attach(engine, next_offset, keeper);
        inner.shows_committed = false;
        inner.observed = self.newest_time(inner)?;
        inner.committed_observed = inner.observed;
        inner.newest = inner.observed;
        inner.purged = i64::MIN;
        Ok(())
    }

    fn let_go(&self, bytes: usize) {
        let inner = &mut *self.inner.borrow_mut();
        let rows = bytes.div_ceil(inner.row_cost());
        if rows > 0 {
            inner.table.shrink_to(inner.table.len().saturating_sub(rows));
        }
    }

    fn memory(&self) -> StoreMemory {
        let inner = self.inner.borrow();
        let cost = inner.row_cost();
        StoreMemory {
            rows: inner.table.len() * cost,
            open: inner.open.len() * (cost + size_of::<RowKey>()),
            runs: inner.layers.bytes(),
            leaving: inner.layers.leaving(),
        }
    }

    fn is_hand_over_due(&self, when: HandOverWhen) -> bool {
        let inner = self.inner.borrow();
        inner.layers.is_hand_over_due(when)
            || (when.last && !inner.open.is_empty() && inner.layers.is_on_disk())
    }

    fn hand_over(&self, mark: Option<&dyn Fn(i64) -> Bytes>) -> Result<()> {
        self.inner.borrow_mut().layers.hand_over(mark)
    }

    fn await_hand_over(&self) -> Result<()> {
        let inner = &mut *self.inner.borrow_mut();
        let settled = inner.layers.await_hand_over()?;
        if let Some(publisher) = &mut inner.publisher {
            publisher.rebased |= settled;
        }
        Ok(())
    }

    fn save(&self) -> Result<Option<HandOver>> {
        if !self.inner.borrow().layers.is_on_disk() {
            return Ok(None);
        }
        AnyStore::commit(self, None)?;
        let layers = &mut self.inner.borrow_mut().layers;
        layers.hand_over(None)?;
        Ok(layers.handing_over())
    }

    fn commit(&self, next_offset: Option<i64>) -> Result<()> {
        let inner = &mut *self.inner.borrow_mut();
        debug_assert!(inner.withheld.is_empty(), "caches are flushed before a commit");
        self.observed.set((self.observed.get().0, self.observed.get().0));
        let published = self.freeze_fresh(inner)?;
        for key in &inner.open {
            if let Some(row) = inner.table.get_mut(key) {
                row.open = false;
            }
        }
        let run = match &mut inner.publisher {
            // Everything that is open has been published, and is in its rows already.
            Some(publisher) => publisher.take(),
            None => self.run_of(&inner.table, &inner.open)?,
        };
        let run = self.expire(inner, run)?;
        inner.weigh_rows(&run);
        inner.open.clear();
        if let Some(sorted) = &mut inner.open_sorted {
            sorted.clear();
        }
        let changed = !run.is_empty();
        let settled = inner.layers.commit(run, next_offset)?;
        if let Some(publisher) = &mut inner.publisher {
            publisher.rebased |= settled;
        }
        if inner.publisher.is_some() && (published || changed) {
            self.visible.uncommitted.show(self.view(inner, &[]));
        }
        if inner.shows_committed && (settled || changed) {
            self.visible.committed.show(self.view(inner, &[]));
        }
        Ok(())
    }

    fn roll_back(&self) {
        self.observed.set((self.observed.get().1, self.observed.get().1));
        let inner = &mut *self.inner.borrow_mut();
        // What the cache withholds, and what readers were not shown yet, is in open rows too. The layers below have nothing
        // but what is committed: a row is read from there when it is looked for next.
        for key in inner.open.drain(..) {
            inner.table.remove(&key);
        }
        if let Some(sorted) = &mut inner.open_sorted {
            sorted.clear();
        }
        inner.withheld.clear();
        inner.observed = inner.committed_observed;
        if let Some(publisher) = &mut inner.publisher {
            *publisher = Publisher::new(&[]);
            publisher.rebased = false;
            self.visible.uncommitted.show(self.view(inner, &[]));
        }
    }

    fn visible(&self) -> &Arc<Visible> {
        &self.visible
    }

    fn publish(&self) -> Result<()> {
        let Visible { uncommitted, committed } = &*self.visible;
        if committed.is_wanted() {
            let inner = &mut *self.inner.borrow_mut();
            // The first time. From then on commits show it.
            if !std::mem::replace(&mut inner.shows_committed, true) {
                committed.show(self.view(inner, &[]));
            }
        }
        if !uncommitted.is_wanted() {
            return Ok(());
        }
        let inner = &mut *self.inner.borrow_mut();
        if inner.publisher.is_none() {
            for key in &inner.open {
                if let Some(row) = inner.table.get_mut(key) {
                    row.fresh = true;
                }
            }
            inner.publisher = Some(Publisher::new(&inner.open));
        }
        if self.freeze_fresh(inner)?
            && let Some(publisher) = &inner.publisher
        {
            uncommitted.show(self.view(inner, publisher.runs()));
        }
        Ok(())
    }

    fn counts(&self) -> &StoreCounts {
        &self.counts
    }

    fn approximate_len(&self) -> u64 {
        let inner = self.inner.borrow();
        inner.layers.approximate_len() + inner.open.len() as u64
    }

    fn rows(&self) -> Result<Vec<StoreRow>> {
        let store_error = |error: BoxError| {
            Error::new(ErrorKind::Store, format!("the store {} cannot be read", self.name)).because(error)
        };
        let mut range = KeyRange::ALL;
        let mut rows = Vec::new();
        loop {
            let page = self.page(&range).map_err(store_error)?;
            let Some((last, _)) = page.last() else { return Ok(rows) };
            range.from = Bound::Excluded(last.clone());
            for (key, (value, timestamp)) in page {
                let mut out = BytesMut::new();
                let cx = self.serde_cx(false);
                self.value_serde.write(&value, &cx, &mut out).map_err(|e| store_error(e.into()))?;
                if self.history.is_some() {
                    rows.extend(self.version_rows(&key, &out.freeze()).map_err(store_error)?);
                    continue;
                }
                rows.push(StoreRow {
                    key: self.logged_key(&key),
                    value: out.freeze(),
                    timestamp: self.timestamped.then_some(timestamp),
                    validity: None,
                });
            }
        }
    }
}
