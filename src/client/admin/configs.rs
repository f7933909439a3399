//! Configs of topics and brokers.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResult;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{DescribeConfigsRequest, IncrementalAlterConfigsRequest};

use super::topics::{text, unknown_is_final};
use super::{Admin, only};
use crate::client::ConnectionClass;
use crate::client::error_table::{CallSite, broker_error_saying};
use crate::{Error, ErrorClass, ErrorKind, Result};

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;

/// What has configs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigResource {
    /// A topic, by name.
    Topic(String),
    /// A broker, by node id.
    Broker(i32),
}

impl ConfigResource {
    fn code(&self) -> i8 {
        match self {
            Self::Topic(_) => 2,
            Self::Broker(_) => 4,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Topic(name) => name.clone(),
            Self::Broker(node) => node.to_string(),
        }
    }
}

/// A config and where its value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigEntry {
    /// The name, such as `cleanup.policy`.
    pub name: String,
    /// The value; `None` if it is secret or not set.
    pub value: Option<String>,
    /// Whether somebody set it for this topic or broker, rather than a default being in force.
    pub overridden: bool,
    /// Whether it cannot be changed while the broker runs.
    pub read_only: bool,
    /// Whether the value is secret.
    pub sensitive: bool,
}

/// A change of one config.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AlterConfig {
    /// Sets a config.
    Set(String, String),
    /// Goes back to the default.
    Reset(String),
    /// Adds to a config that is a list.
    Append(String, String),
    /// Takes away from a config that is a list.
    Subtract(String, String),
}

impl AlterConfig {
    fn request(&self) -> AlterableConfig {
        let (name, operation, value) = match self {
            Self::Set(name, value) => (name, 0, Some(value)),
            Self::Reset(name) => (name, 1, None),
            Self::Append(name, value) => (name, 2, Some(value)),
            Self::Subtract(name, value) => (name, 3, Some(value)),
        };
        AlterableConfig::default()
            .with_name(text(name))
            .with_config_operation(operation)
            .with_value(value.map(|value| text(value)))
    }
}

impl Admin {
    /// The configs of a topic or broker, defaults included, by name.
    ///
    /// # Errors
    /// When there is no such topic or broker, or this client may not see its configs.
    pub async fn describe_configs(&self, of: &ConfigResource) -> Result<Vec<ConfigEntry>> {
        self.known_in_time(|| async move {
            let once = |of: Vec<ConfigResource>| async move { self.describe_configs_once(&of, None).await };
            only(self.settle(std::slice::from_ref(of), once).await)
        })
        .await
    }

    /// A topic just made may be unknown for a moment to the broker that is asked.
    async fn known_in_time<R, F: Future<Output = Result<R>>>(&self, ask: impl Fn() -> F) -> Result<R> {
        let mut grace = self.cluster.retry_within(self.cluster.config().topic_grace);
        loop {
            match ask().await {
                Err(error) if error.code() == Some(UNKNOWN_TOPIC_OR_PARTITION) => {
                    let again = grace.after(error.with_class(ErrorClass::Retriable)).await;
                    again.map_err(unknown_is_final)?;
                }
                other => return other,
            }
        }
    }

    /// Some configs of several topics or brokers, in one request for all that the same broker is asked.
    pub(crate) async fn describe_some_configs(
        &self,
        of: &[ConfigResource],
        names: &[&str],
    ) -> Result<Vec<Result<Vec<ConfigEntry>>>> {
        self.known_in_time(|| async move {
            let once =
                |of: Vec<ConfigResource>| async move { self.describe_configs_once(&of, Some(names)).await };
            let mut results = self.settle(of, once).await?;
            let unknown = |result: &Result<_>| {
                result.as_ref().is_err_and(|error| error.code() == Some(UNKNOWN_TOPIC_OR_PARTITION))
            };
            match results.iter().position(unknown).map(|at| results.swap_remove(at)) {
                Some(Err(error)) => Err(error),
                _ => Ok(results),
            }
        })
        .await
    }

    async fn describe_configs_once(
        &self,
        of: &[ConfigResource],
        names: Option<&[&str]>,
    ) -> Result<Vec<Result<Vec<ConfigEntry>>>> {
        let mut nodes: BTreeMap<i32, Vec<&ConfigResource>> = BTreeMap::new();
        for resource in of {
            nodes.entry(self.config_node(resource)?).or_default().push(resource);
        }
        let names: Option<Vec<_>> = names.map(|names| names.iter().map(|name| text(name)).collect());
        let mut answers = HashMap::with_capacity(of.len());
        for (node, resources) in nodes {
            let asked = resources.iter().map(|resource| {
                DescribeConfigsResource::default()
                    .with_resource_type(resource.code())
                    .with_resource_name(text(&resource.name()))
                    .with_configuration_keys(names.clone())
            });
            let request = DescribeConfigsRequest::default().with_resources(asked.collect());
            let response = self.cluster.request(node, ConnectionClass::Slow, &request).await?;
            for result in response.results {
                answers.insert((result.resource_type, result.resource_name.to_string()), result);
            }
        }
        let described = of.iter().map(|resource| {
            let result = answers.remove(&(resource.code(), resource.name())).ok_or_else(left_out)?;
            entries(resource, result)
        });
        Ok(described.collect())
    }

