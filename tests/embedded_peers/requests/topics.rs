//! Topics, their settings, and the cluster.

use kafka_protocol::messages as m;
use kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;

use super::{Asker, ask_all, creatable, named, text};
use crate::common::unique;

#[test]
fn topics_are_made_and_refused_as_by_kafka() {
    ask_all("topics_are_made_and_refused_as_by_kafka", |a| {
        for (what, partitions, replication, wanted) in [
            ("no replicas", 1, 0, 38),
            ("more replicas than nodes", 1, 2, 38),
            ("no partitions", 0, 1, 37),
            ("fewer than none", -2, 1, 37),
            ("defaults", -1, -1, 0),
        ] {
            let said = a.create(creatable(&unique("counted"), partitions, replication));
            a.says(what, said, wanted);
        }
        type Assigned = &'static [(i32, &'static [i32])];
        let assigned: [(&str, Assigned, i16); 9] = [
            ("a gap", &[(0, &[1]), (2, &[1])], 39),
            ("a partition twice", &[(0, &[1]), (0, &[1])], 39),
            ("from 1 on", &[(1, &[1])], 39),
            ("below 0", &[(-1, &[1]), (0, &[1])], 39),
            ("a node twice", &[(0, &[1, 1])], 39),
            ("an unknown node", &[(0, &[99])], 39),
            ("no node", &[(0, &[])], 39),
            ("uneven", &[(0, &[1]), (1, &[])], 39),
            ("in no order", &[(1, &[1]), (0, &[1])], 0),
        ];
        for (what, partitions, wanted) in assigned {
            let said = a.create_assigned(partitions);
            a.says(what, said, wanted);
        }
        let (taken, code) = a.create_with(&[]);
        a.says("a topic", code, 0);
        a.topic(&[]);
        let said = a.create(creatable(&taken, 1, 1));
        a.says("the same again", said, 36);
        let dotted = unique("with.dot");
        let said = a.create(creatable(&dotted, 1, 1));
        a.says("a dot", said, 0);
        a.topic(&[]);
        let said = a.create(creatable(&dotted.replace('.', "_"), 1, 1));
        a.says("the same metric name", said, 17);
        for name in ["", ".", "..", "a b", "a/b"] {
            let said = a.create(creatable(name, 1, 1));
            a.says(name, said, 17);
        }
        let twice = creatable(&unique("twice"), 1, 1);
        let request = m::CreateTopicsRequest::default().with_timeout_ms(10_000);
        let said = a.raw.ask(5, &request.with_topics(vec![twice.clone(), twice]));
        a.says("a name twice", said.topics.iter().map(|t| t.error_code).collect(), vec![42]);
    });
}

#[test]
fn partitions_are_added_as_by_kafka() {
    ask_all("partitions_are_added_as_by_kafka", |a| {
        let topic = a.topic(&[]);
        let add = |a: &mut Asker, topics: Vec<CreatePartitionsTopic>| {
            let request = m::CreatePartitionsRequest::default().with_timeout_ms(10_000).with_topics(topics);
            a.raw.ask(1, &request).results.iter().map(|r| r.error_code).collect::<Vec<_>>()
        };
        let to = |count| {
            let none = CreatePartitionsTopic::default().with_assignments(None);
            none.with_name(named(&topic)).with_count(count)
        };
        let assigned = |count, nodes: &[&[i32]]| {
            let one = |nodes: &&[i32]| {
                let ids = nodes.iter().map(|id| m::BrokerId(*id)).collect();
                CreatePartitionsAssignment::default().with_broker_ids(ids)
            };
            to(count).with_assignments(Some(nodes.iter().map(one).collect()))
        };
        for (what, asked, wanted) in [
            ("as many", to(1), 37),
            ("fewer", to(0), 37),
            ("below none", to(-1), 37),
            ("an unknown node", assigned(2, &[&[99]]), 39),
            ("a node twice", assigned(2, &[&[1, 1]]), 39),
            ("no node", assigned(2, &[&[]]), 39),
            ("too few assignments", assigned(3, &[&[1]]), 39),
            ("assigned", assigned(2, &[&[1]]), 0),
            ("more", to(4), 0),
        ] {
            let said = add(a, vec![asked]);
            a.says(what, said, vec![wanted]);
        }
        let said = add(a, vec![to(6), to(6)]);
        a.says("a name twice", said, vec![42]);
    });
}

