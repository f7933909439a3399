//! The front: what a worker calls, without waiting and without a lock.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::config::ProducerConfig;
use super::shared::{Failed, Fence, Progress, Shared};
use super::transaction::{End, EndTicket, Ending, in_trouble, not_transactional};
use crate::client::batch::{BatchBuilder, ClosedBatch, record_len};
use crate::clock;
use crate::error::{Error, ErrorClass, ErrorKind, Result};
use crate::record::{Headers, Timestamp};

/// A topic as a [`Producer`] knows it; only good for the producer that gave it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TopicIx(pub(super) usize);

/// From the front to the back.
#[derive(Debug)]
pub(super) enum Message {
    /// The next [`TopicIx`] has this name.
    Topic(Arc<str>),
    Batch(Handover),
    /// The transaction ends behind what came before.
    End(Ending),
}

#[derive(Debug)]
pub(super) struct Handover {
    pub(super) topic: TopicIx,
    pub(super) partition: i32,
    pub(super) batch: ClosedBatch,
    pub(super) send_epoch: u64,
}

/// The back's end of a producer: see [`Sender::new`](super::Sender::new).
#[derive(Debug)]
pub(crate) struct Outbox {
    pub(super) inbox: UnboundedReceiver<Message>,
    pub(super) shared: Arc<Shared>,
    pub(super) config: ProducerConfig,
}

#[derive(Debug, Default)]
struct Accumulator {
    open: Option<BatchBuilder>,
    /// Counts the batches opened here, so that an old entry of `lingering` is known as such.
    serial: u64,
    /// The length of the last batch: room to begin the next one with.
    last_len: usize,
}

#[derive(Debug)]
struct Topic {
    name: Arc<str>,
    partitions: Vec<Accumulator>,
    /// Where records without a key go, until the batch there is handed over (KIP-480).
    sticky: usize,
}

#[derive(Debug)]
struct Lingering {
    topic: TopicIx,
    partition: i32,
    serial: u64,
    until: Instant,
}

/// What a producer has done since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProducerCounts {
    /// Batches handed over, and their bytes as they are sent.
    pub(crate) batches: u64,
    pub(crate) bytes: u64,
    /// Answers that made it send a batch again.
    pub(crate) retries: u64,
    /// Batches that were given up.
    pub(crate) failures: u64,
}

/// A worker's producer.
///
/// Dropping it gives up the batches that are still open; those handed over are still delivered. Call
/// [`flush`](Self::flush) first to deliver all, or fence it to deliver nothing.
#[derive(Debug)]
pub(crate) struct Producer {
    config: ProducerConfig,
    shared: Arc<Shared>,
    back: UnboundedSender<Message>,
    topics: Vec<Topic>,
    by_name: HashMap<Arc<str>, TopicIx>,
    /// Open batches, oldest first.
    lingering: VecDeque<Lingering>,
    /// The bytes of the open batches.
    open_bytes: usize,
    send_epoch: u64,
    /// The batches handed over, and their bytes.
    handed: (u64, u64),
    /// The time of the last poll: a batch counts as opened then, so that no clock is read.
    now: Instant,
}

impl Producer {
    /// A producer and the end of it that its [`Sender`](super::Sender) takes.
    ///
    /// # Errors
    /// If this build cannot compress as asked, or the transactional id is empty.
    pub(crate) fn new(config: ProducerConfig, progress: Progress) -> Result<(Self, Outbox)> {
        if !config.compression.is_available() {
            let name = config.compression.name();
            return Err(Error::new(
                ErrorKind::Config,
                format!("compression.type is {name}: turn on mainstem's cargo feature `{name}`"),
            ));
        }
        if config.transactional.as_ref().is_some_and(|transactional| transactional.id.is_empty()) {
            return Err(Error::new(ErrorKind::Config, "transactional.id must not be empty"));
        }
        let (back, inbox) = unbounded_channel();
        // Open batches take at most half of the memory (see `send`), so that at half of it in flight there is credit.
        let shared = Arc::new(Shared::new(config.buffer_memory / 2, progress));
        let outbox = Outbox { inbox, shared: shared.clone(), config: config.clone() };
        let producer = Self {
            config,
            shared,
            back,
            topics: Vec::new(),
            by_name: HashMap::new(),
            lingering: VecDeque::new(),
            open_bytes: 0,
            send_epoch: 0,
            handed: (0, 0),
            now: clock::monotonic(),
        };
        Ok((producer, outbox))
    }

