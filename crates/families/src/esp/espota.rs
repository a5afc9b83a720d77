//! One push by `ArduinoOTA`: invitation, authentication, call-back, transfer (PROTOCOLS.md section B).

use std::net::SocketAddr;
use std::time::Duration;

use model::family::{Answers, Fault, FaultKind, Reach, Reason, Verdict};
use model::image::Image;
use model::progress::{Progress, PushPhase};
use net::{Invited, Outgoing, Site};
use proto::espota::authentication::Form;
use proto::espota::handshake::{Credentials, Handshake, HandshakeError, MAX_ANSWERS, Step};
use proto::espota::replies::{self, Ended, Replies, explain};
use proto::espota::{CALL_BACK_WAIT, CHUNK_BYTES, DEVICE_STALL, Invitation, STALL_LIMIT};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::{Memory, Pace};
use crate::talk::chain;

/// How long the device may take from the last byte to its verdict: it flushes, compares the MD5 and checks the whole image
/// (`tools/espota.py` waits 30 s at a time for the result).
const VERDICT_WAIT: Duration = Duration::from_secs(30);
/// How often progress is stored and a cancel is noticed. Taste.
const TICK: Duration = Duration::from_millis(50);
/// How long the device may take to close the connection after its last word (it restarts 100 ms after `OK`).
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// The most handed to the kernel at once, bytes. Taste: larger than the socket's send buffer gains nothing.
const SLICE_BYTES: usize = 16 * 1024;

/// What a push needs to know.
pub(crate) struct Push<'a> {
    pub(crate) site: &'a Site,
    pub(crate) device: SocketAddr,
    pub(crate) secret: Option<&'a SecretString>,
    pub(crate) answers: &'a dyn Answers,
    pub(crate) image: &'a Image,
    pub(crate) progress: &'a Progress,
    pub(crate) pace: Pace,
}

