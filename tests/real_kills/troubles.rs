//! Exactly-once through more than kills, on brokers that belong to the test: a broker is killed, connections are cut, the
//! folder of the state goes or is an old one, two processes want the same; between them, and in the middle of them, the process
//! is killed as in `exactly_once`.
//!
//! `MAINSTEM_KILLS` says how many kills, `MAINSTEM_SEED` how they, the troubles and the input fall,
//! `MAINSTEM_TRANSACTION_VERSION` which transactions the brokers have (`scripts/soak/exactly-once`).

use std::fs;
use std::time::Duration;

use kafka_protocol::messages::{ApiKey, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;
use tokio::net::TcpListener;

use crate::changelog::copy;
use crate::exactly_once::{Stages, fault_of, one_kill};
use crate::life::{Life, Plan};
use crate::loops::{Dice, TURN, asked};
use crate::nodes::{Nodes, leader};
use crate::proxy::Proxy;
use crate::support::{Rig, ask, clock, eventually, rig_at};

/// What happens in a round, besides a kill.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// The leader of a partition that is written to is killed, and comes back.
    Leader,
    /// The same for who coordinates the transactions.
    Coordinator,
    /// All connections are cut, and none is taken for a while.
    Cut,
    /// After the kill the instance's folder is deleted.
    NoFolder,
    /// After the kill an older copy of the folder is put in its place.
    OldFolder,
    /// A second process claims to be the same instance.
    Twin,
    /// A second instance on the same state directory shares the work; both are killed.
    Neighbour,
}

const TROUBLES: [Trouble; 7] = [
    Trouble::Leader,
    Trouble::NoFolder,
    Trouble::Cut,
    Trouble::Twin,
    Trouble::Coordinator,
    Trouble::OldFolder,
    Trouble::Neighbour,
];

/// Brokers, and on a real Kafka a proxy before each of them.
struct Brokers {
    nodes: Nodes,
    proxies: Vec<Proxy>,
}

/// Listeners on as many ports in a row.
async fn listeners(count: usize) -> Vec<TcpListener> {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        let mut row = vec![first];
        for next in 1..count as u16 {
            match TcpListener::bind(("127.0.0.1", port.saturating_add(next))).await {
                Ok(listener) => row.push(listener),
                Err(_) => break,
            }
        }
        if row.len() == count {
            return row;
        }
    }
}

impl Brokers {
    async fn start(count: usize) -> Self {
        let version = asked("MAINSTEM_TRANSACTION_VERSION").unwrap_or(2);
        let listeners = listeners(count).await;
        let advertised = listeners[0].local_addr().unwrap().to_string();
        let (nodes, addresses) = Nodes::start_behind(count, &advertised, version).await;
        let proxies = listeners.into_iter().zip(addresses).map(|(from, to)| Proxy::start(from, to)).collect();
        Self { nodes, proxies }
    }

    fn cut(&self) {
        self.proxies.iter().for_each(Proxy::close);
        if let Some(kafka) = self.nodes.embedded() {
            kafka.cut(|_| Some(0));
        }
    }

    fn mend(&self) {
        self.proxies.iter().for_each(Proxy::open);
        if let Some(kafka) = self.nodes.embedded() {
            kafka.clear_hooks();
        }
    }
}

/// The node that coordinates a transactional id of the application.
async fn coordinator(rig: &Rig) -> i32 {
    let listed = rig.admin().list_transactions(&format!("{}-", rig.app_id)).await.unwrap();
    let id = &listed.first().expect("a worker has a producer").transactional_id;
    let request =
        FindCoordinatorRequest::default().with_key_type(1).with_key(StrBytes::from_string(id.clone()));
    let mut node = -1;
    eventually("the coordinator is found", async || {
        for broker in rig.broker.split(',') {
            let answer: Option<FindCoordinatorResponse> =
                ask(broker, ApiKey::FindCoordinator, 2, &request).await;
            if let Some(answer) = answer.filter(|answer| answer.error_code == 0) {
                node = answer.node_id.0;
            }
        }
        node > 0
    })
    .await;
    node
}

struct Loop {
    brokers: Brokers,
    stages: Stages,
    /// On the same state directory.
    neighbour: Plan,
    dice: Dice,
    /// A copy of the instance's folder, from some kill before.
    older: tempfile::TempDir,
}

impl Loop {
    async fn start(&mut self) -> Life {
        let life = self.stages.plan.start(&self.stages.rig, &[("MAINSTEM_HAND_OVER_RECORDS", "60")]);
        self.stages.go_on(100).await;
        life
    }

    /// Kills the process after some more work, in the middle of what is not committed.
    async fn kill(&mut self, life: &mut Life) {
        self.stages.kill_at_any_time(life, &mut self.dice).await;
    }

