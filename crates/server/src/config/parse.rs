//! From the tree to a [`Config`]: block by block.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use model::id::FamilyId;
use secrecy::{ExposeSecret as _, SecretString};

use super::error::{ConfigError, Problem, quoted};
use super::read::{Reader, Table, known, nearest};
use super::secrets::Sources;
use super::values;
use super::yaml::{self, Kind, Node};
use super::{
    About, AtOnce, Callback, Certificate, Config, ConfiguredDevice, DEFAULT_OTA_PASSWORD, FamilyBlock,
    FirmwareIndex, Form, Group, MaxFailures, Mqtt, Policy, Pull, Retention, Rollback, Schedule, Server, Tls,
    Webhook, What, Window, keys,
};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_hours(24);
const YEAR: Duration = Duration::from_hours(365 * 24);

/// What the file has for a family, and what holds where it says nothing.
pub(super) struct Block {
    family: &'static str,
    /// What the block is called in the file.
    pub(super) name: &'static str,
    keys: &'static [&'static str],
    device_keys: &'static [&'static str],
    poll_every: Duration,
    update_check_every: Duration,
    password: Option<&'static str>,
    feed_urls: &'static [(&'static str, &'static str)],
}

/// The blocks, in the order of [`families::NAMES`].
pub(super) const BLOCKS: [Block; 3] = [
    Block {
        family: "ir-remote",
        name: "ir_remote_ota",
        keys: keys::IR_REMOTE,
        device_keys: keys::ESP_DEVICE,
        // ../shared/PERFORMANCE.md E3 counts with a poll a minute.
        poll_every: Duration::from_mins(1),
        // Document 000.
        update_check_every: Duration::from_hours(1),
        // ../shared/INTERFACES.md 5.
        password: Some(DEFAULT_OTA_PASSWORD),
        feed_urls: &[],
    },
    Block {
        family: "arduino",
        name: "arduino",
        keys: keys::ARDUINO,
        device_keys: keys::ESP_DEVICE,
        poll_every: Duration::from_mins(1),
        update_check_every: Duration::from_hours(1),
        password: None,
        feed_urls: &[],
    },
    Block {
        family: "komfovent",
        name: "komfovent",
        keys: keys::KOMFOVENT,
        device_keys: keys::LOGIN_DEVICE,
        // Document 002.
        poll_every: Duration::from_secs(30),
        update_check_every: Duration::from_hours(7 * 24),
        password: None,
        // ../shared/INTERFACES.md 3.
        feed_urls: &[
            (
                "C6",
                "https://www.komfovent.com/Update/Controllers/firmware.php?file=mbin",
            ),
            (
                "C8",
                "https://www.komfovent.com/Update/Controllers/C8/firmware.php?file=mbin",
            ),
        ],
    },
];

impl Block {
    /// What holds where the file says nothing.
    pub(super) fn default(&self) -> FamilyBlock {
        let ways = families::Ways::default();
        let urls = self.feed_urls.iter();
        FamilyBlock {
            family: FamilyId::new(self.family),
            http_port: ways.http_port,
            ota_port: ways.ota_port,
            modbus_port: ways.modbus_port,
            poll_every: self.poll_every,
            // Document 000.
            scan_every: Duration::from_mins(5),
            scan_ranges: Vec::new(),
            auto_discovery: true,
            update_check_every: self.update_check_every,
            feed_urls: urls
                .map(|(kind, url)| ((*kind).to_owned(), (*url).to_owned()))
                .collect(),
            username: None,
            password: self.password.map(SecretString::from),
            stop_unit: false,
            devices: Vec::new(),
        }
    }
}

/// Reads a configuration; what it refers to comes from `sources`.
///
/// The error holds everything that is wrong, as far as it can be told without the first being mended.
pub fn parse(text: &str, mut sources: Sources) -> Result<Config, ConfigError> {
    let mut reader = Reader::default();
    let mut problems = Vec::new();
    let mut root = yaml::read(text, &mut problems);
    if let Some(root) = &mut root {
        sources.resolve(root, &mut problems);
    }
    // Half a tree would be blamed for what is only not read.
    let mut config = Config::default();
    if let Some(root) = &root {
        reader.config(&mut config, root, &sources.folder);
    }
    problems.append(&mut reader.problems);
    if !problems.is_empty() {
        return Err(ConfigError::new(&sources.file, text, problems, known));
    }
    config.origin.secrets = sources.used();
    config.origin.plain_secrets = reader.plain_secrets;
    config.origin.idle = root.as_ref().map(idle).unwrap_or_default();
    if config
        .mqtt
        .as_ref()
        .is_some_and(|mqtt| mqtt.commands && !mqtt.discovery)
    {
        // Whoever is not announced is not commanded.
        config.origin.idle.push("mqtt.commands".to_owned());
    }
    config.origin.file = Some(sources.file);
    Ok(config)
}

