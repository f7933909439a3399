//! Groups: listed, described, emptied, and their offsets.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::{
    DescribeGroupsRequest, GroupId, LeaveGroupRequest, ListGroupsRequest, OffsetDeleteRequest,
};

use super::Admin;
use super::topics::{text, topic_name};
use crate::client::error_table::{CallSite, broker_error, is_stale_coordinator};
use crate::client::group::{GroupClient, MemberId};
use crate::client::{CommittedOffset, ConnectionClass, CoordinatorType};
use crate::{Error, ErrorClass, ErrorKind, Result, TopicPartition};

/// UNKNOWN_MEMBER_ID: of one that has left meanwhile.
const UNKNOWN_MEMBER_ID: i16 = 25;
/// The group does not exist, or is none of the classic protocol.
const GROUP_ID_NOT_FOUND: i16 = 69;

/// A group that a coordinator knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupListing {
    pub(crate) group_id: String,
    /// In Kafka's words, such as `Stable` and `Empty`; empty from brokers before 2.6.
    pub(crate) state: String,
}

/// A group of the classic protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupDescription {
    /// In Kafka's words; `Dead` if there is none of that name and protocol.
    pub(crate) state: String,
    pub(crate) members: Vec<GroupMember>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupMember {
    pub(crate) member_id: String,
    /// `group.instance.id`, of a static member.
    pub(crate) instance_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) host: String,
}

fn check(code: i16, site: CallSite) -> Result<()> {
    broker_error(code, site).map_or(Ok(()), Err)
}

impl Admin {
    /// Asks a group's coordinator until it answers.
    async fn ask_group<R, F>(&self, group: &str, ask: impl Fn(i32) -> F) -> Result<R>
    where
        F: Future<Output = Result<R>>,
    {
        let mut retry = self.cluster.retry();
        loop {
            let node = self.cluster.coordinator(CoordinatorType::Group, group).await?;
            let error = match ask(node).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if is_stale_coordinator(&error) {
                self.cluster.invalidate_coordinator(CoordinatorType::Group, group, node);
            }
            retry.after(error).await?;
        }
    }

    /// All groups of the cluster, sorted.
    pub(crate) async fn list_groups(&self) -> Result<Vec<GroupListing>> {
        let mut retry = self.cluster.retry();
        loop {
            match self.try_list_groups().await {
                Ok(listed) => return Ok(listed),
                Err(error) => retry.after(error).await?,
            }
            self.cluster.refresh_brokers().await?;
        }
    }

    async fn try_list_groups(&self) -> Result<Vec<GroupListing>> {
        let mut listed = Vec::new();
        for broker in self.cluster.brokers() {
            let request = ListGroupsRequest::default();
            let answer = self.cluster.request(broker.node, ConnectionClass::Normal, &request).await?;
            check(answer.error_code, CallSite::Groups)?;
            listed.extend(answer.groups.into_iter().map(|group| GroupListing {
                group_id: group.group_id.0.to_string(),
                state: group.group_state.to_string(),
            }));
        }
        listed.sort_by(|a, b| a.group_id.cmp(&b.group_id));
        // One that is just moving from one coordinator to another is listed by both.
        listed.dedup_by(|a, b| a.group_id == b.group_id);
        Ok(listed)
    }

    /// The state and the members of a group of the classic protocol.
    pub(crate) async fn describe_group(&self, group: &str) -> Result<GroupDescription> {
        let request = DescribeGroupsRequest::default().with_groups(vec![GroupId(text(group))]);
        let request = &request;
        self.ask_group(group, |node| async move {
            let answer = self.cluster.request(node, ConnectionClass::Normal, request).await?;
            let described = answer.groups.into_iter().next().ok_or_else(|| {
                Error::new(ErrorKind::Corrupt, "the coordinator's answer leaves the group out")
                    .with_class(ErrorClass::Retriable)
            })?;
            check(described.error_code, CallSite::Groups)?;
            let members = described.members.into_iter().map(|member| GroupMember {
                member_id: member.member_id.to_string(),
                instance_id: member.group_instance_id.map(|id| id.to_string()),
                client_id: member.client_id.to_string(),
                host: member.client_host.to_string(),
            });
            Ok(GroupDescription { state: described.group_state.to_string(), members: members.collect() })
        })
        .await
    }

