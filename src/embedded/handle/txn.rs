//! Transactions, and producer ids.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::error::ResponseError as Code;
use kafka_protocol::messages as m;
use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnTopicResult,
};

use kafka_protocol::protocol::StrBytes;

use crate::TopicPartition;
use crate::embedded::broker::{Broker, Caller};
use crate::embedded::coordinators::CoordinatorKind;
use crate::embedded::handle::group::{exists, origin};
use crate::embedded::refuse::Refuse;
use crate::embedded::state::State;
use crate::embedded::txn::{Described, Marker, Participant, Producer, TransactionState};

/// The first versions of transaction version 2 (KIP-890): each end begins the next epoch, and whoever writes for a
/// transaction adds itself.
const END_TXN_V2: i16 = 5;
const TXN_OFFSET_COMMIT_V2: i16 = 5;
/// The first version of ListTransactions with a filter for durations (KIP-994).
const DURATION_FILTER: i16 = 1;

/// A result as an error code, in words that a client of before KIP-588 knows: its producer is told that its epoch is
/// old, later ones that they are fenced. `since` is the version that knows the new word.
fn code(outcome: Result<(), Code>, version: i16, since: i16) -> i16 {
    match outcome {
        Ok(()) => 0,
        Err(Code::ProducerFenced) if version < since => Code::InvalidProducerEpoch.code(),
        Err(code) => code.code(),
    }
}

pub(crate) async fn init_producer_id(
    broker: &Broker,
    caller: &Caller,
    request: m::InitProducerIdRequest,
) -> m::InitProducerIdResponse {
    let mut state = broker.lock();
    let id = request.transactional_id.as_ref().map(|id| id.as_str());
    let expected = match (request.producer_id.0, request.producer_epoch) {
        (-1, -1) => Ok(None),
        (-1, _) | (_, -1) => Err(Code::InvalidRequest),
        (id, epoch) => Ok(Some(Producer { id, epoch })),
    };
    let max = broker.config.number("transaction.max.timeout.ms");
    let outcome = expected.and_then(|expected| {
        if let Some(id) = id {
            state.must_coordinate(caller.node, CoordinatorKind::Transaction, id)?;
        }
        state.txn.init_producer_id(id, request.transaction_timeout_ms, max, expected)
    });
    // Whoever initialised during a transaction has it aborted, and asks again.
    state.write_markers(broker.clock.wall_ms());
    drop(state);
    broker.changed.notify_waiters();
    let answer = m::InitProducerIdResponse::default();
    match outcome {
        Ok(producer) => {
            answer.with_producer_id(m::ProducerId(producer.id)).with_producer_epoch(producer.epoch)
        }
        Err(refused) => answer
            .with_error_code(code(Err(refused), caller.version, 4))
            .with_producer_id(m::ProducerId(-1))
            .with_producer_epoch(-1),
    }
}

/// Adds participants to the open transaction of the caller, or opens one.
fn add(
    broker: &Broker,
    state: &mut State,
    caller: &Caller,
    transactional_id: &str,
    (id, epoch): (m::ProducerId, i16),
    participants: Vec<Participant>,
) -> Result<(), Code> {
    state.must_coordinate(caller.node, CoordinatorKind::Transaction, transactional_id)?;
    let producer = Producer { id: id.0, epoch };
    state.txn.add(broker.clock.now(), transactional_id, producer, participants)
}

/// Versions 0 to 3: one transaction. All its partitions are added, or none is.
pub(crate) async fn add_partitions_to_txn(
    broker: &Broker,
    caller: &Caller,
    request: m::AddPartitionsToTxnRequest,
) -> m::AddPartitionsToTxnResponse {
    let mut state = broker.lock();
    let topics = &request.v3_and_below_topics;
    let participants = topics.iter().flat_map(|topic| {
        let partition = |partition: &i32| TopicPartition::new(topic.name.as_str(), *partition);
        topic.partitions.iter().map(partition).map(Participant::Partition)
    });
    let participants: Vec<_> = participants.collect();
    let all_exist =
        topics.iter().all(|topic| topic.partitions.iter().all(|p| exists(&state.topics)(&topic.name, *p)));
    let outcome = match all_exist {
        true => {
            let producer = (request.v3_and_below_producer_id, request.v3_and_below_producer_epoch);
            let id = request.v3_and_below_transactional_id.0.as_str();
            add(broker, &mut state, caller, id, producer, participants)
        }
        false => Err(Code::OperationNotAttempted),
    };
    let common = code(outcome, caller.version, 2);
    let results = topics.iter().map(|topic| {
        let partition = |partition: &i32| {
            let code = match exists(&state.topics)(&topic.name, *partition) {
                true => common,
                false => Code::UnknownTopicOrPartition.code(),
            };
            AddPartitionsToTxnPartitionResult::default()
                .with_partition_index(*partition)
                .with_partition_error_code(code)
        };
        AddPartitionsToTxnTopicResult::default()
            .with_name(topic.name.clone())
            .with_results_by_partition(topic.partitions.iter().map(partition).collect())
    });
    m::AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(results.collect())
}

