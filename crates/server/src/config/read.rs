//! From a tree to typed values: which keys there are, what each expects, and which key was meant.

use secrecy::SecretString;

use super::error::{At, Known, Problem, quoted, quoted_key};
use super::keys;
use super::yaml::{Key, Kind, Node, Scalar};

/// The longest secret, characters; a password answer is computed over it on a chip. Guess: longer ones are a mistake.
const MAX_SECRET: usize = 256;

/// Collects what is wrong while values are read.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) problems: Vec<Problem>,
    /// Paths of keys whose secret stands in the file itself.
    pub(super) plain_secrets: Vec<String>,
}

/// A mapping whose keys are known to be ours.
#[derive(Clone, Copy)]
pub(super) struct Table<'n> {
    path: &'n str,
    entries: &'n [(Key, Node)],
    pub(super) at: At,
}

impl<'n> Table<'n> {
    /// The value of a key; none where there is none or it is null.
    pub(super) fn get(&self, key: &str) -> Option<&'n Node> {
        let (_, node) = self.entries.iter().find(|(known, _)| known.text == key)?;
        (!matches!(node.kind, Kind::Null)).then_some(node)
    }

    /// The items of a list; a single value is a list of one.
    pub(super) fn list(&self, key: &str) -> Option<&'n [Node]> {
        let node = self.get(key)?;
        Some(match &node.kind {
            Kind::List(items) => items,
            _ => std::slice::from_ref(node),
        })
    }

    /// Whether a key is there and null.
    pub(super) fn is_null(&self, key: &str) -> bool {
        let node = self.entries.iter().find(|(known, _)| known.text == key);
        node.is_some_and(|(_, node)| matches!(node.kind, Kind::Null))
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            return key.to_owned();
        }
        format!("{}.{key}", self.path)
    }
}

/// Why a text is not what was expected: the end of a sentence that begins with it.
pub(super) type Reason = String;

impl Reader {
    pub(super) fn problem(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// A mapping with keys of ours only.
    pub(super) fn table<'n>(&mut self, node: &'n Node, path: &'n str, keys: &[&str]) -> Option<Table<'n>> {
        let entries = self.entries(node, path)?;
        for (key, value) in entries {
            if !keys.contains(&key.text.as_str()) {
                self.problem(unknown(key, value, path, keys));
            }
        }
        Some(Table {
            path,
            entries,
            at: node.at,
        })
    }

    /// A mapping whose keys are names that the owner chose.
    pub(super) fn names<'n>(&mut self, node: &'n Node, path: &str) -> Vec<(&'n Key, &'n Node)> {
        let entries = self.entries(node, path).unwrap_or_default();
        let mut good = Vec::new();
        for (key, node) in entries {
            match name(&key.text) {
                Ok(()) => good.push((key, node)),
                Err(reason) => {
                    let text = format!("the name {} in `{path}` {reason}", quoted_key(&key.text));
                    self.problem(Problem::at(
                        key.at,
                        text,
                        "use letters, digits, `-` and `_`, as in `night`",
                    ));
                }
            }
        }
        good
    }

    fn entries<'n>(&mut self, node: &'n Node, path: &str) -> Option<&'n [(Key, Node)]> {
        match &node.kind {
            Kind::Map(entries) => Some(entries),
            Kind::Null => None,
            other => {
                let whose = if path.is_empty() {
                    "the configuration".to_owned()
                } else {
                    format!("`{path}`")
                };
                let text = format!("{whose} is {} and not a block of keys and values", kind_of(other));
                let help = format!(
                    "write `key: value` on lines of their own below it, indented; the keys are {}",
                    listed(keys::of(path))
                );
                self.problem(Problem::at(node.at, text, help));
                None
            }
        }
    }

    /// The value of a key, read by `parse`; `example` is what one would write.
    pub(super) fn value<T>(
        &mut self,
        table: &Table<'_>,
        key: &str,
        example: &str,
        parse: impl FnOnce(&str) -> Result<T, Reason>,
    ) -> Option<T> {
        let node = table.get(key)?;
        self.scalar(node, &table.path_of(key), example, parse)
    }

    /// One plain value, read by `parse`.
    pub(super) fn scalar<T>(
        &mut self,
        node: &Node,
        path: &str,
        example: &str,
        parse: impl FnOnce(&str) -> Result<T, Reason>,
    ) -> Option<T> {
        let help = format!("write for example {example}");
        let scalar = match &node.kind {
            Kind::Scalar(scalar) => scalar,
            other => {
                let text = format!("`{path}` is {} and not a single value", kind_of(other));
                self.problem(Problem::at(node.at, text, help));
                return None;
            }
        };
        match parse(&scalar.text) {
            Ok(value) => Some(value),
            Err(reason) => {
                // A value that came from elsewhere was put there to be kept secret.
                let what = if may_show(scalar) {
                    format!("`{path}` is {}: {reason}", quoted(&scalar.text))
                } else {
                    format!("the value of `{path}` does not fit: {reason}")
                };
                let problem = Problem::at(node.at, what, help);
                let problem = if may_show(scalar) {
                    problem.shown()
                } else {
                    problem
                };
                self.problem(problem);
                None
            }
        }
    }

    /// A secret; what stands there is never shown.
    pub(super) fn secret(&mut self, table: &Table<'_>, key: &str) -> Option<SecretString> {
        let node = table.get(key)?;
        let path = table.path_of(key);
        let help =
            "write `!secret NAME` and put the value into secrets.yaml, or write the value itself in quotes";
        let Kind::Scalar(scalar) = &node.kind else {
            let text = format!("`{path}` is {} and not a single value", kind_of(&node.kind));
            self.problem(Problem::at(node.at, text, help));
            return None;
        };
        let wrong = if scalar.text.is_empty() {
            Some("is empty; leave the key out if there is none")
        } else if scalar.text.chars().count() > MAX_SECRET {
            Some("is longer than 256 characters")
        } else if scalar.text.chars().any(char::is_control) {
            Some("holds a line break or another control character")
        } else {
            None
        };
        if let Some(wrong) = wrong {
            self.problem(Problem::at(node.at, format!("`{path}` {wrong}"), help));
            return None;
        }
        if scalar.is_here {
            self.plain_secrets.push(path);
        }
        Some(SecretString::from(scalar.text.clone()))
    }
}

