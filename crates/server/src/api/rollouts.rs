//! Plans, rollouts, jobs and their history.

use axum::extract::{Path, State};
use axum::response::Response;
use axum::{Extension, Json};
use http::StatusCode;
use model::id::{JobId, RolloutId};
use serde::Deserialize;
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::auth::Identity;
use super::body::{Asked, Given};
use super::guard::{Audited, OnceKey};
use super::problem::Failure;
use crate::rollout::RolloutError;
use crate::views::{
    JobDetailView, JobView, PlanView, Problem, RolloutSummaryView, RolloutView, StatsView, WantedRollout,
};

/// Entries of one answer unless more are asked for.
const N_PAGE: u32 = 50;
/// How far back statistics look unless it is said: 30 days.
const STATS_MS: i64 = 30 * 86_400_000;

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(plan))
        .routes(routes!(list_rollouts, create_rollout))
        .routes(routes!(stop_rollouts))
        .routes(routes!(show_rollout))
        .routes(routes!(pause_rollout))
        .routes(routes!(resume_rollout))
        .routes(routes!(abort_rollout))
        .routes(routes!(cancel_device))
        .routes(routes!(show_job))
        .routes(routes!(cancel_job))
        .routes(routes!(history))
        .routes(routes!(stats))
}

impl From<RolloutError> for Failure {
    fn from(err: RolloutError) -> Self {
        let text = err.to_string();
        match err {
            RolloutError::Device(err) => err.into(),
            RolloutError::Firmware(err) => err.into(),
            RolloutError::NotFound { .. } => Self::new(StatusCode::NOT_FOUND, "not-found", text)
                .next("list the rollouts: reflash rollout list"),
            RolloutError::Invalid { next_step, .. } => Self::unprocessable("rollout", text).next(next_step),
            RolloutError::Nothing { .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "nothing-to-do", text)
                    .next("look at the plan: reflash plan")
            }
            RolloutError::NotNow { .. } => {
                Self::new(StatusCode::CONFLICT, "not-now", text).next("look at it: reflash rollout show")
            }
            RolloutError::Store(_) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "store",
                "the server could not store it, and nothing was begun",
            )
            .next("look at the room and the rights of the data folder: reflash doctor"),
        }
    }
}

/// What would happen: per device the image, the way and the time, or why not. Nothing is kept, and no device is asked.
#[utoipa::path(post, path = "/api/v1/plans", tag = "rollouts", request_body = WantedRollout, responses(
    (status = 200, body = PlanView),
    (status = 404, body = Problem, content_type = "application/problem+json", description = "a device or an image is not known"),
    (status = 422, body = Problem, content_type = "application/problem+json"),
))]
async fn plan(
    State(api): State<Api>,
    Given(wanted): Given<WantedRollout>,
) -> Result<Json<PlanView>, Failure> {
    Ok(Json(api.rollouts.plan(&wanted).await?))
}

/// A page of a list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PageQuery {
    /// How many, 1 to 200.
    limit: Option<u32>,
    /// Only those with smaller numbers.
    before: Option<i64>,
}

/// All rollouts, the newest first.
#[utoipa::path(get, path = "/api/v1/rollouts", tag = "rollouts", params(PageQuery), responses(
    (status = 200, body = Vec<RolloutSummaryView>),
))]
async fn list_rollouts(
    State(api): State<Api>,
    Asked(page): Asked<PageQuery>,
) -> Result<Json<Vec<RolloutSummaryView>>, Failure> {
    let before = page.before.map(RolloutId);
    Ok(Json(
        api.rollouts.list(page.limit.unwrap_or(N_PAGE), before).await?,
    ))
}

/// Plans and begins. The plan is kept as it is: another wish is another rollout.
#[utoipa::path(post, path = "/api/v1/rollouts", tag = "rollouts", request_body = WantedRollout, responses(
    (status = 201, body = RolloutView),
    (status = 404, body = Problem, content_type = "application/problem+json", description = "a device or an image is not known"),
    (status = 422, body = Problem, content_type = "application/problem+json", description = "nothing would be done, or the wish makes no sense"),
))]
async fn create_rollout(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
    key: Option<Extension<OnceKey>>,
    Given(wanted): Given<WantedRollout>,
) -> Result<Response, Failure> {
    let rollout = match key.as_deref() {
        // It was made, and the server ended before it had answered.
        Some(OnceKey { made: Some(made), .. }) => api.rollouts.show(RolloutId(*made)).await?,
        key => {
            let asked = key.map(OnceKey::asked);
            api.rollouts.create(&wanted, &identity.actor, asked).await?
        }
    };
    let devices: Vec<_> = rollout.members.iter().map(|member| &member.device).collect();
    let audited = Audited {
        target: Some(rollout.summary.id.to_string()),
        detail: json!({ "kind": wanted.kind, "firmware": rollout.summary.firmware, "devices": devices }),
    };
    Ok(audited.with((StatusCode::CREATED, Json(rollout))))
}

/// Stops everything: every open rollout is aborted. Says which.
#[utoipa::path(post, path = "/api/v1/rollouts/stop", tag = "rollouts", responses(
    (status = 200, body = Vec<RolloutSummaryView>),
))]
async fn stop_rollouts(State(api): State<Api>) -> Result<Json<Vec<RolloutSummaryView>>, Failure> {
    Ok(Json(api.rollouts.stop_all().await?))
}

