//! The image on its way to a device that asked for it.

use std::io;
use std::time::Duration;

use model::family::Reach;
use model::image::Image;
use model::progress::{Progress, PushPhase};
use tokio::io::Interest;
use tokio::time::Instant;

use super::door::Arrived;
use crate::Outgoing;

/// How long the device may take nothing before the transfer counts as dead (RELIABILITY.md F37).
const STALL: Duration = Duration::from_secs(15);
/// The slowest transfer that is waited for, bytes each second, as with espota.
const SLOWEST_BYTES_PER_S: u64 = 1000;
/// How often to look whether somebody cancelled and how much has arrived.
const TICK: Duration = Duration::from_millis(100);
/// The last piece that a cancel can still hold back, bytes. Taste: what fits into one packet.
const LAST_PIECE_BYTES: usize = 1024;
/// The most handed to the system at once, bytes. Taste: larger than the socket's send buffer gains nothing.
const SLICE_BYTES: usize = 16 * 1024;

/// The device has asked for its image; nothing was sent yet.
#[derive(Debug)]
pub struct Taken {
    arrived: Arrived,
    image: Image,
}

/// What became of a transfer.
#[derive(Debug)]
pub struct Transferred {
    /// Image bytes that the device's TCP has acknowledged.
    pub acked_bytes: u64,
    /// How much of the image may have arrived.
    pub reach: Reach,
    /// How it ended.
    pub ended: Ended,
}

/// How a transfer ended.
#[derive(Debug)]
pub enum Ended {
    /// The device's TCP has acknowledged every byte.
    Whole,
    /// The device closed the connection before.
    Closed,
    /// The connection broke.
    Broke(io::Error),
    /// The device took nothing more.
    Stalled,
    /// Its owner cancelled.
    Cancelled,
}

impl Taken {
    pub(super) fn new(arrived: Arrived, image: Image) -> Self {
        Self { arrived, image }
    }

    /// Sends the image. Dropping the future ends the connection with a reset.
    pub async fn transfer(self, progress: &Progress) -> Transferred {
        let outgoing = Outgoing::new(self.arrived.stream);
        // Until all is acknowledged: an image cut short must not look like one that ended.
        outgoing.reset_on_drop();
        let image = self.image.bytes();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            image.len()
        );
        let mut sending = Sending {
            head: head.as_bytes(),
            image,
            n_handed: 0,
        };
        let ended = sending.run(&outgoing, progress).await;
        if matches!(ended, Ended::Whole) {
            outgoing.close_on_drop();
        }
        let acked_bytes = sending.acked(&outgoing);
        progress.set_acked_bytes(acked_bytes);
        Transferred {
            acked_bytes,
            reach: sending.reach(),
            ended,
        }
    }
}

struct Sending<'a> {
    head: &'a [u8],
    image: &'a [u8],
    /// Bytes that the system has taken, the head's included.
    n_handed: usize,
}

impl Sending<'_> {
    async fn run(&mut self, outgoing: &Outgoing, progress: &Progress) -> Ended {
        let len_bytes = self.image.len() as u64;
        let mut last_life = Instant::now();
        let until = last_life + Duration::from_mins(1) + Duration::from_secs(len_bytes / SLOWEST_BYTES_PER_S);
        let mut acked_bytes = 0;
        if progress.enter(PushPhase::Uploading).is_err() {
            return Ended::Cancelled;
        }
        loop {
            let interest = if self.n_handed < self.head.len() + self.image.len() {
                Interest::READABLE | Interest::WRITABLE
            } else {
                Interest::READABLE
            };
            // Both arms only wait for something to become possible: dropping them loses nothing.
            tokio::select! {
                ready = outgoing.ready(interest) => if let Err(error) = ready {
                    return Ended::Broke(error);
                },
                () = tokio::time::sleep(TICK) => {}
            }
            match self.send(outgoing, progress) {
                Ok(true) => {}
                Ok(false) => return Ended::Cancelled,
                Err(error) => return Ended::Broke(error),
            }
            let acked = self.acked(outgoing);
            progress.set_acked_bytes(acked);
            if acked >= len_bytes {
                return Ended::Whole;
            }
            if acked > acked_bytes {
                (acked_bytes, last_life) = (acked, Instant::now());
            }
            // It has nothing to say: what it sends is thrown away, and its end is an end.
            match outgoing.try_read(&mut [0; 512]) {
                Ok(0) => return self.at_end(outgoing, Ended::Closed),
                Ok(_) => tokio::task::yield_now().await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return self.at_end(outgoing, Ended::Broke(error)),
            }
            if progress.phase() == PushPhase::Cancelled {
                return Ended::Cancelled;
            }
            if last_life.elapsed() >= STALL || Instant::now() >= until {
                return Ended::Stalled;
            }
        }
    }

    fn at_end(&self, outgoing: &Outgoing, ended: Ended) -> Ended {
        if self.acked(outgoing) >= self.image.len() as u64 {
            Ended::Whole
        } else {
            ended
        }
    }

    /// Hands as much to the system as it takes; the last piece only if nobody has cancelled, which is told.
    fn send(&mut self, outgoing: &Outgoing, progress: &Progress) -> io::Result<bool> {
        let total = self.head.len() + self.image.len();
        let last_piece = total - LAST_PIECE_BYTES.min(self.image.len());
        while self.n_handed < total {
            let piece = if self.n_handed < self.head.len() {
                &self.head[self.n_handed..]
            } else {
                let to = if self.n_handed < last_piece {
                    (self.n_handed + SLICE_BYTES).min(last_piece)
                } else {
                    if progress.enter(PushPhase::LastByte).is_err() {
                        return Ok(false);
                    }
                    total
                };
                &self.image[self.n_handed - self.head.len()..to - self.head.len()]
            };
            match outgoing.try_write(piece) {
                Ok(n_bytes) => self.n_handed += n_bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn acked(&self, outgoing: &Outgoing) -> u64 {
        outgoing.acked().saturating_sub(self.head.len() as u64)
    }

    fn reach(&self) -> Reach {
        if self.n_handed <= self.head.len() {
            Reach::Nothing
        } else if self.n_handed < self.head.len() + self.image.len() {
            Reach::Part
        } else {
            Reach::Whole
        }
    }
}
