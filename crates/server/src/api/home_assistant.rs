//! What Home Assistant tells: its configuration, and which devices it shows.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::auth::{Identity, broken};
use super::body::Given;
use super::guard::Audited;
use super::problem::{CONTENT_TYPE_PROBLEM, Failure};
use crate::config::Mistake;
use crate::home_assistant::{KeepError, Shown};
use crate::views::Problem;

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(show_block, set_block, remove_block))
        .routes(routes!(set_shown, remove_shown))
}

/// What Home Assistant has handed over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HandedView {
    /// The block `ir_remote_ota:` without its secrets; null where none was handed over.
    #[schema(value_type = Option<Object>)]
    pub block: Option<Value>,
    /// Where a secret stands in it, as `devices[0].password`.
    pub secrets: Vec<String>,
    /// When it was handed over.
    pub given_ms: Option<i64>,
    /// By whom.
    pub given_by: Option<String>,
    /// What has changed by that, in words; only as the answer to a change.
    pub changes: Vec<String>,
}

impl HandedView {
    fn new(shown: Option<Shown>, changes: Vec<String>) -> Self {
        match shown {
            None => Self {
                block: None,
                secrets: Vec::new(),
                given_ms: None,
                given_by: None,
                changes,
            },
            Some(shown) => Self {
                block: Some(shown.block),
                secrets: shown.secrets,
                given_ms: Some(shown.given_ms),
                given_by: Some(shown.given_by),
                changes,
            },
        }
    }
}

/// A problem with every mistake that the block has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MistakesProblem {
    /// What every problem has.
    #[serde(flatten)]
    pub problem: Problem,
    /// The mistakes, in the order of the block.
    pub mistakes: Vec<MistakeView>,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MistakeView {
    /// Where it stands, as `devices[1].ip`; empty where it is the block as a whole.
    pub path: String,
    /// What is wrong, in one sentence.
    pub text: String,
    /// What to write instead.
    pub next_step: String,
}

fn mistaken(mistakes: Vec<Mistake>) -> Response {
    let n_mistakes = mistakes.len();
    let failure = Failure::unprocessable(
        "configuration",
        match mistakes.as_slice() {
            [mistake] => mistake.text.clone(),
            _ => format!("the block has {n_mistakes} mistakes; nothing was changed"),
        },
    )
    .next("mend `ir_remote_ota:` in Home Assistant's configuration and restart it");
    let problem = MistakesProblem {
        problem: failure.document(),
        mistakes: mistakes
            .into_iter()
            .map(|mistake| MistakeView {
                path: mistake.path,
                text: mistake.text,
                next_step: mistake.next_step,
            })
            .collect(),
    };
    let content_type = [(http::header::CONTENT_TYPE, CONTENT_TYPE_PROBLEM)];
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    (failure.status(), content_type, body).into_response()
}

fn failed(error: KeepError) -> Failure {
    match error {
        KeepError::Refused(text) => Failure::unprocessable("home-assistant", text),
        KeepError::Store(error) => broken(&error),
        // It never comes here; and the sentence is true all the same.
        KeepError::Wrong(_) => Failure::unprocessable("configuration", "the block has mistakes"),
        KeepError::Seal(error) => {
            tracing::error!(error = model::chain::chain(&error), "a block could not be sealed");
            Failure::internal()
        }
    }
}

/// What Home Assistant has handed over of its configuration, without its secrets.
#[utoipa::path(get, path = "/api/v1/configuration/home-assistant", tag = "home-assistant",
    responses((status = 200, body = HandedView)))]
async fn show_block(State(api): State<Api>) -> Json<HandedView> {
    Json(HandedView::new(api.home_assistant.block(), Vec::new()))
}

/// Hands over the block `ir_remote_ota:` of Home Assistant's configuration.
///
/// The body has the keys of that block as `reflash.yaml` knows them, and where they are needed the blocks `arduino` and
/// `komfovent`. It lies over the configuration file, is kept (its passwords sealed) and applied at once; its devices count as
/// configured. Devices that were in the block before and are not any more are forgotten, unless somebody enrolled them.
/// The same block once more changes nothing.
#[utoipa::path(put, path = "/api/v1/configuration/home-assistant", tag = "home-assistant", request_body = Object, responses(
    (status = 200, body = HandedView),
    (status = 422, body = MistakesProblem, content_type = "application/problem+json", description = "every mistake at once; nothing was changed"),
))]
async fn set_block(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
    Given(block): Given<Value>,
) -> Result<Response, Failure> {
    change_block(&api, Some(block), &identity.actor).await
}

/// Takes back all that was handed over.
#[utoipa::path(delete, path = "/api/v1/configuration/home-assistant", tag = "home-assistant", responses(
    (status = 200, body = HandedView),
))]
async fn remove_block(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
) -> Result<Response, Failure> {
    change_block(&api, None, &identity.actor).await
}

async fn change_block(api: &Api, block: Option<Value>, actor: &str) -> Result<Response, Failure> {
    let now_ms = api.clock.now().wall_ms;
    let is_new = match api.home_assistant.set_block(block, actor, now_ms).await {
        Ok(is_new) => is_new,
        Err(KeepError::Wrong(mistakes)) => return Ok(mistaken(mistakes)),
        Err(error) => return Err(failed(error)),
    };
    let changes = if is_new {
        let reloaded = api.read_configuration().await?;
        api.home_assistant.forget_leaving(&api.fleet).await;
        reloaded.changes
    } else {
        Vec::new()
    };
    // Names and addresses may be written down, and the words of changes hold no secret.
    let audited = Audited::detail(json!({ "changes": changes }));
    let view = HandedView::new(api.home_assistant.block(), changes);
    Ok(audited.with(Json(view)))
}

/// Which devices an entry of Home Assistant shows.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WantedShown {
    /// Their ids.
    devices: Vec<String>,
}

/// Tells which devices an entry of Home Assistant shows: they are never announced to it by MQTT as well.
#[utoipa::path(put, path = "/api/v1/home-assistant/{entry_id}", tag = "home-assistant", request_body = WantedShown,
    params(("entry_id" = String, Path, description = "the entry's id: letters, digits, `-` and `_`")), responses(
    (status = 204, description = "kept"),
    (status = 422, body = Problem, content_type = "application/problem+json"),
))]
async fn set_shown(
    State(api): State<Api>,
    Path(entry_id): Path<String>,
    Given(shown): Given<WantedShown>,
) -> Result<Response, Failure> {
    let n_devices = shown.devices.len();
    let kept = api.home_assistant.set_shown(&entry_id, Some(shown.devices)).await;
    kept.map_err(failed)?;
    Ok(Audited::detail(json!({ "devices": n_devices })).with(StatusCode::NO_CONTENT))
}

/// Tells that an entry of Home Assistant shows nothing any more.
#[utoipa::path(delete, path = "/api/v1/home-assistant/{entry_id}", tag = "home-assistant",
    params(("entry_id" = String, Path, description = "the entry's id")), responses(
    (status = 204, description = "it shows nothing"),
    (status = 422, body = Problem, content_type = "application/problem+json"),
))]
async fn remove_shown(State(api): State<Api>, Path(entry_id): Path<String>) -> Result<StatusCode, Failure> {
    let kept = api.home_assistant.set_shown(&entry_id, None).await;
    kept.map_err(failed)?;
    Ok(StatusCode::NO_CONTENT)
}
