use std::collections::VecDeque;

use proptest::prelude::*;

use super::authentication::{Form, HexDigits, answer};
use super::handshake::{
    AUTHENTICATION_WAIT, Credentials, Handshake, HandshakeError, INVITATION_LIMIT, INVITATION_REPEAT,
    MAX_ANSWERS, Step,
};
use super::replies::{Ended, Replies, Verdict, explain};
use super::*;

// Codecs.

const PASSWORD: &str = "ir_remote_update";
const NONCE_32: &str = "25f9e794323b453885f5181f1b624d0b";
const NONCE_64: &str = "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225";
const CNONCE_64: &str = "edbbdee30f7b0439db08e5395a9079567b80d3e3c613db5910d18925e7d72d9f";

fn invitation() -> Invitation {
    let md5 = hex::decode("48d16594cc8cbaa6f80582231ab0c6b5")
        .unwrap()
        .try_into()
        .unwrap();
    Invitation {
        callback_port: 45678,
        len_bytes: 3000,
        md5,
    }
}

fn nonce(digits: &str) -> Nonce {
    Nonce::parse(digits.as_bytes()).unwrap()
}

#[test]
fn invitation_is_what_the_device_reads() {
    assert_eq!(
        invitation().encode(),
        b"0 45678 3000 48d16594cc8cbaa6f80582231ab0c6b5\n"
    );
}

#[track_caller]
fn check_answer(form: Form, password: &str, nonce_digits: &str, cnonce: &str, response: &str) {
    let datagram = answer(form, password, &nonce(nonce_digits), cnonce);
    assert_eq!(datagram, Some(format!("200 {cnonce} {response}\n")));
}

#[test]
fn answers_match_the_published_vectors() {
    check_answer(
        Form::Md5,
        PASSWORD,
        NONCE_32,
        "fe5fc33d0176d8cbc97c5d7b78be27c2",
        "a0028a902039231648b2aa198ffe5561",
    );
    check_answer(
        Form::Pbkdf2Sha256,
        PASSWORD,
        NONCE_64,
        CNONCE_64,
        "56f8f1c47456e34eb689b14d01c8976b9600b8c97b2a4012acd0011806080d0e",
    );
    check_answer(
        Form::Pbkdf2Md5,
        PASSWORD,
        NONCE_64,
        CNONCE_64,
        "58ec9bf6c60c80fb2aeae22338a709986579e75c82bc47babb4a7487adb2efb7",
    );
    check_answer(
        Form::Pbkdf2Sha256,
        "a-real-password",
        &"ab".repeat(32),
        &"cd".repeat(32),
        "4d63ba8b1efa8949a0c5caefe7e8bc77db582e5531bdf2667c663394b4551b93",
    );
}

#[test]
fn no_form_answers_a_nonce_of_the_other_kind() {
    assert_eq!(answer(Form::Md5, PASSWORD, &nonce(NONCE_64), CNONCE_64), None);
    for form in [Form::Pbkdf2Sha256, Form::Pbkdf2Md5] {
        assert_eq!(
            answer(
                form,
                PASSWORD,
                &nonce(NONCE_32),
                "fe5fc33d0176d8cbc97c5d7b78be27c2"
            ),
            None
        );
    }
}

#[test]
fn forms_are_remembered_by_name() {
    for form in Form::ALL {
        assert_eq!(Form::parse(form.name()), Some(form));
    }
    assert_eq!(Form::parse("MD5"), None);
    assert_eq!(Form::parse(""), None);
}

#[track_caller]
fn check_parse(datagram: &[u8], expected: &Answer) {
    assert_eq!(&Answer::parse(datagram), expected, "{}", datagram.escape_ascii());
}

#[test]
fn datagrams_are_read_with_and_without_a_line_end() {
    for end in ["", "\n", "\r\n", " \t"] {
        check_parse(format!("OK{end}").as_bytes(), &Answer::Ok);
        check_parse(
            format!("Authentication Failed{end}").as_bytes(),
            &Answer::AuthenticationFailed,
        );
        let md5 = Nonce::Md5(HexDigits::parse(NONCE_32.as_bytes()).unwrap());
        check_parse(format!("AUTH {NONCE_32}{end}").as_bytes(), &Answer::Auth(md5));
        let pbkdf2 = Nonce::Pbkdf2(HexDigits::parse(NONCE_64.as_bytes()).unwrap());
        check_parse(format!("AUTH {NONCE_64}{end}").as_bytes(), &Answer::Auth(pbkdf2));
    }
}

#[test]
fn nonce_of_another_length_or_alphabet_is_no_nonce() {
    check_parse(b"AUTH", &Answer::BadNonce { len: 0 });
    check_parse(b"AUTH ", &Answer::BadNonce { len: 0 });
    for len in [1, 31, 33, 63, 65, 123] {
        check_parse(
            format!("AUTH {}", "a".repeat(len)).as_bytes(),
            &Answer::BadNonce { len },
        );
    }
    check_parse(
        format!("AUTH {}g", &NONCE_32[1..]).as_bytes(),
        &Answer::BadNonce { len: 32 },
    );
    check_parse(
        format!("AUTH  {}", &NONCE_32[1..]).as_bytes(),
        &Answer::BadNonce { len: 32 },
    );
    check_parse(
        &[b"AUTH ".as_slice(), &[0xff; 64]].concat(),
        &Answer::BadNonce { len: 64 },
    );
}

