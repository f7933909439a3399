//! Checkpoints against logs that really went through it: made again, cut off, moved, compacted, committed to.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages as m;
use kafka_protocol::protocol::StrBytes;

use super::checkpoint::Checkpoint;
use super::facts::{Judge, Judged, Wanted};
use super::verdict::{CleanupPolicy, LogFacts, Start, Verdict};
use crate::client::batch::{BatchBuilder, ProducerStamp};
use crate::client::compression::Compression;
use crate::client::{
    Admin, AlterConfig, ClientConfig, Cluster, ConfigResource, ConnectionClass, CoordinatorType, Isolation,
    NewTopic, Producer, ProducerOptions, ReadFrom, ReadOptions, Reader,
};
use crate::clock::{self, ManualClock};
use crate::embedded::{Api, EmbeddedKafka, Fault};
use crate::record::{Headers, Record, TopicPartition};

const ROWS: u64 = 1;
const NOON: i64 = 1_750_000_000_000;
const HOUR: Duration = Duration::from_secs(3600);

struct Rig {
    kafka: EmbeddedKafka,
    cluster: Cluster,
    clock: ManualClock,
    judge: Judge,
}

impl Rig {
    async fn start() -> Self {
        let kafka = EmbeddedKafka::builder().nodes(2).auto_create_topics(false).start().unwrap();
        let cluster = Cluster::connect(ClientConfig::new(kafka.bootstrap())).await.unwrap();
        let clock = ManualClock::at(NOON);
        let judge = Judge::new(&cluster, "app", Arc::new(clock.clone()));
        Self { kafka, cluster, clock, judge }
    }

    fn admin(&self) -> Admin {
        Admin::new(&self.cluster)
    }

    async fn changelog(&self, name: &str, partitions: i32) {
        let topic = NewTopic::new(name, partitions).replication(2).config("cleanup.policy", "compact");
        self.admin().create_topic(topic).await.unwrap();
    }

    async fn write(&self, at: &TopicPartition, count: usize) {
        let options = ProducerOptions::default().linger(Duration::ZERO);
        let producer = Producer::new(&self.cluster, options).unwrap();
        for number in 0..count {
            let value = Some(Bytes::from(number.to_string()));
            let record = Record { key: value.clone(), value, timestamp: NOON, headers: Headers::new() };
            producer.send(&at.topic, Some(at.partition), record).await.unwrap();
        }
        producer.flush().await.unwrap();
    }

    async fn judge(&self, at: &TopicPartition, mark: Option<Bytes>) -> Judged {
        let wanted = Wanted { at: at.clone(), fingerprint: ROWS, mark };
        let judge = self.judge.judge(std::slice::from_ref(&wanted));
        let judged = clock::timeout(Duration::from_secs(60), judge).await.expect("an answer");
        judged.unwrap().pop().unwrap()
    }

    /// The mark that a store would leave that has the whole changelog.
    async fn mark(&self, at: &TopicPartition) -> Bytes {
        let Judged { origin, facts, .. } = self.judge(at, None).await;
        let LogFacts { end: next_offset, leader_epoch, wall_ms, .. } = facts;
        Checkpoint { origin, next_offset, leader_epoch, wall_ms, position: Vec::new() }.encode()
    }

