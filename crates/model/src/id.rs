//! Names of things: families, devices, jobs, and the digests that name images.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// The short name of a device family, such as `ir-remote`: lower case, stable, used on the command line and in the journal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FamilyId(String);

impl FamilyId {
    /// The id with this name.
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FamilyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How far a device's identity can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strength {
    /// Read from the device's hardware: a MAC address or a serial number.
    Hardware,
    /// Only an address or a host name: another device could stand there tomorrow.
    Weak,
}

/// Which device this is: its family and what its hardware calls itself.
///
/// Never an address, except where the identity is [`Strength::Weak`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceId {
    /// The family that read the identity.
    pub family: FamilyId,
    /// The identity as its family writes it: for a MAC address, twelve lower-case hexadecimal digits.
    pub hardware: String,
    /// How far it can be trusted.
    pub strength: Strength,
}

impl DeviceId {
    /// An identity read from hardware.
    pub fn from_hardware(family: &FamilyId, hardware: impl Into<String>) -> Self {
        Self {
            family: family.clone(),
            hardware: hardware.into(),
            strength: Strength::Hardware,
        }
    }

    /// An identity that is only an address or a name.
    pub fn weak(family: &FamilyId, hardware: impl Into<String>) -> Self {
        Self {
            family: family.clone(),
            hardware: hardware.into(),
            strength: Strength::Weak,
        }
    }

    /// Its MAC address as twelve lower-case hexadecimal digits, where its identity is one.
    pub fn mac(&self) -> Option<&str> {
        let is_mac = self.hardware.len() == 12
            && self
                .hardware
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (self.strength == Strength::Hardware && is_mac).then_some(self.hardware.as_str())
    }

    /// The six bytes of its MAC address, where its identity is one.
    pub fn mac_bytes(&self) -> Option<[u8; 6]> {
        let mut bytes = [0; 6];
        hex::decode_to_slice(self.mac()?, &mut bytes).ok()?;
        Some(bytes)
    }

    /// Its name in routes, topics and file names: letters, digits, `-` and `_` only, and no two identities share one.
    ///
    /// The MAC address where the identity is one; else the family, one dash (two where the identity is weak) and the identity,
    /// in which a dot becomes `-` and everything else `_` and its two hexadecimal digits.
    pub fn key(&self) -> String {
        if let Some(mac) = self.mac() {
            return mac.to_owned();
        }
        let mut key = self.family.as_str().to_owned();
        key += match self.strength {
            Strength::Hardware => "-",
            Strength::Weak => "--",
        };
        for byte in self.hardware.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => key.push(char::from(byte)),
                b'.' => key.push('-'),
                other => {
                    key.push('_');
                    key += &hex::encode([other]);
                }
            }
        }
        key
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.family, self.hardware)
    }
}

/// The number of a job in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub i64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The number of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RolloutId(pub i64);

impl fmt::Display for RolloutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The SHA-256 of an image's bytes: the only name of an artifact.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Its first eight hexadecimal digits, for people.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({})", self.short())
    }
}

/// A text that is not 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 is 64 hexadecimal digits")]
pub struct NotADigest;

impl FromStr for Sha256 {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).map_err(|_| NotADigest)?;
        Ok(Self(digest))
    }
}

impl Serialize for Sha256 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The MD5 of an image's bytes: what `ArduinoOTA` compares at the end of a transfer, never an identity.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Md5([u8; 16]);

impl Md5 {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(md5::Md5::digest(bytes).into())
    }

    /// Its sixteen bytes.
    pub fn bytes(&self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for Md5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Md5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Md5({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_plain_and_no_two_identities_share_one() {
        let ir = FamilyId::new("ir-remote");
        let keys = [
            (DeviceId::from_hardware(&ir, "a0b1c2d3e4f5"), "a0b1c2d3e4f5"),
            (DeviceId::weak(&ir, "a0b1c2d3e4f5"), "ir-remote--a0b1c2d3e4f5"),
            (DeviceId::from_hardware(&ir, "12345"), "ir-remote-12345"),
            (DeviceId::weak(&ir, "192.168.1.60"), "ir-remote--192-168-1-60"),
            (DeviceId::weak(&ir, "192-168.1.60"), "ir-remote--192_2d168-1-60"),
            (
                DeviceId::weak(&ir, "a/+#_\u{e9}"),
                "ir-remote--a_2f_2b_23_5f_c3_a9",
            ),
        ];
        for (id, key) in keys {
            assert_eq!(id.key(), key);
        }
    }
}
