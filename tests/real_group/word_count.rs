//! The word count as processes of one group, and somebody who watches the group all the time.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mainstem::client::OffsetSpec;

use crate::group::{Group, describe};
use crate::support::{Rig, clock, counts, eventually, offset_fetch, rig, text};
use crate::tokens::tokens;
use crate::{data, truth};

pub const PARTITIONS: i32 = 4;
/// Tokens of the 10 000 generated lines.
pub const TOKENS: i64 = 54_760;
/// The shortest that a broker allows as it comes.
pub const SESSION: Duration = Duration::from_secs(6);

/// One at a time: who shares the machine with many processes may be late for its heartbeats, and every count is off.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// An application of its own with its topics, and the processes that run it.
pub struct WordCount {
    pub rig: Rig,
    pub lines: String,
    pub output: String,
    logs: tempfile::TempDir,
    started: AtomicU64,
    _turn: tokio::sync::MutexGuard<'static, ()>,
}

/// What somebody who is killed or frozen may leave to be done again, in tokens. It follows from the generated lines and from
/// what is committed, so that what is repeated beyond it is no part of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Open {
    /// Of lines that were there and not committed: they may be written to the repartition topic once more.
    pub lines: i64,
    /// Words that were there and not committed: they may be counted once more.
    pub words: i64,
}

impl std::ops::AddAssign for Open {
    fn add_assign(&mut self, other: Self) {
        self.lines += other.lines;
        self.words += other.words;
    }
}

/// A process. SIGKILL if the test ends before it.
pub struct Process {
    child: Child,
    log: std::path::PathBuf,
    ended: bool,
}

impl WordCount {
    pub async fn new(test: &str) -> Self {
        Self::at(rig(test).await).await
    }

    pub async fn at(rig: Rig) -> Self {
        let turn = TURN.lock().await;
        let (lines, output) = (rig.topic("lines", PARTITIONS).await, rig.topic("counts", PARTITIONS).await);
        let logs = tempfile::tempdir().unwrap();
        Self { rig, lines, output, logs, started: AtomicU64::new(0), _turn: turn }
    }

    fn process(&self, arguments: &[&str]) -> Process {
        let mut program = std::env::current_exe().unwrap();
        program.pop();
        program.pop();
        program.push("examples/word_count");
        let build = "cargo build --example word_count --all-features";
        assert!(program.exists(), "{program:?} is not built: {build}");
        let log = self.logs.path().join(self.started.fetch_add(1, Ordering::Relaxed).to_string());
        let child = Command::new(program)
            .args(["--bootstrap", &self.rig.broker, "--app-id", &self.rig.app_id])
            .args(["--lines", &self.lines, "--counts", &self.output])
            .args(["--set", "commit.interval.ms=200", "--set", "heartbeat.interval.ms=300"])
            .args(["--set", &format!("session.timeout.ms={}", SESSION.as_millis())])
            .args(["--set", &format!("state.dir={}", self.logs.path().join("state").display())])
            .args(arguments)
            .env("RUST_LOG", "info")
            .env("NO_COLOR", "1")
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Process { child, log, ended: false }
    }

    /// Writes the 10 000 lines, so many a second.
    pub fn generate(&self, rate: u32) -> Process {
        self.process(&["--rate", &rate.to_string(), "gen"])
    }

    /// An instance of two workers.
    pub fn start(&self) -> Process {
        self.process(&["run"])
    }

    pub fn start_with(&self, properties: &[&str]) -> Process {
        let sets: Vec<&str> = properties.iter().flat_map(|property| ["--set", property]).collect();
        self.process(&[&sets[..], &["run"]].concat())
    }

    pub fn repartition(&self) -> String {
        format!("{}-by-word-repartition", self.rig.app_id)
    }

    pub fn changelog(&self) -> String {
        format!("{}-counts-changelog", self.rig.app_id)
    }

    pub async fn describe(&self) -> Group {
        describe(&self.rig.broker, &self.rig.app_id).await.unwrap_or_default()
    }

