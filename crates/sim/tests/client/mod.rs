//! A tiny host written from PROTOCOLS.md B and C; shares no code with the simulator.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: a failure here is a failed test"
)]

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use md5::{Digest as _, Md5};
use sha2::Sha256;
use sim::ir_remote::Device;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    time::{sleep, timeout},
};

pub(crate) const PASSWORD: &str = "ir_remote_update";
const DEADLINE: Duration = Duration::from_secs(20);
/// How long a silence is listened to.
const SILENCE: Duration = Duration::from_millis(200);

pub(crate) fn md5_hex(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}

fn sha256_hex(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

/// The answer to a nonce; the length of the nonce decides how it is made.
pub(crate) fn answer(nonce: &str, password: &str, md5_stored: bool) -> Vec<u8> {
    if nonce.len() == 32 {
        let cnonce = md5_hex(b"client");
        let stored = md5_hex(password.as_bytes());
        let response = md5_hex(format!("{stored}:{nonce}:{cnonce}").as_bytes());
        return format!("200 {cnonce} {response}\n").into_bytes();
    }
    let cnonce = sha256_hex("client");
    let stored = if md5_stored {
        md5_hex(password.as_bytes())
    } else {
        sha256_hex(password)
    };
    let mut key = [0; 32];
    pbkdf2::pbkdf2_hmac::<Sha256>(
        stored.as_bytes(),
        format!("{nonce}:{cnonce}").as_bytes(),
        10_000,
        &mut key,
    );
    let response = sha256_hex(&format!("{}:{nonce}:{cnonce}", hex::encode(key)));
    format!("200 {cnonce} {response}\n").into_bytes()
}

/// The synthetic image of PROTOCOLS.md D5: 432 bytes, version 1.2.3.
pub(crate) fn image(chip_id: u8) -> Vec<u8> {
    let mut first = 0xABCD_5432_u32.to_le_bytes().to_vec();
    first.extend([0; 12]);
    for (text, len) in [
        ("1.2.3", 32),
        ("ir-remote-mini", 32),
        ("12:00:00", 16),
        ("Jan  1 2026", 16),
        ("v5.5", 32),
    ] {
        first.extend(text.bytes().chain(std::iter::repeat(0)).take(len));
    }
    first.extend([0x11; 32]);
    first.extend([0, 0, 99, 0, 16]);
    first.resize(256, 0);
    first.extend([0xAA; 32]);
    assemble(chip_id, &[(0x3F40_0020, first), (0x4008_0000, (0..64).collect())])
}

/// A right ESP32-C6 image of exactly `len` bytes without a descriptor.
pub(crate) fn big_image(len: usize) -> Vec<u8> {
    // Header 24, one segment header 8, checksum at the end of a 16-byte line, digest 32; the rest is behind the image.
    let n_data = (len - 32) / 16 * 16 - 48;
    let data = (0..n_data).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect();
    let mut image = assemble(13, &[(0x4200_0020, data)]);
    image.resize(len, 0xFF);
    image
}

fn assemble(chip_id: u8, segments: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut image = vec![
        0xE9,
        u8::try_from(segments.len()).unwrap(),
        2,
        0x20,
        0,
        0,
        0x80,
        0x40,
        0xEE,
        0,
        0,
        0,
    ];
    image.extend([chip_id, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0, 1]);
    let mut checksum = 0xEF;
    for (address, data) in segments {
        image.extend(address.to_le_bytes());
        image.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        image.extend(data);
        checksum = data.iter().fold(checksum, |sum, byte| sum ^ byte);
    }
    while image.len() % 16 != 15 {
        image.push(0);
    }
    image.push(checksum);
    let digest = Sha256::digest(&image);
    image.extend(digest);
    image
}

/// The published firmware, where it lies beside the workspace.
pub(crate) fn real_image() -> Option<Vec<u8>> {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .find_map(|folder| std::fs::read(folder.join("shared/data/ir_remote_v2.0.0.bin")).ok())
}

/// Somebody who wants to send an image.
pub(crate) struct Host {
    udp: UdpSocket,
    listener: Option<TcpListener>,
    device: SocketAddr,
}

impl Host {
    pub(crate) async fn open(device: &Device) -> Self {
        Self::open_at(device.ip(), device.ota_port()).await
    }

    pub(crate) async fn open_at(ip: Ipv4Addr, port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        Self {
            udp,
            listener: Some(listener),
            device: SocketAddr::from((ip, port)),
        }
    }

    /// Another source, without a listener, that talks to the same device.
    pub(crate) async fn socket_at(&self, ip: Ipv4Addr) -> Self {
        let udp = UdpSocket::bind((ip, 0)).await.unwrap();
        Self {
            udp,
            listener: None,
            device: self.device,
        }
    }

    fn listener(&self) -> &TcpListener {
        self.listener.as_ref().unwrap()
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener().local_addr().unwrap().port()
    }

    pub(crate) fn invitation(&self, image: &[u8]) -> Vec<u8> {
        format!("0 {} {} {}\n", self.port(), image.len(), md5_hex(image)).into_bytes()
    }

    pub(crate) async fn send(&self, bytes: &[u8]) {
        self.udp.send_to(bytes, self.device).await.unwrap();
    }

    pub(crate) async fn hear(&self) -> String {
        timeout(DEADLINE, self.receive())
            .await
            .expect("an answer in time")
    }

    async fn receive(&self) -> String {
        let mut buffer = [0; 2048];
        let (n, from) = self.udp.recv_from(&mut buffer).await.unwrap();
        assert_eq!(from, self.device);
        String::from_utf8(buffer[..n].to_vec()).unwrap()
    }

    pub(crate) async fn hears_nothing(&self) {
        if let Ok(text) = timeout(SILENCE, self.receive()).await {
            panic!("expected silence, heard {text:?}");
        }
    }

    pub(crate) async fn invite(&self, image: &[u8]) -> String {
        self.send(&self.invitation(image)).await;
        self.hear().await
    }

    pub(crate) async fn nonce(&self, image: &[u8]) -> String {
        self.invite(image)
            .await
            .strip_prefix("AUTH ")
            .expect("a nonce")
            .to_owned()
    }

    pub(crate) async fn authenticate(&self, nonce: &str, password: &str, md5_stored: bool) -> String {
        self.send(&answer(nonce, password, md5_stored)).await;
        self.hear().await
    }

    pub(crate) async fn accept(&self) -> TcpStream {
        let (stream, peer) = timeout(DEADLINE, self.listener().accept())
            .await
            .expect("a call-back in time")
            .unwrap();
        assert_eq!(
            peer.ip(),
            self.device.ip(),
            "the call-back comes from the device's own address"
        );
        stream
    }

    pub(crate) async fn is_called_back(&self, deadline: Duration) -> bool {
        timeout(deadline, self.listener().accept()).await.is_ok()
    }

    /// Invitation, authentication, call-back.
    pub(crate) async fn enter(&self, image: &[u8]) -> TcpStream {
        let mut reply = self.invite(image).await;
        if let Some(nonce) = reply.strip_prefix("AUTH ") {
            reply = self.authenticate(nonce, PASSWORD, false).await;
        }
        assert_eq!(reply, "OK");
        self.accept().await
    }
}

/// A whole push that streams ahead; all that the device said.
pub(crate) async fn invite_and_push(device: &Device, image: &[u8]) -> String {
    let stream = Host::open(device).await.enter(image).await;
    push(stream, image).await
}

/// Sends everything while reading everything; all that the device said.
pub(crate) async fn push(stream: TcpStream, image: &[u8]) -> String {
    let (mut reader, mut writer) = stream.into_split();
    let mut said = Vec::new();
    let sending = async {
        // A device that has had enough closes; what it said counts.
        let _cut = writer.write_all(image).await;
    };
    let reading = async {
        let _cut = reader.read_to_end(&mut said).await;
    };
    timeout(DEADLINE, async { tokio::join!(sending, reading) })
        .await
        .expect("an end in time");
    String::from_utf8(said).unwrap()
}

pub(crate) async fn push_in_lock_step(mut stream: TcpStream, image: &[u8]) -> String {
    let mut said = Vec::new();
    for chunk in image.chunks(1024) {
        stream.write_all(chunk).await.unwrap();
        let n = timeout(DEADLINE, stream.read_buf(&mut said))
            .await
            .expect("an acknowledgement in time")
            .unwrap();
        if n == 0 || said.iter().any(u8::is_ascii_alphabetic) {
            break;
        }
    }
    let _cut = timeout(DEADLINE, stream.read_to_end(&mut said))
        .await
        .expect("an end in time");
    String::from_utf8(said).unwrap()
}

pub(crate) async fn push_and_half_close(mut stream: TcpStream, image: &[u8]) -> String {
    let mut said = Vec::new();
    stream.write_all(image).await.unwrap();
    stream.shutdown().await.unwrap();
    let _cut = timeout(DEADLINE, stream.read_to_end(&mut said))
        .await
        .expect("an end in time");
    String::from_utf8(said).unwrap()
}

/// Hands the whole image to the kernel; how many bytes of it the device has not acknowledged after `pause`.
pub(crate) async fn queued_after(stream: &TcpStream, image: &[u8], pause: Duration) -> usize {
    let mut rest = image;
    while !rest.is_empty() {
        stream.writable().await.unwrap();
        match stream.try_write(rest) {
            Ok(n) => rest = &rest[n..],
            Err(err) => assert_eq!(err.kind(), io::ErrorKind::WouldBlock, "{err}"),
        }
    }
    sleep(pause).await;
    n_unacknowledged(stream)
}

/// `tx_queue` of this connection in the kernel's table.
fn n_unacknowledged(stream: &TcpStream) -> usize {
    let port = |address: SocketAddr| format!(":{:04X}", address.port());
    let (local, peer) = (
        port(stream.local_addr().unwrap()),
        port(stream.peer_addr().unwrap()),
    );
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let line = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|words| words[1].ends_with(&local) && words[2].ends_with(&peer))
        .expect("the connection is in the table");
    usize::from_str_radix(line[4].split_once(':').unwrap().0, 16).unwrap()
}

