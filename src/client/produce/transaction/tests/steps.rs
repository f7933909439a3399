//! Transactions on the embedded broker, in both versions, with something going wrong at each of their steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kafka_protocol::error::ResponseError as E;
use tokio::sync::Notify;

use crate::client::group::GroupClient;
use crate::client::produce::transaction::*;
use crate::client::produce::{Producer, ProducerConfig, Sender, TopicIx};
use crate::client::{Admin, ClientConfig, Cluster, Isolation, NewTopic, ReadOptions, Reader};
use crate::embedded::{Api, EmbeddedKafka, Fault};
use crate::record::Headers;

const LONG: Duration = Duration::from_secs(60);

fn soon() -> Instant {
    clock::monotonic() + LONG
}

struct Rig {
    kafka: EmbeddedKafka,
    cluster: Cluster,
}

struct Writer {
    producer: Producer,
    topic: TopicIx,
    changed: Arc<Notify>,
}

impl Rig {
    async fn new(version: u8) -> Self {
        let kafka = EmbeddedKafka::builder().nodes(2).transaction_version(version).start().unwrap();
        let cluster = Cluster::connect(ClientConfig::new(kafka.bootstrap())).await.unwrap();
        for topic in ["in", "out"] {
            Admin::new(&cluster).create_topic(NewTopic::new(topic, 2)).await.unwrap();
        }
        Self { kafka, cluster }
    }

    fn writer(&self, timeout: Duration) -> Writer {
        let changed = Arc::new(Notify::new());
        let signal = changed.clone();
        let config = ProducerConfig {
            transactional: Some(Transactional { id: "tx".into(), timeout }),
            retry_backoff: Duration::from_millis(5),
            ..ProducerConfig::default()
        };
        let (mut producer, outbox) = Producer::new(config, Arc::new(move || signal.notify_one())).unwrap();
        self.cluster.runtime().spawn(Sender::new(outbox, Arc::new(self.cluster.clone())).run());
        let topic = producer.register("out", 2).unwrap();
        Writer { producer, topic, changed }
    }

    /// What a reader of committed records sees, by partition.
    async fn committed(&self) -> [Vec<String>; 2] {
        let options = ReadOptions::new("out").isolation(Isolation::ReadCommitted).until_end();
        let mut reader = Reader::new(&self.cluster, options).await.unwrap();
        let mut values = [Vec::new(), Vec::new()];
        while let Some(record) = reader.next().await.unwrap() {
            let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
            values[record.partition as usize].push(value);
        }
        values
    }

