//! What the system tells of itself and of this process (Linux, `proc(5)`).

use std::fs;
use std::time::{Duration, Instant};

/// Clock ticks a second in `/proc` (`USER_HZ`, 100 on every Linux architecture of today).
const TICKS_PER_S: f64 = 100.0;
/// Load below which a wall time means something. Taste, on two cores.
const QUIET: f64 = 1.5;

/// The memory of a process at one moment.
#[expect(clippy::struct_field_names, reason = "the unit belongs to the name")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Private memory, KiB (`RssAnon`).
    pub(crate) anon_kib: u64,
    /// Resident memory, KiB (`VmRSS`).
    pub(crate) rss_kib: u64,
    /// The most resident memory so far, KiB (`VmHWM`).
    pub(crate) peak_rss_kib: u64,
}

/// What this process uses now.
pub(crate) fn usage() -> Usage {
    usage_of("self")
}

/// What a process uses now; nothing when it is gone.
pub(crate) fn usage_of(pid: &str) -> Usage {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    Usage {
        anon_kib: kib("RssAnon:").unwrap_or(0),
        rss_kib: kib("VmRSS:").unwrap_or(0),
        peak_rss_kib: kib("VmHWM:").unwrap_or(0),
    }
}

/// User and system time of a process, seconds, to 10 ms; 0 when it is gone.
pub(crate) fn cpu_of(pid: &str) -> f64 {
    times_of(pid, 11)
}

/// User and system time of all children that have ended and were waited for, seconds, to 10 ms.
pub(crate) fn cpu_of_children() -> f64 {
    times_of("self", 13)
}

/// Two neighbouring times of `/proc/PID/stat`, added; `first` counts the fields after the name from 0.
fn times_of(pid: &str, first: usize) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may hold spaces and ends with the last parenthesis; utime is field 14, cutime field 16.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 = rest
        .split_whitespace()
        .skip(first)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    ticks / TICKS_PER_S
}

/// The load averages as the kernel prints them.
pub(crate) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// The machine in one line.
pub(crate) fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .and_then(|line| line.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{cores} cores ({model}), Linux {}, load average {}",
        kernel.trim(),
        load_average()
    )
}

/// Waits until the last minute was quiet, or `limit_s` have passed.
pub(crate) fn wait_for_quiet(limit_s: u64) {
    let end = Instant::now() + Duration::from_secs(limit_s);
    let is_busy = || {
        let load = load_average();
        let now = load.split(' ').next().and_then(|load| load.parse::<f64>().ok());
        now.is_some_and(|now| now >= QUIET)
    };
    while is_busy() && Instant::now() < end {
        std::thread::sleep(Duration::from_secs(2));
    }
}

/// The middle of some numbers (the mean of the two middle ones of an even count); NaN of none.
pub(crate) fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    match (n, n % 2) {
        (0, _) => f64::NAN,
        (_, 1) => sorted[n / 2],
        _ => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        for (numbers, middle) in [
            (vec![3.0], 3.0),
            (vec![9.0, 1.0, 2.0], 2.0),
            (vec![4.0, 1.0, 2.0, 3.0], 2.5),
        ] {
            assert!((median(&numbers) - middle).abs() < 1e-9, "{numbers:?}");
        }
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(usage().anon_kib > 0);
        assert!(usage().rss_kib >= usage().anon_kib);
    }
}
