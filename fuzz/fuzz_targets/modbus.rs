//! Whatever a unit answers over Modbus: no panic, as many words as were asked for, and the same in any split.
#![no_main]

use families::fuzzing::{Answer, Question};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, u16, u8, bool, &[u8])| {
    let (transaction, first, count, write, bytes) = input;
    let count = u16::from(count % 125) + 1;
    let question = if write {
        Question::Write {
            register: first,
            value: count,
        }
    } else {
        Question::Read { first, count }
    };
    match question.decode(transaction, bytes) {
        Ok(Some(Answer::Words(words))) => {
            assert_eq!(words.len(), if write { 0 } else { usize::from(count) });
            // Nothing shorter is an answer already, so how it is cut into segments does not matter.
            for len in 0..bytes.len() {
                assert_eq!(question.decode(transaction, &bytes[..len]), Ok(None));
            }
            assert!(question.decode(transaction.wrapping_add(1), bytes).is_err());
        }
        Ok(Some(Answer::Exception(_))) => assert_eq!(bytes.len(), 9),
        Ok(None) => assert!(bytes.len() < 260),
        Err(_) => {}
    }
});
