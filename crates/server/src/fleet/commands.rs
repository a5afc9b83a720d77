//! What people ask of the fleet. Everything here is durable before it is answered.

use std::net::IpAddr;
use std::sync::Arc;

use model::chain::{chain, sentence};
use model::device::Snapshot;
use model::family::{Family, FaultKind};
use model::id::DeviceId;
use proto::esp_image::Chip;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use store::{FleetRow, InventoryError, RemoveDeviceError};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::arrive::How;
use super::entry::Entry;
use super::{Fleet, FleetError, FleetErrorKind, FleetSettings, find};
use crate::views::{CoverageView, DeviceView};

/// Longest name, tag or group, characters (RELIABILITY.md T25).
const TEXT_MAX_CHARS: usize = 64;
/// Most tags of one device, and most skipped versions. Guess: nobody sorts by more.
const N_WORDS: usize = 64;
/// Longest password, bytes. Guess: no device takes a longer one.
const PASSWORD_MAX_BYTES: usize = 256;

/// A device to be added.
#[derive(Debug, Default)]
pub struct AddDevice {
    /// Its address or host name.
    pub host: String,
    /// Its family; none to find out.
    pub family: Option<String>,
    /// What to call it.
    pub name: Option<String>,
    /// The name to log in with.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<SecretString>,
    /// Its chip, where it does not tell.
    pub chip: Option<String>,
    /// The largest image that it takes, bytes.
    pub slot_bytes: Option<u64>,
}

/// What is to change of a device; what is none stays, and an inner none takes away.
#[derive(Clone, Debug, Default)]
pub struct DeviceChange {
    /// What to call it.
    pub name: Option<Option<String>>,
    /// The words to sort by, all of them.
    pub tags: Option<Vec<String>>,
    /// The group it belongs to.
    pub group: Option<Option<String>>,
    /// The version or digest it is to stay at.
    pub pinned: Option<Option<String>>,
    /// The versions or digests that are not wanted, all of them.
    pub skipped: Option<Vec<String>>,
    /// Its chip.
    pub chip: Option<Option<String>>,
    /// The largest image that it takes, bytes.
    pub slot_bytes: Option<Option<u64>>,
    /// The name to log in with.
    pub username: Option<Option<String>>,
    /// Whether updates are to be possible.
    pub ota_wanted: Option<Option<bool>>,
}

impl Fleet {
    /// Adds a device by its address or host name: it is asked who it is, and counts as enrolled, because its owner named it.
    ///
    /// One that does not answer is added all the same where its family is given, and asked again until it does.
    pub async fn add(&self, wanted: AddDevice, actor: &str) -> Result<DeviceView, FleetError> {
        let settings = self.settings();
        let host = wanted.host.trim().to_owned();
        if host.is_empty() || host.len() > 253 {
            return Err(invalid("A device is added by its address or host name."));
        }
        let name = wanted.name.as_deref().map(text).transpose()?;
        let chip = wanted.chip.as_deref().map(chip).transpose()?;
        self.name_is_free(name.as_deref(), None)?;
        let families: Vec<Arc<dyn Family>> = match &wanted.family {
            Some(family) => {
                let settings = settings
                    .family(family)
                    .ok_or_else(|| unknown_family(family, &settings))?;
                vec![settings.family.clone()]
            }
            None => settings
                .families
                .iter()
                .map(|settings| settings.family.clone())
                .filter(|family| family.guessable())
                .collect(),
        };
        let address = self.address_of(&host).await?;
        let found = self.ask_families(&families, address, &host).await;
        let (family, id) = match found {
            Ok((family, snapshot)) => {
                let how = How {
                    source: Some("added"),
                    full: true,
                    given_as: Some(host.clone()),
                };
                let id = self.arrived(&family, address, snapshot, &how).await;
                (family, id)
            }
            Err(error) => match (&wanted.family, families.first()) {
                (Some(_), Some(family)) if error.kind == FleetErrorKind::Unreachable => {
                    let id = DeviceId::weak(&family.id(), host.as_str());
                    let mut row = FleetRow::new(id.clone(), self.wall_ms());
                    row.sources.push("added".to_owned());
                    row.given_as = Some(host.clone());
                    row.address = Some(address);
                    let mut state = self.state();
                    let now = Instant::now();
                    let standing = model::inventory::State::Unknown;
                    let entry = Entry::new(row.clone(), family.clone(), standing, now);
                    state.entries.entry(id.key()).or_insert(entry.into());
                    self.keep(&mut state, &row);
                    (family.clone(), id)
                }
                _ => return Err(error),
            },
        };
        let key = id.key();
        self.change_row(&key, |row| {
            row.given_as = Some(host.clone());
            row.name = name.or_else(|| row.name.take());
            row.username = wanted.username.or_else(|| row.username.take());
            row.chip = chip.or_else(|| row.chip.take());
            row.slot_bytes = wanted.slot_bytes.or(row.slot_bytes);
            Ok(())
        })
        .await?;
        if let Some(password) = wanted.password {
            self.set_password(&key, Some(password), actor).await?;
        }
        self.enroll(std::slice::from_ref(&key), actor).await?;
        tracing::info!(device = %id, family = %family.id(), actor, "a device was added");
        self.device(&key)
    }

