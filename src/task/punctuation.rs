//! Punctuations: calls that a node asked for, on stream time or on the wall clock
//! (`org.apache.kafka.streams.processor.internals.PunctuationQueue`).

use super::NodeIx;
use crate::record::Timestamp;

/// Which clock a punctuation follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PunctuationType {
    /// The greatest timestamp that the task has seen; moves with records only.
    StreamTime,
    /// The machine's clock.
    WallClockTime,
}

/// Names one schedule of a processor, for telling schedules apart and for cancelling them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(u64);

#[derive(Debug)]
struct Schedule {
    token: Token,
    node: NodeIx,
    next: Timestamp,
    interval: i64,
    /// It has been called: from then on the next call is never far.
    called: bool,
}

impl Schedule {
    /// Moves to the first due time after `now`; missed calls collapse into the one just made.
    fn advance(&mut self, now: Timestamp) {
        self.called = true;
        self.next += self.interval;
        if now >= self.next {
            let missed = (now - (self.next - self.interval)) / self.interval;
            self.next = self.next - self.interval + (missed + 1) * self.interval;
        }
    }

    /// The clock was set back: the next call is the first of the same grid after `now`, instead of one as late as the clock
    /// was wrong; Kafka Streams stands still that long. A small correction of the clock makes no call twice.
    fn turn_back(&mut self, now: Timestamp) {
        if self.called && self.next - now > self.interval.saturating_mul(2) {
            self.next -= (self.next - now - 1) / self.interval * self.interval;
        }
    }
}

/// The schedules of a task that follow one clock.
#[derive(Debug, Default)]
pub(crate) struct Punctuations {
    schedules: Vec<Schedule>,
    /// The time of the last look.
    seen: Timestamp,
}

impl Punctuations {
    /// Adds a schedule whose first call is due at `first`; an anchored one is never due before `now`.
    pub(crate) fn add(
        &mut self,
        token: Token,
        node: NodeIx,
        first: Timestamp,
        interval: i64,
        anchored: bool,
        now: Timestamp,
    ) {
        let mut schedule = Schedule { token, node, next: first, interval, called: false };
        if anchored && first < now {
            schedule.advance(now);
            schedule.called = false;
        }
        self.schedules.push(schedule);
    }

    pub(crate) fn cancel(&mut self, token: Token) -> bool {
        let before = self.schedules.len();
        self.schedules.retain(|s| s.token != token);
        self.schedules.len() < before
    }

    /// The time of the next call.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.schedules.iter().map(|s| s.next).min()
    }

    /// The earliest schedule that is due at `now`, moved on to its next time.
    pub(crate) fn take_due(&mut self, now: Timestamp) -> Option<(NodeIx, Token)> {
        if now < self.seen {
            self.schedules.iter_mut().for_each(|schedule| schedule.turn_back(now));
        }
        self.seen = now;
        let due = self.schedules.iter_mut().filter(|s| s.next <= now).min_by_key(|s| s.next)?;
        due.advance(now);
        Some((due.node, due.token))
    }
}

/// Makes tokens that differ within a task.
#[derive(Debug, Default)]
pub(crate) struct Tokens(u64);

impl Tokens {
    pub(crate) fn make(&mut self) -> Token {
        self.0 += 1;
        Token(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(punctuations: &mut Punctuations, now: Timestamp) -> usize {
        std::iter::from_fn(|| punctuations.take_due(now)).count()
    }

    #[test]
    fn missed_intervals_collapse() {
        let mut punctuations = Punctuations::default();
        punctuations.add(Token(1), NodeIx(0), 0, 100, false, -1);
        assert_eq!(due(&mut punctuations, 5), 1, "a stream-time schedule is due with the first record");
        assert_eq!(due(&mut punctuations, 99), 0);
        assert_eq!(due(&mut punctuations, 350), 1);
        assert_eq!(punctuations.next_due(), Some(400));
    }

    #[test]
    fn a_clock_that_jumps_to_and_fro_stops_no_punctuation() {
        let mut punctuations = Punctuations::default();
        punctuations.add(Token(1), NodeIx(0), 1_000_100, 100, false, 1_000_000);
        punctuations.add(Token(2), NodeIx(0), 5_000_000, 100, true, 1_000_000);
        assert_eq!(due(&mut punctuations, 1_000_130), 1);
        assert_eq!(due(&mut punctuations, 130), 0, "a quarter of an hour back");
        assert_eq!(due(&mut punctuations, 199), 0);
        assert_eq!(due(&mut punctuations, 200), 1, "on its old grid");
        assert_eq!(due(&mut punctuations, 190), 0, "a small step back");
        assert_eq!(punctuations.next_due(), Some(300));
        assert_eq!(due(&mut punctuations, 300), 1);
        assert_eq!(due(&mut punctuations, 900_050), 1, "hours forward: one call, not thousands");
        assert_eq!(punctuations.next_due(), Some(900_100));
        assert_eq!(due(&mut punctuations, 4_999_950), 1, "the one that waits for its start still waits");
        assert_eq!(due(&mut punctuations, 5_000_000), 2);
    }

    #[test]
    fn an_anchored_schedule_keeps_its_grid() {
        let mut punctuations = Punctuations::default();
        punctuations.add(Token(1), NodeIx(0), 25, 100, true, 230);
        assert_eq!(punctuations.next_due(), Some(325));
        assert!(punctuations.cancel(Token(1)));
        assert_eq!(punctuations.next_due(), None);
    }
}
