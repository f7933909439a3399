//! Offsets: listed, deleted up to, and compared with leader epochs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;

use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{
    BrokerId, DeleteRecordsRequest, ListOffsetsRequest, OffsetForLeaderEpochRequest,
};

use super::topics::topic_name;
use super::{Admin, only};
use crate::client::error_table::{CallSite, broker_error, is_stale_metadata};
use crate::client::{ConnectionClass, Leader};
use crate::{Error, ErrorClass, ErrorKind, Result, Timestamp, TopicPartition};

/// Which offset of a partition is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OffsetSpec {
    /// The first record that is still there.
    Earliest,
    /// One past the last record; under [`Isolation::ReadCommitted`] the first of a transaction that is still open.
    Latest,
    /// The first record with this timestamp or a later one.
    Timestamp(Timestamp),
    /// The record with the greatest timestamp (KIP-734, brokers from 3.0).
    MaxTimestamp,
}

impl OffsetSpec {
    fn code(self) -> i64 {
        match self {
            Self::Earliest => -2,
            Self::Latest => -1,
            Self::Timestamp(at) => at.max(0),
            Self::MaxTimestamp => -3,
        }
    }
}

/// Whether records of transactions that are open or aborted are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// All records are seen: Kafka's `read_uncommitted`.
    #[default]
    ReadUncommitted,
    /// Only those of committed transactions, and those of none: Kafka's `read_committed`.
    ReadCommitted,
}

impl Isolation {
    pub(crate) fn code(self) -> i8 {
        match self {
            Self::ReadUncommitted => 0,
            Self::ReadCommitted => 1,
        }
    }
}

/// An offset that a broker found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedOffset {
    /// The offset; `None` if no record has such a timestamp.
    pub offset: Option<i64>,
    /// The record's timestamp, where one was looked for.
    pub timestamp: Option<Timestamp>,
    /// The leader epoch of the record, where the broker tells it.
    pub leader_epoch: Option<i32>,
}

type ByLeader<T> = HashMap<i32, Vec<(usize, T, Leader)>>;

impl Admin {
    /// Finds offsets by [`OffsetSpec`].
    ///
    /// # Errors
    /// For each partition: [`ErrorKind::Topic`] when it does not exist.
    pub async fn list_offsets(
        &self,
        of: &[(TopicPartition, OffsetSpec)],
        isolation: Isolation,
    ) -> Result<Vec<Result<ListedOffset>>> {
        self.settle(of, |of| async move {
            self.ask_leaders(
                of,
                |(at, _)| at,
                |node, items| async move { self.list_at(node, &items, isolation).await },
            )
            .await
        })
        .await
    }

    /// Finds one offset.
    ///
    /// # Errors
    /// As [`list_offsets`](Self::list_offsets).
    pub async fn list_offset(
        &self,
        at: &TopicPartition,
        spec: OffsetSpec,
        isolation: Isolation,
    ) -> Result<ListedOffset> {
        only(self.list_offsets(&[(at.clone(), spec)], isolation).await)
    }

    /// The leader epoch that each partition is in, as its leader says: no record that is in the log now is of a later one.
    /// Metadata, which any broker tells, may lag behind.
    ///
    /// # Errors
    /// As [`list_offsets`](Self::list_offsets); [`ErrorKind::Broker`] where the broker has no leader epochs.
    pub async fn leader_epochs(&self, of: &[TopicPartition]) -> Result<Vec<Result<i32>>> {
        // The answer for the latest offset comes with the leader's own epoch (`Partition.fetchOffsetForTimestamp`).
        let of: Vec<_> = of.iter().map(|at| (at.clone(), OffsetSpec::Latest)).collect();
        let listed = self.list_offsets(&of, Isolation::ReadUncommitted).await?;
        let epochs = of.iter().zip(listed).map(|((at, _), listed)| {
            listed?.leader_epoch.ok_or_else(|| {
                let text =
                    "the broker does not tell the partition's leader epoch; brokers from 2.5 are supported";
                Error::new(ErrorKind::Broker, text).at_topic(&*at.topic).at_partition(at.partition)
            })
        });
        Ok(epochs.collect())
    }

