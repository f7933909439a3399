//! What a worker tells those who watch it: figures read out, and how restores go on.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Owned, Worker};
use crate::clock;
use crate::config::Config;
use crate::record::TopicPartition;
use crate::runtime::memory::Action;
use crate::store::{AnyStore, memory};
use crate::task_id::TaskId;

impl Worker {
    /// Reads out what the worker and its tasks have counted.
    pub(super) fn observe(&mut self, now: Instant) {
        self.owned.iter_mut().for_each(|owned| owned.observe(now));
        let restoring = self.owned.iter().filter(|owned| !owned.running).count();
        self.observe_memory();
        let output = self.output.borrow();
        self.figures.fold(now, (self.owned.len(), restoring), &output.producer, output.sent());
    }

    fn observe_memory(&mut self) {
        let stores = memory::held(self.stores());
        let shares = self.account_for(stores.rows + stores.runs);
        let (account, workers) = (&self.shared.memory, self.shared.control.workers());
        let flushes = |owned: &mut Owned| std::mem::take(&mut owned.task.counts().cache_overflows);
        account.acted(Action::Flush, self.owned.iter_mut().map(flushes).sum());
        let pauses = self.live.pauses() + self.restores.source().pauses();
        let actions = Action::ALL.map(|(action, name)| {
            let times = match action {
                Action::Pause => pauses,
                Action::Apply => self.restores.applied_early(),
                action => account.actions(action),
            };
            (name, times)
        });
        let budget = (account.most(), account.budget(workers));
        self.shared.figures().memory(shares.named(), account.limits(workers).named(), budget, actions);
    }

    /// A commit has succeeded; the tasks do not know yet.
    pub(super) fn observe_commit(&mut self) {
        for owned in self.owned.iter_mut().filter(|o| o.running && o.task.commit_needed()) {
            owned.figures.committed();
        }
    }
}

impl Owned {
    /// A slice of records has been processed.
    pub(super) fn sliced(&mut self, took: Duration, wall_ms: i64) {
        let oldest = std::mem::replace(&mut self.task.counts().oldest, i64::MAX);
        self.figures.processed(took, oldest, wall_ms);
        if self.forced {
            self.figures.enforced();
        }
    }

    pub(super) fn observe(&mut self, now: Instant) {
        let remaining = self.restores.iter().map(|restore| restore.to - restore.position).sum();
        for restore in &mut self.restores {
            restore.progress.report(now, restore.position);
        }
        self.figures.fold(&mut self.task, self.inputs.iter().map(|input| &input.reach), remaining);
    }
}

/// How the restore of one store goes on.
#[derive(Debug)]
pub(super) struct Progress {
    span: tracing::Span,
    since: Instant,
    from: i64,
    to: i64,
    /// Records applied.
    pub(super) records: u64,
    interval: Option<Duration>,
    next_report: Instant,
}

impl Progress {
    pub(super) fn new(
        task: TaskId,
        store: &Rc<dyn AnyStore>,
        changelog: &TopicPartition,
        (from, to): (i64, i64),
        config: &Config,
    ) -> Self {
        let store = &**store.name();
        let span = tracing::info_span!("restore", %task, store, %changelog, from, to);
        let since = clock::monotonic();
        let interval = config.log_summary_interval();
        let next_report = since + interval.unwrap_or_default();
        Self { span, since, from, to, records: 0, interval, next_report }
    }

    /// Says where the restore is, every `log.summary.interval.ms`.
    fn report(&mut self, now: Instant, position: i64) {
        let Some(interval) = self.interval.filter(|_| now >= self.next_report) else { return };
        self.next_report = now + interval;
        let elapsed = now.saturating_duration_since(self.since);
        let left = time_left(elapsed, position - self.from, self.to - position);
        let (records, rate) = (self.records, self.rate(elapsed));
        let _restore = self.span.enter();
        tracing::info!(position, records, records_per_second = rate, ?left, "restoring");
    }

    pub(super) fn done(&self, position: i64) {
        let took = clock::monotonic().saturating_duration_since(self.since);
        let (records, rate) = (self.records, self.rate(took));
        let _restore = self.span.enter();
        tracing::info!(position, records, records_per_second = rate, ?took, "restored");
    }

    fn rate(&self, elapsed: Duration) -> u64 {
        let millis = elapsed.as_millis().max(1);
        u64::try_from(u128::from(self.records) * 1000 / millis).unwrap_or(u64::MAX)
    }
}

/// How long the rest will take if it goes on like this; `None` if nothing has moved yet.
fn time_left(elapsed: Duration, done: i64, left: i64) -> Option<Duration> {
    let done = u32::try_from(done).ok().filter(|done| *done > 0)?;
    let left = u32::try_from(left.max(0)).unwrap_or(u32::MAX);
    Some(elapsed.saturating_mul(left) / done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_what_is_done() {
        let second = Duration::from_secs(1);
        assert_eq!(time_left(second, 0, 100), None);
        assert_eq!(time_left(second, 50, 100), Some(2 * second));
        assert_eq!(time_left(second, 100, 0), Some(Duration::ZERO));
    }
}
