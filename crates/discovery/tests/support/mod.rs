//! Small devices made of plain threads and blocking sockets, on loopback addresses of their own.
#![allow(dead_code, reason = "each test program uses its share")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use discovery::{Coverage, Scan, scan};
use model::sighting::{Lookout, Sighting};
use net::{Dialer, IpNet, Networks};
use socket2::{Domain, Socket, Type};
use tokio::sync::mpsc;

/// For what must happen: generous, because the machine is shared.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) const STATUS: &str =
    r#"{"deviceType":"mini","macAddress":"A0:B1:C2:D3:E4:F5","firmwareVersion":"1.0"}"#;

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(crate) fn loopback_dialer() -> Dialer {
    Dialer::new(Networks::new([net("127.0.0.0/8")]), None)
}

/// A listening socket; port 0 = any.
pub(crate) fn listener(ip: Ipv4Addr, port: u16, backlog: i32) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::new(ip.into(), port).into()).unwrap();
    socket.listen(backlog).unwrap();
    socket.into()
}

/// A web server that does as it is told with each connection, one at a time.
pub(crate) struct Device {
    pub(crate) addr: SocketAddr,
    /// The requests' first lines.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    pub(crate) n_connections: Arc<AtomicUsize>,
    over: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Device {
    pub(crate) fn start(
        ip: Ipv4Addr,
        port: u16,
        behave: impl Fn(&mut TcpStream, &str) + Send + 'static,
    ) -> Self {
        Self::serve(listener(ip, port, 64), behave)
    }

    pub(crate) fn serve(
        listener: TcpListener,
        behave: impl Fn(&mut TcpStream, &str) + Send + 'static,
    ) -> Self {
        let addr = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let n_connections = Arc::new(AtomicUsize::new(0));
        let over = Arc::new(AtomicUsize::new(0));
        let thread = std::thread::spawn({
            let (asked, n_connections, over) =
                (Arc::clone(&asked), Arc::clone(&n_connections), Arc::clone(&over));
            move || {
                loop {
                    let Ok((mut stream, _)) = listener.accept() else {
                        // A process without a free descriptor cannot accept now; the device itself is still there.
                        if over.load(Ordering::SeqCst) > 0 {
                            return;
                        }
                        std::thread::sleep(Duration::from_millis(5));
                        continue;
                    };
                    if over.load(Ordering::SeqCst) > 0 {
                        return;
                    }
                    n_connections.fetch_add(1, Ordering::SeqCst);
                    stream.set_read_timeout(Some(SOON)).unwrap();
                    stream.set_write_timeout(Some(SOON)).unwrap();
                    let head = read_head(&mut stream);
                    let line = head.lines().next().unwrap_or_default().to_owned();
                    asked.lock().unwrap().push(line);
                    behave(&mut stream, &head);
                }
            }
        });
        Self {
            addr,
            asked,
            n_connections,
            over,
            thread: Some(thread),
        }
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn n_connections(&self) -> usize {
        self.n_connections.load(Ordering::SeqCst)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.over.store(1, Ordering::SeqCst);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let _ = socket.connect_timeout(&self.addr.into(), SOON);
        drop(socket);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads the head of a request; what is no HTTP, as far as it comes at once.
fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut bytes = [0; 512];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut bytes) {
            Ok(n_bytes) if n_bytes > 0 => head.extend_from_slice(&bytes[..n_bytes]),
            _ => break,
        }
        // A frame of Modbus.
        if head.len() == 12 && head[2..4] == [0, 0] {
            break;
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// Answers as a web server does, and closes.
pub(crate) fn answer(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) {
    let head = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body);
}

/// A device that tells its status, whatever it is asked.
pub(crate) fn mini(ip: Ipv4Addr, port: u16) -> Device {
    Device::start(ip, port, |stream, _| {
        answer(stream, "200 OK", "", STATUS.as_bytes());
    })
}

/// What a scan saw, each with when it came, and its coverage.
pub(crate) struct Seen {
    pub(crate) sightings: Vec<(Duration, Sighting)>,
    pub(crate) coverage: Coverage,
    pub(crate) took: Duration,
}

impl Seen {
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = self
            .sightings
            .iter()
            .map(|(_, sighting)| address(sighting))
            .collect();
        addresses.sort();
        addresses.dedup();
        addresses
    }
}

pub(crate) fn address(sighting: &Sighting) -> IpAddr {
    match sighting {
        Sighting::Http { address, .. } | Sighting::Modbus { address, .. } => *address,
        other => panic!("not of a scan: {other:?}"),
    }
}

pub(crate) async fn look(dialer: &Dialer, what: &Scan) -> Seen {
    let (out, mut sightings) = mpsc::channel(16);
    let began = Instant::now();
    let looking = async move { scan(dialer, what, &out).await };
    let collecting = async {
        let mut seen = Vec::new();
        while let Some(sighting) = sightings.recv().await {
            seen.push((began.elapsed(), sighting));
        }
        seen
    };
    let (coverage, sightings) = tokio::join!(looking, collecting);
    check_sum(&coverage);
    Seen {
        sightings,
        coverage,
        took: began.elapsed(),
    }
}

/// Every address is accounted for.
#[track_caller]
pub(crate) fn check_sum(coverage: &Coverage) {
    assert_eq!(
        coverage.n_addresses,
        coverage.n_asked + coverage.n_failed + coverage.n_skipped,
        "{coverage:?}"
    );
    assert_eq!(
        coverage.n_asked,
        coverage.n_answered + coverage.n_refused + coverage.n_silent,
        "{coverage:?}"
    );
}

/// The numbers of a coverage, in its order.
pub(crate) fn counts(coverage: &Coverage) -> [u64; 7] {
    [
        coverage.n_addresses,
        coverage.n_asked,
        coverage.n_answered,
        coverage.n_refused,
        coverage.n_silent,
        coverage.n_failed,
        coverage.n_skipped,
    ]
}

pub(crate) fn status_at(port: u16) -> Lookout {
    Lookout::Http {
        port,
        path: "/api/status",
    }
}

pub(crate) fn page_at(port: u16) -> Lookout {
    Lookout::Http { port, path: "/" }
}
