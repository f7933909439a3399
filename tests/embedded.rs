//! The embedded broker through the client's public face: nodes, leaders, faults, time.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]
#![allow(clippy::disallowed_methods, reason = "a test ends by its deadline")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages as m;
use kafka_protocol::protocol::StrBytes;
use mainstem::client::{
    Admin, ClientConfig, Cluster, Isolation, LogRecord, NewTopic, OffsetSpec, Producer, ProducerOptions,
    ReadFrom, ReadOptions, Reader,
};
use mainstem::embedded::{Api, EmbeddedKafka, Fault};
use mainstem::{ErrorKind, Record, TopicPartition};

#[allow(dead_code, reason = "the peers use more of it")]
#[path = "embedded_peers/raw.rs"]
mod raw;

/// What must happen happens within this.
const PATIENCE: Duration = Duration::from_secs(30);

async fn connect(kafka: &EmbeddedKafka) -> Cluster {
    Cluster::connect(ClientConfig::new(kafka.bootstrap())).await.unwrap()
}

async fn make(cluster: &Cluster, topic: NewTopic) {
    Admin::new(cluster).create_topic(topic).await.unwrap();
}

fn numbered(at: i64) -> Record<Bytes, Bytes> {
    Record::new(Some(Bytes::from(format!("k{}", at % 7))), Bytes::from(at.to_string()), at)
}

async fn write(cluster: &Cluster, topic: &str, numbers: std::ops::Range<i64>) {
    let producer = Producer::new(cluster, ProducerOptions::default()).unwrap();
    for at in numbers {
        producer.send(topic, Some(0), numbered(at)).await.unwrap();
    }
    producer.flush().await.unwrap();
}

async fn read(cluster: &Cluster, topic: &str) -> Vec<LogRecord> {
    let options = ReadOptions::new(topic).isolation(Isolation::ReadCommitted).until_end();
    let mut reader = Reader::new(cluster, options).await.unwrap();
    let mut records = Vec::new();
    while let Some(record) = reader.next().await.unwrap() {
        records.push(record);
    }
    records
}

fn numbers(records: &[LogRecord]) -> Vec<i64> {
    records.iter().map(|record| record.timestamp).collect()
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} does not happen"),
    }
}

