//! Static members (KIP-345, KIP-814).

use super::*;

/// A stable group of the instances `a` and `b`; `a` leads. With their ids and the generation.
fn stable(kit: &mut Kit) -> (Id, Id, i32) {
    let mut a = kit.join(&instance("a"), "m");
    let joined = got(&mut a);
    assert!(joined.member_id.starts_with("a-"), "the id begins with the instance's");
    let a = instance("a").member(&joined.member_id);
    got(&mut kit.sync(&a, 1, &[(&a, "all")]));
    let mut b = kit.join(&instance("b"), "m");
    let joined = got(&mut kit.join(&a, "m"));
    assert_eq!(joined.leader, a.member);
    let b = instance("b").member(&got(&mut b).member_id);
    let mut parked = kit.sync(&b, 2, &[]);
    got(&mut kit.sync(&a, 2, &[(&a, "of a"), (&b, "of b")]));
    assert_eq!(got(&mut parked).assignment, "of b");
    (a, b, 2)
}

#[test]
fn one_that_comes_back_has_its_assignment_and_nobody_hears_of_it() {
    let mut kit = Kit::new();
    let (a, b, generation) = stable(&mut kit);
    let back = got(&mut kit.join(&instance("b"), "m"));
    assert_eq!((code(back.error_code), back.generation_id), (None, generation));
    assert!(back.member_id != b.member && !back.skip_assignment && back.leader == a.member);
    let again = b.member(&back.member_id);
    assert_eq!(got(&mut kit.sync(&again, generation, &[])).assignment, "of b");
    assert_eq!(kit.heartbeat(&a, generation), None);
    // Whoever still uses the old id is fenced, whatever it asks.
    assert_eq!(kit.heartbeat(&b, generation), Some(Code::FencedInstanceId));
    assert_eq!(code(got(&mut kit.sync(&b, generation, &[])).error_code), Some(Code::FencedInstanceId));
    assert_eq!(code(got(&mut kit.join(&b, "m")).error_code), Some(Code::FencedInstanceId));
    assert_eq!(kit.leave(&[&b]), [Some(Code::FencedInstanceId)]);
}

#[test]
fn a_leader_that_comes_back_is_told_not_to_assign() {
    let mut kit = Kit::new();
    let (a, _, generation) = stable(&mut kit);
    let back = got(&mut kit.join(&instance("a"), "m"));
    assert_eq!((back.generation_id, back.skip_assignment, back.members.len()), (generation, true, 2));
    assert_eq!(back.leader, back.member_id);
    assert_eq!(got(&mut kit.sync(&a.member(&back.member_id), generation, &[])).assignment, "of a");
    // One that does not know of that must not take itself for the leader.
    kit.version = 5;
    let older = got(&mut kit.join(&instance("a"), "m"));
    assert!(older.leader == back.member_id && older.member_id != back.member_id && !older.skip_assignment);
    assert!(older.members.is_empty());
    // From the next rebalance on it leads.
    let led = kit.join(&a.member(&older.member_id), "m");
    kit.advance(REBALANCE);
    assert_eq!(got(&mut { led }).leader, older.member_id);
}

#[test]
fn one_that_comes_back_during_a_rebalance_takes_the_place_of_the_old_which_is_fenced() {
    let mut kit = Kit::new();
    let (a, b, _) = stable(&mut kit);
    let mut old = kit.join(&b, "other");
    waits(&mut old);
    let mut new = kit.join(&instance("b"), "m");
    let refused = got(&mut old);
    assert_eq!(
        (code(refused.error_code), refused.member_id),
        (Some(Code::FencedInstanceId), b.member.clone())
    );
    waits(&mut new);
    let joined = got(&mut kit.join(&a, "m"));
    assert_eq!((joined.generation_id, joined.members.len()), (3, 2));
    // While the leader assigns, one that comes back is a new rebalance: the leader knows the old id.
    let b = b.member(&got(&mut new).member_id);
    let mut waiting = kit.sync(&b, 3, &[]);
    let mut third = kit.join(&instance("b"), "m");
    assert_eq!(code(got(&mut waiting).error_code), Some(Code::FencedInstanceId));
    waits(&mut third);
    assert_eq!(kit.heartbeat(&a, 3), Some(Code::RebalanceInProgress));
}

#[test]
fn one_that_is_away_stays_a_member_until_its_session_ends() {
    let mut kit = Kit::new();
    let (a, b, generation) = stable(&mut kit);
    // It does not come to the rebalance; its session outlasts that.
    let mut request = kit.request(&a, &[("range", "m")]);
    request.rebalance_timeout_ms = 2_000;
    got(&mut kit.join(&instance("b"), "m"));
    assert_eq!(kit.leave(&[&b]), [Some(Code::FencedInstanceId)]);
    let mut joined = kit.join_as(request);
    kit.advance(SESSION - SECOND);
    waits(&mut joined);
    kit.advance(REBALANCE);
    let joined = got(&mut joined);
    assert!(joined.generation_id > generation && joined.members.len() == 1, "b has expired: {joined:?}");
}

#[test]
fn an_administrator_removes_an_instance_by_its_name() {
    let mut kit = Kit::new();
    let (a, _, generation) = stable(&mut kit);
    assert_eq!(kit.leave(&[&instance("b"), &instance("x")]), [None, Some(Code::UnknownMemberId)]);
    assert_eq!(kit.heartbeat(&a, generation), Some(Code::RebalanceInProgress));
    // An id without an instance that nobody has is unknown, not fenced.
    let stranger = instance("b").member(&a.member);
    assert_eq!(kit.heartbeat(&stranger, generation), Some(Code::UnknownMemberId));
}

#[test]
fn one_that_comes_back_with_another_assignor_is_a_rebalance_if_that_changes_the_choice() {
    let mut kit = Kit::new();
    let both = [("range", "m"), ("robin", "n")];
    let request = kit.request(&instance("a"), &both);
    let id = got(&mut kit.join_as(request)).member_id;
    let a = instance("a").member(&id);
    got(&mut kit.sync(&a, 1, &[(&a, "all")]));
    let request = kit.request(&instance("a"), &[("robin", "n"), ("range", "m")]);
    let joined = got(&mut kit.join_as(request));
    assert_eq!((joined.generation_id, joined.protocol_name.as_deref()), (2, Some("robin")));
}
