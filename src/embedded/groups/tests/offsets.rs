//! Committed offsets: who may commit, what is kept, what waits for a transaction.

use kafka_protocol::messages::{ProducerId, TopicName, TransactionalId};

use super::*;

/// A commit by a member, or by nobody.
fn commit(kit: &mut Kit, id: &Id, generation: i32, offset: i64, metadata: &str) -> Option<Code> {
    use m::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
    let partition = OffsetCommitRequestPartition::default()
        .with_committed_offset(offset)
        .with_committed_leader_epoch(7)
        .with_committed_metadata(Some(text(metadata)));
    let topic =
        OffsetCommitRequestTopic::default().with_name(TopicName(text("t"))).with_partitions(vec![partition]);
    let request = m::OffsetCommitRequest::default()
        .with_group_id(group())
        .with_generation_id_or_member_epoch(generation)
        .with_member_id(id.member.clone())
        .with_group_instance_id(id.instance.clone())
        .with_topics(vec![topic]);
    let from = kit.from();
    let response = kit.groups.commit(kit.now, from, request, |topic, _| topic == "t");
    code(response.topics[0].partitions[0].error_code)
}

fn txn_commit(kit: &mut Kit, producer: i64, id: &Id, generation: i32, offset: i64) -> Option<Code> {
    use m::txn_offset_commit_request::{TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic};
    let partition = TxnOffsetCommitRequestPartition::default().with_committed_offset(offset);
    let topic = TxnOffsetCommitRequestTopic::default()
        .with_name(TopicName(text("t")))
        .with_partitions(vec![partition]);
    let request = m::TxnOffsetCommitRequest::default()
        .with_transactional_id(TransactionalId(text("x")))
        .with_group_id(group())
        .with_producer_id(ProducerId(producer))
        .with_generation_id(generation)
        .with_member_id(id.member.clone())
        .with_group_instance_id(id.instance.clone())
        .with_topics(vec![topic]);
    let from = kit.from();
    let response = kit.groups.txn_commit(kit.now, from, request, |topic, _| topic == "t");
    code(response.topics[0].partitions[0].error_code)
}

/// Offset and code of partition 0 of `t`.
fn fetch(kit: &mut Kit, stable: bool) -> (i64, Option<Code>) {
    use m::offset_fetch_request::OffsetFetchRequestTopic;
    let topic =
        OffsetFetchRequestTopic::default().with_name(TopicName(text("t"))).with_partition_indexes(vec![0]);
    let request = m::OffsetFetchRequest::default()
        .with_group_id(group())
        .with_topics(Some(vec![topic]))
        .with_require_stable(stable);
    let from = Origin { version: 7, ..kit.from() };
    let found = kit.groups.fetch(from, request, |_| Ok(()));
    assert_eq!(found.error_code, 0);
    let partition = &found.topics[0].partitions[0];
    (partition.committed_offset, code(partition.error_code))
}

#[test]
fn a_consumer_without_a_group_commits_to_one_without_members() {
    let mut kit = Kit::new();
    let nobody = Id::default();
    assert_eq!(fetch(&mut kit, true), (-1, None), "nothing is known of a group that is not there");
    assert_eq!(commit(&mut kit, &nobody, 0, 5, ""), Some(Code::IllegalGeneration));
    assert_eq!(commit(&mut kit, &nobody, -1, 5, "meta"), None);
    assert_eq!(fetch(&mut kit, true), (5, None));
    kit.stable(1);
    assert_eq!(commit(&mut kit, &nobody, -1, 6, ""), Some(Code::UnknownMemberId));
    assert_eq!(fetch(&mut kit, true), (5, None));
}

#[test]
fn a_member_commits_in_its_generation_and_stays_alive_by_it() {
    let mut kit = Kit::new();
    let (ids, generation) = kit.stable(1);
    assert_eq!(commit(&mut kit, &ids[0], generation - 1, 1, ""), Some(Code::IllegalGeneration));
    let stranger = Id::default().member(&text("x"));
    assert_eq!(commit(&mut kit, &stranger, generation, 1, ""), Some(Code::UnknownMemberId));
    let fenced = instance("i").member(&ids[0].member);
    assert_eq!(commit(&mut kit, &fenced, generation, 1, ""), Some(Code::UnknownMemberId));
    for offset in 0..30 {
        assert_eq!(commit(&mut kit, &ids[0], generation, offset, ""), None);
        kit.advance(SECOND);
    }
    // During a rebalance it may, so that it can hand over; until it has its new assignment it may not.
    let (second, mut parked) = kit.enter("m");
    assert_eq!(commit(&mut kit, &ids[0], generation, 30, ""), None);
    got(&mut kit.join(&ids[0], "m"));
    got(&mut parked);
    assert_eq!(commit(&mut kit, &ids[0], generation, 31, ""), Some(Code::IllegalGeneration));
    assert_eq!(commit(&mut kit, &second, generation + 1, 31, ""), Some(Code::RebalanceInProgress));
    assert_eq!(fetch(&mut kit, false), (30, None));
}

#[test]
fn what_cannot_be_kept_is_refused_partition_by_partition() {
    let mut kit = Kit::new();
    let long = "x".repeat(4_097);
    assert_eq!(commit(&mut kit, &Id::default(), -1, 1, &long), Some(Code::OffsetMetadataTooLarge));
    assert_eq!(commit(&mut kit, &Id::default(), -1, 1, &long[1..]), None);
    use m::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
    let topic = OffsetCommitRequestTopic::default()
        .with_name(TopicName(text("unknown")))
        .with_partitions(vec![OffsetCommitRequestPartition::default()]);
    let request = m::OffsetCommitRequest::default()
        .with_group_id(group())
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    let from = kit.from();
    let response = kit.groups.commit(kit.now, from, request, |topic, _| topic == "t");
    assert_eq!(code(response.topics[0].partitions[0].error_code), Some(Code::UnknownTopicOrPartition));
}

