//! Compares what came out with what Kafka Streams 4.3.1 did. A difference is a text that says where and shows both sides.

use std::collections::BTreeSet;

use crate::script::{Expected, Output, Row};

fn list(records: &[Output]) -> String {
    if records.is_empty() {
        return "      nothing\n".to_owned();
    }
    records.iter().map(|record| format!("      {record}\n")).collect()
}

fn of_topic<'a>(records: &'a [Output], topic: &str) -> Vec<&'a Output> {
    records.iter().filter(|record| record.topic == topic).collect()
}

/// One step: each topic as a sequence (as a multiset where the oracle's order is that of a hash set), then the order
/// between the topics.
pub(crate) fn step(expected: &Expected, at: usize, got: &[Output]) -> Result<(), String> {
    let wanted = &expected.outputs[at];
    let topics: BTreeSet<&String> = wanted.iter().chain(got).map(|record| &record.topic).collect();
    for topic in topics {
        let (mut want, mut have) = (of_topic(wanted, topic), of_topic(got, topic));
        if expected.unordered_topics.contains(topic) {
            want.sort();
            have.sort();
        }
        if want != have {
            return Err(format!(
                "topic {topic} differs\n    expected\n{}    got\n{}",
                list(wanted),
                list(got)
            ));
        }
    }
    if expected.unordered_topics.is_empty() && wanted != got {
        return Err(format!(
            "the order between topics differs\n    expected\n{}    got\n{}",
            list(wanted),
            list(got)
        ));
    }
    Ok(())
}

pub(crate) fn description(expected: &Expected, got: &str) -> Result<(), String> {
    if expected.describe == got {
        return Ok(());
    }
    Err(format!("the description differs\n    expected\n{}\n    got\n{got}", expected.describe))
}

pub(crate) fn store(name: &str, wanted: &[Row], got: &[Row]) -> Result<(), String> {
    if wanted == got {
        return Ok(());
    }
    let rows = |rows: &[Row]| rows.iter().map(|row| format!("      {row:?}\n")).collect::<String>();
    Err(format!("store {name} differs\n    expected\n{}    got\n{}", rows(wanted), rows(got)))
}
