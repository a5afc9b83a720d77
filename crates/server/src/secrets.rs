//! Secrets at rest: device passwords sealed under a key of this server, and files that only its user can read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use secrecy::zeroize::Zeroize as _;
use secrecy::{ExposeSecret as _, SecretString};

/// The key's file in the data folder.
pub const KEY_FILE: &str = "secret.key";

/// An AES-256 key, bytes.
const KEY_LEN: usize = 32;
/// The only form so far: this byte, the nonce, then the password and the tag of AES-256-GCM.
const FORM: u8 = 1;

/// Why secrets cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// A file cannot be read or written.
    #[error("using {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others may read the file: whatever is in it is no secret any more.
    #[error(
        "{} may be read by others (mode {mode:04o}): give it mode 0600, and change the passwords if others use this machine",
        path.display()
    )]
    Shared {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file is no key.
    #[error(
        "{} is no key of this program: restore it from a backup, or move it away and give the passwords again",
        path.display()
    )]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// What was stored was sealed under another key, for another device, or was changed.
    #[error("a stored password cannot be opened: give the device's password again")]
    Sealed,
    /// The machine has no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// Seals device passwords under the key of this server.
pub struct Sealer {
    key: RandomizedNonceKey,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(..)")
    }
}

impl Sealer {
    /// The sealer of this data folder; at the first start its key is made.
    pub fn open_or_make(folder: &Path) -> Result<Self, SecretError> {
        let path = folder.join(KEY_FILE);
        let mut text = match read_private(&path)? {
            Some(text) => text,
            None => make_key(&path)?,
        };
        let mut key = [0; KEY_LEN];
        let decoded = hex::decode_to_slice(text.trim(), &mut key);
        text.zeroize();
        let sealer = decoded
            .ok()
            .and_then(|()| RandomizedNonceKey::new(&AES_256_GCM, &key).ok());
        key.zeroize();
        sealer
            .map(|key| Self { key })
            .ok_or(SecretError::NotAKey { path })
    }

    /// The password, sealed; only for the device with this key can it be opened again.
    pub fn seal(&self, device_key: &str, password: &SecretString) -> Result<Vec<u8>, SecretError> {
        let mut text = password.expose_secret().as_bytes().to_vec();
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(device_key.as_bytes()), &mut text)
            .map_err(|_| SecretError::Random)?;
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + text.len());
        sealed.push(FORM);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.append(&mut text);
        Ok(sealed)
    }

    /// The password that was sealed for the device with this key.
    pub fn unseal(&self, device_key: &str, sealed: &[u8]) -> Result<SecretString, SecretError> {
        let (nonce, text) = match sealed.split_first() {
            Some((&FORM, rest)) => rest.split_first_chunk::<NONCE_LEN>().ok_or(SecretError::Sealed)?,
            _ => return Err(SecretError::Sealed),
        };
        let mut text = text.to_vec();
        let opened = self
            .key
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(device_key.as_bytes()),
                &mut text,
            )
            .ok()
            .and_then(|opened| std::str::from_utf8(opened).ok())
            .map(SecretString::from);
        text.zeroize();
        opened.ok_or(SecretError::Sealed)
    }
}

/// So many random bytes of the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], SecretError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| SecretError::Random)?;
    Ok(bytes)
}

fn make_key(path: &Path) -> Result<String, SecretError> {
    let mut key = random::<KEY_LEN>()?;
    let text = hex::encode(key);
    key.zeroize();
    match write_private(path, &text, Existing::Keep) {
        // Somebody was quicker; his key is the one.
        Err(SecretError::File { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
            read_private(path)?.ok_or_else(|| SecretError::NotAKey {
                path: path.to_owned(),
            })
        }
        Err(err) => Err(err),
        Ok(()) => Ok(text),
    }
}

/// What becomes of a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It stays, and the write fails.
    Keep,
    /// It is replaced.
    Replace,
}

/// Longest file of secrets that is read, bytes; a chain of certificates fits.
const FILE_MAX_LEN: u64 = 256 * 1024;

