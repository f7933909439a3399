//! Three applications in a row whose members come, go and die: at every level each key counts from 1 to its end. After a
//! death it may step back, to what was committed and no farther, and goes on from there without a gap. Under exactly-once it
//! never steps back: each key once, in order.
//!
//! `MAINSTEM_CHAIN_STEPS` and `MAINSTEM_CHAIN_SEED` make it longer, and another one: scripts/soak/chain.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mainstem::TopicPartition;
use mainstem::client::{Admin, Cluster, Isolation, OffsetSpec, ReadOptions, Reader};
use mainstem::config::ProcessingGuarantee;
use mainstem::embedded::{Api, EmbeddedKafka, Fault};
use mainstem::prelude::*;

use crate::numbers::{assert_exact, connect, copy, lengths, producer, quick, read, run, send, soon, topic};
use crate::support::{Running, eventually, offset_fetch, text};

/// Every request that an application makes.
const APIS: [Api; 22] = [
    Api::ApiVersions,
    Api::Metadata,
    Api::Produce,
    Api::Fetch,
    Api::ListOffsets,
    Api::OffsetCommit,
    Api::OffsetFetch,
    Api::FindCoordinator,
    Api::JoinGroup,
    Api::SyncGroup,
    Api::Heartbeat,
    Api::LeaveGroup,
    Api::InitProducerId,
    Api::CreateTopics,
    Api::DescribeConfigs,
    Api::DeleteRecords,
    Api::OffsetForLeaderEpoch,
    Api::AddPartitionsToTxn,
    Api::AddOffsetsToTxn,
    Api::TxnOffsetCommit,
    Api::EndTxn,
    Api::ListTransactions,
];

/// Each key begins with 1, goes up by one, but for steps back, and comes to `last`, which therefore is not alone.
pub fn assert_no_gaps(level: &str, found: &BTreeMap<String, Vec<i64>>, last: i64) {
    assert_eq!(found.len() as i64, crate::numbers::KEYS, "{level}: {:?}", found.keys());
    for (key, values) in found {
        let mut before = 0;
        for (at, value) in values.iter().enumerate() {
            assert!(
                (1..=before + 1).contains(value),
                "{level}: {value} follows {before} at {at} of {key}: {:?}",
                &values[at.saturating_sub(20)..(at + 20).min(values.len())]
            );
            before = *value;
        }
        assert_eq!(values.iter().max(), Some(&last), "{level}: the end of {key}");
    }
}

const PARTITIONS: i32 = 3;

/// How far a level had committed at some time, and behind it, how far it had written.
#[derive(Debug)]
struct Checkpoint {
    committed: Vec<i64>,
    written: Vec<i64>,
}

impl Checkpoint {
    async fn of(kafka: &EmbeddedKafka, cluster: &Cluster, level: usize) -> Self {
        let mut this = Self { committed: Vec::new(), written: Vec::new() };
        for partition in 0..PARTITIONS {
            let mut committed = 0;
            // The coordinator tells; what no node tells, because its connection dies, counts as nothing.
            for node in kafka.bootstrap().split(',') {
                let found = offset_fetch(node, &format!("chain-{level}"), TOPICS[level], partition).await;
                committed = found.map_or(0, |(offset, _)| offset).max(committed);
            }
            this.committed.push(committed);
        }
        for partition in 0..PARTITIONS {
            let at = TopicPartition::new(TOPICS[level + 1], partition);
            let admin = Admin::new(cluster);
            let end = admin.list_offset(&at, OffsetSpec::Latest, Isolation::ReadUncommitted).await;
            this.written.push(end.unwrap().offset.unwrap());
        }
        this
    }
}

/// Partition, offset, key and value of every record.
async fn log(cluster: &Cluster, topic: &str) -> Vec<(usize, i64, String, i64)> {
    let mut reader = Reader::new(cluster, ReadOptions::new(topic).until_end()).await.unwrap();
    let mut log = Vec::new();
    while let Some(record) = reader.next().await.unwrap() {
        let value = i64::from_be_bytes(record.value.as_deref().unwrap().try_into().unwrap());
        log.push((record.partition as usize, record.offset, text(&record.key), value));
    }
    log
}

