//! Windows and schedules.

use axum::extract::{Path, State};
use axum::response::Response;
use axum::{Extension, Json};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::auth::{Identity, broken};
use super::body::{Asked, Given};
use super::guard::Audited;
use super::problem::Failure;
use crate::rollout::{RunError, TimetableError};
use crate::views::{
    Problem, RolloutView, ScheduleView, TimetableView, WantedSchedule, WantedWindow, WindowView,
};

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_windows))
        .routes(routes!(show_window, set_window, remove_window))
        .routes(routes!(list_schedules))
        .routes(routes!(show_schedule, set_schedule, remove_schedule))
        .routes(routes!(run_schedule))
        .routes(routes!(timetable))
}

impl From<TimetableError> for Failure {
    fn from(err: TimetableError) -> Self {
        let text = err.to_string();
        match err {
            TimetableError::NotFound { what, near, .. } => Self::not_found(text).next(match near {
                Some(near) => format!("Did you mean {near}?"),
                None => format!("See which there are: reflash {what} list."),
            }),
            TimetableError::Configured { .. } => Self::conflict("configured", text)
                .next("Change it there, and let the server read it again: systemctl reload reflash."),
            TimetableError::Wrong { what, next_step, .. } => {
                Self::unprocessable(what, text).next(next_step)
            }
            TimetableError::InUse { .. } => Self::conflict("in-use", text).next(
                "Let the schedule go by another window or remove it first; abort the rollout, or wait for its end.",
            ),
            TimetableError::TooMany => Self::unprocessable("too-many", text).next("Remove some that nobody needs."),
            TimetableError::Store(err) => broken(&err),
        }
    }
}

impl From<RunError> for Failure {
    fn from(err: RunError) -> Self {
        match err {
            RunError::Timetable(err) => err.into(),
            RunError::Rollout(err) => err.into(),
        }
    }
}

/// All windows: when updates may begin.
#[utoipa::path(get, path = "/api/v1/windows", tag = "windows", responses((status = 200, body = Vec<WindowView>)))]
async fn list_windows(State(api): State<Api>) -> Json<Vec<WindowView>> {
    Json(api.rollouts.windows())
}

/// One window.
#[utoipa::path(get, path = "/api/v1/windows/{name}", tag = "windows",
    params(("name" = String, Path, description = "its name")), responses(
    (status = 200, body = WindowView),
    (status = 404, body = Problem, content_type = "application/problem+json"),
))]
async fn show_window(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<WindowView>, Failure> {
    let view = api.rollouts.window(&name);
    Ok(Json(view.ok_or_else(|| api.rollouts.no_window(&name))?))
}

/// Makes a window, or exchanges one that was made so. Open rollouts keep theirs as it was.
#[utoipa::path(put, path = "/api/v1/windows/{name}", tag = "windows", request_body = WantedWindow,
    params(("name" = String, Path, description = "its name: letters, digits, `-` and `_`")), responses(
    (status = 200, body = WindowView, description = "exchanged"),
    (status = 201, body = WindowView, description = "made"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "it stands in the configuration"),
    (status = 422, body = Problem, content_type = "application/problem+json", description = "it makes no sense; the sentences are those of the configuration"),
))]
async fn set_window(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
    Given(entry): Given<Value>,
) -> Result<Response, Failure> {
    let (view, was) = api.rollouts.set_window(&name, &entry, &identity.actor).await?;
    Ok(set(&entry, was.as_ref(), view))
}

