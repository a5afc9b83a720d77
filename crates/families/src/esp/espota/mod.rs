//! One push by `ArduinoOTA`: invitation, authentication, call-back, transfer (PROTOCOLS.md section B).

mod transfer;

use std::net::SocketAddr;
use std::time::Duration;

use model::chain::chain;
use model::family::{Answers, Fault, FaultKind, Reach, Reason, Target, Verdict};
use model::image::Image;
use model::progress::{Progress, PushPhase};
use net::{Invited, Site};
use proto::espota::authentication::Form;
use proto::espota::handshake::{Credentials, Handshake, HandshakeError, MAX_ANSWERS, Step};
use proto::espota::{CALL_BACK_WAIT, Invitation};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::{Memory, Pace};
use crate::Ways;
use crate::talk::{cancelled, endpoint};

/// How often progress is stored and a cancel is noticed. Taste.
const TICK: Duration = Duration::from_millis(50);
/// What a push needs to know.
struct Push<'a> {
    site: &'a Site,
    device: SocketAddr,
    secret: Option<&'a SecretString>,
    answers: &'a dyn Answers,
    image: &'a Image,
    progress: &'a Progress,
    pace: Pace,
}

/// Pushes once by `ArduinoOTA`, at the pace that the owner wants or that this device is known to need.
pub(crate) async fn push(
    site: &Site,
    ways: &Ways,
    target: &Target,
    memory: &mut Memory,
    image: &Image,
    progress: &Progress,
) -> Result<Verdict, Fault> {
    let push = Push {
        site,
        device: endpoint(target.address, ways.ota_port),
        secret: target.secret.as_ref(),
        answers: &*target.answers,
        image,
        progress,
        pace: ways.pace.or(memory.pace).unwrap_or(Pace::Pipelined),
    };
    push.run(memory).await
}

impl Push<'_> {
    /// Pushes once. `memory` learns which authentication worked, and that the device needs a slower pace.
    async fn run(&self, memory: &mut Memory) -> Result<Verdict, Fault> {
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
            // What has arrived counts before the clock: on a busy machine the reply may lie there when its time is over, and a
            // second invitation would make the device forget the first.
            while let Ok(len) = udp.try_recv(&mut datagram) {
                handshake.received(&datagram[..len], origin.elapsed());
            }
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
