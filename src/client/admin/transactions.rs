//! Transactional ids: listed, described, and fenced.

use std::time::Duration;

use kafka_protocol::messages::{DescribeTransactionsRequest, ListTransactionsRequest, TransactionalId};
use kafka_protocol::protocol::StrBytes;

use super::Admin;
use crate::client::error_table::{CallSite, broker_error, is_stale_coordinator};
use crate::client::group::init_producer_id;
use crate::client::{ConnectionClass, CoordinatorType};
use crate::{Error, ErrorClass, ErrorKind, Result, TopicPartition};

/// A transactional id that a coordinator knows (KIP-664).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionListing {
    /// The transactional id.
    pub transactional_id: String,
    /// Whose it is.
    pub producer_id: i64,
    /// What it is doing, in Kafka's words: `Empty`, `Ongoing`, `PrepareCommit`, `PrepareAbort`, `CompleteCommit`,
    /// `CompleteAbort`, `PrepareEpochFence` or `Dead`.
    pub state: String,
}

/// More of a transactional id.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionDescription {
    /// What a listing says.
    pub listing: TransactionListing,
    /// The newest epoch; producers with older ones are fenced.
    pub producer_epoch: i16,
    /// `transaction.timeout.ms` of its producer.
    pub timeout: Duration,
    /// When the open transaction began, in ms since the Unix epoch; `None` if none is open.
    pub started_ms: Option<i64>,
    /// What the open transaction writes to.
    pub partitions: Vec<TopicPartition>,
}

impl Admin {
    /// Fences the producers of transactional ids: nothing that they still send is taken, and what they left open is aborted
    /// by the time this returns. An id that nobody has used is taken, too.
    ///
    /// # Errors
    /// For each id: what its coordinator refuses, such as a missing permission.
    pub async fn fence_producers(&self, transactional_ids: &[&str]) -> Result<Vec<Result<()>>> {
        let timeout = self.cluster.config().request_timeout;
        self.settle(transactional_ids, |ids| async move {
            let mut results = Vec::with_capacity(ids.len());
            for id in ids {
                // CONCURRENT_TRANSACTIONS: the open one is being aborted, and that is waited for.
                results.push(init_producer_id(&self.cluster, Some(id), timeout, None).await.map(drop));
            }
            Ok(results)
        })
        .await
    }

    /// The transactional ids that begin with a prefix, sorted. Every broker is asked for those that it coordinates.
    ///
    /// # Errors
    /// [`ErrorKind::Broker`] from brokers before 3.0; and when one of them does not answer.
    pub async fn list_transactions(&self, prefix: &str) -> Result<Vec<TransactionListing>> {
        let mut retry = self.cluster.retry();
        loop {
            match self.try_list(prefix).await {
                Ok(listed) => return Ok(listed),
                Err(error) => retry.after(error).await?,
            }
            self.cluster.refresh_brokers().await?;
        }
    }

    async fn try_list(&self, prefix: &str) -> Result<Vec<TransactionListing>> {
        let mut listed = Vec::new();
        let request = ListTransactionsRequest::default().with_duration_filter(-1);
        for broker in self.cluster.brokers() {
            let answer = self.cluster.request(broker.node, ConnectionClass::Normal, &request).await?;
            if let Some(error) = broker_error(answer.error_code, CallSite::Transactions) {
                return Err(error);
            }
            let all = answer.transaction_states.into_iter().map(|state| TransactionListing {
                transactional_id: state.transactional_id.0.to_string(),
                producer_id: state.producer_id.0,
                state: state.transaction_state.to_string(),
            });
            listed.extend(all.filter(|listing| listing.transactional_id.starts_with(prefix)));
        }
        listed.sort_by(|a, b| a.transactional_id.cmp(&b.transactional_id));
        // One that is just moving from one coordinator to another is listed by both.
        listed.dedup_by(|a, b| a.transactional_id == b.transactional_id);
        Ok(listed)
    }

    /// What the coordinators know of transactional ids.
    ///
    /// # Errors
    /// For each id: [`ErrorKind::Broker`] when its coordinator does not know it, and from brokers before 3.0.
    pub async fn describe_transactions(
        &self,
        transactional_ids: &[&str],
    ) -> Result<Vec<Result<TransactionDescription>>> {
        self.settle(transactional_ids, |ids| async move {
            let mut results = Vec::with_capacity(ids.len());
            for id in ids {
                results.push(self.describe_transaction(id).await);
            }
            Ok(results)
        })
        .await
    }

    async fn describe_transaction(&self, id: &str) -> Result<TransactionDescription> {
        let node = self.cluster.coordinator(CoordinatorType::Transaction, id).await?;
        let request = DescribeTransactionsRequest::default()
            .with_transactional_ids(vec![TransactionalId(StrBytes::from_string(id.to_owned()))]);
        let answer =
            self.cluster.request(node, ConnectionClass::Normal, &request).await.and_then(|mut answer| {
                let state = answer.transaction_states.pop().ok_or_else(|| {
                    Error::new(ErrorKind::Corrupt, "the coordinator's answer leaves the transactional id out")
                        .with_class(ErrorClass::Retriable)
                })?;
                broker_error(state.error_code, CallSite::Transactions).map_or(Ok(state), Err)
            });
        if answer.as_ref().is_err_and(is_stale_coordinator) {
            self.cluster.invalidate_coordinator(CoordinatorType::Transaction, id, node);
        }
        let state = answer?;
        let partitions = state.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|partition| TopicPartition::new(topic.topic.as_str(), *partition))
        });
        Ok(TransactionDescription {
            producer_epoch: state.producer_epoch,
            timeout: Duration::from_millis(u64::try_from(state.transaction_timeout_ms).unwrap_or(0)),
            started_ms: Some(state.transaction_start_time_ms).filter(|at| *at >= 0),
            partitions: partitions.collect(),
            listing: TransactionListing {
                transactional_id: state.transactional_id.0.to_string(),
                producer_id: state.producer_id.0,
                state: state.transaction_state.to_string(),
            },
        })
    }
}
