//! What a worker does with records: those that come, and those whose turn it is.

use std::time::{Duration, Instant};

use super::slice::Slice;
use super::{Input, Owned, Worker};
use crate::client::admin::Isolation;
use crate::client::fetch::{FetchEvent, LogState};
use crate::clock;
use crate::error::{Error, Result};
use crate::runtime::app::AppShared;
use crate::runtime::gaps::Gap;
use crate::runtime::idle::Idle;
use crate::runtime::input::raw_batch;
use crate::runtime::memory::{Action, Shares};
use crate::store::{AnyStore, memory};
use crate::task::queue::RawBatch;
use crate::task_id::TaskId;
use crate::topology::AutoOffsetReset;

impl Worker {
    pub(super) fn fetched(&mut self, event: FetchEvent) {
        // A token that is not known belongs to an assignment that has ended.
        let Some(&(id, place)) = self.tokens.get(&event.token()) else { return };
        let Some(at) = self.place_of(id) else { return };
        let owned = &mut self.owned[at];
        let before = owned.inputs.get(place).and_then(|input| input.reach.end);
        let outcome = match event {
            FetchEvent::Data(fetched) => {
                let input = &mut owned.inputs[place];
                input.reach.fetched_bytes += fetched.records.len() as u64;
                input.heard(fetched.next_offset, fetched.log, owned.isolation);
                owned.task.push(place, raw_batch(fetched));
                Ok(())
            }
            FetchEvent::Progress { next_offset, log, .. } => {
                owned.inputs[place].heard(next_offset, log, owned.isolation);
                Ok(())
            }
            FetchEvent::Error { error, .. } if error.is_retriable() => {
                tracing::warn!(task = %id, ?error, "cannot fetch yet");
                Ok(())
            }
            FetchEvent::Error { error, range, .. } => self.out_of_range(id, place, error, range),
        };
        let end = self.owned.get(at).and_then(|o| o.inputs.get(place)).and_then(|input| input.reach.end);
        self.picture.stale |= end != before;
        if let Err(error) = outcome {
            self.fail(Some(id), error);
        }
    }

    /// Where a task stands in `owned`, without going through a thousand others for every delivery.
    pub(super) fn place_of(&mut self, id: TaskId) -> Option<usize> {
        let is_it = |owned: &&Owned| owned.lease.task == id;
        if let Some(at) = self.places.get(&id)
            && self.owned.get(*at).as_ref().is_some_and(is_it)
        {
            return Some(*at);
        }
        let at = self.owned.iter().position(|owned| is_it(&owned))?;
        self.places.insert(id, at);
        Some(at)
    }

    /// The broker does not have the offset: only a source topic may start elsewhere, and only as its policy says.
    fn out_of_range(
        &mut self,
        id: TaskId,
        place: usize,
        error: Error,
        range: Option<(i64, i64)>,
    ) -> Result<()> {
        let token = self.token();
        let Some(owned) = self.owned.iter_mut().find(|o| o.lease.task == id) else { return Ok(()) };
        let input = &mut owned.inputs[place];
        let Some((start, end)) = range else { return Err(error) };
        let wanted = error.offset().unwrap_or(-1);
        let gap = |cause| Gap { task: id, at: &input.at, wanted, range: (start, end), cause };
        let Some(reset) = input.reset else { return Err(gap(error).in_repartition_topic()) };
        let offset = match reset {
            AutoOffsetReset::Earliest | AutoOffsetReset::ByDuration(_) => start,
            AutoOffsetReset::Latest => end,
            AutoOffsetReset::None => return Err(gap(error).in_source_topic()),
        };
        tracing::error!(partition = %input.at, ?error, offset, "records are gone: going on elsewhere, as auto.offset.reset says");
        self.tokens.remove(&input.token);
        input.token = token;
        input.idle = Idle::default();
        // The log is another one than that of the offset committed last, even if the numbers agree.
        input.committed = None;
        // ORDER: what waits in the queue goes first; then the position is the new one, which may lie before the old, and
        // the records from there on are not taken for ones that were processed already.
        let restart = RawBatch { records: Box::new(std::iter::empty()), next_offset: offset, count: 0 };
        owned.task.push(place, restart);
        self.tokens.insert(token, (id, place));
        self.live.assign(input.at.clone(), offset, token, owned.lease.epoch);
        Ok(())
    }

    /// Processes some records of each task. Returns how many.
    pub(super) fn process(&mut self, began: Instant) -> usize {
        let mut total = 0;
        if self.shared.control.is_paused() {
            return total;
        }
        let max_idle = self.config.max_task_idle();
        let mut before = began;
        for _ in 0..self.owned.len() {
            self.pulse.beat();
            let at = self.turn % self.owned.len();
            self.turn = at + 1;
            let Some(owned) = self.owned.get_mut(at).filter(|o| o.running) else { continue };
            if owned.task.is_at_rest() {
                self.picture.stale |= owned.idles(true);
                continue;
            }
            let held_back = !self.output.borrow().producer.has_credit();
            let begins = held_back && !std::mem::replace(&mut self.held_back, held_back);
            self.shared.memory.acted(Action::Hold, u64::from(begins));
            if held_back {
                return total;
            }
            let ready = match owned.ready_inputs(max_idle) {
                Ok(ready) => ready,
                Err(error) => {
                    let id = owned.lease.task;
                    self.fail(Some(id), error);
                    return total;
                }
            };
            let output = &self.output;
            let control = &self.shared.control;
            let go_on = || {
                let producer = &output.borrow().producer;
                producer.has_credit() && !producer.is_fenced() && !control.is_paused()
            };
            let Owned { task, span, .. } = owned;
            let most = self.slice.records().min(self.room.max(1));
            match span.in_scope(|| task.process(most, |source| ready[source], go_on)) {
                Ok(0) => self.picture.stale |= owned.idles(true),
                Ok(processed) => {
                    total += processed;
                    self.picture.stale |= owned.idles(false);
                    let now = clock::monotonic();
                    let took = now.saturating_duration_since(before);
                    self.slice.took(processed, took);
                    owned.sliced(took, self.clock.wall_ms());
                    if Slice::is_long(now.saturating_duration_since(began)) {
                        return total;
                    }
                    before = now;
                }
                Err(error) => {
                    let id = owned.lease.task;
                    self.fail(Some(id), error);
                    return total;
                }
            }
        }
        total
    }