    /// Changes some configs of a topic or broker and leaves the others as they are (KIP-339).
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the broker refuses a value; when there is no such topic or broker.
    pub async fn alter_configs(&self, of: &ConfigResource, changes: &[AlterConfig]) -> Result<()> {
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![
            AlterConfigsResource::default()
                .with_resource_type(of.code())
                .with_resource_name(text(&of.name()))
                .with_configs(changes.iter().map(AlterConfig::request).collect()),
        ]);
        let request = &request;
        let once = |of: Vec<ConfigResource>| async move {
            let mut results = Vec::with_capacity(of.len());
            for resource in &of {
                let node = self.config_node(resource)?;
                let response = self.cluster.request(node, ConnectionClass::Slow, request).await?;
                let result = response.responses.into_iter().next().ok_or_else(left_out)?;
                let said = result.error_message.as_deref();
                results.push(match broker_error_saying(result.error_code, CallSite::Topics, said) {
                    Some(error) => Err(unknown_is_final(error.at_topic(resource.name()))),
                    None => Ok(()),
                });
            }
            Ok(results)
        };
        self.known_in_time(|| async move { only(self.settle(std::slice::from_ref(of), once).await) }).await
    }

    fn config_node(&self, of: &ConfigResource) -> Result<i32> {
        match of {
            ConfigResource::Topic(_) => self.cluster.controller(),
            ConfigResource::Broker(node) => Ok(*node),
        }
    }
}

fn entries(resource: &ConfigResource, result: DescribeConfigsResult) -> Result<Vec<ConfigEntry>> {
    let said = result.error_message.as_deref();
    if let Some(error) = broker_error_saying(result.error_code, CallSite::Topics, said) {
        return Err(unknown_is_final(error.at_topic(resource.name())));
    }
    let mut entries: Vec<_> = result
        .configs
        .into_iter()
        .map(|config| ConfigEntry {
            name: config.name.to_string(),
            value: config.value.map(|value| value.to_string()),
            // 1: dynamic topic config, 2: dynamic broker config, 4: static broker config.
            overridden: matches!(
                (resource, config.config_source),
                (_, 1) | (ConfigResource::Broker(_), 2 | 4)
            ),
            read_only: config.read_only,
            sensitive: config.is_sensitive,
        })
        .collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn left_out() -> Error {
    Error::new(ErrorKind::Broker, "the broker's answer leaves the configs out")
        .with_class(ErrorClass::Retriable)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI32, Ordering};

    use kafka_protocol::messages::{ApiKey, DescribeConfigsResponse};

    use super::*;
    use crate::client::Cluster;
    use crate::client::fake::{Answer, FakeCluster};

    #[tokio::test]
    async fn a_topic_just_made_has_a_moment_to_be_known() {
        let unknown = Arc::new(AtomicI32::new(2));
        let left = Arc::clone(&unknown);
        let fake = FakeCluster::start(1, move |call| {
            let code = if left.fetch_sub(1, Ordering::SeqCst) > 0 { UNKNOWN_TOPIC_OR_PARTITION } else { 0 };
            async move {
                let result = DescribeConfigsResult::default().with_error_code(code);
                let result = result.with_resource_type(2).with_resource_name(text("t"));
                match call.key {
                    ApiKey::DescribeConfigs => {
                        call.reply(&DescribeConfigsResponse::default().with_results(vec![result]))
                    }
                    _ => Answer::Default,
                }
            }
        })
        .await;
        let topic = ConfigResource::Topic("t".into());
        let mut config = fake.config();
        config.topic_grace = std::time::Duration::from_secs(20);
        let patient = Admin::new(&Cluster::connect(config).await.unwrap());
        unknown.store(4, Ordering::SeqCst);
        assert_eq!(patient.describe_configs(&topic).await.unwrap(), []);
        let admin = Admin::new(&Cluster::connect(fake.config()).await.unwrap());
        unknown.store(i32::MAX, Ordering::SeqCst);
        let error = admin.describe_configs(&topic).await.unwrap_err();
        assert_eq!((error.kind(), error.class()), (ErrorKind::Topic, ErrorClass::Fatal), "{error}");
    }
}
