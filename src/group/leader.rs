//! The leader's turn: from the members' subscriptions to what each of them gets.
//!
//! **The topology of the group is that of its leader.** A sub-topology is given to those members alone that have it in
//! the leader's shape. In a rolling deploy of a changed topology the instances that are not of the leader's kind run what
//! has not changed, and the rest of it falls to them when one of them leads, at the latest with the last of the others
//! gone. A member that has nothing in common with the leader gets nothing and is told so
//! ([`AssignmentError::OtherTopology`]): it stays, says so loudly, and waits. Were that an error, a deploy that changes
//! everything could not be rolled out; and an application that joins under the id of another takes nothing from it as
//! long as the other's instances lead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::assignor::{Candidate, SubTopology, assign};
use super::event::Member;
use super::protocol::Subscription;
use super::user_data::{ActiveTask, AssignmentData, AssignmentError, Instance, VERSION};
use crate::{TaskId, TopicPartition};

/// What the leader decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    /// What each member gets, by member id.
    pub(crate) assignments: Vec<(String, AssignmentData)>,
    /// The tasks that no instance can run, because none has their sub-topology in the leader's shape: to be reported.
    pub(crate) unassigned: BTreeSet<TaskId>,
    /// How many tasks wait for their owner to give them up; the rebalance that places them follows by itself.
    pub(crate) moving: usize,
    /// The members whose subscription cannot be read: to be reported. They get an error.
    pub(crate) unreadable: Vec<String>,
    /// The members of another shape, with the sub-topologies of the leader that they do not have in its shape: to be
    /// reported.
    pub(crate) others: BTreeMap<String, Vec<i32>>,
}

/// What the leader's configuration says about assigning.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    /// When to rebalance anyway if a task that is to move has not been given up by then (its owner may have died in
    /// between, and a static member's death is nobody's rebalance).
    pub(crate) retry_moves: Duration,
    /// `acceptable.recovery.lag`, in records.
    pub(crate) acceptable_lag: i64,
}

/// Assigns the tasks. `partitions` are the counts of all source topics, which the leader has checked to exist.
pub(crate) fn lead(
    members: &[Member],
    subtopologies: &[SubTopology],
    partitions: &BTreeMap<Arc<str>, i32>,
    terms: &Terms,
) -> Decision {
    let mut readable: BTreeMap<&String, &Subscription> = BTreeMap::new();
    let mut decision = Decision {
        assignments: Vec::new(),
        unassigned: BTreeSet::new(),
        moving: 0,
        unreadable: Vec::new(),
        others: BTreeMap::new(),
    };
    for member in members {
        match &member.subscription {
            // What we write it must be able to read; one newcomer of a distant release does not end the others.
            Ok(subscription) if reads_us(subscription.data.versions) => {
                readable.insert(&member.id, subscription);
            }
            _ => decision.unreadable.push(member.id.clone()),
        }
    }
    let refuse = |error, reason| AssignmentData {
        error: Some(error),
        reason,
        next_rebalance_ms: -1,
        ..Default::default()
    };
    for id in &decision.unreadable {
        decision.assignments.push((id.clone(), refuse(AssignmentError::IncompatibleVersions, String::new())));
    }
    if let Some((error, reason)) = common_error(&readable) {
        decision.assignments.extend(readable.keys().map(|id| ((*id).clone(), refuse(error, reason.clone()))));
        return decision;
    }

    let candidates: BTreeMap<String, Candidate> =
        readable.iter().map(|(id, subscription)| ((*id).clone(), candidate(subscription))).collect();
    let placement = assign(&candidates, subtopologies, terms.acceptable_lag);
    let instances: Vec<Instance> = readable
        .iter()
        .map(|(id, subscription)| Instance {
            id: subscription.data.instance,
            endpoint: subscription.data.endpoint.clone(),
            transactional_ids: subscription.data.transactional_ids.clone(),
            active: placement.active.get(*id).into_iter().flatten().copied().collect(),
            standby: Vec::new(),
        })
        .collect();
    let next_rebalance_ms = match placement.moving.is_empty() {
        true => -1,
        false => i64::try_from(terms.retry_moves.as_millis()).unwrap_or(i64::MAX),
    };
    let topics: BTreeMap<i32, &[Arc<str>]> = subtopologies.iter().map(|s| (s.id, &s.topics[..])).collect();
    for (id, tasks) in placement.active {
        let active = tasks.into_iter().map(|task| active_task(task, topics[&task.subtopology], partitions));
        let lacks = |s: &&SubTopology| candidates[&id].fingerprints.get(&s.id) != Some(&s.fingerprint);
        let lacking: Vec<i32> = subtopologies.iter().filter(lacks).map(|s| s.id).collect();
        let nothing = !lacking.is_empty() && lacking.len() == subtopologies.len();
        let data = AssignmentData {
            error: nothing.then_some(AssignmentError::OtherTopology),
            active: active.collect(),
            instances: instances.clone(),
            next_rebalance_ms,
            shape: readable[&id].data.shape(),
            ..AssignmentData::default()
        };
        if !lacking.is_empty() {
            decision.others.insert(id.clone(), lacking);
        }
        decision.assignments.push((id, data));
    }
    decision.unassigned = placement.unassigned;
    decision.moving = placement.moving.len();
    decision
}

