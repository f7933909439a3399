//! Topics: made, described, grown, deleted.

use std::collections::HashMap;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::{Admin, only, said};
use crate::client::TopicInfo;
use crate::client::error_table::{CallSite, is_topic_exists};
use crate::{Error, ErrorClass, ErrorKind, Result};

/// A topic to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewTopic {
    /// The name.
    pub name: String,
    /// How many partitions.
    pub partitions: i32,
    /// How many replicas each has; -1 means the broker's default.
    pub replication: i16,
    /// Topic configs, such as `retention.ms`.
    pub configs: Vec<(String, String)>,
}

impl NewTopic {
    /// A topic with the broker's default replication and configs.
    pub fn new(name: impl Into<String>, partitions: i32) -> Self {
        Self { name: name.into(), partitions, replication: -1, configs: Vec::new() }
    }

    /// Sets how many replicas each partition has; -1 means the broker's default.
    #[must_use]
    pub fn replication(mut self, replicas: i16) -> Self {
        self.replication = replicas;
        self
    }

    /// Sets a topic config.
    #[must_use]
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.push((name.into(), value.into()));
        self
    }

    fn request(&self) -> CreatableTopic {
        let config = |(name, value): &(String, String)| {
            CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
        };
        CreatableTopic::default()
            .with_name(topic_name(&self.name))
            .with_num_partitions(self.partitions)
            .with_replication_factor(self.replication)
            .with_configs(self.configs.iter().map(config).collect())
    }
}

pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub(super) fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// Puts answers that name their topics into the order of the questions. One that is missing is retriable.
fn in_order<R>(
    names: impl IntoIterator<Item = String>,
    mut answers: HashMap<String, Result<R>>,
) -> Vec<Result<R>> {
    names
        .into_iter()
        .map(|name| {
            answers.remove(&name).unwrap_or_else(|| {
                Err(Error::new(ErrorKind::Broker, "the broker's answer leaves the topic out")
                    .with_class(ErrorClass::Retriable)
                    .at_topic(name))
            })
        })
        .collect()
}

impl Admin {
    /// Makes topics. [`already_exists`](Self::already_exists) tells whether a failure means that there was one already.
    ///
    /// # Errors
    /// For each topic: [`ErrorKind::Topic`] when it exists already or its name, partitions or replicas cannot be;
    /// [`ErrorKind::Config`] when a config is refused.
    pub async fn create_topics(&self, topics: &[NewTopic]) -> Result<Vec<Result<()>>> {
        let results = self
            .settle(topics, |topics| async move {
                let request = CreateTopicsRequest::default()
                    .with_topics(topics.iter().map(NewTopic::request).collect())
                    .with_timeout_ms(self.broker_timeout_ms());
                let response = self.ask_controller(&request).await?;
                let answers = response.topics.iter().map(|topic| {
                    let said =
                        said(topic.error_code, topic.error_message.as_deref(), CallSite::Topics, &topic.name);
                    (topic.name.to_string(), said)
                });
                let answers = answers.collect();
                Ok(in_order(topics.into_iter().map(|topic| topic.name), answers))
            })
            .await;
        topics.iter().for_each(|topic| self.cluster.invalidate(&topic.name, u64::MAX));
        results
    }

    /// Makes one topic.
    ///
    /// # Errors
    /// As [`create_topics`](Self::create_topics).
    pub async fn create_topic(&self, topic: NewTopic) -> Result<()> {
        only(self.create_topics(&[topic]).await)
    }

    /// Whether an error of [`create_topics`](Self::create_topics) says that the topic exists already.
    pub fn already_exists(error: &Error) -> bool {
        is_topic_exists(error)
    }

    /// Every topic of the cluster, by name.
    ///
    /// # Errors
    /// When no broker answers in time.
    pub async fn list_topics(&self) -> Result<Vec<TopicInfo>> {
        self.cluster.all_topics().await
    }

    /// Describes topics as they are now. A topic that does not exist is an error of kind [`ErrorKind::Topic`] at once.
    ///
    /// # Errors
    /// For each topic: when there is none of that name, or this client may not see it.
    pub async fn describe_topics(&self, names: &[&str]) -> Result<Vec<Result<TopicInfo>>> {
        self.cluster.describe(names).await
    }

    /// Deletes topics and everything in them.
    ///
    /// # Errors
    /// For each topic: when there is none of that name, or deleting is forbidden.
    pub async fn delete_topics(&self, names: &[&str]) -> Result<Vec<Result<()>>> {
        let results = self
            .settle(names, |names| async move {
                let request = DeleteTopicsRequest::default()
                    .with_topic_names(names.iter().map(|name| topic_name(name)).collect())
                    .with_timeout_ms(self.broker_timeout_ms());
                let response = self.ask_controller(&request).await?;
                let mut answers = HashMap::new();
                for topic in response.responses {
                    let name = topic.name.map(|name| name.to_string()).unwrap_or_default();
                    // Asking again cannot help here: a topic that is unknown is gone.
                    let said =
                        said(topic.error_code, topic.error_message.as_deref(), CallSite::Topics, &name);
                    answers.insert(name, said.map_err(unknown_is_final));
                }
                Ok(in_order(names.into_iter().map(str::to_owned), answers))
            })
            .await;
        names.iter().for_each(|name| self.cluster.invalidate(name, u64::MAX));
        results
    }

    /// Grows topics to a number of partitions. Keys of old records do not move: what is keyed goes elsewhere afterwards.
    ///
    /// # Errors
    /// For each topic: when there is none of that name, or it has that many partitions or more.
    pub async fn add_partitions(&self, topics: &[(&str, i32)]) -> Result<Vec<Result<()>>> {
        let results = self
            .settle(topics, |topics| async move {
                let grown = topics.iter().map(|(name, count)| {
                    CreatePartitionsTopic::default()
                        .with_name(topic_name(name))
                        .with_count(*count)
                        .with_assignments(None)
                });
                let request = CreatePartitionsRequest::default()
                    .with_topics(grown.collect())
                    .with_timeout_ms(self.broker_timeout_ms());
                let response = self.ask_controller(&request).await?;
                let answers = response.results.iter().map(|topic| {
                    let said =
                        said(topic.error_code, topic.error_message.as_deref(), CallSite::Topics, &topic.name);
                    (topic.name.to_string(), said.map_err(unknown_is_final))
                });
                let answers = answers.collect();
                Ok(in_order(topics.into_iter().map(|(name, _)| name.to_owned()), answers))
            })
            .await;
        topics.iter().for_each(|(name, _)| self.cluster.invalidate(name, u64::MAX));
        results
    }
}

pub(super) fn unknown_is_final(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Topic => error.with_class(ErrorClass::Fatal),
        _ => error,
    }
}