#[test]
fn topics_are_deleted_as_by_kafka() {
    ask_all("topics_are_deleted_as_by_kafka", |a| {
        let topic = a.topic(&[]);
        let request = m::DeleteTopicsRequest::default().with_timeout_ms(10_000);
        let names = [&topic, &topic, "nowhere"].map(named).to_vec();
        let said = a.raw.ask(5, &request.clone().with_topic_names(names));
        let mut codes: Vec<i16> = said.responses.iter().map(|r| r.error_code).collect();
        codes.sort_unstable();
        a.says("a name twice, and one that is not there", codes, vec![3, 42]);
        let said = a.raw.ask(6, &request.clone().with_topics(vec![DeleteTopicState::default()]));
        a.says("nothing named", said.responses[0].error_code, 42);
        let both = DeleteTopicState::default().with_name(Some(named(&topic)));
        let both = both.with_topic_id(uuid::Uuid::from_u128(1 << 64 | 7));
        let said = a.raw.ask(6, &request.clone().with_topics(vec![both]));
        a.says("name and id", said.responses[0].error_code, 42);
        let said = a.raw.ask(5, &request.with_topic_names(vec![named(&topic)]));
        a.says("it is still there", said.responses[0].error_code, 0);
        let asked = MetadataRequestTopic::default().with_name(Some(named("nowhere")));
        let request = m::MetadataRequest::default().with_topics(Some(vec![asked]));
        let said = a.raw.ask(9, &request).topics[0].error_code;
        a.says("nowhere", said, 3);
    });
}

#[test]
fn settings_are_taken_as_by_kafka() {
    ask_all("settings_are_taken_as_by_kafka", |a| {
        let cases: &[(&[(&str, &str)], i16)] = &[
            (&[("foo.bar", "1")], 40),
            (&[("cleanup.policy", "compact,delete")], 0),
            (&[("cleanup.policy", "compact, delete")], 0),
            (&[("cleanup.policy", "foo")], 40),
            (&[("retention.ms", "-2")], 40),
            (&[("retention.ms", " 5 ")], 0),
            (&[("retention.bytes", "-3")], 0),
            (&[("segment.ms", "0")], 40),
            (&[("segment.bytes", "1000")], 40),
            (&[("internal.segment.bytes", "1000")], 0),
            (&[("max.message.bytes", "-1")], 40),
            (&[("min.insync.replicas", "0")], 40),
            (&[("preallocate", "TRUE")], 0),
            (&[("preallocate", "maybe")], 40),
            (&[("min.cleanable.dirty.ratio", "2")], 40),
            (&[("message.timestamp.type", "logappendtime")], 40),
            (&[("compression.type", "foo")], 40),
            (&[("compression.gzip.level", "5")], 0),
            (&[("compression.gzip.level", "-1")], 0),
            (&[("compression.gzip.level", "0")], 40),
            (&[("compression.gzip.level", "10")], 40),
            (&[("compression.lz4.level", "17")], 0),
            (&[("compression.lz4.level", "0")], 40),
            (&[("compression.zstd.level", "-131072")], 0),
            (&[("compression.zstd.level", "23")], 40),
            (&[("local.retention.ms", "-2")], 0),
            (&[("local.retention.bytes", "-3")], 40),
            (&[("remote.storage.enable", "false")], 0),
            (&[("remote.storage.enable", "true")], 40),
            (&[("remote.log.copy.disable", "false")], 0),
            (&[("remote.log.delete.on.disable", "false")], 0),
            (&[("leader.replication.throttled.replicas", "0:1,1:1")], 0),
            (&[("follower.replication.throttled.replicas", "*")], 0),
            (&[("leader.replication.throttled.replicas", "")], 0),
            (&[("leader.replication.throttled.replicas", "one")], 40),
            (&[("min.compaction.lag.ms", "100"), ("max.compaction.lag.ms", "50")], 40),
            (&[("message.downconversion.enable", "true")], 40),
        ];
        for (settings, wanted) in cases {
            let (_, said) = a.create_with(settings);
            a.says(&format!("{settings:?}"), said, *wanted);
        }
        // Of two things that are wrong, the settings are said.
        let bad = m::create_topics_request::CreatableTopicConfig::default().with_name(text("foo"));
        let bad = creatable(&unique("bad"), 0, 9).with_configs(vec![bad.with_value(Some(text("1")))]);
        let said = a.create(bad);
        a.says("settings and partitions", said, 40);
    });
}

/// Name, `AlterConfigOp.OpType`, value.
type Change = (&'static str, i8, Option<&'static str>);