/// One rollout with its devices.
#[utoipa::path(get, path = "/api/v1/rollouts/{id}", tag = "rollouts",
    params(("id" = i64, Path, description = "its number")), responses(
    (status = 200, body = RolloutView),
    (status = 404, body = Problem, content_type = "application/problem+json"),
))]
async fn show_rollout(State(api): State<Api>, Path(id): Path<i64>) -> Result<Json<RolloutView>, Failure> {
    Ok(Json(api.rollouts.show(RolloutId(id)).await?))
}

/// Nothing more begins; what runs goes on.
#[utoipa::path(post, path = "/api/v1/rollouts/{id}/pause", tag = "rollouts",
    params(("id" = i64, Path, description = "its number")), responses(
    (status = 200, body = RolloutView),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "it is not running"),
))]
async fn pause_rollout(State(api): State<Api>, Path(id): Path<i64>) -> Result<Json<RolloutView>, Failure> {
    Ok(Json(api.rollouts.pause(RolloutId(id)).await?))
}

/// It goes on, also after it has halted: what has failed so far is forgiven.
#[utoipa::path(post, path = "/api/v1/rollouts/{id}/resume", tag = "rollouts",
    params(("id" = i64, Path, description = "its number")), responses(
    (status = 200, body = RolloutView),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "it is neither paused nor halted"),
))]
async fn resume_rollout(State(api): State<Api>, Path(id): Path<i64>) -> Result<Json<RolloutView>, Failure> {
    Ok(Json(api.rollouts.resume(RolloutId(id)).await?))
}

/// How a rollout is ended.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct AbortRequest {
    /// Also devices whose image is on its way are stopped, as long as the last byte has not left.
    force: bool,
}

/// It ends: nothing more begins, and what has not sent its first byte is cancelled.
#[utoipa::path(post, path = "/api/v1/rollouts/{id}/abort", tag = "rollouts", request_body = AbortRequest,
    params(("id" = i64, Path, description = "its number")), responses(
    (status = 200, body = RolloutView),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "it is over"),
))]
async fn abort_rollout(
    State(api): State<Api>,
    Path(id): Path<i64>,
    Given(request): Given<AbortRequest>,
) -> Result<Json<RolloutView>, Failure> {
    Ok(Json(api.rollouts.abort(RolloutId(id), request.force).await?))
}

/// One device is left as it is, the others go on.
#[utoipa::path(post, path = "/api/v1/rollouts/{id}/devices/{device}/cancel", tag = "rollouts",
    params(("id" = i64, Path, description = "the rollout's number"), ("device" = String, Path, description = "the device's id or name")),
    responses(
    (status = 200, body = RolloutView),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "it has ended"),
))]
async fn cancel_device(
    State(api): State<Api>,
    Path((id, device)): Path<(i64, String)>,
) -> Result<Json<RolloutView>, Failure> {
    Ok(Json(api.rollouts.cancel_device(RolloutId(id), &device).await?))
}

/// One update of one device, with what proves it.
#[utoipa::path(get, path = "/api/v1/jobs/{id}", tag = "rollouts",
    params(("id" = i64, Path, description = "its number")), responses(
    (status = 200, body = JobDetailView),
    (status = 404, body = Problem, content_type = "application/problem+json"),
))]
async fn show_job(State(api): State<Api>, Path(id): Path<i64>) -> Result<Json<JobDetailView>, Failure> {
    Ok(Json(api.rollouts.job(JobId(id)).await?))
}

/// Cancels a running update, as long as its last byte has not left.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/cancel", tag = "rollouts",
    params(("id" = i64, Path, description = "its number")), responses(
    (status = 200, body = JobDetailView),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "it does not run"),
))]
async fn cancel_job(State(api): State<Api>, Path(id): Path<i64>) -> Result<Json<JobDetailView>, Failure> {
    Ok(Json(api.rollouts.cancel_job(JobId(id)).await?))
}

/// A page of the history.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct HistoryQuery {
    /// Only of this device, by id or name.
    device: Option<String>,
    /// How many, 1 to 200.
    limit: Option<u32>,
    /// Only jobs with smaller numbers.
    before: Option<i64>,
}

/// Updates of devices, the newest first, those by hand among them.
#[utoipa::path(get, path = "/api/v1/history", tag = "rollouts", params(HistoryQuery), responses(
    (status = 200, body = Vec<JobView>),
    (status = 404, body = Problem, content_type = "application/problem+json"),
))]
async fn history(
    State(api): State<Api>,
    Asked(query): Asked<HistoryQuery>,
) -> Result<Json<Vec<JobView>>, Failure> {
    let before = query.before.map(JobId);
    let limit = query.limit.unwrap_or(N_PAGE);
    Ok(Json(
        api.rollouts
            .history(query.device.as_deref(), limit, before)
            .await?,
    ))
}

/// Since when.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct StatsQuery {
    /// Milliseconds since 1970; without it the last 30 days.
    since_ms: Option<i64>,
    /// In steps of so many seconds as well: an hour or longer, at most 400 of them.
    step_s: Option<u32>,
}

/// How updates went, and who runs what.
#[utoipa::path(get, path = "/api/v1/stats", tag = "rollouts", params(StatsQuery), responses(
    (status = 200, body = StatsView),
))]
async fn stats(State(api): State<Api>, Asked(query): Asked<StatsQuery>) -> Result<Json<StatsView>, Failure> {
    let since_ms = query
        .since_ms
        .unwrap_or_else(|| api.clock.now().wall_ms - STATS_MS);
    let step_ms = query.step_s.map(|step_s| i64::from(step_s) * 1_000);
    Ok(Json(api.rollouts.stats(since_ms, step_ms).await?))
}
