//! How the server fares, and who is asking.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use model::access::Role;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{Identity, Via};
use super::problem::Failure;
use super::{Api, OPENAPI, Reloaded};
use crate::views::{HealthReport, NoteView, Problem};

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(health))
        .routes(routes!(metrics))
        .routes(routes!(openapi))
        .routes(routes!(whoami))
        .routes(routes!(reload))
}

/// How the server fares.
///
/// Without a token only the status is told, not what is wrong nor which version runs.
#[utoipa::path(get, path = "/health", tag = "server", responses((status = 200, body = HealthReport)))]
async fn health(State(api): State<Api>, identity: Option<axum::Extension<Identity>>) -> Json<HealthReport> {
    let mut reasons = api.fleet.troubles();
    reasons.extend(api.repository.troubles().await);
    reasons.extend(api.notifier.troubles());
    reasons.extend(api.home_assistant.troubles());
    if api.store.is_lost() {
        reasons.push(NoteView {
            rule: "storage".to_owned(),
            text: "A write to the database may be lost: nothing more is stored. Restart the server once the disk is well.".to_owned(),
        });
    }
    let status = if reasons.is_empty() { "ok" } else { "degraded" };
    let (reasons, version) = match identity {
        Some(_) => (reasons, env!("CARGO_PKG_VERSION")),
        None => (Vec::new(), ""),
    };
    Json(HealthReport {
        status: status.to_owned(),
        reasons,
        version: version.to_owned(),
    })
}

/// Metrics in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "server", responses(
    (status = 200, content_type = "application/openmetrics-text", body = String),
    (status = 401, body = Problem, content_type = "application/problem+json"),
))]
async fn metrics(State(api): State<Api>) -> Response {
    let content_type = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(CONTENT_TYPE, content_type)], api.metrics.render(&api.fleet)).into_response()
}

/// This contract.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "server", responses((status = 200, description = "OpenAPI 3.1")))]
async fn openapi() -> Response {
    (
        [(CONTENT_TYPE, HeaderValue::from_static("application/json"))],
        OPENAPI,
    )
        .into_response()
}

/// Who is asking.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WhoAmI {
    /// As the audit names him.
    pub actor: String,
    /// What he may do.
    #[schema(value_type = String)]
    pub role: Role,
    /// Where he is: an address, or `socket`.
    pub source: String,
    /// In a session: the word for the header X-CSRF-Token.
    pub csrf_token: Option<String>,
}

/// Who is asking, and what he may do.
#[utoipa::path(get, path = "/api/v1/whoami", tag = "server", responses(
    (status = 200, body = WhoAmI),
    (status = 401, body = Problem, content_type = "application/problem+json"),
))]
async fn whoami(axum::Extension(identity): axum::Extension<Identity>) -> Json<WhoAmI> {
    Json(WhoAmI {
        actor: identity.actor,
        role: identity.role,
        source: identity.source,
        csrf_token: match identity.via {
            Via::Session { csrf, .. } => Some(csrf),
            Via::Token | Via::Socket => None,
        },
    })
}

/// Reads the configuration again; nothing changes where it has a mistake. What runs goes on.
#[utoipa::path(post, path = "/api/v1/configuration/reload", tag = "server", responses(
    (status = 200, body = Reloaded),
    (status = 422, body = Problem, content_type = "application/problem+json", description = "the configuration has a mistake"),
))]
async fn reload(State(api): State<Api>) -> Result<Json<Reloaded>, Failure> {
    api.read_configuration().await.map(Json)
}
