//! Hosts of their own: network namespaces, joined by virtual cables. Linux, where users may make them.
//!
//! A test starts itself again in a fresh namespace, and each far host is one more process, in one more namespace.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use mdns_sd::{ServiceDaemon, ServiceInfo};

use crate::support::{Device, SOON, STATUS, answer};

/// Set in the process that is inside.
const INSIDE: &str = "DISCOVERY_TEST_NAMESPACE";
/// Set in the process that is a far host.
const FAR: &str = "DISCOVERY_TEST_FAR_HOST";

/// The table of neighbours is one for all namespaces, so that tests would take each other's places.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs this in a namespace of its own; where there can be none, says so and does nothing.
///
/// `test` is the name of the test that asks, and its only content.
pub(crate) fn inside(test: &str, act: impl Future<Output = ()>) {
    if std::env::var_os(INSIDE).is_some() {
        run("ip link set lo up");
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(act);
        return;
    }
    let can = |program: &mut Command| program.output().is_ok_and(|output| output.status.success());
    if !can(Command::new("unshare").args(["-rn", "ip", "link", "set", "lo", "up"])) {
        println!("skipped {test}: this machine lets no namespaces be made (unshare -rn, ip)");
        return;
    }
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let output = Command::new("unshare")
        .arg("-rn")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

/// Runs a command of which nothing but success is expected.
#[track_caller]
pub(crate) fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What a far host does; to be called by a test of the name `far_host`, which does nothing by itself.
pub(crate) fn be_far_host() {
    if std::env::var_os(FAR).is_none() {
        return;
    }
    let device = Device::start(Ipv4Addr::UNSPECIFIED, 0, |stream, _| {
        answer(stream, "200 OK", "", STATUS.as_bytes());
    });
    println!("\nport {}", device.addr.port());
    let mut daemon = None;
    // Until the test closes its end.
    for line in std::io::stdin().lines().map_while(Result::ok) {
        if line == "announce" {
            let mdns = ServiceDaemon::new().unwrap();
            let name = "IR-Remote-Mini";
            let service = ServiceInfo::new(
                "_arduino._tcp.local.",
                name,
                "IR-Remote-Mini.local.",
                "",
                3232,
                None,
            );
            // At whatever address it has, now and later.
            mdns.register(service.unwrap().enable_addr_auto()).unwrap();
            daemon = Some(mdns);
        }
    }
    drop(daemon);
    std::process::exit(0);
}

/// A host at the other end of a cable.
pub(crate) struct Far {
    child: Child,
    pub(crate) port: u16,
    near: String,
}

impl Far {
    /// At this end, the cable is called `near` and has this address; at the other end are these.
    pub(crate) fn start(near: &str, near_address: &str, far_addresses: &[String]) -> Self {
        let mut child = Command::new("unshare")
            .arg("-n")
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "far_host", "--nocapture"])
            .env(FAR, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let port = said
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("port ")?.parse().ok())
            .unwrap();
        let mut far = Self {
            child,
            port,
            near: near.to_owned(),
        };
        far.plug_in(near_address, far_addresses);
        far
    }

    /// Joins it again, maybe elsewhere.
    pub(crate) fn plug_in(&mut self, near_address: &str, far_addresses: &[String]) {
        let (near, pid) = (self.near.clone(), self.child.id());
        run(&format!(
            "ip link add {near} type veth peer name far0 netns {pid}"
        ));
        for address in far_addresses {
            self.run(&format!("ip address add {address} dev far0"));
        }
        self.run("ip link set lo up");
        self.run("ip link set far0 up");
        run(&format!("ip address add {near_address} dev {near}"));
        run(&format!("ip link set {near} up"));
        // A cable carries nothing for a moment.
        let began = Instant::now();
        while std::fs::read_to_string(format!("/sys/class/net/{near}/carrier"))
            .is_ok_and(|up| up.trim() != "1")
        {
            assert!(began.elapsed() < SOON);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    pub(crate) fn unplug(&mut self) {
        run(&format!("ip link delete {}", self.near));
    }

    /// Runs a command at the other end.
    #[track_caller]
    pub(crate) fn run(&self, command: &str) {
        run(&format!("nsenter -t {} -n {command}", self.child.id()));
    }

    /// Gives the other end's packet filter these rules.
    #[track_caller]
    pub(crate) fn filter(&self, rules: &str) {
        let mut nft = Command::new("nsenter")
            .args(["-t", &self.child.id().to_string(), "-n", "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success(), "{rules}");
    }

    /// Announces itself by multicast DNS, from now on.
    pub(crate) fn announce(&mut self) {
        writeln!(self.child.stdin.as_mut().unwrap(), "announce").unwrap();
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
