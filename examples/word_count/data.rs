//! The `words` generator: the same lines for the same seed, on every machine, in any order.
//!
//! It knows nothing of the library, so that what is computed from it (`truth.rs`) is an independent answer.

/// The timestamp of line 0 before jitter: 2015-06-29T12:00:00Z.
const START_MS: i64 = 1_435_579_200_000;
const STEP_MS: i64 = 10;

/// The twelve most frequent words: short, accented, in other scripts, outside the basic plane, with punctuation.
const FREQUENT: [&str; 12] =
    ["o", "rio", "não", "é", "árvíz", "日本", "流", "ñandú", "Ωmega", "🚀", "don't", "a-b"];

/// A stream of lines, each a function of the seed and its index alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words {
    pub(crate) seed: u64,
    /// Lines in one round.
    pub(crate) lines: u64,
    /// Rounds: each is the same lines again, with timestamps that go on where the round before ended.
    pub(crate) repeat: u64,
}

impl Default for Words {
    fn default() -> Self {
        Self { seed: 42, lines: 10_000, repeat: 1 }
    }
}

impl Words {
    /// Every line as (timestamp in milliseconds, text or null), in log order.
    pub(crate) fn iter(self) -> impl Iterator<Item = (i64, Option<String>)> {
        let round_ms = self.lines as i64 * STEP_MS;
        (0..self.repeat).flat_map(move |round| {
            (0..self.lines).map(move |i| (self.timestamp(i) + round as i64 * round_ms, self.line(i)))
        })
    }

    /// 5 % of the lines are up to 2 s early, 0.5 % ten to thirty seconds more: out of order, and late.
    fn timestamp(self, i: u64) -> i64 {
        let mut at = START_MS + STEP_MS * i as i64;
        if self.below("wc.o", i, 100) < 5 {
            at -= self.below("wc.oo", i, 2_000) as i64;
        }
        if self.below("wc.l", i, 1_000) < 5 {
            at -= 10_000 + self.below("wc.ll", i, 20_000) as i64;
        }
        at
    }

    fn line(self, i: u64) -> Option<String> {
        if self.below("wc.null", i, 500) == 0 {
            return None;
        }
        let words = self.below("wc.n", i, 12);
        let mut line = String::new();
        for j in 0..words {
            if j > 0 {
                line.push(' ');
            }
            if j == 1 && self.below("wc.ds", i, 100) == 0 {
                line.push(' ');
            }
            // The product of two even draws: low ranks are frequent, all 300 may occur.
            let at = 16 * i + j;
            let rank = self.below("wc.w", at, 300) * self.below("wc.v", at, 300) / 300;
            match FREQUENT.get(rank as usize) {
                Some(word) => line.push_str(word),
                None => line.push_str(&format!("w{rank:03}")),
            }
        }
        Some(line)
    }

    /// `U(tag, i, n)`: an even draw from `0..n`.
    fn below(self, tag: &str, i: u64, n: u64) -> u64 {
        draw(self.seed, tag, i) % n
    }
}

/// `R(tag, i)`: 64 bits that depend on the seed, the tag and the index alone.
pub(crate) fn draw(seed: u64, tag: &str, i: u64) -> u64 {
    mix(mix(seed ^ fnv1a(tag.as_bytes())) ^ i)
}

/// The finalizer of SplitMix64.
fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3))
}