    /// Forgets a device. It comes back, not enrolled, if it is seen again.
    pub async fn remove(&self, named: &str, actor: &str) -> Result<(), FleetError> {
        let id = self.id_of(named)?;
        let key = id.key();
        let view = self.device(&key)?;
        if view.configured {
            return Err(FleetError::new(
                FleetErrorKind::Conflict,
                format!("{} is listed in the configuration.", view.name),
                "Take it out of reflash.yaml and read the configuration again.",
            ));
        }
        self.flush().await;
        match self.inner.store.remove_device(&id).await {
            // One that was never reached is in memory only.
            Ok(()) | Err(RemoveDeviceError::UnknownDevice { .. }) => {}
            Err(error) => return Err(removing(&error)),
        }
        let mut state = self.state();
        state.entries.remove(&key);
        state.places.forget(&id);
        self.tell(
            &mut state,
            "device.removed",
            &id,
            json!({ "by": actor, "name": view.name }),
        );
        Ok(())
    }

    /// Forgets the device that the configuration listed at this host and does not any more, unless somebody has enrolled or
    /// added it since. Says whether that is done: it is not as long as the configuration still lists it.
    pub(crate) async fn forget_listed(&self, family: &str, host: &str) -> Result<bool, FleetError> {
        let key = {
            let settings = self.settings();
            if settings.configured(family, host).is_some() {
                return Ok(false);
            }
            let state = self.state();
            let mut entries = state.entries.values();
            let found = entries.find(|entry| {
                let row = &entry.row;
                let is_ours = |source: &str| row.sources.iter().any(|own| own == source);
                let by_somebody = row.enrolled_by.as_deref().is_some_and(|by| by != "configuration");
                row.id.family.as_str() == family
                    && row.given_as.as_deref() == Some(host)
                    && is_ours("config")
                    && !is_ours("added")
                    && !is_ours("push")
                    && !by_somebody
            });
            found.map(|entry| entry.key())
        };
        if let Some(key) = key {
            self.remove(&key, "configuration").await?;
        }
        Ok(true)
    }

    /// Enrols devices: from now on they may get a password answer and an image. All or none.
    pub async fn enroll(&self, named: &[String], actor: &str) -> Result<Vec<DeviceView>, FleetError> {
        let ids = self.ids_of(named)?;
        {
            let state = self.state();
            for id in &ids {
                if let Some(conflict) = state
                    .entries
                    .get(&id.key())
                    .and_then(|entry| entry.conflict.as_ref())
                {
                    let conflict = format!("{conflict:?}");
                    tracing::debug!(device = %id, conflict, "not enrolled");
                    return Err(FleetError::new(
                        FleetErrorKind::Conflict,
                        format!("{id} is in an identity conflict."),
                        "Solve the conflict first: reflash device show tells between whom it is.",
                    ));
                }
            }
        }
        self.flush().await;
        let wall_ms = self.wall_ms();
        for id in &ids {
            self.inner
                .store
                .enroll_by(id, actor, wall_ms)
                .await
                .map_err(|error| inventory(&error))?;
            let mut state = self.state();
            let Some(entry) = state.entries.get_mut(&id.key()) else {
                continue;
            };
            if entry.row.enrolled_ms.is_none() {
                entry.row.enrolled_ms = Some(wall_ms);
                entry.row.enrolled_by = Some(actor.to_owned());
                entry.offer_due = true;
                self.tell(&mut state, "device.enrolled", id, json!({ "by": actor }));
            }
        }
        self.refresh_offers().await;
        self.flush().await;
        ids.iter().map(|id| self.device(&id.key())).collect()
    }

