//! Connections that die at random, from a seed: after so many bytes, wherever in a frame that is.

use std::sync::{Mutex, PoisonError};

/// Says how long connections live.
#[derive(Debug, Default)]
pub(crate) struct Cuts(Mutex<Option<Plan>>);

#[derive(Debug)]
struct Plan {
    state: u64,
    mean_bytes: u64,
}

impl Cuts {
    /// From now on, a new connection dies after `mean_bytes` on average; `None` ends that.
    pub(crate) fn plan(&self, plan: Option<(u64, u64)>) {
        let plan = plan.map(|(seed, mean_bytes)| Plan { state: seed, mean_bytes });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = plan;
    }

    /// How many bytes a new connection carries, both ways together; `None` for any number.
    pub(crate) fn life(&self) -> Option<u64> {
        let mut plan = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = plan.as_mut()?;
        // SplitMix64.
        plan.state = plan.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut random = plan.state;
        random = (random ^ (random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        random = (random ^ (random >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        random ^= random >> 31;
        Some(random % plan.mean_bytes.saturating_mul(2).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::Cuts;

    #[test]
    fn lives_are_those_of_the_seed_and_about_the_mean() {
        let lives = |seed| {
            let cuts = Cuts::default();
            assert_eq!(cuts.life(), None);
            cuts.plan(Some((seed, 1_000)));
            (0..1_000).filter_map(|_| cuts.life()).collect::<Vec<_>>()
        };
        assert_eq!(lives(7), lives(7));
        assert_ne!(lives(7), lives(8));
        let mean = lives(7).iter().sum::<u64>() / 1_000;
        assert!((900..1_100).contains(&mean), "{mean}");
    }
}
