//! Sorted runs: the changes of a commit, and of several merged, in one piece of memory.

use std::ops::Bound;

use bytes::{Bytes, BytesMut};

use super::engine::KeyRange;
use crate::error::{BoxError, Error, ErrorKind, Result};

/// Keys in ascending order, each with its new value or none for a deletion. All bytes lie in one buffer and a row is a place
/// in it: a run is as small as what it says, and a million rows are two allocations.
///
/// Values that are read share the buffer; whoever keeps one for long copies it.
#[derive(Clone, Default)]
pub(crate) struct SortedRun {
    bytes: Bytes,
    rows: Vec<Place>,
}

/// The key lies at `at`, the value behind it.
#[derive(Clone, Copy)]
struct Place {
    at: usize,
    key: u32,
    /// [`DELETED`], or the length of the value.
    value: u32,
}

/// The length that says "deleted".
const DELETED: u32 = u32::MAX;

impl Place {
    fn key(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.at..self.at + self.key as usize]
    }

    fn value(self) -> Option<std::ops::Range<usize>> {
        let from = self.at + self.key as usize;
        (self.value != DELETED).then(|| from..from + self.value as usize)
    }

    fn len(self) -> usize {
        self.key as usize + self.value().map_or(0, |value| value.len())
    }
}

impl SortedRun {
    /// What a row takes beside its key and its value, in bytes.
    pub(crate) const ROW: usize = size_of::<Place>();

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len() + self.rows.len() * Self::ROW
    }

    /// The rows, in order.
    pub(crate) fn iter(
        &self,
    ) -> impl DoubleEndedIterator<Item = (&[u8], Option<&[u8]>)> + ExactSizeIterator + Clone {
        let value = |row: &Place| row.value().map(|value| &self.bytes[value]);
        self.rows.iter().map(move |row| (row.key(&self.bytes), value(row)))
    }

    /// The new value of a key, if the run has the key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        let at = self.rows.binary_search_by(|row| row.key(&self.bytes).cmp(key)).ok()?;
        Some(self.rows[at].value().map(|value| &self.bytes[value]))
    }

    /// The rows inside a range, in its direction.
    pub(crate) fn range<'a>(
        &'a self,
        range: &KeyRange,
    ) -> Box<dyn Iterator<Item = (Bytes, Option<Bytes>)> + 'a> {
        let behind = |key: &[u8]| self.rows.partition_point(|row| row.key(&self.bytes) <= key);
        let from_on = |key: &[u8]| self.rows.partition_point(|row| row.key(&self.bytes) < key);
        let (from, to) = range.bounds();
        let start = match from {
            Bound::Unbounded => 0,
            Bound::Included(from) => from_on(from),
            Bound::Excluded(from) => behind(from),
        };
        let end = match to {
            Bound::Unbounded => self.rows.len(),
            Bound::Included(to) => behind(to),
            Bound::Excluded(to) => from_on(to),
        };
        let rows = self.rows[start..end.max(start)].iter().map(|row| {
            let key = self.bytes.slice(row.at..row.at + row.key as usize);
            (key, row.value().map(|value| self.bytes.slice(value)))
        });
        if range.reverse { Box::new(rows.rev()) } else { Box::new(rows) }
    }

    /// One run of two.
    pub(crate) fn merged(older: &Self, newer: &Self) -> Self {
        let mut merged = RunBuilder::with_capacity(
            older.rows.len() + newer.rows.len(),
            older.bytes.len() + newer.bytes.len(),
        );
        let mut rest = older.rows.iter().peekable();
        for row in &newer.rows {
            let key = row.key(&newer.bytes);
            while let Some(old) = rest.next_if(|old| old.key(&older.bytes) < key) {
                merged.copy(*old, &older.bytes);
            }
            rest.next_if(|old| old.key(&older.bytes) == key);
            merged.copy(*row, &newer.bytes);
        }
        rest.for_each(|old| merged.copy(*old, &older.bytes));
        merged.in_order()
    }
}

/// Gathers the rows of a run.
pub(crate) struct RunBuilder {
    bytes: BytesMut,
    rows: Vec<Place>,
}

impl RunBuilder {
    pub(crate) fn with_capacity(rows: usize, bytes: usize) -> Self {
        Self { bytes: BytesMut::with_capacity(bytes), rows: Vec::with_capacity(rows) }
    }

    /// Adds a row. On an error there is none.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] for a key or a value of 4 GB and more.
    pub(crate) fn push(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        self.push_with(key, |bytes| {
            let value = value?;
            bytes.extend_from_slice(value);
            Some(Ok(()))
        })
        .map_err(|error| Error::new(ErrorKind::Store, "a row cannot be taken into a store").because(error))
    }

