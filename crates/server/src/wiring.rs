//! What the configuration makes of fleet, repository and doors.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use model::chain::{chain, sentence};
use net::Site;
use store::Store;
use tokio_util::sync::CancellationToken;

use crate::announce::{self, Announcer};
use crate::api::{self, ApiSettings};
use crate::config::{self, Config};
use crate::firmware::{self, Repository};
use crate::fleet::{ConfiguredDevice, FamilySettings, Fleet, FleetSettings};
use crate::home_assistant::HomeAssistant;
use crate::metrics::Metrics;
use crate::notify::{self, Notifier};
use crate::parents::Parents;
use crate::rollout::{Policy, Rollouts};
use crate::run::{Control, ServeError};
use crate::secrets::Sealer;

/// Lays the settings that were changed by the API over the configuration.
pub(crate) fn overlay(config: &mut Config, stored: &api::SettingsView) {
    if let Some(auto_enroll) = stored.auto_enroll {
        config.policy.auto_enroll = auto_enroll;
    }
    for block in &mut config.families {
        if let Some(auto_discovery) = stored.auto_discovery {
            block.auto_discovery = auto_discovery;
        }
        if let Some(seconds) = stored.scan_interval_s {
            block.scan_every = Duration::from_secs(u64::from(seconds));
        }
    }
}

/// What the configuration says of the fleet.
pub(crate) fn fleet_settings(config: &Config, site: &Site) -> FleetSettings {
    let mut families = Vec::new();
    let mut scan_ranges = Vec::new();
    let mut scan_every: Option<Duration> = None;
    let mut mdns = false;
    for block in &config.families {
        let Some(family) = families::named(block.family.as_str(), site, &ways(config, block)) else {
            continue;
        };
        mdns |= block.auto_discovery;
        for range in &block.scan_ranges {
            if !scan_ranges.contains(range) {
                scan_ranges.push(*range);
            }
            // Without discovery a network is asked only when somebody wants it.
            if block.auto_discovery {
                scan_every = Some(scan_every.map_or(block.scan_every, |every| every.min(block.scan_every)));
            }
        }
        families.push(FamilySettings {
            family,
            discovers: block.auto_discovery,
            poll_every: block.poll_every,
            username: block.username.clone(),
            password: block.password.clone(),
            devices: block.devices.iter().map(configured).collect(),
        });
    }
    FleetSettings {
        families,
        scan_ranges,
        scan_every,
        mdns,
        multicast: net::Multicast::default(),
        broker: config.mqtt.as_ref().map(broker),
        auto_enroll: config.policy.auto_enroll,
    }
}

/// The broker that a configuration names, as discovery wants it.
pub fn broker(mqtt: &config::Mqtt) -> discovery::Broker {
    discovery::Broker {
        url: mqtt.broker.clone(),
        username: mqtt.username.clone(),
        password: mqtt.password.clone(),
        client_id: mqtt.client_id.clone(),
        ca: mqtt.ca.clone(),
        certificate: mqtt.certificate.clone(),
        prefix: String::new(),
    }
}

fn configured(device: &config::ConfiguredDevice) -> ConfiguredDevice {
    ConfiguredDevice {
        host: device.host.clone(),
        name: device.name.clone(),
        username: device.username.clone(),
        password: device.password.clone(),
        chip: device.chip.clone(),
        slot_bytes: device.slot_bytes,
        group: device.group.clone(),
        tags: device.tags.clone(),
    }
}

/// What the configuration says of the repository.
pub(crate) fn repository_settings(config: &Config) -> firmware::Settings {
    let blocks = || config.families.iter();
    firmware::Settings {
        folder: config.firmware_path.clone(),
        feed_urls: blocks()
            .map(|block| (block.family.clone(), block.feed_urls.clone()))
            .collect(),
        check_every: blocks()
            .map(|block| (block.family.clone(), block.update_check_every))
            .collect(),
        indexes: config
            .firmware_index
            .iter()
            .map(|index| firmware::Index {
                url: index.url.to_string(),
                public_key: Some(index.public_key.clone()),
            })
            .collect(),
        require_signature: config.policy.require_signature,
        n_kept: usize::try_from(config.retention.downloads).unwrap_or(usize::MAX),
        ..firmware::Settings::default()
    }
}

