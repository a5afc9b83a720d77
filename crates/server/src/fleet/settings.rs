//! What the configuration says of the fleet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use model::family::Family;
use model::sighting::Lookout;
use secrecy::SecretString;

/// What the configuration says of the fleet. Exchanged as a whole when it is read again.
#[derive(Clone)]
pub struct FleetSettings {
    /// The families, in the order in which they are asked.
    pub families: Vec<FamilySettings>,
    /// Networks to be asked address by address.
    pub scan_ranges: Vec<IpNet>,
    /// How often they are asked; none: only when somebody wants it.
    pub scan_every: Option<Duration>,
    /// Whether announcements by multicast DNS are listened to.
    pub mdns: bool,
    /// How they are listened to.
    pub multicast: net::Multicast,
    /// The broker to listen to.
    pub broker: Option<discovery::Broker>,
    /// Whether what is found is enrolled by itself.
    pub auto_enroll: bool,
}

/// One family, and what the configuration says of it.
#[derive(Clone)]
pub struct FamilySettings {
    /// The family.
    pub family: Arc<dyn Family>,
    /// Whether its devices are looked for; if not, only those listed, added, or scanned for on request are known.
    pub discovers: bool,
    /// How often each of its devices is looked at.
    pub poll_every: Duration,
    /// The name to log in with where a device has none of its own.
    pub username: Option<String>,
    /// The password where a device has none of its own.
    pub password: Option<SecretString>,
    /// The devices listed in the configuration.
    pub devices: Vec<ConfiguredDevice>,
}

/// A device listed in the configuration.
#[derive(Clone)]
pub struct ConfiguredDevice {
    /// Its address or host name.
    pub host: String,
    /// What to call it.
    pub name: Option<String>,
    /// The name to log in with.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<SecretString>,
    /// Its chip, where it does not tell.
    pub chip: Option<String>,
    /// The largest image that it takes.
    pub slot_bytes: Option<u64>,
    /// The group it belongs to.
    pub group: Option<String>,
    /// Words to sort by.
    pub tags: Vec<String>,
}

impl FleetSettings {
    /// The settings of a family.
    pub(super) fn family(&self, name: &str) -> Option<&FamilySettings> {
        self.families
            .iter()
            .find(|settings| settings.family.id().as_str() == name)
    }

    /// Every place where a family wants to be looked for, each once.
    pub(super) fn lookouts(&self) -> Vec<Lookout> {
        let mut lookouts: Vec<Lookout> = Vec::new();
        for settings in &self.families {
            for lookout in settings.family.lookouts() {
                if !lookouts.contains(&lookout) {
                    lookouts.push(lookout);
                }
            }
        }
        lookouts
    }

    /// The line of the configuration that lists a device of this family at this host.
    pub(super) fn configured(&self, family: &str, host: &str) -> Option<&ConfiguredDevice> {
        self.family(family)?
            .devices
            .iter()
            .find(|device| device.host == host)
    }

    /// All devices listed, with their families.
    pub(super) fn all_configured(&self) -> impl Iterator<Item = (&FamilySettings, &ConfiguredDevice)> {
        self.families
            .iter()
            .flat_map(|settings| settings.devices.iter().map(move |device| (settings, device)))
    }

    /// The names of all families, and how their devices are called.
    pub(super) fn titles(&self) -> BTreeMap<String, &'static str> {
        self.families
            .iter()
            .map(|settings| (settings.family.id().as_str().to_owned(), settings.family.title()))
            .collect()
    }
}
