//! Runs the scripts of a topology through the test driver.
//!
//! `MAINSTEM_ORACLE_DIR` names another folder of golden files than the fixtures (`<topology>.jsonl.gz` or `.jsonl`);
//! `MAINSTEM_ORACLE_FILTER` the topologies to run, separated by commas, with `*` at the end of a name for any rest.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use flate2::read::GzDecoder;
use mainstem::prelude::*;
use mainstem::testing::TopologyTestDriver;
use mainstem::{Config, Error};
use serde_json::Value;

use crate::compare;
use crate::script::{Case, Input, Output, Row, Step, headers, hex, unhex};

/// A topology of the catalogue.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    /// Configuration that the specification lists; a script's own wins.
    pub(crate) props: &'static [(&'static str, &'static str)],
    pub(crate) build: fn(&StreamsBuilder),
}

/// What has been run, over all tests of this process.
#[derive(Default, Clone, Copy)]
struct Totals {
    finished: usize,
    topologies: usize,
    scripts: usize,
    steps: usize,
    skipped: usize,
}

static TOTALS: Mutex<Totals> =
    Mutex::new(Totals { finished: 0, topologies: 0, scripts: 0, steps: 0, skipped: 0 });

/// Says something that the test harness does not swallow.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

pub(crate) fn folder() -> PathBuf {
    match std::env::var_os("MAINSTEM_ORACLE_DIR") {
        Some(dir) => dir.into(),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/oracle"),
    }
}

/// The patterns of `MAINSTEM_ORACLE_FILTER`; none asks for everything.
pub(crate) fn filter() -> Vec<String> {
    let text = std::env::var("MAINSTEM_ORACLE_FILTER").unwrap_or_default();
    text.split(',').map(str::trim).filter(|p| !p.is_empty()).map(str::to_owned).collect()
}

pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

pub(crate) fn asked_for(name: &str) -> bool {
    let filter = filter();
    filter.is_empty() || filter.iter().any(|pattern| matches(pattern, name))
}

fn lines(topology: &str) -> Option<Box<dyn BufRead>> {
    let open = |ending: &str| File::open(folder().join(format!("{topology}{ending}"))).ok();
    let file: Box<dyn Read> = match (open(".jsonl.gz"), open(".jsonl")) {
        (Some(packed), _) => Box::new(GzDecoder::new(packed)),
        (None, Some(plain)) => Box::new(plain),
        (None, None) => return None,
    };
    Some(Box::new(BufReader::new(file)))
}

/// Scripts that need what is not there yet: the optimizer.
fn needs_the_optimizer(case: &Case) -> bool {
    case.script.props.get("topology.optimization").is_some_and(|value| value != "none")
}

