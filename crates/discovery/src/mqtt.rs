//! Listens to what devices tell an MQTT broker.

use std::convert::Infallible;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use model::sighting::{Lookout, Sighting};
use rumqttc::mqttbytes::QoS;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, Packet, SubscribeFilter,
    SubscribeReasonCode, TlsConfiguration, TlsError, Transport,
};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::mpsc;
use url::Url;

/// Longest payload that is handed on, bytes: as much as is read of a web page.
const PAYLOAD_MAX_LEN: usize = 64 * 1024;
/// Longest packet that is read at all, bytes. Longer than a payload that is handed on, or one retained message of a
/// stranger would end every connection anew. Guess: no status topic holds more.
const PACKET_MAX_LEN: usize = 1024 * 1024;
/// Longest packet that is sent, bytes: only subscriptions are.
const OUTGOING_MAX_LEN: usize = 64 * 1024;
/// How often the broker is asked whether it is there, seconds. Guess: a dead broker is noticed within a minute.
const KEEP_ALIVE_S: u16 = 30;
/// Ports of MQTT without and with TLS (IANA).
const PORT: u16 = 1883;
const TLS_PORT: u16 = 8883;
/// How long connecting may take, handshakes included. Guess: a name under `.local` takes up to 8 s.
const CONNECT_WAIT: Duration = Duration::from_secs(20);

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

