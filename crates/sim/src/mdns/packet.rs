//! Multicast DNS packets (RFC 1035 4, RFC 6762 18): bytes in, messages out, and back.

use std::net::Ipv4Addr;

/// Types of records (RFC 1035 3.2.2, RFC 2782).
pub(super) mod kind {
    pub(crate) const A: u16 = 1;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const TXT: u16 = 16;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const ANY: u16 = 255;
}

/// Class `IN`.
const IN: u16 = 1;
/// Class `ANY`.
const ANY_CLASS: u16 = 255;
/// Top bit of the class: "answer me alone" in a question, "forget what you had" in a record (RFC 6762 5.4, 10.2).
const TOP_BIT: u16 = 0x8000;
/// `QR` and `AA`: an authoritative response.
const RESPONSE: u16 = 0x8400;
/// Longest name, bytes (RFC 1035 2.3.4).
const NAME_MAX_LEN: usize = 255;
/// Longest label, bytes (RFC 1035 2.3.4).
const LABEL_MAX_LEN: usize = 63;
/// Most questions or records of a section that are read. A matter of taste: a real packet holds some dozens.
const SECTION_MAX: u16 = 256;

/// A name as its labels; compared without regard to case.
#[derive(Clone, Debug)]
pub(super) struct Name(Vec<Vec<u8>>);

impl Name {
    /// A name of these labels, without the root; labels that are too long are cut.
    pub(super) fn new(labels: &[&str]) -> Self {
        let cut = |label: &&str| label.as_bytes().iter().copied().take(LABEL_MAX_LEN).collect();
        Self(labels.iter().map(cut).collect())
    }

    /// With dots.
    #[cfg(test)]
    pub(super) fn text(&self) -> String {
        let labels: Vec<_> = self
            .0
            .iter()
            .map(|label| String::from_utf8_lossy(label))
            .collect();
        labels.join(".")
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self
                .0
                .iter()
                .zip(&other.0)
                .all(|(a, b)| a.eq_ignore_ascii_case(b))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Question {
    pub(super) name: Name,
    pub(super) kind: u16,
    /// The asker wants to be answered alone.
    pub(super) unicast: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    pub(super) name: Name,
    pub(super) ttl_s: u32,
    /// The record is the only one of its name and type.
    pub(super) unique: bool,
    pub(super) value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    A(Ipv4Addr),
    Ptr(Name),
    Txt(Vec<u8>),
    Srv {
        port: u16,
        target: Name,
    },
    /// Of another type.
    Other(u16),
}

impl Value {
    pub(super) fn kind(&self) -> u16 {
        match self {
            Self::A(_) => kind::A,
            Self::Ptr(_) => kind::PTR,
            Self::Txt(_) => kind::TXT,
            Self::Srv { .. } => kind::SRV,
            Self::Other(kind) => *kind,
        }
    }

    /// The strings of a `TXT` record, one after the other with its length before it; those that are too long are left out.
    pub(super) fn txt(entries: &[String]) -> Self {
        let mut bytes = Vec::new();
        for entry in entries {
            if let Ok(len) = u8::try_from(entry.len()) {
                bytes.push(len);
                bytes.extend_from_slice(entry.as_bytes());
            }
        }
        Self::Txt(bytes)
    }
}

/// A packet. Additional records are read into `answers`, as both mean the same to who hears them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Message {
    pub(super) id: u16,
    pub(super) response: bool,
    pub(super) questions: Vec<Question>,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    pub(super) additionals: Vec<Record>,
}

impl Message {
    /// Reads a packet; `None` when it is none, or holds something that only standard DNS has (RFC 6762 18.3, 18.11).
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader { bytes, at: 0 };
        let id = reader.u16()?;
        let flags = reader.u16()?;
        let opcode_and_rcode = flags & 0x780F;
        if opcode_and_rcode != 0 {
            return None;
        }
        let counts = [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
        if counts.iter().any(|count| *count > SECTION_MAX) {
            return None;
        }
        let mut message = Self {
            id,
            response: flags & 0x8000 != 0,
            ..Self::default()
        };
        for _ in 0..counts[0] {
            reader.question(&mut message.questions)?;
        }
        for _ in 0..counts[1] {
            reader.record(&mut message.answers)?;
        }
        for _ in 0..counts[2] {
            reader.record(&mut message.authorities)?;
        }
        for _ in 0..counts[3] {
            reader.record(&mut message.answers)?;
        }
        Some(message)
    }

