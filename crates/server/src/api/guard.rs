//! What every request goes through: host, who it is, what he may, the body's bounds, once and not twice, and the audit.

use std::collections::HashSet;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;
use http::header::X_FRAME_OPTIONS;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::BodyExt as _;
use model::access::Role;
use serde_json::{Value, json};
use sha2::Digest as _;
use store::{Answered, Asked, AuditEntry, MADE};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Api;
use super::access::{self, Access, Least, Takes};
use super::auth::{Identity, address_of, broken, check_csrf, is_forwarded};
use super::body::{check_depth, check_type, collect};
use super::host;
use super::listen::{Origin, Peer};
use super::problem::{CONTENT_TYPE_PROBLEM, Failure, as_problem};

/// Images that may be in memory at once: the server is to stay small.
const N_UPLOADS: usize = 2;
/// Longest idempotency key (draft-ietf-httpapi-idempotency-key-header names none; a UUID has 36).
const KEY_MAX_LEN: usize = 255;
/// Longest answer that is kept under an idempotency key, bytes.
const KEPT_ANSWER_MAX_LEN: usize = 2 * 1024 * 1024;
/// Longest target in the audit, characters.
const TARGET_MAX_LEN: usize = 200;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// What a handler adds to the audit; never a secret.
#[derive(Clone, Debug)]
pub(crate) struct Audited {
    /// What was touched, where the path does not say it.
    pub(crate) target: Option<String>,
    /// More of it.
    pub(crate) detail: Value,
}

impl Audited {
    /// A target that the path does not name.
    pub(crate) fn target(target: impl Into<String>) -> Self {
        Self {
            target: Some(target.into()),
            detail: Value::Null,
        }
    }

    /// More about what the path names.
    pub(crate) fn detail(detail: Value) -> Self {
        Self { target: None, detail }
    }

    /// An answer that is written down like this.
    pub(crate) fn with(self, answer: impl IntoResponse) -> Response {
        let mut response = answer.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Marks an answer that is shown once and never stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShownOnce;

/// The idempotency key of a request, for handlers that remember with what they make that it was made for this request.
#[derive(Clone, Debug)]
pub(crate) struct OnceKey {
    key: String,
    fingerprint: String,
    /// The number of what was made for it by a server that ended before it had answered.
    pub(crate) made: Option<i64>,
}

impl OnceKey {
    pub(crate) fn asked(&self) -> Asked<'_> {
        Asked {
            request: &self.key,
            fingerprint: &self.fingerprint,
        }
    }
}

/// Where a request comes from in the end, for handlers that must know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct From {
    pub(crate) address: IpAddr,
    pub(crate) encrypted: bool,
}

/// What the guard remembers between requests.
pub(crate) struct Memory {
    uploads: Arc<Semaphore>,
    /// Keys whose request still runs: actor and key.
    running: Mutex<HashSet<(String, String)>>,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self {
            uploads: Arc::new(Semaphore::new(N_UPLOADS)),
            running: Mutex::default(),
        }
    }

    fn running(&self) -> MutexGuard<'_, HashSet<(String, String)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every request comes through here, whatever route it is for.
pub(crate) async fn guard(State(api): State<Api>, request: Request, next: Next) -> Response {
    let passed = pass(&api, request, next).await;
    let mut response = as_problem(passed.unwrap_or_else(IntoResponse::into_response));
    dress(response.headers_mut(), &api.settings.frame_ancestors);
    api.metrics.requested(response.status().as_u16());
    response
}

