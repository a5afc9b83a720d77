//! A store, what happens in it, and what tells of that.

use std::sync::Arc;
use std::time::Duration;

use engine::{Clock, Engine};
use families::Ways;
use net::mqtt::Bus;
use net::{Dialer, Networks, Site};
use serde_json::json;
use server::config::{Form, Webhook};
use server::firmware::{self, Repository};
use server::fleet::{Fleet, FleetSettings};
use server::metrics::Metrics;
use server::notify::{Notifier, Pace, Settings};
use server::rollout::{Policy, Rollouts};
use server::secrets::Sealer;
use store::Store;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::receiver::PATIENCE;

/// What tells, over a store that outlives it.
pub(crate) struct Bed {
    pub(crate) fleet: Fleet,
    pub(crate) metrics: Metrics,
    pub(crate) notifier: Notifier,
    pub(crate) store: Arc<Store>,
    folder: TempDir,
    rollouts: Rollouts,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
}

/// Everything is told at once, to this web hook.
pub(crate) fn hook(url: &str, secret: Option<&str>) -> Settings {
    let mut settings = Settings {
        pace: Pace {
            deadline: Duration::from_secs(5),
            pauses: [Duration::from_millis(100); 4],
            now_and_then: Duration::from_mins(15),
        },
        ..Settings::default()
    };
    settings.notify.digest = Duration::ZERO;
    settings.notify.webhook = Some(Webhook {
        url: url.into(),
        secret: secret.map(Into::into),
        form: Form::Json,
    });
    settings
}

impl Bed {
    pub(crate) async fn start(settings: Settings) -> Self {
        Self::with(settings, None).await
    }

    pub(crate) async fn with(settings: Settings, bus: Option<Bus>) -> Self {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(folder.path()).await.unwrap());
        let engine = Engine::new(Arc::clone(&store)).unwrap();
        let site = Site {
            dialer: Dialer::new(Networks::new([]), None).into(),
            callback: None,
            pull: None,
        };
        let families = families::all(&site, &Ways::default());
        let repository = Repository::open(
            Store::clone(&store),
            families,
            Clock,
            firmware::Settings::default(),
        )
        .await
        .unwrap();
        let metrics = Metrics::new();
        let fleet = Fleet::load(
            Arc::clone(&store),
            engine.clone(),
            site,
            Arc::new(Sealer::open_or_make(folder.path()).unwrap()),
            repository.clone(),
            metrics.clone(),
            FleetSettings {
                families: Vec::new(),
                scan_ranges: Vec::new(),
                scan_every: None,
                mdns: false,
                multicast: net::Multicast::default(),
                broker: None,
                auto_enroll: false,
            },
        )
        .await
        .unwrap();
        let rollouts = Rollouts::load(
            Arc::clone(&store),
            engine,
            fleet.clone(),
            repository,
            metrics.clone(),
            Policy::default(),
        )
        .await
        .unwrap();
        let notifier = open(&store, &fleet, &rollouts, &metrics, bus, settings).await;
        let mut bed = Self {
            fleet,
            metrics,
            notifier,
            store,
            folder,
            rollouts,
            cancel: CancellationToken::new(),
            tasks: JoinSet::new(),
        };
        bed.run().await;
        bed
    }

    async fn run(&mut self) {
        self.cancel = CancellationToken::new();
        self.tasks.spawn(self.notifier.clone().run(self.cancel.clone()));
        // It has begun once it has stored from where on it tells.
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.store.setting("notify").await.unwrap().is_none() {
            assert!(tokio::time::Instant::now() < deadline, "it does not begin");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends it in the middle of whatever it does.
    pub(crate) async fn stop(&mut self) {
        self.cancel.cancel();
        while self.tasks.join_next().await.is_some() {}
    }

    /// Begins again with what is stored.
    pub(crate) async fn go_on(&mut self, settings: Settings) {
        self.notifier = open(
            &self.store,
            &self.fleet,
            &self.rollouts,
            &self.metrics,
            None,
            settings,
        )
        .await;
        self.run().await;
    }

    /// A rollout has halted that nobody knows more of.
    pub(crate) async fn halts(&self, id: i64) {
        let detail = json!({ "rollout": id, "text": "Too much has failed." });
        self.fleet.announce("rollout.halted", &detail).await;
    }

    /// What an earlier process has left has failed, at this device.
    pub(crate) async fn fails(&self, device: &str) {
        let detail = json!({ "device": device, "outcome": "failed", "text": "It does not answer." });
        self.fleet.announce("job.settled", &detail).await;
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        self.folder.path()
    }
}

async fn open(
    store: &Arc<Store>,
    fleet: &Fleet,
    rollouts: &Rollouts,
    metrics: &Metrics,
    bus: Option<Bus>,
    settings: Settings,
) -> Notifier {
    let (store, fleet) = (Arc::clone(store), fleet.clone());
    let opened = Notifier::open(
        store,
        Clock,
        fleet,
        rollouts.clone(),
        metrics.clone(),
        bus,
        settings,
    );
    opened.await.unwrap()
}