#[tokio::test]
async fn every_record_comes_once_and_in_order_through_moves_of_the_leader() {
    let kafka = Arc::new(EmbeddedKafka::builder().nodes(3).start().unwrap());
    let cluster = connect(&kafka).await;
    make(&cluster, NewTopic::new("moved", 1).replication(3)).await;
    // Every third produce request finds that the leader has just moved.
    let moves = Arc::new(AtomicUsize::new(0));
    let (of_hook, counted) = (Arc::downgrade(&kafka), Arc::clone(&moves));
    kafka.on(Api::Produce, move |_| {
        let at = counted.fetch_add(1, Ordering::SeqCst);
        if let Some(kafka) = of_hook.upgrade()
            && at % 3 == 0
            && at < 60
        {
            let next = kafka.leader("moved", 0).unwrap() % 3 + 1;
            kafka.move_leader("moved", 0, next).unwrap();
        }
        Fault::Pass
    });
    let producer = Producer::new(&cluster, ProducerOptions::default()).unwrap();
    for at in 0..2_000 {
        producer.send("moved", Some(0), numbered(at)).await.unwrap();
        if at % 100 == 0 {
            soon("the write", producer.flush()).await.unwrap();
        }
    }
    soon("the write", producer.flush()).await.unwrap();
    assert!(moves.load(Ordering::SeqCst) > 20);
    assert_eq!(numbers(&soon("the read", read(&cluster, "moved")).await), (0..2_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_lost_answer_causes_no_second_record() {
    let kafka = EmbeddedKafka::start().unwrap();
    let cluster = connect(&kafka).await;
    make(&cluster, NewTopic::new("lost", 1)).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    kafka.on(Api::Produce, move |call| {
        assert!(!call.body.is_empty());
        match counted.fetch_add(1, Ordering::SeqCst) {
            0 | 3 => Fault::DropAfter,
            1 => Fault::DropBefore,
            2 => Fault::Fail(6),
            _ => Fault::Pass,
        }
    });
    soon("the write", write(&cluster, "lost", 0..10)).await;
    assert!(asked.load(Ordering::SeqCst) > 4);
    assert_eq!(numbers(&read(&cluster, "lost").await), (0..10).collect::<Vec<_>>());
    kafka.clear_hooks();
    let before = asked.load(Ordering::SeqCst);
    write(&cluster, "lost", 10..12).await;
    assert_eq!(asked.load(Ordering::SeqCst), before, "no hook any more");
}

#[tokio::test]
async fn a_connection_that_dies_at_any_byte_of_an_answer_causes_no_second_record() {
    let kafka = EmbeddedKafka::start().unwrap();
    let cluster = connect(&kafka).await;
    make(&cluster, NewTopic::new("bytes", 1)).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    // Every other answer is whole, so that the pause before the next attempt does not grow.
    kafka.cut(move |frame| {
        let at =
            (frame.api == Api::Produce && frame.answer).then(|| counted.fetch_add(1, Ordering::SeqCst))?;
        (at % 2 == 0).then_some(at / 2)
    });
    let producer = Producer::new(&cluster, ProducerOptions::default()).unwrap();
    let mut sent = 0;
    while asked.load(Ordering::SeqCst) < 160 {
        producer.send("bytes", Some(0), numbered(sent)).await.unwrap();
        soon("the write", producer.flush()).await.unwrap();
        sent += 1;
    }
    assert_eq!(numbers(&read(&cluster, "bytes").await), (0..sent).collect::<Vec<_>>());
}

#[tokio::test]
async fn every_record_comes_once_over_connections_that_die_at_random() {
    let kafka = EmbeddedKafka::builder().nodes(2).start().unwrap();
    kafka.cut_connections(5, 60_000);
    let cluster = soon("a connection", connect(&kafka)).await;
    make(&cluster, NewTopic::new("dying", 1)).await;
    let producer = Producer::new(&cluster, ProducerOptions::default()).unwrap();
    for at in 0..5_000 {
        producer.send("dying", Some(0), numbered(at)).await.unwrap();
        if at % 50 == 0 {
            soon("the write", producer.flush()).await.unwrap();
        }
    }
    soon("the write", producer.flush()).await.unwrap();
    assert_eq!(numbers(&soon("the read", read(&cluster, "dying")).await), (0..5_000).collect::<Vec<_>>());
    kafka.keep_connections();
}

#[tokio::test]
async fn a_node_stops_and_returns_and_another_leads_meanwhile() {
    let kafka = EmbeddedKafka::builder().nodes(2).start().unwrap();
    let cluster = connect(&kafka).await;
    make(&cluster, NewTopic::new("both", 1).replication(2)).await;
    make(&cluster, NewTopic::new("one", 2).replication(1)).await;
    write(&cluster, "both", 0..10).await;
    let first = kafka.leader("both", 0).unwrap();
    kafka.stop_node(first).unwrap();
    let other = 3 - first;
    assert_eq!(kafka.leader("both", 0), Some(other));
    assert_eq!(
        [0, 1].iter().filter(|p| kafka.leader("one", **p).is_none()).count(),
        1,
        "it had no other replica"
    );
    soon("the write", write(&cluster, "both", 10..20)).await;
    let described = Admin::new(&cluster).describe_topics(&["both"]).await.unwrap().pop().unwrap().unwrap();
    assert_eq!(described.partitions[0].in_sync, [other]);
    kafka.start_node(first).unwrap();
    kafka.move_leader("both", 0, first).unwrap();
    soon("the write", write(&cluster, "both", 20..30)).await;
    assert_eq!(numbers(&soon("the read", read(&cluster, "both")).await), (0..30).collect::<Vec<_>>());
    assert!(kafka.leader("one", 0).is_some() && kafka.leader("one", 1).is_some());
}

#[tokio::test]
async fn a_frozen_node_answers_when_it_thaws() {
    let kafka = EmbeddedKafka::start().unwrap();
    let cluster = connect(&kafka).await;
    make(&cluster, NewTopic::new("cold", 1)).await;
    kafka.freeze_node(1).unwrap();
    let producer = Producer::new(&cluster, ProducerOptions::default()).unwrap();
    let written = async {
        producer.send("cold", Some(0), numbered(0)).await.unwrap();
        producer.flush().await.unwrap();
    };
    tokio::pin!(written);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut written).await.is_err(), "nobody answers");
    kafka.thaw_node(1).unwrap();
    soon("the answer", written).await;
    assert_eq!(numbers(&read(&cluster, "cold").await), [0]);
}

#[tokio::test]
async fn what_was_not_replicated_is_lost_with_its_leader_and_a_reader_learns_of_it() {
    let kafka = EmbeddedKafka::builder().nodes(2).start().unwrap();
    let cluster = connect(&kafka).await;
    make(&cluster, NewTopic::new("cut", 1).replication(2)).await;
    write(&cluster, "cut", 0..5).await;
    let at = TopicPartition::new("cut", 0);
    let end = async || {
        let admin = Admin::new(&cluster);
        admin.list_offset(&at, OffsetSpec::Latest, Isolation::ReadUncommitted).await.unwrap().offset
    };
    kafka.hold_replication("cut", 0, true).unwrap();
    let producer = Producer::new(&cluster, ProducerOptions::default()).unwrap();
    producer.send("cut", Some(0), numbered(5)).await.unwrap();
    let flushed = producer.flush();
    tokio::pin!(flushed);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut flushed).await.is_err(), "not replicated");
    assert_eq!(end().await, Some(5), "nobody may read it");
    let other = 3 - kafka.leader("cut", 0).unwrap();
    kafka.move_leader("cut", 0, other).unwrap();
    kafka.hold_replication("cut", 0, false).unwrap();
    // The producer is told that its leader is gone, and writes again.
    soon("the second write", flushed).await.unwrap();
    assert_eq!(numbers(&soon("the read", read(&cluster, "cut")).await), (0..6).collect::<Vec<_>>());
    let admin = Admin::new(&cluster);
    let mut epochs = Vec::new();
    for epoch in [0, 1] {
        let asked = [(at.clone(), epoch)];
        epochs.push(admin.offsets_for_leader_epochs(&asked).await.unwrap().remove(0).unwrap());
    }
    assert_eq!(epochs, [Some((0, 5)), Some((1, 6))]);
}

