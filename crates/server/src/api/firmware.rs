//! Firmware: what is kept, brought, approved, removed.

use std::collections::BTreeMap;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::Response;
use axum::{Extension, Json};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use model::access::Role;
use model::chain::chain;
use model::device::Device;
use model::id::Sha256;
use model::image::Image;
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::{FleetRow, ImageError};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::auth::{Identity, broken};
use super::body::{Asked, Edit, Given};
use super::guard::Audited;
use super::problem::Failure;
use crate::firmware::{CheckError, RepositoryError, Source};
use crate::views::{FeedView, FirmwareListView, FirmwareView, Problem};

/// Longest file name, bytes (PROTOCOLS.md: nothing longer than 120 is taken from a vendor either).
const NAME_MAX_LEN: usize = 120;

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_firmware, add_firmware))
        .routes(routes!(check_feeds))
        .routes(routes!(show_firmware, remove_firmware))
        .routes(routes!(approve_firmware))
        .routes(routes!(firmware_notes, set_firmware_notes))
        .routes(routes!(firmware_image))
}

impl From<RepositoryError> for Failure {
    fn from(err: RepositoryError) -> Self {
        let (status, name) = match &err {
            RepositoryError::NotFound { .. } | RepositoryError::Device(_) => {
                (StatusCode::NOT_FOUND, "not-found")
            }
            RepositoryError::Outside { .. } => (StatusCode::BAD_REQUEST, "outside"),
            RepositoryError::InUse { .. } => (StatusCode::CONFLICT, "in-use"),
            RepositoryError::InFolder { .. } => (StatusCode::CONFLICT, "in-folder"),
            RepositoryError::NotApprovable { .. } => (StatusCode::CONFLICT, "not-approvable"),
            RepositoryError::NotRunning { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "not-running"),
            RepositoryError::Image(ImageError::Full { .. }) => {
                (StatusCode::INSUFFICIENT_STORAGE, "disk-full")
            }
            RepositoryError::Image(_) | RepositoryError::Store(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "store")
            }
        };
        let text = match status {
            // What the system said of which file is the log's, not the client's.
            StatusCode::SERVICE_UNAVAILABLE => {
                tracing::error!(
                    error = chain(&err),
                    "the API could not use the firmware repository"
                );
                "the server could not read or write its firmware".to_owned()
            }
            _ => chain(&err),
        };
        Self::new(status, name, text).next(err.next_step())
    }
}

impl From<CheckError> for Failure {
    fn from(err: CheckError) -> Self {
        match err {
            CheckError::Repository(err) => err.into(),
            CheckError::Unknown(err) => {
                Self::unprocessable("unknown-feed", chain(&err)).next("list the feeds: reflash firmware list")
            }
        }
    }
}

/// Where files lie on the server is for administrators.
fn without_paths(mut feeds: Vec<FeedView>, identity: &Identity) -> Vec<FeedView> {
    if identity.role < Role::Admin {
        for feed in &mut feeds {
            feed.file_path = None;
        }
    }
    feeds
}

/// All images, the newest first, with the room they take, the feeds and the folder.
#[utoipa::path(get, path = "/api/v1/firmware", tag = "firmware", responses(
    (status = 200, body = FirmwareListView),
    (status = 401, body = Problem, content_type = "application/problem+json"),
))]
async fn list_firmware(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
) -> Result<Json<FirmwareListView>, Failure> {
    let mut list = api.repository.list().await?;
    list.feeds = without_paths(list.feeds, &identity);
    if identity.role < Role::Admin {
        list.folder = None;
    }
    Ok(Json(list))
}

/// What an image is called, and who runs it.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AddQuery {
    /// Its file name, without a folder; `name` is understood as well.
    #[serde(alias = "name")]
    file_name: String,
    /// The id or name of a device that runs this very image: it becomes the way back.
    running_on: Option<String>,
}