impl Push<'_> {
    /// Pushes once. `memory` learns which authentication worked, and that the device needs a slower pace.
    pub(crate) async fn run(&self, memory: &mut Memory) -> Result<Verdict, Fault> {
        let mut invited = self.open_door().await?;
        self.enter(PushPhase::Inviting)?;
        let udp = self.site.dialer.udp(self.device).await.map_err(|error| {
            Fault::before_push(
                FaultKind::Refused,
                Reason::Local,
                format!("Inviting the device: {}.", chain(&error)),
            )
        })?;
        let stream = self.be_let_in(&udp, &mut invited, memory).await?;
        let result = self.transfer(stream).await;
        if let Err(fault) = &result
            && fault.reason == Reason::MidStream
        {
            memory.pace = Some(Pace::StopAndWait);
        }
        result
    }

    async fn open_door(&self) -> Result<Invited, Fault> {
        let Some(callback) = &self.site.callback else {
            let text = "There is no listener for the device to connect to.";
            return Err(Fault::before_push(FaultKind::Refused, Reason::Local, text));
        };
        callback.expect(self.device.ip()).await.map_err(|error| {
            Fault::before_push(
                FaultKind::Refused,
                Reason::Local,
                format!(
                    "Opening the door for the device to connect back: {}.",
                    chain(&error)
                ),
            )
        })
    }

    fn enter(&self, phase: PushPhase) -> Result<(), Fault> {
        self.progress.enter(phase).map_err(|_| cancelled(Reach::Nothing))
    }

    /// Invites, proves that we know the password, and waits for the device to connect.
    async fn be_let_in(
        &self,
        udp: &UdpSocket,
        invited: &mut Invited,
        memory: &mut Memory,
    ) -> Result<tokio::net::TcpStream, Fault> {
        let origin = Instant::now();
        let mut handshake = Handshake::new(
            Invitation {
                callback_port: invited.port,
                len_bytes: self.image.len_bytes(),
                md5: self.image.md5().bytes(),
            },
            self.secret.map(|secret| Credentials {
                password: secret.expose_secret().to_owned(),
                remembered: memory.form.as_deref().and_then(Form::parse),
                seen_64: memory.seen_64,
            }),
            client_nonces()?,
            Duration::ZERO,
        );
        let result = self.drive(&mut handshake, origin, udp, invited).await;
        memory.seen_64 |= handshake.saw_64();
        if let Some(form) = handshake.accepted_form() {
            memory.form = Some(form.name().to_owned());
        }
        result.map_err(|mut fault| {
            fault.failed_answers = u8::try_from(handshake.n_failed_answers()).unwrap_or(u8::MAX);
            fault
        })
    }

    async fn drive(
        &self,
        handshake: &mut Handshake,
        origin: Instant,
        udp: &UdpSocket,
        invited: &mut Invited,
    ) -> Result<tokio::net::TcpStream, Fault> {
        let mut datagram = [0; 512];
        let mut was_accepted = false;
        loop {
            let until = match handshake.next(origin.elapsed()) {
                Step::Send(invitation) => {
                    // An error here is the echo of an earlier datagram (port unreachable): as good as no answer.
                    let _ = udp.send(&invitation).await;
                    continue;
                }
                Step::Answer { datagram, .. } => {
                    self.enter(PushPhase::Authenticating)?;
                    self.answers.count().await?;
                    let _ = udp.send(&datagram).await;
                    handshake.answered(origin.elapsed());
                    continue;
                }
                Step::Wait(until) => until,
                Step::Accepted { at } => {
                    if !was_accepted {
                        was_accepted = true;
                        self.enter(PushPhase::AwaitingCallBack)?;
                        if handshake.accepted_form().is_some() {
                            self.answers.accepted().await;
                        }
                    }
                    let until = at + CALL_BACK_WAIT;
                    if origin.elapsed() >= until {
                        return Err(Self::no_call_back(invited.port));
                    }
                    until
                }
                // Only `called_back` leads here, and that returns at once.
                Step::Connected => return Err(Self::no_call_back(invited.port)),
                Step::Failed(error) => return Err(self.refused(&error)),
            };
            // Every arm only waits: dropping its future loses neither a datagram nor a connection.
            tokio::select! {
                received = udp.recv(&mut datagram) => match received {
                    Ok(len) => handshake.received(&datagram[..len], origin.elapsed()),
                    // Port unreachable: the device is there and its update port is not, perhaps it restarts just now.
                    Err(_) => tokio::time::sleep(TICK).await,
                },
                stream = invited.peer(CALL_BACK_WAIT) => if let Some(stream) = stream {
                    handshake.called_back();
                    if !was_accepted && handshake.accepted_form().is_some() {
                        self.answers.accepted().await;
                    }
                    return Ok(stream);
                },
                () = tokio::time::sleep_until(origin + until) => {}
                () = tokio::time::sleep(TICK) => {}
            }
            if self.progress.phase() == PushPhase::Cancelled {
                return Err(cancelled(Reach::Nothing));
            }
        }
    }

    fn no_call_back(port: u16) -> Fault {
        Fault::before_push(
            FaultKind::Unreachable,
            Reason::NoCallBack,
            format!(
                "The device took the invitation, but did not connect to port {port} of this machine within {} s.",
                CALL_BACK_WAIT.as_secs()
            ),
        )
    }

    fn refused(&self, error: &HandshakeError) -> Fault {
        let device = self.device;
        let (kind, reason, text) = match error {
            HandshakeError::NoAnswer { n_invitations } => (
                FaultKind::Unreachable,
                Reason::NoAnswer,
                format!("The device did not answer {n_invitations} invitations to UDP {device}."),
            ),
            HandshakeError::WrongPassword { .. } => (
                FaultKind::Refused,
                Reason::WrongPassword,
                "The device turned the password down.".to_owned(),
            ),
            HandshakeError::NeedsPassword => (
                FaultKind::Refused,
                Reason::PasswordNeeded,
                "The device asks for a password, and none was given.".to_owned(),
            ),
            HandshakeError::Downgrade => (
                FaultKind::Refused,
                Reason::Downgrade,
                "The device offers the weak MD5 authentication, though it has shown the strong one before: \
                 nothing was answered."
                    .to_owned(),
            ),
            HandshakeError::BadNonce { .. } | HandshakeError::Unexpected(_) => {
                (FaultKind::Refused, Reason::NotUnderstood, sentence(error))
            }
            HandshakeError::NoAnswerToAuthentication | HandshakeError::Crossed => {
                (FaultKind::Unreachable, Reason::NoAnswer, sentence(error))
            }
        };
        Fault::before_push(kind, reason, text)
    }

    /// Sends the bytes and reads the verdict. The socket stays fully open until then: a half-closed one makes the device abort.
    async fn transfer(&self, stream: tokio::net::TcpStream) -> Result<Verdict, Fault> {
        let mut outgoing = Outgoing::new(stream);
        let mut sending = Sending {
            bytes: self.image.bytes(),
            n_handed: 0,
            n_released: 0,
            n_replied: 0,
            replies: Replies::new(),
            pace: self.pace,
        };
        self.enter(PushPhase::Uploading)?;
        let mut last_life = Instant::now();
        let mut last_acked = 0;
        loop {
            if sending.may_send() {
                match sending.send(&mut outgoing, self.progress) {
                    Ok(()) => {}
                    Err(SendError::Cancelled) => return Err(cancelled(sending.reach())),
                    Err(SendError::Broke(error)) => {
                        let how = format!("the connection broke ({error})");
                        return self.read_to_end(&mut outgoing, sending, &how).await;
                    }
                }
            }
            let interest = if sending.may_send() {
                Interest::READABLE | Interest::WRITABLE
            } else {
                Interest::READABLE
            };
            // Both arms only wait for something to become possible: dropping them loses nothing.
            tokio::select! {
                ready = outgoing.ready(interest) => {
                    if ready.is_err() {
                        return self.read_to_end(&mut outgoing, sending, "the connection broke").await;
                    }
                }
                () = tokio::time::sleep(TICK) => {}
            }
            match sending.read(&mut outgoing) {
                Ok(Read::Nothing) => {}
                Ok(Read::Some) => last_life = Instant::now(),
                Ok(Read::End) => return self.judge(&outgoing, &sending, "the device closed the connection"),
                Err(error) => {
                    return self.judge(&outgoing, &sending, &format!("the connection broke ({error})"));
                }
            }
            match sending.replies.verdict() {
                replies::Verdict::Pending => {}
                replies::Verdict::Ok | replies::Verdict::Error(_) => {
                    return self
                        .read_to_end(&mut outgoing, sending, "the device ended the transfer")
                        .await;
                }
            }
            let acked = outgoing.acked();
            if acked > last_acked {
                last_acked = acked;
                last_life = Instant::now();
            }
            self.progress.set_acked_bytes(acked);
            if self.progress.phase() == PushPhase::Cancelled {
                return Err(cancelled(sending.reach()));
            }
            let patience = if sending.n_handed == sending.bytes.len() {
                VERDICT_WAIT
            } else {
                STALL_LIMIT
            };
            if last_life.elapsed() >= patience {
                let how = format!("the device took nothing more for {} s", patience.as_secs());
                return self.judge(&outgoing, &sending, &how);
            }
        }
    }

    /// Reads what the device still has to say before a cause is named.
    async fn read_to_end(
        &self,
        outgoing: &mut Outgoing,
        mut sending: Sending<'_>,
        how: &str,
    ) -> Result<Verdict, Fault> {
        let said = sending.replies.verdict() != replies::Verdict::Pending;
        let until = Instant::now() + if said { CLOSE_WAIT } else { DEVICE_STALL };
        loop {
            match sending.read(outgoing) {
                Ok(Read::Some) => {}
                Ok(Read::End) | Err(_) => break,
                Ok(Read::Nothing) => {
                    // Only waits; nothing is lost when the deadline comes first.
                    tokio::select! {
                        ready = outgoing.ready(Interest::READABLE) => if ready.is_err() { break },
                        () = tokio::time::sleep_until(until) => break,
                    }
                }
            }
        }
        self.judge(outgoing, &sending, how)
    }

    fn judge(&self, outgoing: &Outgoing, sending: &Sending<'_>, how: &str) -> Result<Verdict, Fault> {
        let acked = outgoing.acked();
        self.progress.set_acked_bytes(acked);
        let len = sending.bytes.len() as u64;
        let reach = sending.reach();
        match sending.replies.at_end() {
            Ended::Ok if reach == Reach::Whole => Ok(Verdict {
                text: "OK".to_owned(),
            }),
            Ended::Ok => Err(lost(
                reach,
                Reason::MidStream,
                format!("The device said OK after {acked} of {len} bytes, before it could have them all."),
            )),
            Ended::Error(text) => Err(device_error(reach, &text)),
            Ended::Nothing if acked >= len => Err(lost(
                reach,
                Reason::VerdictLost,
                format!("The device has acknowledged all {len} bytes, then {how} without a verdict."),
            )),
            Ended::Nothing => Err(lost(
                reach,
                Reason::MidStream,
                format!("The transfer broke off at {acked} of {len} bytes: {how}."),
            )),
        }
    }
}

