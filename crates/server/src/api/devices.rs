//! Devices: listed, shown, added, enrolled, changed.

use axum::extract::{Path, State};
use axum::response::Response;
use axum::{Extension, Json};
use http::StatusCode;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::auth::Identity;
use super::body::{Asked, Edit, Given};
use super::guard::Audited;
use super::problem::Failure;
use crate::fleet::{AddDevice, DeviceChange, FleetError, FleetErrorKind};
use crate::views::{CoverageView, DeviceView, HealthView, Problem, SourceView};

/// Looks in one answer.
const N_LOOKS: u32 = 1000;
const N_LOOKS_MAX: u32 = 10_000;
/// Devices that are enrolled at once. Guess: a fleet of a thousand, and more.
const N_ENROLLED_MAX: usize = 4096;

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_devices, add_device))
        .routes(routes!(enroll_devices))
        .routes(routes!(show_device, change_device, remove_device))
        .routes(routes!(enroll_device, unenroll_device))
        .routes(routes!(set_ota))
        .routes(routes!(pin_device, unpin_device))
        .routes(routes!(skip_version, unskip_version))
        .routes(routes!(set_password))
        .routes(routes!(replace_device))
        .routes(routes!(device_health))
        .routes(routes!(list_sources))
        .routes(routes!(scan))
}

impl From<FleetError> for Failure {
    fn from(err: FleetError) -> Self {
        let (status, name) = match err.kind {
            FleetErrorKind::NotFound => (StatusCode::NOT_FOUND, "not-found"),
            FleetErrorKind::Conflict => (StatusCode::CONFLICT, "conflict"),
            FleetErrorKind::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
            FleetErrorKind::Unreachable => (StatusCode::BAD_GATEWAY, "unreachable"),
            FleetErrorKind::Refused => (StatusCode::CONFLICT, "refused"),
            FleetErrorKind::Store => (StatusCode::SERVICE_UNAVAILABLE, "store"),
        };
        Self::new(status, name, err.text).next(err.next_step)
    }
}

/// Which devices.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DevicesQuery {
    /// Only of this family.
    family: Option<String>,
    /// Only in this state: `online`, `offline`, `unknown`, `unreadable`.
    state: Option<String>,
    /// Only with this tag.
    tag: Option<String>,
    /// Only of this group.
    group: Option<String>,
    /// Only with this text in name, id, address, host name or model; case does not count.
    q: Option<String>,
}

impl DevicesQuery {
    fn covers(&self, device: &DeviceView) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        let tagged = |tag: &String| device.tags.contains(tag);
        is(&self.family, Some(&device.family))
            && is(&self.state, Some(device.state.name()))
            && is(&self.group, device.group.as_deref())
            && self.tag.as_ref().is_none_or(tagged)
            && self.q.as_ref().is_none_or(|text| mentions(device, text))
    }
}

fn mentions(device: &DeviceView, text: &str) -> bool {
    let text = text.to_lowercase();
    let address = device.address.map(|address| address.to_string());
    [
        Some(device.name.as_str()),
        Some(&device.id),
        address.as_deref(),
        device.host_name.as_deref(),
        device.model.as_deref(),
    ]
    .into_iter()
    .flatten()
    .any(|found| found.to_lowercase().contains(&text))
}

/// All devices that are known, or some of them.
#[utoipa::path(get, path = "/api/v1/devices", tag = "devices", params(DevicesQuery), responses(
    (status = 200, body = Vec<DeviceView>),
    (status = 401, body = Problem, content_type = "application/problem+json"),
))]
async fn list_devices(
    State(api): State<Api>,
    Asked(query): Asked<DevicesQuery>,
) -> Result<Json<Vec<DeviceView>>, Failure> {
    let mut devices = api.fleet.devices();
    devices.retain(|device| query.covers(device));
    api.rollouts.complete(&mut devices).await?;
    Ok(Json(devices))
}

/// What is shown of a device after a change of it. The change is done: what cannot be read of its history is left out.
async fn completed(api: &Api, device: DeviceView) -> DeviceView {
    let mut devices = [device];
    if let Err(error) = api.rollouts.complete(&mut devices).await {
        tracing::warn!(
            error = model::chain::chain(&error),
            "the history of a device cannot be read"
        );
    }
    let [device] = devices;
    device
}

/// A device to be added by its address or host name.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewDevice {
    /// Its address or host name.
    host: String,
    /// Its family; null to find out.
    family: Option<String>,
    /// What to call it, 1 to 64 printable characters.
    name: Option<String>,
    /// The name to log in with.
    username: Option<String>,
    /// Its password; it is kept sealed and never shown.
    #[schema(value_type = Option<String>)]
    password: Option<SecretString>,
    /// Its chip, where it does not tell.
    chip: Option<String>,
    /// The largest image that it takes, bytes.
    slot_bytes: Option<u64>,
}

