//! Which process holds something, and whether it still lives.

use std::fs;

use model::lease::Liveness;
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// The number of the first process namespace (`PROC_PID_INIT_INO`, `include/linux/proc_ns.h`).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// A process of some machine, so that it cannot be taken for another one with the same number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The machine's name; in a container with its own process numbers also that namespace.
    pub host: String,
    /// Which run of the machine (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// The process's number.
    pub pid: u32,
    /// When it started, clock ticks after the machine did (field 22 of `/proc/PID/stat`, proc(5)).
    pub process_start_ticks: u64,
}

impl Holder {
    /// This process.
    pub fn this_process() -> std::io::Result<Self> {
        let pid = std::process::id();
        let stat = fs::read_to_string("/proc/self/stat")?;
        let (_, process_start_ticks) = state_and_start(&stat)
            .ok_or_else(|| std::io::Error::other("/proc/self/stat is not understood"))?;
        Ok(Self {
            host: host()?,
            boot_id: boot_id()?,
            pid,
            process_start_ticks,
        })
    }
}

/// Whether the holder still lives, as far as this machine can tell: of other machines it cannot, and of its own earlier runs
/// nothing does.
pub fn process_is_alive(holder: &Holder) -> Liveness {
    let (Ok(host), Ok(boot_id)) = (host(), boot_id()) else {
        return Liveness::Unknown;
    };
    match (holder.host == host, holder.boot_id == boot_id) {
        (true, true) => {}
        // All that several machines of one name could share is a folder, which SQLite's log does not allow.
        (true, false) => return Liveness::Dead,
        (false, _) => return Liveness::Unknown,
    }
    let stat = fs::read_to_string(format!("/proc/{}/stat", holder.pid));
    match stat.as_deref().ok().and_then(state_and_start) {
        // A zombie has stopped working; another start time is another process.
        Some((b'Z' | b'X', _)) => Liveness::Dead,
        Some((_, ticks)) if ticks != holder.process_start_ticks => Liveness::Dead,
        Some(_) => Liveness::Alive,
        // A process of another user may be hidden in /proc, but not from kill.
        None => match i32::try_from(holder.pid).ok().and_then(Pid::from_raw) {
            Some(pid) if test_kill_process(pid) == Err(Errno::SRCH) => Liveness::Dead,
            Some(_) => Liveness::Unknown,
            None => Liveness::Dead,
        },
    }
}

/// State letter and start time; the name before them may hold any bytes, also spaces and parentheses.
fn state_and_start(stat: &str) -> Option<(u8, u64)> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    // The state is field 3, so field 22 is the nineteenth after it.
    Some((state, fields.nth(18)?.parse().ok()?))
}

fn boot_id() -> std::io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

fn host() -> std::io::Result<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname")?;
    let namespace = fs::read_link("/proc/self/ns/pid")?;
    let namespace = namespace.to_string_lossy();
    Ok(if namespace == FIRST_PID_NAMESPACE {
        name.trim().to_owned()
    } else {
        format!("{} {namespace}", name.trim())
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn this_process_is_alive_and_an_earlier_one_of_its_number_is_not() {
        let mut holder = Holder::this_process().unwrap();
        assert_eq!(process_is_alive(&holder), Liveness::Alive);
        holder.process_start_ticks -= 1;
        assert_eq!(process_is_alive(&holder), Liveness::Dead);
    }

    #[test]
    fn a_killed_process_is_dead_before_and_after_it_is_reaped() {
        let mut child = Command::new("sleep")
            .arg("600")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let holder = Holder {
            pid: child.id(),
            process_start_ticks: state_and_start(&stat).unwrap().1,
            ..Holder::this_process().unwrap()
        };
        assert_eq!(process_is_alive(&holder), Liveness::Alive);
        child.kill().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while process_is_alive(&holder) != Liveness::Dead {
            assert!(std::time::Instant::now() < deadline, "the zombie counts as alive");
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(process_is_alive(&holder), Liveness::Dead);
    }

    #[test]
    fn of_another_machine_nothing_is_known_and_of_an_earlier_run_of_this_one_nothing_lives() {
        let holder = Holder::this_process().unwrap();
        let elsewhere = Holder {
            host: "elsewhere".to_owned(),
            ..holder.clone()
        };
        assert_eq!(process_is_alive(&elsewhere), Liveness::Unknown);
        let earlier = Holder {
            boot_id: "earlier".to_owned(),
            ..holder
        };
        assert_eq!(process_is_alive(&earlier), Liveness::Dead);
    }

    #[test]
    fn a_process_name_may_hold_spaces_and_parentheses() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9";
        assert_eq!(state_and_start(stat), Some((b'S', 4242)));
        assert_eq!(state_and_start("7 (a) S 1"), None);
        assert_eq!(state_and_start(""), None);
    }
}