    /// Waits until the group is stable with so many members, and every partition has an owner.
    pub async fn settled(&self, members: usize) -> Group {
        let mut group = Group::default();
        eventually(&format!("{members} members share the work"), async || {
            group = self.describe().await;
            group.is_stable()
                && group.members.len() == members
                && group.owners(&self.lines).len() == PARTITIONS as usize
                && group.owners(&self.repartition()).len() == PARTITIONS as usize
                && group.members.iter().all(|member| !member.partitions.is_empty())
        })
        .await;
        group
    }

    pub async fn committed(&self, topic: &str, partition: i32) -> i64 {
        let found = offset_fetch(&self.rig.broker, &self.rig.app_id, topic, partition).await;
        found.map_or(0, |(offset, _)| offset)
    }

    /// How many of the lines are committed.
    pub async fn lines_committed(&self) -> i64 {
        let mut sum = 0;
        for partition in 0..PARTITIONS {
            sum += self.committed(&self.lines, partition).await;
        }
        sum
    }

    pub async fn wait_lines(&self, lines: i64) {
        eventually(&format!("{lines} lines committed"), async || self.lines_committed().await >= lines).await;
    }

    /// Where the partitions of a topic end.
    pub async fn ends(&self, topic: &str) -> Vec<i64> {
        let mut ends = Vec::new();
        for partition in 0..PARTITIONS {
            ends.push(self.rig.offset(topic, partition, OffsetSpec::Latest).await);
        }
        ends
    }

    /// The ends of everything that an instance writes.
    pub async fn all_ends(&self) -> Vec<i64> {
        let mut ends = self.ends(&self.repartition()).await;
        ends.extend(self.ends(&self.changelog()).await);
        ends.extend(self.ends(&self.output).await);
        ends
    }

    /// Words that may have been counted without that being committed.
    pub async fn uncommitted(&self) -> i64 {
        self.open().await.words
    }

    /// What is open now. Whoever is frozen or dead by now has no more of it than that.
    pub async fn open(&self) -> Open {
        let (mut lines, mut words) = (Vec::new(), 0);
        for partition in 0..PARTITIONS {
            lines.push(self.committed(&self.lines, partition).await);
            words -= self.committed(&self.repartition(), partition).await;
        }
        // ORDER: where they end is asked for after that, so that it is rather too much than too little.
        let ends = self.ends(&self.lines).await;
        words += self.ends(&self.repartition()).await.iter().sum::<i64>();
        Open { lines: tokens(&ends) - tokens(&lines), words }
    }

    /// Waits for so many lines, and then for a moment between two commits in which little is open.
    pub async fn wait_between_commits(&self, lines: i64) {
        self.wait_lines(lines).await;
        eventually("a little is open", async || {
            let open = self.open().await;
            (1..5_000).contains(&open.lines) && (1..5_000).contains(&open.words)
        })
        .await;
    }

    /// Waits until everything is counted and committed.
    pub async fn all_counted(&self) {
        self.wait_lines(10_000).await;
        eventually("every word counted", async || self.uncommitted().await == 0).await;
    }

    /// Checks the whole output, when everybody has ended: nothing is lost, and what was done twice was open when somebody was
    /// killed or frozen. Gives how many tokens were counted twice.
    pub async fn check(&self, open: Open) -> i64 {
        let truth = truth::counts(data::Words::default().iter().map(|(_, line)| line));
        let written: i64 = self.ends(&self.repartition()).await.iter().sum();
        let records = self.rig.read(&self.output).await;
        let table = counts(&records);
        assert!(table.keys().eq(truth.keys()), "words are missing, or from nowhere");
        for (word, count) in &truth {
            assert!(table[word] >= *count, "{word} is counted {} times instead of {count}", table[word]);
        }
        let (again, above) = (written - TOKENS, table.values().sum::<i64>() - TOKENS);
        println!("{again} words written again, {above} tokens counted twice; {open:?}");
        assert!((0..=open.lines).contains(&again), "{again} words written again, {open:?}");
        let recounted = above - again;
        assert!((0..=open.words).contains(&recounted), "{recounted} words counted again, {open:?}");
        // The table is what the changelog says.
        let changes = self.rig.read(&self.changelog()).await;
        assert_eq!(counts(&changes), table, "the changelog and the output");
        above
    }

