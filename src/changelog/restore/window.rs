//! What a restore has gathered and not applied yet: the newest value of each key.

use std::hash::BuildHasher;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

use crate::record::Timestamp;
use crate::store::run::{RunBuilder, SortedRun};

/// Keys are kept in pieces of this size, so that none is moved when there are more.
const PIECE: usize = 16 << 10;

/// What a row takes beside its key and value, in bytes: here, in the index, while it is sorted, and in the run.
const ROW_BYTES: usize = size_of::<Row>() + 10 + size_of::<(u64, u32)>() + SortedRun::ROW;

/// The length that says "deleted".
const DELETED: u32 = u32::MAX;

/// A key and its newest value, as places.
struct Row {
    hash: u64,
    piece: u32,
    key_at: u32,
    key_len: u32,
    value_at: u32,
    value_len: u32,
}

/// The newest value of each key, in the order in which keys came first.
#[derive(Default)]
pub(super) struct Window {
    pieces: Vec<Vec<u8>>,
    values: Vec<u8>,
    rows: Vec<Row>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    key_bytes: usize,
}

/// A place in a window. What a pool gathers at once, a batch more included, is far from the limit.
fn place(at: usize) -> u32 {
    u32::try_from(at).expect("a window holds less than 4 GiB")
}

fn key_of<'a>(pieces: &'a [Vec<u8>], row: &Row) -> &'a [u8] {
    &pieces[row.piece as usize][row.key_at as usize..][..row.key_len as usize]
}

impl Window {
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The memory that the rows take and will take until they are applied: the run has keys and values once more.
    pub(super) fn bytes(&self) -> usize {
        2 * (self.key_bytes + self.values.len()) + self.rows.len() * ROW_BYTES
    }

    /// Sets the value of a key, after a timestamp where rows have one, or deletes it.
    pub(super) fn put(&mut self, key: &[u8], timestamp: Option<Timestamp>, value: Option<&[u8]>) {
        let hash = self.hasher.hash_one(key);
        let (rows, pieces) = (&self.rows, &self.pieces);
        let is_it = |at: &u32| {
            let row = &rows[*at as usize];
            row.hash == hash && key_of(pieces, row) == key
        };
        let at = match self.index.entry(hash, is_it, |at| rows[*at as usize].hash) {
            Entry::Occupied(found) => *found.get() as usize,
            Entry::Vacant(vacant) => {
                let at = rows.len();
                vacant.insert(place(at));
                self.add(key, hash);
                at
            }
        };
        let Some(value) = value else {
            self.rows[at].value_len = DELETED;
            return;
        };
        let stamp = timestamp.map(i64::to_be_bytes);
        let stamp = stamp.as_ref().map_or(&[][..], |stamp| &stamp[..]);
        let row = &mut self.rows[at];
        let length = stamp.len() + value.len();
        // Most values of a store are as long as those before them, and take their place.
        if row.value_len == DELETED || (row.value_len as usize) < length {
            row.value_at = place(self.values.len());
            self.values.extend_from_slice(stamp);
            self.values.extend_from_slice(value);
        } else {
            let old = &mut self.values[row.value_at as usize..][..length];
            old[..stamp.len()].copy_from_slice(stamp);
            old[stamp.len()..].copy_from_slice(value);
        }
        row.value_len = place(length);
    }

    fn add(&mut self, key: &[u8], hash: u64) {
        if self.pieces.last().is_none_or(|piece| piece.len() + key.len() > piece.capacity()) {
            self.pieces.push(Vec::with_capacity(PIECE.max(key.len())));
        }
        let last = self.pieces.len() - 1;
        let piece = &mut self.pieces[last];
        let key_at = place(piece.len());
        piece.extend_from_slice(key);
        self.key_bytes += key.len();
        let (piece, key_len) = (place(last), place(key.len()));
        self.rows.push(Row { hash, piece, key_at, key_len, value_at: 0, value_len: DELETED });
    }

