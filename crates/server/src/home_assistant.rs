//! What Home Assistant tells the server: the block `ir_remote_ota:` of its configuration, and which devices it shows.
//!
//! The block lies over the configuration file and is read by the same parser. It holds passwords, so it is kept sealed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::chain::chain;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{Store, StoreError};
use tokio::sync::watch;

use crate::config::{Config, Mistake, handed};
use crate::fleet::Fleet;
use crate::secrets::{Sealer, SecretError};
use crate::views::NoteView;

/// The setting that holds the block.
const BLOCK: &str = "home_assistant_block";
/// The setting that holds what is shown.
const SHOWN: &str = "home_assistant_entries";
/// Entries that may tell what they show. Guess: a server is shown by one Home Assistant, sometimes by two.
const N_ENTRIES: usize = 32;
/// Devices of one entry. A fleet is tested with 1,000.
const N_DEVICES: usize = 10_000;
/// The longest name of an entry (Home Assistant's have 26), and of a device, bytes.
const ENTRY_MAX_LEN: usize = 64;
const DEVICE_MAX_LEN: usize = 300;

/// What Home Assistant has told. Cloning shares it.
#[derive(Clone)]
pub struct HomeAssistant {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<Store>,
    sealer: Arc<Sealer>,
    state: Mutex<State>,
    /// Held while something is changed, from the first look to the last write.
    changing: tokio::sync::Mutex<()>,
    /// Tells that what is shown has changed.
    shown_changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    /// The configuration without the block: what a new one is laid over.
    below: Config,
    block: Option<Block>,
    /// Devices that have left the block and are still to be forgotten, as family and host.
    leaving: BTreeSet<(String, String)>,
    /// What is wrong with the block as it is kept.
    trouble: Option<String>,
    shown: BTreeMap<String, BTreeSet<String>>,
}

/// The block as it is in memory.
struct Block {
    body: Value,
    given_ms: i64,
    given_by: String,
}

/// The block as it is kept.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    /// Sealed, in hexadecimal digits; none once it was taken back.
    sealed: Option<String>,
    given_ms: i64,
    given_by: String,
    #[serde(default)]
    leaving: BTreeSet<(String, String)>,
}

/// Why it cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The block has mistakes.
    #[error("the block has mistakes")]
    Wrong(Vec<Mistake>),
    /// More than there is room for, or a name that is none.
    #[error("{0}")]
    Refused(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It could not be sealed.
    #[error(transparent)]
    Seal(#[from] SecretError),
}

/// The block as it may be shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// Without its secrets.
    pub block: Value,
    /// Where they stand.
    pub secrets: Vec<String>,
    /// When it was handed over.
    pub given_ms: i64,
    /// By whom.
    pub given_by: String,
}

