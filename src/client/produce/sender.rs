//! The back: one task that turns the batches of a producer into requests and takes the answers.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, ProduceResponse};
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, TransactionalId};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::mpsc::UnboundedReceiver;

use super::answer::Answer;
use super::config::ProducerConfig;
use super::partition::{Done, Identity, Leader, Partition};
use super::producer::{Handover, Message, Outbox};
use super::shared::{Failed, Shared};
use super::transaction::{Transactions, TxnSaid};
use super::transport::ProduceTransport;
use crate::clock;
use crate::error::{Error, ErrorClass, ErrorKind, Result};

/// The last version of Produce in which batches of a transaction are of version 1: from the next one on the leader adds
/// their partitions to it (KIP-890).
const PRODUCE_V1: i16 = 11;

/// Sends what a [`Producer`](super::Producer) hands over.
///
/// It ends when the producer is dropped and everything handed over is done. If it is dropped before, everything that is
/// not done fails with [`ErrorKind::Closed`].
pub(crate) struct Sender<T> {
    pub(super) transport: Arc<T>,
    config: ProducerConfig,
    pub(super) shared: Arc<Shared>,
    inbox: UnboundedReceiver<Message>,
    topics: Vec<Topic>,
    pub(super) partitions: Vec<Partition>,
    /// Requests on their way, a node.
    in_flight: HashMap<i32, usize>,
    pub(super) calls: Calls,
    /// Of an idempotent producer; a transactional one has its identity from `txn`.
    identity: ProducerId,
    pub(super) txn: Option<Transactions>,
    /// Where the next round begins, so that no partition is always last.
    turn: usize,
    now: fn() -> Instant,
}

struct Topic {
    name: Arc<str>,
    /// Its partitions' places in `Sender::partitions`.
    places: HashMap<i32, usize>,
}

enum ProducerId {
    /// Wanted from the time given.
    Missing {
        from: Option<Instant>,
        failures: u32,
    },
    Asked {
        failures: u32,
    },
    Known(Identity),
}

/// A call that has come back.
pub(super) enum Event {
    Leader { place: usize, result: Result<i32> },
    ProducerId(Result<InitProducerIdResponse>),
    Transaction(Result<TxnSaid>),
    Produced { node: i32, sent: Vec<InRequest>, result: Result<ProduceResponse> },
}

/// A batch in a request.
#[derive(Clone, Copy)]
pub(super) struct InRequest {
    place: usize,
    id: u64,
}

/// A request being filled.
#[derive(Default)]
struct Draft {
    sent: Vec<InRequest>,
    topics: Vec<TopicProduceData>,
    bytes: usize,
}

impl<T: ProduceTransport> Sender<T> {
    /// The back of the producer that this outbox is of; run it on the I/O runtime.
    pub(crate) fn new(outbox: Outbox, transport: Arc<T>) -> Self {
        Self::with_time(outbox, transport, clock::monotonic)
    }

    /// With another source of time, for tests that move it.
    pub(super) fn with_time(outbox: Outbox, transport: Arc<T>, now: fn() -> Instant) -> Self {
        let Outbox { inbox, shared, config } = outbox;
        let txn = Transactions::new(&config);
        Self {
            txn,
            transport,
            config,
            shared,
            inbox,
            topics: Vec::new(),
            partitions: Vec::new(),
            in_flight: HashMap::new(),
            calls: Calls::default(),
            identity: ProducerId::Missing { from: None, failures: 0 },
            turn: 0,
            now,
        }
    }

    /// Sends until the producer is gone and everything is done.
    pub(crate) async fn run(mut self) {
        let shared = self.shared.clone();
        let mut open = true;
        loop {
            let now = (self.now)();
            self.sweep(now);
            self.send_ready(now);
            if !open {
                self.abort_abandoned();
            }
            self.drive_transactions(now);
            let ending = self.is_ending();
            if !open && !ending && self.partitions.iter().all(Partition::is_empty) {
                return;
            }
            let wake_at = self.wake_at(now);
            let Self { calls, inbox, .. } = &mut self;
            tokio::select! {
                events = calls.ready() => {
                    let now = (self.now)();
                    events.into_iter().for_each(|event| self.handle(event, now));
                }
                // What follows the end of a transaction belongs to the next one.
                message = inbox.recv(), if open && !ending => match message {
                    Some(message) => self.receive(message),
                    None => open = false,
                },
                () = shared.wake.notified() => {}
                () = sleep_until(wake_at, now) => {}
            }
        }
    }