/// Why a broker is not listened to any more.
#[derive(Debug, thiserror::Error)]
pub enum MqttError {
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
    /// The broker does not let us listen.
    #[error("the broker refuses the subscription to {topic}")]
    NotSubscribed {
        /// The topic.
        topic: String,
    },
    /// Nobody answers there, or the connection broke.
    #[error("the connection to the broker failed")]
    Connection(#[source] Box<ConnectionError>),
    /// It took too long to connect.
    #[error("the broker did not answer within {} s", CONNECT_WAIT.as_secs())]
    TimedOut,
    /// There is no topic to listen to.
    #[error("no family listens to an MQTT topic")]
    NoTopics,
    /// Nobody wants to know any more.
    #[error("nobody listens to what the broker tells")]
    NobodyListens,
}

/// Subscribes to the topics of these lookouts, and hands on what comes; publishes nothing.
///
/// Runs until it fails; trying again, and when, is its caller's. Payloads longer than 64 KiB are passed over.
pub async fn mqtt(broker: &Broker, lookouts: &[Lookout], out: &mpsc::Sender<Sighting>) -> MqttError {
    match listen(broker, lookouts, out).await {
        Err(error) => error,
    }
}

async fn listen(
    broker: &Broker,
    lookouts: &[Lookout],
    out: &mpsc::Sender<Sighting>,
) -> Result<Infallible, MqttError> {
    let topics = topics(&broker.prefix, lookouts);
    if topics.is_empty() {
        return Err(MqttError::NoTopics);
    }
    let (client, mut connection) = AsyncClient::builder(broker.options()?).capacity(1).build();
    tokio::time::timeout(CONNECT_WAIT, connected(&mut connection))
        .await
        .map_err(|_| MqttError::TimedOut)??;
    let filters = topics
        .iter()
        .map(|topic| SubscribeFilter::new(topic.clone(), QoS::AtMostOnce));
    client
        .subscribe_many(filters)
        .await
        .map_err(|_| MqttError::NotSubscribed {
            topic: topics.join(", "),
        })?;
    loop {
        let event = tokio::select! {
            event = connection.poll() => event.map_err(broken)?,
            // The connection is given up then, so that it does not matter where it was.
            () = out.closed() => return Err(MqttError::NobodyListens),
        };
        match event {
            Event::Incoming(Packet::SubAck(answer)) => {
                let refused =
                    |(_, code): &(&String, &SubscribeReasonCode)| **code == SubscribeReasonCode::Failure;
                if let Some((topic, _)) = topics.iter().zip(&answer.return_codes).find(refused) {
                    return Err(MqttError::NotSubscribed { topic: topic.clone() });
                }
            }
            Event::Incoming(Packet::Publish(message)) => {
                let topic = String::from_utf8_lossy(&message.topic);
                let Some(topic) = topic.strip_prefix(broker.prefix.as_str()) else {
                    continue;
                };
                if message.payload.len() > PAYLOAD_MAX_LEN {
                    tracing::warn!(
                        topic,
                        len_bytes = message.payload.len(),
                        "a message too long for a status"
                    );
                    continue;
                }
                let sighting = Sighting::Mqtt {
                    topic: topic.to_owned(),
                    payload: message.payload.to_vec(),
                };
                // Whoever is slow to take it keeps the broker waiting, and nobody else.
                out.send(sighting).await.map_err(|_| MqttError::NobodyListens)?;
            }
            _ => {}
        }
    }
}

/// Until the broker has let us in.
async fn connected(connection: &mut EventLoop) -> Result<(), MqttError> {
    loop {
        if let Event::Incoming(Packet::ConnAck(_)) = connection.poll().await.map_err(broken)? {
            return Ok(());
        }
    }
}

fn topics(prefix: &str, lookouts: &[Lookout]) -> Vec<String> {
    let mut topics: Vec<String> = lookouts
        .iter()
        .filter_map(|lookout| match lookout {
            Lookout::Mqtt { topic } => Some(format!("{prefix}{topic}")),
            _ => None,
        })
        .collect();
    topics.sort_unstable();
    topics.dedup();
    topics
}

fn broken(error: ConnectionError) -> MqttError {
    match error {
        ConnectionError::ConnectionRefused(code) => MqttError::Refused {
            why: match code {
                ConnectReturnCode::BadUserNamePassword => "wrong user name or password",
                ConnectReturnCode::NotAuthorized => "not authorised; check user name and password",
                ConnectReturnCode::BadClientId => "it does not take our client id",
                ConnectReturnCode::ServiceUnavailable => "it is not available now",
                ConnectReturnCode::RefusedProtocolVersion => "it does not speak MQTT 3.1.1",
                ConnectReturnCode::Success => "it says neither yes nor no",
            },
        },
        ConnectionError::Tls(_) => MqttError::Tls(Box::new(error)),
        _ => MqttError::Connection(Box::new(error)),
    }
}

impl Broker {
    /// A broker at this address; the rest as usual.
    pub fn at(url: &str) -> Result<Self, MqttError> {
        // Its text might hold a password, so it is not repeated.
        let url = Url::parse(url).map_err(|_| MqttError::Address { what: "is none" })?;
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
    fn place(&self) -> Result<(String, u16, bool), MqttError> {
        let what = |what| MqttError::Address { what };
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

    fn tls(&self) -> Result<TlsConfiguration, MqttError> {
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

    fn options(&self) -> Result<MqttOptions, MqttError> {
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
            async move { net::connect_service(&host, port).await }
        });
        if tls {
            // Done already in a program that speaks TLS elsewhere.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            options.set_transport(Transport::tls_with_config(self.tls()?));
        }
        Ok(options)
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, MqttError> {
    std::fs::read(path).map_err(|source| MqttError::File {
        what,
        path: path.to_owned(),
        source,
    })
}

fn unusable(error: TlsError) -> MqttError {
    MqttError::Tls(Box::new(ConnectionError::Tls(error)))
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
    fn every_topic_is_subscribed_to_once_under_the_prefix() {
        let lookouts = [
            Lookout::Mqtt {
                topic: "home/+/status".to_owned(),
            },
            Lookout::Mqtt {
                topic: "home/+/status".to_owned(),
            },
            Lookout::Mdns {
                service: "_http._tcp",
            },
        ];
        assert_eq!(topics("garden/", &lookouts), ["garden/home/+/status"]);
        assert_eq!(topics("", &lookouts[2..]), Vec::<String>::new());
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
        assert!(matches!(broker(key, certificate).tls(), Err(MqttError::Tls(_))));
    }

    #[test]
    fn no_two_clients_have_one_id() {
        assert_ne!(made_up_client_id(), made_up_client_id());
    }
}
