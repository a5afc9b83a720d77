//! One try to be let in: invitation, authentication, until the device accepts.
//!
//! A device that waits for an answer to its nonce waits for ever, and takes the next invitation only as a reason to
//! be idle again, in silence.
//! So silence after the first invitation means little, and the invitation is repeated; but never while the earlier
//! one may still be on its way, because two in flight void each other: the second swallows the first.
//!
//! What may still cross, and what is done about it:
//! - Invitations queued in a device that was busy are answered `AUTH`, nothing, `AUTH`: only the last nonce counts.
//!   After a repeated invitation the host therefore listens for [`SETTLE`] before it answers the newest nonce.
//!   A nonce that comes long after the invitation ([`PROMPT`]) is from such a queue; was the last invitation of the
//!   queue swallowed, the device is idle and the answer would be wasted: once, the host invites again instead.
//! - A nonce that comes *after* the answer was sent means that the device judges the answer by the wrong nonce.
//!   Its `Authentication Failed` then says nothing about the password: a 64-digit form is tried once more, as long
//!   as the bound on answers allows it; else the error is [`HandshakeError::Crossed`].
//! - An answer that stays without any reply was given to an idle device (its last invitation was swallowed), or was
//!   lost: after [`AUTHENTICATION_WAIT`] and one more [`INVITATION_REPEAT`] a 64-digit form starts afresh.
//! - A nonce that was seen before is a duplicate and never answered, not even after a new invitation.
//!
//! The bound on answers holds whatever the device sends: one for a 32-digit nonce, two in all for 64-digit ones.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

use super::authentication::{self, Form, Nonce};
use super::{Answer, Invitation};

/// Silence after which an invitation is sent again; also the shortest time between any two.
///
/// Taste: a device answers within milliseconds or not at all, and `tools/espota.py` waits 10 s.
pub const INVITATION_REPEAT: Duration = Duration::from_millis(1500);

/// How long a device is invited without any answer (one try of `tools/espota.py`).
pub const INVITATION_LIMIT: Duration = Duration::from_secs(10);

/// How long an answer to a nonce is waited for (`tools/espota.py`, authentication timeout).
///
/// Guess: it covers 10,000 rounds of PBKDF2 on the chip; at least 5 s are to be allowed; to be measured on a chip.
pub const AUTHENTICATION_WAIT: Duration = Duration::from_secs(10);

/// How long the host listens for a newer nonce after a repeated invitation.
///
/// Guess: a device works off its queue of datagrams in one go; to be measured on a chip.
pub const SETTLE: Duration = Duration::from_millis(250);

/// A nonce that comes later than this after the last invitation is from a device that was busy.
///
/// Guess: network and an idle device take less, a device that reconnects to its broker takes more; to be measured on a
/// chip.
pub const PROMPT: Duration = Duration::from_millis(500);

/// The most answers one handshake ever gives.
pub const MAX_ANSWERS: usize = 2;

/// Remembered nonces, so that duplicates are known. Taste: one handshake sees at most 7 invitations' worth, twice.
const MAX_NONCES: usize = 16;

/// What is needed to answer a device that asks for a password.
#[derive(Clone)]
pub struct Credentials {
    /// The device's password.
    pub password: String,
    /// The form that worked last time, tried first.
    pub remembered: Option<Form>,
    /// Whether this device ever showed a 64-digit nonce: a 32-digit one is then not answered.
    pub seen_64: bool,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("password", &format_args!("Secret(..)"))
            .field("remembered", &self.remembered)
            .field("seen_64", &self.seen_64)
            .finish()
    }
}

