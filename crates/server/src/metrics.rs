//! What the server counts, in the text format of Prometheus.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::views::CoverageView;

/// Upper bounds of what a look may take, seconds. Guess: from a LAN's round trip to the limit of a request.
const LOOK_BUCKETS_S: [f64; 9] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 5.0];

/// What the server counts. Cloning shares it.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    polls: Family<Polled, Counter>,
    poll_seconds: Family<OfFamily, Histogram, fn() -> Histogram>,
    failures: Family<Failed, Counter>,
    sightings: Family<OfSource, Counter>,
    scan_seconds: Gauge<f64, AtomicU64>,
    scan_answered: Gauge<i64, AtomicI64>,
    scan_failed: Gauge<i64, AtomicI64>,
    scans: Counter,
    requests: Family<Requested, Counter>,
    jobs: Family<JobEnded, Counter>,
    notifications: Family<Notified, Counter>,
    notifications_waiting: Family<ToReceiver, Gauge>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Polled {
    family: String,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfFamily {
    family: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Failed {
    family: String,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct JobEnded {
    family: String,
    outcome: &'static str,
    reason: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Notified {
    receiver: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ToReceiver {
    receiver: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfSource {
    source: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Requested {
    status: u16,
}

fn look_histogram() -> Histogram {
    Histogram::new(LOOK_BUCKETS_S)
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All counters at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("reflash");
        let polls = Family::default();
        registry.register("polls", "Looks at devices", Family::clone(&polls));
        let poll_seconds = Family::new_with_constructor(look_histogram as fn() -> Histogram);
        registry.register_with_unit(
            "poll",
            "How long looks take",
            Unit::Seconds,
            Family::clone(&poll_seconds),
        );
        let failures = Family::default();
        registry.register(
            "failures",
            "Looks that failed, by reason",
            Family::clone(&failures),
        );
        let sightings = Family::default();
        registry.register("sightings", "Sightings, by source", Family::clone(&sightings));
        let scan_seconds = Gauge::default();
        registry.register_with_unit(
            "scan",
            "How long the last scan took",
            Unit::Seconds,
            scan_seconds.clone(),
        );
        let scan_answered = Gauge::default();
        registry.register(
            "scan_answered",
            "Addresses that answered in the last scan",
            scan_answered.clone(),
        );
        let scan_failed = Gauge::default();
        registry.register(
            "scan_failed",
            "Addresses that the last scan could not ask",
            scan_failed.clone(),
        );
        let scans = Counter::default();
        registry.register("scans", "Scans", scans.clone());
        let requests = Family::default();
        registry.register(
            "requests",
            "Requests to the API, by status",
            Family::clone(&requests),
        );
        let jobs = Family::default();
        registry.register(
            "jobs",
            "Updates of devices that ended, by outcome and reason",
            Family::clone(&jobs),
        );
        let notifications = Family::default();
        registry.register(
            "notifications",
            "Tries to tell somebody, by receiver and what came of it",
            Family::clone(&notifications),
        );
        let notifications_waiting = Family::default();
        registry.register(
            "notifications_waiting",
            "Messages that wait for their receiver",
            Family::clone(&notifications_waiting),
        );
        Self {
            inner: Arc::new(Inner {
                registry,
                polls,
                poll_seconds,
                failures,
                sightings,
                scan_seconds,
                scan_answered,
                scan_failed,
                scans,
                requests,
                jobs,
                notifications,
                notifications_waiting,
            }),
        }
    }

    pub(crate) fn polled(&self, family: &str, answered: bool, took: Duration) {
        let result = if answered { "answered" } else { "failed" };
        let family = family.to_owned();
        self.inner
            .polls
            .get_or_create(&Polled {
                family: family.clone(),
                result,
            })
            .inc();
        self.inner
            .poll_seconds
            .get_or_create(&OfFamily { family })
            .observe(took.as_secs_f64());
    }

    pub(crate) fn failed(&self, family: &str, reason: &'static str) {
        let family = family.to_owned();
        self.inner
            .failures
            .get_or_create(&Failed { family, reason })
            .inc();
    }

    /// An update of one device has ended; the reasons are a fixed set of names.
    pub(crate) fn job_ended(&self, family: &str, outcome: &'static str, reason: &str) {
        let labels = JobEnded {
            family: family.to_owned(),
            outcome,
            reason: reason.to_owned(),
        };
        self.inner.jobs.get_or_create(&labels).inc();
    }

    /// A receiver was to be told: `sent`, `failed`, or `given-up`.
    pub(crate) fn notified(&self, receiver: &'static str, result: &'static str) {
        self.inner
            .notifications
            .get_or_create(&Notified { receiver, result })
            .inc();
    }

    pub(crate) fn notifications_waiting(&self, receiver: &'static str, n_waiting: usize) {
        let n_waiting = i64::try_from(n_waiting).unwrap_or(i64::MAX);
        self.inner
            .notifications_waiting
            .get_or_create(&ToReceiver { receiver })
            .set(n_waiting);
    }

    pub(crate) fn sighted(&self, source: &'static str) {
        self.inner.sightings.get_or_create(&OfSource { source }).inc();
    }

    pub(crate) fn scanned(&self, coverage: &CoverageView) {
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.inner.scans.inc();
        self.inner
            .scan_seconds
            .set(Duration::from_millis(coverage.took_ms).as_secs_f64());
        self.inner.scan_answered.set(gauge(coverage.n_answered));
        self.inner.scan_failed.set(gauge(coverage.n_failed));
    }

    /// Counts a request to the API.
    pub fn requested(&self, status: u16) {
        self.inner.requests.get_or_create(&Requested { status }).inc();
    }

    /// Everything counted, and how the devices stand now, as Prometheus reads it.
    pub fn render(&self, fleet: &crate::fleet::Fleet) -> String {
        let mut text = String::new();
        let (standings, n_conflicts) = fleet.census();
        text += "# HELP reflash_devices Devices, by how they stand.\n# TYPE reflash_devices gauge\n";
        for (standing, n_devices) in standings {
            let _ = writeln!(
                text,
                "reflash_devices{{state=\"{}\"}} {n_devices}",
                standing.name()
            );
        }
        text += "# HELP reflash_device_conflicts Devices in an identity conflict.\n# TYPE reflash_device_conflicts gauge\n";
        let _ = writeln!(text, "reflash_device_conflicts {n_conflicts}");
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.inner.registry);
        text
    }
}
