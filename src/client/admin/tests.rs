//! Administration against scripted brokers: moved controllers and leaders, results for each, retries that end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{
    ApiKey, CreateTopicsRequest, CreateTopicsResponse, ListOffsetsRequest, ListOffsetsResponse,
};

use super::*;
use crate::TopicPartition;
use crate::client::fake::{Answer, Call, FakeCluster};

/// Error codes to answer with, by node and name; each is used up.
type Codes = Arc<Mutex<HashMap<(i32, &'static str), Vec<i16>>>>;

fn answer(call: &Call, codes: &Codes, seen: &AtomicI32) -> Answer {
    let code = |name: &str| {
        let mut codes = codes.lock().unwrap();
        codes
            .iter_mut()
            .find(|((node, n), _)| *node == call.node && *n == name)
            .and_then(|(_, c)| c.pop())
            .unwrap_or(0)
    };
    match call.key {
        ApiKey::CreateTopics => {
            let asked: CreateTopicsRequest = call.decode();
            seen.fetch_add(asked.topics.len() as i32, Ordering::SeqCst);
            let topics = asked.topics.iter().map(|topic| {
                CreatableTopicResult::default()
                    .with_name(topic.name.clone())
                    .with_error_code(code(&topic.name))
            });
            call.reply(&CreateTopicsResponse::default().with_topics(topics.collect()))
        }
        ApiKey::ListOffsets => {
            let asked: ListOffsetsRequest = call.decode();
            let topics = asked.topics.iter().map(|topic| {
                let partitions = topic.partitions.iter().map(|p| {
                    ListOffsetsPartitionResponse::default()
                        .with_partition_index(p.partition_index)
                        .with_error_code(code(&topic.name))
                        .with_offset(i64::from(100 * call.node + p.partition_index))
                });
                ListOffsetsTopicResponse::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions.collect())
            });
            call.reply(&ListOffsetsResponse::default().with_topics(topics.collect()))
        }
        _ => Answer::Default,
    }
}

async fn rig(nodes: i32, codes: &[((i32, &'static str), &[i16])]) -> (FakeCluster, Arc<AtomicI32>) {
    let codes: Codes = Arc::new(Mutex::new(codes.iter().map(|(at, codes)| (*at, codes.to_vec())).collect()));
    let seen = Arc::new(AtomicI32::new(0));
    let count = Arc::clone(&seen);
    let fake = FakeCluster::start(nodes, move |call| {
        let answer = answer(&call, &codes, &count);
        async move { answer }
    })
    .await;
    (fake, seen)
}

#[tokio::test]
async fn only_what_may_succeed_later_is_asked_again_and_each_topic_has_its_result() {
    // b: REQUEST_TIMED_OUT once, then NOT_CONTROLLER; c exists.
    let (fake, seen) = rig(1, &[((1, "b"), &[41, 7]), ((1, "c"), &[36])]).await;
    let admin = Admin::connect(fake.config()).await.unwrap();
    let topics = ["a", "b", "c"].map(|name| NewTopic::new(name, 1));
    let results = admin.create_topics(&topics).await.unwrap();
    assert!(results[0].is_ok() && results[1].is_ok());
    assert!(Admin::already_exists(results[2].as_ref().unwrap_err()));
    assert_eq!(seen.load(Ordering::SeqCst), 3 + 1 + 1);
}

#[tokio::test]
async fn retries_end_at_the_deadline_with_the_last_error() {
    let (fake, _) = rig(1, &[((1, "a"), &[7; 1000])]).await;
    let mut config = fake.config();
    config.api_timeout = std::time::Duration::from_millis(50);
    let admin = Admin::connect(config).await.unwrap();
    let results = admin.create_topics(&["a", "b"].map(|name| NewTopic::new(name, 1))).await.unwrap();
    assert_eq!(results[0].as_ref().unwrap_err().code(), Some(7));
    assert!(results[1].is_ok());
}

#[tokio::test]
async fn offsets_are_asked_of_each_leader_and_again_after_a_move() {
    // Node 1 leads t-0 no more: NOT_LEADER_OR_FOLLOWER; node 2 has just been elected: OFFSET_NOT_AVAILABLE.
    let (fake, _) = rig(3, &[((1, "t"), &[6]), ((2, "t"), &[78])]).await;
    fake.topic("t", &[(1, 0), (3, 0)]);
    let admin = Admin::connect(fake.config()).await.unwrap();
    admin.cluster().topic("t").await.unwrap();
    fake.topic("t", &[(2, 1), (3, 0)]);
    let of = [1, 0, 7].map(|p| (TopicPartition::new("t", p), OffsetSpec::Latest));
    let listed = admin.list_offsets(&of, Isolation::ReadUncommitted).await.unwrap();
    let offsets: Vec<_> = listed.iter().map(|l| l.as_ref().ok().and_then(|l| l.offset)).collect();
    assert_eq!(offsets, [Some(301), Some(200), None]);
    let error = listed[2].as_ref().unwrap_err();
    assert_eq!((error.kind(), error.partition()), (ErrorKind::Topic, Some(7)));
}

#[tokio::test]
async fn a_topic_that_does_not_exist_is_waited_for_once_for_all_its_partitions() {
    let (fake, _) = rig(1, &[]).await;
    let admin = Admin::connect(fake.config()).await.unwrap();
    let of: Vec<_> = (0..50).map(|p| (TopicPartition::new("nowhere", p), OffsetSpec::Latest)).collect();
    let listed = admin.list_offsets(&of, Isolation::ReadUncommitted).await.unwrap();
    assert!(listed.iter().all(|l| l.as_ref().is_err_and(|e| e.topic() == Some("nowhere"))));
    assert!(fake.calls(ApiKey::Metadata) < 50);
}
