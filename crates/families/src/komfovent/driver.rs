//! Talks to one unit: reads it over Modbus, brings images to its web page.

use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use model::chain::chain;
use model::device::{Hardware, Health, Ota, Snapshot};
use model::family::{Driver, Fault, FaultKind, Method, Notes, Reach, Reason, Target, Undo, Verdict};
use model::id::DeviceId;
use model::image::Image;
use model::progress::{Progress, PushPhase};
use net::http::{self, Ask, Limits, Uploaded};
use net::{DialError, Site};
use proto::multipart::Multipart;
use tokio::time::sleep;

use super::form::{self, CONTENT_TYPE, LOGOUT, USERNAME};
use super::link::{Link, LinkError, Spacing};
use super::memory::Memory;
use super::modbus::{Answer, Question, word};
use super::page::{self, Judgement, Page};
use super::version::{Controller, Panel, Part, Parts};
use super::{HTTP, PutBack, RESET_ADDRESS, family_id, may_reset};
use crate::Ways;
use crate::talk::{endpoint, host_header, no_reply, unsure, upload_fault};

/// The page that logs in and takes firmware (PROTOCOLS.md A2, A3).
const UPDATE_PATH: &str = "/g1.html";
/// The page of settings, which holds the serial number (PROTOCOLS.md A2).
const SETTINGS_PATH: &str = "/st.html";
/// The form field that takes firmware (PROTOCOLS.md A3).
const FIELD: &str = "11111";
/// What a page may cost. The unit sends 19 KB/s at best, so it gets longer than other devices.
const LIMITS: Limits = Limits {
    connect: Duration::from_secs(3),
    total: Duration::from_secs(15),
};
/// How long the unit may acknowledge nothing: it is silent for 1.7 s and more while it flashes (PROTOCOLS.md A3, RELIABILITY.md F37).
const STALL: Duration = Duration::from_mins(1);
/// How long its page may take after the last byte.
const REPLY_WAIT: Duration = Duration::from_mins(1);
/// Slowest upload that is waited for, bytes/s, beside a minute for all the rest (PROTOCOLS.md A3).
const SLOWEST_BYTES_PER_S: u64 = 8_000;
/// How long to wait before the second login where the first brought no error and no session (RELIABILITY.md F31). Guess.
const SECOND_LOGIN_AFTER: Duration = Duration::from_secs(1);

/// Exceptions of a unit that knows no such function or register; with any other it cannot answer now
/// (Modbus application protocol 1.1b3, section 7).
const UNKNOWN_REGISTER_MIN: u8 = 1;
const UNKNOWN_REGISTER_MAX: u8 = 3;

/// Registers, numbered from 1 (PROTOCOLS.md A5).
mod register {
    /// Whether the unit runs: 1 or 0.
    pub(super) const ON: u16 = 1;
    /// Panels that are connected: 0 none, 1 the first, 2 the second, 3 both.
    pub(super) const PANELS: u16 = 954;
    /// Version of the controller, two registers.
    pub(super) const CONTROLLER: u16 = 1000;
    /// Version of the first panel, two registers.
    pub(super) const PANEL_1: u16 = 1002;
    /// Version of the second panel, two registers.
    pub(super) const PANEL_2: u16 = 1004;
}

/// Talks to one unit.
pub(super) struct KomfoventDriver {
    site: Site,
    ways: Ways,
    target: Target,
    memory: Memory,
    spacing: Spacing,
}

/// What the registers say.
struct Reading {
    parts: Parts,
    running: Option<bool>,
}

impl KomfoventDriver {
    pub(super) fn new(site: Site, ways: Ways, target: Target) -> Self {
        let memory = Memory::read(&target.notes);
        let spacing = Spacing::new(ways.modbus_spacing);
        Self {
            site,
            ways,
            target,
            memory,
            spacing,
        }
    }

    fn web(&self) -> SocketAddr {
        endpoint(self.target.address, self.ways.http_port)
    }

    fn modbus(&self) -> SocketAddr {
        endpoint(self.target.address, self.ways.modbus_port)
    }

    // Registers.

