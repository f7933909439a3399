//! Every rule of the membership as an order of events and actions.

use bytes::Bytes;
use kafka_protocol::ResponseError as Code;
use uuid::Uuid;

use super::super::event::{Joined, Reply, RpcError};
use super::super::protocol::{read_subscription, write_subscription};
use super::super::user_data::AssignmentError;
use super::*;
use crate::{ErrorClass, ErrorKind, TopicPartition};

/// A member whose actions are written as short lines; timers are kept apart.
pub(super) struct Rig {
    pub(super) machine: Membership,
    pub(super) now: Duration,
    pub(super) timer: Option<Duration>,
    /// The last JoinGroup, SyncGroup, heartbeat, ... by name.
    pub(super) requests: BTreeMap<&'static str, RequestId>,
}

pub(super) fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(super) fn tasks(text: &str) -> Vec<TaskId> {
    text.split_whitespace().map(|t| t.parse().unwrap()).collect()
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|i| i.to_string()).collect::<Vec<_>>().join(" ")
}

fn leases<'a>(leases: impl IntoIterator<Item = &'a Lease>) -> String {
    list(leases.into_iter().map(|l| format!("{}@{}/{}", l.task, l.generation, l.epoch)))
}

pub(super) fn data(active: &str) -> AssignmentData {
    let active = tasks(active)
        .into_iter()
        .map(|task| ActiveTask { task, partitions: vec![TopicPartition::new("in", task.partition)] });
    AssignmentData { active: active.collect(), next_rebalance_ms: -1, ..AssignmentData::default() }
}

fn subscription() -> Bytes {
    let data = SubscriptionData::new(Uuid::from_u128(1), 1);
    write_subscription(&["in".to_owned()], [].iter(), -1, &data).unwrap()
}

impl Rig {
    pub(super) fn with(change: impl FnOnce(&mut GroupConfig)) -> Self {
        let mut config = GroupConfig::new("app");
        change(&mut config);
        let data = SubscriptionData::new(Uuid::from_u128(1), 1);
        let machine = Membership::new(config, vec!["in".into()], data).unwrap();
        Self { machine, now: seconds(1000), timer: None, requests: BTreeMap::new() }
    }

    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn step(&mut self, event: Event) -> Vec<String> {
        let actions = self.machine.step(event, self.now);
        let mut lines = Vec::new();
        for action in actions {
            lines.push(match action {
                Action::SetTimer(at) => {
                    assert!(at > self.now, "a timer in the past: {at:?} at {:?}", self.now);
                    self.timer = Some(at);
                    continue;
                }
                Action::Send { id, request, .. } => {
                    let (name, line) = match request {
                        Request::FindCoordinator => ("find", "find".to_owned()),
                        Request::Join { member_id, metadata, .. } => {
                            let subscription = read_subscription(&metadata).unwrap();
                            let owned = list(subscription.data.owned);
                            (
                                "join",
                                format!("join {member_id:?} owned [{owned}] of {}", subscription.generation),
                            )
                        }
                        Request::Sync { generation, assignments, .. } => (
                            "sync",
                            format!("sync {generation} for [{}]", list(assignments.iter().map(|(id, _)| id))),
                        ),
                        Request::Heartbeat { generation, .. } => ("beat", format!("beat {generation}")),
                        Request::Leave { member_id } => ("leave", format!("leave {member_id:?}")),
                    };
                    self.requests.insert(name, id);
                    line
                }
                Action::Assign { generation, members } => {
                    format!("assign {generation} to [{}]", list(members.iter().map(|m| &m.id)))
                }
                Action::Deliver(a) => format!(
                    "deliver kept [{}] added [{}]",
                    leases(a.kept.iter().map(|(l, _)| l)),
                    leases(a.added.iter().map(|(l, _)| l))
                ),
                Action::Revoke(revoked) => format!("revoke [{}]", leases(&revoked)),
                Action::Fence(tasks) => format!("fence [{}]", list(tasks)),
                Action::Lost { tasks, .. } => format!("lost [{}]", list(tasks)),
                Action::GateOpen(generation) => format!("open {generation}"),
                Action::GateClosed => "closed".to_owned(),
                Action::FlushAndCommit => "commit".to_owned(),
                Action::Fatal(error) => format!("fatal {:?}", error.kind()),
                Action::Stopped => "stopped".to_owned(),
            });
        }
        lines
    }

    pub(super) fn reply(&mut self, name: &'static str, reply: Reply) -> Vec<String> {
        let id = self.requests[name];
        self.step(Event::Answer { id, outcome: Ok(reply) })
    }

    pub(super) fn refuse(&mut self, name: &'static str, code: Code) -> Vec<String> {
        let id = self.requests[name];
        self.step(Event::Answer { id, outcome: Err(RpcError::Code(code.code())) })
    }

    pub(super) fn drop_connection(&mut self, name: &'static str) -> Vec<String> {
        let id = self.requests[name];
        let error = Error::new(ErrorKind::Connection, "gone");
        self.step(Event::Answer { id, outcome: Err(RpcError::Failed(error)) })
    }

