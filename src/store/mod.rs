//! State: a cache of the changelog that never lies.
//!
//! From top to bottom: an optional record cache (Kafka Streams' semantics: it withholds both the changelog record and the
//! record downstream until a commit), the changelog writer, the layers (what is open, runs that were frozen at a commit),
//! the engine. What lies below the changelog writer is invisible to semantics.

pub(crate) mod database;
pub(crate) mod engine;
pub(crate) mod faults;
#[cfg(feature = "testing")]
pub(crate) mod fuzz;
pub(crate) mod global;
mod java_set;
pub(crate) mod keeper;
mod key_value;
pub(crate) mod layers;
pub(crate) mod memory;
mod options;
mod row_key;
pub(crate) mod run;
mod segments;
mod session;
mod table;
#[cfg(test)]
mod tests;
mod tree;
pub(crate) mod versioned;
pub(crate) mod visible;
mod window;

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::ops::Add;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::config::StoreKind;
use crate::error::Result;
use crate::record::Timestamp;
use crate::task::{TaskCx, TopicIx};

use engine::Engine;
pub use global::GlobalKeyValueStore;
pub(crate) use global::GlobalStores;
use keeper::{HandOver, Keeper};
pub(crate) use key_value::{Flushed, KvStore};
pub use key_value::{KeyValueIterator, KeyValueStore, TimestampedKeyValueStore, ValueAndTimestamp};
pub(crate) use key_value::{PAGE, Page, decode_row, prefix_end};
pub(crate) use layers::View;
pub(crate) use options::KvOptions;
pub use options::{KeyValue, StoreBuilder, TimestampedKeyValue};
pub(crate) use segments::{Expiry, Segments, TimeKey, changelog_key};
pub(crate) use session::session_of;
pub use versioned::{PutOutcome, VersionedKeyValue, VersionedKeyValueStore, VersionedRecord};
use visible::Visible;
pub(crate) use window::{Times, buckets, of_key as rows_of_key};

/// A row of a store, as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreRow {
    /// The key as the changelog has it; a window store's has the window's start behind the key, and four bytes more, a session
    /// store's the session's end and start.
    pub key: Bytes,
    /// The value without its timestamp.
    pub value: Bytes,
    /// The timestamp, in milliseconds since the Unix epoch, for stores that keep one.
    pub timestamp: Option<Timestamp>,
    /// For versioned stores, whose keys have a row for each version.
    pub validity: Option<Validity>,
}

/// When a version is good, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From when on.
    pub from: Timestamp,
    /// Until when, exclusive; `None` if nothing has followed.
    pub to: Option<Timestamp>,
}

/// What the rows of an engine are like, beside a key of the changelog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowFormat {
    /// The value of the changelog.
    Plain,
    /// Eight bytes of timestamp, big-endian, and then the value.
    Timestamped,
    /// All versions of a key, of a history of so many milliseconds: a record of the changelog is one of them.
    Versioned(i64),
}

/// What a task asks of any of its stores.
pub(crate) trait AnyStore {
    fn name(&self) -> &Arc<str>;

    /// The store as its own type.
    fn into_any(self: Rc<Self>) -> Rc<dyn Any>;

    /// Whether its record cache is on.
    fn is_cached(&self) -> bool;

    /// The topic that it logs to or is restored from, as registered with the collector.
    #[allow(dead_code, reason = "until copies follow changelogs by topic")]
    fn changelog(&self) -> Option<TopicIx>;

    /// What its rows in the engine are like.
    fn row_format(&self) -> RowFormat;

    /// How its rows have a time, and a key in the engine that is not that of the changelog; `None` if they have none.
    fn segments(&self) -> Option<Segments>;

    /// Logs what the record cache holds back, where nothing downstream waits for it.
    fn flush(&self, cx: &mut TaskCx) -> Result<()>;

    /// Puts the store over an engine that has its changelog up to an offset, before its first record.
    fn attach(&self, engine: Box<dyn Engine>, next_offset: i64, keeper: Option<Keeper>) -> Result<()>;

    /// The changes since the last commit are now part of the committed state. `next_offset` is behind the last record that
    /// the store has in its changelog, if that is known.
    fn commit(&self, next_offset: Option<i64>) -> Result<()>;

    /// Lets go of rows that it can read again, about so many bytes of them.
    fn let_go(&self, bytes: usize);

    /// The changes since the last commit never were: they were part of a transaction that is aborted, or will be. What its
    /// record cache holds back goes as well. Readers of what is uncommitted see it at once; the others never saw them.
    fn roll_back(&self);

    /// What it takes.
    fn memory(&self) -> StoreMemory;

    /// Whether its engine should get what is committed.
    fn is_hand_over_due(&self, when: HandOverWhen) -> bool;

    /// Begins to put what is committed into the engine. `mark` makes the mark for an offset of the changelog, which is what
    /// the engine has afterwards; `None` for a store without one.
    fn hand_over(&self, mark: Option<&dyn Fn(i64) -> Bytes>) -> Result<()>;

    /// Waits for the hand-over under way, if there is one.
    fn await_hand_over(&self) -> Result<()>;

    /// Begins to put everything into the engine that has changed, also since the last commit: for a store on disk whose rows
    /// nothing else has. `None` if the engine has all of it, or is in memory.
    fn save(&self) -> Result<Option<HandOver>>;

