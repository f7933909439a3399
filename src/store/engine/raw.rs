//! How the rows of a store lie in the tree of an engine on disk.
//!
//! | Row | Value |
//! |---|---|
//! | `1`, then a key of up to [`LONGEST`] bytes | the value |
//! | `1`, then the first [`LONGEST`] bytes of longer keys, then `0` | all longer keys that begin so: a [bucket](merge_bucket) |
//! | `2`, then a name | what belongs to the store beside its rows, as the mark |
//!
//! fjall takes keys of 65 535 bytes, Kafka longer ones. A row is as long as that exactly if it is a bucket, and it lies
//! where its keys belong: all shorter keys up to its prefix are below it, all others above.

use std::ops::{Bound, RangeBounds};

use bytes::{BufMut, Bytes, BytesMut};

use super::{KeyRange, Rows, SortedRun};
use crate::error::{Error, ErrorClass, ErrorKind, Result};

const DATA: u8 = 1;
const META: u8 = 2;

/// The longest key that has a row of its own.
pub(super) const LONGEST: usize = 65_533;

/// The row of the mark: behind all data.
pub(super) const MARK: &[u8] = &[META, b'm'];
/// The row of the number of rows, where the engine does not know it.
#[cfg(feature = "sled")]
pub(super) const COUNT: &[u8] = &[META, b'c'];

/// An engine's tree, or a snapshot of one.
pub(super) trait RawRead: Send + Sync {
    fn get_row(&self, row: &[u8]) -> Result<Option<Bytes>>;

    /// The rows between two bounds, which are in order.
    fn scan<'a>(&'a self, from: Bound<&[u8]>, to: Bound<&[u8]>, reverse: bool) -> Rows<'a>;

    fn approximate_rows(&self) -> u64;
}

/// Calls with the row that a key is in.
fn with_row<T>(key: &[u8], call: impl FnOnce(&[u8]) -> T) -> T {
    let mut short = [DATA; 256];
    match short.get_mut(1..=key.len()) {
        // No allocation for keys of usual length.
        Some(place) => {
            place.copy_from_slice(key);
            call(&short[..=key.len()])
        }
        None => call(&row_of(key)),
    }
}

fn row_of(key: &[u8]) -> Vec<u8> {
    let mut row = vec![DATA];
    row.extend_from_slice(&key[..key.len().min(LONGEST)]);
    if key.len() > LONGEST {
        row.push(0);
    }
    row
}

pub(super) fn get(tree: &impl RawRead, key: &[u8]) -> Result<Option<Bytes>> {
    let found = with_row(key, |row| tree.get_row(row))?;
    let Some(bucket) = found.as_ref().filter(|_| key.len() > LONGEST) else { return Ok(found) };
    for entry in (Entries { bucket: bucket.clone(), at: 0 }) {
        let (rest, value) = entry?;
        if rest[..] == key[LONGEST..] {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// The rows of the keys inside a range, in its direction.
pub(super) fn range<'a>(tree: &'a impl RawRead, range: &KeyRange) -> Rows<'a> {
    if range.is_empty() {
        return Box::new(std::iter::empty());
    }
    // A bound inside a bucket includes its row; the keys that are not meant are left out below.
    let bound = |key: &Bound<Bytes>, open: Bound<Vec<u8>>| match key {
        Bound::Included(key) => Bound::Included(row_of(key)),
        Bound::Excluded(key) if key.len() > LONGEST => Bound::Included(row_of(key)),
        Bound::Excluded(key) => Bound::Excluded(row_of(key)),
        Bound::Unbounded => open,
    };
    let from = bound(&range.from, Bound::Included(vec![DATA]));
    let to = bound(&range.to, Bound::Excluded(vec![META]));
    let rows = tree.scan(from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice), range.reverse);
    let range = range.clone();
    Box::new(rows.flat_map(move |row| -> Rows<'a> {
        match row {
            Ok((row, bucket)) if row.len() == LONGEST + 2 => keys_of_bucket(&row, bucket, &range),
            row => Box::new(std::iter::once(row.map(|(row, value)| (row.slice(1..), value)))),
        }
    }))
}