    pub(super) fn joined(&mut self, generation: i32) -> Vec<String> {
        let joined = Joined {
            generation,
            member_id: "m".into(),
            leader: "other".into(),
            protocol: Some("mainstem".into()),
            ..Joined::default()
        };
        self.reply("join", Reply::Joined(joined))
    }

    pub(super) fn leads(&mut self, generation: i32, skip_assignment: bool) -> Vec<String> {
        let joined = Joined {
            generation,
            member_id: "m".into(),
            leader: "m".into(),
            skip_assignment,
            protocol: None,
            members: vec![("m".into(), None, subscription()), ("n".into(), None, Bytes::from_static(b"?"))],
        };
        self.reply("join", Reply::Joined(joined))
    }

    pub(super) fn synced(&mut self, data: &AssignmentData) -> Vec<String> {
        self.reply("sync", Reply::Synced(write_assignment(data).unwrap()))
    }

    /// Moves the time to the timer and lets it fire.
    pub(super) fn tick(&mut self) -> Vec<String> {
        self.now = self.timer.take().expect("a timer is set");
        self.step(Event::Tick)
    }

    pub(super) fn wait(&mut self, time: Duration) -> Vec<String> {
        self.now += time;
        self.step(Event::Tick)
    }

    /// A stable member of generation 1 that has these tasks.
    pub(super) fn stable_with(change: impl FnOnce(&mut GroupConfig), active: &str) -> Self {
        let mut rig = Self::with(change);
        rig.step(Event::Start);
        rig.reply("find", Reply::Coordinator);
        rig.joined(1);
        rig.synced(&data(active));
        rig
    }

    pub(super) fn stable(active: &str) -> Self {
        Self::stable_with(|_| {}, active)
    }

    /// The next heartbeat is sent and says that the group rebalances.
    pub(super) fn rebalance(&mut self) -> Vec<String> {
        assert_eq!(self.tick(), ["beat 1"]);
        self.refuse("beat", Code::RebalanceInProgress)
    }
}

