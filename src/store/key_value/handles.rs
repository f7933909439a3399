//! What processors hold of a key-value store: typed handles, and the rows of a scan.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Bound;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::{KvStore, ValueAndTimestamp};
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::record::Timestamp;
use crate::store::engine::KeyRange;
use crate::store::{AnyStore, add};
use crate::task::context::StoreRef;

/// A typed handle on a key-value store, got once when a processor is made; use it through
/// [`Context::store`](crate::topology::Context::store).
pub struct KeyValueStore<K, V>(pub(crate) Rc<KvStore<K, V>>);

/// A typed handle on a key-value store with timestamps.
pub struct TimestampedKeyValueStore<K, V>(pub(crate) Rc<KvStore<K, V>>);

impl<K, V> fmt::Debug for KeyValueStore<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyValueStore({})", self.0.name)
    }
}

impl<K, V> fmt::Debug for TimestampedKeyValueStore<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimestampedKeyValueStore({})", self.0.name)
    }
}

/// The rows of a scan, in order. Rows are read in pages; the store may change meanwhile, and the rows not yet read show
/// the change.
pub struct KeyValueIterator<K, V, T = V> {
    store: Rc<KvStore<K, V>>,
    range: KeyRange,
    page: VecDeque<(Bytes, (V, Timestamp))>,
    done: bool,
    row: fn((V, Timestamp)) -> T,
}

impl<K, V, T> Drop for KeyValueIterator<K, V, T> {
    fn drop(&mut self) {
        let open = &self.store.counts.open_iterators;
        open.set(open.get().saturating_sub(1));
    }
}

impl<K, V, T> fmt::Debug for KeyValueIterator<K, V, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyValueIterator({})", self.store.name)
    }
}

impl<K: Clone + 'static, V: Clone + 'static, T> Iterator for KeyValueIterator<K, V, T> {
    type Item = Result<(K, T)>;

    fn next(&mut self) -> Option<Self::Item> {
        let store_error = |store: &KvStore<K, V>, error: BoxError| {
            Error::new(ErrorKind::Store, format!("a scan of the store {} failed", store.name)).because(error)
        };
        if self.page.is_empty() && !self.done {
            match self.store.page(&self.range) {
                Ok(page) => self.page = page.into(),
                Err(error) => {
                    self.done = true;
                    return Some(Err(store_error(&self.store, error)));
                }
            }
            self.done = self.page.is_empty();
        }
        let (key, row) = self.page.pop_front()?;
        if self.page.is_empty() {
            let bound = Bound::Excluded(key.clone());
            if self.range.reverse { self.range.to = bound } else { self.range.from = bound }
        }
        Some(match self.store.read_key(&key) {
            Ok(key) => Ok((key, (self.row)(row))),
            Err(error) => Err(store_error(&self.store, error)),
        })
    }
}

impl<K: Clone + 'static, V: Clone + 'static> KvStore<K, V> {
    /// The rows whose keys' bytes start with `prefix`, for the nodes of this library.
    pub(crate) fn prefix_rows(self: &Rc<Self>, prefix: Bytes) -> KeyValueIterator<K, V, (V, Timestamp)> {
        add(&self.counts.scans, 1);
        add(&self.counts.open_iterators, 1);
        let to = prefix_end(&prefix);
        KeyValueIterator {
            store: self.clone(),
            range: KeyRange { from: Bound::Included(prefix), to, reverse: false },
            page: VecDeque::new(),
            done: false,
            row: |row| row,
        }
    }
}

fn bound_bytes<K: Clone + 'static, V: Clone + 'static>(
    store: &KvStore<K, V>,
    key: Option<&K>,
) -> Result<Bound<Bytes>, BoxError> {
    let Some(key) = key else { return Ok(Bound::Unbounded) };
    let mut bytes = BytesMut::new();
    store.key_serde.write(key, &store.serde_cx(true), &mut bytes)?;
    Ok(Bound::Included(bytes.freeze()))
}

