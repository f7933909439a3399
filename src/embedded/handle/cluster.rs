//! The cluster: ApiVersions, Metadata, FindCoordinator, DescribeCluster.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;
use kafka_protocol::messages::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::embedded::api::Api;
use crate::embedded::broker::{Broker, Caller};
use crate::embedded::config::TRANSACTION_VERSION;
use crate::embedded::coordinators::CoordinatorKind;
use crate::embedded::refuse::Refuse;
use crate::embedded::state::{State, Topic};

/// Where all nodes are.
pub(crate) const HOST: &str = "127.0.0.1";

pub(crate) async fn api_versions(
    broker: &Broker,
    caller: &Caller,
    request: m::ApiVersionsRequest,
) -> m::ApiVersionsResponse {
    let named = [&request.client_software_name, &request.client_software_version];
    if caller.version >= 3 && !named.into_iter().all(|name| is_software_name(name)) {
        return request.refuse(ResponseError::InvalidRequest.code());
    }
    // Level 1 is what a client takes for granted that is told of no features.
    let level = i16::try_from(broker.config.number(TRANSACTION_VERSION)).unwrap_or(1);
    if level < 2 {
        return versions();
    }
    let name = StrBytes::from_static_str(TRANSACTION_VERSION);
    let supported =
        SupportedFeatureKey::default().with_name(name.clone()).with_min_version(0).with_max_version(2);
    let finalized = FinalizedFeatureKey::default()
        .with_name(name)
        .with_max_version_level(level)
        .with_min_version_level(level);
    versions()
        .with_supported_features(vec![supported])
        .with_finalized_features_epoch(1)
        .with_finalized_features(vec![finalized])
}

/// `ApiVersionsRequest.isValid` (KIP-511).
fn is_software_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    name.chars().all(inner) && ends(name.chars().next()) && ends(name.chars().next_back())
}

/// What is understood. Version 0 of it is also the answer to an ApiVersions of an unknown version (KIP-511).
pub(crate) fn versions() -> m::ApiVersionsResponse {
    let apis = Api::ALL.iter().map(|(api, min, max)| {
        ApiVersion::default().with_api_key(*api as i16).with_min_version(*min).with_max_version(*max)
    });
    m::ApiVersionsResponse::default().with_api_keys(apis.collect())
}

pub(crate) async fn metadata(
    broker: &Broker,
    caller: &Caller,
    request: m::MetadataRequest,
) -> m::MetadataResponse {
    let mut state = broker.lock();
    let state = &mut *state;
    // Version 0 says "all" by an empty list, later ones by null.
    let asked = request.topics.filter(|topics| caller.version > 0 || !topics.is_empty());
    let topics = match asked {
        None => state.topics.iter().map(|(name, topic)| described(state, name, topic)).collect(),
        Some(asked) => {
            let create = request.allow_auto_topic_creation && broker.config.flag("auto.create.topics.enable");
            asked.into_iter().map(|topic| asked_for(broker, state, topic, create)).collect()
        }
    };
    let brokers = state.nodes.iter().filter(|(_, node)| node.alive).map(|(id, node)| {
        MetadataResponseBroker::default()
            .with_node_id(m::BrokerId(*id))
            .with_host(StrBytes::from_static_str(HOST))
            .with_port(i32::from(node.port))
    });
    m::MetadataResponse::default()
        .with_brokers(brokers.collect())
        .with_cluster_id(Some(StrBytes::from_string(state.cluster_id.clone())))
        .with_controller_id(m::BrokerId(state.alive().next().unwrap_or(-1)))
        .with_topics(topics)
}

fn asked_for(
    broker: &Broker,
    state: &mut State,
    asked: m::metadata_request::MetadataRequestTopic,
    create: bool,
) -> MetadataResponseTopic {
    let missing = |name, id, error: ResponseError| {
        MetadataResponseTopic::default().with_name(name).with_topic_id(id).with_error_code(error.code())
    };
    let Some(name) = asked.name else {
        return match state.topics.iter().find(|(_, topic)| topic.id == asked.topic_id) {
            Some((name, topic)) => described(state, name, topic),
            None => missing(None, asked.topic_id, ResponseError::UnknownTopicId),
        };
    };
    if let Some(topic) = state.topics.get(name.as_str()) {
        return described(state, &name, topic);
    }
    let error = if !is_legal_name(&name) {
        ResponseError::InvalidTopicException
    } else {
        if create {
            super::topics::auto_create(state, &name, &broker.config);
        }
        // Made or not, whoever asked first asks again (`AutoTopicCreationManager`).
        ResponseError::UnknownTopicOrPartition
    };
    missing(Some(name), Uuid::nil(), error)
}