    async fn reason(&self, at: &TopicPartition, mark: &Bytes) -> Option<&'static str> {
        match self.judge(at, Some(mark.clone())).await.verdict {
            Verdict::Resume(_) => None,
            Verdict::Distrust(reason, start) => {
                assert_eq!(start.leader_epoch, -1);
                Some(reason.label())
            }
        }
    }

    /// Counts the requests of a kind from now on.
    fn count(&self, api: Api) -> Arc<AtomicUsize> {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        self.kafka.on(api, move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            Fault::Pass
        });
        count
    }

    /// Fails the next requests of a kind.
    fn fail(&self, api: Api, times: usize, code: i16) -> Arc<AtomicUsize> {
        let failed = Arc::new(AtomicUsize::new(0));
        let count = failed.clone();
        self.kafka.on(api, move |_| match count.fetch_add(1, Ordering::SeqCst) {
            before if before < times => Fault::Fail(code),
            _ => Fault::Pass,
        });
        failed
    }

    fn follower(&self, at: &TopicPartition) -> i32 {
        3 - self.kafka.leader(&at.topic, at.partition).unwrap()
    }

    /// Acknowledged records are lost: those that only the leader had, which has lied about it.
    async fn lose(&self, at: &TopicPartition, count: usize) {
        let (topic, partition) = (&*at.topic, at.partition);
        self.kafka.hold_replication(topic, partition, true).unwrap();
        let mut batch = BatchBuilder::new(Compression::None);
        for number in 0..count {
            let key = format!("lost {number}");
            batch.append(NOON, Some(key.as_bytes()), None, &Headers::new());
        }
        let records = batch.close().unwrap().seal(ProducerStamp::NONE);
        self.produce(at, 1, None, records).await;
        let follower = self.follower(at);
        self.kafka.move_leader(topic, partition, follower).unwrap();
        self.kafka.hold_replication(topic, partition, false).unwrap();
    }

    async fn produce(&self, at: &TopicPartition, acks: i16, id: Option<&str>, records: Bytes) {
        let partition = m::produce_request::PartitionProduceData::default()
            .with_index(at.partition)
            .with_records(Some(records));
        let topic = m::produce_request::TopicProduceData::default()
            .with_name(m::TopicName(StrBytes::from_string(at.topic.to_string())))
            .with_partition_data(vec![partition]);
        let request = m::ProduceRequest::default()
            .with_transactional_id(id.map(|id| m::TransactionalId(StrBytes::from_string(id.to_owned()))))
            .with_acks(acks)
            .with_timeout_ms(30_000)
            .with_topic_data(vec![topic]);
        let leader = self.cluster.leader(at).await.unwrap().node;
        let answer = self.cluster.request(leader, ConnectionClass::Produce, &request).await.unwrap();
        assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
    }

    /// One record in a transaction. What comes back commits it.
    async fn transaction(&self, at: &TopicPartition) -> impl AsyncFnOnce() {
        let id = || m::TransactionalId(StrBytes::from_static_str("id"));
        let node = self.cluster.coordinator(CoordinatorType::Transaction, "id").await.unwrap();
        let init = m::InitProducerIdRequest::default()
            .with_transactional_id(Some(id()))
            .with_transaction_timeout_ms(60_000);
        let by = self.cluster.request(node, ConnectionClass::Normal, &init).await.unwrap();
        let topic = m::add_partitions_to_txn_request::AddPartitionsToTxnTopic::default()
            .with_name(m::TopicName(StrBytes::from_string(at.topic.to_string())))
            .with_partitions(vec![at.partition]);
        let add = m::AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(id())
            .with_v3_and_below_producer_id(by.producer_id)
            .with_v3_and_below_producer_epoch(by.producer_epoch)
            .with_v3_and_below_topics(vec![topic]);
        self.cluster.request(node, ConnectionClass::Normal, &add).await.unwrap();
        let mut batch = BatchBuilder::new(Compression::None);
        batch.append(NOON, Some(b"last"), Some(b"1"), &Headers::new());
        let records = batch.close().unwrap().seal(ProducerStamp {
            producer_id: by.producer_id.0,
            producer_epoch: by.producer_epoch,
            base_sequence: 0,
            transactional: true,
        });
        self.produce(at, -1, Some("id"), records).await;
        let end = m::EndTxnRequest::default()
            .with_transactional_id(id())
            .with_producer_id(by.producer_id)
            .with_producer_epoch(by.producer_epoch)
            .with_committed(true);
        let cluster = self.cluster.clone();
        async move || {
            let ended = cluster.request(node, ConnectionClass::Normal, &end).await.unwrap();
            assert_eq!(ended.error_code, 0);
        }
    }
}

fn at(topic: &str) -> TopicPartition {
    TopicPartition::new(topic, 0)
}

