//! The group calls: what they ask, what they make of the answers, and every version of them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};

use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponsePartition, OffsetFetchResponseTopic,
};
use kafka_protocol::messages::{
    ApiKey, HeartbeatResponse, InitProducerIdResponse, JoinGroupResponse, LeaveGroupResponse,
    OffsetCommitResponse, OffsetFetchResponse, SyncGroupResponse,
};

use super::*;
use crate::client::connection::OLDEST;
use crate::client::fake::{Answer, Call, FakeCluster};

const SOON: Duration = Duration::from_secs(15);

/// A coordinator that knows one member, keeps offsets in memory, and can be told to answer errors.
#[derive(Default)]
struct Coordinator {
    error: AtomicI32,
    offsets: Mutex<BTreeMap<(String, i32), (i64, String)>>,
}

impl Coordinator {
    fn answer(&self, call: Call) -> Answer {
        let code = self.error.load(Ordering::SeqCst) as i16;
        match call.key {
            ApiKey::JoinGroup => {
                let asked: JoinGroupRequest = call.decode();
                let answer =
                    JoinGroupResponse::default().with_member_id(text("m-1")).with_leader(text("m-1"));
                call.reply(&match asked.member_id.is_empty() && call.version >= 4 {
                    true => answer.with_error_code(MEMBER_ID_REQUIRED),
                    false => answer.with_generation_id(3).with_error_code(code),
                })
            }
            ApiKey::SyncGroup => {
                let asked: SyncGroupRequest = call.decode();
                let mine = asked.assignments.first().map(|a| a.assignment.clone()).unwrap_or_default();
                call.reply(&SyncGroupResponse::default().with_assignment(mine))
            }
            ApiKey::Heartbeat => call.reply(&HeartbeatResponse::default().with_error_code(code)),
            ApiKey::LeaveGroup => call.reply(&LeaveGroupResponse::default().with_error_code(code)),
            ApiKey::OffsetCommit => {
                let asked: OffsetCommitRequest = call.decode();
                let mut topics = Vec::new();
                for topic in asked.topics {
                    let mut partitions = Vec::new();
                    for p in topic.partitions {
                        let at = (topic.name.to_string(), p.partition_index);
                        let metadata = p.committed_metadata.unwrap_or_default().to_string();
                        self.offsets.lock().unwrap().insert(at, (p.committed_offset, metadata));
                        partitions.push(
                            OffsetCommitResponsePartition::default()
                                .with_partition_index(p.partition_index)
                                .with_error_code(code),
                        );
                    }
                    topics.push(
                        OffsetCommitResponseTopic::default()
                            .with_name(topic.name)
                            .with_partitions(partitions),
                    );
                }
                call.reply(&OffsetCommitResponse::default().with_topics(topics))
            }
            ApiKey::OffsetFetch => {
                let asked: OffsetFetchRequest = call.decode();
                let topics = asked.topics.unwrap_or_default().into_iter().map(|topic| {
                    let partitions = topic.partition_indexes.iter().map(|partition| {
                        let offsets = self.offsets.lock().unwrap();
                        let (offset, metadata) = offsets
                            .get(&(topic.name.to_string(), *partition))
                            .cloned()
                            .unwrap_or((-1, String::new()));
                        OffsetFetchResponsePartition::default()
                            .with_partition_index(*partition)
                            .with_committed_offset(offset)
                            .with_metadata(Some(text(&metadata)))
                            .with_error_code(code)
                    });
                    OffsetFetchResponseTopic::default()
                        .with_name(topic.name.clone())
                        .with_partitions(partitions.collect())
                });
                call.reply(&OffsetFetchResponse::default().with_topics(topics.collect()))
            }
            ApiKey::InitProducerId => call.reply(
                &InitProducerIdResponse::default().with_producer_id(ProducerId(9)).with_producer_epoch(2),
            ),
            _ => Answer::Default,
        }
    }
}

