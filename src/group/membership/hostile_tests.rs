//! Coordinators and clocks that misbehave: the member makes progress, at a bounded rate of requests, or says what to do.

use kafka_protocol::ResponseError as Code;

use super::super::event::{Reply, RpcError};
use super::answer::MOST_REFUSALS;
use super::tests::{Rig, data, seconds, tasks};
use super::*;
use crate::ErrorKind;

/// Answers every request with `answer` until the member gives up or an hour has passed. Gives the number of requests,
/// the time, and the error.
fn endure(
    rig: &mut Rig,
    mut answer: impl FnMut(&Request) -> Result<Reply, RpcError>,
) -> (u32, Duration, Option<Error>) {
    let begin = rig.now;
    let (mut requests, mut actions) = (0, rig.machine.step(Event::Start, rig.now));
    loop {
        let mut answers = Vec::new();
        for action in actions {
            match action {
                Action::Send { id, request, .. } => {
                    requests += 1;
                    answers.push(Event::Answer { id, outcome: answer(&request) });
                }
                Action::SetTimer(at) => rig.timer = Some(at),
                Action::FlushAndCommit => answers.push(Event::Committed),
                Action::Revoke(leases) => {
                    answers.push(Event::Revoked(leases.iter().map(|lease| lease.task).collect()));
                }
                Action::Fatal(error) => return (requests, rig.now - begin, Some(error)),
                _ => {}
            }
        }
        if answers.is_empty() {
            rig.now = rig.timer.take().expect("a timer is set");
            answers.push(Event::Tick);
        }
        if rig.now - begin > seconds(3600) {
            return (requests, rig.now - begin, None);
        }
        actions = answers.into_iter().flat_map(|event| rig.machine.step(event, rig.now)).collect();
    }
}

fn joined() -> Reply {
    Reply::Joined(super::super::event::Joined {
        generation: 1,
        member_id: "m".into(),
        leader: "other".into(),
        ..Default::default()
    })
}

fn synced(active: &str) -> Reply {
    Reply::Synced(write_assignment(&data(active)).unwrap())
}

fn code(code: Code) -> Result<Reply, RpcError> {
    Err(RpcError::Code(code.code()))
}

/// As a coordinator that is well.
fn well(request: &Request) -> Reply {
    match request {
        Request::FindCoordinator => Reply::Coordinator,
        Request::Join { .. } => joined(),
        Request::Sync { .. } => synced("0_0"),
        Request::Heartbeat { .. } => Reply::Alive,
        Request::Leave { .. } => Reply::Left,
    }
}

#[test]
fn a_coordinator_that_turns_the_member_away_for_ever_is_an_error_after_a_bounded_number_of_requests() {
    type Bad = fn(&Request) -> Option<Result<Reply, RpcError>>;
    let cases: [(&str, Bad); 8] = [
        ("join: rebalance in progress", |request| {
            matches!(request, Request::Join { .. }).then(|| code(Code::RebalanceInProgress))
        }),
        ("join: another generation", |request| {
            matches!(request, Request::Join { .. }).then(|| code(Code::IllegalGeneration))
        }),
        ("sync: another generation", |request| {
            matches!(request, Request::Sync { .. }).then(|| code(Code::IllegalGeneration))
        }),
        ("sync: rebalance in progress", |request| {
            matches!(request, Request::Sync { .. }).then(|| code(Code::RebalanceInProgress))
        }),
        ("sync: unknown member", |request| {
            matches!(request, Request::Sync { .. }).then(|| code(Code::UnknownMemberId))
        }),
        ("join: member id required, again and again", |request| {
            matches!(request, Request::Join { .. }).then(|| Ok(Reply::MemberId("m".into())))
        }),
        ("join: unknown member once it has an id", |request| match request {
            Request::Join { member_id, .. } if member_id.is_empty() => Some(Ok(Reply::MemberId("m".into()))),
            Request::Join { .. } => Some(code(Code::UnknownMemberId)),
            _ => None,
        }),
        ("sync: the group is gone", |request| {
            matches!(request, Request::Sync { .. }).then(|| code(Code::GroupIdNotFound))
        }),
    ];
    for (name, bad) in cases {
        let mut rig = Rig::new();
        let (requests, time, error) =
            endure(&mut rig, |request| bad(request).unwrap_or_else(|| Ok(well(request))));
        let error = error.unwrap_or_else(|| panic!("{name}: {requests} requests and no end"));
        assert_eq!(error.kind(), ErrorKind::Broker, "{name}: {error}");
        assert!(error.to_string().contains("group app"), "{name}: {error}");
        assert!(error.to_string().contains("kafka-consumer-groups"), "{name}: {error}");
        assert!(requests <= 2 * MOST_REFUSALS + 4, "{name}: {requests}");
        assert!(time > seconds(u64::from(MOST_REFUSALS) - 20), "{name}: it gives up after {time:?}");
    }
}

#[test]
fn a_coordinator_that_is_never_ready_is_asked_once_a_second_and_no_more() {
    for (name, bad) in [
        ("find", Code::CoordinatorNotAvailable),
        ("join", Code::CoordinatorLoadInProgress),
        ("join", Code::NotCoordinator),
        ("join", Code::CoordinatorNotAvailable),
        ("join", Code::NotEnoughReplicas),
        ("sync", Code::NotCoordinator),
    ] {
        let mut rig = Rig::new();
        let (requests, _, error) = endure(&mut rig, |request| match (name, request) {
            ("find", Request::FindCoordinator)
            | ("join", Request::Join { .. })
            | ("sync", Request::Sync { .. }) => code(bad),
            _ => Ok(well(request)),
        });
        assert!(error.is_none(), "{name} {bad:?}: {error:?}");
        // An hour of seconds, up to three requests each, and the first, shorter pauses.
        assert!((3_000..11_000).contains(&requests), "{name} {bad:?}: {requests} in an hour");
    }
}

