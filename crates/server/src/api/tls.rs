//! TLS for the API: a certificate of its owner's, or one that is made at the first start and kept.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use secrecy::zeroize::Zeroize as _;

use crate::secrets::{Existing, SecretError, read_private, write_private};

/// The generated certificate in the data folder.
pub(crate) const CERTIFICATE_FILE: &str = "tls-certificate.pem";
/// Its key.
pub(crate) const KEY_FILE: &str = "tls-key.pem";

/// Which certificate the server shows.
#[derive(Clone, Debug)]
pub enum Certificate {
    /// Its owner's.
    Own {
        /// The chain, PEM, the server's own first.
        chain: PathBuf,
        /// The key, PEM, readable by its owner only.
        key: PathBuf,
    },
    /// One that is made at the first start for these names and addresses, and kept in the data folder.
    Generated {
        /// The data folder.
        folder: PathBuf,
        /// Names and addresses; `localhost`, `127.0.0.1` and `::1` are added.
        names: Vec<String>,
    },
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be used.
    #[error("using a file for TLS")]
    Secret(#[from] SecretError),
    /// A file is missing.
    #[error("{} is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file is no PEM of the kind that is needed.
    #[error("reading {} from {}", what, path.display())]
    Pem {
        /// The kind.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::pki_types::pem::Error,
    },
    /// There is no certificate in the file.
    #[error("there is no certificate in {}", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A certificate for these names cannot be made.
    #[error("making a certificate")]
    Generate(#[from] rcgen::Error),
    /// Key and certificate do not fit, or the library refuses them.
    #[error("setting up TLS")]
    Config(#[from] rustls::Error),
    /// The certificates of the client CA cannot be used.
    #[error("setting up client certificates")]
    ClientCa(#[from] rustls::server::VerifierBuilderError),
}

/// What the server needs for TLS; with `client_ca`, only clients with a certificate of that CA get in.
pub fn config(
    certificate: &Certificate,
    client_ca: Option<&Path>,
) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let (chain, key) = match certificate {
        Certificate::Own { chain, key } => {
            let chain_text = std::fs::read_to_string(chain).map_err(|source| SecretError::File {
                path: chain.clone(),
                source,
            })?;
            let key_text = read_private(key)?.ok_or_else(|| TlsError::Missing { path: key.clone() })?;
            (certificates(&chain_text, chain)?, private_key(key_text, key)?)
        }
        Certificate::Generated { folder, names } => generated(folder, names)?,
    };
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|source| SecretError::File {
                path: path.to_owned(),
                source,
            })?;
            let mut roots = RootCertStore::empty();
            for root in certificates(&text, path)? {
                roots.add(root)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

type ChainAndKey = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn generated(folder: &Path, names: &[String]) -> Result<ChainAndKey, TlsError> {
    let certificate_path = folder.join(CERTIFICATE_FILE);
    let key_path = folder.join(KEY_FILE);
    // The certificate is written last: where it is, its key is.
    if let (Some(certificate), Some(key)) = (read_private(&certificate_path)?, read_private(&key_path)?) {
        return Ok((
            certificates(&certificate, &certificate_path)?,
            private_key(key, &key_path)?,
        ));
    }
    let mut all_names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    for name in names {
        // As it stands in a Host header an IPv6 address has brackets; in a certificate it has none.
        let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = name.parse::<IpAddr>().map_or(name, |address| address.to_string());
        if !all_names.contains(&name) {
            all_names.push(name);
        }
    }
    let made = rcgen::generate_simple_self_signed(all_names)?;
    let mut key = made.signing_key.serialize_pem();
    let written = write_private(&key_path, &key, Existing::Replace)
        .and_then(|()| write_private(&certificate_path, &made.cert.pem(), Existing::Replace));
    if let Err(err) = written {
        key.zeroize();
        return Err(err.into());
    }
    Ok((vec![made.cert.der().clone()], private_key(key, &key_path)?))
}

fn certificates(text: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Pem {
            what: "a certificate",
            path: path.to_owned(),
            source,
        })?;
    if chain.is_empty() {
        return Err(TlsError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(chain)
}

fn private_key(mut text: String, path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|source| TlsError::Pem {
        what: "a private key",
        path: path.to_owned(),
        source,
    });
    text.zeroize();
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_certificate_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["reflash.example".to_owned(), "[fd00::1]".to_owned()];
        let (first, _) = generated(folder.path(), &names).unwrap();
        let (second, _) = generated(folder.path(), &names).unwrap();
        assert_eq!(first, second);
        for file in [CERTIFICATE_FILE, KEY_FILE] {
            use std::os::unix::fs::MetadataExt as _;
            let metadata = std::fs::metadata(folder.path().join(file)).unwrap();
            assert_eq!(metadata.mode() & 0o777, 0o600, "{file}");
        }
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        generated(folder.path(), &[]).unwrap();
        let own = Certificate::Own {
            chain: folder.path().join(CERTIFICATE_FILE),
            key: folder.path().join(KEY_FILE),
        };
        config(&own, None).unwrap();
        std::fs::set_permissions(
            folder.path().join(KEY_FILE),
            std::fs::Permissions::from_mode(0o644),
        )
        .unwrap();
        let err = config(&own, None).unwrap_err();
        assert!(
            matches!(err, TlsError::Secret(SecretError::Shared { .. })),
            "{err}"
        );
    }
}
