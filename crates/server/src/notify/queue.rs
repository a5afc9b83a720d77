//! Messages for one receiver, until it has taken them: tried again after a while, bounded, in order.

use std::collections::VecDeque;
use std::time::Duration;

use super::message::{Kind, Message};

/// Messages that wait for one receiver. Guess: two hours of the most that there may be, and weeks of what there mostly is.
pub(super) const N_WAITING: usize = 50;
/// Tries until its owner should know; from then on it is only tried now and then.
pub(super) const N_TRIES: usize = 5;

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// One try, from looking up the name to the end of the answer.
    pub deadline: Duration,
    /// The pauses after the first tries that failed.
    pub pauses: [Duration; N_TRIES - 1],
    /// The pauses after that.
    pub now_and_then: Duration,
}

impl Default for Pace {
    /// Guess: a restarting receiver is back within a minute, and one that is away for longer may stay away for long.
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            pauses: [
                Duration::from_secs(2),
                Duration::from_secs(10),
                Duration::from_mins(1),
                Duration::from_mins(5),
            ],
            now_and_then: Duration::from_mins(15),
        }
    }
}

/// Why a message did not arrive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(super) struct Undelivered {
    /// In a sentence without a full stop, and without a secret.
    pub(super) text: String,
    /// It is this very message that is not wanted.
    pub(super) because_of_message: bool,
}

/// What became of a try that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// It stays, and is tried again.
    Kept,
    /// It was given up: its receiver does not want it.
    GivenUp,
}

/// Messages for one receiver.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Message>,
    n_failed: usize,
    /// Since boot.
    not_before: Duration,
    last: Option<Undelivered>,
}

impl Queue {
    /// With what an earlier process has left.
    pub(super) fn of(messages: Vec<Message>) -> Self {
        Self {
            waiting: messages.into(),
            ..Self::default()
        }
    }

    /// Adds one. Gives back the one that had to go for it: the oldest, of those that do not wait for somebody.
    pub(super) fn push(&mut self, message: Message) -> Option<Message> {
        self.waiting.push_back(message);
        if self.waiting.len() <= N_WAITING {
            return None;
        }
        let is_ordinary = |message: &Message| message.kind != Kind::Halted;
        let idx = self.waiting.iter().position(is_ordinary).unwrap_or(0);
        self.waiting.remove(idx)
    }