#[tokio::test]
async fn what_is_sound_is_resumed_where_it_is() {
    let rig = Rig::start().await;
    let at = at("app-sound-changelog");
    rig.changelog(&at.topic, 1).await;
    rig.write(&at, 10).await;
    let judged = rig.judge(&at, None).await;
    assert_eq!((judged.facts.start, judged.facts.end, judged.facts.wall_ms), (0, 10, NOON));
    assert_eq!(judged.origin.at, at);
    assert_eq!(judged.origin.cluster_id, rig.cluster.cluster_id());
    assert!(judged.origin.cluster_id.is_some() && judged.origin.topic_id.is_some());
    let mark = rig.mark(&at).await;
    rig.write(&at, 5).await;
    rig.clock.advance(HOUR);
    let judged = rig.judge(&at, Some(mark)).await;
    assert_eq!(judged.facts.epoch_end, Some((0, 15)));
    assert_eq!(judged.verdict, Verdict::Resume(Start { offset: 10, leader_epoch: 0, wall_ms: NOON }));
    assert_eq!(judged.facts.end, 15);
}

/// Red test 7 of the design's review.
#[tokio::test]
async fn a_topic_made_again_with_more_records_is_another_one() {
    let rig = Rig::start().await;
    let at = at("app-recreated-changelog");
    rig.changelog(&at.topic, 1).await;
    rig.write(&at, 10).await;
    let mark = rig.mark(&at).await;
    let leader = rig.kafka.leader(&at.topic, 0);
    // Somebody else does it: what this client knows of the topic is old.
    let other = Cluster::connect(ClientConfig::new(rig.kafka.bootstrap())).await.unwrap();
    Admin::new(&other).delete_topics(&[&at.topic]).await.unwrap().remove(0).unwrap();
    let (between, again) = (NewTopic::new("between", 1), NewTopic::new(&*at.topic, 1).replication(2));
    for topic in [between, again] {
        Admin::new(&other).create_topic(topic).await.unwrap();
    }
    assert_eq!(rig.kafka.leader(&at.topic, 0), leader, "the leader does not tell them apart");
    rig.write(&at, 25).await;
    assert_eq!(rig.reason(&at, &mark).await, Some("topic_recreated"));
    let anew = rig.mark(&at).await;
    assert_eq!(rig.reason(&at, &anew).await, None);
}

#[tokio::test]
async fn a_log_that_was_cut_off_and_has_grown_again_is_noticed() {
    let rig = Rig::start().await;
    let at = at("app-regrown-changelog");
    rig.changelog(&at.topic, 1).await;
    rig.write(&at, 10).await;
    let sound = rig.mark(&at).await;
    // The store has seen 3 records more than what is left.
    let mut ahead = Checkpoint::decode(&sound).unwrap();
    ahead.next_offset += 3;
    let ahead = ahead.encode();
    rig.lose(&at, 3).await;
    assert_eq!(rig.reason(&at, &ahead).await, Some("past_log_end"));
    rig.write(&at, 3).await;
    assert_eq!(rig.reason(&at, &ahead).await, Some("epoch_truncated"), "just as long as before");
    rig.write(&at, 30).await;
    assert_eq!(rig.reason(&at, &ahead).await, Some("epoch_truncated"), "longer than before");
    assert_eq!(rig.reason(&at, &sound).await, None, "what was before the cut is as it was");
}

#[tokio::test]
async fn a_leader_that_moves_is_no_reason() {
    let rig = Rig::start().await;
    let at = at("app-moved-changelog");
    rig.changelog(&at.topic, 1).await;
    rig.write(&at, 10).await;
    let mark = rig.mark(&at).await;
    let epochs =
        async || rig.admin().leader_epochs(std::slice::from_ref(&at)).await.unwrap().remove(0).unwrap();
    for epoch in 1..=3 {
        let follower = rig.follower(&at);
        rig.kafka.move_leader(&at.topic, 0, follower).unwrap();
        assert_eq!(epochs().await, epoch);
        assert_eq!(rig.reason(&at, &mark).await, None, "nothing was written in epoch {epoch} so far");
        assert_eq!(rig.reason(&at, &rig.mark(&at).await).await, None);
        rig.write(&at, 2).await;
        assert_eq!(rig.reason(&at, &mark).await, None);
    }
    // The marks of all epochs, after all that came later.
    assert_eq!(rig.reason(&at, &rig.mark(&at).await).await, None);
}