async fn group() -> (FakeCluster, std::sync::Arc<Coordinator>) {
    let coordinator = std::sync::Arc::new(Coordinator::default());
    let shared = std::sync::Arc::clone(&coordinator);
    let fake = FakeCluster::start(2, move |call| {
        let coordinator = std::sync::Arc::clone(&shared);
        async move { coordinator.answer(call) }
    })
    .await;
    (fake, coordinator)
}

fn join() -> Join {
    Join {
        session_timeout: Duration::from_secs(10),
        rebalance_timeout: Duration::from_secs(15),
        protocol_type: "consumer".into(),
        protocols: vec![("mainstem".into(), Bytes::from_static(b"metadata"))],
    }
}

async fn one_life(cluster: &Cluster, asks_for_member_id: bool) {
    let group = GroupClient::new(cluster, "g");
    let mut member = MemberId { generation: -1, ..MemberId::default() };
    let mut joined = group.join(&member, &join(), SOON).await.unwrap();
    if asks_for_member_id {
        assert_eq!(joined, Joined::MemberIdRequired("m-1".into()));
        member.member_id = "m-1".into();
        joined = group.join(&member, &join(), SOON).await.unwrap();
    }
    let Joined::Member { generation: 3, member_id, .. } = joined else { panic!("{joined:?}") };
    member = MemberId { member_id, generation: 3, instance_id: None };
    let mine = [("m-1".to_owned(), Bytes::from_static(b"all of it"))];
    let protocol = ("consumer", "mainstem");
    assert_eq!(group.sync(&member, protocol, &mine, SOON).await.unwrap(), mine[0].1);
    group.heartbeat(&member, SOON).await.unwrap();
    let (a, b) = (TopicPartition::new("t", 0), TopicPartition::new("t", 1));
    let offset = CommittedOffset { offset: 42, leader_epoch: None, metadata: "AgAA".into() };
    let committed = group.commit(&member, &[(a.clone(), offset.clone())]).await.unwrap();
    assert!(matches!(&committed[..], [(at, Ok(()))] if *at == a), "{committed:?}");
    let found = group.committed(Some(&[a.clone(), b.clone()]), false).await.unwrap();
    assert_eq!(
        found,
        [
            (a, Some(CommittedOffset { leader_epoch: found[0].1.as_ref().unwrap().leader_epoch, ..offset })),
            (b, None)
        ]
    );
    group.leave(&member, SOON).await.unwrap();
    let minute = Duration::from_secs(60);
    let producer = init_producer_id(cluster, Some("tx"), minute, None).await.unwrap();
    assert_eq!(producer, ProducerIdentity { producer_id: 9, epoch: 2 });
    assert_eq!(init_producer_id(cluster, None, minute, None).await.unwrap().epoch, 2);
}

#[tokio::test]
async fn a_member_lives_from_join_to_leave_in_the_newest_and_the_oldest_versions() {
    let (fake, _) = group().await;
    one_life(&Cluster::connect(fake.config()).await.unwrap(), true).await;
    *fake.script.max_versions.lock().unwrap() =
        OLDEST.iter().copied().filter(|(key, _)| *key != ApiKey::Metadata as i16).collect();
    one_life(&Cluster::connect(fake.config()).await.unwrap(), false).await;
    let cluster = Cluster::connect(fake.config()).await.unwrap();
    let error = GroupClient::new(&cluster, "g").committed(None, true).await.unwrap_err();
    assert!(error.to_string().contains("from 2.5"), "{error}");
}

