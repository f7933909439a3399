//! Members that come, wait, go and fall silent.

use super::*;

#[test]
fn a_member_gets_its_id_first_and_then_leads_the_first_generation() {
    let mut kit = Kit::new();
    let (id, mut parked) = kit.enter("m");
    let joined = got(&mut parked);
    assert!(id.member.starts_with("c-") && id.member.len() == 2 + 36, "{:?} looks like Kafka's", id.member);
    assert_eq!((joined.generation_id, &joined.leader, joined.members.len()), (1, &id.member, 1));
    assert_eq!(joined.protocol_name.as_deref(), Some("range"));
    assert_eq!(kit.state(), "CompletingRebalance");
    assert_eq!(got(&mut kit.sync(&id, 1, &[(&id, "all")])).assignment, "all");
    assert_eq!(kit.state(), "Stable");
    // Up to version 3 there is no such step.
    let mut kit = Kit { version: 3, ..Kit::new() };
    assert_eq!(got(&mut kit.join(&Id::default(), "m")).generation_id, 1);
}

#[test]
fn a_newcomer_makes_the_others_join_again_and_the_leader_hears_of_all() {
    let mut kit = Kit::new();
    let (ids, generation) = kit.stable(1);
    let (second, mut parked) = kit.enter("n");
    waits(&mut parked);
    assert_eq!(kit.state(), "PreparingRebalance");
    assert_eq!(kit.heartbeat(&ids[0], generation), Some(Code::RebalanceInProgress));
    assert_eq!(kit.heartbeat(&second, 0), Some(Code::IllegalGeneration));
    let mut first = kit.join(&ids[0], "m");
    let (first, second_joined) = (got(&mut first), got(&mut parked));
    assert_eq!((first.generation_id, second_joined.generation_id), (2, 2));
    assert_eq!(first.leader, ids[0].member);
    let mut told: Vec<_> = first.members.iter().map(|one| one.metadata.clone()).collect();
    told.sort();
    assert_eq!(told, ["m", "n"]);
    assert!(second_joined.members.is_empty(), "who does not lead is told of nobody");
    // The follower asks first, and waits for the leader.
    let mut follower = kit.sync(&second, 2, &[]);
    waits(&mut follower);
    let mut leader = kit.sync(&ids[0], 2, &[(&ids[0], "a"), (&second, "b")]);
    assert_eq!((got(&mut leader).assignment, got(&mut follower).assignment), ("a".into(), "b".into()));
    assert_eq!(kit.heartbeat(&ids[0], 1), Some(Code::IllegalGeneration));
    assert_eq!(kit.heartbeat(&ids[0], 2), None);
}

#[test]
fn who_joins_again_with_the_same_words_disturbs_nobody_unless_it_leads() {
    let mut kit = Kit::new();
    let (ids, generation) = kit.stable(2);
    let same = got(&mut kit.join(&ids[1], "m"));
    assert_eq!((same.generation_id, same.skip_assignment), (generation, false));
    assert_eq!(kit.state(), "Stable");
    // It may then ask for its assignment again.
    assert_eq!(got(&mut kit.sync(&ids[1], generation, &[])).assignment, "share");
    // Other words are a rebalance.
    waits(&mut kit.join(&ids[1], "other"));
    assert_eq!(kit.state(), "PreparingRebalance");
    let mut kit = Kit::new();
    let (ids, _) = kit.stable(2);
    waits(&mut kit.join(&ids[0], "m"));
    assert_eq!(kit.state(), "PreparingRebalance", "the leader wants one");
}

#[test]
fn a_lost_answer_is_given_again_while_the_group_waits_for_the_leader() {
    let mut kit = Kit::new();
    let (id, mut parked) = kit.enter("m");
    let first = got(&mut parked);
    assert_eq!(got(&mut kit.join(&id, "m")), first);
    // With other words it is a new rebalance, and those who wait for their assignment must join again.
    let second = got(&mut kit.join(&id, "n"));
    assert_eq!(second.generation_id, 2);
    let old = kit.sync(&id, 1, &[]);
    assert_eq!(code(got(&mut { old }).error_code), Some(Code::IllegalGeneration));
}

#[test]
fn a_rebalance_sends_those_away_who_wait_for_their_assignment() {
    let mut kit = Kit::new();
    let (ids, _) = kit.stable(2);
    let mut one = kit.join(&ids[0], "m");
    let mut two = kit.join(&ids[1], "m");
    assert_eq!((got(&mut one).generation_id, got(&mut two).generation_id), (3, 3));
    let mut follower = kit.sync(&ids[1], 3, &[]);
    waits(&mut follower);
    let (_, mut third) = kit.enter("m");
    assert_eq!(code(got(&mut follower).error_code), Some(Code::RebalanceInProgress));
    waits(&mut third);
}