#[test]
fn heartbeats_that_always_say_rebalance_go_on_with_kept_tasks_at_the_pace_of_heartbeats() {
    let mut generation = 0;
    let mut rig = Rig::new();
    let (mut syncs, mut rejoins) = (0, 0);
    let (requests, _, error) = endure(&mut rig, |request| match request {
        Request::Heartbeat { .. } => code(Code::RebalanceInProgress),
        Request::Join { metadata, .. } => {
            generation += 1;
            let owned = super::super::protocol::read_subscription(metadata).unwrap().data.owned;
            rejoins += u32::from(owned == tasks("0_0"));
            let Reply::Joined(joined) = joined() else { unreachable!() };
            Ok(Reply::Joined(super::super::event::Joined { generation, ..joined }))
        }
        Request::Sync { .. } => {
            syncs += 1;
            Ok(synced("0_0"))
        }
        _ => Ok(well(request)),
    });
    assert!(error.is_none());
    assert!((1_000..1_300).contains(&syncs), "one generation a heartbeat: {syncs}");
    assert_eq!(rejoins + 1, syncs, "the task is kept all the time");
    assert!(requests < 4_000, "{requests}");
}

#[test]
fn a_rebalance_that_never_ends_costs_the_tasks_after_the_session_and_not_before() {
    let mut rig = Rig::stable("0_0");
    rig.rebalance();
    let mut seen = rig.step(Event::Committed);
    let begin = rig.now;
    while !seen.contains(&"lost [0_0]".to_owned()) {
        assert!(rig.now - begin <= seconds(46), "{seen:?}");
        seen = match seen.iter().any(|line| line.starts_with("join")) {
            true => rig.refuse("join", Code::RebalanceInProgress),
            false => rig.tick(),
        };
    }
    assert!(rig.now - begin >= seconds(40), "{:?}", rig.now - begin);
}

#[test]
fn after_a_long_sleep_everything_is_lost_before_anything_is_done() {
    // Stable; while it commits; while it revokes; on the way to JoinGroup.
    let prepare: [fn(&mut Rig); 4] = [
        |_| {},
        |rig| drop(rig.rebalance()),
        |rig| {
            rig.rebalance();
            rig.step(Event::Committed);
            rig.joined(2);
            assert_eq!(rig.synced(&data("0_0")).last().unwrap(), "revoke [0_1@2/1]");
        },
        |rig| {
            rig.rebalance();
            rig.step(Event::Committed);
            rig.refuse("join", Code::CoordinatorLoadInProgress);
        },
    ];
    for (at, prepare) in prepare.into_iter().enumerate() {
        let mut rig = Rig::stable("0_0 0_1");
        prepare(&mut rig);
        let lines = rig.wait(seconds(8 * 3600));
        let lost = lines.iter().position(|line| line == "lost [0_0 0_1]");
        assert!(lost.is_some_and(|lost| lost <= 1), "{at}: {lines:?}");
        assert!(lines.last().is_some_and(|line| line == r#"join "m" owned [] of -1"#), "{at}: {lines:?}");
        assert!(!lines.iter().any(|line| line.starts_with("fence")), "{at}: {lines:?}");
    }
}

#[test]
fn what_a_worker_says_after_a_long_sleep_comes_too_late() {
    let mut rig = Rig::stable("0_0 0_1");
    rig.rebalance();
    rig.now += seconds(8 * 3600);
    let lines = rig.step(Event::Committed);
    assert_eq!(lines, ["closed", "lost [0_0 0_1]", r#"join "m" owned [] of -1"#]);
}

/// The answer lay in the socket while the process stood still: it is not worth anything any more.
#[test]
fn an_assignment_from_before_a_long_sleep_is_given_up_at_once() {
    let mut rig = Rig::new();
    rig.step(Event::Start);
    rig.reply("find", Reply::Coordinator);
    rig.joined(1);
    rig.now += seconds(8 * 3600);
    let delivered = ["deliver kept [] added [0_0@1/1]", "open 1"];
    let given_up = ["closed", "lost [0_0]", r#"join "m" owned [] of -1"#];
    assert_eq!(rig.synced(&data("0_0")), [&delivered[..], &given_up].concat());
}

#[test]
fn a_clock_that_stands_still_spins_nothing() {
    let mut rig = Rig::stable("0_0");
    for _ in 0..100 {
        assert_eq!(rig.step(Event::Tick), [""; 0]);
    }
    assert_eq!(rig.tick(), ["beat 1"]);
    for _ in 0..100 {
        assert_eq!(rig.step(Event::Tick), [""; 0], "one heartbeat at a time");
    }
}

#[test]
fn two_processes_with_one_instance_id_end_with_an_error_that_says_so() {
    for request in ["join", "sync", "beat"] {
        let mut rig = Rig::stable_with(|config| config.instance_id = Some("i".into()), "0_0");
        match request {
            "beat" => drop(rig.tick()),
            _ => {
                rig.rebalance();
                rig.step(Event::Committed);
            }
        }
        if request == "sync" {
            rig.joined(2);
        }
        let id = rig.requests[request];
        let outcome = Err(RpcError::Code(Code::FencedInstanceId.code()));
        let actions = rig.machine.step(Event::Answer { id, outcome }, rig.now);
        let Some(Action::Fatal(error)) = actions.last() else { panic!("{actions:?}") };
        assert_eq!(error.kind(), ErrorKind::Fenced);
        assert!(error.to_string().contains("group.instance.id: give each its own"), "{error}");
    }
}