    /// Takes the enrolment back.
    pub async fn unenroll(&self, named: &str, actor: &str) -> Result<DeviceView, FleetError> {
        let id = self.id_of(named)?;
        if self.device(&id.key())?.configured {
            return Err(FleetError::new(
                FleetErrorKind::Conflict,
                "It is listed in the configuration, and what is listed is enrolled.",
                "Take it out of reflash.yaml and let the server read that again.",
            ));
        }
        self.flush().await;
        self.inner
            .store
            .unenroll(&id)
            .await
            .map_err(|error| inventory(&error))?;
        {
            let mut state = self.state();
            if let Some(entry) = state.entries.get_mut(&id.key()) {
                entry.row.enrolled_ms = None;
                entry.row.enrolled_by = None;
                entry.offer_due = true;
            }
            self.tell(&mut state, "device.unenrolled", &id, json!({ "by": actor }));
        }
        self.flush().await;
        self.device(&id.key())
    }

    /// Changes what its owner says of a device.
    pub async fn change(
        &self,
        named: &str,
        change: DeviceChange,
        actor: &str,
    ) -> Result<DeviceView, FleetError> {
        let key = self.id_of(named)?.key();
        let name = match &change.name {
            Some(Some(name)) => Some(Some(text(name)?)),
            Some(None) => Some(None),
            None => None,
        };
        if let Some(name) = &name {
            self.name_is_free(name.as_deref(), Some(&key))?;
            self.name_is_ours(&key)?;
        }
        let tags = change.tags.map(words).transpose()?;
        let skipped = change.skipped.map(words).transpose()?;
        let group = change
            .group
            .map(|group| group.as_deref().map(text).transpose())
            .transpose()?;
        let pinned = change
            .pinned
            .map(|pinned| pinned.as_deref().map(text).transpose())
            .transpose()?;
        let chip = change
            .chip
            .map(|given| given.as_deref().map(chip).transpose())
            .transpose()?;
        let username = change
            .username
            .map(|username| username.as_deref().map(text).transpose())
            .transpose()?;
        let slot_bytes = match change.slot_bytes {
            Some(Some(bytes)) if !(4096..=model::image::MAX_IMAGE_LEN_BYTES).contains(&bytes) => {
                return Err(invalid("A slot has between 4096 bytes and 16 MiB."));
            }
            other => other,
        };
        self.change_row(&key, |row| {
            if let Some(name) = name {
                row.name = name;
            }
            if let Some(tags) = tags {
                row.tags = tags;
            }
            if let Some(group) = group {
                row.group = group;
            }
            if let Some(pinned) = pinned {
                row.pinned = pinned;
            }
            if let Some(skipped) = skipped {
                row.skipped = skipped;
            }
            if let Some(chip) = chip {
                row.chip = chip;
            }
            if let Some(username) = username {
                row.username = username;
            }
            if let Some(slot_bytes) = slot_bytes {
                row.slot_bytes = slot_bytes;
            }
            if let Some(ota_wanted) = change.ota_wanted {
                row.ota_wanted = ota_wanted;
            }
            Ok(())
        })
        .await?;
        {
            let mut state = self.state();
            let id = state.entries.get(&key).map(|entry| entry.row.id.clone());
            if let Some(id) = id {
                self.tell(&mut state, "device.changed", &id, json!({ "by": actor }));
            }
        }
        self.flush().await;
        self.device(&key)
    }

    /// Keeps a device's password, sealed; or forgets it.
    pub async fn set_password(
        &self,
        named: &str,
        password: Option<SecretString>,
        actor: &str,
    ) -> Result<(), FleetError> {
        let id = self.id_of(named)?;
        let key = id.key();
        if let Some(password) = &password {
            let password = password.expose_secret();
            if password.is_empty()
                || password.len() > PASSWORD_MAX_BYTES
                || password.chars().any(char::is_control)
            {
                return Err(invalid(
                    "A password has 1 to 256 bytes and no control characters.",
                ));
            }
        }
        let sealed = password
            .map(|password| self.inner.sealer.seal(&key, &password))
            .transpose()
            .map_err(|error| FleetError::storing(&error))?;
        let has_one = sealed.is_some();
        self.change_row(&key, |row| {
            row.sealed_password = sealed;
            Ok(())
        })
        .await?;
        let mut state = self.state();
        self.tell(
            &mut state,
            "device.password",
            &id,
            json!({ "by": actor, "set": has_one }),
        );
        Ok(())
    }