/// Removes a window that was made by the API.
#[utoipa::path(delete, path = "/api/v1/windows/{name}", tag = "windows",
    params(("name" = String, Path, description = "its name")), responses(
    (status = 204, description = "removed"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "it stands in the configuration, or a schedule or an open rollout goes by it"),
))]
async fn remove_window(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, Failure> {
    let was = api.rollouts.remove_window(&name).await?;
    Ok(Audited::detail(json!({ "was": was })).with(StatusCode::NO_CONTENT))
}

/// All schedules: rollouts that begin by themselves, when they are due, and what they did last.
#[utoipa::path(get, path = "/api/v1/schedules", tag = "windows", responses((status = 200, body = Vec<ScheduleView>)))]
async fn list_schedules(State(api): State<Api>) -> Result<Json<Vec<ScheduleView>>, Failure> {
    Ok(Json(api.rollouts.schedules().await?))
}

/// One schedule.
#[utoipa::path(get, path = "/api/v1/schedules/{name}", tag = "windows",
    params(("name" = String, Path, description = "its name")), responses(
    (status = 200, body = ScheduleView),
    (status = 404, body = Problem, content_type = "application/problem+json"),
))]
async fn show_schedule(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<ScheduleView>, Failure> {
    Ok(Json(api.rollouts.schedule(&name).await?))
}

/// Makes a schedule, or exchanges one that was made so. What was due before is not made up for.
#[utoipa::path(put, path = "/api/v1/schedules/{name}", tag = "windows", request_body = WantedSchedule,
    params(("name" = String, Path, description = "its name: letters, digits, `-` and `_`")), responses(
    (status = 200, body = ScheduleView, description = "exchanged"),
    (status = 201, body = ScheduleView, description = "made"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "it stands in the configuration"),
    (status = 422, body = Problem, content_type = "application/problem+json", description = "it makes no sense; the sentences are those of the configuration"),
))]
async fn set_schedule(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
    Given(entry): Given<Value>,
) -> Result<Response, Failure> {
    let (view, was) = api.rollouts.set_schedule(&name, &entry, &identity.actor).await?;
    Ok(set(&entry, was.as_ref(), view))
}

/// Removes a schedule that was made by the API; its rollouts stay.
#[utoipa::path(delete, path = "/api/v1/schedules/{name}", tag = "windows",
    params(("name" = String, Path, description = "its name")), responses(
    (status = 204, description = "removed"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "it stands in the configuration"),
))]
async fn remove_schedule(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, Failure> {
    let was = api.rollouts.remove_schedule(&name).await?;
    Ok(Audited::detail(json!({ "was": was })).with(StatusCode::NO_CONTENT))
}

/// Does now what a schedule does when it is due; its updates begin in its window all the same.
#[utoipa::path(post, path = "/api/v1/schedules/{name}/run", tag = "windows",
    params(("name" = String, Path, description = "its name")), responses(
    (status = 201, body = RolloutView),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json", description = "nothing is to be done"),
))]
async fn run_schedule(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    let rollout = api.rollouts.run_schedule(&name, &identity.actor).await?;
    let devices: Vec<_> = rollout.members.iter().map(|member| &member.device).collect();
    let audited = Audited::detail(json!({ "rollout": rollout.summary.id, "devices": devices }));
    Ok(audited.with((StatusCode::CREATED, Json(rollout))))
}

/// From when until when.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct TimetableQuery {
    /// Milliseconds since 1970; without it from now.
    from_ms: Option<i64>,
    /// Milliseconds since 1970, at most five weeks later; without it for a week.
    until_ms: Option<i64>,
}

/// When windows are open and schedules due in a span of time, as a calendar shows it.
#[utoipa::path(get, path = "/api/v1/timetable", tag = "windows", params(TimetableQuery), responses((status = 200, body = TimetableView)))]
async fn timetable(State(api): State<Api>, Asked(query): Asked<TimetableQuery>) -> Json<TimetableView> {
    const WEEK_MS: i64 = 7 * 86_400_000;
    let from_ms = query.from_ms.unwrap_or_else(|| api.clock.now().wall_ms);
    let until_ms = query.until_ms.unwrap_or(from_ms.saturating_add(WEEK_MS));
    Json(api.rollouts.timetable(from_ms, until_ms))
}

fn set(entry: &Value, was: Option<&Value>, view: impl serde::Serialize) -> Response {
    let status = if was.is_some() {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    Audited::detail(json!({ "was": was, "is": entry })).with((status, Json(view)))
}
