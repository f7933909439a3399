//! Produce.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;
use kafka_protocol::messages::produce_request::TopicProduceData;
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::protocol::StrBytes;

use crate::TopicPartition;
use crate::client::batch::Batch;
use crate::clock;
use crate::embedded::broker::{Broker, Caller};
use crate::embedded::handle::group::exists;
use crate::embedded::log::{Appended, Refused, only_batch};
use crate::embedded::refuse::Refuse;
use crate::embedded::state::State;
use crate::embedded::txn::Participant;

/// `None` where no acknowledgement is wanted.
pub(crate) async fn produce(
    broker: &Broker,
    caller: &Caller,
    request: m::ProduceRequest,
) -> Option<m::ProduceResponse> {
    let acks = request.acks;
    if !matches!(acks, -1..=1) {
        return Some(request.refuse(ResponseError::InvalidRequiredAcks.code()));
    }
    if request.transactional_id.is_none() && request.topic_data.iter().any(has_transactional) {
        // Kafka asks whether the id may be used before it looks at anything else, and none may not.
        caller.session().hang_up |= acks == 0;
        let refused = request.refuse(ResponseError::TransactionalIdAuthorizationFailed.code());
        return (acks != 0).then_some(refused);
    }
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let transactional_id = request.transactional_id.as_ref().map(|id| id.as_str());
    let transactional_id = transactional_id.unwrap_or_default();
    let mut responses = Vec::with_capacity(request.topic_data.len());
    // What must be replicated before it is acknowledged: place in the response, and the end of the log.
    let mut awaited = Vec::new();
    let mut failed = false;
    {
        let mut state = broker.lock();
        for topic in request.topic_data {
            let mut partitions = Vec::with_capacity(topic.partition_data.len());
            for data in topic.partition_data {
                let at = (topic.name.as_str(), data.index);
                let appended = append(broker, caller, &mut state, at, data.records, acks, transactional_id);
                if let Ok(appended) = &appended
                    && acks == -1
                {
                    awaited.push((responses.len(), partitions.len(), appended.end));
                }
                failed |= appended.is_err();
                partitions.push(answer(&mut state, at, appended));
            }
            responses.push(
                TopicProduceResponse::default().with_name(topic.name).with_partition_responses(partitions),
            );
        }
    }
    broker.changed.notify_waiters();
    if acks == 0 {
        // The only way to tell such a producer that something is wrong.
        caller.session().hang_up |= failed;
        return None;
    }
    let replicated = clock::timeout(timeout, replicated(broker, caller, &mut responses, &mut awaited)).await;
    if replicated.is_none() {
        for (topic, partition, _) in awaited {
            fail(&mut responses[topic].partition_responses[partition], ResponseError::RequestTimedOut);
        }
    }
    Some(m::ProduceResponse::default().with_responses(responses))
}

fn append(
    broker: &Broker,
    caller: &Caller,
    state: &mut State,
    (topic, partition): (&str, i32),
    records: Option<Bytes>,
    acks: i16,
    transactional_id: &str,
) -> Result<Appended, Unwritten> {
    if !exists(&state.topics)(topic, partition) {
        return Err(ResponseError::UnknownTopicOrPartition.into());
    }
    // ORDER: what the request itself gives away before who leads, as in `KafkaApis.handleProduceRequest`.
    let batch = only_batch(records.unwrap_or_default())?;
    let alive: Vec<i32> = state.alive().collect();
    let (led, _) = state.led(caller.node, topic, partition, -1)?;
    if batch.is_transactional() && !led.log.has_transaction(batch.producer_id(), batch.producer_epoch()) {
        may_begin(broker, caller, state, (topic, partition), &batch, transactional_id)?;
    }
    let (led, config) = state.led(caller.node, topic, partition, -1)?;
    let start = led.log.start();
    let in_sync = led.replicas.iter().filter(|id| alive.contains(id)).count();
    let appended = match i64::try_from(in_sync).unwrap_or(i64::MAX) < config.number("min.insync.replicas") {
        true if acks == -1 => Err(ResponseError::NotEnoughReplicas.into()),
        _ => led.log.append(batch, config, led.leader_epoch, broker.clock.wall_ms()),
    };
    appended.map_err(|refused| match refused.error {
        ResponseError::MessageTooLarge
        | ResponseError::RecordListTooLarge
        | ResponseError::CorruptMessage => refused.into(),
        _ => Unwritten { refused, start },
    })
}