#[test]
fn anything_else_is_kept_printable_and_bounded() {
    let other = |text: &str| Answer::Other(text.to_owned());
    check_parse(b"", &other(""));
    check_parse(b"OKAY", &other("OKAY"));
    check_parse(b" OK", &other(" OK"));
    check_parse(b"ok", &other("ok"));
    check_parse(b"AUTHORISED", &other("AUTHORISED"));
    check_parse(b"\x1b[2J\xff", &other(r"\x1b[2J\xff"));
    check_parse(&[b'x'; 2000], &other(&"x".repeat(128)));
    // Longer than any device sends, whatever it begins with.
    check_parse(&[b"OK".as_slice(), &[b' '; 127]].concat(), &other("OK"));
}

#[test]
fn secrets_are_not_in_debug_output() {
    let credentials = Credentials {
        password: PASSWORD.into(),
        remembered: None,
        seen_64: false,
    };
    assert!(!format!("{credentials:?}").contains(PASSWORD));
    let step = Step::Answer {
        datagram: b"200 c r\n".to_vec(),
        form: Form::Md5,
    };
    assert_eq!(format!("{step:?}"), "Answer { datagram: Secret(..), form: Md5 }");
    let handshake = Handshake::new(
        invitation(),
        Some(credentials),
        [[0; 32]; MAX_ANSWERS],
        Duration::ZERO,
    );
    assert!(!format!("{handshake:?}").contains(PASSWORD));
}

// The handshake against a device, in virtual time.

const LATENCY: Duration = Duration::from_millis(5);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Stands in for the real hashing: the same inputs, readable.
fn quick_respond(form: Form, password: &str, nonce: &Nonce, cnonce: &str) -> Option<String> {
    let len = nonce.as_str().len();
    assert_eq!(
        cnonce.len(),
        len,
        "the device is silent to a cnonce of another length"
    );
    let is_matching = (form == Form::Md5) == matches!(nonce, Nonce::Md5(_));
    is_matching.then(|| format!("200 {cnonce} {form}|{password}|{}\n", nonce.as_str()))
}

/// ArduinoOTA's two states: idle, or waiting without a limit for the answer to a nonce.
struct Device {
    /// How it checks a password; `None`: it has none.
    form: Option<Form>,
    password: &'static str,
    waiting: Option<Nonce>,
    n_nonces: usize,
    /// Datagrams are only read from this moment on.
    busy_until: Duration,
    /// How long it computes to check an answer.
    check_takes: Duration,
}

enum Reply {
    Datagram(Vec<u8>),
    CallBack,
}

impl Device {
    fn new(form: Option<Form>) -> Self {
        let password = "secret";
        Self {
            form,
            password,
            waiting: None,
            n_nonces: 0,
            busy_until: ms(0),
            check_takes: ms(1),
        }
    }

    fn fresh_nonce(&mut self) -> Nonce {
        self.n_nonces += 1;
        let len = if self.form == Some(Form::Md5) { 32 } else { 64 };
        nonce(&format!("{:0len$x}", self.n_nonces))
    }

    /// Returns replies with the moment each leaves.
    fn read(&mut self, datagram: &[u8], now: Duration) -> Vec<(Duration, Reply)> {
        let text = std::str::from_utf8(datagram).unwrap();
        let ok = |at| {
            vec![
                (at, Reply::Datagram(b"OK".to_vec())),
                (at + ms(20), Reply::CallBack),
            ]
        };
        match (self.waiting.take(), text.strip_prefix("200 ")) {
            (Some(nonce), Some(rest)) => {
                let cnonce = rest.split(' ').next().unwrap();
                let expected = quick_respond(self.form.unwrap(), self.password, &nonce, cnonce).unwrap();
                self.busy_until = now + self.check_takes;
                if text == expected {
                    return ok(self.busy_until);
                }
                vec![(
                    self.busy_until,
                    Reply::Datagram(b"Authentication Failed".to_vec()),
                )]
            }
            // The swallowed invitation, and an answer nobody asked for.
            (Some(_), None) | (None, Some(_)) => vec![],
            (None, None) if self.form.is_none() => ok(now),
            (None, None) => {
                let nonce = self.fresh_nonce();
                self.waiting = Some(nonce);
                vec![(
                    now,
                    Reply::Datagram(format!("AUTH {}", nonce.as_str()).into_bytes()),
                )]
            }
        }
    }
}

/// A device and a host with a network between them that loses what it is told to.
struct World {
    device: Device,
    handshake: Handshake,
    /// Indexes of the host's datagrams that are lost.
    lost_to_device: Vec<usize>,
    /// Indexes of the device's datagrams that are lost.
    lost_to_host: Vec<usize>,
    invited_at: Vec<Duration>,
    answered: Vec<(Duration, Form)>,
    now: Duration,
}

impl World {
    fn new(device: Device, credentials: Option<Credentials>) -> Self {
        let handshake = Handshake::new(invitation(), credentials, [[0xc1; 32], [0xc2; 32]], ms(0));
        Self {
            device,
            handshake: handshake.with_respond(quick_respond),
            lost_to_device: vec![],
            lost_to_host: vec![],
            invited_at: vec![],
            answered: vec![],
            now: ms(0),
        }
    }

