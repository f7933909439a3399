//! Committed offsets, and those that wait for a transaction to end (`OffsetMetadataManager`).

use std::collections::BTreeMap;
use std::time::Instant;

use kafka_protocol::ResponseError as Code;
use kafka_protocol::messages as m;
use kafka_protocol::messages::{GroupId, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::group::{Group, State};
use super::{GroupConfig, Groups, Origin, check, is_unknown};

/// An offset as it was committed.
#[derive(Debug, Clone)]
pub(super) struct Committed {
    offset: i64,
    leader_epoch: i32,
    metadata: StrBytes,
    /// Its place in the order of all writes.
    write: u64,
}

/// Who commits: the member and its generation, or nobody (-1 and empty) for a consumer that uses no groups.
struct Committer<'a> {
    member_id: &'a StrBytes,
    instance_id: Option<&'a StrBytes>,
    generation: i32,
    in_transaction: bool,
}

/// One offset of a request, whichever.
struct Wanted {
    topic: StrBytes,
    partition: i32,
    offset: i64,
    leader_epoch: i32,
    metadata: Option<StrBytes>,
}

/// ORDER: before anything about the group, as `KafkaApis` does: it leaves such partitions out of what it hands on.
fn known(wanted: &Wanted, exists: &impl Fn(&str, i32) -> bool) -> Result<(), Code> {
    match exists(&wanted.topic, wanted.partition) {
        true => Ok(()),
        false => Err(Code::UnknownTopicOrPartition),
    }
}

impl Groups {
    /// OffsetCommit. `exists` says whether there is such a partition.
    pub(crate) fn commit(
        &mut self,
        now: Instant,
        from: Origin<'_>,
        request: m::OffsetCommitRequest,
        exists: impl Fn(&str, i32) -> bool,
    ) -> m::OffsetCommitResponse {
        use m::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
        let committer = Committer {
            member_id: &request.member_id,
            instance_id: request.group_instance_id.as_ref(),
            generation: request.generation_id_or_member_epoch,
            in_transaction: false,
        };
        let allowed = from.home.and_then(|()| self.may_commit(now, &request.group_id.0, &committer));
        let mut answered = Vec::new();
        for topic in request.topics {
            let mut partitions = Vec::new();
            for one in topic.partitions {
                let wanted = Wanted {
                    topic: topic.name.0.clone(),
                    partition: one.partition_index,
                    offset: one.committed_offset,
                    leader_epoch: one.committed_leader_epoch,
                    metadata: one.committed_metadata,
                };
                let code = known(&wanted, &exists).and(allowed).and_then(|()| {
                    let ((topic, partition), committed) = self.take(wanted)?;
                    let group = self.group(&request.group_id.0, false).ok_or(Code::UnknownMemberId)?;
                    group.offsets.insert((topic, partition), committed);
                    Ok(())
                });
                let answer =
                    OffsetCommitResponsePartition::default().with_partition_index(one.partition_index);
                partitions.push(answer.with_error_code(super::code_of(code)));
            }
            let answer = OffsetCommitResponseTopic::default().with_name(topic.name);
            answered.push(answer.with_partitions(partitions));
        }
        m::OffsetCommitResponse::default().with_topics(answered)
    }

    /// TxnOffsetCommit, of a producer that the transaction coordinator's side has found to be right. The offsets wait
    /// for [`complete_txn`](Self::complete_txn).
    pub(crate) fn txn_commit(
        &mut self,
        now: Instant,
        from: Origin<'_>,
        request: m::TxnOffsetCommitRequest,
        exists: impl Fn(&str, i32) -> bool,
    ) -> m::TxnOffsetCommitResponse {
        use m::txn_offset_commit_response::{TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic};
        let committer = Committer {
            member_id: &request.member_id,
            instance_id: request.group_instance_id.as_ref(),
            generation: request.generation_id,
            in_transaction: true,
        };
        let allowed = check(from, &request.group_id.0)
            .and_then(|()| self.may_commit(now, &request.group_id.0, &committer));
        let mut answered = Vec::new();
        for topic in request.topics {
            let mut partitions = Vec::new();
            for one in topic.partitions {
                let wanted = Wanted {
                    topic: topic.name.0.clone(),
                    partition: one.partition_index,
                    offset: one.committed_offset,
                    leader_epoch: one.committed_leader_epoch,
                    metadata: one.committed_metadata,
                };
                let code = known(&wanted, &exists).and(allowed).and_then(|()| {
                    let (partition, committed) = self.take(wanted)?;
                    let group = self.group(&request.group_id.0, false).ok_or(Code::UnknownMemberId)?;
                    let of_producer = group.pending_offsets.entry(request.producer_id.0).or_default();
                    of_producer.insert(partition, committed);
                    Ok(())
                });
                let answer =
                    TxnOffsetCommitResponsePartition::default().with_partition_index(one.partition_index);
                partitions.push(answer.with_error_code(super::code_of(code)));
            }
            let answer = TxnOffsetCommitResponseTopic::default().with_name(topic.name);
            answered.push(answer.with_partitions(partitions));
        }
        m::TxnOffsetCommitResponse::default().with_topics(answered)
    }

