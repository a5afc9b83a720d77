//! What differs between two configurations, in words.

use std::collections::BTreeMap;
use std::path::Path;

use secrecy::{ExposeSecret as _, SecretString};

use super::values::in_words;
use super::{AtOnce, Certificate, Config, ConfiguredDevice, FamilyBlock, MaxFailures, Rollback, Tls, parse};

/// One difference between two configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key, as `ir_remote_ota.scan_interval`.
    pub key: String,
    /// What changed, in one sentence without a secret.
    pub text: String,
    /// Whether it takes effect only when the server is started again.
    pub needs_restart: bool,
}

/// Keys that are read once, when the server starts.
const AT_START: [&str; 16] = [
    "server.listen",
    "server.data",
    "server.tls",
    "server.callback",
    "server.pull",
    "server.announce",
    "server.hosts",
    "server.frame_ancestors",
    "server.trusted_proxies",
    "server.limits",
    "server.allowed_networks",
    "mqtt",
    "retention.samples",
    "retention.events",
    "retention.jobs",
    "retention.backups",
];

/// What a key holds.
enum Fact {
    Plain(String),
    Secret(SecretString),
    /// Something that is there or not.
    Thing,
}

impl Config {
    /// What changes from this configuration to that one, by key; empty where nothing does.
    ///
    /// What it came from (file, permissions) is not compared.
    pub fn diff(&self, new: &Self) -> Vec<Change> {
        let mut old = facts(self);
        let mut changes = Vec::new();
        for (key, now) in facts(new) {
            let text = match (old.remove(&key), now) {
                (None, Fact::Plain(now)) => format!("{key} is now {now}"),
                (None, Fact::Secret(_)) => format!("{key} is now set"),
                (None, Fact::Thing) => format!("{key} is new"),
                (Some(Fact::Plain(was)), Fact::Plain(now)) if was != now => {
                    format!("{key} was {was} and is now {now}")
                }
                (Some(Fact::Secret(was)), Fact::Secret(now))
                    if was.expose_secret() != now.expose_secret() =>
                {
                    format!("{key} is another one")
                }
                _ => continue,
            };
            changes.push(Change::new(key, text));
        }
        for (key, was) in old {
            let text = match was {
                Fact::Plain(was) => format!("{key} was {was} and is no longer set"),
                Fact::Secret(_) => format!("{key} is no longer set"),
                Fact::Thing => format!("{key} is gone"),
            };
            changes.push(Change::new(key, text));
        }
        changes.sort_by(|a, b| a.key.cmp(&b.key));
        changes
    }
}

impl Change {
    fn new(key: String, text: String) -> Self {
        let under = |place: &&str| {
            key.strip_prefix(*place)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        Self {
            needs_restart: AT_START.iter().any(under),
            key,
            text,
        }
    }
}

/// Everything that a configuration says, by key.
#[derive(Default)]
struct Facts(BTreeMap<String, Fact>);

impl Facts {
    #[expect(
        clippy::needless_pass_by_value,
        reason = "numbers and texts alike, and callers read better without the ampersand"
    )]
    fn plain(&mut self, key: impl Into<String>, value: impl ToString) {
        self.0.insert(key.into(), Fact::Plain(value.to_string()));
    }

    fn maybe(&mut self, key: impl Into<String>, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.plain(key, value);
        }
    }

    fn path(&mut self, key: &str, path: Option<&Path>) {
        self.maybe(key, path.map(|path| path.display().to_string()));
    }

    fn secret(&mut self, key: impl Into<String>, secret: Option<&SecretString>) {
        if let Some(secret) = secret {
            self.0.insert(key.into(), Fact::Secret(secret.clone()));
        }
    }

    fn list<T: ToString>(&mut self, key: impl Into<String>, values: impl IntoIterator<Item = T>) {
        let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
        let value = if values.is_empty() {
            "none".to_owned()
        } else {
            values.join(", ")
        };
        self.plain(key, value);
    }
}

