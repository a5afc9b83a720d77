//! Sessions: the page shows its token once, and has a cookie that no script can read from then on.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::header::SET_COOKIE;
use http::{HeaderValue, StatusCode};
use model::access::Role;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::auth::{Identity, Via, set_cookie};
use super::body::Given;
use super::guard::{Audited, From, ShownOnce};
use super::problem::Failure;
use crate::views::Problem;

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(begin_session, end_session))
}

/// What begins a session.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SessionRequest {
    /// The token.
    #[schema(value_type = String)]
    token: SecretString,
}

/// A session that has begun; its cookie comes beside it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SessionView {
    /// As the audit names him.
    pub actor: String,
    /// What he may do.
    #[schema(value_type = String)]
    pub role: Role,
    /// The word that every change of this session needs in the header X-CSRF-Token.
    pub csrf_token: String,
}

/// Begins a session for whoever shows a token: for pages, which must not keep one.
#[utoipa::path(post, path = "/api/v1/session", tag = "server", request_body = SessionRequest, responses(
    (status = 200, body = SessionView),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 429, body = Problem, content_type = "application/problem+json"),
))]
async fn begin_session(
    State(api): State<Api>,
    Extension(from): Extension<From>,
    Given(request): Given<SessionRequest>,
) -> Result<Response, Failure> {
    let begun = api
        .inner
        .doorkeeper
        .begin_session(&request.token, from.address)
        .await?;
    let view = SessionView {
        actor: begun.identity.actor.clone(),
        role: begun.identity.role,
        csrf_token: begun.csrf,
    };
    let cookie = set_cookie(begun.cookie.expose_secret(), from.encrypted);
    let mut cookie = HeaderValue::from_str(&cookie).map_err(|_| Failure::internal())?;
    cookie.set_sensitive(true);
    let mut response = Audited::target(begun.identity.actor).with(Json(view));
    response.headers_mut().insert(SET_COOKIE, cookie);
    response.extensions_mut().insert(ShownOnce);
    Ok(response)
}

/// Ends the session whose cookie comes with the request.
#[utoipa::path(delete, path = "/api/v1/session", tag = "server", responses((status = 204, description = "ended")))]
async fn end_session(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
    Extension(from): Extension<From>,
) -> Result<Response, Failure> {
    if let Via::Session { id_hash, .. } = &identity.via {
        api.inner.doorkeeper.end_session(id_hash).await?;
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    let cookie = HeaderValue::from_str(&set_cookie("", from.encrypted)).map_err(|_| Failure::internal())?;
    response.headers_mut().insert(SET_COOKIE, cookie);
    Ok(response)
}
