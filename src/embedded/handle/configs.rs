//! The settings of topics and brokers.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{alter_configs_request, alter_configs_response};
use kafka_protocol::messages::{incremental_alter_configs_request, incremental_alter_configs_response};
use kafka_protocol::protocol::StrBytes;

use crate::embedded::broker::{Broker, Caller};
use crate::embedded::config::{Kind, TopicConfig};
use crate::embedded::handle::cluster::is_legal_name;

/// `ConfigResource.Type`.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;

/// `DescribeConfigsResponse.ConfigSource` of a topic's setting.
pub(crate) fn source(set: bool) -> i8 {
    if set { 1 } else { 5 }
}

/// `DescribeConfigsResponse.ConfigType`.
fn kind(kind: Kind) -> i8 {
    match kind {
        Kind::Boolean => 1,
        Kind::Choice(_) => 2,
        Kind::Int(_) | Kind::Level { .. } => 3,
        Kind::Long(_) => 5,
        Kind::Double => 6,
        Kind::List(_) | Kind::Replicas => 7,
    }
}

pub(crate) async fn describe_configs(
    broker: &Broker,
    caller: &Caller,
    request: m::DescribeConfigsRequest,
) -> m::DescribeConfigsResponse {
    let state = broker.lock();
    let results = request.resources.iter().map(|asked| {
        let answer = DescribeConfigsResult::default()
            .with_resource_type(asked.resource_type)
            .with_resource_name(asked.resource_name.clone());
        let refused = |error: ResponseError, why: &str| {
            answer
                .clone()
                .with_error_code(error.code())
                .with_error_message(Some(StrBytes::from_string(why.to_owned())))
        };
        let entry = |name: &'static str, value: &str, source: i8, kind: i8| {
            let value = Some(StrBytes::from_string(value.to_owned()));
            let name = StrBytes::from_static_str(name);
            let synonym = DescribeConfigsSynonym::default().with_name(name.clone()).with_value(value.clone());
            let synonyms = request.include_synonyms.then(|| synonym.with_source(source));
            DescribeConfigsResourceResult::default()
                .with_name(name)
                .with_value(value)
                .with_config_source(source)
                .with_synonyms(synonyms.into_iter().collect())
                .with_config_type(if caller.version >= 3 { kind } else { 0 })
        };
        let wanted = |asked: &DescribeConfigsResource, name: &str| {
            asked.configuration_keys.as_ref().is_none_or(|keys| keys.iter().any(|key| &**key == name))
        };
        match asked.resource_type {
            TOPIC => match state.topics.get(asked.resource_name.as_str()) {
                Some(topic) => answer.with_configs(
                    topic
                        .config
                        .all()
                        .filter(|(name, ..)| wanted(asked, name))
                        .map(|(name, value, set, of)| entry(name, value, source(set), kind(of)))
                        .collect(),
                ),
                None if !is_legal_name(&asked.resource_name) => {
                    refused(ResponseError::InvalidTopicException, "There can be no such topic.")
                }
                None => refused(ResponseError::UnknownTopicOrPartition, "There is no such topic."),
            },
            // No name means what all brokers have.
            BROKER if !["", &caller.node.to_string()].contains(&asked.resource_name.as_str()) => {
                refused(ResponseError::InvalidRequest, "A broker is asked for the settings of another.")
            }
            BROKER => answer.with_configs(
                broker
                    .config
                    .all()
                    .filter(|(name, ..)| wanted(asked, name))
                    // Static or default; all but flags are numbers.
                    .map(|(name, value, set)| {
                        let kind = if value.parse::<bool>().is_ok() { 1 } else { 5 };
                        entry(name, value, if set { 4 } else { 5 }, kind)
                    })
                    .collect(),
            ),
            _ => refused(ResponseError::InvalidRequest, "Only topics and brokers have settings here."),
        }
    });
    let results = results.collect();
    m::DescribeConfigsResponse::default().with_results(results)
}

/// What an alteration comes to: nothing, or an error and what is said about it.
type Altered = Result<(), (ResponseError, String)>;

/// `ConfigAdminManager.preprocess`.
fn said_once<T: PartialEq>(all: &[T], one: &T, why: &str) -> Altered {
    match all.iter().filter(|other| *other == one).count() {
        1 => Ok(()),
        _ => Err((ResponseError::InvalidRequest, why.to_owned())),
    }
}

/// Applies `change` to a topic's settings.
fn alter(
    broker: &Broker,
    (kind, name): (i8, &str),
    validate_only: bool,
    change: impl FnOnce(&TopicConfig) -> Result<TopicConfig, (ResponseError, String)>,
) -> Altered {
    if kind != TOPIC {
        let why = "The embedded broker alters the settings of topics only.".to_owned();
        return Err((ResponseError::InvalidRequest, why));
    }
    let mut state = broker.lock();
    let Some(topic) = state.topics.get_mut(name) else {
        let why = format!("The topic '{name}' does not exist.");
        return Err((ResponseError::UnknownTopicOrPartition, why));
    };
    let config = change(&topic.config)?;
    if !validate_only {
        topic.config = config;
    }
    Ok(())
}

