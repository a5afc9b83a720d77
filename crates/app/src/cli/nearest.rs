//! What somebody may have meant.

/// How many are named.
const N_NAMED: usize = 3;

/// The nearest of these names, the nearest first; none that has little to do with what was written.
pub(super) fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted = wanted.to_lowercase();
    let mut near: Vec<(usize, &str)> = names
        .into_iter()
        .filter_map(|name| {
            let lower = name.to_lowercase();
            let n_chars = wanted.chars().count().max(lower.chars().count());
            let n_edits = if is_part(&wanted, &lower) || is_part(&lower, &wanted) {
                // A part of a name is nearer than any slip.
                1
            } else {
                distance(&wanted, &lower)
            };
            // Guess: more than a third wrong is another word.
            (n_edits * 3 <= n_chars.max(3)).then_some((n_edits, name))
        })
        .collect();
    near.sort_unstable();
    near.dedup();
    near.truncate(N_NAMED);
    near.into_iter().map(|(_, name)| name).collect()
}

/// Whether a text is a part of another that says something.
fn is_part(part: &str, whole: &str) -> bool {
    part.chars().count() > 2 && whole.contains(part)
}

/// Which of these are meant, by the first of the ways in which any is.
pub(super) fn meant_by<'a, T: 'a>(
    all: &(impl Iterator<Item = &'a T> + Clone),
    ways: &[&dyn Fn(&T) -> bool],
) -> Vec<usize> {
    let by = |way: &&dyn Fn(&T) -> bool| {
        let found = all.clone().enumerate().filter(|(_, one)| way(one));
        found.map(|(idx, _)| idx).collect::<Vec<_>>()
    };
    ways.iter()
        .map(by)
        .find(|found| !found.is_empty())
        .unwrap_or_default()
}

/// Names in a row: `a`, `a or b`, `a, b or c`.
pub(super) fn one_of(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [name] => (*name).to_owned(),
        [names @ .., last] => format!("{} or {last}", names.join(", ")),
    }
}

/// Letters to insert, remove, replace or swap with their neighbour until one text is the other.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut two_above: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let mut least = (above[j] + usize::from(a != b))
                .min(above[j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                least = least.min(two_above[j - 1] + 1);
            }
            row.push(least);
        }
        two_above = std::mem::replace(&mut above, row);
    }
    above[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_slips() {
        for (from, to, n) in [
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("abc", "acb", 1),
            ("kitchen", "kithen", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(from, to), n, "{from} {to}");
            assert_eq!(distance(to, from), n, "{to} {from}");
        }
    }

    #[test]
    fn the_nearest_come_first_and_strangers_not_at_all() {
        let names = ["Kitchen", "Kitchen Left", "Bedroom", "Attic"];
        assert_eq!(nearest("kithcen", names), ["Kitchen"]);
        assert_eq!(nearest("kitchen", names), ["Kitchen", "Kitchen Left"]);
        assert_eq!(nearest("garage", names), [""; 0]);
    }

    #[test]
    fn names_are_told_in_a_row() {
        assert_eq!(one_of(&[]), "");
        assert_eq!(one_of(&["a"]), "a");
        assert_eq!(one_of(&["a", "b", "c"]), "a, b or c");
    }
}
