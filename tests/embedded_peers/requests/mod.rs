//! What Kafka answers to requests, the odd ones above all: error codes and the fields that matter, request by request.
//!
//! Everything that is wanted here a Kafka 4.3.1 has said. The embedded broker is asked always, and a real Kafka as well
//! where `MAINSTEM_KAFKA` names one.

mod alone;
mod groups;
mod logs;
mod topics;

use std::fmt::Debug;

use bytes::Bytes;
use kafka_protocol::messages as m;
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::protocol::StrBytes;
use mainstem::embedded::EmbeddedKafka;

use super::common::{is_real, kafka, unique};
use super::raw::{Raw, now};

/// What must happen happens within this.
const PATIENCE_MS: i64 = 30_000;
/// A producer's numbers where there is none.
const NOBODY: (i64, i16) = (-1, -1);

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn named(topic: &str) -> m::TopicName {
    m::TopicName(text(topic))
}

/// A topic to create with these counts.
fn creatable(name: &str, partitions: i32, replication: i16) -> CreatableTopic {
    CreatableTopic::default()
        .with_name(named(name))
        .with_num_partitions(partitions)
        .with_replication_factor(replication)
}

/// Code, base offset, whether an append time is said, log start, and how many records are at fault.
type Produced = (i16, i64, bool, i64, usize);

/// Who asks, and what was answered otherwise than Kafka does.
struct Asker {
    raw: Raw,
    wrong: Vec<String>,
}

impl Asker {
    fn says<T: Debug + PartialEq>(&mut self, what: &str, said: T, wanted: T) {
        if said != wanted {
            self.wrong.push(format!("{what}: {said:?} instead of {wanted:?}"));
        }
    }

    /// Asks until the answer is not that the broker is busy, or not ready.
    fn settled<T>(&mut self, mut ask: impl FnMut(&mut Raw) -> T, code: impl Fn(&T) -> i16) -> T {
        let deadline = now() + PATIENCE_MS;
        loop {
            let answer = ask(&mut self.raw);
            if ![5, 6, 14, 15, 16, 51].contains(&code(&answer)) {
                return answer;
            }
            assert!(now() < deadline, "it is never ready: {}", code(&answer));
            std::thread::yield_now();
        }
    }

    fn create(&mut self, topic: CreatableTopic) -> i16 {
        let request = m::CreateTopicsRequest::default().with_timeout_ms(10_000).with_topics(vec![topic]);
        self.raw.ask(5, &request).topics[0].error_code
    }

    fn create_with(&mut self, configs: &[(&str, &str)]) -> (String, i16) {
        let name = unique("asked");
        let configs = configs.iter().map(|(name, value)| {
            CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
        });
        let code = self.create(creatable(&name, 1, 1).with_configs(configs.collect()));
        (name, code)
    }

    /// The code of a topic whose replicas are said by the caller, each partition with its number.
    fn create_assigned(&mut self, partitions: &[(i32, &[i32])]) -> i16 {
        let assignments = partitions.iter().map(|(index, nodes)| {
            CreatableReplicaAssignment::default()
                .with_partition_index(*index)
                .with_broker_ids(nodes.iter().map(|id| m::BrokerId(*id)).collect())
        });
        let topic = creatable(&unique("assigned"), -1, -1).with_assignments(assignments.collect());
        self.create(topic)
    }

    /// A topic of one partition that has its leader.
    fn topic(&mut self, configs: &[(&str, &str)]) -> String {
        let (name, code) = self.create_with(configs);
        assert_eq!(code, 0);
        let request = list_request(&name, -2, 0);
        let code = self.settled(
            |raw| match raw.ask(5, &request).topics[0].partitions[0].error_code {
                // The node has not heard of it yet.
                3 => 6,
                code => code,
            },
            |code| *code,
        );
        assert_eq!(code, 0);
        name
    }

    fn produce(&mut self, topic: &str, transactional_id: Option<&str>, records: Bytes) -> Produced {
        let data = PartitionProduceData::default().with_records(Some(records));
        let topic = TopicProduceData::default().with_name(named(topic)).with_partition_data(vec![data]);
        let request = m::ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(10_000)
            .with_transactional_id(transactional_id.map(|id| m::TransactionalId(text(id))))
            .with_topic_data(vec![topic]);
        let answer = self.raw.ask(9, &request);
        let answer = &answer.responses[0].partition_responses[0];
        let timed = answer.log_append_time_ms >= 0;
        (answer.error_code, answer.base_offset, timed, answer.log_start_offset, answer.record_errors.len())
    }

    /// Code, offset and timestamp.
    fn list(&mut self, topic: &str, timestamp: i64, isolation: i8, version: i16) -> (i16, i64, i64) {
        let answer = self.raw.ask(version, &list_request(topic, timestamp, isolation));
        let answer = &answer.topics[0].partitions[0];
        (answer.error_code, answer.offset, answer.timestamp)
    }
}

fn list_request(topic: &str, timestamp: i64, isolation: i8) -> m::ListOffsetsRequest {
    let asked = ListOffsetsPartition::default().with_timestamp(timestamp);
    let topic = ListOffsetsTopic::default().with_name(named(topic)).with_partitions(vec![asked]);
    m::ListOffsetsRequest::default()
        .with_replica_id(m::BrokerId(-1))
        .with_isolation_level(isolation)
        .with_topics(vec![topic])
}

/// Has the embedded broker asked, and Kafka.
fn ask_all(test: &str, ask: impl Fn(&mut Asker)) {
    let embedded = EmbeddedKafka::builder().auto_create_topics(false).start().unwrap();
    let mut asked = vec![("the embedded broker", embedded.bootstrap().to_owned())];
    if is_real() {
        asked.extend(kafka(test).map(|real| ("Kafka", real)));
    }
    for (who, bootstrap) in asked {
        let mut asker = Asker { raw: Raw::connect(&bootstrap), wrong: Vec::new() };
        ask(&mut asker);
        assert!(asker.wrong.is_empty(), "{who} says\n{}", asker.wrong.join("\n"));
    }
}
