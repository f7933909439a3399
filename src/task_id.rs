//! The name of a task: one partition of one sub-topology.

use std::fmt;
use std::str::FromStr;

use crate::{Error, ErrorKind};

/// Names a task: the sub-topology and the partition of its source topics that the task reads.
///
/// Written `0_1`, as Kafka Streams' `org.apache.kafka.streams.processor.TaskId`; ordered by sub-topology, then by
/// partition.
///
/// ```
/// let task: mainstem::TaskId = "0_1".parse()?;
/// assert_eq!((task.subtopology, task.partition), (0, 1));
/// assert_eq!(task.to_string(), "0_1");
/// # Ok::<(), mainstem::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// The sub-topology's number, from 0.
    pub subtopology: i32,
    /// The partition, from 0.
    pub partition: i32,
}

impl TaskId {
    /// Names a task.
    pub const fn new(subtopology: i32, partition: i32) -> Self {
        Self { subtopology, partition }
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.subtopology, self.partition)
    }
}

impl FromStr for TaskId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        fn number(digits: &str) -> Option<i32> {
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| digits.parse().ok())?
        }
        text.split_once('_')
            .and_then(|(subtopology, partition)| Some(Self::new(number(subtopology)?, number(partition)?)))
            .ok_or_else(|| {
                let message =
                    format!("{text:?} is not a task id: write sub-topology and partition, as in 0_1");
                Error::new(ErrorKind::Config, message)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_sorts_by_number() {
        let mut tasks: Vec<TaskId> = ["1_0", "0_10", "0_2"].iter().map(|t| t.parse().unwrap()).collect();
        tasks.sort();
        assert_eq!(tasks.iter().map(ToString::to_string).collect::<Vec<_>>(), ["0_2", "0_10", "1_0"]);
    }

    #[test]
    fn other_text_is_refused_by_name() {
        for text in
            ["", "1", "_", "1_", "_1", "-1_0", "+1_0", "0_-1", "0_1_2", "a_b", "0_99999999999", " 0_1"]
        {
            let error = text.parse::<TaskId>().unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }
}