    /// Removes members (KIP-345): static ones by their `group.instance.id`. One that has left meanwhile is no error.
    pub(crate) async fn remove_members(&self, group: &str, members: &[GroupMember]) -> Result<()> {
        let identity = |member: &GroupMember| {
            let identity =
                MemberIdentity::default().with_group_instance_id(member.instance_id.as_deref().map(text));
            match member.instance_id {
                Some(_) => identity,
                None => identity.with_member_id(text(&member.member_id)),
            }
        };
        let request = LeaveGroupRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_members(members.iter().map(identity).collect());
        let request = &request;
        self.ask_group(group, |node| async move {
            let answer = self.cluster.request(node, ConnectionClass::Normal, request).await?;
            check(answer.error_code, CallSite::LeaveGroup)?;
            let failed = answer.members.iter().map(|member| member.error_code);
            failed
                .filter(|code| *code != UNKNOWN_MEMBER_ID)
                .try_for_each(|code| check(code, CallSite::LeaveGroup))
        })
        .await
    }

    /// The committed offsets of a group: of these partitions, or of all that have one.
    pub(crate) async fn group_offsets(
        &self,
        group: &str,
        of: Option<&[TopicPartition]>,
    ) -> Result<BTreeMap<TopicPartition, CommittedOffset>> {
        let client = &GroupClient::new(&self.cluster, group);
        let offsets = self.ask_group(group, |_| async move { client.committed(of, false).await }).await?;
        Ok(offsets.into_iter().filter_map(|(at, offset)| Some((at, offset?))).collect())
    }

    /// Commits offsets for a group that has no members; one that has refuses with `UNKNOWN_MEMBER_ID`.
    pub(crate) async fn alter_group_offsets(
        &self,
        group: &str,
        offsets: &[(TopicPartition, CommittedOffset)],
    ) -> Result<()> {
        let client = &GroupClient::new(&self.cluster, group);
        let nobody = &MemberId { generation: -1, ..MemberId::default() };
        self.ask_group(group, |_| async move {
            let results = client.commit(nobody, offsets).await?;
            results.into_iter().try_for_each(|(_, result)| result)
        })
        .await
    }

    /// Deletes committed offsets (KIP-496). What the group or the cluster does not know is deleted already.
    pub(crate) async fn delete_group_offsets(&self, group: &str, of: &[TopicPartition]) -> Result<()> {
        let mut topics: BTreeMap<&str, Vec<OffsetDeleteRequestPartition>> = BTreeMap::new();
        for at in of {
            let partition = OffsetDeleteRequestPartition::default().with_partition_index(at.partition);
            topics.entry(&at.topic).or_default().push(partition);
        }
        let topics = topics.into_iter().map(|(name, partitions)| {
            OffsetDeleteRequestTopic::default().with_name(topic_name(name)).with_partitions(partitions)
        });
        let request =
            OffsetDeleteRequest::default().with_group_id(GroupId(text(group))).with_topics(topics.collect());
        let request = &request;
        self.ask_group(group, |node| async move {
            let answer = self.cluster.request(node, ConnectionClass::Normal, request).await?;
            if answer.error_code != GROUP_ID_NOT_FOUND {
                check(answer.error_code, CallSite::Groups)?;
            }
            for topic in &answer.topics {
                for p in &topic.partitions {
                    match check(p.error_code, CallSite::Groups) {
                        Err(error) if error.kind() != ErrorKind::Topic => {
                            return Err(error
                                .at_topic(topic.name.to_string())
                                .at_partition(p.partition_index));
                        }
                        _ => {}
                    }
                }
            }
            Ok(())
        })
        .await
    }

    /// Waits until no broker that is asked knows these topics any more: deleting goes on after it was agreed to.
    pub(crate) async fn wait_deleted(&self, names: &[&str], within: Duration) -> Result<()> {
        let mut retry = self.cluster.retry_within(within);
        loop {
            let described = self.describe_topics(names).await?;
            let left = names.iter().zip(&described).find(|(_, topic)| topic.is_ok());
            let Some((name, _)) = left else { return Ok(()) };
            let text = "the topic was deleted, and brokers still know it";
            let error = Error::new(ErrorKind::Topic, text).with_class(ErrorClass::Retriable).at_topic(*name);
            retry.after(error).await?;
        }
    }
}
