//! A real broker on a free port, where it is installed; and a device's own, blocking client.
#![expect(clippy::print_stdout, reason = "what is not tested is not kept quiet")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{LOOPBACK, SOON, listener};

/// Mosquitto; it ends with this value.
pub(crate) struct Mosquitto {
    child: Child,
    pub(crate) port: u16,
    more: String,
    /// What it says, from then on too: a broker that ends by itself says why.
    log: Arc<Mutex<String>>,
    folder: tempfile::TempDir,
}

impl Mosquitto {
    /// None where it is not installed, which is said.
    pub(crate) fn start(more: &str) -> Option<Self> {
        // Somebody else may have got the port that was free a moment ago: it is ours once Mosquitto says that it
        // runs. That somebody can be connected to says nothing, as that may be another test.
        for _ in 0..5 {
            let (_, addr) = listener(None);
            let folder = tempfile::tempdir().unwrap();
            let log = Arc::new(Mutex::new(String::new()));
            let child = launch(&folder, addr.port(), more, &log)?;
            let mut mosquitto = Self {
                child,
                port: addr.port(),
                more: more.to_owned(),
                log,
                folder,
            };
            if mosquitto.runs() {
                return Some(mosquitto);
            }
        }
        panic!("mosquitto does not start");
    }

    fn runs(&mut self) -> bool {
        let began = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            if self.says().contains(" running") {
                return true;
            }
            assert!(began.elapsed() < SOON, "mosquitto does not run: {}", self.says());
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Ends it and starts it again on the same port; it forgets everything.
    pub(crate) fn restart(&mut self) {
        self.stop();
        // The port stays ours unless a stranger is quick: it is not given to those who ask for any free one as long as
        // connections of ours linger there.
        for _ in 0..50 {
            self.log.lock().unwrap().clear();
            self.child = launch(&self.folder, self.port, &self.more, &self.log).unwrap();
            if self.runs() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("mosquitto does not start again: {}", self.says());
    }

    pub(crate) fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn says(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// A client that listens to these topics, or to none, and has heard what was kept.
    pub(crate) fn client(&self, id: &str, topics: &[&str]) -> Client {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let addr = SocketAddr::new(LOOPBACK, self.port);
        socket.connect_timeout(&addr.into(), SOON).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut connect = [&[0, 4][..], b"MQTT", &[4, 2, 0, 60]].concat();
        connect.extend(text(id));
        stream.write_all(&packet(0x10, &connect)).unwrap();
        assert_eq!(read_packet(&mut stream).unwrap().1, [0, 0]);
        let mut client = Client { stream, n_sent: 0 };
        for topic in topics {
            client.n_sent += 1;
            let mut body = client.n_sent.to_be_bytes().to_vec();
            body.extend(text(topic));
            body.push(1);
            client.stream.write_all(&packet(0x82, &body)).unwrap();
            assert_eq!(read_packet(&mut client.stream).unwrap().0, 0x90);
        }
        client
    }
}

fn launch(folder: &tempfile::TempDir, port: u16, more: &str, log: &Arc<Mutex<String>>) -> Option<Child> {
    let config = folder.path().join("mosquitto.conf");
    let text = format!("listener {port} 127.0.0.1\nlog_dest stderr\n{more}\n");
    fs::write(&config, text).unwrap();
    let started = Command::new("mosquitto")
        .arg("-c")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = started else {
        println!("skipped: mosquitto is not installed");
        return None;
    };
    let (mut stderr, heard) = (child.stderr.take().unwrap(), Arc::clone(log));
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(n @ 1..) = stderr.read(&mut bytes) {
            heard
                .lock()
                .unwrap()
                .push_str(&String::from_utf8_lossy(&bytes[..n]));
        }
    });
    Some(child)
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) struct Client {
    stream: TcpStream,
    n_sent: u16,
}

impl Client {
    /// The next message: topic, payload, and whether it was kept.
    pub(crate) fn hear(&mut self) -> (String, Vec<u8>, bool) {
        loop {
            let (first, body) = read_packet(&mut self.stream).expect("a message in time");
            if let Some((topic, payload, pkid)) = published(first, &body) {
                if let Some(pkid) = pkid {
                    self.stream.write_all(&packet(0x40, &pkid)).unwrap();
                }
                return (topic, payload, first & 1 == 1);
            }
        }
    }

    /// Says it, and waits until the broker has it.
    pub(crate) fn say(&mut self, topic: &str, payload: &[u8], retain: bool) {
        self.n_sent += 1;
        let mut body = text(topic);
        body.extend(self.n_sent.to_be_bytes());
        body.extend(payload);
        self.stream
            .write_all(&packet(0x32 | u8::from(retain), &body))
            .unwrap();
        while read_packet(&mut self.stream).expect("a confirmation in time").0 != 0x40 {}
    }
}

/// Topic, payload, and the packet's number where it wants to be confirmed.
pub(crate) fn published(first: u8, body: &[u8]) -> Option<(String, Vec<u8>, Option<[u8; 2]>)> {
    if first >> 4 != 3 {
        return None;
    }
    let len = usize::from(u16::from_be_bytes([body[0], body[1]]));
    let topic = String::from_utf8(body[2..2 + len].to_vec()).unwrap();
    let rest = &body[2 + len..];
    match first & 0x06 {
        0 => Some((topic, rest.to_vec(), None)),
        _ => Some((topic, rest[2..].to_vec(), Some([rest[0], rest[1]]))),
    }
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    let mut bytes = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

/// One packet of MQTT 3.1.1: first byte and body.
pub(crate) fn read_packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut first = [0];
    stream.read_exact(&mut first).ok()?;
    let (mut len, mut shift) = (0_usize, 0);
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        len |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).ok()?;
    Some((first[0], body))
}

pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut len = body.len();
    loop {
        let byte = u8::try_from(len & 0x7f).unwrap();
        len >>= 7;
        packet.push(if len > 0 { byte | 0x80 } else { byte });
        if len == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}
