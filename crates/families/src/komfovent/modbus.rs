//! Modbus/TCP, as far as a unit needs it: reading registers (function 3) and writing one (function 6) (PROTOCOLS.md A5).
//!
//! Sans-IO. One question at a time on a connection; what does not answer it is an error, and the connection is then closed,
//! so that a late answer has nowhere to arrive.

/// Port that the units listen on.
pub(crate) const PORT: u16 = 502;
/// Unit id to ask for: what the vendor sets for serial lines; over TCP the units seem to ignore it.
const UNIT_ID: u8 = 254;
/// Most registers that may be read at once (Modbus application protocol 1.1b3, section 6.3).
const MAX_REGISTERS: u16 = 125;
/// Length of the header before the function code (MBAP).
const HEADER_LEN: usize = 7;
/// Longest frame (Modbus messaging on TCP/IP 1.0b, section 4.1).
const FRAME_MAX_LEN: usize = 260;
const READ: u8 = 3;
const WRITE: u8 = 6;

/// A question to a unit. Registers are numbered from 1, as the vendor's manual does; on the wire they count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Reads some registers.
    Read {
        /// The first, from 1.
        first: u16,
        /// How many, at most 125.
        count: u16,
    },
    /// Writes one register.
    Write {
        /// Which, from 1.
        register: u16,
        /// What.
        value: u16,
    },
}

/// What a unit answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The words, as many as were asked for; none for a write.
    Words(Vec<u16>),
    /// It says no: 1 to 3 it does not know that register or function, 4 and more it cannot now.
    Exception(u8),
}

/// Bytes that do not answer the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnAnswer {
    /// Not Modbus/TCP at all.
    #[error("the reply is not Modbus/TCP")]
    Foreign,
    /// The answer to another question.
    #[error("the reply answers another question")]
    OtherQuestion,
    /// Too short, too long, or followed by more.
    #[error("the reply has the wrong length")]
    Length,
}

impl Question {
    /// The frame to send; `transaction` comes back in the answer.
    pub fn encode(self, transaction: u16) -> [u8; 12] {
        let (function, address, value) = match self {
            Self::Read { first, count } => (READ, first.wrapping_sub(1), count.clamp(1, MAX_REGISTERS)),
            Self::Write { register, value } => (WRITE, register.wrapping_sub(1), value),
        };
        let mut frame = [0; 12];
        frame[0..2].copy_from_slice(&transaction.to_be_bytes());
        frame[5] = 6;
        frame[6] = UNIT_ID;
        frame[7] = function;
        frame[8..10].copy_from_slice(&address.to_be_bytes());
        frame[10..12].copy_from_slice(&value.to_be_bytes());
        frame
    }

    /// Reads the answer in what has come so far; none as long as more must come.
    pub fn decode(self, transaction: u16, bytes: &[u8]) -> Result<Option<Answer>, NotAnAnswer> {
        let asked = self.encode(transaction);
        if let Some(protocol) = bytes.get(2..4)
            && protocol != [0, 0]
        {
            return Err(NotAnAnswer::Foreign);
        }
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        // The length counts the unit id, which stands in the header.
        if !(3..=FRAME_MAX_LEN - 6).contains(&len) {
            return Err(NotAnAnswer::Foreign);
        }
        if header[0..2] != asked[0..2] {
            return Err(NotAnAnswer::OtherQuestion);
        }
        if rest.len() < len - 1 {
            return Ok(None);
        }
        if rest.len() > len - 1 {
            return Err(NotAnAnswer::Length);
        }
        let function = asked[7];
        match rest {
            [code, exception] if *code == function | 0x80 => Ok(Some(Answer::Exception(*exception))),
            [code, len, words @ ..] if *code == READ && function == READ => {
                let wanted = 2 * usize::from(u16::from_be_bytes([asked[10], asked[11]]));
                if usize::from(*len) != wanted || words.len() != wanted {
                    return Err(NotAnAnswer::Length);
                }
                let words = words
                    .chunks_exact(2)
                    .map(|word| u16::from_be_bytes([word[0], word[1]]));
                Ok(Some(Answer::Words(words.collect())))
            }
            // A write is answered by its own echo.
            echo if function == WRITE && echo == &asked[7..] => Ok(Some(Answer::Words(Vec::new()))),
            _ => Err(NotAnAnswer::OtherQuestion),
        }
    }
}

