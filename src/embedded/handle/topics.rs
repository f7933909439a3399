//! Topics: CreateTopics, DeleteTopics, CreatePartitions.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::cluster::is_legal_name;
use crate::embedded::broker::{Broker, Caller};
use crate::embedded::config::{BrokerConfig, TopicConfig};
use crate::embedded::state::State;

/// An error, and what is said about it.
type Refusal = (ResponseError, String);

fn said(text: String) -> Option<StrBytes> {
    Some(StrBytes::from_string(text))
}

pub(crate) async fn create_topics(
    broker: &Broker,
    _caller: &Caller,
    request: m::CreateTopicsRequest,
) -> m::CreateTopicsResponse {
    let mut state = broker.lock();
    let twice = |topic: &CreatableTopic| request.topics.iter().filter(|t| t.name == topic.name).count() > 1;
    let topics = request.topics.iter().map(|topic| {
        let answer = CreatableTopicResult::default().with_name(topic.name.clone());
        let planned = match twice(topic) {
            true => Err((ResponseError::InvalidRequest, "Duplicate topic name.".to_owned())),
            false => plan(&state, topic, &broker.config),
        };
        match planned {
            Ok(plan) => {
                let configs = plan.config.all().map(|(name, value, set, _)| {
                    CreatableTopicConfigs::default()
                        .with_name(StrBytes::from_static_str(name))
                        .with_value(said(value.to_owned()))
                        .with_config_source(super::configs::source(set))
                });
                let configs = configs.collect();
                let id = match request.validate_only {
                    true => Uuid::nil(),
                    false => make(&mut state, topic, &plan),
                };
                answer
                    .with_topic_id(id)
                    .with_num_partitions(i32::try_from(plan.partitions).unwrap_or(i32::MAX))
                    .with_replication_factor(i16::try_from(plan.replication).unwrap_or(i16::MAX))
                    .with_configs(Some(configs))
            }
            Err((error, why)) => answer
                .with_error_code(error.code())
                .with_error_message(said(why))
                .with_num_partitions(-1)
                .with_replication_factor(-1)
                .with_configs(Some(Vec::new())),
        }
    });
    let topics = topics.collect();
    m::CreateTopicsResponse::default().with_topics(topics)
}

/// The most partitions that a topic is made with or gets, and what Kafka says of more (`ReplicationControlManager`).
const MOST_PARTITIONS: i64 = 10_000;
const TOO_MANY: &str = "Excessively large number of partitions per request.";

struct Plan {
    partitions: usize,
    replication: usize,
    config: TopicConfig,
}

/// `ReplicationControlManager.createTopic`: what is to be made, or why not.
fn plan(state: &State, topic: &CreatableTopic, defaults: &BrokerConfig) -> Result<Plan, Refusal> {
    use ResponseError as E;
    let name = topic.name.as_str();
    if !is_legal_name(name) {
        return Err((E::InvalidTopicException, format!("Topic name is invalid: '{name}'")));
    }
    if state.topics.contains_key(name) {
        return Err((E::TopicAlreadyExists, format!("Topic '{name}' already exists.")));
    }
    let flat = |name: &str| name.replace('.', "_");
    if let Some(other) = state.topics.keys().find(|other| flat(other) == flat(name)) {
        let why = format!("Topic '{name}' collides with existing topic: {other}");
        return Err((E::InvalidTopicException, why));
    }
    let or_default = |value: i32, setting| if value == -1 { defaults.number(setting) } else { value.into() };
    let mut partitions = or_default(topic.num_partitions, "num.partitions");
    let mut replication = or_default(topic.replication_factor.into(), "default.replication.factor");
    if let Some(first) = topic.assignments.first() {
        partitions = i64::try_from(topic.assignments.len()).unwrap_or(i64::MAX);
        replication = i64::try_from(first.broker_ids.len()).unwrap_or(i64::MAX);
        let known = |id: &m::BrokerId| state.nodes.contains_key(&id.0);
        if topic.num_partitions != -1 || topic.replication_factor != -1 {
            let why = "A manual partition assignment was specified, but numPartitions or replicationFactor was not set to -1.";
            return Err((E::InvalidRequest, why.to_owned()));
        }
        if !topic.assignments.iter().flat_map(|assigned| &assigned.broker_ids).all(known) || replication == 0
        {
            let why = "The manual partition assignment names nodes that are not there.";
            return Err((E::InvalidReplicaAssignment, why.to_owned()));
        }
    }
    if partitions > MOST_PARTITIONS {
        return Err((E::PolicyViolation, TOO_MANY.to_owned()));
    }
    if partitions < 1 {
        return Err((E::InvalidPartitions, "Number of partitions must be larger than 0.".to_owned()));
    }
    let alive = state.alive().count();
    let usable = usize::try_from(replication).ok().filter(|replicas| (1..=alive).contains(replicas));
    let Some(replication) = usable else {
        let why = format!(
            "Unable to replicate the partition {replication} time(s): The target replication factor must be larger than \
             0, and {alive} broker(s) are registered."
        );
        return Err((E::InvalidReplicationFactor, why));
    };
    let changes = topic.configs.iter().map(|c| (c.name.as_str(), c.value.as_ref().map(|v| v.to_string())));
    let config = TopicConfig::default().with(changes).map_err(|why| (E::InvalidConfig, why))?;
    Ok(Plan { partitions: usize::try_from(partitions).unwrap_or(1), replication, config })
}

