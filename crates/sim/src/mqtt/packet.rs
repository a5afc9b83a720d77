//! The packets of MQTT 3.1.1 that a small client needs (OASIS MQTT 3.1.1, sections 2 and 3).

/// `PINGREQ` (3.12).
pub(super) const PING: [u8; 2] = [0xC0, 0];
/// `CONNACK`, its remaining length, and its flags and code in the two bytes that follow (3.2).
pub(super) const CONNACK_LEN: usize = 4;
/// Longest remaining length, bytes (2.2.3).
const REMAINING_MAX_LEN: usize = 268_435_455;
/// Retain flag of `PUBLISH` (3.3.1.3).
const RETAIN: u8 = 1;

/// Flags of `CONNECT` (3.1.2.3): a clean session, a last will, and one that the broker keeps.
const CLEAN_SESSION: u8 = 0x02;
const WILL: u8 = 0x04;
const WILL_RETAIN: u8 = 0x20;

/// What the broker publishes, and keeps, once a client is gone without a word (3.1.2.5).
#[derive(Clone, Copy)]
pub(crate) struct Will<'a> {
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a str,
}

/// `CONNECT` with a clean session (3.1); longer texts than 65,535 bytes are cut.
pub(super) fn connect(client_id: &str, keep_alive_s: u16, will: Option<Will<'_>>) -> Vec<u8> {
    let mut body = Vec::new();
    push_text(&mut body, "MQTT");
    let will_flags = if will.is_some() { WILL | WILL_RETAIN } else { 0 };
    // Level 4 = 3.1.1.
    body.extend_from_slice(&[4, CLEAN_SESSION | will_flags]);
    body.extend_from_slice(&keep_alive_s.to_be_bytes());
    push_text(&mut body, client_id);
    if let Some(Will { topic, payload }) = will {
        push_text(&mut body, topic);
        push_text(&mut body, payload);
    }
    packet(0x10, &body)
}

/// `SUBSCRIBE` to one topic, with quality of service 1 (3.8).
pub(super) fn subscribe(topic: &str) -> Vec<u8> {
    // Packet identifier 1: there is no other packet of ours that has one.
    let mut body = vec![0, 1];
    push_text(&mut body, topic);
    body.push(1);
    packet(0x82, &body)
}

/// `PUBACK` (3.4).
pub(super) fn acknowledge(packet_id: u16) -> Vec<u8> {
    packet(0x40, &packet_id.to_be_bytes())
}

/// Something that was published to a topic that the client listens to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    /// The broker had kept it: it may be of any age (3.3.1.3).
    pub(crate) retained: bool,
    /// To be acknowledged, where its quality of service asks for that.
    pub(crate) packet_id: Option<u16>,
}

/// What a broker sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Message(Message),
    /// An answer to something; that it came is all that counts.
    Answer,
    /// A packet that is too long for the client, of so many bytes in all, or one that makes no sense.
    TooLong(usize),
    Nonsense,
}

/// The first packet of `bytes` and its length; none while it is not complete.
pub(super) fn first_packet(bytes: &[u8], max_len: usize) -> Option<(Heard, usize)> {
    let (mut len, mut n_head) = (0, 1);
    loop {
        let byte = *bytes.get(n_head)?;
        len |= usize::from(byte & 0x7F) << (7 * (n_head - 1));
        n_head += 1;
        if byte & 0x80 == 0 {
            break;
        }
        if n_head > 4 {
            return Some((Heard::Nonsense, bytes.len()));
        }
    }
    let whole = n_head + len;
    if whole > max_len {
        return Some((Heard::TooLong(whole), 0));
    }
    let body = bytes.get(n_head..whole)?;
    let heard = match bytes[0] >> 4 {
        3 => message(bytes[0], body).map_or(Heard::Nonsense, Heard::Message),
        _ => Heard::Answer,
    };
    Some((heard, whole))
}