/// The keys of a file that nothing comes of yet.
fn idle(root: &Node) -> Vec<String> {
    let mut idle = Vec::new();
    for (place, keys) in keys::WITHOUT_EFFECT {
        let table = match *place {
            "" => Some(root),
            block => child(root, block),
        };
        let written = keys
            .iter()
            .filter(|key| table.is_some_and(|table| child(table, key).is_some()));
        idle.extend(written.map(|key| match *place {
            "" => (*key).to_owned(),
            place => format!("{place}.{key}"),
        }));
    }
    idle
}

/// What stands at a key, where it says anything.
fn child<'a>(node: &'a Node, name: &str) -> Option<&'a Node> {
    let Kind::Map(entries) = &node.kind else {
        return None;
    };
    let (_, child) = entries.iter().find(|(key, _)| key.text == name)?;
    (!matches!(child.kind, Kind::Null)).then_some(child)
}

/// Puts a value that was read in the place of the default.
fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

impl Reader {
    fn config(&mut self, config: &mut Config, root: &Node, folder: &Path) {
        let Some(table) = self.table(root, "", keys::ROOT) else {
            return;
        };
        if let Some(node) = table.get("server") {
            self.server(&mut config.server, node, folder);
        }
        if let Some(node) = table.get("mqtt") {
            config.mqtt = self.mqtt(node, folder);
        }
        if let Some(node) = table.get("policy") {
            self.policy(&mut config.policy, node);
        }
        if let Some(node) = table.get("windows") {
            for (name, node) in self.names(node, "windows") {
                let window = self.window(node, &format!("windows.{}", name.text));
                config
                    .windows
                    .extend(window.map(|window| (name.text.clone(), window)));
            }
        }
        if let Some(node) = table.get("schedules") {
            // A window that is wrong is there all the same.
            let windows: Vec<String> = table.get("windows").map_or(Vec::new(), names_in);
            for (name, node) in self.names(node, "schedules") {
                let schedule = self.schedule(node, &format!("schedules.{}", name.text), &windows);
                config
                    .schedules
                    .extend(schedule.map(|schedule| (name.text.clone(), schedule)));
            }
        }
        if let Some(node) = table.get("groups") {
            for (name, node) in self.names(node, "groups") {
                let group = self.group(node, &format!("groups.{}", name.text));
                config.groups.insert(name.text.clone(), group);
            }
        }
        if let Some(node) = table.get("notify") {
            self.notify(config, node, table.get("mqtt").is_some());
        }
        for node in table.list("firmware_index").unwrap_or_default() {
            config.firmware_index.extend(self.index(node));
        }
        if let Some(node) = table.get("retention") {
            self.retention(&mut config.retention, node);
        }
        let example = "`firmware_path: /config/ir_remote_firmware/`";
        config.firmware_path = self.value(&table, "firmware_path", example, values::path(folder));
        for (block, family) in BLOCKS.iter().zip(&mut config.families) {
            let Some(node) = table.get(block.name) else {
                continue;
            };
            let path = self.family(block, family, node, &config.server.allowed_networks, folder);
            if let Some((at, path)) = path {
                if config.firmware_path.as_ref().is_some_and(|other| *other != path) {
                    let text = "`firmware_path` stands at two places, and they differ";
                    self.problem(Problem::at(at, text, "remove one of the two"));
                }
                config.firmware_path = Some(path);
            }
        }
    }

    /// Where devices come to us.
    fn doors_for_devices(&mut self, server: &mut Server, table: &Table<'_>) {
        if let Some(node) = table.get("callback")
            && let Some(table) = self.table(node, "server.callback", keys::CALLBACK)
        {
            let Callback { bind, port } = &mut server.callback;
            self.door(&table, bind, port);
        }
        if let Some(node) = table.get("pull")
            && let Some(table) = self.table(node, "server.pull", keys::PULL)
        {
            let Pull { bind, port, host } = &mut server.pull;
            self.door(&table, bind, port);
            *host = self.value(&table, "host", "`host: 192.168.1.5`", values::host);
        }
    }

    fn door(&mut self, table: &Table<'_>, bind: &mut IpAddr, port: &mut u16) {
        let address = self.value(table, "bind", "`bind: 192.168.1.5`", |text| {
            text.parse::<IpAddr>()
                .map_err(|_| "this is no address".to_owned())
        });
        set(bind, address);
        let number = self.value(
            table,
            "port",
            "`port: 40123`, or 0 for any free one",
            port_from(0),
        );
        set(port, number);
    }

