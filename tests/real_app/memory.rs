//! The memory account of an instance whose state is twenty times its budget.

use mainstem::prelude::*;
use mainstem::{App, MetricValue};

use crate::support::{Running, eventually, rig, start};

/// What `state.memory.max.bytes` and the others are set to.
const STATE: usize = 1 << 20;
const OTHERS: usize = 1 << 20;
const VALUE: usize = 1_000;
const ROWS: usize = 20 * STATE / VALUE;
/// Some rows are updated when they went to the disk long before. All of them would have unoptimized builds merge for minutes.
const UPDATES: usize = 100;

fn figure(app: &Running, name: &str, label: Option<(&str, &str)>) -> f64 {
    let metrics = app.handle.metrics().into_iter();
    let metric =
        metrics.filter(|m| m.name == name).find(|m| label.is_none_or(|(k, v)| m.label(k) == Some(v)));
    match metric.unwrap_or_else(|| panic!("there is no {name} {label:?}")).value {
        MetricValue::Gauge(value) => value,
        MetricValue::Counter(count) => count as f64,
        value => panic!("{value:?}"),
    }
}

fn actions(app: &Running, action: &str) -> f64 {
    figure(app, "mainstem_memory_actions_total", Some(("action", action)))
}

/// The account's own high-water mark, which no share may push past the budget.
fn keeps_to_its_budget(app: &Running, doing: &str) {
    let (most, budget) =
        (figure(app, "mainstem_memory_most_bytes", None), figure(app, "mainstem_memory_budget_bytes", None));
    assert_eq!(budget, (STATE + 2 * OTHERS) as f64);
    assert!(most > 0.0 && most <= budget, "{most} bytes of {budget} while {doing}");
    for share in ["input", "restores", "stores", "caches", "output"] {
        let of = |name| figure(app, name, Some(("share", share)));
        let (held, limit) = (of("mainstem_memory_bytes"), of("mainstem_memory_limit_bytes"));
        assert!(held <= limit, "{share} has {held} of {limit} while {doing}");
    }
}

/// Every key has its row, with its last value.
fn is_whole(app: &Running) {
    let rows = app.handle.key_value_store::<String, String>("last").unwrap().all().unwrap();
    let mut found = 0;
    for row in rows {
        let (key, value) = row.unwrap();
        assert!(value.starts_with(&key) && value.len() == VALUE, "{key}: {value}");
        found += 1;
    }
    assert_eq!(found, ROWS);
}

#[tokio::test]
async fn state_of_twenty_times_the_budget_is_kept_and_restored_within_it() {
    let rig = rig("budget").await;
    let input = rig.topic("in", 1).await;
    let app = || {
        let builder = StreamsBuilder::new();
        builder
            .stream::<String, String>(&*input)
            .group_by_key("by-key")
            .reduce(Materialized::named("last"), |_, value| value);
        let config = rig.config().state_memory(STATE).buffered_bytes(OTHERS).buffer_memory(OTHERS);
        App::new(builder.build().unwrap(), config.build().unwrap()).unwrap()
    };
    let running = start(app()).running().await;
    for n in (0..ROWS).chain((0..UPDATES).map(|n| n * (ROWS / UPDATES))) {
        let key = format!("{n:08}");
        rig.send(&input, 0, &key, &format!("{key:x<VALUE$}"), n as i64).await;
    }
    rig.flush().await;
    rig.wait_committed(&input, 0, (ROWS + UPDATES) as i64).await;
    keeps_to_its_budget(&running, "processing");
    for action in ["pause", "evict", "commit", "hand_over"] {
        assert!(actions(&running, action) > 0.0, "{action} was not needed");
    }
    is_whole(&running);
    running.stop().await;

    // Nothing of it is on disk any more: a window is much smaller than the state.
    std::fs::remove_dir_all(rig.state_dir.path().join(&rig.app_id)).unwrap();
    let running = start(app()).running().await;
    eventually("the figures of the restore", async || {
        running.handle.metrics().iter().any(|m| m.name == "mainstem_memory_actions_total")
            && actions(&running, "apply") > 0.0
    })
    .await;
    keeps_to_its_budget(&running, "restoring");
    is_whole(&running);
    running.stop().await;
}
