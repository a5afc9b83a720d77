//! What discovery sees, and where it looks: it knows no vendor, and the families no network.

use std::net::IpAddr;

use crate::device::Snapshot;
use crate::id::{DeviceId, FamilyId};

/// Where a family wants discovery to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookout {
    /// Services announced by multicast DNS.
    Mdns {
        /// The service, as `_arduino._tcp`.
        service: &'static str,
    },
    /// A host's name in multicast DNS.
    Host {
        /// The name, as `IR-Remote-Mini.local`; several of one name call themselves `…-2.local` and so on.
        name: &'static str,
    },
    /// What a web server answers.
    Http {
        /// Its TCP port.
        port: u16,
        /// What to ask for.
        path: &'static str,
    },
    /// Messages of an MQTT broker.
    Mqtt {
        /// The topic to subscribe to; may hold `+`.
        topic: String,
    },
    /// Registers read over Modbus TCP.
    Modbus {
        /// Its TCP port.
        port: u16,
        /// The first register, counted from 1.
        first: u16,
        /// How many.
        count: u16,
    },
}

/// One thing that discovery saw. Everything in it comes from the network: it is a hint, never a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// An announced service.
    Mdns {
        /// The service, as `_arduino._tcp`.
        service: String,
        /// The name of this one.
        instance: String,
        /// Where it is said to be.
        address: IpAddr,
        /// Its port.
        port: u16,
    },
    /// A name that a host answers to in multicast DNS.
    Host {
        /// The name, as it was asked for: `IR-Remote-Mini-2.local`.
        name: String,
        /// Where it is said to be.
        address: IpAddr,
    },
    /// A web server's answer.
    Http {
        /// Who answered.
        address: IpAddr,
        /// What was asked for.
        path: String,
        /// The status.
        status: u16,
        /// What it calls itself.
        server: Option<String>,
        /// The body, at most 64 KiB; a longer one is cut.
        body: Vec<u8>,
    },
    /// A message of a broker.
    Mqtt {
        /// Its topic.
        topic: String,
        /// Its payload, at most 64 KiB.
        payload: Vec<u8>,
    },
    /// Registers.
    Modbus {
        /// Who answered.
        address: IpAddr,
        /// The first register, counted from 1.
        first: u16,
        /// Their words.
        words: Vec<u16>,
    },
}

/// A device that a family believes to have seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The family.
    pub family: FamilyId,
    /// Where to look closer; none where the sighting does not tell.
    pub address: Option<IpAddr>,
    /// Which device it says it is, if it does.
    pub id: Option<DeviceId>,
    /// Whether this settles what it is, or a closer look has to.
    pub certainty: Certainty,
    /// What it said of itself, where it said something; parts that only a closer look tells are missing.
    pub told: Option<Box<Snapshot>>,
}

/// How far a sighting tells the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// The device has told what it is.
    Told,
    /// It may be one: ask it.
    Likely,
}