fn outcome(altered: Altered) -> (i16, Option<StrBytes>) {
    match altered {
        Ok(()) => (0, None),
        Err((error, why)) => (error.code(), Some(StrBytes::from_string(why))),
    }
}

pub(crate) async fn alter_configs(
    broker: &Broker,
    _caller: &Caller,
    request: m::AlterConfigsRequest,
) -> m::AlterConfigsResponse {
    let names = |r: &alter_configs_request::AlterConfigsResource| (r.resource_type, r.resource_name.clone());
    let all: Vec<_> = request.resources.iter().map(names).collect();
    let responses = request.resources.iter().map(|asked| {
        let at = (asked.resource_type, asked.resource_name.as_str());
        let (code, why) = outcome(alter(broker, at, request.validate_only, |_| {
            said_once(&all, &names(asked), "Each resource must appear at most once.")?;
            let keys: Vec<_> = asked.configs.iter().map(|config| &config.name).collect();
            keys.iter().try_for_each(|key| said_once(&keys, key, "Error due to duplicate config keys"))?;
            // All of them anew: what is not named goes back to its default.
            let all =
                asked.configs.iter().map(|c| (c.name.as_str(), c.value.as_ref().map(|v| v.to_string())));
            TopicConfig::default().with(all).map_err(|why| (ResponseError::InvalidConfig, why))
        }));
        alter_configs_response::AlterConfigsResourceResponse::default()
            .with_error_code(code)
            .with_error_message(why)
            .with_resource_type(asked.resource_type)
            .with_resource_name(asked.resource_name.clone())
    });
    m::AlterConfigsResponse::default().with_responses(responses.collect())
}

pub(crate) async fn incremental_alter_configs(
    broker: &Broker,
    _caller: &Caller,
    request: m::IncrementalAlterConfigsRequest,
) -> m::IncrementalAlterConfigsResponse {
    let names = |r: &incremental_alter_configs_request::AlterConfigsResource| {
        (r.resource_type, r.resource_name.clone())
    };
    let all: Vec<_> = request.resources.iter().map(names).collect();
    let responses = request.resources.iter().map(|asked| {
        let at = (asked.resource_type, asked.resource_name.as_str());
        let (code, why) = outcome(alter(broker, at, request.validate_only, |config| {
            said_once(&all, &names(asked), "Each resource must appear at most once.")?;
            let keys: Vec<_> = asked.configs.iter().map(|config| &config.name).collect();
            keys.iter().try_for_each(|key| said_once(&keys, key, "Error due to duplicate config keys"))?;
            let mut changes = Vec::new();
            for change in &asked.configs {
                let (name, given) = (change.name.as_str(), change.value.as_ref().map(|v| v.to_string()));
                changes.push((name, changed(config, name, change.config_operation, given)?));
            }
            config.with(changes).map_err(|why| (ResponseError::InvalidConfig, why))
        }));
        incremental_alter_configs_response::AlterConfigsResourceResponse::default()
            .with_error_code(code)
            .with_error_message(why)
            .with_resource_type(asked.resource_type)
            .with_resource_name(asked.resource_name.clone())
    });
    m::IncrementalAlterConfigsResponse::default().with_responses(responses.collect())
}

/// The value after `AlterConfigOp.OpType`; `None` is the default.
fn changed(
    config: &TopicConfig,
    name: &str,
    operation: i8,
    given: Option<String>,
) -> Result<Option<String>, (ResponseError, String)> {
    let refused = |error, why: &str| Err((error, format!("{why} {name}")));
    let is_list = config.all().any(|(known, _, _, kind)| known == name && matches!(kind, Kind::List(_)));
    let now = config.get(name).split(',').filter(|part| !part.is_empty()).map(str::to_owned);
    match (operation, given) {
        (1, _) => Ok(None),
        (0, Some(value)) => Ok(Some(value)),
        (2 | 3, Some(_)) if !is_list => {
            refused(ResponseError::InvalidConfig, "Can't APPEND to or SUBTRACT from what is no list:")
        }
        (2, Some(value)) => {
            let mut all: Vec<String> = now.collect();
            all.extend(
                value
                    .split(',')
                    .filter(|new| !config.get(name).split(',').any(|old| old == *new))
                    .map(str::to_owned),
            );
            Ok(Some(all.join(",")))
        }
        (3, Some(value)) => {
            let left: Vec<String> = now.filter(|old| !value.split(',').any(|gone| gone == old)).collect();
            Ok(Some(left.join(",")))
        }
        (0 | 2 | 3, None) => refused(ResponseError::InvalidRequest, "Null value not supported for"),
        _ => refused(ResponseError::UnknownServerError, "Unknown operation on"),
    }
}
