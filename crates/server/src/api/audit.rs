//! Who did what.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use store::AuditRow;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::auth::broken;
use super::body::Asked;
use super::problem::Failure;
use crate::views::Problem;

/// Entries in one answer.
const LIMIT: u32 = 100;
const LIMIT_MAX: u32 = 1000;

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_audit))
        .routes(routes!(check_audit))
}

/// Which entries.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AuditQuery {
    /// Only entries after this number.
    #[serde(default)]
    after: i64,
    /// At most so many, up to 1000.
    #[serde(default)]
    limit: Option<u32>,
}

/// One thing that somebody did.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditView {
    /// Its number.
    pub seq: i64,
    /// When.
    pub at_ms: i64,
    /// Who.
    pub actor: String,
    /// From where: an address, or `socket`.
    pub source: String,
    /// What, as `device.enroll`.
    pub action: String,
    /// To what.
    pub target: String,
    /// More of it, with the status of the answer.
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
    /// SHA-256 over the hash of the entry before and this entry.
    pub hash: String,
}

/// Whether the audit is as it was written.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditCheckView {
    /// How many entries hold together from the first.
    pub n_rows: u64,
    /// The first entry that was changed or is missing; null where all are as they were written.
    pub broken_at: Option<i64>,
}

/// What was done, the oldest first.
#[utoipa::path(get, path = "/api/v1/audit", tag = "audit", params(AuditQuery), responses(
    (status = 200, body = Vec<AuditView>),
    (status = 403, body = Problem, content_type = "application/problem+json"),
))]
async fn list_audit(
    State(api): State<Api>,
    Asked(query): Asked<AuditQuery>,
) -> Result<Json<Vec<AuditView>>, Failure> {
    let limit = query.limit.unwrap_or(LIMIT).min(LIMIT_MAX);
    let rows = api
        .store
        .audit(query.after, limit)
        .await
        .map_err(|err| broken(&err))?;
    Ok(Json(rows.into_iter().map(view).collect()))
}

/// Follows the chain of hashes from the first entry to the last.
#[utoipa::path(get, path = "/api/v1/audit/check", tag = "audit", responses(
    (status = 200, body = AuditCheckView),
    (status = 403, body = Problem, content_type = "application/problem+json"),
))]
async fn check_audit(State(api): State<Api>) -> Result<Json<AuditCheckView>, Failure> {
    let check = api.store.verify_audit().await.map_err(|err| broken(&err))?;
    Ok(Json(AuditCheckView {
        n_rows: check.n_rows,
        broken_at: check.broken_at,
    }))
}

fn view(row: AuditRow) -> AuditView {
    AuditView {
        seq: row.seq,
        at_ms: row.entry.at_ms,
        actor: row.entry.actor,
        source: row.entry.source,
        action: row.entry.action,
        target: row.entry.target,
        detail: row.entry.detail,
        hash: row.hash,
    }
}
