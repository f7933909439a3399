//! What members tell each other through the coordinator: the user data of a subscription and of an assignment.
//!
//! Big-endian, the version first. Later versions only append, so a reader skips what follows the part it knows; a member
//! says which versions of an assignment it reads, and the leader answers everybody in the newest that all of them read.
//! Kafka Streams needed eleven versions of its `SubscriptionInfo`; the first of ours already carries what those grew.
//!
//! Nobody fills yet what waits for standbys, durable stores and transactions: `standby`, `warm_up`, `checkpoints` and
//! `transactional_ids` are empty, and a subscription's `next_rebalance_ms` is -1. Tags are sent and have no effect yet:
//! no placement looks at them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use super::reader::Reader;
use crate::{Error, ErrorKind, Result, TaskId, TopicPartition};

/// The oldest version that this build reads.
pub(crate) const MIN_VERSION: u8 = 1;
/// The version that this build writes, and the newest it knows.
pub(crate) const VERSION: u8 = 2;

/// What an instance says about itself whenever it joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SubscriptionData {
    /// The oldest and the newest version that the instance reads.
    pub(crate) versions: (u8, u8),
    /// The instance, the same after a restart on the same state directory.
    pub(crate) instance: Uuid,
    /// Where the instance answers queries, `host:port`; empty if it does not.
    pub(crate) endpoint: String,
    /// How many workers it has: its weight.
    pub(crate) workers: u16,
    /// The active tasks it holds, also those it is about to give up.
    pub(crate) owned: Vec<TaskId>,
    /// The tasks it holds as standbys.
    pub(crate) standby: Vec<TaskId>,
    /// The next changelog offset of each store on its disk, by task and store.
    pub(crate) checkpoints: BTreeMap<(TaskId, String), i64>,
    /// The fingerprint of each sub-topology it can run.
    pub(crate) fingerprints: BTreeMap<i32, u64>,
    /// The transactional ids of its workers.
    pub(crate) transactional_ids: Vec<String>,
    /// Its tags, as `zone` = `a`.
    pub(crate) tags: BTreeMap<String, String>,
    /// The tasks it is warming up.
    pub(crate) warm_up: Vec<TaskId>,
    /// When it wants the next rebalance, in milliseconds from now; -1 for never.
    pub(crate) next_rebalance_ms: i64,
    /// It asks for the whole application to stop (`SHUTDOWN_APPLICATION`, KIP-671).
    pub(crate) shutdown: bool,
    /// Another number at every JoinGroup: a coordinator makes no rebalance when a member that does not lead joins again
    /// with the bytes it joined with before.
    pub(crate) join_number: u8,
    /// Why it asks for the end; empty if it does not. From version 2 on.
    pub(crate) shutdown_reason: String,
}

impl SubscriptionData {
    /// An instance without tasks, state or endpoint.
    pub(crate) fn new(instance: Uuid, workers: u16) -> Self {
        Self {
            versions: (MIN_VERSION, VERSION),
            instance,
            endpoint: String::new(),
            workers,
            owned: Vec::new(),
            standby: Vec::new(),
            checkpoints: BTreeMap::new(),
            fingerprints: BTreeMap::new(),
            transactional_ids: Vec::new(),
            tags: BTreeMap::new(),
            warm_up: Vec::new(),
            next_rebalance_ms: -1,
            shutdown: false,
            join_number: 0,
            shutdown_reason: String::new(),
        }
    }

    /// All fingerprints in one number, never 0 (FNV-1a).
    pub(crate) fn shape(&self) -> u64 {
        let bytes = self
            .fingerprints
            .iter()
            .flat_map(|(id, fingerprint)| id.to_be_bytes().into_iter().chain(fingerprint.to_be_bytes()));
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        hash.max(1)
    }