/// Two registers as one word: the high one comes first.
pub(super) fn word(registers: &[u16]) -> Option<u32> {
    match registers {
        [high, low] => Some(u32::from(*high) << 16 | u32::from(*low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VERSIONS: Question = Question::Read {
        first: 1000,
        count: 6,
    };
    /// The worked frame of PROTOCOLS.md A5.
    const REPLY: &str = "00010000000FFE030C0132C0460110502E00000000";

    fn reply() -> Vec<u8> {
        hex::decode(REPLY).unwrap()
    }

    #[test]
    fn the_worked_frame_is_asked_and_read() {
        assert_eq!(hex::encode_upper(VERSIONS.encode(1)), "000100000006FE0303E70006");
        let words = vec![0x0132, 0xC046, 0x0110, 0x502E, 0, 0];
        assert_eq!(VERSIONS.decode(1, &reply()), Ok(Some(Answer::Words(words))));
    }

    #[test]
    fn a_part_of_an_answer_is_waited_for() {
        for len in 0..reply().len() {
            assert_eq!(VERSIONS.decode(1, &reply()[..len]), Ok(None), "{len}");
        }
    }

    #[test]
    fn a_late_answer_is_never_taken_for_this_one() {
        assert_eq!(VERSIONS.decode(2, &reply()), Err(NotAnAnswer::OtherQuestion));
        let panel = Question::Read {
            first: 1002,
            count: 2,
        };
        assert_eq!(panel.decode(1, &reply()), Err(NotAnAnswer::Length));
        let mut two = reply();
        two.extend_from_slice(&reply());
        assert_eq!(VERSIONS.decode(1, &two), Err(NotAnAnswer::Length));
    }

    #[test]
    fn exceptions_are_answers() {
        let exception = hex::decode("000100000003FE8302").unwrap();
        assert_eq!(VERSIONS.decode(1, &exception), Ok(Some(Answer::Exception(2))));
        let of_a_write = hex::decode("000100000003FE8602").unwrap();
        assert_eq!(VERSIONS.decode(1, &of_a_write), Err(NotAnAnswer::OtherQuestion));
    }

    #[test]
    fn any_unit_id_is_accepted_in_an_answer() {
        let mut reply = reply();
        reply[6] = 1;
        assert!(VERSIONS.decode(1, &reply).unwrap().is_some());
    }

    #[test]
    fn what_is_not_modbus_is_refused_at_once() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request"[..],
            b"\0\x01\x01\0",
            b"\0\x01\0\0\xff\xff\xfe",
            b"\0\x01\0\0\0\x02\xfe",
        ] {
            assert_eq!(VERSIONS.decode(1, bytes), Err(NotAnAnswer::Foreign), "{bytes:?}");
        }
        let short = hex::decode("00010000000DFE030C0132C0460110502E0000").unwrap();
        assert_eq!(VERSIONS.decode(1, &short), Err(NotAnAnswer::Length));
    }

    #[test]
    fn a_write_is_answered_by_its_echo_and_by_nothing_else() {
        let stop = Question::Write {
            register: 1,
            value: 0,
        };
        assert_eq!(hex::encode(stop.encode(7)), "000700000006fe0600000000");
        assert_eq!(
            stop.decode(7, &stop.encode(7)),
            Ok(Some(Answer::Words(Vec::new())))
        );
        let start = Question::Write {
            register: 1,
            value: 1,
        };
        assert_eq!(stop.decode(7, &start.encode(7)), Err(NotAnAnswer::OtherQuestion));
    }

    #[test]
    fn words_are_high_register_first() {
        assert_eq!(word(&[306, 49222]), Some(0x0132_C046));
        assert_eq!(word(&[306]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>, transaction: u16, first: u16, count: u16) {
            let _ = Question::Read { first, count }.decode(transaction, &bytes);
            let _ = Question::Write { register: first, value: count }.decode(transaction, &bytes);
        }

        #[test]
        fn any_damage_to_an_answer_is_read_without_a_panic(at in 0..21_usize, byte: u8) {
            let mut reply = reply();
            reply[at] = byte;
            let _ = VERSIONS.decode(1, &reply);
        }
    }
}