async fn pass(api: &Api, mut request: Request, next: Next) -> Result<Response, Failure> {
    let peer = request.extensions().get::<Peer>().cloned();
    // No listener forgets it; without it nobody could say where the request is from.
    let peer = peer.ok_or_else(Failure::internal)?;
    host::check(&request, &peer, &api.settings.hosts)?;
    let address = address_of(&peer, request.headers(), &api.settings.proxies);
    let from_here = match peer.from {
        Origin::Local { .. } => true,
        Origin::Network(address) => address.is_loopback() && !is_forwarded(request.headers()),
    };
    let route = request.extensions().get::<MatchedPath>().cloned();
    let access = route
        .as_ref()
        .and_then(|route| access::access(request.method(), route.as_str()));

    if access::changes(request.method()) {
        host::check_site(request.headers())?;
    }
    let least = access.map_or(Least::Role(Role::Viewer), |access| access.least);
    let identified = api
        .inner
        .doorkeeper
        .identify(request.headers(), &peer, address)
        .await;
    let identity = match identified {
        // A browser goes on sending the cookie of a session that has ended: it must get the page, and begin another.
        Err(failure)
            if failure.status() == StatusCode::UNAUTHORIZED
                && least == Least::Anyone
                && !request.headers().contains_key(AUTHORIZATION) =>
        {
            None
        }
        identified => identified?,
    };
    check_role(
        identity.as_ref(),
        least,
        from_here && !api.settings.metrics_need_token,
    )?;
    let Some(access) = access else {
        let methods = route.as_ref().map(|route| access::methods(route.as_str()));
        return Err(match methods {
            Some(methods) if !methods.is_empty() => Failure::method_not_allowed(&methods),
            _ => Failure::of_status(StatusCode::NOT_FOUND),
        });
    };
    let encrypted = peer.encrypted || is_encrypted_before(&peer, request.headers(), api);
    request.extensions_mut().insert(From { address, encrypted });
    if let Some(identity) = &identity {
        request.extensions_mut().insert(identity.clone());
    }
    if access.action.is_empty() {
        let answered =
            tokio::time::timeout(api.settings.request_timeout, unless_it_panics(next.run(request)));
        return answered.await.map_err(|_| too_slow("the answer took too long"));
    }
    if let Some(identity) = &identity {
        check_csrf(identity, request.headers())?;
    }
    let source = identity
        .as_ref()
        .map_or_else(|| address.to_string(), |identity| identity.source.clone());
    change(api, access, identity, source, request, next).await
}

fn check_role(identity: Option<&Identity>, least: Least, metrics_are_open: bool) -> Result<(), Failure> {
    let needed = match least {
        Least::Anyone => return Ok(()),
        Least::Metrics if metrics_are_open => return Ok(()),
        Least::Metrics => Role::Viewer,
        Least::Role(role) => role,
    };
    let Some(identity) = identity else {
        return Err(Failure::unauthorized("this route needs a token"));
    };
    if identity.role >= needed {
        return Ok(());
    }
    tracing::warn!(actor = %identity.actor, role = identity.role.name(), needed = needed.name(), "a request was refused");
    Err(Failure::new(
        StatusCode::FORBIDDEN,
        "forbidden",
        format!(
            "this needs the role {}, and this token is for a {}",
            needed.name(),
            identity.role.name()
        ),
    )
    .next("use a token with that role; an administrator makes one with `reflash token create`"))
}

/// Whether the proxy that the configuration names was spoken to over TLS.
fn is_encrypted_before(peer: &Peer, headers: &HeaderMap, api: &Api) -> bool {
    let Origin::Network(address) = peer.from else {
        return false;
    };
    api.settings.proxies.iter().any(|proxy| proxy.contains(&address))
        && headers
            .get("x-forwarded-proto")
            .is_some_and(|proto| proto == "https")
}

/// A request that changes something: it runs to its end even if whoever sent it goes away, and is written down.
async fn change(
    api: &Api,
    access: &'static Access,
    identity: Option<Identity>,
    source: String,
    request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    check_type(&parts.headers, access.takes)?;
    let upload = match access.takes {
        Takes::Json | Takes::Token => None,
        Takes::Image => Some(
            Arc::clone(&api.inner.memory.uploads)
                .try_acquire_owned()
                .map_err(|_| Failure::unavailable("uploads", "other uploads are under way", 5))?,
        ),
    };
    let body = collect(body, &parts.headers, access.takes, &api.settings).await?;
    if access.takes != Takes::Image {
        check_depth(&body)?;
    }
    let actor = identity.map(|identity| identity.actor);
    let once = match (&actor, idempotency_key(&parts)?) {
        (Some(actor), Some(key)) => match begin_once(api, &parts, &body, actor, key).await? {
            Begun::Answered(response) => return Ok(response),
            Begun::Run(once) => Some(once),
        },
        // Strangers share no memory with each other.
        (None, _) | (_, None) => None,
    };
    let running = Running {
        api: api.clone(),
        access,
        actor,
        source,
        target: target_of(access.path, parts.uri.path()),
        once,
        _upload: upload,
    };
    let mut request = Request::from_parts(parts, Body::from(body));
    if let Some(once) = &running.once {
        request.extensions_mut().insert(once.key.clone());
    }
    // On its own, so that a client who hangs up does not leave half a change, or one that nobody wrote down.
    let task = api.inner.tasks.spawn(running.run(request, next));
    let patience = access.patience.unwrap_or(api.settings.request_timeout);
    match tokio::time::timeout(patience, task).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(_)) => Err(Failure::internal()),
        Err(_) => Err(too_slow("this takes longer than a request may; it goes on")),
    }
}

