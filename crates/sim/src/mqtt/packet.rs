//! The packets of MQTT 3.1.1 that a publisher needs (OASIS MQTT 3.1.1, sections 2 and 3).

/// `PINGREQ` (3.12).
pub(super) const PING: [u8; 2] = [0xC0, 0];
/// `CONNACK`, its remaining length, and its flags and code in the two bytes that follow (3.2).
pub(super) const CONNACK_LEN: usize = 4;
/// Longest remaining length, bytes (2.2.3).
const REMAINING_MAX_LEN: usize = 268_435_455;
/// Retain flag of `PUBLISH` (3.3.1.3).
const RETAIN: u8 = 1;

/// `CONNECT` with a clean session (3.1); longer texts than 65,535 bytes are cut.
pub(super) fn connect(client_id: &str, keep_alive_s: u16) -> Vec<u8> {
    let mut body = Vec::new();
    push_text(&mut body, "MQTT");
    // Level 4 = 3.1.1, flag 2 = clean session.
    body.extend_from_slice(&[4, 2]);
    body.extend_from_slice(&keep_alive_s.to_be_bytes());
    push_text(&mut body, client_id);
    packet(0x10, &body)
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
            connect("IRReceiver_Mini_d3c2b1a0", 15),
            b"\x10\x24\0\x04MQTT\x04\x02\0\x0f\0\x18IRReceiver_Mini_d3c2b1a0"
        );
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
}
