//! What the fuzz target `group` does: a member whose coordinator and fellow members say whatever they like.
//!
//! The input is a list of pieces, each a byte that says what it is, its length in two bytes, and its bytes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use uuid::Uuid;

use super::assignor::SubTopology;
use super::event::{Action, Event, Joined, Reply, RequestId, RpcError};
use super::leader::{Terms, lead};
use super::membership::Membership;
use super::offset_metadata::OffsetMetadata;
use super::protocol::{read_assignment, read_subscription, write_assignment, write_subscription};
use super::user_data::{ActiveTask, AssignmentData, Instance, SubscriptionData};
use crate::{TaskId, TopicPartition};

/// Far more than an input of some kilobytes holds usefully.
const MOST_STEPS: usize = 256;

/// A member, and what it waits for.
struct Scene {
    member: Membership,
    now: Duration,
    /// Requests without an answer, the oldest first.
    pending: Vec<RequestId>,
    /// What fellow members say of themselves.
    others: Vec<Bytes>,
    subtopologies: Vec<SubTopology>,
    partitions: BTreeMap<Arc<str>, i32>,
    steps: usize,
}

fn subtopologies() -> Vec<SubTopology> {
    let of = |id: i32, topic: &str, stateful| SubTopology {
        id,
        fingerprint: 7 + id as u64,
        topics: vec![topic.into()],
        tasks: 3,
        stateful,
    };
    vec![of(0, "t", false), of(1, "r", true)]
}

fn own_data() -> SubscriptionData {
    let fingerprints = subtopologies().iter().map(|part| (part.id, part.fingerprint)).collect();
    SubscriptionData { fingerprints, ..SubscriptionData::new(Uuid::from_u128(1), 2) }
}

impl Scene {
    fn step(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            self.steps += 1;
            if self.steps > MOST_STEPS {
                return;
            }
            for action in self.member.step(event, self.now) {
                match action {
                    Action::Send { id, .. } => self.pending.push(id),
                    Action::Assign { generation, members } => {
                        let terms = Terms { retry_moves: Duration::from_secs(30), acceptable_lag: 10_000 };
                        let decision = lead(&members, &self.subtopologies, &self.partitions, &terms);
                        for (_, data) in &decision.assignments {
                            // What a leader writes its members can read.
                            let Ok(bytes) = write_assignment(data) else { continue };
                            assert!(read_assignment(&bytes).is_ok(), "an assignment that nobody can read");
                        }
                        events.push(Event::Assigned { generation, outcome: Ok(decision.assignments) });
                    }
                    Action::Revoke(leases) => {
                        events.push(Event::Revoked(leases.into_iter().map(|lease| lease.task).collect()))
                    }
                    Action::Fence(tasks) => events.push(Event::Revoked(tasks)),
                    Action::FlushAndCommit => events.push(Event::Committed),
                    _ => {}
                }
            }
        }
    }

    fn answer(&mut self, outcome: Result<Reply, RpcError>) {
        if !self.pending.is_empty() {
            let id = self.pending.remove(0);
            self.step(Event::Answer { id, outcome });
        }
    }

    fn piece(&mut self, what: u8, bytes: &[u8]) {
        let number = bytes.iter().take(4).fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
        match what {
            0 => {
                if let Ok(subscription) = read_subscription(bytes) {
                    // What was read can be written, unless names are too long.
                    if let Ok(again) = subscription.data.encode() {
                        assert!(SubscriptionData::decode(&again).is_ok(), "{:?}", subscription.data);
                    }
                }
                self.others.push(Bytes::copy_from_slice(bytes));
            }
            1 => self.answer(Ok(Reply::Synced(Bytes::copy_from_slice(bytes)))),
            2 => drop(std::str::from_utf8(bytes).map(OffsetMetadata::decode)),
            3 => self.answer(Err(RpcError::Code(number as i16))),
            4 => {
                let leads = number % 2 == 0;
                let others = self.others.iter().enumerate();
                let members =
                    others.map(|(at, metadata)| (format!("m{at}"), None, metadata.clone())).collect();
                let joined = Joined {
                    generation: number as i32 >> 1,
                    member_id: "m0".to_owned(),
                    leader: if leads { "m0" } else { "m1" }.to_owned(),
                    skip_assignment: number % 7 == 3,
                    protocol: Some("mainstem".to_owned()),
                    members: if leads { members } else { Vec::new() },
                };
                self.answer(Ok(Reply::Joined(joined)));
            }
            5 => {
                self.now += Duration::from_millis(u64::from(number % 60_000));
                self.step(Event::Tick);
            }
            6 => self.answer(Ok(match number % 4 {
                0 => Reply::Coordinator,
                1 => Reply::MemberId("m0".to_owned()),
                2 => Reply::Alive,
                _ => Reply::Left,
            })),
            7 => self.step(match number % 3 {
                0 => Event::Rejoin,
                1 => Event::CoordinatorLost,
                _ => Event::CommitRefused { generation: number as i32 >> 2 },
            }),
            _ => drop(read_assignment(bytes)),
        }
    }
}