/// Brings an image: its bytes are the body. It is inspected and kept; one that is refused is kept with the reasons, and never offered.
#[utoipa::path(post, path = "/api/v1/firmware", tag = "firmware", params(AddQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "The image, at most 16 MiB"), responses(
    (status = 201, body = FirmwareView),
    (status = 200, body = FirmwareView, description = "it was known"),
    (status = 400, body = Problem, content_type = "application/problem+json"),
    (status = 413, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json", description = "it is not what that device runs"),
    (status = 507, body = Problem, content_type = "application/problem+json", description = "the disk is full"),
))]
async fn add_firmware(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
    Asked(query): Asked<AddQuery>,
    body: Bytes,
) -> Result<Response, Failure> {
    let name = query.file_name;
    let is_plain =
        !name.contains(['/', '\\']) && !name.chars().any(char::is_control) && !name.starts_with('.');
    if name.is_empty() || name.len() > NAME_MAX_LEN || !is_plain {
        return Err(Failure::bad_request(
            "file-name",
            format!("`file_name` is the name of a file without a folder, 1 to {NAME_MAX_LEN} bytes"),
        ));
    }
    if body.is_empty() {
        return Err(
            Failure::bad_request("empty", "the body is empty").next("send the image's bytes as the body")
        );
    }
    let device = match &query.running_on {
        Some(named) => Some(device(&api, named).await?),
        None => None,
    };
    let image = Image::new(&name, &body[..]);
    // From here on the image is in memory once.
    drop(body);
    let added = match &device {
        Some(device) => {
            let added = api
                .repository
                .add_running_on(&image, device, &identity.actor)
                .await?;
            // Its way back is known from now on.
            api.fleet.take_over_one(&device.id).await;
            added
        }
        None => {
            api.repository
                .add(&image, &Source::Upload, &identity.actor)
                .await?
        }
    };
    let view = shown(&api, &added.digest).await?;
    let audited = Audited {
        target: Some(added.digest.to_string()),
        detail: json!({
            "file_name": name,
            "len_bytes": image.bytes().len(),
            "state": view.state,
            "running_on": device.map(|device| device.id.key()),
        }),
    };
    let status = if added.is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(audited.with((status, Json(view))))
}

/// The device that somebody means, as it was stored last.
async fn device(api: &Api, named: &str) -> Result<Device, Failure> {
    let key = api.fleet.device(named)?.id;
    let rows = api.store.fleet().await.map_err(|err| broken(&err))?;
    let unseen = || {
        Failure::conflict(
            "unseen",
            "this device was never reached, so nobody can say what it runs",
        )
        .next("wait until it answers")
    };
    rows.into_iter()
        .find(|row| row.id.key() == key && row.snapshot.is_some())
        .and_then(FleetRow::into_device)
        .ok_or_else(unseen)
}

/// Which feeds.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CheckRequest {
    /// All feeds of this family, whether they are in use or not.
    family: Option<String>,
    /// These feeds, by name, as `komfovent-C6`.
    #[serde(default)]
    feeds: Vec<String>,
}

/// Looks at the vendors' downloads now: at those in use, or at those named. It may take minutes.
#[utoipa::path(post, path = "/api/v1/firmware/check", tag = "firmware", request_body = CheckRequest, responses(
    (status = 200, body = Vec<FeedView>, description = "each feed tells how the look at it went"),
    (status = 422, body = Problem, content_type = "application/problem+json", description = "no such feed"),
))]
async fn check_feeds(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
    Given(request): Given<CheckRequest>,
) -> Result<Response, Failure> {
    let mut names = request.feeds;
    names.extend(request.family);
    let feeds = api.repository.check_feeds(&names).await?;
    let looked_at: BTreeMap<_, _> = feeds
        .iter()
        .map(|feed| (feed.name.clone(), feed.sha256.clone()))
        .collect();
    let feeds = without_paths(feeds, &identity);
    Ok(Audited::detail(json!({ "feeds": looked_at })).with(Json(feeds)))
}

/// One image.
#[utoipa::path(get, path = "/api/v1/firmware/{sha256}", tag = "firmware",
    params(("sha256" = String, Path, description = "Its SHA-256, version or file name")), responses(
    (status = 200, body = FirmwareView),
    (status = 400, body = Problem, content_type = "application/problem+json", description = "a path outside of the firmware folder"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
))]
async fn show_firmware(
    State(api): State<Api>,
    Path(word): Path<String>,
) -> Result<Json<FirmwareView>, Failure> {
    let digest = api.repository.find(&word)?;
    Ok(Json(shown(&api, &digest).await?))
}

async fn shown(api: &Api, digest: &Sha256) -> Result<FirmwareView, Failure> {
    let view = api.repository.get(digest).await?;
    Ok(view.ok_or_else(|| RepositoryError::NotFound {
        what: digest.to_string(),
    })?)
}

/// Takes an image away, unless a device runs it or could go back to it.
#[utoipa::path(delete, path = "/api/v1/firmware/{sha256}", tag = "firmware",
    params(("sha256" = String, Path, description = "Its SHA-256, version or file name")), responses(
    (status = 204, description = "removed"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "it is needed"),
))]
async fn remove_firmware(State(api): State<Api>, Path(word): Path<String>) -> Result<Response, Failure> {
    let digest = api.repository.find(&word)?;
    let view = shown(&api, &digest).await?;
    api.repository.remove(&digest).await?;
    Ok(of(&view).with(StatusCode::NO_CONTENT))
}