fn facts(config: &Config) -> BTreeMap<String, Fact> {
    let mut facts = Facts::default();
    server(&mut facts, config);
    policy(&mut facts, config);
    facts.path("firmware_path", config.firmware_path.as_deref());
    for (name, window) in &config.windows {
        let at = format!("windows.{name}");
        let days = window.days.iter().map(|day| format!("{day:?}"));
        let days = days.collect::<Vec<_>>().join(", ");
        let zone = window.timezone.as_deref().unwrap_or("local time");
        facts.plain(
            at,
            format!(
                "{} for {} on {days} ({zone})",
                window.start,
                in_words(window.duration)
            ),
        );
    }
    for (name, schedule) in &config.schedules {
        let at = format!("schedules.{name}");
        let window = schedule.window.as_deref().unwrap_or("any time");
        let zone = schedule.timezone.as_deref().unwrap_or("local time");
        let tags = schedule.tags.iter().cloned().collect::<Vec<_>>().join(", ");
        facts.plain(
            at,
            format!("`{}` ({zone}), window {window}, tags [{tags}]", schedule.cron),
        );
    }
    for (name, group) in &config.groups {
        facts.plain(format!("groups.{name}.at_once"), group.at_once);
    }
    facts.plain("notify.digest", in_words(config.notify.digest));
    facts.plain("notify.mqtt", config.notify.mqtt);
    facts.list(
        "notify.about",
        config.notify.about.iter().map(|about| about.name()),
    );
    if let Some(webhook) = &config.notify.webhook {
        facts.secret("notify.webhook.url", Some(&webhook.url));
        facts.secret("notify.webhook.secret", webhook.secret.as_ref());
        facts.plain("notify.webhook.form", webhook.form.name());
    }
    for index in &config.firmware_index {
        facts.plain(
            format!("firmware_index.{}", index.url),
            format!("signed by {}", index.public_key),
        );
    }
    let retention = config.retention;
    facts.plain("retention.samples", in_words(retention.samples));
    facts.plain("retention.events", in_words(retention.events));
    facts.plain("retention.jobs", in_words(retention.jobs));
    facts.plain("retention.backups", retention.backups);
    facts.plain("retention.downloads", retention.downloads);
    for (block, family) in parse::BLOCKS.iter().zip(&config.families) {
        family_facts(&mut facts, block.name, family);
    }
    facts.0
}

fn server(facts: &mut Facts, config: &Config) {
    let server = &config.server;
    let listen = server.listen.map(|listen| listen.to_string());
    facts.plain(
        "server.listen",
        listen.unwrap_or_else(|| "the socket only".to_owned()),
    );
    facts.path("server.data", server.data.as_deref());
    if let Some(Tls {
        certificate,
        client_ca,
    }) = &server.tls
    {
        match certificate {
            Certificate::SelfSigned => facts.plain("server.tls.cert", "self-signed"),
            Certificate::Own { cert, key } => {
                facts.path("server.tls.cert", Some(cert));
                facts.path("server.tls.key", Some(key));
            }
        }
        facts.path("server.tls.client_ca", client_ca.as_deref());
    }
    facts.list("server.hosts", &server.hosts);
    facts.list("server.frame_ancestors", &server.frame_ancestors);
    facts.list("server.trusted_proxies", &server.trusted_proxies);
    facts.list("server.allowed_networks", &server.allowed_networks);
    facts.plain("server.callback.bind", server.callback.bind);
    facts.plain("server.callback.port", server.callback.port);
    facts.plain("server.pull.bind", server.pull.bind);
    facts.plain("server.pull.port", server.pull.port);
    facts.maybe("server.pull.host", server.pull.host.as_ref());
    facts.plain("server.announce", server.announce);
    let limits = server.limits;
    facts.plain("server.limits.requests_per_minute", limits.requests_per_minute);
    facts.plain(
        "server.limits.failed_logins_per_minute",
        limits.failed_logins_per_minute,
    );
    facts.plain("server.limits.connections", limits.connections);
    facts.plain("server.limits.body_bytes", limits.body_bytes);
    facts.plain("server.limits.image_bytes", limits.image_bytes);
    let Some(mqtt) = &config.mqtt else { return };
    facts.plain("mqtt.broker", &mqtt.broker);
    facts.maybe("mqtt.username", mqtt.username.as_ref());
    facts.secret("mqtt.password", mqtt.password.as_ref());
    facts.maybe("mqtt.client_id", mqtt.client_id.as_ref());
    facts.path("mqtt.ca", mqtt.ca.as_deref());
    if let Some((cert, key)) = &mqtt.certificate {
        facts.path("mqtt.cert", Some(cert));
        facts.path("mqtt.key", Some(key));
    }
    facts.plain("mqtt.status_prefix", &mqtt.status_prefix);
    facts.plain("mqtt.prefix", &mqtt.prefix);
    facts.plain("mqtt.discovery", mqtt.discovery);
    facts.plain("mqtt.discovery_prefix", &mqtt.discovery_prefix);
    facts.plain("mqtt.commands", mqtt.commands);
}

