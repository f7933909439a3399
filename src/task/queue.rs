//! The input of a task: one queue a partition, typed inside, compared by the timestamp of its head.

use std::collections::VecDeque;
use std::sync::Arc;

use super::errors::DropReason;
use super::{Flow, NodeIx, Outputs, TaskCx};
use crate::config::TimestampPolicy;
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::record::{RawRecord, Record, Timestamp};
use crate::serde::SerdeCx;
use crate::serde::erased::SerdeRef;

/// What a timestamp extractor sees.
#[derive(Debug)]
#[non_exhaustive]
pub struct Extract<'a, K, V> {
    /// The key, or `None` for null.
    pub key: Option<&'a K>,
    /// The value, or `None` for null.
    pub value: Option<&'a V>,
    /// The timestamp that the record has in its topic.
    pub record_timestamp: Timestamp,
    /// The greatest timestamp taken from this partition so far, -1 before the first.
    pub partition_time: Timestamp,
    /// The offset.
    pub offset: i64,
}

/// Gives a source record its event time; a negative one drops the record
/// (`org.apache.kafka.streams.processor.TimestampExtractor`).
pub(crate) type Extractor<K, V> =
    Arc<dyn Fn(&Extract<'_, K, V>) -> Result<Timestamp, BoxError> + Send + Sync>;

/// Some records of a partition, in the order of their offsets, as they came off the wire.
pub(crate) struct RawBatch {
    /// Decodes one record after the other; the frame stays in memory until the last is taken.
    pub(crate) records: Box<dyn Iterator<Item = Result<RawRecord>>>,
    /// The offset after the batch, also where its last records are control records or have been compacted away.
    pub(crate) next_offset: i64,
    /// How many records there may be, for limits.
    pub(crate) count: usize,
}

/// The queue of one partition.
pub(crate) trait InputQueue {
    /// Adds records behind those that wait.
    fn push(&mut self, batch: RawBatch);

    /// The timestamp of the next record; reads records until one can be taken.
    fn head_timestamp(&mut self, cx: &mut TaskCx) -> Result<Option<Timestamp>, super::Stop>;

    /// Takes the next record through the topology. `head_timestamp` has returned `Some` before.
    fn process_head(&mut self, cx: &mut TaskCx) -> Flow;

    /// Sets where reading starts: records before it are passed over.
    fn start_at(&mut self, offset: i64);

    /// About how many records wait.
    fn len(&self) -> usize;

    /// Whether nothing has come that is not taken: no record, and no batch that may turn out to hold none.
    fn is_empty(&self) -> bool;

    /// The offset of the next record to take: what may be committed. `None` until that is known.
    fn position(&self) -> Option<i64>;

    /// The greatest timestamp taken from this partition, -1 before the first.
    fn partition_time(&self) -> Timestamp;

    /// Sets the partition time that was committed with the offset.
    fn restore_partition_time(&mut self, time: Timestamp);
}

struct Head<K, V> {
    record: Record<K, V>,
    raw: RawRecord,
}

/// The input queue of a source node.
pub(crate) struct SourceQueue<K, V> {
    pub(crate) source: usize,
    pub(crate) topic: Arc<str>,
    pub(crate) node: NodeIx,
    pub(crate) key_serde: SerdeRef<K>,
    pub(crate) value_serde: SerdeRef<V>,
    pub(crate) extractor: Option<Extractor<K, V>>,
    pub(crate) outputs: Outputs<K, V>,
    pub(crate) state: QueueState<K, V>,
}

pub(crate) struct QueueState<K, V> {
    batches: VecDeque<RawBatch>,
    head: Option<Head<K, V>>,
    position: Option<i64>,
    partition_time: Timestamp,
}

impl<K, V> Default for QueueState<K, V> {
    fn default() -> Self {
        Self { batches: VecDeque::new(), head: None, position: None, partition_time: -1 }
    }
}

impl<K: Clone + 'static, V: Clone + 'static> SourceQueue<K, V> {
    fn read(&self, raw: &RawRecord) -> Result<(Option<K>, Option<V>), BoxError> {
        let cx = |is_key| SerdeCx { topic: &self.topic, is_key, headers: &raw.headers };
        let key = raw.key.as_ref().map(|bytes| self.key_serde.read(bytes, &cx(true))).transpose()?;
        let value = raw.value.as_ref().map(|bytes| self.value_serde.read(bytes, &cx(false))).transpose()?;
        Ok((key, value))
    }

    fn timestamp(
        &self,
        raw: &RawRecord,
        key: Option<&K>,
        value: Option<&V>,
        cx: &TaskCx,
    ) -> Result<Timestamp> {
        let at = |error: Error| error.at_topic(&*self.topic).at_offset(raw.offset);
        let Some(extractor) = &self.extractor else {
            return match cx.policies.timestamps {
                TimestampPolicy::WallClock => Ok(cx.clock.wall_ms()),
                _ if raw.timestamp >= 0 => Ok(raw.timestamp),
                TimestampPolicy::Skip => Ok(raw.timestamp),
                TimestampPolicy::PartitionTime if self.state.partition_time >= 0 => {
                    Ok(self.state.partition_time)
                }
                _ => Err(at(Error::new(
                    ErrorKind::Timestamp,
                    format!(
                        "the record has the timestamp {}; set a timestamp extractor on the source (Consumed::timestamps) or \
                         default.timestamp.extractor, or produce with timestamps",
                        raw.timestamp
                    ),
                ))),
            };
        };
        extractor(&Extract {
            key,
            value,
            record_timestamp: raw.timestamp,
            partition_time: self.state.partition_time,
            offset: raw.offset,
        })
        .map_err(|error| {
            at(Error::new(ErrorKind::Timestamp, "the timestamp extractor failed")).because(error)
        })
    }

    /// Reads records until one can be taken or none is left.
    fn fill(&mut self, cx: &mut TaskCx) -> Flow {
        while self.state.head.is_none() {
            let Some(batch) = self.state.batches.front_mut() else { return Ok(()) };
            let raw = match batch.records.next() {
                Some(Ok(raw)) => raw,
                Some(Err(error)) => {
                    return Err(
                        cx.fail(error.at_topic(&*self.topic).at_partition(cx.sources[self.source].partition))
                    );
                }
                None => {
                    self.state.position = Some(batch.next_offset);
                    self.state.batches.pop_front();
                    continue;
                }
            };
            batch.count = batch.count.saturating_sub(1);
            // A batch that is read from its middle starts with records before the asked offset.
            if self.state.position.is_some_and(|position| raw.offset < position) {
                continue;
            }
            self.take(raw, cx)?;
        }
        Ok(())
    }

    fn take(&mut self, raw: RawRecord, cx: &mut TaskCx) -> Flow {
        cx.begin_reading(self.node, self.source, raw.offset);
        let (key, value) = match self.read(&raw) {
            Ok(read) => read,
            Err(error) => {
                let offset = raw.offset;
                let timestamp = raw.timestamp;
                cx.begin(self.source, raw, timestamp, None);
                cx.deserialization_error(self.node, error)?;
                self.state.position = Some(offset + 1);
                return Ok(());
            }
        };
        let timestamp = match self.timestamp(&raw, key.as_ref(), value.as_ref(), cx) {
            Ok(timestamp) => timestamp,
            Err(error) => {
                let partition = cx.sources[self.source].partition;
                let node = cx.node_name(self.node).to_owned();
                return Err(cx.fail(error.at_partition(partition).at_node(node)));
            }
        };
        if timestamp < 0 {
            cx.dropped(self.node, DropReason::NegativeTimestamp);
            tracing::warn!(topic = %self.topic, offset = raw.offset, timestamp, "dropped: negative timestamp");
            self.state.position = Some(raw.offset + 1);
            return Ok(());
        }
        self.state.position = Some(raw.offset);
        let headers = raw.headers.clone();
        self.state.head = Some(Head { record: Record { key, value, timestamp, headers }, raw });
        Ok(())
    }
}

impl<K: Clone + 'static, V: Clone + 'static> InputQueue for SourceQueue<K, V> {
    fn push(&mut self, batch: RawBatch) {
        self.state.batches.push_back(batch);
    }

    fn head_timestamp(&mut self, cx: &mut TaskCx) -> Result<Option<Timestamp>, super::Stop> {
        self.fill(cx)?;
        Ok(self.state.head.as_ref().map(|head| head.record.timestamp))
    }

    fn process_head(&mut self, cx: &mut TaskCx) -> Flow {
        let Some(Head { record, raw }) = self.state.head.take() else { return Ok(()) };
        let offset = raw.offset;
        self.state.partition_time = self.state.partition_time.max(record.timestamp);
        cx.stream_time = cx.stream_time.max(record.timestamp);
        cx.taken(self.source, self.node, &raw, record.timestamp);
        cx.begin(self.source, raw, record.timestamp, self.key_serde.canonical());
        self.outputs.forward(record, cx)?;
        // ORDER: the offset moves on only when the record has gone all the way down.
        self.state.position = Some(offset + 1);
        Ok(())
    }

    fn start_at(&mut self, offset: i64) {
        self.state.position = Some(offset);
    }

    fn len(&self) -> usize {
        usize::from(self.state.head.is_some()) + self.state.batches.iter().map(|b| b.count).sum::<usize>()
    }

    fn is_empty(&self) -> bool {
        self.state.head.is_none() && self.state.batches.is_empty()
    }

    fn position(&self) -> Option<i64> {
        self.state.position
    }

    fn partition_time(&self) -> Timestamp {
        self.state.partition_time
    }

    fn restore_partition_time(&mut self, time: Timestamp) {
        self.state.partition_time = self.state.partition_time.max(time);
    }
}