    /// The bytes to send.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if a name is longer than 65,535 bytes.
    pub(crate) fn encode(&self) -> Result<Bytes> {
        let mut out = Writer::new(VERSION);
        out.bytes.put_u8(self.versions.0);
        out.bytes.put_u8(self.versions.1);
        out.bytes.put_u128(self.instance.as_u128());
        out.text(&self.endpoint)?;
        out.bytes.put_u16(self.workers);
        out.tasks(&self.owned)?;
        out.tasks(&self.standby)?;
        // A store has as many rows as partitions: its name goes once.
        let mut stores: Vec<&String> = self.checkpoints.keys().map(|(_, store)| store).collect();
        stores.sort_unstable();
        stores.dedup();
        out.list(&stores, |out, store| out.text(store))?;
        out.list(self.checkpoints.iter(), |out, ((task, store), offset)| {
            out.task(*task);
            out.index(stores.binary_search(&store).ok())?;
            out.bytes.put_i64(*offset);
            Ok(())
        })?;
        out.list(&self.fingerprints, |out, (subtopology, fingerprint)| {
            out.bytes.put_i32(*subtopology);
            out.bytes.put_u64(*fingerprint);
            Ok(())
        })?;
        out.list(&self.transactional_ids, |out, id| out.text(id))?;
        out.list(&self.tags, |out, (key, value)| {
            out.text(key)?;
            out.text(value)
        })?;
        out.tasks(&self.warm_up)?;
        out.bytes.put_i64(self.next_rebalance_ms);
        out.bytes.put_u8(u8::from(self.shutdown));
        out.bytes.put_u8(self.join_number);
        out.text(&self.shutdown_reason)?;
        Ok(out.bytes.freeze())
    }

    /// Reads what a member sent.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for bytes that are not this format.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut from = Reader::new("subscription", bytes);
        let version = version(&mut from)?;
        let versions = (from.u8("oldest version")?, from.u8("newest version")?);
        let instance = Uuid::from_u128(from.u128("instance")?);
        let endpoint = from.text("endpoint")?.to_owned();
        let workers = from.u16("workers")?;
        let owned = tasks(&mut from, "owned tasks")?;
        let standby = tasks(&mut from, "standby tasks")?;
        let stores = from.list("stores", 2, |from| from.text("store"))?;
        let checkpoints = from.list("checkpoints", 18, |from| {
            let task = task(from)?;
            let store = *indexed(from, &stores, "store index")?;
            Ok(((task, store.to_owned()), from.i64("checkpoint")?))
        })?;
        let fingerprints =
            from.list("fingerprints", 12, |from| Ok((from.i32("sub-topology")?, from.u64("fingerprint")?)))?;
        let transactional_ids = texts(&mut from, "transactional ids")?;
        let tags = from.list("tags", 4, |from| {
            Ok((from.text("tag key")?.to_owned(), from.text("tag value")?.to_owned()))
        })?;
        let warm_up = tasks(&mut from, "warm-up tasks")?;
        let next_rebalance_ms = from.i64("next rebalance")?;
        let shutdown = from.u8("shutdown")? != 0;
        let join_number = from.u8("join number")?;
        let shutdown_reason = since_2(&mut from, version, "shutdown reason")?;
        end(&from, version)?;
        Ok(Self {
            versions,
            instance,
            endpoint,
            workers,
            owned,
            standby,
            checkpoints: checkpoints.into_iter().collect(),
            fingerprints: fingerprints.into_iter().collect(),
            transactional_ids,
            tags: tags.into_iter().collect(),
            warm_up,
            next_rebalance_ms,
            shutdown,
            join_number,
            shutdown_reason,
        })
    }
}

/// An active task and the partitions it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ActiveTask {
    /// The task.
    pub(crate) task: TaskId,
    /// The partitions of its source topics.
    pub(crate) partitions: Vec<TopicPartition>,
}

/// An instance as all the others know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instance {
    /// The instance.
    pub(crate) id: Uuid,
    /// Where it answers queries, `host:port`; empty if it does not.
    pub(crate) endpoint: String,
    /// The transactional ids of its workers, which whoever takes its tasks over fences.
    pub(crate) transactional_ids: Vec<String>,
    /// Its active tasks.
    pub(crate) active: Vec<TaskId>,
    /// Its standby tasks.
    pub(crate) standby: Vec<TaskId>,
}

