//! How results look to a person.

use std::fmt::Write as _;
use std::time::Duration;

use model::device::Snapshot;
use model::image::{Image, ImageInfo, Refusal};
use model::outcome::{Ending, Outcome};
use unicode_width::UnicodeWidthStr as _;

use crate::push::Pushed;

/// Width of the labels in front of facts.
const LABEL_WIDTH: usize = 10;
/// Width of the text that is read, characters: what the narrowest usual terminal shows.
const TEXT_WIDTH: usize = 80;

/// One fact with its label.
pub(super) fn fact(label: &str, text: &str) -> String {
    fact_in(0, label, text)
}

/// One fact with its label, indented.
pub(super) fn fact_in(indent: usize, label: &str, text: &str) -> String {
    let text = wrapped(text, indent + LABEL_WIDTH + 1, TEXT_WIDTH);
    format!("{:indent$}{label:<LABEL_WIDTH$} {text}\n", "")
}

/// The version to show for an image and where it was read.
pub(super) fn version_of(info: &ImageInfo) -> Option<(String, &'static str)> {
    info.shown_version()
        .map(|(versions, source)| (versions.to_string(), source.name()))
}

/// A number with thin groups of three: `1,251,632`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A duration as a person says it: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`.
pub(super) fn spoken(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        // Whole seconds are told as such: no device tells its uptime finer.
        0..10 if duration.subsec_nanos() != 0 => format!("{:.1} s", duration.as_secs_f64()),
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min {} s", seconds / 60, seconds % 60),
        7200..172_800 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Only what a terminal may be given: characters that control it, hide, or turn the direction of reading become visible.
pub(super) fn safe(text: &str) -> String {
    text.chars()
        .map(|c| if is_printed(c) { c } else { '\u{FFFD}' })
        .collect()
}

/// The same for a text of several lines.
pub(super) fn safe_lines(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| match line.strip_suffix('\n') {
            Some(line) => safe(line) + "\n",
            None => safe(line),
        })
        .collect()
}

/// Whether a terminal just shows this.
fn is_printed(c: char) -> bool {
    // Zero-width characters, line and paragraph separators, bidirectional controls and marks (UAX #9), byte order mark, tags.
    !c.is_control()
        && !matches!(c, '\u{AD}' | '\u{61C}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}'
            | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E0FFF}')
}

/// JSON as a terminal may be given it: what it would do more with than show is escaped, and means the same.
pub(super) fn safe_json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\n' || is_printed(c) {
            safe.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(safe, "\\u{unit:04x}");
            }
        }
    }
    safe
}

/// A sentence of its own, wrapped.
pub(super) fn sentence(text: &str) -> String {
    format!("{}\n", wrapped(&safe(text), 0, TEXT_WIDTH))
}

/// How long ago something was: `12 s ago`; nothing is in the future, however the clocks differ.
pub(super) fn ago(then_ms: i64) -> String {
    let past_ms = u64::try_from(engine::Clock.now().wall_ms.saturating_sub(then_ms)).unwrap_or(0);
    let past = match Duration::from_secs(past_ms / 1000) {
        past if past < Duration::from_mins(2) => spoken(past),
        past if past < Duration::from_hours(2) => format!("{} min", past.as_secs() / 60),
        past if past < Duration::from_hours(48) => format!("{} h", past.as_secs() / 3600),
        past => spoken(past),
    };
    format!("{past} ago")
}

/// A number of bytes in short: `1.3 MB`.
pub(super) fn sized(n_bytes: u64) -> String {
    /// Tenths of a unit, rounded.
    fn tenths(n_bytes: u64, unit: u64) -> String {
        let tenths = (n_bytes.saturating_mul(10) + unit / 2) / unit;
        format!("{}.{}", tenths / 10, tenths % 10)
    }
    match n_bytes {
        0..1000 => format!("{n_bytes} B"),
        1000..1_000_000 => format!("{} kB", tenths(n_bytes, 1000)),
        1_000_000..1_000_000_000 => format!("{} MB", tenths(n_bytes, 1_000_000)),
        _ => format!("{} GB", tenths(n_bytes, 1_000_000_000)),
    }
}

/// `1 device`, `2 devices`.
pub(super) fn counted(n: usize, one: &str) -> String {
    if n == 1 {
        format!("1 {one}")
    } else {
        format!("{} {one}s", grouped(n as u64))
    }
}

/// A row of a table: each cell in its width, longer ones push the rest.
pub(super) fn row(cells: &[(usize, &str)]) -> String {
    let mut row = String::new();
    for (width, text) in cells {
        let _ = write!(row, "{:<width$}", safe(text));
        if text.chars().count() >= *width {
            row.push(' ');
        }
    }
    format!("{}\n", row.trim_end())
}