    /// Plays to the end; an accepted host waits for the call-back.
    fn run(&mut self) -> Step {
        let mut to_device = VecDeque::new();
        let mut to_host: Vec<(Duration, Reply)> = vec![];
        let (mut n_to_device, mut n_to_host) = (0, 0);
        for _ in 0..1000 {
            let mut send = |datagram: Vec<u8>, now: Duration| {
                if !self.lost_to_device.contains(&n_to_device) {
                    to_device.push_back((now + LATENCY, datagram));
                }
                n_to_device += 1;
            };
            let until = match self.handshake.next(self.now) {
                Step::Send(datagram) => {
                    assert_eq!(datagram, invitation().encode());
                    self.invited_at.push(self.now);
                    send(datagram, self.now);
                    continue;
                }
                Step::Answer { datagram, form } => {
                    self.answered.push((self.now, form));
                    send(datagram, self.now);
                    self.handshake.answered(self.now);
                    continue;
                }
                Step::Wait(until) => {
                    assert!(until > self.now, "waiting for the past");
                    until
                }
                Step::Accepted { at } if self.now < at + CALL_BACK_WAIT => at + CALL_BACK_WAIT,
                step => return step,
            };
            to_host.sort_by_key(|(at, _)| *at);
            let device_reads_at = to_device.front().map(|(at, _)| self.device.busy_until.max(*at));
            let host_reads_at = to_host.first().map(|(at, _)| *at);
            if device_reads_at
                .is_some_and(|at| at <= until && host_reads_at.is_none_or(|host_at| at <= host_at))
            {
                let (_, datagram) = to_device.pop_front().unwrap();
                self.now = self.now.max(device_reads_at.unwrap());
                let replies = self.device.read(&datagram, self.now);
                to_host.extend(replies.into_iter().map(|(at, reply)| (at + LATENCY, reply)));
            } else if host_reads_at.is_some_and(|at| at <= until) {
                let (at, reply) = to_host.remove(0);
                self.now = self.now.max(at);
                match reply {
                    Reply::CallBack => self.handshake.called_back(),
                    Reply::Datagram(datagram) => {
                        if !self.lost_to_host.contains(&n_to_host) {
                            self.handshake.received(&datagram, self.now);
                        }
                        n_to_host += 1;
                    }
                }
            } else {
                self.now = until;
            }
        }
        panic!("the handshake does not end");
    }

    fn forms(&self) -> Vec<Form> {
        self.answered.iter().map(|(_, form)| *form).collect()
    }

    #[track_caller]
    fn assert_let_in(&mut self, forms: &[Form]) {
        assert_eq!(self.run(), Step::Connected);
        assert_eq!(self.forms(), forms);
        assert_eq!(self.handshake.n_answers(), forms.len());
        assert_eq!(self.handshake.accepted_form(), forms.last().copied());
        assert_eq!(self.handshake.n_failed_answers(), forms.len().saturating_sub(1));
        self.assert_invitations_apart();
    }

    #[track_caller]
    fn assert_refused(&mut self, error: HandshakeError, forms: &[Form]) {
        assert_eq!(self.run(), Step::Failed(error));
        assert_eq!(self.forms(), forms);
        assert_eq!(self.handshake.n_answers(), forms.len());
        assert_eq!(self.handshake.n_failed_answers(), forms.len());
        assert_eq!(self.handshake.accepted_form(), None);
        self.assert_invitations_apart();
    }

    #[track_caller]
    fn assert_invitations_apart(&self) {
        for pair in self.invited_at.windows(2) {
            assert!(pair[1] >= pair[0] + INVITATION_REPEAT, "{:?}", self.invited_at);
        }
    }
}

fn credentials(password: &str, remembered: Option<Form>) -> Credentials {
    Credentials {
        password: password.to_owned(),
        remembered,
        seen_64: false,
    }
}

fn world(form: Form) -> World {
    World::new(Device::new(Some(form)), Some(credentials("secret", None)))
}

#[test]
fn device_without_a_password_is_not_answered() {
    for credentials in [None, Some(credentials("secret", None))] {
        let mut world = World::new(Device::new(None), credentials);
        world.assert_let_in(&[]);
        assert_eq!(world.invited_at, [ms(0)]);
    }
}

#[test]
fn each_form_lets_in() {
    world(Form::Md5).assert_let_in(&[Form::Md5]);
    world(Form::Pbkdf2Sha256).assert_let_in(&[Form::Pbkdf2Sha256]);
}

#[test]
fn showing_64_digits_is_told_apart_from_32() {
    let mut md5 = world(Form::Md5);
    md5.run();
    assert!(!md5.handshake.saw_64());
    let mut pbkdf2 = world(Form::Pbkdf2Sha256);
    pbkdf2.run();
    assert!(pbkdf2.handshake.saw_64());
    let mut unanswered = World::new(Device::new(Some(Form::Pbkdf2Sha256)), None);
    unanswered.run();
    assert!(unanswered.handshake.saw_64());
}