#[test]
fn offsets_of_a_transaction_count_when_it_has_committed() {
    let mut kit = Kit::new();
    let nobody = Id::default();
    assert_eq!(commit(&mut kit, &nobody, -1, 1, ""), None);
    assert_eq!(txn_commit(&mut kit, 9, &nobody, -1, 2), None);
    assert_eq!(fetch(&mut kit, false), (1, None));
    assert_eq!(fetch(&mut kit, true), (-1, Some(Code::UnstableOffsetCommit)));
    kit.groups.complete_txn(8, true);
    assert_eq!(fetch(&mut kit, true), (-1, Some(Code::UnstableOffsetCommit)), "that was another producer");
    kit.groups.complete_txn(9, false);
    assert_eq!(fetch(&mut kit, true), (1, None), "aborted");
    assert_eq!(txn_commit(&mut kit, 9, &nobody, -1, 3), None);
    kit.groups.complete_txn(9, true);
    assert_eq!(fetch(&mut kit, true), (3, None));
    // A commit that was written later holds.
    assert_eq!(txn_commit(&mut kit, 9, &nobody, -1, 4), None);
    assert_eq!(commit(&mut kit, &nobody, -1, 5, ""), None);
    kit.groups.complete_txn(9, true);
    assert_eq!(fetch(&mut kit, true), (5, None));
}

#[test]
fn a_transaction_is_fenced_by_member_and_generation() {
    let mut kit = Kit::new();
    let stranger = Id::default().member(&text("x"));
    assert_eq!(txn_commit(&mut kit, 9, &stranger, 3, 1), Some(Code::IllegalGeneration), "no such group");
    let (ids, generation) = kit.stable(1);
    assert_eq!(txn_commit(&mut kit, 9, &stranger, generation, 1), Some(Code::UnknownMemberId));
    assert_eq!(txn_commit(&mut kit, 9, &ids[0], generation - 1, 1), Some(Code::IllegalGeneration));
    assert_eq!(txn_commit(&mut kit, 9, &ids[0], generation, 1), None);
    // Producers from before KIP-447 say nothing of members.
    assert_eq!(txn_commit(&mut kit, 9, &Id::default(), -1, 2), None);
    // Unlike a plain commit it passes while the leader assigns.
    let joined = got(&mut kit.join(&ids[0], "n"));
    assert_eq!(txn_commit(&mut kit, 9, &ids[0], joined.generation_id, 3), None);
    kit.groups.complete_txn(9, true);
    assert_eq!(fetch(&mut kit, true), (3, None));
}

#[test]
fn all_offsets_of_several_groups_are_fetched_at_once() {
    use m::offset_fetch_request::OffsetFetchRequestGroup;
    let mut kit = Kit::new();
    assert_eq!(commit(&mut kit, &Id::default(), -1, 4, "meta"), None);
    let other = GroupId(text("other"));
    let from = Origin { version: 8, ..kit.from() };
    let groups =
        [group(), other].map(|id| OffsetFetchRequestGroup::default().with_group_id(id).with_topics(None));
    let request = m::OffsetFetchRequest::default().with_groups(groups.to_vec());
    let found = kit.groups.fetch(from, request, |_| Ok(())).groups;
    let partition = &found[0].topics[0].partitions[0];
    assert_eq!((partition.committed_offset, partition.committed_leader_epoch), (4, 7));
    assert_eq!(partition.metadata.as_deref(), Some("meta"));
    assert!(found[1].topics.is_empty() && found[1].error_code == 0);
    // The older way: no topics means all.
    let request = m::OffsetFetchRequest::default().with_group_id(group()).with_topics(None);
    assert_eq!(kit.groups.fetch(Origin { version: 7, ..from }, request, |_| Ok(())).topics.len(), 1);
}

#[test]
fn offsets_are_deleted_with_their_topic_or_when_no_member_reads_it() {
    use m::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
    let mut kit = Kit::new();
    commit(&mut kit, &Id::default(), -1, 4, "");
    kit.groups.topic_deleted("t");
    assert_eq!(fetch(&mut kit, true), (-1, None));
    commit(&mut kit, &Id::default(), -1, 5, "");
    let delete = |kit: &mut Kit| {
        let topic = OffsetDeleteRequestTopic::default()
            .with_name(TopicName(text("t")))
            .with_partitions(vec![OffsetDeleteRequestPartition::default()]);
        let request = m::OffsetDeleteRequest::default().with_group_id(group()).with_topics(vec![topic]);
        let from = kit.from();
        let response = kit.groups.delete_offsets(from, request, |topic, _| topic == "t");
        code(response.error_code).or(response.topics.first().and_then(|t| code(t.partitions[0].error_code)))
    };
    // A consumer's subscription: version 0, one topic.
    let subscription = "\0\0\0\0\0\u{1}\0\u{1}t\0\0\0\0";
    kit.version = 3;
    let mut joined = kit.join(&Id::default(), subscription);
    got(&mut joined);
    assert_eq!(delete(&mut kit), Some(Code::GroupSubscribedToTopic));
    assert_eq!(fetch(&mut kit, true), (5, None));
    kit.advance(REBALANCE * 2);
    assert_eq!(delete(&mut kit), None);
    assert_eq!(fetch(&mut kit, true), (-1, None));
}
