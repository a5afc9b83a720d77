//! What may follow an image: the signature trailers of Secure Boot and of Arduino.

use sha2::{Digest, Sha256, Sha384};

use super::{Scheme, Signature, slice_at, u32_at};

/// Length of the sector with the Secure Boot V2 blocks, and what it is aligned to, bytes (espsecure `SECTOR_SIZE`).
const SECTOR_LEN: usize = 4096;
/// Length of one Secure Boot V2 block, bytes (espsecure `SIG_BLOCK_SIZE`).
const BLOCK_LEN: usize = 1216;
/// Most blocks in a sector (espsecure `SIG_BLOCK_MAX_COUNT`).
const MAX_BLOCKS: u8 = 3;
/// First byte of a block (espsecure `SIG_BLOCK_MAGIC`).
const BLOCK_MAGIC: u8 = 0xE7;
/// Where a block's CRC-32 stands; it covers everything before (espsecure `validate_signature_block`).
const BLOCK_CRC_AT: usize = 1196;
/// Length of a Secure Boot V1 trailer, bytes: a version word of 0 and r and s of ECDSA-P256 (espsecure).
const V1_LEN: usize = 68;
/// Length of Arduino's trailer, bytes (arduino-esp32 `tools/bin_signing.py`).
const ARDUINO_LEN: usize = 512;

/// The signature behind an image that ends at `end`, `None` if what is there has the form of none.
///
/// `digest` has been fed everything before `end`.
pub(super) fn recognise(bytes: &[u8], end: usize, digest: Sha256) -> Option<Signature> {
    let behind = bytes.get(end..)?;
    match behind.len() {
        V1_LEN => is_v1(behind).then_some(Signature::SecureBootV1),
        ARDUINO_LEN => is_arduino(behind).then_some(Signature::Arduino512),
        _ => read_v2(bytes, end, digest),
    }
}

fn read_v2(bytes: &[u8], end: usize, mut digest: Sha256) -> Option<Signature> {
    let sector_at = end.checked_next_multiple_of(SECTOR_LEN)?;
    let padding = bytes.get(end..sector_at)?;
    let mut sector = bytes.get(sector_at..)?;
    if sector.len() != SECTOR_LEN || !padding.iter().all(|byte| *byte == 0xFF) {
        return None;
    }
    digest.update(padding);
    let sha256 = digest.finalize();
    let mut sha384 = None;
    let (mut blocks, mut first, mut digest_ok, mut crc_ok) = (0, None, true, true);
    while blocks < MAX_BLOCKS && sector.first() == Some(&BLOCK_MAGIC) {
        let (block, rest) = sector.split_at_checked(BLOCK_LEN)?;
        let scheme = scheme(block)?;
        digest_ok &= match scheme {
            Scheme::Rsa3072 | Scheme::EcdsaP192 | Scheme::EcdsaP256 => {
                slice_at(block, 4, 32)? == sha256.as_slice()
            }
            Scheme::EcdsaP384 => {
                let sha384 = sha384.get_or_insert_with(|| Sha384::digest(&bytes[..sector_at]));
                slice_at(block, 4, 48)? == sha384.as_slice()
            }
        };
        crc_ok &= u32_at(block, BLOCK_CRC_AT)? == crc32fast::hash(block.get(..BLOCK_CRC_AT)?);
        first = first.or(Some(scheme));
        blocks += 1;
        sector = rest;
    }
    // The rest of the sector is erased flash; anything else would be unknown bytes again.
    let scheme = first.filter(|_| sector.iter().all(|byte| *byte == 0xFF))?;
    Some(Signature::SecureBootV2 {
        blocks,
        scheme,
        digest_ok,
        crc_ok,
    })
}

/// How a block is signed, `None` for an unknown version or curve (espsecure `SIG_BLOCK_VERSION_*`,
/// `ECDSA_SHA_*`, `CURVE_ID_*`, `generate_ecdsa_signature_block`).
fn scheme(block: &[u8]) -> Option<Scheme> {
    match (*block.get(1)?, *block.get(2)?) {
        (2, _) => Some(Scheme::Rsa3072),
        (3, 0) => match block.get(36)? {
            1 => Some(Scheme::EcdsaP192),
            2 => Some(Scheme::EcdsaP256),
            _ => None,
        },
        (3, 1) => (*block.get(52)? == 3).then_some(Scheme::EcdsaP384),
        _ => None,
    }
}

fn is_v1(trailer: &[u8]) -> bool {
    trailer
        .split_at_checked(4)
        .is_some_and(|(version, r_and_s)| version == [0; 4] && looks_signed(r_and_s))
}

/// Whether 512 bytes can be a signature and zeros: ECDSA in DER, or RSA of 2048, 3072 or 4096 bits.
fn is_arduino(trailer: &[u8]) -> bool {
    let signed = trailer
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    match trailer {
        // SEQUENCE { INTEGER r, INTEGER s }: its length says where the zeros start.
        [0x30, len, 0x02, ..] if (8..=0x7F).contains(len) && signed <= usize::from(*len) + 2 => {
            trailer.get(..usize::from(*len) + 2).is_some_and(looks_signed)
        }
        // An RSA signature may itself end in zeros: two are seen once in 65,536.
        _ => [256, 384, 512].into_iter().any(|len: usize| {
            (len - 4..=len).contains(&signed) && trailer.get(..len).is_some_and(looks_signed)
        }),
    }
}

/// Whether the bytes can be random: of n random bytes about 256 * (1 - exp(-n / 256)) values differ, which is
/// 57 of 64 and 162 of 256; half of it leaves room for chance, and none for padding or most text.
fn looks_signed(bytes: &[u8]) -> bool {
    let mut seen = [false; 256];
    for byte in bytes {
        seen[usize::from(*byte)] = true;
    }
    let n_different = seen.iter().filter(|seen| **seen).count();
    n_different >= if bytes.len() < 256 { bytes.len() / 2 } else { 100 }
}
