//! The HTTP API: what anybody may ask of the server, who may, and how often.
//!
//! Every request goes through one guard (`guard.rs`): the host it was meant for, who sent it, what he may by the one table of
//! routes (`access.rs`), the bounds of its body, once and not twice, and the audit. The routes themselves hold no rule of that kind.

mod access;
mod audit;
mod auth;
mod body;
mod devices;
mod events;
mod firmware;
mod guard;
mod home_assistant;
mod host;
mod listen;
mod notify;
mod openapi;
mod pace;
mod parent;
mod problem;
mod rollouts;
mod sessions;
mod settings;
mod system;
mod tls;
mod tokens;
mod windows;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use engine::Clock;
use http::StatusCode;
use ipnet::IpNet;
use store::Store;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use utoipa_axum::router::OpenApiRouter;

use crate::firmware::Repository;
use crate::fleet::Fleet;
use crate::home_assistant::HomeAssistant;
use crate::metrics::Metrics;
use crate::notify::Notifier;
use crate::parents::Parents;
use crate::rollout::Rollouts;

pub use access::{Access, Least, TABLE, Takes};
pub use audit::{AuditCheckView, AuditView};
pub use auth::{FirstToken, FirstTokenError, Identity, NewToken, TOKEN_FILE, first_token};
pub use home_assistant::{HandedView, MistakeView, MistakesProblem};
pub use listen::{Limits, ListenError, ListenOn, Listener, Origin, Peer, Protection, SOCKET_FILE, serve};
pub use openapi::{OPENAPI, document};
pub use pace::Rate;
pub use parent::{API, About, ServerView};
pub use problem::Failure;
pub use sessions::SessionView;
pub use settings::{SettingsView, stored_settings};
pub use system::WhoAmI;
pub use tls::{Certificate, TlsError, config as tls_config};
pub use tokens::{NewTokenRequest, NewTokenView};

/// What the configuration says of the API.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// Names that the server answers to, beside `localhost`, its loopback addresses and the address that was dialled.
    pub hosts: Vec<String>,
    /// Origins of the pages that may show ours in a frame.
    pub frame_ancestors: Vec<String>,
    /// Proxies that may say for whom they ask.
    pub proxies: Vec<IpNet>,
    /// Whether `/metrics` needs a token from this machine, too.
    pub metrics_need_token: bool,
    /// How many requests one token or address may make.
    pub rate: Rate,
    /// How often an address that was wrong too often about its token may try another.
    pub try_every: Duration,
    /// The largest body of JSON, bytes.
    pub json_max_len: usize,
    /// The largest firmware image, bytes.
    pub image_max_len: usize,
    /// How long an answer may take; uploads and events have bounds of their own.
    pub request_timeout: Duration,
    /// How often an idle stream of events says that it lives.
    pub heartbeat: Duration,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            frame_ancestors: Vec::new(),
            proxies: Vec::new(),
            metrics_need_token: false,
            rate: Rate::default(),
            // RELIABILITY.md T31.
            try_every: Duration::from_secs(1),
            json_max_len: access::JSON_MAX_LEN,
            image_max_len: access::IMAGE_MAX_LEN,
            request_timeout: Duration::from_secs(30),
            // Guess: below the 30 s after which home routers and proxies forget a silent connection.
            heartbeat: Duration::from_secs(15),
        }
    }
}

/// Reads the configuration again and applies it; the error says what is wrong with it.
pub type Reload =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<Reloaded, String>> + Send>> + Send + Sync>;

/// What reading the configuration again has brought.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Reloaded {
    /// What has changed, in words.
    pub changes: Vec<String>,
    /// Changes that wait for the next start, in words.
    pub after_restart: Vec<String>,
    /// What its owner should know.
    pub warnings: Vec<String>,
}

/// What the API is made of.
pub struct Parts {
    /// Memory.
    pub store: Arc<Store>,
    /// The time.
    pub clock: Clock,
    /// What the configuration says.
    pub settings: ApiSettings,
    /// The devices.
    pub fleet: Fleet,
    /// The firmware.
    pub repository: Repository,
    /// The rollouts.
    pub rollouts: Rollouts,
    /// What tells people.
    pub notifier: Notifier,
    /// What is counted.
    pub metrics: Metrics,
    /// Reads the configuration again.
    pub reload: Reload,
    /// What Home Assistant has told.
    pub home_assistant: HomeAssistant,
    /// Which server this is.
    pub about: About,
    /// Who holds it.
    pub parents: Parents,
    /// Ends the streams of events.
    pub cancel: CancellationToken,
}

/// The API. Cloning shares it.
#[derive(Clone)]
pub struct Api {
    inner: Arc<Inner>,
}

/// Handlers name the parts as if they were the API's own.
impl std::ops::Deref for Api {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.inner.parts
    }
}

struct Inner {
    parts: Parts,
    doorkeeper: auth::Doorkeeper,
    memory: guard::Memory,
    streams: events::Streams,
    tasks: TaskTracker,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Api")
    }
}

impl Api {
    /// The API of these parts.
    pub fn new(parts: Parts) -> Self {
        let doorkeeper = auth::Doorkeeper::new(parts.store.clone(), parts.clock, &parts.settings);
        Self {
            inner: Arc::new(Inner {
                parts,
                doorkeeper,
                memory: guard::Memory::new(),
                streams: events::Streams::new(),
                tasks: TaskTracker::new(),
            }),
        }
    }

    async fn read_configuration(&self) -> Result<Reloaded, Failure> {
        (self.reload)().await.map_err(|text| {
            Failure::unprocessable("configuration", text)
                .next("mend it; `reflash doctor --config FILE` tries it")
        })
    }

    /// Waits until every change that was begun is done and written down; call it after [`listen::serve`] has returned.
    pub async fn finish(&self) {
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

/// All routes, behind the guard.
pub fn router(api: &Api) -> Router {
    let (routes, _) = routes().split_for_parts();
    guarded(routes.merge(crate::page::routes()), api)
}

/// Puts routes behind the guard. It stands inside of routing, so that it knows which route is asked for; what no route
/// answers to goes through it as well.
fn guarded(routes: Router<Api>, api: &Api) -> Router {
    routes
        .fallback(async || Failure::of_status(StatusCode::NOT_FOUND))
        .layer(from_fn_with_state(api.clone(), guard::guard))
        .with_state(api.clone())
}

fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(openapi::frame())
        .merge(system::routes())
        .merge(parent::routes())
        .merge(sessions::routes())
        .merge(settings::routes())
        .merge(devices::routes())
        .merge(firmware::routes())
        .merge(rollouts::routes())
        .merge(windows::routes())
        .merge(notify::routes())
        .merge(home_assistant::routes())
        .merge(events::routes())
        .merge(audit::routes())
        .merge(tokens::routes())
}
