//! Errors in words.

/// An error and what caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// A text as a sentence: with a capital letter and a full stop.
///
/// A first word that may be a name keeps its case: what has anything but letters in it, as files and keys
/// (`reflash.yaml`, `scan_interval_s`, `ir-remote`), or is followed by a colon, as families are.
pub fn sentence(text: &str) -> String {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_alphabetic()).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let mut after = rest.chars();
    let is_word = match after.next() {
        None | Some(' ' | ',' | ';' | '!' | '?' | '\'') => true,
        // The end of the sentence; else the dot of a file's name.
        Some('.') => after.next().is_none_or(char::is_whitespace),
        Some(_) => false,
    };
    let mut letters = word.chars();
    let mut sentence = match letters.next() {
        Some(first) if is_word => first.to_uppercase().chain(letters).collect(),
        _ => word.to_owned(),
    };
    sentence.push_str(rest);
    if !sentence.is_empty() && !sentence.ends_with(['.', '!', '?', '…', ':']) {
        sentence.push('.');
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(sentence(text), expected);
    }

    #[test]
    fn a_sentence_begins_with_a_capital_letter_and_ends_with_a_stop() {
        check("the database is locked", "The database is locked.");
        check(" nothing changed. ", "Nothing changed.");
        check("wait", "Wait.");
        check("really?", "Really?");
        check("élan is needed", "Élan is needed.");
        check("it's gone", "It's gone.");
        check("", "");
    }

    #[test]
    fn names_of_files_families_and_keys_keep_their_case() {
        check("reflash.yaml holds a key", "reflash.yaml holds a key.");
        check("ir-remote: no such device", "ir-remote: no such device.");
        check("komfovent: no such device", "komfovent: no such device.");
        check(
            "scan_interval_s is 30 to 86400",
            "scan_interval_s is 30 to 86400.",
        );
        check("esp32c6 is the chip", "esp32c6 is the chip.");
        check("etc/reflash is no folder", "etc/reflash is no folder.");
        check("`mqtt` has no user", "`mqtt` has no user.");
    }
}
