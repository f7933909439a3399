//! Reading a topic without a group.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::batch::{AbortedFilter, Batches, Records};
use super::fetch::{FetchEvent, FetchOptions, Fetched, Fetcher};
use super::{Admin, Cluster, Isolation, OffsetSpec};
use crate::{Error, ErrorKind, Headers, Result, Timestamp, TopicPartition};

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadFrom {
    /// At the first record that is still there.
    #[default]
    Earliest,
    /// Behind the last record there is now.
    Latest,
    /// At this offset, in every partition.
    Offset(i64),
    /// At the first record with this timestamp or a later one; behind the last if there is none.
    Timestamp(Timestamp),
}

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOptions {
    topic: String,
    partitions: Option<Vec<i32>>,
    from: ReadFrom,
    isolation: Isolation,
    until_end: bool,
}

impl ReadOptions {
    /// All partitions of a topic from the beginning on, without an end.
    pub fn new(topic: impl Into<String>) -> Self {
        Self {
            topic: topic.into(),
            partitions: None,
            from: ReadFrom::Earliest,
            isolation: Isolation::ReadUncommitted,
            until_end: false,
        }
    }

    /// Reads some partitions only.
    #[must_use]
    pub fn partitions(mut self, partitions: impl Into<Vec<i32>>) -> Self {
        self.partitions = Some(partitions.into());
        self
    }

    /// Begins elsewhere.
    #[must_use]
    pub fn from(mut self, from: ReadFrom) -> Self {
        self.from = from;
        self
    }

    /// Chooses whether records of open and aborted transactions are seen.
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// Ends where each partition ends now, instead of waiting for more.
    #[must_use]
    pub fn until_end(mut self) -> Self {
        self.until_end = true;
        self
    }
}

/// A record as it lies in the log. Key, value and headers are slices of what came from the network, up to 32 MiB of which
/// live as long as any of them: see [`detached`](Self::detached).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogRecord {
    /// The partition it is in.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// The producer's timestamp, or the broker's under `LogAppendTime`.
    pub timestamp: Timestamp,
    /// The key, or `None` for null.
    pub key: Option<Bytes>,
    /// The value, or `None` for null.
    pub value: Option<Bytes>,
    /// The headers.
    pub headers: Headers,
}

impl LogRecord {
    /// Copies the record out of the network buffer that it is a slice of: for what is to stay for long.
    #[must_use]
    pub fn detached(mut self) -> Self {
        let copy = |bytes: Bytes| Bytes::copy_from_slice(&bytes);
        self.key = self.key.map(copy);
        self.value = self.value.map(copy);
        self.headers.detach();
        self
    }
}

#[derive(Debug)]
struct Position {
    next: i64,
    end: i64,
}

/// The batches that records are taken from.
#[derive(Debug)]
struct Open {
    fetched: Fetched,
    batches: Batches,
    filter: AbortedFilter,
    records: Option<Records>,
}

/// Reads a topic in the order of each partition, without a group and without committing anything.
///
/// ```no_run
/// # async fn example() -> mainstem::Result<()> {
/// use mainstem::client::{ClientConfig, Cluster, ReadOptions, Reader};
///
/// let cluster = Cluster::connect(ClientConfig::new("localhost:9092")).await?;
/// let mut reader = Reader::new(&cluster, ReadOptions::new("words").until_end()).await?;
/// while let Some(record) = reader.next().await? {
///     println!("{}-{}: {:?}", record.partition, record.offset, record.value);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Reader {
    topic: Arc<str>,
    until_end: bool,
    positions: HashMap<i32, Position>,
    events: mpsc::UnboundedReceiver<FetchEvent>,
    open: Option<Open>,
    /// An error that is not retriable was given out.
    ended: bool,
    fetcher: Fetcher,
}

