//! Which server this is, and parents that hold it.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use model::access::Role;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::auth::{Identity, Via};
use super::problem::Failure;
use crate::parents::Parent;
use crate::views::Problem;

/// What the API is called by: programs that know this number understand each other. It changes with what they must know.
pub const API: u32 = 1;
/// How often the stream of a parent says that the server lives.
const HEARTBEAT: Duration = Duration::from_secs(5);

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(server))
        .routes(routes!(attach))
}

/// What does not change of a server while it runs.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Its id: 32 hexadecimal digits.
    pub id: String,
    /// The name of its machine.
    pub name: String,
    /// Whether a parent owns it.
    pub managed: bool,
    /// Where its page is, if it listens on the network.
    pub page: Option<String>,
}

/// Which server this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerView {
    /// Its id: 32 hexadecimal digits, made once with its database.
    pub id: String,
    /// The name of its machine.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// The number of this API: whoever knows it understands what is said here.
    pub api: u32,
    /// Whether a parent owns the process (`reflash serve --managed`).
    pub managed: bool,
    /// Its process.
    pub pid: u32,
    /// The folder that images can be dropped into, on the server's machine; null where there is none, and for viewers.
    pub firmware_path: Option<String>,
    /// Where its page is; null where it does not listen on the network.
    pub page: Option<String>,
}

fn view(api: &Api, role: Role) -> ServerView {
    let About {
        id,
        name,
        managed,
        page,
    } = api.about.clone();
    let folder = api.repository.folder().filter(|_| role >= Role::Operator);
    ServerView {
        id,
        name,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api: API,
        managed,
        pid: std::process::id(),
        firmware_path: folder.map(|folder| folder.path),
        page,
    }
}

/// Which server this is.
#[utoipa::path(get, path = "/api/v1/server", tag = "server", responses(
    (status = 200, body = ServerView),
    (status = 401, body = Problem, content_type = "application/problem+json"),
))]
async fn server(State(api): State<Api>, Extension(identity): Extension<Identity>) -> Json<ServerView> {
    Json(view(&api, identity.role))
}

/// A stream that holds the server.
///
/// A server that a parent owns (`reflash serve --managed`) ends with its standard input only once no such stream is open
/// and 10 s have passed since the last was closed: whoever opens one from the local socket is its parent as well. The first
/// line is `{"attached": true, …}` with all that `GET /api/v1/server` says; an empty line follows every 5 s.
#[utoipa::path(get, path = "/api/v1/attach", tag = "server", responses(
    (status = 200, body = ServerView, content_type = "application/x-ndjson"),
    (status = 403, body = Problem, content_type = "application/problem+json", description = "not over the local socket"),
    (status = 503, body = Problem, content_type = "application/problem+json", description = "too many are attached"),
))]
async fn attach(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
) -> Result<Response, Failure> {
    if !matches!(identity.via, Via::Socket) {
        return Err(Failure::new(
            StatusCode::FORBIDDEN,
            "local-only",
            "a server is held over its local socket, and not over the network",
        )
        .next("ask over the socket `reflash.sock` in the data folder, without a token"));
    }
    let parent = api
        .parents
        .attach()
        .ok_or_else(|| Failure::unavailable("parents", "too many parents are attached", 10))?;
    let mut first = json!(view(&api, identity.role));
    if let Value::Object(first) = &mut first {
        first.insert("attached".to_owned(), true.into());
    }
    tracing::info!(by = identity.actor, "a parent is attached");
    let mut beats = tokio::time::interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let held = Held {
        first: Some(format!("{first}\n")),
        beats,
        api,
        _parent: parent,
    };
    let lines = stream::unfold(held, |mut held| async {
        let line = held.next().await?;
        Some((Ok::<_, Infallible>(line), held))
    });
    let content_type = HeaderValue::from_static("application/x-ndjson");
    Ok(([(CONTENT_TYPE, content_type)], Body::from_stream(lines)).into_response())
}

/// An open stream of a parent; it is attached until this is dropped.
struct Held {
    first: Option<String>,
    beats: tokio::time::Interval,
    api: Api,
    _parent: Parent,
}

impl Held {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(Bytes::from(first));
        }
        // Neither holds anything: a tick that is dropped comes again.
        tokio::select! {
            () = self.api.cancel.cancelled() => None,
            _ = self.beats.tick() => Some(Bytes::from_static(b"\n")),
        }
    }
}