    /// The packet; names that end alike share their end.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.u16(self.id);
        writer.u16(if self.response { RESPONSE } else { 0 });
        let records = [&self.answers, &self.authorities, &self.additionals];
        writer.count(self.questions.len());
        for section in records {
            writer.count(section.len());
        }
        for question in &self.questions {
            writer.name(&question.name);
            writer.u16(question.kind);
            writer.u16(if question.unicast { IN | TOP_BIT } else { IN });
        }
        for record in records.into_iter().flatten() {
            writer.record(record);
        }
        writer.bytes
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, n: usize) -> Option<&[u8]> {
        let end = self.at.checked_add(n)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|two| u16::from_be_bytes([two[0], two[1]]))
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)
            .map(|four| u32::from_be_bytes([four[0], four[1], four[2], four[3]]))
    }

    /// A name; references may only lead backwards, so that reading ends.
    fn name(&mut self) -> Option<Name> {
        let mut labels = Vec::new();
        let mut len = 1;
        let mut after = None;
        let mut bound = self.at;
        loop {
            let head = *self.take(1)?.first()?;
            match head {
                0 => break,
                1..=63 => {
                    len += 1 + usize::from(head);
                    if len > NAME_MAX_LEN {
                        return None;
                    }
                    labels.push(self.take(usize::from(head))?.to_vec());
                }
                0xC0.. => {
                    let low = *self.take(1)?.first()?;
                    let target = usize::from(u16::from_be_bytes([head & 0x3F, low]));
                    if target >= bound {
                        return None;
                    }
                    after.get_or_insert(self.at);
                    bound = target;
                    self.at = target;
                }
                _ => return None,
            }
        }
        if let Some(after) = after {
            self.at = after;
        }
        Some(Name(labels))
    }

    /// Leaves questions of another class out.
    fn question(&mut self, questions: &mut Vec<Question>) -> Option<()> {
        let name = self.name()?;
        let kind = self.u16()?;
        let class = self.u16()?;
        let ours = matches!(class & !TOP_BIT, IN | ANY_CLASS);
        if ours {
            questions.push(Question {
                name,
                kind,
                unicast: class & TOP_BIT != 0,
            });
        }
        Some(())
    }

    /// Leaves records of another class out.
    fn record(&mut self, records: &mut Vec<Record>) -> Option<()> {
        let name = self.name()?;
        let kind = self.u16()?;
        let class = self.u16()?;
        let ttl_s = self.u32()?;
        let len = usize::from(self.u16()?);
        let end = self.at.checked_add(len)?;
        let value = match kind {
            kind::A if len == 4 => Value::A(Ipv4Addr::from_bits(self.u32()?)),
            kind::PTR => Value::Ptr(self.name()?),
            kind::SRV => {
                let _priority_and_weight = self.u32()?;
                let port = self.u16()?;
                Value::Srv {
                    port,
                    target: self.name()?,
                }
            }
            kind::TXT => Value::Txt(self.take(len)?.to_vec()),
            _ => {
                self.take(len)?;
                Value::Other(kind)
            }
        };
        if self.at != end {
            return None;
        }
        if class & !TOP_BIT == IN {
            records.push(Record {
                name,
                ttl_s,
                unique: class & TOP_BIT != 0,
                value,
            });
        }
        Some(())
    }
}

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    /// Names that were written, and where.
    known: Vec<(Name, u16)>,
}

impl Writer {
    fn u16(&mut self, number: u16) {
        self.bytes.extend_from_slice(&number.to_be_bytes());
    }

    fn u32(&mut self, number: u32) {
        self.bytes.extend_from_slice(&number.to_be_bytes());
    }

    /// Our own sections are short.
    fn count(&mut self, n: usize) {
        self.u16(u16::try_from(n).unwrap_or(u16::MAX));
    }

    fn name(&mut self, name: &Name) {
        for skipped in 0..name.0.len() {
            let rest = Name(name.0[skipped..].to_vec());
            if let Some((_, at)) = self.known.iter().find(|(known, _)| *known == rest) {
                let reference = 0xC000 | *at;
                self.u16(reference);
                return;
            }
            // Only the first 16 KiB can be referred to.
            if let Some(at) = u16::try_from(self.bytes.len()).ok().filter(|at| *at < 0x4000) {
                self.known.push((rest, at));
            }
            let label = &name.0[skipped];
            self.bytes.push(u8::try_from(label.len()).unwrap_or(0));
            self.bytes.extend_from_slice(label);
        }
        self.bytes.push(0);
    }

