//! Random interleavings of answers, losses and duplicates, against a coordinator that keeps the protocol's rules: nothing
//! that was aborted is committed, nothing that was committed is lost, and nothing hangs.

use std::time::{Duration, Instant};

use kafka_protocol::error::ResponseError as E;
use proptest::prelude::*;

use crate::client::error_table::{CallSite, broker_error};
use crate::client::produce::config::ProducerConfig;
use crate::client::produce::transaction::machine::{Ask, Machine, Said};
use crate::client::produce::transaction::*;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Net {
    Fine,
    /// It never arrives.
    Lost,
    /// It arrives, its answer does not.
    AnswerLost,
    /// It arrives after the next request, too.
    Twice,
    /// The broker refuses for now.
    Busy,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// A batch of this partition is to be sent, and arrives, or is given up.
    Batch(usize, bool),
    Commit,
    Abort,
    /// One question and its answer.
    Ask(Net),
    /// The coordinator's patience with the open transaction is over.
    TimeOut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Empty,
    Ongoing,
    Committed,
    Aborted,
}

/// The coordinator: transactions by the epoch they were written in, and their number.
#[derive(Debug)]
struct Coordinator {
    v2: bool,
    epoch: i16,
    state: State,
    /// The numbers of the writes of the open transaction, and of those that are committed.
    open: Vec<u64>,
    committed: Vec<u64>,
    aborted: Vec<u64>,
}

impl Coordinator {
    fn identity(&self) -> Option<Identity> {
        Some(Identity { producer_id: 1, epoch: self.epoch })
    }

    fn abort(&mut self) {
        self.aborted.append(&mut self.open);
        self.state = State::Aborted;
    }

    fn handle(&mut self, ask: &Ask, by: Option<Identity>) -> Result<Said, E> {
        let by = by.map(|identity| identity.epoch);
        match ask {
            Ask::Init => {
                if self.state == State::Ongoing {
                    self.abort();
                    self.epoch += 1;
                    return Err(E::ConcurrentTransactions);
                }
                // The epoch before: the answer was lost, and it is asked again (KIP-360).
                match by {
                    Some(epoch) if epoch + 1 == self.epoch && !self.v2 => {}
                    Some(epoch) if epoch != self.epoch => return Err(E::ProducerFenced),
                    _ => self.epoch += 1,
                }
                self.state = State::Empty;
                Ok(Said { identity: self.identity(), v2: self.v2 })
            }
            Ask::AddPartitions(_) | Ask::AddOffsets | Ask::CommitOffsets => {
                if by != Some(self.epoch) {
                    return Err(E::ProducerFenced);
                }
                self.state = State::Ongoing;
                Ok(Said::default())
            }
            Ask::End { commit } if self.v2 => {
                let again = by.map(|epoch| epoch + 1) == Some(self.epoch);
                let said = Said { identity: self.identity(), v2: true };
                match (self.state, commit) {
                    (State::Committed, true) | (State::Aborted, false) if again => return Ok(said),
                    (State::Committed, false) | (State::Aborted, true) if again => {
                        return Err(E::InvalidTxnState);
                    }
                    _ if by != Some(self.epoch) => return Err(E::ProducerFenced),
                    (State::Ongoing, true) => {
                        self.committed.append(&mut self.open);
                        self.state = State::Committed;
                    }
                    (_, true) => return Err(E::InvalidTxnState),
                    (_, false) => self.abort(),
                }
                self.epoch += 1;
                Ok(Said { identity: self.identity(), v2: true })
            }
            Ask::End { commit } => {
                if by != Some(self.epoch) {
                    return Err(E::ProducerFenced);
                }
                match (self.state, commit) {
                    (State::Ongoing, true) => {
                        self.committed.append(&mut self.open);
                        self.state = State::Committed;
                    }
                    (State::Ongoing, false) => self.abort(),
                    (State::Committed, true) | (State::Aborted, false) => {}
                    _ => return Err(E::InvalidTxnState),
                }
                Ok(Said::default())
            }
        }
    }
}

fn site(ask: &Ask) -> CallSite {
    match ask {
        Ask::Init => CallSite::InitProducerId,
        Ask::AddPartitions(_) | Ask::AddOffsets => CallSite::Transaction,
        Ask::CommitOffsets => CallSite::TxnOffsetCommit,
        Ask::End { .. } => CallSite::EndTxn,
    }
}

struct World {
    machine: Machine,
    coordinator: Coordinator,
    now: Instant,
    /// Writes since the last end, and those that were told to be committed or aborted.
    written: Vec<u64>,
    told_committed: Vec<u64>,
    told_aborted: Vec<u64>,
    /// Of a commit whose outcome is open.
    ending: Option<bool>,
    next: u64,
    wandering: Option<(Ask, Option<Identity>)>,
}

