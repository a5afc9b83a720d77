//! Who asks: tokens, sessions of the page, and users of this machine.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engine::Clock;
use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, StatusCode};
use model::access::Role;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Digest as _;
use store::{Store, StoreError};
use subtle::ConstantTimeEq as _;

use super::ApiSettings;
use super::listen::{Origin, Peer};
use super::pace::{Buckets, Tries, household};
use super::problem::Failure;
use crate::secrets::{Existing, SecretError, random, write_private};

/// The first token's file in the data folder.
pub const TOKEN_FILE: &str = "token";
/// How every token begins, so that people and scanners recognise one.
pub(crate) const TOKEN_PREFIX: &str = "rfl_";
/// Random bytes of a token.
const TOKEN_LEN: usize = 32;
/// The cookie of a session of the page.
pub(crate) const SESSION_COOKIE: &str = "reflash_session";
/// The header with the word that only the page knows.
pub(crate) const CSRF_HEADER: &str = "x-csrf-token";
/// How long a session lasts. Guess: a week's absence is a reason to ask again.
const SESSION_LASTS: Duration = Duration::from_hours(7 * 24);
const SESSION_LASTS_MS: i64 = 7 * 86_400_000;
/// How many sessions there may be; the oldest ends for a new one.
const N_SESSIONS: usize = 256;
/// How often the use of a token is written down, ms: a poll a second must not be a write a second.
const TOUCH_EVERY_MS: i64 = 60_000;

/// A new token: the text that its owner gets, and what is kept of it.
pub struct NewToken {
    /// The token; it is shown once.
    pub token: SecretString,
    /// Its SHA-256.
    pub hash: [u8; 32],
}

impl NewToken {
    /// A token of 32 random bytes.
    pub fn make() -> Result<Self, SecretError> {
        let text = format!("{TOKEN_PREFIX}{}", hex::encode(random::<TOKEN_LEN>()?));
        let hash = hash_of(&text);
        Ok(Self {
            token: text.into(),
            hash,
        })
    }
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NewToken(..)")
    }
}

/// What is kept of a token. A plain hash is enough: nobody guesses 32 random bytes.
fn hash_of(token: &str) -> [u8; 32] {
    sha2::Sha256::digest(token.as_bytes()).into()
}

/// The first administrator's token, made at the first start.
#[derive(Debug)]
pub struct FirstToken {
    /// The token, to be printed once.
    pub token: SecretString,
    /// Where it is kept.
    pub path: PathBuf,
}

/// Why there is no first token.
#[derive(Debug, thiserror::Error)]
pub enum FirstTokenError {
    /// The file cannot be written.
    #[error("keeping the first token")]
    Secret(#[from] SecretError),
    /// The database failed.
    #[error("storing the first token")]
    Store(#[from] StoreError),
}

/// The setting that says that there was a first token.
const FIRST_TOKEN_MADE: &str = "api.first_token_made";

/// Makes the first administrator's token and keeps it in the file [`TOKEN_FILE`]; none where there was one before.
///
/// Who loses it makes another through the local socket.
pub async fn first_token(
    store: &Store,
    folder: &Path,
    clock: Clock,
) -> Result<Option<FirstToken>, FirstTokenError> {
    if store.setting(FIRST_TOKEN_MADE).await?.is_some() || !store.tokens().await?.is_empty() {
        return Ok(None);
    }
    let NewToken { token, hash } = NewToken::make()?;
    let path = folder.join(TOKEN_FILE);
    // The file first: a crash in between leaves a file that opens nothing, and the next start replaces it.
    write_private(&path, token.expose_secret(), Existing::Replace)?;
    store
        .create_token("first", Role::Admin, hash, clock.now().wall_ms)
        .await?;
    store
        .set_setting(FIRST_TOKEN_MADE, Some(&serde_json::Value::Bool(true)))
        .await?;
    Ok(Some(FirstToken { token, path }))
}

/// Somebody we know.
#[derive(Clone, Debug)]
pub struct Identity {
    /// As the audit names him: `kitchen (token 3)` or `local user 0`.
    pub actor: String,
    /// What he may do.
    pub role: Role,
    /// Where he is: an address, or `socket`.
    pub source: String,
    pub(crate) via: Via,
}

/// How somebody proved who he is.
#[derive(Clone)]
pub(crate) enum Via {
    Token,
    Session { id_hash: [u8; 32], csrf: String },
    Socket,
}

impl std::fmt::Debug for Via {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Token => "Token",
            Self::Session { .. } => "Session(..)",
            Self::Socket => "Socket",
        })
    }
}