/// Adds a device and enrols it. It is asked who it is first.
#[utoipa::path(post, path = "/api/v1/devices", tag = "devices", request_body = NewDevice, responses(
    (status = 201, body = DeviceView),
    (status = 409, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json"),
    (status = 502, body = Problem, content_type = "application/problem+json", description = "it does not answer"),
))]
async fn add_device(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
    Given(new): Given<NewDevice>,
) -> Result<Response, Failure> {
    let host = new.host.clone();
    let wanted = AddDevice {
        host: new.host,
        family: new.family,
        name: new.name,
        username: new.username,
        password: new.password,
        chip: new.chip,
        slot_bytes: new.slot_bytes,
    };
    let device = api.fleet.add(wanted, &identity.actor).await?;
    let audited = Audited {
        target: Some(device.id.clone()),
        detail: json!({ "host": host }),
    };
    Ok(audited.with((StatusCode::CREATED, Json(completed(&api, device).await))))
}

/// Devices to be enrolled.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EnrollRequest {
    /// Their ids or names.
    devices: Vec<String>,
}

/// Enrols devices: from now on they may get a password answer and an image. All of them, or none.
#[utoipa::path(post, path = "/api/v1/devices/enroll", tag = "devices", request_body = EnrollRequest, responses(
    (status = 200, body = Vec<DeviceView>),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "an identity conflict"),
))]
async fn enroll_devices(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
    Given(request): Given<EnrollRequest>,
) -> Result<Response, Failure> {
    if request.devices.is_empty() || request.devices.len() > N_ENROLLED_MAX {
        return Err(Failure::unprocessable(
            "devices",
            format!("`devices` names 1 to {N_ENROLLED_MAX} devices"),
        ));
    }
    let mut devices = api.fleet.enroll(&request.devices, &identity.actor).await?;
    if let Err(error) = api.rollouts.complete(&mut devices).await {
        tracing::warn!(
            error = model::chain::chain(&error),
            "the history of devices cannot be read"
        );
    }
    let ids: Vec<_> = devices.iter().map(|device| device.id.clone()).collect();
    let audited = Audited::detail(json!({ "devices": ids }));
    Ok(audited.with(Json(devices)))
}

/// One device.
#[utoipa::path(get, path = "/api/v1/devices/{id}", tag = "devices",
    params(("id" = String, Path, description = "The device's id or name")), responses(
    (status = 200, body = DeviceView),
    (status = 404, body = Problem, content_type = "application/problem+json"),
))]
async fn show_device(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<DeviceView>, Failure> {
    let mut devices = [api.fleet.device(&id)?];
    api.rollouts.complete(&mut devices).await?;
    let [device] = devices;
    Ok(Json(device))
}

/// What is to change of a device: what is missing stays, what is null goes.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DevicePatch {
    /// What to call it, 1 to 64 printable characters.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    name: Edit<String>,
    /// The words to sort by, all of them.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    tags: Edit<Vec<String>>,
    /// The group it belongs to.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    group: Edit<String>,
    /// Its chip, where it does not tell.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    chip: Edit<String>,
    /// The largest image that it takes, bytes.
    #[serde(default)]
    #[schema(value_type = Option<u64>)]
    slot_bytes: Edit<u64>,
    /// The name to log in with.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    username: Edit<String>,
}

/// Changes what its owner says of a device.
#[utoipa::path(patch, path = "/api/v1/devices/{id}", tag = "devices", request_body = DevicePatch,
    params(("id" = String, Path, description = "The device's id or name")), responses(
    (status = 200, body = DeviceView),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "the name is taken"),
    (status = 422, body = Problem, content_type = "application/problem+json"),
))]
async fn change_device(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
    Given(patch): Given<DevicePatch>,
) -> Result<Response, Failure> {
    let change = DeviceChange {
        name: patch.name.nested(),
        tags: patch.tags.nested().map(Option::unwrap_or_default),
        group: patch.group.nested(),
        chip: patch.chip.nested(),
        slot_bytes: patch.slot_bytes.nested(),
        username: patch.username.nested(),
        ..DeviceChange::default()
    };
    changed(&api, &id, change, &identity).await
}

/// Forgets a device. If it is still there, it is found again as a new one.
#[utoipa::path(delete, path = "/api/v1/devices/{id}", tag = "devices",
    params(("id" = String, Path, description = "The device's id or name")), responses(
    (status = 204, description = "forgotten"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "listed in the configuration, or in the middle of a job"),
))]
async fn remove_device(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let device = api.fleet.device(&id)?;
    api.fleet.remove(&device.id, &identity.actor).await?;
    let audited = Audited {
        target: Some(device.id),
        detail: json!({ "name": device.name }),
    };
    Ok(audited.with(StatusCode::NO_CONTENT))
}

