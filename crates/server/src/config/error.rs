//! What is wrong with a configuration, shown where it is, without telling a secret.

use std::fmt;
use std::path::{Path, PathBuf};

/// How many problems are told at once. Guess: more than anybody mends in one go.
const MAX_TOLD: usize = 20;
/// The longest line of a snippet and the longest value in a message, characters.
const MAX_SHOWN: usize = 100;
const MAX_QUOTED: usize = 60;
/// What stands for what is not shown.
const MASK: &str = "…";

/// A configuration that cannot be used: everything that is wrong with it.
#[derive(Debug, thiserror::Error)]
pub struct ConfigError {
    /// The file as it was named.
    pub file: PathBuf,
    /// What is wrong, in the order of the file; never empty.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands; none where it is about the file as a whole.
    pub at: Option<At>,
    /// What is wrong, in one sentence without a full stop.
    pub text: String,
    /// What to write instead.
    pub help: String,
    /// The line, with everything masked that could be a secret; none where nothing can be shown.
    pub snippet: Option<String>,
    show: Show,
}

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// Its line, counted from 1.
    pub line: usize,
    /// Its column in characters, counted from 1.
    pub column: usize,
    /// How many characters of the line it takes, at least 1.
    pub len: usize,
}

/// How much of the line may be shown beside its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Show {
    /// Nothing.
    Nothing,
    /// The very text at fault: a key, or a value that is known to be no secret.
    Fault,
    /// The line, as long as all its keys are known and none of them names a secret: there is no tree to go by.
    Line,
}

impl Problem {
    pub(super) fn at(at: At, text: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            at: Some(at),
            text: text.into(),
            help: help.into(),
            snippet: None,
            show: Show::Nothing,
        }
    }

    pub(super) fn anywhere(text: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            at: None,
            text: text.into(),
            help: help.into(),
            snippet: None,
            show: Show::Nothing,
        }
    }

    /// The text at fault is no secret.
    #[must_use]
    pub(super) fn shown(mut self) -> Self {
        self.show = Show::Fault;
        self
    }

    /// The file is not readable beyond this point.
    #[must_use]
    pub(super) fn syntax(mut self) -> Self {
        self.show = Show::Line;
        self
    }
}

impl ConfigError {
    /// Puts the problems in order and shows the lines.
    pub(super) fn new(
        file: &Path,
        source: &str,
        mut problems: Vec<Problem>,
        known: fn(&str) -> Known,
    ) -> Self {
        problems.sort_by_key(|problem| problem.at);
        let lines: Vec<&str> = source.lines().collect();
        for problem in &mut problems {
            problem.snippet = problem.at.and_then(|at| snippet(&lines, at, problem.show, known));
        }
        Self {
            file: file.to_owned(),
            problems,
        }
    }

    pub(super) fn unreadable(file: &Path, text: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            problems: vec![Problem::anywhere(text, help)],
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = printable(&self.file.to_string_lossy(), usize::MAX);
        for (idx, problem) in self.problems.iter().take(MAX_TOLD).enumerate() {
            if idx > 0 {
                writeln!(f)?;
            }
            match problem.at {
                Some(at) => write!(f, "{file}:{}:{}: ", at.line, at.column)?,
                None => write!(f, "{file}: ")?,
            }
            write!(f, "{}", problem.text)?;
            if let Some(snippet) = &problem.snippet {
                write!(f, "\n{snippet}")?;
            }
            write!(f, "\n  help: {}", problem.help)?;
        }
        match self.problems.len().saturating_sub(MAX_TOLD) {
            0 => Ok(()),
            n_more => write!(f, "\nand {n_more} more"),
        }
    }
}

/// What is known of a word before a colon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// A key whose value may be shown.
    Plain,
    /// A key whose value is a secret, or no key of ours.
    Hidden,
}

/// The line at fault with a mark below; everything but keys and what may be shown is masked.
fn snippet(lines: &[&str], at: At, show: Show, known: fn(&str) -> Known) -> Option<String> {
    let line = lines.get(at.line.checked_sub(1)?)?;
    let characters: Vec<char> = line.chars().collect();
    let start = at.column - 1;
    if start > characters.len() {
        return None;
    }
    let end = (start + at.len).min(characters.len());
    let slice = |from: usize, to: usize| characters[from..to].iter().collect::<String>();
    let whole = slice(0, characters.len());
    let (before, fault, after) = match show {
        Show::Line if may_be_shown(&whole, known) => {
            (slice(0, start), slice(start, end), slice(end, characters.len()))
        }
        // Without a tree nobody knows where a value ends.
        Show::Line => (indent(&whole), MASK.to_owned(), String::new()),
        Show::Fault => (
            masked_before(&slice(0, start)),
            slice(start, end),
            masked_after(&slice(end, characters.len())),
        ),
        Show::Nothing => {
            let before = masked_before(&slice(0, start));
            let before = before.strip_suffix(MASK).unwrap_or(&before).to_owned();
            (before, MASK.to_owned(), String::new())
        }
    };
    let before = printable(&before, MAX_SHOWN);
    let fault = printable(&fault, MAX_SHOWN);
    let after = printable(&after, MAX_SHOWN.saturating_sub(fault.chars().count()));
    let number = at.line.to_string();
    let margin = " ".repeat(number.len());
    let mark = "^".repeat(fault.chars().count().max(1));
    let pad = " ".repeat(before.chars().count());
    Some(format!(
        "  {number} | {}\n  {margin} | {pad}{mark}",
        format!("{before}{fault}{after}").trim_end()
    ))
}

