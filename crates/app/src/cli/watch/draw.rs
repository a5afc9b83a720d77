//! The block that is drawn over and over on a terminal. Pure.

use std::collections::VecDeque;

use unicode_width::UnicodeWidthStr as _;

use super::view::View;
use crate::cli::show::safe;
use crate::cli::standing::{kind_words, standing, title, wave};
use crate::cli::table::fitted;

/// How wide a bar is, columns.
const BAR_WIDTH: usize = 20;
/// How wide the column of names gets at most.
const NAME_WIDTH: usize = 24;
/// Lines of what happened that are kept in sight, if there is room.
const N_EVENTS: usize = 6;

/// Where it is drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terminal {
    pub(super) columns: usize,
    pub(super) rows: usize,
    /// Whether it shows more than ASCII.
    pub(super) unicode: bool,
}

/// The block: at most one line less than there are rows, none wider than the terminal.
pub(super) fn block(
    view: &View,
    events: &VecDeque<String>,
    gone: Option<&str>,
    terminal: Terminal,
) -> String {
    let rollout = &view.rollout;
    let summary = &rollout.summary;
    let facts = [
        format!("{} to {}", kind_words(summary.kind), summary.firmware.join(", ")),
        summary.state.clone(),
        wave(summary),
        format!("{} at once", rollout.n_at_once),
    ];
    let facts: Vec<String> = facts.into_iter().filter(|fact| !fact.is_empty()).collect();
    let mut head = vec![
        format!("{} · {}", title(summary), facts.join(" · ")),
        view.counts(),
    ];
    if let Some(gone) = gone {
        head.push(gone.to_owned());
    } else if let Some(cause) = &summary.cause {
        head.push(cause.text.clone());
    }
    let foot = "Ctrl-C: the rollout goes on in the server.";

    // One line stays free, so that the terminal does not scroll.
    let rows = terminal.rows.saturating_sub(1).max(4);
    let room = rows.saturating_sub(head.len() + 1);
    let running: Vec<_> = view.running().collect();
    let n_events = events.len().min(N_EVENTS).min(room / 3);
    let mut n_devices = running.len().min(room - n_events);
    if n_devices < running.len() {
        // One line tells how many more there are.
        n_devices = n_devices.saturating_sub(1);
    }
    let names = running[..n_devices]
        .iter()
        .map(|member| safe(&member.name).width());
    let name_width = names.max().unwrap_or(0).min(NAME_WIDTH);

    let mut lines = head;
    for member in &running[..n_devices] {
        let name = fitted(&safe(&member.name), name_width);
        let gap = " ".repeat(name_width.saturating_sub(name.width()));
        let words = match member.percent {
            Some(percent) if member.state == "uploading" => {
                let filled = usize::from(percent).min(100) * BAR_WIDTH / 100;
                format!(
                    "{}{} {percent:>3} %",
                    "█".repeat(filled),
                    "░".repeat(BAR_WIDTH - filled)
                )
            }
            _ => standing(member),
        };
        lines.push(format!("  {name}{gap}  {words}"));
    }
    if n_devices < running.len() && room > n_events {
        lines.push(format!("  … and {} more", running.len() - n_devices));
    }
    lines.extend(
        events
            .iter()
            .skip(events.len() - n_events)
            .map(|event| format!("- {event}")),
    );
    lines.push(foot.to_owned());
    let lines: Vec<String> = lines
        .iter()
        .map(|line| {
            let line = safe(line);
            let line = if terminal.unicode { line } else { plain(&line) };
            let line = fitted(&line, terminal.columns);
            if terminal.unicode { line } else { plain(&line) }
        })
        .collect();
    lines.join("\n")
}

/// Without the signs of ours that a plain terminal does not have; a letter that it does not have becomes a question mark.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '█' => plain.push('#'),
            '░' | '…' => plain.push('.'),
            '·' => plain.push('-'),
            '→' => plain.push('>'),
            c if c.is_ascii() => plain.push(c),
            _ => plain.push('?'),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use insta::assert_snapshot;
    use serde_json::json;
    use server::views::RolloutView;

    fn view(states: &[(&str, &str, Option<u8>)]) -> View {
        let members: Vec<_> = states
            .iter()
            .enumerate()
            .map(|(idx, (name, state, percent))| {
                json!({
                    "device": format!("d{idx}"), "name": name, "wave": 0, "runs": "1.0", "sha256": "6b".repeat(32),
                    "firmware": "2.0.0", "state": state, "percent": percent, "reason": null, "text": null,
                    "next_step": null, "job": null, "n_tries": 0, "n_pushes": 0,
                })
            })
            .collect();
        let rollout: RolloutView = serde_json::from_value(json!({
            "id": 7, "name": "weekly", "kind": "update", "state": "running", "cause": null, "firmware": ["2.0.0"],
            "created_ms": 0, "created_by": "me", "ended_ms": null, "wave": 1, "n_waves": 3, "counts": {},
            "n_devices": states.len(), "ok": null, "n_at_once": 4, "members": members, "left_out": [],
            "rules": {
                "canary": 1, "canary_soak_s": 600, "soak_s": 120, "at_once": "auto", "max_failures": "2",
                "when_back_until_ms": null,
            },
        }))
        .unwrap();
        View::new(rollout).0
    }

    const USUAL: Terminal = Terminal {
        columns: 80,
        rows: 24,
        unicode: true,
    };

    #[test]
    fn the_block_shows_what_is_going_on() {
        let view = view(&[
            ("Living Room IR", "updated", None),
            ("Kitchen", "uploading", Some(62)),
            ("居間のリモコン", "soaking", None),
            ("Attic", "queued", None),
        ]);
        let events = VecDeque::from(["Living Room IR: updated".to_owned()]);
        assert_snapshot!("watch_block", block(&view, &events, None, USUAL));
        let plain = Terminal {
            unicode: false,
            ..USUAL
        };
        let gone = "server gone, waiting for 12 s";
        assert_snapshot!("watch_block_plain", block(&view, &events, Some(gone), plain));
    }

    #[test]
    fn it_fits_however_much_there_is() {
        let name = "居間のリモコンでとても長い名前のもの".repeat(3);
        let many: Vec<_> = (0..300).map(|_| (name.as_str(), "uploading", Some(50))).collect();
        let events: VecDeque<String> = (0..50).map(|n| format!("{n}: {name}")).collect();
        let few = view(&many[..2]);
        let many = view(&many);
        for (columns, rows) in [(80, 24), (40, 10), (20, 5), (300, 100)] {
            for unicode in [true, false] {
                let terminal = Terminal {
                    columns,
                    rows,
                    unicode,
                };
                for view in [&few, &many] {
                    let block = block(view, &events, Some("server gone"), terminal);
                    assert!(block.lines().count() < rows.max(5), "{rows}: {block}");
                    assert!(block.lines().all(|line| line.width() <= columns), "{block}");
                    assert!(unicode || block.is_ascii(), "{block}");
                }
            }
        }
    }

    #[test]
    fn what_a_device_calls_itself_cannot_move_the_cursor() {
        let view = view(&[("a\u{1b}[2J\nb\u{202e}", "looking", None)]);
        let block = block(&view, &VecDeque::new(), None, USUAL);
        assert!(!block.contains(['\u{1b}', '\u{202e}']), "{block:?}");
        assert_eq!(block.lines().count(), 4, "{block}");
    }
}