    /// Makes a topic known, or more partitions of one that is known.
    pub(crate) fn register(&mut self, topic: &str, partitions: i32) -> Result<TopicIx> {
        let count = usize::try_from(partitions).ok().filter(|&count| count > 0).ok_or_else(|| {
            Error::new(ErrorKind::Topic, format!("a topic cannot have {partitions} partitions"))
                .at_topic(topic)
        })?;
        if let Some(&ix) = self.by_name.get(topic) {
            let known = &mut self.topics[ix.0].partitions;
            known.resize_with(count.max(known.len()), Accumulator::default);
            return Ok(ix);
        }
        let ix = TopicIx(self.topics.len());
        let name: Arc<str> = topic.into();
        self.hand(Message::Topic(name.clone()))?;
        let partitions = std::iter::repeat_with(Accumulator::default).take(count).collect();
        // Producers begin at different partitions.
        let sticky = RandomState::new().hash_one(topic) as usize % count;
        self.topics.push(Topic { name: name.clone(), partitions, sticky });
        self.by_name.insert(name, ix);
        Ok(ix)
    }

    /// Adds a record to the open batch of its partition. It does not wait, and may take more than the credit.
    ///
    /// # Errors
    /// If the record is too large for `max.request.size`, the partition does not exist, or the producer has been fenced
    /// or its back has ended. A record that cannot be delivered later is reported by
    /// [`take_failures`](Self::take_failures) instead.
    pub(crate) fn send(
        &mut self,
        topic: TopicIx,
        partition: i32,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &Headers,
    ) -> Result<()> {
        if self.is_fenced() {
            return Err(self.fenced(topic, partition));
        }
        let known = &self.topics[topic.0];
        if usize::try_from(partition).ok().is_none_or(|at| at >= known.partitions.len()) {
            let count = known.partitions.len();
            return Err(Error::new(ErrorKind::Topic, format!("the topic has partitions 0 to {}", count - 1))
                .at_topic(&*known.name)
                .at_partition(partition));
        }
        self.check_size(topic, partition, key, value, headers)?;
        loop {
            let accumulator = &mut self.topics[topic.0].partitions[partition as usize];
            let open = match &mut accumulator.open {
                Some(open) => open,
                None => {
                    accumulator.serial += 1;
                    self.lingering.push_back(Lingering {
                        topic,
                        partition,
                        serial: accumulator.serial,
                        until: self.now + self.config.linger,
                    });
                    let room = accumulator.last_len.min(self.config.batch_size);
                    accumulator.open.insert(
                        BatchBuilder::with_capacity(self.config.compression, room)
                            .level(self.config.compression_level),
                    )
                }
            };
            let before = if open.is_empty() { 0 } else { open.len() };
            if open.append_within(self.config.batch_size, timestamp, key, value, headers) {
                let after = open.len();
                self.open_bytes += after - before;
                if after >= self.config.batch_size {
                    self.hand_over(topic, partition)?;
                } else if self.open_bytes > self.config.buffer_memory / 2 {
                    self.flush()?;
                }
                return Ok(());
            }
            self.hand_over(topic, partition)?;
        }
    }

    /// As [`send`](Self::send), for a record without a key, which may go to any partition: all go to one until a batch
    /// is full. Says to which.
    pub(crate) fn send_keyless(
        &mut self,
        topic: TopicIx,
        timestamp: Timestamp,
        value: Option<&[u8]>,
        headers: &Headers,
    ) -> Result<i32> {
        let partition = self.topics[topic.0].sticky as i32;
        self.send(topic, partition, timestamp, None, value, headers)?;
        Ok(partition)
    }

