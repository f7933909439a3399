//! Random requests of several producers that hold old and new numbers, against what must hold whatever they do.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const IDS: [&str; 2] = ["a", "b"];
const TIMEOUT_MS: i32 = 1_000;
const TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
enum Step {
    /// Of which id, and which of the producers that were ever told says what it holds (`None`: a newcomer).
    Init(usize, Option<prop::sample::Index>),
    Add(usize, prop::sample::Index, i32),
    Verify(usize, prop::sample::Index, i32),
    End(usize, prop::sample::Index, bool),
    /// Some of the markers arrive.
    Write(Vec<bool>),
    Pass(u64),
    Exhaust(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0..IDS.len();
    let who = any::<prop::sample::Index>();
    prop_oneof![
        3 => (id.clone(), prop::option::of(who.clone())).prop_map(|(id, who)| Step::Init(id, who)),
        6 => (id.clone(), who.clone(), 0..3).prop_map(|(id, who, part)| Step::Add(id, who, part)),
        2 => (id.clone(), who.clone(), 0..3).prop_map(|(id, who, part)| Step::Verify(id, who, part)),
        6 => (id.clone(), who, any::<bool>()).prop_map(|(id, who, commit)| Step::End(id, who, commit)),
        6 => prop::collection::vec(any::<bool>(), 0..6).prop_map(Step::Write),
        3 => (0..600u64).prop_map(Step::Pass),
        1 => id.prop_map(Step::Exhaust),
    ]
}

/// What the model knows of an id.
#[derive(Debug, Default)]
struct Known {
    /// All producers it was ever told, the newest last.
    told: Vec<Producer>,
    /// Participants of the transaction that is open or ending, and how many markers each got.
    open: BTreeMap<Participant, usize>,
    /// Whether it is ending, and how.
    ending: Option<bool>,
    started: Option<Instant>,
    /// The newest epoch that was told or written.
    newest: Option<Producer>,
}

impl Known {
    /// Epochs of a producer id grow; another id is one that was never there.
    fn see(&mut self, producer: Producer) {
        if let Some(newest) = self.newest {
            let forward = match producer.id == newest.id {
                true => producer.epoch >= newest.epoch,
                false => producer.epoch == 0 && self.told.iter().all(|told| told.id != producer.id),
            };
            assert!(forward, "{newest:?} then {producer:?}");
        }
        self.newest = Some(producer);
    }
}

#[derive(Debug)]
struct World {
    coordinator: Transactions,
    ids: [Known; 2],
    now: Instant,
}

impl World {
    fn who(&self, id: usize, index: &prop::sample::Index) -> Option<Producer> {
        let told = &self.ids[id].told;
        (!told.is_empty()).then(|| told[index.index(told.len())])
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Init(id, who) => self.init(id, who),
            Step::Add(id, who, part) => {
                let Some(producer) = self.who(id, &who) else { return };
                let participant = participant(part);
                let answer = self.coordinator.add(self.now, IDS[id], producer, [participant.clone()]);
                let known = &mut self.ids[id];
                if answer.is_ok() {
                    assert_eq!(known.newest, Some(producer), "only the newest may add");
                    assert_eq!(known.ending, None, "no transaction opens before the last one has ended");
                    if known.open.is_empty() {
                        known.started = Some(self.now);
                    }
                    known.open.entry(participant).or_default();
                } else {
                    assert!(known.newest != Some(producer) || known.ending.is_some(), "{answer:?}");
                }
            }
            Step::Verify(id, who, part) => {
                let Some(producer) = self.who(id, &who) else { return };
                let participant = participant(part);
                let known = &self.ids[id];
                let may = known.newest == Some(producer)
                    && known.ending.is_none()
                    && known.open.contains_key(&participant);
                assert_eq!(self.coordinator.may_write(IDS[id], producer, &participant).is_ok(), may);
            }
            Step::End(id, who, commit) => {
                let Some(producer) = self.who(id, &who) else { return };
                let answer = self.coordinator.end(IDS[id], producer, commit);
                let known = &mut self.ids[id];
                if known.newest != Some(producer) {
                    assert!(answer.is_err(), "a fenced producer ends nothing");
                } else if !known.open.is_empty() && known.ending.is_none() {
                    assert_eq!(answer, Ok(()));
                    known.ending = Some(commit);
                }
            }
            Step::Write(which) => {
                let markers = self.coordinator.markers();
                for (marker, _) in markers.iter().zip(which).filter(|(_, arrives)| *arrives) {
                    self.write(marker);
                }
            }
            Step::Pass(by) => {
                self.now += Duration::from_millis(by);
                self.coordinator.tick(self.now);
                for known in &mut self.ids {
                    if !known.open.is_empty()
                        && known.ending.is_none()
                        && known.started.is_some_and(|at| self.now >= at + TIMEOUT)
                    {
                        known.fence();
                    }
                }
                assert!(self.coordinator.next_deadline().is_none_or(|at| at > self.now));
            }
            Step::Exhaust(id) => {
                let known = &mut self.ids[id];
                let Some(newest) = known.newest else { return };
                if known.open.is_empty() && known.told.last() == Some(&newest) && newest.epoch < 30_000 {
                    self.coordinator.transaction(IDS[id]).unwrap().skip_to_epoch(i16::MAX - 3);
                    let skipped = Producer { epoch: i16::MAX - 3, ..newest };
                    known.told.push(skipped);
                    known.newest = Some(skipped);
                }
            }
        }
        self.check();
    }