/// Nothing is done again that was committed: what a level wrote later comes from what it had not committed.
async fn assert_no_step_behind_commits(cluster: &Cluster, level: usize, checkpoints: &[Checkpoint]) {
    let (input, output) = (log(cluster, TOPICS[level]).await, log(cluster, TOPICS[level + 1]).await);
    for checkpoint in checkpoints {
        let mut open = BTreeMap::<&str, i64>::new();
        for (_, _, key, value) in input.iter().filter(|(p, offset, ..)| *offset >= checkpoint.committed[*p]) {
            open.entry(key).and_modify(|least| *least = *value.min(least)).or_insert(*value);
        }
        for (partition, offset, key, value) in &output {
            let least = open.get(key.as_str()).copied().unwrap_or(i64::MAX);
            assert!(
                *offset < checkpoint.written[*partition] || *value >= least,
                "level {level}: {value} of {key} at {partition}/{offset}, but all below {least} was committed: {checkpoint:?}"
            );
        }
    }
    assert!(
        checkpoints.iter().any(|at| at.committed.iter().sum::<i64>() > 0),
        "level {level}: no commit was seen"
    );
}

/// Keeps the last value of each key, and hands it on; what is kept must never be behind what comes, and `once` nothing else
/// than the value before it.
fn checked(input: &str, output: &str, wrong: Arc<Mutex<Vec<String>>>, once: bool) -> Topology {
    let builder = StreamsBuilder::new();
    let grouped = builder.stream::<String, i64>(input).group_by_key("by-key");
    let table = grouped.aggregate(
        "last",
        || 0,
        move |key, value, last: i64| {
            if value > last + 1 || once && value != last + 1 {
                wrong.lock().unwrap().push(format!("{key} has {last}, and {value} comes"));
            }
            value
        },
    );
    table.to_stream().to(output);
    builder.build().unwrap()
}

struct Member {
    client_id: String,
    running: Running,
    _state: tempfile::TempDir,
}

struct Chain {
    kafka: EmbeddedKafka,
    /// Whose requests reach no broker any more.
    dead: Arc<Mutex<HashSet<String>>>,
    wrong: Arc<Mutex<Vec<String>>>,
    levels: [Vec<Member>; 3],
    started: usize,
    guarantee: ProcessingGuarantee,
}

const TOPICS: [&str; 4] = ["level-0", "level-1", "level-2", "level-3"];

impl Chain {
    /// `once` is the version of the transactions under exactly-once; `None` at least once.
    async fn new(once: Option<u8>) -> Self {
        let kafka = EmbeddedKafka::builder().nodes(3).config("group.min.session.timeout.ms", "500");
        let kafka = kafka.transaction_version(once.unwrap_or(1)).start().unwrap();
        for name in TOPICS {
            topic(&kafka, name, PARTITIONS, 3).await;
        }
        let dead = Arc::<Mutex<HashSet<String>>>::default();
        for api in APIS {
            let dead = dead.clone();
            kafka.on(api, move |call| match dead.lock().unwrap().contains(&call.client_id) {
                true => Fault::DropBefore,
                false => Fault::Pass,
            });
        }
        let guarantee = match once {
            Some(_) => ProcessingGuarantee::ExactlyOnceV2,
            None => ProcessingGuarantee::AtLeastOnce,
        };
        Self { kafka, dead, wrong: Arc::default(), levels: Default::default(), started: 0, guarantee }
    }

    fn is_once(&self) -> bool {
        self.guarantee == ProcessingGuarantee::ExactlyOnceV2
    }

    fn join(&mut self, level: usize) {
        self.started += 1;
        let client_id = format!("member-{}", self.started);
        let (input, output) = (TOPICS[level], TOPICS[level + 1]);
        let topology = match level {
            1 => checked(input, output, self.wrong.clone(), self.is_once()),
            _ => copy(input, output),
        };
        let state = tempfile::tempdir().unwrap();
        let config = quick(&self.kafka, &format!("chain-{level}"), &state)
            .processing_guarantee(self.guarantee)
            .set("client.id", &client_id)
            .set("session.timeout.ms", "2000")
            .set("rebalance.timeout.ms", "3000");
        self.levels[level].push(Member { client_id, running: run(topology, config), _state: state });
    }

    async fn quit(&mut self, level: usize, which: usize) {
        let member = self.levels[level].remove(which);
        member.running.stop().await;
    }