#[test]
fn who_does_not_come_back_in_time_is_out() {
    let mut kit = Kit::new();
    let (ids, generation) = kit.stable(2);
    let (third, mut parked) = kit.enter("m");
    let mut second = kit.join(&ids[1], "m");
    // The leader lives, but does not join.
    for _ in 0..59 {
        kit.advance(SECOND);
        assert_eq!(kit.heartbeat(&ids[0], generation), Some(Code::RebalanceInProgress));
    }
    waits(&mut parked);
    kit.advance(SECOND);
    let (second, third_joined) = (got(&mut second), got(&mut parked));
    assert_eq!((second.generation_id, third_joined.generation_id), (3, 3));
    assert!([&ids[1].member, &third.member].contains(&&second.leader), "another leads");
    assert_eq!(kit.heartbeat(&ids[0], generation), Some(Code::UnknownMemberId));
}

#[test]
fn a_session_ends_without_heartbeats_and_not_while_its_member_waits() {
    let mut kit = Kit::new();
    let (ids, generation) = kit.stable(2);
    for _ in 0..30 {
        kit.advance(SECOND);
        if kit.heartbeat(&ids[0], generation) == Some(Code::RebalanceInProgress) {
            break;
        }
    }
    assert_eq!(kit.heartbeat(&ids[1], generation), Some(Code::UnknownMemberId));
    // The one that is left waits for nobody.
    let joined = got(&mut kit.join(&ids[0], "m"));
    assert_eq!((joined.generation_id, joined.members.len()), (3, 1));
    got(&mut kit.sync(&ids[0], 3, &[]));
    // A pending id holds the rebalance up; whoever is parked behind it lives on without heartbeats.
    let mut pending = kit.join(&Id::default(), "m");
    got(&mut pending);
    let mut parked = kit.join(&ids[0], "m");
    kit.advance(SESSION - SECOND);
    waits(&mut parked);
    kit.advance(SECOND);
    assert_eq!(got(&mut parked).generation_id, 4, "the pending id has expired");
    kit.advance(SESSION);
    assert_eq!(kit.state(), "Empty");
}

#[test]
fn a_joiner_that_is_gone_before_its_answer_is_given_up_after_five_minutes() {
    let mut kit = Kit::new();
    let (ids, generation) = kit.stable(1);
    let mut request = kit.request(&Id::default(), &[("range", "m")]);
    request.rebalance_timeout_ms = 3_600_000;
    kit.version = 3;
    let mut gone = kit.join_as(request);
    for _ in 0..300 {
        assert_eq!(kit.heartbeat(&ids[0], generation), Some(Code::RebalanceInProgress));
        waits(&mut gone);
        kit.advance(SECOND);
    }
    let refused = got(&mut gone);
    assert_eq!((code(refused.error_code), refused.member_id.as_str()), (Some(Code::UnknownMemberId), ""));
}

#[test]
fn who_never_asks_for_its_assignment_is_out_after_the_rebalance_timeout() {
    let mut kit = Kit::new();
    let (ids, _) = kit.stable(2);
    let mut one = kit.join(&ids[0], "m");
    got(&mut kit.join(&ids[1], "m"));
    got(&mut one);
    let mut follower = kit.sync(&ids[1], 3, &[]);
    // The leader sends heartbeats and no assignment.
    for _ in 0..60 {
        waits(&mut follower);
        assert_eq!(kit.heartbeat(&ids[0], 3), None);
        kit.advance(SECOND);
    }
    assert_eq!(code(got(&mut follower).error_code), Some(Code::RebalanceInProgress));
    assert_eq!(kit.heartbeat(&ids[0], 3), Some(Code::UnknownMemberId));
    let joined = got(&mut kit.join(&ids[1], "m"));
    assert_eq!((joined.generation_id, &joined.leader), (4, &ids[1].member));
}

