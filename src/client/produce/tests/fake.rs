//! A cluster in memory that checks sequence numbers as a broker does, and fails as it is told.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use kafka_protocol::error::ResponseError as E;
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, ProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProduceRequest};
use tokio::sync::Semaphore;

use crate::client::batch::{Batch, Batches};
use crate::client::produce::{ProduceTransport, TxnCall, TxnSaid};
use crate::clock;
use crate::error::{Error, ErrorClass, ErrorKind, Result};

/// The permits of an open gate.
pub(super) const GATE: u32 = 1000;

/// What happens to one request.
#[derive(Debug, Clone)]
pub(super) enum Fate {
    /// It is carried out.
    Carried,
    /// It never arrives, and the connection breaks.
    Lost,
    /// It is carried out, but the connection breaks before the answer.
    AnswerLost,
    /// It is carried out after this, while later requests may overtake it.
    Late(Duration),
    /// The connection breaks, and after this the request is carried out all the same.
    Ghost(Duration),
    /// Each batch gets this code and is not written.
    Refused(E),
    /// Each batch is written and gets this code.
    WrittenBut(E),
    /// The batch with this value is refused for that record, the others are carried out.
    BadRecord(&'static str),
    /// The transport itself gives up for good.
    Broken,
}

#[derive(Debug, Default)]
struct Writer {
    epoch: i16,
    next_sequence: i32,
    /// The last five batches: first sequence, count, offset.
    last: VecDeque<(i32, i32, i64)>,
}

#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) values: Vec<String>,
    writers: HashMap<i64, Writer>,
    pub(super) leader: i32,
    /// The largest batch, in bytes.
    pub(super) max_batch: usize,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) logs: BTreeMap<(String, i32), Log>,
    /// What clients believe: a stale copy of the leaders.
    cached: HashMap<(String, i32), i32>,
    /// What happens to the next requests; then all are carried out.
    pub(super) fates: VecDeque<Fate>,
    /// What is the matter with the next InitProducerId calls.
    pub(super) id_errors: VecDeque<E>,
    next_producer_id: i64,
    /// Producer ids begin at this epoch.
    pub(super) first_epoch: i16,
    /// `(node, batches, bytes)` of every request, in the order of their arrival.
    pub(super) requests: Vec<(i32, usize, usize)>,
    /// `(producer epoch, base sequence, count)` of every batch that was written.
    pub(super) written: Vec<(i16, i32, i32)>,
    pub(super) in_flight: usize,
    pub(super) most_in_flight: usize,
    pub(super) invalidated: usize,
    /// Brokers before KIP-360 refuse a producer they do not know.
    pub(super) strict_about_unknown: bool,
}

#[derive(Debug)]
pub(super) struct FakeCluster {
    pub(super) state: Mutex<State>,
    latency: Duration,
    me: Weak<Self>,
    /// Requests are carried out only while this has permits.
    pub(super) gate: Semaphore,
}

impl FakeCluster {
    pub(super) fn new(topics: &[(&str, i32)]) -> Arc<Self> {
        let mut state = State { next_producer_id: 1000, ..State::default() };
        for &(topic, partitions) in topics {
            for partition in 0..partitions {
                let log = Log { leader: partition % 3, max_batch: 1 << 20, ..Log::default() };
                state.logs.insert((topic.to_owned(), partition), log);
            }
        }
        let gate = Semaphore::new(GATE as usize);
        let latency = Duration::from_millis(3);
        Arc::new_cyclic(|me| Self { state: Mutex::new(state), latency, me: me.clone(), gate })
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock().unwrap())
    }

    pub(super) fn fates(&self, fates: impl IntoIterator<Item = Fate>) {
        self.with(|state| state.fates.extend(fates));
    }

    pub(super) fn log(&self, topic: &str, partition: i32) -> Vec<String> {
        self.with(|state| state.logs[&(topic.to_owned(), partition)].values.clone())
    }

    pub(super) fn create(&self, topic: &str, partition: i32) {
        let log = Log { max_batch: 1 << 20, ..Log::default() };
        self.with(|state| state.logs.insert((topic.to_owned(), partition), log));
    }

    pub(super) fn move_leader(&self, topic: &str, partition: i32, node: i32) {
        self.with(|state| state.log(topic, partition).leader = node);
    }

    /// The brokers crash and come back: they remember each producer's last batch only.
    pub(super) fn crash(&self) {
        self.with(|state| {
            for writer in state.logs.values_mut().flat_map(|log| log.writers.values_mut()) {
                writer.last.drain(..writer.last.len().saturating_sub(1));
            }
        });
    }

    /// The broker forgets its producers, as when retention takes a partition's whole log.
    pub(super) fn forget_producers(&self) {
        self.with(|state| state.logs.values_mut().for_each(|log| log.writers.clear()));
    }
}

