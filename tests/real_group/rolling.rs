//! Rolling restarts: kept tasks go on while the group rebalances, and static members are not even missed.

use crate::group::Group;
use crate::support::eventually;
use crate::word_count::{Process, TOKENS, WordCount};

const NAMES: [&str; 3] = ["one", "two", "three"];

/// Nobody has to wait for a session to be over, nor for a rebalance's end: a freeze is shorter on the slowest machine.
/// No interval is over, so that every commit is one that a rebalance or an end asks for.
fn start(count: &WordCount, name: &str) -> Process {
    let client = format!("client.id={name}");
    let long = ["session.timeout.ms=120000", "rebalance.timeout.ms=120000", "commit.interval.ms=3600000"];
    count.start_with(&[&[&client[..]], &long[..]].concat())
}

/// The partitions of a topic that the instance of this client id reads.
fn partitions_of(group: &Group, name: &str, topic: &str) -> Vec<i32> {
    let member = group.members.iter().find(|member| member.id.starts_with(&format!("{name}-")));
    let member = member.unwrap_or_else(|| panic!("{name} is not in {group:?}"));
    member.partitions.iter().filter(|at| *at.topic == *topic).map(|at| at.partition).collect()
}

/// Three instances are restarted one after the other. Each time the third is frozen for a moment, shorter than its session,
/// so that the rebalance lasts until it is thawed: what the second keeps is committed when the rebalance begins, is worked
/// on and written while it lasts, and is committed when the next one begins.
#[tokio::test]
async fn kept_tasks_go_on_during_every_rebalance_of_a_rolling_restart() {
    let count = WordCount::new("rolling").await;
    let mut generator = count.generate(200);
    let mut processes = NAMES.map(|name| start(&count, name));
    count.settled(3).await;
    let watch = count.watch();
    let repartition = count.repartition();
    for victim in 0..3 {
        let (observer, frozen) = ((victim + 1) % 3, (victim + 2) % 3);
        let group = count.settled(3).await;
        let kept = partitions_of(&group, NAMES[observer], &repartition);
        assert!(!kept.is_empty(), "{group:?}");
        let committed = async || {
            let mut sum = 0;
            for partition in &kept {
                sum += count.committed(&repartition, *partition).await;
            }
            sum
        };
        // One update a word, in the word's partition: as many words are done.
        let written = async || {
            let ends = count.ends(&count.output).await;
            kept.iter().map(|partition| ends[*partition as usize]).sum::<i64>()
        };
        eventually("there is something to commit", async || written().await > committed().await + 100).await;
        processes[frozen].signal("-STOP");
        let done = written().await;
        assert!(committed().await < done, "nobody has asked for a commit");
        processes[victim].signal("-TERM");
        eventually("the rebalance is on", async || count.describe().await.state == "PreparingRebalance")
            .await;
        eventually("what was done before it is committed", async || committed().await >= done).await;
        let began = written().await;
        eventually("the kept tasks write", async || written().await > began + 100).await;
        // Still the same rebalance: none is over without the frozen instance.
        assert_eq!(count.describe().await.state, "PreparingRebalance");
        processes[frozen].signal("-CONT");
        processes[victim].ended().await;
        count.settled(2).await;
        processes[victim] = start(&count, NAMES[victim]);
        eventually("what they wrote is committed", async || committed().await > began + 100).await;
    }
    count.settled(3).await;
    generator.ended().await;
    eventually("every word counted", async || count.ends(&count.output).await.iter().sum::<i64>() == TOKENS)
        .await;
    watch.ended().await;
    for process in &mut processes {
        process.terminate().await;
        assert!(!process.said().contains("are lost"), "{}", process.said());
    }
    assert_eq!((count.lines_committed().await, count.uncommitted().await), (10_000, 0));
    count.check_once().await;
}

/// KIP-345: whoever is back within its session is not missed, be it the leader (KIP-814) or not.
#[tokio::test]
async fn static_members_restart_without_a_rebalance() {
    let count = WordCount::new("static").await;
    let mut generator = count.generate(1_500);
    let start = |name: &str| {
        let instance = format!("group.instance.id={name}");
        count.start_with(&[&format!("client.id={name}"), &instance, "session.timeout.ms=20000"])
    };
    let mut processes = ["one", "two"].map(start);
    count.wait_lines(500).await;
    let group = count.settled(2).await;
    let owned = |group: &Group| {
        let mut all: Vec<_> = group
            .members
            .iter()
            .map(|member| (member.instance_id.clone().unwrap(), member.partitions.clone()))
            .collect();
        all.sort();
        all
    };
    let generation = processes[0].generations().last().unwrap().0;
    for (index, name) in [(0, "one"), (1, "two")] {
        processes[index].terminate().await;
        let away = count.describe().await;
        assert_eq!((away.is_stable(), owned(&away)), (true, owned(&group)), "it is expected back");
        let committed = count.lines_committed().await;
        processes[index] = start(name);
        eventually("it has its tasks again", async || {
            processes[index].is_alive() && !processes[index].generations().is_empty()
        })
        .await;
        eventually("the work goes on", async || count.lines_committed().await > committed).await;
    }
    generator.ended().await;
    count.all_counted().await;
    let last = count.describe().await;
    assert_eq!((last.is_stable(), owned(&last)), (true, owned(&group)));
    for process in &mut processes {
        assert_eq!(process.generations().len(), 1, "{}", process.said());
        assert_eq!(process.generations()[0].0, generation, "no rebalance");
        process.terminate().await;
    }
    count.check_once().await;
}
