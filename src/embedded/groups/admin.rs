//! ListGroups, DescribeGroups, DeleteGroups.

use kafka_protocol::ResponseError as Code;
use kafka_protocol::messages::GroupId;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    ListGroupsRequest, ListGroupsResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::group::{Group, Member, State};
use super::{Groups, code_of};

impl Groups {
    /// ListGroups: those that the node coordinates, as `home` says, by state and type if asked.
    pub(crate) fn list(
        &self,
        request: &ListGroupsRequest,
        home: impl Fn(&str) -> Result<(), Code>,
    ) -> ListGroupsResponse {
        let passes = |filter: &[StrBytes], value: &str| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
        };
        let mut listed = Vec::new();
        for (id, group) in self.groups.iter().filter(|(id, _)| home(id).is_ok()) {
            let state = group.state.name();
            if passes(&request.states_filter, state) && passes(&request.types_filter, "classic") {
                let one = ListedGroup::default()
                    .with_group_id(GroupId(id.clone()))
                    .with_protocol_type(group.protocol_type.clone().unwrap_or_default())
                    .with_group_state(StrBytes::from_static_str(state))
                    .with_group_type(StrBytes::from_static_str("classic"));
                listed.push(one);
            }
        }
        ListGroupsResponse::default().with_groups(listed)
    }

    /// DescribeGroups. A group that does not exist is dead.
    pub(crate) fn describe(
        &self,
        version: i16,
        request: DescribeGroupsRequest,
        home: impl Fn(&str) -> Result<(), Code>,
    ) -> DescribeGroupsResponse {
        let described = request.groups.into_iter().map(|id| {
            let answer = DescribedGroup::default().with_group_id(id.clone());
            if let Err(code) = home(&id) {
                return answer.with_error_code(code.code());
            }
            match self.groups.get(&id.0) {
                Some(group) => group.describe(answer),
                None => {
                    let answer = answer.with_group_state(StrBytes::from_static_str("Dead"));
                    match version {
                        0..6 => answer,
                        _ => answer
                            .with_error_code(Code::GroupIdNotFound.code())
                            .with_error_message(Some(format!("Group {} not found.", id.0).into())),
                    }
                }
            }
        });
        DescribeGroupsResponse::default().with_groups(described.collect())
    }

    /// DeleteGroups: those without members, with their offsets.
    pub(crate) fn delete(
        &mut self,
        request: DeleteGroupsRequest,
        home: impl Fn(&str) -> Result<(), Code>,
    ) -> DeleteGroupsResponse {
        let results = request.groups_names.into_iter().map(|id| {
            let outcome = home(&id).and_then(|()| match self.groups.get(&id.0).map(|group| group.state) {
                None => Err(Code::GroupIdNotFound),
                Some(State::Empty) => Ok(()),
                Some(_) => Err(Code::NonEmptyGroup),
            });
            if outcome.is_ok() {
                self.groups.remove(&id.0);
            }
            DeletableGroupResult::default().with_group_id(id).with_error_code(code_of(outcome))
        });
        DeleteGroupsResponse::default().with_results(results.collect())
    }
}

impl Group {
    /// What members said and were told is shown of a stable group only.
    fn describe(&self, answer: DescribedGroup) -> DescribedGroup {
        let stable = self.state == State::Stable;
        let protocol = self.protocol.clone().filter(|_| stable).unwrap_or_default();
        let member = |(id, member): (&StrBytes, &Member)| {
            let known = &member.recorded;
            let described = DescribedGroupMember::default()
                .with_member_id(id.clone())
                .with_group_instance_id(known.instance_id.clone())
                .with_client_id(known.client_id.clone())
                .with_client_host(known.client_host.clone());
            match stable {
                true => described
                    .with_member_metadata(known.metadata(&protocol))
                    .with_member_assignment(known.assignment.clone()),
                false => described,
            }
        };
        answer
            .with_group_state(StrBytes::from_static_str(self.state.name()))
            .with_protocol_type(self.protocol_type.clone().unwrap_or_default())
            .with_members(self.members.iter().map(member).collect())
            .with_protocol_data(protocol)
    }
}