/// Why the leader gave nobody anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AssignmentError {
    /// A source topic does not exist.
    MissingSourceTopics,
    /// The internal topics could not be made, or are not as they must be.
    InternalTopics,
    /// There is no version of this format that all members read.
    IncompatibleVersions,
    /// An instance asked for the whole application to stop.
    ShutdownRequested,
    /// Nothing of the member's topology is in the leader's. It gets no tasks, and waits: in a rolling deploy its turn comes
    /// when an instance like it leads. The only one of these that ends nothing.
    OtherTopology,
    /// A code of a later version.
    Other(u8),
}

impl AssignmentError {
    fn code(this: Option<Self>) -> u8 {
        match this {
            None => 0,
            Some(Self::MissingSourceTopics) => 1,
            Some(Self::InternalTopics) => 2,
            Some(Self::IncompatibleVersions) => 3,
            Some(Self::ShutdownRequested) => 4,
            Some(Self::OtherTopology) => 5,
            Some(Self::Other(code)) => code,
        }
    }

    fn of(code: u8) -> Option<Self> {
        Some(match code {
            0 => return None,
            1 => Self::MissingSourceTopics,
            2 => Self::InternalTopics,
            3 => Self::IncompatibleVersions,
            4 => Self::ShutdownRequested,
            5 => Self::OtherTopology,
            other => Self::Other(other),
        })
    }
}

/// What the leader gives a member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct AssignmentData {
    /// Why there is nothing to do; the lists are empty then.
    pub(crate) error: Option<AssignmentError>,
    /// The member's active tasks.
    pub(crate) active: Vec<ActiveTask>,
    /// The tasks it keeps as standbys.
    pub(crate) standby: Vec<TaskId>,
    /// The tasks it restores because they are to move to it.
    pub(crate) warm_up: Vec<TaskId>,
    /// All instances of the group.
    pub(crate) instances: Vec<Instance>,
    /// When to join again even if nothing happens, in milliseconds from the receipt; -1 for never.
    pub(crate) next_rebalance_ms: i64,
    /// What there is to say about the error. From version 2 on.
    pub(crate) reason: String,
    /// The [`SubscriptionData::shape`] of the member that it was made for; 0 if the leader does not say. From version 2 on.
    pub(crate) shape: u64,
}

impl AssignmentData {
    /// The bytes to send.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if a name is longer than 65,535 bytes or there are more topics than that.
    pub(crate) fn encode(&self) -> Result<Bytes> {
        let mut out = Writer::new(VERSION);
        out.bytes.put_u8(AssignmentError::code(self.error));
        let mut topics: Vec<&Arc<str>> =
            self.active.iter().flat_map(|active| &active.partitions).map(|p| &p.topic).collect();
        topics.sort_unstable();
        topics.dedup();
        out.list(&topics, |out, topic| out.text(topic))?;
        out.list(&self.active, |out, active| {
            out.task(active.task);
            out.list(&active.partitions, |out, partition| {
                out.index(topics.binary_search(&&partition.topic).ok())?;
                out.bytes.put_i32(partition.partition);
                Ok(())
            })
        })?;
        out.tasks(&self.standby)?;
        out.tasks(&self.warm_up)?;
        out.list(&self.instances, |out, instance| {
            out.bytes.put_u128(instance.id.as_u128());
            out.text(&instance.endpoint)?;
            out.list(&instance.transactional_ids, |out, id| out.text(id))?;
            out.tasks(&instance.active)?;
            out.tasks(&instance.standby)
        })?;
        out.bytes.put_i64(self.next_rebalance_ms);
        out.text(&self.reason)?;
        out.bytes.put_u64(self.shape);
        Ok(out.bytes.freeze())
    }

