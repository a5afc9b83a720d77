//! A client that writes its bytes by hand.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::{DEADLINE, Unit};

pub(crate) const FILE_NAME: &str = "C6_1_5_46_72_P1_1_1_5_48.mbin";
const BOUNDARY: &str = "----WebKitFormBoundary5RkmKlDPbZNgDa48";

/// A complete reply.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn has(&self, marker: &str) -> bool {
        position(&self.body, marker).is_some()
    }

    pub(crate) fn is_authorised(&self) -> bool {
        let is_authorised = self.has("name=\"11111\"") && self.has("name=\"4\"");
        assert_ne!(
            is_authorised,
            self.has("name=\"2\""),
            "a page is either one or the other"
        );
        is_authorised
    }

    /// What the status cell says, trimmed, one letter a byte.
    pub(crate) fn status(&self) -> String {
        let start = position(&self.body, "<td id=\"st\">").expect("no status cell") + 12;
        let len = position(&self.body[start..], "</td>").unwrap();
        assert_eq!(len, 118, "width of the status cell");
        let cell: String = self.body[start..start + len]
            .iter()
            .copied()
            .map(char::from)
            .collect();
        cell.trim().to_owned()
    }

    /// What the element with this id holds, trimmed.
    pub(crate) fn element(&self, id: &str) -> Option<String> {
        let text = String::from_utf8_lossy(&self.body);
        let (_, rest) = text.split_once(&format!("id=\"{id}\">"))?;
        Some(rest.split_once('<')?.0.trim().to_owned())
    }
}

pub(crate) fn position(bytes: &[u8], marker: &str) -> Option<usize> {
    bytes
        .windows(marker.len())
        .position(|window| window == marker.as_bytes())
}

impl Unit {
    pub(crate) fn http_address(&self) -> SocketAddr {
        (self.device.ip(), self.device.http_port()).into()
    }

    pub(crate) fn modbus_address(&self) -> SocketAddr {
        (self.device.ip(), self.device.modbus_port()).into()
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: unit\r\n\r\n"), b"")
            .await
    }

    pub(crate) async fn post_form(&self, path: &str, body: &str) -> Reply {
        self.request(&form_head(path, body.len()), body.as_bytes()).await
    }

    pub(crate) async fn log_in(&self) -> Reply {
        self.post_form("/g1.html", "1=user&2=user").await
    }

    pub(crate) async fn log_out(&self) -> Reply {
        self.post_form("/", "4=Logout").await
    }

    /// Logs in and uploads.
    pub(crate) async fn flash(&self, file_name: &str, image: &[u8]) -> Reply {
        assert!(self.log_in().await.is_authorised());
        self.upload(&[file_part("11111", file_name, image)]).await
    }

    pub(crate) async fn upload(&self, parts: &[Vec<u8>]) -> Reply {
        self.try_upload(parts).await.expect("no reply to the upload")
    }

    pub(crate) async fn try_upload(&self, parts: &[Vec<u8>]) -> io::Result<Reply> {
        let (head, body) = multipart("/g1.html", parts);
        exchange(Ipv4Addr::LOCALHOST, self.http_address(), &head, &body).await
    }

    async fn request(&self, head: &str, body: &[u8]) -> Reply {
        exchange(Ipv4Addr::LOCALHOST, self.http_address(), head, body)
            .await
            .unwrap()
    }
}

pub(crate) fn form_head(path: &str, len: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: unit\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {len}\r\n\r\n"
    )
}

pub(crate) fn file_part(name: &str, file_name: &str, content: &[u8]) -> Vec<u8> {
    let head = format!(
        "Content-Disposition: form-data; name=\"{name}\"; filename=\"{file_name}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    [head.as_bytes(), content].concat()
}

pub(crate) fn field_part(name: &str, value: &str) -> Vec<u8> {
    format!("Content-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}").into_bytes()
}

pub(crate) fn multipart(path: &str, parts: &[Vec<u8>]) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    for part in parts {
        body.extend(format!("--{BOUNDARY}\r\n").into_bytes());
        body.extend(part);
        body.extend(b"\r\n");
    }
    body.extend(format!("--{BOUNDARY}--\r\n").into_bytes());
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: unit\r\nContent-Length: {}\r\n\
         Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n",
        body.len()
    );
    (head, body)
}

