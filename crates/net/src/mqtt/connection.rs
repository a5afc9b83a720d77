//! One connection after the other.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::mqttbytes::QoS;
use rumqttc::{
    AsyncClient, Event, EventLoop, LastWill, Packet, Publish, PublishOptions, SubscribeFilter,
    SubscribeReasonCode,
};
use tokio::sync::watch;
use tokio::time::Instant;

use super::broker::{Broker, BrokerError, CONNECT_WAIT};
use super::{Incoming, PAYLOAD_MAX_LEN, Shared};

/// How long to wait before the next try to connect: at first, and at most. Guess: a broker that restarts is back within
/// seconds; one that is gone for long is noticed within a minute.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_mins(1);
/// The longest pause after a connection that had come about: its broker is there, and restarts now and then.
const PAUSE_AFTER_ONE: Duration = Duration::from_secs(8);
/// A connection that stood so long was a good one.
const GOOD_AFTER: Duration = Duration::from_secs(10);
/// Messages on the way to the broker at once. Guess: enough to fill a slow line, few enough to be sent again.
const WINDOW: usize = 16;
/// How long the broker may take to confirm something. Guess: its own keep-alive.
const CONFIRM_WAIT: Duration = Duration::from_secs(30);

/// Keeps the connection, for ever.
pub(super) async fn keep(broker: Broker, availability_topic: String, shared: Arc<Shared>) {
    let mut pause = PAUSE_FIRST;
    let mut n_failures = 0_u64;
    loop {
        let began = Instant::now();
        let lost = Lost { shared: &shared };
        let Err(error) = connect(&broker, &availability_topic, &shared).await;
        let was_let_in = shared.queues().is_connected();
        drop(lost);
        if was_let_in {
            pause = pause.min(PAUSE_AFTER_ONE);
        }
        if began.elapsed() >= GOOD_AFTER {
            (pause, n_failures) = (PAUSE_FIRST, 0);
        }
        n_failures += 1;
        if n_failures.is_power_of_two() {
            tracing::warn!(
                broker = ?broker,
                error = model::chain::chain(&error),
                again_in_s = pause.as_secs_f32(),
                n_failures,
                "no connection to the broker"
            );
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Whatever ends a connection, also that this program ends.
struct Lost<'a> {
    shared: &'a Shared,
}

impl Drop for Lost<'_> {
    fn drop(&mut self) {
        self.shared.queues().disconnect();
        self.shared.changed();
    }
}

async fn connect(
    broker: &Broker,
    availability_topic: &str,
    shared: &Shared,
) -> Result<Infallible, BrokerError> {
    let availability = format!("{}{availability_topic}", broker.prefix);
    let mut options = broker.options()?;
    options.set_last_will(LastWill::new(&availability, "offline", QoS::AtLeastOnce, true));
    // A new client for each connection: what is sent again is decided here, and not by what is left in an old one.
    let (client, mut connection) = AsyncClient::builder(options).capacity(WINDOW).build();
    tokio::time::timeout(CONNECT_WAIT, let_in(&mut connection))
        .await
        .map_err(|_| BrokerError::TimedOut)??;
    shared.queues().connect();
    shared.changed();
    tracing::info!(broker = ?broker, "connected to the broker");
    // Neither is of use without the other, so whichever fails ends both.
    tokio::select! {
        error = hear(&mut connection, broker, shared) => error,
        error = send(&client, &availability, broker, shared) => error,
    }
}

async fn let_in(connection: &mut EventLoop) -> Result<(), BrokerError> {
    loop {
        if let Event::Incoming(Packet::ConnAck(_)) = connection.poll().await? {
            return Ok(());
        }
    }
}

/// Moves packets in both directions, and hands on what comes.
async fn hear(
    connection: &mut EventLoop,
    broker: &Broker,
    shared: &Shared,
) -> Result<Infallible, BrokerError> {
    loop {
        if let Event::Incoming(Packet::Publish(message)) = connection.poll().await?
            && let Some(message) = incoming(&message, &broker.prefix)
        {
            shared.queues().tell(&message);
            shared.changed();
        }
    }
}

fn incoming(message: &Publish, prefix: &str) -> Option<Incoming> {
    let topic = std::str::from_utf8(&message.topic).ok()?.strip_prefix(prefix)?;
    if message.payload.len() > PAYLOAD_MAX_LEN {
        tracing::warn!(
            topic,
            len_bytes = message.payload.len(),
            "a message too long to be for us"
        );
        return None;
    }
    Some(Incoming {
        topic: topic.to_owned(),
        payload: message.payload.to_vec(),
        retained: message.retain,
    })
}

/// Subscribes to what is listened to, and sends what is in line.
async fn send(
    client: &AsyncClient,
    availability: &str,
    broker: &Broker,
    shared: &Shared,
) -> Result<Infallible, BrokerError> {
    let mut changes = shared.changes.subscribe();
    let online = PublishOptions::at_least_once().retained();
    let online = publish(client, availability.to_owned(), b"online".to_vec(), online).await?;
    online.confirmed().await?;
    let mut flying = VecDeque::with_capacity(WINDOW);
    loop {
        changes.mark_unchanged();
        // Before anything is sent: an answer must not come before it is listened to.
        subscribe(client, broker, shared).await?;
        while flying.len() < WINDOW {
            let Some(next) = shared.queues().take() else {
                break;
            };
            let options = PublishOptions::at_least_once().retain(next.retain);
            let topic = format!("{}{}", broker.prefix, next.topic);
            flying.push_back(publish(client, topic, next.payload, options).await?);
        }
        tokio::select! {
            // Both only look at what stays where it is until they are done.
            confirmed = oldest(&mut flying) => {
                confirmed?;
                flying.pop_front();
                shared.queues().confirm();
                shared.changed();
            }
            () = next_change(&mut changes) => {}
        }
    }
}

/// A message on its way, until the broker has it.
struct Flying {
    taken: Pin<Box<dyn Future<Output = bool> + Send>>,
    until: Instant,
}

async fn publish(
    client: &AsyncClient,
    topic: String,
    payload: Vec<u8>,
    options: PublishOptions,
) -> Result<Flying, BrokerError> {
    let until = Instant::now() + CONFIRM_WAIT;
    let sent = tokio::time::timeout_at(until, client.publish_tracked(topic, payload, options)).await;
    let Ok(Ok(notice)) = sent else {
        return Err(BrokerError::NotConfirmed);
    };
    Ok(Flying {
        taken: Box::pin(async { notice.wait_async().await.is_ok() }),
        until,
    })
}

impl Flying {
    async fn confirmed(mut self) -> Result<(), BrokerError> {
        self.confirm().await
    }

    async fn confirm(&mut self) -> Result<(), BrokerError> {
        match tokio::time::timeout_at(self.until, &mut self.taken).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(BrokerError::NotConfirmed),
        }
    }
}