    fn receive(&mut self, message: Message) {
        let deadline = (self.now)() + self.config.delivery_timeout;
        self.take(message, deadline);
        while !self.is_ending()
            && let Ok(message) = self.inbox.try_recv()
        {
            self.take(message, deadline);
        }
    }

    fn is_ending(&self) -> bool {
        self.txn.as_ref().is_some_and(Transactions::is_ending)
    }

    /// Gives up what is fenced or has been tried for too long.
    fn sweep(&mut self, now: Instant) {
        let send_epoch = self.shared.send_epoch();
        for place in 0..self.partitions.len() {
            let partition = &mut self.partitions[place];
            if !partition.is_empty() {
                let mut done = partition.fence(send_epoch);
                done.extend(partition.expire(now, &self.config));
                self.finish(place, done);
            }
        }
    }

    /// Makes as many requests as may be under way.
    fn send_ready(&mut self, now: Instant) {
        loop {
            let mut drafts: HashMap<i32, Draft> = HashMap::new();
            self.turn = self.turn.wrapping_add(1);
            for i in 0..self.partitions.len() {
                let place = self.turn.wrapping_add(i) % self.partitions.len();
                if !self.partitions[place].is_empty() {
                    self.draft(place, now, &mut drafts);
                }
            }
            if drafts.is_empty() {
                return;
            }
            for (node, draft) in drafts {
                self.request(node, draft);
            }
        }
    }

    /// Adds the next batch of a partition to the request for its leader, if it may be sent.
    fn draft(&mut self, place: usize, now: Instant, drafts: &mut HashMap<i32, Draft>) {
        // ORDER: the last look at the send epoch before the bytes leave.
        let done = self.partitions[place].fence(self.shared.send_epoch());
        self.finish(place, done);
        if !self.shared.permits(now) {
            return;
        }
        let partition = &mut self.partitions[place];
        if !partition.is_ready(now) {
            return;
        }
        let identity = match (&mut self.txn, &self.identity) {
            (Some(txn), _) => match txn.machine.admits(place) {
                true => txn.machine.identity(),
                false => return,
            },
            (None, ProducerId::Known(identity)) => Some(*identity),
            (None, ProducerId::Missing { .. } | ProducerId::Asked { .. }) => None,
        };
        if !partition.identify(identity) {
            self.ask_producer_id(now);
            return;
        }
        let node = match partition.leader {
            Leader::Node(node) => node,
            Leader::Asked => return,
            Leader::Unknown => return self.ask_leader(place),
        };
        if self.in_flight.get(&node).is_some_and(|&requests| requests >= self.config.max_in_flight) {
            return;
        }
        let length = partition.next_len();
        let draft = drafts.entry(node).or_default();
        if draft.bytes > 0 && draft.bytes + length > self.config.max_request_size {
            return;
        }
        let Some((id, records)) = partition.send() else { return };
        draft.bytes += length;
        draft.sent.push(InRequest { place, id });
        let data =
            PartitionProduceData::default().with_index(partition.partition).with_records(Some(records));
        match draft.topics.iter_mut().find(|topic| topic.name == partition.topic_name) {
            Some(topic) => topic.partition_data.push(data),
            None => draft.topics.push(
                TopicProduceData::default()
                    .with_name(partition.topic_name.clone())
                    .with_partition_data(vec![data]),
            ),
        }
    }

    fn request(&mut self, node: i32, draft: Draft) {
        let timeout = i32::try_from(self.config.request_timeout.as_millis()).unwrap_or(i32::MAX);
        let request =
            ProduceRequest::default().with_acks(-1).with_timeout_ms(timeout).with_topic_data(draft.topics);
        let (request, max_version) = match &self.txn {
            Some(txn) => {
                let id = TransactionalId(StrBytes::from_string(txn.id().to_owned()));
                (request.with_transactional_id(Some(id)), (!txn.machine.is_v2()).then_some(PRODUCE_V1))
            }
            None => (request, None),
        };
        *self.in_flight.entry(node).or_default() += 1;
        let transport = self.transport.clone();
        let sent = draft.sent;
        self.calls.push(async move {
            let result = transport.produce(node, request, max_version).await;
            Event::Produced { node, sent, result }
        });
    }

