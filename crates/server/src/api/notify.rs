//! Trying whether anybody hears of what happens.

use axum::Json;
use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::problem::Failure;
use crate::views::{NotifyTestView, Problem};

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(test))
}

/// Sends a test message to the web hook and the broker, and answers with what came back.
///
/// That somebody did not take it is no error of this request: `ok` says so.
#[utoipa::path(post, path = "/api/v1/notify/test", tag = "server", responses(
    (status = 200, body = NotifyTestView),
    (status = 422, body = Problem, content_type = "application/problem+json", description = "nobody is told of anything"),
))]
async fn test(State(api): State<Api>) -> Result<Json<NotifyTestView>, Failure> {
    let tested = api.notifier.test().await;
    tested.map(Json).map_err(|error| {
        Failure::unprocessable("nobody-is-told", error.to_string())
            .next("write the block `notify` into the configuration: docs/guide/notifications.md")
    })
}