    fn server(&mut self, server: &mut Server, node: &Node, folder: &Path) {
        let Some(table) = self.table(node, "server", keys::SERVER) else {
            return;
        };
        let example = "`listen: \"127.0.0.1:8927\"`";
        if table.is_null("listen") {
            server.listen = None;
        }
        if let Some(listen) = self.value(&table, "listen", example, values::listen) {
            server.listen = Some(listen);
        }
        server.data = self.value(&table, "data", "`data: /var/lib/reflash`", values::path(folder));
        if let Some(node) = table.get("database") {
            let text = "`server.database` is not supported yet";
            let help = "leave it out: the database is a file in the data folder";
            self.problem(Problem::at(node.at, text, help));
        }
        if let Some(node) = table.get("tls") {
            server.tls = self.tls(node, folder);
        }
        for node in table.list("hosts").unwrap_or_default() {
            let host = self.scalar(node, "server.hosts", "`hosts: [reflash.lan]`", values::host);
            server.hosts.extend(host);
        }
        for node in table.list("frame_ancestors").unwrap_or_default() {
            let example = "`frame_ancestors: [\"http://homeassistant.local:8123\"]`";
            let origin = self.scalar(node, "server.frame_ancestors", example, values::origin);
            server.frame_ancestors.extend(origin);
        }
        for node in table.list("trusted_proxies").unwrap_or_default() {
            let example = "`trusted_proxies: [\"192.168.1.2\"]`";
            let network = self.scalar(node, "server.trusted_proxies", example, values::network);
            server.trusted_proxies.extend(network);
        }
        if let Some(items) = table.list("allowed_networks") {
            let example = "`allowed_networks: [private, \"100.64.1.0/24\"]`";
            let mut allowed: Vec<IpNet> = Vec::new();
            for node in items {
                let networks = self.scalar(node, "server.allowed_networks", example, values::allowed);
                for network in networks.unwrap_or_default() {
                    if !allowed.contains(&network) {
                        allowed.push(network);
                    }
                }
            }
            if items.is_empty() {
                let text = "`server.allowed_networks` is empty, so no device may be reached";
                self.problem(Problem::at(
                    table.at,
                    text,
                    format!("write for example {example}"),
                ));
            }
            // One wrong network is no reason to find fault with every device.
            if !allowed.is_empty() {
                server.allowed_networks = allowed;
            }
        }
        self.doors_for_devices(server, &table);
        let announce = self.value(&table, "announce", "`announce: false`", values::flag);
        set(&mut server.announce, announce);
        if let Some(node) = table.get("limits")
            && let Some(table) = self.table(node, "server.limits", keys::LIMITS)
        {
            let limits = &mut server.limits;
            let n = |high: u64| move |text: &str| count(1, high)(text);
            set(
                &mut limits.requests_per_minute,
                self.value(&table, "requests_per_minute", "600", n(1_000_000)),
            );
            set(
                &mut limits.failed_logins_per_minute,
                self.value(&table, "failed_logins_per_minute", "10", n(60)),
            );
            set(
                &mut limits.connections,
                self.value(&table, "connections", "256", n(10_000)),
            );
            let body = values::number(1024..=16 * 1024 * 1024);
            set(
                &mut limits.body_bytes,
                self.value(&table, "body_bytes", "1048576", body),
            );
            let image = values::number(64 * 1024..=16 * 1024 * 1024);
            set(
                &mut limits.image_bytes,
                self.value(&table, "image_bytes", "16777216", image),
            );
        }
    }

    fn tls(&mut self, node: &Node, folder: &Path) -> Option<Tls> {
        let example = "`tls: self-signed`, or `tls: { cert: cert.pem, key: key.pem }`";
        let self_signed = |text: &str| match text {
            "self-signed" | "self_signed" => Ok(()),
            _ => Err("this is not `self-signed`, which is the only word here".to_owned()),
        };
        if let Kind::Scalar(_) = node.kind {
            self.scalar(node, "server.tls", example, self_signed)?;
            return Some(Tls {
                certificate: Certificate::SelfSigned,
                client_ca: None,
            });
        }
        let table = self.table(node, "server.tls", keys::TLS)?;
        let client_ca = self.value(
            &table,
            "client_ca",
            "`client_ca: clients.pem`",
            values::path(folder),
        );
        let is_self_signed = matches!(
            table.get("cert").map(|node| &node.kind),
            Some(Kind::Scalar(scalar)) if self_signed(&scalar.text).is_ok()
        );
        let certificate = if is_self_signed {
            if let Some(node) = table.get("key") {
                let text = "a certificate that the server makes has its key already";
                self.problem(Problem::at(node.at, text, "remove the key"));
            }
            Certificate::SelfSigned
        } else {
            let cert = self.value(&table, "cert", "`cert: cert.pem`", values::path(folder));
            let key = self.value(&table, "key", "`key: key.pem`", values::path(folder));
            let (Some(cert), Some(key)) = (cert, key) else {
                if table.get("cert").is_none() || table.get("key").is_none() {
                    let text = "`server.tls` needs both `cert` and `key`";
                    self.problem(Problem::at(table.at, text, format!("write {example}")));
                }
                return None;
            };
            Certificate::Own { cert, key }
        };
        Some(Tls {
            certificate,
            client_ca,
        })
    }

