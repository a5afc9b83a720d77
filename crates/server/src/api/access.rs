//! Who may do what: one table for all routes. What is not in it, nobody may.

use std::time::Duration;

use http::Method;
use model::access::Role;

/// The least that somebody must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Least {
    /// Anybody; the route itself tells nothing that is not for everybody.
    Anyone,
    /// Whoever asks from this machine, unless the configuration says otherwise; else a viewer.
    Metrics,
    /// Somebody with this role.
    Role(Role),
}

/// How large a request's body may be, and of what kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// JSON, at most `ApiSettings::json_max_len`.
    Json,
    /// JSON of somebody we do not know yet, at most `TOKEN_MAX_LEN`.
    Token,
    /// A firmware image, at most `ApiSettings::image_max_len`.
    Image,
}

/// Largest body of JSON where the configuration says nothing, bytes (RELIABILITY.md T19).
pub(crate) const JSON_MAX_LEN: usize = 1024 * 1024;
/// Largest body of somebody unknown, bytes: a token fits, and hundreds of strangers at once cost nothing.
pub(crate) const TOKEN_MAX_LEN: usize = 4 * 1024;
/// Largest firmware image there is, bytes; no family takes one of half that size.
pub(crate) const IMAGE_MAX_LEN: usize = 16 * 1024 * 1024;

/// One method of one route.
#[derive(Clone, Debug)]
pub struct Access {
    /// The method.
    pub method: Method,
    /// The route, as it is registered.
    pub path: &'static str,
    /// Who may.
    pub least: Least,
    /// What it is called in the audit; empty where it only reads.
    pub action: &'static str,
    /// What it takes.
    pub takes: Takes,
    /// How long its answer may take, where others are asked first; else as long as any.
    pub patience: Option<Duration>,
}

/// How long a device may take to answer: it is asked several times, and may be restarting. Guess.
const DEVICE: Option<Duration> = Some(Duration::from_mins(2));
/// How long networks and vendors may take: a scan of the largest network that is allowed takes some 3 minutes.
const NETWORK: Option<Duration> = Some(Duration::from_mins(10));

const fn read(path: &'static str, least: Role) -> Access {
    Access {
        method: Method::GET,
        path,
        least: Least::Role(least),
        action: "",
        takes: Takes::Json,
        patience: None,
    }
}

const fn open(path: &'static str, least: Least) -> Access {
    Access {
        method: Method::GET,
        path,
        least,
        action: "",
        takes: Takes::Json,
        patience: None,
    }
}

const fn patiently(access: Access, patience: Option<Duration>) -> Access {
    // A struct update would have to drop the rest of `access`, which a constant cannot.
    let mut access = access;
    access.patience = patience;
    access
}

const fn change(method: Method, path: &'static str, least: Role, action: &'static str) -> Access {
    Access {
        method,
        path,
        least: Least::Role(least),
        action,
        takes: Takes::Json,
        patience: None,
    }
}

use Role::{Admin, Operator, Viewer};