/// Lets an image that waits or is quarantined be offered.
#[utoipa::path(post, path = "/api/v1/firmware/{sha256}/approve", tag = "firmware",
    params(("sha256" = String, Path, description = "Its SHA-256, version or file name; its SHA-256 where it is quarantined")), responses(
    (status = 200, body = FirmwareView),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "it cannot be approved, or not by this name"),
))]
async fn approve_firmware(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
    Path(word): Path<String>,
) -> Result<Response, Failure> {
    let digest = api.repository.find(&word)?;
    let before = shown(&api, &digest).await?;
    // A name can be given to other bytes; what is approved are these.
    if before.state == model::firmware::State::Quarantined && word.parse() != Ok(digest) {
        return Err(Failure::conflict(
            "digest-needed",
            format!("{} came by a way that anybody could have changed", before.name),
        )
        .next(format!(
            "compare its SHA-256 with what the vendor says, then approve it by that: {digest}"
        )));
    }
    api.repository.approve(&digest, &identity.actor).await?;
    let view = shown(&api, &digest).await?;
    Ok(of(&view).with(Json(view)))
}

/// Release notes.
#[derive(Serialize, ToSchema)]
struct NotesView {
    /// The notes as they were written, Markdown; null where there are none.
    notes: Option<String>,
}

/// The release notes of an image.
#[utoipa::path(get, path = "/api/v1/firmware/{sha256}/notes", tag = "firmware",
    params(("sha256" = String, Path, description = "Its SHA-256, version or file name")), responses(
    (status = 200, body = NotesView),
    (status = 404, body = Problem, content_type = "application/problem+json"),
))]
async fn firmware_notes(
    State(api): State<Api>,
    Path(word): Path<String>,
) -> Result<Json<NotesView>, Failure> {
    let digest = api.repository.find(&word)?;
    let notes = api.repository.notes(&digest).await?;
    Ok(Json(NotesView { notes }))
}

/// Release notes to be kept.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NotesRequest {
    /// The notes; null to take them away. The first 64 KiB are kept.
    #[serde(default)]
    #[schema(value_type = Option<String>, required)]
    notes: Edit<String>,
}

/// Gives an image release notes.
#[utoipa::path(put, path = "/api/v1/firmware/{sha256}/notes", tag = "firmware", request_body = NotesRequest,
    params(("sha256" = String, Path, description = "Its SHA-256, version or file name")), responses(
    (status = 200, body = NotesView),
    (status = 404, body = Problem, content_type = "application/problem+json"),
))]
async fn set_firmware_notes(
    State(api): State<Api>,
    Path(word): Path<String>,
    Given(request): Given<NotesRequest>,
) -> Result<Response, Failure> {
    let notes = match request.notes {
        Edit::Keep => return Err(Failure::unprocessable("body", "`notes` is missing")),
        Edit::Clear => String::new(),
        Edit::Set(notes) => notes,
    };
    let digest = api.repository.find(&word)?;
    api.repository.set_notes(&digest, &notes).await?;
    let notes = api.repository.notes(&digest).await?;
    let audited = Audited::target(digest.to_string());
    Ok(audited.with(Json(NotesView { notes })))
}

/// The bytes of an image, as it was brought.
#[utoipa::path(get, path = "/api/v1/firmware/{sha256}/image", tag = "firmware",
    params(("sha256" = String, Path, description = "Its SHA-256, version or file name")), responses(
    (status = 200, content_type = "application/octet-stream", body = Vec<u8>),
    (status = 404, body = Problem, content_type = "application/problem+json"),
))]
async fn firmware_image(State(api): State<Api>, Path(word): Path<String>) -> Result<Response, Failure> {
    let digest = api.repository.find(&word)?;
    let image = api.repository.image(&digest).await?;
    // The digest, not the file's name: that is somebody else's text.
    let disposition = format!("attachment; filename=\"{digest}.bin\"");
    let mut response = Response::new(Body::from(Bytes::from_owner(Shared(image))));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if let Ok(disposition) = HeaderValue::from_str(&disposition) {
        headers.insert(CONTENT_DISPOSITION, disposition);
    }
    Ok(response)
}

/// An image's bytes, sent as they lie in memory.
struct Shared(Image);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

fn of(view: &FirmwareView) -> Audited {
    Audited {
        target: Some(view.sha256.clone()),
        detail: json!({ "name": view.name, "file_name": view.file_name }),
    }
}
