//! The fleet as it is known: which devices there are, where they are, how they fare.
//!
//! Everything lives in memory and is written behind: what matters (a new device, a move, an enrolment) durably and in order,
//! polls in batches. Sightings only propose; what a device says of itself when it is asked decides.

mod arrive;
mod commands;
mod entry;
mod error;
mod known;
mod look;
mod offers;
mod settings;
mod sources;
mod writer;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use engine::{Engine, Way};
use model::id::DeviceId;
use model::inventory::{Places, State as Standing};
use net::Site;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use store::{FleetRow, Store};
use tokio::sync::{Notify, broadcast, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::firmware::Repository;
use crate::metrics::Metrics;
use crate::secrets::Sealer;
use crate::views::{CoverageView, DeviceView, EventView, HealthView, NoteView, SourceView};

pub use commands::{AddDevice, DeviceChange};
pub use error::{FleetError, FleetErrorKind};
pub(crate) use known::Known;
pub use settings::{ConfiguredDevice, FamilySettings, FleetSettings};

use entry::{Entry, Facts};
use writer::{Outbox, Write};

/// Events that a slow listener may be behind before it is cut off; it can replay them from the store.
const N_EVENTS_BEHIND: usize = 1024;

/// The fleet. Cloning shares it.
#[derive(Clone)]
pub struct Fleet {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<Store>,
    engine: Engine,
    site: Site,
    sealer: Arc<Sealer>,
    repository: Repository,
    metrics: Metrics,
    settings: RwLock<Arc<FleetSettings>>,
    state: Mutex<State>,
    /// Held while the outbox is written, so that what is written directly comes after what was said before.
    writing: tokio::sync::Mutex<()>,
    written: Notify,
    /// Something is due earlier than the poller thinks.
    wake: Notify,
    /// Some offers are to be worked out anew.
    offers_due: Notify,
    /// Held while offers are worked out: what is not due any more is true only after that.
    working_out: tokio::sync::Mutex<()>,
    /// Sources are to be started anew: other settings.
    resettle: Notify,
    /// A scan is wanted now; the answer goes there.
    scans: mpsc::Sender<tokio::sync::oneshot::Sender<CoverageView>>,
    scans_wanted: Mutex<Option<mpsc::Receiver<tokio::sync::oneshot::Sender<CoverageView>>>>,
    events: broadcast::Sender<EventView>,
}

/// What is in memory.
struct State {
    /// By key.
    entries: BTreeMap<String, Box<Entry>>,
    places: Places,
    /// Addresses that are being looked at because of a sighting.
    looking_at: HashSet<IpAddr>,
    outbox: Outbox,
    sources: BTreeMap<&'static str, SourceView>,
    /// Until when it is known what was done beside this server.
    taken_over_ms: i64,
    /// Why the last write failed; none after one that went well.
    not_stored: Option<String>,
    /// Devices whose stored password cannot be opened: it was sealed with another key.
    n_unreadable_passwords: usize,
}

impl Fleet {
    /// Takes in what was known when the program ended. Nothing is looked at before [`Fleet::run`].
    pub async fn load(
        store: Arc<Store>,
        engine: Engine,
        site: Site,
        sealer: Arc<Sealer>,
        repository: Repository,
        metrics: Metrics,
        settings: FleetSettings,
    ) -> Result<Self, store::StoreError> {
        let rows = store.fleet().await?;
        let (events, _) = broadcast::channel(N_EVENTS_BEHIND);
        let (scans, scans_wanted) = mpsc::channel(1);
        let mut state = State {
            entries: BTreeMap::new(),
            places: Places::default(),
            looking_at: HashSet::new(),
            outbox: Outbox::default(),
            sources: BTreeMap::new(),
            taken_over_ms: engine.clock().now().wall_ms,
            not_stored: None,
            n_unreadable_passwords: 0,
        };
        let now = Instant::now();
        for row in rows {
            let Some(family) = settings.family(row.id.family.as_str()) else {
                // A family that this program does not have: a newer one wrote it. It stays in the store.
                tracing::warn!(device = %row.id, "no such family here; the device is left alone");
                continue;
            };
            let standing = match (row.online, row.seen_ms) {
                (true, _) => Standing::Online,
                (false, Some(_)) => Standing::Offline,
                (false, None) => Standing::Unknown,
            };
            let password = row.sealed_password.as_ref();
            if password.is_some_and(|sealed| sealer.unseal(&row.id.key(), sealed).is_err()) {
                state.n_unreadable_passwords += 1;
            }
            if let Some(address) = row.address {
                state.places.restore(&row.id, address);
            }
            let family = family.family.clone();
            state
                .entries
                .insert(row.id.key(), Entry::new(row, family, standing, now).into());
        }
        let fleet = Self {
            inner: Arc::new(Inner {
                store,
                engine,
                site,
                sealer,
                repository,
                metrics,
                settings: RwLock::new(Arc::new(settings)),
                state: Mutex::new(state),
                writing: tokio::sync::Mutex::new(()),
                written: Notify::new(),
                wake: Notify::new(),
                offers_due: Notify::new(),
                working_out: tokio::sync::Mutex::new(()),
                resettle: Notify::new(),
                scans,
                scans_wanted: Mutex::new(Some(scans_wanted)),
                events,
            }),
        };
        fleet.place_configured();
        Ok(fleet)
    }

    /// Looks for devices and at devices until it is cancelled, and then writes what is left to write.
    pub async fn run(&self, cancel: CancellationToken) {
        let mut tasks = JoinSet::new();
        let (sightings, seen) = mpsc::channel(sources::N_SIGHTINGS_WAITING);
        tasks.spawn(self.clone().poll(cancel.clone()));
        tasks.spawn(self.clone().take_sightings(seen, cancel.clone()));
        tasks.spawn(self.clone().look_out(sightings, cancel.clone()));
        tasks.spawn(self.clone().keep_offers(cancel.clone()));
        tasks.spawn(self.clone().write_behind(cancel.clone()));
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a task of the fleet has ended early");
            }
        }
        self.flush().await;
    }

    /// Exchanges the settings. Looks that are under way go on; sources are started anew.
    pub fn apply(&self, settings: FleetSettings) {
        {
            let mut state = self.state();
            for entry in state.entries.values_mut() {
                if let Some(family) = settings.family(entry.row.id.family.as_str()) {
                    entry.family = family.family.clone();
                }
            }
        }
        *self
            .inner
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        self.place_configured();
        self.inner.resettle.notify_one();
        self.inner.wake.notify_one();
    }

    /// All devices, by key.
    pub fn devices(&self) -> Vec<DeviceView> {
        let settings = self.settings();
        let now = self.boot();
        let state = self.state();
        state
            .entries
            .values()
            .map(|entry| entry.view(&self.inner.repository, facts(&settings, entry), now))
            .collect()
    }

    /// One device, by key, name, address, or the unique beginning of its key.
    pub fn device(&self, named: &str) -> Result<DeviceView, FleetError> {
        let settings = self.settings();
        let now = self.boot();
        let state = self.state();
        let key = find(&state, named)?;
        let entry = &state.entries[&key];
        Ok(entry.view(&self.inner.repository, facts(&settings, entry), now))
    }

    /// How many devices are known.
    pub fn n_devices(&self) -> usize {
        self.state().entries.len()
    }

    /// How many devices stand how; conflicts are counted apart.
    pub fn census(&self) -> (BTreeMap<Standing, usize>, usize) {
        let state = self.state();
        let mut standings: BTreeMap<Standing, usize> =
            Standing::ALL.iter().map(|&standing| (standing, 0)).collect();
        let mut n_conflicts = 0;
        for entry in state.entries.values() {
            *standings.entry(entry.presence.state()).or_default() += 1;
            n_conflicts += usize::from(entry.conflict.is_some());
        }
        (standings, n_conflicts)
    }

    /// The health history of a device, the latest first.
    pub async fn health(
        &self,
        named: &str,
        since_ms: i64,
        limit: u32,
    ) -> Result<Vec<HealthView>, FleetError> {
        let id = self.id_of(named)?;
        self.flush().await;
        let samples = self.inner.store.samples(&id, since_ms, limit).await;
        let samples = samples.map_err(|error| FleetError::storing(&error))?;
        Ok(samples
            .into_iter()
            .map(|sample| HealthView {
                at_ms: sample.at_ms,
                online: sample.online,
                uptime_s: sample.uptime_s,
                free_heap_bytes: sample.free_heap_bytes,
                signal_dbm: sample.signal_dbm,
                restarted: sample.restarted,
            })
            .collect())
    }

    /// Where devices are looked for, and how each source fares.
    pub fn sources(&self) -> Vec<SourceView> {
        self.state().sources.values().cloned().collect()
    }

    /// What happens from now on. Whoever falls behind is told so and can replay from the store.
    pub fn events(&self) -> broadcast::Receiver<EventView> {
        self.inner.events.subscribe()
    }

    /// What is wrong with sources, storage and passwords.
    pub fn troubles(&self) -> Vec<NoteView> {
        let state = self.state();
        let sources = state.sources.values().filter(|source| !source.working);
        let mut troubles: Vec<NoteView> = sources
            .filter_map(|source| {
                Some(NoteView {
                    rule: format!("source-{}", source.name),
                    text: source.trouble.clone()?,
                })
            })
            .collect();
        if let Some(not_stored) = &state.not_stored {
            troubles.push(NoteView {
                rule: "database".to_owned(),
                text: format!("What happens cannot be stored, and is tried again: {not_stored}."),
            });
        }
        if state.n_unreadable_passwords > 0 {
            let n_devices = state.n_unreadable_passwords;
            troubles.push(NoteView {
                rule: "passwords-lost".to_owned(),
                text: format!(
                    "The stored passwords of {n_devices} devices cannot be opened: they were sealed with another \
                     secret.key. Restore that file, or set them again: reflash device password."
                ),
            });
        }
        troubles
    }

    /// The password of a device: its own, else its family's; only for what is enrolled and in no conflict.
    pub fn secret(&self, id: &DeviceId) -> Option<SecretString> {
        let settings = self.settings();
        let state = self.state();
        let entry = state.entries.get(&id.key())?;
        if entry.row.enrolled_ms.is_none() || entry.conflict.is_some() {
            return None;
        }
        let configured = entry
            .row
            .given_as
            .as_deref()
            .and_then(|host| settings.configured(id.family.as_str(), host));
        if let Some(password) = configured.and_then(|device| device.password.clone()) {
            return Some(password);
        }
        if let Some(sealed) = &entry.row.sealed_password {
            return self.inner.sealer.unseal(&id.key(), sealed).ok();
        }
        settings.family(id.family.as_str())?.password.clone()
    }

    /// How a device is reached where it was seen last; none where that is not known. Its password only as [`Fleet::secret`] gives it.
    pub(crate) fn way_to(&self, id: &DeviceId) -> Option<Way> {
        let secret = self.secret(id);
        let settings = self.settings();
        let state = self.state();
        let entry = state.entries.get(&id.key())?;
        let address = entry.row.address?;
        let common = || settings.family(id.family.as_str())?.username.clone();
        Some(Way {
            family: entry.family.clone(),
            device: entry.device(),
            given_as: entry.row.given_as.clone().unwrap_or_else(|| address.to_string()),
            username: entry.row.username.clone().or_else(common),
            secret,
            chip: entry.row.chip.clone(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settings(&self) -> Arc<FleetSettings> {
        self.inner
            .settings
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn boot(&self) -> Duration {
        self.inner.engine.clock().now().boot
    }

    fn wall_ms(&self) -> i64 {
        self.inner.engine.clock().now().wall_ms
    }

    fn id_of(&self, named: &str) -> Result<DeviceId, FleetError> {
        let state = self.state();
        let key = find(&state, named)?;
        Ok(state.entries[&key].row.id.clone())
    }

    /// Tells of something that is not the fleet's own: it is stored and told in its turn.
    pub(crate) fn note(&self, kind: &'static str, device: Option<&DeviceId>, detail: Value) {
        self.state().outbox.push(Write::Event {
            kind,
            device: device.map(DeviceId::key),
            detail,
            at_ms: self.wall_ms(),
        });
        self.inner.written.notify_one();
    }

    /// Puts an event in line. It gets its number when it is stored.
    fn tell(&self, state: &mut State, kind: &'static str, device: &DeviceId, detail: Value) {
        tracing::info!(%device, kind, "the fleet has changed");
        state.outbox.push(Write::Event {
            kind,
            device: Some(device.key()),
            detail,
            at_ms: self.wall_ms(),
        });
        self.inner.written.notify_one();
    }

    /// Puts a row in line.
    fn keep(&self, state: &mut State, row: &FleetRow) {
        state.outbox.push(Write::Row(Box::new(row.clone())));
        self.inner.written.notify_one();
    }
}

/// What only the settings tell of a device.
fn facts(settings: &FleetSettings, entry: &Entry) -> Facts {
    let family = entry.row.id.family.as_str();
    let configured = entry
        .row
        .given_as
        .as_deref()
        .and_then(|host| settings.configured(family, host));
    let listed = configured.and_then(|device| device.password.as_ref());
    let common = settings
        .family(family)
        .and_then(|settings| settings.password.as_ref());
    let sealed = entry.row.sealed_password.is_some();
    let public = entry.family.public_password();
    let is_public = |password: &SecretString| public == Some(password.expose_secret());
    Facts {
        configured: configured.is_some(),
        has_password: sealed || listed.or(common).is_some(),
        default_password: !sealed && listed.or(common).is_some_and(is_public),
    }
}

/// The key of the device that is meant; an error names what comes near.
fn find(state: &State, named: &str) -> Result<String, FleetError> {
    let wanted = named.trim();
    let plain: String = wanted
        .chars()
        .filter(|c| !matches!(c, ':'))
        .collect::<String>()
        .to_lowercase();
    if wanted.is_empty() {
        return Err(FleetError::unknown(named));
    }
    for key in [wanted, plain.as_str()] {
        if state.entries.contains_key(key) {
            return Ok(key.to_owned());
        }
    }
    let address = wanted.parse::<IpAddr>().ok();
    let matching = |matches: &dyn Fn(&Entry) -> bool| -> Vec<String> {
        state
            .entries
            .iter()
            .filter(|(_, entry)| matches(entry))
            .map(|(key, _)| key.clone())
            .collect()
    };
    let by_name = matching(&|entry| entry.name().to_lowercase() == wanted.to_lowercase());
    let by_host = matching(&|entry| {
        (address.is_some() && entry.row.address == address) || entry.row.given_as.as_deref() == Some(wanted)
    });
    let by_start = matching(&|entry| plain.len() >= 4 && entry.key().starts_with(&plain));
    for found in [by_name, by_host, by_start] {
        match found.as_slice() {
            [] => {}
            [key] => return Ok(key.clone()),
            several => {
                return Err(FleetError::new(
                    FleetErrorKind::NotFound,
                    format!("{wanted:?} may mean {}.", several.join(", ")),
                    "Name the device by its id.",
                ));
            }
        }
    }
    Err(FleetError::unknown(named))
}
