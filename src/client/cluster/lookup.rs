//! Finding things: brokers by the bootstrap addresses, leaders by topic, coordinators by key.

use std::collections::hash_map::Entry as MapEntry;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{FindCoordinatorRequest, MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use tokio::task::JoinSet;

use super::node::{Node, open};
use super::{Address, Cluster, ConnectionClass, Leader, TopicInfo, lock};
use crate::client::connection::SharedError;
use crate::client::error_table::{CallSite, broker_error, broker_error_saying};
use crate::{Error, ErrorClass, ErrorKind, Result, TopicPartition, clock};

/// What a coordinator coordinates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i8)]
pub(crate) enum CoordinatorType {
    /// A consumer group.
    Group = 0,
    /// A transactional id.
    Transaction = 1,
}

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const LEADER_NOT_AVAILABLE: i16 = 5;

fn metadata_request(topics: Option<&[Arc<str>]>) -> MetadataRequest {
    let topics = topics.map(|names| {
        let named = |name: &Arc<str>| {
            MetadataRequestTopic::default()
                .with_name(Some(TopicName(StrBytes::from_string(name.to_string()))))
        };
        names.iter().map(named).collect()
    });
    MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(false)
}

/// Whether it is not Kafka that answered: asking again is of no use.
fn speaks_nonsense(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<SharedError>());
    error.kind() == ErrorKind::Corrupt || cause.is_some_and(|cause| cause.kind() == ErrorKind::Corrupt)
}

impl Cluster {
    /// Asks every bootstrap address at once, again for as long as `patience` says; the first that answers with metadata
    /// wins.
    pub(super) async fn ask_bootstrap(
        &self,
        topics: &[Arc<str>],
        patience: Duration,
    ) -> Result<MetadataResponse> {
        let mut asking = JoinSet::new();
        let request = metadata_request(Some(topics));
        for (at, address) in self.0.addresses.iter().cloned().enumerate() {
            let (cluster, request) = (self.clone(), request.clone());
            asking.spawn(async move {
                let once = async || {
                    let connection =
                        open(&address, format!("the bootstrap address {address}"), &cluster.reach()).await?;
                    let response = connection.request(&request, cluster.config().request_timeout).await?;
                    if response.brokers.is_empty() {
                        return Err(Error::new(ErrorKind::Broker, "it knows of no brokers yet")
                            .with_class(ErrorClass::Retriable));
                    }
                    Ok(response)
                };
                let mut retry = cluster.retry_within(patience);
                loop {
                    match once().await {
                        Err(error) if !speaks_nonsense(&error) => {
                            if let Err(error) = retry.after(error).await {
                                return (at, Err(error));
                            }
                        }
                        outcome => return (at, outcome),
                    }
                }
            });
        }
        let mut failures = Vec::new();
        while let Some(asked) = asking.join_next().await {
            match asked {
                Ok((_, Ok(response))) => return Ok(response),
                Ok((at, Err(error))) => failures.push((at, error)),
                Err(ended) => failures.push((0, Error::new(ErrorKind::Closed, "given up").because(ended))),
            }
        }
        failures.sort_by_key(|(at, _)| *at);
        Err(self.nobody_answers(&failures))
    }

    fn nobody_answers(&self, failures: &[(usize, Error)]) -> Error {
        let each: Vec<_> = failures
            .iter()
            .filter_map(|(at, error)| Some(format!("{}: {}", self.0.addresses.get(*at)?, chain(error))))
            .collect();
        let each = each.join("; ");
        if failures
            .iter()
            .any(|(_, error)| error.kind() == ErrorKind::Authentication && !error.is_retriable())
        {
            let text = "no bootstrap address lets this client in: correct what is named below";
            return Error::new(ErrorKind::Authentication, text).because(each);
        }
        Error::new(
            ErrorKind::Connection,
            "no bootstrap address answers as a Kafka broker: check that bootstrap.servers names hosts and ports of \
             listeners of this security.protocol, that the brokers run, and that names and ports are open from here",
        )
        .with_class(ErrorClass::Retriable)
        .because(each)
    }