// ---- HTTP

pub(crate) async fn http(device: &Device, method: &str, path: &str) -> io::Result<String> {
    http_at(device.ip(), device.http_port(), method, path).await
}

pub(crate) async fn http_at(ip: Ipv4Addr, port: u16, method: &str, path: &str) -> io::Result<String> {
    text(request(ip.into(), port, method, path, &[], "text/plain").await)
}

pub(crate) async fn http_with(
    device: &Device,
    method: &str,
    path: &str,
    body: &[u8],
    kind: &str,
) -> io::Result<String> {
    text(request(device.ip().into(), device.http_port(), method, path, body, kind).await)
}

pub(crate) async fn http_bytes(device: &Device, method: &str, path: &str) -> io::Result<Vec<u8>> {
    request(
        device.ip().into(),
        device.http_port(),
        method,
        path,
        &[],
        "text/plain",
    )
    .await
}

/// A multipart upload of one file.
pub(crate) async fn upload(device: &Device, file: &[u8]) -> io::Result<String> {
    let mut body = concat!(
        "--frontier\r\nContent-Disposition: form-data; name=\"any\"; filename=\"firmware.bin\"\r\n",
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    .as_bytes()
    .to_vec();
    body.extend(file);
    body.extend(b"\r\n--frontier--\r\n");
    http_with(
        device,
        "POST",
        "/update",
        &body,
        "multipart/form-data; boundary=frontier",
    )
    .await
}

/// True when at least so many bytes of an answer come.
pub(crate) async fn at_least(device: &Device, path: &str, n: u64) -> bool {
    let mut stream = TcpStream::connect((device.ip(), device.http_port()))
        .await
        .unwrap();
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut limited = stream.take(n);
    let mut nowhere = tokio::io::sink();
    let copied = tokio::io::copy(&mut limited, &mut nowhere);
    timeout(DEADLINE, copied)
        .await
        .expect("an answer in time")
        .unwrap()
        == n
}

fn text(answer: io::Result<Vec<u8>>) -> io::Result<String> {
    answer.map(|bytes| String::from_utf8(bytes).unwrap())
}

/// Reads while it writes, as an early answer demands; an error only when nothing was said.
async fn request(
    ip: IpAddr,
    port: u16,
    method: &str,
    path: &str,
    body: &[u8],
    kind: &str,
) -> io::Result<Vec<u8>> {
    let (mut reader, mut writer) = TcpStream::connect((ip, port)).await?.into_split();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {ip}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut answer = Vec::new();
    let sending = async {
        writer.write_all(head.as_bytes()).await?;
        writer.write_all(body).await
    };
    let reading = reader.read_to_end(&mut answer);
    let both = async { tokio::join!(sending, reading) };
    let (_sent, read) = timeout(DEADLINE, both).await.expect("an end in time");
    match read {
        Err(err) if answer.is_empty() => Err(err),
        _ if answer.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(answer),
    }
}
