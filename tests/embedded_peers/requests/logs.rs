//! Partitions: what is written, read, looked up and deleted; and transactions at their edges.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages as m;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};

use super::{Asker, NOBODY, ask_all, list_request, named, text};
use crate::common::unique;
use crate::raw::{now, records};

/// Records of nobody, with a key.
fn plain(count: usize, timestamp: i64) -> Bytes {
    records(count, NOBODY, -1, false, Some("k"), timestamp)
}

/// A batch with other bytes at `at`.
fn with(at: usize, bytes: &[u8]) -> Bytes {
    let mut batch = BytesMut::from(&plain(2, now())[..]);
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    batch.freeze()
}

#[test]
fn batches_are_taken_and_refused_as_by_kafka() {
    ask_all("batches_are_taken_and_refused_as_by_kafka", |a| {
        let (topic, compacted) = (a.topic(&[]), a.topic(&[("cleanup.policy", "compact")]));
        let joined = |parts: &[&[u8]]| Bytes::from(parts.concat());
        let whole = plain(2, now());
        for (what, records, wanted) in [
            ("nothing", Bytes::new(), 87),
            ("a cut batch", whole.slice(..whole.len() - 3), 87),
            ("ten bytes", whole.slice(..10), 87),
            ("two batches", joined(&[&whole, &whole]), 87),
            ("a wrong sum", with(20, &[whole[20] ^ 1]), 2),
            ("magic 0", with(16, &[0]), 87),
            ("magic 1", with(16, &[1]), 87),
            ("magic 3", with(16, &[3]), 2),
            ("magic -1", with(16, &[0xff]), 2),
            ("a negative length", with(8, &(-5_i32).to_be_bytes()), 2),
            ("a short length", with(8, &10_i32.to_be_bytes()), 2),
            ("a length below the header's", with(8, &20_i32.to_be_bytes()), 2),
            ("an old record", plain(1, 5), 0),
            ("a record of the future", plain(1, now() + 7_200_000), 32),
        ] {
            let said = a.produce(&topic, None, records).0;
            a.says(what, said, wanted);
        }
        let end = a.list(&topic, -1, 0, 5).1;
        let said = a.produce(&topic, None, joined(&[&whole, &[1, 2, 3]]));
        a.says("a cut batch behind it", said, (0, end, false, 0, 0));
        let keyless = |count| records(count, NOBODY, -1, false, None, now());
        let said = a.produce(&compacted, None, keyless(3));
        a.says("no keys", said, (87, -1, false, 0, 3));
        let said = a.produce(&compacted, None, keyless(30));
        a.says("no keys at all", said, (87, -1, false, 0, 30));
        let said = a.produce("nowhere", None, whole.clone());
        a.says("nowhere", said, (3, -1, false, -1, 0));
        let said = a.produce(&topic, None, records(1, NOBODY, -1, true, Some("k"), now()));
        a.says("transactional, of nobody", said, (53, -1, false, -1, 0));
        let said = a.produce(&topic, None, records(1, (1 << 40, 0), 0, true, Some("k"), now()));
        a.says("transactional, without an id", said, (53, -1, false, -1, 0));
    });
}

#[test]
fn sequences_are_judged_as_by_kafka() {
    ask_all("sequences_are_judged_as_by_kafka", |a| {
        let topic = a.topic(&[]);
        let producer = now();
        let of =
            |epoch, sequence, count| records(count, (producer, epoch), sequence, false, Some("k"), producer);
        for (what, records, wanted) in [
            ("first", of(0, 0, 2), (0, 0, false, 0, 0)),
            ("again", of(0, 0, 2), (0, 0, true, 0, 0)),
            ("a gap", of(0, 5, 1), (45, -1, false, 0, 0)),
            ("next", of(0, 2, 1), (0, 2, false, 0, 0)),
            ("the first again", of(0, 0, 2), (0, 0, true, 0, 0)),
            ("partly again", of(0, 1, 2), (45, -1, false, 0, 0)),
            ("an epoch from 5 on", of(1, 5, 1), (45, -1, false, 0, 0)),
            ("an epoch", of(1, 0, 1), (0, 3, false, 0, 0)),
            ("the old epoch", of(0, 3, 1), (47, -1, false, 0, 0)),
        ] {
            let said = a.produce(&topic, None, records);
            a.says(what, said, wanted);
        }
    });
}

fn fetch(
    a: &mut Asker,
    topic: &str,
    offset: i64,
    isolation: i8,
    change: impl FnOnce(m::FetchRequest) -> m::FetchRequest,
) -> m::FetchResponse {
    let asked = FetchPartition::default().with_fetch_offset(offset).with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_topic(named(topic)).with_partitions(vec![asked]);
    let request = m::FetchRequest::default()
        .with_replica_id(m::BrokerId(-1))
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_isolation_level(isolation)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    a.raw.ask(11, &change(request))
}