    /// Checks the whole output of instances none of which was killed or lost its session: everything happened once.
    pub async fn check_once(&self) {
        assert_eq!(self.check(Open::default()).await, 0);
        for topic in [&self.repartition(), &self.changelog(), &self.output] {
            assert_eq!(self.ends(topic).await.iter().sum::<i64>(), TOKENS, "each record of {topic} once");
        }
    }

    /// Checks that whoever had a task wrote nothing for it once the next one had read its state: every change of a count is
    /// one more than the one before it.
    pub async fn check_owners(&self) {
        let mut last: BTreeMap<String, i64> = BTreeMap::new();
        for record in self.rig.read(&self.changelog()).await {
            let (word, partition) = (text(&record.key), record.partition);
            let count = i64::from_be_bytes(record.value.as_deref().unwrap().try_into().unwrap());
            let before = last.insert(word.clone(), count).unwrap_or(0);
            assert_eq!(count, before + 1, "{word} in partition {partition} at {}", record.offset);
        }
    }

    /// Watches the group from now on: no committed offset ever goes back, and no partition ever has two owners.
    pub fn watch(&self) -> Watch {
        let (broker, app_id) = (self.rig.broker.clone(), self.rig.app_id.clone());
        let topics = [self.lines.clone(), self.repartition()];
        let stop = Arc::new(AtomicBool::new(false));
        let over = stop.clone();
        let task = tokio::spawn(async move {
            let (mut last, mut looks): (BTreeMap<(usize, i32), i64>, u64) = (BTreeMap::new(), 0);
            while !over.load(Ordering::SeqCst) {
                if let Some(group) = describe(&broker, &app_id).await {
                    looks += 1;
                    topics.iter().for_each(|topic| drop(group.owners(topic)));
                }
                for (index, topic) in topics.iter().enumerate() {
                    for partition in 0..PARTITIONS {
                        let Some((offset, _)) = offset_fetch(&broker, &app_id, topic, partition).await else {
                            continue;
                        };
                        let before = last.insert((index, partition), offset).unwrap_or(0);
                        assert!(offset >= before, "{topic}-{partition} went back from {before} to {offset}");
                    }
                }
                clock::sleep(Duration::from_millis(20)).await;
            }
            looks
        });
        Watch { stop, task }
    }
}

/// See [`WordCount::watch`].
pub struct Watch {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<u64>,
}

impl Watch {
    pub async fn ended(self) {
        self.stop.store(true, Ordering::SeqCst);
        assert!(self.task.await.unwrap() > 10, "it hardly looked");
    }
}

impl Process {
    pub fn is_alive(&mut self) -> bool {
        let alive = self.child.try_wait().unwrap().is_none();
        assert!(alive, "it has ended by itself: {}", self.said());
        true
    }

    /// Everything it has logged.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// The generations it was in, with how many tasks it kept and got in each.
    pub fn generations(&self) -> Vec<(i32, usize, usize)> {
        let number = |line: &str, name: &str| {
            let (_, rest) = line.split_once(&format!("{name}=")).unwrap();
            rest.split(' ').next().unwrap().parse::<usize>().unwrap()
        };
        let said = self.said();
        // What comes before it may name the generation too.
        let assigned = said.lines().filter_map(|line| line.split_once(": assigned ")).map(|(_, said)| said);
        assigned
            .map(|line| (number(line, "generation") as i32, number(line, "kept"), number(line, "added")))
            .collect()
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for its own end, which must be a good one.
    pub async fn ended(&mut self) {
        eventually("the process ends", async || self.child.try_wait().unwrap().is_some()).await;
        self.ended = true;
        assert!(self.child.wait().unwrap().success(), "{}", self.said());
    }

    pub async fn terminate(&mut self) {
        self.signal("-TERM");
        self.ended().await;
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.ended = true;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("---- {:?}\n{}", self.log, self.said());
        }
    }
}