/// The setting with the sessions, so that one outlives a restart of the server.
const SESSIONS: &str = "api.sessions";

/// A session, as it is kept: hashes only, so that nobody who reads the database can go on with one.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Session {
    id_hash: String,
    token_hash: String,
    until_ms: i64,
}

/// The word that only the page knows. It is made of the cookie, which no script can read and which is stored nowhere.
fn csrf_of(id: &str) -> String {
    hex::encode(hash_of(&format!("csrf {id}")))
}

/// Who is slowed down by whose requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Asker {
    Bearer([u8; 32]),
    Address(IpAddr),
    User(u32),
}

/// What the doorkeeper remembers.
pub(crate) struct Doorkeeper {
    store: Arc<Store>,
    clock: Clock,
    remembered: Mutex<Remembered>,
    /// Whether the sessions of earlier processes were read.
    restored: tokio::sync::OnceCell<()>,
}

struct Remembered {
    buckets: Buckets<Asker>,
    tries: Tries,
    sessions: HashMap<[u8; 32], Session>,
    touched: HashMap<i64, i64>,
}

/// A session that has begun.
pub(crate) struct Begun {
    pub(crate) cookie: SecretString,
    pub(crate) csrf: String,
    pub(crate) identity: Identity,
}

impl Doorkeeper {
    pub(crate) fn new(store: Arc<Store>, clock: Clock, settings: &ApiSettings) -> Self {
        Self {
            store,
            clock,
            remembered: Mutex::new(Remembered {
                buckets: Buckets::new(settings.rate),
                tries: Tries::new(settings.try_every),
                sessions: HashMap::new(),
                touched: HashMap::new(),
            }),
            restored: tokio::sync::OnceCell::new(),
        }
    }

    /// Reads the sessions of earlier processes, once.
    async fn restore_sessions(&self) -> Result<(), Failure> {
        let restore = async || {
            let kept = self.store.setting(SESSIONS).await.map_err(|err| broken(&err))?;
            let kept = kept.and_then(|kept| serde_json::from_value::<Vec<Session>>(kept).ok());
            let mut remembered = self.remembered();
            for session in kept.unwrap_or_default() {
                if let Some(id_hash) = unhex(&session.id_hash) {
                    remembered.sessions.entry(id_hash).or_insert(session);
                }
            }
            Ok(())
        };
        self.restored.get_or_try_init(restore).await.copied()
    }

    async fn keep_sessions(&self) -> Result<(), Failure> {
        let sessions: Vec<_> = self.remembered().sessions.values().cloned().collect();
        let value = serde_json::to_value(sessions).map_err(|_| Failure::internal())?;
        let kept = self.store.set_setting(SESSIONS, Some(&value)).await;
        kept.map_err(|err| broken(&err))
    }

    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who sent this; none where he shows nothing. Wrong tokens are errors, whatever is asked for.
    pub(crate) async fn identify(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        address: IpAddr,
    ) -> Result<Option<Identity>, Failure> {
        let source = match peer.from {
            Origin::Local { .. } => "socket".to_owned(),
            Origin::Network(_) => address.to_string(),
        };
        if headers.contains_key(AUTHORIZATION) {
            let token = bearer(headers).unwrap_or_default();
            return self.by_token(token, address, source).await.map(Some);
        }
        if let Origin::Local { uid } = peer.from
            && (uid == 0 || uid == rustix::process::geteuid().as_raw())
        {
            self.pace(Asker::User(uid))?;
            return Ok(Some(Identity {
                actor: format!("local user {uid}"),
                role: Role::Admin,
                source,
                via: Via::Socket,
            }));
        }
        self.pace(Asker::Address(household(address)))?;
        match cookie(headers) {
            Some(id) => self.by_session(id, source).await.map(Some),
            None => Ok(None),
        }
    }

    fn pace(&self, asker: Asker) -> Result<(), Failure> {
        let now = self.clock.now().boot;
        let taken = self.remembered().buckets.take(asker, now);
        taken.map_err(|wait| {
            Failure::too_many(
                "too-many-requests",
                "too many requests in a short time",
                whole(wait),
            )
        })
    }

