//! What the word count must be, by a plain fold over the lines: no streams, no state stores, no library.

use std::collections::BTreeMap;

/// The words of a line: split on the space character, empty tokens dropped.
pub(crate) fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(' ').filter(|word| !word.is_empty())
}

/// The final table, word to count. Null lines count for nothing.
pub(crate) fn counts(lines: impl IntoIterator<Item = Option<String>>) -> BTreeMap<String, i64> {
    let mut counts = BTreeMap::new();
    for line in lines.into_iter().flatten() {
        for word in words(&line) {
            *counts.entry(word.to_owned()).or_insert(0) += 1;
        }
    }
    counts
}

/// The canonical dump of a table: one `word|count` line a word, in the order of the words' bytes.
pub(crate) fn dump(counts: &BTreeMap<String, i64>) -> String {
    counts.iter().map(|(word, count)| format!("{word}|{count}\n")).collect()
}