pub(crate) async fn add_offsets_to_txn(
    broker: &Broker,
    caller: &Caller,
    request: m::AddOffsetsToTxnRequest,
) -> m::AddOffsetsToTxnResponse {
    let mut state = broker.lock();
    let producer = (request.producer_id, request.producer_epoch);
    let group = Participant::Group(request.group_id.to_string());
    let outcome = add(broker, &mut state, caller, &request.transactional_id, producer, vec![group]);
    m::AddOffsetsToTxnResponse::default().with_error_code(code(outcome, caller.version, 2))
}

pub(crate) async fn end_txn(
    broker: &Broker,
    caller: &Caller,
    request: m::EndTxnRequest,
) -> m::EndTxnResponse {
    let mut state = broker.lock();
    let id = request.transactional_id.as_str();
    let producer = Producer { id: request.producer_id.0, epoch: request.producer_epoch };
    let outcome = state.must_coordinate(caller.node, CoordinatorKind::Transaction, id).and_then(|()| {
        match caller.version >= END_TXN_V2 {
            true => state.txn.end_and_bump(id, producer, request.committed).map(Some),
            false => state.txn.end(id, producer, request.committed).map(|()| None),
        }
    });
    state.write_markers(broker.clock.wall_ms());
    drop(state);
    broker.changed.notify_waiters();
    let answer = m::EndTxnResponse::default();
    match outcome {
        Ok(Some(next)) => answer.with_producer_id(m::ProducerId(next.id)).with_producer_epoch(next.epoch),
        outcome => answer.with_error_code(code(outcome.map(drop), caller.version, 2)),
    }
}

/// The offsets wait with the group until the transaction ends.
pub(crate) async fn txn_offset_commit(
    broker: &Broker,
    caller: &Caller,
    request: m::TxnOffsetCommitRequest,
) -> m::TxnOffsetCommitResponse {
    let mut state = broker.lock();
    let from = origin(&state, caller, &request.group_id);
    if from.home.is_ok() && caller.version >= TXN_OFFSET_COMMIT_V2 {
        let group = Participant::Group(request.group_id.to_string());
        let producer = (request.producer_id.0, request.producer_epoch);
        let added = state.txn.add_for_leader(broker.clock.now(), &request.transactional_id, producer, group);
        if let Err(refused) = added {
            return request.refuse(refused.code());
        }
    } else if from.home.is_ok() && broker.config.flag("transaction.partition.verification.enable") {
        let group = Participant::Group(request.group_id.to_string());
        let producer = Producer { id: request.producer_id.0, epoch: request.producer_epoch };
        if let Err(refused) = state.txn.may_write(&request.transactional_id, producer, &group) {
            let code = match refused {
                Code::ProducerFenced => Code::InvalidProducerEpoch,
                Code::ConcurrentTransactions => Code::CoordinatorNotAvailable,
                Code::TransactionAbortable if caller.version < 4 => Code::InvalidTxnState,
                code => code,
            };
            return request.refuse(code.code());
        }
    }
    let State { groups, topics, .. } = &mut *state;
    groups.txn_commit(broker.clock.now(), from, request, exists(topics))
}

/// As `TransactionState.name` has it.
fn state_name(state: TransactionState) -> StrBytes {
    StrBytes::from_static_str(match state {
        TransactionState::Empty => "Empty",
        TransactionState::Ongoing => "Ongoing",
        TransactionState::PrepareCommit => "PrepareCommit",
        TransactionState::PrepareAbort => "PrepareAbort",
        TransactionState::CompleteCommit => "CompleteCommit",
        TransactionState::CompleteAbort => "CompleteAbort",
    })
}

const STATES: [&str; 8] = [
    "Empty",
    "Ongoing",
    "PrepareCommit",
    "PrepareAbort",
    "CompleteCommit",
    "CompleteAbort",
    "PrepareEpochFence",
    "Dead",
];