    fn mqtt(&mut self, node: &Node, folder: &Path) -> Option<Mqtt> {
        let table = self.table(node, "mqtt", keys::MQTT)?;
        let example = "`broker: \"mqtt://192.168.1.10:1883\"`";
        let broker = self.value(&table, "broker", example, values::broker);
        if table.get("broker").is_none() {
            let text = "`mqtt` has no `broker`";
            let help = format!("write {example}, or remove the block");
            self.problem(Problem::at(table.at, text, help));
        }
        let username = self.value(&table, "username", "`username: reflash`", values::username);
        let password = self.secret(&table, "password");
        let client_id = self.value(&table, "client_id", "`client_id: reflash`", values::label);
        let ca = self.value(&table, "ca", "`ca: broker.pem`", values::path(folder));
        let cert = self.value(&table, "cert", "`cert: client.pem`", values::path(folder));
        let key = self.value(&table, "key", "`key: client.key`", values::path(folder));
        let certificate = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => {
                let text = "`mqtt.cert` and `mqtt.key` stand together";
                self.problem(Problem::at(table.at, text, "write both or none"));
                None
            }
        };
        let encrypted = broker.as_ref().is_none_or(|broker| broker.scheme() == "mqtts");
        if !encrypted && (ca.is_some() || certificate.is_some()) {
            let text = "`mqtt.broker` is not encrypted, so certificates are of no use";
            self.problem(Problem::at(
                table.at,
                text,
                "let it begin with `mqtts://`, or remove `ca`, `cert` and `key`",
            ));
        }
        let topic = |reader: &mut Self, key: &str, default: &str| {
            let example = format!("`{key}: {default}`");
            let topic = reader.value(&table, key, &example, values::topic);
            topic.unwrap_or_else(|| default.to_owned())
        };
        let status_prefix = topic(self, "status_prefix", "home/ir_remote_mini");
        let prefix = topic(self, "prefix", "reflash");
        let discovery_prefix = topic(self, "discovery_prefix", "homeassistant");
        let discovery = self.value(&table, "discovery", "`discovery: true`", values::flag);
        let commands = self.value(&table, "commands", "`commands: true`", values::flag);
        Some(Mqtt {
            broker: broker?,
            username,
            password,
            client_id,
            ca,
            certificate,
            status_prefix,
            prefix,
            discovery: discovery.unwrap_or(false),
            discovery_prefix,
            commands: commands.unwrap_or(false),
        })
    }

    fn policy(&mut self, policy: &mut Policy, node: &Node) {
        let Some(table) = self.table(node, "policy", keys::POLICY) else {
            return;
        };
        let auto_enroll = self.value(&table, "auto_enroll", "`auto_enroll: false`", values::flag);
        set(&mut policy.auto_enroll, auto_enroll);
        set(
            &mut policy.canary,
            self.value(&table, "canary", "`canary: 1`", count(0, 1000)),
        );
        let soak = || values::duration(Duration::ZERO..=DAY);
        set(
            &mut policy.canary_soak,
            self.value(&table, "canary_soak", "`canary_soak: 10m`", soak()),
        );
        set(
            &mut policy.soak,
            self.value(&table, "soak", "`soak: 120s`", soak()),
        );
        let at_once = self.value(
            &table,
            "at_once",
            "`at_once: auto` or `at_once: 4`",
            |text| match text {
                "auto" => Ok(AtOnce::Auto),
                text => count(1, 1000)(text)
                    .map(AtOnce::AtMost)
                    .map_err(|reason| format!("{reason}, or `auto`")),
            },
        );
        set(&mut policy.at_once, at_once);
        let example = "`max_failures: 2` or `max_failures: 5%`";
        let max_failures = self.value(&table, "max_failures", example, |text| {
            match text.strip_suffix('%') {
                Some(percent) => {
                    let percent = values::number(0..=100)(percent.trim())?;
                    Ok(MaxFailures::Percent(u8::try_from(percent).unwrap_or(100)))
                }
                None => count(1, 1000)(text).map(MaxFailures::Count),
            }
        });
        set(&mut policy.max_failures, max_failures);
        let example = "`rollback: on_boot_loop` or `rollback: never`";
        let rollback = self.value(&table, "rollback", example, |text| match text {
            "on_boot_loop" => Ok(Rollback::OnBootLoop),
            "never" | "false" => Ok(Rollback::Never),
            _ => Err("this is neither `on_boot_loop` nor `never`".to_owned()),
        });
        set(&mut policy.rollback, rollback);
        set(
            &mut policy.quarantine_after,
            self.value(
                &table,
                "quarantine_after",
                "`quarantine_after: 3`, or 0 for never",
                count(0, 1000),
            ),
        );
        let require = self.value(
            &table,
            "require_signature",
            "`require_signature: true`",
            values::flag,
        );
        set(&mut policy.require_signature, require);
        for node in table.list("signing_keys").unwrap_or_default() {
            let key = self.scalar(node, "policy.signing_keys", KEY_EXAMPLE, values::public_key);
            policy.signing_keys.extend(key);
        }
        if policy.require_signature && table.get("signing_keys").is_none() {
            let text = "`policy.require_signature` is on, and there is no key to check a signature with";
            let help = "add `signing_keys: [\"RW…\"]`, the public keys of those who sign";
            let at = table.get("require_signature").map_or(table.at, |node| node.at);
            self.problem(Problem::at(at, text, help));
        }
    }

    pub(super) fn window(&mut self, node: &Node, path: &str) -> Option<Window> {
        let table = self.table(node, path, keys::WINDOW)?;
        let start = self.value(&table, "start", "`start: \"02:00\"`", values::time_of_day);
        let bounds = Duration::from_mins(1)..=DAY;
        let duration = self.value(&table, "duration", "`duration: 3h`", values::duration(bounds));
        for key in ["start", "duration"] {
            self.needed(&table, key, "`{ start: \"02:00\", duration: 3h }`");
        }
        let mut days = Vec::new();
        for node in table.list("days").unwrap_or_default() {
            let day = self.scalar(
                node,
                &table.path_of("days"),
                "`days: [mon, tue, sat]`",
                values::weekday,
            );
            days.extend(day);
        }
        if table.get("days").is_none() {
            let monday = jiff::civil::Weekday::Monday;
            days.extend(monday.cycle_forward().take(7));
        } else if table.list("days").is_some_and(<[Node]>::is_empty) {
            let text = format!("`{path}.days` is empty, so the window never opens");
            self.problem(Problem::at(
                table.at,
                text,
                "name a day, or leave `days` out for every day",
            ));
        }
        days.sort_by_key(|day| day.to_monday_zero_offset());
        days.dedup();
        let timezone = self.timezone(&table);
        Some(Window {
            start: start?,
            duration: duration?,
            days,
            timezone,
        })
    }

    fn timezone(&mut self, table: &Table<'_>) -> Option<String> {
        self.value(table, "timezone", "`timezone: Europe/Vilnius`", values::timezone)
    }

    /// A key without which its block means nothing.
    fn needed(&mut self, table: &Table<'_>, key: &str, example: &str) {
        if table.get(key).is_none() {
            let text = format!("`{}` is missing", table.path_of(key));
            self.problem(Problem::at(
                table.at,
                text,
                format!("write for example {example}"),
            ));
        }
    }

    pub(super) fn schedule(&mut self, node: &Node, path: &str, windows: &[String]) -> Option<Schedule> {
        let table = self.table(node, path, keys::SCHEDULE)?;
        let example = "`cron: \"15 2 * * *\"`, which is every night at 2:15";
        let cron = self.value(&table, "cron", example, values::cron);
        self.needed(&table, "cron", example);
        let window = self.value(&table, "window", "`window: night`", |text| {
            if windows.iter().any(|window| window == text) {
                return Ok(text.to_owned());
            }
            let near = nearest(text, windows.iter().map(String::as_str));
            Err(match near {
                Some(near) => format!("there is no such window; did you mean `{near}`?"),
                None => "there is no such window in `windows`".to_owned(),
            })
        });
        let what = self.value(&table, "what", "`what: newest-approved`", |text| match text {
            "newest-approved" | "newest_approved" => Ok(What::NewestApproved),
            _ => Err("this is not `newest-approved`, which is the only word here".to_owned()),
        });
        let tags = self.tags(&table).into_iter().collect::<BTreeSet<_>>();
        let timezone = self.timezone(&table);
        Some(Schedule {
            cron: cron?,
            window,
            what: what.unwrap_or(What::NewestApproved),
            tags,
            timezone,
        })
    }

    fn tags(&mut self, table: &Table<'_>) -> Vec<String> {
        let mut tags = Vec::new();
        for node in table.list("tags").unwrap_or_default() {
            let tag = self.scalar(node, &table.path_of("tags"), "`tags: [upstairs]`", values::word);
            tags.extend(tag.filter(|tag| !tags.contains(tag)));
        }
        tags
    }

    fn group(&mut self, node: &Node, path: &str) -> Group {
        let mut group = Group::default();
        if let Some(table) = self.table(node, path, keys::GROUP) {
            set(
                &mut group.at_once,
                self.value(&table, "at_once", "`at_once: 2`", count(1, 1000)),
            );
        }
        group
    }

    fn notify(&mut self, config: &mut Config, node: &Node, has_broker: bool) {
        let Some(table) = self.table(node, "notify", keys::NOTIFY) else {
            return;
        };
        let digest = self.value(
            &table,
            "digest",
            "`digest: 10m`",
            values::duration(Duration::ZERO..=DAY),
        );
        set(&mut config.notify.digest, digest);
        let mqtt = self.value(&table, "mqtt", "`mqtt: true`", values::flag);
        set(&mut config.notify.mqtt, mqtt);
        if let Some(node) = table.get("mqtt").filter(|_| config.notify.mqtt && !has_broker) {
            self.problem(
                Problem::at(
                    node.at,
                    "`notify.mqtt` is on, and no broker is named",
                    "add the block `mqtt: { broker: \"mqtt://192.168.1.2\" }`",
                )
                .shown(),
            );
        }
        self.about(config, &table);
        let Some(node) = table.get("webhook") else { return };
        let Some(table) = self.table(node, "notify.webhook", keys::WEBHOOK) else {
            return;
        };
        let url = self.secret(&table, "url");
        let secret = self.secret(&table, "secret");
        let form = self.value(
            &table,
            "form",
            "`form: json` or `form: text`",
            |text| match text {
                "json" => Ok(Form::Json),
                "text" => Ok(Form::Text),
                _ => Err("this is neither `json` nor `text`".to_owned()),
            },
        );
        let Some(url) = url else {
            if secret.is_some() {
                self.needed(&table, "url", "`url: \"https://example.org/hook\"`");
            }
            return;
        };
        if let Err(reason) = values::web(&["https", "http"])(url.expose_secret()) {
            let at = table.get("url").map_or(table.at, |node| node.at);
            let text = format!("`notify.webhook.url` does not fit: {reason}");
            self.problem(Problem::at(
                at,
                text,
                "write for example `url: \"https://example.org/hook\"`",
            ));
            return;
        }
        config.notify.webhook = Some(Webhook {
            url,
            secret,
            form: form.unwrap_or_default(),
        });
    }

    fn about(&mut self, config: &mut Config, table: &Table<'_>) {
        const EXAMPLE: &str = "`about: [finished, failed, halted, firmware, lost]`, or some of these";
        let Some(nodes) = table.list("about") else { return };
        let mut about = BTreeSet::new();
        for node in nodes {
            let word = self.scalar(node, "notify.about", EXAMPLE, |text| {
                let named = About::ALL.into_iter().find(|about| about.name() == text);
                named.ok_or_else(|| "there is nothing of that name to be told of".to_owned())
            });
            about.extend(word);
        }
        if nodes.is_empty() {
            let at = table.get("about").map_or(table.at, |node| node.at);
            let text = "`notify.about` is empty, so that nothing would be told";
            self.problem(Problem::at(at, text, format!("write for example {EXAMPLE}")));
        }
        // What is wrong is told; then nothing of this is used.
        if !about.is_empty() {
            config.notify.about = about;
        }
    }

    fn index(&mut self, node: &Node) -> Option<FirmwareIndex> {
        let table = self.table(node, "firmware_index", keys::INDEX)?;
        let example = "`{ url: \"https://example.org/index.json\", public_key: \"RW…\" }`";
        let url = self.value(&table, "url", example, values::web(&["https", "http"]));
        let public_key = self.value(&table, "public_key", KEY_EXAMPLE, values::public_key);
        for key in ["url", "public_key"] {
            self.needed(&table, key, example);
        }
        Some(FirmwareIndex {
            url: url?,
            public_key: public_key?,
        })
    }

    fn retention(&mut self, retention: &mut Retention, node: &Node) {
        let Some(table) = self.table(node, "retention", keys::RETENTION) else {
            return;
        };
        let kept = || values::duration(DAY..=20 * YEAR);
        set(
            &mut retention.samples,
            self.value(&table, "samples", "`samples: 30d`", kept()),
        );
        set(
            &mut retention.events,
            self.value(&table, "events", "`events: 365d`", kept()),
        );
        set(
            &mut retention.jobs,
            self.value(&table, "jobs", "`jobs: 1095d`", kept()),
        );
        set(
            &mut retention.backups,
            self.value(&table, "backups", "`backups: 7`", count(0, 365)),
        );
        set(
            &mut retention.downloads,
            self.value(&table, "downloads", "`downloads: 3`", count(1, 100)),
        );
    }

    /// Reads a family's block; the firmware folder is given back, because it is everybody's.
    pub(super) fn family(
        &mut self,
        block: &Block,
        family: &mut FamilyBlock,
        node: &Node,
        allowed: &[IpNet],
        folder: &Path,
    ) -> Option<(super::At, std::path::PathBuf)> {
        let table = self.table(node, block.name, block.keys)?;
        let every = |low: u64| values::duration(Duration::from_secs(low)..=30 * DAY);
        let scan_every = self.value(
            &table,
            "scan_interval",
            "`scan_interval: 300` (seconds)",
            every(10),
        );
        let poll_every = self.value(&table, "poll_interval", "`poll_interval: 60` (seconds)", every(5));
        set(&mut family.scan_every, scan_every);
        // Whoever wants to look for new devices more often than that wants to see the known ones as often.
        family.poll_every = poll_every.unwrap_or(family.poll_every.min(scan_every.unwrap_or(Duration::MAX)));
        let check = values::duration_or_never(60 * SECOND..=YEAR);
        let example = "`update_check_interval: 3600` (seconds; 0 = only when you ask)";
        let update_check_every = self.value(&table, "update_check_interval", example, check);
        set(&mut family.update_check_every, update_check_every);
        for (key, port) in [
            ("http_port", &mut family.http_port),
            ("ota_port", &mut family.ota_port),
            ("modbus_port", &mut family.modbus_port),
        ] {
            let example = format!("`{key}: {port}`");
            set(port, self.value(&table, key, &example, port_from(1)));
        }
        let auto_discovery = self.value(&table, "auto_discovery", "`auto_discovery: true`", values::flag);
        set(&mut family.auto_discovery, auto_discovery);
        let stop_unit = self.value(&table, "stop_unit", "`stop_unit: true`", values::flag);
        set(&mut family.stop_unit, stop_unit);
        family.username = self.value(&table, "username", "`username: user`", values::username);
        for key in ["ota_password", "password"] {
            if block.keys.contains(&key)
                && let Some(password) = self.secret(&table, key)
            {
                family.password = Some(password);
            }
        }
        family.scan_ranges = self.ranges(&table, allowed);
        self.feeds(&table, family);
        for node in table.list("devices").unwrap_or_default() {
            let device = self.device(block, node, &table.path_of("devices"), allowed, &family.devices);
            family.devices.extend(device);
        }
        let example = "`firmware_path: /config/ir_remote_firmware/`";
        let path = self.value(&table, "firmware_path", example, values::path(folder))?;
        Some((table.get("firmware_path").map_or(table.at, |node| node.at), path))
    }

    fn ranges(&mut self, table: &Table<'_>, allowed: &[IpNet]) -> Vec<IpNet> {
        let example = "`network_range: \"192.168.1.0/24\"`";
        let path = table.path_of("network_range");
        let large = self.value(
            table,
            "allow_large_scan",
            "`allow_large_scan: true`",
            values::flag,
        );
        let large = large.unwrap_or(false);
        let mut ranges = Vec::new();
        for node in table.list("network_range").unwrap_or_default() {
            let range = self.scalar(node, &path, example, |text| {
                let range = values::network(text)?;
                check_range(range, allowed, large)?;
                Ok(range)
            });
            ranges.extend(range.filter(|range| !ranges.contains(range)));
        }
        ranges
    }

    fn feeds(&mut self, table: &Table<'_>, family: &mut FamilyBlock) {
        let Some(node) = table.get("firmware_urls") else {
            return;
        };
        let path = table.path_of("firmware_urls");
        for (name, node) in self.names(node, &path) {
            let path = format!("{path}.{}", name.text);
            if let Kind::Null = node.kind {
                family.feed_urls.remove(&name.text);
                continue;
            }
            let example = format!(
                "`{}: \"https://example.org/firmware.mbin\"`, or `null` for none",
                name.text
            );
            let url = self.scalar(node, &path, &example, values::web(&["https", "http"]));
            family
                .feed_urls
                .extend(url.map(|url| (name.text.clone(), url.to_string())));
        }
    }

    fn device(
        &mut self,
        block: &Block,
        node: &Node,
        path: &str,
        allowed: &[IpNet],
        others: &[ConfiguredDevice],
    ) -> Option<ConfiguredDevice> {
        let example = "`ip: \"192.168.1.100\"`";
        // A bare address is a device as well.
        let (host, table) = if let Kind::Scalar(_) = node.kind {
            (
                self.scalar(node, path, example, |text| device_host(text, allowed)),
                None,
            )
        } else {
            let table = self.table(node, path, block.device_keys)?;
            let host = match (table.get("ip"), table.get("host")) {
                (Some(_), Some(host)) => {
                    let text = "a device has `ip` or `host`, and not both";
                    self.problem(Problem::at(host.at, text, "remove one of the two"));
                    None
                }
                (None, None) => {
                    let text = format!("a device in `{path}` has no address");
                    self.problem(Problem::at(
                        table.at,
                        text,
                        format!("write for example {example}"),
                    ));
                    None
                }
                (Some(node), None) => self.scalar(node, &format!("{path}.ip"), example, |text| {
                    device_host(text, allowed)
                }),
                (None, Some(node)) => self.scalar(node, &format!("{path}.host"), example, |text| {
                    device_host(text, allowed)
                }),
            };
            (host, Some(table))
        };
        if let Some(host) = &host
            && others.iter().any(|other| other.host == *host)
        {
            let text = format!("the device {} is listed twice in `{path}`", quoted(host));
            self.problem(Problem::at(node.at, text, "remove one of the two"));
        }
        let mut device = ConfiguredDevice {
            host: host.unwrap_or_default(),
            name: None,
            username: None,
            password: None,
            chip: None,
            slot_bytes: None,
            group: None,
            tags: Vec::new(),
        };
        if let Some(table) = table {
            device.name = self.value(&table, "name", "`name: \"Living Room IR\"`", values::label);
            device.username = self.value(&table, "username", "`username: user`", values::username);
            device.password = self.secret(&table, "password");
            device.chip = self.value(&table, "chip", "`chip: esp32c6`", values::chip);
            let slot = values::number(64 * 1024..=16 * 1024 * 1024);
            device.slot_bytes = self.value(&table, "slot_bytes", "`slot_bytes: 1310720`", slot);
            device.group = self.value(&table, "group", "`group: attic`", values::word);
            device.tags = self.tags(&table);
        }
        (!device.host.is_empty()).then_some(device)
    }
}