    /// ORDER: between slices, so that readers never see half of one.
    pub(super) fn publish(&mut self) {
        for at in (0..self.owned.len()).rev() {
            let owned = &self.owned[at];
            if owned.running
                && let Err(error) = owned.task.publish()
            {
                let task = owned.lease.task;
                self.fail(Some(task), error);
            }
        }
    }

    /// Stores keep to their share of memory, after so many records.
    pub(super) fn relieve(&mut self, processed: usize) {
        let bytes = self.page.for_stores(self.restoring_bytes(), &self.shared.control);
        // What the records just processed have added counts, although some of it goes at once.
        let before = memory::held(self.stores());
        let grown = (before.rows + before.runs).saturating_sub(self.page.stores());
        self.account_for(before.rows + before.runs);
        // Until the next look they add a sixteenth at most, if they go on like this.
        self.room = bytes / 16 / (grown / processed.max(1)).max(1) / self.owned.len().max(1);
        let relief = memory::relieve(self.stores(), bytes);
        self.full = relief.commit;
        self.shared.memory.acted(Action::Evict, u64::from(relief.evicted));
        self.account_for(relief.held);
    }

    /// Brings the memory account up to date.
    pub(super) fn account_for(&mut self, stores: usize) -> Shares {
        let caches = self.owned.iter().map(|owned| owned.task.cached_bytes()).sum();
        let producer = &self.output.borrow().producer;
        self.page.set(stores, caches, producer.open_bytes() + producer.in_flight_bytes());
        let account = &self.shared.memory;
        let shares = account.shares(self.live.outstanding(), self.restoring_bytes());
        account.look(shares);
        shares
    }

    /// Waits for engines that are slower than their tasks.
    pub(super) fn await_hand_overs(&self) -> Result<()> {
        let bytes = self.page.for_stores(self.restoring_bytes(), &self.shared.control);
        let waited = memory::await_hand_overs(self.stores(), bytes)?;
        self.shared.memory.acted(Action::Wait, u64::from(waited));
        Ok(())
    }

    /// The stores of all tasks that are here.
    pub(super) fn stores(&self) -> impl Iterator<Item = &dyn AnyStore> + Clone {
        self.owned.iter().flat_map(|owned| owned.task.stores()).map(|store| &**store)
    }

    /// What all restores of the instance take.
    pub(super) fn restoring_bytes(&self) -> usize {
        self.restores.held() + self.restores.source().outstanding()
    }

    /// Calls the punctuations that are due. Returns how many.
    pub(super) fn punctuate(&mut self) -> u64 {
        let (mut failures, mut called) = (Vec::new(), 0);
        if self.shared.control.is_paused() {
            return called;
        }
        for owned in self.owned.iter_mut().filter(|o| o.running) {
            let Owned { task, span, .. } = owned;
            let before = task.counts().punctuations;
            let punctuated =
                span.in_scope(|| task.punctuate_stream_time().and_then(|_| task.punctuate_wall_clock()));
            called += task.counts().punctuations - before;
            if let Err(error) = punctuated {
                failures.push((owned.lease.task, error));
            }
        }
        for (task, error) in failures {
            self.fail(Some(task), error);
        }
        called
    }
}

impl Input {
    pub(super) fn heard(&mut self, next_offset: i64, log: LogState, isolation: Isolation) {
        let end = match isolation {
            Isolation::ReadCommitted => log.last_stable_offset,
            Isolation::ReadUncommitted => log.high_watermark,
        };
        self.idle.caught_up = Some(next_offset >= end);
        self.reach.end = Some(end);
    }
}

impl Owned {
    /// Adds the drops since the last time to the application's.
    pub(super) fn report_drops(&mut self, shared: &AppShared) {
        for (node, reason, count) in self.task.drops() {
            let known = self.reported.entry((node.to_owned(), reason)).or_default();
            if count > *known {
                shared.dropped(node, reason, count - *known);
                *known = count;
            }
        }
    }

    /// Notes whether there was nothing to process; says whether that is news.
    pub(super) fn idles(&mut self, idle: bool) -> bool {
        let news = idle != self.idle_since.is_some();
        if news {
            self.idle_since = idle.then(clock::monotonic);
        }
        news
    }

    /// Which inputs may be passed over when their queues are empty.
    pub(super) fn ready_inputs(&mut self, max_idle: Option<Duration>) -> Result<Vec<bool>> {
        let heads: Vec<bool> = self.task.heads()?.iter().map(Option::is_some).collect();
        let now = clock::monotonic();
        self.forced = false;
        let forced = &mut self.forced;
        let ready = self.inputs.iter_mut().zip(heads).map(|(input, has_head)| {
            let over = input.idle.may_be_passed_over(has_head, max_idle, now);
            *forced |= over && !has_head && max_idle.is_some_and(|idle| !idle.is_zero());
            over
        });
        Ok(ready.collect())
    }
}
