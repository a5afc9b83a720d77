//! Which device is where, and whether it is there: decisions of the inventory, with plain values.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{DeviceId, Strength};

/// How many looks in a row must fail before a device counts as offline (RELIABILITY.md F1).
pub const MISSES_TO_OFFLINE: u8 = 3;

/// How long two identities at one address count as a quarrel rather than as a change of tenants.
/// Guess: twice the usual scan interval; an address that is handed on by DHCP does not come back within it.
pub const QUARREL: Duration = Duration::from_mins(10);

/// How a device stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It answers.
    Online,
    /// It has missed three looks.
    Offline,
    /// It was never reached.
    Unknown,
    /// Something answers, and not in a way that can be read.
    Unreadable,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Online, Self::Offline, Self::Unknown, Self::Unreadable];

    /// Its name in JSON, tables and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Unknown => "unknown",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Whether a device is there: one answer is enough, one silence is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    state: State,
    misses: u8,
}

impl Presence {
    /// As it was when the program ended.
    pub fn restored(state: State) -> Self {
        Self { state, misses: 0 }
    }

    /// How it stands.
    pub fn state(self) -> State {
        self.state
    }

    /// How many looks in a row have failed.
    pub fn misses(self) -> u8 {
        self.misses
    }

    /// After a look that went well.
    #[must_use]
    pub fn answered(self) -> Self {
        Self {
            state: State::Online,
            misses: 0,
        }
    }

    /// After a look that nobody answered, or that another device answered.
    #[must_use]
    pub fn missed(self) -> Self {
        let misses = self.misses.saturating_add(1);
        let state = match self.state {
            // What was never there cannot have gone.
            State::Unknown => State::Unknown,
            _ if misses >= MISSES_TO_OFFLINE => State::Offline,
            state => state,
        };
        Self { state, misses }
    }

    /// After an answer that made no sense: somebody is there, so it is not gone.
    #[must_use]
    pub fn garbled(self) -> Self {
        let misses = self.misses.saturating_add(1);
        let state = if misses >= MISSES_TO_OFFLINE || self.state == State::Unknown {
            State::Unreadable
        } else {
            self.state
        };
        Self { state, misses }
    }
}

/// What became known by one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It has an address for the first time.
    Found,
    /// It has another address than before, and is no longer at the old one.
    Moved {
        /// Where it was.
        from: IpAddr,
    },
    /// Another device was at this address before.
    Displaced {
        /// That device.
        id: DeviceId,
    },
    /// It answers at two addresses: one of the two is not what it says.
    Clones {
        /// Where it was known to be.
        known: IpAddr,
        /// Where it answered now.
        other: IpAddr,
    },
    /// Two devices answer in turn at one address.
    Quarrel {
        /// The one that was here before, and before that.
        with: DeviceId,
    },
}

/// Which device is at which address.
#[derive(Clone, Debug, Default)]
pub struct Places {
    of: HashMap<DeviceId, IpAddr>,
    at: HashMap<IpAddr, Tenant>,
}

#[derive(Clone, Debug)]
struct Tenant {
    id: DeviceId,
    /// Who was there before, and when it was replaced.
    before: Option<(DeviceId, Duration)>,
}

impl Places {
    /// Takes in what was known when the program ended.
    pub fn restore(&mut self, id: &DeviceId, address: IpAddr) {
        self.of.insert(id.clone(), address);
        self.at.insert(
            address,
            Tenant {
                id: id.clone(),
                before: None,
            },
        );
    }

    /// Where a device is known to be.
    pub fn of(&self, id: &DeviceId) -> Option<IpAddr> {
        self.of.get(id).copied()
    }

    /// Who is known to be at an address.
    pub fn at(&self, address: IpAddr) -> Option<&DeviceId> {
        self.at.get(&address).map(|tenant| &tenant.id)
    }

    /// The address that must be looked at before an answer from `address` can be called a move; none where there is no doubt.
    pub fn doubt(&self, id: &DeviceId, address: IpAddr) -> Option<IpAddr> {
        let known = self.of(id)?;
        let is_elsewhere = known != address && id.strength == Strength::Hardware;
        // Whoever lost its address to another device cannot answer there any more.
        (is_elsewhere && self.at(known) == Some(id)).then_some(known)
    }

    /// Takes in that a device answered at an address. `still_there` says whether it also answers where it was.
    ///
    /// Where it does, nothing moves: the finding is [`Finding::Clones`]. `now` is time since boot.
    pub fn answered(
        &mut self,
        id: &DeviceId,
        address: IpAddr,
        still_there: bool,
        now: Duration,
    ) -> Vec<Finding> {
        if let Some(known) = self.doubt(id, address)
            && still_there
        {
            return vec![Finding::Clones {
                known,
                other: address,
            }];
        }
        let mut findings = Vec::new();
        let from = self.of.insert(id.clone(), address);
        match from {
            None => findings.push(Finding::Found),
            Some(from) if from != address => {
                if self.at(from) == Some(id) {
                    self.at.remove(&from);
                }
                findings.push(Finding::Moved { from });
            }
            Some(_) => {}
        }
        match self.at.get_mut(&address) {
            Some(tenant) if tenant.id == *id => {}
            Some(tenant) => {
                let displaced = std::mem::replace(&mut tenant.id, id.clone());
                let came_back = tenant
                    .before
                    .take()
                    .is_some_and(|(before, at)| before == *id && now.saturating_sub(at) < QUARREL);
                tenant.before = Some((displaced.clone(), now));
                findings.push(if came_back {
                    Finding::Quarrel { with: displaced }
                } else {
                    Finding::Displaced { id: displaced }
                });
            }
            None => {
                self.at.insert(
                    address,
                    Tenant {
                        id: id.clone(),
                        before: None,
                    },
                );
            }
        }
        findings
    }

