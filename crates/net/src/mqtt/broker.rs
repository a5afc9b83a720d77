//! The owner's broker, and how to connect to it.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{ConnectReturnCode, ConnectionError, MqttOptions, TlsConfiguration, TlsError, Transport};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

/// Longest packet that is read at all, bytes. Longer than a payload that is handed on, or one retained message of a
/// stranger would end every connection anew. Guess: no status topic holds more.
const PACKET_MAX_LEN: usize = 1024 * 1024;
/// Longest packet that is sent, bytes: a message of the longest payload, and its topic (at most 64 KiB, MQTT 3.1.1).
const OUTGOING_MAX_LEN: usize = 2 * 64 * 1024 + 16;
/// How often the broker is asked whether it is there, seconds. Guess: a dead broker is noticed within a minute.
const KEEP_ALIVE_S: u16 = 30;
/// Ports of MQTT without and with TLS (IANA).
const PORT: u16 = 1883;
const TLS_PORT: u16 = 8883;
/// How long connecting may take, handshakes included. Guess: a name under `.local` takes up to 8 s.
pub const CONNECT_WAIT: Duration = Duration::from_secs(20);

/// An MQTT broker, as its owner configured it.
#[derive(Clone)]
pub struct Broker {
    /// `mqtt://host[:port]` or `mqtts://host[:port]`, without user name and password.
    pub url: Url,
    /// The user name.
    pub username: Option<String>,
    /// The password.
    pub password: Option<SecretString>,
    /// What to call ourselves; must be unique at the broker, so none is better: one is made up.
    pub client_id: Option<String>,
    /// The certificate authorities to believe, a file in PEM; none: those of the system.
    pub ca: Option<PathBuf>,
    /// Our certificate and those between it and its authority, and its key, two files in PEM; none: we show none.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// What stands before every topic, as `garden/`, where a broker passes on another's messages; empty: nothing.
    pub prefix: String,
}

