//! The transfer: the image's bytes to the device, its replies back.

use std::time::Duration;

use model::family::{Fault, FaultKind, Reach, Reason, Verdict};
use model::progress::{Progress, PushPhase};
use net::Outgoing;
use proto::espota::replies::{self, Ended, Replies, explain};
use proto::espota::{CHUNK_BYTES, DEVICE_STALL, STALL_LIMIT};
use tokio::io::Interest;
use tokio::time::Instant;

use super::{Push, TICK};
use crate::esp::Pace;
use crate::talk::{cancelled, unsure};

/// How long the device may take from the last byte to its verdict: it flushes, compares the MD5 and checks the whole image
/// (`tools/espota.py` waits 30 s at a time for the result).
const VERDICT_WAIT: Duration = Duration::from_secs(30);
/// How long the device may take to close the connection after its last word (it restarts 100 ms after `OK`).
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// The most handed to the kernel at once, bytes. Taste: larger than the socket's send buffer gains nothing.
const SLICE_BYTES: usize = 16 * 1024;

impl Push<'_> {
    /// Sends the bytes and reads the verdict. The socket stays fully open until then: a half-closed one makes the device abort.
    pub(super) async fn transfer(&self, stream: tokio::net::TcpStream) -> Result<Verdict, Fault> {
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