#[tokio::test]
async fn compaction_keeps_the_last_of_each_key_and_tombstones_for_their_time() {
    let kafka = EmbeddedKafka::builder().manual_clock().start().unwrap();
    let cluster = connect(&kafka).await;
    let topic = NewTopic::new("compacted", 1).config("cleanup.policy", "compact");
    make(&cluster, topic.config("delete.retention.ms", "1000")).await;
    write(&cluster, "compacted", 0..100).await;
    let producer = Producer::new(&cluster, ProducerOptions::default()).unwrap();
    let tombstone = Record::<Bytes, Bytes>::new(Some(Bytes::from_static(b"k3")), None, 100);
    producer.send("compacted", Some(0), tombstone).await.unwrap();
    producer.flush().await.unwrap();
    let before = kafka.size();
    kafka.compact("compacted").unwrap();
    assert!(kafka.size() < before);
    // 94 was k3's last, before it was deleted.
    assert_eq!(numbers(&read(&cluster, "compacted").await), [93, 95, 96, 97, 98, 99, 100]);
    kafka.advance(Duration::from_millis(999)).unwrap();
    kafka.compact("compacted").unwrap();
    assert_eq!(read(&cluster, "compacted").await.last().unwrap().value, None);
    kafka.advance(Duration::from_millis(1)).unwrap();
    kafka.compact("compacted").unwrap();
    let left = read(&cluster, "compacted").await;
    assert_eq!(numbers(&left), [93, 95, 96, 97, 98, 99]);
    assert_eq!(left[0].offset, 93, "offsets stay");
    // A record without a key has no place in a compacted topic.
    let producer = Producer::new(&cluster, ProducerOptions::default()).unwrap();
    producer.send("compacted", Some(0), Record::new(None, Bytes::new(), 0)).await.unwrap();
    assert!(producer.flush().await.is_err());
}

#[tokio::test]
async fn retention_goes_by_the_brokers_clock() {
    let kafka = EmbeddedKafka::builder().manual_clock().start().unwrap();
    let cluster = connect(&kafka).await;
    let topic = NewTopic::new("kept", 1).config("message.timestamp.type", "LogAppendTime");
    make(&cluster, topic.config("retention.ms", "60000")).await;
    write(&cluster, "kept", 0..10).await;
    let stamped = read(&cluster, "kept").await;
    assert!(stamped.iter().all(|record| record.timestamp > 1_000_000_000_000), "the broker's time");
    kafka.advance(Duration::from_secs(60)).unwrap();
    kafka.expire("kept").unwrap();
    assert_eq!(read(&cluster, "kept").await.len(), 10);
    kafka.advance(Duration::from_millis(1)).unwrap();
    kafka.expire("kept").unwrap();
    let from_zero = ReadOptions::new("kept").from(ReadFrom::Offset(0)).until_end();
    let mut reader = Reader::new(&cluster, from_zero).await.unwrap();
    let error = soon("an end", async { reader.next().await }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OffsetOutOfRange);
    assert_eq!(kafka.size(), 0);
}