impl HomeAssistant {
    /// What was told before.
    pub async fn load(store: Arc<Store>, sealer: Arc<Sealer>) -> Result<Self, StoreError> {
        let kept = store.setting(BLOCK).await?;
        let kept: Kept = kept
            .and_then(|kept| serde_json::from_value(kept).ok())
            .unwrap_or_default();
        let shown = store.setting(SHOWN).await?;
        let mut state = State {
            shown: shown
                .and_then(|shown| serde_json::from_value(shown).ok())
                .unwrap_or_default(),
            leaving: kept.leaving,
            ..State::default()
        };
        if let Some(sealed) = kept.sealed {
            match open(&sealer, &sealed) {
                Some(body) => {
                    state.block = Some(Block {
                        body,
                        given_ms: kept.given_ms,
                        given_by: kept.given_by,
                    });
                }
                None => {
                    state.trouble = Some(
                        "What Home Assistant has handed over cannot be opened: it was sealed with another secret.key. \
                         Restart Home Assistant, which hands it over again."
                            .to_owned(),
                    );
                }
            }
        }
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                sealer,
                state: Mutex::new(state),
                changing: tokio::sync::Mutex::new(()),
                shown_changed: watch::channel(0).0,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lays the block over a configuration that was just read. What of it does not fit any more is left out and told.
    pub fn lay_over(&self, config: &mut Config) {
        let mut state = self.state();
        state.below = config.clone();
        let Some(block) = &state.block else { return };
        let laid = handed::lay_over(config, &block.body);
        state.trouble = laid.err().map(|mistakes| {
            let first = mistakes.first();
            let text = first.map_or(String::new(), |mistake| {
                format!("{}: {}", mistake.path, mistake.text)
            });
            format!(
                "What Home Assistant has handed over does not fit any more ({text}). \
                 Mend `ir_remote_ota:` in its configuration and restart it."
            )
        });
    }

    /// Takes a new block, or takes it back. Says whether that changed anything; it is applied by reading the configuration again.
    ///
    /// # Errors
    /// It has mistakes, or could not be stored: nothing has changed then.
    pub async fn set_block(&self, body: Option<Value>, by: &str, now_ms: i64) -> Result<bool, KeepError> {
        let _changing = self.inner.changing.lock().await;
        let (kept, leaving) = {
            let state = self.state();
            let was = state.block.as_ref().map(|block| &block.body);
            if let Some(body) = &body {
                let mut tried = state.below.clone();
                handed::lay_over(&mut tried, body).map_err(KeepError::Wrong)?;
            }
            // Also where the last one could not be opened, it is stored anew.
            if was == body.as_ref() && (body.is_some() || state.trouble.is_none()) {
                return Ok(false);
            }
            let stays: BTreeSet<_> = body.iter().flat_map(handed::hosts).collect();
            let mut leaving = state.leaving.clone();
            leaving.extend(was.map(handed::hosts).unwrap_or_default());
            leaving.retain(|device| !stays.contains(device));
            let kept = Kept {
                sealed: body.as_ref().map(|body| self.seal(body)).transpose()?,
                given_ms: now_ms,
                given_by: by.to_owned(),
                leaving: leaving.clone(),
            };
            (kept, leaving)
        };
        self.inner.store.set_setting(BLOCK, Some(&json!(kept))).await?;
        let mut state = self.state();
        state.trouble = None;
        state.leaving = leaving;
        state.block = body.map(|body| Block {
            body,
            given_ms: now_ms,
            given_by: by.to_owned(),
        });
        Ok(true)
    }

    fn seal(&self, body: &Value) -> Result<String, SecretError> {
        let text = SecretString::from(body.to_string());
        self.inner.sealer.seal(BLOCK, &text).map(hex::encode)
    }

    /// The block without its secrets; none where none was handed over.
    pub fn block(&self) -> Option<Shown> {
        let state = self.state();
        let block = state.block.as_ref()?;
        let (shown, secrets) = handed::without_secrets(&block.body);
        Some(Shown {
            block: shown,
            secrets,
            given_ms: block.given_ms,
            given_by: block.given_by.clone(),
        })
    }

    /// Forgets the devices that have left the block, unless somebody else enrolled or added them; one in the middle of an
    /// update is forgotten later.
    pub async fn forget_leaving(&self, fleet: &Fleet) {
        let _changing = self.inner.changing.lock().await;
        let leaving = self.state().leaving.clone();
        let mut left = BTreeSet::new();
        for (family, host) in leaving {
            match fleet.forget_listed(&family, &host).await {
                Ok(true) => {}
                // The file lists it as well: it never leaves. Else the configuration is about to be read again.
                Ok(false) if self.stands_in_file(&family, &host) => {}
                Ok(false) => drop(left.insert((family, host))),
                Err(error) => {
                    let error = chain(&error);
                    tracing::info!(host, error, "a device stays for now that was taken out");
                    left.insert((family, host));
                }
            }
        }
        let kept = {
            let mut state = self.state();
            if state.leaving == left {
                return;
            }
            state.leaving.clone_from(&left);
            let block = state.block.as_ref();
            let sealed = block.map(|block| self.seal(&block.body)).transpose();
            // What cannot be sealed now stays as it was stored: forgetting is tried again, and finds nothing to forget.
            let Ok(sealed) = sealed else { return };
            Kept {
                sealed,
                given_ms: block.map_or(0, |block| block.given_ms),
                given_by: block.map(|block| block.given_by.clone()).unwrap_or_default(),
                leaving: left,
            }
        };
        if let Err(error) = self.inner.store.set_setting(BLOCK, Some(&json!(kept))).await {
            tracing::warn!(
                error = chain(&error),
                "what has left is forgotten again at the next start"
            );
        }
    }

    /// Whether the configuration lists a device without the block, too.
    fn stands_in_file(&self, family: &str, host: &str) -> bool {
        let state = self.state();
        let block = state.below.family(family);
        block.is_some_and(|block| block.devices.iter().any(|device| device.host == host))
    }

    /// Whether devices are still to be forgotten.
    pub fn has_leaving(&self) -> bool {
        !self.state().leaving.is_empty()
    }

    /// Which devices an entry shows from now on; none where the entry is gone. Says whether that changed anything.
    pub async fn set_shown(&self, entry: &str, devices: Option<Vec<String>>) -> Result<bool, KeepError> {
        let refused = |text: String| Err(KeepError::Refused(text));
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if entry.is_empty() || entry.len() > ENTRY_MAX_LEN || !entry.bytes().all(fits) {
            return refused(format!(
                "an entry's id is 1 to {ENTRY_MAX_LEN} letters, digits, `-` and `_`"
            ));
        }
        if let Some(devices) = &devices {
            if devices.len() > N_DEVICES {
                return refused(format!("an entry shows at most {N_DEVICES} devices"));
            }
            let is_id = |device: &String| {
                !device.is_empty() && device.len() <= DEVICE_MAX_LEN && !device.chars().any(char::is_control)
            };
            if !devices.iter().all(is_id) {
                return refused(
                    "`devices` are the ids of devices, as `GET /api/v1/devices` tells them".to_owned(),
                );
            }
        }
        let _changing = self.inner.changing.lock().await;
        let mut shown = self.state().shown.clone();
        match devices {
            Some(devices) => {
                if !shown.contains_key(entry) && shown.len() >= N_ENTRIES {
                    return refused(format!(
                        "there are {N_ENTRIES} entries already; delete those that are gone"
                    ));
                }
                shown.insert(entry.to_owned(), devices.into_iter().collect());
            }
            None => drop(shown.remove(entry)),
        }
        if shown == self.state().shown {
            return Ok(false);
        }
        self.inner.store.set_setting(SHOWN, Some(&json!(shown))).await?;
        self.state().shown = shown;
        self.inner.shown_changed.send_modify(|n_changes| *n_changes += 1);
        Ok(true)
    }

    /// Whether an entry shows this device.
    pub fn shows(&self, device: &str) -> bool {
        let state = self.state();
        state.shown.values().any(|devices| devices.contains(device))
    }

    /// Tells that what is shown has changed.
    pub fn shown_changes(&self) -> watch::Receiver<u64> {
        self.inner.shown_changed.subscribe()
    }

    /// What is wrong with what was handed over.
    pub fn troubles(&self) -> Vec<NoteView> {
        let trouble = self.state().trouble.clone();
        let note = |text| NoteView {
            rule: "home-assistant".to_owned(),
            text,
        };
        trouble.map(note).into_iter().collect()
    }
}

/// The block that was sealed.
fn open(sealer: &Sealer, kept: &str) -> Option<Value> {
    let text = sealer.unseal(BLOCK, &hex::decode(kept).ok()?).ok()?;
    serde_json::from_str(text.expose_secret()).ok()
}