    /// What other threads see of it.
    fn visible(&self) -> &Arc<Visible>;

    /// Shows other threads what has changed, if any of them has asked for the store.
    fn publish(&self) -> Result<()>;
    /// What it has done.
    fn counts(&self) -> &StoreCounts;

    /// How many rows there are, roughly.
    fn approximate_len(&self) -> u64;

    /// All rows in key order.
    #[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "for the test driver"))]
    fn rows(&self) -> Result<Vec<StoreRow>>;
}

/// What a store takes of memory, in bytes, about.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoreMemory {
    /// Rows as typed values, those with open changes among them.
    pub(crate) rows: usize,
    /// Of these, the ones with changes that are not committed.
    pub(crate) open: usize,
    /// What is committed and not in the engine.
    pub(crate) runs: usize,
    /// Of this, what is on its way there.
    pub(crate) leaving: usize,
}

/// When a store is handed over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HandOverWhen {
    /// Whatever there is: the store is closed then, or its last mark is old.
    pub(crate) last: bool,
    /// From so many bytes on.
    pub(crate) bytes: usize,
    /// After many records of the changelog, however few rows they are of.
    pub(crate) far: bool,
}

impl Add for StoreMemory {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            open: self.open + other.open,
            runs: self.runs + other.runs,
            leaving: self.leaving + other.leaving,
        }
    }
}

#[cfg(test)]
impl dyn AnyStore + '_ {
    /// Attaches an engine that holds these records of the changelog.
    pub(crate) fn restore(&self, log: impl IntoIterator<Item = (Bytes, Option<Bytes>, Timestamp)>) {
        let mut engine = engine::MemoryEngine::default();
        let mut next_offset = 0;
        for (key, value, timestamp) in log {
            let stamp = match self.row_format() {
                RowFormat::Plain | RowFormat::Versioned(_) => Vec::new(),
                RowFormat::Timestamped => timestamp.to_be_bytes().to_vec(),
            };
            let row = match self.row_format() {
                RowFormat::Versioned(history) => {
                    let row = engine::EngineRead::get(&engine, &key).unwrap();
                    versioned::merged(row.as_ref(), [(timestamp, value)], history)
                        .unwrap()
                        .map(|row| row.to_vec())
                }
                _ => value.map(|value| [&stamp, &value[..]].concat()),
            };
            let mut row_key = bytes::BytesMut::new();
            let key = match self.segments() {
                Some(segments) => {
                    segments.row_key(&key, &mut row_key);
                    row_key.freeze()
                }
                None => key,
            };
            engine.apply(&[(key, row)].into_iter().collect(), None).unwrap();
            next_offset += 1;
        }
        self.attach(Box::new(engine), next_offset, None).unwrap();
    }
}

/// What a store has done since it was built: plain cells.
#[derive(Debug, Default)]
pub(crate) struct StoreCounts {
    pub(crate) gets: Cell<u64>,
    pub(crate) puts: Cell<u64>,
    pub(crate) deletes: Cell<u64>,
    /// Scans begun: of ranges, of prefixes, of everything.
    pub(crate) scans: Cell<u64>,
    /// Records of the changelog applied.
    pub(crate) restored: Cell<u64>,
    /// Reads, also those of an update, that found their row in the table.
    pub(crate) hits: Cell<u64>,
    /// Reads that had to look below it.
    pub(crate) misses: Cell<u64>,
    /// Iterators that have not been dropped.
    pub(crate) open_iterators: Cell<u64>,
}

fn add(cell: &Cell<u64>, count: u64) {
    cell.set(cell.get() + count);
}

/// The plan of a store: what the stores of a topology's tasks are built from.
pub(crate) trait StoreBlueprint: fmt::Debug + Send + Sync {
    fn name(&self) -> &Arc<str>;

    /// The settings of the changelog topic beyond the defaults; `None` if the store is not logged.
    fn changelog(&self) -> Option<&[(String, String)]>;

    /// The topic that it logs to, if it does.
    fn changelog_topic(&self, application_id: &str) -> String {
        format!("{application_id}-{}-changelog", self.name())
    }

    /// Where the rows are kept; `None` for what the configuration says.
    fn store_kind(&self) -> Option<StoreKind>;

    /// How long a row is kept at least, in milliseconds, by a store whose rows have a time.
    fn retention(&self) -> Option<i64> {
        None
    }

    /// What the bytes of its rows mean: rows of another fingerprint are of no use to it, and a layout that changes gets
    /// another one. Their types are not part of it: whether bytes of another type can be read is the serde's affair, as with
    /// the changelog.
    fn fingerprint(&self) -> u64;

    /// Distinguishes two definitions under one name that are the same from two that differ.
    fn identity(&self) -> usize;

    /// Whether its name was given by the user.
    fn is_named(&self) -> bool;

    /// What it is, for whoever asks for something else.
    fn kind(&self) -> String;

    /// Its [`KvOptions`], for whoever knows the types.
    fn options(&self) -> Arc<dyn Any + Send + Sync>;

    /// Makes an empty store. `changelog_topic` is the topic that its serdes are told, `changelog` where it logs to.
    fn build(&self, changelog_topic: &str, changelog: Option<TopicIx>, cache: bool) -> Rc<dyn AnyStore>;
}