#[test]
fn real_hashing_is_what_a_handshake_sends() {
    let cnonces = [[0xfe; 32], [0; 32]];
    let mut handshake = Handshake::new(invitation(), Some(credentials(PASSWORD, None)), cnonces, ms(0));
    handshake.next(ms(0));
    handshake.received(format!("AUTH {NONCE_64}").as_bytes(), ms(1));
    let expected = answer(Form::Pbkdf2Sha256, PASSWORD, &nonce(NONCE_64), &"fe".repeat(32)).unwrap();
    let expected = Step::Answer {
        datagram: expected.into_bytes(),
        form: Form::Pbkdf2Sha256,
    };
    assert_eq!(handshake.next(ms(1)), expected);
    // Asking again neither answers nor counts twice.
    assert_eq!(handshake.next(ms(2)), expected);
    assert_eq!(handshake.n_answers(), 1);
}

#[test]
fn swallowed_invitation_is_repeated_after_a_second_and_a_half() {
    let mut world = world(Form::Md5);
    world.device.waiting = Some(nonce(NONCE_32));
    world.assert_let_in(&[Form::Md5]);
    assert_eq!(world.invited_at, [ms(0), ms(1500)]);
}

#[test]
fn lost_nonce_is_asked_for_again() {
    let mut world = world(Form::Md5);
    world.lost_to_host = vec![0];
    world.assert_let_in(&[Form::Md5]);
    assert_eq!(world.invited_at, [ms(0), ms(1500), ms(3000)]);
}

#[test]
fn lost_ok_is_made_good_by_the_call_back() {
    let mut world = world(Form::Md5);
    world.lost_to_host = vec![1];
    world.assert_let_in(&[Form::Md5]);
}

#[test]
fn slow_check_on_the_chip_is_waited_for() {
    let mut world = world(Form::Pbkdf2Sha256);
    world.device.check_takes = ms(9900);
    world.assert_let_in(&[Form::Pbkdf2Sha256]);
    assert_eq!(world.invited_at, [ms(0)]);
}

#[test]
fn wrong_password_is_answered_once_in_the_32_digit_form() {
    let mut world = World::new(Device::new(Some(Form::Md5)), Some(credentials("wrong", None)));
    world.assert_refused(HandshakeError::WrongPassword { n_answers: 1 }, &[Form::Md5]);
    assert_eq!(world.invited_at, [ms(0)]);
    assert_eq!(world.handshake.n_refused_answers(), 1);
}

#[test]
fn wrong_password_is_answered_twice_in_the_64_digit_form() {
    let mut world = World::new(
        Device::new(Some(Form::Pbkdf2Sha256)),
        Some(credentials("wrong", None)),
    );
    let forms = [Form::Pbkdf2Sha256, Form::Pbkdf2Md5];
    world.assert_refused(HandshakeError::WrongPassword { n_answers: 2 }, &forms);
    assert_eq!(world.invited_at, [ms(0), ms(1500)]);
    assert_eq!(world.handshake.n_refused_answers(), 2);
}

#[test]
fn md5_stored_password_is_found_and_then_remembered() {
    let mut world = world(Form::Pbkdf2Md5);
    world.assert_let_in(&[Form::Pbkdf2Sha256, Form::Pbkdf2Md5]);

    let remembered = |form| {
        Some(Credentials {
            password: "secret".to_owned(),
            remembered: Some(form),
            seen_64: true,
        })
    };
    World::new(Device::new(Some(Form::Pbkdf2Md5)), remembered(Form::Pbkdf2Md5))
        .assert_let_in(&[Form::Pbkdf2Md5]);
    // The device was flashed with another sketch, or another core, since.
    World::new(Device::new(Some(Form::Pbkdf2Sha256)), remembered(Form::Pbkdf2Md5))
        .assert_let_in(&[Form::Pbkdf2Md5, Form::Pbkdf2Sha256]);
    World::new(Device::new(Some(Form::Pbkdf2Sha256)), remembered(Form::Md5))
        .assert_let_in(&[Form::Pbkdf2Sha256]);
}

#[test]
fn device_known_for_64_digits_gets_no_32_digit_answer() {
    let credentials = Credentials {
        password: "secret".into(),
        remembered: Some(Form::Md5),
        seen_64: true,
    };
    let mut world = World::new(Device::new(Some(Form::Md5)), Some(credentials));
    world.assert_refused(HandshakeError::Downgrade, &[]);
}

#[test]
fn going_down_to_32_digits_in_mid_handshake_is_refused() {
    let mut handshake = invited();
    handshake.received(format!("AUTH {NONCE_64}").as_bytes(), ms(1));
    answer_now(&mut handshake, ms(1), Form::Pbkdf2Sha256);
    handshake.received(b"Authentication Failed", ms(2));
    assert!(matches!(handshake.next(ms(1500)), Step::Send(_)));
    handshake.received(format!("AUTH {NONCE_32}").as_bytes(), ms(1501));
    assert_eq!(handshake.next(ms(1501)), Step::Failed(HandshakeError::Downgrade));
    assert_eq!(handshake.n_answers(), 1);
}

#[test]
fn without_a_password_nothing_is_answered() {
    for form in [Form::Md5, Form::Pbkdf2Sha256] {
        World::new(Device::new(Some(form)), None).assert_refused(HandshakeError::NeedsPassword, &[]);
    }
}

#[test]
fn silence_is_ten_seconds_of_invitations() {
    let mut world = world(Form::Md5);
    world.lost_to_device = (0..100).collect();
    world.assert_refused(HandshakeError::NoAnswer { n_invitations: 7 }, &[]);
    assert_eq!(world.invited_at, [0, 1500, 3000, 4500, 6000, 7500, 9000].map(ms));
    assert_eq!(world.now, INVITATION_LIMIT);
}