fn client_nonces() -> Result<[[u8; 32]; MAX_ANSWERS], Fault> {
    let mut nonces = [[0; 32]; MAX_ANSWERS];
    for nonce in &mut nonces {
        getrandom::fill(nonce).map_err(|error| {
            let text = format!("This machine gives no random numbers: {error}.");
            Fault::before_push(FaultKind::Refused, Reason::Local, text)
        })?;
    }
    Ok(nonces)
}

/// An error and its causes as a sentence: with a capital letter and a full stop.
pub(crate) fn sentence(error: &dyn std::error::Error) -> String {
    let text = chain(error);
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        format!("{}{}.", first.to_uppercase(), letters.as_str())
    })
}

fn cancelled(reach: Reach) -> Fault {
    Fault {
        kind: if reach == Reach::Nothing {
            FaultKind::Refused
        } else {
            FaultKind::Unsure
        },
        reason: Reason::Cancelled,
        text: "Cancelled.".to_owned(),
        reach,
        failed_answers: 0,
        next_step: None,
    }
}

fn lost(reach: Reach, reason: Reason, text: String) -> Fault {
    Fault {
        kind: FaultKind::Unsure,
        reason,
        text,
        reach,
        failed_answers: 0,
        next_step: None,
    }
}

fn device_error(reach: Reach, text: &str) -> Fault {
    let explanation = explain(text);
    Fault {
        kind: FaultKind::Refused,
        reason: Reason::DeviceError,
        text: match explanation {
            Some(explanation) => format!("The device said \"{text}\". {}", explanation.meaning),
            None => format!("The device said \"{text}\"."),
        },
        reach,
        failed_answers: 0,
        next_step: explanation.map(|explanation| explanation.next_step.to_owned()),
    }
}

