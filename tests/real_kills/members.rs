//! Red test 2, under exactly-once: a member that takes its time to rejoin costs the others nothing, and one that is killed and
//! does not come back holds nobody up.

use std::collections::BTreeMap;

use bytes::Bytes;
use mainstem::{App, AppHandle, MetricValue, Record};

use crate::exactly_once::steps;
use crate::group::describe;
use crate::life::{Life, Plan, Restores, SETTINGS};
use crate::loops::TURN;
use crate::support::{Rig, Running, eventually, rig, start};

const PARTITIONS: i32 = 6;
const KEYS: i64 = 30;

/// A count whose records and counts of a key are in partitions of one number.
struct Counted {
    rig: Rig,
    plan: Plan,
    output: String,
    sent: i64,
}

impl Counted {
    async fn new(test: &str) -> Self {
        let rig = rig(test).await;
        let (input, output) = (rig.topic("in", PARTITIONS).await, rig.topic("out", PARTITIONS).await);
        let plan = Plan {
            topology: "counted",
            input,
            engine: "fjall",
            instance: None,
            output: Some(output.clone()),
        };
        Self { rig, plan, output, sent: 0 }
    }

    /// One more of each key.
    async fn send(&mut self) {
        for key in 0..KEYS {
            let key = Some(Bytes::from(format!("k{key}")));
            let record = Record::new(key, Some(Bytes::from("v")), self.sent);
            self.rig.producer.send(&self.plan.input, None, record).await.unwrap();
        }
        self.sent += KEYS;
        self.rig.flush().await;
    }

    /// Waits until all that was sent has come out, and checks that it came once.
    async fn comes_out_once(&self) {
        let mut records = Vec::new();
        eventually(&format!("{} records come out", self.sent), async || {
            records = self.rig.read_committed(&self.output).await;
            records.len() as i64 >= self.sent
        })
        .await;
        let mut seen = BTreeMap::new();
        steps(&mut seen, &records);
        assert!(seen.values().all(|n| *n == self.sent / KEYS) && seen.len() as i64 == KEYS, "{seen:?}");
    }

    fn here(&self, settings: &str) -> (App, Restores) {
        let restores = Restores::default();
        let Rig { broker, app_id, state_dir, .. } = &self.rig;
        let config = self.plan.config(broker, app_id, state_dir.path());
        let config = config.properties(settings.split(' ').filter_map(|setting| setting.split_once('=')));
        (self.plan.app(config, restores.clone()), restores)
    }

    fn process(&self, settings: &str) -> Life {
        self.plan.start(&self.rig, &[(SETTINGS, settings)])
    }

    /// Transactions of the application that are open.
    async fn open(&self) -> Vec<String> {
        let listed = self.rig.admin().list_transactions(&format!("{}-", self.rig.app_id)).await.unwrap();
        listed.into_iter().filter(|t| t.state == "Ongoing").map(|t| t.transactional_id).collect()
    }
}

/// Waits until an instance has so many tasks, all of which run.
async fn has_tasks(app: &Running, count: usize) {
    eventually(&format!("{count} tasks"), async || {
        app.handle.tasks().len() == count && app.handle.state() == mainstem::AppState::Running
    })
    .await;
}

fn aborted(handle: &AppHandle) -> u64 {
    let named = "mainstem_worker_transactions_aborted_total";
    let found = handle.metrics().into_iter().filter(|metric| metric.name == named);
    found.map(|metric| if let MetricValue::Counter(n) = metric.value { n } else { 0 }).sum()
}

/// Of three members one is stopped while a fourth joins. Until it goes on the group can give nobody a new generation, and
/// nothing can be committed: the others process on in their open transactions, and lose none of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_slow_to_rejoin_costs_the_others_no_transaction() {
    let _turn = TURN.lock().await;
    const PATIENT: &str = "session.timeout.ms=120000 rebalance.timeout.ms=120000";
    let mut counted = Counted::new("slow-to-rejoin").await;
    let ((first, of_first), (second, of_second)) = (counted.here(PATIENT), counted.here(PATIENT));
    let (first, second) = (start(first), start(second));
    let third = counted.process(PATIENT);
    for app in [&first, &second] {
        has_tasks(app, 2).await;
    }
    counted.send().await;
    counted.comes_out_once().await;
    let restored = (of_first.ended().len(), of_second.ended().len());

    third.signal("-STOP");
    let fourth = start(counted.here(PATIENT).0);
    let state = async || describe(&counted.rig.broker, &counted.rig.app_id).await.unwrap().state;
    eventually("a rebalance", async || state().await == "PreparingRebalance").await;
    let (mut committed, mut quiet) = (0, 0);
    eventually("they process on, and can commit nothing", async || {
        let before = [&first, &second].map(|app| app.handle.records_processed());
        counted.send().await;
        eventually("both process on", async || {
            let now = [&first, &second].map(|app| app.handle.records_processed());
            // Some of the keys are in two of six partitions.
            now.iter().zip(before).all(|(now, before)| *now >= before + 3)
        })
        .await;
        let now = counted.rig.read_committed(&counted.output).await.len();
        quiet = if now == committed { quiet + 1 } else { 0 };
        committed = now;
        quiet == 5
    })
    .await;
    let state = describe(&counted.rig.broker, &counted.rig.app_id).await.unwrap().state;
    assert_eq!(state, "PreparingRebalance", "the third has not rejoined");
    assert!(!counted.open().await.is_empty(), "what they did is in open transactions");

    third.signal("-CONT");
    counted.send().await;
    counted.comes_out_once().await;
    for app in [&first, &second, &fourth] {
        assert_eq!(aborted(&app.handle), 0, "a transaction was lost");
    }
    assert_eq!((of_first.ended().len(), of_second.ended().len()), restored, "kept tasks were built anew");
    for app in [first, second, fourth] {
        app.stop().await;
    }
    third.stop().await;
    counted.comes_out_once().await;
}

/// An instance is killed in the middle of a transaction and does not come back: when its session is over whoever gets its
/// tasks ends its transaction, long before the broker would.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_instance_holds_nobody_up_until_the_timeout_of_its_transaction() {
    let _turn = TURN.lock().await;
    let mut counted = Counted::new("held-up").await;
    // Nothing is committed before it is killed; the broker would wait for more than ten minutes.
    let mut first = counted.process("commit.interval.ms=600000 transaction.timeout.ms=900000");
    let second = start(counted.here("").0);
    eventually("half of the tasks", async || first.restored().len() >= 3).await;
    has_tasks(&second, 3).await;
    eventually("the group is at rest", async || {
        describe(&counted.rig.broker, &counted.rig.app_id).await.is_some_and(|group| group.is_stable())
    })
    .await;
    counted.send().await;
    eventually("both have written", async || {
        counted.rig.read(&counted.output).await.len() as i64 == counted.sent
    })
    .await;
    let mut committed = 0;
    eventually("the second has committed", async || {
        committed = counted.rig.read_committed(&counted.output).await.len() as i64;
        committed > 0
    })
    .await;
    assert!(committed < counted.sent, "and the first has not");
    assert!(!counted.open().await.is_empty());
    first.kill();
    counted.send().await;
    counted.comes_out_once().await;
    eventually("no transaction is open", async || counted.open().await.is_empty()).await;
    second.stop().await;
}