fn values(batch: &Batch) -> Vec<String> {
    batch
        .records()
        .unwrap()
        .map(|record| String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap())
        .collect()
}

impl State {
    pub(super) fn log(&mut self, topic: &str, partition: i32) -> &mut Log {
        self.logs.get_mut(&(topic.to_owned(), partition)).unwrap()
    }

    fn carry_out(&mut self, node: i32, request: &ProduceRequest, fate: &Fate) -> ProduceResponse {
        assert_eq!(request.acks, -1);
        let mut topics = Vec::new();
        for topic in &request.topic_data {
            let mut answers = Vec::new();
            for data in &topic.partition_data {
                let bytes = data.records.clone().unwrap();
                let mut batches = Batches::new(bytes.clone());
                let batch = batches.next().unwrap().unwrap();
                assert!(batches.next().is_none(), "one batch a partition");
                batch.verify_crc().unwrap();
                let mut answer = PartitionProduceResponse::default().with_index(data.index);
                match self.append(node, &topic.name.0, data.index, &batch, bytes.len(), fate, &mut answer) {
                    Ok(offset) => answer.base_offset = offset,
                    Err(code) => answer.error_code = code.code(),
                }
                answers.push(answer);
            }
            topics.push(
                TopicProduceResponse::default()
                    .with_name(topic.name.clone())
                    .with_partition_responses(answers),
            );
        }
        ProduceResponse::default().with_responses(topics)
    }

    #[allow(clippy::too_many_arguments, reason = "a test's helper")]
    fn append(
        &mut self,
        node: i32,
        topic: &str,
        partition: i32,
        batch: &Batch,
        size: usize,
        fate: &Fate,
        answer: &mut PartitionProduceResponse,
    ) -> Result<i64, E> {
        let strict = self.strict_about_unknown;
        let log = self.logs.get_mut(&(topic.to_owned(), partition)).ok_or(E::UnknownTopicOrPartition)?;
        if log.leader != node {
            return Err(E::NotLeaderOrFollower);
        }
        if let Fate::Refused(code) = fate {
            return Err(*code);
        }
        if size > log.max_batch {
            return Err(E::MessageTooLarge);
        }
        let values = values(batch);
        if let Fate::BadRecord(bad) = fate
            && let Some(index) = values.iter().position(|value| value == bad)
        {
            answer.record_errors = vec![BatchIndexAndErrorMessage::default().with_batch_index(index as i32)];
            return Err(E::InvalidRecord);
        }
        let (first, count) = (batch.base_sequence(), batch.record_count() as i32);
        assert!(first >= 0 && batch.producer_id() >= 0, "every batch is stamped");
        let known = log.writers.contains_key(&batch.producer_id());
        if !known && strict && first != 0 {
            return Err(E::UnknownProducerId);
        }
        let writer = log.writers.entry(batch.producer_id()).or_insert_with(|| Writer {
            epoch: batch.producer_epoch(),
            next_sequence: first,
            last: VecDeque::new(),
        });
        if batch.producer_epoch() < writer.epoch {
            return Err(E::InvalidProducerEpoch);
        }
        if batch.producer_epoch() > writer.epoch {
            if first != 0 {
                return Err(E::OutOfOrderSequenceNumber);
            }
            *writer = Writer { epoch: batch.producer_epoch(), ..Writer::default() };
        }
        if let Some(&(.., offset)) = writer.last.iter().find(|last| (last.0, last.1) == (first, count)) {
            return Ok(offset);
        }
        if first != writer.next_sequence {
            return Err(E::OutOfOrderSequenceNumber);
        }
        let offset = log.values.len() as i64;
        log.values.extend(values);
        writer.next_sequence = crate::client::batch::next_sequence(first, count);
        writer.last.push_back((first, count, offset));
        if writer.last.len() > 5 {
            writer.last.pop_front();
        }
        self.written.push((batch.producer_epoch(), first, count));
        match fate {
            Fate::WrittenBut(code) => Err(*code),
            _ => Ok(offset),
        }
    }
}

