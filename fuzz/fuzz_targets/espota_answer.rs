//! Whatever a device sends by UDP: no panic, bounded texts, and never more answers than allowed.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use proto::espota::authentication::Form;
use proto::espota::handshake::{Credentials, Handshake, MAX_ANSWERS, Step};
use proto::espota::{ANSWER_MAX_LEN, Answer, Invitation};

/// Datagrams are separated by this byte; the byte after it is the time until the next one, in units of 50 ms.
const SEPARATOR: u8 = 0xfe;

fuzz_target!(|bytes: &[u8]| {
    if let Answer::Other(text) = Answer::parse(bytes) {
        assert!(text.len() <= 4 * ANSWER_MAX_LEN && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    }

    let invitation = Invitation {
        callback_port: 45678,
        len_bytes: 3000,
        md5: [0x48; 16],
    };
    let credentials = Credentials {
        password: "secret".to_owned(),
        remembered: None,
        seen_64: false,
    };
    let mut handshake = Handshake::new(invitation, Some(credentials), [[1; 32], [2; 32]], Duration::ZERO);
    let mut now = Duration::ZERO;
    let mut n_answers = 0;
    for datagram in bytes.split(|byte| *byte == SEPARATOR).take(64) {
        for _ in 0..4 {
            match handshake.next(now) {
                Step::Answer { form, .. } => {
                    n_answers += 1;
                    assert!(n_answers <= if form == Form::Md5 { 1 } else { MAX_ANSWERS });
                    handshake.answered(now);
                }
                Step::Send(_) => {}
                Step::Wait(until) => assert!(until > now),
                Step::Accepted { .. } | Step::Connected | Step::Failed(_) => return,
            }
        }
        let (after, datagram) = datagram
            .split_first()
            .map_or((0, datagram), |(after, rest)| (*after, rest));
        now += Duration::from_millis(50) * u32::from(after);
        handshake.received(datagram, now);
        assert_eq!(handshake.n_answers(), n_answers);
    }
});
