//! One message, as every receiver gets it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Devices that one message lists; how many there are is told beside it. Guess: more than anybody reads.
pub(super) const N_DEVICES_LISTED: usize = 50;
/// The longest title and text, characters: several common receivers cut at 4 KB.
const TITLE_MAX_LEN: usize = 160;
const TEXT_MAX_LEN: usize = 2000;
/// The longest text about one device, characters: with 50 of them it is still less than a broker takes.
const DEVICE_TEXT_MAX_LEN: usize = 500;

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// A rollout has ended.
    Finished,
    /// A rollout has halted and waits for its owner.
    Halted,
    /// An update outside of a running rollout has failed.
    Failed,
    /// What was not proven is known now.
    Corrected,
    /// There is firmware that devices need.
    Firmware,
    /// Something is the matter with an image.
    Alarm,
    /// Devices do not answer any more.
    Lost,
    /// Devices answer again that were told as lost.
    Found,
    /// Several of these in one.
    Digest,
    /// Somebody tries whether messages arrive.
    Test,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Halted => "halted",
            Self::Failed => "failed",
            Self::Corrected => "corrected",
            Self::Firmware => "firmware",
            Self::Alarm => "alarm",
            Self::Lost => "lost",
            Self::Found => "found",
            Self::Digest => "digest",
            Self::Test => "test",
        }
    }
}

/// A device in a message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Told {
    /// Its id in the API.
    pub(super) id: String,
    /// What people call it.
    pub(super) name: String,
    /// How its update ended, or how it stands: `offline`, `online`, `update-offered`.
    pub(super) state: String,
    /// The name of the reason.
    pub(super) reason: Option<String>,
    /// What it runs now; none where that is not known.
    pub(super) runs: Option<String>,
    /// What happened to it.
    pub(super) text: Option<String>,
    /// What to do about it.
    pub(super) next_step: Option<String>,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Message {
    /// The same whenever it is sent again, so that a receiver can tell.
    pub(super) id: String,
    pub(super) kind: Kind,
    pub(super) title: String,
    pub(super) text: String,
    /// At most [`N_DEVICES_LISTED`] of them.
    pub(super) devices: Vec<Told>,
    pub(super) n_devices: usize,
    pub(super) rollout: Option<i64>,
    /// When the latest of what it tells happened, milliseconds since 1970.
    pub(super) at_ms: i64,
}

impl Message {
    /// A message of these devices; `of` are the numbers and times of the events that it tells of.
    pub(super) fn new(
        kind: Kind,
        (title, text): (&str, &str),
        devices: Vec<Told>,
        rollout: Option<i64>,
        of: &[(i64, i64)],
    ) -> Self {
        let n_devices = devices.len();
        let mut devices = devices;
        devices.truncate(N_DEVICES_LISTED);
        Self {
            id: id_of(kind, of),
            kind,
            title: shortened(&clean(title), TITLE_MAX_LEN),
            text: shortened(&clean(text), TEXT_MAX_LEN),
            devices,
            n_devices,
            rollout,
            at_ms: of.iter().map(|(_, at_ms)| *at_ms).max().unwrap_or_default(),
        }
    }

    /// The JSON that receivers get; `docs/guide/notifications.md` describes it.
    pub(super) fn json(&self) -> Value {
        let devices = self.devices.iter().map(|told| {
            json!({ "id": clean(&told.id), "name": clean(&told.name), "state": told.state,
                    "reason": told.reason, "runs": told.runs.as_deref().map(clean),
                    "text": told.text.as_deref().map(|text| shortened(&clean(text), DEVICE_TEXT_MAX_LEN)) })
        });
        let at = Timestamp::from_millisecond(self.at_ms).unwrap_or(Timestamp::UNIX_EPOCH);
        json!({ "id": self.id, "kind": self.kind.name(), "title": self.title, "text": self.text,
                "devices": devices.collect::<Vec<_>>(), "n_devices": self.n_devices, "rollout": self.rollout,
                "at": at.to_string() })
    }
}

