//! Red test 6, first half: tasks that run go on while the stores of others are opened, however long that takes.

use std::collections::BTreeSet;
use std::fs;

use mainstem::client::OffsetSpec;

use crate::life::Plan;
use crate::support::{Rig, eventually, rig};

const PARTITIONS: i32 = 6;

async fn committed(rig: &Rig, input: &str) -> Vec<i64> {
    let mut found = Vec::new();
    for partition in 0..PARTITIONS {
        found.push(rig.committed(input, partition).await.map_or(0, |(offset, _)| offset));
    }
    found
}

async fn one_more_each(rig: &Rig, input: &str) {
    for partition in 0..PARTITIONS {
        rig.send(input, partition, &format!("k{partition}"), "v", 1).await;
    }
    rig.flush().await;
}

/// Of six tasks with ten stores each, three come back when the other instance leaves: 30 stores that cannot be opened yet.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_run_commit_while_thirty_stores_are_being_opened() {
    let rig = rig("opening").await;
    let input = rig.topic("in", PARTITIONS).await;
    let plan = Plan { topology: "many", input: input.clone(), engine: "fjall", instance: None, output: None };
    let hold = rig.state_dir.path().join("hold");
    let place = format!("open-store:{}", hold.display());
    let mut first = plan.start(&rig, &[("MAINSTEM_HOLD_AT", &place), ("MAINSTEM_HAND_OVER_RECORDS", "5")]);
    let all_at = async |offset: i64| {
        eventually(&format!("everything up to {offset} is committed"), async || {
            committed(&rig, &input).await.iter().all(|at| *at == offset)
        })
        .await;
    };
    one_more_each(&rig, &input).await;
    all_at(1).await;

    let second = plan.start(&rig, &[]);
    eventually("the second has half of it", async || {
        let running: BTreeSet<i32> = second.restored().iter().map(|restored| restored.1).collect();
        running.len() == 3 && second.restored().len() == 30
    })
    .await;
    one_more_each(&rig, &input).await;
    all_at(2).await;

    fs::write(&hold, "").unwrap();
    second.stop().await;
    eventually("the stores are being opened", async || hold.with_extension("held").exists()).await;
    let mut kept = BTreeSet::new();
    // Each round is at least one commit of each task that runs, after the one of the round before.
    for round in 3..11 {
        one_more_each(&rig, &input).await;
        eventually("three tasks go on", async || {
            let at = committed(&rig, &input).await;
            (0..PARTITIONS as usize).filter(|p| at[*p] == round).count() == 3
        })
        .await;
        let at = committed(&rig, &input).await;
        let went_on: BTreeSet<usize> = (0..PARTITIONS as usize).filter(|p| at[*p] > 2).collect();
        assert_eq!(went_on.len(), 3, "the tasks whose stores are being opened wait: {at:?}");
        assert!(kept.is_empty() || kept == went_on, "{kept:?}, then {went_on:?}");
        kept = went_on;
    }
    assert!(first.is_alive() && hold.exists());
    fs::remove_file(&hold).unwrap();
    all_at(10).await;
    let topic = format!("{}-last-9-changelog", rig.app_id);
    for partition in 0..PARTITIONS {
        assert_eq!(rig.offset(&topic, partition, OffsetSpec::Latest).await, 10, "nothing is done twice");
    }
    first.stop().await;
}