#[tokio::test]
async fn errors_keep_their_code_and_class_and_a_coordinator_that_moved_is_found_again() {
    let (fake, coordinator) = group().await;
    let cluster = Cluster::connect(fake.config()).await.unwrap();
    let group = GroupClient::new(&cluster, "g");
    let member = MemberId { member_id: "m-1".into(), generation: 3, instance_id: None };
    for (code, class) in
        [(22, ErrorClass::FencedLease), (25, ErrorClass::FencedLease), (27, ErrorClass::Retriable)]
    {
        coordinator.error.store(code, Ordering::SeqCst);
        let error = group.heartbeat(&member, SOON).await.unwrap_err();
        assert_eq!((error.code(), error.class()), (Some(code as i16), class));
    }
    assert_eq!(fake.calls(ApiKey::FindCoordinator), 1);
    coordinator.error.store(16, Ordering::SeqCst);
    *fake.script.coordinator.lock().unwrap() = 2;
    assert!(group.heartbeat(&member, SOON).await.unwrap_err().is_retriable());
    coordinator.error.store(0, Ordering::SeqCst);
    group.heartbeat(&member, SOON).await.unwrap();
    assert_eq!(fake.script.log.lock().unwrap().last(), Some(&(2, ApiKey::Heartbeat)));

    coordinator.error.store(16, Ordering::SeqCst);
    let offset = CommittedOffset { offset: 1, leader_epoch: None, metadata: String::new() };
    let results = group.commit(&member, &[(TopicPartition::new("t", 0), offset)]).await.unwrap();
    assert_eq!(results[0].1.as_ref().unwrap_err().code(), Some(16));
    group.find_coordinator().await.unwrap();
    assert_eq!(fake.calls(ApiKey::FindCoordinator), 3, "an error within a commit counts as well");
}

#[tokio::test]
async fn a_partition_that_an_answer_leaves_out_is_neither_committed_nor_without_an_offset() {
    let fake = FakeCluster::start(1, |call| async move {
        match call.key {
            ApiKey::OffsetCommit => {
                let done = OffsetCommitResponsePartition::default().with_partition_index(0);
                let topic = OffsetCommitResponseTopic::default().with_name(TopicName(text("t")));
                let topics = vec![topic.with_partitions(vec![done])];
                call.reply(&OffsetCommitResponse::default().with_topics(topics))
            }
            ApiKey::OffsetFetch => call.reply(&OffsetFetchResponse::default()),
            _ => Answer::Default,
        }
    })
    .await;
    let cluster = Cluster::connect(fake.config()).await.unwrap();
    let group = GroupClient::new(&cluster, "g");
    let offset = CommittedOffset { offset: 1, leader_epoch: None, metadata: String::new() };
    let offsets = [0, 1].map(|partition| (TopicPartition::new("t", partition), offset.clone()));
    let results = group.commit(&MemberId::default(), &offsets).await.unwrap();
    assert!(results.len() == 2 && results[0].1.is_ok(), "{results:?}");
    let error = results[1].1.as_ref().unwrap_err();
    assert!(error.is_retriable() && error.partition() == Some(1), "{error}");
    let asked = [TopicPartition::new("t", 0)];
    let error = group.committed(Some(&asked), false).await.unwrap_err();
    assert!(error.is_retriable() && error.topic() == Some("t"), "{error}");
    assert_eq!(group.committed(None, false).await.unwrap(), []);
}

/// A machine without power, or a firewall that has forgotten the connection, answers nothing and closes nothing.
#[tokio::test]
async fn a_coordinator_that_is_silent_costs_its_connection_and_is_looked_for_anew() {
    let fake = FakeCluster::start(2, |call| async move {
        match (call.key, call.node) {
            (ApiKey::Heartbeat, 1) => Answer::Never,
            (ApiKey::Heartbeat, _) => call.reply(&HeartbeatResponse::default()),
            _ => Answer::Default,
        }
    })
    .await;
    let cluster = Cluster::connect(fake.config()).await.unwrap();
    let group = GroupClient::new(&cluster, "g");
    assert_eq!(group.find_coordinator().await.unwrap(), 1);
    *fake.script.coordinator.lock().unwrap() = 2;
    let member = MemberId::default();
    let error = group.heartbeat(&member, Duration::from_millis(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    group.heartbeat(&member, SOON).await.unwrap();
    // The machine's own question is asked, whatever is known.
    *fake.script.coordinator.lock().unwrap() = 1;
    assert_eq!(group.find_coordinator().await.unwrap(), 2);
    assert_eq!(group.find_coordinator_anew().await.unwrap(), 1);
}
