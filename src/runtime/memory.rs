//! The memory account of an instance: what each share of it takes, what all may take, and the most that they have taken.
//!
//! | Share | Is | When it is full |
//! |---|---|---|
//! | input | fetched records that wait in queues | partitions with records are not fetched any more |
//! | restores | fetched records of changelogs, and what is gathered of them | fetching pauses; the largest window is applied |
//! | stores | rows as values, and changes on their way to the disk | rows go; commits come early; stores are handed over; commits wait |
//! | caches | what record caches hold back | they are flushed |
//! | output | records that are written and not acknowledged | workers wait |
//!
//! What engines keep of their files (a quarter of `state.memory.max.bytes`) is bounded by themselves and not seen here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::control::Control;
use crate::config::Config;

/// How `state.memory.max.bytes` is shared out, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct StateMemory {
    /// What engines keep of their files.
    pub(super) engines: usize,
    /// What is fetched for restores and not gathered yet, at most.
    pub(super) frames: usize,
    /// What restores gather before they apply it, at most.
    pub(super) windows: usize,
    /// The stores of all workers, while nothing is restored; restores take from it.
    pub(super) stores: usize,
}

impl StateMemory {
    pub(super) fn of(config: &Config) -> Self {
        let quarter = config.state_memory() / 4;
        Self { engines: quarter, frames: quarter, windows: quarter, stores: 3 * quarter }
    }
}

/// What is done when a share is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Partitions with records are not fetched.
    Pause,
    /// A restore applies what it has gathered before it has come to the end.
    Apply,
    /// Rows that can be read again go.
    Evict,
    /// A commit comes before its time.
    Commit,
    /// A store is handed over because of its bytes.
    HandOver,
    /// A commit waits for a hand-over.
    Wait,
    /// A record cache is flushed before the commit.
    Flush,
    /// A worker waits until records are acknowledged.
    Hold,
}

impl Action {
    pub(super) const ALL: [(Self, &str); 8] = [
        (Self::Pause, "pause"),
        (Self::Apply, "apply"),
        (Self::Evict, "evict"),
        (Self::Commit, "commit"),
        (Self::HandOver, "hand_over"),
        (Self::Wait, "wait"),
        (Self::Flush, "flush"),
        (Self::Hold, "hold"),
    ];
}

/// What the shares take, or may take, in bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shares {
    pub(super) input: usize,
    pub(super) restores: usize,
    pub(super) stores: usize,
    pub(super) caches: usize,
    pub(super) output: usize,
}

impl Shares {
    /// With their names.
    pub(super) fn named(self) -> [(&'static str, usize); 5] {
        let Self { input, restores, stores, caches, output } = self;
        [("input", input), ("restores", restores), ("stores", stores), ("caches", caches), ("output", output)]
    }
}

/// The account. Workers bring what they hold up to date at each pass, and look.
#[derive(Debug)]
pub(super) struct Account {
    /// All that there is, if it was said in one number.
    all: usize,
    state: StateMemory,
    input: usize,
    caches: usize,
    /// Of one worker.
    output: usize,
    held: Held,
    most: AtomicUsize,
    /// How often each action was taken, in their order.
    actions: [AtomicU64; Action::ALL.len()],
}

/// What all workers hold.
#[derive(Debug, Default)]
struct Held {
    stores: AtomicUsize,
    caches: AtomicUsize,
    output: AtomicUsize,
}

impl Account {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            all: config.memory(),
            state: StateMemory::of(config),
            input: config.buffered_bytes(),
            caches: config.cache_bytes(),
            output: config.producer().buffer_memory(),
            held: Held::default(),
            most: AtomicUsize::new(0),
            actions: Default::default(),
        }
    }

    /// What the shares may take while there are so many workers. Restores take theirs from the stores'.
    pub(super) fn limits(&self, workers: usize) -> Shares {
        let StateMemory { frames, windows, stores, .. } = self.state;
        let output = self.output.saturating_mul(workers);
        Shares { input: self.input, restores: frames + windows, stores, caches: self.caches, output }
    }

    /// What all shares may take together, what engines keep of their files included.
    pub(super) fn budget(&self, workers: usize) -> usize {
        let Shares { input, stores, caches, output, .. } = self.limits(workers);
        let parts = [input, stores, self.state.engines, caches, output];
        parts.into_iter().fold(0, usize::saturating_add).max(self.all)
    }

    /// What the shares take. Fetchers and restores know their own.
    pub(super) fn shares(&self, input: usize, restores: usize) -> Shares {
        let load = |held: &AtomicUsize| held.load(Ordering::Relaxed);
        let Held { stores, caches, output } = &self.held;
        Shares { input, restores, stores: load(stores), caches: load(caches), output: load(output) }
    }

    /// Notes how much it is now.
    pub(super) fn look(&self, shares: Shares) {
        let sum = shares.named().into_iter().map(|(_, bytes)| bytes).sum();
        self.most.fetch_max(sum, Ordering::Relaxed);
    }

    /// Whether stores hold more than there is for them at the best of times: also who has nothing to process looks then.
    pub(super) fn is_tight(&self) -> bool {
        self.held.stores.load(Ordering::Relaxed) > self.state.stores / 8 * 7
    }

    /// An action was taken so often.
    pub(super) fn acted(&self, action: Action, times: u64) {
        self.actions[action as usize].fetch_add(times, Ordering::Relaxed);
    }

    /// How often that was.
    pub(super) fn actions(&self, action: Action) -> u64 {
        self.actions[action as usize].load(Ordering::Relaxed)
    }

    /// The most that there has been.
    pub(super) fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }
}