    /// Hands over the batches whose `linger.ms` is over. To be called often, and at [`next_poll`](Self::next_poll) at the
    /// latest.
    pub(crate) fn poll(&mut self, now: Instant) -> Result<()> {
        self.now = now;
        while let Some(oldest) = self.lingering.front()
            && oldest.until <= now
        {
            let (topic, partition, serial) = (oldest.topic, oldest.partition, oldest.serial);
            self.lingering.pop_front();
            let accumulator = &self.topics[topic.0].partitions[partition as usize];
            if accumulator.open.is_some() && accumulator.serial == serial {
                self.hand_over(topic, partition)?;
            }
        }
        Ok(())
    }

    /// When a batch is to be handed over next, if none is full before.
    pub(crate) fn next_poll(&self) -> Option<Instant> {
        self.lingering.front().map(|oldest| oldest.until)
    }

    /// Hands everything over. It does not wait: see [`is_drained`](Self::is_drained).
    pub(crate) fn flush(&mut self) -> Result<()> {
        while let Some(oldest) = self.lingering.pop_front() {
            let accumulator = &self.topics[oldest.topic.0].partitions[oldest.partition as usize];
            if accumulator.open.is_some() && accumulator.serial == oldest.serial {
                self.hand_over(oldest.topic, oldest.partition)?;
            }
        }
        Ok(())
    }

    /// Whether everything given has been written or has failed. Look for failures after this, not before.
    pub(crate) fn is_drained(&self) -> bool {
        self.open_bytes == 0 && self.shared.in_flight() == 0
    }

    /// Whether less than `buffer.memory` is held: worth asking between records. If there is none, the callback is called
    /// once there is.
    pub(crate) fn has_credit(&self) -> bool {
        self.open_bytes + self.shared.in_flight() < self.config.buffer_memory
    }

    /// The bytes handed over that are neither written nor failed.
    pub(crate) fn in_flight_bytes(&self) -> usize {
        self.shared.in_flight()
    }

    /// The bytes in batches that are not handed over.
    pub(crate) fn open_bytes(&self) -> usize {
        self.open_bytes
    }

    /// What it has done so far.
    pub(crate) fn counts(&self) -> ProducerCounts {
        let (batches, bytes) = self.handed;
        let (retries, failures) = self.shared.troubles();
        ProducerCounts { batches, bytes, retries, failures }
    }

    /// The offset behind the last record that this producer has written to a partition, as far as answers have said;
    /// `None` before the first. Complete once it is drained.
    pub(crate) fn end_offset(&self, topic: &str, partition: i32) -> Option<i64> {
        self.shared.end_offset(topic, partition)
    }

    /// Empties the slot of what was not written.
    pub(crate) fn take_failures(&self) -> Vec<Failed> {
        self.shared.take_failures()
    }

    /// A handle that stops this producer from elsewhere.
    pub(crate) fn fence_handle(&self) -> Fence {
        Fence(self.shared.clone())
    }

    /// Stops this producer; see [`Fence::fence`].
    pub(crate) fn fence(&self) {
        self.fence_handle().fence();
    }

    /// Whether it has been fenced since it was made or renewed.
    pub(crate) fn is_fenced(&self) -> bool {
        self.send_epoch != self.shared.send_epoch()
    }

    /// Takes the producer into use again under a new lease. The open batches are given up: they are of the old one.
    pub(crate) fn renew(&mut self) {
        self.drop_open();
        self.send_epoch = self.shared.send_epoch();
    }

