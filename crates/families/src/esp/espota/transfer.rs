//! The transfer: the image's bytes to the device, its replies back.

use std::pin::pin;
use std::time::Duration;

use model::family::{Fault, FaultKind, Reach, Reason, Verdict};
use model::progress::{Progress, PushPhase};
use net::Outgoing;
use proto::espota::replies::{self, Ended, Replies, explain};
use proto::espota::{CHUNK_BYTES, DEVICE_STALL, STALL_LIMIT};
use tokio::io::Interest;
use tokio::time::Instant;

use super::Push;
use crate::esp::Pace;
use crate::talk::{cancelled, unsure};

/// How long the device may take from the last byte to its verdict: it flushes, compares the MD5 and checks the whole image
/// (`tools/espota.py` waits 30 s at a time for the result).
const VERDICT_WAIT: Duration = Duration::from_secs(30);
/// How long the device may take from the last byte to its verdict in all, whatever it says in between
/// (`tools/espota.py` waits 10 times 30 s).
const VERDICT_LIMIT: Duration = Duration::from_mins(5);
/// The slowest transfer that is waited for, bytes each second.
///
/// Guess: a third of what a flash manages that needs 1.5 s for each 4 KiB; a device that acknowledges for ever must end.
const SLOWEST_BYTES_PER_S: u64 = 1000;
/// How long the device may take to close the connection after its last word (it restarts 100 ms after `OK`).
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// The most handed to the kernel at once, bytes. Taste: larger than the socket's send buffer gains nothing.
const SLICE_BYTES: usize = 16 * 1024;
/// How often progress is stored, a cancel is noticed and a stall is looked for, while the image leaves. Taste: as often as
/// progress is told (DESIGN.md section 2); a cancel that comes a quarter of a second later spoils nothing.
const GLANCE_EVERY: Duration = Duration::from_millis(250);
/// Bytes of replies that are worth waking up for, while the image leaves and nobody waits for them.
///
/// A device sends a count of four digits for each 1,460 bytes that it takes, and each would wake this program: with 64 it used
/// half the CPU, and with 200 no less than that (bench/RESULTS.md, "fleet").
const REPLIES_AT_ONCE: u16 = 64;
/// The most reads in a row before anything else is looked at. Taste: a device that floods must not hold us.
const READS_AT_ONCE: usize = 16;

