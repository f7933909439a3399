//! How long a task may go without progress: `task.timeout.ms` (KIP-572).

use std::fmt::Display;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind};

/// So many failures are no row yet: a clock that jumps over the whole time between two of them has shown nothing.
const A_ROW: u32 = 3;

/// Failures in a row of one thing that a task has to do. The time runs from the first of them.
#[derive(Debug)]
pub(super) struct TaskTimeout {
    limit: Duration,
    since: Option<Instant>,
    failures: u32,
}

impl TaskTimeout {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, since: None, failures: 0 }
    }

    /// There was progress.
    pub(super) fn progress(&mut self) {
        (self.since, self.failures) = (None, 0);
    }

    /// It failed once more. Says whether the time is up: at once if it is none, and never before the third time else.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        let since = *self.since.get_or_insert(now);
        self.limit.is_zero() || (self.failures >= A_ROW && now.saturating_duration_since(since) >= self.limit)
    }

    /// The error when the time is up.
    pub(super) fn error(&self, who: impl Display, what: &str, cause: Error) -> Error {
        let text = format!(
            "{who} has made no progress for {} ms (task.timeout.ms): {what}; when the cause is mended start again, or set a \
             longer time",
            self.limit.as_millis()
        );
        let mut error = Error::new(ErrorKind::Timeout, text);
        if let Some(topic) = cause.topic() {
            error = error.at_topic(topic);
        }
        if let Some(partition) = cause.partition() {
            error = error.at_partition(partition);
        }
        error.because(cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_runs_from_the_first_failure_in_a_row() {
        let start = crate::clock::monotonic();
        let at = |s| start + Duration::from_secs(s);
        let mut timeout = TaskTimeout::new(Duration::from_secs(10));
        assert!(!timeout.failed(at(100)) && !timeout.failed(at(105)) && !timeout.failed(at(109)));
        assert!(timeout.failed(at(110)));
        timeout.progress();
        assert!(!timeout.failed(at(111)) && !timeout.failed(at(120)));
        assert!(timeout.failed(at(121)));
    }

    #[test]
    fn a_jump_of_the_clock_is_no_failure_and_no_time_is_none() {
        let start = crate::clock::monotonic();
        let mut timeout = TaskTimeout::new(Duration::from_secs(300));
        assert!(!timeout.failed(start));
        assert!(!timeout.failed(start + Duration::from_secs(8 * 3600)), "the machine slept");
        assert!(TaskTimeout::new(Duration::ZERO).failed(start));
    }

    #[test]
    fn the_error_names_the_task_the_property_and_the_place() {
        let cause = Error::new(ErrorKind::Timeout, "no answer").at_topic("orders").at_partition(2);
        let error =
            TaskTimeout::new(Duration::from_secs(5)).error("task 0_2", "offsets cannot be read", cause);
        let text = error.to_string();
        for word in
            ["task 0_2", "5000 ms (task.timeout.ms)", "offsets cannot be read", "topic orders, partition 2"]
        {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}