/// What the caller is to do now.
#[derive(Clone, PartialEq, Eq)]
pub enum Step {
    /// Send this datagram to the device, then ask for the next step.
    Send(Vec<u8>),
    /// Record that an answer is given, then send this datagram, then call [`Handshake::answered`].
    Answer {
        /// The answer to the device's nonce.
        datagram: Vec<u8>,
        /// How it was computed.
        form: Form,
    },
    /// Nothing to do before this moment, unless a datagram or a connection of the device comes first.
    Wait(Duration),
    /// The device said `OK` and is about to connect back; wait for it [`super::CALL_BACK_WAIT`].
    Accepted {
        /// When the `OK` came.
        at: Duration,
    },
    /// The device has connected.
    Connected,
    /// It is over.
    Failed(HandshakeError),
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(datagram) => f
                .debug_tuple("Send")
                .field(&super::printable(datagram, 128))
                .finish(),
            // An answer is enough for an offline dictionary test.
            Self::Answer { form, .. } => f
                .debug_struct("Answer")
                .field("datagram", &format_args!("Secret(..)"))
                .field("form", form)
                .finish(),
            Self::Wait(until) => f.debug_tuple("Wait").field(until).finish(),
            Self::Accepted { at } => f.debug_struct("Accepted").field("at", at).finish(),
            Self::Connected => f.write_str("Connected"),
            Self::Failed(error) => f.debug_tuple("Failed").field(error).finish(),
        }
    }
}

/// Why the device did not let us in. Nothing of the image was sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// Not a single answer: offline, updates switched off, or a firewall.
    #[error("inviting the device: no answer to {n_invitations} invitations")]
    NoAnswer {
        /// Invitations sent since the device was last heard of.
        n_invitations: u32,
    },
    /// The device refused what we answered.
    #[error("authenticating: the device refused the password ({n_answers} answers given)")]
    WrongPassword {
        /// Answers given in this handshake.
        n_answers: usize,
    },
    /// The device asks and there is no password. Nothing was answered.
    #[error("authenticating: the device asks for a password and none is known")]
    NeedsPassword,
    /// A 32-digit nonce from a device that is known to use 64 digits. It was not answered.
    #[error(
        "authenticating: the device asks in the weak 32-digit form, but is known to use the 64-digit one"
    )]
    Downgrade,
    /// A challenge that is no nonce. It was not answered.
    #[error("authenticating: the device's nonce of {len} characters is not 32 or 64 hex digits")]
    BadNonce {
        /// Its length, bytes.
        len: usize,
    },
    /// A text that no known device sends.
    #[error("inviting the device: unexpected answer \"{0}\"")]
    Unexpected(String),
    /// The device asked, was answered, and has been silent since.
    #[error("authenticating: the device did not reply to the answer")]
    NoAnswerToAuthentication,
    /// The device refused an answer because it had already moved on to another nonce: nothing is known about the
    /// password.
    #[error("authenticating: the device had asked anew before it read the answer")]
    Crossed,
}

/// Drives one try of invitation and authentication, without a socket or a clock.
///
/// Ask for [`Handshake::next`] and do it, until it says [`Step::Connected`] or [`Step::Failed`]; report every datagram
/// of the device's address with [`Handshake::received`] and its connection with [`Handshake::called_back`].
/// `now` is the time since any fixed moment and never goes back.
pub struct Handshake {
    invitation: Invitation,
    credentials: Option<Credentials>,
    cnonces: [[u8; 32]; MAX_ANSWERS],
    state: State,
    start: Start,
    /// When the last invitation was sent.
    last_invitation: Option<Duration>,
    n_invitations: u32,
    n_answers: usize,
    n_refused: usize,
    /// The form of an answer that was sent and not yet judged.
    pending: Option<Form>,
    /// The form that was refused; the other one is next.
    refused: Option<Form>,
    accepted: Option<Form>,
    /// A nonce came after the pending answer was handed out.
    outrun: bool,
    nonces: Vec<Nonce>,
    saw_64: bool,
    respond: Respond,
}

/// [`authentication::answer`], or in tests something quicker.
pub(super) type Respond = fn(Form, &str, &Nonce, &str) -> Option<String>;

