//! When a task may process although an input has nothing: `max.task.idle.ms` (`PartitionGroup.readyToProcess`, KIP-353,
//! KIP-695).

use std::time::{Duration, Instant};

/// What is known of an input beside its queue.
#[derive(Debug, Default)]
pub(super) struct Idle {
    /// Whether everything that the broker has is here; `None` before its first word.
    pub(super) caught_up: Option<bool>,
    /// Since when the queue is empty while the broker has nothing either.
    since: Option<Instant>,
}

impl Idle {
    /// Whether the input may be passed over while its queue is empty: when it is known to have nothing at the broker
    /// either, for long enough; always if `max.task.idle.ms` is -1, which is `None`.
    pub(super) fn may_be_passed_over(&mut self, has_head: bool, max: Option<Duration>, now: Instant) -> bool {
        let Some(max) = max else { return true };
        if has_head {
            self.since = None;
            // It may run dry in the middle of the slice: then the same question is open again.
            return self.caught_up == Some(true) && max.is_zero();
        }
        if self.caught_up != Some(true) {
            self.since = None;
            return false;
        }
        now.saturating_duration_since(*self.since.get_or_insert(now)) >= max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(caught_up: Option<bool>) -> Idle {
        Idle { caught_up, since: None }
    }

    #[test]
    fn minus_one_waits_for_nobody() {
        let now = crate::clock::monotonic();
        for caught_up in [None, Some(false), Some(true)] {
            for has_head in [false, true] {
                assert!(idle(caught_up).may_be_passed_over(has_head, None, now));
            }
        }
    }

    #[test]
    fn zero_waits_for_what_the_broker_is_known_to_have_or_may_have() {
        let now = crate::clock::monotonic();
        let zero = Some(Duration::ZERO);
        assert!(!idle(None).may_be_passed_over(false, zero, now), "the broker has not said yet");
        assert!(!idle(Some(false)).may_be_passed_over(false, zero, now), "its records are on their way");
        assert!(idle(Some(true)).may_be_passed_over(false, zero, now), "it has nothing either");
    }

    #[test]
    fn a_time_is_waited_for_new_records_from_when_both_are_empty() {
        let start = crate::clock::monotonic();
        let at = |s| start + Duration::from_secs(s);
        let max = Some(Duration::from_secs(10));
        let mut input = idle(Some(true));
        assert!(!input.may_be_passed_over(true, max, at(0)), "should it run dry, the time begins then");
        assert!(!input.may_be_passed_over(false, max, at(5)));
        assert!(!input.may_be_passed_over(false, max, at(14)));
        assert!(input.may_be_passed_over(false, max, at(15)));
        assert!(input.may_be_passed_over(false, max, at(16)), "and stays so");
        assert!(!input.may_be_passed_over(true, max, at(17)), "a record begins it anew");
        assert!(!input.may_be_passed_over(false, max, at(18)));
        input.caught_up = Some(false);
        assert!(!input.may_be_passed_over(false, max, at(40)), "so does a record at the broker");
        input.caught_up = Some(true);
        assert!(
            !input.may_be_passed_over(false, max, at(41)) && input.may_be_passed_over(false, max, at(51))
        );
    }
}