    fn ask_leader(&mut self, place: usize) {
        let partition = &mut self.partitions[place];
        partition.leader = Leader::Asked;
        let (topic, index) = (partition.topic.clone(), partition.partition);
        let transport = self.transport.clone();
        self.calls
            .push(async move { Event::Leader { place, result: transport.leader(&topic, index).await } });
    }

    fn ask_producer_id(&mut self, now: Instant) {
        let failures = match self.identity {
            ProducerId::Asked { .. } => return,
            ProducerId::Missing { from, .. } if from.is_some_and(|from| from > now) => return,
            ProducerId::Missing { failures, .. } => failures,
            // It is known, but some partition has used its epochs up.
            ProducerId::Known(_) => 0,
        };
        self.identity = ProducerId::Asked { failures };
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(i32::MAX);
        let transport = self.transport.clone();
        self.calls.push(async move { Event::ProducerId(transport.init_producer_id(request).await) });
    }

    fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Leader { place, result } => self.take_leader(place, result, now),
            Event::ProducerId(result) => self.take_producer_id(result, now),
            Event::Transaction(result) => self.take_transaction(result, now),
            Event::Produced { node, sent, result } => {
                if let Some(requests) = self.in_flight.get_mut(&node) {
                    *requests -= 1;
                }
                self.take_answers(node, &sent, result, now);
            }
        }
    }

    fn take_leader(&mut self, place: usize, result: Result<i32>, now: Instant) {
        let partition = &mut self.partitions[place];
        partition.leader = Leader::Unknown;
        match result {
            Ok(node) => partition.leader = Leader::Node(node),
            Err(error) if error.is_retriable() || error.kind() == ErrorKind::Topic => {
                // A topic that is not there yet may be made until the batch's time is up.
                self.transport.invalidate(&partition.topic);
                partition.back_off(error, now, &self.config);
            }
            Err(error) => {
                let done =
                    partition.fail_waiting("the leader of a partition cannot be found", &Arc::new(error));
                self.finish(place, done);
            }
        }
    }

    fn take_producer_id(&mut self, result: Result<InitProducerIdResponse>, now: Instant) {
        let error = match result {
            Ok(response) => match ResponseError::try_from_code(response.error_code) {
                None => {
                    let producer_id = response.producer_id.0;
                    tracing::debug!(producer_id, epoch = response.producer_epoch, "producer id");
                    self.identity =
                        ProducerId::Known(Identity { producer_id, epoch: response.producer_epoch });
                    return;
                }
                Some(code) => {
                    let class = if code.is_retriable() { ErrorClass::Retriable } else { ErrorClass::Fatal };
                    Error::new(ErrorKind::Broker, format!("{code} while asking for a producer id"))
                        .with_class(class)
                        .with_code(response.error_code)
                }
            },
            Err(error) => error,
        };
        let failures = match self.identity {
            ProducerId::Asked { failures } => failures + 1,
            ProducerId::Missing { .. } | ProducerId::Known(_) => 1,
        };
        self.identity = ProducerId::Missing { from: Some(now + self.config.backoff(failures)), failures };
        let error = Arc::new(error);
        for place in 0..self.partitions.len() {
            let partition = &mut self.partitions[place];
            if partition.is_empty() || partition.identify(None) {
                continue;
            }
            if error.is_retriable() {
                let own = Error::new(error.kind(), "no producer id").because(error.clone());
                partition.back_off(own, now, &self.config);
            } else {
                let done = partition.fail_waiting("no producer id can be had", &error);
                self.finish(place, done);
            }
        }
    }

    fn take_answers(&mut self, node: i32, sent: &[InRequest], result: Result<ProduceResponse>, now: Instant) {
        let result = result.map_err(Arc::new);
        let answers: HashMap<(&str, i32), &PartitionProduceResponse> = result
            .iter()
            .flat_map(|response| &response.responses)
            .flat_map(|topic| topic.partition_responses.iter().map(|p| ((topic.name.0.as_str(), p.index), p)))
            .collect();
        for &InRequest { place, id } in sent {
            let partition = &mut self.partitions[place];
            let answer = match &result {
                Err(error) => Answer::of_failed_request(error),
                Ok(_) => match answers.get(&(&*partition.topic, partition.partition)) {
                    Some(response) => Answer::of(response, self.txn.is_some()),
                    None => Answer::missing(),
                },
            };
            if matches!(answer, Answer::Retry { .. }) {
                self.shared.tried_again();
            }
            // An answer that comes late, from a former leader, says nothing of the present one.
            if matches!(answer, Answer::Retry { stale_leader: true, .. })
                && partition.leader == Leader::Node(node)
            {
                self.transport.invalidate(&partition.topic);
            }
            let done = partition.answer(node, id, answer, now, &self.config);
            // ORDER: before its credit is given back, so that whoever sees the producer drained knows every end.
            if let Some(end) = partition.end_offset.filter(|_| !done.is_empty()) {
                self.shared.wrote(&partition.topic, partition.partition, end);
            }
            self.finish(place, done);
        }
    }

    fn wake_at(&self, now: Instant) -> Option<Instant> {
        let producer_id = match self.identity {
            ProducerId::Missing { from, .. } => from.filter(|&from| from > now),
            ProducerId::Asked { .. } | ProducerId::Known(_) => None,
        };
        let transaction = self.txn.as_ref().and_then(|txn| txn.machine.wake_at(now));
        let partitions = self.partitions.iter().filter_map(|partition| partition.wake_at(now));
        partitions.chain(producer_id).chain(transaction).min()
    }
}