    /// Looks at topics again, unless somebody has done so since `seen`, and at the brokers.
    pub(super) async fn refresh(&self, topics: &[Arc<str>], seen: Option<u64>) -> Result<()> {
        let _asking = self.0.asking.lock().await;
        if let (Some(seen), [topic]) = (seen, topics)
            && lock(&self.0.topics).generation(topic) > seen
        {
            return Ok(());
        }
        if self.is_closed() {
            return Err(super::closed());
        }
        let request = metadata_request(Some(topics));
        let mut failures = Vec::new();
        let nodes = self.nodes_by_badness();
        for node in &nodes {
            let asked = self.request(node.id, ConnectionClass::Normal, &request).await;
            match asked.and_then(|response| self.apply(&response)) {
                Ok(()) => return Ok(()),
                Err(error) if !error.is_retriable() => return Err(error),
                Err(error) => failures.push(error),
            }
        }
        let unreachable = failures.iter().all(|error| error.kind() == ErrorKind::Connection);
        let silent = clock::monotonic().saturating_duration_since(lock(&self.0.known).answered);
        if unreachable || silent >= self.0.config.rebootstrap_trigger {
            tracing::info!(
                brokers = nodes.len(),
                "no known broker answers, asking the bootstrap addresses again"
            );
            return self
                .ask_bootstrap(topics, Duration::ZERO)
                .await
                .and_then(|response| self.apply(&response));
        }
        let causes: Vec<_> = failures.iter().map(chain).collect();
        Err(Error::new(ErrorKind::Connection, "no broker answers with metadata")
            .with_class(ErrorClass::Retriable)
            .because(causes.join("; ")))
    }

    /// Looks at every topic in use again (`metadata.max.age.ms`).
    pub(super) async fn refresh_used(&self) {
        let topics = lock(&self.0.topics).keep_used();
        if let Err(error) = self.refresh(&topics, None).await {
            tracing::warn!(%error, "cannot refresh metadata");
        }
    }

    /// A topic, from what is known or by asking. One that is unknown is asked for until the grace period is over.
    pub(crate) async fn topic(&self, topic: &str) -> Result<Arc<TopicInfo>> {
        self.topic_where(topic, |_| true).await
    }

    /// How many partitions a topic has.
    pub(crate) async fn partitions(&self, topic: &str) -> Result<i32> {
        Ok(self.topic(topic).await?.partitions.len() as i32)
    }

    /// The leader of a partition, from what is known or by asking, with retries while there is none.
    pub(crate) async fn leader(&self, at: &TopicPartition) -> Result<Leader> {
        let led = |topic: &TopicInfo| {
            let partition = usize::try_from(at.partition).ok().and_then(|p| topic.partitions.get(p));
            partition.is_none_or(|p| p.leader.is_some())
        };
        self.topic_where(&at.topic, led).await?;
        self.look(at)
    }

    async fn topic_where(&self, name: &str, good: impl Fn(&TopicInfo) -> bool) -> Result<Arc<TopicInfo>> {
        let mut unknown = self.retry_within(self.0.config.topic_grace);
        let mut failed = self.retry();
        loop {
            let seen = {
                let mut topics = lock(&self.0.topics);
                match topics.get(name) {
                    Some(entry) if !entry.stale => {
                        if let Ok(topic) = &entry.topic {
                            return Ok(Arc::clone(topic));
                        }
                    }
                    _ => {}
                }
                topics.generation(name)
            };
            let refreshed = self.refresh(&[Arc::from(name)], Some(seen)).await;
            let looked = lock(&self.0.topics).get(name).map(|entry| entry.topic.clone());
            let error = match (refreshed, looked) {
                (Err(error), _) => error,
                (Ok(()), Some(Ok(topic))) if good(&topic) => return Ok(topic),
                (Ok(()), Some(Ok(_))) => broken(LEADER_NOT_AVAILABLE, name),
                (Ok(()), Some(Err(code))) => broken(code, name),
                (Ok(()), None) => broken(UNKNOWN_TOPIC_OR_PARTITION, name),
            };
            match error.code() {
                Some(UNKNOWN_TOPIC_OR_PARTITION) => unknown.after(error).await?,
                _ => failed.after(error).await?,
            }
        }
    }