/// A name that only depends on what is told: whoever puts it together again after a crash comes to the same.
fn id_of(kind: Kind, of: &[(i64, i64)]) -> String {
    let mut hash = Sha256::new();
    hash.update(kind.name());
    let mut of = of.to_vec();
    of.sort_unstable();
    for (seq, at_ms) in of {
        hash.update(seq.to_be_bytes());
        hash.update(at_ms.to_be_bytes());
    }
    hex::encode(&hash.finalize()[..16])
}

/// A text that does nothing but being read: no control characters, and no brackets, by which chats address people.
pub(super) fn clean(text: &str) -> String {
    let harmless = |c: char| match c {
        '\n' => '\n',
        '<' => '‹',
        '>' => '›',
        // Also what turns the direction of text around (Unicode's bidirectional formatting).
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => ' ',
        c if c.is_control() => ' ',
        c => c,
    };
    text.chars().map(harmless).collect()
}

fn shortened(text: &str, max_len: usize) -> String {
    if text.chars().count() <= max_len {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(max_len - 1).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Message {
        Message::new(
            Kind::Failed,
            ("title", text),
            Vec::new(),
            None,
            &[(3, 1000), (2, 2000)],
        )
    }

    #[test]
    fn the_id_depends_on_what_is_told_and_on_nothing_else() {
        let other_order = Message::new(
            Kind::Failed,
            ("x", "y"),
            Vec::new(),
            Some(1),
            &[(2, 2000), (3, 1000)],
        );
        assert_eq!(message("a").id, other_order.id);
        let others = [
            Message::new(Kind::Lost, ("", ""), Vec::new(), None, &[(3, 1000), (2, 2000)]),
            Message::new(Kind::Failed, ("", ""), Vec::new(), None, &[(3, 1000)]),
            // After a back-up was brought back, a number may be given a second time.
            Message::new(Kind::Failed, ("", ""), Vec::new(), None, &[(3, 1001), (2, 2000)]),
        ];
        for other in others {
            assert_ne!(message("a").id, other.id);
        }
    }

    #[test]
    fn what_a_device_says_addresses_nobody_and_controls_nothing() {
        let told = message("E: \u{1b}[31m<!channel>\0\u{202e}x\nnext").text;
        assert_eq!(told, "E:  [31m‹!channel›  x\nnext");
    }

    #[test]
    fn a_long_text_is_cut_and_many_devices_are_counted() {
        let told = message(&"é".repeat(5000));
        assert_eq!(
            (told.text.chars().count(), told.text.ends_with('…')),
            (TEXT_MAX_LEN, true)
        );
        let device = |n: usize| Told {
            id: n.to_string(),
            name: n.to_string(),
            state: "failed".to_owned(),
            reason: None,
            runs: None,
            text: None,
            next_step: None,
        };
        let devices = (0..1000).map(device).collect();
        let json = Message::new(Kind::Halted, ("", ""), devices, Some(7), &[(1, 1)]).json();
        assert_eq!(json["devices"].as_array().unwrap().len(), N_DEVICES_LISTED);
        assert_eq!(
            (json["n_devices"].as_u64(), json["rollout"].as_i64()),
            (Some(1000), Some(7))
        );
    }

    #[test]
    fn the_form_of_a_message_is_the_one_that_is_promised() {
        let devices = vec![Told {
            id: "a0b1c2d3e4f5".to_owned(),
            name: "Hall".to_owned(),
            state: "failed".to_owned(),
            reason: Some("no answer".to_owned()),
            runs: Some("1.0".to_owned()),
            text: Some("It did not answer.".to_owned()),
            next_step: Some("Look.".to_owned()),
        }];
        let json = Message::new(
            Kind::Failed,
            ("Hall", "Text."),
            devices,
            None,
            &[(1, 1_795_305_600_123)],
        )
        .json();
        let id = json["id"].as_str().unwrap();
        assert!(id.len() == 32 && id.chars().all(|c| c.is_ascii_hexdigit()));
        let expected = json!({ "id": id, "kind": "failed", "title": "Hall", "text": "Text.",
            "devices": [{ "id": "a0b1c2d3e4f5", "name": "Hall", "state": "failed",
                           "reason": "no answer", "runs": "1.0", "text": "It did not answer." }],
            "n_devices": 1, "rollout": null, "at": "2026-11-22T00:00:00.123Z" });
        assert_eq!(json, expected);
    }
}
