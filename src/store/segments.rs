//! How time orders the rows of a window or session store, and when they are too old (`AbstractRocksDBSegmentedBytesStore`,
//! `AbstractSegments`, `WindowKeySchema`, `SessionKeySchema`).
//!
//! A row's key in the table and in the engine is the key of the changelog behind eight bytes, its *bucket*: the row's time
//! in steps of a width. Rows of one time lie together, so that what is too old is one range, and closed windows are found
//! without looking at the others.

use bytes::{BufMut, Bytes, BytesMut};

use crate::record::Timestamp;
use crate::serde::windowed::{TIME, time_at};

/// The bytes of a bucket, before the key of the changelog.
pub(crate) const BUCKET: usize = TIME;

/// The least width of a segment, in milliseconds (`Stores.persistentWindowStore`).
const LEAST_SEGMENT: i64 = 60_000;

/// What follows the inner key in the key of the changelog, and says its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum TimeKey {
    /// The window's start, and a sequence number of four bytes.
    Window,
    /// The session's end, and then its start.
    Session,
}

impl TimeKey {
    /// The bytes behind the inner key.
    pub(crate) const fn suffix(self) -> usize {
        match self {
            Self::Window => TIME + 4,
            Self::Session => 2 * TIME,
        }
    }
}

/// When Java lets go of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Expiry {
    /// A persistent store: rows are not read once they are older than the retention, and go by whole segments.
    Segments,
    /// The persistent store of windows that are emitted when they close: it reads one millisecond more
    /// (`AbstractDualSchemaRocksDBSegmentedBytesStore.getActualFrom`).
    TimeFirst,
    /// A store in memory: rows go one by one.
    Exact,
}

/// The time of rows in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Segments {
    pub(crate) times: TimeKey,
    /// In milliseconds.
    pub(crate) retention: i64,
    /// How wide buckets are, in milliseconds.
    pub(crate) width: i64,
    pub(crate) expiry: Expiry,
}

impl Segments {
    /// Rows that are looked for by key: a bucket is a segment of Java's.
    pub(crate) fn new(times: TimeKey, retention: i64, expiry: Expiry) -> Self {
        Self { times, retention, width: segment(retention), expiry }
    }

    /// Rows that are also looked for by time: a bucket is as wide as what is looked for at once.
    #[must_use]
    pub(crate) fn width(self, width: i64) -> Self {
        Self { width: width.clamp(1, segment(self.retention)), ..self }
    }

    /// The time of a row, from its key in the changelog or in the table; of one that is too short -1.
    pub(crate) fn time(&self, key: &[u8]) -> Timestamp {
        key.len().checked_sub(self.times.suffix()).map_or(-1, |at| time_at(key, at))
    }

    /// Whether a key of the changelog has a window at all.
    pub(crate) fn has_time(&self, changelog_key: &[u8]) -> bool {
        changelog_key.len() >= self.times.suffix()
    }

    /// The bucket of a time.
    pub(crate) fn bucket(&self, time: Timestamp) -> i64 {
        time.div_euclid(self.width)
    }

    /// Appends the bucket of a time.
    pub(crate) fn put_bucket(&self, time: Timestamp, out: &mut BytesMut) {
        // Buckets before 1970 come first.
        out.put_i64(self.bucket(time) ^ i64::MIN);
    }

    /// The first bytes of the rows of a bucket.
    pub(crate) fn bucket_bytes(bucket: i64) -> [u8; BUCKET] {
        (bucket ^ i64::MIN).to_be_bytes()
    }

    /// The bucket that a row key begins with.
    pub(crate) fn bucket_of(row_key: &[u8]) -> i64 {
        time_at(row_key, 0) ^ i64::MIN
    }

    /// The key of a row, given that of its changelog.
    pub(crate) fn row_key(&self, changelog_key: &[u8], out: &mut BytesMut) {
        self.put_bucket(self.time(changelog_key), out);
        out.extend_from_slice(changelog_key);
    }