    /// Lets a device take updates, or not, and keeps it so over its restarts.
    pub async fn set_ota(&self, named: &str, on: bool, actor: &str) -> Result<DeviceView, FleetError> {
        let id = self.id_of(named)?;
        let key = id.key();
        let (family, address, conflict, enrolled) = {
            let state = self.state();
            let entry = state
                .entries
                .get(&key)
                .ok_or_else(|| FleetError::unknown(named))?;
            let enrolled = entry.row.enrolled_ms.is_some();
            (
                entry.family.clone(),
                entry.row.address,
                entry.conflict.is_some(),
                enrolled,
            )
        };
        if !enrolled {
            return Err(FleetError::new(
                FleetErrorKind::Refused,
                "The device is not enrolled: nothing is changed at it.",
                format!("If it is yours, enrol it first: reflash device enroll {key}"),
            ));
        }
        if conflict {
            return Err(FleetError::new(
                FleetErrorKind::Conflict,
                "The device is in an identity conflict: nothing is sent to it.",
                "Solve the conflict first: reflash device show tells between whom it is.",
            ));
        }
        let Some(address) = address else {
            return Err(FleetError::new(
                FleetErrorKind::Unreachable,
                "Its address is not known.",
                "Wait until it is found, or add it by its address.",
            ));
        };
        // The device, not the address, is meant.
        let seen = self
            .glance(&family, address, None)
            .await
            .map_err(|fault| FleetError::of_fault(&fault))?;
        if seen.id != id {
            return Err(FleetError::new(
                FleetErrorKind::Conflict,
                format!("Another device, {}, answers at {address}.", seen.id),
                "Wait until the device is found at its new address.",
            ));
        }
        self.flush().await;
        let lease = self.inner.engine.lease(&id).await.map_err(|error| {
            FleetError::new(
                FleetErrorKind::Conflict,
                format!("The device is being worked on: {}.", chain(&error)),
                "Wait until its update has ended.",
            )
        })?;
        let mut driver = family.open(model::family::Target {
            address,
            given_as: address.to_string(),
            username: None,
            secret: None,
            chip: None,
            notes: model::family::Notes::default(),
            answers: Arc::new(engine::NoAnswers),
        });
        let switched = driver.switch_ota(on).await;
        self.inner.engine.release(lease).await;
        let snapshot = switched.map_err(|fault| FleetError::of_fault(&fault))?;
        let how = How {
            source: None,
            full: false,
            given_as: None,
        };
        self.arrived(&family, address, snapshot, &how).await;
        let change = DeviceChange {
            ota_wanted: Some(Some(on)),
            ..DeviceChange::default()
        };
        self.change(&key, change, actor).await
    }

    /// Puts new hardware in the place of broken hardware: name, tags, group, pins, password and enrolment go over to it.
    pub async fn replace(&self, old: &str, new: &str, actor: &str) -> Result<DeviceView, FleetError> {
        let (old, new) = (self.id_of(old)?, self.id_of(new)?);
        if old == new {
            return Err(invalid("A device cannot replace itself."));
        }
        if old.family != new.family {
            return Err(invalid("Only a device of the same family can take its place."));
        }
        {
            let state = self.state();
            let is_online = |id: &DeviceId| {
                state
                    .entries
                    .get(&id.key())
                    .is_some_and(|entry| entry.presence.state() == model::inventory::State::Online)
            };
            if is_online(&old) {
                return Err(FleetError::new(
                    FleetErrorKind::Conflict,
                    format!("{old} still answers."),
                    "Disconnect it and wait until it is offline.",
                ));
            }
        }
        self.flush().await;
        self.inner
            .store
            .replace_device(&old, &new)
            .await
            .map_err(|error| removing(&error))?;
        // A password is sealed for one device alone.
        let sealed = {
            let state = self.state();
            state
                .entries
                .get(&old.key())
                .and_then(|entry| entry.row.sealed_password.clone())
        };
        let row = self
            .inner
            .store
            .fleet_row(&new)
            .await
            .map_err(|error| FleetError::storing(&error))?;
        {
            let mut state = self.state();
            state.entries.remove(&old.key());
            state.places.forget(&old);
            if let (Some(entry), Some(row)) = (state.entries.get_mut(&new.key()), row) {
                entry.row = row;
            }
            self.tell(
                &mut state,
                "device.replaced",
                &new,
                json!({ "by": actor, "old": old.key() }),
            );
        }
        if let Some(password) = sealed.and_then(|sealed| self.inner.sealer.unseal(&old.key(), &sealed).ok()) {
            self.set_password(&new.key(), Some(password), actor).await?;
        }
        self.flush().await;
        self.device(&new.key())
    }