enum State {
    Inviting,
    /// A nonce came at `at`; a newer one may follow until `until`.
    Settling {
        nonce: Nonce,
        at: Duration,
        until: Duration,
    },
    /// The answer is with the caller.
    Handed {
        datagram: String,
        form: Form,
    },
    Answered {
        at: Duration,
        form: Form,
    },
    Accepted {
        at: Duration,
    },
    Connected,
    Failed(HandshakeError),
}

/// The invitations up to an answer.
struct Start {
    /// When the next one is due.
    due: Duration,
    /// When to give up; known once the first one was sent.
    until: Option<Duration>,
    n_sent: u32,
    n_nonces: u32,
    /// A nonce was passed over, because the device was probably idle by then.
    has_passed: bool,
}

impl Start {
    fn new(due: Duration) -> Self {
        Self {
            due,
            until: None,
            n_sent: 0,
            n_nonces: 0,
            has_passed: false,
        }
    }
}

impl Handshake {
    /// Starts a handshake. `cnonces` are random bytes, fresh for every handshake; each is used for one answer.
    pub fn new(
        invitation: Invitation,
        credentials: Option<Credentials>,
        cnonces: [[u8; 32]; MAX_ANSWERS],
        now: Duration,
    ) -> Self {
        Self {
            invitation,
            credentials,
            cnonces,
            state: State::Inviting,
            start: Start::new(now),
            last_invitation: None,
            n_invitations: 0,
            n_answers: 0,
            n_refused: 0,
            pending: None,
            refused: None,
            accepted: None,
            outrun: false,
            nonces: Vec::new(),
            saw_64: false,
            respond: authentication::answer,
        }
    }

    /// Replaces PBKDF2, so that a test can afford many handshakes.
    #[cfg(test)]
    pub(super) fn with_respond(mut self, respond: Respond) -> Self {
        self.respond = respond;
        self
    }

    /// Returns what to do now. A [`Step::Answer`] is returned until [`Handshake::answered`] was called.
    pub fn next(&mut self, now: Duration) -> Step {
        loop {
            match &self.state {
                State::Inviting => {
                    if let Some(step) = self.invite(now) {
                        return step;
                    }
                }
                State::Settling { until, .. } if now < *until => return Step::Wait(*until),
                State::Settling { nonce, at, .. } => {
                    let (nonce, at) = (*nonce, *at);
                    if self.is_probably_idle_since(at) {
                        self.start.has_passed = true;
                        self.state = State::Inviting;
                    } else {
                        self.hand_out(&nonce);
                    }
                }
                State::Handed { datagram, form } => {
                    return Step::Answer {
                        datagram: datagram.clone().into_bytes(),
                        form: *form,
                    };
                }
                State::Answered { at, form } => {
                    let (at, form) = (*at, *form);
                    if !self.may_answer_again(form) {
                        let until = at.saturating_add(AUTHENTICATION_WAIT);
                        if now < until {
                            return Step::Wait(until);
                        }
                        self.fail(HandshakeError::NoAnswerToAuthentication);
                        continue;
                    }
                    let until = at
                        .saturating_add(AUTHENTICATION_WAIT)
                        .saturating_add(INVITATION_REPEAT);
                    if now < until {
                        return Step::Wait(until);
                    }
                    self.start_afresh(now);
                }
                State::Accepted { at } => return Step::Accepted { at: *at },
                State::Connected => return Step::Connected,
                State::Failed(error) => return Step::Failed(error.clone()),
            }
        }
    }

    /// Reports that the datagram of [`Step::Answer`] was sent.
    pub fn answered(&mut self, now: Duration) {
        if let State::Handed { form, .. } = &self.state {
            let form = *form;
            self.pending = Some(form);
            self.state = State::Answered { at: now, form };
        }
    }