pub(crate) async fn open_repository(
    config: &Config,
    store: &Arc<Store>,
    engine: &Engine,
    site: &Site,
) -> Result<Repository, ServeError> {
    let families = config
        .families
        .iter()
        .filter_map(|block| families::named(block.family.as_str(), site, &ways(config, block)))
        .collect();
    Repository::open(
        Store::clone(store),
        families,
        engine.clock(),
        repository_settings(config),
    )
    .await
    .map_err(|error| ServeError::new(sentence(&chain(&error)), "Look at it with: reflash doctor."))
}

/// The ways to the devices of a family.
fn ways(config: &Config, block: &config::FamilyBlock) -> families::Ways {
    let mut ways = block.ways();
    if let Some(mqtt) = &config.mqtt {
        ways.status_topic.clone_from(&mqtt.status_prefix);
    }
    ways
}

/// What the configuration says of updates.
pub(crate) fn rollout_policy(config: &Config) -> Policy {
    Policy {
        canary: config.policy.canary,
        canary_soak: config.policy.canary_soak,
        soak: config.policy.soak,
        at_once: config.policy.at_once,
        max_failures: config.policy.max_failures,
        put_back: config.policy.rollback == config::Rollback::OnBootLoop,
        quarantine_after: config.policy.quarantine_after,
        groups: config
            .groups
            .iter()
            .map(|(name, group)| (name.clone(), group.at_once))
            .collect(),
        windows: crate::rollout::windows(&config.windows),
        schedules: config.schedules.clone(),
        file: config.origin.file.clone(),
    }
}

pub(crate) async fn open_rollouts(
    config: &Config,
    engine: &Engine,
    (store, fleet, repository): (&Arc<Store>, &Fleet, &Repository),
    metrics: &Metrics,
) -> Result<Rollouts, ServeError> {
    Rollouts::load(
        store.clone(),
        engine.clone(),
        fleet.clone(),
        repository.clone(),
        metrics.clone(),
        rollout_policy(config),
    )
    .await
    .map_err(|error| ServeError::unreadable(&error))
}

pub(crate) async fn open_notifier(
    config: &Config,
    engine: &Engine,
    (store, fleet, rollouts): (&Arc<Store>, &Fleet, &Rollouts),
    metrics: &Metrics,
    bus: Option<net::mqtt::Bus>,
) -> Result<Notifier, ServeError> {
    Notifier::open(
        store.clone(),
        engine.clock(),
        fleet.clone(),
        rollouts.clone(),
        metrics.clone(),
        bus,
        notify_settings(config),
    )
    .await
    .map_err(|error| ServeError::unreadable(&error))
}

/// The devices as they were known.
pub(crate) async fn open_fleet(
    config: &Config,
    engine: &Engine,
    (store, repository, site): (&Arc<Store>, &Repository, &Site),
    sealer: Arc<Sealer>,
    metrics: &Metrics,
) -> Result<Fleet, ServeError> {
    Fleet::load(
        store.clone(),
        engine.clone(),
        site.clone(),
        sealer,
        repository.clone(),
        metrics.clone(),
        fleet_settings(config, site),
    )
    .await
    .map_err(|error| ServeError::unreadable(&error))
}

/// What Home Assistant has told.
pub(crate) async fn open_home_assistant(
    store: &Arc<Store>,
    sealer: &Arc<Sealer>,
) -> Result<HomeAssistant, ServeError> {
    HomeAssistant::load(store.clone(), sealer.clone())
        .await
        .map_err(|error| ServeError::unreadable(&error))
}

/// What announces devices at the owner's broker; none without one.
pub(crate) fn open_announcer(
    config: &Config,
    engine: &Engine,
    (store, fleet, rollouts, home_assistant): (&Arc<Store>, &Fleet, &Rollouts, &HomeAssistant),
    bus: Option<&net::mqtt::Bus>,
) -> Option<Announcer> {
    let (mqtt, bus) = (config.mqtt.as_ref()?, bus?);
    let parts = announce::Parts {
        store: store.clone(),
        clock: engine.clock(),
        fleet: fleet.clone(),
        rollouts: rollouts.clone(),
        home_assistant: home_assistant.clone(),
        bus: bus.clone(),
    };
    let settings = announce::Settings {
        discovery: mqtt.discovery,
        commands: mqtt.commands,
        prefix: mqtt.prefix.clone(),
        discovery_prefix: mqtt.discovery_prefix.clone(),
    };
    Some(Announcer::new(parts, settings))
}

