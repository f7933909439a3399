//! How many partitions the repartition topics have: as Kafka Streams derives it, because keys of a taken-over application
//! must stay where they are (`RepartitionTopics`, `CopartitionedTopicsEnforcer`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::topology::{Subtopology, Topology};

/// Partition counts by the names in the topology.
type Counts = BTreeMap<Arc<str>, i32>;

fn refused(message: String) -> Error {
    Error::new(ErrorKind::Topic, message)
}

/// Adds the counts of the repartition topics to those of all other topics.
///
/// # Errors
/// [`ErrorKind::Topic`] where counts depend on each other alone, or must be equal and are not.
pub(super) fn derive(topology: &Topology, counts: &mut Counts) -> Result<()> {
    let subtopologies = &topology.inner.subtopologies;
    let wanted: BTreeMap<&Arc<str>, Option<i32>> = subtopologies
        .iter()
        .flat_map(|s| s.sources.iter().filter_map(|t| t.repartition.map(|fixed| (&t.topic, fixed))))
        .collect();
    derive_from_upstream(subtopologies, &wanted, counts)?;
    // ORDER: only when all are derived; what is upstream of a topic that gets another count here keeps its own.
    for group in &topology.inner.copartitioned {
        let group: BTreeSet<&Arc<str>> = group.iter().collect();
        align(&group, &wanted, counts)?;
    }
    topology.inner.copartitioned.iter().try_for_each(|group| check(group, counts))
}

/// The topics that the count of a repartition topic may come from: what the sub-topologies that write it read, and what
/// it is read together with.
pub(super) fn influences(topology: &Topology, topic: &Arc<str>) -> Vec<Arc<str>> {
    let inner = &topology.inner;
    let writers = inner.subtopologies.iter().filter(|s| s.repartition_sinks.contains(topic));
    let upstream = writers.flat_map(|s| s.sources.iter().map(|t| &t.topic));
    let partners = inner.copartitioned.iter().filter(|group| group.contains(topic)).flatten();
    let all: BTreeSet<&Arc<str>> = upstream.chain(partners).filter(|other| *other != topic).collect();
    all.into_iter().cloned().collect()
}

/// A repartition topic has the user's count, or else the most partitions of what the sub-topologies that write it read.
fn derive_from_upstream(
    subtopologies: &[Subtopology],
    wanted: &BTreeMap<&Arc<str>, Option<i32>>,
    counts: &mut Counts,
) -> Result<()> {
    for (topic, fixed) in wanted {
        counts.extend(fixed.map(|fixed| ((*topic).clone(), fixed)));
    }
    // Everything upstream is to be known. In a circle it cannot be: then what is known must do, as for Java always.
    let mut all_known = true;
    loop {
        let open: Vec<&Arc<str>> =
            wanted.keys().copied().filter(|topic| !counts.contains_key(*topic)).collect();
        if open.is_empty() {
            return Ok(());
        }
        let mut settled = false;
        for topic in &open {
            let writers = subtopologies.iter().filter(|s| s.repartition_sinks.contains(topic));
            let upstream: Vec<Option<i32>> =
                writers.flat_map(|s| s.sources.iter().map(|t| counts.get(&t.topic).copied())).collect();
            if all_known && upstream.contains(&None) {
                continue;
            }
            if let Some(most) = upstream.into_iter().flatten().max() {
                counts.insert((*topic).clone(), most);
                settled = true;
                all_known = true;
            }
        }
        if !settled && !std::mem::take(&mut all_known) {
            let open: Vec<&str> = open.iter().map(|topic| &***topic).collect();
            return Err(refused(format!(
                "the partition counts of the repartition topics {} depend on each other; fix one with \
                 Repartitioned::partitions",
                open.join(", ")
            )));
        }
    }
}