/// The one partition's code, high watermark, last stable offset and start.
fn fetched(answer: &m::FetchResponse) -> (i16, i64, i64, i64) {
    let one = &answer.responses[0].partitions[0];
    (one.error_code, one.high_watermark, one.last_stable_offset, one.log_start_offset)
}

fn delete(a: &mut Asker, topic: &str, before: i64) -> (i16, i64) {
    let one = DeleteRecordsPartition::default().with_offset(before);
    let topic = DeleteRecordsTopic::default().with_name(named(topic)).with_partitions(vec![one]);
    let request = m::DeleteRecordsRequest::default().with_timeout_ms(10_000).with_topics(vec![topic]);
    let answer = &a.raw.ask(2, &request).topics[0].partitions[0];
    (answer.error_code, answer.low_watermark)
}

#[test]
fn logs_are_read_as_by_kafka() {
    ask_all("logs_are_read_as_by_kafka", |a| {
        let topic = a.topic(&[("retention.ms", "-1")]);
        for timestamp in [100, 300, 200, 300, 250] {
            assert_eq!(a.produce(&topic, None, plain(2, timestamp)).0, 0);
        }
        for (timestamp, version, wanted) in [
            (-1, 1, (0, 10, -1)),
            (-2, 1, (0, 0, -1)),
            (-3, 1, (35, -1, -1)),
            (-3, 6, (35, -1, -1)),
            (-3, 7, (0, 2, 300)),
            (-4, 1, (35, -1, -1)),
            (-4, 7, (35, -1, -1)),
            (-4, 8, (0, 0, -1)),
            (-5, 8, (35, -1, -1)),
            (-99, 8, (35, -1, -1)),
            (0, 1, (0, 0, 100)),
            (101, 8, (0, 2, 300)),
            (301, 8, (0, -1, -1)),
        ] {
            let said = a.list(&topic, timestamp, 0, version);
            a.says(&format!("list {timestamp} in version {version}"), said, wanted);
        }
        let said = a.list(&topic, -1, 5, 5);
        a.says("an unknown isolation level", said, (-1, -1, -1));
        let said = a.raw.ask(5, &list_request("nowhere", -1, 0)).topics[0].partitions[0].error_code;
        a.says("nowhere", said, 3);

        for (what, offset, wanted) in [
            ("at the end", 10, (0, 10, 10, 0)),
            ("behind it", 11, (1, -1, -1, -1)),
            ("before", -1, (1, -1, -1, -1)),
        ] {
            let said = fetched(&fetch(a, &topic, offset, 0, |r| r));
            a.says(what, said, wanted);
        }
        for (what, id, epoch, wanted) in [
            ("no session goes on", 0, 4, 70),
            ("an unknown session", 5, 1, 70),
            ("the end of an unknown session", 5, -1, 0),
            ("the beginning of a session", 0, 0, 0),
        ] {
            let change = |r: m::FetchRequest| r.with_session_id(id).with_session_epoch(epoch);
            let said = fetch(a, &topic, 10, 0, change).error_code;
            a.says(what, said, wanted);
        }
        let said = fetched(&fetch(a, &topic, 0, 7, |r| r)).0;
        a.says("an unknown isolation level", said, -1);

        for (epoch, wanted) in [(0, (0, 0, 10)), (-1, (0, -1, -1)), (-5, (0, -5, 0)), (5, (0, -1, -1))] {
            let asked = OffsetForLeaderPartition::default().with_leader_epoch(epoch);
            let asked = OffsetForLeaderTopic::default()
                .with_topic(named(&topic))
                .with_partitions(vec![asked.with_current_leader_epoch(-1)]);
            let request = m::OffsetForLeaderEpochRequest::default().with_replica_id(m::BrokerId(-1));
            let said = a.raw.ask(4, &request.with_topics(vec![asked]));
            let said = &said.topics[0].partitions[0];
            let said = (said.error_code, said.leader_epoch, said.end_offset);
            a.says(&format!("the end of epoch {epoch}"), said, wanted);
        }

        for (before, wanted) in [(-2, (1, -1)), (11, (1, -1)), (3, (0, 3)), (1, (0, 3))] {
            let said = delete(a, &topic, before);
            a.says(&format!("delete before {before}"), said, wanted);
        }
        let said = (a.list(&topic, -2, 0, 7), a.list(&topic, 0, 0, 7));
        a.says("after it", said, ((0, 3, -1), (0, 3, 300)));
        let said = fetched(&fetch(a, &topic, 2, 0, |r| r)).0;
        a.says("what is deleted", said, 1);
    });
}

