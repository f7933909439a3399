//! Rolling restarts: kept tasks go on while the group rebalances, and static members are not even missed.

use crate::group::Group;
use crate::support::eventually;
use crate::word_count::{Process, WordCount};

const NAMES: [&str; 3] = ["one", "two", "three"];

fn start(count: &WordCount, name: &str) -> Process {
    // Nobody has to wait for a session to be over, nor for a rebalance's end: a freeze is shorter on the slowest machine.
    let client = format!("client.id={name}");
    count.start_with(&[&client, "session.timeout.ms=120000", "rebalance.timeout.ms=120000"])
}

/// The partitions of a topic that the instance of this client id reads.
fn partitions_of(group: &Group, name: &str, topic: &str) -> Vec<i32> {
    let member = group.members.iter().find(|member| member.id.starts_with(&format!("{name}-")));
    let member = member.unwrap_or_else(|| panic!("{name} is not in {group:?}"));
    member.partitions.iter().filter(|at| *at.topic == *topic).map(|at| at.partition).collect()
}

/// Three instances are restarted one after the other. Each time the third is frozen for a moment, shorter than its session,
/// so that the rebalance lasts until it is thawed: what the second keeps is committed once more when the rebalance begins,
/// is worked on and written while it lasts, and is committed right after it.
#[tokio::test]
async fn kept_tasks_go_on_during_every_rebalance_of_a_rolling_restart() {
    let count = WordCount::new("rolling").await;
    let mut generator = count.generate(700);
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
        let written = async || {
            let ends = count.ends(&count.output).await;
            kept.iter().map(|partition| ends[*partition as usize]).sum::<i64>()
        };
        processes[frozen].signal("-STOP");
        let before = committed().await;
        processes[victim].signal("-TERM");
        eventually("the rebalance is on", async || count.describe().await.state == "PreparingRebalance")
            .await;
        eventually("what was done before it is committed", async || committed().await > before).await;
        let (before, began) = (committed().await, written().await);
        eventually("the kept tasks write", async || written().await > began + 100).await;
        // Still the same rebalance: none is over without the frozen instance.
        assert_eq!(count.describe().await.state, "PreparingRebalance");
        processes[frozen].signal("-CONT");
        eventually("the kept tasks commit", async || committed().await > before + 100).await;
        processes[victim].ended().await;
        processes[victim] = start(&count, NAMES[victim]);
    }
    count.settled(3).await;
    generator.ended().await;
    count.all_counted().await;
    watch.ended().await;
    for process in &mut processes {
        process.terminate().await;
        assert!(!process.said().contains("are lost"), "{}", process.said());
    }
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