    async fn list_at(
        &self,
        node: i32,
        items: &[((TopicPartition, OffsetSpec), Leader)],
        isolation: Isolation,
    ) -> Result<HashMap<TopicPartition, Result<ListedOffset>>> {
        if items.iter().any(|((_, spec), _)| *spec == OffsetSpec::MaxTimestamp)
            && self.cluster.version::<ListOffsetsRequest>(node, ConnectionClass::Normal).await? < 7
        {
            return Err(Error::new(
                ErrorKind::Broker,
                "the greatest timestamp is known to brokers from 3.0 only",
            ));
        }
        let topics = by_topic(items.iter().map(|((at, spec), leader)| {
            let partition = ListOffsetsPartition::default()
                .with_partition_index(at.partition)
                .with_current_leader_epoch(leader.epoch)
                .with_timestamp(spec.code());
            (at, partition)
        }));
        let topics = topics.into_iter().map(|(name, partitions)| {
            ListOffsetsTopic::default().with_name(topic_name(name)).with_partitions(partitions)
        });
        let request = ListOffsetsRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_isolation_level(isolation.code())
            .with_topics(topics.collect());
        let response = self.cluster.request(node, ConnectionClass::Normal, &request).await?;
        let mut answers = HashMap::new();
        for topic in response.topics {
            for p in topic.partitions {
                let at = TopicPartition::new(topic.name.as_str(), p.partition_index);
                let answer = match broker_error(p.error_code, CallSite::ListOffsets) {
                    Some(error) => Err(error),
                    None => Ok(ListedOffset {
                        offset: Some(p.offset).filter(|offset| *offset >= 0),
                        timestamp: Some(p.timestamp).filter(|at| *at >= 0),
                        leader_epoch: Some(p.leader_epoch).filter(|epoch| *epoch >= 0),
                    }),
                };
                answers.insert(at, answer);
            }
        }
        Ok(answers)
    }

    /// Deletes the records before an offset (-1: before the high watermark) and gives the log start offset it led to.
    ///
    /// # Errors
    /// For each partition: [`ErrorKind::OffsetOutOfRange`] past the high watermark; `PolicyViolation` where the topic
    /// is compacted only.
    pub async fn delete_records(&self, before: &[(TopicPartition, i64)]) -> Result<Vec<Result<i64>>> {
        let delete = |node: i32, items: Vec<((TopicPartition, i64), Leader)>| async move {
            let topics = by_topic(items.iter().map(|((at, offset), _)| {
                (
                    at,
                    DeleteRecordsPartition::default().with_partition_index(at.partition).with_offset(*offset),
                )
            }));
            let topics = topics.into_iter().map(|(name, partitions)| {
                DeleteRecordsTopic::default().with_name(topic_name(name)).with_partitions(partitions)
            });
            let request = DeleteRecordsRequest::default()
                .with_topics(topics.collect())
                .with_timeout_ms(self.broker_timeout_ms());
            let response = self.cluster.request(node, ConnectionClass::Slow, &request).await?;
            let mut answers = HashMap::new();
            for topic in response.topics {
                for p in topic.partitions {
                    let answer =
                        broker_error(p.error_code, CallSite::DeleteRecords).map_or(Ok(p.low_watermark), Err);
                    answers.insert(TopicPartition::new(topic.name.as_str(), p.partition_index), answer);
                }
            }
            Ok(answers)
        };
        self.settle(before, |items| self.ask_leaders(items, |(at, _)| at, delete)).await
    }