/// Leading spaces and dashes of list items.
fn indent(line: &str) -> String {
    line.chars()
        .take_while(|character| matches!(character, ' ' | '-'))
        .collect()
}

/// What stands before the text at fault: indentation and the key right before it, and no value.
fn masked_before(before: &str) -> String {
    let indent = indent(before);
    let rest = &before[indent.len()..];
    if rest.is_empty() {
        return indent;
    }
    let last = rest.rfind([',', '{', '[']).map_or(0, |comma| comma + 1);
    let (earlier, own) = rest.split_at(last);
    let key = own
        .trim()
        .trim_end_matches("!secret")
        .trim_end_matches("!env_var")
        .trim_end();
    let own = match key.strip_suffix(':') {
        Some(key) if is_word(key) => own.to_owned(),
        None if own.trim().is_empty() => own.to_owned(),
        _ => MASK.to_owned(),
    };
    // The first key of the line says where we are.
    let first = earlier
        .split_once(':')
        .map(|(key, _)| key)
        .filter(|key| is_word(key));
    match (earlier, first) {
        ("" | "{" | "[", _) => format!("{indent}{earlier}{own}"),
        (_, Some(key)) => format!("{indent}{key}: {MASK} {}", own.trim_start()),
        (_, None) => format!("{indent}{MASK} {}", own.trim_start()),
    }
}

/// What stands after the text at fault: a colon after a key, and no value.
fn masked_after(after: &str) -> String {
    let trimmed = after.trim();
    let closing = trimmed
        .chars()
        .all(|character| matches!(character, '"' | '\'' | ',' | ']' | '}' | ' '));
    if closing {
        return after.to_owned();
    }
    if let Some(rest) = trimmed
        .strip_prefix(['"', '\''])
        .unwrap_or(trimmed)
        .strip_prefix(':')
    {
        return if rest.trim().is_empty() {
            ":".to_owned()
        } else {
            format!(": {MASK}")
        };
    }
    format!(" {MASK}")
}

/// Whether a line begins with a key of ours, each word before a colon is one that holds no secret, and nothing else
/// looks like the name of a secret: where the notation is broken, nobody knows what belongs to what.
fn may_be_shown(line: &str, known: fn(&str) -> Known) -> bool {
    let small = line.to_ascii_lowercase();
    if ["pass", "secret", "token", "url", "://", "@"]
        .iter()
        .any(|word| small.contains(word))
    {
        return false;
    }
    // A line that does not begin with a key of ours may go on with the value of the line above.
    let first = line.trim_start_matches([' ', '-', '{', '[']).split(':').next();
    if known(unquoted(first.unwrap_or_default())) != Known::Plain {
        return false;
    }
    line.match_indices(':').all(|(idx, _)| {
        let is_key = line[idx + 1..].chars().next().is_none_or(char::is_whitespace);
        let key = line[..idx].rsplit([' ', ',', '{', '[', '-', '\t']).next();
        !is_key || known(unquoted(key.unwrap_or_default())) == Known::Plain
    })
}

fn unquoted(key: &str) -> &str {
    key.trim().trim_matches(['"', '\''])
}

/// A word as keys are made of: what stands before a colon is a key, not a value.
fn is_word(text: &str) -> bool {
    let text = unquoted(text);
    let fits =
        |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-' | ' ' | '.');
    !text.is_empty() && text.len() <= 40 && text.chars().all(fits)
}

/// A text for a message: bounded, printable, in back-quotes.
pub(super) fn quoted(text: &str) -> String {
    format!("`{}`", printable(text, MAX_QUOTED))
}

/// A key for a message. What follows the word may be a password whose colon is missing.
pub(super) fn quoted_key(key: &str) -> String {
    let fits = |character: char| character.is_alphanumeric() || matches!(character, '_' | '-' | '<');
    let word: String = key
        .chars()
        .take_while(|character| fits(*character))
        .take(MAX_QUOTED)
        .collect();
    if word.len() < key.len() {
        return format!("`{word}{MASK}`");
    }
    format!("`{word}`")
}

/// At most so many characters, control and formatting characters replaced.
pub(super) fn printable(text: &str, max: usize) -> String {
    let mut shown: String = text
        .chars()
        .take(max)
        .map(|character| {
            if is_unseen(character) {
                '\u{fffd}'
            } else {
                character
            }
        })
        .collect();
    if text.chars().nth(max).is_some() {
        shown.push_str(MASK);
    }
    shown
}

/// Whether a character does something else than being seen: control, bidirectional and zero-width ones.
pub(super) fn is_unseen(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        )
}
