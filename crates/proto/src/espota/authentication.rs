//! How a password is proven to a device: three forms of challenge and response.
//!
//! One answer given to an impostor is an offline dictionary test of the password.
//! So answers are counted, bounded, and given to enrolled devices only; see [`super::handshake`].

use std::fmt;

use md5::Md5;
use sha2::{Digest, Sha256};

/// Rounds of PBKDF2 (arduino-esp32 `tools/espota.py` since 3.3.1).
const PBKDF2_ROUNDS: u32 = 10_000;

/// The device's challenge, as it came: the ASCII digits are what is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nonce {
    /// 32 hex digits: arduino-esp32 up to 3.3.0.
    Md5(HexDigits<32>),
    /// 64 hex digits: arduino-esp32 since 3.3.1.
    Pbkdf2(HexDigits<64>),
}

impl Nonce {
    /// Reads a nonce; `None` if it is not exactly 32 or 64 hex digits.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        HexDigits::parse(bytes)
            .map(Self::Md5)
            .or_else(|| HexDigits::parse(bytes).map(Self::Pbkdf2))
    }

    /// Returns the hex digits as they came.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Md5(digits) => digits.as_str(),
            Self::Pbkdf2(digits) => digits.as_str(),
        }
    }
}

/// `N` hex digits, upper and lower case as they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HexDigits<const N: usize>([u8; N]);

impl<const N: usize> HexDigits<N> {
    /// Reads exactly `N` hex digits.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let digits: [u8; N] = bytes.try_into().ok()?;
        digits.iter().all(u8::is_ascii_hexdigit).then_some(Self(digits))
    }

    /// Returns the digits.
    #[expect(clippy::missing_panics_doc, reason = "checked on the only way in")]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hex digits are ASCII")
    }
}

/// How an answer is computed.
/// The form that worked for a device is worth remembering: it is then tried first, and fewer answers are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The answer to a 32-digit nonce.
    Md5,
    /// The answer to a 64-digit nonce by a device that stores the SHA-256 of its password (the usual case).
    Pbkdf2Sha256,
    /// The answer to a 64-digit nonce by a device that stores the MD5 of its password: a sketch with
    /// `setPasswordHash(<md5>)`.
    Pbkdf2Md5,
}

impl Form {
    /// Every form.
    pub const ALL: [Self; 3] = [Self::Md5, Self::Pbkdf2Sha256, Self::Pbkdf2Md5];

    /// Returns the name under which the form is remembered.
    pub fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Pbkdf2Sha256 => "pbkdf2-sha256",
            Self::Pbkdf2Md5 => "pbkdf2-md5",
        }
    }

    /// Returns the form of this name, if there is one.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.name() == name)
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Returns the datagram that answers `nonce`: `200 <cnonce> <response>` and a line feed.
///
/// `cnonce` is the host's own nonce, random, as many hex digits as the device's: to another length the device is
/// silent.
/// `None` if the form does not belong to the nonce: a 64-digit one is never answered with MD5.
pub fn answer(form: Form, password: &str, nonce: &Nonce, cnonce: &str) -> Option<String> {
    let password = password.as_bytes();
    let response = match (form, nonce) {
        (Form::Md5, Nonce::Md5(_)) => {
            let stored = md5_hex(password);
            md5_hex(format!("{stored}:{}:{cnonce}", nonce.as_str()).as_bytes())
        }
        (Form::Pbkdf2Sha256, Nonce::Pbkdf2(_)) => respond_pbkdf2(&sha256_hex(password), nonce, cnonce),
        (Form::Pbkdf2Md5, Nonce::Pbkdf2(_)) => respond_pbkdf2(&md5_hex(password), nonce, cnonce),
        (Form::Md5, Nonce::Pbkdf2(_)) | (Form::Pbkdf2Sha256 | Form::Pbkdf2Md5, Nonce::Md5(_)) => return None,
    };
    Some(format!("200 {cnonce} {response}\n"))
}

/// The stored hash goes in as its ASCII hex digits, and so does the derived key.
fn respond_pbkdf2(stored: &str, nonce: &Nonce, cnonce: &str) -> String {
    let salt = format!("{}:{cnonce}", nonce.as_str());
    let key: [u8; 32] =
        pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(stored.as_bytes(), salt.as_bytes(), PBKDF2_ROUNDS);
    sha256_hex(format!("{}:{salt}", hex::encode(key)).as_bytes())
}

fn md5_hex(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