/// The end of the keys that start with `prefix`.
pub(crate) fn prefix_end(prefix: &[u8]) -> Bound<Bytes> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < u8::MAX {
            *last += 1;
            return Bound::Excluded(end.into());
        }
        end.pop();
    }
    Bound::Unbounded
}

macro_rules! store_access {
    ($handle:ident, $row:ty, $to_row:expr, $from_row:expr) => {
        impl<K: Clone + 'static, V: Clone + 'static> StoreRef<'_, $handle<K, V>> {
            /// The row of a key.
            pub fn get(&self, key: &K) -> Result<Option<$row>, BoxError> {
                Ok(self.store.0.get(key)?.map($to_row))
            }

            /// Sets the row of a key, or deletes it. Both are logged.
            pub fn put(&mut self, key: &K, row: impl Into<Option<$row>>) -> Result<(), BoxError> {
                let row = row.into().map($from_row(self.cx.timestamp));
                add(&self.store.0.counts.puts, 1);
                self.store.0.put(key, row, self.cx).map(drop)
            }

            /// Sets the row of a key that has none, and returns what it found.
            pub fn put_if_absent(&mut self, key: &K, row: $row) -> Result<Option<$row>, BoxError> {
                let found = self.get(key)?;
                if found.is_none() {
                    self.put(key, row)?;
                }
                Ok(found)
            }

            /// Deletes the row of a key and returns it. The deletion is logged even if there was none.
            pub fn delete(&mut self, key: &K) -> Result<Option<$row>, BoxError> {
                add(&self.store.0.counts.deletes, 1);
                Ok(self.store.0.put(key, None, self.cx)?.map($to_row))
            }

            /// The rows from one key to another, both included, in the order of the keys' bytes; an end that is `None` is
            /// open.
            pub fn range(
                &self,
                from: Option<&K>,
                to: Option<&K>,
            ) -> Result<KeyValueIterator<K, V, $row>, BoxError> {
                self.scan(bound_bytes(&self.store.0, from)?, bound_bytes(&self.store.0, to)?, false)
            }

            /// As [`range`](Self::range), from the greatest key down.
            pub fn reverse_range(
                &self,
                from: Option<&K>,
                to: Option<&K>,
            ) -> Result<KeyValueIterator<K, V, $row>, BoxError> {
                self.scan(bound_bytes(&self.store.0, from)?, bound_bytes(&self.store.0, to)?, true)
            }

            /// All rows in the order of the keys' bytes.
            pub fn all(&self) -> Result<KeyValueIterator<K, V, $row>, BoxError> {
                self.range(None, None)
            }

            /// All rows, from the greatest key down.
            pub fn reverse_all(&self) -> Result<KeyValueIterator<K, V, $row>, BoxError> {
                self.reverse_range(None, None)
            }

            /// The rows whose keys' bytes start with `prefix`.
            pub fn prefix_scan(&self, prefix: &[u8]) -> Result<KeyValueIterator<K, V, $row>, BoxError> {
                self.scan(Bound::Included(Bytes::copy_from_slice(prefix)), prefix_end(prefix), false)
            }

            /// How many rows there are, roughly: rows that were changed since the last commit may count twice.
            pub fn approximate_num_entries(&self) -> u64 {
                self.store.0.approximate_len()
            }

            fn scan(
                &self,
                from: Bound<Bytes>,
                to: Bound<Bytes>,
                reverse: bool,
            ) -> Result<KeyValueIterator<K, V, $row>, BoxError> {
                add(&self.store.0.counts.scans, 1);
                add(&self.store.0.counts.open_iterators, 1);
                Ok(KeyValueIterator {
                    store: self.store.0.clone(),
                    range: KeyRange { from, to, reverse },
                    page: VecDeque::new(),
                    done: false,
                    row: $to_row,
                })
            }
        }
    };
}

store_access!(KeyValueStore, V, |(value, _)| value, |timestamp| move |value| (value, timestamp));
store_access!(
    TimestampedKeyValueStore,
    ValueAndTimestamp<V>,
    |(value, timestamp)| ValueAndTimestamp { value, timestamp },
    |_| |row: ValueAndTimestamp<V>| (row.value, row.timestamp)
);
