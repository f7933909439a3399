//! X7: an instance that is frozen past its session and thawed.

use crate::support::eventually;
use crate::word_count::WordCount;

/// What the frozen instance had in hand is somebody else's when it thaws: it writes none of it, and commits nothing.
#[tokio::test]
async fn a_thawed_instance_sends_nothing_until_the_group_answers() {
    let count = WordCount::new("frozen").await;
    let (mut first, mut second) = (count.start(), count.start());
    count.settled(2).await;
    let watch = count.watch();
    // As fast as it goes: there is always something in hand.
    let mut generator = count.generate(0);
    count.wait_lines(2_000).await;
    first.signal("-STOP");
    let uncommitted = count.uncommitted().await;
    assert!(count.lines_committed().await < 10_000, "it was frozen too late to show anything");
    count.settled(1).await;
    generator.ended().await;
    count.all_counted().await;
    let ends = count.all_ends().await;

    first.signal("-CONT");
    eventually("it is back", async || count.describe().await.members.len() == 2).await;
    count.settled(2).await;
    eventually("it has tasks again", async || {
        first.generations().last().is_some_and(|(_, _, added)| *added > 0) && first.is_alive()
    })
    .await;
    assert!(first.said().contains("are lost"), "{}", first.said());
    watch.ended().await;
    first.terminate().await;
    second.terminate().await;
    assert_eq!(count.all_ends().await, ends, "it wrote what it had in hand when it was frozen");
    count.check(uncommitted).await;
}
