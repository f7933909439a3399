//! Which record is next.

use super::*;

fn merged(partitions: &[(&str, i32)]) -> Rig {
    let builder = StreamsBuilder::new();
    let b = builder.stream::<String, String>("b");
    builder.stream("a").merge(&b).to("out");
    Rig::build(&builder, partitions, Options::default()).unwrap()
}

fn order(rig: &Rig) -> Vec<String> {
    rig.taken().into_iter().map(|s| s.text()).collect()
}

#[test]
fn two_topics_of_a_task_interleave_by_timestamp() {
    let mut rig = merged(&[("b", 0), ("a", 0)]);
    rig.push("a", 0, &[(0, None, Some("a1"), 10), (1, None, Some("a2"), 30), (2, None, Some("a3"), 25)], 3);
    rig.push("b", 0, &[(0, None, Some("b1"), 20), (1, None, Some("b2"), 27), (2, None, Some("b3"), 40)], 3);
    assert_eq!(rig.process().unwrap(), 6);
    // a3 is out of order in its partition: it is taken as soon as it is the head.
    assert_eq!(order(&rig), ["a1", "b1", "b2", "a2", "a3", "b3"]);
    assert_eq!(rig.task.stream_time(), 40);
}

#[test]
fn equal_timestamps_go_by_topic_and_partition() {
    let mut rig = merged(&[("b", 1), ("a", 1), ("b", 0), ("a", 0)]);
    for (topic, partition) in [("b", 1), ("b", 0), ("a", 1), ("a", 0)] {
        let first = format!("{topic}{partition}-1");
        let second = format!("{topic}{partition}-2");
        rig.push(topic, partition, &[(0, None, Some(&first), 5), (1, None, Some(&second), 6)], 2);
    }
    rig.process().unwrap();
    assert_eq!(order(&rig), ["a0-1", "a1-1", "b0-1", "b1-1", "a0-2", "a1-2", "b0-2", "b1-2"]);
}

#[test]
fn a_record_that_arrives_later_but_is_older_goes_first() {
    let mut rig = merged(&[("b", 0), ("a", 0)]);
    rig.push("a", 0, &[(0, None, Some("a1"), 10), (1, None, Some("a2"), 12)], 2);
    assert_eq!(rig.task.process(1, |_| true, || true).unwrap(), 1);
    rig.push("b", 0, &[(0, None, Some("b1"), 3)], 1);
    rig.process().unwrap();
    assert_eq!(order(&rig), ["a1", "b1", "a2"]);
    assert_eq!(rig.task.stream_time(), 12, "stream time does not go back");
}