    async fn by_token(&self, token: &str, address: IpAddr, source: String) -> Result<Identity, Failure> {
        let hash = hash_of(token);
        let now = self.clock.now();
        let may_try = self.remembered().tries.may_try(&hash, address, now.boot);
        may_try.map_err(|wait| {
            Failure::too_many(
                "too-many-tries",
                "too many wrong tokens came from this address",
                whole(wait),
            )
        })?;
        self.pace(Asker::Bearer(hash))?;
        let row = match token.strip_prefix(TOKEN_PREFIX) {
            Some(_) => self
                .store
                .token_by_hash(&hash)
                .await
                .map_err(|err| broken(&err))?,
            None => None,
        };
        let Some(row) = row else {
            self.remembered().tries.was_wrong(&hash, address, now.boot);
            tracing::warn!(%source, "a wrong token was shown to the API");
            return Err(Failure::unauthorized("this token is not known, or was revoked"));
        };
        let touch = {
            let mut remembered = self.remembered();
            remembered.tries.was_right(&hash, address);
            let touched = remembered.touched.entry(row.id).or_insert(i64::MIN);
            let due = now.wall_ms.saturating_sub(*touched) >= TOUCH_EVERY_MS;
            if due {
                *touched = now.wall_ms;
            }
            due
        };
        if touch && let Err(err) = self.store.touch_token(row.id, now.wall_ms).await {
            tracing::warn!(error = %err, "the use of a token could not be noted");
        }
        Ok(Identity {
            actor: format!("{} (token {})", row.name, row.id),
            role: row.role,
            source,
            via: Via::Token,
        })
    }

    async fn by_session(&self, id: &str, source: String) -> Result<Identity, Failure> {
        self.restore_sessions().await?;
        let id_hash = hash_of(id);
        let now_ms = self.clock.now().wall_ms;
        let session = self.remembered().sessions.get(&id_hash).cloned();
        let ended = || Failure::unauthorized("this session has ended");
        let session = session
            .filter(|session| now_ms < session.until_ms)
            .ok_or_else(ended)?;
        let token_hash = unhex(&session.token_hash).ok_or_else(ended)?;
        // The token is asked for each time: a session ends with it.
        let row = self
            .store
            .token_by_hash(&token_hash)
            .await
            .map_err(|err| broken(&err))?;
        let Some(row) = row else {
            self.end_session(&id_hash).await?;
            return Err(ended());
        };
        Ok(Identity {
            actor: format!("{} (token {})", row.name, row.id),
            role: row.role,
            source,
            via: Via::Session {
                id_hash,
                csrf: csrf_of(id),
            },
        })
    }

    /// Begins a session for whoever shows a token.
    pub(crate) async fn begin_session(
        &self,
        token: &SecretString,
        address: IpAddr,
    ) -> Result<Begun, Failure> {
        let token = token.expose_secret();
        let identity = self.by_token(token, address, address.to_string()).await?;
        let no_random = |err: SecretError| {
            tracing::error!(error = %err, "no session");
            Failure::internal()
        };
        let id = hex::encode(random::<32>().map_err(no_random)?);
        let csrf = csrf_of(&id);
        let id_hash = hash_of(&id);
        self.restore_sessions().await?;
        let now_ms = self.clock.now().wall_ms;
        {
            let mut remembered = self.remembered();
            remembered.sessions.retain(|_, session| now_ms < session.until_ms);
            if remembered.sessions.len() >= N_SESSIONS {
                let oldest = remembered
                    .sessions
                    .iter()
                    .min_by_key(|(_, session)| session.until_ms);
                if let Some(oldest) = oldest.map(|(id_hash, _)| *id_hash) {
                    remembered.sessions.remove(&oldest);
                }
            }
            let session = Session {
                id_hash: hex::encode(id_hash),
                token_hash: hex::encode(hash_of(token)),
                until_ms: now_ms.saturating_add(SESSION_LASTS_MS),
            };
            remembered.sessions.insert(id_hash, session);
        }
        self.keep_sessions().await?;
        Ok(Begun {
            cookie: id.into(),
            csrf,
            identity,
        })
    }

