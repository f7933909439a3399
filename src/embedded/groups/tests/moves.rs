//! A group whose coordinator moves.

use super::*;

#[test]
fn a_group_survives_a_move_and_members_keep_their_ids() {
    let mut kit = Kit::new();
    let (ids, generation) = kit.stable(2);
    kit.advance(SESSION - SECOND);
    kit.takeover(5 * SECOND);
    kit.advance(5 * SECOND);
    assert_eq!(kit.heartbeat(&ids[0], generation), None);
    assert_eq!(got(&mut kit.sync(&ids[1], generation, &[])).assignment, "share");
    // Sessions began when the new coordinator was ready.
    kit.takeover(5 * SECOND);
    kit.advance(5 * SECOND + SESSION - SECOND);
    assert_eq!(kit.heartbeat(&ids[1], generation), None);
    kit.advance(SECOND);
    assert_eq!(kit.heartbeat(&ids[1], generation), Some(Code::RebalanceInProgress));
}

#[test]
fn whoever_is_parked_is_sent_to_the_new_coordinator_which_knows_the_last_assigned_generation() {
    let mut kit = Kit::new();
    let (ids, generation) = kit.stable(2);
    let (third, mut newcomer) = kit.enter("m");
    let mut follower = kit.join(&ids[1], "m");
    kit.takeover(Duration::ZERO);
    for parked in [&mut newcomer, &mut follower] {
        assert_eq!(code(got(parked).error_code), Some(Code::NotCoordinator));
    }
    assert_eq!(kit.state(), "Stable");
    assert_eq!(kit.heartbeat(&ids[0], generation), None);
    assert_eq!(code(got(&mut kit.join(&third, "m")).error_code), Some(Code::UnknownMemberId));
    // A generation that was not assigned is lost.
    let mut leader = kit.join(&ids[0], "m");
    got(&mut kit.join(&ids[1], "m"));
    assert_eq!(got(&mut leader).generation_id, generation + 1);
    let mut parked = kit.sync(&ids[1], generation + 1, &[]);
    kit.takeover(Duration::ZERO);
    assert_eq!(code(got(&mut parked).error_code), Some(Code::NotCoordinator));
    assert_eq!(kit.heartbeat(&ids[0], generation + 1), Some(Code::IllegalGeneration));
    assert_eq!(kit.heartbeat(&ids[0], generation), None);
}
