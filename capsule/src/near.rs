//! Which known word was meant: the hint behind an unknown one.
//!
//! Words of more than [`MAX_BYTES`] are far from everything.

/// The longest word that is compared, in bytes.
pub const MAX_BYTES: usize = 64;

/// "; did you mean …?" for a word that is within reach of a known one, else what is known.
pub fn meant<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match nearest(word, known.iter().copied()) {
        Some(nearest) => format!("; did you mean `{nearest}`?"),
        None => format!("; known are {}", known.join(", ")),
    }
}

/// The known word that it takes fewest edits to reach, if they are at most a third of its letters.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (edits, nearest) = known.into_iter().map(|known| (distance(word, known), known)).min()?;
    (edits <= (nearest.len() / 3).max(1)).then_some(nearest)
}

/// How many characters must be put in, left out, replaced or swapped with their neighbour (each pair once) to make one
/// word the other.
fn distance(a: &str, b: &str) -> usize {
    if a.len().max(b.len()) > MAX_BYTES {
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
    fn a_misspelt_word_finds_its_neighbour_and_a_strange_one_the_list() {
        let known = ["handler", "topic", "requires"];
        for (word, want) in [("handlre", "handler"), ("topics", "topic"), ("require", "requires"), ("opic", "topic")] {
            assert_eq!(nearest(word, known), Some(want), "{word}");
        }
        assert_eq!(meant("handlr", known), "; did you mean `handler`?");
        assert_eq!(meant("colour", known), "; known are handler, topic, requires");
        assert_eq!(nearest(&"x".repeat(65), [&*"x".repeat(65)]), None);
    }

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