#[test]
fn answer_without_a_reply_is_given_afresh_once_in_the_64_digit_form() {
    // The answer is the host's second datagram; the device then swallows the third.
    let mut world = world(Form::Pbkdf2Sha256);
    world.lost_to_device = vec![1];
    world.assert_let_in(&[Form::Pbkdf2Sha256, Form::Pbkdf2Sha256]);
    let fresh_at = world.answered[0].0 + AUTHENTICATION_WAIT + INVITATION_REPEAT;
    assert_eq!(world.invited_at, [ms(0), fresh_at, fresh_at + INVITATION_REPEAT]);
    assert_eq!(world.handshake.n_refused_answers(), 0);
}

#[test]
fn answer_without_a_reply_is_not_repeated_in_the_32_digit_form() {
    let mut world = world(Form::Md5);
    world.lost_to_device = vec![1];
    world.assert_refused(HandshakeError::NoAnswerToAuthentication, &[Form::Md5]);
    assert_eq!(world.now, world.answered[0].0 + AUTHENTICATION_WAIT);
}

#[test]
fn device_that_never_replies_to_answers_gets_two() {
    let mut world = world(Form::Pbkdf2Sha256);
    world.lost_to_device = vec![1, 4];
    let forms = [Form::Pbkdf2Sha256, Form::Pbkdf2Sha256];
    world.assert_refused(HandshakeError::NoAnswerToAuthentication, &forms);
}

#[test]
fn device_gone_after_an_answer_is_reported_as_no_answer_to_it() {
    let mut world = world(Form::Pbkdf2Sha256);
    world.lost_to_device = (1..100).collect();
    world.assert_refused(HandshakeError::NoAnswerToAuthentication, &[Form::Pbkdf2Sha256]);
}

#[test]
fn device_gone_after_a_refusal_is_not_called_a_wrong_password() {
    let mut world = world(Form::Pbkdf2Md5);
    world.lost_to_device = (2..100).collect();
    world.assert_refused(
        HandshakeError::NoAnswer { n_invitations: 7 },
        &[Form::Pbkdf2Sha256],
    );
}

#[test]
fn invitations_queued_in_a_busy_device_cost_one_answer() {
    for form in [Form::Md5, Form::Pbkdf2Sha256] {
        let mut world = world(form);
        world.device.busy_until = ms(3200);
        world.assert_let_in(&[form]);
        assert_eq!(world.device.n_nonces, 2, "asked, swallowed, asked");
    }
}

#[test]
fn late_nonce_of_an_even_queue_is_not_answered_in_vain() {
    // Asked at 2.4 s, and swallowed at once: an answer would reach an idle device.
    let mut world = world(Form::Md5);
    world.device.busy_until = ms(2400);
    world.assert_let_in(&[Form::Md5]);
    assert_eq!(world.invited_at, [ms(0), ms(1500), ms(3000)]);
}

#[test]
fn late_nonce_of_an_odd_queue_is_answered() {
    for (busy_until, n_invitations) in [(1400, 1), (3900, 3)] {
        let mut world = world(Form::Md5);
        world.device.busy_until = ms(busy_until);
        world.assert_let_in(&[Form::Md5]);
        assert_eq!(world.invited_at.len(), n_invitations);
    }
}

#[test]
fn late_nonce_of_the_last_invitation_is_answered() {
    // Invitations 2 to 7 queue up: there is no time to invite an eighth time.
    let mut world = world(Form::Md5);
    world.lost_to_device = vec![0, 1, 2, 3, 4, 5];
    world.device.busy_until = ms(9800);
    world.assert_let_in(&[Form::Md5]);
}

#[test]
fn slow_network_is_not_passed_over_twice() {
    let mut handshake = invited();
    assert!(matches!(handshake.next(ms(1500)), Step::Send(_)));
    handshake.received(&auth(1, 32), ms(2300));
    assert!(matches!(handshake.next(ms(2550)), Step::Wait(_)));
    assert!(matches!(handshake.next(ms(3000)), Step::Send(_)));
    assert!(matches!(handshake.next(ms(4500)), Step::Send(_)));
    handshake.received(&auth(2, 32), ms(5300));
    answer_now(&mut handshake, ms(5550), Form::Md5);
}

#[test]
fn crossed_answer_in_the_64_digit_form_starts_afresh_with_the_same_form() {
    // Two invitations queued: asked, swallowed. The answer reaches an idle device.
    let mut world = world(Form::Pbkdf2Sha256);
    world.device.busy_until = ms(1600);
    world.assert_let_in(&[Form::Pbkdf2Sha256, Form::Pbkdf2Sha256]);
}

fn invited() -> Handshake {
    let handshake = Handshake::new(
        invitation(),
        Some(credentials("secret", None)),
        [[1; 32], [2; 32]],
        ms(0),
    );
    let mut handshake = handshake.with_respond(quick_respond);
    assert!(matches!(handshake.next(ms(0)), Step::Send(_)));
    handshake
}