/// Whether a member that reads these versions reads what this build writes.
fn reads_us((oldest, newest): (u8, u8)) -> bool {
    (oldest..=newest).contains(&VERSION)
}

/// Why nobody gets anything.
fn common_error(members: &BTreeMap<&String, &Subscription>) -> Option<(AssignmentError, String)> {
    let (member, asks) = members.iter().find(|(_, subscription)| subscription.data.shutdown)?;
    Some((AssignmentError::ShutdownRequested, format!("member {member}: {}", asks.data.shutdown_reason)))
}

fn candidate(subscription: &Subscription) -> Candidate {
    let data = &subscription.data;
    let mut offset_sums: BTreeMap<TaskId, i64> = BTreeMap::new();
    for ((task, _), offset) in &data.checkpoints {
        let sum = offset_sums.entry(*task).or_default();
        *sum = sum.saturating_add((*offset).max(0));
    }
    Candidate {
        instance: data.instance,
        workers: data.workers,
        owned: data.owned.iter().copied().collect(),
        generation: subscription.generation,
        offset_sums,
        fingerprints: data.fingerprints.clone(),
    }
}

/// A task reads its partition of every source topic that has that many.
fn active_task(task: TaskId, topics: &[Arc<str>], partitions: &BTreeMap<Arc<str>, i32>) -> ActiveTask {
    let reads =
        topics.iter().filter(|topic| partitions.get(*topic).is_some_and(|count| *count > task.partition));
    ActiveTask {
        task,
        partitions: reads.map(|topic| TopicPartition::new(Arc::clone(topic), task.partition)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::user_data::SubscriptionData;
    use super::*;
    use crate::{Error, ErrorKind};

    fn member(id: &str, change: impl FnOnce(&mut SubscriptionData)) -> Member {
        let mut data = SubscriptionData::new(Uuid::from_u128(id.len() as u128), 1);
        data.fingerprints = [(0, 1)].into();
        data.transactional_ids = vec![format!("{id}-0")];
        change(&mut data);
        Member {
            id: id.to_owned(),
            instance_id: None,
            subscription: Ok(Subscription { generation: 1, data }),
        }
    }

    fn run(members: &[Member]) -> Decision {
        let topics: Vec<Arc<str>> = vec!["wide".into(), "narrow".into()];
        let topology = [SubTopology { id: 0, fingerprint: 1, topics, tasks: 3, stateful: true }];
        let partitions = [("wide".into(), 3), ("narrow".into(), 2)].into();
        let terms = Terms { retry_moves: Duration::from_secs(30), acceptable_lag: 10_000 };
        lead(members, &topology, &partitions, &terms)
    }

    #[test]
    fn tasks_read_the_topics_that_have_their_partition() {
        let decision = run(&[member("a", |_| {})]);
        let reads: Vec<String> = decision.assignments[0]
            .1
            .active
            .iter()
            .map(|a| {
                format!("{}: {:?}", a.task, a.partitions.iter().map(ToString::to_string).collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(
            reads,
            [r#"0_0: ["wide-0", "narrow-0"]"#, r#"0_1: ["wide-1", "narrow-1"]"#, r#"0_2: ["wide-2"]"#]
        );
        assert_eq!(decision.assignments[0].1.next_rebalance_ms, -1);
    }

    #[test]
    fn everybody_hears_of_everybody_and_of_waiting_moves() {
        let all: Vec<TaskId> = (0..3).map(|p| TaskId::new(0, p)).collect();
        let decision = run(&[member("a", |data| data.owned = all), member("bb", |_| {})]);
        assert_eq!(decision.moving, 1);
        for (_, data) in &decision.assignments {
            let ids: Vec<_> = data.instances.iter().flat_map(|i| i.transactional_ids.clone()).collect();
            assert_eq!(ids, ["a-0", "bb-0"]);
            assert_eq!(data.next_rebalance_ms, 30_000);
        }
    }

    #[test]
    fn the_state_of_a_task_is_the_sum_of_its_stores() {
        let (task, store) = (TaskId::new(0, 0), |name: &str| name.to_owned());
        let less = member("a", |data| data.checkpoints = [((task, store("s")), 70)].into());
        let more = member("bb", |data| {
            data.checkpoints = [((task, store("s")), 40), ((task, store("t")), 40)].into();
        });
        let decision = run(&[less, more]);
        let of_more = decision.assignments.iter().find(|(id, _)| id == "bb").unwrap();
        assert!(of_more.1.active.iter().any(|active| active.task == task));
    }

    #[test]
    fn who_cannot_be_read_gets_an_error_and_the_others_go_on() {
        let mut broken = member("a", |_| {});
        broken.subscription = Err(Error::new(ErrorKind::Corrupt, "broken"));
        let decision = run(&[broken, member("bb", |_| {})]);
        assert_eq!(decision.unreadable, ["a"]);
        let errors: Vec<_> =
            decision.assignments.iter().map(|(id, data)| (&id[..], data.error, data.active.len())).collect();
        assert_eq!(errors, [("a", Some(AssignmentError::IncompatibleVersions), 0), ("bb", None, 3)]);
    }

    #[test]
    fn a_wish_to_stop_reaches_everybody() {
        let decision = run(&[member("a", |data| data.shutdown = true), member("bb", |_| {})]);
        assert_eq!(decision.assignments.len(), 2);
        let error = Some(AssignmentError::ShutdownRequested);
        assert!(decision.assignments.iter().all(|(_, data)| data.error == error));
        assert!(decision.assignments.iter().all(|(_, data)| data.reason.contains("member a")));
    }

    #[test]
    fn a_newcomer_of_a_release_too_far_away_is_refused_alone() {
        for versions in [(VERSION + 1, VERSION + 2), (0, 0), (VERSION + 1, 1)] {
            let decision = run(&[member("a", |data| data.versions = versions), member("bb", |_| {})]);
            let given: Vec<_> =
                decision.assignments.iter().map(|(id, d)| (&id[..], d.error, d.active.len())).collect();
            assert_eq!(
                given,
                [("a", Some(AssignmentError::IncompatibleVersions), 0), ("bb", None, 3)],
                "{versions:?}"
            );
        }
    }

    #[test]
    fn a_member_with_another_topology_gets_nothing_and_is_told_so_and_the_leaders_shape_decides() {
        let all: Vec<TaskId> = (0..3).map(|p| TaskId::new(0, p)).collect();
        let stranger = |data: &mut SubscriptionData| data.fingerprints = [(0, 2), (1, 3)].into();
        let decision = run(&[member("a", |data| data.owned.clone_from(&all)), member("bb", stranger)]);
        let given: Vec<_> =
            decision.assignments.iter().map(|(id, d)| (&id[..], d.error, d.active.len())).collect();
        assert_eq!(given, [("a", None, 3), ("bb", Some(AssignmentError::OtherTopology), 0)]);
        assert_eq!((decision.moving, decision.unassigned.len()), (0, 0));
        assert_eq!(decision.others, [("bb".to_owned(), vec![0])].into());

        // The other way round the leader is of a kind that nobody else is: what the others hold is taken from them.
        let decision = run(&[
            member("leader", |_| {}),
            member("old", |data| {
                stranger(data);
                data.owned.clone_from(&all);
            }),
        ]);
        let old = &decision.assignments.iter().find(|(id, _)| id == "old").unwrap().1;
        assert_eq!((old.error, old.active.len()), (Some(AssignmentError::OtherTopology), 0));
        assert_eq!(decision.moving, 3, "after the old owner has given them up");

        // Nobody at all has the leader's shape, which the leader itself always has, unless it is changed under it.
        let decision = run(&[member("a", stranger)]);
        assert_eq!(decision.unassigned, all.into_iter().collect());
    }
}