/// One request from `from`; an error when the connection ends before the reply is complete.
pub(crate) async fn exchange(from: Ipv4Addr, to: SocketAddr, head: &str, body: &[u8]) -> io::Result<Reply> {
    timeout(DEADLINE, async {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let mut stream = socket.connect(to).await?;
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body).await?;
        read_reply(&mut stream).await
    })
    .await
    .map_err(io::Error::other)?
}

/// Reads until the reply is as long as it says.
pub(crate) async fn read_reply(stream: &mut TcpStream) -> io::Result<Reply> {
    let mut bytes = Vec::new();
    loop {
        if let Some(head_len) = position(&bytes, "\r\n\r\n") {
            let head = String::from_utf8(bytes[..head_len].to_vec()).unwrap();
            let len = head
                .split_once("Content-Length: ")
                .unwrap()
                .1
                .split("\r\n")
                .next()
                .unwrap();
            let len: usize = len.parse().unwrap();
            if bytes.len() >= head_len + 4 + len {
                assert_eq!(bytes.len(), head_len + 4 + len, "more than Content-Length says");
                return Ok(Reply {
                    head,
                    body: bytes.split_off(head_len + 4),
                });
            }
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// A Modbus connection.
pub(crate) struct Modbus(TcpStream);

impl Modbus {
    pub(crate) async fn connect(unit: &Unit) -> Self {
        Self(TcpStream::connect(unit.modbus_address()).await.unwrap())
    }

    /// Sends one PDU and returns the one that answers it.
    pub(crate) async fn ask(&mut self, unit_id: u8, pdu: &[u8]) -> Vec<u8> {
        self.send(unit_id, pdu).await;
        timeout(DEADLINE, async {
            let mut header = [0; 7];
            self.0.read_exact(&mut header).await.unwrap();
            let [0xAB, 0xCD, 0, 0, high, low, answering] = header else {
                panic!("header {header:?}")
            };
            assert_eq!(answering, unit_id);
            let mut pdu = vec![0; usize::from(u16::from_be_bytes([high, low])) - 1];
            self.0.read_exact(&mut pdu).await.unwrap();
            pdu
        })
        .await
        .expect("no answer over Modbus")
    }

    pub(crate) async fn send(&mut self, unit_id: u8, pdu: &[u8]) {
        let len = u8::try_from(pdu.len() + 1).unwrap();
        let frame = [&[0xAB, 0xCD, 0, 0, 0, len, unit_id], pdu].concat();
        self.0.write_all(&frame).await.unwrap();
    }

    /// Reads registers from 1-based `first` on; an exception is an error.
    pub(crate) async fn read(&mut self, first: u16, n_registers: u16) -> Result<Vec<u16>, u8> {
        let [high, low] = (first - 1).to_be_bytes();
        let [count_high, count_low] = n_registers.to_be_bytes();
        let answer = self.ask(254, &[3, high, low, count_high, count_low]).await;
        match &answer[..] {
            [3, len, bytes @ ..] => {
                assert_eq!(
                    (usize::from(*len), bytes.len()),
                    (bytes.len(), usize::from(n_registers) * 2)
                );
                Ok(bytes
                    .chunks(2)
                    .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
                    .collect())
            }
            [0x83, exception] => Err(*exception),
            _ => panic!("answer {answer:?}"),
        }
    }

    pub(crate) async fn write(&mut self, number: u16, word: u16) -> Result<(), u8> {
        let [high, low] = (number - 1).to_be_bytes();
        let [word_high, word_low] = word.to_be_bytes();
        let request = [6, high, low, word_high, word_low];
        match &self.ask(254, &request).await[..] {
            [0x86, exception] => Err(*exception),
            echo => {
                assert_eq!(echo, request);
                Ok(())
            }
        }
    }

    /// Waits until the unit ends the connection.
    pub(crate) async fn closed(&mut self) -> bool {
        let read = timeout(DEADLINE, self.0.read(&mut [0; 16])).await;
        matches!(read, Ok(Ok(0) | Err(_)))
    }
}

/// Reads both versions out of registers 1000–1003, as text: `1.3.44.70 1.1.5.46`.
pub(crate) async fn versions_over_modbus(unit: &Unit) -> String {
    let words = Modbus::connect(unit).await.read(1000, 4).await.unwrap();
    format!("{} {}", version(words[0], words[1]), version(words[2], words[3]))
}

/// The four numbers of a version, without its type.
pub(crate) fn version(high: u16, low: u16) -> String {
    let v3 = (high & 15) << 4 | low >> 12;
    format!("{}.{}.{v3}.{}", high >> 8 & 15, high >> 4 & 15, low & 0xFFF)
}
