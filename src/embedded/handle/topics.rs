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
    let topics = once(&request.topics, |topic| topic.name.clone()).into_iter().map(|(topic, once)| {
        let answer = CreatableTopicResult::default().with_name(topic.name.clone());
        let planned = once.and_then(|()| plan(&state, topic, &broker.config));
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
                    false => plan.make(&mut state, &topic.name),
                };
                let replication = plan.assigned.first().map_or(plan.replication, Vec::len);
                answer
                    .with_topic_id(id)
                    .with_num_partitions(i32::try_from(plan.partitions).unwrap_or(i32::MAX))
                    .with_replication_factor(i16::try_from(replication).unwrap_or(i16::MAX))
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

/// What a request names, each name once, and whether it was named once only.
fn once<T, N: PartialEq>(all: &[T], name: impl Fn(&T) -> N) -> Vec<(&T, Result<(), Refusal>)> {
    let mut named: Vec<(N, &T, usize)> = Vec::new();
    for one in all {
        match named.iter_mut().find(|(known, ..)| *known == name(one)) {
            Some((_, _, times)) => *times += 1,
            None => named.push((name(one), one, 1)),
        }
    }
    let outcome = |times| match times {
        1 => Ok(()),
        _ => Err((ResponseError::InvalidRequest, "Duplicate topic name.".to_owned())),
    };
    named.into_iter().map(|(_, one, times)| (one, outcome(times))).collect()
}

struct Plan {
    partitions: usize,
    replication: usize,
    /// Partition by partition, if the request says so.
    assigned: Vec<Vec<i32>>,
    config: TopicConfig,
}

impl Plan {
    fn make(&self, state: &mut State, name: &str) -> Uuid {
        if self.assigned.is_empty() {
            return state.create_topic(name, self.partitions, self.replication, self.config.clone());
        }
        let id = state.create_topic(name, 0, 0, self.config.clone());
        for replicas in &self.assigned {
            state.add_assigned(name, replicas.clone());
        }
        id
    }
}

/// Makes a topic that somebody asked for, as the broker's settings have it, if that can be.
pub(crate) fn auto_create(state: &mut State, name: &str, defaults: &BrokerConfig) {
    let name = m::TopicName(StrBytes::from_string(name.to_owned()));
    let topic = CreatableTopic::default().with_name(name).with_num_partitions(-1).with_replication_factor(-1);
    match plan(state, &topic, defaults) {
        Ok(plan) => _ = plan.make(state, &topic.name),
        Err((error, why)) => tracing::warn!(topic = &**topic.name, %error, why, "a topic is not made"),
    }
}

/// Replicas that a request assigns to a partition (`validateManualPartitionAssignment`); all have as many as the first.
fn assigned(state: &State, replicas: &[m::BrokerId], factor: usize) -> Result<Vec<i32>, Refusal> {
    let refused = |why: String| {
        Err((ResponseError::InvalidReplicaAssignment, format!("The manual partition assignment {why}")))
    };
    let ids: Vec<i32> = replicas.iter().map(|id| id.0).collect();
    if ids.is_empty() {
        return refused("includes an empty replica list.".to_owned());
    }
    if let Some(unknown) = ids.iter().find(|id| !state.nodes.contains_key(id)) {
        return refused(format!("includes broker {unknown}, but no such broker is registered."));
    }
    if let Some((_, twice)) = ids.iter().enumerate().find(|(at, id)| ids[..*at].contains(id)) {
        return refused(format!("includes the broker {twice} more than once."));
    }
    if ids.len() != factor {
        let has = ids.len();
        return refused(format!("includes a partition with {has} replica(s), where others have {factor}."));
    }
    if !state.alive().any(|alive| ids.contains(&alive)) {
        return refused("names only brokers that are stopped.".to_owned());
    }
    Ok(ids)
}

/// The replicas of the partitions of a new topic, in order (`ReplicationControlManager.createTopic`).
fn all_assigned(state: &State, topic: &CreatableTopic) -> Result<Vec<Vec<i32>>, Refusal> {
    let refused = |why: &str| Err((ResponseError::InvalidReplicaAssignment, why.to_owned()));
    let factor = topic.assignments.first().map_or(0, |first| first.broker_ids.len());
    let mut partitions = std::collections::BTreeMap::new();
    for one in &topic.assignments {
        if partitions.contains_key(&one.partition_index) {
            return refused("Found multiple manual partition assignments for one partition.");
        }
        partitions.insert(one.partition_index, assigned(state, &one.broker_ids, factor)?);
    }
    match partitions.keys().copied().eq((0..).take(partitions.len())) {
        true => Ok(partitions.into_values().collect()),
        false => refused("partitions should be a consecutive 0-based integer sequence"),
    }
}

/// Whether there are nodes for as many replicas; one that is away is there, too (`StripedReplicaPlacer`).
fn enough_nodes(state: &State, replication: i64) -> Result<usize, Refusal> {
    let nodes = state.nodes.len();
    usize::try_from(replication).ok().filter(|replicas| (1..=nodes).contains(replicas)).ok_or_else(|| {
        let why = format!(
            "Unable to replicate the partition {replication} time(s): The target replication factor must be larger than \
             0, and {nodes} broker(s) are registered."
        );
        (ResponseError::InvalidReplicationFactor, why)
    })
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
    let partitions = or_default(topic.num_partitions, "num.partitions");
    let replication = or_default(topic.replication_factor.into(), "default.replication.factor");
    // ORDER: settings before partitions, as there.
    let changes = topic.configs.iter().map(|c| (c.name.as_str(), c.value.as_ref().map(|v| v.to_string())));
    let config = TopicConfig::default().with(changes).map_err(|why| (E::InvalidConfig, why))?;
    if !topic.assignments.is_empty() {
        if topic.num_partitions != -1 || topic.replication_factor != -1 {
            let why = "A manual partition assignment was specified, but numPartitions or replicationFactor was not set to -1.";
            return Err((E::InvalidRequest, why.to_owned()));
        }
        let assigned = all_assigned(state, topic)?;
        return Ok(Plan { partitions: assigned.len(), replication: 0, assigned, config });
    }
    if partitions > MOST_PARTITIONS {
        return Err((E::PolicyViolation, TOO_MANY.to_owned()));
    }
    if partitions < 1 {
        return Err((E::InvalidPartitions, "Number of partitions must be larger than 0.".to_owned()));
    }
    let replication = enough_nodes(state, replication)?;
    let partitions = usize::try_from(partitions).unwrap_or(1);
    Ok(Plan { partitions, replication, assigned: Vec::new(), config })
}

pub(crate) async fn delete_topics(
    broker: &Broker,
    caller: &Caller,
    request: m::DeleteTopicsRequest,
) -> m::DeleteTopicsResponse {
    let mut state = broker.lock();
    let by_name = request.topic_names.into_iter().map(|name| (Some(name), Uuid::nil()));
    let wanted: Vec<_> = by_name.chain(request.topics.into_iter().map(|t| (t.name, t.topic_id))).collect();
    let named = once(&wanted, |(name, id)| (name.clone(), *id));
    let responses = named.into_iter().map(|((name, id), once)| {
        let (name, id) = (name.clone(), *id);
        let answer = DeletableTopicResult::default().with_name(name.clone()).with_topic_id(id);
        let refused = |why: String| {
            answer
                .clone()
                .with_error_code(ResponseError::InvalidRequest.code())
                .with_error_message((caller.version >= 5).then(|| StrBytes::from_string(why)))
        };
        if let Err((_, why)) = once {
            return refused(why);
        }
        if name.is_some() != id.is_nil() {
            return refused("A topic is named by its name, or by its id.".to_owned());
        }
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
    let results = once(&request.topics, |topic| topic.name.clone()).into_iter().map(|(asked, once)| {
        let answer = CreatePartitionsTopicResult::default().with_name(asked.name.clone());
        let refused = |error: E, why: String| {
            answer.clone().with_error_code(error.code()).with_error_message(said(why))
        };
        if let Err((error, why)) = once {
            return refused(error, why);
        }
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
        let planned = match &asked.assignments {
            Some(all) => all.iter().map(|one| assigned(&state, &one.broker_ids, replication)).collect(),
            None => enough_nodes(&state, i64::try_from(replication).unwrap_or(i64::MAX)).map(|_| Vec::new()),
        };
        let planned: Vec<Vec<i32>> = match planned {
            Ok(planned) => planned,
            Err((error, why)) => return refused(error, why),
        };
        if !request.validate_only {
            for replicas in planned {
                state.add_assigned(&asked.name, replicas);
            }
            // What nobody has assigned.
            state.add_partitions(&asked.name, wanted, replication);
        }
        answer
    });
    let results = results.collect();
    m::CreatePartitionsResponse::default().with_results(results)
}