    fn record(&mut self, record: &Record) {
        self.name(&record.name);
        self.u16(record.value.kind());
        self.u16(if record.unique { IN | TOP_BIT } else { IN });
        self.u32(record.ttl_s);
        let len_at = self.bytes.len();
        self.u16(0);
        match &record.value {
            Value::A(address) => self.u32(address.to_bits()),
            Value::Ptr(name) => self.name(name),
            Value::Txt(bytes) => self.bytes.extend_from_slice(bytes),
            Value::Srv { port, target } => {
                self.u32(0);
                self.u16(*port);
                self.name(target);
            }
            Value::Other(_) => {}
        }
        let len = u16::try_from(self.bytes.len() - len_at - 2).unwrap_or(u16::MAX);
        self.bytes[len_at..len_at + 2].copy_from_slice(&len.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// A response as Apple's and Avahi's responders send it, put together by hand from RFC 1035 4.1.4: the second name
    /// refers into the first.
    const COMPRESSED: &[u8] = b"\0\0\x84\0\0\0\0\x02\0\0\0\0\
        \x08_arduino\x04_tcp\x05local\0\0\x0c\0\x01\0\0\x11\x94\0\x05\x02ab\xc0\x0c\
        \xc0\x2b\0\x21\x80\x01\0\0\0\x78\0\x0b\0\0\0\0\x0c\xa0\x02cd\xc0\x1a";

    #[test]
    fn references_are_followed_in_names_and_values() {
        let message = Message::decode(COMPRESSED).unwrap();
        assert!(message.response);
        let [ptr, srv] = message.answers.as_slice() else {
            panic!("{message:?}")
        };
        assert_eq!(ptr.name.text(), "_arduino._tcp.local");
        assert_eq!(ptr.ttl_s, 4500);
        assert!(!ptr.unique && srv.unique);
        let Value::Ptr(target) = &ptr.value else {
            panic!("{ptr:?}")
        };
        assert_eq!(target.text(), "ab._arduino._tcp.local");
        let Value::Srv { port, target } = &srv.value else {
            panic!("{srv:?}")
        };
        assert_eq!(
            (srv.name.text(), *port),
            ("ab._arduino._tcp.local".to_owned(), 3232)
        );
        assert_eq!(target.text(), "cd.local");
    }

    #[test]
    fn what_is_written_is_read_again_and_repeats_no_name() {
        let service = Name::new(&["_arduino", "_tcp", "local"]);
        let instance = Name::new(&["IR-Remote-Mini", "_arduino", "_tcp", "local"]);
        let host = Name::new(&["IR-Remote-Mini", "local"]);
        let record = |name: &Name, value| Record {
            name: name.clone(),
            ttl_s: 120,
            unique: true,
            value,
        };
        let message = Message {
            id: 7,
            response: true,
            questions: vec![Question {
                name: host.clone(),
                kind: kind::ANY,
                unicast: true,
            }],
            answers: vec![
                record(&service, Value::Ptr(instance.clone())),
                record(
                    &instance,
                    Value::Srv {
                        port: 3232,
                        target: host.clone(),
                    },
                ),
                record(
                    &instance,
                    Value::txt(&["tcp_check=no".to_owned(), "board=x".to_owned()]),
                ),
                record(&host, Value::A(Ipv4Addr::new(10, 0, 0, 7))),
            ],
            ..Message::default()
        };
        let bytes = message.encode();
        assert_eq!(Message::decode(&bytes).unwrap(), message);
        let n_times = bytes.windows(8).filter(|eight| eight == b"_arduino").count();
        assert_eq!(n_times, 1);
        assert!(
            bytes
                .windows(21)
                .any(|text| text == b"\x0ctcp_check=no\x07board=x"),
            "{bytes:?}"
        );
    }

    #[test]
    fn names_are_equal_without_regard_to_case() {
        assert_eq!(
            Name::new(&["IR-Remote-Mini", "local"]),
            Name::new(&["ir-remote-MINI", "LOCAL"])
        );
        assert_ne!(Name::new(&["a", "b"]), Name::new(&["a"]));
    }

    #[test]
    fn a_packet_that_is_cut_anywhere_or_refers_in_circles_is_none() {
        for len in 0..COMPRESSED.len() {
            assert_eq!(Message::decode(&COMPRESSED[..len]), None, "{len} bytes");
        }
        let head = b"\0\0\0\0\0\x01\0\0\0\0\0\0";
        for name in [&b"\xc0\x0c"[..], b"\x01a\xc0\x0c", b"\xc0\xff", b"\x40a\0"] {
            let packet = [&head[..], name, b"\0\x0c\0\x01"].concat();
            assert_eq!(Message::decode(&packet), None, "{name:?}");
        }
        let long = [&head[..], &b"\x01a".repeat(128), b"\0\0\x0c\0\x01"].concat();
        assert_eq!(Message::decode(&long), None);
    }

    proptest! {
        #[test]
        fn no_packet_is_too_odd_to_be_read(noise in vec(any::<u8>(), 0..200), at in vec((0..COMPRESSED.len(), any::<u8>()), 0..6)) {
            Message::decode(&noise);
            let mut packet = COMPRESSED.to_vec();
            for (at, byte) in at {
                packet[at] = byte;
            }
            if let Some(message) = Message::decode(&packet) {
                message.encode();
            }
        }
    }
}