/// After a failover the high watermark lags, and the broker says so: not yet, rather than a log that is too short.
#[tokio::test]
async fn what_brokers_cannot_say_yet_is_waited_for() {
    const LEADER_NOT_AVAILABLE: i16 = 5;
    const OFFSET_NOT_AVAILABLE: i16 = 78;
    let rig = Rig::start().await;
    let at = at("app-lagging-changelog");
    rig.changelog(&at.topic, 1).await;
    rig.write(&at, 10).await;
    let mark = rig.mark(&at).await;
    for code in [LEADER_NOT_AVAILABLE, OFFSET_NOT_AVAILABLE] {
        for api in [Api::ListOffsets, Api::OffsetForLeaderEpoch] {
            let asked = rig.fail(api, 3, code);
            assert_eq!(rig.reason(&at, &mark).await, None, "{code} {api:?}");
            assert!(asked.load(Ordering::SeqCst) > 3);
            rig.kafka.clear_hooks();
        }
    }
}

#[tokio::test]
async fn a_checkpoint_older_than_tombstones_is_not_resumed() {
    let rig = Rig::start().await;
    let at = at("app-old-changelog");
    rig.changelog(&at.topic, 1).await;
    rig.write(&at, 10).await;
    let mark = rig.mark(&at).await;
    rig.clock.advance(HOUR * 25);
    assert_eq!(rig.reason(&at, &mark).await, None, "nothing was written since, deletions neither");
    rig.write(&at, 1).await;
    assert_eq!(rig.reason(&at, &mark).await, Some("tombstones_gone"));
    // Whoever grants a longer pause is heard, once what is known of the settings is old.
    let topic = ConfigResource::Topic(at.topic.to_string());
    let longer = AlterConfig::Set("delete.retention.ms".into(), (HOUR * 51).as_millis().to_string());
    rig.admin().alter_configs(&topic, &[longer]).await.unwrap();
    let later = Judge::new(&rig.cluster, "app", Arc::new(rig.clock.clone()));
    let wanted = Wanted { at: at.clone(), fingerprint: ROWS, mark: Some(mark.clone()) };
    let judged = later.judge(&[wanted]).await.unwrap().remove(0);
    assert!(matches!(judged.verdict, Verdict::Resume(_)), "{judged:?}");
    let ahead = ManualClock::at(NOON - 600_000);
    let behind = Judge::new(&rig.cluster, "app", Arc::new(ahead));
    let judged = behind.judge(&[Wanted { at, fingerprint: ROWS, mark: Some(mark) }]).await.unwrap().remove(0);
    let Verdict::Distrust(reason, _) = judged.verdict else { panic!("a checkpoint from the future") };
    assert_eq!(reason.label(), "clock_went_back");
}

#[tokio::test]
async fn records_that_were_deleted_before_they_were_seen_are_missed() {
    let rig = Rig::start().await;
    let at = at("app-windows-changelog");
    let topic = NewTopic::new(&*at.topic, 1).config("cleanup.policy", "compact,delete");
    rig.admin().create_topic(topic).await.unwrap();
    rig.write(&at, 10).await;
    let mark = rig.mark(&at).await;
    rig.write(&at, 10).await;
    for (before, reason) in [(10, None), (11, Some("behind_log_start"))] {
        rig.admin().delete_records(&[(at.clone(), before)]).await.unwrap().remove(0).unwrap();
        assert_eq!(rig.reason(&at, &mark).await, reason);
    }
    let judged = rig.judge(&at, Some(mark)).await;
    assert_eq!(judged.verdict.start().offset, 11, "anew is from where the log begins");
}