/// A worker's page of the account; what is on it goes with it.
#[derive(Debug)]
pub(super) struct Page {
    account: Arc<Account>,
    stores: usize,
    caches: usize,
    output: usize,
}

impl Page {
    pub(super) fn new(account: &Arc<Account>) -> Self {
        Self { account: account.clone(), stores: 0, caches: 0, output: 0 }
    }

    /// Brings it up to date.
    pub(super) fn set(&mut self, stores: usize, caches: usize, output: usize) {
        let Held { stores: all_stores, caches: all_caches, output: all_output } = &self.account.held;
        for (all, before, now) in [
            (all_stores, &mut self.stores, stores),
            (all_caches, &mut self.caches, caches),
            (all_output, &mut self.output, output),
        ] {
            // Wraps round where it becomes less, which is what is wanted.
            all.fetch_add(now.wrapping_sub(*before), Ordering::Relaxed);
            *before = now;
        }
    }

    /// What the stores of this worker took at the last look.
    pub(super) fn stores(&self) -> usize {
        self.stores
    }

    /// What the stores of this worker may take, while restores take so much and there are so many workers.
    pub(super) fn for_stores(&self, restores: usize, control: &Control) -> usize {
        let StateMemory { frames, stores, .. } = self.account.state;
        let all = stores.saturating_sub(restores).max(frames);
        let held = self.account.held.stores.load(Ordering::Relaxed);
        allowed(all, self.stores, held, control.workers().max(1))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.set(0, 0, 0);
    }
}

/// What a worker may take of a memory of which all have `held` and it has `own`: what is free; and who has more than an even
/// part gives some of it back when little is free, so that whoever has less gets there.
fn allowed(all: usize, own: usize, held: usize, workers: usize) -> usize {
    let (even, free) = (all / workers, all.saturating_sub(held));
    if own > even && free < all / 8 {
        return (own - all / 16).max(even);
    }
    // However much the others have, it must be able to work.
    (own + free).min(all).max(even / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_takes_what_the_others_do_not_need() {
        assert_eq!(allowed(1600, 0, 0, 4), 1600, "nobody else has anything");
        assert_eq!(allowed(1600, 500, 900, 4), 1200);
        assert_eq!(allowed(1600, 1600, 1600, 1), 1600, "one has it all");
        assert_eq!(allowed(1600, 2000, 2000, 1), 1900, "and comes down in steps when it becomes less");
    }

    #[test]
    fn who_has_more_than_an_even_part_gives_it_back() {
        let (all, mut busy, mut new) = (1600, 1600, 0);
        for _ in 0..40 {
            // Both take all they may.
            busy = allowed(all, busy, busy + new, 2);
            new = allowed(all, new, busy + new, 2);
            assert!(busy + new <= all + all / 8, "{busy} + {new}");
        }
        assert!((700..=900).contains(&busy) && (700..=900).contains(&new), "{busy}, {new}");
        assert_eq!(allowed(all, 0, all, 2), 200, "a quarter of an even part, whatever the others have");
    }

    #[test]
    fn a_page_that_goes_takes_what_is_on_it_along() {
        let config = Config::builder("a", "localhost:9092").build().unwrap();
        let account = Arc::new(Account::new(&config));
        let (mut one, mut two) = (Page::new(&account), Page::new(&account));
        one.set(10, 20, 30);
        two.set(1, 2, 3);
        one.set(5, 20, 30);
        let shares = Shares { input: 7, restores: 8, stores: 6, caches: 22, output: 33 };
        assert_eq!(account.shares(7, 8), shares);
        account.look(shares);
        drop(one);
        assert_eq!(account.shares(0, 0), Shares { stores: 1, caches: 2, output: 3, ..Shares::default() });
        assert_eq!(account.most(), 76);
        for (at, (action, _)) in Action::ALL.into_iter().enumerate() {
            assert_eq!(action as usize, at, "each has a place of its own");
        }
    }

    #[test]
    fn the_budget_is_the_sum_of_the_properties() {
        let config = Config::builder("a", "localhost:9092").build().unwrap();
        let account = Account::new(&config);
        assert_eq!(account.budget(2), (64 << 20) + (256 << 20) + (10 << 20) + 2 * (32 << 20));
    }
}
