//! A membership over a scripted coordinator, in real time: orders and counts only.

use std::collections::VecDeque;
use std::sync::Mutex;

use kafka_protocol::ResponseError as Code;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::super::config::GroupConfig;
use super::super::event::Member;
use super::super::user_data::{ActiveTask, AssignmentData, SubscriptionData};
use super::*;
use crate::{TaskId, TopicPartition};

/// What the coordinator does with the next requests of a kind before it is good again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mischief {
    Refuse(Code),
    Silence,
    Panic,
}

#[derive(Default)]
struct Fake {
    seen: Mutex<Vec<&'static str>>,
    script: Mutex<HashMap<&'static str, VecDeque<Mischief>>>,
    generation: Mutex<i32>,
}

impl Fake {
    fn plan(&self, request: &'static str, mischief: Mischief) {
        self.script.lock().unwrap().entry(request).or_default().push_back(mischief);
    }

    fn count(&self, request: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|seen| **seen == request).count()
    }

    async fn enter(&self, request: &'static str) -> Result<(), RpcError> {
        self.seen.lock().unwrap().push(request);
        let mischief = self.script.lock().unwrap().get_mut(request).and_then(VecDeque::pop_front);
        match mischief {
            None => Ok(()),
            Some(Mischief::Refuse(code)) => Err(RpcError::Code(code.code())),
            Some(Mischief::Silence) => pending().await,
            Some(Mischief::Panic) => panic!("as planned"),
        }
    }
}

impl GroupRpc for Fake {
    async fn find_coordinator(&self) -> Result<(), RpcError> {
        self.enter("find").await
    }

    async fn join(
        &self,
        member_id: String,
        metadata: Bytes,
        _reason: &'static str,
    ) -> Result<JoinOutcome, RpcError> {
        self.enter("join").await?;
        if member_id.is_empty() {
            return Ok(JoinOutcome::MemberId("m".to_owned()));
        }
        let generation = {
            let mut generation = self.generation.lock().unwrap();
            *generation += 1;
            *generation
        };
        Ok(JoinOutcome::Joined(Joined {
            generation,
            leader: member_id.clone(),
            members: vec![(member_id.clone(), None, metadata)],
            member_id,
            ..Joined::default()
        }))
    }

    async fn sync(
        &self,
        _generation: i32,
        member_id: String,
        assignments: Vec<(String, Bytes)>,
    ) -> Result<Bytes, RpcError> {
        self.enter("sync").await?;
        Ok(assignments
            .into_iter()
            .find(|(id, _)| *id == member_id)
            .map(|(_, bytes)| bytes)
            .unwrap_or_default())
    }

    async fn heartbeat(&self, _generation: i32, _member_id: String) -> Result<(), RpcError> {
        self.enter("beat").await
    }

    async fn leave(&self, _member_id: String) -> Result<(), RpcError> {
        self.enter("leave").await
    }
}

struct Rig {
    fake: Arc<Fake>,
    mailbox: UnboundedSender<Event>,
    outbox: UnboundedReceiver<Action>,
    driver: JoinHandle<()>,
}

