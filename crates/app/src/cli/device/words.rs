//! What devices look like to a person.

use std::fmt::Write as _;
use std::time::Duration;

use model::inventory::State as DeviceState;
use server::views::{CoverageView, DeviceView, HealthView};

use super::full_name;
use crate::cli::show::{ago, counted, fact_in, grouped, safe, sentence, spoken};
use crate::cli::table::{Table, WIDTH};

/// What a scan has covered, in words: every address is in it.
pub(super) fn covered(coverage: &CoverageView) -> String {
    let addresses = |n: u64| {
        if n == 1 {
            "1 address".to_owned()
        } else {
            format!("{} addresses", grouped(n))
        }
    };
    if coverage.n_addresses == 0 {
        return "There was nothing to scan: no network is configured (network_range in reflash.yaml)."
            .to_owned();
    }
    let mut text = format!(
        "{} asked, {} answered, {} silent",
        addresses(coverage.n_asked),
        grouped(coverage.n_answered),
        grouped(coverage.n_silent)
    );
    if coverage.n_refused > 0 {
        let _ = write!(
            text,
            ", {} there with nothing that listens",
            grouped(coverage.n_refused)
        );
    }
    let _ = write!(
        text,
        "; it took {}.",
        spoken(Duration::from_millis(coverage.took_ms))
    );
    if let Some(why) = &coverage.paced {
        let _ = write!(text, " It was kept slow: {why}.");
    }
    let n_left = coverage.n_addresses.saturating_sub(coverage.n_asked);
    if n_left > 0 {
        let _ = write!(
            text,
            " {} of {} not asked.",
            grouped(n_left),
            addresses(coverage.n_addresses)
        );
    }
    if coverage.n_failed > 0 {
        let _ = write!(
            text,
            " {} could not be asked by this machine and count as not covered.",
            addresses(coverage.n_failed)
        );
    }
    text
}

pub(super) fn listed(devices: &[DeviceView], n_all: usize, wide: bool) -> String {
    if devices.is_empty() {
        return sentence(if n_all == 0 {
            "No devices are known yet. Look for some with `reflash device scan`, or add one with \
            `reflash device add HOST`."
        } else {
            "No device is like that; `reflash device list` shows all."
        });
    }
    device_table(devices, wide) + &sentence(&summary(devices))
}

pub(super) fn device_table(devices: &[DeviceView], wide: bool) -> String {
    let mut columns = vec![
        ("NAME", 12),
        ("STATE", 10),
        ("ADDRESS", 15),
        ("RUNS", 6),
        ("UPDATE", 12),
    ];
    if wide {
        columns.extend([
            ("KEY", 12),
            ("FAMILY", 9),
            ("MODEL", 5),
            ("CHIP", 8),
            ("SIGNAL", 7),
            ("UP", 8),
            ("SEEN", 8),
            ("OTA", 8),
            ("SOURCES", 8),
            ("GROUP", 5),
            ("TAGS", 5),
        ]);
    }
    let mut table = Table::new(&columns);
    for device in devices {
        let mut cells = vec![
            device.name.clone(),
            device.state.name().to_owned(),
            device
                .address
                .map(|address| address.to_string())
                .unwrap_or_default(),
            runs(device).unwrap_or_default(),
            update(device),
        ];
        if wide {
            cells.extend([
                device.id.clone(),
                device.family.clone(),
                device.model.clone().unwrap_or_default(),
                device.chip.clone().unwrap_or_default(),
                device
                    .signal_dbm
                    .map(|signal| format!("{signal} dBm"))
                    .unwrap_or_default(),
                device
                    .uptime_s
                    .map(|uptime| spoken(Duration::from_secs(uptime)))
                    .unwrap_or_default(),
                device.last_seen_ms.map(ago).unwrap_or_default(),
                device.ota.clone(),
                device.sources.join(", "),
                device.group.clone().unwrap_or_default(),
                device.tags.join(", "),
            ]);
        }
        table.row(cells);
    }
    table.in_width((!wide).then_some(WIDTH))
}