impl Reader {
    /// Begins to read.
    ///
    /// # Errors
    /// [`ErrorKind::Topic`] when the topic or a partition does not exist; [`ErrorKind::OffsetOutOfRange`] when it is to
    /// read until the end from an offset beyond it.
    pub async fn new(cluster: &Cluster, options: ReadOptions) -> Result<Self> {
        let topic = cluster.topic(&options.topic).await?;
        let partitions =
            options.partitions.unwrap_or_else(|| topic.partitions.iter().map(|p| p.partition).collect());
        let admin = Admin::new(cluster);
        let at = |partition: i32| TopicPartition::new(Arc::clone(&topic.name), partition);
        let list = async |spec: OffsetSpec| {
            let of: Vec<_> = partitions.iter().map(|p| (at(*p), spec)).collect();
            let offsets = admin.list_offsets(&of, options.isolation).await?;
            offsets.into_iter().map(|offset| offset.map(|listed| listed.offset)).collect::<Result<Vec<_>>>()
        };
        let ends = list(OffsetSpec::Latest).await?;
        let begins = match options.from {
            ReadFrom::Earliest => list(OffsetSpec::Earliest).await?,
            ReadFrom::Latest => ends.clone(),
            ReadFrom::Offset(offset) => vec![Some(offset); partitions.len()],
            ReadFrom::Timestamp(timestamp) => list(OffsetSpec::Timestamp(timestamp)).await?,
        };
        if let (ReadFrom::Offset(offset), true) = (options.from, options.until_end) {
            // What is beyond the end would never be asked for, and so never be refused.
            for (partition, end) in partitions.iter().zip(&ends) {
                if let Some(end) = end.filter(|end| offset > *end) {
                    return Err(Error::new(
                        ErrorKind::OffsetOutOfRange,
                        format!(
                            "the offset is beyond the end of the partition, {end}: begin there or before"
                        ),
                    )
                    .at_topic(&*topic.name)
                    .at_partition(*partition)
                    .at_offset(offset));
                }
            }
        }
        let (send, events) = mpsc::unbounded_channel();
        let fetch = FetchOptions::bulk().isolation(options.isolation);
        let fetcher = Fetcher::new(cluster, fetch, Arc::new(move |event| drop(send.send(event))));
        let mut positions = HashMap::new();
        for ((partition, begin), end) in partitions.iter().zip(begins).zip(ends) {
            let end = end.unwrap_or(0);
            let next = begin.unwrap_or(end);
            positions.insert(*partition, Position { next, end });
            if !options.until_end || next < end {
                fetcher.assign(at(*partition), next, 0);
            }
        }
        let topic = Arc::clone(&topic.name);
        Ok(Self { topic, until_end: options.until_end, positions, events, open: None, ended: false, fetcher })
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Where reading goes on: `(partition, offset)`, by partition. Control records and aborted ones count.
    pub fn positions(&self) -> Vec<(i32, i64)> {
        let mut positions: Vec<_> =
            self.positions.iter().map(|(partition, at)| (*partition, at.next)).collect();
        positions.sort_unstable();
        positions
    }

    /// How many offsets are left up to where the partitions ended when reading began. Not all of them need to be records.
    pub fn left(&self) -> i64 {
        self.positions.values().map(|at| (at.end - at.next).max(0)).sum()
    }

    /// Whether every partition was read up to where it ended when reading began.
    pub fn at_end(&self) -> bool {
        self.left() == 0
    }

    /// The next record. Waits for one, or, if it was asked to read until the end, is `None` there.
    ///
    /// It can be dropped while it waits: nothing is lost.
    ///
    /// # Errors
    /// [`ErrorKind::OffsetOutOfRange`] when the offset to begin at is not in the log, or retention was faster than this
    /// reader; [`ErrorKind::Corrupt`] when a batch's checksum is wrong. After these, and any other that is not retriable,
    /// the reader has ended: every later call says so.
    ///
    /// A retriable error says that a partition could not be read for half a minute; it comes again after each further one.
    /// Attempts go on: call again to wait on.
    pub async fn next(&mut self) -> Result<Option<LogRecord>> {
        let next = self.find_next().await;
        self.ended |= next.as_ref().is_err_and(|error| !error.is_retriable());
        next
    }

    async fn find_next(&mut self) -> Result<Option<LogRecord>> {
        loop {
            if let Some(record) = self.find_buffered()? {
                return Ok(Some(record));
            }
            if self.until_end && self.at_end() {
                return Ok(None);
            }
            match self.events.recv().await {
                Some(FetchEvent::Data(fetched)) => {
                    let batches = Batches::new(fetched.records.clone());
                    let filter = AbortedFilter::new(fetched.aborted.iter().copied());
                    self.open = Some(Open { fetched, batches, filter, records: None });
                }
                Some(FetchEvent::Progress { .. }) => {}
                Some(FetchEvent::Error { error, .. }) => return Err(error),
                None => return Err(Error::new(ErrorKind::Closed, "the client was closed")),
            }
        }
    }

    /// The next record of those that have arrived already.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn buffered(&mut self) -> Result<Option<LogRecord>> {
        let next = self.find_buffered();
        self.ended |= next.is_err();
        next
    }

    fn find_buffered(&mut self) -> Result<Option<LogRecord>> {
        if self.ended {
            // ORDER: before anything else is given out: what follows a batch that cannot be read must not pass for the
            // record after the last one.
            return Err(Error::new(
                ErrorKind::Closed,
                "the reader has ended with an error before; make a new one from where it should go on",
            )
            .at_topic(&*self.topic));
        }
        let Some(open) = &mut self.open else { return Ok(None) };
        let partition = open.fetched.at.partition;
        let Some(at) = self.positions.get_mut(&partition) else { return Ok(None) };
        let place = |error: Error| error.at_topic(&*self.topic).at_partition(partition);
        loop {
            if let Some(records) = &mut open.records {
                for record in records {
                    let record = record.map_err(place)?;
                    // The first batch may begin before the offset that was asked for.
                    if record.offset < at.next || (self.until_end && record.offset >= at.end) {
                        continue;
                    }
                    at.next = record.offset + 1;
                    return Ok(Some(LogRecord {
                        partition,
                        offset: record.offset,
                        timestamp: record.timestamp,
                        key: record.key,
                        value: record.value,
                        headers: record.headers,
                    }));
                }
                open.records = None;
            }
            match open.batches.next() {
                Some(batch) => {
                    let batch = batch.map_err(place)?;
                    batch.verify_crc().map_err(place)?;
                    open.records = match open.filter.admits(&batch).map_err(place)? {
                        true => Some(batch.records().map_err(place)?),
                        false => None,
                    };
                }
                None => {
                    // What came behind the end was not given out: who reads on begins there.
                    let read = open.fetched.next_offset;
                    at.next = at.next.max(if self.until_end { read.min(at.end) } else { read });
                    if self.until_end && at.next >= at.end {
                        self.fetcher.revoke(open.fetched.at.clone());
                    }
                    self.open = None;
                    return Ok(None);
                }
            }
        }
    }
}