#[track_caller]
fn answer_now(handshake: &mut Handshake, now: Duration, expected: Form) {
    match handshake.next(now) {
        Step::Answer { form, .. } => assert_eq!(form, expected),
        step => panic!("{step:?}"),
    }
    handshake.answered(now);
}

fn auth(n: usize, len: usize) -> Vec<u8> {
    format!("AUTH {n:0len$x}").into_bytes()
}

#[test]
fn duplicate_nonce_is_answered_once() {
    let mut handshake = invited();
    handshake.received(&auth(1, 64), ms(1));
    handshake.received(&auth(1, 64), ms(2));
    answer_now(&mut handshake, ms(2), Form::Pbkdf2Sha256);
    handshake.received(&auth(1, 64), ms(3));
    assert!(matches!(handshake.next(ms(3)), Step::Wait(_)));
    handshake.received(b"Authentication Failed", ms(4));
    assert!(matches!(handshake.next(ms(1500)), Step::Send(_)));
    // Neither does it pass for the nonce of the new invitation.
    handshake.received(&auth(1, 64), ms(1501));
    assert!(matches!(handshake.next(ms(1501)), Step::Wait(_)));
    handshake.received(&auth(2, 64), ms(1502));
    // The duplicate did not void the first answer: it was judged, so the other form is next.
    answer_now(&mut handshake, ms(1502), Form::Pbkdf2Md5);
}

#[test]
fn newest_nonce_is_the_one_answered_after_a_repeated_invitation() {
    let mut handshake = invited();
    assert!(matches!(handshake.next(ms(1500)), Step::Send(_)));
    handshake.received(&auth(1, 32), ms(1600));
    assert_eq!(handshake.next(ms(1600)), Step::Wait(ms(1850)));
    handshake.received(&auth(2, 32), ms(1700));
    handshake.received(&auth(1, 32), ms(1710));
    assert_eq!(
        handshake.next(ms(1710)),
        Step::Wait(ms(1850)),
        "newer nonces do not prolong the wait"
    );
    let Step::Answer { datagram, .. } = handshake.next(ms(1850)) else {
        panic!()
    };
    let datagram = String::from_utf8(datagram).unwrap();
    assert!(datagram.ends_with("00002\n"), "{datagram}");
}

#[test]
fn refusal_of_an_outrun_answer_says_nothing_about_the_password() {
    let mut handshake = invited();
    handshake.received(&auth(1, 32), ms(1));
    answer_now(&mut handshake, ms(1), Form::Md5);
    handshake.received(&auth(2, 32), ms(2));
    assert!(matches!(handshake.next(ms(2)), Step::Wait(_)), "a second answer");
    handshake.received(b"Authentication Failed", ms(3));
    assert_eq!(handshake.next(ms(3)), Step::Failed(HandshakeError::Crossed));
    assert_eq!((handshake.n_answers(), handshake.n_refused_answers()), (1, 0));

    let mut handshake = invited();
    handshake.received(&auth(1, 64), ms(1));
    answer_now(&mut handshake, ms(1), Form::Pbkdf2Sha256);
    handshake.received(&auth(2, 64), ms(2));
    handshake.received(b"Authentication Failed", ms(3));
    assert!(matches!(handshake.next(ms(1500)), Step::Send(_)));
    handshake.received(&auth(3, 64), ms(1501));
    answer_now(&mut handshake, ms(1501), Form::Pbkdf2Sha256);
    // The second one was not outrun.
    handshake.received(b"Authentication Failed", ms(1502));
    assert_eq!(
        handshake.next(ms(1502)),
        Step::Failed(HandshakeError::WrongPassword { n_answers: 2 })
    );
    assert_eq!((handshake.n_answers(), handshake.n_refused_answers()), (2, 1));
}

#[test]
fn outrun_answer_may_still_be_accepted() {
    let mut handshake = invited();
    handshake.received(&auth(1, 32), ms(1));
    answer_now(&mut handshake, ms(1), Form::Md5);
    handshake.received(&auth(2, 32), ms(2));
    handshake.received(b"OK", ms(3));
    assert_eq!(handshake.next(ms(3)), Step::Accepted { at: ms(3) });
    assert_eq!(handshake.accepted_form(), Some(Form::Md5));
}

#[test]
fn refusal_that_comes_after_the_fresh_invitation_still_counts() {
    let mut handshake = invited();
    handshake.received(&auth(1, 64), ms(1));
    answer_now(&mut handshake, ms(1), Form::Pbkdf2Sha256);
    assert!(matches!(handshake.next(ms(11_501)), Step::Send(_)));
    handshake.received(b"Authentication Failed", ms(11_600));
    handshake.received(&auth(2, 64), ms(11_601));
    answer_now(&mut handshake, ms(11_601), Form::Pbkdf2Md5);
    assert_eq!(handshake.n_refused_answers(), 1);
}

#[test]
fn leftovers_from_before_the_first_invitation_are_ignored() {
    for datagram in [
        &b"OK"[..],
        b"Authentication Failed",
        b"AUTH x",
        b"junk",
        &auth(1, 32),
        &auth(1, 64),
    ] {
        let mut handshake = Handshake::new(invitation(), None, [[1; 32], [2; 32]], ms(0));
        handshake.received(datagram, ms(0));
        assert!(
            matches!(handshake.next(ms(0)), Step::Send(_)),
            "{}",
            datagram.escape_ascii()
        );
    }
}

