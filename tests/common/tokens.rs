//! Tokens of the generated lines, by how many of them are behind.

use std::sync::OnceLock;

use crate::{data, truth};

/// How many tokens the first so many lines of each partition have, when line `i` is in partition `i % offsets.len()`.
pub fn tokens(offsets: &[i64]) -> i64 {
    static OF_LINES: OnceLock<Vec<i64>> = OnceLock::new();
    let count = |line: Option<String>| line.map_or(0, |line| truth::words(&line).count() as i64);
    let of_lines =
        OF_LINES.get_or_init(|| data::Words::default().iter().map(|(_, line)| count(line)).collect());
    let behind = |i: usize| ((i / offsets.len()) as i64) < offsets[i % offsets.len()];
    of_lines.iter().enumerate().filter(|(i, _)| behind(*i)).map(|(_, tokens)| tokens).sum()
}