    /// Adds a row whose value `write` appends to the buffer; `None` says that the key is deleted. On an error there is no
    /// such row.
    pub(crate) fn push_with(
        &mut self,
        key: &[u8],
        write: impl FnOnce(&mut BytesMut) -> Option<Result<(), BoxError>>,
    ) -> Result<(), BoxError> {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let from = self.bytes.len();
        let length = |length: usize| match u32::try_from(length) {
            Ok(length) if length != DELETED => Ok(length),
            _ => Err(BoxError::from(format!(
                "{length} bytes in one row are more than a store takes: at most 4 GB"
            ))),
        };
        let place = match write(&mut self.bytes) {
            None => length(key.len()).map(|key| Place { at, key, value: DELETED }),
            Some(written) => written.and_then(|()| {
                Ok(Place { at, key: length(key.len())?, value: length(self.bytes.len() - from)? })
            }),
        };
        match place {
            Ok(place) => self.rows.push(place),
            Err(error) => {
                self.bytes.truncate(at);
                return Err(error);
            }
        }
        Ok(())
    }

    fn copy(&mut self, row: Place, bytes: &[u8]) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&bytes[row.at..row.at + row.len()]);
        self.rows.push(Place { at, ..row });
    }

    /// The run of rows that were added in the order of their keys.
    pub(crate) fn in_order(self) -> SortedRun {
        let Self { bytes, rows } = self;
        debug_assert!(rows.is_sorted_by(|a, b| a.key(&bytes) < b.key(&bytes)), "a run is strictly ascending");
        SortedRun { bytes: bytes.freeze(), rows }
    }

    /// The run of rows that were added in any order, each key once.
    pub(crate) fn sorted(mut self) -> SortedRun {
        let Self { bytes, rows } = &mut self;
        rows.sort_unstable_by(|a, b| a.key(bytes).cmp(b.key(bytes)));
        self.in_order()
    }
}

#[cfg(test)]
mod for_tests {
    use super::*;

    impl<K: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(K, Option<V>)> for SortedRun {
        fn from_iter<T: IntoIterator<Item = (K, Option<V>)>>(rows: T) -> Self {
            let mut run = RunBuilder::with_capacity(0, 0);
            for (key, value) in rows {
                run.push(key.as_ref(), value.as_ref().map(AsRef::as_ref)).unwrap();
            }
            run.in_order()
        }
    }

    impl PartialEq for SortedRun {
        fn eq(&self, other: &Self) -> bool {
            self.iter().eq(other.iter())
        }
    }

    impl std::fmt::Debug for SortedRun {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_map().entries(self.iter()).finish()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Rows = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

    fn rows() -> impl Strategy<Value = Rows> {
        let text = || proptest::collection::vec(0u8..4, 0..4);
        proptest::collection::btree_map(text(), proptest::option::of(text()), 0..20)
    }

    proptest! {
        #[test]
        fn a_run_reads_like_a_map(
            older in rows(), newer in rows(),
            from in proptest::collection::vec(0u8..4, 0..4), to in proptest::collection::vec(0u8..4, 0..4),
            ends in 0u8..9, reverse: bool,
        ) {
            let mut model = older.clone();
            model.extend(newer.clone());
            let mut shuffled = RunBuilder::with_capacity(0, 0);
            for (key, value) in newer.iter().rev() {
                shuffled.push(key, value.as_deref()).unwrap();
            }
            let run = SortedRun::merged(&older.into_iter().collect(), &shuffled.sorted());
            prop_assert_eq!(&run, &model.clone().into_iter().collect::<SortedRun>());
            prop_assert_eq!(run.len(), model.len());
            let rows: usize = model.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, Vec::len)).sum();
            prop_assert_eq!(run.bytes(), rows + model.len() * 16, "nothing of what was overwritten is kept");
            for key in model.keys().chain([&from, &to]) {
                prop_assert_eq!(run.get(key), model.get(key).map(Option::as_deref));
            }
            let bound = |key: &[u8], kind| match kind {
                0 => Bound::Unbounded,
                1 => Bound::Included(Bytes::copy_from_slice(key)),
                _ => Bound::Excluded(Bytes::copy_from_slice(key)),
            };
            let range = KeyRange { from: bound(&from, ends % 3), to: bound(&to, ends / 3), reverse };
            let inside = |key: &[u8]| std::ops::RangeBounds::<[u8]>::contains(&range.bounds(), key);
            let mut want: Vec<_> = model.into_iter().filter(|(key, _)| inside(key)).collect();
            if reverse { want.reverse(); }
            let got: Vec<_> = run.range(&range).map(|(k, v)| (k.to_vec(), v.map(|v| v.to_vec()))).collect();
            prop_assert_eq!(got, want);
        }
    }

    #[test]
    fn a_row_that_cannot_be_written_leaves_nothing_behind() {
        let mut run = RunBuilder::with_capacity(0, 0);
        run.push(b"a", Some(b"1")).unwrap();
        let failed = run.push_with(b"b", |bytes| {
            bytes.extend_from_slice(b"half");
            Some(Err("it is no number".into()))
        });
        assert_eq!(failed.unwrap_err().to_string(), "it is no number");
        run.push(b"c", None).unwrap();
        assert_eq!(run.in_order(), [("a", Some("1")), ("c", None)].into_iter().collect());
    }
}