/// Runs the pieces of an input.
pub(crate) fn run(mut bytes: &[u8]) {
    let config = super::GroupConfig::new("g");
    let Ok(member) = Membership::new(config, vec!["t".to_owned(), "r".to_owned()], own_data()) else {
        return;
    };
    let partitions = [("t".into(), 3), ("r".into(), 3)].into();
    let (now, pending, others) = (Duration::ZERO, Vec::new(), Vec::new());
    let mut scene =
        Scene { member, now, pending, others, subtopologies: subtopologies(), partitions, steps: 0 };
    scene.step(Event::Start);
    while let (Ok(what), Ok(length)) = (bytes.try_get_u8(), bytes.try_get_u16()) {
        let (piece, rest) = bytes.split_at(bytes.len().min(usize::from(length)));
        scene.piece(what, piece);
        bytes = rest;
    }
    scene.step(Event::Close { leave: true });
}

/// Inputs that reach something, by name.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut other = SubscriptionData::new(Uuid::from_u128(2), 1);
    other.fingerprints = own_data().fingerprints;
    other.owned = vec![TaskId::new(0, 1)];
    other.checkpoints.insert((TaskId::new(1, 0), "store".to_owned()), 5);
    other.transactional_ids = vec!["g-2-0".to_owned()];
    other.tags.insert("zone".to_owned(), "a".to_owned());
    let topics = ["t".to_owned(), "r".to_owned()];
    let owned = [TopicPartition::new("t", 1)];
    let subscription =
        |data: &SubscriptionData| write_subscription(&topics, owned.iter(), 3, data).unwrap_or_default();
    let active = ActiveTask { task: TaskId::new(0, 0), partitions: vec![TopicPartition::new("t", 0)] };
    let instance = Instance {
        id: Uuid::from_u128(2),
        endpoint: "h:1".to_owned(),
        transactional_ids: vec!["g-2-0".to_owned()],
        active: vec![TaskId::new(0, 1)],
        standby: vec![TaskId::new(1, 2)],
    };
    let assigned = AssignmentData {
        active: vec![active],
        instances: vec![instance],
        next_rebalance_ms: 1_000,
        ..AssignmentData::default()
    };
    let assignment = write_assignment(&assigned).unwrap_or_default();
    let metadata = OffsetMetadata { partition_time: 7, processors: [("p".to_owned(), 3)].into() }.encode();
    let pieces = |pieces: &[(u8, &[u8])]| {
        let mut out = BytesMut::new();
        for (what, bytes) in pieces {
            out.put_u8(*what);
            out.put_u16(u16::try_from(bytes.len()).unwrap_or(0));
            out.put_slice(&bytes[..bytes.len().min(usize::from(u16::MAX))]);
        }
        out.to_vec()
    };
    let (own, other) = (subscription(&own_data()), subscription(&other));
    let leads: &[u8] = &[0, 0, 0, 2];
    let follows: &[u8] = &[0, 0, 0, 5];
    vec![
        (
            "leader",
            pieces(&[
                (6, &[0]),
                (6, &[1]),
                (0, &own),
                (0, &other),
                (4, leads),
                (1, &assignment),
                (5, &[0x0b, 0xb8]),
                (6, &[2]),
            ]),
        ),
        (
            "follower",
            pieces(&[
                (6, &[0]),
                (4, follows),
                (1, &assignment),
                (5, &[0x0b, 0xb8]),
                (3, &[0, 27]),
                (4, follows),
                (1, &[]),
            ]),
        ),
        (
            "refused",
            pieces(&[
                (6, &[0]),
                (3, &[0, 79]),
                (6, &[1]),
                (3, &[0, 16]),
                (5, &[4, 0]),
                (6, &[0]),
                (3, &[0, 25]),
                (7, &[0]),
            ]),
        ),
        ("bytes", pieces(&[(0, &other), (2, metadata.as_bytes()), (8, &assignment), (0, &own)])),
    ]
}
