//! Red test 7: state on disk is given up exactly where it may say something that its changelog does not, and says why.

use std::collections::BTreeMap;

use bytes::Bytes;
use mainstem::client::{Admin, NewTopic};
use mainstem::prelude::*;
use mainstem::{App, MetricValue};

use crate::changelog::{changelog, fold};
use crate::life::{Plan, Restores};
use crate::nodes::Nodes;
use crate::support::{Rig, eventually, rig, rig_at, start, text};

fn plan(input: &str, engine: &'static str) -> Plan {
    Plan { topology: "last", input: input.to_owned(), engine, instance: Some("one"), output: None }
}

/// An application with the folder of one host or another. Tombstones go soon, but not before a restore is done: longer ones
/// fail.
fn app(rig: &Rig, plan: &Plan, host: &str, restores: &Restores) -> App {
    let state_dir = rig.state_dir.path().join(host);
    let config = plan.config(&rig.broker, &rig.app_id, &state_dir);
    let config = config.set("topic.delete.retention.ms", "5000").set("topic.segment.ms", "100");
    plan.app(config.set("topic.min.cleanable.dirty.ratio", "0.0"), restores.clone())
}

/// Runs until everything that was sent is done. What is in the store then, and why state was given up.
async fn a_life(rig: &Rig, plan: &Plan, host: &str, sent: i64) -> (BTreeMap<String, String>, Vec<String>) {
    let app = app(rig, plan, host, &Restores::default());
    let handle = app.handle();
    let store = handle.key_value_store::<String, String>("last").unwrap();
    let app = start(app).running().await;
    rig.wait_committed(&plan.input, 0, sent).await;
    let rows = store.all().unwrap().map(Result::unwrap).collect();
    let wiped = handle.metrics().into_iter().filter(|m| m.name == "mainstem_state_wiped_total");
    let wiped = wiped.filter(|m| !matches!(m.value, MetricValue::Counter(0)));
    let reasons = wiped.map(|m| m.label("reason").unwrap().to_owned()).collect();
    app.stop().await;
    (rows, reasons)
}

fn rows(rows: &[(&str, &str)]) -> BTreeMap<String, String> {
    rows.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// A host is away while a key is deleted and the deletion is compacted away: the key must not come back with the host.
async fn a_deleted_key_stays_deleted(engine: &'static str) {
    let nodes = Nodes::start_with(1, &["--fast-cleaner"]).await;
    let rig = rig_at(&nodes.bootstrap, &format!("tombstones-{engine}")).await;
    let input = rig.topic("in", 1).await;
    let plan = plan(&input, engine);
    let topic = format!("{}-last-changelog", rig.app_id);
    for key in ["a", "b", "c"] {
        rig.send(&input, 0, key, "1", 1).await;
    }
    rig.flush().await;
    let (found, reasons) = a_life(&rig, &plan, "away", 3).await;
    assert_eq!((found, reasons), (rows(&[("a", "1"), ("b", "1"), ("c", "1")]), vec![]));

    rig.send(&input, 0, "a", "-", 2).await;
    rig.send(&input, 0, "b", "2", 2).await;
    rig.flush().await;
    let (found, _) = a_life(&rig, &plan, "other", 5).await;
    assert_eq!(found, rows(&[("b", "2"), ("c", "1")]));
    let mut filler = 0;
    eventually("nothing tells of the deletion any more", async || {
        // What is written last is in a segment that is not compacted; a second of the records' own time begins another.
        rig.send(&topic, 0, "filler", &filler.to_string(), 1_000 * (filler + 1)).await;
        rig.flush().await;
        filler += 1;
        nodes.compact(&topic);
        let log = changelog(&rig, "last").await;
        !log.iter().any(|record| text(&record.key) == "a")
    })
    .await;

    let (mut found, reasons) = a_life(&rig, &plan, "away", 5).await;
    found.remove("filler");
    assert_eq!(found, rows(&[("b", "2"), ("c", "1")]));
    assert_eq!(reasons, ["tombstones_gone"]);
    // The host that saw the deletion is judged in the same way: it cannot be told that it did.
    let (mut found, _) = a_life(&rig, &plan, "other", 5).await;
    found.remove("filler");
    assert_eq!(found, rows(&[("b", "2"), ("c", "1")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_deletion_was_compacted_away_does_not_come_back_on_fjall() {
    a_deleted_key_stays_deleted("fjall").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_deletion_was_compacted_away_does_not_come_back_on_sled() {
    a_deleted_key_stays_deleted("sled").await;
}

/// Somebody deletes the changelog and writes another one under its name, longer than the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_changelog_that_was_made_again_is_another_one() {
    let rig = rig("made-again").await;
    let input = rig.topic("in", 1).await;
    let plan = plan(&input, "fjall");
    for key in ["a", "b", "c"] {
        rig.send(&input, 0, key, "1", 1).await;
    }
    rig.flush().await;
    let (found, reasons) = a_life(&rig, &plan, "host", 3).await;
    assert_eq!((found.len(), reasons), (3, vec![]));
    let (found, reasons) = a_life(&rig, &plan, "host", 3).await;
    assert_eq!((found.len(), reasons), (3, vec![]), "nothing is given up without a reason");

    let topic = format!("{}-last-changelog", rig.app_id);
    let admin: Admin = rig.admin();
    assert!(admin.delete_topics(&[&topic]).await.unwrap().iter().all(Result::is_ok));
    eventually("the topic is made again", async || {
        let topic = NewTopic::new(&topic, 1).config("cleanup.policy", "compact");
        admin.create_topic(topic).await.is_ok()
    })
    .await;
    // A producer that never knew the first one.
    let fresh = rig_at(&rig.broker, "fresh").await;
    for n in 0..20 {
        fresh.send(&topic, 0, &format!("new-{n}"), "2", 2).await;
    }
    fresh.flush().await;
    let (found, reasons) = a_life(&rig, &plan, "host", 3).await;
    assert_eq!(reasons, ["topic_recreated"]);
    assert_eq!(found.len(), 20, "{found:?}");
    let expected: BTreeMap<Bytes, Bytes> = fold("last", &changelog(&fresh_as(&rig, fresh), "last").await);
    assert!(found.keys().all(|key| expected.contains_key(key.as_bytes())));
}

/// The clients of one, the application of the other.
fn fresh_as(rig: &Rig, fresh: Rig) -> Rig {
    Rig { app_id: rig.app_id.clone(), ..fresh }
}