#[test]
fn refusal_of_somebody_elses_answer_and_empty_datagrams_are_ignored() {
    let mut handshake = invited();
    handshake.received(b"Authentication Failed", ms(1));
    handshake.received(b"", ms(1));
    handshake.received(b"\r\n", ms(1));
    assert_eq!(handshake.next(ms(1)), Step::Wait(ms(1500)));
}

#[test]
fn broken_nonce_and_unknown_text_end_the_handshake() {
    let mut handshake = invited();
    handshake.received(b"AUTH 123", ms(1));
    assert_eq!(
        handshake.next(ms(1)),
        Step::Failed(HandshakeError::BadNonce { len: 3 })
    );

    let mut handshake = invited();
    handshake.received(b"BUSY\x07", ms(1));
    assert_eq!(
        handshake.next(ms(1)),
        Step::Failed(HandshakeError::Unexpected(r"BUSY\x07".into()))
    );
}

#[test]
fn nothing_is_answered_after_the_device_accepted() {
    let mut handshake = invited();
    handshake.received(b"OK", ms(1));
    handshake.received(&auth(1, 32), ms(2));
    handshake.received(b"Authentication Failed", ms(2));
    assert_eq!(handshake.next(ms(3)), Step::Accepted { at: ms(1) });
    handshake.called_back();
    handshake.received(&auth(2, 32), ms(4));
    assert_eq!(handshake.next(ms(4)), Step::Connected);
}

#[test]
fn call_back_without_any_datagram_is_acceptance() {
    let mut handshake = invited();
    handshake.called_back();
    assert_eq!(handshake.next(ms(1)), Step::Connected);
    assert_eq!(handshake.accepted_form(), None);
}

#[test]
fn call_back_before_the_answer_left_proves_no_form() {
    let mut handshake = invited();
    handshake.received(&auth(1, 32), ms(1));
    assert!(matches!(handshake.next(ms(1)), Step::Answer { .. }));
    handshake.called_back();
    assert_eq!(handshake.accepted_form(), None);
}

fn any_datagram() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        1 => Just(b"OK".to_vec()),
        3 => Just(b"Authentication Failed".to_vec()),
        1 => Just(vec![]),
        4 => (0..40_usize).prop_map(|n| auth(n, 32)),
        8 => (0..40_usize).prop_map(|n| auth(n, 64)),
        1 => Just(b"AUTH zz".to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..150),
    ]
}

proptest! {
    #[test]
    fn whatever_the_device_sends_answers_are_bounded_and_it_ends(
        datagrams in prop::collection::vec((0..3000_u64, any_datagram()), 0..60),
        remembered in prop::option::of(prop::sample::select(Form::ALL.to_vec())),
        seen_64 in any::<bool>(),
    ) {
        let credentials = Credentials { password: "secret".to_owned(), remembered, seen_64 };
        let handshake = Handshake::new(invitation(), Some(credentials), [[1; 32], [2; 32]], ms(0));
        let mut handshake = handshake.with_respond(quick_respond);
        let (mut now, mut invited_at, mut forms, mut challenges) = (ms(0), vec![], vec![], vec![]);
        let mut datagrams = VecDeque::from(datagrams);
        let mut next_at = datagrams.front().map(|(after, _)| ms(*after));
        let mut n_steps = 0;
        loop {
            n_steps += 1;
            prop_assert!(n_steps < 1000, "does not end");
            match handshake.next(now) {
                Step::Send(_) => invited_at.push(now),
                Step::Answer { datagram, form } => {
                    let text = String::from_utf8(datagram).unwrap();
                    challenges.push(text.rsplit('|').next().unwrap().to_owned());
                    forms.push(form);
                    handshake.answered(now);
                }
                Step::Wait(until) => match next_at {
                    Some(at) if at <= until => {
                        now = now.max(at);
                        let (_, datagram) = datagrams.pop_front().unwrap();
                        handshake.received(&datagram, now);
                        next_at = datagrams.front().map(|(after, _)| now + ms(*after));
                    }
                    _ => now = until,
                },
                Step::Accepted { .. } | Step::Connected | Step::Failed(_) => break,
            }
        }
        let n_md5 = forms.iter().filter(|form| **form == Form::Md5).count();
        prop_assert!(forms.len() <= 2, "{forms:?}");
        prop_assert!(n_md5 == 0 || forms.len() == 1, "{forms:?}");
        prop_assert!(n_md5 == 0 || !seen_64);
        prop_assert_eq!(handshake.n_answers(), forms.len());
        prop_assert!(handshake.n_refused_answers() <= handshake.n_failed_answers());
        challenges.dedup();
        prop_assert_eq!(challenges.len(), forms.len(), "one nonce, two answers");
        for pair in invited_at.windows(2) {
            prop_assert!(pair[1] >= pair[0] + INVITATION_REPEAT, "{invited_at:?}");
        }
        prop_assert!(now <= ms(45_000), "{now:?}");
    }
}

// Replies.

fn reading(bytes: &[u8]) -> Replies {
    let mut replies = Replies::new();
    replies.feed(bytes);
    replies
}

#[track_caller]
fn check_reply(bytes: &[u8], verdict: &Verdict, ended: &Ended) {
    let replies = reading(bytes);
    assert_eq!(
        (&replies.verdict(), &replies.at_end()),
        (verdict, ended),
        "{}",
        bytes.escape_ascii()
    );
}