impl World {
    fn new(v2: bool) -> Self {
        Self {
            machine: Machine::new(Duration::from_secs(10), &ProducerConfig::default()),
            coordinator: Coordinator {
                v2,
                epoch: -1,
                state: State::Empty,
                open: Vec::new(),
                committed: Vec::new(),
                aborted: Vec::new(),
            },
            now: clock::monotonic(),
            written: Vec::new(),
            told_committed: Vec::new(),
            told_aborted: Vec::new(),
            ending: None,
            next: 0,
            wandering: None,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Batch(place, arrives) => self.batch(place, arrives),
            Step::Commit | Step::Abort if self.ending.is_some() => {}
            Step::Commit => {
                let offsets = vec![(TopicPartition::new("in", 0), CommittedOffset::new(1))];
                self.ending = Some(true);
                self.machine.end(End::Commit { group: GroupMetadata::new("g"), offsets });
            }
            Step::Abort => {
                self.ending = Some(false);
                self.machine.end(End::Abort);
            }
            Step::Ask(net) => self.ask(net),
            Step::TimeOut => {
                if self.coordinator.state == State::Ongoing {
                    self.coordinator.abort();
                    self.coordinator.epoch += 1;
                }
            }
        }
        self.take_ended();
    }

    fn batch(&mut self, place: usize, arrives: bool) {
        if self.ending.is_some() || !self.machine.admits(place) {
            return;
        }
        let epoch = self.machine.identity().unwrap().epoch;
        let number = self.next;
        self.next += 1;
        if !arrives {
            self.machine.batch_failed(&Error::new(ErrorKind::Timeout, "given up"));
            return;
        }
        if epoch != self.coordinator.epoch {
            let fenced = broker_error(E::InvalidProducerEpoch.code(), CallSite::Produce).unwrap();
            self.machine.batch_failed(&fenced);
            return;
        }
        if self.coordinator.v2 {
            self.coordinator.state = State::Ongoing;
        }
        assert_eq!(self.coordinator.state, State::Ongoing, "nothing is written outside of a transaction");
        self.coordinator.open.push(number);
        self.written.push(number);
    }

    fn ask(&mut self, net: Net) {
        self.now += Duration::from_secs(3);
        let Some(ask) = self.machine.next(self.now, true, true) else { return };
        let by = self.machine.identity();
        let lost = || Err(Error::new(ErrorKind::Connection, "lost").with_class(ErrorClass::Retriable));
        let carried = |world: &mut Self| {
            let answer = world.coordinator.handle(&ask, by);
            answer.map_err(|code| broker_error(code.code(), site(&ask)).unwrap())
        };
        let answer = match net {
            Net::Fine => carried(self),
            Net::Lost => lost(),
            Net::AnswerLost => {
                drop(carried(self));
                lost()
            }
            Net::Twice => {
                let answer = carried(self);
                // In version 1 a late EndTxn ends whatever is open in its epoch, and nobody can tell: the reason for
                // version 2. Connections that are given up are reset, so that nothing waits in them.
                if self.coordinator.v2 || !matches!(ask, Ask::End { .. }) {
                    self.wandering = Some((ask.clone(), by));
                }
                answer
            }
            Net::Busy => Err(broker_error(E::CoordinatorLoadInProgress.code(), site(&ask)).unwrap()),
        };
        if net != Net::Twice
            && let Some((ask, by)) = self.wandering.take()
            // A late InitProducerId without an epoch is a newcomer: that fences, as it must.
            && by.is_some()
        {
            let _ = self.coordinator.handle(&ask, by);
        }
        self.machine.answered(answer, self.now);
        self.machine.take_renewed();
    }

    fn take_ended(&mut self) {
        let Some(ended) = self.machine.take_ended() else { return };
        let asked = self.ending.take().expect("nothing ends by itself");
        match ended {
            Ended::Committed => {
                assert!(asked);
                self.told_committed.append(&mut self.written);
            }
            Ended::Aborted => {
                assert!(!asked);
                self.told_aborted.append(&mut self.written);
            }
            Ended::Failed(error) => {
                // Only of who is dead the outcome may be open; what has to be aborted is not committed.
                let open = self.machine.is_dead();
                let committed = self.written.iter().any(|w| self.coordinator.committed.contains(w));
                assert!(open || !committed, "{error:?}");
            }
        }
        for told in &self.told_committed {
            assert!(self.coordinator.committed.contains(told), "{told} was told to be committed");
        }
        for told in &self.told_aborted {
            assert!(!self.coordinator.committed.contains(told), "{told} was told to be aborted");
        }
    }

    /// With a network that works, everything comes to its end.
    fn settle(&mut self) {
        for end in [None, Some(Step::Abort), Some(Step::Commit)] {
            if let Some(end) = end {
                self.step(end);
            }
            for _ in 0..12 {
                self.step(Step::Ask(Net::Fine));
            }
            assert!(self.ending.is_none(), "it hangs: {:?}", self.machine);
        }
        assert!(self.machine.is_dead() || self.machine.is_ready(), "{:?}", self.machine);
    }
}

fn step() -> impl Strategy<Value = Step> {
    let net = prop_oneof![
        6 => Just(Net::Fine),
        1 => Just(Net::Lost),
        2 => Just(Net::AnswerLost),
        1 => Just(Net::Twice),
        1 => Just(Net::Busy),
    ];
    prop_oneof![
        6 => (0..3usize, prop::bool::weighted(0.95)).prop_map(|(place, arrives)| Step::Batch(place, arrives)),
        3 => Just(Step::Commit),
        1 => Just(Step::Abort),
        12 => net.prop_map(Step::Ask),
        1 => prop::bool::weighted(0.1).prop_map(|out| if out { Step::TimeOut } else { Step::Ask(Net::Fine) }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_is_aborted_stays_aborted_and_what_is_committed_stays(
        v2 in any::<bool>(),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut world = World::new(v2);
        for step in steps {
            world.step(step);
        }
        world.settle();
    }
}