    /// All that wait, in order.
    pub(super) fn messages(&self) -> impl Iterator<Item = &Message> {
        self.waiting.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The one to send now.
    pub(super) fn due(&self, now: Duration) -> Option<&Message> {
        self.waiting.front().filter(|_| self.not_before <= now)
    }

    /// How long to wait for the next; none where there is none.
    pub(super) fn next(&self, now: Duration) -> Option<Duration> {
        let _ = self.waiting.front()?;
        Some(self.not_before.saturating_sub(now))
    }

    /// It has arrived.
    pub(super) fn arrived(&mut self, id: &str) {
        self.waiting.retain(|message| message.id != id);
        self.n_failed = 0;
        self.not_before = Duration::ZERO;
        self.last = None;
    }

    /// It has not.
    pub(super) fn failed(&mut self, id: &str, why: Undelivered, now: Duration, pace: &Pace) -> After {
        self.n_failed += 1;
        let pause = pace
            .pauses
            .get(self.n_failed - 1)
            .copied()
            .unwrap_or(pace.now_and_then);
        self.not_before = now + pause;
        if why.because_of_message && self.n_failed >= N_TRIES {
            // The others may fare better.
            self.arrived(id);
            return After::GivenUp;
        }
        self.last = Some(why);
        After::Kept
    }

    /// Something has changed: it is tried at once.
    pub(super) fn hurry(&mut self) {
        self.n_failed = 0;
        self.not_before = Duration::ZERO;
    }

    /// Why its receiver takes nothing, once that has lasted.
    pub(super) fn trouble(&self) -> Option<&Undelivered> {
        self.last.as_ref().filter(|_| self.n_failed >= N_TRIES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(n: i64, kind: Kind) -> Message {
        Message::new(kind, ("", ""), Vec::new(), Some(n), &[(n, n)])
    }

    fn why(because_of_message: bool) -> Undelivered {
        Undelivered {
            text: "it answers HTTP 500".to_owned(),
            because_of_message,
        }
    }

    fn numbers(queue: &Queue) -> Vec<i64> {
        queue.messages().filter_map(|message| message.rollout).collect()
    }

    #[test]
    fn five_tries_then_its_owner_should_know_and_it_is_tried_now_and_then() {
        let mut queue = Queue::default();
        queue.push(message(1, Kind::Failed));
        queue.push(message(2, Kind::Failed));
        let mut now = Duration::from_hours(1);
        let mut waits = Vec::new();
        for n in 1..=7 {
            let id = queue.due(now).unwrap().id.clone();
            assert_eq!(queue.failed(&id, why(false), now, &Pace::default()), After::Kept);
            assert_eq!(queue.trouble().is_some(), n >= N_TRIES, "try {n}");
            let wait = queue.next(now).unwrap();
            assert_eq!(
                queue.due(now + wait.saturating_sub(Duration::from_millis(1))),
                None
            );
            now += wait;
            waits.push(wait.as_secs());
        }
        assert_eq!(waits, [2, 10, 60, 300, 900, 900, 900]);
        let id = queue.due(now).unwrap().id.clone();
        queue.arrived(&id);
        assert_eq!((queue.trouble(), numbers(&queue)), (None, vec![2]));
        assert_eq!(queue.next(now), Some(Duration::ZERO), "the others follow at once");
    }

    #[test]
    fn one_that_is_not_wanted_does_not_hold_up_the_others_for_ever() {
        let mut queue = Queue::of(vec![message(1, Kind::Failed), message(2, Kind::Failed)]);
        let now = Duration::from_hours(1);
        let id = message(1, Kind::Failed).id;
        let after: Vec<After> = (0..N_TRIES)
            .map(|_| queue.failed(&id, why(true), now, &Pace::default()))
            .collect();
        assert_eq!(after.last(), Some(&After::GivenUp));
        assert!(after[..N_TRIES - 1].iter().all(|after| *after == After::Kept));
        assert_eq!(numbers(&queue), [2]);
        assert_eq!(queue.due(now).map(|message| message.rollout), Some(Some(2)));
    }

    #[test]
    fn it_is_bounded_and_what_waits_for_somebody_goes_last() {
        let mut queue = Queue::default();
        queue.push(message(0, Kind::Halted));
        for n in 1..100 {
            let gone = queue.push(message(n, Kind::Failed)).and_then(|gone| gone.rollout);
            let expected = (n >= 50).then_some(n - 49);
            assert_eq!(gone, expected);
        }
        assert_eq!((queue.len(), numbers(&queue)[0]), (N_WAITING, 0));
        for n in 100..200 {
            queue.push(message(n, Kind::Halted));
        }
        assert_eq!(numbers(&queue), (150..200).collect::<Vec<_>>());
    }

    #[test]
    fn one_that_went_while_it_was_sent_is_not_missed() {
        let mut queue = Queue::of(vec![message(1, Kind::Failed)]);
        let id = queue.due(Duration::ZERO).unwrap().id.clone();
        for n in 2..60 {
            queue.push(message(n, Kind::Failed));
        }
        queue.arrived(&id);
        assert_eq!(queue.len(), N_WAITING);
    }

    #[test]
    fn another_address_is_tried_at_once() {
        let mut queue = Queue::of(vec![message(1, Kind::Failed)]);
        let id = message(1, Kind::Failed).id;
        queue.failed(&id, why(false), Duration::from_hours(1), &Pace::default());
        queue.hurry();
        assert!(queue.due(Duration::from_hours(1)).is_some());
    }
}
