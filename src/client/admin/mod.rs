//! Administration: topics, their configs, and the offsets in them.

mod configs;
#[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "for tools"))]
mod groups;
mod offsets;
#[cfg(test)]
mod tests;
mod topics;
mod transactions;

use std::future::Future;

use crate::client::connection::Api;
use crate::client::error_table::{CallSite, broker_error_saying, is_stale_metadata};
use crate::client::{ClientConfig, Cluster, ConnectionClass};
use crate::{Error, ErrorKind, Result};

pub use configs::{AlterConfig, ConfigEntry, ConfigResource};
#[cfg(feature = "cli")]
pub(crate) use groups::GroupMember;
pub use offsets::{Isolation, ListedOffset, OffsetSpec};
pub use topics::NewTopic;
pub use transactions::{TransactionDescription, TransactionListing};

/// Administers a cluster: creates, describes and deletes topics, lists and deletes offsets, reads and changes configs.
///
/// Every call is retried until [`ClientConfig::api_timeout`] while trying again may help. Calls on several topics or
/// partitions give a result for each, in the order of the arguments; the outer error means that nothing is known of any.
///
/// ```no_run
/// # async fn example() -> mainstem::Result<()> {
/// use mainstem::client::{Admin, ClientConfig, NewTopic};
///
/// let admin = Admin::connect(ClientConfig::new("localhost:9092")).await?;
/// admin.create_topic(NewTopic::new("words", 6).config("retention.ms", "-1")).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Admin {
    cluster: Cluster,
}

impl Admin {
    /// Administers a cluster that is connected already.
    pub fn new(cluster: &Cluster) -> Self {
        Self { cluster: cluster.clone() }
    }

    /// Connects to a cluster.
    ///
    /// # Errors
    /// As [`Cluster::connect`].
    pub async fn connect(config: ClientConfig) -> Result<Self> {
        Ok(Self { cluster: Cluster::connect(config).await? })
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The cluster's id, if the brokers tell one.
    pub fn cluster_id(&self) -> Option<String> {
        self.cluster.cluster_id()
    }

    /// How long a broker may work on a request, in ms: less than this side waits for the answer.
    fn broker_timeout_ms(&self) -> i32 {
        i32::try_from(self.cluster.config().request_timeout.as_millis() * 9 / 10).unwrap_or(i32::MAX)
    }

    /// Asks the controller.
    async fn ask_controller<A: Api>(&self, request: &A) -> Result<A::Response> {
        self.cluster.request(self.cluster.controller()?, ConnectionClass::Slow, request).await
    }

    /// Attempts something for several items until each has an answer that stays: retriable ones are attempted again.
    /// An attempt answers for its items in their order.
    async fn settle<T: Clone, R, F>(
        &self,
        items: &[T],
        attempt: impl Fn(Vec<T>) -> F,
    ) -> Result<Vec<Result<R>>>
    where
        F: Future<Output = Result<Vec<Result<R>>>>,
    {
        let mut retry = self.cluster.retry();
        let mut results: Vec<Option<Result<R>>> = items.iter().map(|_| None).collect();
        loop {
            let open: Vec<usize> =
                (0..items.len()).filter(|at| !matches!(&results[*at], Some(r) if is_final(r))).collect();
            if open.is_empty() {
                break;
            }
            let again = match attempt(open.iter().map(|at| items[*at].clone()).collect()).await {
                Ok(answers) => {
                    let mut again = None;
                    for (at, answer) in open.iter().zip(answers) {
                        if let Err(error) = &answer
                            && error.is_retriable()
                        {
                            again.get_or_insert_with(|| waiting(error));
                        }
                        results[*at] = Some(answer);
                    }
                    match again {
                        Some(error) => error,
                        None if open.iter().all(|at| results[*at].is_some()) => continue,
                        None => Error::new(ErrorKind::Broker, "the broker's answer leaves something out")
                            .with_class(crate::ErrorClass::Retriable),
                    }
                }
                Err(error) => {
                    if !error.is_retriable() || results.iter().all(Option::is_none) {
                        if is_stale_metadata(&error) {
                            self.cluster.refresh_brokers().await?;
                        }
                        retry.after(error).await?;
                        continue;
                    }
                    error
                }
            };
            if is_stale_metadata(&again) {
                // The controller may be another one by now.
                self.cluster.refresh_brokers().await?;
            }
            if retry.after(again).await.is_err() {
                break;
            }
        }
        Ok(results
            .into_iter()
            .map(|result| {
                result.unwrap_or_else(|| {
                    Err(Error::new(ErrorKind::Timeout, "the broker did not answer for it in time"))
                })
            })
            .collect())
    }
}

fn is_final<R>(result: &Result<R>) -> bool {
    result.as_ref().err().is_none_or(|error| !error.is_retriable())
}

/// A stand-in for an error that stays where it is.
fn waiting(error: &Error) -> Error {
    let standing = Error::new(error.kind(), error.to_string()).with_class(error.class());
    match error.code() {
        Some(code) => standing.with_code(code),
        None => standing,
    }
}

/// The only result of a call on one thing.
fn only<R>(results: Result<Vec<Result<R>>>) -> Result<R> {
    results?.pop().unwrap_or_else(|| Err(Error::new(ErrorKind::Broker, "the broker gave no answer")))
}

/// What a broker said of one topic.
fn said(code: i16, message: Option<&str>, site: CallSite, topic: &str) -> Result<()> {
    broker_error_saying(code, site, message).map_or(Ok(()), |error| Err(error.at_topic(topic)))
}