/// What the configuration says of notifications.
pub(crate) fn notify_settings(config: &Config) -> notify::Settings {
    let mqtt = config.mqtt.as_ref();
    notify::Settings {
        notify: config.notify.clone(),
        topic: mqtt
            .map(|mqtt| format!("{}/event", mqtt.prefix))
            .unwrap_or_default(),
        ..notify::Settings::default()
    }
}

/// What the API is made of.
#[expect(clippy::too_many_arguments, reason = "it brings everything together, once")]
pub(crate) fn api_parts(
    config: &Config,
    fleet: &Fleet,
    repository: &Repository,
    rollouts: &Rollouts,
    notifier: &Notifier,
    store: &Arc<Store>,
    engine: &Engine,
    metrics: Metrics,
    control: &Control,
    (about, parents, home_assistant): (api::About, Parents, HomeAssistant),
    cancel: &CancellationToken,
) -> api::Parts {
    let limits = config.server.limits;
    let control = control.clone();
    api::Parts {
        store: store.clone(),
        clock: engine.clock(),
        settings: ApiSettings {
            hosts: config.server.hosts.clone(),
            frame_ancestors: config.server.frame_ancestors.clone(),
            proxies: config.server.trusted_proxies.clone(),
            rate: api::Rate {
                per_second: f64::from(limits.requests_per_minute) / 60.0,
                ..api::Rate::default()
            },
            try_every: Duration::from_mins(1) / limits.failed_logins_per_minute,
            json_max_len: usize::try_from(limits.body_bytes).unwrap_or(usize::MAX),
            image_max_len: usize::try_from(limits.image_bytes).unwrap_or(usize::MAX),
            ..ApiSettings::default()
        },
        fleet: fleet.clone(),
        repository: repository.clone(),
        rollouts: rollouts.clone(),
        notifier: notifier.clone(),
        metrics,
        reload: Arc::new(move || {
            let control = control.clone();
            Box::pin(async move { control.reload().await })
        }),
        home_assistant,
        about,
        parents,
        cancel: cancel.clone(),
    }
}

/// Opens the doors: the local socket always, and the network where it is configured.
pub(crate) async fn listeners(config: &Config, folder: &Path) -> Result<Vec<api::Listener>, ServeError> {
    let failed = |error: &dyn std::error::Error| {
        ServeError::new(
            sentence(&chain(error)),
            "Set server.listen or server.tls in the configuration.",
        )
    };
    let socket = api::ListenOn::Unix {
        path: folder.join(api::SOCKET_FILE),
    };
    let mut listeners = vec![
        api::Listener::bind(&socket)
            .await
            .map_err(|error| failed(&error))?,
    ];
    if let Some(address) = config.server.listen {
        let protection = match &config.server.tls {
            Some(tls) => {
                let certificate = match &tls.certificate {
                    config::Certificate::Own { cert, key } => api::Certificate::Own {
                        chain: cert.clone(),
                        key: key.clone(),
                    },
                    config::Certificate::SelfSigned => api::Certificate::Generated {
                        folder: folder.to_owned(),
                        names: tls_names(config, address.ip()),
                    },
                };
                let protected = api::tls_config(&certificate, tls.client_ca.as_deref());
                api::Protection::Tls(protected.map_err(|error| failed(&error))?)
            }
            None if config.server.trusted_proxies.is_empty() => api::Protection::Loopback,
            None => api::Protection::Proxy,
        };
        let tcp = api::ListenOn::Tcp { address, protection };
        listeners.push(api::Listener::bind(&tcp).await.map_err(|error| failed(&error))?);
    }
    Ok(listeners)
}

/// The names that a generated certificate is for.
fn tls_names(config: &Config, address: IpAddr) -> Vec<String> {
    let mut names = vec!["localhost".to_owned()];
    if !address.is_unspecified() {
        names.push(address.to_string());
    }
    names.extend(config.server.hosts.iter().cloned());
    names
}
