//! Where sightings come from: each source by itself, so that a broken one never stops the others.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use discovery::{Coverage, Scan};
use model::chain::chain;
use model::family::Family;
use model::sighting::{Candidate, Sighting};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::arrive::How;
use super::{FamilySettings, Fleet, FleetSettings};
use crate::views::{CoverageView, SourceView};

/// Sightings that may wait; a source that is faster waits itself.
pub(super) const N_SIGHTINGS_WAITING: usize = 256;
/// Looks at once that follow from sightings.
const N_LOOKS: usize = 64;
/// How long a source that failed waits before it starts again, at first and at most.
const BACK_OFF: [Duration; 2] = [Duration::from_secs(2), Duration::from_mins(2)];
/// How soon to scan again where nothing could be asked: the network may come back.
const AFTER_NO_ROUTE: Duration = Duration::from_secs(30);

/// A sighting, and who had it.
pub(super) type Tagged = (&'static str, Sighting);

impl Fleet {
    /// Keeps all sources running, and starts them anew when the settings have changed.
    pub(super) async fn look_out(self, out: mpsc::Sender<Tagged>, cancel: CancellationToken) {
        let wanted = self
            .inner
            .scans_wanted
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        let Some(mut wanted) = wanted else {
            tracing::error!("the fleet is run twice");
            return;
        };
        loop {
            let settings = self.settings();
            self.show_sources(&settings);
            let stop = cancel.child_token();
            let mut sources = JoinSet::new();
            if settings.mdns {
                sources.spawn(
                    self.clone()
                        .listen_mdns(settings.clone(), out.clone(), stop.clone()),
                );
            }
            if settings.broker.is_some() {
                sources.spawn(
                    self.clone()
                        .listen_mqtt(settings.clone(), out.clone(), stop.clone()),
                );
            }
            tokio::select! {
                () = cancel.cancelled() => {}
                () = self.inner.resettle.notified() => {}
                () = self.scan_on(&settings, &out, &mut wanted) => {}
            }
            stop.cancel();
            while sources.join_next().await.is_some() {}
            if cancel.is_cancelled() {
                return;
            }
        }
    }

    fn show_sources(&self, settings: &FleetSettings) {
        let mut state = self.state();
        let wanted = [
            ("mdns", settings.mdns),
            ("mqtt", settings.broker.is_some()),
            ("scan", !settings.scan_ranges.is_empty()),
            ("config", settings.all_configured().next().is_some()),
        ];
        for (name, on) in wanted {
            if !on {
                state.sources.remove(name);
                continue;
            }
            state.sources.entry(name).or_insert_with(|| SourceView {
                name: name.to_owned(),
                working: true,
                trouble: None,
                n_sightings: 0,
                coverage: None,
            });
        }
    }

    /// Scans again and again, and whenever somebody asks for it.
    async fn scan_on(
        &self,
        settings: &FleetSettings,
        out: &mpsc::Sender<Tagged>,
        wanted: &mut mpsc::Receiver<oneshot::Sender<CoverageView>>,
    ) {
        let mut next = Instant::now();
        loop {
            let asked = match settings.scan_every {
                Some(_) if !settings.scan_ranges.is_empty() => tokio::select! {
                    asked = wanted.recv() => asked,
                    () = tokio::time::sleep_until(next) => None,
                },
                _ => wanted.recv().await,
            };
            let coverage = self.scan_once(settings, out).await;
            let nothing_asked = coverage.n_addresses > 0 && coverage.n_failed == coverage.n_addresses;
            let every = settings.scan_every.unwrap_or(AFTER_NO_ROUTE);
            next = Instant::now()
                + if nothing_asked {
                    every.min(AFTER_NO_ROUTE)
                } else {
                    every
                };
            if let Some(asked) = asked {
                // Whoever asked may have gone.
                let _ = asked.send(coverage);
            }
        }
    }

    async fn scan_once(&self, settings: &FleetSettings, out: &mpsc::Sender<Tagged>) -> CoverageView {
        let scan = Scan::new(settings.scan_ranges.clone(), settings.lookouts());
        let (seen, sightings) = mpsc::channel(N_SIGHTINGS_WAITING);
        let (coverage, ()) = tokio::join!(
            async {
                // The sender ends with the scan, and so does the one that passes on.
                let seen = seen;
                discovery::scan(&self.inner.site.dialer, &scan, &seen).await
            },
            pass_on("scan", sightings, out)
        );
        let mut view = view_of(&coverage);
        view.ended_ms = Some(self.wall_ms());
        self.inner.metrics.scanned(&view);
        let failed = view.n_failed > 0 && view.n_failed == view.n_addresses;
        let mut state = self.state();
        if let Some(source) = state.sources.get_mut("scan") {
            source.coverage = Some(view.clone());
            source.working = !failed;
            source.trouble = failed.then(|| {
                "No address of the network could be asked: there is no way to it from this machine."
                    .to_owned()
            });
        }
        view
    }

    async fn listen_mdns(
        self,
        settings: Arc<FleetSettings>,
        out: mpsc::Sender<Tagged>,
        stop: CancellationToken,
    ) {
        let lookouts = settings.lookouts();
        let dialer = self.inner.site.dialer.clone();
        self.listen("mdns", &out, &stop, || {
            let (lookouts, dialer) = (lookouts.clone(), dialer.clone());
            let multicast = settings.multicast.clone();
            move |seen| async move {
                let error = discovery::mdns(&lookouts, &multicast, &dialer, &seen).await;
                chain(&error)
            }
        })
        .await;
    }

    async fn listen_mqtt(
        self,
        settings: Arc<FleetSettings>,
        out: mpsc::Sender<Tagged>,
        stop: CancellationToken,
    ) {
        let Some(broker) = settings.broker.clone() else {
            return;
        };
        let lookouts = settings.lookouts();
        self.listen("mqtt", &out, &stop, || {
            let (broker, lookouts) = (broker.clone(), lookouts.clone());
            move |seen| async move { chain(&discovery::mqtt(&broker, &lookouts, &seen).await) }
        })
        .await;
    }

    /// Runs one source until it is stopped; after a failure it waits, longer each time, and starts again.
    async fn listen<S, F>(
        &self,
        name: &'static str,
        out: &mpsc::Sender<Tagged>,
        stop: &CancellationToken,
        start: impl Fn() -> S,
    ) where
        S: FnOnce(mpsc::Sender<Sighting>) -> F,
        F: Future<Output = String>,
    {
        let mut pause = BACK_OFF[0];
        loop {
            let began = Instant::now();
            let (seen, sightings) = mpsc::channel(N_SIGHTINGS_WAITING);
            let (lively, mut heard) = mpsc::channel(1);
            let trouble = tokio::select! {
                () = stop.cancelled() => return,
                trouble = start()(seen) => trouble,
                () = async {
                    tokio::join!(pass_on_telling(name, sightings, out, lively), async {
                        if heard.recv().await.is_some() {
                            self.source_works(name);
                        }
                    });
                    std::future::pending::<()>().await;
                } => return,
            };
            let worked = self
                .state()
                .sources
                .get(name)
                .is_some_and(|source| source.working && source.n_sightings > 0);
            if worked || began.elapsed() > BACK_OFF[1] {
                pause = BACK_OFF[0];
            }
            tracing::warn!(
                source = name,
                trouble,
                "a source of sightings has failed and is started again"
            );
            if let Some(source) = self.state().sources.get_mut(name) {
                source.working = false;
                source.trouble = Some(trouble);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(BACK_OFF[1]);
        }
    }

    fn source_works(&self, name: &str) {
        if let Some(source) = self.state().sources.get_mut(name) {
            source.working = true;
            source.trouble = None;
        }
    }

    /// Acts on sightings: what a family recognises is looked at.
    pub(super) async fn take_sightings(self, mut seen: mpsc::Receiver<Tagged>, cancel: CancellationToken) {
        let mut looks = JoinSet::new();
        loop {
            let tagged = tokio::select! {
                () = cancel.cancelled() => break,
                Some(_) = looks.join_next() => continue,
                tagged = seen.recv(), if looks.len() < N_LOOKS => tagged,
            };
            let Some((source, sighting)) = tagged else { break };
            self.inner.metrics.sighted(source);
            if let Some(source) = self.state().sources.get_mut(source) {
                source.n_sightings += 1;
                source.working = true;
                source.trouble = None;
            }
            let settings = self.settings();
            // A scan may have been asked for; announcements nobody asks for.
            let counts = |family: &&FamilySettings| family.discovers || source == "scan";
            let recognised = settings
                .families
                .iter()
                .filter(counts)
                .find_map(|family| Some((family.family.clone(), family.family.recognise(&sighting)?)));
            let Some((family, candidate)) = recognised else {
                continue;
            };
            // What a broker says is a hint only: here, that a device could be told something there.
            if let (Sighting::Mqtt { .. }, Some(pull), Some(id)) =
                (&sighting, &self.inner.site.pull, &candidate.id)
            {
                pull.note(&id.hardware, true);
            }
            let Some(address) = self.worth_a_look(source, &family, &candidate) else {
                continue;
            };
            let fleet = self.clone();
            looks.spawn(async move {
                fleet.follow(source, &family, address, candidate).await;
                fleet.state().looking_at.remove(&address);
            });
        }
        looks.shutdown().await;
    }

    /// Where to look because of a sighting; none where it needs no look.
    fn worth_a_look(
        &self,
        source: &'static str,
        family: &Arc<dyn Family>,
        candidate: &Candidate,
    ) -> Option<IpAddr> {
        let known = candidate
            .id
            .as_ref()
            .and_then(|id| self.state().entries.get(&id.key())?.row.address);
        let address = candidate
            .address
            .or(known)
            .or_else(|| net::address_of(candidate.id.as_ref()?.mac_bytes()?))
            .filter(|address| self.inner.site.dialer.allows(*address));
        let Some(address) = address else {
            if let Some(told) = &candidate.told {
                self.heard(family, (**told).clone());
            }
            return None;
        };
        if source == "mqtt"
            && known == Some(address)
            && let Some(told) = &candidate.told
        {
            // It is looked at anyway; a broker only adds that it told of it.
            self.heard(family, (**told).clone());
            return None;
        }
        let mut state = self.state();
        let here = state.places.at(address).cloned();
        if let Some(entry) = here.and_then(|id| state.entries.get_mut(&id.key()))
            && entry.row.id.family == candidate.family
            && candidate.told.is_none()
        {
            // Its own looks tell more; after a silence the sighting says that now is a good moment.
            let is_here =
                entry.presence.misses() == 0 && entry.presence.state() == model::inventory::State::Online;
            if !is_here {
                entry.next_look = Instant::now();
            }
            let new_source = !entry.row.sources.iter().any(|known| known == source);
            if new_source {
                entry.row.sources.push(source.to_owned());
                let row = entry.row.clone();
                self.keep(&mut state, &row);
            }
            drop(state);
            self.inner.wake.notify_one();
            return None;
        }
        state.looking_at.insert(address).then_some(address)
    }

    async fn follow(
        &self,
        source: &'static str,
        family: &Arc<dyn Family>,
        address: IpAddr,
        candidate: Candidate,
    ) {
        let how = |full| How {
            source: Some(source),
            full,
            given_as: None,
        };
        // What a broker tells is never taken for what the device says itself.
        if source != "mqtt"
            && let Some(told) = candidate.told
        {
            self.arrived(family, address, *told, &how(false)).await;
            return;
        }
        match self.probe(family, address, None).await {
            Ok(snapshot) => {
                self.arrived(family, address, snapshot, &how(true)).await;
            }
            Err(fault) => {
                tracing::debug!(%address, source, fault = fault.text, "a sighting did not stand a closer look");
                self.inner
                    .metrics
                    .failed(family.id().as_str(), fault.reason.name());
                if source == "mqtt"
                    && let Some(told) = candidate.told
                {
                    self.heard(family, *told);
                }
            }
        }
    }
}

async fn pass_on(name: &'static str, mut sightings: mpsc::Receiver<Sighting>, out: &mpsc::Sender<Tagged>) {
    while let Some(sighting) = sightings.recv().await {
        if out.send((name, sighting)).await.is_err() {
            return;
        }
    }
}

/// The same, and tells once that something has come.
async fn pass_on_telling(
    name: &'static str,
    mut sightings: mpsc::Receiver<Sighting>,
    out: &mpsc::Sender<Tagged>,
    lively: mpsc::Sender<()>,
) {
    let mut lively = Some(lively);
    while let Some(sighting) = sightings.recv().await {
        if let Some(lively) = lively.take() {
            let _ = lively.try_send(());
        }
        if out.send((name, sighting)).await.is_err() {
            return;
        }
    }
}

fn view_of(coverage: &Coverage) -> CoverageView {
    CoverageView {
        n_addresses: coverage.n_addresses,
        n_asked: coverage.n_asked,
        n_answered: coverage.n_answered,
        n_refused: coverage.n_refused,
        n_silent: coverage.n_silent,
        n_failed: coverage.n_failed,
        n_skipped: coverage.n_skipped,
        warning: coverage.warning.clone(),
        paced: coverage.paced.clone(),
        took_ms: u64::try_from(coverage.took.as_millis()).unwrap_or(u64::MAX),
        ended_ms: None,
    }
}
