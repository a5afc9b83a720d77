//! A simulated device, written from what devices do and not from what we believe of them: power, slots, sessions, and a log.
//!
//! It knows nothing of jobs, leases or rollouts. Its log is the oracle's witness.

use std::time::Duration;

use model::device::{Hardware, Health, Ota, Snapshot};
use model::id::{DeviceId, FamilyId};
use model::version::Versions;

/// Milliseconds of virtual time.
pub(crate) type Ms = u64;
/// An image: 0 is what devices run at first.
pub(crate) type Img = u8;

/// Bytes that nobody has validated.
pub(crate) const FOREIGN: Img = 9;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Tells its uptime in whole seconds, and a label that moves with the image.
    Esp,
    /// The same, but every image shows the same label.
    Sticky,
    /// A ventilation unit: no uptime.
    Unit,
}

/// What becomes of a device that starts a new image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Good,
    RollsBack,
    BootLoop,
    NoReturn,
    Late,
}

/// What a device has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It was asked who it is, and has answered.
    Look,
    /// Somebody begins to send.
    Begin(Img),
    /// Somebody wants to send while another does.
    Second,
    /// The session is over.
    End {
        whole: bool,
    },
    /// It starts this image.
    Boot(Img),
    Down,
}

/// How a session goes on, as only the world knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Taken,
    /// It says yes, and does nothing.
    Lie,
    LostTaken,
    LostNotTaken,
    Error,
    /// It says no, and restarts all the same.
    ErrorRestarts,
    Breaks,
    PowerCut,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Session {
    pub(crate) number: u32,
    pub(crate) image: Img,
    pub(crate) way: Way,
}

#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) idx: usize,
    pub(crate) kind: Kind,
    /// Answers looks while it receives.
    pub(crate) talks_while_receiving: bool,
    pub(crate) runs: Img,
    pub(crate) staged: Option<Img>,
    pub(crate) is_up: bool,
    pub(crate) booted: Ms,
    pub(crate) session: Option<Session>,
    /// No packet gets through until then.
    pub(crate) cut_until: Ms,
    /// Counted up by whatever makes earlier plans of its power void.
    pub(crate) power: u32,
    /// Further restarts of a boot loop.
    pub(crate) n_loops: u8,
    pub(crate) log: Vec<(Ms, Entry)>,
}

pub(crate) fn id_of(idx: usize) -> DeviceId {
    DeviceId::from_hardware(&FamilyId::new("sim"), format!("d{idx:02}"))
}

pub(crate) fn idx_of(device: &DeviceId) -> usize {
    device.hardware[1..].parse().unwrap()
}

pub(crate) fn label_of(kind: Kind, image: Img) -> Versions {
    let number = if kind == Kind::Sticky { 0 } else { image };
    Versions::one(
        "",
        if number == 0 {
            "0"
        } else {
            NUMBERS[usize::from(number) % 10]
        },
    )
}

const NUMBERS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

impl Device {
    pub(crate) fn new(idx: usize, kind: Kind, booted: Ms) -> Self {
        Self {
            idx,
            kind,
            talks_while_receiving: false,
            runs: 0,
            staged: None,
            is_up: true,
            booted,
            session: None,
            cut_until: 0,
            power: 0,
            n_loops: 0,
            log: Vec::new(),
        }
    }

    pub(crate) fn is_reachable(&self, at: Ms) -> bool {
        self.is_up && self.cut_until <= at
    }

    /// What it answers; nothing where it does not.
    pub(crate) fn answer(&mut self, at: Ms) -> Option<Snapshot> {
        if !self.is_reachable(at) || (self.session.is_some() && !self.talks_while_receiving) {
            return None;
        }
        self.log.push((at, Entry::Look));
        Some(Snapshot {
            id: id_of(self.idx),
            versions: label_of(self.kind, self.runs),
            uptime: (self.kind != Kind::Unit).then(|| Duration::from_secs((at - self.booted) / 1_000)),
            ota: Ota::Enabled,
            busy: self.session.is_some(),
            host_name: None,
            hardware: Hardware::default(),
            health: Health::default(),
        })
    }

    pub(crate) fn begin(&mut self, session: Session, at: Ms) {
        self.log.push((at, Entry::Begin(session.image)));
        self.session = Some(session);
    }

    /// The session ends; with all of its bytes, the image is ready to be started.
    pub(crate) fn end(&mut self, at: Ms, whole: bool, takes: bool) {
        if let Some(session) = self.session.take() {
            self.log.push((at, Entry::End { whole }));
            if takes {
                self.staged = Some(session.image);
            }
        }
    }

    pub(crate) fn down(&mut self, at: Ms) {
        self.end(at, false, false);
        self.is_up = false;
        self.power += 1;
        self.log.push((at, Entry::Down));
    }

    /// It starts, by its own rules.
    pub(crate) fn boot(&mut self, at: Ms, fate: Fate) {
        if let Some(image) = self.staged.take() {
            self.log.push((at, Entry::Boot(image)));
            if fate != Fate::RollsBack {
                self.runs = image;
            }
        }
        if self.log.last() != Some(&(at, Entry::Boot(self.runs))) {
            self.log.push((at, Entry::Boot(self.runs)));
        }
        self.is_up = true;
        self.booted = at;
        self.power += 1;
    }
}
