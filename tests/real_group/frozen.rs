//! X7: an instance that is frozen past its session and thawed.

use crate::support::eventually;
use crate::word_count::WordCount;

/// What the frozen instance had in hand is somebody else's when it thaws: it writes none of it, and commits nothing.
#[tokio::test]
async fn a_thawed_instance_sends_nothing_until_the_group_answers() {
    let Some(count) = WordCount::new("frozen").await else { return };
    let (mut first, mut second) = (count.start(), count.start());
    count.settled(2).await;
    let watch = count.watch();
    // There is always something in hand.
    let mut generator = count.generate(1_500);
    count.wait_between_commits(2_000).await;
    first.signal("-STOP");
    let open = count.open().await;
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
    count.check(open).await;
}
