//! Connections that die in the middle of a frame: where a test says, or at random from a seed.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::api::Api;

/// A request or an answer on its way, as a [cut](super::EmbeddedKafka::cut) sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frame {
    /// What is asked, or answered.
    pub api: Api,
    /// Of which node, or by which.
    pub node: i32,
    /// Whether it is the answer. By then the request has had its effect.
    pub answer: bool,
    /// Its bytes, the four that tell its length included.
    pub length: usize,
}

type Cut = dyn Fn(&Frame) -> Option<usize> + Send + Sync;

/// The cut of a broker, if it has one.
#[derive(Default)]
pub(crate) struct Cuts(Mutex<Option<Arc<Cut>>>);

impl fmt::Debug for Cuts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cuts").finish_non_exhaustive()
    }
}

impl Cuts {
    /// Exchanges the cut.
    pub(crate) fn set(&self, cut: Option<Arc<Cut>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = cut;
    }

    /// After how many bytes of the frame its connection ends, at most all of them. `frame` is made only if there is a
    /// cut.
    pub(crate) fn ask(&self, frame: impl FnOnce() -> Option<Frame>) -> Option<usize> {
        let cut = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let frame = frame()?;
        cut(&frame).map(|at| at.min(frame.length))
    }
}

/// A cut that strikes each byte with the same small chance.
pub(crate) fn at_random(seed: u64, mean: u64) -> impl Fn(&Frame) -> Option<usize> + Send + Sync + 'static {
    let state = Mutex::new(seed);
    let draw = move || {
        // SplitMix64 (Steele, Lea, Flood 2014): small, and good for any seed.
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = *state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    };
    move |frame| {
        let length = frame.length as u64;
        // Never certain, however long the frame is: it passes when it is sent often enough.
        let dies = draw() % length.saturating_add(mean).max(1) < length;
        // What is left of a division by at most `length + 1`.
        dies.then(|| usize::try_from(draw() % (length + 1)).unwrap_or(frame.length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_cuts_in_the_same_places_and_about_as_often_as_it_was_told() {
        let frame = |length| Frame { api: Api::Fetch, node: 1, answer: true, length };
        let cuts = |seed, length| {
            let cut = at_random(seed, 10_000);
            (0..10_000).map(|_| cut(&frame(length))).collect::<Vec<_>>()
        };
        assert_eq!(cuts(7, 100), cuts(7, 100));
        assert_ne!(cuts(7, 100), cuts(8, 100));
        let found: Vec<usize> = cuts(7, 100).into_iter().flatten().collect();
        assert!((50..200).contains(&found.len()), "a million bytes are cut {} times", found.len());
        assert!(found.iter().all(|at| *at <= 100));
        assert!(cuts(7, 1_000_000).contains(&None), "also a long frame passes");
    }
}
