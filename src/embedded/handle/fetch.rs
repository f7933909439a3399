//! Fetch.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::{
    AbortedTransaction, EpochEndOffset, FetchableTopicResponse, PartitionData,
};

use crate::clock;
use crate::embedded::broker::{Broker, Caller};
use crate::embedded::refuse::Refuse;
use crate::embedded::state::State;

/// Sessions (KIP-227) are never opened, as by a broker whose cache of them is full: every fetch names all partitions.
pub(crate) async fn fetch(broker: &Broker, caller: &Caller, request: m::FetchRequest) -> m::FetchResponse {
    // A fetch that opens or closes a session names everything, too; others lean on one.
    if !matches!(request.session_epoch, 0 | -1) {
        return m::FetchResponse::default().with_error_code(ResponseError::FetchSessionIdNotFound.code());
    }
    if !matches!(request.isolation_level, 0 | 1) {
        return request.refuse(ResponseError::UnknownServerError.code());
    }
    let min_bytes = usize::try_from(request.min_bytes).unwrap_or(0);
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let committed = request.isolation_level == 1;
    let max_bytes = i64::from(request.max_bytes).min(broker.config.number("fetch.max.bytes"));
    let max_bytes = usize::try_from(max_bytes).unwrap_or(0);
    if !wait.is_zero() {
        let ready = ready(broker, caller, &request.topics, committed, min_bytes.min(max_bytes));
        // Whether it is ready or late: it is answered.
        let _ = clock::timeout(wait, ready).await;
    }
    let mut state = broker.lock();
    let mut left = max_bytes;
    let mut none_yet = true;
    let responses = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let limit = left.min(limit(asked));
            let data = read(caller, &mut state, &topic, asked, committed, limit, none_yet);
            let got = data.records.as_ref().map_or(0, Bytes::len);
            none_yet &= got == 0;
            left = left.saturating_sub(got);
            data
        });
        let partitions = partitions.collect();
        FetchableTopicResponse::default().with_topic(topic.topic.clone()).with_partitions(partitions)
    });
    m::FetchResponse::default().with_responses(responses.collect())
}

fn limit(asked: &FetchPartition) -> usize {
    usize::try_from(asked.partition_max_bytes).unwrap_or(0)
}

/// Waits until `min_bytes` can be read, or something is to be said at once.
async fn ready(broker: &Broker, caller: &Caller, topics: &[FetchTopic], committed: bool, min_bytes: usize) {
    loop {
        let changed = broker.changed.notified();
        tokio::pin!(changed);
        // ORDER: listening begins before looking, so that no change falls in between.
        changed.as_mut().enable();
        {
            let mut state = broker.lock();
            let all =
                topics.iter().flat_map(|topic| topic.partitions.iter().map(move |asked| (topic, asked)));
            let mut bytes = 0;
            let mut asked_any = false;
            for (topic, asked) in all {
                asked_any = true;
                let led = state.led(caller.node, &topic.topic, asked.partition, asked.current_leader_epoch);
                let Ok((led, _)) = led else { return };
                // A reader that is behind a truncation is told so.
                if diverging(&led.log, asked).is_some() {
                    return;
                }
                match led.log.available(asked.fetch_offset, committed, limit(asked)) {
                    Ok(some) => bytes += some,
                    Err(_) => return,
                }
            }
            if bytes >= min_bytes || !asked_any {
                return;
            }
        }
        changed.await;
    }
}

/// Where the logs of the broker and of a reader that says its last epoch part (KIP-595).
fn diverging(log: &crate::embedded::log::Log, asked: &FetchPartition) -> Option<(i32, i64)> {
    if asked.last_fetched_epoch < 0 {
        return None;
    }
    let (epoch, end) = log.end_of_epoch(asked.last_fetched_epoch);
    (epoch < asked.last_fetched_epoch || end < asked.fetch_offset).then_some((epoch, end))
}

fn read(
    caller: &Caller,
    state: &mut State,
    topic: &FetchTopic,
    asked: &FetchPartition,
    committed: bool,
    limit: usize,
    at_least_one: bool,
) -> PartitionData {
    let answer = PartitionData::default()
        .with_partition_index(asked.partition)
        .with_preferred_read_replica(m::BrokerId(-1))
        .with_records(Some(Bytes::new()));
    let failed = |answer: PartitionData, error: ResponseError| {
        answer
            .with_error_code(error.code())
            .with_aborted_transactions(None)
            .with_high_watermark(-1)
            .with_last_stable_offset(-1)
            .with_log_start_offset(-1)
    };
    let led = match state.led(caller.node, &topic.topic, asked.partition, asked.current_leader_epoch) {
        Ok((led, _)) => led,
        Err(error) => return failed(answer, error),
    };
    let log = &led.log;
    let told = answer
        .with_high_watermark(log.high_watermark())
        .with_last_stable_offset(log.last_stable_offset())
        .with_log_start_offset(log.start());
    if let Some((epoch, end)) = diverging(log, asked) {
        if end < 0 {
            return failed(told, ResponseError::OffsetOutOfRange);
        }
        return told.with_diverging_epoch(EpochEndOffset::default().with_epoch(epoch).with_end_offset(end));
    }
    match log.read(asked.fetch_offset, committed, limit, at_least_one) {
        Err(error) => failed(told, error),
        Ok(read) => {
            let aborted = read.aborted.iter().map(|aborted| {
                AbortedTransaction::default()
                    .with_producer_id(m::ProducerId(aborted.producer_id))
                    .with_first_offset(aborted.first_offset)
            });
            told.with_aborted_transactions(committed.then(|| aborted.collect()))
                .with_records(Some(read.records))
        }
    }
}