/// Why nothing was written, and where the log starts, if it was the log that refused (`ReplicaManager.appendToLocalLog`);
/// else -1.
struct Unwritten {
    refused: Refused,
    start: i64,
}

impl From<Refused> for Unwritten {
    fn from(refused: Refused) -> Self {
        Self { refused, start: -1 }
    }
}

impl From<ResponseError> for Unwritten {
    fn from(error: ResponseError) -> Self {
        Refused::from(error).into()
    }
}

fn has_transactional(topic: &TopicProduceData) -> bool {
    let batches = topic.partition_data.iter().filter_map(|data| only_batch(data.records.clone()?).ok());
    batches.into_iter().any(|batch| batch.is_transactional())
}

/// The first version of Produce in which the leader adds the partition to the transaction (KIP-890, version 2).
const ADDS_PARTITIONS: i16 = 12;

/// Asks the coordinator whether the partition belongs to the producer's transaction, or has it added (KIP-890).
fn may_begin(
    broker: &Broker,
    caller: &Caller,
    state: &mut State,
    at: (&str, i32),
    batch: &Batch,
    transactional_id: &str,
) -> Result<(), Refused> {
    let producer = (batch.producer_id(), batch.producer_epoch());
    if caller.version >= ADDS_PARTITIONS {
        let participant = Participant::Partition(TopicPartition::new(at.0, at.1));
        return Ok(state.txn.add_for_leader(broker.clock.now(), transactional_id, producer, participant)?);
    }
    if !broker.config.flag("transaction.partition.verification.enable") {
        return Ok(());
    }
    Ok(state.txn.verify(transactional_id, producer, at, caller.version)?)
}

fn answer(
    state: &mut State,
    (topic, partition): (&str, i32),
    appended: Result<Appended, Unwritten>,
) -> PartitionProduceResponse {
    let answer = PartitionProduceResponse::default().with_index(partition);
    match appended {
        Ok(appended) => {
            let at = usize::try_from(partition).unwrap_or(0);
            let start = state.topics.get(topic).and_then(|t| t.partitions.get(at)).map(|p| p.log.start());
            answer
                .with_base_offset(appended.base_offset)
                .with_log_append_time_ms(appended.append_time)
                .with_log_start_offset(start.unwrap_or(-1))
        }
        Err(Unwritten { refused, start }) => {
            let records = refused.records.into_iter().map(|(at, why)| {
                BatchIndexAndErrorMessage::default()
                    .with_batch_index(at)
                    .with_batch_index_error_message(Some(StrBytes::from_string(why)))
            });
            let mut answer = answer
                .with_record_errors(records.collect())
                .with_error_message(Some(StrBytes::from_string(refused.message)));
            fail(&mut answer, refused.error);
            answer.with_log_start_offset(start)
        }
    }
}

fn fail(answer: &mut PartitionProduceResponse, error: ResponseError) {
    answer.error_code = error.code();
    (answer.base_offset, answer.log_append_time_ms, answer.log_start_offset) = (-1, -1, -1);
}

/// Waits until everything awaited is below the high watermark, or is lost with its leader.
async fn replicated(
    broker: &Broker,
    caller: &Caller,
    responses: &mut [TopicProduceResponse],
    awaited: &mut Vec<(usize, usize, i64)>,
) {
    loop {
        let changed = broker.changed.notified();
        tokio::pin!(changed);
        // ORDER: listening begins before looking, so that no change falls in between.
        changed.as_mut().enable();
        {
            let mut state = broker.lock();
            awaited.retain(|(topic, partition, end)| {
                let topic = &mut responses[*topic];
                let answer = &mut topic.partition_responses[*partition];
                match state.led(caller.node, &topic.name, answer.index, -1) {
                    Ok((led, _)) => led.log.high_watermark() < *end,
                    Err(error) => {
                        fail(answer, error);
                        false
                    }
                }
            });
        }
        if awaited.is_empty() {
            return;
        }
        changed.await;
    }
}