#[test]
fn settings_are_said_and_altered_as_by_kafka() {
    ask_all("settings_are_said_and_altered_as_by_kafka", |a| {
        let topic = a.topic(&[]);
        let describe = |a: &mut Asker, kind, name: &str| {
            let resource = DescribeConfigsResource::default()
                .with_resource_type(kind)
                .with_resource_name(text(name))
                .with_configuration_keys(None);
            let request = m::DescribeConfigsRequest::default().with_resources(vec![resource]);
            a.raw.ask(4, &request).results.remove(0)
        };
        for (what, kind, name, wanted) in [
            ("topic", 2, topic.as_str(), 0),
            ("no topic", 2, "nowhere", 3),
            ("bad topic", 2, "a b", 17),
            ("the broker", 4, "1", 0),
            ("all brokers", 4, "", 0),
            ("another broker", 4, "77", 42),
            ("no broker", 4, "x", 42),
            ("no kind", 3, "x", 42),
        ] {
            let said = describe(a, kind, name).error_code;
            a.says(what, said, wanted);
        }
        let configs = describe(a, 2, &topic).configs;
        let said = configs.iter().map(|c| (c.name.to_string(), c.config_type));
        let mut said: Vec<(String, i8)> = said.collect();
        said.sort();
        let wanted = [
            ("cleanup.policy", 7),
            ("compression.gzip.level", 3),
            ("compression.lz4.level", 3),
            ("compression.type", 2),
            ("compression.zstd.level", 3),
            ("delete.retention.ms", 5),
            ("file.delete.delay.ms", 5),
            ("flush.messages", 5),
            ("flush.ms", 5),
            ("follower.replication.throttled.replicas", 7),
            ("index.interval.bytes", 3),
            ("leader.replication.throttled.replicas", 7),
            ("local.retention.bytes", 5),
            ("local.retention.ms", 5),
            ("max.compaction.lag.ms", 5),
            ("max.message.bytes", 3),
            ("message.timestamp.after.max.ms", 5),
            ("message.timestamp.before.max.ms", 5),
            ("message.timestamp.type", 2),
            ("min.cleanable.dirty.ratio", 6),
            ("min.compaction.lag.ms", 5),
            ("min.insync.replicas", 3),
            ("preallocate", 1),
            ("remote.log.copy.disable", 1),
            ("remote.log.delete.on.disable", 1),
            ("remote.storage.enable", 1),
            ("retention.bytes", 5),
            ("retention.ms", 5),
            ("segment.bytes", 3),
            ("segment.index.bytes", 3),
            ("segment.jitter.ms", 5),
            ("segment.ms", 5),
            ("unclean.leader.election.enable", 1),
        ];
        a.says("names and kinds", said, wanted.map(|(name, kind)| (name.to_owned(), kind)).to_vec());
        let resource = |changes: &[Change]| {
            let change = |(name, operation, value): &Change| {
                AlterableConfig::default()
                    .with_name(text(name))
                    .with_config_operation(*operation)
                    .with_value(value.map(text))
            };
            AlterConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text(&topic))
                .with_configs(changes.iter().map(change).collect())
        };
        let alter = |a: &mut Asker, resources| {
            let request = m::IncrementalAlterConfigsRequest::default().with_resources(resources);
            a.raw.ask(1, &request).responses.iter().map(|r| r.error_code).collect::<Vec<_>>()
        };
        let cases: &[(&str, &[Change], i16)] = &[
            ("append to no list", &[("retention.ms", 2, Some("5"))], 40),
            ("append", &[("cleanup.policy", 2, Some("compact"))], 0),
            ("subtract", &[("cleanup.policy", 3, Some("delete"))], 0),
            ("null", &[("retention.ms", 0, None)], 42),
            ("no operation", &[("retention.ms", 9, Some("1"))], -1),
            ("unknown", &[("foo", 0, Some("1"))], 40),
            ("a setting twice", &[("retention.ms", 0, Some("1")), ("retention.ms", 0, Some("2"))], 42),
            ("nothing", &[], 0),
            ("no number", &[("retention.ms", 0, Some("x"))], 40),
            ("blank", &[("retention.ms", 0, Some(""))], 40),
        ];
        for (what, changes, wanted) in cases {
            let said = alter(a, vec![resource(changes)]);
            a.says(what, said, vec![*wanted]);
        }
        let said = alter(a, vec![resource(&[]), resource(&[])]);
        a.says("a topic twice", said, vec![42, 42]);
    });
}

#[test]
fn the_cluster_is_described_as_by_kafka() {
    ask_all("the_cluster_is_described_as_by_kafka", |a| {
        for (kind, wanted) in [(1, 0), (2, 114), (7, 115)] {
            let request = m::DescribeClusterRequest::default().with_endpoint_type(kind);
            let said = a.raw.ask(1, &request).error_code;
            a.says(&format!("endpoint {kind}"), said, wanted);
        }
        for (name, version, wanted) in
            [("me", "1.0", 0), ("", "", 42), ("me", "", 42), ("a b!", "1", 42), ("-a", "1", 42)]
        {
            let request = m::ApiVersionsRequest::default()
                .with_client_software_name(text(name))
                .with_client_software_version(text(version));
            let said = a.raw.ask(3, &request).error_code;
            a.says(&format!("client {name:?} {version:?}"), said, wanted);
        }
    });
}
