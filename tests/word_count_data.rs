//! The generator of the word count example and its truth, pinned to the numbers they must give.

#[path = "../examples/word_count/data.rs"]
mod data;
#[path = "../examples/word_count/truth.rs"]
mod truth;

use data::{Words, draw};
use sha2::{Digest, Sha256};

#[test]
fn draws_have_their_published_values() {
    assert_eq!(draw(42, "a", 0), 0x588b_284c_f2df_26e1);
    assert_eq!(draw(42, "a", 1), 0xf408_0bf3_930e_7d18);
    assert_eq!(draw(42, "bk.c", 0), 0xe4c2_df0c_a814_1390);
}

/// The dump is one `timestamp|line` a record; a null line is a zero byte and the word null.
#[test]
fn the_dump_has_its_published_digest() {
    let mut digest = Sha256::new();
    for (timestamp, line) in Words::default().iter() {
        digest.update(format!("{timestamp}|{}\n", line.as_deref().unwrap_or("\0null")));
    }
    let hex: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "3e4142d80dcdd4da22df182a66d8ec7e9b3e2a4511cec1fd2d3dfa6d24ed9829");
}

#[test]
fn the_lines_have_every_oddity() {
    let lines: Vec<Option<String>> = Words::default().iter().map(|(_, line)| line).collect();
    assert_eq!(lines.len(), 10_000);
    assert_eq!(lines.iter().filter(|line| line.is_none()).count(), 28);
    assert_eq!(lines.iter().flatten().filter(|line| line.is_empty()).count(), 885);
    assert_eq!(lines.iter().flatten().filter(|line| line.contains("  ")).count(), 99);
    assert_eq!(lines.iter().flatten().map(|line| truth::words(line).count()).sum::<usize>(), 54_760);
}

#[test]
fn the_counts_are_the_published_ones() {
    let counts = truth::counts(Words::default().iter().map(|(_, line)| line));
    assert_eq!(counts.len(), 298);
    assert_eq!(counts.values().sum::<i64>(), 54_760);
    for (word, count) in
        [("o", 1436), ("rio", 968), ("não", 890), ("é", 802), ("árvíz", 788), ("日本", 726), ("🚀", 624)]
    {
        assert_eq!(counts[word], count, "{word}");
    }
    let dump = truth::dump(&counts);
    assert_eq!(dump.lines().count(), 298);
    assert!(dump.contains("\nrio|968\n"));
    assert!(dump.lines().map(|line| line.split('|').next()).is_sorted());
}

#[test]
fn a_repeat_is_the_same_lines_later() {
    let once: Vec<_> = Words { lines: 500, ..Words::default() }.iter().collect();
    let thrice: Vec<_> = Words { lines: 500, repeat: 3, ..Words::default() }.iter().collect();
    assert_eq!(thrice.len(), 1_500);
    for (at, (timestamp, line)) in thrice.iter().enumerate() {
        let (first, text) = &once[at % 500];
        assert_eq!((*timestamp, line), (first + (at as i64 / 500) * 5_000, text));
    }
    let lines = |of: &[(i64, Option<String>)]| of.iter().map(|(_, line)| line.clone()).collect::<Vec<_>>();
    let (single, triple) = (truth::counts(lines(&once)), truth::counts(lines(&thrice)));
    assert!(!single.is_empty());
    assert!(single.iter().all(|(word, count)| triple[word] == 3 * count) && single.len() == triple.len());
}

#[test]
fn another_seed_gives_other_lines() {
    let lines = |seed| Words { seed, lines: 100, repeat: 1 }.iter().map(|(_, line)| line).collect::<Vec<_>>();
    assert_ne!(lines(42), lines(43));
}