const KEY_EXAMPLE: &str = "`\"RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\"`, the second line of minisign's public key file";

fn names_in(node: &Node) -> Vec<String> {
    match &node.kind {
        Kind::Map(entries) => entries.iter().map(|(key, _)| key.text.clone()).collect(),
        _ => Vec::new(),
    }
}

fn port_from(low: u64) -> impl FnOnce(&str) -> Result<u16, String> {
    move |text| {
        let port = values::number(low..=u64::from(u16::MAX))(text)?;
        u16::try_from(port).map_err(|_| "this is no port".to_owned())
    }
}

fn count(low: u64, high: u64) -> impl FnOnce(&str) -> Result<u32, String> {
    move |text| {
        let count = values::number(low..=high)(text)?;
        u32::try_from(count).map_err(|_| "that is too many".to_owned())
    }
}

/// A host that devices may be at; a name is looked at again when its address is known.
fn device_host(text: &str, allowed: &[IpNet]) -> Result<String, String> {
    let host = values::host(text)?;
    if let Ok(address) = host.parse::<IpAddr>() {
        let networks = net::Networks::new(allowed.iter().copied());
        if !networks.contains(address) {
            return Err("it lies outside `server.allowed_networks`, where devices may be".to_owned());
        }
    }
    Ok(host)
}

/// Whether every address of a network may be asked (RELIABILITY.md F6, T22).
fn check_range(range: IpNet, allowed: &[IpNet], large: bool) -> Result<(), String> {
    let n_addresses = values::n_addresses(range);
    if n_addresses > values::MAX_SCAN {
        return Err(
            "it is larger than a /16, and scanning it would take minutes and flood the network".to_owned(),
        );
    }
    if !values::lies_in(range, allowed) {
        return Err("it does not lie within `server.allowed_networks`, where devices may be".to_owned());
    }
    if n_addresses > values::LARGE_SCAN && !large {
        return Err(
            "it is larger than a /22, which is scanned only with `allow_large_scan: true`".to_owned(),
        );
    }
    Ok(())
}
