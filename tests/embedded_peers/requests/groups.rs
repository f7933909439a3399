//! Groups.

use bytes::Bytes;
use kafka_protocol::messages as m;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;

use super::{Asker, ask_all, named, text};
use crate::common::unique;

fn join(a: &mut Asker, group: &str, member: &str, kind: &str, protocols: &[&str]) -> m::JoinGroupResponse {
    // A subscription of Java's consumer to one topic, which Kafka looks into.
    let subscription = Bytes::from_static(&[0, 0, 0, 0, 0, 1, 0, 1, b't', 0xff, 0xff, 0xff, 0xff]);
    let protocol = |name: &&str| {
        JoinGroupRequestProtocol::default().with_name(text(name)).with_metadata(subscription.clone())
    };
    let request = m::JoinGroupRequest::default()
        .with_group_id(m::GroupId(text(group)))
        .with_member_id(text(member))
        .with_protocol_type(text(kind))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(10_000)
        .with_protocols(protocols.iter().map(protocol).collect());
    a.settled(|raw| raw.ask(5, &request), |answer| answer.error_code)
}

#[test]
fn members_are_answered_as_by_kafka() {
    ask_all("members_are_answered_as_by_kafka", |a| {
        let (topic, group) = (a.topic(&[]), unique("group"));
        let find = m::FindCoordinatorRequest::default().with_key(text(&group));
        a.settled(|raw| raw.ask(2, &find), |answer| answer.error_code);
        for (what, group, member, kind, protocols, wanted) in [
            ("no group", "", "", "consumer", &["range"][..], 24),
            ("an unknown member", &*group, "somebody", "consumer", &["range"], 25),
            ("no protocols", &group, "", "consumer", &[], 23),
            ("no kind", &group, "", "", &["range"], 23),
        ] {
            let said = join(a, group, member, kind, protocols).error_code;
            a.says(what, said, wanted);
        }
        let first = join(a, &group, "", "consumer", &["range"]);
        a.says("an id first", first.error_code, 79);
        let id = first.member_id.to_string();
        let joined = join(a, &group, &id, "consumer", &["range"]);
        a.says("then the group", (joined.error_code, joined.generation_id), (0, 1));

        let sync = |a: &mut Asker, kind: Option<&str>, protocol: Option<&str>, generation, member: &str| {
            let one = SyncGroupRequestAssignment::default().with_member_id(text(&id));
            let request = m::SyncGroupRequest::default()
                .with_group_id(m::GroupId(text(&group)))
                .with_generation_id(generation)
                .with_member_id(text(member))
                .with_protocol_type(kind.map(text))
                .with_protocol_name(protocol.map(text))
                .with_assignments(vec![one.with_assignment(Bytes::from_static(b"abc"))]);
            let answer = a.raw.ask(5, &request);
            (answer.error_code, answer.assignment.len())
        };
        let (kind, protocol) = (Some("consumer"), Some("range"));
        for (what, kind, protocol, generation, member, wanted) in [
            ("no kind", None, protocol, 1, &*id, (23, 0)),
            ("no protocol", kind, None, 1, &id, (23, 0)),
            ("neither, of nobody", None, None, 7, "somebody", (23, 0)),
            ("another kind", Some("connect"), protocol, 1, &id, (23, 0)),
            ("another protocol", kind, Some("other"), 1, &id, (23, 0)),
            ("another generation", kind, protocol, 7, &id, (22, 0)),
            ("an unknown member", kind, protocol, 1, "somebody", (25, 0)),
            ("its assignment", kind, protocol, 1, &id, (0, 3)),
        ] {
            let said = sync(a, kind, protocol, generation, member);
            a.says(&format!("sync: {what}"), said, wanted);
        }

        for (what, generation, member, wanted) in [
            ("a heartbeat", 1, &*id, 0),
            ("of the generation before", 0, &id, 22),
            ("of one that is to come", 2, &id, 22),
            ("of somebody", 1, "somebody", 25),
            ("of nobody", 1, "", 25),
        ] {
            let request = m::HeartbeatRequest::default()
                .with_group_id(m::GroupId(text(&group)))
                .with_generation_id(generation)
                .with_member_id(text(member));
            let said = a.raw.ask(3, &request).error_code;
            a.says(what, said, wanted);
        }

        let long = "x".repeat(5000);
        for (what, generation, member, topic, partition, metadata, wanted) in [
            ("an offset", 1, &*id, &*topic, 0, "", 0),
            ("of the generation before", 0, &id, &topic, 0, "", 22),
            ("of nobody in a group with members", -1, "", &topic, 0, "", 25),
            ("of somebody", 1, "somebody", &topic, 0, "", 25),
            ("nowhere", 1, &id, "nowhere", 0, "", 3),
            ("in no partition", 1, &id, &topic, 9, "", 3),
            ("with much to say", 1, &id, &topic, 0, &*long, 12),
        ] {
            let one = OffsetCommitRequestPartition::default()
                .with_partition_index(partition)
                .with_committed_offset(5)
                .with_committed_metadata(Some(text(metadata)));
            let topic =
                OffsetCommitRequestTopic::default().with_name(named(topic)).with_partitions(vec![one]);
            let request = m::OffsetCommitRequest::default()
                .with_group_id(m::GroupId(text(&group)))
                .with_generation_id_or_member_epoch(generation)
                .with_member_id(text(member))
                .with_topics(vec![topic]);
            let said = a.raw.ask(7, &request).topics[0].partitions[0].error_code;
            a.says(&format!("commit: {what}"), said, wanted);
        }

        let said = join(a, &group, "", "connect", &["range"]).error_code;
        a.says("another kind", said, 23);
        let said = join(a, &group, "", "consumer", &["other"]).error_code;
        a.says("another protocol", said, 23);
        let delete = |a: &mut Asker, group: &str| {
            let request = m::DeleteGroupsRequest::default().with_groups_names(vec![m::GroupId(text(group))]);
            a.raw.ask(2, &request).results[0].error_code
        };
        let said = (delete(a, &group), delete(a, "nobody"));
        a.says("delete with members, and what is not there", said, (68, 69));
        let leave = |a: &mut Asker, member: &str| {
            let member = MemberIdentity::default().with_member_id(text(member));
            let request = m::LeaveGroupRequest::default().with_group_id(m::GroupId(text(&group)));
            let answer = a.raw.ask(3, &request.with_members(vec![member]));
            (answer.error_code, answer.members[0].error_code)
        };
        let said = (leave(a, "somebody"), leave(a, &id), leave(a, &id));
        a.says("leave", said, ((0, 25), (0, 0), (0, 25)));
        let said = delete(a, &group);
        a.says("delete without members", said, 0);
    });
}