    async fn link(&mut self) -> Result<Link<'_>, LinkError> {
        let unit = self.modbus();
        Link::open(&self.site.dialer, unit, &mut self.spacing).await
    }

    /// Reads the versions, on a connection of its own: the unit serves few.
    async fn read(&mut self) -> Result<Reading, Fault> {
        let unit = self.modbus();
        let wants_running = self.ways.stop_unit;
        let fault = |error: LinkError| link_fault(unit, "Reading the versions", &error);
        let mut link = self.link().await.map_err(fault)?;
        let controller = match registers(&mut link, register::CONTROLLER, 2)
            .await
            .map_err(fault)?
        {
            Ok(words) => word(&words).and_then(Controller::unpack),
            Err(exception) => return Err(no_versions(unit, exception)),
        };
        let connected = optional(&mut link, register::PANELS, 1).await.map_err(fault)?;
        let connected = connected
            .and_then(|words| words.first().copied())
            .filter(|panels| *panels <= 3);
        let mut panels = [Part::Absent; 2];
        for (idx, first) in [register::PANEL_1, register::PANEL_2].into_iter().enumerate() {
            let is_there = connected.map(|panels| panels >> idx & 1 == 1);
            if is_there != Some(false) {
                let words = optional(&mut link, first, 2).await.map_err(fault)?;
                panels[idx] = panel(is_there, words.as_deref().and_then(word));
            }
        }
        if panels[0] == Part::Absent {
            panels.swap(0, 1);
        }
        let running = if wants_running {
            let words = optional(&mut link, register::ON, 1).await.map_err(fault)?;
            words.and_then(|words| words.first().map(|&word| word != 0))
        } else {
            None
        };
        let parts = Parts {
            controller,
            panel: panels[0],
            second_panel: panels[1],
        };
        Ok(Reading { parts, running })
    }

    /// Starts or stops the unit.
    async fn switch(&mut self, on: bool) -> Result<(), Fault> {
        let unit = self.modbus();
        let doing = if on {
            "Starting the unit"
        } else {
            "Stopping the unit"
        };
        let fault = |error: LinkError| link_fault(unit, doing, &error);
        let question = Question::Write {
            register: register::ON,
            value: u16::from(on),
        };
        let mut link = self.link().await.map_err(fault)?;
        match link.ask(question).await.map_err(fault)? {
            Answer::Words(_) => Ok(()),
            Answer::Exception(code) => Err(Fault::before_push(
                FaultKind::Refused,
                Reason::DeviceError,
                format!("{doing} over Modbus at {unit}: it answers with exception {code}."),
            )
            .advise("Switch the unit at its panel, and leave this option off.")),
        }
    }

    /// The MAC address where the unit is on our own link, else what its owner calls it.
    fn identity(&self) -> DeviceId {
        match net::neighbour(self.target.address) {
            Some(mac) => DeviceId::from_hardware(&family_id(), hex::encode(mac)),
            None => DeviceId::weak(
                &family_id(),
                weak_name(&self.target.given_as, self.ways.modbus_port),
            ),
        }
    }

    // Web pages.

    async fn ask(&self, ask: Ask<'_>) -> Result<Vec<u8>, Fault> {
        let web = self.web();
        let (method, path) = (ask.method, ask.path);
        let reply = http::ask(&self.site.dialer, web, &host_header(web), ask, LIMITS)
            .await
            .map_err(|error| {
                let (kind, reason) = no_reply(&error);
                let text = format!("{method} http://{web}{path}: {}.", chain(&error));
                Fault::before_push(kind, reason, text)
            })?;
        if reply.status == 200 {
            return Ok(reply.body);
        }
        let text = format!(
            "http://{web}{path} answered with status {}: this is not a Komfovent unit.",
            reply.status
        );
        Err(not_understood(text))
    }

    async fn page(&self, path: &str) -> Result<Page, Fault> {
        Ok(page::read(&self.ask(Ask::get(path)).await?))
    }

    /// Sends a form as the unit wants it: its length early in the head, for firmware that looks no further.
    async fn send_form(&self, path: &str, body: Bytes) -> Result<Page, Fault> {
        let len = body.len().to_string();
        let headers = [("content-length", len.as_str())];
        let ask = Ask {
            headers: &headers,
            ..Ask::post(path, CONTENT_TYPE, body)
        };
        Ok(page::read(&self.ask(ask).await?))
    }

    async fn log_in(&self) -> Result<(), Fault> {
        let username = self.target.username.as_deref().unwrap_or(USERNAME);
        let Some(password) = &self.target.secret else {
            let text = "The unit asks for a password and none was given.";
            return Err(Fault::before_push(
                FaultKind::Refused,
                Reason::PasswordNeeded,
                text,
            ));
        };
        let body = form::login(username, password).map_err(|error| {
            let text = format!("Nothing was sent: {error}.");
            Fault::before_push(FaultKind::Refused, Reason::WrongPassword, text)
                .advise("Give the name and password that the unit's own web page takes.")
        })?;
        // Whoever answers here must look like a unit before it gets the password.
        if self.page(UPDATE_PATH).await? == Page::Other {
            return Err(self.foreign_page());
        }
        for may_try_again in [true, false] {
            self.target.answers.count().await?;
            match self.send_form(UPDATE_PATH, body.clone()).await? {
                Page::Upload(_) => {
                    self.target.answers.accepted().await;
                    return Ok(());
                }
                // No error is shown: not the password is wrong, but somebody else is logged in.
                Page::Login {
                    error_shown: Some(false),
                } => {
                    self.target.answers.accepted().await;
                    if may_try_again {
                        self.log_out().await?;
                        sleep(SECOND_LOGIN_AFTER).await;
                    }
                }
                // No second try: the password would be just as wrong.
                Page::Login { .. } => return Err(wrong_password(username)),
                Page::Other => return Err(self.foreign_page()),
            }
        }
        Err(busy(
            "The unit answers the login with its login page and shows no error: somebody else is logged in, or the name or password is wrong.",
            Reach::Nothing,
        ))
    }

    fn foreign_page(&self) -> Fault {
        not_understood(format!(
            "http://{}{UPDATE_PATH} is not the page of a Komfovent unit.",
            self.web()
        ))
    }

    /// Logs out, and sees that it is so. Harmless for whoever is not logged in.
    async fn log_out(&self) -> Result<(), Fault> {
        self.send_form("/", Bytes::from_static(LOGOUT.as_bytes())).await?;
        if matches!(self.page(UPDATE_PATH).await?, Page::Upload(_)) {
            let text = "The unit was told to log out, and still shows its pages to this machine.";
            return Err(Fault::before_push(FaultKind::Refused, Reason::DeviceError, text)
                .advise("Log out at the unit's web page from this machine."));
        }
        Ok(())
    }

    /// Reads the serial number, and compares it with the one this unit had before.
    async fn check_serial(&mut self) -> Result<(), Fault> {
        // A unit whose settings page cannot be read has no serial number; that is allowed.
        let Ok(page) = self.ask(Ask::get(SETTINGS_PATH)).await else {
            return Ok(());
        };
        let Some(serial) = page::serial(&page) else {
            return Ok(());
        };
        if let Some(known) = &self.memory.serial
            && *known != serial
        {
            let text = format!("The unit here has the serial number {serial}; it was {known} before.");
            return Err(
                Fault::before_push(FaultKind::Refused, Reason::OtherDevice, text)
                    .advise("If the controller was exchanged, remove the device and add it again; else find where it is now."),
            );
        }
        self.memory.serial = Some(serial);
        Ok(())
    }

    async fn upload(&self, image: &Image, progress: &Progress) -> Result<Verdict, Fault> {
        enter(progress, PushPhase::Authenticating)?;
        match self.page(UPDATE_PATH).await? {
            Page::Upload(_) => {}
            Page::Login { .. } => {
                let text = "The session was lost between the login and the upload.";
                return Err(busy(text, Reach::Nothing));
            }
            Page::Other => return Err(self.foreign_page()),
        }
        let body = body(image)?;
        let web = self.web();
        let host = host_header(web);
        let (origin, referer) = (format!("http://{host}"), format!("http://{host}{UPDATE_PATH}"));
        let len = body.len(image.len_bytes()).to_string();
        let headers = [
            ("content-length", len.as_str()),
            // What a browser sends; whether the unit wants it is not known.
            ("origin", &origin),
            ("referer", &referer),
        ];
        let content_type = body.content_type_header();
        let upload = http::Upload {
            host: &host,
            headers: &headers,
            path: UPDATE_PATH,
            content_type: &content_type,
            head: Bytes::from(body.head),
            image: image.bytes().clone(),
            tail: Bytes::from(body.tail),
        };
        let limits = http::UploadLimits {
            connect: LIMITS.connect,
            stall: STALL,
            reply: REPLY_WAIT,
            total: Duration::from_secs(60 + image.len_bytes() / SLOWEST_BYTES_PER_S),
        };
        match http::upload(&self.site.dialer, web, upload, progress, limits).await {
            Ok(uploaded) => judged(&uploaded),
            Err(error) => Err(with_cable_advice(upload_fault(&error, image.len_bytes()))),
        }
    }
}

