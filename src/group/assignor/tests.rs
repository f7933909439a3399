//! Rules one by one, then properties over random groups.

use proptest::prelude::*;

use super::*;

/// `acceptable.recovery.lag` of Kafka Streams, more than the states of most tests.
const LAG: i64 = 10_000;

fn assign(members: &Members, subtopologies: &[SubTopology]) -> Placement {
    super::assign(members, subtopologies, LAG)
}

type Members = BTreeMap<String, Candidate>;

fn task(text: &str) -> TaskId {
    text.parse().unwrap()
}

fn tasks(text: &str) -> BTreeSet<TaskId> {
    text.split_whitespace().map(task).collect()
}

fn sub(id: i32, tasks: i32, stateful: bool) -> SubTopology {
    SubTopology { id, fingerprint: 1, topics: vec![format!("t{id}").into()], tasks, stateful }
}

fn member(instance: u128, workers: u16, owned: &str) -> Candidate {
    Candidate {
        instance: Uuid::from_u128(instance),
        workers,
        owned: tasks(owned),
        generation: 5,
        offset_sums: BTreeMap::new(),
        fingerprints: (0..10).map(|id| (id, 1)).collect(),
    }
}

fn group(members: impl IntoIterator<Item = (&'static str, Candidate)>) -> Members {
    members.into_iter().map(|(id, member)| (id.to_owned(), member)).collect()
}

fn give(members: &mut Members, placement: &Placement) {
    for (id, member) in members {
        member.owned.clone_from(&placement.active[id]);
    }
}

/// Runs until nothing moves; the number of runs in which somebody had to give something up.
fn settle(members: &mut Members, subtopologies: &[SubTopology]) -> usize {
    for round in 0..8 {
        let placement = assign(members, subtopologies);
        give(members, &placement);
        if placement.moving.is_empty() {
            return round;
        }
    }
    panic!("still moving after 8 rounds: {members:#?}");
}

#[test]
fn a_fresh_group_gets_everything_evenly_by_workers() {
    let members = group([("a", member(1, 8, "")), ("b", member(2, 1, ""))]);
    let placement = assign(&members, &[sub(0, 90, false)]);
    assert_eq!((placement.active["a"].len(), placement.active["b"].len()), (80, 10));
    assert!(placement.moving.is_empty() && placement.unassigned.is_empty());
}

#[test]
fn sub_topologies_are_spread_too() {
    let members = group([("a", member(1, 1, "")), ("b", member(2, 1, ""))]);
    let placement = assign(&members, &[sub(0, 2, false), sub(1, 2, false)]);
    for active in placement.active.values() {
        assert_eq!(active.iter().map(|t| t.subtopology).collect::<Vec<_>>(), [0, 1]);
    }
}

#[test]
fn stateful_tasks_are_even_among_themselves() {
    let members = group([("a", member(1, 1, "")), ("b", member(2, 1, ""))]);
    let placement = assign(&members, &[sub(0, 4, false), sub(1, 4, true)]);
    for active in placement.active.values() {
        assert_eq!(active.iter().filter(|t| t.subtopology == 1).count(), 2);
        assert_eq!(active.len(), 4);
    }
}

#[test]
fn a_task_moves_in_two_steps() {
    let mut members = group([("a", member(1, 1, "0_0 0_1")), ("b", member(2, 1, ""))]);
    let topology = [sub(0, 2, false)];
    let first = assign(&members, &topology);
    assert_eq!(first.active["b"], tasks(""), "its owner still has it");
    assert_eq!(first.active["a"].len(), 1);
    assert_eq!(first.moving.values().collect::<Vec<_>>(), ["b"]);
    give(&mut members, &first);
    let second = assign(&members, &topology);
    assert_eq!(second.active["a"], first.active["a"]);
    assert_eq!(second.active["b"], first.moving.keys().copied().collect());
    assert!(second.moving.is_empty());
}

#[test]
fn a_restarted_instance_gets_its_state_back() {
    let mut back = member(1, 1, "");
    back.offset_sums = [(task("0_2"), 900), (task("0_3"), 500)].into();
    let members = group([("new-id", back), ("b", member(2, 1, "0_0 0_1"))]);
    let placement = assign(&members, &[sub(0, 4, true)]);
    assert_eq!(placement.active["new-id"], tasks("0_2 0_3"));
    assert!(placement.moving.is_empty());
}

#[test]
fn state_decides_only_between_equal_loads_and_beats_the_order() {
    let mut with_state = member(9, 1, "");
    with_state.offset_sums = [(task("0_0"), 10), (task("0_1"), 10), (task("0_2"), 10)].into();
    let members = group([("a", member(1, 1, "")), ("b", with_state)]);
    let placement = assign(&members, &[sub(0, 1, true)]);
    assert_eq!(placement.active["b"], tasks("0_0"));
    // Four tasks, state of three on one of two: it gets two of them, and the one without state goes elsewhere first.
    let placement = assign(&members, &[sub(0, 4, true)]);
    assert_eq!(placement.active["b"], tasks("0_0 0_1"));
    assert_eq!(placement.active["a"], tasks("0_2 0_3"));
}

#[test]
fn the_task_that_must_move_is_the_one_the_newcomer_knows() {
    let mut newcomer = member(2, 1, "");
    newcomer.offset_sums = [(task("0_3"), 900), (task("0_1"), 100)].into();
    let members = group([("a", member(1, 1, "0_0 0_1 0_2 0_3")), ("b", newcomer)]);
    let placement = assign(&members, &[sub(0, 4, true)]);
    assert_eq!(placement.moving.keys().copied().collect::<BTreeSet<_>>(), tasks("0_1 0_3"));
}

#[test]
fn another_shape_of_a_sub_topology_is_never_given_its_tasks() {
    let mut old = member(1, 1, "0_0 1_0 1_1");
    old.fingerprints.insert(1, 99);
    let topology = [sub(0, 1, false), sub(1, 2, true)];
    let mut members = group([("a", old.clone()), ("b", member(2, 1, ""))]);
    settle(&mut members, &topology);
    assert_eq!(members["a"].owned, tasks("0_0"));
    assert_eq!(members["b"].owned, tasks("1_0 1_1"));

    let placement = assign(&group([("a", old)]), &topology);
    assert_eq!(placement.unassigned, tasks("1_0 1_1"));
    assert_eq!(placement.active["a"], tasks("0_0"), "what it has of the other shape is taken away");
}

#[test]
fn an_instance_that_lacks_a_sub_topology_does_not_block_the_others() {
    let mut old = member(1, 1, "");
    old.fingerprints = [(0, 1)].into();
    let placement =
        assign(&group([("a", old), ("b", member(2, 1, ""))]), &[sub(0, 2, false), sub(1, 6, false)]);
    assert_eq!(placement.active["a"], tasks("0_0 0_1"));
    assert_eq!(placement.active["b"].len(), 6);
}

#[test]
fn the_later_of_two_claims_is_true() {
    let (mut stale, topology) = (member(1, 1, "0_0"), [sub(0, 2, false)]);
    stale.generation = 3;
    let placement = assign(&group([("a", stale), ("b", member(2, 1, "0_0"))]), &topology);
    assert_eq!(placement.active["b"], tasks("0_0"));
    assert_eq!(placement.active["a"], tasks("0_1"));
}

#[test]
fn of_two_claims_in_one_generation_neither_is_believed() {
    let mut members = group([("a", member(1, 1, "0_0")), ("b", member(2, 1, "0_0"))]);
    let placement = assign(&members, &[sub(0, 1, false)]);
    assert!(placement.active.values().all(BTreeSet::is_empty));
    assert_eq!(placement.moving.len(), 1);
    assert_eq!(settle(&mut members, &[sub(0, 1, false)]), 1);
}

#[test]
fn tasks_that_are_no_more_are_taken_away() {
    let placement = assign(&group([("a", member(1, 1, "0_0 0_7 5_0"))]), &[sub(0, 1, false)]);
    assert_eq!(placement.active["a"], tasks("0_0"));
    assert!(placement.moving.is_empty());
}

#[test]
fn nobody_there_means_everything_is_unassigned() {
    assert_eq!(assign(&Members::new(), &[sub(0, 2, true)]).unassigned, tasks("0_0 0_1"));
}

/// A group in which anybody may own anything, claims may clash, and shapes may differ.
fn any_group(mixed: bool) -> impl Strategy<Value = (Members, Vec<SubTopology>)> {
    let topology = proptest::collection::vec((0..12_i32, any::<bool>()), 1..4);
    let subtopologies = topology.prop_map(|subs| {
        subs.into_iter().enumerate().map(|(id, (tasks, stateful))| sub(id as i32, tasks, stateful)).collect()
    });
    let one = (
        1..5_u16,
        proptest::collection::btree_set((0..3_i32, 0..12_i32), 0..12),
        3..6_i32,
        proptest::collection::btree_map((0..3_i32, 0..12_i32), 0..1000_i64, 0..12),
        proptest::collection::vec(if mixed { 1..3_u64 } else { 1..2_u64 }, 3),
    );
    let members = proptest::collection::vec(one, 1..7).prop_map(|members| {
        let ids = |(s, p)| TaskId::new(s, p);
        members
            .into_iter()
            .enumerate()
            .map(|(index, (workers, owned, generation, state, fingerprints))| {
                let candidate = Candidate {
                    instance: Uuid::from_u128(index as u128 % 4),
                    workers,
                    owned: owned.into_iter().map(ids).collect(),
                    generation,
                    offset_sums: state.into_iter().map(|(t, o)| (ids(t), o)).collect(),
                    fingerprints: (0..).zip(fingerprints).collect(),
                };
                (format!("m{index}"), candidate)
            })
            .collect()
    });
    (members, subtopologies)
}

fn all_tasks(topology: &[SubTopology]) -> BTreeSet<TaskId> {
    topology.iter().flat_map(|s| (0..s.tasks).map(|p| TaskId::new(s.id, p))).collect()
}

fn eligible(members: &Members, topology: &[SubTopology], id: &str, task: TaskId) -> bool {
    let wanted = topology.iter().find(|s| s.id == task.subtopology).unwrap().fingerprint;
    members[id].fingerprints.get(&task.subtopology) == Some(&wanted)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_task_is_given_once_or_accounted_for((members, topology) in any_group(true)) {
        let placement = assign(&members, &topology);
        prop_assert_eq!(&placement, &assign(&members, &topology), "deterministic");
        let mut seen = BTreeMap::new();
        for (id, active) in &placement.active {
            for &task in active {
                prop_assert!(eligible(&members, &topology, id, task), "{} cannot run {}", id, task);
                prop_assert!(seen.insert(task, id.clone()).is_none(), "{} twice", task);
                let claims = members.iter().filter(|(other, m)| *other != id && m.owned.contains(&task));
                for (other, claim) in claims {
                    prop_assert!(members[id].owned.contains(&task) && members[id].generation > claim.generation,
                        "{} still has {}", other, task);
                }
            }
        }
        for (task, to) in &placement.moving {
            prop_assert!(eligible(&members, &topology, to, *task));
            prop_assert!(seen.insert(*task, to.clone()).is_none(), "{} twice", task);
        }
        for task in &placement.unassigned {
            prop_assert!(members.keys().all(|id| !eligible(&members, &topology, id, *task)), "{} has a place", task);
            prop_assert!(seen.insert(*task, String::new()).is_none(), "{} twice", task);
        }
        prop_assert_eq!(seen.keys().copied().collect::<BTreeSet<_>>(), all_tasks(&topology));
    }

    #[test]
    fn it_settles_evenly_and_then_stays((mut members, topology) in any_group(false)) {
        let rounds = settle(&mut members, &topology);
        prop_assert!(rounds <= 4, "{} rounds", rounds);
        let before = members.clone();
        prop_assert_eq!(settle(&mut members, &topology), 0);
        prop_assert_eq!(&members, &before, "nothing moves without a reason");
        for (a, from) in &members {
            for (b, to) in &members {
                let (n, m) = (from.owned.len(), to.owned.len());
                let (v, w) = (usize::from(from.workers), usize::from(to.workers));
                prop_assert!(n * w <= (m + 1) * v, "{} has {}/{}, {} has {}/{}", a, n, v, b, m, w);
                for stateful in [true, false] {
                    let count = |tasks: &BTreeSet<TaskId>| {
                        tasks.iter().filter(|t| topology[t.subtopology as usize].stateful == stateful).count()
                    };
                    let (n, m) = (count(&from.owned), count(&to.owned));
                    prop_assert!(!stateful || n * w <= (m + 1) * v, "stateful: {} has {}, {} has {}", a, n, b, m);
                }
            }
        }
    }

    #[test]
    fn it_settles_with_mixed_shapes_too((mut members, topology) in any_group(true)) {
        settle(&mut members, &topology);
        let before = members.clone();
        prop_assert_eq!(settle(&mut members, &topology), 0);
        prop_assert_eq!(&members, &before);
    }

    #[test]
    fn a_leaver_moves_only_its_own_tasks((mut members, topology) in any_group(false)) {
        settle(&mut members, &topology);
        let (left, _) = members.pop_first().unwrap();
        if members.is_empty() { return Ok(()); }
        let placement = assign(&members, &topology);
        // With equal weights what the leaver had fits in between; weights may ask for more.
        if members.values().all(|m| m.workers == 1) {
            let stateful_only = topology.iter().all(|s| s.stateful) || topology.iter().all(|s| !s.stateful);
            prop_assert!(!stateful_only || placement.moving.is_empty(), "{} left, {:?}", left, placement.moving);
        }
        for (id, member) in &members {
            let gone = member.owned.difference(&placement.active[id]).count();
            prop_assert_eq!(gone, placement.moving.keys().filter(|t| member.owned.contains(t)).count());
        }
    }

    #[test]
    fn a_joiner_takes_its_share_and_no_more(workers in 1..6_usize, count in 0..60_i32, stateful: bool) {
        let topology = [sub(0, count, stateful)];
        let mut members: Members =
            (0..workers).map(|i| (format!("m{i}"), member(i as u128, 1, ""))).collect();
        settle(&mut members, &topology);
        members.insert("new".into(), member(99, 1, ""));
        let placement = assign(&members, &topology);
        prop_assert_eq!(placement.moving.len(), count as usize / (workers + 1));
        prop_assert!(placement.moving.values().all(|to| to == "new"));
    }
}

#[test]
fn a_task_stays_where_its_state_is_if_the_others_are_too_far_behind() {
    let mut old = member(1, 1, "");
    old.offset_sums = all_tasks(&[sub(0, 4, true)]).into_iter().map(|task| (task, 50_000)).collect();
    let near: BTreeMap<TaskId, i64> = [(task("0_0"), 40_000), (task("0_1"), 39_999)].into();
    let mut members = group([("old", old), ("new", Candidate { offset_sums: near, ..member(2, 1, "") })]);
    let placement = assign(&members, &[sub(0, 4, true)]);
    assert_eq!(placement.active["new"], tasks("0_0"), "the only one with which it is caught up");
    assert_eq!(placement.active["old"], tasks("0_1 0_2 0_3"));
    // Nor are tasks taken from their owner for the sake of balance.
    give(&mut members, &placement);
    assert!(assign(&members, &[sub(0, 4, true)]).moving.is_empty());
    // With another lag they are.
    let placement = super::assign(&members, &[sub(0, 4, true)], 10_001);
    assert_eq!(placement.moving, [(task("0_1"), "new".to_owned())].into());
    // An owner is caught up, whatever its disk says; somebody who has gone is not missed.
    members.get_mut("old").unwrap().offset_sums.clear();
    members.get_mut("new").unwrap().offset_sums = [(task("0_2"), 90_000)].into();
    assert!(assign(&members, &[sub(0, 4, true)]).active["old"].contains(&task("0_1")));
    members.remove("old");
    assert_eq!(assign(&members, &[sub(0, 4, true)]).active["new"].len(), 4);
}

#[test]
fn stateless_tasks_fill_up_what_state_has_left_uneven() {
    let mut old = member(1, 1, "");
    old.offset_sums = all_tasks(&[sub(0, 4, true)]).into_iter().map(|task| (task, 50_000)).collect();
    let members = group([("old", old), ("new", member(2, 1, ""))]);
    let placement = assign(&members, &[sub(0, 4, true), sub(1, 6, false)]);
    assert_eq!((placement.active["old"].len(), placement.active["new"].len()), (5, 5));
}

/// Each with its own state, of its own shape: near-linear, and an answer well within a rebalance in a debug build.
#[test]
fn three_thousand_tasks_and_fifty_members_settle_in_a_few_rounds() {
    let topology = [sub(0, 1000, true), sub(1, 1000, true), sub(2, 1000, false)];
    let mut members: Members =
        (0..50).map(|i| (format!("m{i:02}"), member(i, 1 + (i % 3) as u16, ""))).collect();
    let all = all_tasks(&topology);
    let first = members.get_mut("m00").unwrap();
    first.owned.clone_from(&all);
    first.offset_sums = all.iter().map(|task| (*task, 5_000)).collect();
    let rounds = settle(&mut members, &topology);
    assert!(rounds <= 2, "{rounds}");
    let (weights, most) = (99.0, members.values().map(|m| m.owned.len() as f64 / f64::from(m.workers)));
    assert!(
        most.clone().all(|load| (load - 3000.0 / weights).abs() <= 1.0),
        "{:?}",
        most.collect::<Vec<_>>()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// With a lag that the random states (up to 1000) often exceed.
    #[test]
    fn state_goes_before_balance((members, topology) in any_group(true), lag in 0..1000_i64) {
        let placement = super::assign(&members, &topology, lag);
        let all = placement.active.iter().flat_map(|(id, tasks)| tasks.iter().map(move |task| (*task, id)));
        for (task, id) in all.chain(placement.moving.iter().map(|(task, id)| (*task, id))) {
            if !topology[task.subtopology as usize].stateful { continue; }
            let state = |id: &String| members[id].offset_sums.get(&task).copied().unwrap_or(0);
            let able = || members.keys().filter(|id| eligible(&members, &topology, id, task));
            let most = able().map(state).max().unwrap();
            let latest = members.values().filter(|m| m.owned.contains(&task)).map(|m| m.generation).max();
            let owns = |id: &String| members[id].owned.contains(&task) && Some(members[id].generation) == latest;
            prop_assert!(most - state(id) <= lag || owns(id), "{} at {} with {} of {}", task, id, state(id), most);
        }
    }

    #[test]
    fn it_settles_whatever_the_lag((mut members, topology) in any_group(true), lag in 0..1000_i64) {
        for round in 0.. {
            prop_assert!(round < 12, "still moving");
            let placement = super::assign(&members, &topology, lag);
            let before = members.clone();
            give(&mut members, &placement);
            // What an instance runs is on its disk.
            for member in members.values_mut() {
                for task in &member.owned {
                    member.offset_sums.insert(*task, 1000);
                }
            }
            if placement.moving.is_empty() && before == members { break; }
        }
    }
}
