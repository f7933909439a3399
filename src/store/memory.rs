//! How the stores of a worker keep to the memory that it has for all of them together: rows go, commits come early, and what
//! is committed is handed over, all of it from where there is most.

use super::{AnyStore, StoreMemory};
use crate::error::Result;

/// What the memory of a worker's stores is for, in bytes: half is for rows, an eighth for the runs that a commit makes of
/// open ones, the rest for those before them, of which one half may gather while the other is on its way to the disk.
struct Parts {
    rows: usize,
    open: usize,
    runs: usize,
}

impl Parts {
    fn of(bytes: usize) -> Self {
        Self { rows: bytes / 2, open: bytes / 8, runs: bytes / 8 * 3 }
    }
}

/// What was done for the memory, and would help.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Relief {
    /// What the stores take now.
    pub(crate) held: usize,
    /// Rows were let go.
    pub(crate) evicted: bool,
    /// So much is open that a commit is due.
    pub(crate) commit: bool,
}

/// What stores take together.
pub(crate) fn held<'a>(stores: impl Iterator<Item = &'a dyn AnyStore>) -> StoreMemory {
    stores.fold(StoreMemory::default(), |sum, store| sum + store.memory())
}

/// Lets rows go that can be read again, if there are too many for `bytes` of memory: the largest stores come down to one
/// level, so that small ones keep what they have.
pub(crate) fn relieve<'a>(stores: impl Iterator<Item = &'a dyn AnyStore> + Clone, bytes: usize) -> Relief {
    let parts = Parts::of(bytes);
    let mut memory = held(stores.clone());
    let evicted = memory.rows > parts.rows;
    if evicted {
        let clean = |store: &'a dyn AnyStore| {
            let memory = store.memory();
            memory.rows.saturating_sub(memory.open)
        };
        // In steps, because each looks at all rows of a store.
        let goes = memory.rows - parts.rows + parts.rows / 8;
        let level = level(stores.clone().map(clean).collect(), goes);
        for store in stores.clone() {
            store.let_go(clean(store).saturating_sub(level));
        }
        memory = held(stores);
    }
    Relief { held: memory.rows + memory.runs, evicted, commit: memory.open > parts.open }
}

/// From how many bytes on a store is handed over what it has committed: those that have most, when all have too much.
pub(crate) fn hand_over_from<'a>(
    stores: impl Iterator<Item = &'a dyn AnyStore> + Clone,
    bytes: usize,
) -> usize {
    let most = Parts::of(bytes).runs / 2;
    let gathered = |memory: StoreMemory| memory.runs - memory.leaving;
    let all = gathered(held(stores.clone()));
    if all < most {
        return usize::MAX;
    }
    // Those that are not on their way already.
    let ready = stores.map(AnyStore::memory).filter(|memory| memory.leaving == 0).map(gathered);
    let mut ready: Vec<usize> = ready.filter(|bytes| *bytes > 0).collect();
    ready.sort_unstable_by(|a, b| b.cmp(a));
    let (mut left, mut from) = (all, usize::MAX);
    for bytes in ready {
        // To half of it, so that the next commit does not hand over crumbs.
        if left <= most / 2 {
            break;
        }
        (left, from) = (left - bytes, bytes);
    }
    from
}

/// Waits for hand-overs under way while what is committed and not on disk takes too much: an engine that is slower than its
/// tasks would fill the memory. Says whether it had to.
pub(crate) fn await_hand_overs<'a>(
    stores: impl Iterator<Item = &'a dyn AnyStore> + Clone,
    bytes: usize,
) -> Result<bool> {
    let most = Parts::of(bytes).runs;
    let mut waited = false;
    while held(stores.clone()).runs >= most {
        let leaving = |store: &&dyn AnyStore| store.memory().leaving;
        let Some(store) = stores.clone().filter(|store| leaving(store) > 0).max_by_key(leaving) else {
            break;
        };
        store.await_hand_over()?;
        waited = true;
    }
    Ok(waited)
}

/// The level to which the highest have to come down, so that so much goes together.
fn level(mut sizes: Vec<usize>, goes: usize) -> usize {
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let mut sum = 0;
    for (at, size) in sizes.iter().enumerate() {
        let (count, next) = (at + 1, sizes.get(at + 1).copied().unwrap_or(0));
        sum += size;
        if sum - next * count >= goes {
            return (sum - goes) / count;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_down_to_one_level() {
        assert_eq!(level(vec![100, 10, 10], 40), 60, "the large one alone");
        assert_eq!(level(vec![10, 100, 60], 60), 50, "both above it");
        assert_eq!(level(vec![30, 30, 30], 30), 20);
        assert_eq!(level(vec![5, 3], 100), 0, "there is no more");
        assert_eq!(level(vec![], 1), 0);
    }
}
