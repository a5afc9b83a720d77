//! What a configuration allows and its owner should know.

use std::path::Path;

use ipnet::IpNet;
use model::chain::sentence;
use secrecy::ExposeSecret as _;

use super::values::{lies_in, private};
use super::{Config, DEFAULT_OTA_PASSWORD, MaxFailures, parse};

/// Something that works and is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Its short name, stable, for programs: `default-password`.
    pub rule: &'static str,
    /// How bad it is.
    pub flag: Flag,
    /// What it is, in one sentence.
    pub text: String,
    /// How to mend it, in one sentence.
    pub next_step: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flag {
    /// Worth knowing.
    Yellow,
    /// Somebody else could do harm by it.
    Red,
}

impl Config {
    /// What works and is not as it should be, the worst first.
    pub fn warnings(&self) -> Vec<Warning> {
        let mut warnings = Warnings(Vec::new());
        self.warn_of_passwords(&mut warnings);
        self.warn_of_files(&mut warnings);
        self.warn_of_doors(&mut warnings);
        self.warn_of_rules(&mut warnings);
        self.warn_of_what_is_idle(&mut warnings);
        let Warnings(mut warnings) = warnings;
        warnings.sort_by_key(|warning| std::cmp::Reverse(warning.flag));
        warnings
    }

    fn warn_of_passwords(&self, warnings: &mut Warnings) {
        for (block, family) in parse::BLOCKS.iter().zip(&self.families) {
            let is_default = |secret: &secrecy::SecretString| secret.expose_secret() == DEFAULT_OTA_PASSWORD;
            // A password that every listed device has its own in place of is still given to those that are found.
            let of_block = family.password.as_ref().is_some_and(is_default);
            let of_devices = family.devices.iter();
            let n_own = of_devices
                .filter(|device| device.password.as_ref().is_some_and(is_default))
                .count();
            if of_block || n_own > 0 {
                let whose = if of_block {
                    "the family's password"
                } else {
                    "a device's password"
                };
                warnings.red(
                    "default-password",
                    &format!(
                        "{whose} in `{}` is the one that devices come with, and everybody knows it",
                        block.name
                    ),
                    &format!(
                        "give the devices another password, and write it into `{}` with `!secret`",
                        block.name
                    ),
                );
            }
        }
        if !self.origin.plain_secrets.is_empty() && self.origin.file.is_some() {
            warnings.yellow(
                "plain-secret",
                &format!(
                    "a secret stands in the configuration itself: {}",
                    self.origin.plain_secrets.join(", ")
                ),
                "put it into secrets.yaml beside it and write `!secret NAME` in its place",
            );
        }
    }

    fn warn_of_files(&self, warnings: &mut Warnings) {
        for file in &self.origin.secrets {
            warn_of_mode(warnings, &file.path, file.mode, true);
        }
        if let (Some(file), Some(mode)) = (&self.origin.file, self.origin.mode) {
            warn_of_mode(warnings, file, mode, !self.origin.plain_secrets.is_empty());
        }
    }

    fn warn_of_doors(&self, warnings: &mut Warnings) {
        let server = &self.server;
        if let Some(listen) = server.listen
            && !listen.ip().to_canonical().is_loopback()
        {
            if server.tls.is_none() && server.trusted_proxies.is_empty() {
                warnings.red(
                    "listens-without-tls",
                    &format!(
                        "the API listens on {listen} without TLS, so tokens cross the network in the clear"
                    ),
                    "write `tls: self-signed`, or listen on 127.0.0.1 behind a proxy",
                );
            }
            if listen.ip().is_unspecified() && server.hosts.is_empty() {
                warnings.yellow(
                    "no-hosts",
                    "the API listens on all addresses, and `server.hosts` names none by which it may be called",
                    "list the names that clients use, as in `hosts: [reflash.lan]`",
                );
            }
        }
        for network in &server.allowed_networks {
            if !is_local(*network) {
                warnings.red(
                    "public-network",
                    &format!("`server.allowed_networks` holds {network}, which is not private"),
                    "list only the networks in which your devices are",
                );
            }
        }
        for network in &server.trusted_proxies {
            if network.prefix_len() == 0 {
                warnings.red(
                    "every-proxy",
                    "`server.trusted_proxies` believes everybody",
                    "list the address of your proxy",
                );
            }
        }
        let Some(mqtt) = &self.mqtt else { return };
        let host = mqtt.broker.host_str().unwrap_or_default();
        let here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        if mqtt.broker.scheme() == "mqtt" && mqtt.password.is_some() && !here {
            warnings.yellow(
                "mqtt-without-tls",
                &format!("the password for the broker {host} crosses the network in the clear"),
                "let `mqtt.broker` begin with `mqtts://`",
            );
        }
        if mqtt.password.is_some() && mqtt.username.is_none() {
            warnings.yellow(
                "mqtt-without-user",
                "`mqtt` has a password and no user name, which brokers do not take",
                "add `mqtt.username`",
            );
        }
        if mqtt.commands && mqtt.username.is_none() && mqtt.certificate.is_none() {
            warnings.red(
                "open-commands",
                "commands are taken from a broker that lets everybody in",
                "give the broker users, and write `mqtt.username` and `mqtt.password`",
            );
        }
    }