    /// The transaction of this producer has ended: the marker is in the log of offsets.
    pub(crate) fn complete_txn(&mut self, producer_id: i64, commit: bool) {
        for group in self.groups.values_mut() {
            let pending = group.pending_offsets.remove(&producer_id).unwrap_or_default();
            for (partition, committed) in pending.into_iter().filter(|_| commit) {
                // What was committed after it was written, without a transaction, stays.
                let later = |known: &Committed| known.write > committed.write;
                if !group.offsets.get(&partition).is_some_and(later) {
                    group.offsets.insert(partition, committed);
                }
            }
        }
    }

    /// A topic is gone, and with it what was committed for it.
    pub(crate) fn topic_deleted(&mut self, topic: &str) {
        for group in self.groups.values_mut() {
            group.offsets.retain(|(of, _), _| of != topic);
            for pending in group.pending_offsets.values_mut() {
                pending.retain(|(of, _), _| of != topic);
            }
        }
    }

    /// OffsetFetch: of one group up to version 7, of several from 8 on. `home` says who is asked the right node.
    pub(crate) fn fetch(
        &self,
        from: Origin<'_>,
        request: m::OffsetFetchRequest,
        home: impl Fn(&str) -> Result<(), Code>,
    ) -> m::OffsetFetchResponse {
        use m::offset_fetch_response as r;
        let stable = request.require_stable;
        if from.version >= 8 {
            let groups = request.groups.into_iter().map(|group| {
                let wanted = group
                    .topics
                    .map(|all| all.into_iter().map(|t| (t.name.0, t.partition_indexes)).collect());
                let answer = r::OffsetFetchResponseGroup::default().with_group_id(group.group_id.clone());
                let found = home(&group.group_id).map(|()| self.fetch_one(&group.group_id, wanted, stable));
                match found {
                    Err(code) => answer.with_error_code(code.code()),
                    Ok(found) => answer.with_topics(found.into_iter().map(of_many).collect()),
                }
            });
            return m::OffsetFetchResponse::default().with_groups(groups.collect());
        }
        let of =
            |topic: m::offset_fetch_request::OffsetFetchRequestTopic| (topic.name.0, topic.partition_indexes);
        let wanted: Option<Vec<_>> = request.topics.map(|topics| topics.into_iter().map(of).collect());
        // Version 1 has no place for an error but the partitions.
        let refused = wanted.clone().unwrap_or_default();
        let answer = m::OffsetFetchResponse::default();
        match home(&request.group_id).map(|()| self.fetch_one(&request.group_id, wanted, stable)) {
            Ok(found) => answer.with_topics(found.into_iter().map(of_one).collect()),
            Err(code) => {
                let each = |(topic, partitions): (StrBytes, Vec<i32>)| {
                    of_one((topic, partitions.into_iter().map(|p| Found::none(p, code.code())).collect()))
                };
                answer.with_error_code(code.code()).with_topics(refused.into_iter().map(each).collect())
            }
        }
    }

    /// OffsetDelete: not of topics that members of the group read.
    pub(crate) fn delete_offsets(
        &mut self,
        from: Origin<'_>,
        request: m::OffsetDeleteRequest,
        exists: impl Fn(&str, i32) -> bool,
    ) -> m::OffsetDeleteResponse {
        use m::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
        let answer = m::OffsetDeleteResponse::default();
        if let Err(code) = check(from, &request.group_id.0) {
            return answer.with_error_code(code.code());
        }
        let Some(group) = self.groups.get_mut(&request.group_id.0) else {
            return answer.with_error_code(Code::GroupIdNotFound.code());
        };
        if group.state != State::Empty && !group.is_consumer() {
            return answer.with_error_code(Code::NonEmptyGroup.code());
        }
        let topics = request.topics.into_iter().map(|topic| {
            let read = group.subscribes(&topic.name.0);
            let partitions = topic.partitions.iter().map(|partition| {
                let index = partition.partition_index;
                let code = match read {
                    _ if !exists(&topic.name.0, index) => Code::UnknownTopicOrPartition.code(),
                    true => Code::GroupSubscribedToTopic.code(),
                    false => {
                        group.offsets.remove(&(topic.name.0.clone(), index));
                        0
                    }
                };
                OffsetDeleteResponsePartition::default().with_partition_index(index).with_error_code(code)
            });
            let partitions = partitions.collect();
            OffsetDeleteResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions)
        });
        let topics = topics.collect();
        answer.with_topics(topics)
    }

    /// Whether this committer may; a group that does not exist is made for one that uses no groups.
    fn may_commit(&mut self, now: Instant, id: &StrBytes, by: &Committer<'_>) -> Result<(), Code> {
        let group = self.group(id, by.generation < 0).ok_or(Code::IllegalGeneration)?;
        group.validate_commit(by)?;
        if !by.in_transaction
            && let Some(member) = group.members.get_mut(by.member_id)
        {
            member.alive(now);
        }
        Ok(())
    }

    /// One offset, checked and numbered.
    fn take(&mut self, wanted: Wanted) -> Result<((StrBytes, i32), Committed), Code> {
        let GroupConfig { offset_metadata_max, .. } = self.config;
        let metadata = wanted.metadata.unwrap_or_default();
        if metadata.len() > offset_metadata_max {
            return Err(Code::OffsetMetadataTooLarge);
        }
        self.writes += 1;
        let Wanted { topic, partition, offset, leader_epoch, .. } = wanted;
        Ok(((topic, partition), Committed { offset, leader_epoch, metadata, write: self.writes }))
    }

    /// What is known of the partitions that are wanted, or of all.
    fn fetch_one(
        &self,
        id: &GroupId,
        wanted: Option<Vec<(StrBytes, Vec<i32>)>>,
        stable: bool,
    ) -> Vec<(StrBytes, Vec<Found>)> {
        let group = self.groups.get(&id.0);
        let of = |topic: &StrBytes, partition| match group {
            Some(group) => group.fetch(topic, partition, stable),
            None => Found::none(partition, 0),
        };
        let wanted = wanted.unwrap_or_else(|| {
            let mut all: BTreeMap<StrBytes, Vec<i32>> = BTreeMap::new();
            for (topic, partition) in group.into_iter().flat_map(|group| group.offsets.keys()) {
                all.entry(topic.clone()).or_default().push(*partition);
            }
            all.into_iter().collect()
        });
        let found = wanted.into_iter().map(|(topic, partitions)| {
            let partitions = partitions.into_iter().map(|partition| of(&topic, partition)).collect();
            (topic, partitions)
        });
        found.collect()
    }
}