/// Until the oldest is confirmed; for ever where there is none.
async fn oldest(flying: &mut VecDeque<Flying>) -> Result<(), BrokerError> {
    match flying.front_mut() {
        Some(oldest) => oldest.confirm().await,
        None => pending().await,
    }
}

async fn next_change(changes: &mut watch::Receiver<u64>) {
    if changes.changed().await.is_err() {
        // Impossible while the bus is kept; but if so, nothing is ever in line.
        pending::<()>().await;
    }
}

async fn subscribe(client: &AsyncClient, broker: &Broker, shared: &Shared) -> Result<(), BrokerError> {
    let (more, fewer) = shared.queues().subscriptions_due();
    let prefix = &broker.prefix;
    for filter in &more {
        let asked = SubscribeFilter::new(format!("{prefix}{filter}"), QoS::AtLeastOnce);
        let answer = async {
            let notice = client.subscribe_many_tracked([asked]).await.ok()?;
            notice.wait_async().await.ok()
        };
        let answer = tokio::time::timeout(CONFIRM_WAIT, answer)
            .await
            .ok()
            .flatten()
            .ok_or(BrokerError::NotConfirmed)?;
        let agreed = !answer.return_codes.is_empty()
            && answer
                .return_codes
                .iter()
                .all(|code| !matches!(code, SubscribeReasonCode::Failure));
        if !agreed {
            tracing::warn!(topic = filter, "the broker refuses the subscription");
        }
        shared.queues().subscribed(filter, agreed);
        shared.changed();
    }
    for filter in &fewer {
        // What comes nonetheless is for nobody.
        let _ = client.try_unsubscribe(format!("{prefix}{filter}"));
        shared.queues().unsubscribed(filter);
    }
    Ok(())
}