#[test]
fn a_setting_that_is_not_known_is_refused_by_name() {
    let error = EmbeddedKafka::builder().config("group.min.sesion.timeout.ms", "1").start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("group.min.sesion.timeout.ms"), "{error}");
    assert_eq!(EmbeddedKafka::builder().nodes(0).start().unwrap_err().kind(), ErrorKind::Config);
    let error = EmbeddedKafka::start().unwrap().advance(Duration::from_secs(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IllegalState);
    let kafka = EmbeddedKafka::builder().manual_clock().start().unwrap();
    assert_eq!(kafka.advance(Duration::MAX).unwrap_err().kind(), ErrorKind::Config);
    kafka.advance(Duration::from_secs(1)).unwrap();
}

fn named(name: impl Into<String>) -> StrBytes {
    StrBytes::from_string(name.into())
}

/// A group of one member: its id and generation.
fn member(raw: &mut raw::Raw, group: &str) -> (StrBytes, i32) {
    let join = |member: &StrBytes| {
        m::JoinGroupRequest::default()
            .with_group_id(m::GroupId(named(group)))
            .with_member_id(member.clone())
            .with_protocol_type(named("test"))
            .with_session_timeout_ms(10_000)
            .with_rebalance_timeout_ms(10_000)
            .with_protocols(vec![
                m::join_group_request::JoinGroupRequestProtocol::default().with_name(named("range")),
            ])
    };
    let id = raw.ask(5, &join(&StrBytes::default())).member_id;
    let joined = raw.ask(5, &join(&id));
    let sync = m::SyncGroupRequest::default()
        .with_group_id(m::GroupId(named(group)))
        .with_generation_id(joined.generation_id)
        .with_member_id(id.clone());
    assert_eq!((joined.error_code, raw.ask(3, &sync).error_code), (0, 0));
    (id, joined.generation_id)
}

#[test]
fn what_the_moved_clock_makes_due_is_done_at_once() {
    let kafka = EmbeddedKafka::builder().manual_clock().start().unwrap();
    let mut raw = raw::Raw::connect(kafka.bootstrap());
    for at in 0..300 {
        let group = format!("group-{at}");
        let (id, generation) = member(&mut raw, &group);
        let beat = m::HeartbeatRequest::default()
            .with_group_id(m::GroupId(named(group)))
            .with_generation_id(generation)
            .with_member_id(id);
        kafka.advance(Duration::from_secs(9)).unwrap();
        let before = raw.ask(3, &beat).error_code;
        kafka.advance(Duration::from_secs(11)).unwrap();
        assert_eq!((before, raw.ask(3, &beat).error_code), (0, 25), "UNKNOWN_MEMBER_ID, of group {at}");
    }
}

#[test]
fn a_member_may_want_any_rebalance_timeout() {
    let kafka = EmbeddedKafka::start().unwrap();
    let mut raw = raw::Raw::connect(kafka.bootstrap());
    for timeout in [1_800_000, 86_400_000, i32::MAX] {
        let join = m::JoinGroupRequest::default()
            .with_group_id(m::GroupId(named(format!("group-{timeout}"))))
            .with_protocol_type(named("test"))
            .with_session_timeout_ms(1_800_000)
            .with_rebalance_timeout_ms(timeout)
            .with_protocols(vec![
                m::join_group_request::JoinGroupRequestProtocol::default().with_name(named("range")),
            ]);
        assert_eq!(raw.ask(3, &join).error_code, 0, "{timeout}");
    }
}

#[test]
fn a_produce_that_wants_no_answer_gets_none_from_a_hook_either() {
    let kafka = EmbeddedKafka::start().unwrap();
    kafka.on(Api::Produce, |_| Fault::Fail(6));
    let produce = |acks| {
        let records = raw::batch((-1, -1), -1, false, "x");
        let data = m::produce_request::PartitionProduceData::default().with_records(Some(records));
        let topic = m::produce_request::TopicProduceData::default()
            .with_name(m::TopicName(named("t")))
            .with_partition_data(vec![data]);
        m::ProduceRequest::default().with_acks(acks).with_timeout_ms(1_000).with_topic_data(vec![topic])
    };
    let mut raw = raw::Raw::connect(kafka.bootstrap());
    assert_eq!(raw.ask(9, &produce(1)).responses[0].partition_responses[0].error_code, 6);
    assert_eq!(raw.try_ask(9, &produce(0)), None, "the connection ends");
}