impl Group {
    /// `ClassicGroup.validateOffsetCommit`.
    fn validate_commit(&self, by: &Committer<'_>) -> Result<(), Code> {
        if by.generation < 0 && self.state == State::Empty {
            return Ok(());
        }
        if by.generation >= 0 || !is_unknown(by.member_id) || by.instance_id.is_some() {
            self.validate(by.member_id, by.instance_id)?;
            if by.generation != self.generation {
                return Err(Code::IllegalGeneration);
            }
        } else if !by.in_transaction {
            return Err(Code::UnknownMemberId);
        }
        // The member knows the generation and has no assignment in it; let it come to its senses.
        match self.state {
            State::CompletingRebalance if !by.in_transaction => Err(Code::RebalanceInProgress),
            _ => Ok(()),
        }
    }

    fn fetch(&self, topic: &StrBytes, partition: i32, stable: bool) -> Found {
        let key = (topic.clone(), partition);
        if stable && self.pending_offsets.values().any(|pending| pending.contains_key(&key)) {
            return Found::none(partition, Code::UnstableOffsetCommit.code());
        }
        match self.offsets.get(&key) {
            None => Found::none(partition, 0),
            Some(Committed { offset, leader_epoch, metadata, .. }) => Found {
                partition,
                offset: *offset,
                leader_epoch: *leader_epoch,
                metadata: metadata.clone(),
                code: 0,
            },
        }
    }
}

/// An answer to OffsetFetch about one partition.
struct Found {
    partition: i32,
    offset: i64,
    leader_epoch: i32,
    metadata: StrBytes,
    code: i16,
}

impl Found {
    fn none(partition: i32, code: i16) -> Self {
        Self { partition, offset: -1, leader_epoch: -1, metadata: StrBytes::default(), code }
    }
}

/// In the words of versions 1 to 7.
fn of_one((topic, found): (StrBytes, Vec<Found>)) -> m::offset_fetch_response::OffsetFetchResponseTopic {
    use m::offset_fetch_response::{OffsetFetchResponsePartition, OffsetFetchResponseTopic};
    let partition = |found: Found| {
        OffsetFetchResponsePartition::default()
            .with_partition_index(found.partition)
            .with_committed_offset(found.offset)
            .with_committed_leader_epoch(found.leader_epoch)
            .with_metadata(Some(found.metadata))
            .with_error_code(found.code)
    };
    OffsetFetchResponseTopic::default()
        .with_name(TopicName(topic))
        .with_partitions(found.into_iter().map(partition).collect())
}

/// In the words of versions from 8 on.
fn of_many((topic, found): (StrBytes, Vec<Found>)) -> m::offset_fetch_response::OffsetFetchResponseTopics {
    use m::offset_fetch_response::{OffsetFetchResponsePartitions, OffsetFetchResponseTopics};
    let partition = |found: Found| {
        OffsetFetchResponsePartitions::default()
            .with_partition_index(found.partition)
            .with_committed_offset(found.offset)
            .with_committed_leader_epoch(found.leader_epoch)
            .with_metadata(Some(found.metadata))
            .with_error_code(found.code)
    };
    OffsetFetchResponseTopics::default()
        .with_name(TopicName(topic))
        .with_partitions(found.into_iter().map(partition).collect())
}
