//! Transactions, and producer ids.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;

use crate::embedded::broker::{Broker, Caller};
use crate::embedded::refuse::Refuse;

pub(crate) async fn init_producer_id(
    _broker: &Broker,
    _caller: &Caller,
    request: m::InitProducerIdRequest,
) -> m::InitProducerIdResponse {
    request.refuse(ResponseError::UnsupportedVersion.code())
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