    /// The stable offset of the group, once there is one.
    async fn offset(&self) -> Option<i64> {
        let group = GroupClient::new(&self.cluster, "g");
        let at = TopicPartition::new("in", 0);
        loop {
            match group.committed(Some(std::slice::from_ref(&at)), true).await {
                Ok(mut offsets) => return offsets.pop().unwrap().1.map(|offset| offset.offset),
                Err(error) if error.is_retriable() => tokio::task::yield_now().await,
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    /// Has the next request of a kind go wrong, and counts how many have come.
    fn once(&self, api: Api, fault: Fault) -> Arc<AtomicUsize> {
        let count = Arc::new(AtomicUsize::new(0));
        let seen = count.clone();
        self.kafka.on(api, move |_| match seen.fetch_add(1, Ordering::SeqCst) {
            0 => fault.clone(),
            _ => Fault::Pass,
        });
        count
    }
}

impl Writer {
    fn send(&mut self, partition: i32, value: &str) {
        let value = Some(value.as_bytes());
        self.producer.send(self.topic, partition, 0, None, value, &Headers::new()).unwrap();
    }

    async fn end(&mut self, end: End) -> Ended {
        let mut ticket = self.producer.end_transaction(end).unwrap();
        loop {
            if let Some(ended) = ticket.poll() {
                return ended;
            }
            let wait = tokio::time::timeout_at(soon().into(), self.changed.notified());
            wait.await.expect("every end comes to an end");
        }
    }

    async fn commit(&mut self, offset: i64) -> Ended {
        let offsets = vec![(TopicPartition::new("in", 0), CommittedOffset::new(offset))];
        self.end(End::Commit { group: GroupMetadata::new("g"), offsets }).await
    }
}

fn both(values: &[&str]) -> [Vec<String>; 2] {
    let all: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
    [all.clone(), all]
}

#[tokio::test]
async fn all_of_a_transaction_or_nothing() {
    for version in [1, 2] {
        let rig = Rig::new(version).await;
        let mut writer = rig.writer(LONG);
        for (value, offset) in [("a", 1), ("b", 2), ("c", 3)] {
            writer.send(0, value);
            writer.send(1, value);
            if value == "b" {
                writer.producer.flush().unwrap();
                assert!(matches!(writer.end(End::Abort).await, Ended::Aborted));
            } else {
                assert!(matches!(writer.commit(offset).await, Ended::Committed));
            }
        }
        assert_eq!(rig.committed().await, both(&["a", "c"]), "version {version}");
        assert_eq!(rig.offset().await, Some(3));
    }
}

#[tokio::test]
async fn what_is_given_while_a_transaction_ends_belongs_to_the_next() {
    for version in [1, 2] {
        let rig = Rig::new(version).await;
        let mut writer = rig.writer(LONG);
        rig.once(Api::EndTxn, Fault::DelayBefore(Duration::from_millis(50)));
        writer.send(0, "first");
        let mut first = writer
            .producer
            .end_transaction(End::Commit { group: GroupMetadata::default(), offsets: Vec::new() })
            .unwrap();
        writer.send(0, "second");
        writer.producer.flush().unwrap();
        let first = tokio::task::spawn_blocking(move || first.wait(soon())).await.unwrap();
        assert!(matches!(first, Some(Ended::Committed)));
        assert!(matches!(writer.end(End::Abort).await, Ended::Aborted));
        assert_eq!(rig.committed().await, [vec!["first".to_owned()], vec![]], "version {version}");
    }
}

/// The requests of a transaction, and what may be said to each that is to be tried again.
fn troubles(version: u8) -> Vec<(Api, Vec<E>)> {
    let busy = vec![E::CoordinatorNotAvailable, E::NotCoordinator, E::CoordinatorLoadInProgress];
    let concurrent = || [busy.clone(), vec![E::ConcurrentTransactions]].concat();
    let mut all = vec![
        (Api::InitProducerId, concurrent()),
        (Api::TxnOffsetCommit, busy.clone()),
        (Api::EndTxn, concurrent()),
    ];
    if version == 1 {
        all.push((Api::AddPartitionsToTxn, concurrent()));
        all.push((Api::AddOffsetsToTxn, concurrent()));
        all.push((Api::Produce, vec![E::NotLeaderOrFollower, E::NotEnoughReplicas]));
    } else {
        all.push((Api::Produce, vec![E::NotLeaderOrFollower, E::ConcurrentTransactions]));
    }
    all
}

#[tokio::test]
async fn whatever_goes_wrong_on_the_way_it_is_committed_once() {
    for version in [1, 2] {
        let rig = Rig::new(version).await;
        let mut wanted = Vec::new();
        for (api, codes) in troubles(version) {
            let codes = codes.into_iter().map(|code| Fault::Fail(code.code()));
            for fault in [Fault::DropBefore, Fault::DropAfter].into_iter().chain(codes) {
                let count = rig.once(api, fault.clone());
                let value = format!("{api:?} {fault:?}");
                let mut writer = rig.writer(LONG);
                writer.send(0, &value);
                writer.send(1, &value);
                wanted.push(value);
                let ended = writer.commit(wanted.len() as i64).await;
                assert!(matches!(ended, Ended::Committed), "{api:?} {fault:?}, version {version}: {ended:?}");
                assert!(count.load(Ordering::SeqCst) >= 2, "{api:?} {fault:?}: it was tried again");
                assert_eq!(rig.offset().await, Some(wanted.len() as i64));
                rig.kafka.clear_hooks();
            }
        }
        assert_eq!(rig.committed().await, [wanted.clone(), wanted], "version {version}");
    }
}

#[tokio::test]
async fn what_has_to_be_aborted_is_and_the_producer_goes_on() {
    for version in [1, 2] {
        let rig = Rig::new(version).await;
        let mut writer = rig.writer(LONG);
        let mut wanted = Vec::new();
        let mut places = vec![
            (Api::Produce, E::TransactionAbortable),
            (Api::Produce, E::InvalidTxnState),
            (Api::Produce, E::UnknownProducerId),
            (Api::Produce, E::OutOfOrderSequenceNumber),
            (Api::Produce, E::MessageTooLarge),
            (Api::TxnOffsetCommit, E::TransactionAbortable),
            (Api::TxnOffsetCommit, E::IllegalGeneration),
            (Api::TxnOffsetCommit, E::UnknownMemberId),
            (Api::EndTxn, E::TransactionAbortable),
        ];
        if version == 1 {
            places.push((Api::AddPartitionsToTxn, E::TransactionAbortable));
            places.push((Api::AddPartitionsToTxn, E::TopicAuthorizationFailed));
            places.push((Api::AddOffsetsToTxn, E::TransactionAbortable));
        }
        for (api, code) in places {
            let what = format!("{code} at {api:?}, version {version}");
            rig.once(api, Fault::Fail(code.code()));
            writer.send(0, "aborted");
            writer.send(1, "aborted");
            let Ended::Failed(error) = writer.commit(-7).await else { panic!("{what}") };
            assert_ne!(error.class(), ErrorClass::FencedLease, "{what}");
            writer.producer.take_failures();
            let ended = writer.end(End::Abort).await;
            assert!(matches!(ended, Ended::Aborted), "{what}: {ended:?}");
            rig.kafka.clear_hooks();
            writer.send(0, &what);
            writer.send(1, &what);
            wanted.push(what);
            let ended = writer.commit(wanted.len() as i64).await;
            assert!(matches!(ended, Ended::Committed), "{ended:?}");
        }
        assert_eq!(rig.offset().await, Some(wanted.len() as i64));
        assert_eq!(rig.committed().await, [wanted.clone(), wanted]);
    }
}

#[tokio::test]
async fn the_newer_producer_fences_the_older_and_aborts_what_it_left() {
    for version in [1, 2] {
        let rig = Rig::new(version).await;
        let mut old = rig.writer(LONG);
        old.send(0, "old");
        old.producer.flush().unwrap();
        while !old.producer.is_drained() {
            old.changed.notified().await;
        }
        let mut new = rig.writer(LONG);
        new.send(0, "new");
        assert!(matches!(new.commit(1).await, Ended::Committed));
        let Ended::Failed(error) = old.commit(9).await else { panic!("it is fenced") };
        assert_eq!((error.class(), error.kind()), (ErrorClass::FencedLease, ErrorKind::Fenced));
        assert_eq!(old.producer.is_ready().unwrap_err().class(), ErrorClass::FencedLease);
        assert_eq!(rig.committed().await, [vec!["new".to_owned()], vec![]], "version {version}");
        assert_eq!(rig.offset().await, Some(1));

        // By hand, as for a member that has gone.
        let admin = Admin::new(&rig.cluster);
        new.send(0, "too late");
        new.producer.flush().unwrap();
        admin
            .fence_producers(&["tx", "nobody"])
            .await
            .unwrap()
            .into_iter()
            .for_each(|fenced| fenced.unwrap());
        let Ended::Failed(_) = new.commit(9).await else { panic!("it is fenced") };
        assert_eq!(rig.committed().await, [vec!["new".to_owned()], vec![]], "version {version}");
        let listed = admin.list_transactions("t").await.unwrap();
        assert_eq!(listed.iter().map(|t| t.transactional_id.as_str()).collect::<Vec<_>>(), ["tx"]);
        assert_eq!(admin.list_transactions("").await.unwrap().len(), 2);
    }
}

#[tokio::test]
async fn a_transaction_that_is_open_for_too_long_is_not_committed() {
    for version in [1, 2] {
        let rig = Rig::new(version).await;
        let mut writer = rig.writer(Duration::from_secs(1));
        writer.send(0, "late");
        writer.producer.flush().unwrap();
        let admin = Admin::new(&rig.cluster);
        let until = soon();
        loop {
            assert!(clock::monotonic() < until, "the broker aborts it");
            let described = admin.describe_transactions(&["tx"]).await.unwrap().pop().unwrap();
            if described.is_ok_and(|described| described.listing.state == "CompleteAbort") {
                break;
            }
        }
        let Ended::Failed(error) = writer.commit(9).await else { panic!("it is over") };
        if error.class() == ErrorClass::AbortTransaction {
            assert_eq!(version, 2, "an epoch of the next transaction says that it is over (KIP-890)");
            assert!(matches!(writer.end(End::Abort).await, Ended::Aborted | Ended::Failed(_)));
        } else {
            assert_eq!(error.class(), ErrorClass::FencedLease);
        }
        let mut next = rig.writer(LONG);
        next.send(0, "next");
        assert!(matches!(next.commit(1).await, Ended::Committed));
        assert_eq!(rig.committed().await, [vec!["next".to_owned()], vec![]], "version {version}");
        assert_eq!(rig.offset().await, Some(1));
    }
}

#[tokio::test]
async fn a_lease_that_is_over_commits_nothing_and_the_next_one_goes_on() {
    for version in [1, 2] {
        let rig = Rig::new(version).await;
        let mut writer = rig.writer(LONG);
        writer.send(0, "of the old lease");
        writer.producer.flush().unwrap();
        while !writer.producer.is_drained() {
            writer.changed.notified().await;
        }
        // Nothing may be sent any more, then the lease is gone.
        writer.producer.fence_handle().permit_until(clock::monotonic());
        let offsets = vec![(TopicPartition::new("in", 0), CommittedOffset::new(9))];
        let mut ticket =
            writer.producer.end_transaction(End::Commit { group: GroupMetadata::new("g"), offsets }).unwrap();
        assert!(ticket.poll().is_none());
        writer.producer.fence();
        let ended = tokio::task::spawn_blocking(move || ticket.wait(soon())).await.unwrap();
        let Some(Ended::Failed(error)) = ended else { panic!("{ended:?}") };
        assert_eq!((error.class(), error.code()), (ErrorClass::FencedLease, None));
        writer.producer.fence_handle().permit_until(soon());
        writer.producer.renew();
        assert!(matches!(writer.end(End::Abort).await, Ended::Aborted));
        writer.send(0, "of the new lease");
        assert!(matches!(writer.commit(1).await, Ended::Committed));
        assert_eq!(rig.committed().await, [vec!["of the new lease".to_owned()], vec![]], "version {version}");
    }
}

#[tokio::test]
async fn a_producer_that_is_dropped_leaves_nothing_open() {
    for version in [1, 2] {
        let rig = Rig::new(version).await;
        let mut writer = rig.writer(LONG);
        writer.send(0, "dropped");
        writer.producer.flush().unwrap();
        while !writer.producer.is_drained() {
            writer.changed.notified().await;
        }
        drop(writer);
        let admin = Admin::new(&rig.cluster);
        let until = soon();
        loop {
            assert!(clock::monotonic() < until, "it is aborted");
            let described = admin.describe_transactions(&["tx"]).await.unwrap().pop().unwrap().unwrap();
            // In version 1 the next epoch has begun by then.
            if described.listing.state == "CompleteAbort" || described.listing.state == "Empty" {
                break;
            }
        }
        assert_eq!(rig.committed().await, both(&[]));
    }
}

#[tokio::test]
async fn the_coordinator_moves_at_any_time() {
    for version in [1, 2] {
        let rig = Rig::new(version).await;
        let mut writer = rig.writer(LONG);
        let mut wanted = Vec::new();
        for at in 0..12 {
            let value = at.to_string();
            writer.send(at % 2, &value);
            if at % 3 == 0 {
                writer.producer.flush().unwrap();
            }
            rig.kafka.move_transaction_coordinator("tx", 1 + at % 2).unwrap();
            rig.kafka.move_group_coordinator("g", 1 + (at / 2) % 2).unwrap();
            rig.kafka.move_leader("out", at % 2, 1 + (at / 3) % 2).unwrap();
            assert!(matches!(writer.commit(i64::from(at)).await, Ended::Committed));
            wanted.push(value);
        }
        let [even, odd] = rig.committed().await;
        assert_eq!((even.len(), odd.len()), (6, 6), "version {version}: {wanted:?}");
        assert_eq!(rig.offset().await, Some(11));
    }
}

/// Answers that are cut off at every byte: the connection is given up, and the transaction committed all the same.
#[tokio::test]
async fn answers_that_are_cut_at_any_byte() {
    for version in [1, 2] {
        let rig = Rig::new(version).await;
        let mut wanted = Vec::new();
        for api in troubles(version).into_iter().map(|(api, _)| api) {
            for bytes in [0, 1, 3, 4, 7, 9, 12] {
                let left = Arc::new(AtomicUsize::new(1));
                let cut = left.clone();
                rig.kafka.cut(move |frame| {
                    let ours = frame.api == api && frame.answer;
                    (ours && cut.swap(0, Ordering::SeqCst) == 1).then_some(bytes)
                });
                let value = format!("{api:?} {bytes}");
                let mut writer = rig.writer(LONG);
                writer.send(0, &value);
                wanted.push(value);
                assert!(matches!(writer.commit(1).await, Ended::Committed), "{api:?} {bytes}");
                assert_eq!(left.load(Ordering::SeqCst), 0, "{api:?} {bytes}: it was cut");
                rig.kafka.clear_hooks();
            }
        }
        assert_eq!(rig.committed().await, [wanted, vec![]], "version {version}");
    }
}