fn policy(facts: &mut Facts, config: &Config) {
    let policy = &config.policy;
    facts.plain("policy.auto_enroll", policy.auto_enroll);
    facts.plain("policy.canary", policy.canary);
    facts.plain("policy.canary_soak", in_words(policy.canary_soak));
    match policy.at_once {
        AtOnce::Auto => facts.plain("policy.at_once", "auto"),
        AtOnce::AtMost(n_devices) => facts.plain("policy.at_once", n_devices),
    }
    match policy.max_failures {
        MaxFailures::Count(n_devices) => facts.plain("policy.max_failures", n_devices),
        MaxFailures::Percent(percent) => facts.plain("policy.max_failures", format!("{percent}%")),
    }
    facts.plain("policy.soak", in_words(policy.soak));
    let rollback = match policy.rollback {
        Rollback::OnBootLoop => "on_boot_loop",
        Rollback::Never => "never",
    };
    facts.plain("policy.rollback", rollback);
    facts.plain("policy.quarantine_after", policy.quarantine_after);
    facts.plain("policy.require_signature", policy.require_signature);
    facts.list("policy.signing_keys", &policy.signing_keys);
}

fn family_facts(facts: &mut Facts, name: &str, family: &FamilyBlock) {
    let key = |key: &str| format!("{name}.{key}");
    facts.plain(key("http_port"), family.http_port);
    facts.plain(key("ota_port"), family.ota_port);
    facts.plain(key("modbus_port"), family.modbus_port);
    facts.plain(key("poll_interval"), in_words(family.poll_every));
    facts.plain(key("scan_interval"), in_words(family.scan_every));
    facts.list(key("network_range"), &family.scan_ranges);
    facts.plain(key("auto_discovery"), family.auto_discovery);
    facts.plain(key("update_check_interval"), in_words(family.update_check_every));
    for (kind, url) in &family.feed_urls {
        facts.plain(key(&format!("firmware_urls.{kind}")), url);
    }
    facts.maybe(key("username"), family.username.as_ref());
    facts.secret(key("password"), family.password.as_ref());
    facts.plain(key("stop_unit"), family.stop_unit);
    for device in &family.devices {
        device_facts(facts, &format!("{name}.devices.{}", device.host), device);
    }
}

fn device_facts(facts: &mut Facts, at: &str, device: &ConfiguredDevice) {
    let key = |key: &str| format!("{at}.{key}");
    facts.0.insert(at.to_owned(), Fact::Thing);
    facts.maybe(key("name"), device.name.as_ref());
    facts.maybe(key("username"), device.username.as_ref());
    facts.secret(key("password"), device.password.as_ref());
    facts.maybe(key("chip"), device.chip.as_ref());
    facts.maybe(key("slot_bytes"), device.slot_bytes);
    facts.maybe(key("group"), device.group.as_ref());
    if !device.tags.is_empty() {
        facts.list(key("tags"), &device.tags);
    }
}