/// Why there is no connection to a broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Its address cannot be used.
    #[error("the broker's address {what}; write it as mqtt://host:1883 or mqtts://host:8883")]
    Address {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The authorities, or our certificate or its key, cannot be read.
    #[error("reading {what} from {}", path.display())]
    File {
        /// What is in it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// TLS cannot be spoken, or the broker's certificate is not believed.
    #[error("speaking TLS with the broker")]
    Tls(#[source] Box<ConnectionError>),
    /// The broker does not let us in.
    #[error("the broker refuses us: {why}")]
    Refused {
        /// Its reason.
        why: &'static str,
    },
    /// Nobody answers there, or the connection broke.
    #[error("the connection to the broker failed")]
    Connection(#[source] Box<ConnectionError>),
    /// It took too long to connect.
    #[error("the broker did not answer within {} s", CONNECT_WAIT.as_secs())]
    TimedOut,
    /// It does not say that it has taken what was sent to it.
    #[error("the broker does not confirm what it is sent")]
    NotConfirmed,
}

impl Broker {
    /// A broker at this address; the rest as usual.
    pub fn at(url: &str) -> Result<Self, BrokerError> {
        // Its text might hold a password, so it is not repeated.
        let url = Url::parse(url).map_err(|_| BrokerError::Address { what: "is none" })?;
        let broker = Self {
            url,
            username: None,
            password: None,
            client_id: None,
            ca: None,
            certificate: None,
            prefix: String::new(),
        };
        broker.place()?;
        Ok(broker)
    }

    /// Host, port, and whether TLS is wanted.
    fn place(&self) -> Result<(String, u16, bool), BrokerError> {
        let what = |what| BrokerError::Address { what };
        let tls = match self.url.scheme() {
            "mqtt" => false,
            "mqtts" => true,
            _ => return Err(what("begins neither with mqtt:// nor with mqtts://")),
        };
        if !self.url.username().is_empty() || self.url.password().is_some() {
            return Err(what(
                "holds a user name or password, which have places of their own",
            ));
        }
        let host = self
            .url
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or(what("names no host"))?;
        let port = self.url.port().unwrap_or(if tls { TLS_PORT } else { PORT });
        Ok((host.trim_matches(['[', ']']).to_owned(), port, tls))
    }

    fn tls(&self) -> Result<TlsConfiguration, BrokerError> {
        let certificate = match &self.certificate {
            Some((certificate, key)) => Some((
                read("our certificate for the broker", certificate)?,
                read("the key of our certificate for the broker", key)?,
            )),
            None => None,
        };
        let system = || TlsConfiguration::try_default_rustls().map_err(unusable);
        match (&self.ca, certificate) {
            (Some(path), client_auth) => Ok(TlsConfiguration::Simple {
                ca: read("the broker's certificate authorities", path)?,
                alpn: None,
                client_auth,
            }),
            (None, None) => system(),
            (None, Some((certificate, key))) => match system()? {
                TlsConfiguration::Rustls(config) => {
                    let mut config = ClientConfig::clone(&config);
                    config.client_auth_cert_resolver =
                        shown(&certificate, &key, &config).map_err(unusable)?;
                    Ok(TlsConfiguration::Rustls(Arc::new(config)))
                }
                // It is made of nothing else.
                other @ TlsConfiguration::Simple { .. } => Ok(other),
            },
        }
    }

    /// How to connect with it, as the MQTT client wants it.
    pub fn options(&self) -> Result<MqttOptions, BrokerError> {
        let (host, port, tls) = self.place()?;
        let client_id = self.client_id.clone().unwrap_or_else(made_up_client_id);
        let mut options = MqttOptions::new(client_id, (host.clone(), port));
        options.set_keep_alive(KEEP_ALIVE_S);
        options.set_clean_session(true);
        options.set_max_packet_size(PACKET_MAX_LEN, OUTGOING_MAX_LEN);
        match (&self.username, &self.password) {
            (Some(username), Some(password)) => {
                options.set_credentials(username, password.expose_secret().to_owned());
            }
            (Some(username), None) => {
                options.set_username(username);
            }
            (None, _) => {}
        }
        options.set_socket_connector(move |_, _| {
            let host = host.clone();
            async move { crate::connect_service(&host, port).await }
        });
        if tls {
            // Done already in a program that speaks TLS elsewhere.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            options.set_transport(Transport::tls_with_config(self.tls()?));
        }
        Ok(options)
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, BrokerError> {
    std::fs::read(path).map_err(|source| BrokerError::File {
        what,
        path: path.to_owned(),
        source,
    })
}

fn unusable(error: TlsError) -> BrokerError {
    BrokerError::Tls(Box::new(ConnectionError::Tls(error)))
}

/// What is shown to a broker that wants to know who we are.
fn shown(certificate: &[u8], key: &[u8], config: &ClientConfig) -> Result<Arc<SingleCertAndKey>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key)?;
    let certified = CertifiedKey::from_der(chain, key, config.crypto_provider())?;
    Ok(Arc::new(SingleCertAndKey::from(certified)))
}

/// Two of the same id throw each other out for ever, so no two processes have the same.
fn made_up_client_id() -> String {
    format!("reflash-{:016x}", RandomState::new().hash_one(std::process::id()))
}

impl fmt::Debug for Broker {
    /// Without what might be secret: the address may hold a password that nobody looked at yet.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("host", &self.url.host_str())
            .field("port", &self.url.port())
            .finish_non_exhaustive()
    }
}

impl From<ConnectionError> for BrokerError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ConnectionRefused(code) => BrokerError::Refused {
                why: match code {
                    ConnectReturnCode::BadUserNamePassword => "wrong user name or password",
                    ConnectReturnCode::NotAuthorized => "not authorised; check user name and password",
                    ConnectReturnCode::BadClientId => "it does not take our client id",
                    ConnectReturnCode::ServiceUnavailable => "it is not available now",
                    ConnectReturnCode::RefusedProtocolVersion => "it does not speak MQTT 3.1.1",
                    ConnectReturnCode::Success => "it says neither yes nor no",
                },
            },
            ConnectionError::Tls(_) => BrokerError::Tls(Box::new(error)),
            _ => BrokerError::Connection(Box::new(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, expected: Option<(&str, u16, bool)>) {
        let place = Broker::at(url).and_then(|broker| broker.place()).ok();
        let expected = expected.map(|(host, port, tls)| (host.to_owned(), port, tls));
        assert_eq!(place, expected, "{url}");
    }

    #[test]
    fn an_address_names_host_port_and_whether_it_is_secret() {
        check("mqtt://127.0.0.1", Some(("127.0.0.1", 1883, false)));
        check("mqtts://broker.local", Some(("broker.local", 8883, true)));
        check("mqtt://[fd12::1]:1884/", Some(("fd12::1", 1884, false)));
        for url in [
            "",
            "broker",
            "http://broker",
            "mqtt:///topic",
            "mqtt://u:p@broker",
            "mqtt://u@broker",
        ] {
            check(url, None);
        }
    }

    #[test]
    fn a_password_in_the_address_is_repeated_nowhere() {
        let error = Broker::at("mqtt://user:canary@broker")
            .err()
            .map(|error| format!("{error} {error:?}"));
        assert!(error.is_some_and(|text| !text.contains("canary")));
        let broker = Broker {
            password: Some("canary".to_owned().into()),
            ..Broker::at("mqtt://broker").unwrap()
        };
        let unseen = Broker {
            url: Url::parse("mqtt://user:canary@broker").unwrap(),
            ..broker.clone()
        };
        assert!(!format!("{broker:?} {unseen:?}").contains("canary"));
    }

    #[test]
    fn a_certificate_is_shown_whichever_authorities_are_believed() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let made = rcgen::generate_simple_self_signed(["broker".to_owned()]).unwrap();
        let certificate = write("cert.pem", &made.cert.pem());
        let key = write("key.pem", &made.signing_key.serialize_pem());
        let broker = |certificate, key| Broker {
            certificate: Some((certificate, key)),
            ..Broker::at("mqtts://broker").unwrap()
        };
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        match broker(certificate.clone(), key.clone()).tls() {
            Ok(TlsConfiguration::Rustls(config)) => assert!(config.client_auth_cert_resolver.has_certs()),
            other => panic!("{}", other.is_ok()),
        }
        // Each in the other's place.
        assert!(matches!(broker(key, certificate).tls(), Err(BrokerError::Tls(_))));
    }

    #[test]
    fn no_two_clients_have_one_id() {
        assert_ne!(made_up_client_id(), made_up_client_id());
    }
}
