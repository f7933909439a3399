//! A group as its coordinator describes it: asked by hand (DescribeGroups version 4), a second reading of what members say.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, ConsumerProtocolAssignment, DescribeGroupsRequest, DescribeGroupsResponse, GroupId,
    RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use mainstem::TopicPartition;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

/// Asks for a group; `None` if the broker does not answer now.
pub async fn describe(broker: &str, group: &str) -> Option<Group> {
    let group = GroupId(StrBytes::from_string(group.to_owned()));
    let request = DescribeGroupsRequest::default().with_groups(vec![group]);
    let header = RequestHeader::default()
        .with_request_api_key(ApiKey::DescribeGroups as i16)
        .with_request_api_version(4)
        .with_correlation_id(1);
    let mut frame = BytesMut::new();
    header.encode(&mut frame, 1).unwrap();
    request.encode(&mut frame, 4).unwrap();
    let mut socket = tokio::net::TcpStream::connect(broker).await.ok()?;
    socket.write_all(&(frame.len() as u32).to_be_bytes()).await.ok()?;
    socket.write_all(&frame).await.ok()?;
    let length = socket.read_u32().await.ok()?;
    let mut answer = vec![0; length as usize];
    socket.read_exact(&mut answer).await.ok()?;
    let mut answer = Bytes::from(answer);
    ResponseHeader::decode(&mut answer, 0).unwrap();
    let response = DescribeGroupsResponse::decode(&mut answer, 4).unwrap();
    let described = response.groups.into_iter().next()?;
    let members = described.members.into_iter().map(|member| Member {
        id: member.member_id.to_string(),
        instance_id: member.group_instance_id.map(|id| id.to_string()),
        partitions: partitions(member.member_assignment),
    });
    Some(Group { state: described.group_state.to_string(), members: members.collect() })
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