/// The table. `docs/guide/api.md` shows it, and a test holds both to each other and to the router.
pub const TABLE: &[Access] = &[
    open("/health", Least::Anyone),
    open("/metrics", Least::Metrics),
    read("/api/v1/openapi.json", Viewer),
    read("/api/v1/whoami", Viewer),
    Access {
        method: Method::POST,
        path: "/api/v1/session",
        least: Least::Anyone,
        action: "session.begin",
        takes: Takes::Token,
        patience: None,
    },
    change(Method::DELETE, "/api/v1/session", Viewer, "session.end"),
    read("/api/v1/server", Viewer),
    read("/api/v1/attach", Admin),
    // devices
    read("/api/v1/devices", Viewer),
    patiently(
        change(Method::POST, "/api/v1/devices", Admin, "device.add"),
        DEVICE,
    ),
    change(Method::POST, "/api/v1/devices/enroll", Admin, "device.enroll"),
    read("/api/v1/devices/{id}", Viewer),
    change(Method::PATCH, "/api/v1/devices/{id}", Admin, "device.change"),
    change(Method::DELETE, "/api/v1/devices/{id}", Admin, "device.remove"),
    change(
        Method::POST,
        "/api/v1/devices/{id}/enroll",
        Admin,
        "device.enroll",
    ),
    change(
        Method::DELETE,
        "/api/v1/devices/{id}/enroll",
        Admin,
        "device.unenroll",
    ),
    patiently(
        change(Method::PUT, "/api/v1/devices/{id}/ota", Operator, "device.ota"),
        DEVICE,
    ),
    change(Method::PUT, "/api/v1/devices/{id}/pin", Operator, "device.pin"),
    change(
        Method::DELETE,
        "/api/v1/devices/{id}/pin",
        Operator,
        "device.unpin",
    ),
    change(Method::PUT, "/api/v1/devices/{id}/skip", Operator, "device.skip"),
    change(
        Method::DELETE,
        "/api/v1/devices/{id}/skip",
        Operator,
        "device.unskip",
    ),
    change(
        Method::PUT,
        "/api/v1/devices/{id}/password",
        Admin,
        "device.password",
    ),
    change(
        Method::POST,
        "/api/v1/devices/{id}/replace",
        Admin,
        "device.replace",
    ),
    read("/api/v1/devices/{id}/health", Viewer),
    read("/api/v1/discovery", Viewer),
    patiently(
        change(Method::POST, "/api/v1/discovery/scan", Operator, "discovery.scan"),
        NETWORK,
    ),
    // firmware
    read("/api/v1/firmware", Viewer),
    Access {
        method: Method::POST,
        path: "/api/v1/firmware",
        least: Least::Role(Admin),
        action: "firmware.add",
        takes: Takes::Image,
        patience: DEVICE,
    },
    patiently(
        change(Method::POST, "/api/v1/firmware/check", Operator, "firmware.check"),
        NETWORK,
    ),
    read("/api/v1/firmware/{sha256}", Viewer),
    change(
        Method::DELETE,
        "/api/v1/firmware/{sha256}",
        Admin,
        "firmware.remove",
    ),
    change(
        Method::POST,
        "/api/v1/firmware/{sha256}/approve",
        Admin,
        "firmware.approve",
    ),
    read("/api/v1/firmware/{sha256}/notes", Viewer),
    change(
        Method::PUT,
        "/api/v1/firmware/{sha256}/notes",
        Admin,
        "firmware.notes",
    ),
    read("/api/v1/firmware/{sha256}/image", Operator),
    // plans, rollouts, jobs
    patiently(change(Method::POST, "/api/v1/plans", Viewer, "plan"), DEVICE),
    read("/api/v1/rollouts", Viewer),
    patiently(
        change(Method::POST, "/api/v1/rollouts", Operator, "rollout.create"),
        DEVICE,
    ),
    change(Method::POST, "/api/v1/rollouts/stop", Operator, "rollout.stop"),
    read("/api/v1/rollouts/{id}", Viewer),
    change(
        Method::POST,
        "/api/v1/rollouts/{id}/pause",
        Operator,
        "rollout.pause",
    ),
    change(
        Method::POST,
        "/api/v1/rollouts/{id}/resume",
        Operator,
        "rollout.resume",
    ),
    change(
        Method::POST,
        "/api/v1/rollouts/{id}/abort",
        Operator,
        "rollout.abort",
    ),
    change(
        Method::POST,
        "/api/v1/rollouts/{id}/devices/{device}/cancel",
        Operator,
        "rollout.cancel",
    ),
    read("/api/v1/jobs/{id}", Viewer),
    change(Method::POST, "/api/v1/jobs/{id}/cancel", Operator, "job.cancel"),
    read("/api/v1/history", Viewer),
    read("/api/v1/stats", Viewer),
    // windows and schedules
    read("/api/v1/timetable", Viewer),
    read("/api/v1/windows", Viewer),
    read("/api/v1/windows/{name}", Viewer),
    change(Method::PUT, "/api/v1/windows/{name}", Admin, "window.set"),
    change(Method::DELETE, "/api/v1/windows/{name}", Admin, "window.remove"),
    read("/api/v1/schedules", Viewer),
    read("/api/v1/schedules/{name}", Viewer),
    change(Method::PUT, "/api/v1/schedules/{name}", Admin, "schedule.set"),
    change(
        Method::DELETE,
        "/api/v1/schedules/{name}",
        Admin,
        "schedule.remove",
    ),
    patiently(
        change(
            Method::POST,
            "/api/v1/schedules/{name}/run",
            Operator,
            "schedule.run",
        ),
        DEVICE,
    ),
    // the server itself
    read("/api/v1/settings", Viewer),
    change(Method::PATCH, "/api/v1/settings", Admin, "settings.change"),
    change(
        Method::POST,
        "/api/v1/configuration/reload",
        Admin,
        "configuration.reload",
    ),
    // Home Assistant
    read("/api/v1/configuration/home-assistant", Viewer),
    change(
        Method::PUT,
        "/api/v1/configuration/home-assistant",
        Admin,
        "home-assistant.configure",
    ),
    change(
        Method::DELETE,
        "/api/v1/configuration/home-assistant",
        Admin,
        "home-assistant.forget",
    ),
    change(
        Method::PUT,
        "/api/v1/home-assistant/{entry_id}",
        Operator,
        "home-assistant.shows",
    ),
    change(
        Method::DELETE,
        "/api/v1/home-assistant/{entry_id}",
        Operator,
        "home-assistant.shows-nothing",
    ),
    patiently(
        change(Method::POST, "/api/v1/notify/test", Admin, "notify.test"),
        DEVICE,
    ),
    read("/api/v1/events", Viewer),
    read("/api/v1/audit", Admin),
    read("/api/v1/audit/check", Admin),
    read("/api/v1/tokens", Admin),
    change(Method::POST, "/api/v1/tokens", Admin, "token.create"),
    change(Method::DELETE, "/api/v1/tokens/{id}", Admin, "token.revoke"),
];