    /// Forgets a device.
    pub fn forget(&mut self, id: &DeviceId) {
        if let Some(address) = self.of.remove(id)
            && self.at(address) == Some(id)
        {
            self.at.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::FamilyId;

    fn device(mac: &str) -> DeviceId {
        DeviceId::from_hardware(&FamilyId::new("ir-remote"), mac)
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 168, 1, last])
    }

    const A: &str = "a0b1c2d3e4f5";
    const B: &str = "a0b1c2d3e4f6";

    fn minutes(minutes: u64) -> Duration {
        Duration::from_mins(minutes)
    }

    #[test]
    fn two_silences_are_not_the_end_and_the_third_is() {
        let mut presence = Presence::restored(State::Online);
        for expected in [State::Online, State::Online, State::Offline, State::Offline] {
            presence = presence.missed();
            assert_eq!(presence.state(), expected);
        }
        assert_eq!(presence.answered(), Presence::restored(State::Online));
    }

    #[test]
    fn an_answer_between_silences_starts_the_count_again() {
        let presence = Presence::restored(State::Online).missed().missed().answered();
        assert_eq!(presence.missed().missed().state(), State::Online);
    }

    #[test]
    fn what_was_never_there_is_not_offline() {
        let presence = Presence::restored(State::Unknown).missed().missed().missed();
        assert_eq!((presence.state(), presence.misses()), (State::Unknown, 3));
    }

    #[test]
    fn nonsense_is_not_silence() {
        let presence = Presence::restored(State::Online).garbled().garbled();
        assert_eq!(presence.state(), State::Online);
        assert_eq!(presence.garbled().state(), State::Unreadable);
        assert_eq!(
            Presence::restored(State::Unknown).garbled().state(),
            State::Unreadable
        );
    }

    #[test]
    fn a_new_address_is_a_move_once_the_old_one_is_silent() {
        let mut places = Places::default();
        assert_eq!(
            places.answered(&device(A), address(1), false, minutes(0)),
            [Finding::Found]
        );
        assert_eq!(places.answered(&device(A), address(1), false, minutes(0)), []);
        assert_eq!(places.doubt(&device(A), address(2)), Some(address(1)));
        let moved = Finding::Moved { from: address(1) };
        assert_eq!(
            places.answered(&device(A), address(2), false, minutes(1)),
            [moved]
        );
        assert_eq!(
            (places.of(&device(A)), places.at(address(1))),
            (Some(address(2)), None)
        );
    }

    #[test]
    fn one_identity_at_two_addresses_moves_nothing() {
        let mut places = Places::default();
        places.restore(&device(A), address(1));
        let clones = Finding::Clones {
            known: address(1),
            other: address(2),
        };
        assert_eq!(
            places.answered(&device(A), address(2), true, minutes(0)),
            [clones]
        );
        assert_eq!(
            (places.of(&device(A)), places.at(address(2))),
            (Some(address(1)), None)
        );
    }

    #[test]
    fn two_that_swap_addresses_are_moved_and_do_not_quarrel() {
        let mut places = Places::default();
        places.restore(&device(A), address(1));
        places.restore(&device(B), address(2));
        // The old address is answered by the other one, so there is nothing left to ask there.
        let findings = places.answered(&device(B), address(1), false, minutes(0));
        assert_eq!(
            findings,
            [
                Finding::Moved { from: address(2) },
                Finding::Displaced { id: device(A) }
            ]
        );
        assert_eq!(places.doubt(&device(A), address(2)), None);
        let findings = places.answered(&device(A), address(2), false, minutes(0));
        assert_eq!(findings, [Finding::Moved { from: address(1) }]);
    }

    #[test]
    fn two_that_answer_in_turn_at_one_address_quarrel() {
        let mut places = Places::default();
        places.restore(&device(A), address(1));
        places.answered(&device(B), address(1), false, minutes(1));
        let findings = places.answered(&device(A), address(1), false, minutes(2));
        assert_eq!(findings, [Finding::Quarrel { with: device(B) }]);
    }

    #[test]
    fn a_tenant_that_comes_back_much_later_does_not_quarrel() {
        let mut places = Places::default();
        places.restore(&device(A), address(1));
        places.answered(&device(B), address(1), false, minutes(1));
        let findings = places.answered(&device(A), address(1), false, minutes(11));
        assert_eq!(findings, [Finding::Displaced { id: device(B) }]);
    }

    #[test]
    fn a_forgotten_device_leaves_its_address() {
        let mut places = Places::default();
        places.restore(&device(A), address(1));
        places.forget(&device(A));
        assert_eq!((places.of(&device(A)), places.at(address(1))), (None, None));
        // Another one may have taken the address since.
        places.restore(&device(A), address(1));
        places.answered(&device(B), address(1), false, minutes(0));
        places.forget(&device(A));
        assert_eq!(places.at(address(1)), Some(&device(B)));
    }
}
