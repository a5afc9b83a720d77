//! What happens, as it happens: server-sent events with replay.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::json;
use store::FleetEvent;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::Instant;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::auth::{Identity, broken};
use super::body::Asked;
use super::problem::Failure;
use crate::views::{EventView, Problem};

/// Streams at once in all: each holds a connection.
const N_STREAMS: usize = 64;
/// Streams at once of one token or user: a page that is open many times, and Home Assistant.
const N_STREAMS_EACH: usize = 16;
/// Events that are read from the store at once.
const PAGE: u32 = 256;
/// How long progress waits for that of other devices, so that a rollout to a large home does not write to each listener a
/// thousand times a second. Taste: nobody sees a tenth of a second.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// How long a browser waits before it comes back.
const RETRY: Duration = Duration::from_secs(3);

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(events))
}

/// How many streams there are, and whose.
pub(crate) struct Streams {
    by_actor: Arc<Mutex<HashMap<String, usize>>>,
}

impl Streams {
    pub(crate) fn new() -> Self {
        Self {
            by_actor: Arc::default(),
        }
    }

    fn begin(&self, actor: &str) -> Result<Place, Failure> {
        let mut by_actor = locked(&self.by_actor);
        let n_all: usize = by_actor.values().sum();
        let n_own = by_actor.get(actor).copied().unwrap_or_default();
        if n_all >= N_STREAMS || n_own >= N_STREAMS_EACH {
            return Err(Failure::unavailable(
                "streams",
                "too many streams of events are open",
                10,
            ));
        }
        by_actor.insert(actor.to_owned(), n_own + 1);
        Ok(Place {
            by_actor: Arc::clone(&self.by_actor),
            actor: actor.to_owned(),
        })
    }
}

fn locked(by_actor: &Mutex<HashMap<String, usize>>) -> MutexGuard<'_, HashMap<String, usize>> {
    by_actor.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Place {
    by_actor: Arc<Mutex<HashMap<String, usize>>>,
    actor: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_actor = locked(&self.by_actor);
        match by_actor.get_mut(&self.actor) {
            Some(n_streams) if *n_streams > 1 => *n_streams -= 1,
            _ => drop(by_actor.remove(&self.actor)),
        }
    }
}

/// From where on.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EventsQuery {
    /// Only events after this number; the header Last-Event-ID wins. Without both: from now on.
    after: Option<i64>,
}

/// What happens, as server-sent events.
///
/// The first is `hello`, with the number of the latest event. Every event's data is an `EventView` in one line, and its id is
/// its number: whoever was cut off sends the last one as Last-Event-ID and misses nothing. Where older events are forgotten by
/// then, an event `gap` says so: what is shown must be asked for anew. Who reads too slowly is cut off.
/// How far a running update is comes as `job.progress`, without an id: it is not kept.
#[utoipa::path(get, path = "/api/v1/events", tag = "events", params(
    EventsQuery,
    ("Last-Event-ID" = Option<i64>, Header, description = "Only events after this number."),
), responses(
    (status = 200, body = EventView, content_type = "text/event-stream"),
    (status = 503, body = Problem, content_type = "application/problem+json", description = "too many streams"),
))]
async fn events(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
    Asked(query): Asked<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let bad = || Failure::bad_request("last-event-id", "Last-Event-ID is the number of an event");
    let after = match headers.get("last-event-id") {
        Some(id) => Some(id.to_str().ok().and_then(|id| id.parse().ok()).ok_or_else(bad)?),
        None => query.after,
    };
    let place = api.inner.streams.begin(&identity.actor)?;
    let last = api.store.last_event().await.map_err(|err| broken(&err))?;
    let mut reader = Reader {
        heartbeat: api.settings.heartbeat,
        ready: VecDeque::new(),
        last: after.unwrap_or(last),
        behind: true,
        live: None,
        progress: api.rollouts.live(),
        progress_due: Instant::now(),
        api,
        _place: place,
    };
    let hello = json!({ "last": last });
    reader.ready.push_back(
        Event::default()
            .event("hello")
            .retry(RETRY)
            .data(hello.to_string()),
    );
    if reader.last > last {
        // Another database than the one that this number is from.
        reader.ready.push_back(gap(reader.last, last));
        reader.last = last;
    }
    Ok(reader.into_response())
}

