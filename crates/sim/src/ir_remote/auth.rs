//! The device's side of the password exchange (PROTOCOLS.md B2).

use md5::{Digest as _, Md5};
use sha2::Sha256;

/// PBKDF2 rounds of Arduino core 3.3.1 and later (PROTOCOLS.md B2).
const ROUNDS: u32 = 10_000;

/// Which exchange a nonce began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// 32 hex digits.
    Md5,
    /// 64 hex digits; the device keeps the password's SHA-256.
    Pbkdf2,
    /// 64 hex digits; the device keeps the password's MD5.
    Pbkdf2Md5,
}

impl Scheme {
    /// Length of nonce, client nonce and response, characters.
    pub(super) fn len(self) -> usize {
        match self {
            Self::Md5 => 32,
            Self::Pbkdf2 | Self::Pbkdf2Md5 => 64,
        }
    }

    /// For events.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Pbkdf2 => "pbkdf2",
            Self::Pbkdf2Md5 => "pbkdf2-md5",
        }
    }

    /// The only right response.
    pub(super) fn response(self, password: &str, nonce: &str, cnonce: &str) -> String {
        match self {
            Self::Md5 => md5_hex(format!("{}:{nonce}:{cnonce}", md5_hex(password))),
            Self::Pbkdf2 => stretched(&sha256_hex(password), nonce, cnonce),
            Self::Pbkdf2Md5 => stretched(&md5_hex(password), nonce, cnonce),
        }
    }
}

fn stretched(stored: &str, nonce: &str, cnonce: &str) -> String {
    let salt = format!("{nonce}:{cnonce}");
    let mut key = [0; 32];
    pbkdf2::pbkdf2_hmac::<Sha256>(stored.as_bytes(), salt.as_bytes(), ROUNDS, &mut key);
    sha256_hex(format!("{}:{salt}", hex::encode(key)))
}

pub(super) fn md5_hex(text: impl AsRef<[u8]>) -> String {
    hex::encode(Md5::digest(text))
}

pub(super) fn sha256_hex(text: impl AsRef<[u8]>) -> String {
    hex::encode(Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWORD: &str = "ir_remote_update";

    #[test]
    fn md5_response_is_that_of_the_vector() {
        let (nonce, cnonce) = (
            "25f9e794323b453885f5181f1b624d0b",
            "fe5fc33d0176d8cbc97c5d7b78be27c2",
        );
        assert_eq!(
            Scheme::Md5.response(PASSWORD, nonce, cnonce),
            "a0028a902039231648b2aa198ffe5561"
        );
    }

    #[test]
    fn pbkdf2_responses_are_those_of_the_vectors() {
        let nonce = "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225";
        let cnonce = "edbbdee30f7b0439db08e5395a9079567b80d3e3c613db5910d18925e7d72d9f";
        assert_eq!(
            Scheme::Pbkdf2.response(PASSWORD, nonce, cnonce),
            "56f8f1c47456e34eb689b14d01c8976b9600b8c97b2a4012acd0011806080d0e"
        );
        assert_eq!(
            Scheme::Pbkdf2Md5.response(PASSWORD, nonce, cnonce),
            "58ec9bf6c60c80fb2aeae22338a709986579e75c82bc47babb4a7487adb2efb7"
        );
        assert_eq!(
            Scheme::Pbkdf2.response("a-real-password", &"ab".repeat(32), &"cd".repeat(32)),
            "4d63ba8b1efa8949a0c5caefe7e8bc77db582e5531bdf2667c663394b4551b93"
        );
    }
}