    /// Ends a session, also for the next process.
    pub(crate) async fn end_session(&self, id_hash: &[u8; 32]) -> Result<(), Failure> {
        self.remembered().sessions.remove(id_hash);
        self.keep_sessions().await
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    hex::decode(text).ok()?.try_into().ok()
}

/// Refuses a change that comes with the page's cookie and without its word (RELIABILITY.md T23).
pub(crate) fn check_csrf(identity: &Identity, headers: &HeaderMap) -> Result<(), Failure> {
    let Via::Session { csrf, .. } = &identity.via else {
        return Ok(());
    };
    let shown = headers
        .get(CSRF_HEADER)
        .map(http::HeaderValue::as_bytes)
        .unwrap_or_default();
    if bool::from(shown.ct_eq(csrf.as_bytes())) {
        return Ok(());
    }
    Err(Failure::new(
        StatusCode::FORBIDDEN,
        "csrf",
        "a session's change needs the session's word in the header X-CSRF-Token",
    )
    .next("load the page again"))
}

/// The cookie that begins a session; with nothing in it, the one that ends it.
pub(crate) fn set_cookie(id: &str, encrypted: bool) -> String {
    let age_s = if id.is_empty() { 0 } else { SESSION_LASTS.as_secs() };
    let secure = if encrypted { "; Secure" } else { "" };
    format!("{SESSION_COOKIE}={id}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age_s}{secure}")
}

/// Where a request comes from in the end: behind a proxy that the configuration names, whom the proxy names.
pub(crate) fn address_of(peer: &Peer, headers: &HeaderMap, proxies: &[ipnet::IpNet]) -> IpAddr {
    let is_proxy = |address: &IpAddr| proxies.iter().any(|network| network.contains(address));
    let address = match peer.from {
        Origin::Network(address) => address,
        Origin::Local { .. } => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    if !is_proxy(&address) {
        return address;
    }
    // Each proxy adds the one that it heard at the end; what stands before the first stranger may be invented.
    headers
        .get_all(FORWARDED_FOR)
        .iter()
        .filter_map(|forwarded| forwarded.to_str().ok())
        .flat_map(|forwarded| forwarded.split(','))
        .filter_map(|forwarded| forwarded.trim().parse::<IpAddr>().ok())
        .map(|forwarded| forwarded.to_canonical())
        .rfind(|forwarded| !is_proxy(forwarded))
        .unwrap_or(address)
}

const FORWARDED_FOR: &str = "x-forwarded-for";

/// Whether a proxy stands between us and whoever asks.
pub(crate) fn is_forwarded(headers: &HeaderMap) -> bool {
    ["forwarded", FORWARDED_FOR, "x-forwarded-host", "x-real-ip", "via"]
        .iter()
        .any(|name| headers.contains_key(*name))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (only, None) = (all.next()?, all.next()) else {
        return None;
    };
    let (scheme, token) = only.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|cookies| cookies.to_str().ok())
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='))
        .find_map(|(name, id)| (name == SESSION_COOKIE).then_some(id))
}

fn whole(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// The database failed us.
pub(crate) fn broken(err: &StoreError) -> Failure {
    tracing::error!(error = %err, "the API could not use the database");
    Failure::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "store",
        format!("the server's database failed: {}", err.kind),
    )
    .next("look at /health and into the server's log")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[track_caller]
    fn check_bearer(lines: &[&'static str], expected: Option<&str>) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(AUTHORIZATION, HeaderValue::from_static(line));
        }
        assert_eq!(bearer(&headers), expected, "{lines:?}");
    }

    #[test]
    fn one_bearer_token_is_read() {
        check_bearer(&["Bearer rfl_1"], Some("rfl_1"));
        check_bearer(&["bearer rfl_1"], Some("rfl_1"));
        check_bearer(&["Bearer "], Some(""));
        check_bearer(&["Bearer"], None);
        check_bearer(&["Basic rfl_1"], None);
        check_bearer(&["Bearer rfl_1", "Bearer rfl_2"], None);
    }

    #[test]
    fn only_a_named_proxy_may_say_whom_it_speaks_for() {
        let proxies = ["10.0.0.1/32".parse().unwrap(), "10.0.0.2/32".parse().unwrap()];
        let peer = |address: &str| Peer {
            from: Origin::Network(address.parse().unwrap()),
            dialled: None,
            encrypted: false,
        };
        let headers: HeaderMap = [(
            http::HeaderName::from_static(FORWARDED_FOR),
            HeaderValue::from_static("6.6.6.6, 192.0.2.9, 10.0.0.2"),
        )]
        .into_iter()
        .collect();
        let of = |from| address_of(&peer(from), &headers, &proxies).to_string();
        assert_eq!(of("10.0.0.1"), "192.0.2.9");
        assert_eq!(of("10.0.0.3"), "10.0.0.3");
    }

    #[test]
    fn tokens_are_long_and_never_alike() {
        let token = NewToken::make().unwrap();
        let other = NewToken::make().unwrap();
        assert_eq!(token.token.expose_secret().len(), 4 + 64);
        assert_ne!(token.token.expose_secret(), other.token.expose_secret());
        assert_eq!(token.hash, hash_of(token.token.expose_secret()));
        assert_eq!(format!("{token:?}"), "NewToken(..)");
    }
}
