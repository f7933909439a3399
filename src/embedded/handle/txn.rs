//! Transactions, and producer ids.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;

use crate::embedded::broker::{Broker, Caller};
use crate::embedded::refuse::Refuse;

pub(crate) async fn init_producer_id(
    broker: &Broker,
    _caller: &Caller,
    request: m::InitProducerIdRequest,
) -> m::InitProducerIdResponse {
    if request.transactional_id.is_some() {
        return request.refuse(ResponseError::UnsupportedVersion.code());
    }
    // Without a transactional id, who asks gets a new one, whatever it had.
    let id = broker.lock().txn.new_producer_id();
    m::InitProducerIdResponse::default().with_producer_id(m::ProducerId(id)).with_producer_epoch(0)
}

pub(crate) async fn add_partitions_to_txn(
    _broker: &Broker,
    _caller: &Caller,
    request: m::AddPartitionsToTxnRequest,
) -> m::AddPartitionsToTxnResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}

pub(crate) async fn add_offsets_to_txn(
    _broker: &Broker,
    _caller: &Caller,
    request: m::AddOffsetsToTxnRequest,
) -> m::AddOffsetsToTxnResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}

pub(crate) async fn end_txn(
    _broker: &Broker,
    _caller: &Caller,
    request: m::EndTxnRequest,
) -> m::EndTxnResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}

pub(crate) async fn txn_offset_commit(
    _broker: &Broker,
    _caller: &Caller,
    request: m::TxnOffsetCommitRequest,
) -> m::TxnOffsetCommitResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
}