#[async_trait]
impl Driver for KomfoventDriver {
    async fn probe(&mut self) -> Result<Snapshot, Fault> {
        let may_have_moved = self.memory.may_reset;
        let reading = self.read().await.map_err(|fault| {
            if may_have_moved && fault.kind == FaultKind::Unreachable {
                let advice = format!(
                    "An update of firmware this old resets the unit's address: look for it at {RESET_ADDRESS}, \
                     give it its address back, then look again."
                );
                fault.advise(advice)
            } else {
                fault
            }
        })?;
        // Only now, as something was just received from the unit, the neighbour table holds it for sure.
        let id = self.identity();
        if let Some(controller) = reading.parts.controller {
            self.memory.may_reset = may_reset(controller);
        }
        Ok(Snapshot {
            id,
            versions: reading.parts.versions(),
            uptime: None,
            ota: Ota::Unknown,
            busy: false,
            host_name: None,
            hardware: Hardware {
                model: reading
                    .parts
                    .controller
                    .map(|controller| controller.model.name().to_owned()),
                ..Hardware::default()
            },
            health: Health {
                running: reading.running,
                ..Health::default()
            },
        })
    }

    async fn prepare(&mut self, undo: Option<&Undo>) -> Result<Snapshot, Fault> {
        self.log_in().await?;
        self.check_serial().await?;
        if undo.is_some_and(|undo| put_back(undo).start) {
            self.switch(false).await?;
        }
        self.probe().await
    }

