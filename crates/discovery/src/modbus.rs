//! Reading registers over Modbus TCP, once: function 3 and nothing else (Modbus application protocol 1.1b3, 6.3).

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Whom to ask behind the address: what ventilation units are set to; over TCP they ignore it (PROTOCOLS.md A5).
const UNIT_ID: u8 = 254;
/// Comes back in the answer; there is only one on a connection.
const TRANSACTION: u16 = 1;
const READ: u8 = 3;
/// Most registers that may be read at once (Modbus application protocol 1.1b3, section 6.3).
const COUNT_MAX: u16 = 125;
/// Header, function and length, before the words.
const HEAD_LEN: usize = 9;
/// How long an answer may take. Guess: four times the 500 ms that vendors ask for between two questions.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// The registers from `first` (counted from 1) on; none if the answer is anything else.
pub(crate) async fn read(mut stream: TcpStream, first: u16, count: u16) -> Option<Vec<u16>> {
    let count = count.clamp(1, COUNT_MAX);
    let exchange = async {
        stream.write_all(&question(first, count)).await.ok()?;
        // Exactly as long as the right answer is: whatever else comes is never taken in.
        let mut answer = vec![0; HEAD_LEN + 2 * usize::from(count)];
        stream.read_exact(&mut answer).await.ok()?;
        words(&answer, count)
    };
    tokio::time::timeout(ANSWER_WAIT, exchange).await.ok().flatten()
}

fn question(first: u16, count: u16) -> [u8; 12] {
    let mut frame = [0; 12];
    frame[0..2].copy_from_slice(&TRANSACTION.to_be_bytes());
    frame[5] = 6;
    frame[6] = UNIT_ID;
    frame[7] = READ;
    frame[8..10].copy_from_slice(&first.wrapping_sub(1).to_be_bytes());
    frame[10..12].copy_from_slice(&count.to_be_bytes());
    frame
}

fn words(answer: &[u8], count: u16) -> Option<Vec<u16>> {
    let (head, words) = answer.split_first_chunk::<HEAD_LEN>()?;
    let len = u8::try_from(2 * count).ok()?;
    let [id_high, id_low, 0, 0, 0, frame_len, _unit, READ, words_len] = *head else {
        return None;
    };
    let is_answer =
        u16::from_be_bytes([id_high, id_low]) == TRANSACTION && frame_len == len + 3 && words_len == len;
    (is_answer && words.len() == usize::from(len)).then(|| {
        words
            .chunks_exact(2)
            .map(|word| u16::from_be_bytes([word[0], word[1]]))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worked frames of PROTOCOLS.md A5.
    const QUESTION: [u8; 12] = [0, 1, 0, 0, 0, 6, 0xfe, 3, 3, 0xe7, 0, 6];
    const ANSWER: [u8; 21] = [
        0, 1, 0, 0, 0, 0x0f, 0xfe, 3, 0x0c, 0x01, 0x32, 0xc0, 0x46, 0x01, 0x10, 0x50, 0x2e, 0, 0, 0, 0,
    ];

    #[test]
    fn the_worked_frame_is_asked_and_read() {
        assert_eq!(question(1000, 6), QUESTION);
        assert_eq!(words(&ANSWER, 6), Some(vec![306, 49222, 272, 20526, 0, 0]));
    }

    #[test]
    fn any_other_answer_is_none() {
        for idx in [0, 1, 2, 3, 4, 5, 7, 8] {
            let mut other = ANSWER;
            other[idx] ^= 0x80;
            assert_eq!(words(&other, 6), None, "byte {idx}");
        }
        assert_eq!(words(&ANSWER[..20], 6), None);
        assert_eq!(words(&ANSWER, 5), None);
        assert_eq!(words(&[], 6), None);
    }
}