impl ProduceTransport for FakeCluster {
    async fn leader(&self, topic: &str, partition: i32) -> Result<i32> {
        clock::sleep(Duration::from_millis(1)).await;
        self.with(|state| {
            let key = (topic.to_owned(), partition);
            let Some(log) = state.logs.get(&key) else {
                return Err(Error::new(ErrorKind::Topic, "the topic does not exist")
                    .with_class(ErrorClass::Retriable)
                    .at_topic(topic));
            };
            let leader = log.leader;
            Ok(*state.cached.entry(key).or_insert(leader))
        })
    }

    fn invalidate(&self, topic: &str) {
        self.with(|state| {
            state.invalidated += 1;
            state.cached.retain(|(name, _), _| name != topic);
        });
    }

    async fn produce(
        &self,
        node: i32,
        request: ProduceRequest,
        _max_version: Option<i16>,
    ) -> Result<ProduceResponse> {
        let fate = self.with(|state| {
            let all = request.topic_data.iter().flat_map(|topic| &topic.partition_data);
            let bytes = all.clone().map(|data| data.records.as_ref().unwrap().len()).sum();
            state.requests.push((node, all.count(), bytes));
            state.in_flight += 1;
            state.most_in_flight = state.most_in_flight.max(state.in_flight);
            state.fates.pop_front().unwrap_or(Fate::Carried)
        });
        let result = self.answer(node, &request, &fate).await;
        self.with(|state| state.in_flight -= 1);
        result
    }

    async fn init_producer_id(&self, request: InitProducerIdRequest) -> Result<InitProducerIdResponse> {
        assert!(request.transactional_id.is_none());
        clock::sleep(Duration::from_millis(1)).await;
        Ok(self.with(|state| match state.id_errors.pop_front() {
            Some(code) => InitProducerIdResponse::default().with_error_code(code.code()),
            None => {
                state.next_producer_id += 1;
                InitProducerIdResponse::default()
                    .with_producer_id(state.next_producer_id.into())
                    .with_producer_epoch(std::mem::take(&mut state.first_epoch))
            }
        }))
    }

    async fn transaction(&self, _call: TxnCall) -> Result<TxnSaid> {
        Err(Error::new(ErrorKind::IllegalState, "this cluster has no transactions"))
    }
}

impl FakeCluster {
    async fn answer(&self, node: i32, request: &ProduceRequest, fate: &Fate) -> Result<ProduceResponse> {
        let broken =
            || Error::new(ErrorKind::Connection, "the connection broke").with_class(ErrorClass::Retriable);
        let gate = self.gate.acquire().await.unwrap();
        match fate {
            Fate::Lost => {
                clock::sleep(self.latency).await;
                return Err(broken());
            }
            Fate::Ghost(after) => {
                let (me, request, after) = (self.me.upgrade().unwrap(), request.clone(), *after);
                tokio::spawn(async move {
                    clock::sleep(after).await;
                    me.with(|state| state.carry_out(node, &request, &Fate::Carried));
                });
                clock::sleep(self.latency).await;
                return Err(broken());
            }
            Fate::Broken => return Err(Error::new(ErrorKind::Closed, "the client was closed")),
            Fate::Late(by) => clock::sleep(*by).await,
            _ => {}
        }
        drop(gate);
        let response = self.with(|state| state.carry_out(node, request, fate));
        clock::sleep(self.latency).await;
        match fate {
            Fate::AnswerLost => Err(broken()),
            _ => Ok(response),
        }
    }
}