    /// A broker is killed and comes back. The process is killed after that, or in between.
    async fn broker(&mut self, node: i32) {
        let mut life = self.start().await;
        self.brokers.nodes.kill(node).await;
        let in_between = self.dice.below(3) == 0;
        if in_between {
            clock::sleep(Duration::from_millis(self.dice.below(3_000))).await;
            life.kill();
        }
        self.brokers.nodes.revive(node).await;
        if !in_between {
            self.stages.go_on(300).await;
            self.kill(&mut life).await;
        }
    }

    async fn cut(&mut self) {
        let mut life = self.start().await;
        self.brokers.cut();
        clock::sleep(Duration::from_millis(self.dice.below(2_000))).await;
        let in_between = self.dice.below(3) == 0;
        if in_between {
            life.kill();
        }
        self.brokers.mend();
        if !in_between {
            self.stages.go_on(300).await;
            self.kill(&mut life).await;
        }
    }

    async fn folder(&mut self, old: bool) {
        let mut life = self.start().await;
        self.kill(&mut life).await;
        let slot = self.stages.plan.slot(&self.stages.rig);
        fs::remove_dir_all(&slot).unwrap();
        if old {
            copy(self.older.path(), &slot);
        }
    }

    async fn twin(&mut self) {
        let mut life = self.start().await;
        let said = self.stages.plan.start(&self.stages.rig, &[]).fails().await;
        assert!(said.contains("give each instance a group.instance.id of its own"), "{said}");
        self.stages.go_on(300).await;
        self.kill(&mut life).await;
    }

    /// The neighbour has the first slot, as it has no name, and gets a part of the tasks.
    async fn neighbour(&mut self) {
        let mut life = self.start().await;
        let mut other = self.neighbour.start(&self.stages.rig, &[("MAINSTEM_HAND_OVER_RECORDS", "60")]);
        eventually("the other has tasks with stores", async || !other.restored().is_empty()).await;
        self.stages.go_on(300).await;
        self.kill(&mut life).await;
        other.kill();
        let neighbour = self.neighbour.clone();
        self.stages.is_sound(&neighbour).await;
    }

    async fn round(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Leader => {
                let partition = self.dice.below(2) as usize;
                let node = leader(&self.stages.rig.cluster, &self.stages.output, partition).await;
                self.broker(node).await;
            }
            Trouble::Coordinator => {
                let node = coordinator(&self.stages.rig).await;
                self.broker(node).await;
            }
            Trouble::Cut => self.cut().await,
            Trouble::NoFolder => self.folder(false).await,
            Trouble::OldFolder => self.folder(true).await,
            Trouble::Twin => self.twin().await,
            Trouble::Neighbour => self.neighbour().await,
        }
    }

    /// Keeps a copy of the folder for later. Nobody has it.
    fn keep_folder(&mut self) {
        self.older = tempfile::tempdir().unwrap();
        copy(&self.stages.plan.slot(&self.stages.rig), self.older.path());
    }
}

/// Half of the kills are plain ones; every other one comes with a trouble: each of them once, then as the dice fall.
async fn through_troubles(nodes: usize, kills: u64) {
    let _turn = TURN.lock().await;
    let kills = asked("MAINSTEM_KILLS").unwrap_or(kills);
    let seed = asked("MAINSTEM_SEED").unwrap_or(29);
    let brokers = Brokers::start(nodes).await;
    let rig = rig_at(&brokers.nodes.bootstrap, &format!("troubles-{nodes}")).await;
    let stages = Stages::new(rig, "fjall", "one", seed).await;
    let neighbour = Plan { instance: None, ..stages.plan.clone() };
    let (dice, older) = (Dice(seed ^ 0x9E37_79B9), tempfile::tempdir().unwrap());
    let mut this = Loop { brokers, stages, neighbour, dice, older };
    for kill in 0..kills {
        let began = clock::monotonic();
        let turn = kill / 2;
        let what = if kill % 2 == 0 {
            let fault = fault_of(turn, 30, &mut this.dice);
            one_kill(&mut this.stages, fault.as_deref(), &mut this.dice).await;
            format!("at {}", fault.as_deref().unwrap_or("any time"))
        } else {
            let count = TROUBLES.len() as u64;
            let which = if turn < count { turn } else { this.dice.below(count) };
            let trouble = TROUBLES[which as usize];
            this.round(trouble).await;
            format!("with {trouble:?}")
        };
        let records = this.stages.is_right_so_far().await;
        if kill % 5 == 0 && this.stages.plan.slot(&this.stages.rig).exists() {
            this.keep_folder();
        }
        println!("{nodes} nodes, kill {kill} {what}: {records} records, {:?}", began.elapsed());
    }
    this.stages.comes_out_right().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_once_through_troubles_with_one_broker() {
    through_troubles(1, 15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_once_through_troubles_with_three_brokers() {
    through_troubles(3, 15).await;
}