    /// Reports a datagram that came from the device's address.
    pub fn received(&mut self, datagram: &[u8], now: Duration) {
        if matches!(
            self.state,
            State::Accepted { .. } | State::Connected | State::Failed(_)
        ) {
            return;
        }
        match Answer::parse(datagram) {
            Answer::Auth(nonce) => self.asked(nonce, now),
            Answer::AuthenticationFailed => self.refuse(now),
            // Nothing of ours is under way: left over from an earlier try.
            _ if self.is_idle() => {}
            Answer::Ok => {
                self.accepted = self.pending;
                self.state = State::Accepted { at: now };
            }
            // Whoever was asked by a proper nonce already does not mind a broken one.
            Answer::BadNonce { len } => {
                if matches!(self.state, State::Inviting) {
                    self.fail(HandshakeError::BadNonce { len });
                }
            }
            Answer::Other(text) if text.is_empty() => {}
            Answer::Other(text) => self.fail(HandshakeError::Unexpected(text)),
        }
    }

    /// Reports that the device connected: it has accepted us, even if its `OK` was lost.
    pub fn called_back(&mut self) {
        match self.state {
            State::Failed(_) | State::Connected => return,
            State::Accepted { .. } => {}
            _ => self.accepted = self.pending,
        }
        self.state = State::Connected;
    }

    /// Returns how many answers were given, judged or not; at most [`MAX_ANSWERS`].
    pub fn n_answers(&self) -> usize {
        self.n_answers
    }

    /// Returns how many answers were given without the device accepting: refused, or without any reply.
    /// Each of them may have been an attacker's catch.
    pub fn n_failed_answers(&self) -> usize {
        self.n_answers - usize::from(self.accepted.is_some())
    }

    /// Returns how many answers the device refused by its nonce: proof that the password, or its form, is wrong.
    pub fn n_refused_answers(&self) -> usize {
        self.n_refused
    }

    /// Returns the form the device accepted; `None` before that, and for a device that did not ask.
    pub fn accepted_form(&self) -> Option<Form> {
        self.accepted
    }

    /// Whether the device showed a 64-digit nonce. Worth remembering even if the handshake failed.
    pub fn saw_64(&self) -> bool {
        self.saw_64
    }

    /// Returns how many invitations were sent.
    pub fn n_invitations(&self) -> u32 {
        self.n_invitations
    }

    fn fail(&mut self, error: HandshakeError) {
        self.state = State::Failed(error);
    }

    /// Neither an invitation of this start nor an answer is under way.
    fn is_idle(&self) -> bool {
        matches!(self.state, State::Inviting) && self.start.n_sent == 0 && self.pending.is_none()
    }

    fn asked(&mut self, nonce: Nonce, now: Duration) {
        if self.nonces.contains(&nonce) {
            return;
        }
        if self.nonces.len() == MAX_NONCES {
            self.nonces.remove(0);
        }
        self.nonces.push(nonce);
        let until = match self.state {
            State::Inviting => match self.start.n_sent {
                // From before our invitation: the device has moved on, or will on reading it.
                0 => return,
                1 => now,
                2.. => now.saturating_add(SETTLE),
            },
            State::Settling { until, .. } => until,
            State::Handed { .. } | State::Answered { .. } => {
                self.outrun = true;
                return;
            }
            State::Accepted { .. } | State::Connected | State::Failed(_) => return,
        };
        self.start.n_nonces += 1;
        let Some(credentials) = &self.credentials else {
            self.saw_64 |= matches!(nonce, Nonce::Pbkdf2(_));
            return self.fail(HandshakeError::NeedsPassword);
        };
        match nonce {
            Nonce::Pbkdf2(_) => self.saw_64 = true,
            Nonce::Md5(_) if credentials.seen_64 || self.saw_64 => {
                return self.fail(HandshakeError::Downgrade);
            }
            Nonce::Md5(_) => {}
        }
        self.state = State::Settling {
            nonce,
            at: now,
            until,
        };
    }

