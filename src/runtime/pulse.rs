//! Whether a worker comes back to its loop: user code may block it for ever (`max.processing.time.ms`).
//!
//! The worker writes a number once a loop and once a task's slice; the I/O thread looks at it now and then. So neither
//! reads a clock for it, and a process that stood still as a whole finds nobody stuck when it goes on.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::workers::WorkerId;

/// The two things that a worker and the I/O thread both see of each other.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// Odd while it works, even while it waits for its mailbox. Written by the worker alone.
    beats: AtomicU64,
    dismissed: AtomicBool,
}

impl Pulse {
    /// The worker gets on.
    pub(super) fn beat(&self) {
        self.beats.store((self.beats.load(Ordering::Relaxed) | 1) + 2, Ordering::Relaxed);
    }

    /// The worker waits for its mailbox.
    pub(super) fn rest(&self) {
        self.beats.store((self.beats.load(Ordering::Relaxed) | 1) + 1, Ordering::Relaxed);
    }

    pub(super) fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// The worker is given up, for good.
    ///
    /// ORDER: before its producer is fenced: a worker that takes its producer into use again looks here after that.
    pub(super) fn dismiss(&self) {
        self.dismissed.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_dismissed(&self) -> bool {
        self.dismissed.load(Ordering::SeqCst)
    }
}

/// The I/O thread's look at the workers.
#[derive(Debug)]
pub(super) struct Watch {
    limit: Duration,
    looked: Instant,
    /// The last beat of each worker, and for how long it has been the last.
    seen: HashMap<WorkerId, (u64, Duration)>,
}

impl Watch {
    pub(super) fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, looked: now, seen: HashMap::new() }
    }

    fn interval(&self) -> Duration {
        (self.limit / 8).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }

    /// When to look next.
    pub(super) fn next(&self) -> Instant {
        self.looked + self.interval()
    }

    /// The workers that have not come back for longer than they may, if it is time to look.
    pub(super) fn stuck(
        &mut self,
        now: Instant,
        beats: impl Iterator<Item = (WorkerId, u64)>,
    ) -> Vec<WorkerId> {
        if now < self.next() {
            return Vec::new();
        }
        // Time in which nobody looked does not count: the whole process may have stood still, and a clock may jump.
        let passed = now.saturating_duration_since(self.looked).min(self.interval() * 2);
        self.looked = now;
        let before = std::mem::take(&mut self.seen);
        for (worker, beat) in beats {
            let works = beat % 2 == 1;
            let since = match before.get(&worker) {
                Some((last, since)) if *last == beat && works => *since + passed,
                _ => Duration::ZERO,
            };
            self.seen.insert(worker, (beat, since));
        }
        self.seen.iter().filter(|(_, (_, since))| *since >= self.limit).map(|(worker, _)| *worker).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const LIMIT: Duration = Duration::from_secs(80);

    /// Looks once a second, so many times; gives the second in which somebody was stuck.
    fn look(watch: &mut Watch, now: &mut Instant, times: u32, beats: &[(WorkerId, &Pulse)]) -> Option<u32> {
        (1..=times).find(|_| {
            *now += Duration::from_secs(1);
            !watch.stuck(*now, beats.iter().map(|(id, pulse)| (*id, pulse.beats()))).is_empty()
        })
    }

    #[test]
    fn who_works_on_and_does_not_come_back_is_stuck_when_the_time_is_over() {
        let (mut now, pulse, id) = (clock::monotonic(), Pulse::default(), WorkerId::of(1));
        let mut watch = Watch::new(LIMIT, now);
        pulse.beat();
        assert_eq!(look(&mut watch, &mut now, 70, &[(id, &pulse)]), None);
        pulse.beat();
        assert_eq!(look(&mut watch, &mut now, 100, &[(id, &pulse)]), Some(81));
        pulse.beat();
        assert_eq!(look(&mut watch, &mut now, 80, &[(id, &pulse)]), None, "it is back");
    }

    #[test]
    fn who_waits_for_its_mailbox_is_never_stuck() {
        let (mut now, pulse, id) = (clock::monotonic(), Pulse::default(), WorkerId::of(1));
        let mut watch = Watch::new(LIMIT, now);
        assert_eq!(look(&mut watch, &mut now, 1_000, &[(id, &pulse)]), None, "it has not begun");
        pulse.beat();
        pulse.rest();
        assert_eq!(look(&mut watch, &mut now, 1_000, &[(id, &pulse)]), None);
        pulse.beat();
        assert_eq!(look(&mut watch, &mut now, 1_000, &[(id, &pulse)]), Some(81));
    }

    #[test]
    fn a_process_that_stood_still_finds_nobody_stuck() {
        let (mut now, pulse, id) = (clock::monotonic(), Pulse::default(), WorkerId::of(1));
        let mut watch = Watch::new(LIMIT, now);
        pulse.beat();
        assert_eq!(look(&mut watch, &mut now, 10, &[(id, &pulse)]), None);
        now += Duration::from_secs(10_000);
        assert_eq!(look(&mut watch, &mut now, 60, &[(id, &pulse)]), None);
        assert!(look(&mut watch, &mut now, 20, &[(id, &pulse)]).is_some());
    }

    #[test]
    fn the_successor_of_a_stuck_worker_has_all_the_time() {
        let (mut now, old, new) = (clock::monotonic(), Pulse::default(), Pulse::default());
        let mut watch = Watch::new(LIMIT, now);
        old.beat();
        assert!(look(&mut watch, &mut now, 100, &[(WorkerId::of(1), &old)]).is_some());
        new.beat();
        assert_eq!(look(&mut watch, &mut now, 80, &[(WorkerId::of(2), &new)]), None);
    }
}
