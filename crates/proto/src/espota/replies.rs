//! What the device sends back while it takes the image, and how that ends.
//!
//! Acknowledgements are decimal counts without any separator, joined and split at will: they cannot be told apart and
//! are not kept. Success is that the whole reply is digits and then `OK`; any other text is the device's error.

use super::printable;

/// Bytes kept of an error text. Taste: the longest known one has 32.
const TEXT_MAX_LEN: usize = 256;

/// What the reply says so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing final yet.
    Pending,
    /// Digits and `OK`. The device closes right after it; were anything but a line end to follow, this becomes
    /// [`Verdict::Error`].
    Ok,
    /// The device's error text, complete, printable and without its line end.
    Error(String),
}

/// What the reply says after the connection ended, however it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The image was accepted.
    Ok,
    /// The device's error text, or what came of it.
    Error(String),
    /// Acknowledgements at most: what the device did is not known.
    Nothing,
}

/// Reads the device's replies, in any split.
#[derive(Debug, Clone, Default)]
pub struct Replies {
    state: State,
    /// Everything since the acknowledgements, from the first byte that is not a digit.
    text: Vec<u8>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Acknowledgements,
    /// `O`, of `OK` or of something else.
    O,
    /// `OK` and perhaps a line end.
    Ok,
    Text,
    /// The text has ended; what follows is not kept.
    Complete,
}

impl Replies {
    /// Returns a reader that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the connection.
    pub fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.feed_byte(byte);
        }
    }

    fn feed_byte(&mut self, byte: u8) {
        self.state = match (self.state, byte) {
            (State::Acknowledgements, b'0'..=b'9') | (State::Ok, b'\r' | b'\n') | (State::Complete, _) => {
                return;
            }
            (State::Acknowledgements, b'O') => State::O,
            (State::O, b'K') => State::Ok,
            _ => State::Text,
        };
        self.text.push(byte);
        let is_line = byte == b'\n' && !without_line_end(&self.text).is_empty();
        if self.text.len() == TEXT_MAX_LEN || self.state == State::Text && is_line {
            self.state = State::Complete;
        }
    }

    /// Returns what the reply says so far.
    pub fn verdict(&self) -> Verdict {
        match self.state {
            State::Acknowledgements | State::O | State::Text => Verdict::Pending,
            State::Ok => Verdict::Ok,
            State::Complete => Verdict::Error(self.error()),
        }
    }

    /// Returns what the reply says, given that no more will come.
    pub fn at_end(&self) -> Ended {
        match self.state {
            // A lone `O` may be a cut `OK`: it proves nothing.
            State::Acknowledgements | State::O => Ended::Nothing,
            State::Ok => Ended::Ok,
            State::Text | State::Complete => match self.error() {
                text if text.is_empty() => Ended::Nothing,
                text => Ended::Error(text),
            },
        }
    }

    fn error(&self) -> String {
        printable(without_line_end(&self.text), TEXT_MAX_LEN)
    }
}

fn without_line_end(text: &[u8]) -> &[u8] {
    let len = text
        .iter()
        .rposition(|byte| !matches!(byte, b'\r' | b'\n'))
        .map_or(0, |idx| idx + 1);
    &text[..len]
}

/// What an error text of the device means for the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explanation {
    /// What happened, one sentence.
    pub meaning: &'static str,
    /// What to do next, one sentence.
    pub next_step: &'static str,
}

/// Explains an error text of the device, if it is one that arduino-esp32's `Updater.cpp` prints.
///
/// In each of these cases the device goes on running what it ran before.
pub fn explain(text: &str) -> Option<Explanation> {
    let (meaning, next_step) = match text {
        "No Error" => (
            "The device ended the update without naming a reason.",
            "Look at what the device runs, then try again.",
        ),
        "Flash Write Failed" => (
            "The device could not write to its flash memory.",
            "Restart the device and try once more; if it happens again, its flash is worn out or its supply is weak.",
        ),
        "Flash Erase Failed" => (
            "The device could not erase its flash memory.",
            "Restart the device and try once more; if it happens again, its flash is worn out or its supply is weak.",
        ),
        "Flash Read Failed" => (
            "The device could not read back its flash memory.",
            "Restart the device and try once more; if it happens again, its flash is worn out or its supply is weak.",
        ),
        "Not Enough Space" => (
            "The image does not fit into the device's free slot.",
            "Build a smaller image, or flash a larger partition scheme by cable.",
        ),
        "Bad Size Given" => (
            "The device did not accept the length of the image.",
            "Check that the file is a complete application image.",
        ),
        "Stream Read Timeout" => (
            "The device waited too long for the next part of the image.",
            "Check the Wi-Fi signal at the device and try again.",
        ),
        "MD5 Check Failed" => (
            "What the device received is not what was sent.",
            "Try again; if it happens again, something on the network changes the transfer.",
        ),
        "Wrong Magic Byte" => (
            "The file is not an application image for this kind of chip's loader.",
            "Choose the application image (its first byte is 0xE9), not a merged or compressed one.",
        ),
        "Decryption error" => (
            "The device took the file for an encrypted image and could not read it: it does not begin like an \
             application image.",
            "Choose the plain application image (its first byte is 0xE9).",
        ),
        "Could Not Activate The Firmware" => (
            "The device received the whole image and refused it: wrong chip, chip revision, signature or checksum, or \
             an older version than it permits.",
            "Compare the chip of the image with that of the device, and build for the right one.",
        ),
        "Partition Could Not be Found" => (
            "The device has no second slot to write an update to.",
            "Flash a partition scheme with two application slots by cable.",
        ),
        "Bad Argument" => (
            "The device refused how the update was asked for.",
            "Try again; if it happens again, report it together with the device's Arduino core version.",
        ),
        "Aborted" => (
            "The device broke the update off.",
            "Restart the device and try again.",
        ),
        "UNKNOWN" => (
            "The device failed for a reason it has no name for.",
            "Restart the device and try again; its serial output may say more.",
        ),
        _ => return None,
    };
    Some(Explanation { meaning, next_step })
}