impl Push<'_> {
    /// Sends the bytes and reads the verdict. The socket stays fully open until then: a half-closed one makes the device abort.
    pub(super) async fn transfer(&self, stream: tokio::net::TcpStream) -> Result<Verdict, Fault> {
        let mut outgoing = Outgoing::new(stream);
        let mut listening = Listening::new();
        let mut glance = pin!(tokio::time::sleep(GLANCE_EVERY));
        let mut sending = Sending {
            bytes: self.image.bytes(),
            n_handed: 0,
            n_released: 0,
            n_replied: 0,
            replies: Replies::new(),
            pace: self.pace,
        };
        self.enter(PushPhase::Uploading)?;
        let mut patience = Patience::new(sending.bytes.len() as u64, Instant::now());
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
            listening.set(&outgoing, sending.waits_for_replies());
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
                () = &mut glance => {
                    glance.as_mut().reset(Instant::now() + GLANCE_EVERY);
                    listening.glanced(outgoing.acked());
                }
            }
            match sending.read(&mut outgoing) {
                Ok(Read::Nothing) => {}
                Ok(Read::Some) => patience.lives(Instant::now()),
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
            patience.acked(acked, Instant::now());
            self.progress.set_acked_bytes(acked);
            if self.progress.phase() == PushPhase::Cancelled {
                return Err(cancelled(sending.reach()));
            }
            let all_handed = sending.n_handed == sending.bytes.len();
            if let Some(how) = patience.ended(all_handed, Instant::now()) {
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
        // From now on each byte may be the one that says why.
        outgoing.readable_from(1);
        let said = sending.replies.verdict() != replies::Verdict::Pending;
        let until = Instant::now() + if said { CLOSE_WAIT } else { DEVICE_STALL };
        loop {
            match sending.read(outgoing) {
                // A device that never stops talking is not listened to for longer than a silent one.
                Ok(Read::Some) if Instant::now() >= until => break,
                Ok(Read::Some) => tokio::task::yield_now().await,
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
            Ended::Ok => Err(unsure(
                reach,
                Reason::MidStream,
                &format!("The device said OK after {acked} of {len} bytes, before it could have them all."),
            )),
            Ended::Error(text) => Err(device_error(reach, &text)),
            Ended::Nothing if acked >= len => Err(unsure(
                reach,
                Reason::VerdictLost,
                &format!("The device has acknowledged all {len} bytes, then {how} without a verdict."),
            )),
            Ended::Nothing => Err(unsure(
                reach,
                Reason::MidStream,
                &format!("The transfer broke off at {acked} of {len} bytes: {how}."),
            )),
        }
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
        said: Some(text.to_owned()),
        next_step: explanation.map(|explanation| explanation.next_step.to_owned()),
    }
}

/// How long a device is waited for. Any sign of life prolongs it, but not for ever: acknowledgements prove nothing.
struct Patience {
    len_bytes: u64,
    begun: Instant,
    last_life: Instant,
    acked_bytes: u64,
    /// When the device had every byte.
    all_acked: Option<Instant>,
}

impl Patience {
    fn new(len_bytes: u64, now: Instant) -> Self {
        Self {
            len_bytes,
            begun: now,
            last_life: now,
            acked_bytes: 0,
            all_acked: None,
        }
    }

    /// The device has said something.
    fn lives(&mut self, now: Instant) {
        self.last_life = now;
    }

    /// The device's TCP has taken so many bytes.
    fn acked(&mut self, acked_bytes: u64, now: Instant) {
        if acked_bytes > self.acked_bytes {
            self.acked_bytes = acked_bytes;
            self.lives(now);
        }
        if acked_bytes >= self.len_bytes {
            self.all_acked.get_or_insert(now);
        }
    }

    /// Why it is over, if it is.
    fn ended(&self, all_handed: bool, now: Instant) -> Option<String> {
        let stall = if all_handed { VERDICT_WAIT } else { STALL_LIMIT };
        if now.duration_since(self.last_life) >= stall {
            return Some(format!("the device took nothing more for {} s", stall.as_secs()));
        }
        let (since, limit) = if let Some(all_acked) = self.all_acked {
            (all_acked, VERDICT_LIMIT)
        } else {
            let slowest = Duration::from_secs(self.len_bytes / SLOWEST_BYTES_PER_S);
            (self.begun, slowest + VERDICT_LIMIT)
        };
        (now.duration_since(since) >= limit)
            .then(|| format!("the device went on acknowledging for {} s", limit.as_secs()))
    }
}

/// How closely the replies are listened to.
struct Listening {
    /// What the socket was told.
    from: u16,
    /// What the device had taken at the last glance.
    acked_bytes: u64,
    /// Whether it had taken nothing between the last two: it may have said why, and be waiting.
    stalls: bool,
}

impl Listening {
    fn new() -> Self {
        Self {
            from: 1,
            acked_bytes: 0,
            stalls: true,
        }
    }

    fn glanced(&mut self, acked_bytes: u64) {
        self.stalls = acked_bytes <= self.acked_bytes;
        self.acked_bytes = acked_bytes;
    }

    /// Counts alone wake nobody, as long as the image flows and nothing is done upon them.
    fn set(&mut self, outgoing: &Outgoing, waits_for_replies: bool) {
        let from = if waits_for_replies || self.stalls {
            1
        } else {
            REPLIES_AT_ONCE
        };
        if from != self.from {
            self.from = from;
            outgoing.readable_from(from);
        }
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

    /// Whether something is done upon the next reply, be it one digit.
    fn waits_for_replies(&self) -> bool {
        self.pace == Pace::StopAndWait || self.n_handed == self.bytes.len()
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
        for _ in 0..READS_AT_ONCE {
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
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 1_251_632;

    /// Lets the device say something every second, with so many bytes taken, and returns when it was given up.
    fn given_up_after(acked_at: impl Fn(u64) -> u64) -> Option<u64> {
        let begun = Instant::now();
        let mut patience = Patience::new(LEN, begun);
        (1..10_000).find(|second| {
            let now = begun + Duration::from_secs(*second);
            let acked = acked_at(*second);
            patience.lives(now);
            patience.acked(acked, now);
            patience.ended(acked >= LEN, now).is_some()
        })
    }

    #[test]
    fn a_device_that_acknowledges_for_ever_is_given_up() {
        assert_eq!(given_up_after(|_| LEN), Some(1 + 300), "all taken, no verdict");
        assert_eq!(
            given_up_after(|_| 50_000),
            Some(1251 + 300),
            "stopped in the middle"
        );
    }

    #[test]
    fn a_slow_flash_is_waited_for() {
        // 1.5 s for each 4 KiB (PROTOCOLS.md B1a); then the verdict follows within 20 s.
        let whole = LEN * 3 / 2 / 4096;
        let gave_up = given_up_after(|second| (second * 4096 * 2 / 3).min(LEN));
        assert!(gave_up.unwrap_or(u64::MAX) > whole + 20, "{gave_up:?}");
    }

    #[test]
    fn silence_ends_a_transfer_and_the_wait_for_a_verdict() {
        let begun = Instant::now();
        let mut patience = Patience::new(LEN, begun);
        assert_eq!(patience.ended(false, begun + Duration::from_secs(14)), None);
        assert!(patience.ended(false, begun + Duration::from_secs(15)).is_some());
        patience.acked(LEN, begun);
        assert_eq!(patience.ended(true, begun + Duration::from_secs(29)), None);
        assert!(patience.ended(true, begun + Duration::from_secs(30)).is_some());
    }
}