/// Runs every script of a topology; panics with all differences, one a script.
pub(crate) fn golden(name: &str) {
    let entry = crate::entry(name).expect("tests are made from the catalogue");
    let mut mine = Totals::default();
    let mut differences = Vec::new();
    if asked_for(name) {
        match lines(name) {
            Some(lines) => {
                for line in lines.lines() {
                    let line = line.expect("golden files can be read");
                    let case: Case = serde_json::from_str(&line).expect("golden files hold cases");
                    assert_eq!(case.script.topology, name, "a script of another topology in the file");
                    if needs_the_optimizer(&case) {
                        say(&format!("SKIPPED {}: topology.optimization is not built yet", case.script.id));
                        mine.skipped += 1;
                        continue;
                    }
                    match script(entry, &case) {
                        Ok(steps) => mine.steps += steps,
                        Err(difference) => differences.push(format!("{}: {difference}", case.script.id)),
                    }
                    mine.scripts += 1;
                }
                assert!(mine.scripts > 0, "the file of {name} holds no script that can be run");
                mine.topologies = 1;
                say(&format!(
                    "oracle {name}: {} scripts, {} steps compared, {} scripts skipped, {} differ",
                    mine.scripts,
                    mine.steps,
                    mine.skipped,
                    differences.len()
                ));
            }
            None => say(&format!("SKIPPED {name}: {} holds no scripts for it", folder().display())),
        }
    }
    count(mine);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

fn count(mine: Totals) {
    let totals = {
        let mut totals = TOTALS.lock().expect("no test panics while it counts");
        totals.finished += 1;
        totals.topologies += mine.topologies;
        totals.scripts += mine.scripts;
        totals.steps += mine.steps;
        totals.skipped += mine.skipped;
        *totals
    };
    if totals.finished == crate::all().count() {
        say(&format!(
            "oracle, all together: {} topologies, {} scripts, {} steps compared, {} scripts skipped",
            totals.topologies, totals.scripts, totals.steps, totals.skipped
        ));
    }
}

fn config(entry: &Entry, case: &Case) -> Config {
    let mut config = Config::builder("oracle", "unused:9092").state_dir("unused").cache_bytes(0);
    for (name, value) in entry.props.iter().filter(|(name, _)| !case.script.props.contains_key(*name)) {
        config = config.set(*name, *value);
    }
    for (name, value) in &case.script.props {
        config = config.set(name, value);
    }
    config.build().expect("the script's configuration is valid")
}

/// Runs a script up to its first difference. Returns the number of steps compared.
fn script(entry: &Entry, case: &Case) -> Result<usize, String> {
    let builder = StreamsBuilder::new();
    builder.allow_generated_names();
    (entry.build)(&builder);
    let topology = builder.build().map_err(|error| format!("not built: {error:?}"))?;
    compare::description(&case.expected, topology.describe())?;
    let mut driver = TopologyTestDriver::with_config(&topology, &config(entry, case))
        .map_err(|error| format!("not started: {error:?}"))?;
    for (at, step) in case.script.steps.iter().enumerate() {
        let done = run_step(&mut driver, step);
        let got: Vec<Output> = driver.take_produced().into_iter().map(Output::from).collect();
        let fails = case.expected.error_step == Some(at);
        match done {
            Err(_) if fails => return Ok(at + 1),
            Ok(()) if fails => {
                let why = case.expected.error.as_deref().unwrap_or_default();
                return Err(format!("step {at} passes and should have failed with {why}"));
            }
            Err(error) => return Err(format!("step {at} fails: {error:?}")),
            Ok(()) => compare::step(&case.expected, at, &got)
                .map_err(|difference| format!("step {at} ({}): {difference}", show(step)))?,
        }
    }
    stores(&driver, case)?;
    driver.close().map_err(|error| format!("not closed: {error:?}"))?;
    Ok(case.script.steps.len())
}

fn show(step: &Step) -> String {
    match step {
        Step::Advance { advance_wall_ms } => format!("advance by {advance_wall_ms} ms"),
        Step::Pipe(input) => {
            let (key, value) = (input.key.as_ref(), input.value.as_ref());
            let (key, value) = (crate::script::readable(key), crate::script::readable(value));
            format!("{}: {key} -> {value} @ {}", input.topic, input.ts)
        }
    }
}

fn run_step(driver: &mut TopologyTestDriver, step: &Step) -> Result<(), Error> {
    match step {
        Step::Advance { advance_wall_ms } => {
            driver.advance_wall_clock(Duration::from_millis(*advance_wall_ms))
        }
        Step::Pipe(Input { topic, key, value, ts, headers: pairs }) => {
            let (key, value) = (key.as_deref().map(unhex), value.as_deref().map(unhex));
            driver.pipe(topic, Record { key, value, timestamp: *ts, headers: headers(pairs) })
        }
    }
}

fn stores(driver: &TopologyTestDriver, case: &Case) -> Result<(), String> {
    for (name, wanted) in &case.expected.stores {
        let rows = driver.store_rows(name).map_err(|error| error.to_string())?;
        let kind = case.expected.store_kinds.get(name).map_or("", |kind| kind);
        let mut rows: Vec<Row> = rows
            .into_iter()
            .map(|row| {
                // The oracle shows a window's key without the number that tells duplicates apart.
                let number = if kind.ends_with("window") { 4 } else { 0 };
                let key = &row.key[..row.key.len() - number];
                let mut cells = vec![Value::from(hex(key)), Value::from(hex(&row.value))];
                cells.extend(row.timestamp.map(Value::from));
                if let Some(validity) = row.validity {
                    cells.extend([Value::from(validity.from), validity.to.map_or(Value::Null, Value::from)]);
                }
                cells
            })
            .collect();
        if kind == "suppress-buffer" {
            // The oracle does not show what is in it.
            rows.clear();
        }
        if kind.ends_with("window") || kind == "session" {
            // It sorts them by key, wherever time puts them in the store.
            rows.sort_by(|a, b| a[0].as_str().cmp(&b[0].as_str()));
        }
        compare::store(name, wanted, &rows)?;
    }
    let unknown: Vec<&str> =
        driver.stores().filter(|name| !case.expected.stores.contains_key(*name)).collect();
    if !unknown.is_empty() {
        return Err(format!("stores that Kafka Streams does not have: {}", unknown.join(", ")));
    }
    Ok(())
}
