//! What a producer needs of a cluster.

use std::future::Future;

use kafka_protocol::messages::{
    InitProducerIdRequest, InitProducerIdResponse, ProduceRequest, ProduceResponse,
};

use super::transaction::{TxnCall, TxnSaid};
use crate::error::Result;

/// The way to the brokers. It negotiates versions (Produce 3 to 12: topics go by name), keeps to its own request timeout
/// and to the throttling that answers ask for.
///
/// An error says by [`is_retriable`](crate::Error::is_retriable) whether to try again; whether the request was carried
/// out is not known then.
pub(crate) trait ProduceTransport: Send + Sync + 'static {
    /// The node that leads a partition, from cached metadata if there is any.
    fn leader(&self, topic: &str, partition: i32) -> impl Future<Output = Result<i32>> + Send;

    /// Says that what is cached of a topic has turned out wrong: the next [`leader`](Self::leader) asks anew.
    fn invalidate(&self, topic: &str);

    /// Writes batches, in `max_version` at most. Requests to one node must reach it in the order in which their futures are first polled.
    fn produce(
        &self,
        node: i32,
        request: ProduceRequest,
        max_version: Option<i16>,
    ) -> impl Future<Output = Result<ProduceResponse>> + Send;

    /// Asks any broker for a producer id.
    fn init_producer_id(
        &self,
        request: InitProducerIdRequest,
    ) -> impl Future<Output = Result<InitProducerIdResponse>> + Send;

    /// Asks the coordinator of a transactional id, or of a group. The error's class says what it means for the
    /// transaction.
    fn transaction(&self, call: TxnCall) -> impl Future<Output = Result<TxnSaid>> + Send;
}