    /// Reads what the leader sent.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for bytes that are not this format.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut from = Reader::new("assignment", bytes);
        let version = version(&mut from)?;
        let error = AssignmentError::of(from.u8("error code")?);
        let topics: Vec<Arc<str>> = from.list("topics", 2, |from| Ok(from.text("topic")?.into()))?;
        let active = from.list("active tasks", 12, |from| {
            let task = task(from)?;
            let partitions = from.list("partitions", 6, |from| {
                let topic = indexed(from, &topics, "topic index")?;
                Ok(TopicPartition::new(Arc::clone(topic), from.i32("partition")?))
            })?;
            Ok(ActiveTask { task, partitions })
        })?;
        let standby = tasks(&mut from, "standby tasks")?;
        let warm_up = tasks(&mut from, "warm-up tasks")?;
        let instances = from.list("instances", 30, |from| {
            Ok(Instance {
                id: Uuid::from_u128(from.u128("instance")?),
                endpoint: from.text("endpoint")?.to_owned(),
                transactional_ids: texts(from, "transactional ids")?,
                active: tasks(from, "active tasks")?,
                standby: tasks(from, "standby tasks")?,
            })
        })?;
        let next_rebalance_ms = from.i64("next rebalance")?;
        let reason = since_2(&mut from, version, "reason")?;
        let shape = if version >= 2 { from.u64("shape")? } else { 0 };
        end(&from, version)?;
        Ok(Self { error, active, standby, warm_up, instances, next_rebalance_ms, reason, shape })
    }
}

fn version(from: &mut Reader<'_>) -> Result<u8> {
    let version = from.u8("version")?;
    if version < MIN_VERSION {
        return Err(from.wrong(&format!("version {version}, of which nothing is known,")));
    }
    Ok(version)
}

/// A text that version 1 did not have.
fn since_2(from: &mut Reader<'_>, version: u8, field: &str) -> Result<String> {
    if version < 2 { Ok(String::new()) } else { Ok(from.text(field)?.to_owned()) }
}

/// Nothing may follow what this build knows, unless a later version wrote it.
fn end(from: &Reader<'_>, version: u8) -> Result<()> {
    if version <= VERSION && !from.is_empty() {
        return Err(from.wrong("more than there should be"));
    }
    Ok(())
}

fn task(from: &mut Reader<'_>) -> Result<TaskId> {
    Ok(TaskId::new(from.i32("sub-topology")?, from.i32("partition")?))
}

fn tasks(from: &mut Reader<'_>, field: &str) -> Result<Vec<TaskId>> {
    from.list(field, 8, task)
}

fn texts(from: &mut Reader<'_>, field: &str) -> Result<Vec<String>> {
    from.list(field, 2, |from| Ok(from.text(field)?.to_owned()))
}

fn indexed<'t, T>(from: &mut Reader<'_>, table: &'t [T], field: &str) -> Result<&'t T> {
    let index = usize::from(from.u16(field)?);
    table.get(index).ok_or_else(|| from.wrong(&format!("{field} {index} of {}", table.len())))
}

struct Writer {
    bytes: BytesMut,
}

impl Writer {
    fn new(version: u8) -> Self {
        let mut bytes = BytesMut::with_capacity(256);
        bytes.put_u8(version);
        Self { bytes }
    }

    fn text(&mut self, text: &str) -> Result<()> {
        let length = u16::try_from(text.len()).map_err(|_| {
            let start: String = text.chars().take(40).collect();
            let message = format!("a name of {} bytes is too long for the group: {start}...", text.len());
            Error::new(ErrorKind::Config, message)
        })?;
        self.bytes.put_u16(length);
        self.bytes.put_slice(text.as_bytes());
        Ok(())
    }

    fn index(&mut self, index: Option<usize>) -> Result<()> {
        let index = index.and_then(|index| u16::try_from(index).ok()).ok_or_else(|| {
            Error::new(ErrorKind::Config, "more than 65,536 stores or topics are too many for one group")
        })?;
        self.bytes.put_u16(index);
        Ok(())
    }

    fn task(&mut self, task: TaskId) {
        self.bytes.put_i32(task.subtopology);
        self.bytes.put_i32(task.partition);
    }

    fn tasks(&mut self, tasks: &[TaskId]) -> Result<()> {
        self.list(tasks, |out, task| {
            out.task(*task);
            Ok(())
        })
    }

    fn list<I: IntoIterator<IntoIter: ExactSizeIterator>>(
        &mut self,
        items: I,
        mut item: impl FnMut(&mut Self, I::Item) -> Result<()>,
    ) -> Result<()> {
        let mut items = items.into_iter();
        self.bytes.put_i32(items.len() as i32);
        items.try_for_each(|it| item(self, it))
    }
}

#[cfg(test)]
mod tests;