fn init(a: &mut Asker, id: &str) -> (i64, i16) {
    let find = m::FindCoordinatorRequest::default().with_key_type(1).with_key(text(id));
    a.settled(|raw| raw.ask(2, &find), |answer| answer.error_code);
    let request = m::InitProducerIdRequest::default()
        .with_transactional_id(Some(m::TransactionalId(text(id))))
        .with_transaction_timeout_ms(60_000)
        .with_producer_id(m::ProducerId(-1))
        .with_producer_epoch(-1);
    let answer = a.settled(|raw| raw.ask(4, &request), |answer| answer.error_code);
    assert_eq!(answer.error_code, 0);
    (answer.producer_id.0, answer.producer_epoch)
}

/// Adds partition 0 of these topics; the first code.
fn add(a: &mut Asker, id: &str, by: (i64, i16), topics: &[&str]) -> i16 {
    let topics = topics
        .iter()
        .map(|topic| AddPartitionsToTxnTopic::default().with_name(named(topic)).with_partitions(vec![0]));
    let request = m::AddPartitionsToTxnRequest::default()
        .with_v3_and_below_transactional_id(m::TransactionalId(text(id)))
        .with_v3_and_below_producer_id(m::ProducerId(by.0))
        .with_v3_and_below_producer_epoch(by.1)
        .with_v3_and_below_topics(topics.collect());
    let code = |answer: &m::AddPartitionsToTxnResponse| {
        let first = answer.results_by_topic_v3_and_below.first();
        first.map_or(0, |topic| topic.results_by_partition[0].partition_error_code)
    };
    code(&a.settled(|raw| raw.ask(3, &request), code))
}

fn end(a: &mut Asker, id: &str, by: (i64, i16), commit: bool) -> i16 {
    let request = m::EndTxnRequest::default()
        .with_transactional_id(m::TransactionalId(text(id)))
        .with_producer_id(m::ProducerId(by.0))
        .with_producer_epoch(by.1)
        .with_committed(commit);
    a.settled(|raw| raw.ask(3, &request), |answer| answer.error_code).error_code
}

#[test]
fn a_transaction_is_seen_at_the_edge_of_its_log_as_by_kafka() {
    ask_all("a_transaction_is_seen_at_the_edge_of_its_log_as_by_kafka", |a| {
        let (topic, id) = (a.topic(&[]), unique("id"));
        let by = init(a, &id);
        assert_eq!(add(a, &id, by, &[&topic]), 0);
        let said = a.produce(&topic, Some(&id), records(3, by, 0, true, Some("k"), now()));
        a.says("in the transaction", said, (0, 0, false, 0, 0));
        let said = a.produce(&topic, None, plain(3, now()));
        a.says("behind it", said, (0, 3, false, 0, 0));
        let said = a.produce(&topic, Some(&id), records(1, by, 3, false, Some("k"), now()));
        a.says("of the producer, outside of it", said, (48, -1, false, 0, 0));
        let other = a.topic(&[]);
        let said = a.produce(&other, Some(&id), records(1, by, 0, true, Some("k"), now()));
        a.says("where it was not added", said, (48, -1, false, -1, 0));

        let said = (a.list(&topic, -1, 1, 7).1, fetched(&fetch(a, &topic, 0, 1, |r| r)));
        a.says("open", said, (0, (0, 6, 0, 0)));
        let said = delete(a, &topic, 2);
        a.says("its beginning is deleted", said, (0, 2));
        let said = (a.list(&topic, -1, 1, 7).1, fetched(&fetch(a, &topic, 2, 1, |r| r)));
        // Its batch begins at 0 all the same.
        a.says("open from 2 on", said, (0, (0, 6, 0, 2)));
        let said = delete(a, &topic, -1);
        a.says("all is deleted", said, (0, 6));
        let said = (a.list(&topic, -1, 1, 7).1, fetched(&fetch(a, &topic, 6, 1, |r| r)));
        a.says("open from 6 on", said, (6, (0, 6, 6, 6)));
        let said = a.produce(&topic, None, plain(1, now()));
        a.says("behind it", said, (0, 6, false, 6, 0));
        let said = (a.list(&topic, -1, 1, 7).1, fetched(&fetch(a, &topic, 6, 1, |r| r)));
        a.says("still open from 6 on", said, (6, (0, 7, 6, 6)));
        let said = end(a, &id, by, false);
        a.says("abort", said, 0);
    });
}

#[test]
fn a_transaction_without_anything_in_it_ends_as_by_kafka() {
    ask_all("a_transaction_without_anything_in_it_ends_as_by_kafka", |a| {
        let id = unique("id");
        let by = init(a, &id);
        let said = end(a, &id, by, true);
        a.says("end what has not begun", said, 48);
        let said = add(a, &id, by, &[]);
        a.says("add nothing", said, 0);
        let said = end(a, &id, by, true);
        a.says("end it", said, 0);
        let said = end(a, &id, by, true);
        a.says("end it again", said, 0);
        let said = end(a, &id, by, false);
        a.says("abort what is committed", said, 48);
    });
}