/// Gives the repartition topics of a group that are free to have another count the one that the group must have: that of
/// the topics that are not ours, or that which the user has fixed, or the greatest.
fn align(
    group: &BTreeSet<&Arc<str>>,
    wanted: &BTreeMap<&Arc<str>, Option<i32>>,
    counts: &mut Counts,
) -> Result<()> {
    let given = |of: &dyn Fn(&Arc<str>) -> bool| -> Vec<(&Arc<str>, i32)> {
        group
            .iter()
            .filter(|topic| of(topic))
            .filter_map(|topic| Some((*topic, *counts.get(*topic)?)))
            .collect()
    };
    let outside = given(&|topic| !wanted.contains_key(topic));
    let fixed = given(&|topic| matches!(wanted.get(topic), Some(Some(_))));
    let free = given(&|topic| matches!(wanted.get(topic), Some(None)));
    let deciding = [&outside, &fixed, &free].into_iter().find(|topics| !topics.is_empty());
    let Some(count) = deciding.and_then(|topics| topics.iter().map(|(_, count)| *count).max()) else {
        return Ok(());
    };
    let free: Vec<Arc<str>> = free.into_iter().map(|(topic, _)| topic.clone()).collect();
    counts.extend(free.into_iter().map(|topic| (topic, count)));
    Ok(())
}

