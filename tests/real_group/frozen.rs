//! X7: an instance that is frozen for so long that others have its tasks, and thawed.

use crate::support::{clock, eventually};
use crate::word_count::WordCount;

/// What the frozen instance had in hand is somebody else's when it thaws: it writes none of it, and commits nothing.
#[tokio::test]
async fn a_thawed_instance_sends_nothing_until_the_group_answers() {
    let count = WordCount::new("frozen").await;
    let (mut first, mut second) = (count.start(), count.start());
    count.settled(2).await;
    let watch = count.watch();
    // There is always something in hand.
    let mut generator = count.generate(800);
    count.wait_between_commits(2_000).await;
    first.signal("-STOP");
    let before = first.generations().len();
    let open = count.open().await;
    count.settled(1).await;
    generator.ended().await;
    count.all_counted().await;
    let ends = count.all_ends().await;

    first.signal("-CONT");
    eventually("it is back", async || count.describe().await.members.len() == 2).await;
    count.settled(2).await;
    eventually("it has tasks again", async || {
        first.is_alive() && first.generations()[before..].iter().any(|(_, _, added)| *added > 0)
    })
    .await;
    assert!(first.said().contains("are lost"), "{}", first.said());
    watch.ended().await;
    first.terminate().await;
    second.terminate().await;
    assert_eq!(count.all_ends().await, ends, "it wrote what it had in hand when it was frozen");
    count.check(open).await;
    count.check_owners().await;
}

/// The same within the session: the coordinator drops a member that does not join a rebalance in its time.
#[tokio::test]
async fn an_instance_that_misses_a_rebalance_sends_nothing_until_the_group_answers() {
    const LONG: std::time::Duration = std::time::Duration::from_secs(600);
    let count = WordCount::new("missed").await;
    let session = format!("session.timeout.ms={}", LONG.as_millis());
    let start = || count.start_with(&[&session, "rebalance.timeout.ms=6000"]);
    let (mut first, mut second) = (start(), start());
    count.settled(2).await;
    let watch = count.watch();
    let mut generator = count.generate(800);
    count.wait_between_commits(2_000).await;
    let began = clock::monotonic();
    first.signal("-STOP");
    let before = first.generations().len();
    let open = count.open().await;
    let mut third = start();
    eventually("the third is in without the first", async || {
        let group = count.describe().await;
        !third.generations().is_empty() && group.is_stable() && group.members.len() == 2
    })
    .await;
    count.settled(2).await;
    generator.ended().await;
    count.all_counted().await;
    let ends = count.all_ends().await;

    assert!(began.elapsed() < LONG, "its session is over, and that shows nothing");
    first.signal("-CONT");
    count.settled(3).await;
    eventually("it has tasks again", async || {
        first.is_alive() && first.generations()[before..].iter().any(|(_, _, added)| *added > 0)
    })
    .await;
    assert!(first.said().contains("are lost"), "{}", first.said());
    watch.ended().await;
    for process in [&mut first, &mut second, &mut third] {
        process.terminate().await;
    }
    assert_eq!(count.all_ends().await, ends, "it wrote what it had in hand when it was frozen");
    count.check(open).await;
    count.check_owners().await;
}
