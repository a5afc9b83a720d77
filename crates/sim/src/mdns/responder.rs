//! What a responder says and when (RFC 6762): it claims its names, announces them, answers, and gives way.
//! No socket and no clock: times are durations since any start.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use super::{
    Service,
    packet::{Message, Name, Question, Record, Value, kind},
};

/// Probes before a name is one's own, and the time between them (RFC 6762 8.1).
const N_PROBES: u8 = 3;
const PROBE_PAUSE: Duration = Duration::from_millis(250);
/// Announcements of a new name, and the time between them (RFC 6762 8.3: at least two).
const N_ANNOUNCEMENTS: u8 = 2;
const ANNOUNCE_PAUSE: Duration = Duration::from_secs(1);
/// How long a host waits that lost a name to one which claimed it at the same time (RFC 6762 8.2).
const LOSER_PAUSE: Duration = Duration::from_secs(1);
/// Answers are sent so much later, so that several hosts do not answer at once (RFC 6762 6).
const ANSWER_DELAY_MS: std::ops::Range<u64> = 20..120;
/// Lifetimes, seconds (RFC 6762 10).
const HOST_TTL_S: u32 = 120;
const OTHER_TTL_S: u32 = 4500;
/// Longest lifetime in an answer to a host that knows only standard DNS, seconds (RFC 6762 6.7).
const LEGACY_TTL_S: u32 = 10;
/// Answers that may wait; what is asked beyond is not answered. A matter of taste.
const PENDING_MAX: usize = 32;

/// A packet to send.
#[derive(Debug, PartialEq)]
pub(super) struct Outgoing {
    /// `None` = the multicast group.
    pub(super) to: Option<SocketAddrV4>,
    pub(super) bytes: Vec<u8>,
}

/// A record of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ours {
    /// That our kind of service exists.
    Enumeration,
    Instance,
    Srv,
    Txt,
    Address,
}

const CLAIMED: [Ours; 3] = [Ours::Srv, Ours::Txt, Ours::Address];
const ANNOUNCED: [Ours; 4] = [Ours::Instance, Ours::Srv, Ours::Txt, Ours::Address];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Claiming { n_sent: u8, due: Duration },
    Announcing { n_sent: u8, due: Duration },
    Settled,
}

/// Answers that wait for their time.
struct Pending {
    to: Option<SocketAddrV4>,
    due: Duration,
    records: BTreeSet<Ours>,
    /// Identifier and questions of a host that knows only standard DNS.
    legacy: Option<(u16, Vec<Question>)>,
}

pub(super) struct Responder {
    service: Service,
    address: Ipv4Addr,
    /// Port of the group; who asks from another one knows only standard DNS.
    port: u16,
    /// 1 = the name as it was wished for, else the number at its end.
    n_name: u32,
    phase: Phase,
    pending: Vec<Pending>,
    random: u64,
}

impl Responder {
    /// A responder that begins to claim its names at `now`; `seed` decides its delays.
    pub(super) fn new(service: Service, address: Ipv4Addr, port: u16, seed: u64, now: Duration) -> Self {
        let mut responder = Self {
            service,
            address,
            port,
            n_name: 1,
            phase: Phase::Settled,
            pending: Vec::new(),
            // An odd number is never the zero on which the generator would stay.
            random: seed | 1,
        };
        responder.claim(now);
        responder
    }

    /// The host name without `.local`, as it stands.
    pub(super) fn host(&self) -> String {
        match self.n_name {
            1 => self.service.host.clone(),
            n => format!("{}-{n}", self.service.host),
        }
    }

    /// The names are its own and were announced.
    pub(super) fn is_settled(&self) -> bool {
        !matches!(
            self.phase,
            Phase::Claiming { .. } | Phase::Announcing { n_sent: 0, .. }
        )
    }

    /// When [`Self::send`] has something to say.
    pub(super) fn due(&self) -> Option<Duration> {
        let own = match self.phase {
            Phase::Claiming { due, .. } | Phase::Announcing { due, .. } => Some(due),
            Phase::Settled => None,
        };
        self.pending.iter().map(|pending| pending.due).chain(own).min()
    }