#[test]
fn a_new_member_joins_twice_and_gets_its_tasks() {
    let mut rig = Rig::new();
    assert_eq!(rig.step(Event::Start), ["find"]);
    assert_eq!(rig.reply("find", Reply::Coordinator), [r#"join "" owned [] of -1"#]);
    assert_eq!(rig.reply("join", Reply::MemberId("m".into())), [r#"join "m" owned [] of -1"#]);
    assert_eq!(rig.joined(1), ["sync 1 for []"]);
    assert_eq!(rig.synced(&data("0_0 0_1")), ["deliver kept [] added [0_0@1/1 0_1@1/1]", "open 1"]);
    assert_eq!(rig.tick(), ["beat 1"]);
    assert_eq!(rig.reply("beat", Reply::Alive), [""; 0]);
    assert_eq!(rig.tick(), ["beat 1"]);
}

#[test]
fn the_leader_assigns_before_it_syncs_and_beats_meanwhile() {
    let mut rig = Rig::new();
    rig.step(Event::Start);
    rig.reply("find", Reply::Coordinator);
    assert_eq!(rig.leads(3, false), ["assign 3 to [m n]"]);
    assert_eq!(rig.tick(), ["beat 3"]);
    let given = vec![("m".to_owned(), data("0_0")), ("n".to_owned(), data(""))];
    let old = Event::Assigned { generation: 2, outcome: Ok(given.clone()) };
    assert_eq!(rig.step(old), [""; 0], "an assignment of another generation");
    let event = Event::Assigned { generation: 3, outcome: Ok(given) };
    assert_eq!(rig.step(event), ["sync 3 for [m n]"]);
    assert_eq!(rig.synced(&data("0_0")), ["deliver kept [] added [0_0@3/1]", "open 3"]);
}

#[test]
fn a_leader_that_is_back_before_anybody_missed_it_assigns_nothing() {
    let mut rig = Rig::with(|config| config.instance_id = Some("i".into()));
    rig.step(Event::Start);
    rig.reply("find", Reply::Coordinator);
    assert_eq!(rig.leads(3, true), ["sync 3 for []"]);
}

#[test]
fn somebody_joins_while_the_leader_assigns() {
    let mut rig = Rig::new();
    rig.step(Event::Start);
    rig.reply("find", Reply::Coordinator);
    rig.leads(3, false);
    assert_eq!(rig.tick(), ["beat 3"]);
    assert_eq!(rig.refuse("beat", Code::RebalanceInProgress), [r#"join "m" owned [] of -1"#]);
    let late = Event::Assigned { generation: 3, outcome: Ok(vec![("m".to_owned(), data("0_0"))]) };
    assert_eq!(rig.step(late), [""; 0]);
}

#[test]
fn a_leader_that_cannot_assign_tries_again_or_gives_up() {
    for (class, expected) in [(ErrorClass::Retriable, vec![]), (ErrorClass::Fatal, vec!["fatal Topic"])] {
        let mut rig = Rig::new();
        rig.step(Event::Start);
        rig.reply("find", Reply::Coordinator);
        rig.leads(3, false);
        let error = Error::new(ErrorKind::Topic, "no").with_class(class);
        assert_eq!(rig.step(Event::Assigned { generation: 3, outcome: Err(error) }), expected);
        if class == ErrorClass::Retriable {
            assert_eq!(rig.tick(), [r#"join "m" owned [] of -1"#]);
        }
    }
}

#[test]
fn everything_is_committed_before_the_gate_closes_and_the_member_joins_again() {
    let mut rig = Rig::stable("0_0 0_1");
    assert_eq!(rig.rebalance(), ["commit"]);
    assert_eq!(rig.tick(), ["beat 1"], "still alive while it commits");
    assert_eq!(rig.refuse("beat", Code::RebalanceInProgress), [""; 0], "which it knows");
    assert_eq!(rig.step(Event::Committed), ["closed", r#"join "m" owned [0_0 0_1] of 1"#]);
    assert_eq!(rig.joined(2), ["sync 2 for []"]);
    assert_eq!(
        rig.synced(&data("0_0 0_1 0_2")),
        ["deliver kept [0_0@2/1 0_1@2/1] added [0_2@2/2]", "open 2"],
        "kept tasks keep their tenure"
    );
}

#[test]
fn a_commit_that_takes_too_long_does_not_hold_the_group_up() {
    let mut rig = Rig::stable("0_0");
    rig.rebalance();
    rig.tick();
    rig.reply("beat", Reply::Alive);
    assert_eq!(rig.tick(), ["closed", r#"join "m" owned [0_0] of 1"#]);
    assert_eq!(rig.step(Event::Committed), [""; 0], "too late");
}

#[test]
fn without_tasks_there_is_nothing_to_commit() {
    let mut rig = Rig::stable("");
    assert_eq!(rig.rebalance(), ["closed", r#"join "m" owned [] of -1"#]);
}

#[test]
fn the_second_join_waits_for_every_revoked_task() {
    let mut rig = Rig::stable("0_0 0_1 0_2");
    rig.rebalance();
    rig.step(Event::Committed);
    rig.joined(2);
    assert_eq!(
        rig.synced(&data("0_0")),
        ["deliver kept [0_0@2/1] added []", "open 2", "revoke [0_1@2/1 0_2@2/1]"],
        "the last commit is made with the new generation"
    );
    assert_eq!(rig.step(Event::Revoked(tasks("0_1"))), [""; 0]);
    assert_eq!(rig.step(Event::Revoked(tasks("0_1 0_0"))), [""; 0], "twice, or not asked for");
    assert_eq!(rig.step(Event::Revoked(tasks("0_2"))), ["commit"]);
    assert_eq!(rig.step(Event::Committed), ["closed", r#"join "m" owned [0_0] of 2"#]);
}

#[test]
fn a_worker_that_does_not_release_is_fenced_before_the_second_join() {
    let mut rig = Rig::stable("0_0 0_1");
    rig.rebalance();
    rig.step(Event::Committed);
    rig.joined(2);
    rig.synced(&data(""));
    assert_eq!(rig.step(Event::Revoked(tasks("0_0"))), [""; 0]);
    let mut seen = Vec::new();
    while !seen.contains(&"fence [0_1]".to_owned()) {
        seen.extend(rig.tick());
        if seen.last().is_some_and(|line| line == "beat 2") {
            // A rebalance of others does not make it let go of what is not fenced.
            assert_eq!(rig.refuse("beat", Code::RebalanceInProgress), [""; 0]);
        }
    }
    assert!(seen.iter().all(|line| !line.starts_with("join")), "{seen:?}");
    seen.clear();
    while !seen.contains(&"fence [0_1]".to_owned()) {
        seen.extend(rig.tick());
        if seen.last().is_some_and(|line| line == "beat 2") {
            rig.reply("beat", Reply::Alive);
        }
    }
    assert_eq!(rig.step(Event::Revoked(tasks("0_1"))), ["closed", r#"join "m" owned [] of -1"#]);
}

#[test]
fn a_task_that_comes_back_has_a_new_tenure() {
    let mut rig = Rig::stable("0_0");
    rig.rebalance();
    rig.step(Event::Committed);
    rig.joined(2);
    rig.synced(&data(""));
    rig.step(Event::Revoked(tasks("0_0")));
    rig.joined(3);
    assert_eq!(rig.synced(&data("0_0")), ["deliver kept [] added [0_0@3/3]", "open 3"]);
}

#[test]
fn a_wish_to_rejoin_waits_until_the_group_is_stable() {
    let mut rig = Rig::stable("0_0");
    assert_eq!(rig.step(Event::Rejoin), ["commit"]);
    rig.step(Event::Committed);
    assert_eq!(rig.step(Event::Rejoin), [""; 0], "too late for this JoinGroup");
    rig.joined(2);
    assert_eq!(rig.synced(&data("0_0")), ["deliver kept [0_0@2/1] added []", "open 2", "commit"]);
    assert_eq!(rig.step(Event::Committed), ["closed", r#"join "m" owned [0_0] of 2"#]);
    rig.joined(3);
    assert_eq!(rig.synced(&data("0_0")), ["deliver kept [0_0@3/1] added []", "open 3"]);
}

#[test]
fn what_the_instance_says_of_itself_goes_into_the_next_join() {
    let mut rig = Rig::stable("0_0");
    let mut said = SubscriptionData::new(Uuid::from_u128(1), 7);
    said.owned = tasks("5_5");
    assert_eq!(rig.step(Event::Subscribe { topics: vec!["in".into()], data: Box::new(said) }), [""; 0]);
    rig.step(Event::Rejoin);
    assert_eq!(
        rig.step(Event::Committed)[1],
        r#"join "m" owned [0_0] of 1"#,
        "what it owns is the machine's"
    );
    assert_eq!(rig.machine.data.workers, 7);
}

#[test]
fn the_leader_can_ask_for_another_rebalance_later() {
    let mut rig = Rig::new();
    rig.step(Event::Start);
    rig.reply("find", Reply::Coordinator);
    rig.joined(1);
    rig.synced(&AssignmentData { next_rebalance_ms: 2_000, ..data("0_0") });
    assert_eq!(rig.tick(), ["commit"]);
    assert_eq!(rig.now, seconds(1002));
    assert_eq!(rig.step(Event::Committed), ["closed", r#"join "m" owned [0_0] of 1"#]);
}

#[test]
fn transactional_ids_of_the_departed_are_named() {
    let with = |ids: &[&str]| {
        let instances = ids.iter().map(|id| Instance {
            id: Uuid::nil(),
            endpoint: String::new(),
            transactional_ids: vec![(*id).to_owned()],
            active: Vec::new(),
            standby: Vec::new(),
        });
        AssignmentData { instances: instances.collect(), ..data("") }
    };
    let mut rig = Rig::new();
    rig.step(Event::Start);
    rig.reply("find", Reply::Coordinator);
    for (generation, ids, gone) in
        [(1, &["a", "b"][..], &[][..]), (2, &["b", "c"], &["a"]), (3, &["b", "c"], &[]), (4, &["c"], &["b"])]
    {
        rig.joined(generation);
        let id = rig.requests["sync"];
        let outcome = Ok(Reply::Synced(write_assignment(&with(ids)).unwrap()));
        let actions = rig.machine.step(Event::Answer { id, outcome }, rig.now);
        let Action::Deliver(assignment) = &actions[0] else { panic!("{actions:?}") };
        assert_eq!(assignment.departed, gone, "generation {generation}");
        rig.step(Event::Rejoin);
    }
}

#[test]
fn a_forgotten_member_loses_everything_and_starts_anew() {
    let mut rig = Rig::stable("0_0 0_1");
    rig.tick();
    assert_eq!(rig.refuse("beat", Code::UnknownMemberId), ["closed", "lost [0_0 0_1]"]);
    assert_eq!(rig.tick(), [r#"join "" owned [] of -1"#]);
    rig.joined(9);
    assert_eq!(rig.synced(&data("0_0")), ["deliver kept [] added [0_0@9/2]", "open 9"]);
}

#[test]
fn a_member_that_missed_a_generation_loses_everything_and_keeps_its_id() {
    let mut rig = Rig::stable("0_0");
    rig.tick();
    assert_eq!(rig.refuse("beat", Code::IllegalGeneration), ["closed", "lost [0_0]"]);
    assert_eq!(rig.tick(), [r#"join "m" owned [] of -1"#]);
}

/// A static member stays in the group when it misses a rebalance, but what it was given after it joined last was unknown
/// to the leader and is somebody else's by now. Its last commit would have rewound the new owner.
#[test]
fn whoever_missed_a_generation_does_not_commit_in_the_next() {
    let mut rig = Rig::stable_with(|config| config.instance_id = Some("i".into()), "0_0");
    rig.rebalance();
    rig.step(Event::Committed);
    assert_eq!(rig.joined(3), ["lost [0_0]", r#"join "m" owned [] of -1"#]);
    rig.joined(4);
    assert_eq!(rig.synced(&data("0_1")), ["deliver kept [] added [0_1@4/2]", "open 4"]);
}

#[test]
fn losses_are_noticed_in_every_phase() {
    // While it commits, while it gives up tasks, in JoinGroup and in SyncGroup.
    for phase in ["commit", "revoke", "join", "sync"] {
        let mut rig = Rig::stable("0_0 0_1");
        rig.rebalance();
        let mut expected = vec!["closed", "lost [0_0 0_1]"];
        let request = match phase {
            "commit" => {
                rig.tick();
                "beat"
            }
            _ => {
                rig.step(Event::Committed);
                expected.remove(0);
                "join"
            }
        };
        let request = match phase {
            "sync" => {
                rig.joined(2);
                "sync"
            }
            "revoke" => {
                rig.joined(2);
                rig.synced(&data("0_0"));
                rig.tick();
                expected.insert(0, "closed");
                "beat"
            }
            _ => request,
        };
        assert_eq!(rig.refuse(request, Code::UnknownMemberId), expected, "{phase}");
        assert_eq!(rig.step(Event::Revoked(tasks("0_1"))), [""; 0], "{phase}: nobody waits any more");
        assert_eq!(rig.step(Event::Committed), [""; 0], "{phase}");
        assert_eq!(rig.tick(), [r#"join "" owned [] of -1"#], "{phase}");
    }
}

#[test]
fn a_late_heartbeat_of_the_old_generation_says_nothing_about_the_new_one() {
    let mut rig = Rig::stable("0_0");
    rig.rebalance();
    assert_eq!(rig.tick(), ["beat 1"]);
    rig.step(Event::Committed);
    assert_eq!(rig.refuse("beat", Code::IllegalGeneration), [""; 0]);
    rig.joined(2);
    assert_eq!(rig.refuse("beat", Code::UnknownMemberId), [""; 0]);
    assert_eq!(rig.synced(&data("0_0")), ["deliver kept [0_0@2/1] added []", "open 2"]);
}

#[test]
fn a_silent_coordinator_is_the_end_of_the_session() {
    let mut rig = Rig::stable("0_0");
    let start = rig.now;
    let mut seen = Vec::new();
    while !seen.contains(&"lost [0_0]".to_owned()) {
        let lines = rig.tick();
        for request in ["beat", "find"] {
            if lines.iter().any(|line| line.starts_with(request)) {
                seen.extend(rig.drop_connection(request));
            }
        }
        seen.extend(lines);
    }
    assert_eq!(rig.now - start, seconds(45));
    assert!(seen.contains(&"closed".to_owned()));
    let mut lines = Vec::new();
    while !lines.contains(&"find".to_owned()) {
        lines = rig.tick();
    }
    assert_eq!(rig.reply("find", Reply::Coordinator), [r#"join "m" owned [] of -1"#]);
}

#[test]
fn the_session_counts_from_when_the_heartbeat_was_sent() {
    let mut rig = Rig::stable("0_0");
    rig.tick();
    let sent = rig.now;
    rig.now += seconds(10);
    rig.reply("beat", Reply::Alive);
    assert_eq!(rig.machine.session_until, sent + seconds(45));
}

#[test]
fn waiting_for_the_others_is_no_silence() {
    let mut rig = Rig::stable("0_0");
    rig.rebalance();
    rig.step(Event::Committed);
    (0..20).for_each(|_| assert_eq!(rig.tick(), [""; 0]));
    rig.joined(2);
    (0..20).for_each(|_| assert_eq!(rig.tick(), [""; 0]));
    assert_eq!(rig.synced(&data("0_0")), ["deliver kept [0_0@2/1] added []", "open 2"]);
}

#[test]
fn joins_that_fail_for_longer_than_the_session_lose_the_tasks() {
    let mut rig = Rig::stable("0_0");
    rig.rebalance();
    rig.step(Event::Committed);
    rig.now += seconds(50);
    assert_eq!(rig.drop_connection("join"), ["lost [0_0]"]);
}

#[test]
fn a_coordinator_that_moves_is_looked_up_and_nothing_else_happens() {
    for code in [Code::NotCoordinator, Code::CoordinatorNotAvailable] {
        let mut rig = Rig::stable("0_0");
        rig.tick();
        assert_eq!(rig.refuse("beat", code), [""; 0]);
        assert_eq!(rig.tick(), ["find"]);
        assert_eq!(rig.refuse("find", Code::CoordinatorNotAvailable), [""; 0]);
        assert_eq!(rig.tick(), ["find"]);
        assert_eq!(rig.reply("find", Reply::Coordinator), ["beat 1"]);
        assert_eq!(rig.reply("beat", Reply::Alive), [""; 0]);
    }
    let mut rig = Rig::stable("0_0");
    rig.tick();
    assert_eq!(rig.drop_connection("beat"), [""; 0]);
    assert_eq!(rig.tick(), ["find"]);
    let mut rig = Rig::stable("0_0");
    assert_eq!(rig.step(Event::CoordinatorLost), ["find"]);
    assert_eq!(rig.reply("find", Reply::Coordinator), ["beat 1"]);
}

#[test]
fn a_coordinator_that_loads_is_asked_again() {
    let mut rig = Rig::stable("0_0");
    rig.tick();
    assert_eq!(rig.refuse("beat", Code::CoordinatorLoadInProgress), [""; 0]);
    assert_eq!(rig.tick(), ["beat 1"]);
    rig.refuse("beat", Code::RebalanceInProgress);
    rig.step(Event::Committed);
    for _ in 0..3 {
        assert_eq!(rig.refuse("join", Code::CoordinatorLoadInProgress), [""; 0]);
        assert_eq!(rig.tick(), [r#"join "m" owned [0_0] of 1"#], "the gate is closed already");
    }
}

#[test]
fn a_join_that_moves_away_is_repeated_at_the_new_coordinator() {
    for lost in [true, false] {
        let mut rig = Rig::stable("0_0");
        rig.rebalance();
        rig.step(Event::Committed);
        match lost {
            true => assert_eq!(rig.drop_connection("join"), [""; 0]),
            false => assert_eq!(rig.refuse("join", Code::NotCoordinator), [""; 0]),
        }
        assert_eq!(rig.tick(), ["find"]);
        assert_eq!(rig.reply("find", Reply::Coordinator), [r#"join "m" owned [0_0] of 1"#]);
    }
}

#[test]
fn a_sync_that_is_overtaken_joins_again_at_once_with_what_it_has() {
    let mut rig = Rig::stable("0_0");
    rig.rebalance();
    rig.step(Event::Committed);
    rig.joined(2);
    assert_eq!(rig.refuse("sync", Code::RebalanceInProgress), [r#"join "m" owned [0_0] of 1"#]);
    rig.joined(3);
    assert_eq!(rig.refuse("sync", Code::NotCoordinator), [""; 0]);
    assert_eq!(rig.tick(), ["find"]);
    assert_eq!(rig.reply("find", Reply::Coordinator), [r#"join "m" owned [0_0] of 1"#]);
    assert_eq!(rig.joined(2), ["sync 2 for []"], "the new coordinator knows of generation 1 only");
    assert_eq!(rig.synced(&data("0_0")), ["deliver kept [0_0@2/1] added []", "open 2"]);
}

#[test]
fn pauses_grow_with_failures_and_start_anew_after_success() {
    let mut rig = Rig::new();
    rig.step(Event::Start);
    rig.reply("find", Reply::Coordinator);
    let mut pauses = Vec::new();
    for _ in 0..6 {
        rig.refuse("join", Code::CoordinatorLoadInProgress);
        let before = rig.now;
        rig.tick();
        pauses.push((rig.now - before).as_millis());
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
    rig.joined(1);
    assert_eq!(rig.machine.failures, 6, "a group that does not get an assignment is no success");
    rig.synced(&data(""));
    assert_eq!(rig.machine.failures, 0);
}

#[test]
fn a_fenced_static_member_is_over() {
    for request in ["join", "sync", "beat"] {
        let mut rig = Rig::stable_with(|config| config.instance_id = Some("i".into()), "0_0");
        let mut expected = vec!["lost [0_0]", "fatal Fenced"];
        if request == "beat" {
            rig.tick();
            expected.insert(0, "closed");
        } else {
            rig.rebalance();
            rig.step(Event::Committed);
        }
        if request == "sync" {
            rig.joined(2);
        }
        assert_eq!(rig.refuse(request, Code::FencedInstanceId), expected, "{request}");
        for event in [Event::Tick, Event::Rejoin, Event::Committed, Event::Start] {
            assert_eq!(rig.step(event), [""; 0]);
        }
        assert_eq!(rig.step(Event::Close { leave: true }), ["stopped"]);
    }
}

/// The coordinator moved before it had stored the id it gave: the member is not its own impostor.
#[test]
fn a_static_member_that_a_new_coordinator_does_not_know_joins_anew_once() {
    let mut rig = Rig::with(|config| config.instance_id = Some("i".into()));
    rig.step(Event::Start);
    rig.reply("find", Reply::Coordinator);
    rig.joined(1);
    rig.drop_connection("sync");
    rig.tick();
    assert_eq!(rig.reply("find", Reply::Coordinator), [r#"join "m" owned [] of -1"#]);
    assert_eq!(rig.refuse("join", Code::FencedInstanceId), [""; 0]);
    assert_eq!(rig.tick(), [r#"join "" owned [] of -1"#]);
    rig.joined(2);
    assert_eq!(rig.refuse("sync", Code::FencedInstanceId), ["fatal Fenced"], "this coordinator knows");
}

#[test]
fn what_only_a_person_can_help_is_fatal_and_says_what_to_do() {
    for (code, word) in [
        (Code::InconsistentGroupProtocol, "application id"),
        (Code::InvalidSessionTimeout, "session.timeout.ms"),
        (Code::GroupMaxSizeReached, "group.max.size"),
        (Code::FencedInstanceId, "group.instance.id"),
        (Code::UnreleasedInstanceId, "group.instance.id"),
        (Code::GroupIdNotFound, "application id"),
        (Code::GroupAuthorizationFailed, "READ"),
        (Code::InvalidGroupId, "group id"),
        (Code::UnsupportedVersion, "too old"),
        (Code::Unknown(1234), "1234"),
    ] {
        let mut rig = Rig::new();
        rig.step(Event::Start);
        rig.reply("find", Reply::Coordinator);
        let id = rig.requests["join"];
        let outcome = Err(RpcError::Code(code.code()));
        let actions = rig.machine.step(Event::Answer { id, outcome }, rig.now);
        let [Action::Fatal(error)] = &actions[..] else { panic!("{code:?}: {actions:?}") };
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!(error.code(), Some(code.code()));
    }
}

#[test]
fn a_client_that_cannot_go_on_is_fatal() {
    let mut rig = Rig::new();
    rig.step(Event::Start);
    let outcome = Err(RpcError::Failed(Error::new(ErrorKind::Config, "no TLS")));
    assert_eq!(rig.step(Event::Answer { id: RequestId(1), outcome }), ["fatal Config"]);
}

#[test]
fn an_assignor_of_others_is_refused() {
    let mut rig = Rig::new();
    rig.step(Event::Start);
    rig.reply("find", Reply::Coordinator);
    let joined = Joined { protocol: Some("stream".into()), ..Joined::default() };
    assert_eq!(rig.reply("join", Reply::Joined(joined)), ["fatal Config"]);
}

#[test]
fn an_error_instead_of_an_assignment_ends_the_membership_but_leaves_the_group() {
    for (error, kind) in
        [(AssignmentError::MissingSourceTopics, "fatal Topic"), (AssignmentError::Other(77), "fatal Broker")]
    {
        let mut rig = Rig::stable("0_0");
        rig.rebalance();
        rig.step(Event::Committed);
        rig.joined(2);
        let assignment = AssignmentData { error: Some(error), ..data("") };
        assert_eq!(rig.synced(&assignment), ["lost [0_0]", kind]);
        assert_eq!(rig.step(Event::Close { leave: true }), [r#"leave "m""#]);
        assert_eq!(rig.reply("leave", Reply::Left), ["stopped"]);
    }
}

/// `SHUTDOWN_APPLICATION` (KIP-671): nothing that was processed is processed again at the next start.
#[test]
fn an_application_that_is_to_end_everywhere_commits_and_releases_its_tasks_first() {
    let mut rig = Rig::stable("0_0");
    rig.rebalance();
    rig.step(Event::Committed);
    rig.joined(2);
    let error = Some(AssignmentError::ShutdownRequested);
    let assignment = AssignmentData { error, reason: "member m: no".into(), ..data("") };
    assert_eq!(rig.synced(&assignment), ["deliver kept [] added []", "open 2", "revoke [0_0@2/1]"]);
    assert_eq!(rig.step(Event::Revoked(vec!["0_0".parse().unwrap()])), ["closed", "fatal Closed"]);
    assert_eq!(rig.step(Event::Close { leave: true }), [r#"leave "m""#]);
    assert_eq!(rig.reply("leave", Reply::Left), ["stopped"]);
}

#[test]
fn a_broken_assignment_is_fatal_and_none_is_no_tasks() {
    let mut rig = Rig::stable("0_0");
    rig.rebalance();
    rig.step(Event::Committed);
    rig.joined(2);
    assert_eq!(
        rig.reply("sync", Reply::Synced(Bytes::new())),
        ["deliver kept [] added []", "open 2", "revoke [0_0@2/1]"]
    );
    rig.step(Event::Revoked(tasks("0_0")));
    rig.joined(3);
    assert_eq!(rig.reply("sync", Reply::Synced(Bytes::from_static(b"??"))), ["closed", "fatal Corrupt"][1..]);
}

#[test]
fn a_refused_commit_asks_the_coordinator_at_once() {
    let mut rig = Rig::stable("0_0");
    assert_eq!(rig.step(Event::CommitRefused { generation: 0 }), [""; 0], "of a generation that is over");
    assert_eq!(rig.step(Event::CommitRefused { generation: 1 }), ["beat 1"]);
}

#[test]
fn a_dynamic_member_leaves_at_close() {
    let mut rig = Rig::stable("0_0");
    assert_eq!(rig.step(Event::Close { leave: true }), ["closed", r#"leave "m""#]);
    assert_eq!(rig.step(Event::Close { leave: true }), [""; 0]);
    assert_eq!(rig.reply("leave", Reply::Left), ["stopped"]);
    for event in [Event::Start, Event::Tick, Event::Close { leave: true }] {
        assert_eq!(rig.step(event), [""; 0]);
    }
}

#[test]
fn leaving_survives_a_coordinator_that_moves_but_not_for_ever() {
    let mut rig = Rig::stable("0_0");
    let start = rig.now;
    rig.step(Event::Close { leave: true });
    assert_eq!(rig.refuse("leave", Code::NotCoordinator), [""; 0]);
    assert_eq!(rig.tick(), ["find"]);
    assert_eq!(rig.reply("find", Reply::Coordinator), [r#"leave "m""#]);
    assert_eq!(rig.drop_connection("leave"), [""; 0]);
    assert_eq!(rig.tick(), ["find"]);
    assert_eq!(rig.tick(), ["stopped"]);
    assert_eq!(rig.now - start, seconds(5));
    let mut rig = Rig::stable("0_0");
    rig.step(Event::Close { leave: true });
    assert_eq!(rig.refuse("leave", Code::UnknownMemberId), ["stopped"]);
}

#[test]
fn who_does_not_leave_stops_at_once() {
    let mut rig = Rig::stable_with(|config| config.instance_id = Some("i".into()), "0_0");
    assert_eq!(rig.step(Event::Close { leave: false }), ["closed", "stopped"], "a static member stays");
    let mut rig = Rig::stable_with(|config| config.instance_id = Some("i".into()), "0_0");
    assert_eq!(
        rig.step(Event::Close { leave: true }),
        ["closed", r#"leave "m""#],
        "or leaves, if it is told to"
    );
    let mut rig = Rig::stable("0_0");
    assert_eq!(rig.step(Event::Close { leave: false }), ["closed", "stopped"]);
    let mut rig = Rig::new();
    assert_eq!(rig.step(Event::Close { leave: true }), ["stopped"], "it never was a member");
    let mut rig = Rig::new();
    rig.step(Event::Start);
    rig.reply("find", Reply::Coordinator);
    assert_eq!(rig.step(Event::Close { leave: true }), ["stopped"]);
    assert_eq!(rig.joined(1), [""; 0]);
}

#[test]
fn close_while_joining_leaves_under_the_member_id() {
    let mut rig = Rig::stable("0_0");
    rig.rebalance();
    rig.step(Event::Committed);
    assert_eq!(rig.step(Event::Close { leave: true }), [r#"leave "m""#]);
    assert_eq!(rig.refuse("join", Code::UnknownMemberId), [""; 0]);
    assert_eq!(rig.reply("leave", Reply::Left), ["stopped"]);
}

#[test]
fn two_of_the_same_task_in_an_assignment_are_one() {
    let mut rig = Rig::new();
    rig.step(Event::Start);
    rig.reply("find", Reply::Coordinator);
    rig.joined(1);
    assert_eq!(rig.synced(&data("0_0 0_0")), ["deliver kept [] added [0_0@1/1]", "open 1"]);
}

/// While JoinGroup or SyncGroup waits the machine asks to be woken, so that it knows when it was not.
#[test]
fn a_member_that_stood_still_while_it_waited_loses_its_tasks() {
    let mut rig = Rig::stable("0_0");
    rig.rebalance();
    assert_eq!(rig.step(Event::Committed), ["closed", r#"join "m" owned [0_0] of 1"#]);
    assert_eq!(rig.joined(2), ["sync 2 for []"]);
    let permit = rig.machine.permit_until();
    rig.now = rig.machine.session_until;
    // An answer that was written before the freeze proves nothing.
    assert_eq!(rig.synced(&data("0_0")), ["lost [0_0]", r#"join "m" owned [] of -1"#]);
    assert_eq!(rig.machine.permit_until(), permit, "nothing may be written before the group answers");
}

/// The coordinator removes who does not join within the rebalance timeout, which is shorter than the session.
#[test]
fn nothing_is_written_once_a_rebalance_may_be_over_without_the_member() {
    let mut rig = Rig::stable("0_0");
    let rebalance_timeout = GroupConfig::new("g").rebalance_timeout;
    let joined = rig.now;
    assert_eq!(rig.machine.permit_until(), joined + rebalance_timeout);
    rig.rebalance();
    rig.step(Event::Committed);
    let permit = rig.machine.permit_until();
    assert!(
        permit <= rig.now + rebalance_timeout,
        "to be told of a rebalance is no proof of having joined it"
    );
    // JoinGroup waits, if it has arrived.
    while rig.now < permit {
        rig.now += Duration::from_secs(1);
        rig.step(Event::Tick);
    }
    assert_eq!(rig.machine.permit_until(), permit);
    assert!(rig.machine.session_until > rig.now, "the tasks are kept");
    let stepped = rig.now;
    rig.now += Duration::from_secs(10);
    assert_eq!(rig.joined(2), ["sync 2 for []"]);
    let answered = "the answer may be as old as the last look at the mailbox";
    assert_eq!(rig.machine.permit_until(), stepped + rebalance_timeout, "{answered}");
}

#[test]
fn a_member_that_stood_still_while_it_joined_begins_anew_with_the_answer() {
    let mut rig = Rig::stable("0_0");
    rig.rebalance();
    rig.step(Event::Committed);
    rig.now = rig.machine.session_until;
    assert_eq!(rig.joined(2), ["lost [0_0]", "sync 2 for []"]);
    assert_eq!(rig.synced(&data("0_0")), ["deliver kept [] added [0_0@2/2]", "open 2"]);
}

/// The coordinator gives a static member that is back what it had before, without a rebalance.
#[test]
fn what_was_stored_for_an_earlier_process_is_not_taken() {
    let shape = |shape| AssignmentData { shape, ..data("0_0") };
    let error = |error| AssignmentData { error: Some(error), ..data("") };
    let own = SubscriptionData::new(uuid::Uuid::nil(), 1).shape();
    for (stored, taken) in [
        (shape(0), true),
        (shape(own), true),
        (shape(own ^ 1), false),
        (error(AssignmentError::ShutdownRequested), false),
        (error(AssignmentError::OtherTopology), false),
        (error(AssignmentError::IncompatibleVersions), false),
    ] {
        let mut rig = Rig::with(|config| config.instance_id = Some("i".into()));
        rig.step(Event::Start);
        rig.reply("find", Reply::Coordinator);
        rig.joined(3);
        let lines = rig.synced(&stored);
        if taken {
            assert_eq!(lines, ["deliver kept [] added [0_0@3/1]", "open 3"], "{stored:?}");
            continue;
        }
        assert_eq!(lines, [r#"join "m" owned [] of -1"#], "{stored:?}");
        // The answer of a leader that has thought again is taken, whatever it is.
        rig.joined(4);
        let lines = rig.synced(&stored);
        assert!(!lines.iter().any(|line| line.starts_with("join")), "{stored:?}: {lines:?}");
    }
    let mut dynamic = Rig::new();
    dynamic.step(Event::Start);
    dynamic.reply("find", Reply::Coordinator);
    dynamic.joined(3);
    let lines = dynamic.synced(&shape(own ^ 1));
    assert_eq!(lines, ["deliver kept [] added [0_0@3/1]", "open 3"], "nobody was there before");
}
