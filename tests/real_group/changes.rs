//! One instance, then three, then two, while lines flow (X3); instances that are killed, and nothing but Kafka to go on
//! from (X2).

use std::time::Duration;

use crate::nodes::Nodes;
use crate::support::{clock, eventually, rig_at};
use crate::word_count::{Open, Process, SESSION, WordCount};

fn last_generation(processes: &[&Process]) -> i32 {
    processes.iter().flat_map(|p| p.generations()).map(|(generation, ..)| generation).max().unwrap()
}

/// X3 without a kill: not one word is counted twice.
#[tokio::test]
async fn one_three_two_instances_count_every_word_once() {
    let count = WordCount::new("one-three-two").await;
    let mut generator = count.generate(1_200);
    let mut first = count.start();
    count.wait_lines(1_000).await;
    let watch = count.watch();
    let (mut second, mut third) = (count.start(), count.start());
    let group = count.settled(3).await;
    // 8 tasks: nobody has more than 3.
    assert!(group.members.iter().all(|member| (2..=3).contains(&member.partitions.len())), "{group:?}");
    count.wait_lines(5_000).await;

    let before = last_generation(&[&first, &second, &third]);
    let began = clock::monotonic();
    second.terminate().await;
    count.settled(2).await;
    assert!(began.elapsed() < SESSION, "it left: nobody had to wait for its session to be over");
    generator.ended().await;
    count.all_counted().await;
    let after = last_generation(&[&first, &third]);
    // Each change is one rebalance and, if tasks move, one more: two joins, one leave.
    assert!(before <= 6, "{before} generations for three members to join");
    assert!(after - before <= 2, "{} generations for one to leave", after - before);
    watch.ended().await;
    for process in [&mut first, &mut third] {
        process.terminate().await;
        assert!(!process.said().contains("are lost"), "{}", process.said());
    }
    count.check_once().await;
}

/// X2 and X3 with SIGKILL: state is memory, so that every kill loses it, and the changelog brings it back.
#[tokio::test]
async fn killed_instances_are_replaced_and_nothing_is_lost() {
    let count = WordCount::new("killed").await;
    let mut generator = count.generate(400);
    let (mut first, mut second, mut third) = (count.start(), count.start(), count.start());
    count.settled(3).await;
    let watch = count.watch();
    let mut open = Open::default();
    count.wait_between_commits(2_000).await;
    second.kill();
    open += count.open().await;
    count.settled(2).await;
    count.wait_between_commits(5_000).await;
    // Everybody at once: nobody is there to hand anything over.
    first.kill();
    third.kill();
    open += count.open().await;
    let (mut fourth, mut fifth) = (count.start(), count.start());
    generator.ended().await;
    count.all_counted().await;
    let group = count.settled(2).await;
    assert_eq!(group.owners(&count.lines).len(), 4);
    watch.ended().await;
    fourth.terminate().await;
    fifth.terminate().await;
    assert!(count.check(open).await > 0, "nobody was killed between two commits");
    count.check_owners().await;
}

/// A member that ends while the group rebalances hands everything over all the same.
#[tokio::test]
async fn leaving_in_the_middle_of_a_rebalance_repeats_nothing() {
    let count = WordCount::new("leaving").await;
    let mut generator = count.generate(2_000);
    let mut first = count.start();
    count.wait_lines(500).await;
    let mut second = count.start();
    eventually("a rebalance", async || {
        let group = count.describe().await;
        group.members.len() == 2 && !group.is_stable()
    })
    .await;
    first.signal("-TERM");
    let mut third = count.start();
    first.ended().await;
    generator.ended().await;
    count.all_counted().await;
    clock::timeout(Duration::from_secs(30), count.settled(2)).await.unwrap();
    second.terminate().await;
    third.terminate().await;
    count.check_once().await;
}

/// The coordinator goes away with its broker and comes back: the members are still the members, and nothing moves.
#[tokio::test]
async fn a_coordinator_that_restarts_finds_its_group_again() {
    let broker = Nodes::start(1).await;
    let count = WordCount::at(rig_at(&broker.bootstrap, "coordinator").await).await;
    let mut generator = count.generate(1_500);
    // Longer than the broker is away, on a busy machine too.
    let start = || count.start_with(&["session.timeout.ms=120000"]);
    let (mut first, mut second) = (start(), start());
    count.settled(2).await;
    count.wait_lines(3_000).await;
    let before = last_generation(&[&first, &second]);
    let watch = count.watch();
    broker.restart(1).await;
    generator.ended().await;
    count.all_counted().await;
    count.settled(2).await;
    watch.ended().await;
    assert_eq!(last_generation(&[&first, &second]), before);
    for process in [&mut first, &mut second] {
        process.terminate().await;
        assert!(!process.said().contains("are lost"), "{}", process.said());
    }
    // A broker that restarts forgets producers whose last records are old, as the generated ones are, and takes what it had
    // not acknowledged a second time: far less than what comes in a second.
    count.check(Open { lines: 8_000, words: 0 }).await;
}
