//! Asks every address of some networks.
//!
//! All of it is one task: an address that nobody has costs a socket for 1.5 s, and no more.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use model::sighting::{Lookout, Sighting};
use net::http::{self, Ask, AskError};
use net::{DialError, Dialer, IpNet, TcpOptions};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::coverage::{Coverage, Outcome, Tally};
use crate::here::Here;
use crate::modbus;
use crate::pace::{Pace, Pacer};
use crate::range;

/// How long an address has for taking a connection: the first repetition of a lost SYN comes after 1 s, and a sleeping
/// device answers that (../shared/PERFORMANCE.md section 3).
const DEADLINE: Duration = Duration::from_millis(1500);
/// How long an answer may take, once there is a connection (../shared/RELIABILITY.md T36).
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Most connections at once. Guess: three times what a home network with two ports to look at needs.
const N_SOCKETS_MAX: usize = 2048;
/// What is left to the rest of the program, of the descriptors it may have. Guess: half of them.
const SHARE: u64 = 2;
/// How often an address is tried again where this machine had no socket for it, and after how long.
/// Guess: the longest connection attempt ends within this time.
const N_AGAIN: u32 = 8;
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// What to scan, and how.
#[derive(Clone, Debug)]
pub struct Scan {
    /// Where: each at most a /16 (see [`crate::check_range`]); addresses in several of them are asked once.
    pub networks: Vec<IpNet>,
    /// What for; only [`Lookout::Http`] and [`Lookout::Modbus`] are of use here.
    pub lookouts: Vec<Lookout>,
    /// How long an address has for taking a connection.
    pub deadline: Duration,
    /// How fast addresses on links of our own may be asked.
    pub pace: Pace,
    /// Most connections at once.
    pub n_sockets: usize,
}

impl Scan {
    /// A scan at the pace that this machine bears.
    pub fn new(networks: Vec<IpNet>, lookouts: Vec<Lookout>) -> Self {
        let n_sockets = usize::try_from(net::descriptors_max() / SHARE).unwrap_or(N_SOCKETS_MAX);
        Self {
            networks,
            lookouts,
            deadline: DEADLINE,
            pace: Pace::of_this_machine(),
            n_sockets: n_sockets.clamp(1, N_SOCKETS_MAX),
        }
    }
}

/// Connects once to each port of each address, asks those that take the connection, and hands on what they say.
///
/// Sightings come out as they come in. Nothing is dialed that the dialer does not allow, nor this machine's own addresses
/// (but for loopback, where it is allowed). Redirects are not followed; a body is cut at 64 KiB and after 5 s.
/// Ends early if nobody listens to the sightings any more; what was not asked then counts as failed.
pub async fn scan(dialer: &Dialer, scan: &Scan, out: &mpsc::Sender<Sighting>) -> Coverage {
    let began = Instant::now();
    let ports = Ports::of(&scan.lookouts);
    let here = Here::look();
    let mut coverage = Coverage::default();
    let ranges = countable(&scan.networks, &mut coverage);
    let n_new = if ports.0.is_empty() {
        0
    } else {
        here.n_new(&ranges)
    };
    let lost_before = net::neighbours_lost();

    let mut addresses = ranges.iter().flat_map(range::hosts);
    let mut pacer = Pacer::new(&scan.pace, n_new);
    let mut next = None;
    let mut tally = Tally::default();
    let mut attempts = FuturesUnordered::new();
    let mut short_of_sockets = false;
    loop {
        let mut wait = None;
        // Whatever may be started is started before anything else is looked at.
        while let Some(address) = next.take().or_else(|| addresses.next()) {
            if ports.0.is_empty() || here.is_ours(address) || !dialer.allows(address) {
                coverage.n_skipped += 1;
                continue;
            }
            if attempts.len() + ports.0.len() > scan.n_sockets.max(ports.0.len()) {
                short_of_sockets = true;
                next = Some(address);
                break;
            }
            if here.is_new(address)
                && let Err(at) = pacer.go(began.elapsed())
            {
                wait = Some(began + at);
                next = Some(address);
                break;
            }
            tally.began(address, ports.0.len());
            for (port, questions) in &ports.0 {
                let peer = SocketAddr::new(address, *port);
                attempts.push(attempt(dialer, peer, questions, scan.deadline, out));
            }
        }
        if attempts.is_empty() && wait.is_none() {
            break;
        }
        tokio::select! {
            biased;
            // A stream: dropping the wait for its next item loses nothing.
            Some((address, outcome)) = attempts.next(), if !attempts.is_empty() => {
                tally.ended(address, outcome, &mut coverage);
            }
            // A timer, which is set again in the next round.
            () = tokio::time::sleep_until(wait.unwrap_or(began)), if wait.is_some() => {}
            // Whoever wanted to know is gone.
            () = out.closed() => break,
        }
    }
    // What is still open was not asked to the end, and what is still to come not at all.
    coverage.n_failed +=
        tally.n_open() + u64::from(next.is_some()) + u64::try_from(addresses.count()).unwrap_or(u64::MAX);

    let of_sockets =
        short_of_sockets.then(|| format!("{} connections at once, for want of files", scan.n_sockets));
    let reasons: Vec<String> = scan.pace.reason(n_new).into_iter().chain(of_sockets).collect();
    coverage.paced = (!reasons.is_empty()).then(|| reasons.join("; "));
    let lost = net::neighbours_lost()
        .zip(lost_before)
        .map_or(0, |(after, before)| after.saturating_sub(before));
    coverage.warning = (lost > 0).then(|| {
        format!(
            "this machine's table of neighbours was full {lost} times meanwhile, so that silence may not mean absence"
        )
    });
    coverage.took = began.elapsed();
    coverage
}