/// What it is believed to run, else what it says.
fn runs(device: &DeviceView) -> Option<String> {
    let installed = device.installed.as_ref().map(|installed| installed.name.clone());
    installed.or_else(|| device.reported_version.clone())
}

/// What there is to say about updating it, in a few words.
fn update(device: &DeviceView) -> String {
    if device.conflict.is_some() {
        "conflict".to_owned()
    } else if device.busy {
        "in progress".to_owned()
    } else if !device.enrolled {
        "not enrolled".to_owned()
    } else if let (true, Some(latest)) = (device.offered, &device.latest) {
        format!("→ {}", latest.name)
    } else if device.pinned.is_some() {
        "pinned".to_owned()
    } else if device.warnings.is_empty() {
        String::new()
    } else {
        "see show".to_owned()
    }
}

fn summary(devices: &[DeviceView]) -> String {
    let mut text = counted(devices.len(), "device");
    let states = [
        DeviceState::Online,
        DeviceState::Offline,
        DeviceState::Unknown,
        DeviceState::Unreadable,
    ];
    let mut sep = ": ";
    for state in states {
        let n = devices.iter().filter(|device| device.state == state).count();
        if n > 0 {
            let _ = write!(text, "{sep}{n} {}", state.name());
            sep = ", ";
        }
    }
    let mut add = |n: usize, one: &str, more: &str| {
        if n > 0 {
            let _ = write!(text, "; {n} {}", if n == 1 { one } else { more });
        }
    };
    let n = |is: fn(&&DeviceView) -> bool| devices.iter().filter(is).count();
    add(n(|device| device.offered), "update offered", "updates offered");
    add(n(|device| device.conflict.is_some()), "conflict", "conflicts");
    add(n(|device| !device.enrolled), "not enrolled", "not enrolled");
    text + "."
}