    /// Scans now, and says what was covered.
    pub async fn scan(&self, actor: &str) -> Result<CoverageView, FleetError> {
        if self.settings().scan_ranges.is_empty() {
            return Err(FleetError::new(
                FleetErrorKind::Invalid,
                "No network is configured to be scanned.",
                "Set network_range in reflash.yaml, or add the device by its address: reflash device add ADDRESS.",
            ));
        }
        tracing::info!(actor, "a scan was asked for");
        let (answer, coverage) = oneshot::channel();
        let busy = || {
            FleetError::new(
                FleetErrorKind::Conflict,
                "A scan is under way, or discovery is being started anew.",
                "Ask again in a few seconds.",
            )
        };
        self.inner.scans.send(answer).await.map_err(|_| busy())?;
        coverage.await.map_err(|_| busy())
    }

    fn ids_of(&self, named: &[String]) -> Result<Vec<DeviceId>, FleetError> {
        let state = self.state();
        named
            .iter()
            .map(|named| {
                let key = find(&state, named)?;
                Ok(state.entries[&key].row.id.clone())
            })
            .collect()
    }

    /// Changes a row in memory once it is stored.
    async fn change_row(
        &self,
        key: &str,
        change: impl FnOnce(&mut FleetRow) -> Result<(), FleetError>,
    ) -> Result<(), FleetError> {
        self.flush().await;
        let mut row = {
            let state = self.state();
            let entry = state.entries.get(key).ok_or_else(|| FleetError::unknown(key))?;
            entry.row.clone()
        };
        change(&mut row)?;
        self.inner
            .store
            .put_fleet_row(&row)
            .await
            .map_err(|error| FleetError::storing(&error))?;
        {
            let mut state = self.state();
            if let Some(entry) = state.entries.get_mut(key) {
                // A look may have come in between: only what its owner says is taken over.
                let own = &mut entry.row;
                own.given_as = row.given_as;
                own.name = row.name;
                own.username = row.username;
                own.chip = row.chip;
                own.slot_bytes = row.slot_bytes;
                own.tags = row.tags;
                own.group = row.group;
                own.pinned = row.pinned;
                own.skipped = row.skipped;
                own.ota_wanted = row.ota_wanted;
                own.sealed_password = row.sealed_password;
                entry.offer_due = true;
            }
        }
        // What is asked right after this shows the new offer.
        self.refresh_offers().await;
        Ok(())
    }

    /// Whether the device's name is not the configuration's, which would win at the next start.
    fn name_is_ours(&self, key: &str) -> Result<(), FleetError> {
        let settings = self.settings();
        let state = self.state();
        let row = state.entries.get(key).map(|entry| &entry.row);
        let listed =
            row.and_then(|row| settings.configured(row.id.family.as_str(), row.given_as.as_deref()?));
        match listed.and_then(|device| device.name.as_ref()) {
            None => Ok(()),
            Some(name) => Err(FleetError::new(
                FleetErrorKind::Conflict,
                format!("Its name, {name:?}, stands in the configuration."),
                "Change it in reflash.yaml and let the server read that again.",
            )),
        }
    }