    /// The leader of a partition if it is known, without asking.
    pub(crate) fn known_leader(&self, at: &TopicPartition) -> Option<Leader> {
        let mut topics = lock(&self.0.topics);
        let entry = topics.get(&at.topic)?;
        let topic = entry.topic.as_ref().ok()?;
        let partition = topic.partitions.get(usize::try_from(at.partition).ok()?)?;
        // Another partition without a leader makes the topic stale, which does not make this leader wrong.
        if entry.stale && topic.partitions.iter().all(|p| p.leader.is_some()) {
            return None;
        }
        Some(Leader { node: partition.leader?, epoch: partition.leader_epoch, generation: entry.generation })
    }

    /// The leader of a partition by what is known, or why there is none.
    pub(crate) fn look(&self, at: &TopicPartition) -> Result<Leader> {
        if let Some(leader) = self.known_leader(at) {
            return Ok(leader);
        }
        let looked = lock(&self.0.topics).get(&at.topic).map(|entry| entry.topic.clone());
        let error = match looked {
            Some(Ok(topic)) if usize::try_from(at.partition).is_ok_and(|p| p < topic.partitions.len()) => {
                broken(LEADER_NOT_AVAILABLE, &at.topic)
            }
            Some(Ok(topic)) => Error::new(
                ErrorKind::Topic,
                format!(
                    "there is no such partition: the topic has {}; add partitions, or correct the number",
                    topic.partitions.len()
                ),
            )
            .with_code(UNKNOWN_TOPIC_OR_PARTITION),
            Some(Err(code)) => broken(code, &at.topic),
            None => broken(UNKNOWN_TOPIC_OR_PARTITION, &at.topic),
        };
        Err(error.at_topic(&*at.topic).at_partition(at.partition))
    }

    /// Looks at topics again, once.
    pub(crate) async fn look_at(&self, topics: &[Arc<str>]) -> Result<()> {
        self.refresh(topics, None).await
    }

    /// Says that what generation `seen` of a topic said is wrong; a later look stays.
    pub(crate) fn invalidate(&self, topic: &str, seen: u64) {
        lock(&self.0.topics).invalidate(topic, seen);
    }

    /// Looks at the brokers again: the controller may be another one.
    pub(crate) async fn refresh_brokers(&self) -> Result<()> {
        match self.refresh(&[], None).await {
            Err(error) if !error.is_retriable() => Err(error),
            _ => Ok(()),
        }
    }

    /// Describes topics as they are now, by asking, without a grace period for those that do not exist.
    pub(crate) async fn describe(&self, names: &[&str]) -> Result<Vec<Result<TopicInfo>>> {
        let request = metadata_request(Some(&names.iter().map(|name| Arc::from(*name)).collect::<Vec<_>>()));
        let mut retry = self.retry();
        loop {
            let error = match self.request_any(ConnectionClass::Normal, &request).await {
                Err(error) => error,
                Ok(response) => {
                    let look = |name: &&str| {
                        let topic = response
                            .topics
                            .iter()
                            .find(|t| t.name.as_ref().is_some_and(|n| n.as_str() == *name));
                        match topic {
                            Some(topic) if topic.error_code == 0 => {
                                Ok(super::metadata::describe(topic, None))
                            }
                            topic => {
                                Err(broken(topic.map_or(UNKNOWN_TOPIC_OR_PARTITION, |t| t.error_code), name))
                            }
                        }
                    };
                    let results: Vec<Result<TopicInfo>> = names.iter().map(look).collect();
                    let again = |e: &&Error| e.is_retriable() && e.code() != Some(UNKNOWN_TOPIC_OR_PARTITION);
                    match results.iter().filter_map(|result| result.as_ref().err()).find(again) {
                        None => return Ok(results),
                        Some(error) => {
                            broken(error.code().unwrap_or(LEADER_NOT_AVAILABLE), error.topic().unwrap_or(""))
                        }
                    }
                }
            };
            retry.after(error).await?;
        }
    }