#[test]
fn the_initial_delay_is_prolonged_by_newcomers_but_not_beyond_the_rebalance_timeout() {
    let delay = 20 * SECOND;
    let mut kit = Kit::with(&[("group.initial.rebalance.delay.ms", "20000")]);
    let (_, mut first) = kit.enter("m");
    kit.advance(delay - SECOND);
    let (_, mut second) = kit.enter("m");
    kit.advance(SECOND);
    waits(&mut first);
    kit.advance(delay);
    assert_eq!((got(&mut first).generation_id, got(&mut second).generation_id), (1, 1));
    // Somebody comes every ten seconds; the limit is a minute.
    let mut kit = Kit::with(&[("group.initial.rebalance.delay.ms", "20000")]);
    let mut all: Vec<_> = Vec::new();
    for _ in 0..6 {
        all.push(kit.enter("m").1);
        all.iter_mut().for_each(waits);
        kit.advance(10 * SECOND);
    }
    for parked in &mut all {
        assert_eq!(got(parked).generation_id, 1);
    }
}

#[test]
fn the_assignor_is_the_one_that_most_like_best_among_those_that_all_know() {
    let mut kit = Kit::with(&[("group.initial.rebalance.delay.ms", "1000")]);
    kit.version = 3;
    let likes: [&[(&str, &str)]; 3] = [
        &[("sticky", "1s"), ("range", "1r"), ("robin", "1b")],
        &[("robin", "2b"), ("range", "2r")],
        &[("other", "3o"), ("range", "3r"), ("robin", "3b")],
    ];
    let mut all: Vec<_> = Vec::new();
    for protocols in likes {
        let request = kit.request(&Id::default(), protocols);
        all.push(kit.join_as(request));
    }
    kit.advance(3 * SECOND);
    let answers: Vec<_> = all.iter_mut().map(got).collect();
    assert!(answers.iter().all(|one| one.protocol_name.as_deref() == Some("range")));
    let leader = answers.iter().find(|one| !one.members.is_empty()).expect("one leads");
    let mut told: Vec<_> = leader.members.iter().map(|one| one.metadata.clone()).collect();
    told.sort();
    assert_eq!(told, ["1r", "2r", "3r"], "each is told of what was said to that assignor");
    // Nobody comes in who knows none of these, or speaks another language.
    let request = kit.request(&Id::default(), &[("sticky", "")]);
    assert_eq!(code(got(&mut kit.join_as(request)).error_code), Some(Code::InconsistentGroupProtocol));
    let request = kit.request(&Id::default(), &[("range", "")]).with_protocol_type(text("connect"));
    assert_eq!(code(got(&mut kit.join_as(request)).error_code), Some(Code::InconsistentGroupProtocol));
}

#[test]
fn a_group_without_members_may_be_taken_over_by_another_kind() {
    let mut kit = Kit::new();
    let (ids, _) = kit.stable(1);
    assert_eq!(kit.leave(&[&ids[0]]), [None]);
    assert_eq!(kit.state(), "Empty");
    kit.version = 3;
    let request = kit.request(&Id::default(), &[("eager", "")]).with_protocol_type(text("connect"));
    let joined = got(&mut kit.join_as(request));
    assert_eq!((joined.protocol_type.as_deref(), joined.generation_id), (Some("connect"), 3));
    // Nothing to choose from is nothing to join with.
    let mut kit = Kit::new();
    let request = kit.request(&Id::default(), &[]);
    assert_eq!(code(got(&mut kit.join_as(request)).error_code), Some(Code::InconsistentGroupProtocol));
}

#[test]
fn what_cannot_be_joined_with_is_refused_with_the_reason() {
    let mut kit = Kit::new();
    let ours = |kit: &mut Kit, change: &dyn Fn(&mut m::JoinGroupRequest)| {
        let mut request = kit.request(&Id::default(), &[("range", "m")]);
        change(&mut request);
        code(got(&mut kit.join_as(request)).error_code)
    };
    assert_eq!(ours(&mut kit, &|r| r.session_timeout_ms = 5_999), Some(Code::InvalidSessionTimeout));
    assert_eq!(ours(&mut kit, &|r| r.session_timeout_ms = 1_800_001), Some(Code::InvalidSessionTimeout));
    assert_eq!(ours(&mut kit, &|r| r.group_id = GroupId::default()), Some(Code::InvalidGroupId));
    // An id that nobody gave out, in a group that does not exist, and in one that does.
    assert_eq!(ours(&mut kit, &|r| r.member_id = text("x")), Some(Code::UnknownMemberId));
    kit.stable(1);
    assert_eq!(ours(&mut kit, &|r| r.member_id = text("x")), Some(Code::UnknownMemberId));
}