    fn init(&mut self, id: usize, who: Option<prop::sample::Index>) {
        let expected = who.and_then(|index| self.who(id, &index));
        let answer = self.coordinator.init_producer_id(Some(IDS[id]), TIMEOUT_MS, 1_000, expected);
        let known = &mut self.ids[id];
        match answer {
            Ok(producer) => {
                assert!(known.open.is_empty(), "nobody begins while a transaction is open");
                let retry = expected.is_some() && known.newest == Some(producer);
                assert!(retry || known.newest != Some(producer), "a newcomer has an epoch of its own");
                known.see(producer);
                known.told.push(producer);
            }
            Err(Code::ConcurrentTransactions) => {
                assert!(!known.open.is_empty());
                if known.ending.is_none() {
                    known.fence();
                }
            }
            Err(code) => {
                assert_eq!(code, Code::ProducerFenced);
                let expected = expected.expect("a newcomer is never fenced");
                assert_ne!(known.newest, Some(expected));
            }
        }
    }

    fn write(&mut self, marker: &Marker) {
        self.coordinator.marker_written(marker);
        let id = IDS.iter().position(|id| *id == marker.transactional_id).unwrap();
        let known = &mut self.ids[id];
        assert_eq!(known.ending, Some(marker.commit), "nobody is told anything else");
        known.see(marker.producer);
        let times = known.open.get_mut(&marker.participant).expect("only who was added is told");
        *times += 1;
        assert_eq!(*times, 1, "and once");
        if known.open.values().all(|times| *times == 1) {
            known.open.clear();
            known.ending = None;
        }
    }

    fn check(&self) {
        for (id, known) in IDS.iter().zip(&self.ids) {
            let waiting: Vec<_> =
                self.coordinator.markers().into_iter().filter(|m| m.transactional_id == *id).collect();
            let missing = match known.ending {
                Some(_) => known.open.values().filter(|times| **times == 0).count(),
                None => 0,
            };
            assert_eq!(waiting.len(), missing);
        }
    }
}

impl Known {
    fn fence(&mut self) {
        self.ending = Some(false);
        if let Some(newest) = &mut self.newest {
            newest.epoch += 1;
        }
    }
}

fn participant(number: i32) -> Participant {
    match number {
        0 => Participant::Group("g".to_owned()),
        partition => Participant::Partition(TopicPartition::new("t", partition)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn epochs_grow_transactions_do_not_overlap_and_everybody_is_told_once(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World { coordinator: Transactions::default(), ids: Default::default(), now: crate::clock::monotonic() };
        for step in steps {
            world.step(step);
        }
    }
}