fn too_slow(detail: &str) -> Failure {
    Failure::new(StatusCode::GATEWAY_TIMEOUT, "timeout", detail)
        .next("look at the result in a while, or send the same Idempotency-Key again")
}

struct Running {
    api: Api,
    access: &'static Access,
    actor: Option<String>,
    source: String,
    target: String,
    once: Option<Once>,
    _upload: Option<OwnedSemaphorePermit>,
}

impl Running {
    async fn run(self, request: Request, next: Next) -> Response {
        let response = as_problem(unless_it_panics(next.run(request)).await);
        let audited = response.extensions().get::<Audited>().cloned();
        let response = match self.write_down(response.status(), audited).await {
            Ok(()) => response,
            Err(failure) => failure.into_response(),
        };
        match self.once {
            Some(once) => once.keep(&self.api, response).await,
            None => response,
        }
    }

    async fn write_down(&self, status: StatusCode, audited: Option<Audited>) -> Result<(), Failure> {
        // What a stranger does not achieve is in the log: he must not fill the disk.
        if self.actor.is_none() && !status.is_success() {
            return Ok(());
        }
        let mut detail = json!({ "status": status.as_u16() });
        if let (Some(all), Some(Value::Object(more))) = (
            detail.as_object_mut(),
            audited.as_ref().map(|audited| &audited.detail),
        ) {
            all.extend(more.clone());
        }
        let target = audited
            .as_ref()
            .and_then(|audited| audited.target.as_deref())
            .unwrap_or(&self.target);
        let entry = AuditEntry {
            at_ms: self.api.clock.now().wall_ms,
            actor: self.actor.clone().unwrap_or_else(|| "nobody".to_owned()),
            source: self.source.clone(),
            action: self.access.action.to_owned(),
            target: target.chars().take(TARGET_MAX_LEN).collect(),
            detail,
        };
        let written = self.api.store.append_audit(&entry).await;
        written.map(drop).map_err(|err| {
            broken(&err);
            Failure::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "audit",
                format!("the request was answered with {status}, and could not be written down"),
            )
            .next("look at /health: the server's database failed")
        })
    }
}

/// What the path names, in the order in which it does.
fn target_of(route: &str, path: &str) -> String {
    let named: Vec<_> = route
        .split('/')
        .zip(path.split('/'))
        .filter(|(part, _)| part.starts_with('{'))
        .map(|(_, name)| name.escape_default().to_string())
        .collect();
    named.join(" ")
}

/// The answer; where the handler panics, the problem document for that.
async fn unless_it_panics(answer: impl Future<Output = Response>) -> Response {
    // What a panic may leave half done is behind locks and transactions of its own.
    let caught = AssertUnwindSafe(answer).catch_unwind().await;
    caught.unwrap_or_else(|_| {
        tracing::error!("a handler of the API panicked");
        Failure::internal().into_response()
    })
}

/// A request under a key: it is done once, whatever happens to its answer.
struct Once {
    actor: String,
    key: OnceKey,
    _running: RunningKey,
}

struct RunningKey {
    api: Api,
    key: (String, String),
}

impl Drop for RunningKey {
    fn drop(&mut self) {
        self.api.inner.memory.running().remove(&self.key);
    }
}

enum Begun {
    Answered(Response),
    Run(Once),
}

fn idempotency_key(parts: &Parts) -> Result<Option<String>, Failure> {
    if parts.method != http::Method::POST {
        return Ok(None);
    }
    let Some(key) = parts.headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let key = key.to_str().ok().filter(|key| {
        (1..=KEY_MAX_LEN).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
    });
    let bad = || {
        Failure::bad_request(
            "idempotency-key",
            "an Idempotency-Key is 1 to 255 visible characters",
        )
    };
    key.map(|key| Some(key.to_owned())).ok_or_else(bad)
}

