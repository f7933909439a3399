//! Who ends leaves the group, or stays in it, as it is told.

use std::time::Duration;

use mainstem::prelude::*;
use mainstem::{App, CloseOptions};

use crate::group::{Group, describe};
use crate::support::{Rig, Running, eventually, rig, start};

const PARTITIONS: i32 = 4;

fn app(rig: &Rig, input: &str, output: &str, instance_id: Option<&str>) -> Running {
    let builder = StreamsBuilder::new();
    builder.stream::<String, String>(input).to(output);
    let config = rig.config().set("heartbeat.interval.ms", "300");
    let config = instance_id.into_iter().fold(config, |config, id| config.set("group.instance.id", id));
    start(App::new(builder.build().unwrap(), config.build().unwrap()).unwrap())
}

/// The group when it is stable, with so many members and every partition with one of them.
async fn settled(rig: &Rig, input: &str, members: usize) -> Group {
    let mut group = Group::default();
    eventually(&format!("{members} members share {input}"), async || {
        let Some(found) = describe(&rig.broker, &rig.app_id).await else { return false };
        group = found;
        let owned = group.owners(input).len() as i32;
        group.is_stable() && group.members.len() == members && owned == PARTITIONS
    })
    .await;
    group
}

/// Two instances, of which one ends. The session is far longer than the test: a member that is gone has left.
async fn one_of_two_ends(name: &str, instance_id: Option<&str>, options: CloseOptions, leaves: bool) {
    let rig = rig(name).await;
    let (input, output) = (rig.topic("in", PARTITIONS).await, rig.topic("out", 1).await);
    let first = app(&rig, &input, &output, None).running().await;
    let second = app(&rig, &input, &output, instance_id).running().await;
    settled(&rig, &input, 2).await;
    eventually("half each", async || first.handle.tasks().len() == 2 && second.handle.tasks().len() == 2)
        .await;
    let before = settled(&rig, &input, 2).await.owners(&input);
    let kept: Vec<i32> = first.handle.tasks().iter().map(|task| task.inputs[0].partition.partition).collect();

    second.handle.stop_with(options);
    second.ended().await.unwrap();
    let after = describe(&rig.broker, &rig.app_id).await.unwrap();
    if leaves {
        assert_eq!(after.members.len(), 1, "it left before its run ended: {after:?}");
        settled(&rig, &input, 1).await;
        eventually("the other has everything", async || first.handle.tasks().len() == 4).await;
        return first.stop().await;
    }
    assert!(after.is_stable() && after.members.len() == 2, "{after:?}");
    assert_eq!(after.owners(&input), before, "nothing has moved");
    // The other goes on with its own partitions, and with no others.
    for partition in 0..PARTITIONS {
        rig.send(&input, partition, "k", "v", 1_000).await;
    }
    rig.flush().await;
    for partition in &kept {
        rig.wait_committed(&input, *partition, 1).await;
    }
    assert_eq!(first.handle.tasks().len(), kept.len());
    assert_eq!(describe(&rig.broker, &rig.app_id).await.unwrap().owners(&input), before);
    if instance_id.is_some() {
        // It comes back to what it had.
        let second = app(&rig, &input, &output, instance_id).running().await;
        for partition in 0..PARTITIONS {
            rig.wait_committed(&input, partition, 1).await;
        }
        assert_eq!(first.handle.tasks().len(), kept.len(), "the other has lost and won nothing");
        second.stop().await;
    }
    first.stop().await;
}

#[tokio::test]
async fn a_dynamic_member_leaves_and_time_without_end_is_no_harm() {
    let options = CloseOptions::default().within(Duration::MAX);
    one_of_two_ends("leaves", None, options, true).await;
}

#[tokio::test]
async fn a_dynamic_member_stays_if_it_is_told_to() {
    one_of_two_ends("stays", None, CloseOptions::default().leave_group(false), false).await;
}

#[tokio::test]
async fn a_static_member_stays() {
    one_of_two_ends("static-stays", Some("two"), CloseOptions::default(), false).await;
}

#[tokio::test]
async fn a_static_member_leaves_if_it_is_told_to() {
    one_of_two_ends("static-leaves", Some("two"), CloseOptions::default().leave_group(true), true).await;
}