/// Whether a value may be shown where it is wrong. A text with a user's part could hold a password.
fn may_show(scalar: &Scalar) -> bool {
    !scalar.hidden && !scalar.text.contains('@')
}

fn kind_of(kind: &Kind) -> &'static str {
    match kind {
        Kind::Null => "empty",
        Kind::Scalar(_) | Kind::Reference(_) => "a single value",
        Kind::List(_) => "a list",
        Kind::Map(_) => "a block of keys and values",
    }
}

/// Says which key was meant.
fn unknown(key: &Key, value: &Node, path: &str, keys: &[&str]) -> Problem {
    let place = if path.is_empty() {
        "here".to_owned()
    } else {
        format!("in `{path}`")
    };
    let is_word = |text: &str| {
        text.chars()
            .all(|character| character.is_alphanumeric() || "_-<".contains(character))
    };
    let near = nearest(&key.text, keys.iter().copied());
    let elsewhere = keys::places_of(&key.text);
    // A lone word may be a password that has lost its key: only one with a value behind it is a key, or one like ours.
    let is_key = near.is_some() || !elsewhere.is_empty() || !matches!(value.kind, Kind::Null);
    if !is_word(&key.text) || !is_key {
        let text = format!("there is no such key {place}");
        return Problem::at(
            key.at,
            text,
            "a key is one word, and behind it stand a colon, a space and a value",
        );
    }
    let text = format!("there is no key {} {place}", quoted_key(&key.text));
    let help = match (near, elsewhere.first().copied()) {
        (Some(near), _) => format!("did you mean `{near}`?"),
        (None, Some("")) => format!("`{}` stands at the very left, outside any block", key.text),
        (None, Some(place)) => format!("`{}` belongs into `{place}`", key.text),
        (None, None) if key.text == "<<" => "merges are not read: write the values out".to_owned(),
        (None, None) => format!("the keys are {}", listed(keys)),
    };
    Problem::at(key.at, text, help).shown()
}

fn listed(keys: &[&str]) -> String {
    if keys.is_empty() {
        return "names of your choice".to_owned();
    }
    keys.iter()
        .map(|key| format!("`{key}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// What is known of a word that stands before a colon.
pub(super) fn known(key: &str) -> Known {
    if keys::is_secret(key) || !keys::exists(key) {
        Known::Hidden
    } else {
        Known::Plain
    }
}

/// A name that the owner chose: at most 64 letters, digits, `-` and `_`.
fn name(text: &str) -> Result<(), Reason> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if text.len() > 64 {
        return Err("is longer than 64 characters".to_owned());
    }
    let fits = |character: char| character.is_alphanumeric() || matches!(character, '-' | '_');
    if !text.chars().all(fits) {
        return Err("holds something else than letters and digits".to_owned());
    }
    Ok(())
}

/// The word that is most like this one, if any is like it at all.
pub(crate) fn nearest<'w>(word: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let plain = |word: &str| word.to_ascii_lowercase().replace(['-', ' '], "_");
    let word = plain(word);
    let len = word.chars().count();
    if len > 64 {
        return None;
    }
    words
        .map(|candidate| (distance(&word, &plain(candidate)), candidate))
        // A third of the letters may differ: `polcy` is `policy`, `host` is not `hosts` by chance alone.
        .filter(|(distance, candidate)| *distance <= (len.max(candidate.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters are wrong, missing, too many or swapped with their neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (row, left) in a.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, right) in b.iter().enumerate() {
            let replaced = last[column] + usize::from(left != right);
            let mut best = replaced.min(last[column + 1] + 1).min(current[column] + 1);
            let swapped = row > 0 && column > 0 && *left == b[column - 1] && a[row - 1] == *right;
            if swapped {
                best = best.min(before_last[column - 1] + 1);
            }
            current.push(best);
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_the_one_that_was_meant() {
        let keys = [
            "scan_interval",
            "network_range",
            "devices",
            "ota_port",
            "http_port",
        ];
        let near = |word: &str| nearest(word, keys.into_iter());
        assert_eq!(near("scan_intervall"), Some("scan_interval"));
        assert_eq!(near("scan-interval"), Some("scan_interval"));
        assert_eq!(near("ScanInterval"), Some("scan_interval"));
        assert_eq!(near("device"), Some("devices"));
        assert_eq!(near("ota_prot"), Some("ota_port"));
        assert_eq!(near("colour"), None);
        assert_eq!(near(""), None);
        assert_eq!(near(&"x".repeat(10_000)), None);
    }

    #[test]
    fn a_swap_of_neighbours_is_one_mistake() {
        assert_eq!(distance("prot", "port"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
