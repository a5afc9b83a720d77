//! Every key that there is, by the place where it stands.

/// The blocks at the very left.
pub(super) const ROOT: &[&str] = &[
    "server",
    "mqtt",
    "policy",
    "schedules",
    "notify",
    "firmware_index",
    "firmware_path",
    "windows",
    "groups",
    "retention",
    "ir_remote_ota",
    "arduino",
    "komfovent",
];
pub(super) const SERVER: &[&str] = &[
    "listen",
    "data",
    "database",
    "tls",
    "hosts",
    "frame_ancestors",
    "trusted_proxies",
    "allowed_networks",
    "callback",
    "pull",
    "announce",
    "limits",
];
pub(super) const TLS: &[&str] = &["cert", "key", "client_ca"];
pub(super) const CALLBACK: &[&str] = &["bind", "port"];
pub(super) const PULL: &[&str] = &["bind", "port", "host"];
pub(super) const LIMITS: &[&str] = &[
    "requests_per_minute",
    "failed_logins_per_minute",
    "connections",
    "body_bytes",
    "image_bytes",
];
pub(super) const MQTT: &[&str] = &[
    "broker",
    "username",
    "password",
    "client_id",
    "ca",
    "cert",
    "key",
    "status_prefix",
    "prefix",
    "discovery",
    "discovery_prefix",
    "commands",
];
pub(super) const POLICY: &[&str] = &[
    "auto_enroll",
    "canary",
    "canary_soak",
    "at_once",
    "max_failures",
    "soak",
    "rollback",
    "quarantine_after",
    "require_signature",
    "signing_keys",
];
pub(super) const SCHEDULE: &[&str] = &["cron", "window", "what", "tags", "timezone"];
pub(super) const NOTIFY: &[&str] = &["webhook", "mqtt", "digest", "about"];
pub(super) const WEBHOOK: &[&str] = &["url", "secret", "form"];
pub(super) const INDEX: &[&str] = &["url", "public_key"];
pub(super) const WINDOW: &[&str] = &["start", "duration", "days", "timezone"];
pub(super) const GROUP: &[&str] = &["at_once"];
pub(super) const RETENTION: &[&str] = &["samples", "events", "jobs", "backups", "downloads"];
pub(super) const IR_REMOTE: &[&str] = &[
    "scan_interval",
    "poll_interval",
    "network_range",
    "allow_large_scan",
    "firmware_path",
    "auto_discovery",
    "update_check_interval",
    "http_port",
    "ota_port",
    "ota_password",
    "devices",
];
pub(super) const ARDUINO: &[&str] = &[
    "poll_interval",
    "http_port",
    "ota_port",
    "ota_password",
    "devices",
];
pub(super) const KOMFOVENT: &[&str] = &[
    "scan_interval",
    "poll_interval",
    "network_range",
    "allow_large_scan",
    "auto_discovery",
    "update_check_interval",
    "firmware_urls",
    "http_port",
    "modbus_port",
    "username",
    "password",
    "stop_unit",
    "devices",
];
/// Of a device that is an ESP32.
pub(super) const ESP_DEVICE: &[&str] = &[
    "ip",
    "host",
    "name",
    "password",
    "chip",
    "slot_bytes",
    "group",
    "tags",
];
/// Of a device with a login.
pub(super) const LOGIN_DEVICE: &[&str] = &["ip", "host", "name", "username", "password", "group", "tags"];

/// Where which keys stand; places that the owner names are written with a star.
pub(super) const PLACES: &[(&str, &[&str])] = &[
    ("", ROOT),
    ("server", SERVER),
    ("server.tls", TLS),
    ("server.callback", CALLBACK),
    ("server.pull", PULL),
    ("server.limits", LIMITS),
    ("mqtt", MQTT),
    ("policy", POLICY),
    ("schedules.*", SCHEDULE),
    ("notify", NOTIFY),
    ("notify.webhook", WEBHOOK),
    ("firmware_index", INDEX),
    ("windows.*", WINDOW),
    ("groups.*", GROUP),
    ("retention", RETENTION),
    ("ir_remote_ota", IR_REMOTE),
    ("arduino", ARDUINO),
    ("komfovent", KOMFOVENT),
    ("ir_remote_ota.devices", ESP_DEVICE),
    ("komfovent.devices", LOGIN_DEVICE),
];

/// Keys that are read and checked, and that nothing comes of in this version; whoever writes one is told.
pub(super) const WITHOUT_EFFECT: &[(&str, &[&str])] = &[("policy", &["signing_keys"])];

/// The keys of a place; none where the owner chooses them.
pub(super) fn of(path: &str) -> &'static [&'static str] {
    let same = |place: &str| match place.strip_suffix(".*") {
        Some(block) => path.strip_prefix(block).is_some_and(|rest| rest.starts_with('.')),
        None => place == path,
    };
    let place = PLACES.iter().find(|(place, _)| same(place));
    place.map_or(&[], |(_, keys)| keys)
}

/// Where a key stands.
pub(super) fn places_of(key: &str) -> Vec<&'static str> {
    let places = PLACES.iter().filter(|(_, keys)| keys.contains(&key));
    places.map(|(place, _)| *place).collect()
}

/// Whether there is such a key at all.
pub(super) fn exists(key: &str) -> bool {
    PLACES.iter().any(|(_, keys)| keys.contains(&key))
}

/// Whether what stands after it is never shown.
pub(super) fn is_secret(key: &str) -> bool {
    // An address of a web hook, and one of a database, are as good as a password.
    matches!(
        key,
        "password" | "ota_password" | "secret" | "url" | "database" | "broker"
    )
}