/// The keys in a bucket, as far as they are inside a range.
fn keys_of_bucket<'a>(row: &Bytes, bucket: Bytes, range: &KeyRange) -> Rows<'a> {
    let prefix = &row[1..=LONGEST];
    let mut keys = Vec::new();
    for entry in (Entries { bucket, at: 0 }) {
        match entry {
            Ok((rest, value)) => {
                let key = Bytes::from([prefix, &rest].concat());
                if RangeBounds::<[u8]>::contains(&range.bounds(), &key[..]) {
                    keys.push(Ok((key, value)));
                }
            }
            Err(error) => keys.push(Err(error)),
        }
    }
    if range.reverse { Box::new(keys.into_iter().rev()) } else { Box::new(keys.into_iter()) }
}

/// Writes the rows of a run, strictly ascending as it is.
pub(super) fn write_rows(
    run: &SortedRun,
    tree: &impl RawRead,
    mut write: impl FnMut(&[u8], Option<&[u8]>) -> Result<()>,
) -> Result<()> {
    let mut row = vec![DATA];
    let mut rows = run.iter().peekable();
    while let Some((key, value)) = rows.next() {
        row.truncate(1);
        if key.len() <= LONGEST {
            row.extend_from_slice(key);
            write(&row, value)?;
            continue;
        }
        let prefix = &key[..LONGEST];
        let mut same = vec![(key, value)];
        while let Some(next) = rows.next_if(|(k, _)| k.len() > LONGEST && k.starts_with(prefix)) {
            same.push(next);
        }
        row.extend_from_slice(prefix);
        row.push(0);
        let bucket = merge_bucket(tree.get_row(&row)?, &same)?;
        write(&row, (!bucket.is_empty()).then_some(&bucket))?;
    }
    Ok(())
}

/// A bucket with changes in it: for each key in order, the length of what is left of it behind the prefix and of its value
/// (four bytes each, big-endian), and both.
fn merge_bucket(bucket: Option<Bytes>, changes: &[(&[u8], Option<&[u8]>)]) -> Result<BytesMut> {
    let old = Entries { bucket: bucket.unwrap_or_default(), at: 0 };
    let old = old.collect::<Result<Vec<_>>>()?;
    let mut rows: Vec<(&[u8], Option<&[u8]>)> =
        old.iter().map(|(rest, value)| (&rest[..], Some(&value[..]))).collect();
    for (key, value) in changes {
        let rest = &key[LONGEST..];
        match rows.binary_search_by(|(r, _)| (*r).cmp(rest)) {
            Ok(at) => rows[at].1 = *value,
            Err(at) => rows.insert(at, (rest, *value)),
        }
    }
    let mut out = BytesMut::new();
    for (rest, value) in rows {
        let Some(value) = value else { continue };
        out.put_u32(length(rest)?);
        out.put_u32(length(value)?);
        out.put(rest);
        out.put(value);
    }
    length(&out)?;
    Ok(out)
}

fn length(bytes: &[u8]) -> Result<u32> {
    u32::try_from(bytes.len()).map_err(|_| {
        let text = format!(
            "{} bytes in keys that begin with the same {LONGEST} are more than a store takes",
            bytes.len()
        );
        Error::new(ErrorKind::Store, text)
    })
}

/// The keys of a bucket, without the prefix, and their values.
struct Entries {
    bucket: Bytes,
    at: usize,
}

impl Iterator for Entries {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.bucket.len() {
            return None;
        }
        let mut take = |len: usize| {
            let end = self.at.checked_add(len).filter(|end| *end <= self.bucket.len())?;
            let part = self.bucket.slice(self.at..end);
            self.at = end;
            Some(part)
        };
        let mut number = || Some(u32::from_be_bytes(take(4)?[..].try_into().ok()?) as usize);
        let entry = number().zip(number()).and_then(|(rest, value)| take(rest).zip(take(value)));
        if entry.is_none() {
            self.at = self.bucket.len();
        }
        Some(entry.ok_or_else(|| {
            Error::new(
                ErrorKind::Store,
                "a row of long keys is cut off: the store is rebuilt from its changelog",
            )
            .with_class(ErrorClass::CorruptTask)
        }))
    }
}
