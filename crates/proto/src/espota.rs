//! The host's side of espota (ArduinoOTA): invitation, authentication and the device's replies to an image.
//!
//! The host invites by UDP and the device, once satisfied, connects *back* to the host by TCP and is sent the image.
//! Nothing here authenticates the device or ties the image to the password: an attacker on the path can swap both.
//! That is the protocol, not this code; what an update did is therefore judged by looking at the device afterwards.
//!
//! Facts are from arduino-esp32 (`libraries/ArduinoOTA`, `libraries/Update`, `tools/espota.py`), see
//! `docs/families/arduino.md`.

use std::time::Duration;

pub mod authentication;
pub mod handshake;
pub mod replies;

#[cfg(test)]
mod tests;

use authentication::Nonce;

/// UDP port of ArduinoOTA on the device (arduino-esp32 `ArduinoOTA.cpp`, default of `setPort`).
pub const PORT: u16 = 3232;

/// Bytes per chunk when the host stops after each and waits for any byte back (arduino-esp32 `tools/espota.py`).
///
/// The device does not require it: its real receive loop, compiled on a host, took a stream sent ahead.
pub const CHUNK_BYTES: usize = 1024;

/// The first byte of the image must reach the device this soon after it connected.
///
/// The device gives up after about 1.07 s (measured on its receive loop, compiled on a host: one `_ota_timeout` of
/// 1000 ms without a byte).
pub const FIRST_BYTE_WITHIN: Duration = Duration::from_secs(1);

/// The host must never pause longer than this in the middle of an image.
///
/// The device repeats its last count three times, 1 s apart, and drops the connection at about 4.3 s (measured, as
/// for [`FIRST_BYTE_WITHIN`]).
pub const PAUSE_MAX: Duration = Duration::from_secs(4);

/// How long the device keeps an interrupted update open after the host fell silent, rounded up.
///
/// Measured at 4.3 s, as for [`PAUSE_MAX`]; a host that takes over must wait at least this long.
pub const DEVICE_STALL: Duration = Duration::from_secs(5);

/// How long the host waits for any progress before it gives a transfer up.
///
/// Guess: three times [`DEVICE_STALL`], and more than the 10 s per chunk of `tools/espota.py`; to be measured on a
/// chip with poor Wi-Fi.
pub const STALL_LIMIT: Duration = Duration::from_secs(15);

/// How long the host waits for the device to connect back after `OK` (arduino-esp32 `tools/espota.py`, accept
/// timeout; the device tries once, for 3 s).
pub const CALL_BACK_WAIT: Duration = Duration::from_secs(10);

/// Datagrams longer than this are not parsed, bytes.
///
/// Taste: the longest legal one is `AUTH` with a 64-digit nonce, 69 bytes.
pub const ANSWER_MAX_LEN: usize = 128;

/// The command of an invitation to write the application: `U_FLASH` (arduino-esp32 `Update.h`).
const COMMAND_FLASH: u8 = 0;

/// What the host offers: one application image, to be fetched at a port of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invitation {
    /// TCP port the device is to connect to, at the address this datagram comes from.
    pub callback_port: u16,
    /// Length of the image, bytes; a device whose slot is smaller accepts, then falls silent.
    pub len_bytes: u64,
    /// MD5 of the image, which the device compares at the end.
    pub md5: [u8; 16],
}

impl Invitation {
    /// Returns the datagram: `0 <port> <length> <md5 in hex>` and a line feed.
    pub fn encode(&self) -> Vec<u8> {
        let Self {
            callback_port,
            len_bytes,
            md5,
        } = self;
        format!(
            "{COMMAND_FLASH} {callback_port} {len_bytes} {}\n",
            hex::encode(md5)
        )
        .into_bytes()
    }
}

/// A datagram of the device, in answer to an invitation or to an authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// `OK`: the device will now connect back.
    Ok,
    /// `AUTH <nonce>`: the device asks for the password.
    Auth(Nonce),
    /// `Authentication Failed`: the device refused our answer and is idle again.
    AuthenticationFailed,
    /// `AUTH` followed by something that is not 32 or 64 hex digits.
    BadNonce {
        /// Length of what followed `AUTH`, bytes.
        len: usize,
    },
    /// Anything else: printable, at most [`ANSWER_MAX_LEN`] bytes of it.
    Other(String),
}

impl Answer {
    /// Reads one datagram; white space at its end (devices send none) is ignored.
    pub fn parse(datagram: &[u8]) -> Self {
        let bytes = datagram.trim_ascii_end();
        if datagram.len() > ANSWER_MAX_LEN {
            return Self::Other(printable(bytes, ANSWER_MAX_LEN));
        }
        match bytes {
            b"OK" => return Self::Ok,
            b"Authentication Failed" => return Self::AuthenticationFailed,
            b"AUTH" => return Self::BadNonce { len: 0 },
            _ => {}
        }
        let Some(nonce) = bytes.strip_prefix(b"AUTH ") else {
            return Self::Other(printable(bytes, ANSWER_MAX_LEN));
        };
        match Nonce::parse(nonce) {
            Some(nonce) => Self::Auth(nonce),
            None => Self::BadNonce { len: nonce.len() },
        }
    }
}

/// Returns the first `max_len` bytes of a foreign text such that it can be shown: printable ASCII stays, a backslash
/// is doubled, every other byte becomes `\xNN`.
pub(crate) fn printable(bytes: &[u8], max_len: usize) -> String {
    use std::fmt::Write as _;

    let mut text = String::new();
    for &byte in bytes.iter().take(max_len) {
        match byte {
            b'\\' => text.push_str(r"\\"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => write!(text, r"\x{byte:02x}").expect("writing to a String cannot fail"),
        }
    }
    text
}