/// The state of one transfer.
struct Sending<'a> {
    bytes: &'a [u8],
    /// Bytes that the kernel has taken.
    n_handed: usize,
    /// Bytes that the pace lets go: a chunk more for each reply, when stopping and waiting.
    n_released: usize,
    /// Replies read since the last release.
    n_replied: usize,
    replies: Replies,
    pace: Pace,
}

enum SendError {
    Cancelled,
    Broke(std::io::Error),
}

enum Read {
    Nothing,
    Some,
    End,
}

impl Sending<'_> {
    fn reach(&self) -> Reach {
        match self.n_handed {
            0 => Reach::Nothing,
            n_handed if n_handed < self.bytes.len() => Reach::Part,
            _ => Reach::Whole,
        }
    }

    fn may_send(&mut self) -> bool {
        match self.pace {
            Pace::Pipelined => self.n_released = self.bytes.len(),
            // Any byte back lets the next chunk go: what it says cannot be told (counts are glued and split).
            Pace::StopAndWait
                if self.n_handed == self.n_released && (self.n_released == 0 || self.n_replied > 0) =>
            {
                self.n_replied = 0;
                self.n_released = (self.n_released + CHUNK_BYTES).min(self.bytes.len());
            }
            Pace::StopAndWait => {}
        }
        self.n_handed < self.n_released
    }

    /// Hands as much to the kernel as it takes. The last chunk goes only if nobody has cancelled.
    fn send(&mut self, outgoing: &mut Outgoing, progress: &Progress) -> Result<(), SendError> {
        while self.n_handed < self.n_released {
            let last_chunk = self.bytes.len().saturating_sub(CHUNK_BYTES);
            let to = if self.n_handed < last_chunk {
                self.n_released.min(self.n_handed + SLICE_BYTES).min(last_chunk)
            } else {
                progress
                    .enter(PushPhase::LastByte)
                    .map_err(|_| SendError::Cancelled)?;
                self.n_released
            };
            match outgoing.try_write(&self.bytes[self.n_handed..to]) {
                Ok(n_written) => self.n_handed += n_written,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(SendError::Broke(error)),
            }
        }
        Ok(())
    }

    fn read(&mut self, outgoing: &mut Outgoing) -> std::io::Result<Read> {
        let mut buffer = [0; 4096];
        let mut read = Read::Nothing;
        loop {
            match outgoing.try_read(&mut buffer) {
                Ok(0) => return Ok(Read::End),
                Ok(len) => {
                    self.replies.feed(&buffer[..len]);
                    self.n_replied += len;
                    read = Read::Some;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(read),
                Err(error) => return Err(error),
            }
        }
    }
}
