//! One Modbus connection to a unit: a question, its answer, and a pause before the next.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use net::{DialError, Dialer, TcpOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::modbus::{Answer, NotAnAnswer, Question};

/// How long to wait between two questions (vendor's manual, PROTOCOLS.md A5: 500 ms).
pub(crate) const SPACING: Duration = Duration::from_millis(500);
/// How long a connection may take to come about (RELIABILITY.md T36).
const CONNECT_WAIT: Duration = Duration::from_secs(2);
/// How long an answer may take. Guess: four times the spacing that the vendor asks for.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// When a unit may be asked again; kept over connections.
#[derive(Debug)]
pub(super) struct Spacing {
    between: Duration,
    next: Instant,
}

impl Spacing {
    /// As if it had been asked just now: another driver of ours, or a process before this one, may have.
    pub(super) fn new(between: Duration) -> Self {
        Self {
            between,
            next: Instant::now() + between,
        }
    }

    fn asked(&mut self) {
        self.next = Instant::now() + self.between;
    }
}

/// A connection. After an error it is of no use any more and is to be dropped: a late answer then has nowhere to arrive.
pub(super) struct Link<'a> {
    stream: TcpStream,
    spacing: &'a mut Spacing,
    transaction: u16,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// No answer in time.
    #[error("no answer within {} ms", ANSWER_WAIT.as_millis())]
    TimedOut,
    /// The unit closed the connection.
    #[error("the connection was closed")]
    Closed,
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[source] io::Error),
    /// The unit cannot answer now.
    #[error("it answers with exception {0}")]
    Exception(u8),
    /// The answer is none.
    #[error(transparent)]
    NotAnAnswer(#[from] NotAnAnswer),
}

impl<'a> Link<'a> {
    /// Connects.
    pub(super) async fn open(
        dialer: &Dialer,
        unit: SocketAddr,
        spacing: &'a mut Spacing,
    ) -> Result<Self, LinkError> {
        let stream = dialer.tcp(unit, TcpOptions::default(), CONNECT_WAIT).await?;
        Ok(Self {
            stream,
            spacing,
            transaction: 0,
        })
    }

    /// Asks once.
    pub(super) async fn ask(&mut self, question: Question) -> Result<Answer, LinkError> {
        if self.spacing.next > Instant::now() {
            sleep_until(self.spacing.next).await;
        }
        self.transaction = self.transaction.wrapping_add(1);
        let exchange = exchange(&mut self.stream, question, self.transaction);
        let result = timeout(ANSWER_WAIT, exchange).await;
        self.spacing.asked();
        result.unwrap_or(Err(LinkError::TimedOut))
    }
}

async fn exchange(stream: &mut TcpStream, question: Question, transaction: u16) -> Result<Answer, LinkError> {
    let frame = question.encode(transaction);
    stream.write_all(&frame).await.map_err(LinkError::Io)?;
    let mut answer = Vec::new();
    loop {
        if let Some(answer) = question.decode(transaction, &answer)? {
            return Ok(answer);
        }
        // Bounded: a frame longer than Modbus allows is refused as soon as its header is there.
        if stream.read_buf(&mut answer).await.map_err(LinkError::Io)? == 0 {
            return Err(LinkError::Closed);
        }
    }
}