/// The transactional ids that this node coordinates (KIP-664, KIP-994).
pub(crate) async fn list_transactions(
    broker: &Broker,
    caller: &Caller,
    request: m::ListTransactionsRequest,
) -> m::ListTransactionsResponse {
    let state = broker.lock();
    let now = broker.clock.now();
    let longer = u64::try_from(request.duration_filter).ok().filter(|_| caller.version >= DURATION_FILTER);
    let wanted = |of: &Described<'_>| {
        let ours = state.must_coordinate(caller.node, CoordinatorKind::Transaction, of.id).is_ok();
        let named = request.state_filters.iter().any(|name| *name == state_name(of.state));
        let by = request.producer_id_filters.iter().any(|id| id.0 == of.producer.id);
        let old =
            |ms| of.started.is_some_and(|at| now.saturating_duration_since(at) > Duration::from_millis(ms));
        ours && (request.state_filters.is_empty() || named)
            && (request.producer_id_filters.is_empty() || by)
            && longer.is_none_or(old)
    };
    let listed = state.txn.all().filter(wanted).map(|of| {
        m::list_transactions_response::TransactionState::default()
            .with_transactional_id(m::TransactionalId(StrBytes::from_string(of.id.to_owned())))
            .with_producer_id(m::ProducerId(of.producer.id))
            .with_transaction_state(state_name(of.state))
    });
    let unknown = request.state_filters.iter().filter(|name| !STATES.contains(&name.as_str()));
    m::ListTransactionsResponse::default()
        .with_unknown_state_filters(unknown.cloned().collect())
        .with_transaction_states(listed.collect())
}

/// What is known of transactional ids (KIP-664).
pub(crate) async fn describe_transactions(
    broker: &Broker,
    caller: &Caller,
    request: m::DescribeTransactionsRequest,
) -> m::DescribeTransactionsResponse {
    use m::describe_transactions_response::{TopicData, TransactionState as Answer};
    let state = broker.lock();
    let (now, wall_ms) = (broker.clock.now(), broker.clock.wall_ms());
    let describe = |id: &m::TransactionalId| {
        let answer = Answer::default().with_transactional_id(id.clone());
        let found = state
            .must_coordinate(caller.node, CoordinatorKind::Transaction, id)
            .and_then(|()| state.txn.describe(id).ok_or(Code::TransactionalIdNotFound));
        let of = match found {
            Ok(of) => of,
            Err(code) => return answer.with_error_code(code.code()),
        };
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for participant in of.participants {
            match participant {
                Participant::Partition(at) => topics.entry(&at.topic).or_default().push(at.partition),
                // Kafka names the partition of the group's offsets; there is no such topic here.
                Participant::Group(_) => {}
            }
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            let topic = m::TopicName(StrBytes::from_string(topic.to_owned()));
            TopicData::default().with_topic(topic).with_partitions(partitions)
        });
        let age = of.started.map(|at| now.saturating_duration_since(at).as_millis());
        let started = age.map_or(-1, |age| wall_ms - i64::try_from(age).unwrap_or(0));
        answer
            .with_producer_id(m::ProducerId(of.producer.id))
            .with_producer_epoch(of.producer.epoch)
            .with_transaction_state(state_name(of.state))
            .with_transaction_timeout_ms(of.timeout_ms)
            .with_transaction_start_time_ms(started)
            .with_topics(topics.collect())
    };
    m::DescribeTransactionsResponse::default()
        .with_transaction_states(request.transactional_ids.iter().map(describe).collect())
}

impl State {
    /// Writes the markers of the transactions that have ended. What nobody leads now is written when somebody does.
    pub(crate) fn write_markers(&mut self, wall_ms: i64) {
        for marker in self.txn.markers() {
            if self.write_marker(&marker, wall_ms) {
                self.txn.marker_written(&marker);
            }
        }
    }

    /// Says whether the participant knows, or is gone.
    fn write_marker(&mut self, marker: &Marker, wall_ms: i64) -> bool {
        let at = match &marker.participant {
            Participant::Group(_) => {
                self.groups.complete_txn(marker.producer.id, marker.commit);
                return true;
            }
            Participant::Partition(at) => at,
        };
        let Some(topic) = self.topics.get_mut(&*at.topic) else { return true };
        let index = usize::try_from(at.partition).unwrap_or(usize::MAX);
        let Some(partition) = topic.partitions.get_mut(index) else { return true };
        // A marker that only the leader has could be lost with it, and nobody would write it again.
        if partition.leader.is_none() || partition.log.high_watermark() < partition.log.end() {
            return false;
        }
        let producer = (marker.producer.id, marker.producer.epoch);
        let written = partition.log.append_marker(
            producer,
            marker.coordinator_epoch,
            marker.commit,
            &topic.config,
            partition.leader_epoch,
            wall_ms,
        );
        if let Err(error) = written {
            // As in Kafka (`TransactionMarkerRequestCompletionHandler`): somebody newer has been here.
            tracing::debug!(%error, ?marker, "a marker is refused");
        }
        true
    }
}