async fn begin_once(
    api: &Api,
    parts: &Parts,
    body: &Bytes,
    actor: &str,
    key: String,
) -> Result<Begun, Failure> {
    let pair = (actor.to_owned(), key.clone());
    if !api.inner.memory.running().insert(pair.clone()) {
        return Err(Failure::conflict(
            "idempotency-running",
            "a request with this Idempotency-Key is still running",
        )
        .next("wait for it, then send it again to get its answer"));
    }
    let running = RunningKey {
        api: api.clone(),
        key: pair,
    };
    let mut hasher = sha2::Sha256::new();
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    hasher.update(format!("{} {target}\n", parts.method));
    hasher.update(body);
    let fingerprint = hex::encode(hasher.finalize());
    let answered = api.store.answer_to(&key, actor).await;
    let answered = answered.map_err(|err| broken(&err))?;
    let run = |made| {
        Begun::Run(Once {
            actor: actor.to_owned(),
            key: OnceKey {
                key,
                fingerprint: fingerprint.clone(),
                made,
            },
            _running: running,
        })
    };
    match answered {
        None => Ok(run(None)),
        Some(answered) if answered.fingerprint == fingerprint && answered.status == MADE => {
            Ok(run(answered.body.parse().ok()))
        }
        Some(answered) if answered.fingerprint == fingerprint => Ok(Begun::Answered(replay(answered))),
        Some(_) => Err(Failure::unprocessable(
            "idempotency-reused",
            "this Idempotency-Key was used for another request",
        )
        .next("use a new key for every new request")),
    }
}

fn replay(answered: Answered) -> Response {
    let status = StatusCode::from_u16(answered.status).unwrap_or(StatusCode::OK);
    let is_problem = status.is_client_error() || status.is_server_error();
    let mut response = Response::new(Body::from(answered.body));
    *response.status_mut() = status;
    let content_type = if is_problem {
        CONTENT_TYPE_PROBLEM
    } else {
        "application/json"
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    response
}

impl Once {
    /// Keeps the answer for whoever asks again; an error of ours is not kept, so that he may try again.
    async fn keep(self, api: &Api, response: Response) -> Response {
        if response.status().is_server_error() {
            return response;
        }
        let (parts, body) = response.into_parts();
        let Ok(bytes) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
            return Failure::internal().into_response();
        };
        let (status, kept) = if parts.extensions.get::<ShownOnce>().is_some() {
            let shown = Failure::conflict(
                "shown-once",
                "this was done; its answer held a secret, which is shown only once",
            )
            .next("revoke the token and make another if the first answer was lost");
            (
                shown.status(),
                serde_json::to_string(&shown.document()).unwrap_or_default(),
            )
        } else {
            (parts.status, String::from_utf8_lossy(&bytes).into_owned())
        };
        if kept.len() <= KEPT_ANSWER_MAX_LEN {
            let answered = Answered {
                fingerprint: self.key.fingerprint,
                status: status.as_u16(),
                body: kept,
            };
            let now_ms = api.clock.now().wall_ms;
            if let Err(err) = api
                .store
                .save_answer(&self.key.key, &self.actor, &answered, now_ms)
                .await
            {
                tracing::error!(error = %err, "an answer could not be kept for its Idempotency-Key");
            }
        }
        Response::from_parts(parts, Body::from(bytes))
    }
}

/// What every answer carries (RELIABILITY.md, decision 18). `frames` are the origins that may show the page in a frame.
fn dress(headers: &mut HeaderMap, frames: &[String]) {
    const POLICY: &str =
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'";
    let named = (!frames.is_empty()).then(|| {
        POLICY.replace(
            "frame-ancestors 'none'",
            &format!("frame-ancestors {}", frames.join(" ")),
        )
    });
    if let Some(policy) = named.and_then(|policy| HeaderValue::try_from(policy).ok()) {
        // No X-Frame-Options: it knows one origin at most, and only ours.
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    } else {
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    );
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_frames(frames: &[&str], ancestors: &str, options: Option<&str>) {
        let mut headers = HeaderMap::new();
        let frames: Vec<String> = frames.iter().map(|&origin| origin.to_owned()).collect();
        dress(&mut headers, &frames);
        let policy = headers[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(
            policy.contains(&format!("; frame-ancestors {ancestors}; ")),
            "{policy}"
        );
        assert!(policy.starts_with("default-src 'self'; "), "{policy}");
        let shown = headers.get(X_FRAME_OPTIONS).map(|value| value.to_str().unwrap());
        assert_eq!(shown, options);
    }

    #[test]
    fn nobody_shows_the_page_in_a_frame_who_is_not_named() {
        check_frames(&[], "'none'", Some("DENY"));
        check_frames(
            &["http://ha.lan:8123", "https://ha.lan"],
            "http://ha.lan:8123 https://ha.lan",
            None,
        );
    }

    #[test]
    fn a_target_is_what_the_path_names() {
        assert_eq!(
            target_of("/api/v1/devices/{id}/pin", "/api/v1/devices/a0b1c2d3e4f5/pin"),
            "a0b1c2d3e4f5"
        );
        assert_eq!(target_of("/api/v1/devices", "/api/v1/devices"), "");
        assert_eq!(target_of("/{id}", "/\u{1b}[2J"), "\\u{1b}[2J");
    }
}
