//! One restore: from deliveries to runs, and from these into the store's engine.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::window::Window;
use crate::client::fetch::OpenedBatch;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Timestamp, TopicPartition};
use crate::store::engine::Engine;
use crate::store::run::{RunBuilder, SortedRun};
use crate::store::{RowFormat, Segments, versioned};

/// The mark for an engine that holds the changelog up to an offset, given the leader epoch of the last batch before it (-1
/// if none was seen); `None` where none is kept.
pub(crate) type MarkAt = Box<dyn Fn(i64, i32) -> Option<bytes::Bytes> + Send>;

/// What a store is restored from, and into what.
pub(crate) struct RestoreJob {
    /// Names the restore, and the fetches for it: no other of the application has or had it.
    pub(crate) token: u64,
    /// The epoch of the lease.
    pub(crate) epoch: u64,
    /// The changelog.
    pub(crate) at: TopicPartition,
    /// The first offset that the engine does not hold.
    pub(crate) from: i64,
    /// Restoring ends when the position is there. It is more than `from`.
    pub(crate) to: i64,
    /// What the store's rows are like.
    pub(crate) format: RowFormat,
    /// How they have a time, if they have.
    pub(crate) segments: Option<Segments>,
    /// The pool's alone until the job is done.
    pub(crate) engine: Box<dyn Engine>,
    /// Makes the mark of every run that is applied, so that a restore that is cut off goes on behind it.
    pub(crate) mark: MarkAt,
}

/// A job and how far it is.
pub(super) struct Running {
    pub(super) at: TopicPartition,
    pub(super) to: i64,
    pub(super) engine: Box<dyn Engine>,
    /// Everything before it has been gathered.
    pub(super) position: i64,
    format: RowFormat,
    segments: Option<Segments>,
    /// The greatest time of a row so far.
    observed: i64,
    row_key: bytes::BytesMut,
    mark: MarkAt,
    window: Window,
    /// The key of a version.
    version: Vec<u8>,
    /// The leader epoch of the last batch that was gathered.
    pub(super) leader_epoch: i32,
    /// Whether the engine had no rows when the job began, and no run was applied since.
    untouched: bool,
    /// Where the engine's mark says it is.
    marked: i64,
}

/// What a batch had.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Gathered {
    pub(super) records: u64,
    /// Records without a key: no rows.
    pub(super) keyless: u64,
    /// How often rows were applied in the middle of it.
    pub(super) spilt: u64,
}

impl Running {
    pub(super) fn new(job: RestoreJob) -> Result<Self> {
        let RestoreJob { at, from, to, format, segments, engine, mark, .. } = job;
        let untouched = engine.is_empty()?;
        let window = Window::default();
        Ok(Self {
            at,
            to,
            engine,
            position: from,
            format,
            segments,
            observed: -1,
            row_key: bytes::BytesMut::new(),
            mark,
            window,
            version: Vec::new(),
            leader_epoch: -1,
            untouched,
            marked: from,
        })
    }

    /// The memory that waits to be applied.
    pub(super) fn bytes(&self) -> usize {
        self.window.bytes()
    }

    /// Takes the rows of a batch from an offset on. What is more than `room` bytes goes into the engine at once.
    pub(super) fn gather(&mut self, mut batch: OpenedBatch, from: i64, room: usize) -> Result<Gathered> {
        let mut gathered = Gathered::default();
        while let Some(row) = batch.records.next_row() {
            let row = row?;
            if row.offset < from {
                continue;
            }
            // Kafka compacts by key; a record without one cannot be a row.
            let Some(key) = row.key else {
                gathered.keyless += 1;
                continue;
            };
            gathered.records += 1;
            let key = match &self.segments {
                None => key,
                Some(segments) if !segments.has_time(key) => {
                    let text = format!(
                        "the changelog of a store of windows holds a key of {} bytes, too short for one: another application \
                         has written it, or the store was of another kind; reset the application, or rename the store",
                        key.len()
                    );
                    let error = Error::new(ErrorKind::Store, text).at_topic(&*self.at.topic);
                    return Err(error.at_partition(self.at.partition).at_offset(row.offset));
                }
                Some(segments) => {
                    let time = segments.time(key);
                    self.observed = self.observed.max(time);
                    // A changelog keeps rows for longer than the store does (`getOrCreateSegmentIfLive`).
                    if !segments.is_live(time, self.observed) {
                        continue;
                    }
                    self.row_key.clear();
                    segments.row_key(key, &mut self.row_key);
                    &self.row_key[..]
                }
            };
            match self.format {
                RowFormat::Timestamped => self.window.put(key, Some(row.timestamp), row.value),
                RowFormat::Plain => self.window.put(key, None, row.value),
                RowFormat::Versioned(_) => {
                    // Every version counts: they are rows of their own until they are applied.
                    self.version.clear();
                    self.version.extend_from_slice(key);
                    self.version.extend_from_slice(&row.timestamp.to_be_bytes());
                    self.window.put(&self.version, None, row.value);
                }
            }
            if self.window.bytes() > room {
                self.spill()?;
                gathered.spilt += 1;
            }
        }
        self.leader_epoch = self.leader_epoch.max(batch.leader_epoch);
        self.position = self.position.max(batch.next_offset);
        Ok(gathered)
    }

    /// Hands what was gathered to the engine.
    pub(super) fn apply(&mut self) -> Result<()> {
        if self.position == self.marked && self.window.is_empty() {
            return Ok(());
        }
        // A deletion must reach what an earlier window, or an earlier life, has written; there is nothing of either yet in
        // an engine that is empty.
        let run = self.take_run()?;
        let mark = (self.mark)(self.position, self.leader_epoch);
        let located = |error: crate::error::Error| {
            error.at_topic(&*self.at.topic).at_partition(self.at.partition).at_offset(self.position)
        };
        self.untouched &= run.is_empty();
        self.engine.apply(&run, mark.as_deref()).map_err(located)?;
        self.marked = self.position;
        Ok(())
    }

    /// What was gathered, as rows of the store.
    fn take_run(&mut self) -> Result<SortedRun> {
        let RowFormat::Versioned(history) = self.format else {
            return Ok(self.window.take_run(!self.untouched));
        };
        let versions = self.window.take_run(true);
        let mut by_key: BTreeMap<&[u8], Vec<(Timestamp, Option<Bytes>)>> = BTreeMap::new();
        for (version, value) in versions.iter() {
            if let Some((key, timestamp)) = version.split_last_chunk::<8>() {
                let value = value.map(Bytes::copy_from_slice);
                by_key.entry(key).or_default().push((i64::from_be_bytes(*timestamp), value));
            }
        }
        let mut run = RunBuilder::with_capacity(by_key.len(), versions.bytes());
        for (key, log) in by_key {
            let known = if self.untouched { None } else { self.engine.get(key)? };
            let row = versioned::merged(known.as_ref(), log, history).map_err(|error| {
                let text = "a row of the versioned store cannot be read";
                Error::new(ErrorKind::Store, text).at_topic(&*self.at.topic).because(error)
            })?;
            run.push(key, row.as_deref())?;
        }
        Ok(run.in_order())
    }

    /// Hands rows of a batch that is not at its end to the engine. Its mark stays behind them: after a kill they are read
    /// again.
    fn spill(&mut self) -> Result<()> {
        let run = self.take_run()?;
        self.untouched &= run.is_empty();
        let at = &self.at;
        self.engine.apply(&run, None).map_err(|error| error.at_topic(&*at.topic).at_partition(at.partition))
    }

    pub(super) fn is_complete(&self) -> bool {
        self.position >= self.to
    }
}