#[test]
fn a_hook_is_removed_alone() {
    let kafka = EmbeddedKafka::start().unwrap();
    let counts = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
    let hooks = counts.each_ref().map(|count| {
        let count = Arc::clone(count);
        kafka.on(Api::Metadata, move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            Fault::Pass
        })
    });
    let mut raw = raw::Raw::connect(kafka.bootstrap());
    let mut asked = || {
        raw.ask(9, &m::MetadataRequest::default());
        counts.each_ref().map(|count| count.load(Ordering::SeqCst))
    };
    assert_eq!(asked(), [1, 1, 1]);
    kafka.remove_hook(hooks[1]);
    kafka.remove_hook(hooks[1]);
    assert_eq!(asked(), [2, 1, 2]);
    kafka.remove_hook(hooks[0]);
    assert_eq!(asked(), [2, 1, 3]);
    assert_eq!(Arc::strong_count(&counts[0]), 1, "it is dropped");
}

#[test]
fn a_hook_that_panics_fails_the_test() {
    let panics = |taken: bool| {
        let kafka = EmbeddedKafka::start().unwrap();
        kafka.on(Api::Metadata, |call| panic!("nobody asks {:?}", call.api));
        let mut raw = raw::Raw::connect(kafka.bootstrap());
        let topic =
            m::metadata_request::MetadataRequestTopic::default().with_name(Some(m::TopicName(named("t"))));
        let answer = raw.ask(9, &m::MetadataRequest::default().with_topics(Some(vec![topic])));
        assert_eq!(answer.topics[0].error_code, -1, "UNKNOWN_SERVER_ERROR");
        assert_eq!(raw.ask(2, &m::ApiVersionsRequest::default()).error_code, 0, "the rest goes on");
        if taken {
            let said = kafka.take_hook_panic().unwrap();
            assert_eq!(said, "a hook of Metadata panicked: nobody asks Metadata");
            assert_eq!(kafka.take_hook_panic(), None);
        }
    };
    panics(true);
    let panic = std::panic::catch_unwind(|| panics(false)).unwrap_err();
    assert_eq!(panic.downcast_ref::<String>().unwrap(), "a hook of Metadata panicked: nobody asks Metadata");
}

#[test]
fn a_hook_may_have_the_last_handle() {
    let kafka = Arc::new(EmbeddedKafka::start().unwrap());
    let bootstrap = kafka.bootstrap().to_owned();
    let (in_hook, of_hook) = std::sync::mpsc::channel();
    let (go_on, gone_on) = std::sync::mpsc::channel();
    let (weak, gone_on) = (Arc::downgrade(&kafka), std::sync::Mutex::new(gone_on));
    kafka.on(Api::Metadata, move |_| {
        let kafka = weak.upgrade().unwrap();
        in_hook.send(()).unwrap();
        gone_on.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        // A panic in here would be an answer.
        drop(kafka);
        Fault::DropBefore
    });
    let asking = std::thread::spawn(move || {
        raw::Raw::connect(&bootstrap).try_ask(9, &m::MetadataRequest::default()).is_some()
    });
    of_hook.recv_timeout(PATIENCE).unwrap();
    drop(kafka);
    go_on.send(()).unwrap();
    assert!(!asking.join().unwrap());
}

/// Who reads until the end, and later on from where that was, misses nothing that came meanwhile.
#[tokio::test]
async fn reading_until_the_end_says_where_it_ended() {
    const NOT_LEADER: i16 = 6;
    let kafka = EmbeddedKafka::start().unwrap();
    let cluster = connect(&kafka).await;
    make(&cluster, NewTopic::new("grows", 1).config("retention.ms", "-1")).await;
    write(&cluster, "grows", 0..10).await;
    let held = Arc::new(AtomicBool::new(true));
    let holds = held.clone();
    kafka.on(Api::Fetch, move |_| match holds.load(Ordering::SeqCst) {
        true => Fault::Fail(NOT_LEADER),
        false => Fault::Pass,
    });
    let mut reader = Reader::new(&cluster, ReadOptions::new("grows").until_end()).await.unwrap();
    write(&cluster, "grows", 10..20).await;
    held.store(false, Ordering::SeqCst);
    let mut found = Vec::new();
    while let Some(record) = soon("the end", reader.next()).await.unwrap() {
        found.push(record);
    }
    assert_eq!(numbers(&found), (0..10).collect::<Vec<_>>());
    assert_eq!((reader.positions(), reader.left()), (vec![(0, 10)], 0), "what came later was not read");
}
