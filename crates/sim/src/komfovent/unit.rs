//! What the unit is and remembers, and how it decides. No sockets in here.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::Notify;

use super::fault::Fault;
use super::firmware::{Controller, ControllerKind, FirmwareFile, Package, Panel};
use super::form::Part;
use super::pages::{self, Language, LoginError, Status};
use super::registers::{self, Registers};
use super::{Config, Counters, Running};
use crate::{EventKind, EventSink};

/// Where a unit is after a reset of its address (vendor's manual).
pub(super) const FACTORY_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 60);
/// The one field name of an upload (the real page's form).
pub(super) const UPLOAD_FIELD: &str = "11111";
/// Requests closer together than this are counted as too fast (vendor's Modbus manual).
const MODBUS_INTERVAL: Duration = Duration::from_millis(500);
/// Controllers up to this functional version lose their address in an update (vendor's update manual).
const ADDRESS_RESET_MAX: u16 = 10;
/// Panels from this functional version on are updated along (vendor's update manual).
const PANEL_MIN: u16 = 10;
/// C6 and C6M read `.mbin` files from this functional version on (vendor's update manual).
const MBIN_MIN: u16 = 15;
/// Up to this functional version header names are compared case by case (node-red-contrib-komfovent, seen at 1.3.17.20;
/// guess: where it ended).
const STRICT_HEADERS_MAX: u16 = 20;

/// A unit; shared by its tasks.
pub(super) struct Unit {
    pub(super) config: Config,
    pub(super) ip: Ipv4Addr,
    pub(super) serial: String,
    pub(super) events: EventSink,
    /// Told when the unit is to restart.
    pub(super) restart: Notify,
    state: Mutex<State>,
}

struct State {
    registers: Registers,
    sessions: HashSet<IpAddr>,
    faults: Vec<Fault>,
    counters: Counters,
    modbus_seen: Option<Instant>,
    /// What the restart will bring; set while the unit has flashed and not restarted yet.
    flashed: Option<Flash>,
    /// `cut-once-at` has cut.
    has_cut: bool,
    /// `session-taken`: the other client was logged out.
    other_logged_out: bool,
}

/// What is written into the unit by one upload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flash {
    controller: Option<Controller>,
    panels: [Option<Panel>; 2],
}

/// What the unit makes of an upload.
pub(super) struct Verdict {
    pub(super) status: Status,
    pub(super) flash: Option<Flash>,
}

/// Where the unit is after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Return {
    Here,
    AtFactoryAddress,
    Never,
}

impl Unit {
    pub(super) fn new(config: Config, ip: Ipv4Addr, serial: String, events: EventSink) -> Self {
        let state = State {
            registers: config.registers.clone(),
            sessions: HashSet::new(),
            faults: config.faults.clone(),
            counters: Counters::default(),
            modbus_seen: None,
            flashed: None,
            has_cut: false,
            other_logged_out: false,
        };
        Self {
            config,
            ip,
            serial,
            events,
            restart: Notify::new(),
            state: Mutex::new(state),
        }
    }