/// The ranges that are scanned at all; counts the addresses of all.
fn countable(networks: &[IpNet], coverage: &mut Coverage) -> Vec<IpNet> {
    let mut ranges = range::apart(networks);
    ranges.retain(|network| {
        let n_hosts = range::n_hosts(network);
        coverage.n_addresses = coverage.n_addresses.saturating_add(n_hosts);
        let is_too_large = range::is_too_large(network);
        if is_too_large {
            coverage.n_failed = coverage.n_failed.saturating_add(n_hosts);
        }
        !is_too_large
    });
    ranges
}

/// What to ask at which port; no question twice.
struct Ports(BTreeMap<u16, Vec<Question>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Http { path: &'static str },
    Modbus { first: u16, count: u16 },
}

impl Ports {
    fn of(lookouts: &[Lookout]) -> Self {
        let mut ports: BTreeMap<u16, Vec<Question>> = BTreeMap::new();
        for lookout in lookouts {
            let (port, question) = match *lookout {
                Lookout::Http { port, path } => (port, Question::Http { path }),
                Lookout::Modbus { port, first, count } => (port, Question::Modbus { first, count }),
                Lookout::Mdns { .. } | Lookout::Host { .. } | Lookout::Mqtt { .. } => continue,
            };
            let questions = ports.entry(port).or_default();
            if !questions.contains(&question) {
                questions.push(question);
            }
        }
        Self(ports)
    }
}

/// Connects to one port and asks there.
async fn attempt(
    dialer: &Dialer,
    peer: SocketAddr,
    questions: &[Question],
    deadline: Duration,
    out: &mpsc::Sender<Sighting>,
) -> (IpAddr, Outcome) {
    let mut n_again = 0;
    let outcome = loop {
        match dialer.tcp(peer, TcpOptions::default(), deadline).await {
            Ok(stream) => {
                // In a box of its own, because most attempts never come here.
                Box::pin(interrogate(dialer, stream, peer, questions, out)).await;
                break Outcome::Answered;
            }
            Err(error) if is_want_of_resources(&error) && n_again < N_AGAIN => {
                n_again += 1;
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            Err(error) => break outcome_of(&error),
        }
    };
    (peer.ip(), outcome)
}

fn outcome_of(error: &DialError) -> Outcome {
    match error {
        DialError::Refused { .. } => Outcome::Refused,
        DialError::TimedOut { .. } => Outcome::Silent,
        // A router, or the link itself, says that nobody is there; without a route we have not asked.
        DialError::Unreachable { source, .. } if source.kind() == io::ErrorKind::HostUnreachable => {
            Outcome::Silent
        }
        DialError::Unreachable { .. }
        | DialError::NotAllowed { .. }
        | DialError::Bind { .. }
        | DialError::Io { .. } => Outcome::Failed,
    }
}

/// Whether it is this machine that has no socket, port or memory left just now.
fn is_want_of_resources(error: &DialError) -> bool {
    let (DialError::Io { source, .. } | DialError::Bind { source, .. }) = error else {
        return false;
    };
    net::is_want_of_resources(source)
}

/// Asks all questions of one port, one after the other; whoever does not answer the first is asked no other.
async fn interrogate(
    dialer: &Dialer,
    stream: TcpStream,
    peer: SocketAddr,
    questions: &[Question],
    out: &mpsc::Sender<Sighting>,
) {
    let mut first = Some(stream);
    for question in questions {
        let stream = match first.take() {
            Some(stream) => stream,
            None => match dialer.tcp(peer, TcpOptions::default(), DEADLINE).await {
                Ok(stream) => stream,
                Err(_) => return,
            },
        };
        let sighting = match *question {
            Question::Http { path } => match look_at(stream, peer, path).await {
                Ok(sighting) => sighting,
                Err(AskError::TimedOut { .. }) => return,
                Err(_) => continue,
            },
            Question::Modbus { first, count } => match modbus::read(stream, first, count).await {
                Some(words) => Sighting::Modbus {
                    address: peer.ip(),
                    first,
                    words,
                },
                None => continue,
            },
        };
        // A full channel makes this one device wait, and nobody else.
        if out.send(sighting).await.is_err() {
            return;
        }
    }
}

async fn look_at(stream: TcpStream, peer: SocketAddr, path: &str) -> Result<Sighting, AskError> {
    let host = match (peer.port(), peer.ip()) {
        (80, IpAddr::V4(ip)) => ip.to_string(),
        (80, IpAddr::V6(ip)) => format!("[{ip}]"),
        _ => peer.to_string(),
    };
    let reply = http::ask_on(stream, peer, &host, Ask::get(path), ANSWER_WAIT).await?;
    Ok(Sighting::Http {
        address: peer.ip(),
        path: path.to_owned(),
        status: reply.status,
        server: reply.server,
        body: reply.body,
    })
}