fn message(head: u8, body: &[u8]) -> Option<Message> {
    let (len, rest) = body.split_first_chunk()?;
    let len = usize::from(u16::from_be_bytes(*len));
    let topic = String::from_utf8(rest.get(..len)?.to_vec()).ok()?;
    let mut payload = &rest[len..];
    let packet_id = if head & 0x06 == 0 {
        None
    } else {
        let (id, rest) = payload.split_first_chunk()?;
        payload = rest;
        Some(u16::from_be_bytes(*id))
    };
    Some(Message {
        topic,
        payload: payload.to_vec(),
        retained: head & RETAIN != 0,
        packet_id,
    })
}

/// `PUBLISH` with quality of service 0 (3.3).
pub(super) fn publish(topic: &str, payload: &[u8], retained: bool) -> Vec<u8> {
    let mut body = Vec::new();
    push_text(&mut body, topic);
    body.extend_from_slice(payload);
    packet(0x30 | if retained { RETAIN } else { 0 }, &body)
}

/// True when the broker lets the client in.
pub(super) fn is_welcome(connack: [u8; CONNACK_LEN]) -> bool {
    matches!(connack, [0x20, 2, _, 0])
}

fn packet(head: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![head];
    let mut len = body.len().min(REMAINING_MAX_LEN);
    loop {
        let low = u8::try_from(len % 128).unwrap_or(0);
        len /= 128;
        bytes.push(low | if len > 0 { 0x80 } else { 0 });
        if len == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

fn push_text(body: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(usize::from(u16::MAX));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    body.extend_from_slice(&u16::try_from(end).unwrap_or(0).to_be_bytes());
    body.extend_from_slice(&text.as_bytes()[..end]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_those_of_the_specification() {
        assert_eq!(
            connect("IRReceiver_Mini_d3c2b1a0", 15, None),
            b"\x10\x24\0\x04MQTT\x04\x02\0\x0f\0\x18IRReceiver_Mini_d3c2b1a0"
        );
        let will = Will {
            topic: "a/b",
            payload: "off",
        };
        assert_eq!(
            connect("c", 15, Some(will)),
            b"\x10\x17\0\x04MQTT\x04\x26\0\x0f\0\x01c\0\x03a/b\0\x03off"
        );
        assert_eq!(subscribe("a/b"), b"\x82\x08\0\x01\0\x03a/b\x01");
        assert_eq!(acknowledge(10), b"\x40\x02\0\x0a");
        // Example of section 3.3: topic a/b.
        assert_eq!(publish("a/b", b"online", true), b"\x31\x0b\0\x03a/bonline");
        assert_eq!(publish("a/b", b"", false), b"\x30\x05\0\x03a/b");
    }

    #[test]
    fn lengths_take_as_many_bytes_as_they_need() {
        // The table of section 2.2.3.
        for (len, expected) in [
            (127, &[0x7F][..]),
            (128, &[0x80, 0x01]),
            (16_383, &[0xFF, 0x7F]),
            (16_384, &[0x80, 0x80, 0x01]),
        ] {
            assert_eq!(&packet(0, &vec![0; len])[1..=expected.len()], expected, "{len}");
        }
    }

    #[test]
    fn only_code_0_is_a_welcome() {
        assert!(is_welcome([0x20, 2, 0, 0]));
        assert!(!is_welcome([0x20, 2, 0, 5]));
        assert!(!is_welcome([0x48, b'T', b'T', b'P']));
    }

    #[test]
    fn a_message_is_read_once_it_is_whole_and_never_beyond_the_limit() {
        let bytes = b"\x33\x0b\0\x03a/b\0\x0aoff!\xd0\0";
        for n in 0..13 {
            assert_eq!(first_packet(&bytes[..n], 64), None, "{n}");
        }
        let message = Message {
            topic: "a/b".to_owned(),
            payload: b"off!".to_vec(),
            retained: true,
            packet_id: Some(10),
        };
        assert_eq!(first_packet(bytes, 64), Some((Heard::Message(message), 13)));
        assert_eq!(first_packet(&bytes[13..], 64), Some((Heard::Answer, 2)));
        assert_eq!(first_packet(bytes, 12), Some((Heard::TooLong(13), 0)));
        assert_eq!(first_packet(b"\x30\x02\0\x09", 64), Some((Heard::Nonsense, 4)));
        assert_eq!(
            first_packet(b"\x30\xff\xff\xff\xff\x7f", 64),
            Some((Heard::Nonsense, 6))
        );
    }
}