    pub(super) fn emit(&self, kind: EventKind, fields: Vec<(&'static str, Value)>) {
        self.events.emit(&self.serial, kind, fields);
    }

    fn emit_fault(&self, name: &'static str) {
        self.emit(EventKind::Fault, vec![("fault", name.into())]);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn counters(&self) -> Counters {
        self.lock().counters
    }

    pub(super) fn count(&self, count: impl FnOnce(&mut Counters)) {
        count(&mut self.lock().counters);
    }

    pub(super) fn running(&self) -> Running {
        let state = self.lock();
        let [first, second] = state.registers.panels();
        Running {
            controller: state
                .registers
                .controller()
                .map(|controller| controller.to_string())
                .unwrap_or_default(),
            panel: first.or(second).map(|panel| panel.to_string()),
            on: state.registers.on(),
            n_sessions: state.sessions.len(),
        }
    }

    pub(super) fn set_faults(&self, faults: Vec<Fault>) {
        let mut state = self.lock();
        state.faults = faults;
        state.has_cut = false;
        state.other_logged_out = false;
    }

    /// Whether `fault` is on; says so in an event, because it is about to take effect.
    pub(super) fn takes_effect(&self, fault: &Fault) -> bool {
        let is_on = self.lock().has(fault);
        if is_on {
            self.emit_fault(fault.name());
        }
        is_on
    }

    fn pick<T>(&self, pick: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        let found = self
            .lock()
            .faults
            .iter()
            .find_map(|fault| Some((fault.name(), pick(fault)?)));
        found.map(|(name, picked)| {
            self.emit_fault(name);
            picked
        })
    }

    /// Bytes a second at which an upload is read.
    pub(super) fn upload_rate(&self) -> u32 {
        let slow = self.pick(|fault| {
            if let Fault::Slow(rate) = fault {
                Some(*rate)
            } else {
                None
            }
        });
        slow.unwrap_or(self.config.rate_bytes_per_s)
    }

    /// How long the unit is silent while it flashes.
    pub(super) fn silence(&self) -> Duration {
        let stall = self.pick(|fault| {
            if let Fault::Stall(silence) = fault {
                Some(*silence)
            } else {
                None
            }
        });
        stall.unwrap_or(self.config.silence)
    }

    /// How long the unit is away while it restarts.
    pub(super) fn restart_time(&self) -> Duration {
        let long = self.pick(|fault| {
            if let Fault::RestartLong(time) = fault {
                Some(*time)
            } else {
                None
            }
        });
        long.unwrap_or(self.config.restart)
    }

    /// At which share of its body this upload is reset, if at all.
    pub(super) fn cut_at_percent(&self) -> Option<u8> {
        let state = self.lock();
        state.faults.iter().find_map(|fault| match fault {
            Fault::CutAt(percent) => Some(*percent),
            Fault::CutOnceAt(percent) if !state.has_cut => Some(*percent),
            _ => None,
        })
    }

    /// The upload is being reset.
    pub(super) fn cut(&self) {
        let name = {
            let mut state = self.lock();
            state.has_cut = true;
            state.counters.cut += 1;
            let cut = state
                .faults
                .iter()
                .find(|fault| matches!(fault, Fault::CutAt(_) | Fault::CutOnceAt(_)));
            cut.map_or("cut-at", Fault::name)
        };
        self.emit_fault(name);
    }

    pub(super) fn compares_header_case(&self) -> bool {
        let controller = self.lock().registers.controller();
        controller.is_some_and(|controller| controller.version.functional() <= STRICT_HEADERS_MAX)
    }

    pub(super) fn is_authorised(&self, peer: IpAddr) -> bool {
        self.lock().sessions.contains(&peer)
    }

    /// Judges a login and answers the page for it.
    pub(super) fn log_in(&self, peer: IpAddr, user: &str, password: &str) -> Vec<u8> {
        let mut took_effect = None;
        let page = {
            let mut state = self.lock();
            let language = state.language();
            let is_right = user == self.config.username && password == self.config.password;
            if is_right && state.has(&Fault::SessionTaken) && !state.other_logged_out {
                took_effect = Some(&Fault::SessionTaken);
                pages::login(LoginError::Hidden, language)
            } else if is_right && !state.has(&Fault::WrongPassword) {
                state.sessions.insert(peer);
                state.counters.logins += 1;
                self.emit(EventKind::Login, vec![("peer", peer.to_string().into())]);
                pages::authorised(&self.config.username, &Status::Idle, language)
            } else {
                // Guess: a wrong password also ends the session that this address had.
                state.sessions.remove(&peer);
                state.counters.failed_logins += 1;
                took_effect = is_right.then_some(&Fault::WrongPassword);
                let hides = state.has(&Fault::HiddenError);
                pages::login(
                    if hides {
                        LoginError::Hidden
                    } else {
                        LoginError::Shown
                    },
                    language,
                )
            }
        };
        if let Some(fault) = took_effect {
            self.emit_fault(fault.name());
        }
        page
    }

    /// Ends the session of this address, and that of the other client of `session-taken`.
    pub(super) fn log_out(&self, peer: IpAddr) -> Vec<u8> {
        let mut state = self.lock();
        state.other_logged_out = true;
        state.sessions.remove(&peer);
        state.counters.logouts += 1;
        pages::login(LoginError::Hidden, state.language())
    }

    /// The page for this address: the one with the upload form when it is logged in, else the login page.
    pub(super) fn page(&self, peer: IpAddr) -> Vec<u8> {
        let state = self.lock();
        if state.sessions.contains(&peer) {
            pages::authorised(&self.config.username, &Status::Idle, state.language())
        } else {
            pages::login(LoginError::Hidden, state.language())
        }
    }

    pub(super) fn status_page(&self, status: &Status) -> Vec<u8> {
        pages::authorised(&self.config.username, status, self.lock().language())
    }

    /// The settings page, only with a session.
    pub(super) fn settings_page(&self, peer: IpAddr) -> Vec<u8> {
        if !self.is_authorised(peer) {
            return self.page(peer);
        }
        let serial = (!self.takes_effect(&Fault::NoSerial)).then_some(self.serial.as_str());
        let main_firmware = self.running().controller;
        pages::settings(&main_firmware, serial)
    }

    /// What the unit makes of the parts of an upload.
    pub(super) fn judge(&self, parts: &[Part<'_>]) -> Verdict {
        let refused = |status| Verdict { status, flash: None };
        let [
            Part {
                name: UPLOAD_FIELD,
                file_name: Some(file_name),
                content,
            },
        ] = parts
        else {
            return refused(Status::PanelError);
        };
        let error = self.pick(|fault| {
            if let Fault::ErrorStatus(text) = fault {
                Some(text.clone())
            } else {
                None
            }
        });
        if let Some(text) = error {
            return refused(text.map_or(Status::PanelError, Status::Other));
        }
        let (controller, panels) = {
            let state = self.lock();
            (state.registers.controller(), state.registers.panels())
        };
        let (Some(controller), Ok(file)) = (controller, FirmwareFile::parse(file_name)) else {
            return refused(Status::FirmwareError);
        };
        // Guess: an old controller calls a file that it cannot read by the error of the manual.
        let is_readable = file.package == Package::Bin
            || controller.kind == ControllerKind::C8
            || controller.version.functional() >= MBIN_MIN;
        if content.is_empty() || !controller.kind.takes(file.controller.kind) || !is_readable {
            return refused(Status::FirmwareError);
        }
        // A C6M stays a C6M, though its file says C6.
        let mut flash = Flash {
            controller: Some(Controller {
                kind: controller.kind,
                version: file.controller.version,
            }),
            panels: panels.map(|panel| {
                panel
                    .filter(|panel| panel.version.functional() >= PANEL_MIN)
                    .and(file.panel)
            }),
        };
        let mut status = match flash.panels {
            [None, None] => Status::ControllerOnly,
            _ => Status::ControllerAndPanel,
        };
        if self.takes_effect(&Fault::MixedStatus) {
            status = Status::Mixed;
            flash.panels = [None, None];
        }
        if self.takes_effect(&Fault::PanelNotUpdated) {
            flash.panels = [None, None];
        }
        if self.takes_effect(&Fault::KeepsOld) {
            flash = Flash::default();
        }
        Verdict {
            status,
            flash: Some(flash),
        }
    }

    /// The image is written; it runs after the restart.
    pub(super) fn flash(&self, flash: Flash) {
        let mut state = self.lock();
        state.flashed = Some(flash);
        state.counters.flashed += 1;
    }

    /// The unit went down: sessions are forgotten, the new firmware takes over.
    pub(super) fn power_cycle(&self) -> Return {
        let (is_old, has_reset, is_gone) = {
            let mut state = self.lock();
            let old = state.registers.controller();
            let is_old = old.is_some_and(|controller| controller.version.functional() <= ADDRESS_RESET_MAX);
            state.counters.restarts += 1;
            state.sessions.clear();
            state.modbus_seen = None;
            let Flash { controller, panels } = state.flashed.take().unwrap_or_default();
            if let Some(controller) = controller {
                state.registers.set_controller(controller);
            }
            for (idx, panel) in panels.into_iter().enumerate() {
                if let Some(panel) = panel {
                    state.registers.set_panel(idx, panel);
                }
            }
            (
                is_old,
                state.has(&Fault::AddressReset),
                state.has(&Fault::NeverReturns),
            )
        };
        if is_gone {
            self.emit_fault(Fault::NeverReturns.name());
            return Return::Never;
        }
        if is_old || has_reset {
            return Return::AtFactoryAddress;
        }
        Return::Here
    }

    /// A Modbus request came in; counts the ones that came too soon after the one before.
    pub(super) fn note_modbus_request(&self) {
        let mut state = self.lock();
        let now = Instant::now();
        if state
            .modbus_seen
            .is_some_and(|seen| now.duration_since(seen) < MODBUS_INTERVAL)
        {
            state.counters.too_fast += 1;
        }
        state.modbus_seen = Some(now);
    }

    /// The words of `n_registers` registers from 1-based `first` on; none if the unit lacks one of them.
    pub(super) fn read_registers(&self, first: u16, n_registers: u16) -> Option<Vec<u16>> {
        let mut state = self.lock();
        state.counters.modbus_reads += 1;
        let last = first.checked_add(n_registers.checked_sub(1)?)?;
        (first..=last).map(|number| state.registers.get(number)).collect()
    }

    /// Writes registers from 1-based `first` on; false, and nothing written, if the unit lacks one of them or it cannot
    /// be written.
    pub(super) fn write_registers(&self, first: u16, words: &[u16]) -> bool {
        let mut state = self.lock();
        state.counters.writes += 1;
        let numbers: Option<Vec<u16>> = (0..)
            .zip(words)
            .map(|(offset, _)| first.checked_add(offset))
            .collect();
        let Some(numbers) = numbers else { return false };
        let is_writable = |number: &u16| {
            let is_version = (registers::CONTROLLER..registers::CONTROLLER + 6).contains(number);
            state.registers.get(*number).is_some() && !is_version && *number != registers::CONNECTED_PANELS
        };
        if !numbers.iter().all(is_writable) {
            return false;
        }
        for (number, word) in numbers.into_iter().zip(words) {
            state.registers.set(number, *word);
        }
        true
    }
}

impl State {
    fn has(&self, fault: &Fault) -> bool {
        self.faults.contains(fault)
    }

    fn language(&self) -> Language {
        let localised = |fault: &Fault| {
            if let Fault::Localised(language) = fault {
                Some(*language)
            } else {
                None
            }
        };
        self.faults
            .iter()
            .find_map(localised)
            .unwrap_or(Language::English)
    }
}