    fn refuse(&mut self, now: Duration) {
        // Without a pending answer it is somebody else's, or an earlier try's.
        let Some(form) = self.pending else { return };
        if !self.outrun {
            self.n_refused += 1;
            self.refused = Some(form);
        }
        self.pending = None;
        // A late refusal: the next invitation is already under way.
        if !matches!(self.state, State::Answered { .. }) {
            return;
        }
        if self.may_answer_again(form) {
            self.start_afresh(now);
        } else if self.outrun {
            self.fail(HandshakeError::Crossed);
        } else {
            self.fail(HandshakeError::WrongPassword {
                n_answers: self.n_answers,
            });
        }
    }

    /// A refused 32-digit form is final: there is no second way to store its password.
    fn may_answer_again(&self, form: Form) -> bool {
        form != Form::Md5 && self.n_answers < MAX_ANSWERS
    }

    fn start_afresh(&mut self, now: Duration) {
        let earliest = self
            .last_invitation
            .map_or(now, |at| at.saturating_add(INVITATION_REPEAT));
        self.start = Start::new(now.max(earliest));
        self.state = State::Inviting;
    }

    /// Returns the step, or `None` if the state has changed.
    fn invite(&mut self, now: Duration) -> Option<Step> {
        let start = &mut self.start;
        if start.until.is_some_and(|until| now >= until) {
            let n_invitations = start.n_sent;
            self.fail(if self.pending.is_some() {
                HandshakeError::NoAnswerToAuthentication
            } else {
                HandshakeError::NoAnswer { n_invitations }
            });
            return None;
        }
        if now < start.due {
            return Some(Step::Wait(
                start.until.map_or(start.due, |until| until.min(start.due)),
            ));
        }
        start.n_sent += 1;
        start.due = now.saturating_add(INVITATION_REPEAT);
        start.until.get_or_insert(now.saturating_add(INVITATION_LIMIT));
        self.last_invitation = Some(now);
        self.n_invitations += 1;
        Some(Step::Send(self.invitation.encode()))
    }

    /// Whether the newest nonce, which came at `at`, is from a queue whose last invitation was swallowed.
    ///
    /// A queue is answered by every other invitation; if the last one was, there are as many nonces as it takes.
    /// To pass over a nonce is right once: a slow network would look like this for ever.
    fn is_probably_idle_since(&self, at: Duration) -> bool {
        let start = &self.start;
        let is_late = self
            .last_invitation
            .is_some_and(|sent_at| at.saturating_sub(sent_at) > PROMPT);
        let is_last_answered = start.n_sent % 2 == 1 && start.n_nonces >= start.n_sent.div_ceil(2);
        let is_there_time = start.until.is_some_and(|until| start.due < until);
        is_late && !is_last_answered && is_there_time && !start.has_passed
    }

    fn hand_out(&mut self, nonce: &Nonce) {
        let form = self.form_for(nonce);
        // Each start ends in at most one answer and there is none after the last, so neither can be missing.
        let (Some(credentials), Some(cnonce)) = (&self.credentials, self.cnonces.get(self.n_answers)) else {
            return self.fail(HandshakeError::NoAnswerToAuthentication);
        };
        let mut cnonce = hex::encode(cnonce);
        cnonce.truncate(nonce.as_str().len());
        let datagram = (self.respond)(form, &credentials.password, nonce, &cnonce)
            .expect("the form was chosen by the nonce");
        self.n_answers += 1;
        self.outrun = false;
        self.state = State::Handed { datagram, form };
    }

    fn form_for(&self, nonce: &Nonce) -> Form {
        if matches!(nonce, Nonce::Md5(_)) {
            return Form::Md5;
        }
        let remembered = self
            .credentials
            .as_ref()
            .and_then(|credentials| credentials.remembered);
        match (self.refused, remembered) {
            (Some(Form::Pbkdf2Sha256), _) | (None, Some(Form::Pbkdf2Md5)) => Form::Pbkdf2Md5,
            _ => Form::Pbkdf2Sha256,
        }
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake")
            .field("invitation", &self.invitation)
            .field("n_invitations", &self.n_invitations)
            .field("n_answers", &self.n_answers)
            .field("n_refused", &self.n_refused)
            .finish_non_exhaustive()
    }
}