    /// Every topic of the cluster, by asking.
    pub(crate) async fn all_topics(&self) -> Result<Vec<TopicInfo>> {
        let mut retry = self.retry();
        loop {
            match self.request_any(ConnectionClass::Normal, &metadata_request(None)).await {
                Ok(response) => {
                    let good = response.topics.iter().filter(|topic| topic.error_code == 0);
                    let mut topics: Vec<_> =
                        good.map(|topic| super::metadata::describe(topic, None)).collect();
                    topics.sort_by(|a, b| a.name.cmp(&b.name));
                    return Ok(topics);
                }
                Err(error) => retry.after(error).await?,
            }
        }
    }

    /// The broker that coordinates a group or a transactional id, from what is known or by asking, with retries.
    pub(crate) async fn coordinator(&self, of: CoordinatorType, key: &str) -> Result<i32> {
        if let Some(node) = lock(&self.0.coordinators).get(&(of, key.to_owned())) {
            return Ok(*node);
        }
        let request = FindCoordinatorRequest::default()
            .with_key(StrBytes::from_string(key.to_owned()))
            .with_key_type(of as i8);
        let mut retry = self.retry();
        loop {
            let asked = self.request_any(ConnectionClass::Normal, &request).await;
            let error = match asked {
                Ok(found) => {
                    let said = found.error_message.as_deref();
                    match broker_error_saying(found.error_code, CallSite::FindCoordinator, said) {
                        None => {
                            let address = Address {
                                host: found.host.to_string(),
                                port: u16::try_from(found.port).unwrap_or_default(),
                            };
                            self.learn(found.node_id.0, address);
                            lock(&self.0.coordinators).insert((of, key.to_owned()), found.node_id.0);
                            return Ok(found.node_id.0);
                        }
                        // Whose right it is, is not in the answer.
                        Some(error) if error.kind() == ErrorKind::Authorization => {
                            return Err(Error::new(error.kind(), format!("no right to {key}"))
                                .with_code(found.error_code)
                                .because(error));
                        }
                        Some(error) => error,
                    }
                }
                Err(error) => error,
            };
            retry.after(error).await?;
        }
    }

    /// A coordinator may be younger than the last look at the brokers, or have moved since.
    fn learn(&self, id: i32, address: Address) {
        let nodes = &mut lock(&self.0.known).nodes;
        if nodes.get(&id).is_none_or(|node| node.address != address) {
            let rack = nodes.get(&id).and_then(|node| node.rack.clone());
            nodes.insert(id, Arc::new(Node::new(id, address, rack)));
        }
    }

    /// Forgets who coordinates a key: the next call asks.
    pub(crate) fn forget_coordinator(&self, of: CoordinatorType, key: &str) {
        lock(&self.0.coordinators).remove(&(of, key.to_owned()));
    }

    /// Says that a node does not coordinate a key any more; a later finding stays.
    pub(crate) fn invalidate_coordinator(&self, of: CoordinatorType, key: &str, node: i32) {
        let mut coordinators = lock(&self.0.coordinators);
        if let MapEntry::Occupied(found) = coordinators.entry((of, key.to_owned()))
            && *found.get() == node
        {
            found.remove();
        }
    }
}

fn broken(code: i16, topic: &str) -> Error {
    broker_error(code, CallSite::Metadata).unwrap_or_else(super::no_brokers).at_topic(topic)
}

/// An error and its causes on one line.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