    /// Appends the key of a window's row.
    pub(crate) fn put_window(&self, inner: &[u8], start: Timestamp, sequence: i32, out: &mut BytesMut) {
        self.put_bucket(start, out);
        out.extend_from_slice(inner);
        out.put_i64(start);
        out.put_i32(sequence);
    }

    /// Appends the key of a session's row.
    pub(crate) fn put_session(&self, inner: &[u8], start: Timestamp, end: Timestamp, out: &mut BytesMut) {
        self.put_bucket(end, out);
        out.extend_from_slice(inner);
        out.put_i64(end);
        out.put_i64(start);
    }

    /// Whether a row of that time is kept: a put is, and what was put before is still there.
    pub(crate) fn is_live(&self, time: Timestamp, observed: Timestamp) -> bool {
        match self.expiry {
            Expiry::Exact => time > observed.saturating_sub(self.retention),
            _ => {
                let segment = segment(self.retention);
                time / segment >= observed.saturating_sub(self.retention) / segment
            }
        }
    }

    /// The least time of a row that is kept.
    pub(crate) fn live_from(&self, observed: Timestamp) -> Timestamp {
        let oldest = observed.saturating_sub(self.retention);
        match self.expiry {
            Expiry::Exact => oldest + 1,
            _ => oldest / segment(self.retention) * segment(self.retention),
        }
    }

    /// Whether a row of that time is read.
    pub(crate) fn is_visible(&self, time: Timestamp, observed: Timestamp) -> bool {
        time >= self.visible_from(observed)
    }

    /// The least time that is read.
    pub(crate) fn visible_from(&self, observed: Timestamp) -> Timestamp {
        let oldest = observed.saturating_sub(self.retention);
        match self.expiry {
            Expiry::TimeFirst => oldest,
            _ => oldest + 1,
        }
    }

    /// The bucket before which every row is gone. It moves by whole segments.
    pub(crate) fn first_live_bucket(&self, observed: Timestamp) -> i64 {
        let segment = segment(self.retention);
        let floor = observed.saturating_sub(self.retention) / segment * segment;
        floor.div_euclid(self.width)
    }
}

/// The width of Java's segments.
fn segment(retention: i64) -> i64 {
    (retention / 2).max(LEAST_SEGMENT)
}

/// The changelog's part of a row key.
pub(crate) fn changelog_key(row_key: &Bytes) -> Bytes {
    row_key.slice(BUCKET.min(row_key.len())..)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(retention: i64, expiry: Expiry) -> Segments {
        Segments::new(TimeKey::Window, retention, expiry)
    }

    #[test]
    fn what_is_visible_and_what_is_live_differ_as_in_java() {
        let segments = of(150, Expiry::Segments);
        assert!(segments.is_visible(51, 200) && !segments.is_visible(50, 200));
        assert!(segments.is_live(0, 60_149), "of the same segment as the oldest time");
        assert!(!segments.is_live(59_999, 60_150));
        let exact = of(150, Expiry::Exact);
        assert!(exact.is_live(51, 200) && !exact.is_live(50, 200));
        assert!(of(150, Expiry::TimeFirst).is_visible(50, 200));
        assert!(segments.is_visible(0, -1) && segments.is_live(0, -1), "before the first row");
    }

    #[test]
    fn buckets_order_rows_by_time() {
        let segments = of(150, Expiry::Segments).width(40);
        let key = |start: i64| {
            let mut out = BytesMut::new();
            segments.put_window(b"k", start, 7, &mut out);
            out.freeze()
        };
        assert!(key(-1) < key(0) && key(39) < key(40));
        assert_eq!(Segments::bucket_of(&key(80)), 2);
        assert_eq!(segments.time(&key(80)), 80);
        let mut again = BytesMut::new();
        segments.row_key(&changelog_key(&key(80)), &mut again);
        assert_eq!(again, key(80));
        assert_eq!(segments.time(b"short"), -1);
        assert!(!segments.has_time(b"short"));
    }
}