/// Kafka's rule (`Topic.validate`).
pub(crate) fn is_legal_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name.len() <= 249 && name != "." && name != ".." && name.chars().all(legal)
}

fn described(state: &State, name: &str, topic: &Topic) -> MetadataResponseTopic {
    let alive = |id: &&i32| state.nodes.get(id).is_some_and(|node| node.alive);
    let partitions = (0..).zip(&topic.partitions).map(|(index, partition)| {
        let error = if partition.leader.is_none() { ResponseError::LeaderNotAvailable.code() } else { 0 };
        let ids = |keep: &dyn Fn(&&i32) -> bool| {
            partition.replicas.iter().filter(keep).map(|id| m::BrokerId(*id)).collect::<Vec<_>>()
        };
        MetadataResponsePartition::default()
            .with_error_code(error)
            .with_partition_index(index)
            .with_leader_id(m::BrokerId(partition.leader.unwrap_or(-1)))
            .with_leader_epoch(partition.leader_epoch)
            .with_replica_nodes(ids(&|_| true))
            .with_isr_nodes(ids(&alive))
            .with_offline_replicas(ids(&|id| !alive(id)))
    });
    MetadataResponseTopic::default()
        .with_name(Some(m::TopicName(StrBytes::from_string(name.to_owned()))))
        .with_topic_id(topic.id)
        .with_partitions(partitions.collect())
}

pub(crate) async fn find_coordinator(
    broker: &Broker,
    caller: &Caller,
    request: m::FindCoordinatorRequest,
) -> m::FindCoordinatorResponse {
    let state = broker.lock();
    let kind = match request.key_type {
        0 => Some(CoordinatorKind::Group),
        1 => Some(CoordinatorKind::Transaction),
        _ => None,
    };
    let find = |key: &StrBytes| {
        let none = |error: ResponseError| {
            Coordinator::default()
                .with_key(key.clone())
                .with_node_id(m::BrokerId(-1))
                .with_port(-1)
                .with_error_code(error.code())
        };
        let Some(kind) = kind else { return none(ResponseError::InvalidRequest) };
        match state.coordinator(kind, key).and_then(|id| Some((id, state.nodes.get(&id)?))) {
            Some((id, node)) => Coordinator::default()
                .with_key(key.clone())
                .with_node_id(m::BrokerId(id))
                .with_host(StrBytes::from_static_str(HOST))
                .with_port(i32::from(node.port)),
            None => none(ResponseError::CoordinatorNotAvailable),
        }
    };
    let answer = m::FindCoordinatorResponse::default();
    if caller.version >= 4 {
        return answer.with_coordinators(request.coordinator_keys.iter().map(find).collect());
    }
    let found = find(&request.key);
    answer
        .with_error_code(found.error_code)
        .with_node_id(found.node_id)
        .with_host(found.host)
        .with_port(found.port)
}

/// `EndpointType`: whom DescribeCluster is meant for.
const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

pub(crate) async fn describe_cluster(
    broker: &Broker,
    _caller: &Caller,
    request: m::DescribeClusterRequest,
) -> m::DescribeClusterResponse {
    let wrong = match request.endpoint_type {
        BROKERS => None,
        CONTROLLERS => Some(ResponseError::MismatchedEndpointType),
        _ => Some(ResponseError::UnsupportedEndpointType),
    };
    if let Some(error) = wrong {
        return request.refuse(error.code());
    }
    let state = broker.lock();
    let brokers = state.nodes.iter().filter(|(_, node)| node.alive).map(|(id, node)| {
        m::describe_cluster_response::DescribeClusterBroker::default()
            .with_broker_id(m::BrokerId(*id))
            .with_host(StrBytes::from_static_str(HOST))
            .with_port(i32::from(node.port))
    });
    m::DescribeClusterResponse::default()
        .with_endpoint_type(request.endpoint_type)
        .with_cluster_id(StrBytes::from_string(state.cluster_id.clone()))
        .with_controller_id(m::BrokerId(state.alive().next().unwrap_or(-1)))
        .with_brokers(brokers.collect())
}