    fn name_is_free(&self, name: Option<&str>, except: Option<&str>) -> Result<(), FleetError> {
        let Some(name) = name else { return Ok(()) };
        let state = self.state();
        let is_anothers = |entry: &Entry| {
            Some(entry.key().as_str()) != except && entry.key() == name.to_lowercase().replace(':', "")
        };
        if name.parse::<IpAddr>().is_ok() || state.entries.values().any(|entry| is_anothers(entry)) {
            return Err(invalid("A name is no address, and not another device's id."));
        }
        let taken = state.entries.values().find(|entry| {
            entry.name().to_lowercase() == name.to_lowercase() && Some(entry.key().as_str()) != except
        });
        match taken {
            None => Ok(()),
            Some(entry) => Err(FleetError::new(
                FleetErrorKind::Conflict,
                format!("{name:?} is the name of {} already.", entry.row.id),
                "Choose another name, so that each means one device.",
            )),
        }
    }

    async fn address_of(&self, host: &str) -> Result<IpAddr, FleetError> {
        let found = net::resolve(host).await.map_err(|error| {
            FleetError::new(
                FleetErrorKind::Unreachable,
                sentence(&chain(&error)),
                "Check the spelling, or give its address.",
            )
        })?;
        let allowed = found
            .iter()
            .find(|address| self.inner.site.dialer.allows(**address));
        allowed.copied().ok_or_else(|| {
            FleetError::new(
                FleetErrorKind::Invalid,
                format!("{host} lies outside the networks that may be reached."),
                "Add its network to allowed_networks in reflash.yaml, if devices are there.",
            )
        })
    }

    async fn ask_families(
        &self,
        families: &[Arc<dyn Family>],
        address: IpAddr,
        host: &str,
    ) -> Result<(Arc<dyn Family>, Snapshot), FleetError> {
        let mut last = None;
        for family in families {
            match self.probe(family, address, Some(host)).await {
                Ok(snapshot) => return Ok((family.clone(), snapshot)),
                // Somebody who answers nonsense says more than one who does not answer.
                Err(fault) if last.is_none() || fault.kind != FaultKind::Unreachable => last = Some(fault),
                Err(_) => {}
            }
        }
        let fault = last.ok_or_else(|| invalid("There is no family to ask."))?;
        Err(FleetError::of_fault(&fault))
    }
}

fn invalid(text: &str) -> FleetError {
    FleetError::new(
        FleetErrorKind::Invalid,
        text,
        "Correct the request and send it again.",
    )
}

fn unknown_family(name: &str, settings: &FleetSettings) -> FleetError {
    let names: Vec<String> = settings.titles().into_keys().collect();
    FleetError::new(
        FleetErrorKind::Invalid,
        format!("There is no family {name:?}."),
        format!("Choose one of {}.", names.join(", ")),
    )
}

fn inventory(error: &InventoryError) -> FleetError {
    match error {
        InventoryError::Store(error) => FleetError::storing(error),
        InventoryError::UnknownDevice { device } => FleetError::unknown(device),
    }
}

fn removing(error: &RemoveDeviceError) -> FleetError {
    match error {
        RemoveDeviceError::Store(error) => FleetError::storing(error),
        RemoveDeviceError::UnknownDevice { device } => FleetError::unknown(device),
        other => FleetError::new(
            FleetErrorKind::Conflict,
            format!("It cannot go now: {}.", chain(other)),
            "Let its update end first; one that was cut short is settled when the server starts.",
        ),
    }
}

/// A text of its owner, bounded and printable.
fn text(text: &str) -> Result<String, FleetError> {
    let trimmed = text.trim();
    let n_chars = trimmed.chars().count();
    if n_chars == 0 || n_chars > TEXT_MAX_CHARS || trimmed.chars().any(char::is_control) {
        return Err(invalid(
            "A name, tag, group or version has 1 to 64 printable characters.",
        ));
    }
    Ok(trimmed.to_owned())
}

/// A chip, by the name that tools give it.
fn chip(text: &str) -> Result<String, FleetError> {
    let name = Chip::parse(text).and_then(Chip::name);
    name.map(ToOwned::to_owned).ok_or_else(|| {
        let names: Vec<_> = Chip::names().collect();
        FleetError::new(
            FleetErrorKind::Invalid,
            format!("There is no chip {text:?}."),
            format!("Choose one of {}.", names.join(", ")),
        )
    })
}

fn words(list: Vec<String>) -> Result<Vec<String>, FleetError> {
    if list.len() > N_WORDS {
        return Err(invalid("At most 64 words."));
    }
    let mut words: Vec<String> = Vec::new();
    for word in list {
        let word = text(&word)?;
        if !words.contains(&word) {
            words.push(word);
        }
    }
    Ok(words)
}