impl<T> Sender<T> {
    fn take(&mut self, message: Message, deadline: Instant) {
        match message {
            Message::Topic(name) => self.topics.push(Topic { name, places: HashMap::new() }),
            Message::End(ending) => self.begin_ending(ending),
            Message::Batch(Handover { topic, partition, batch, send_epoch }) => {
                let transactional = self.txn.is_some();
                let Topic { name, places } = &mut self.topics[topic.0];
                let place = *places.entry(partition).or_insert_with(|| {
                    self.partitions.push(Partition::new(name.clone(), partition, transactional));
                    self.partitions.len() - 1
                });
                self.partitions[place].push(batch, send_epoch, deadline);
            }
        }
    }

    pub(super) fn finish(&mut self, place: usize, done: Vec<Done>) {
        for Done { bytes, failure } in done {
            if let Some(failure) = &failure {
                // ORDER: before the failure is known, so that whoever sees it cannot commit any more.
                self.note_failure(&failure.error);
            }
            let partition = &self.partitions[place];
            match failure {
                None => self.shared.done(bytes),
                Some(failure) => self.shared.failed(
                    Failed {
                        topic: partition.topic.clone(),
                        partition: partition.partition,
                        batch: failure.batch,
                        guilty: failure.guilty,
                        error: failure.error,
                    },
                    bytes,
                ),
            }
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.inbox.close();
        while let Ok(message) = self.inbox.try_recv() {
            self.take(message, (self.now)());
        }
        for place in 0..self.partitions.len() {
            let done = self.partitions[place].close();
            self.finish(place, done);
        }
    }
}

async fn sleep_until(at: Option<Instant>, now: Instant) {
    match at {
        Some(at) => clock::sleep(at.saturating_duration_since(now)).await,
        None => std::future::pending().await,
    }
}

/// The calls under way: few, so they are all polled, always in the order in which they were made.
#[derive(Default)]
pub(super) struct Calls(Vec<Pin<Box<dyn Future<Output = Event> + Send>>>);

impl Calls {
    pub(super) fn push(&mut self, call: impl Future<Output = Event> + Send + 'static) {
        self.0.push(Box::pin(call));
    }

    /// Those that have come back, at least one.
    async fn ready(&mut self) -> Vec<Event> {
        poll_fn(|cx| {
            let mut events = Vec::new();
            self.0.retain_mut(|call| match call.as_mut().poll(cx) {
                Poll::Ready(event) => {
                    events.push(event);
                    false
                }
                Poll::Pending => true,
            });
            if events.is_empty() { Poll::Pending } else { Poll::Ready(events) }
        })
        .await
    }
}