/// Enrols one device: from now on it may get a password answer and an image.
#[utoipa::path(post, path = "/api/v1/devices/{id}/enroll", tag = "devices",
    params(("id" = String, Path, description = "The device's id or name")), responses(
    (status = 200, body = DeviceView),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "an identity conflict"),
))]
async fn enroll_device(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    api.fleet
        .enroll(std::slice::from_ref(&id), &identity.actor)
        .await?;
    Ok(shown(&api, api.fleet.device(&id)?).await)
}

/// Takes the enrolment back: the device is watched, and nothing is sent to it.
#[utoipa::path(delete, path = "/api/v1/devices/{id}/enroll", tag = "devices",
    params(("id" = String, Path, description = "The device's id or name")), responses(
    (status = 200, body = DeviceView),
    (status = 404, body = Problem, content_type = "application/problem+json"),
))]
async fn unenroll_device(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    Ok(shown(&api, api.fleet.unenroll(&id, &identity.actor).await?).await)
}

/// Whether updates are to be possible.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct OtaRequest {
    /// Whether they are.
    enabled: bool,
}

/// Switches updates of a device on or off, and keeps them so over its restarts.
#[utoipa::path(put, path = "/api/v1/devices/{id}/ota", tag = "devices", request_body = OtaRequest,
    params(("id" = String, Path, description = "The device's id or name")), responses(
    (status = 200, body = DeviceView),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "the device or a rule says no"),
    (status = 502, body = Problem, content_type = "application/problem+json", description = "it does not answer"),
))]
async fn set_ota(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
    Given(request): Given<OtaRequest>,
) -> Result<Response, Failure> {
    let device = api.fleet.set_ota(&id, request.enabled, &identity.actor).await?;
    let audited = Audited {
        target: Some(device.id.clone()),
        detail: json!({ "enabled": request.enabled }),
    };
    Ok(audited.with(Json(completed(&api, device).await)))
}

/// A version, or a digest of an image.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct VersionRequest {
    /// The version or the digest, 1 to 64 printable characters.
    version: String,
}

/// Pins a device to a version or digest: nothing else is offered to it.
#[utoipa::path(put, path = "/api/v1/devices/{id}/pin", tag = "devices", request_body = VersionRequest,
    params(("id" = String, Path, description = "The device's id or name")), responses(
    (status = 200, body = DeviceView),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json"),
))]
async fn pin_device(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
    Given(request): Given<VersionRequest>,
) -> Result<Response, Failure> {
    let change = DeviceChange {
        pinned: Some(Some(request.version)),
        ..DeviceChange::default()
    };
    changed(&api, &id, change, &identity).await
}

/// Takes the pin away.
#[utoipa::path(delete, path = "/api/v1/devices/{id}/pin", tag = "devices",
    params(("id" = String, Path, description = "The device's id or name")), responses(
    (status = 200, body = DeviceView),
    (status = 404, body = Problem, content_type = "application/problem+json"),
))]
async fn unpin_device(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let change = DeviceChange {
        pinned: Some(None),
        ..DeviceChange::default()
    };
    changed(&api, &id, change, &identity).await
}

/// Leaves a version or digest out: it is not offered to this device.
#[utoipa::path(put, path = "/api/v1/devices/{id}/skip", tag = "devices", request_body = VersionRequest,
    params(("id" = String, Path, description = "The device's id or name")), responses(
    (status = 200, body = DeviceView),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json"),
))]
async fn skip_version(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
    Given(request): Given<VersionRequest>,
) -> Result<Response, Failure> {
    let mut skipped = api.fleet.device(&id)?.skipped;
    skipped.push(request.version);
    let change = DeviceChange {
        skipped: Some(skipped),
        ..DeviceChange::default()
    };
    changed(&api, &id, change, &identity).await
}

/// Which version.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct UnskipQuery {
    /// The version or digest; all where none is named.
    version: Option<String>,
}

/// Offers versions again that were left out.
#[utoipa::path(delete, path = "/api/v1/devices/{id}/skip", tag = "devices",
    params(("id" = String, Path, description = "The device's id or name"), UnskipQuery), responses(
    (status = 200, body = DeviceView),
    (status = 404, body = Problem, content_type = "application/problem+json"),
))]
async fn unskip_version(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
    Asked(query): Asked<UnskipQuery>,
) -> Result<Response, Failure> {
    let mut skipped = api.fleet.device(&id)?.skipped;
    match &query.version {
        Some(version) => skipped.retain(|skipped| skipped != version),
        None => skipped.clear(),
    }
    let change = DeviceChange {
        skipped: Some(skipped),
        ..DeviceChange::default()
    };
    changed(&api, &id, change, &identity).await
}