    async fn push(&mut self, method: &Method, image: &Image, progress: &Progress) -> Result<Verdict, Fault> {
        if method.as_str() == HTTP {
            return self.upload(image, progress).await;
        }
        Err(Fault::before_push(
            FaultKind::Refused,
            Reason::Local,
            format!("There is no method {method} for this family."),
        ))
    }

    async fn undo(&mut self, undo: &Undo) -> Result<(), Fault> {
        let started = if put_back(undo).start {
            self.switch(true).await
        } else {
            Ok(())
        };
        // Logged out even if the unit could not be started.
        let logged_out = self.log_out().await;
        started.and(logged_out)
    }

    fn notes(&self) -> Notes {
        self.memory.write()
    }
}

/// What is to be put back; what cannot be read is at least a log-out.
fn put_back(undo: &Undo) -> PutBack {
    serde_json::from_value(undo.value.clone()).unwrap_or(PutBack {
        logout: true,
        start: false,
    })
}

/// What its owner calls it, with the port where that is not the usual one.
fn weak_name(given_as: &str, port: u16) -> String {
    if port == super::modbus::PORT {
        given_as.to_owned()
    } else {
        format!("{given_as}:{port}")
    }
}

/// Reads registers; the inner error is the code of an exception.
async fn registers(link: &mut Link<'_>, first: u16, count: u16) -> Result<Result<Vec<u16>, u8>, LinkError> {
    Ok(match link.ask(Question::Read { first, count }).await? {
        Answer::Words(words) => Ok(words),
        Answer::Exception(code) => Err(code),
    })
}