/// All that is known of a device.
pub(super) fn shown(device: &DeviceView) -> String {
    let mut text = format!("{}\n", safe(&device.name));
    let mut add = |label: &str, value: &str| text += &fact_in(2, label, &safe(value));
    add("key", &device.id);
    add("kind", &format!("{} ({})", device.title, device.family));
    add("state", &state(device));
    if let Some(conflict) = &device.conflict {
        add("conflict", &conflict.text);
        add("next", &conflict.next_step);
    }
    let place: Vec<String> = [
        device.address.map(|address| address.to_string()),
        device.host_name.clone(),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !place.is_empty() {
        add("address", &place.join(" · "));
    }
    if device.identity == "weak" {
        add(
            "identity",
            "weak: only an address or a host name, compared again before each update",
        );
    }
    add("seen by", &device.sources.join(", "));
    let hardware = hardware(device);
    if !hardware.is_empty() {
        add("hardware", &hardware);
    }
    if let Some(installed) = &device.installed {
        let mut runs = installed.name.clone();
        if let Some(sha256) = &installed.sha256 {
            let _ = write!(runs, " · sha256 {}…", sha256.chars().take(8).collect::<String>());
        }
        if !installed.kept {
            runs.push_str(" · no copy here, so no way back to it");
        }
        add("runs", &runs);
    }
    if let Some(reported) = &device.reported_version {
        add("reports", reported);
    }
    if let Some(latest) = &device.latest {
        let why_not = latest.why_not.as_deref().or(device.offered.then_some("offered"));
        add(
            "newest",
            &match why_not {
                Some(why_not) => format!("{} ({}): {why_not}", latest.name, latest.file_name),
                None => format!("{} ({})", latest.name, latest.file_name),
            },
        );
    }
    if let Some(pinned) = &device.pinned {
        add("pinned", pinned);
    }
    if !device.skipped.is_empty() {
        add("skipped", &device.skipped.join(", "));
    }
    add("ota", &ota(device));
    let health = health(device);
    if !health.is_empty() {
        add("health", &health);
    }
    add("enrolled", &enrolled(device));
    add(
        "password",
        if device.has_password {
            "known"
        } else {
            "none known"
        },
    );
    if let Some(group) = &device.group {
        add("group", group);
    }
    if !device.tags.is_empty() {
        add("tags", &device.tags.join(", "));
    }
    for warning in &device.warnings {
        add("warning", &format!("{} ({})", warning.text, warning.rule));
    }
    text
}

/// What it is made of, in a line.
fn hardware(device: &DeviceView) -> String {
    let facts = [
        device.model.clone(),
        device.chip.clone().map(|chip| match device.chip_revision {
            Some(revision) => format!("{chip} rev {}.{}", revision / 100, revision % 100),
            None => chip,
        }),
        device.flash_bytes.map(flash),
        device.slot_bytes.map(|n| format!("slot {} bytes", grouped(n))),
    ];
    facts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

/// The size of a flash chip, which comes in whole MiB.
fn flash(n_bytes: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    if n_bytes.is_multiple_of(MIB) {
        format!("{} MiB flash", n_bytes / MIB)
    } else {
        format!("{} bytes flash", grouped(n_bytes))
    }
}

/// How it fares, in a line.
fn health(device: &DeviceView) -> String {
    let facts = [
        device
            .uptime_s
            .map(|uptime| format!("up {}", spoken(Duration::from_secs(uptime)))),
        device
            .free_heap_bytes
            .map(|n| format!("{} bytes free", grouped(n))),
        device.signal_dbm.map(|signal| format!("{signal} dBm")),
        device
            .running
            .map(|running| if running { "machine on" } else { "machine off" }.to_owned()),
        (device.restarts > 0).then(|| counted(device.restarts as usize, "restart")),
    ];
    facts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

fn state(device: &DeviceView) -> String {
    let mut state = device.state.name().to_owned();
    if device.busy {
        state.push_str(", in the middle of an update");
    }
    if let Some(seen) = device.last_seen_ms {
        let _ = write!(state, " · answered {}", ago(seen));
    }
    let _ = write!(state, " · first seen {}", ago(device.first_seen_ms));
    if let Some(trouble) = &device.trouble {
        let _ = write!(state, " · {trouble}");
    }
    state
}

fn ota(device: &DeviceView) -> String {
    match device.ota_wanted {
        Some(true) => format!("{} · wanted on", device.ota),
        Some(false) => format!("{} · wanted off", device.ota),
        None => device.ota.clone(),
    }
}

fn enrolled(device: &DeviceView) -> String {
    if device.configured && device.enrolled {
        "yes, by the configuration".to_owned()
    } else if device.configured {
        "as soon as it answers: it is listed in the configuration".to_owned()
    } else if let (true, Some(since)) = (device.enrolled, device.enrolled_ms) {
        format!("yes, {}", ago(since))
    } else if device.enrolled {
        "yes".to_owned()
    } else {
        format!("no: `reflash device enroll {}` allows updates", device.id)
    }
}

pub(super) fn fared(device: &DeviceView, looks: &[HealthView], since: Duration) -> String {
    let name = full_name(device);
    if looks.is_empty() {
        return sentence(&format!(
            "{name} was not looked at in the last {}.",
            spoken(since)
        ));
    }
    let mut table = Table::new(&[
        ("WHEN", 10),
        ("STATE", 7),
        ("UP", 10),
        ("FREE HEAP", 9),
        ("SIGNAL", 7),
        ("", 9),
    ]);
    for look in looks {
        table.row([
            ago(look.at_ms),
            if look.online { "online" } else { "missed" }.to_owned(),
            look.uptime_s
                .map(|uptime| spoken(Duration::from_secs(uptime)))
                .unwrap_or_default(),
            look.free_heap_bytes.map(grouped).unwrap_or_default(),
            look.signal_dbm
                .map(|signal| format!("{signal} dBm"))
                .unwrap_or_default(),
            if look.restarted { "restarted" } else { "" }.to_owned(),
        ]);
    }
    let n_missed = looks.iter().filter(|look| !look.online).count();
    let n_restarts = looks.iter().filter(|look| look.restarted).count();
    table.in_width(Some(WIDTH))
        + &sentence(&format!(
            "{name}: {}, {n_missed} missed, {}.",
            counted(looks.len(), "look"),
            counted(n_restarts, "restart")
        ))
}