    /// Its requests get nowhere any more, so that the group learns of it only when its session is over.
    fn die(&mut self, level: usize, which: usize) {
        let member = self.levels[level].remove(which);
        self.dead.lock().unwrap().insert(member.client_id);
        member.running.handle.stop_within(Duration::ZERO);
        member.running.task.abort();
    }
}

/// Draws numbers from a seed (SplitMix64).
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) as usize % limit
    }
}

fn told(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// How many records a step brings, a key.
const BLOCK: i64 = 25;

async fn chain(deaths: bool, dying_connections: bool, once: Option<u8>) {
    let steps = told("MAINSTEM_CHAIN_STEPS", 10);
    let seed = told("MAINSTEM_CHAIN_SEED", 5);
    let mut draw = Draw(seed);
    let mut chain = Chain::new(once).await;
    let cluster = connect(&chain.kafka).await;
    let producer = producer(&cluster);
    if dying_connections {
        chain.kafka.cut_connections(seed, 50_000);
    }
    (0..3).for_each(|level| chain.join(level));
    let (mut last, mut done) = (0, Vec::new());
    let mut checkpoints: [Vec<Checkpoint>; 3] = Default::default();
    for step in 0..steps {
        send(&producer, TOPICS[0], last + 1..=last + BLOCK).await;
        last += BLOCK;
        soon("the write", producer.flush()).await.unwrap();
        for (level, checkpoints) in checkpoints.iter_mut().enumerate() {
            checkpoints.push(Checkpoint::of(&chain.kafka, &cluster, level).await);
        }
        let level = draw.below(3);
        let members = chain.levels[level].len();
        let what = match members {
            1 => 0,
            2 => draw.below(3),
            _ => 1 + draw.below(2),
        };
        match what {
            0 => chain.join(level),
            1 if deaths => chain.die(level, draw.below(members)),
            _ => chain.quit(level, draw.below(members)).await,
        }
        done.push((level, what));
        // The next thing happens when something of this has come through, but not all: half of the blocks are waited for.
        let through = last - BLOCK * (step as i64 % 3);
        eventually(&format!("{through} come through {done:?}"), async || {
            let found = read(&cluster, TOPICS[3]).await;
            let all = found.len() as i64 == crate::numbers::KEYS;
            let through = all && found.values().all(|values| values.iter().max() >= Some(&through));
            assert!(chain.wrong.lock().unwrap().is_empty(), "{:?} {:?}", chain.wrong, lengths(&found));
            through
        })
        .await;
    }
    eventually("everything comes through", async || {
        let found = read(&cluster, TOPICS[3]).await;
        found.len() as i64 == crate::numbers::KEYS && found.values().all(|values| values.contains(&last))
    })
    .await;
    for level in 0..3 {
        while !chain.levels[level].is_empty() {
            chain.quit(level, 0).await;
        }
    }
    chain.kafka.clear_hooks();
    chain.kafka.keep_connections();
    assert_exact(&read(&cluster, TOPICS[0]).await, last);
    if !chain.is_once() {
        for (level, checkpoints) in checkpoints.iter().enumerate() {
            assert_no_step_behind_commits(&cluster, level, checkpoints).await;
        }
    }
    for name in &TOPICS[1..] {
        let found = read(&cluster, name).await;
        match deaths && !chain.is_once() {
            true => assert_no_gaps(name, &found, last),
            false => assert_exact(&found, last),
        }
    }
    assert_eq!(*chain.wrong.lock().unwrap(), Vec::<String>::new(), "a store behind its input");
}

#[tokio::test]
async fn members_come_and_go() {
    chain(false, false, None).await;
}

#[tokio::test]
async fn members_come_go_and_die() {
    chain(true, false, None).await;
}

#[tokio::test]
async fn members_come_go_and_die_and_connections_with_them() {
    chain(true, true, None).await;
}

/// Transactions of version 2, as brokers from 4.0 have them.
#[tokio::test]
async fn members_come_go_and_die_and_each_key_comes_once() {
    chain(true, false, Some(2)).await;
}

#[tokio::test]
async fn members_come_go_and_die_and_connections_with_them_and_each_key_comes_once() {
    chain(true, true, Some(2)).await;
}

/// The same before KIP-890.
#[tokio::test]
async fn members_come_go_and_die_and_each_key_comes_once_in_version_1() {
    chain(true, true, Some(1)).await;
}