fn check(group: &[Arc<str>], counts: &Counts) -> Result<()> {
    let mut seen: Vec<(&str, i32)> =
        group.iter().filter_map(|topic| counts.get(topic).map(|count| (&**topic, *count))).collect();
    seen.sort_unstable();
    seen.dedup();
    if seen.windows(2).any(|pair| pair[0].1 != pair[1].1) {
        let list: Vec<String> = seen.iter().map(|(topic, count)| format!("{topic} has {count}")).collect();
        return Err(refused(format!(
            "topics whose records meet by key have unequal partition counts: {}; equal keys would land in different \
             tasks. Give them equal counts, or put a repartition() before the operator that brings them together",
            list.join(", ")
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::blueprint::Plan;
    use crate::topology::{SourceTopic, TopologyInner};

    /// Sub-topologies as `reads > writes`; a repartition topic begins with `r`, a fixed one says its count: `r1=3`.
    fn topology(subtopologies: &[&str], copartitioned: &[&str]) -> Topology {
        let name = |text: &str| -> Arc<str> { text.split('=').next().unwrap().into() };
        let source = |text: &str| SourceTopic {
            topic: name(text),
            reset: None,
            repartition: text
                .starts_with('r')
                .then(|| text.split_once('=').map(|(_, count)| count.parse().unwrap())),
        };
        let subtopology = |(id, text): (usize, &&str)| {
            let (reads, writes) = text.split_once('>').unwrap();
            Subtopology {
                id: id as i32,
                plan: Plan::default(),
                sources: reads.split_whitespace().map(source).collect(),
                repartition_sinks: writes.split_whitespace().map(name).collect(),
                sinks: Vec::new(),
                fingerprint: 1,
            }
        };
        let groups = copartitioned.iter().map(|group| group.split_whitespace().map(name).collect());
        let inner = TopologyInner {
            subtopologies: subtopologies.iter().enumerate().map(subtopology).collect(),
            whole: Plan::default(),
            global: None,
            description: String::new(),
            copartitioned: groups.collect(),
        };
        Topology { inner: Arc::new(inner) }
    }

    /// The outside topics' counts are their last digit: `a3` has three partitions.
    fn derived(subtopologies: &[&str], copartitioned: &[&str]) -> Result<String> {
        let topology = topology(subtopologies, copartitioned);
        let outside = topology.inner.subtopologies.iter().flat_map(|s| &s.sources);
        let mut counts: Counts = outside
            .filter(|t| t.repartition.is_none())
            .map(|t| (t.topic.clone(), t.topic[1..].parse().unwrap()))
            .collect();
        derive(&topology, &mut counts)?;
        let repartition = counts.iter().filter(|(topic, _)| topic.starts_with('r'));
        Ok(repartition.map(|(topic, count)| format!("{topic}={count}")).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn a_repartition_topic_has_the_most_partitions_of_what_its_writers_read() {
        assert_eq!(derived(&["a3 > r1", "r1 >"], &[]).unwrap(), "r1=3");
        assert_eq!(derived(&["a3 b5 > r1", "c7 > r1", "r1 >"], &[]).unwrap(), "r1=7");
        assert_eq!(derived(&["a3 > r1", "r1=12 >"], &[]).unwrap(), "r1=12", "or the user's");
    }

    #[test]
    fn counts_travel_down_chains_in_any_order() {
        assert_eq!(derived(&["r2 > r3", "r3 >", "r1 > r2", "a4 > r1"], &[]).unwrap(), "r1=4 r2=4 r3=4");
        assert_eq!(derived(&["r2 > r3", "r3 >", "r1=9 > r2", "a4 > r1"], &[]).unwrap(), "r1=9 r2=9 r3=9");
        assert_eq!(derived(&["a2 r1 > r2", "a8 > r1", "r2 >"], &[]).unwrap(), "r1=8 r2=8");
    }

    #[test]
    fn a_circle_takes_what_it_knows_and_one_that_knows_nothing_is_refused() {
        assert_eq!(derived(&["a3 r1 > r1"], &[]).unwrap(), "r1=3");
        assert_eq!(derived(&["a3 r2 > r1", "r1 > r2", "r2 > r3", "r3 >"], &[]).unwrap(), "r1=3 r2=3 r3=3");
        let error = derived(&["r2 > r1", "r1 > r2"], &[]).unwrap_err();
        assert!(error.to_string().contains("r1, r2 depend on each other"), "{error}");
        assert!(derived(&["a3 >", "r1 >"], &[]).is_err(), "nobody writes it");
    }

    #[test]
    fn topics_that_meet_get_equal_counts() {
        // Two repartition topics: the greater count; what is downstream was derived before (as in Java).
        assert_eq!(
            derived(&["a2 > r1", "b6 > r2", "r1 r2 > r3", "r3 >"], &["r1 r2"]).unwrap(),
            "r1=6 r2=6 r3=6"
        );
        assert_eq!(
            derived(&["a2 > r1", "b6 > r2", "r1 > r3", "r2 r3 >"], &["r1 r2"]).unwrap(),
            "r1=6 r2=6 r3=2"
        );
        // A topic of others decides, whether it has more or fewer.
        assert_eq!(derived(&["a2 > r1", "r1 b6 >"], &["r1 b6"]).unwrap(), "r1=6");
        assert_eq!(derived(&["a8 > r1", "r1 b6 >"], &["r1 b6"]).unwrap(), "r1=6");
        // So does the user's count where only repartition topics meet.
        assert_eq!(derived(&["a2 > r1", "b6 > r2", "r1=3 r2 >"], &["r1 r2"]).unwrap(), "r1=3 r2=3");
    }

    #[test]
    fn counts_that_cannot_be_equal_are_refused_with_all_names() {
        for (subtopologies, group, words) in [
            (["a2 b3 >", "c1 >"], "a2 b3", ["a2 has 2", "b3 has 3"]),
            (["a2 > r1", "r1=4 b3 >"], "r1 b3", ["r1 has 4", "b3 has 3"]),
            (["a2 > r1 r2", "r1=4 r2=5 >"], "r1 r2", ["r1 has 4", "r2 has 5"]),
        ] {
            let text = derived(&subtopologies, &[group]).unwrap_err().to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        }
        // A second group pulls a topic away from the first, which Java does not notice.
        let text = derived(&["a2 > r1", "b6 > r2", "r1 r2 >", "r2 c3 >"], &["r1 r2", "r2 c3"])
            .unwrap_err()
            .to_string();
        assert!(text.contains("r1 has 6") && text.contains("r2 has 3"), "{text}");
    }

    #[test]
    fn what_a_count_comes_from_is_named() {
        let topology = topology(&["a2 b2 > r1", "r1 c2 >"], &["r1 c2"]);
        assert_eq!(influences(&topology, &"r1".into()), ["a2".into(), "b2".into(), "c2".into()]);
    }
}