/// How far an upload has got.
pub(super) fn upload_bar(percent: u64, acked_bytes: u64) -> String {
    let filled = usize::try_from(percent * 30 / 100).unwrap_or(30).min(30);
    format!(
        "uploading {}{} {percent:>3} % · {} bytes",
        "█".repeat(filled),
        "░".repeat(30 - filled),
        grouped(acked_bytes)
    )
}

/// A text in lines of at most `width` columns of the terminal, each after the first indented.
pub(super) fn wrapped(text: &str, indent: usize, width: usize) -> String {
    let mut lines = String::new();
    let mut column = indent;
    for word in text.split(' ') {
        let len = word.width();
        if column > indent && column + 1 + len > width {
            let _ = write!(lines, "\n{:indent$}", "");
            column = indent;
        } else if column > indent {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += len;
    }
    lines
}

/// What an image is, in a line.
pub(super) fn image_line(name: &str, info: &ImageInfo) -> String {
    let mut line = format!("{} · {} bytes", safe(name), grouped(info.len_bytes));
    if let Some(chip) = &info.chip {
        let _ = write!(line, " · for {chip}");
    }
    match version_of(info) {
        Some((version, "file-name")) => {
            let _ = write!(line, " · {} by its file name", safe(&version));
        }
        Some((version, _)) => {
            let _ = write!(line, " · {}", safe(&version));
        }
        None => line.push_str(" · states no version"),
    }
    let _ = write!(line, " · sha256 {}…", info.sha256.short());
    line
}

/// What a device is, in a line.
pub(super) fn device_line(title: &str, address: &str, snapshot: &Snapshot) -> String {
    let mut line = format!("{title} {} at {address}", safe(&snapshot.id.hardware));
    if let Some(chip) = &snapshot.hardware.chip {
        let _ = write!(line, " · {}", safe(chip));
    }
    if !snapshot.versions.is_empty() {
        let _ = write!(line, " · runs {}", safe(&snapshot.versions.to_string()));
    }
    if let Some(uptime) = snapshot.uptime {
        let _ = write!(line, " · up {}", spoken(uptime));
    }
    if let Some(signal) = snapshot.health.signal_dbm {
        let _ = write!(line, " · {signal} dBm");
    }
    line
}

/// What a file is, field by field.
pub(super) fn inspection(path: &str, image: &Image, info: &ImageInfo, refusals: &[Refusal]) -> String {
    let mut text = format!("{}\n", safe(path));
    let mut add = |label: &str, value: &str| {
        text += &fact_in(2, label, value);
    };
    add("kind", &info.kind);
    add("length", &format!("{} bytes", grouped(image.len_bytes())));
    if let Some(chip) = &info.chip {
        add("chip", chip);
    }
    match version_of(info) {
        Some((version, "file-name")) => add(
            "version",
            &format!("{} (only its file name says so)", safe(&version)),
        ),
        Some((version, _)) => add("version", &safe(&version)),
        None if refusals.is_empty() => add("version", "it states none"),
        None => {}
    }
    if let Some(project) = &info.project {
        add("project", &safe(project));
    }
    if let Some(signature) = &info.signature {
        add("signature", &format!("{signature} (recognised, not verified)"));
    }
    add("sha256", &image.sha256().to_string());
    add("md5", &image.md5().to_string());
    for warning in &info.warnings {
        add("warning", &format!("{} ({})", safe(&warning.text), warning.rule));
    }
    for refusal in refusals {
        add("refused", &format!("{} ({})", safe(&refusal.text), refusal.rule));
        add("next", &safe(&refusal.next_step));
    }
    if refusals.is_empty() {
        add(
            "verdict",
            if info.chip.is_some() {
                "may be pushed to a device with this chip"
            } else {
                "may be pushed to a device that it fits"
            },
        );
    }
    text
}

/// The words for an ending (MISSION.md section 5).
pub(super) fn ending(ending: Ending) -> &'static str {
    match ending {
        Ending::Updated => "updated",
        Ending::UpdatedLabelUnchanged => "updated (label unchanged)",
        Ending::AlreadyCurrent => "already current",
        Ending::KeptOld => "kept old",
        Ending::RolledBack => "rolled back",
        Ending::Failed => "failed",
        Ending::Unverified => "unverified",
        Ending::Refused => "refused",
        Ending::Cancelled => "cancelled",
    }
}