    /// What was gathered, as a run; then the window is empty. Deletions may be left out for an engine that has no rows.
    pub(super) fn take_run(&mut self, with_deletions: bool) -> SortedRun {
        let Self { pieces, values, rows, .. } = std::mem::take(self);
        let order = in_order(&pieces, &rows, with_deletions);
        let bytes = pieces.iter().map(Vec::len).sum::<usize>() + values.len();
        let mut run = RunBuilder::with_capacity(order.len(), bytes);
        for at in order {
            let row = &rows[at as usize];
            let value_at = row.value_at as usize;
            let value =
                (row.value_len != DELETED).then(|| &values[value_at..value_at + row.value_len as usize]);
            run.push(key_of(&pieces, row), value).expect("lengths that fit into a window fit into a run");
        }
        run.in_order()
    }
}

/// The rows in the order of their keys. Most comparisons see only the eight bytes that follow what all keys have in
/// common: the keys themselves lie all over the memory.
fn in_order(pieces: &[Vec<u8>], rows: &[Row], with_deletions: bool) -> Vec<u32> {
    let Some(first) = rows.first().map(|row| key_of(pieces, row)) else { return Vec::new() };
    let mut common = first.len();
    for row in rows {
        let alike = first[..common].iter().zip(key_of(pieces, row)).take_while(|(a, b)| a == b);
        common = alike.count();
    }
    let head = |key: &[u8]| {
        let mut head = [0; 8];
        let rest = &key[common..];
        let length = rest.len().min(8);
        head[..length].copy_from_slice(&rest[..length]);
        u64::from_be_bytes(head)
    };
    let kept = rows.iter().enumerate().filter(|(_, row)| with_deletions || row.value_len != DELETED);
    let mut order: Vec<(u64, u32)> = kept.map(|(at, row)| (head(key_of(pieces, row)), place(at))).collect();
    let key = |at: u32| key_of(pieces, &rows[at as usize]);
    order.sort_unstable_by(|(a, a_at), (b, b_at)| a.cmp(b).then_with(|| key(*a_at).cmp(key(*b_at))));
    order.into_iter().map(|(_, at)| at).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_window_reads_like_a_map(
            puts in proptest::collection::vec((
                "(common-)?[ab]{0,12}",
                proptest::option::of(proptest::collection::vec(any::<u8>(), 0..5)),
                proptest::option::of(any::<i64>()),
            ), 0..80),
            with_deletions: bool,
        ) {
            let mut window = Window::default();
            let mut model = BTreeMap::new();
            for (key, value, timestamp) in &puts {
                window.put(key.as_bytes(), *timestamp, value.as_deref());
                let row = value.as_ref().map(|value| {
                    let stamp = timestamp.map(i64::to_be_bytes);
                    [stamp.as_ref().map_or(&[][..], |s| &s[..]), value].concat()
                });
                model.insert(key.clone().into_bytes(), row);
            }
            prop_assert_eq!(window.rows.len(), model.len());
            model.retain(|_, row| with_deletions || row.is_some());
            let run = window.take_run(with_deletions);
            let run: Vec<_> = run.iter().map(|(k, v)| (k.to_vec(), v.map(|v| v.to_vec()))).collect();
            prop_assert_eq!(run, model.into_iter().collect::<Vec<_>>());
            prop_assert!(window.is_empty() && window.bytes() == 0);
        }
    }

    #[test]
    fn keys_longer_than_a_piece_and_empty_ones_are_keys() {
        let mut window = Window::default();
        let long = vec![7; 3 * PIECE];
        window.put(&long, None, Some(b"long"));
        window.put(b"", Some(1), None);
        window.put(b"k", None, Some(b""));
        let run = window.take_run(true);
        let want = [(&b""[..], None), (&long[..], Some("long")), (&b"k"[..], Some(""))];
        assert_eq!(run, want.into_iter().collect());
    }

    #[test]
    fn a_value_of_the_same_length_takes_no_more_memory() {
        let mut window = Window::default();
        window.put(b"k", Some(1), Some(b"12345678"));
        let bytes = window.bytes();
        for n in 0..1_000 {
            window.put(b"k", Some(n), Some(b"87654321"));
        }
        assert_eq!(window.bytes(), bytes);
    }
}
