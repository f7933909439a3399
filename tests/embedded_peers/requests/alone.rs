//! What only the embedded broker is asked, because it takes nodes that stop, or a broker with other settings. A Kafka
//! with these settings has said the same.

use kafka_protocol::messages as m;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use mainstem::embedded::{EmbeddedKafka, EmbeddedKafkaBuilder};

use super::{Asker, creatable, named, text};
use crate::raw::Raw;

fn start(builder: EmbeddedKafkaBuilder) -> (EmbeddedKafka, Asker) {
    let kafka = builder.start().unwrap();
    let raw = Raw::connect(kafka.bootstrap());
    (kafka, Asker { raw, wrong: Vec::new() })
}

/// Asks for a topic, which may make it.
fn look(a: &mut Asker, topic: &str) -> m::metadata_response::MetadataResponseTopic {
    let asked = MetadataRequestTopic::default().with_name(Some(named(topic)));
    let request = m::MetadataRequest::default().with_allow_auto_topic_creation(true);
    a.raw.ask(9, &request.with_topics(Some(vec![asked]))).topics.remove(0)
}

#[test]
fn a_topic_that_makes_itself_is_there_when_asked_for_again() {
    let (_kafka, mut a) = start(EmbeddedKafka::builder().default_partitions(3));
    assert_eq!(look(&mut a, "a.topic").error_code, 3);
    let made = look(&mut a, "a.topic");
    assert_eq!((made.error_code, made.partitions.len()), (0, 3));
    for _ in 0..2 {
        assert_eq!(look(&mut a, "a_topic").error_code, 3, "its name collides");
        assert_eq!(look(&mut a, "a topic").error_code, 17);
    }
}

#[test]
fn a_node_is_a_replica_once() {
    let alone = EmbeddedKafka::builder().config("default.replication.factor", "3");
    let (_kafka, mut a) = start(alone);
    for _ in 0..2 {
        assert_eq!(look(&mut a, "three").error_code, 3, "nobody can make it");
    }
    assert_eq!(a.create(creatable("three", 1, -1)), 38);

    let (kafka, mut a) = start(EmbeddedKafka::builder().nodes(3));
    assert_eq!(a.create(creatable("three", 1, 3)), 0);
    kafka.stop_node(2).unwrap();
    kafka.stop_node(3).unwrap();
    assert_eq!(a.create(creatable("four", 2, 3)), 0, "who is away is a replica, too");
    assert_eq!(a.create(creatable("five", 1, 4)), 38);
    let more =
        CreatePartitionsTopic::default().with_name(named("three")).with_count(2).with_assignments(None);
    let request = m::CreatePartitionsRequest::default().with_timeout_ms(10_000).with_topics(vec![more]);
    assert_eq!(a.raw.ask(1, &request).results[0].error_code, 0);
    assert_eq!(a.create_assigned(&[(0, &[2, 3])]), 39, "none of them is alive");
    assert_eq!(a.create_assigned(&[(0, &[2, 1])]), 0);
    for topic in ["three", "four"] {
        let partitions = look(&mut a, topic).partitions;
        assert_eq!(partitions.len(), 2);
        for partition in partitions {
            let mut replicas: Vec<i32> = partition.replica_nodes.iter().map(|id| id.0).collect();
            replicas.sort_unstable();
            let in_sync: Vec<i32> = partition.isr_nodes.iter().map(|id| id.0).collect();
            assert_eq!((partition.leader_id.0, replicas, in_sync), (1, vec![1, 2, 3], vec![1]), "{topic}");
        }
    }
}

#[test]
fn an_epoch_grows_when_somebody_leads_or_nobody_does_any_more() {
    let (kafka, mut a) = start(EmbeddedKafka::builder().nodes(3));
    assert_eq!(a.create_assigned(&[(0, &[3])]), 0);
    let topic = {
        let all = m::MetadataRequest::default().with_topics(None);
        a.raw.ask(9, &all).topics[0].name.clone().unwrap().to_string()
    };
    let mut led = || {
        let partition = look(&mut a, &topic).partitions.remove(0);
        (partition.leader_id.0, partition.leader_epoch)
    };
    assert_eq!(led(), (3, 0));
    kafka.stop_node(3).unwrap();
    assert_eq!(led(), (-1, 1));
    kafka.stop_node(2).unwrap();
    kafka.start_node(2).unwrap();
    assert_eq!(led(), (-1, 1), "nothing has changed for it");
    kafka.start_node(3).unwrap();
    assert_eq!(led(), (3, 2));
}

#[test]
fn a_handshake_without_frames_for_its_tokens_is_not_announced() {
    let (_kafka, mut a) = start(EmbeddedKafka::builder().user("alice", "secret"));
    let versions = a.raw.ask(0, &m::ApiVersionsRequest::default()).api_keys;
    let handshake = versions.iter().find(|api| api.api_key == 17).unwrap();
    assert_eq!((handshake.min_version, handshake.max_version), (1, 1));
    let request = m::SaslHandshakeRequest::default().with_mechanism(text("PLAIN"));
    assert!(a.raw.try_ask(0, &request).is_none());
}