/// An ending with its reason, unless the ending says it all.
pub(super) fn outcome(outcome: &Outcome) -> String {
    match &outcome.reason {
        Some(reason) if outcome.ending != Ending::UpdatedLabelUnchanged => {
            format!("{} ({})", ending(outcome.ending), safe(reason))
        }
        _ => ending(outcome.ending).to_owned(),
    }
}

/// The result of a push with its evidence.
pub(super) fn result(pushed: &Pushed) -> String {
    let text = format!("{}: {}", outcome(&pushed.outcome), safe(&pushed.outcome.text));
    let mut text = format!(
        "{}
",
        wrapped(&text, 2, TEXT_WIDTH)
    );
    let mut add = |label: &str, value: String| {
        text += &fact_in(2, label, &value);
    };
    if let Some(job) = &pushed.job {
        let evidence = &job.evidence;
        if let Some(verdict) = &evidence.verdict {
            add("verdict", format!("\"{}\"", safe(verdict)));
        }
        // Only these say that every byte was taken; where a transfer broke off, the text says how far it came.
        let all_sent = matches!(
            pushed.outcome.ending,
            Ending::Updated | Ending::UpdatedLabelUnchanged | Ending::RolledBack | Ending::Failed
        );
        if let (Some(push), true, true) = (evidence.push, job.bytes_left, all_sent) {
            let rate = u128::from(pushed.info.len_bytes) / push.as_millis().max(1);
            add(
                "sent",
                format!(
                    "{} bytes in {} ({rate} kB/s)",
                    grouped(pushed.info.len_bytes),
                    spoken(push)
                ),
            );
        }
        if let Some(away) = evidence.away {
            add("away", spoken(away));
        }
        let (before, after) = (pushed.before(), pushed.after());
        if let (Some(before), Some(after)) = (before, after) {
            let label = |snapshot: &Snapshot| {
                if snapshot.versions.is_empty() {
                    "?".to_owned()
                } else {
                    safe(&snapshot.versions.to_string())
                }
            };
            add("version", format!("{} → {}", label(before), label(after)));
            if let (Some(before), Some(after)) = (before.uptime, after.uptime) {
                add("uptime", format!("{} → {}", spoken(before), spoken(after)));
            }
            let same = if before.id == after.id {
                "the same"
            } else {
                "another"
            };
            add("identity", format!("{} ({same})", safe(&after.id.hardware)));
        }
        if let Some(watched) = evidence.watched.filter(|watched| !watched.is_zero()) {
            add("watched", format!("{} after it came back", spoken(watched)));
        }
        if !job.overridden.is_empty() {
            add("overridden", job.overridden.join(", "));
        }
        let unproven = !pushed.outcome.ending.is_success() && pushed.outcome.ending != Ending::AlreadyCurrent;
        if let (true, Some(now)) = (unproven, after.or(before).filter(|now| !now.versions.is_empty())) {
            let seen = if after.is_some() || !job.bytes_left {
                "it runs"
            } else {
                "before the push it ran"
            };
            add(
                "device",
                format!("when last seen, {seen} {}", safe(&now.versions.to_string())),
            );
        }
    }
    for warning in &pushed.warnings {
        add("warning", safe(warning));
    }
    if let Some(next_step) = &pushed.outcome.next_step {
        add("next", safe(next_step));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_wrapped_at_words_and_indented() {
        assert_eq!(wrapped("aa bb cc", 2, 7), "aa bb\n  cc");
        assert_eq!(wrapped("a-very-long-word b", 2, 7), "a-very-long-word\n  b");
        assert_eq!(wrapped("", 2, 7), "");
        assert_eq!(wrapped("居間 の 居間", 0, 7), "居間 の\n居間");
    }

    #[test]
    fn numbers_are_grouped_from_the_right() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_251_632), "1,251,632");
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert_eq!(safe("a\u{1b}[2Jb\n"), "a\u{FFFD}[2Jb\u{FFFD}");
        assert_eq!(
            safe("a\u{202e}b\u{200b}\u{9b}é居"),
            "a\u{FFFD}b\u{FFFD}\u{FFFD}é居"
        );
    }

    #[test]
    fn json_means_the_same_when_it_is_made_harmless() {
        let value = serde_json::json!({ "name": "a\u{9b}31m\u{202e}\u{7f}\u{e0041}é\n" });
        let text = safe_json(&format!("{value:#}"));
        assert!(text.chars().all(|c| c == '\n' || is_printed(c)), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn sizes_are_rounded_to_a_tenth() {
        for (n_bytes, text) in [
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (1_251_632, "1.3 MB"),
            (2_949_000_000, "2.9 GB"),
        ] {
            assert_eq!(sized(n_bytes), text);
        }
    }
}