/// A device's password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PasswordRequest {
    /// The password; null to forget it.
    #[serde(default)]
    #[schema(value_type = Option<String>, required)]
    password: Edit<SecretString>,
}

/// Keeps a device's password, sealed; it is used when the device asks for it, and never shown.
#[utoipa::path(put, path = "/api/v1/devices/{id}/password", tag = "devices", request_body = PasswordRequest,
    params(("id" = String, Path, description = "The device's id or name")), responses(
    (status = 204, description = "kept, or forgotten"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json"),
))]
async fn set_password(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
    Given(request): Given<PasswordRequest>,
) -> Result<Response, Failure> {
    let password = match request.password {
        Edit::Keep => {
            return Err(Failure::unprocessable("body", "`password` is missing")
                .next("send the password, or null to have it forgotten"));
        }
        Edit::Clear => None,
        Edit::Set(password) => Some(password),
    };
    let id = api.fleet.device(&id)?.id;
    let is_set = password.is_some();
    api.fleet.set_password(&id, password, &identity.actor).await?;
    let audited = Audited {
        target: Some(id),
        detail: json!({ "set": is_set }),
    };
    Ok(audited.with(StatusCode::NO_CONTENT))
}

/// Which device takes another one's place.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReplaceRequest {
    /// The new device's id or name.
    by: String,
}

/// Puts a new device in the place of a broken one: it takes over name, tags, group, pin, skips, password and enrolment.
#[utoipa::path(post, path = "/api/v1/devices/{id}/replace", tag = "devices", request_body = ReplaceRequest,
    params(("id" = String, Path, description = "The broken device's id or name")), responses(
    (status = 200, body = DeviceView),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json"),
))]
async fn replace_device(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
    Given(request): Given<ReplaceRequest>,
) -> Result<Response, Failure> {
    let old = api.fleet.device(&id)?.id;
    let device = api.fleet.replace(&old, &request.by, &identity.actor).await?;
    let audited = Audited {
        target: Some(old),
        detail: json!({ "by": device.id }),
    };
    Ok(audited.with(Json(completed(&api, device).await)))
}

/// Which looks.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct HealthQuery {
    /// Only looks from this moment on.
    #[serde(default)]
    since_ms: i64,
    /// At most so many, up to 10000; 1000 where none is named.
    limit: Option<u32>,
}

/// How a device has fared, the latest look first.
#[utoipa::path(get, path = "/api/v1/devices/{id}/health", tag = "devices",
    params(("id" = String, Path, description = "The device's id or name"), HealthQuery), responses(
    (status = 200, body = Vec<HealthView>),
    (status = 404, body = Problem, content_type = "application/problem+json"),
))]
async fn device_health(
    State(api): State<Api>,
    Path(id): Path<String>,
    Asked(query): Asked<HealthQuery>,
) -> Result<Json<Vec<HealthView>>, Failure> {
    let limit = query.limit.unwrap_or(N_LOOKS).min(N_LOOKS_MAX);
    Ok(Json(api.fleet.health(&id, query.since_ms, limit).await?))
}

/// Where devices are looked for, and how each source fares.
#[utoipa::path(get, path = "/api/v1/discovery", tag = "discovery", responses((status = 200, body = Vec<SourceView>)))]
async fn list_sources(State(api): State<Api>) -> Json<Vec<SourceView>> {
    Json(api.fleet.sources())
}

/// Scans the configured networks now, and answers with what was covered. A large network takes minutes.
#[utoipa::path(post, path = "/api/v1/discovery/scan", tag = "discovery", responses(
    (status = 200, body = CoverageView),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "a scan is under way"),
    (status = 422, body = Problem, content_type = "application/problem+json", description = "no network is configured"),
))]
async fn scan(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
) -> Result<Json<CoverageView>, Failure> {
    Ok(Json(api.fleet.scan(&identity.actor).await?))
}

async fn changed(
    api: &Api,
    id: &str,
    change: DeviceChange,
    identity: &Identity,
) -> Result<Response, Failure> {
    let mut audited = json!({
        "name": change.name,
        "tags": change.tags,
        "group": change.group,
        "pinned": change.pinned,
        "skipped": change.skipped,
        "chip": change.chip,
        "slot_bytes": change.slot_bytes,
        "username_changed": change.username.as_ref().map(|_| true),
    });
    let device = api.fleet.change(id, change, &identity.actor).await?;
    if let Some(fields) = audited.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    let audited = Audited {
        target: Some(device.id.clone()),
        detail: audited,
    };
    Ok(audited.with(Json(completed(api, device).await)))
}

async fn shown(api: &Api, device: DeviceView) -> Response {
    let device = completed(api, device).await;
    Audited::target(&device.id).with(Json(device))
}