#[test]
fn a_full_group_takes_nobody_and_in_a_rebalance_the_last_to_come_are_out() {
    let mut kit = Kit::with(&[("group.max.size", "2")]);
    let (ids, _) = kit.stable(2);
    assert_eq!(code(got(&mut kit.join(&Id::default(), "m")).error_code), Some(Code::GroupMaxSizeReached));
    waits(&mut kit.join(&ids[0], "m"));
    // While it is being rebalanced, there is room for one more who has come back or is new.
    let (third, mut parked) = kit.enter("m");
    let late = got(&mut kit.join(&ids[1], "m"));
    assert_eq!(code(late.error_code), Some(Code::GroupMaxSizeReached));
    assert_eq!(late.member_id.as_str(), "");
    // It is out, so that the others need not wait.
    kit.advance(REBALANCE);
    assert_eq!(got(&mut parked).member_id, third.member);
}

#[test]
fn leaving_is_answered_for_each_and_rebalances_once() {
    let mut kit = Kit::new();
    let (ids, generation) = kit.stable(3);
    let stranger = Id::default().member(&text("x"));
    assert_eq!(kit.leave(&[&ids[1], &stranger, &ids[2]]), [None, Some(Code::UnknownMemberId), None]);
    assert_eq!(kit.heartbeat(&ids[0], generation), Some(Code::RebalanceInProgress));
    let joined = got(&mut kit.join(&ids[0], "m"));
    assert_eq!((joined.generation_id, joined.members.len()), (4, 1));
    // A pending id can be given back, too.
    let pending = got(&mut kit.join(&Id::default(), "m")).member_id;
    assert_eq!(kit.leave(&[&Id::default().member(&pending)]), [None]);
    assert_eq!(kit.leave(&[&Id::default().member(&pending)]), [Some(Code::UnknownMemberId)]);
    // Up to version 2 there is one member, and its code is that of the answer.
    kit.version = 2;
    let from = kit.from();
    let request =
        m::LeaveGroupRequest::default().with_group_id(group()).with_member_id(ids[1].member.clone());
    let response = kit.groups.leave(kit.now, from, request.clone());
    assert_eq!(code(response.error_code), Some(Code::UnknownMemberId));
    let response = kit.groups.leave(kit.now, from, request.with_member_id(ids[0].member.clone()));
    assert_eq!((response.error_code, response.members.len()), (0, 0));
    assert_eq!(kit.state(), "Empty");
}

#[test]
fn who_leaves_while_it_waits_is_told() {
    let mut kit = Kit::new();
    let (ids, _) = kit.stable(2);
    let mut parked = kit.join(&ids[1], "m2");
    assert_eq!(kit.leave(&[&ids[1]]), [None]);
    assert_eq!(code(got(&mut parked).error_code), Some(Code::UnknownMemberId));
    let mut one = kit.join(&ids[0], "m");
    assert_eq!(got(&mut one).members.len(), 1);
}

#[test]
fn tools_see_the_group_by_kafkas_names() {
    let mut kit = Kit::new();
    assert_eq!(kit.state(), "Dead", "there is none");
    let (ids, _) = kit.stable(1);
    let described = kit.describe();
    assert_eq!((described.protocol_type.as_str(), described.protocol_data.as_str()), ("consumer", "range"));
    let member = &described.members[0];
    assert_eq!((member.client_id.as_str(), member.client_host.as_str()), ("c", "/127.0.0.1"));
    assert_eq!((&member.member_metadata[..], &member.member_assignment[..]), (&b"m"[..], &b"share"[..]));
    let listed = |kit: &mut Kit, states: &[&str]| {
        let request = m::ListGroupsRequest::default()
            .with_states_filter(states.iter().map(|state| text(state)).collect());
        kit.groups.list(&request, |_| Ok(())).groups.len()
    };
    assert_eq!(
        (listed(&mut kit, &[]), listed(&mut kit, &["stable"]), listed(&mut kit, &["Empty"])),
        (1, 1, 0)
    );
    let delete = |kit: &mut Kit| {
        let request = m::DeleteGroupsRequest::default().with_groups_names(vec![group()]);
        code(kit.groups.delete(request, |_| Ok(())).results[0].error_code)
    };
    assert_eq!(delete(&mut kit), Some(Code::NonEmptyGroup));
    waits(&mut kit.enter("n").1);
    let described = kit.describe();
    assert_eq!(described.group_state.as_str(), "PreparingRebalance");
    assert!(described.members.iter().all(|member| member.member_metadata.is_empty()));
    kit.leave(&[&ids[0]]);
    kit.advance(REBALANCE * 2);
    assert_eq!(kit.state(), "Empty");
    assert_eq!((delete(&mut kit), delete(&mut kit)), (None, Some(Code::GroupIdNotFound)));
}