/// The text of a file that only its owner may read; none where there is no such file.
pub(crate) fn read_private(path: &Path) -> Result<Option<String>, SecretError> {
    let failed = |source| SecretError::File {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(failed(err)),
    };
    // Looked at after opening: a file exchanged in between is the one that is judged.
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SecretError::Shared {
            path: path.to_owned(),
            mode,
        });
    }
    let mut text = String::new();
    file.take(FILE_MAX_LEN)
        .read_to_string(&mut text)
        .map_err(failed)?;
    Ok(Some(text))
}

/// Writes a file with mode 0600: whole or not at all, and durable when this returns.
pub(crate) fn write_private(path: &Path, text: &str, existing: Existing) -> Result<(), SecretError> {
    let failed = |source| SecretError::File {
        path: path.to_owned(),
        source,
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    let temporary = folder.join(format!(".{}.tmp", hex::encode(random::<8>()?)));
    let written = (|| {
        let mut file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        match existing {
            Existing::Keep => fs::hard_link(&temporary, path)?,
            Existing::Replace => fs::rename(&temporary, path)?,
        }
        File::open(folder)?.sync_all()
    })();
    if written.is_err() || existing == Existing::Keep {
        drop(fs::remove_file(&temporary));
    }
    written.map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn opened() -> (tempfile::TempDir, Sealer) {
        let folder = tempfile::tempdir().unwrap();
        let sealer = Sealer::open_or_make(folder.path()).unwrap();
        (folder, sealer)
    }

    #[test]
    fn a_sealed_password_opens_for_its_device_only() {
        let (folder, sealer) = opened();
        let password = SecretString::from("canary-zaunkönig");
        let hidden = sealer.seal("a0b1c2d3e4f5", &password).unwrap();

        let again = Sealer::open_or_make(folder.path()).unwrap();
        let opened = again.unseal("a0b1c2d3e4f5", &hidden).unwrap();
        assert_eq!(opened.expose_secret(), "canary-zaunkönig");
        assert!(matches!(
            again.unseal("a0b1c2d3e4f6", &hidden),
            Err(SecretError::Sealed)
        ));
    }

    #[test]
    fn a_sealed_password_shows_nothing_and_never_looks_the_same() {
        let (_folder, sealer) = opened();
        let password = SecretString::from("canary");
        let hidden = sealer.seal("a", &password).unwrap();
        assert!(!hidden.windows(6).any(|bytes| bytes == b"canary"));
        assert_ne!(hidden, sealer.seal("a", &password).unwrap());
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let (_folder, sealer) = opened();
        let hidden = sealer.seal("a", &SecretString::from("canary")).unwrap();
        for idx in 0..hidden.len() {
            let mut changed = hidden.clone();
            changed[idx] ^= 1;
            assert!(sealer.unseal("a", &changed).is_err(), "byte {idx}");
            assert!(sealer.unseal("a", &hidden[..idx]).is_err(), "cut at {idx}");
        }
    }

    #[test]
    fn another_key_opens_nothing() {
        let (_folder, sealer_a) = opened();
        let (_other, sealer_b) = opened();
        let hidden = sealer_a.seal("a", &SecretString::from("canary")).unwrap();
        assert!(matches!(sealer_b.unseal("a", &hidden), Err(SecretError::Sealed)));
    }

    #[test]
    fn the_key_is_private_and_a_shared_one_is_refused() {
        let (folder, _sealer) = opened();
        let path = folder.path().join(KEY_FILE);
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no temporary file stays"
        );

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let err = Sealer::open_or_make(folder.path()).unwrap_err();
        assert!(matches!(err, SecretError::Shared { mode: 0o640, .. }), "{err}");
    }

    #[test]
    fn a_damaged_key_is_never_replaced() {
        let (folder, _sealer) = opened();
        let path = folder.path().join(KEY_FILE);
        write_private(&path, "abc", Existing::Replace).unwrap();
        let err = Sealer::open_or_make(folder.path()).unwrap_err();
        assert!(matches!(err, SecretError::NotAKey { .. }), "{err}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "abc");
    }
}