impl Rig {
    fn start(plan: &[(&'static str, Mischief)]) -> Self {
        let config = GroupConfig {
            heartbeat_interval: Duration::from_millis(5),
            request_timeout: Duration::from_millis(50),
            rebalance_timeout: Duration::from_secs(60),
            retry_backoff: Duration::from_millis(1),
            ..GroupConfig::new("app")
        };
        let data = SubscriptionData::new(Uuid::from_u128(1), 1);
        let machine = Membership::new(config, vec!["in".to_owned()], data).unwrap();
        let fake = Arc::new(Fake::default());
        for (request, mischief) in plan {
            fake.plan(request, *mischief);
        }
        let (mailbox, events) = unbounded_channel();
        let (actions, outbox) = unbounded_channel();
        let driver = tokio::spawn(run(machine, Arc::clone(&fake), events, actions));
        mailbox.send(Event::Start).unwrap();
        Self { fake, mailbox, outbox, driver }
    }

    async fn next(&mut self) -> Action {
        let action = clock::timeout(Duration::from_secs(20), self.outbox.recv()).await;
        action.expect("an action in time").expect("the driver lives")
    }

    /// Assigns the one task to the one member, until it is delivered.
    async fn settle(&mut self) -> i32 {
        let Action::Assign { generation, members } = self.next().await else { panic!("no assignment") };
        let active = ActiveTask { task: TaskId::new(0, 0), partitions: vec![TopicPartition::new("in", 0)] };
        let data =
            AssignmentData { active: vec![active], next_rebalance_ms: -1, ..AssignmentData::default() };
        let give = |member: Member| (member.id, data.clone());
        let outcome = Ok(members.into_iter().map(give).collect());
        self.mailbox.send(Event::Assigned { generation, outcome }).unwrap();
        let Action::Deliver(assignment) = self.next().await else { panic!("no delivery") };
        assert_eq!(assignment.kept.len() + assignment.added.len(), 1);
        assert!(matches!(self.next().await, Action::GateOpen(opened) if opened == generation));
        generation
    }

    async fn until(&self, condition: impl Fn(&Fake) -> bool) {
        let holds = async {
            while !condition(&self.fake) {
                clock::sleep(Duration::from_millis(1)).await;
            }
        };
        clock::timeout(Duration::from_secs(20), holds).await.expect("the condition holds in time");
    }

    async fn ended(self) -> Arc<Fake> {
        clock::timeout(Duration::from_secs(20), self.driver)
            .await
            .expect("it ends")
            .expect("without a panic");
        self.fake
    }
}

#[tokio::test]
async fn a_member_joins_beats_rebalances_and_leaves() {
    let mut rig = Rig::start(&[]);
    assert_eq!(rig.settle().await, 1);
    assert_eq!(rig.fake.seen.lock().unwrap()[..3], ["find", "join", "join"]);
    rig.until(|fake| fake.count("beat") >= 3).await;

    rig.fake.plan("beat", Mischief::Refuse(Code::RebalanceInProgress));
    assert!(matches!(rig.next().await, Action::FlushAndCommit));
    rig.mailbox.send(Event::Committed).unwrap();
    assert!(matches!(rig.next().await, Action::GateClosed));
    assert_eq!(rig.settle().await, 2);

    rig.mailbox.send(Event::Close { leave: true }).unwrap();
    assert!(matches!(rig.next().await, Action::GateClosed));
    assert!(matches!(rig.next().await, Action::Stopped));
    assert_eq!(rig.ended().await.count("leave"), 1);
}

#[tokio::test]
async fn requests_without_an_answer_are_given_up_and_sent_again() {
    let mut rig =
        Rig::start(&[("find", Mischief::Silence), ("find", Mischief::Refuse(Code::CoordinatorNotAvailable))]);
    rig.settle().await;
    assert_eq!(rig.fake.count("find"), 3);
    rig.fake.plan("beat", Mischief::Silence);
    rig.until(|fake| fake.count("find") == 4).await;
    let beats = rig.fake.count("beat");
    rig.until(|fake| fake.count("beat") > beats).await;
}

#[tokio::test]
async fn a_request_that_panics_ends_the_membership_and_not_the_driver() {
    let mut rig = Rig::start(&[("join", Mischief::Panic)]);
    let Action::Fatal(error) = rig.next().await else { panic!("it goes on") };
    assert_eq!(error.kind(), ErrorKind::Panic);
    rig.mailbox.send(Event::Close { leave: true }).unwrap();
    assert!(matches!(rig.next().await, Action::Stopped));
    rig.ended().await;
}

#[tokio::test]
async fn whoever_drops_the_mailbox_leaves_the_group() {
    let mut rig = Rig::start(&[]);
    rig.settle().await;
    let (other, _) = unbounded_channel();
    drop(std::mem::replace(&mut rig.mailbox, other));
    assert!(matches!(rig.next().await, Action::GateClosed));
    assert!(matches!(rig.next().await, Action::Stopped));
    assert_eq!(rig.ended().await.count("leave"), 1);
}

#[tokio::test]
async fn whoever_drops_the_outbox_leaves_the_group() {
    let mut rig = Rig::start(&[]);
    rig.settle().await;
    let (_, other) = unbounded_channel();
    drop(std::mem::replace(&mut rig.outbox, other));
    rig.mailbox.send(Event::Rejoin).unwrap();
    assert_eq!(rig.ended().await.count("leave"), 1);
}

#[tokio::test]
async fn dropping_the_driver_drops_its_requests() {
    let rig = Rig::start(&[("join", Mischief::Silence)]);
    rig.until(|fake| fake.count("join") == 1).await;
    rig.driver.abort();
    assert!(rig.driver.await.unwrap_err().is_cancelled());
    rig.mailbox.send(Event::Tick).unwrap_err();
    let fake = rig.fake;
    let released = async {
        while Arc::strong_count(&fake) > 1 {
            clock::sleep(Duration::from_millis(1)).await;
        }
    };
    clock::timeout(Duration::from_secs(20), released).await.expect("the request is gone");
}
