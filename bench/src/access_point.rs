//! Devices behind one access point: two network namespaces with a cable between them that lets through so much.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// What a full segment carries, and what it is on the cable: Ethernet, IPv4, and TCP with timestamps.
const CARRIED: u64 = 1448;
const ON_CABLE: u64 = 1514;
/// Where the devices are, behind the access point.
pub(crate) const BEHIND: &str = "10.78.0.0/22";
/// Begins the names of both namespaces.
const PREFIX: &str = "rfl-bench";

/// The two namespaces; dropping it takes them down.
pub(crate) struct AccessPoint {
    /// Where the server is.
    pub(crate) home: String,
    /// Where the devices are.
    pub(crate) devices: String,
}

impl AccessPoint {
    /// So many devices from `first` on, and so many bytes of content a second to all of them together.
    ///
    /// The devices are behind a hop, so that the neighbour table of the server's side knows none of them.
    pub(crate) fn build(first: Ipv4Addr, n_devices: usize, bytes_per_s: u64) -> Result<Self> {
        let process = std::process::id();
        let built = Self {
            home: format!("{PREFIX}{process}-home"),
            devices: format!("{PREFIX}{process}-devices"),
        };
        let (home, devices) = (&built.home, &built.devices);
        for name in [home, devices] {
            run("ip", &format!("netns add {name}"))?;
            run("ip", &format!("-n {name} link set lo up"))?;
        }
        run(
            "ip",
            &format!("-n {home} link add ap0 type veth peer name ap0 netns {devices}"),
        )?;
        for (name, address) in [(home, "10.77.0.1"), (devices, "10.77.0.2")] {
            run("ip", &format!("-n {name} address add {address}/30 dev ap0"))?;
            run("ip", &format!("-n {name} link set ap0 up"))?;
        }
        run("ip", &format!("-n {home} route add {BEHIND} via 10.77.0.2"))?;
        let mut address = first;
        for _ in 0..n_devices {
            run("ip", &format!("-n {devices} address add {address}/32 dev lo"))?;
            address = Ipv4Addr::from(u32::from(address) + 1);
        }
        let bits_per_s = bytes_per_s * 8 * ON_CABLE / CARRIED;
        // One segment at a time, as offloading would make one packet of many.
        run("ip", &format!("netns exec {home} ethtool -K ap0 tso off gso off"))
            .or_else(|_| run("ip", &format!("-n {home} link set ap0 gso_max_segs 1")))?;
        run(
            "ip",
            &format!(
                "netns exec {home} tc qdisc add dev ap0 root tbf rate {bits_per_s}bit burst 16kb latency 1s"
            ),
        )?;
        Ok(built)
    }
}

impl Drop for AccessPoint {
    fn drop(&mut self) {
        for name in [&self.home, &self.devices] {
            // It is as good as gone when that fails.
            let _ = run("ip", &format!("netns delete {name}"));
        }
    }
}

fn run(program: &str, arguments: &str) -> Result<()> {
    let output = Command::new(program)
        .args(arguments.split(' '))
        .output()
        .with_context(|| format!("running {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {arguments}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// The command, in a namespace if one is given.
pub(crate) fn command_in(namespace: Option<&str>, program: &std::path::Path) -> Command {
    let Some(namespace) = namespace else {
        return Command::new(program);
    };
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}
