//! A group as its coordinator describes it: asked by hand (DescribeGroups), a second reading of what members say.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::{
    ApiKey, ConsumerProtocolAssignment, ConsumerProtocolSubscription, DescribeGroupsRequest,
    DescribeGroupsResponse, GroupId, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use mainstem::TopicPartition;

use crate::support::ask;

/// A member: its id, and what it reads.
#[derive(Debug, Clone)]
pub struct Member {
    pub id: String,
    pub instance_id: Option<String>,
    pub partitions: Vec<TopicPartition>,
}

#[derive(Debug, Clone, Default)]
pub struct Group {
    /// `Stable`, `PreparingRebalance`, ...
    pub state: String,
    pub members: Vec<Member>,
}

impl Group {
    pub fn is_stable(&self) -> bool {
        self.state == "Stable"
    }

    /// Who reads each partition of a topic, by member id. Two readers of one are a failure.
    pub fn owners(&self, topic: &str) -> BTreeMap<i32, String> {
        let mut owners = BTreeMap::new();
        for member in &self.members {
            for at in member.partitions.iter().filter(|at| *at.topic == *topic) {
                let other = owners.insert(at.partition, member.id.clone());
                assert_eq!(other, None, "{at} has two owners: {self:?}");
            }
        }
        owners
    }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// Asks for a group; `None` if the broker does not answer now.
pub async fn describe(broker: &str, group: &str) -> Option<Group> {
    let request = DescribeGroupsRequest::default().with_groups(vec![GroupId(text(group))]);
    let response: DescribeGroupsResponse = ask(broker, ApiKey::DescribeGroups, 4, &request).await?;
    let described = response.groups.into_iter().next()?;
    let members = described.members.into_iter().map(|member| Member {
        id: member.member_id.to_string(),
        instance_id: member.group_instance_id.map(|id| id.to_string()),
        partitions: partitions(member.member_assignment),
    });
    Some(Group { state: described.group_state.to_string(), members: members.collect() })
}

/// Joins a group as a plain consumer with the range assignor does, and takes part in it; the error code if it is refused.
pub async fn join_as_a_consumer(broker: &str, group: &str, topic: &str) -> Result<(), i16> {
    let mut metadata = BytesMut::new();
    metadata.put_i16(0);
    let subscription = ConsumerProtocolSubscription::default().with_topics(vec![text(topic)]);
    subscription.encode(&mut metadata, 0).unwrap();
    let protocol =
        JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(metadata.freeze());
    // Version 3 joins in one step.
    let request = JoinGroupRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_session_timeout_ms(60_000)
        .with_rebalance_timeout_ms(60_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    let joined: JoinGroupResponse = ask(broker, ApiKey::JoinGroup, 3, &request).await.unwrap();
    if joined.error_code != 0 {
        return Err(joined.error_code);
    }
    let request = SyncGroupRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id(joined.generation_id)
        .with_member_id(joined.member_id);
    let synced: SyncGroupResponse = ask(broker, ApiKey::SyncGroup, 2, &request).await.unwrap();
    assert_eq!(synced.error_code, 0);
    Ok(())
}

/// Removes a member from its group, as an administrator may.
pub async fn evict(broker: &str, group: &str, member: &str) {
    let request =
        LeaveGroupRequest::default().with_group_id(GroupId(text(group))).with_member_id(text(member));
    let left: LeaveGroupResponse = ask(broker, ApiKey::LeaveGroup, 2, &request).await.unwrap();
    assert_eq!(left.error_code, 0);
}

fn partitions(mut assignment: Bytes) -> Vec<TopicPartition> {
    if assignment.is_empty() {
        return Vec::new();
    }
    let version = assignment.get_i16();
    let assignment = ConsumerProtocolAssignment::decode(&mut assignment, version).unwrap();
    let of_topic = assignment.assigned_partitions.into_iter();
    of_topic
        .flat_map(|t| t.partitions.into_iter().map(move |p| TopicPartition::new(t.topic.as_str(), p)))
        .collect()
}