/// Reads registers that not every unit has; none where it does not know them.
async fn optional(link: &mut Link<'_>, first: u16, count: u16) -> Result<Option<Vec<u16>>, LinkError> {
    match registers(link, first, count).await? {
        Ok(words) => Ok(Some(words)),
        Err(UNKNOWN_REGISTER_MIN..=UNKNOWN_REGISTER_MAX) => Ok(None),
        // It cannot now: to take that for "none" would make a panel come and go.
        Err(code) => Err(LinkError::Exception(code)),
    }
}

/// A panel: by the register that counts them, and by its own.
fn panel(is_there: Option<bool>, word: Option<u32>) -> Part<Panel> {
    match word {
        None | Some(0) if is_there == Some(true) => Part::Unknown,
        None | Some(0) => Part::Absent,
        Some(word) => Panel::unpack(word).map_or(Part::Unknown, Part::Known),
    }
}

fn not_understood(text: String) -> Fault {
    Fault::before_push(FaultKind::Refused, Reason::NotUnderstood, text)
}

fn no_versions(unit: SocketAddr, exception: u8) -> Fault {
    if (UNKNOWN_REGISTER_MIN..=UNKNOWN_REGISTER_MAX).contains(&exception) {
        return not_understood(format!(
            "What answers Modbus at {unit} has no register {}: this is not a Komfovent unit.",
            register::CONTROLLER
        ));
    }
    let text =
        format!("The unit at {unit} answers with exception {exception}: it cannot tell its version now.");
    Fault::before_push(FaultKind::Unreachable, Reason::NoAnswer, text)
}

fn link_fault(unit: SocketAddr, doing: &str, error: &LinkError) -> Fault {
    let (kind, reason) = match error {
        LinkError::NotAnAnswer(_) => (FaultKind::Refused, Reason::NotUnderstood),
        LinkError::Dial(DialError::NotAllowed { .. }) => (FaultKind::Refused, Reason::Local),
        _ => (FaultKind::Unreachable, Reason::NoAnswer),
    };
    Fault::before_push(
        kind,
        reason,
        format!("{doing} over Modbus at {unit}: {}.", chain(error)),
    )
}

fn wrong_password(username: &str) -> Fault {
    let text = format!("The unit turned down the password of {username}.");
    Fault {
        failed_answers: 1,
        ..Fault::before_push(FaultKind::Refused, Reason::WrongPassword, text)
    }
}

fn busy(text: &str, reach: Reach) -> Fault {
    Fault {
        reach,
        ..Fault::before_push(FaultKind::Refused, Reason::Busy, text)
    }
    .advise("Log out of the unit's web page wherever it is open, then push again.")
}

fn enter(progress: &Progress, phase: PushPhase) -> Result<(), Fault> {
    progress
        .enter(phase)
        .map_err(|_| Fault::before_push(FaultKind::Refused, Reason::Cancelled, "Cancelled."))
}

/// The frame around the image, as the browser of the capture made it: one part and no more.
fn body(image: &Image) -> Result<Multipart, Fault> {
    let local = |text: String| {
        let text = format!("Preparing the upload: {text}.");
        Fault::before_push(FaultKind::Refused, Reason::Local, text)
    };
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| local(error.to_string()))?;
    let boundary = format!("----WebKitFormBoundary{}", hex::encode(random));
    // The name is the vendor's: it was parsed, so it needs no quoting.
    Multipart::one_file(&boundary, FIELD, image.file_name(), "application/octet-stream")
        .map_err(|error| local(error.to_string()))
}

fn with_cable_advice(fault: Fault) -> Fault {
    if fault.reach == Reach::Nothing || fault.reason == Reason::Cancelled {
        return fault;
    }
    fault.advise("Check the unit's cable, switch it off for a minute as its vendor advises, then push again.")
}

