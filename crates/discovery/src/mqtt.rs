//! Listens to what devices tell an MQTT broker.

use std::convert::Infallible;

use model::sighting::{Lookout, Sighting};
use net::mqtt::{Broker, BrokerError, CONNECT_WAIT};
use rumqttc::mqttbytes::QoS;
use rumqttc::{AsyncClient, Event, EventLoop, Packet, SubscribeFilter, SubscribeReasonCode};
use tokio::sync::mpsc;

/// Longest payload that is handed on, bytes: as much as is read of a web page.
const PAYLOAD_MAX_LEN: usize = 64 * 1024;

/// Why a broker is not listened to any more.
#[derive(Debug, thiserror::Error)]
pub enum MqttError {
    /// There is no connection with it.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The broker does not let us listen.
    #[error("the broker refuses the subscription to {topic}")]
    NotSubscribed {
        /// The topic.
        topic: String,
    },
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
        .map_err(|_| BrokerError::TimedOut)??;
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
            event = connection.poll() => event.map_err(BrokerError::from)?,
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
async fn connected(connection: &mut EventLoop) -> Result<(), BrokerError> {
    loop {
        if let Event::Incoming(Packet::ConnAck(_)) = connection.poll().await? {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
