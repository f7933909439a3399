//! Reading rows by key and time, of stores whose rows have one: windows by their start (`RocksDBWindowStore`), sessions by
//! their end (`RocksDBSessionStore`).

use std::ops::Bound;

use bytes::{Bytes, BytesMut};

use super::engine::KeyRange;
use super::key_value::{KvStore, PAGE, Page, no_headers};
use super::segments::{BUCKET, Segments};
use crate::error::BoxError;
use crate::record::Timestamp;
use crate::serde::Windowed;
use crate::serde::erased::SerdeRef;
use crate::task::TaskCx;

/// So many buckets are looked into one by one; of more, those that have rows are looked for.
const FEW: i64 = 4;

/// A range of times, both ends included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
}

impl Times {
    pub(crate) fn new(from: Timestamp, to: Timestamp) -> Self {
        Self { from, to }
    }

    pub(crate) fn contain(self, time: Timestamp) -> bool {
        (self.from..=self.to).contains(&time)
    }
}

/// The rows of one inner key, in a range of times, one bucket after the other.
pub(crate) fn of_key<V>(
    segments: &Segments,
    inner: &[u8],
    times: Times,
    reverse: bool,
    mut read: impl FnMut(&KeyRange, usize) -> Result<Page<V>, BoxError>,
    mut take: impl FnMut(Bytes, (V, Timestamp)) -> bool,
) -> Result<(), BoxError> {
    if times.from > times.to {
        return Ok(());
    }
    let (first, last) = (segments.bucket(times.from), segments.bucket(times.to));
    let few = last - first < FEW;
    let suffix = segments.times.suffix();
    let mut bucket = if reverse { last } else { first };
    loop {
        if !few {
            // Where the next row is, of whatever key.
            let (low, high) = if reverse { (first, bucket) } else { (bucket, last) };
            let rows = read(&buckets(low, high, reverse), 1)?;
            let Some((key, _)) = rows.first() else { return Ok(()) };
            bucket = Segments::bucket_of(key);
        }
        let mut range = KeyRange {
            from: Bound::Included(bound(bucket, inner, times.from, 0, suffix)),
            to: Bound::Included(bound(bucket, inner, times.to, u8::MAX, suffix)),
            reverse,
        };
        loop {
            let page = read(&range, PAGE)?;
            let more = page.len() == PAGE;
            if let Some((last, _)) = page.last() {
                let last = Bound::Excluded(last.clone());
                if reverse { range.to = last } else { range.from = last }
            }
            for (key, row) in page {
                // Keys that begin alike lie between.
                let is_it = key.len() == BUCKET + inner.len() + suffix && key[BUCKET..].starts_with(inner);
                if is_it && times.contain(segments.time(&key)) && !take(key, row) {
                    return Ok(());
                }
            }
            if !more {
                break;
            }
        }
        let end = if reverse { first } else { last };
        if bucket == end {
            return Ok(());
        }
        bucket += if reverse { -1 } else { 1 };
    }
}

/// Where the rows of a key and a time begin, or end, in a bucket.
fn bound(bucket: i64, inner: &[u8], time: Timestamp, fill: u8, suffix: usize) -> Bytes {
    let mut key = BytesMut::with_capacity(BUCKET + inner.len() + suffix);
    key.extend_from_slice(&Segments::bucket_bytes(bucket));
    key.extend_from_slice(inner);
    key.extend_from_slice(&time.max(0).to_be_bytes());
    key.resize(BUCKET + inner.len() + suffix, fill);
    key.freeze()
}

/// All rows of some buckets.
pub(crate) fn buckets(first: i64, last: i64, reverse: bool) -> KeyRange {
    let bytes = |bucket: i64| Bytes::copy_from_slice(&Segments::bucket_bytes(bucket));
    let to = last.checked_add(1).map_or(Bound::Unbounded, |end| Bound::Excluded(bytes(end)));
    KeyRange { from: Bound::Included(bytes(first)), to, reverse }
}

impl<K: Clone + 'static, V: Clone + 'static> KvStore<Windowed<K>, V> {
    /// How its rows have a time.
    pub(crate) fn schema(&self) -> Segments {
        *self.time_of_rows().expect("a store of windowed keys is made with a time of rows")
    }

    /// The bytes of the key of a record in hand, which may be known already.
    pub(crate) fn inner_key(&self, key: &K, keys: &SerdeRef<K>, cx: &mut TaskCx) -> Result<Bytes, BoxError> {
        cx.key_bytes(key, keys, self.topic(), no_headers())
    }

    /// The rows of a key whose times lie in a range, in the order of their times, until `take` has enough. It gets the key
    /// of the row.
    pub(crate) fn fetch_key(
        &self,
        inner: &[u8],
        times: Times,
        reverse: bool,
        take: impl FnMut(Bytes, (V, Timestamp)) -> bool,
    ) -> Result<(), BoxError> {
        let oldest = self.visible_from();
        let read = |range: &KeyRange, most: usize| self.page_from(range, oldest, most);
        of_key(&self.schema(), inner, times, reverse, read, take)
    }

    /// The rows of all keys whose times lie in a range and are not before `oldest`, in the order of time, second time, key.
    pub(crate) fn fetch_closed(&self, times: Times, oldest: Timestamp) -> Result<Page<V>, BoxError> {
        let segments = self.schema();
        let mut found = Page::new();
        if times.from > times.to {
            return Ok(found);
        }
        let mut range = buckets(segments.bucket(times.from), segments.bucket(times.to), false);
        loop {
            let page = self.page_from(&range, oldest, PAGE)?;
            let Some((last, _)) = page.last() else { break };
            range.from = Bound::Excluded(last.clone());
            found.extend(page.into_iter().filter(|(key, _)| times.contain(segments.time(key))));
        }
        let suffix = segments.times.suffix();
        let parts = |key: &Bytes| {
            let (inner, times) = key[BUCKET..].split_at(key.len() - BUCKET - suffix);
            (Bytes::copy_from_slice(times), Bytes::copy_from_slice(inner))
        };
        if segments.width > 1 {
            found.sort_by_cached_key(|(key, _)| parts(key));
        }
        Ok(found)
    }
}