    /// What is to be sent by `now`.
    pub(super) fn send(&mut self, now: Duration) -> Vec<Outgoing> {
        let mut packets = Vec::new();
        match self.phase {
            Phase::Claiming { n_sent, due } if due <= now => {
                if n_sent < N_PROBES {
                    packets.push(Outgoing {
                        to: None,
                        bytes: self.probe().encode(),
                    });
                    self.phase = Phase::Claiming {
                        n_sent: n_sent + 1,
                        due: now + PROBE_PAUSE,
                    };
                } else {
                    self.phase = Phase::Announcing { n_sent: 0, due: now };
                }
            }
            _ => {}
        }
        if let Phase::Announcing { n_sent, due } = self.phase
            && due <= now
        {
            packets.push(Outgoing {
                to: None,
                bytes: self.response(&ANNOUNCED, &[]).encode(),
            });
            self.phase = if n_sent + 1 < N_ANNOUNCEMENTS {
                Phase::Announcing {
                    n_sent: n_sent + 1,
                    due: now + ANNOUNCE_PAUSE,
                }
            } else {
                Phase::Settled
            };
        }
        let (due, later) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|pending| pending.due <= now);
        self.pending = later;
        for pending in due {
            let pending: Pending = pending;
            packets.push(Outgoing {
                to: pending.to,
                bytes: self.answer(&pending).encode(),
            });
        }
        packets
    }

    /// The farewell: everything that was announced ends now (RFC 6762 10.1). Nothing when nothing was announced.
    pub(super) fn farewell(&self) -> Option<Vec<u8>> {
        if !self.is_settled() {
            return None;
        }
        let mut message = self.response(&ANNOUNCED, &[]);
        for record in &mut message.answers {
            record.ttl_s = 0;
        }
        Some(message.encode())
    }

    /// Takes a packet.
    pub(super) fn receive(&mut self, bytes: &[u8], from: SocketAddrV4, now: Duration) {
        let Some(message) = Message::decode(bytes) else {
            return;
        };
        if message.response {
            // Responses come from the group's port; others are forged (RFC 6762 6).
            if from.port() == self.port && message.answers.iter().any(|record| self.is_rival(record)) {
                if matches!(self.phase, Phase::Claiming { .. }) {
                    self.n_name += 1;
                }
                self.claim(now);
            }
            return;
        }
        if let Phase::Claiming { .. } = self.phase {
            if message.authorities.iter().any(|record| self.is_stronger(record)) {
                self.phase = Phase::Claiming {
                    n_sent: 0,
                    due: now + LOSER_PAUSE,
                };
            }
            // Nothing is said of names that are not yet one's own.
            return;
        }
        self.take_questions(message, from, now);
    }

    fn take_questions(&mut self, message: Message, from: SocketAddrV4, now: Duration) {
        let legacy = from.port() != self.port;
        let (mut alone, mut all) = (BTreeSet::new(), BTreeSet::new());
        for question in &message.questions {
            let mut found = self.asked_for(question);
            found.retain(|ours| !self.is_known(*ours, &message.answers));
            let records = if legacy || question.unicast {
                &mut alone
            } else {
                &mut all
            };
            records.extend(found);
        }
        // A host that claims our name has to hear of us at once (RFC 6762 6).
        let delay = if message.authorities.is_empty() {
            Duration::from_millis(self.random_in(ANSWER_DELAY_MS))
        } else {
            Duration::ZERO
        };
        let due = now + delay;
        let legacy = legacy.then_some((message.id, message.questions));
        self.answer_later(Some(from), due, alone, legacy);
        self.answer_later(None, due, all, None);
    }

    fn answer_later(
        &mut self,
        to: Option<SocketAddrV4>,
        due: Duration,
        records: BTreeSet<Ours>,
        legacy: Option<(u16, Vec<Question>)>,
    ) {
        if records.is_empty() {
            return;
        }
        let waiting = self
            .pending
            .iter_mut()
            .find(|pending| pending.to == to && pending.legacy.is_none() && legacy.is_none());
        if let Some(pending) = waiting {
            pending.records.extend(records);
            pending.due = pending.due.min(due);
        } else if self.pending.len() < PENDING_MAX {
            self.pending.push(Pending {
                to,
                due,
                records,
                legacy,
            });
        }
    }

    // Names and records

    fn service_name(&self) -> Name {
        let [service, protocol] = self.service.kind;
        Name::new(&[service, protocol, "local"])
    }

    fn instance_name(&self) -> Name {
        let [service, protocol] = self.service.kind;
        Name::new(&[&self.host(), service, protocol, "local"])
    }

    fn host_name(&self) -> Name {
        Name::new(&[&self.host(), "local"])
    }

    fn record(&self, ours: Ours) -> Record {
        let (name, value) = match ours {
            Ours::Enumeration => (
                Name::new(&["_services", "_dns-sd", "_udp", "local"]),
                Value::Ptr(self.service_name()),
            ),
            Ours::Instance => (self.service_name(), Value::Ptr(self.instance_name())),
            Ours::Srv => (
                self.instance_name(),
                Value::Srv {
                    port: self.service.port,
                    target: self.host_name(),
                },
            ),
            Ours::Txt => (self.instance_name(), Value::txt(&self.service.txt)),
            Ours::Address => (self.host_name(), Value::A(self.address)),
        };
        Record {
            name,
            ttl_s: match ours {
                Ours::Srv | Ours::Address => HOST_TTL_S,
                _ => OTHER_TTL_S,
            },
            unique: CLAIMED.contains(&ours),
            value,
        }
    }

    fn records(&self, ours: &[Ours]) -> Vec<Record> {
        ours.iter().map(|ours| self.record(*ours)).collect()
    }

    fn asked_for(&self, question: &Question) -> Vec<Ours> {
        let all = [
            Ours::Enumeration,
            Ours::Instance,
            Ours::Srv,
            Ours::Txt,
            Ours::Address,
        ];
        let fits = |ours: &Ours| {
            let record = self.record(*ours);
            record.name == question.name
                && matches!(question.kind, wanted if wanted == kind::ANY || wanted == record.value.kind())
        };
        all.into_iter().filter(fits).collect()
    }

    /// The asker has this record already, with at least half of its life ahead (RFC 6762 7.1).
    fn is_known(&self, ours: Ours, known: &[Record]) -> bool {
        let record = self.record(ours);
        known.iter().any(|known| {
            known.name == record.name && known.value == record.value && known.ttl_s >= record.ttl_s / 2
        })
    }

    /// Somebody else's record of a name that we hold or claim; a farewell is none.
    fn is_rival(&self, record: &Record) -> bool {
        record.ttl_s > 0
            && self.records(&CLAIMED).iter().any(|own| {
                own.name == record.name
                    && own.value.kind() == record.value.kind()
                    && own.value != record.value
            })
    }

    /// The record of a host that claims our name at the same time, and wins it: the later in order of bytes (RFC 6762 8.2).
    ///
    /// The addresses decide: of two hosts with one name, everything else is equal or follows from it.
    fn is_stronger(&self, record: &Record) -> bool {
        match record.value {
            Value::A(address) => record.name == self.host_name() && address > self.address,
            _ => false,
        }
    }

    // Packets

    fn probe(&self) -> Message {
        let question = |name| Question {
            name,
            kind: kind::ANY,
            unicast: true,
        };
        let mut authorities = self.records(&CLAIMED);
        for record in &mut authorities {
            record.unique = false;
        }
        Message {
            questions: vec![question(self.instance_name()), question(self.host_name())],
            authorities,
            ..Message::default()
        }
    }

    fn response(&self, answers: &[Ours], additionals: &[Ours]) -> Message {
        Message {
            response: true,
            answers: self.records(answers),
            additionals: self.records(additionals),
            ..Message::default()
        }
    }

    fn answer(&self, pending: &Pending) -> Message {
        let answers: Vec<_> = pending.records.iter().copied().collect();
        // What the asker will ask for next (RFC 6763 12).
        let helpful: &[Ours] = if answers.contains(&Ours::Instance) {
            &CLAIMED
        } else if answers.contains(&Ours::Srv) {
            &[Ours::Address]
        } else {
            &[]
        };
        let helpful: Vec<_> = helpful
            .iter()
            .filter(|ours| !answers.contains(ours))
            .copied()
            .collect();
        let mut message = self.response(&answers, &helpful);
        if let Some((id, questions)) = &pending.legacy {
            message.id = *id;
            message.questions.clone_from(questions);
            for record in message.answers.iter_mut().chain(&mut message.additionals) {
                record.unique = false;
                record.ttl_s = record.ttl_s.min(LEGACY_TTL_S);
            }
        }
        message
    }

    fn claim(&mut self, now: Duration) {
        self.pending.clear();
        let delay = Duration::from_millis(self.random_in(0..250));
        self.phase = Phase::Claiming {
            n_sent: 0,
            due: now + delay,
        };
    }

    /// A number of xorshift64 (Marsaglia 2003).
    fn random_in(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        range.start + self.random % (range.end - range.start)
    }
}

#[cfg(test)]
#[path = "responder_tests.rs"]
mod tests;