    /// Gives up the open batches.
    fn drop_open(&mut self) {
        for accumulator in self.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
            accumulator.open = None;
        }
        self.lingering.clear();
        self.open_bytes = 0;
    }

    /// Ends the transaction that everything given since the last end belongs to. Everything is handed over first (a
    /// commit waits until it is written, so that the order is always right; an abort throws away what is not sent). What is
    /// given after this belongs to the next transaction, and is sent when this one has ended as asked.
    ///
    /// Nothing was given, and there are no offsets: no broker is asked.
    ///
    /// # Errors
    /// Without a transactional id, or if the back has ended.
    pub(crate) fn end_transaction(&mut self, end: End) -> Result<EndTicket> {
        if self.config.transactional.is_none() {
            return Err(not_transactional());
        }
        match end {
            End::Commit { .. } => self.flush()?,
            End::Abort => self.drop_open(),
        }
        let (answer, ticket) = sync_channel(1);
        self.hand(Message::End(Ending { end, answer, send_epoch: self.send_epoch }))?;
        Ok(EndTicket::new(ticket))
    }

    /// Whether it has a transactional id.
    pub(crate) fn is_transactional(&self) -> bool {
        self.config.transactional.is_some()
    }

    /// Whether it may write: always without a transactional id, else once the coordinator has said who it is, and no end
    /// is under way. What is given before waits. The callback is called when this changes.
    ///
    /// # Errors
    /// If the open transaction must be aborted before anything else, or nothing can be done with this producer any more:
    /// as [`Ended::Failed`](super::Ended::Failed).
    pub(crate) fn is_ready(&self) -> Result<bool> {
        match (&self.config.transactional, self.shared.transactions()) {
            (None, _) => Ok(true),
            (Some(_), (_, Some(error))) => Err(in_trouble(&error)),
            (Some(_), (ready, None)) => Ok(ready),
        }
    }

    fn check_size(
        &self,
        topic: TopicIx,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &Headers,
    ) -> Result<()> {
        const OVERHEAD: usize = 128;
        let limit = self.config.max_request_size;
        let about =
            key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + headers.wire().len() + OVERHEAD;
        if about <= limit {
            return Ok(());
        }
        let size = record_len(key, value, headers);
        if size <= limit {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Production,
            format!(
                "a record of {size} bytes is larger than max.request.size, {limit} bytes: raise it (and \
                 max.message.bytes of the topic), or write less"
            ),
        )
        .at_topic(&*self.topics[topic.0].name)
        .at_partition(partition))
    }

    fn hand_over(&mut self, topic: TopicIx, partition: i32) -> Result<()> {
        let known = &mut self.topics[topic.0];
        let accumulator = &mut known.partitions[partition as usize];
        let Some(open) = accumulator.open.take() else { return Ok(()) };
        if known.sticky == partition as usize {
            known.sticky = (known.sticky + 1) % known.partitions.len();
        }
        let accumulator = &mut known.partitions[partition as usize];
        accumulator.last_len = open.len();
        self.open_bytes -= open.len();
        let batch = open.close().map_err(|e| e.at_topic(&*known.name).at_partition(partition))?;
        let bytes = batch.len();
        self.handed = (self.handed.0 + 1, self.handed.1 + bytes as u64);
        // ORDER: before the back can be done with it.
        self.shared.handed_over(bytes);
        let send_epoch = self.send_epoch;
        self.hand(Message::Batch(Handover { topic, partition, batch, send_epoch })).inspect_err(|_| {
            self.shared.done(bytes);
        })
    }

    fn hand(&self, message: Message) -> Result<()> {
        self.back.send(message).map_err(|_| {
            Error::new(ErrorKind::Closed, "the producer has been closed: what it held was not written")
        })
    }

    fn fenced(&self, topic: TopicIx, partition: i32) -> Error {
        fenced().at_topic(&*self.topics[topic.0].name).at_partition(partition)
    }
}

pub(super) fn fenced() -> Error {
    Error::new(
        ErrorKind::Fenced,
        "the producer was fenced because its worker lost its lease: nothing more is sent",
    )
    .with_class(ErrorClass::FencedLease)
}