struct Reader {
    api: Api,
    heartbeat: Duration,
    /// What is ready to be sent.
    ready: VecDeque<Event>,
    /// The number of the last event that was made ready.
    last: i64,
    /// Whether there may be events in the store that were not made ready.
    behind: bool,
    /// What happens from now on; none while the past is read, so that a long past does not count as slowness.
    live: Option<broadcast::Receiver<EventView>>,
    /// How far updates are, which nobody stores.
    progress: broadcast::Receiver<EventView>,
    /// When progress is looked at again.
    progress_due: Instant,
    _place: Place,
}

impl Reader {
    fn into_response(self) -> Response {
        let keep_alive = KeepAlive::new().interval(self.heartbeat);
        let events = stream::unfold(self, |mut reader| async {
            let event = reader.next().await?;
            Some((Ok::<_, Infallible>(event), reader))
        });
        Sse::new(events).keep_alive(keep_alive).into_response()
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let live = match &mut self.live {
                Some(live) if !self.behind => live,
                _ => {
                    self.read_on().await?;
                    continue;
                }
            };
            let progress = async {
                tokio::time::sleep_until(self.progress_due).await;
                self.progress.recv().await
            };
            // All can be dropped: a cancelled `recv` takes nothing.
            let received = tokio::select! {
                () = self.api.cancel.cancelled() => return None,
                received = live.recv() => received,
                progress = progress => {
                    match progress {
                        Ok(event) => self.ready.push_back(Event::default().data(line(&event))),
                        Err(RecvError::Lagged(_)) => {}
                        Err(RecvError::Closed) => return None,
                    }
                    self.take_progress();
                    self.progress_due = Instant::now() + PROGRESS_EVERY;
                    continue;
                }
            };
            // What was said before it comes before it: nobody is shown on the way after the end.
            self.take_progress();
            match received {
                Ok(event) if event.seq <= self.last => {}
                Ok(event) if event.seq == self.last + 1 => self.make_ready(&event),
                // One is missing: it is in the store.
                Ok(_) => self.behind = true,
                Err(RecvError::Lagged(n_missed)) => {
                    tracing::info!(n_missed, "a reader of events was too slow and is cut off");
                    return None;
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Makes ready all progress that has come. It has no number: whoever was cut off has missed it, and that is all.
    fn take_progress(&mut self) {
        loop {
            match self.progress.try_recv() {
                Ok(event) => self.ready.push_back(Event::default().data(line(&event))),
                Err(TryRecvError::Lagged(_)) => {}
                // If it is closed, the next wait meets that.
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    /// Makes ready what the store has; where that is nothing more, listens.
    async fn read_on(&mut self) -> Option<()> {
        let events = match self.api.store.events_after(self.last, PAGE).await {
            Ok(events) => events,
            Err(err) => {
                broken(&err);
                return None;
            }
        };
        match events.first() {
            Some(first) if first.seq > self.last + 1 => self.ready.push_back(gap(self.last, first.seq - 1)),
            Some(_) => {}
            None if self.live.is_none() => self.live = Some(self.api.fleet.events()),
            None => self.behind = false,
        }
        for event in events {
            self.make_ready(&view(event));
        }
        Some(())
    }

    fn make_ready(&mut self, event: &EventView) {
        self.last = event.seq;
        self.ready
            .push_back(Event::default().id(event.seq.to_string()).data(line(event)));
    }
}

/// JSON has no line end of its own, so the data is always one line (RELIABILITY.md T26).
fn line(event: &EventView) -> String {
    serde_json::to_string(event).unwrap_or_default()
}

/// Events were forgotten that somebody has not seen.
fn gap(after: i64, until: i64) -> Event {
    Event::default()
        .event("gap")
        .data(json!({ "after": after, "until": until }).to_string())
}

fn view(event: FleetEvent) -> EventView {
    EventView {
        seq: event.seq,
        at_ms: event.at_ms,
        kind: event.kind,
        device: event.device,
        detail: event.detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_counted_by_actor_and_in_all() {
        let streams = Streams::new();
        let mut places: Vec<_> = (0..N_STREAMS_EACH).map(|_| streams.begin("a").unwrap()).collect();
        assert!(streams.begin("a").is_err());
        for actor in ["b", "c", "d"] {
            places.extend((0..N_STREAMS_EACH).map(|_| streams.begin(actor).unwrap()));
        }
        assert!(streams.begin("e").is_err(), "all places are taken");
        places.clear();
        assert!(streams.begin("a").is_ok());
        assert!(locked(&streams.by_actor).is_empty());
    }
}
