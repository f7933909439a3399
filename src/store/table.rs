//! The typed table of a store: rows by the hash of their keys. It holds what is open, and what was read or written lately,
//! within a share of memory.

use std::hash::BuildHasher;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::row_key::RowKey;
use crate::record::{Headers, Timestamp};

pub(super) struct Row<V> {
    pub(super) key: RowKey,
    pub(super) current: Option<(V, Timestamp)>,
    /// Changed since the last commit.
    pub(super) open: bool,
    /// Changed since other threads were last shown the store; set while they are shown it at all.
    pub(super) fresh: bool,
    /// Looked for since the last time that rows were let go.
    used: bool,
    pub(super) withheld: Option<Box<Withheld<V>>>,
}

/// A change that the record cache holds back: what stood there before, and the context of the last update.
pub(super) struct Withheld<V> {
    pub(super) before: Option<(V, Timestamp)>,
    pub(super) sequence: u64,
    pub(super) timestamp: Timestamp,
    pub(super) headers: Headers,
    pub(super) source: Option<usize>,
    pub(super) offset: i64,
    /// What it counts for in the cache.
    pub(super) bytes: usize,
}

impl<V> Row<V> {
    /// Whether it is nothing but a copy of what the layers have.
    fn is_clean(&self) -> bool {
        !self.open && !self.fresh && self.withheld.is_none()
    }
}

/// Rows by the hash of their keys, so that a look-up hashes once and holds on to the row it found.
pub(super) struct Table<V> {
    rows: HashTable<Row<V>>,
    hasher: DefaultHashBuilder,
}

impl<V> Table<V> {
    /// What a row takes beside the bytes of its key and of its value.
    pub(super) const ROW: usize = size_of::<Row<V>>() * 8 / 7 + 32;

    pub(super) fn new() -> Self {
        Self { rows: HashTable::new(), hasher: DefaultHashBuilder::default() }
    }

    fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Row<V>> {
        self.rows.find(self.hash(key), |row| row.key[..] == *key)
    }

    pub(super) fn get_mut(&mut self, key: &[u8]) -> Option<&mut Row<V>> {
        let hash = self.hash(key);
        self.rows.find_mut(hash, |row| row.key[..] == *key)
    }

    pub(super) fn clear(&mut self) {
        self.rows.clear();
    }

    /// Lets go of every row whose key does not pass, whatever state it is in.
    pub(super) fn retain(&mut self, keep: impl Fn(&[u8]) -> bool) {
        self.rows.retain(|row| keep(&row.key));
    }

    /// Lets go of a row, whatever state it is in.
    pub(super) fn remove(&mut self, key: &[u8]) {
        if let Ok(row) = self.rows.find_entry(self.hash(key), |row| row.key[..] == *key) {
            row.remove();
        }
    }

    /// The row of a key, made by `load` if it is not there.
    pub(super) fn get_or_load<E>(
        &mut self,
        key: &[u8],
        load: impl FnOnce() -> Result<Option<(V, Timestamp)>, E>,
    ) -> Result<&mut Row<V>, E> {
        let hash = self.hash(key);
        let hasher = &self.hasher;
        match self.rows.entry(hash, |row| row.key[..] == *key, |row| hasher.hash_one(&row.key[..])) {
            Entry::Occupied(row) => {
                let row = row.into_mut();
                row.used = true;
                Ok(row)
            }
            Entry::Vacant(place) => {
                let current = load()?;
                // The key may be part of a network frame: keep a copy, not the frame.
                let key = RowKey::copy_from_slice(key);
                let row = Row { key, current, open: false, fresh: false, used: false, withheld: None };
                Ok(place.insert(row).into_mut())
            }
        }
    }

    /// Lets go of clean rows until there are at most so many rows, first of those that were not looked for since the last
    /// time (a second chance for the others). What is not clean stays, however much there is of it.
    pub(super) fn shrink_to(&mut self, most: usize) {
        let mut over = self.rows.len().saturating_sub(most);
        if over == 0 {
            return;
        }
        self.rows.retain(|row| {
            let used = std::mem::take(&mut row.used);
            let goes = over > 0 && !used && row.is_clean();
            over -= usize::from(goes);
            !goes
        });
        self.rows.retain(|row| {
            let goes = over > 0 && row.is_clean();
            over -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: u8) -> Table<u8> {
        let mut table = Table::new();
        for n in 0..rows {
            table.get_or_load(&[n], || Ok::<_, ()>(Some((n, 0)))).unwrap();
        }
        table
    }

    fn has(table: &Table<u8>, key: u8) -> bool {
        table.get(&[key]).is_some()
    }

    #[test]
    fn rows_that_were_looked_for_outlive_the_others_once() {
        let mut table = table(100);
        for n in 0..40 {
            table.get_or_load(&[n], || Err(())).unwrap();
        }
        table.shrink_to(50);
        assert_eq!(table.len(), 50);
        assert!((0..40).all(|n| has(&table, n)), "the second chance");
        table.shrink_to(10);
        assert_eq!(table.len(), 10, "nobody has looked for them again");
    }

    #[test]
    fn what_is_not_clean_stays() {
        let mut table = table(100);
        for n in 0..30 {
            let row = table.get_or_load(&[n], || Err(())).unwrap();
            match n % 3 {
                0 => row.open = true,
                1 => row.fresh = true,
                _ => {
                    let (headers, source) = (Headers::new(), None);
                    let held = Withheld {
                        before: None,
                        sequence: 0,
                        timestamp: 0,
                        headers,
                        source,
                        offset: 0,
                        bytes: 0,
                    };
                    row.withheld = Some(Box::new(held));
                }
            }
        }
        table.shrink_to(0);
        assert_eq!(table.len(), 30);
        assert!((0..30).all(|n| has(&table, n)));
    }
}
