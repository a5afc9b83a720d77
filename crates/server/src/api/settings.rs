//! What an administrator may change without touching the configuration file.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::{Store, StoreError};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::auth::broken;
use super::body::{Edit, Given};
use super::guard::Audited;
use super::problem::Failure;
use crate::views::Problem;

/// The bounds of the pause between two scans, seconds: a scan of the largest range takes minutes; a day is as good as never.
const SCAN_INTERVAL_S: std::ops::RangeInclusive<u32> = 30..=86_400;

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(show_settings, change_settings))
}

/// Settings that win over the configuration file; null where the file decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SettingsView {
    /// Whether a device that is found is enrolled by itself.
    pub auto_enroll: Option<bool>,
    /// Whether announcements are listened to and networks scanned.
    pub auto_discovery: Option<bool>,
    /// Seconds between two scans, 30 to 86400.
    pub scan_interval_s: Option<u32>,
}

/// Settings to be changed; what is null is left to the configuration file again, what is missing stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SettingsChange {
    #[serde(default)]
    #[schema(value_type = Option<bool>)]
    auto_enroll: Edit<bool>,
    #[serde(default)]
    #[schema(value_type = Option<bool>)]
    auto_discovery: Edit<bool>,
    #[serde(default)]
    #[schema(value_type = Option<u32>)]
    scan_interval_s: Edit<u32>,
}

const AUTO_ENROLL: &str = "auto_enroll";
const AUTO_DISCOVERY: &str = "auto_discovery";
const SCAN_INTERVAL: &str = "scan_interval_s";

/// The settings as they are stored, to be laid over the configuration.
pub async fn stored_settings(store: &Store) -> Result<SettingsView, StoreError> {
    let flag = |value: Option<Value>| value.as_ref().and_then(Value::as_bool);
    let scan_interval_s = store.setting(SCAN_INTERVAL).await?;
    Ok(SettingsView {
        auto_enroll: flag(store.setting(AUTO_ENROLL).await?),
        auto_discovery: flag(store.setting(AUTO_DISCOVERY).await?),
        scan_interval_s: scan_interval_s
            .and_then(|seconds| seconds.as_u64())
            .and_then(|seconds| u32::try_from(seconds).ok()),
    })
}

/// The settings that win over the configuration file.
#[utoipa::path(get, path = "/api/v1/settings", tag = "server", responses((status = 200, body = SettingsView)))]
async fn show_settings(State(api): State<Api>) -> Result<Json<SettingsView>, Failure> {
    let settings = stored_settings(&api.store).await.map_err(|err| broken(&err))?;
    Ok(Json(settings))
}

/// Changes settings and applies them at once.
#[utoipa::path(patch, path = "/api/v1/settings", tag = "server", request_body = SettingsChange, responses(
    (status = 200, body = SettingsView),
    (status = 422, body = Problem, content_type = "application/problem+json"),
))]
async fn change_settings(
    State(api): State<Api>,
    Given(change): Given<SettingsChange>,
) -> Result<Response, Failure> {
    if let Edit::Set(seconds) = change.scan_interval_s
        && !SCAN_INTERVAL_S.contains(&seconds)
    {
        return Err(Failure::unprocessable(
            "settings",
            "scan_interval_s is 30 to 86400",
        ));
    }
    let changes = [
        (AUTO_ENROLL, change.auto_enroll.map(Value::from)),
        (AUTO_DISCOVERY, change.auto_discovery.map(Value::from)),
        (SCAN_INTERVAL, change.scan_interval_s.map(Value::from)),
    ];
    let mut audited = serde_json::Map::new();
    for (name, edit) in changes {
        let value = match edit {
            Edit::Keep => continue,
            Edit::Clear => None,
            Edit::Set(value) => Some(value),
        };
        api.store
            .set_setting(name, value.as_ref())
            .await
            .map_err(|err| broken(&err))?;
        audited.insert(name.to_owned(), value.unwrap_or_default());
    }
    api.read_configuration().await?;
    let settings = stored_settings(&api.store).await.map_err(|err| broken(&err))?;
    Ok(Audited::detail(audited.into()).with(Json(settings)))
}