    fn warn_of_what_is_idle(&self, warnings: &mut Warnings) {
        let mut idle = self.origin.idle.clone();
        if !self.firmware_index.is_empty() {
            idle.push("firmware_index.public_key".to_owned());
        }
        if !idle.is_empty() {
            warnings.yellow(
                "without-effect",
                &format!("nothing comes of these keys in this version: {}", idle.join(", ")),
                "do not count on them; they may stay where they are",
            );
        }
    }

    fn warn_of_rules(&self, warnings: &mut Warnings) {
        if self.policy.auto_enroll {
            warnings.red(
                "auto-enroll",
                "whatever turns up on the network and looks like a device gets password answers and images",
                "write `auto_enroll: false` and approve devices when they are found",
            );
        }
        if self.policy.canary == 0 {
            warnings.yellow(
                "no-canary",
                "no device goes first, so a bad release reaches all of them at once",
                "write `canary: 1`",
            );
        }
        if let MaxFailures::Percent(percent) = self.policy.max_failures
            && percent > 50
        {
            warnings.yellow(
                "many-failures",
                &format!("a rollout goes on until more than {percent}% of the devices have failed"),
                "write `max_failures: 5%`",
            );
        }
        for index in &self.firmware_index {
            if index.url.scheme() == "http" {
                warnings.yellow(
                    "plain-index",
                    &format!(
                        "the list of firmware at {} comes without TLS",
                        index.url.host_str().unwrap_or_default()
                    ),
                    "let its address begin with `https://`",
                );
            }
        }
    }
}

/// Whether a network is one that only neighbours are in.
fn is_local(network: IpNet) -> bool {
    let mut local = private().to_vec();
    for name in ["loopback", "link-local"] {
        local.extend(super::values::allowed(name).unwrap_or_default());
    }
    lies_in(network, &local)
}

fn warn_of_mode(warnings: &mut Warnings, path: &Path, mode: u32, holds_secrets: bool) {
    let path = path.display();
    if mode & 0o022 != 0 {
        warnings.red(
            "writable-by-others",
            &format!("{path} can be changed by others of this machine (mode {mode:04o})"),
            &format!("run `chmod go-w {path}`"),
        );
    }
    if mode & 0o004 != 0 && holds_secrets {
        warnings.yellow(
            "readable-by-others",
            &format!("{path} holds secrets and can be read by everybody on this machine (mode {mode:04o})"),
            &format!("run `chmod 600 {path}`"),
        );
    }
}

struct Warnings(Vec<Warning>);

impl Warnings {
    fn push(&mut self, rule: &'static str, flag: Flag, text: &str, next_step: &str) {
        self.0.push(Warning {
            rule,
            flag,
            text: sentence(text),
            next_step: sentence(next_step),
        });
    }

    fn red(&mut self, rule: &'static str, text: &str, next_step: &str) {
        self.push(rule, Flag::Red, text, next_step);
    }

    fn yellow(&mut self, rule: &'static str, text: &str, next_step: &str) {
        self.push(rule, Flag::Yellow, text, next_step);
    }
}