    /// Where the records of a leader epoch end: `(epoch, end offset)` of the greatest epoch up to the one asked for, or
    /// `None` if the log knows of none. A position past that end was truncated away (KIP-320).
    ///
    /// # Errors
    /// For each partition: [`ErrorKind::Topic`] when it does not exist.
    pub async fn offsets_for_leader_epochs(
        &self,
        epochs: &[(TopicPartition, i32)],
    ) -> Result<Vec<Result<Option<(i32, i64)>>>> {
        let ask = |node: i32, items: Vec<((TopicPartition, i32), Leader)>| async move {
            let topics = by_topic(items.iter().map(|((at, epoch), leader)| {
                let partition = OffsetForLeaderPartition::default()
                    .with_partition(at.partition)
                    .with_current_leader_epoch(leader.epoch)
                    .with_leader_epoch(*epoch);
                (at, partition)
            }));
            let topics = topics.into_iter().map(|(name, partitions)| {
                OffsetForLeaderTopic::default().with_topic(topic_name(name)).with_partitions(partitions)
            });
            // -2 says: a client, not a replica.
            let request = OffsetForLeaderEpochRequest::default()
                .with_replica_id(BrokerId(-2))
                .with_topics(topics.collect());
            let response = self.cluster.request(node, ConnectionClass::Normal, &request).await?;
            let mut answers = HashMap::new();
            for topic in response.topics {
                for p in topic.partitions {
                    let found =
                        (p.leader_epoch >= 0 && p.end_offset >= 0).then_some((p.leader_epoch, p.end_offset));
                    let answer = broker_error(p.error_code, CallSite::ListOffsets).map_or(Ok(found), Err);
                    answers.insert(TopicPartition::new(topic.topic.as_str(), p.partition), answer);
                }
            }
            Ok(answers)
        };
        self.settle(epochs, |items| self.ask_leaders(items, |(at, _)| at, ask)).await
    }

    /// Asks each leader about its partitions, and gives the answers in the order of the items.
    async fn ask_leaders<T, R, F>(
        &self,
        items: Vec<T>,
        place: impl Fn(&T) -> &TopicPartition,
        ask: impl Fn(i32, Vec<(T, Leader)>) -> F,
    ) -> Result<Vec<Result<R>>>
    where
        T: Clone,
        F: Future<Output = Result<HashMap<TopicPartition, Result<R>>>>,
    {
        let mut results: Vec<Option<Result<R>>> = items.iter().map(|_| None).collect();
        let mut nodes: ByLeader<T> = HashMap::new();
        let mut missing = HashSet::new();
        for (index, item) in items.into_iter().enumerate() {
            let at = place(&item);
            // A topic that was waited for in vain once is not waited for again for each of its partitions.
            let leader = match missing.contains(&at.topic) {
                true => self.cluster.look(at),
                false => self.cluster.leader(at).await,
            };
            match leader {
                Ok(leader) => nodes.entry(leader.node).or_default().push((index, item, leader)),
                Err(error) => {
                    missing.insert(Arc::clone(&at.topic));
                    // It had its retries.
                    results[index] = Some(Err(error.with_class(ErrorClass::Fatal)));
                }
            }
        }
        for (node, items) in nodes {
            let asked = items.iter().map(|(_, item, leader)| (item.clone(), *leader)).collect();
            let mut answers = ask(node, asked).await;
            for (index, item, leader) in items {
                let at = place(&item);
                let answer = match &mut answers {
                    Ok(answers) => answers.remove(at).unwrap_or_else(|| {
                        Err(Error::new(ErrorKind::Broker, "the broker's answer leaves the partition out")
                            .with_class(ErrorClass::Retriable))
                    }),
                    Err(error) => Err(super::waiting(error)),
                };
                if answer.as_ref().is_err_and(is_stale_metadata) {
                    self.cluster.invalidate(&at.topic, leader.generation);
                }
                results[index] =
                    Some(answer.map_err(|error| error.at_topic(&*at.topic).at_partition(at.partition)));
            }
        }
        Ok(results.into_iter().flatten().collect())
    }
}

/// Groups partitions by topic, as requests want them.
fn by_topic<'a, P>(partitions: impl Iterator<Item = (&'a TopicPartition, P)>) -> BTreeMap<&'a str, Vec<P>> {
    let mut topics: BTreeMap<&str, Vec<P>> = BTreeMap::new();
    for (at, partition) in partitions {
        topics.entry(&at.topic).or_default().push(partition);
    }
    topics
}