/// The page beside the API: files that are in the source code, for anybody. It is no part of the contract.
pub(crate) const PAGE: &[Access] = &[
    open(crate::page::PATH, Least::Anyone),
    open(crate::page::FILE_PATH, Least::Anyone),
];

/// What the table says of a request; none where nobody may. `HEAD` is `GET` without its body.
pub(crate) fn access(method: &Method, path: &str) -> Option<&'static Access> {
    let method = if method == Method::HEAD {
        &Method::GET
    } else {
        method
    };
    TABLE
        .iter()
        .chain(PAGE)
        .find(|access| access.method == *method && access.path == path)
}

/// The methods that a route has.
pub(crate) fn methods(path: &str) -> Vec<&'static str> {
    TABLE
        .iter()
        .chain(PAGE)
        .filter(|access| access.path == path)
        .map(|access| access.method.as_str())
        .collect()
}

/// Whether a request with this method may change anything.
pub(crate) fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_never_changes_and_changing_has_a_name() {
        for access in TABLE {
            assert_eq!(
                changes(&access.method),
                !access.action.is_empty(),
                "{} {}",
                access.method,
                access.path
            );
        }
    }

    #[test]
    fn no_route_is_there_twice() {
        for (idx, access) in TABLE.iter().enumerate() {
            let twice = TABLE[idx + 1..]
                .iter()
                .any(|other| other.method == access.method && other.path == access.path);
            assert!(!twice, "{} {}", access.method, access.path);
        }
    }

    #[test]
    fn only_three_routes_are_open_to_anybody() {
        let open: Vec<_> = TABLE
            .iter()
            .filter(|access| !matches!(access.least, Least::Role(_)))
            .map(|access| (access.method.as_str(), access.path))
            .collect();
        assert_eq!(
            open,
            [
                ("GET", "/health"),
                ("GET", "/metrics"),
                ("POST", "/api/v1/session")
            ]
        );
    }
}
