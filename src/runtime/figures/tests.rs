//! The table agrees with docs/METRICS.md, and figures go where they should.

use std::fmt::Write;
use std::path::PathBuf;

use metrics_util::debugging::{DebugValue, DebuggingRecorder};

use super::table::TABLE;
use super::*;

fn registry(level: &str) -> Arc<Registry> {
    let config = Config::builder("app", "localhost:1").set("metrics.recording.level", level).build().unwrap();
    Arc::new(Registry::new(&config))
}

#[test]
fn names_tell_what_they_are() {
    let mut seen = std::collections::HashSet::new();
    for figure in TABLE {
        assert!(seen.insert(figure.name), "{} is there twice", figure.name);
        let total = figure.name.ends_with("_total");
        assert_eq!(total, figure.kind == FigureKind::Counter, "{}", figure.name);
        assert!(figure.name.starts_with("mainstem_"), "{}", figure.name);
        if ["bytes", "seconds", "milliseconds", "microseconds"].contains(&figure.unit) {
            assert!(figure.name.contains(figure.unit), "{} is in {}", figure.name, figure.unit);
        }
    }
}

#[test]
fn docs_list_exactly_what_the_code_knows() {
    const MARK: &str = "<!-- generated below -->\n";
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/METRICS.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, table) = text.split_once(MARK).expect("docs/METRICS.md has its mark");
    let mut rendered = String::from(
        "\n| Name | Type | Labels | Unit | Level | Kafka Streams | Meaning |\n|---|---|---|---|---|---|---|\n",
    );
    for f in TABLE {
        let kind = format!("{:?}", f.kind).to_lowercase();
        let labels = f.labels.join(", ");
        let line = format!(
            "| `{}` | {kind} | {labels} | {} | {} | {} | {} |\n",
            f.name, f.unit, f.level, f.java, f.meaning
        );
        rendered.write_str(&line).unwrap();
    }
    if std::env::var_os("MAINSTEM_BLESS").is_some() {
        std::fs::write(&path, format!("{head}{MARK}{rendered}")).unwrap();
    } else {
        assert!(
            table == rendered,
            "docs/METRICS.md is out of date: run with MAINSTEM_BLESS=1 to write it again"
        );
    }
}

#[test]
fn a_figure_goes_with_its_scope() {
    let registry = registry("DEBUG");
    let labels = || vec![("worker", "0".to_owned()), ("task", "0_1".to_owned())];
    let mut scope = Scope::new(&registry, labels());
    let mut processed = scope.counter(&table::TASK_PROCESSED, &[]);
    processed.follow(7);
    processed.follow(9);
    scope.gauge(&table::STORE_ENTRIES, &[("store", "counts")]).count(3);
    let slices = scope.histogram(&table::TASK_PROCESS, &[]);
    slices.took(Duration::from_millis(250));
    slices.took(Duration::from_millis(500));
    let found = registry.snapshot();
    let value = |name: &str| found.iter().find(|m| m.name == name).map(|m| m.value);
    assert_eq!(value("mainstem_task_processed_records_total"), Some(MetricValue::Counter(9)));
    assert_eq!(value("mainstem_store_entries"), Some(MetricValue::Gauge(3.0)));
    assert_eq!(
        value("mainstem_task_process_seconds"),
        Some(MetricValue::Histogram { count: 2, sum: 0.75, max: 0.5 })
    );
    let store = found.iter().find(|m| m.name == "mainstem_store_entries").unwrap();
    assert_eq!(
        (store.label("task"), store.label("store"), store.label("node")),
        (Some("0_1"), Some("counts"), None)
    );
    drop(scope);
    assert_eq!(registry.snapshot(), []);
    processed.add(1);
    assert_eq!(registry.snapshot(), [], "a handle that is left over does not bring it back");
}

#[test]
fn state_that_is_given_up_is_counted_by_its_reason() {
    let registry = registry("INFO");
    let figures = ClientFigures::new(&registry);
    for reason in ["past_log_end", "topic_recreated", "past_log_end"] {
        figures.state_wiped(reason);
    }
    let wiped = registry.snapshot().into_iter().filter(|m| m.name == "mainstem_state_wiped_total");
    let wiped: Vec<_> = wiped.map(|m| (m.label("reason").unwrap().to_owned(), m.value)).collect();
    let counted = |reason: &str, count| (reason.to_owned(), MetricValue::Counter(count));
    assert_eq!(wiped, [counted("past_log_end", 2), counted("topic_recreated", 1)]);
}

/// A worker that is left behind ends after another has its place.
#[test]
fn who_comes_later_keeps_the_figures() {
    let registry = registry("INFO");
    let scope = || Scope::new(&registry, vec![("worker", "0".to_owned())]);
    let (mut left_behind, mut next) = (scope(), scope());
    left_behind.gauge(&table::WORKER_TASKS, &[]).count(1);
    next.gauge(&table::WORKER_TASKS, &[]).count(2);
    drop(left_behind);
    assert_eq!(registry.snapshot()[0].value, MetricValue::Gauge(2.0));
    drop(next);
    assert_eq!(registry.snapshot(), []);
}

#[test]
fn the_level_leaves_figures_out() {
    for (level, kept) in [("INFO", false), ("DEBUG", true), ("TRACE", true)] {
        let registry = registry(level);
        let labels = vec![("worker", "0".to_owned()), ("task", "0_1".to_owned())];
        let mut scope = Scope::new(&registry, labels);
        scope.counter(&table::NODE_PROCESSED, &[("node", "n")]).add(1);
        scope.counter(&table::TASK_COMMITS, &[]).add(1);
        let names: Vec<_> = registry.snapshot().iter().map(|m| m.name).collect();
        assert!(names.contains(&"mainstem_task_commits_total"));
        assert_eq!(names.contains(&"mainstem_node_processed_records_total"), kept, "{level}");
    }
}

/// What a recorder has been told of a figure. Looking empties the recorder, so that each look has its own.
fn told(name: &str, tell: impl FnOnce(&mut Scope)) -> (Vec<(String, String)>, Option<String>, DebugValue) {
    let recorder = DebuggingRecorder::new();
    metrics::with_local_recorder(&recorder, || {
        describe();
        tell(&mut Scope::new(&registry("INFO"), vec![("worker", "3".to_owned())]));
    });
    let seen = recorder.snapshotter().snapshot().into_vec();
    let (key, _, meaning, value) = seen.into_iter().find(|(key, ..)| key.key().name() == name).unwrap();
    let labels = key.key().labels().map(|l| (l.key().to_owned(), l.value().to_owned())).collect();
    (labels, meaning.map(|m| m.to_string()), value)
}

#[test]
fn the_facade_gets_the_same_and_gauges_end_at_nothing() {
    let (labels, meaning, value) = told("mainstem_worker_commits_total", |scope| {
        let mut commits = scope.counter(&table::WORKER_COMMITS, &[]);
        commits.add(2);
        commits.follow(5);
    });
    let named = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(labels, [named("application", "app"), named("worker", "3")]);
    assert_eq!(meaning.as_deref(), Some(table::WORKER_COMMITS.meaning));
    assert_eq!(value, DebugValue::Counter(5));
    for (zeroed, left) in [(true, 0.0), (false, 4.0)] {
        let (.., value) = told("mainstem_worker_tasks", |scope| {
            scope.zeroed = zeroed;
            scope.gauge(&table::WORKER_TASKS, &[]).count(4);
        });
        assert_eq!(value, DebugValue::Gauge(left.into()));
    }
}
