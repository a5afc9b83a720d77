//! The simulated Komfovent unit, seen through a raw client that shares no code with it.
#![expect(clippy::disallowed_methods, reason = "the raw client opens its own sockets")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are outside of `#[test]` functions"
)]

mod client;
mod real_data;
mod update;
mod web;
mod words;

use std::net::Ipv4Addr;
use std::time::Duration;

use sim::komfovent::{Config, Device, Fault, Registers};
use sim::{Event, EventKind, EventSink};

/// Longest wait for anything.
const DEADLINE: Duration = Duration::from_secs(20);

/// A unit on loopback and its events.
struct Unit {
    device: Device,
    events: EventSink,
}

impl Unit {
    /// A C6 1.3.44.70 with a panel 1.1.5.46, fast.
    fn start() -> Self {
        Self::with(|_| {})
    }

    fn with_faults(faults: &[&str]) -> Self {
        Self::with(|config| config.faults = parsed(faults))
    }

    /// A unit with these versions.
    fn running(controller: &str, panel: Option<&str>) -> Self {
        let controller = controller.parse().unwrap();
        let panel = panel.map(|panel| panel.parse().unwrap());
        Self::with(|config| config.registers = Registers::synthesize(controller, panel))
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(Ipv4Addr::LOCALHOST);
        config.rate_bytes_per_s = 20_000_000;
        config.silence = Duration::from_millis(20);
        config.restart = Duration::from_millis(50);
        change(&mut config);
        let events = EventSink::new();
        let device = sim::komfovent::start(config, events.clone()).unwrap();
        Self { device, events }
    }

    /// The first event of this kind, past or coming.
    #[track_caller]
    fn seen(&self, kind: EventKind) -> impl Future<Output = Event> {
        let place = std::panic::Location::caller();
        async move {
            let event = self.events.wait_for(|event| event.kind == kind, DEADLINE).await;
            event.unwrap_or_else(|| panic!("no {} event at {place}", kind.as_str()))
        }
    }

    async fn seen_fault(&self, name: &str) -> Event {
        let fits = |event: &Event| event.kind == EventKind::Fault && event.text("fault") == Some(name);
        self.events
            .wait_for(fits, DEADLINE)
            .await
            .unwrap_or_else(|| panic!("fault {name} did not take effect"))
    }

    fn n_events(&self, kind: EventKind) -> usize {
        self.events.count(|event| event.kind == kind)
    }

    /// Controller and panel.
    fn versions(&self) -> (String, Option<String>) {
        let running = self.device.running();
        (running.controller, running.panel)
    }
}

fn parsed(faults: &[&str]) -> Vec<Fault> {
    faults.iter().map(|fault| Fault::parse(fault).unwrap()).collect()
}
