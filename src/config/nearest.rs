//! The known name that is nearest to an unknown one.

/// The candidate with the fewest edits, if those are few enough to be a slip.
pub(crate) fn nearest(name: &str, candidates: impl IntoIterator<Item = String>) -> Option<String> {
    let limit = (name.len() / 4).clamp(2, 6);
    let distance = |candidate: String| (edits(name, &candidate), candidate);
    let best = candidates.into_iter().map(distance).min()?;
    (best.0 <= limit).then_some(best.1)
}

/// How many bytes must be added, removed, replaced or swapped with their neighbour to turn one text into the other.
fn edits(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        for (a, b, expected) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("", "ab", 2),
            ("abc", "abd", 1),
            ("abc", "bac", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!((edits(a, b), edits(b, a)), (expected, expected), "{a} {b}");
        }
    }

    #[test]
    fn far_names_are_not_suggested() {
        let known = ["commit.interval.ms", "client.id"].map(str::to_owned);
        assert_eq!(nearest("comit.interval.ms", known.clone()).as_deref(), Some("commit.interval.ms"));
        assert_eq!(nearest("something.else.entirely", known), None);
    }
}