/// The end is the high watermark, behind the marker; and reading committed records comes to there (KAFKA-10167).
#[tokio::test]
async fn a_commit_marker_at_the_end_is_reached() {
    let rig = Rig::start().await;
    let at = at("app-marker-changelog");
    rig.changelog(&at.topic, 1).await;
    rig.write(&at, 3).await;
    let commit = rig.transaction(&at).await;
    assert_eq!(rig.judge(&at, None).await.facts.end, 4, "what may be committed any moment is waited for");
    commit().await;
    // The marker comes after the answer.
    let mut end = 0;
    for _ in 0..10_000 {
        end = rig.judge(&at, None).await.facts.end;
        if end == 5 {
            break;
        }
    }
    assert_eq!(end, 5, "3 records, 1 in the transaction, 1 marker");
    let options = ReadOptions::new(&*at.topic).isolation(Isolation::ReadCommitted).from(ReadFrom::Earliest);
    let mut reader = Reader::new(&rig.cluster, options.until_end()).await.unwrap();
    let mut keys = Vec::new();
    while let Some(record) = reader.next().await.unwrap() {
        keys.push(record.key.unwrap());
    }
    assert_eq!(keys.last().map(|key| &key[..]), Some(&b"last"[..]));
    assert_eq!(reader.positions(), [(0, end)], "the position, not the last record and one");
    let mark = rig.mark(&at).await;
    assert_eq!(Checkpoint::decode(&mark).unwrap().next_offset, end);
    assert_eq!(rig.reason(&at, &mark).await, None);
}

#[tokio::test]
async fn all_stores_of_a_task_are_judged_in_a_few_requests() {
    let rig = Rig::start().await;
    let mut wanted = Vec::new();
    for store in 0..20 {
        let at = TopicPartition::new(format!("app-many-{store}-changelog"), store % 3);
        rig.changelog(&at.topic, 3).await;
        rig.write(&at, 1 + store as usize).await;
        // Every second store is new.
        let mark = if store % 2 == 0 { Some(rig.mark(&at).await) } else { None };
        wanted.push(Wanted { at, fingerprint: ROWS, mark });
    }
    let judge = Judge::new(&rig.cluster, "app", Arc::new(rig.clock.clone()));
    for settings in [1, 0] {
        let apis = [Api::Metadata, Api::DescribeConfigs, Api::ListOffsets, Api::OffsetForLeaderEpoch];
        let counts: Vec<_> = apis.iter().map(|api| rig.count(*api)).collect();
        let judged = judge.judge(&wanted).await.unwrap();
        for (store, (judged, wanted)) in judged.iter().zip(&wanted).enumerate() {
            assert_eq!((&judged.origin.at, judged.facts.end), (&wanted.at, 1 + store as i64));
            assert_eq!(matches!(judged.verdict, Verdict::Resume(_)), store % 2 == 0, "{judged:?}");
        }
        let counts: Vec<_> = counts.iter().map(|count| count.load(Ordering::SeqCst)).collect();
        // Two nodes lead: the range is two questions to each, the epochs one.
        assert_eq!(counts, [1, settings, 4, 2]);
        rig.kafka.clear_hooks();
    }
}

#[tokio::test]
async fn settings_that_may_not_be_read_are_taken_for_the_defaults() {
    const TOPIC_AUTHORIZATION_FAILED: i16 = 29;
    let rig = Rig::start().await;
    let at = at("app-secret-changelog");
    let topic = NewTopic::new(&*at.topic, 1).config("cleanup.policy", "delete");
    rig.admin().create_topic(topic.config("delete.retention.ms", "1")).await.unwrap();
    let asked = rig.fail(Api::DescribeConfigs, 1, TOPIC_AUTHORIZATION_FAILED);
    for _ in 0..2 {
        assert_eq!(rig.judge(&at, None).await.facts.policy, CleanupPolicy::default());
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1, "not asked again each time");
    let other = Judge::new(&rig.cluster, "app", Arc::new(rig.clock.clone()));
    let wanted = Wanted { at, fingerprint: ROWS, mark: None };
    let policy = other.judge(&[wanted]).await.unwrap().remove(0).facts.policy;
    assert_eq!(policy, CleanupPolicy { compacted: false, delete_retention_ms: 1 });
}

#[tokio::test]
async fn a_changelog_that_does_not_exist_is_an_error_that_names_it() {
    let rig = Rig::start().await;
    let wanted = Wanted { at: at("app-nowhere-changelog"), fingerprint: ROWS, mark: None };
    let error = rig.judge.judge(&[wanted]).await.unwrap_err();
    assert!(error.to_string().contains("app-nowhere-changelog"), "{error}");
}