fn judged(uploaded: &Uploaded) -> Result<Verdict, Fault> {
    let reach = uploaded.reach;
    let lost = if reach == Reach::Whole {
        Reason::VerdictLost
    } else {
        Reason::MidStream
    };
    match page::judge(&uploaded.reply.body) {
        // Of a mixed answer the registers tell which part was taken: it is watched like a success.
        Judgement::Success(text) | Judgement::Mixed(text) if reach == Reach::Whole => Ok(Verdict { text }),
        Judgement::Success(_) | Judgement::Mixed(_) => Err(unsure(
            reach,
            lost,
            "The unit reported success before it had every byte.",
        )),
        Judgement::Failure(text) => Err(Fault {
            kind: FaultKind::Refused,
            reason: Reason::DeviceError,
            text: format!("The unit answered \"{text}\"."),
            said: Some(text),
            reach,
            failed_answers: 0,
            next_step: None,
        }
        .advise(
            "Check that the file is the vendor's for this controller; switch the unit off for a minute, then push again.",
        )),
        Judgement::LoggedOut => Err(busy(
            "The unit answered the upload with its login page: somebody else took the session, and it flashed nothing.",
            reach,
        )),
        Judgement::Unclear(text) => Err(unsure(
            reach,
            lost,
            &format!("The unit answered \"{text}\", which says neither yes nor no."),
        )),
        Judgement::Foreign => Err(unsure(
            reach,
            lost,
            &format!(
                "The answer to the upload is no page of the unit ({}).",
                uploaded.reply
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use net::http::Reply;

    use super::super::page::tests::{login_page, upload_page};
    use super::*;

    fn uploaded(reach: Reach, body: Vec<u8>) -> Uploaded {
        Uploaded {
            reply: Reply {
                status: 200,
                body,
                cut: false,
                server: None,
            },
            reach,
            acked_image_bytes: 0,
        }
    }

    #[track_caller]
    fn check(reach: Reach, body: Vec<u8>, expected: Result<(), (FaultKind, Reason)>) {
        let found = judged(&uploaded(reach, body));
        let found = found.map(|_| ()).map_err(|fault| {
            assert_eq!(fault.reach, reach);
            (fault.kind, fault.reason)
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn the_page_after_the_upload_decides() {
        let success = "Status: Firmware uploaded successfully, device is restarting.";
        let mixed = "Status: Firmware uploaded successfully, device is restarting. Panel firmware upload error: incorrect file.";
        let failure = "Status: Panel firmware upload error: incorrect file.";
        let unsure = |reason| Err((FaultKind::Unsure, reason));
        check(Reach::Whole, upload_page(success), Ok(()));
        check(Reach::Part, upload_page(success), unsure(Reason::MidStream));
        check(Reach::Whole, upload_page(mixed), Ok(()));
        check(
            Reach::Whole,
            upload_page(failure),
            Err((FaultKind::Refused, Reason::DeviceError)),
        );
        check(Reach::Whole, upload_page("Status:"), unsure(Reason::VerdictLost));
        check(Reach::Whole, b"OK".to_vec(), unsure(Reason::VerdictLost));
        check(Reach::Part, Vec::new(), unsure(Reason::MidStream));
        for reach in [Reach::Part, Reach::Whole] {
            check(
                reach,
                login_page("display:none  "),
                Err((FaultKind::Refused, Reason::Busy)),
            );
        }
    }

    #[test]
    fn a_panel_is_what_both_registers_say() {
        let known = Part::Known(Panel::unpack(17_846_318).unwrap());
        for (is_there, word, expected) in [
            (None, None, Part::Absent),
            (None, Some(0), Part::Absent),
            (None, Some(17_846_318), known),
            (Some(true), Some(17_846_318), known),
            (Some(true), Some(0), Part::Unknown),
            (Some(true), None, Part::Unknown),
            (None, Some(u32::MAX), Part::Unknown),
        ] {
            assert_eq!(panel(is_there, word), expected, "{is_there:?} {word:?}");
        }
    }

    #[test]
    fn the_frame_is_as_long_as_the_captured_one() {
        let image = Image::new("C6_1_5_44_70_P1_1_1_5_46.mbin", vec![0; 10]);
        assert_eq!(body(&image).unwrap().len(1_123_678), 1_123_896);
    }

    #[test]
    fn what_cannot_be_read_is_put_back_as_a_log_out() {
        let undo = Undo {
            text: String::new(),
            value: serde_json::Value::Null,
        };
        assert_eq!(
            put_back(&undo),
            PutBack {
                logout: true,
                start: false
            }
        );
    }
}
