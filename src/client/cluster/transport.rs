//! The cluster as the way of a producer to its brokers.

use std::sync::Arc;

use kafka_protocol::messages::{
    InitProducerIdRequest, InitProducerIdResponse, ProduceRequest, ProduceResponse,
};

use super::{Cluster, ConnectionClass, RequestOptions, lock};
use crate::client::produce::{self, ProduceTransport, TxnCall, TxnSaid};
use crate::{Result, TopicPartition};

impl ProduceTransport for Cluster {
    async fn leader(&self, topic: &str, partition: i32) -> Result<i32> {
        let at = TopicPartition::new(topic, partition);
        if let Some(leader) = self.known_leader(&at) {
            return Ok(leader.node);
        }
        let seen = lock(&self.0.topics).generation(topic);
        self.refresh(&[Arc::clone(&at.topic)], Some(seen)).await?;
        Ok(self.look(&at)?.node)
    }

    fn invalidate(&self, topic: &str) {
        Cluster::invalidate(self, topic, u64::MAX);
    }

    async fn produce(
        &self,
        node: i32,
        request: ProduceRequest,
        max_version: Option<i16>,
    ) -> Result<ProduceResponse> {
        let options = RequestOptions { max_version, ..RequestOptions::default() };
        self.request_with(node, ConnectionClass::Produce, &request, options).await
    }

    async fn init_producer_id(&self, request: InitProducerIdRequest) -> Result<InitProducerIdResponse> {
        self.request_any(ConnectionClass::Normal, &request).await
    }

    async fn transaction(&self, call: TxnCall) -> Result<TxnSaid> {
        produce::call(self, call).await
    }
}