fn make(state: &mut State, topic: &CreatableTopic, plan: &Plan) -> Uuid {
    let id = state.create_topic(&topic.name, plan.partitions, plan.replication, plan.config.clone());
    for assigned in &topic.assignments {
        let at = usize::try_from(assigned.partition_index).unwrap_or(usize::MAX);
        let partition =
            state.topics.get_mut(topic.name.as_str()).and_then(|topic| topic.partitions.get_mut(at));
        if let Some(partition) = partition {
            partition.replicas = assigned.broker_ids.iter().map(|id| id.0).collect();
            partition.leader = partition.replicas.first().copied();
        }
    }
    id
}

pub(crate) async fn delete_topics(
    broker: &Broker,
    _caller: &Caller,
    request: m::DeleteTopicsRequest,
) -> m::DeleteTopicsResponse {
    let mut state = broker.lock();
    let by_name = request.topic_names.into_iter().map(|name| (Some(name), Uuid::nil()));
    let wanted: Vec<_> = by_name.chain(request.topics.into_iter().map(|t| (t.name, t.topic_id))).collect();
    let responses = wanted.into_iter().map(|(name, id)| {
        let known = match &name {
            Some(name) => Some(name.to_string()),
            None => state.topics.iter().find(|(_, topic)| topic.id == id).map(|(name, _)| name.clone()),
        };
        let id = known.as_ref().and_then(|name| state.topics.get(name)).map_or(id, |topic| topic.id);
        let answer = DeletableTopicResult::default().with_topic_id(id);
        match known {
            Some(known) if state.delete_topic(&known) => {
                answer.with_name(Some(m::TopicName(StrBytes::from_string(known))))
            }
            Some(_) => answer.with_name(name).with_error_code(ResponseError::UnknownTopicOrPartition.code()),
            None => answer.with_name(name).with_error_code(ResponseError::UnknownTopicId.code()),
        }
    });
    let responses = responses.collect();
    broker.changed.notify_waiters();
    m::DeleteTopicsResponse::default().with_responses(responses)
}

pub(crate) async fn create_partitions(
    broker: &Broker,
    _caller: &Caller,
    request: m::CreatePartitionsRequest,
) -> m::CreatePartitionsResponse {
    use ResponseError as E;
    let mut state = broker.lock();
    let results = request.topics.into_iter().map(|asked| {
        let answer = CreatePartitionsTopicResult::default().with_name(asked.name.clone());
        let refused = |error: E, why: String| {
            answer.clone().with_error_code(error.code()).with_error_message(said(why))
        };
        let Some(topic) = state.topics.get(asked.name.as_str()) else {
            return refused(E::UnknownTopicOrPartition, "There is no such topic.".to_owned());
        };
        let (has, wanted) = (topic.partitions.len(), usize::try_from(asked.count).unwrap_or(0));
        if wanted == has {
            return refused(E::InvalidPartitions, format!("Topic already has {has} partition(s)."));
        }
        if wanted < has {
            let why = format!(
                "The topic {} currently has {has} partition(s); {} would not be an increase.",
                &*asked.name, asked.count
            );
            return refused(E::InvalidPartitions, why);
        }
        if i64::from(asked.count) > MOST_PARTITIONS {
            return refused(E::PolicyViolation, TOO_MANY.to_owned());
        }
        if asked.assignments.as_ref().is_some_and(|assigned| assigned.len() != wanted - has) {
            return refused(
                E::InvalidReplicaAssignment,
                format!("The assignments are not for {} new partition(s).", wanted - has),
            );
        }
        let replication = topic.partitions.first().map_or(1, |first| first.replicas.len());
        if !request.validate_only {
            state.add_partitions(&asked.name, wanted, replication);
        }
        answer
    });
    let results = results.collect();
    m::CreatePartitionsResponse::default().with_results(results)
}
