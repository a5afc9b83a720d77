//! A home of network namespaces: one with a bridge, and one for each host, joined to it by a pair of virtual cables.
//!
//! The namespaces are made for one test and hold all of its traffic; nothing outside of them is changed.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::need;

/// Begins the name of each of our namespaces; then come the process that made it, a number, and the host.
const PREFIX: &str = "rfl";
/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";
/// The only interface of a host beside its loopback.
const INTERFACE: &str = "eth0";

/// A home; everything in it is taken down when it is dropped.
pub(crate) struct Home {
    name: String,
    hosts: Vec<String>,
}

/// A host of a home.
#[derive(Clone)]
pub(crate) struct Host {
    namespace: String,
    /// End of its cable at the bridge.
    cable: String,
    bridge: String,
    pub(crate) address: Ipv4Addr,
}

impl Home {
    /// A home without hosts; `None` when such tests are left out on this machine.
    pub(crate) fn build() -> Option<Self> {
        static N_BUILT: AtomicU32 = AtomicU32::new(0);
        if need::is_left_out("namespaces") {
            return None;
        }
        sweep();
        let n = N_BUILT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{n}", std::process::id());
        let mut home = Self {
            name,
            hosts: Vec::new(),
        };
        let bridge = home.namespace("home");
        home.made(&bridge);
        ip(&format!("-n {bridge} link add br0 type bridge"));
        // Otherwise the bridge spends seconds on learning whether it is in a loop, and holds multicast back.
        ip(&format!(
            "-n {bridge} link set br0 type bridge forward_delay 0 mcast_snooping 0"
        ));
        ip(&format!("-n {bridge} link set br0 up"));
        Some(home)
    }

    /// A host with this address in a /24, and a MAC like `a0:b1:c2:00:00:07`.
    ///
    /// The name is a word of at most six letters.
    pub(crate) fn host(&mut self, name: &str, address: Ipv4Addr, mac: &str) -> Host {
        let namespace = self.namespace(name);
        let bridge = self.namespace("home");
        self.made(&namespace);
        let cable = format!("to-{name}");
        ip(&format!(
            "-n {bridge} link add {cable} type veth peer name {INTERFACE} netns {namespace}"
        ));
        ip(&format!("-n {bridge} link set {cable} master br0 up"));
        ip(&format!("-n {namespace} link set {INTERFACE} address {mac} up"));
        ip(&format!("-n {namespace} link set lo up"));
        let host = Host {
            namespace,
            cable,
            bridge,
            address,
        };
        host.add_address(address);
        // Multicast takes the way of everything that has no other.
        ip(&format!(
            "-n {} route add default dev {INTERFACE}",
            host.namespace
        ));
        host
    }

    fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }

    fn made(&mut self, namespace: &str) {
        let added = run(&format!("netns add {namespace}"));
        if !added.status.success() {
            need::missing(
                "namespaces",
                &format!(
                    "This test needs network namespaces, and `ip netns add` says: {}.",
                    said(&added)
                ),
                "Run it as root on a Linux that allows them (a container needs CAP_SYS_ADMIN and CAP_NET_ADMIN).",
            );
        }
        self.hosts.push(namespace.to_owned());
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for namespace in &self.hosts {
            let _ = run(&format!("netns delete {namespace}"));
        }
    }
}

impl Host {
    /// The same host at another of its addresses.
    pub(crate) fn at(&self, address: Ipv4Addr) -> Self {
        Self {
            address,
            ..self.clone()
        }
    }

    /// A command that will run on this host.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace])
            .arg(program.as_ref());
        command
    }

    /// One more address, in the same network.
    pub(crate) fn add_address(&self, address: Ipv4Addr) {
        let namespace = &self.namespace;
        ip(&format!(
            "-n {namespace} address add {address}/24 broadcast + dev {INTERFACE}"
        ));
    }

    /// One address less; what was said from it reaches nobody any more.
    pub(crate) fn remove_address(&self, address: Ipv4Addr) {
        let namespace = &self.namespace;
        ip(&format!(
            "-n {namespace} address del {address}/24 dev {INTERFACE}"
        ));
    }

    /// Pulls the cable out of the switch: nothing says that the host is gone.
    pub(crate) fn unplug(&self) {
        ip(&format!("-n {} link set {} nomaster", self.bridge, self.cable));
    }

    pub(crate) fn plug_in(&self) {
        ip(&format!("-n {} link set {} master br0", self.bridge, self.cable));
    }
}

/// Takes down what tests left that were killed: namespaces whose process is gone.
fn sweep() {
    let Ok(names) = fs::read_dir(NAMES) else { return };
    for name in names.flatten() {
        let name = name.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let is_ours = process.is_some_and(|process| process.parse::<u32>().is_ok());
        if let Some(process) = process.filter(|_| is_ours)
            && !Path::new("/proc").join(process).exists()
        {
            let _ = run(&format!("netns delete {name}"));
        }
    }
}

#[track_caller]
fn ip(arguments: &str) {
    let output = run(arguments);
    assert!(output.status.success(), "ip {arguments}: {}", said(&output));
}

fn run(arguments: &str) -> Output {
    match Command::new("ip").args(arguments.split(' ')).output() {
        Ok(output) => output,
        Err(error) => need::missing(
            "namespaces",
            &format!("This test needs the program ip, which cannot be run: {error}."),
            "Install iproute2.",
        ),
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}
