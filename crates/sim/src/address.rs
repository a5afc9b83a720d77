//! Address arithmetic: which address and which MAC the n-th simulated device has.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use anyhow::{Context, Result, bail};

/// The address `n` places after `base` (`n` = 0 is `base` itself).
///
/// # Errors
/// When the sum runs past 255.255.255.255.
pub fn nth_address(base: Ipv4Addr, n: usize) -> Result<Ipv4Addr> {
    u32::try_from(n)
        .ok()
        .and_then(|n| base.to_bits().checked_add(n))
        .map(Ipv4Addr::from_bits)
        .with_context(|| format!("no address {n} places after {base}"))
}

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The MAC that a simulated device at `address` has unless it is given one.
    ///
    /// Stable, and distinct for distinct addresses of one /8.
    /// The octets that make up an ESP32's `chipId` change first, so that neighbours differ in it.
    pub fn of_address(address: Ipv4Addr) -> Self {
        let [_, b, c, d] = address.octets();
        Self([0xA0, 0xB1, 0xC2, d, c, b])
    }

    /// The MAC of the n-th device of a batch that begins with `self`; distinct for `n` below 65,536.
    #[must_use]
    pub fn nth(self, n: usize) -> Self {
        let [low, high, ..] = n.to_le_bytes();
        let mut octets = self.0;
        octets[3] = octets[3].wrapping_add(low);
        octets[4] = octets[4].wrapping_add(high);
        Self(octets)
    }

    /// Twelve lower-case hex digits without separators, as used in events and topics.
    pub fn bare(self) -> String {
        hex::encode(self.0)
    }
}

/// `A0:B1:C2:D3:E4:F5`, as the devices print it.
impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, octet) in self.0.iter().enumerate() {
            let colon = if i == 0 { "" } else { ":" };
            write!(f, "{colon}{octet:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mac({self})")
    }
}

/// Twelve hex digits, with or without `:` or `-` between them.
impl FromStr for Mac {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits = text.replace([':', '-'], "");
        let mut octets = [0; 6];
        if hex::decode_to_slice(&digits, &mut octets).is_err() {
            bail!("{text:?} is not a MAC address (expected A0:B1:C2:D3:E4:F5)");
        }
        Ok(Self(octets))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn addresses_count_across_octets_and_do_not_wrap() {
        let base = Ipv4Addr::new(127, 0, 0, 250);
        assert_eq!(nth_address(base, 0).unwrap(), base);
        assert_eq!(nth_address(base, 10).unwrap(), Ipv4Addr::new(127, 0, 1, 4));
        nth_address(Ipv4Addr::BROADCAST, 1).unwrap_err();
    }

    #[test]
    fn macs_of_a_batch_are_distinct() {
        let base: Mac = "a0-b1-c2-d3-e4-f5".parse().unwrap();
        assert_eq!(base.to_string(), "A0:B1:C2:D3:E4:F5");
        assert_eq!(base.bare(), "a0b1c2d3e4f5");
        let batch: HashSet<Mac> = (0..2000).map(|n| base.nth(n)).collect();
        assert_eq!(batch.len(), 2000);
        "a0:b1:c2:d3:e4".parse::<Mac>().unwrap_err();
        "a0:b1:c2:d3:e4:fg".parse::<Mac>().unwrap_err();
    }
}