#[track_caller]
fn check_error(bytes: &[u8], text: &str) {
    check_reply(bytes, &Verdict::Error(text.into()), &Ended::Error(text.into()));
}

#[test]
fn digits_and_ok_are_success() {
    for reply in ["OK", "10241024952OK", "1460640OK", "536OK", "OK\r\n", "3OK\n"] {
        check_reply(reply.as_bytes(), &Verdict::Ok, &Ended::Ok);
    }
}

#[test]
fn acknowledgements_alone_prove_nothing() {
    for reply in ["", "1024", "10241024952", "952952952952", "952O", "\r\n"] {
        check_reply(reply.as_bytes(), &Verdict::Pending, &Ended::Nothing);
    }
}

#[test]
fn error_text_is_final_at_its_line_end() {
    check_error(b"4096Wrong Magic Byte\r\n", "Wrong Magic Byte");
    check_error(b"1024102410241024Decryption error\r\n", "Decryption error");
    check_error(b"1024MD5 Check Failed\n", "MD5 Check Failed");
    check_error(b"No Error\r\n1024OK", "No Error");
}

#[test]
fn error_text_without_its_line_end_is_known_only_at_the_end() {
    check_reply(
        b"1024MD5 Check",
        &Verdict::Pending,
        &Ended::Error("MD5 Check".into()),
    );
    check_reply(b"X", &Verdict::Pending, &Ended::Error("X".into()));
}

#[test]
fn ok_inside_other_text_is_no_success() {
    check_error(b"1024NOT OK\r\n", "NOT OK");
    check_error(b"BROKEN: OK\n", "BROKEN: OK");
    check_error(b"OKAY\r\n", "OKAY");
    check_error(b"OOK\n", "OOK");
    check_reply(b"1024 OK", &Verdict::Pending, &Ended::Error(" OK".into()));
    check_reply(
        b"1024\r\nOK",
        &Verdict::Pending,
        &Ended::Error(r"\x0d\x0aOK".into()),
    );
    check_reply(b"1024ok", &Verdict::Pending, &Ended::Error("ok".into()));
}

#[test]
fn bytes_after_ok_take_the_success_back() {
    check_reply(b"952OK1024", &Verdict::Pending, &Ended::Error("OK1024".into()));
    check_reply(b"OKOK", &Verdict::Pending, &Ended::Error("OKOK".into()));
    check_error(b"OK\r\nFlash Write Failed\r\n", "OKFlash Write Failed");
}

#[test]
fn endless_text_is_cut_and_escaped() {
    check_error(&[b'x'; 5000], &"x".repeat(256));
    check_error(b"\x1b[2J\xe2\x80\xae\\\n", r"\x1b[2J\xe2\x80\xae\\");
    let ok_and_line_ends = [b"OK".as_slice(), &[b'\n'; 5000]].concat();
    check_reply(&ok_and_line_ends, &Verdict::Ok, &Ended::Ok);
    let digits = vec![b'1'; 5_000];
    check_reply(&digits, &Verdict::Pending, &Ended::Nothing);
}

proptest! {
    #[test]
    fn replies_mean_the_same_in_any_split(
        chunks in prop::collection::vec(
            prop_oneof![
                "[0-9]{0,5}", Just("O".to_owned()), Just("K".to_owned()), Just("OK".to_owned()), "\r?\n",
                "[ -~]{0,4}", Just("x".repeat(130)),
            ],
            0..8,
        ),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let bytes = chunks.concat().into_bytes();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut split = Replies::new();
        for pair in cuts.windows(2) {
            split.feed(&bytes[pair[0]..pair[1]]);
        }
        let whole = reading(&bytes);
        prop_assert_eq!(split.verdict(), whole.verdict());
        prop_assert_eq!(split.at_end(), whole.at_end());

        let digits_gone = bytes.iter().position(|byte| !byte.is_ascii_digit()).map_or(&b""[..], |at| &bytes[at..]);
        let is_ok = digits_gone.strip_prefix(b"OK").is_some_and(|rest| rest.iter().all(|b| b"\r\n".contains(b)));
        prop_assert_eq!(whole.verdict() == Verdict::Ok, is_ok);
        prop_assert_eq!(whole.at_end() == Ended::Ok, is_ok);
    }
}

#[test]
fn every_known_error_text_is_explained() {
    let texts = [
        "No Error",
        "Flash Write Failed",
        "Flash Erase Failed",
        "Flash Read Failed",
        "Not Enough Space",
        "Bad Size Given",
        "Stream Read Timeout",
        "MD5 Check Failed",
        "Wrong Magic Byte",
        "Could Not Activate The Firmware",
        "Partition Could Not be Found",
        "Bad Argument",
        "Aborted",
        "Decryption error",
        "UNKNOWN",
    ];
    for text in texts {
        let explanation = explain(text).unwrap_or_else(|| panic!("{text}"));
        for sentence in [explanation.meaning, explanation.next_step] {
            assert!(
                sentence.ends_with('.') && !sentence.contains("  "),
                "{text}: {sentence}"
            );
        }
    }
    assert_eq!(explain("OK"), None);
    assert_eq!(
        explain("MD5 Check Failed\r\n"),
        None,
        "line ends are stripped before"
    );
}
