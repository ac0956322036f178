//! Which known word somebody may have meant who wrote an unknown one.

/// "; did you mean …?" for a word that is within reach of a known one, else nothing.
pub fn meant<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let nearest = known.into_iter().map(|known| (distance(word, known), known)).min();
    match nearest {
        Some((edits, nearest)) if edits <= (nearest.len() / 3).max(1) => format!("; did you mean `{nearest}`?"),
        _ => String::new(),
    }
}

/// How many characters must be put in, left out, replaced or swapped with their neighbour (each pair once) to make one
/// word the other. Words of more than 64 bytes are far from everything.
pub fn distance(a: &str, b: &str) -> usize {
    if a.len().max(b.len()) > 64 {
        return usize::MAX;
    }
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            table[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = table[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let cheapest = replaced.min(table[i - 1][j] + 1).min(table[i][j - 1] + 1);
                let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                if swapped { cheapest.min(table[i - 2][j - 2] + 1) } else { cheapest }
            };
        }
    }
    table[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_counts_what_a_hand_gets_wrong() {
        for (a, b, edits) in [
            ("", "", 0),
            ("", "ab", 2),
            ("abc", "abc", 0),
            ("abd", "abc", 1),
            ("acb", "abc", 1),
            ("ab", "abc", 1),
            ("x", "abc", 3),
        ] {
            assert_eq!((distance(a, b), distance(b, a)), (edits, edits), "{a} {b}");
        }
        assert_eq!(distance(&"a".repeat(65), "a"), usize::MAX);
    }
}
