//! What waits to be sent and what waits to be taken: decisions without a socket or a clock.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use rumqttc::mqttbytes::{matches, valid_filter, valid_topic};

use super::{Commanded, Incoming, Outgoing, PAYLOAD_MAX_LEN, Weight};

/// Messages in line for the broker, and their bytes. Guess: 64 devices tell their state every second for a quarter of a
/// minute; the bytes are what a small server can spare.
pub(super) const QUEUE_MAX: usize = 1000;
const QUEUE_MAX_BYTES: usize = 4 * 1024 * 1024;
/// Commands under way at once. Guess: as many devices as are ever updated at once.
const COMMANDS_MAX: usize = 64;
/// Messages that wait for one who listens. Guess: a device says less in a minute.
const HEARD_MAX: usize = 256;
/// Longest topic, bytes (MQTT 3.1.1 section 1.5.3).
const TOPIC_MAX_LEN: usize = 65_535;

/// One command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// What goes to the broker next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) retain: bool,
    /// Which command it is, if it is one.
    pub(super) ticket: Option<Ticket>,
}

#[derive(Debug, Default)]
pub(super) struct Queues {
    connected: bool,
    /// In line, the oldest first.
    line: VecDeque<Outgoing>,
    line_len_bytes: usize,
    /// Handed to the connection and not confirmed, in the order in which they were.
    flying: VecDeque<Next>,
    /// What the flying ones are worth, for when they come back.
    weights: VecDeque<Weight>,
    commands: VecDeque<Next>,
    /// The commands that somebody waits for: none = no end yet.
    waited_for: HashMap<Ticket, Option<Commanded>>,
    next_id: u64,
    listening: BTreeMap<u64, Listener>,
    /// What the broker has agreed to, or refused, on this connection.
    agreed: BTreeMap<String, bool>,
    pub(super) n_given_up: u64,
    pub(super) n_connections: u64,
}

#[derive(Debug)]
struct Listener {
    filters: Vec<String>,
    heard: VecDeque<Incoming>,
    n_lost: u64,
}

impl Queues {
    pub(super) fn push(&mut self, message: Outgoing) -> bool {
        if !is_sendable(&message.topic, &message.payload) {
            return false;
        }
        let len = len_of(&message);
        while self.line.len() >= QUEUE_MAX || self.line_len_bytes + len > QUEUE_MAX_BYTES {
            let oldest = self
                .line
                .iter()
                .position(|message| message.weight == Weight::Progress);
            let Some(gone) = oldest.and_then(|oldest| self.line.remove(oldest)) else {
                self.give_one_up();
                return false;
            };
            self.line_len_bytes -= len_of(&gone);
            self.give_one_up();
        }
        self.line_len_bytes += len;
        self.line.push_back(message);
        true
    }

    fn give_one_up(&mut self) {
        self.n_given_up += 1;
        // The 1st, 2nd, 4th, 8th, …: it must not fill the log.
        if self.n_given_up.is_power_of_two() {
            tracing::warn!(
                n_given_up = self.n_given_up,
                "the broker does not take what is told; the oldest progress was given up"
            );
        }
    }

    /// Puts a command in line, if it can leave now.
    pub(super) fn push_command(&mut self, topic: &str, payload: Vec<u8>) -> Option<Ticket> {
        if !self.connected || self.waited_for.len() >= COMMANDS_MAX || !is_sendable(topic, &payload) {
            return None;
        }
        let ticket = Ticket(self.id());
        self.waited_for.insert(ticket, None);
        self.commands.push_back(Next {
            topic: topic.to_owned(),
            payload,
            retain: false,
            ticket: Some(ticket),
        });
        Some(ticket)
    }

    /// How this command ended, if it has; it is forgotten then.
    pub(super) fn ended(&mut self, ticket: Ticket) -> Option<Commanded> {
        match self.waited_for.get(&ticket) {
            Some(None) => None,
            Some(Some(_)) => self.waited_for.remove(&ticket).flatten(),
            None => Some(Commanded::Unknown),
        }
    }

    /// Takes a command back: nobody waits for it any more.
    pub(super) fn give_up(&mut self, ticket: Ticket) -> Commanded {
        let n_before = self.commands.len();
        self.commands.retain(|command| command.ticket != Some(ticket));
        let ended = self.waited_for.remove(&ticket).flatten();
        if self.commands.len() < n_before {
            return Commanded::NotSent;
        }
        ended.unwrap_or(Commanded::Unknown)
    }

    /// What to send next, commands first; from now on it counts as having left.
    pub(super) fn take(&mut self) -> Option<Next> {
        if let Some(command) = self.commands.pop_front() {
            self.flying.push_back(command.clone());
            self.weights.push_back(Weight::Result);
            return Some(command);
        }
        let message = self.line.pop_front()?;
        self.line_len_bytes -= len_of(&message);
        let next = Next {
            topic: message.topic,
            payload: message.payload,
            retain: message.retain,
            ticket: None,
        };
        self.flying.push_back(next.clone());
        self.weights.push_back(message.weight);
        Some(next)
    }

    /// The broker has taken the oldest that left.
    pub(super) fn confirm(&mut self) {
        self.weights.pop_front();
        if let Some(ticket) = self.flying.pop_front().and_then(|taken| taken.ticket)
            && let Some(ended) = self.waited_for.get_mut(&ticket)
        {
            *ended = Some(Commanded::Taken);
        }
    }

    pub(super) fn connect(&mut self) {
        self.connected = true;
        self.n_connections += 1;
    }

    /// How many more messages the line takes.
    pub(super) fn room(&self) -> usize {
        QUEUE_MAX.saturating_sub(self.line.len())
    }

    /// Whether the broker has confirmed all that it was to get.
    pub(super) fn is_idle(&self) -> bool {
        self.line.is_empty() && self.flying.is_empty() && self.commands.is_empty()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }

    /// The connection is lost: what the broker did not confirm stands in line again, before all others; but commands
    /// do not.
    pub(super) fn disconnect(&mut self) {
        self.connected = false;
        self.agreed.clear();
        for command in self.commands.drain(..) {
            if let Some(ended) = command.ticket.and_then(|ticket| self.waited_for.get_mut(&ticket)) {
                *ended = Some(Commanded::NotSent);
            }
        }
        while let (Some(next), Some(weight)) = (self.flying.pop_back(), self.weights.pop_back()) {
            if let Some(ticket) = next.ticket {
                if let Some(ended) = self.waited_for.get_mut(&ticket) {
                    *ended = Some(Commanded::Unknown);
                }
                continue;
            }
            let message = Outgoing {
                topic: next.topic,
                payload: next.payload,
                retain: next.retain,
                weight,
            };
            self.line_len_bytes += len_of(&message);
            self.line.push_front(message);
        }
    }

    pub(super) fn listen(&mut self, filters: &[String]) -> u64 {
        let id = self.id();
        let listener = Listener {
            filters: filters.to_vec(),
            heard: VecDeque::new(),
            n_lost: 0,
        };
        self.listening.insert(id, listener);
        id
    }

    pub(super) fn unlisten(&mut self, id: u64) {
        self.listening.remove(&id);
    }

    pub(super) fn hear(&mut self, id: u64) -> Option<Incoming> {
        self.listening.get_mut(&id)?.heard.pop_front()
    }

    /// Whether the broker has agreed to everything that this one listens to; none = it has not said yet.
    pub(super) fn is_agreed(&self, id: u64) -> Option<bool> {
        let filters = &self.listening.get(&id)?.filters;
        let said = |filter: &String| match self.agreed.get(filter) {
            None if !is_filter(filter) => Some(false),
            agreed => agreed.copied(),
        };
        if filters.iter().any(|filter| said(filter) == Some(false)) {
            return Some(false);
        }
        filters
            .iter()
            .all(|filter| said(filter).is_some())
            .then_some(true)
    }

    /// What to subscribe to, and what to unsubscribe from.
    pub(super) fn subscriptions_due(&self) -> (Vec<String>, Vec<String>) {
        let wanted: BTreeSet<&String> = self
            .listening
            .values()
            .flat_map(|listener| &listener.filters)
            .filter(|filter| is_filter(filter))
            .collect();
        let more = wanted.iter().filter(|filter| !self.agreed.contains_key(**filter));
        let fewer = self.agreed.keys().filter(|filter| !wanted.contains(filter));
        (more.copied().cloned().collect(), fewer.cloned().collect())
    }

    pub(super) fn subscribed(&mut self, filter: &str, agreed: bool) {
        self.agreed.insert(filter.to_owned(), agreed);
    }

    pub(super) fn unsubscribed(&mut self, filter: &str) {
        self.agreed.remove(filter);
    }

    /// Hands a message to all who listen to its topic.
    pub(super) fn tell(&mut self, message: &Incoming) {
        for listener in self.listening.values_mut() {
            if !listener
                .filters
                .iter()
                .any(|filter| matches(&message.topic, filter))
            {
                continue;
            }
            if listener.heard.len() >= HEARD_MAX {
                listener.heard.pop_front();
                listener.n_lost += 1;
                if listener.n_lost.is_power_of_two() {
                    tracing::warn!(
                        n_lost = listener.n_lost,
                        "messages of the broker were not taken in time"
                    );
                }
            }
            listener.heard.push_back(message.clone());
        }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

fn is_sendable(topic: &str, payload: &[u8]) -> bool {
    !topic.is_empty()
        && topic.len() <= TOPIC_MAX_LEN / 2
        && !topic.contains('\0')
        && valid_topic(topic)
        && payload.len() <= PAYLOAD_MAX_LEN
}

fn is_filter(filter: &str) -> bool {
    filter.len() <= TOPIC_MAX_LEN / 2 && !filter.contains('\0') && valid_filter(filter)
}

fn len_of(message: &Outgoing) -> usize {
    message.topic.len() + message.payload.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(n: usize, weight: Weight) -> Outgoing {
        Outgoing {
            topic: format!("reflash/{n}"),
            payload: vec![b'x'; 10],
            retain: true,
            weight,
        }
    }

    fn connected() -> Queues {
        let mut queues = Queues::default();
        queues.connect();
        queues
    }

    fn topics(queues: &mut Queues) -> Vec<String> {
        std::iter::from_fn(|| queues.take())
            .map(|next| next.topic)
            .collect()
    }

    #[test]
    fn where_there_is_no_room_the_oldest_progress_goes_and_never_a_result() {
        // RELIABILITY.md F81.
        let mut queues = Queues::default();
        for n in 0..QUEUE_MAX {
            let weight = if n % 2 == 0 {
                Weight::Result
            } else {
                Weight::Progress
            };
            assert!(queues.push(message(n, weight)));
        }
        for n in 0..QUEUE_MAX / 2 {
            assert!(queues.push(message(QUEUE_MAX + n, Weight::Result)), "{n}");
        }
        assert_eq!(queues.n_given_up, 500);
        // Now only results are in line.
        assert!(!queues.push(message(5000, Weight::Result)));
        assert!(!queues.push(message(5000, Weight::Progress)));
        let left = topics(&mut queues);
        assert_eq!(left.len(), QUEUE_MAX);
        assert_eq!(left[0..3], ["reflash/0", "reflash/2", "reflash/4"]);
        assert_eq!(left[999], "reflash/1499");
    }

    #[test]
    fn long_messages_do_not_fill_the_memory() {
        let mut queues = Queues::default();
        let long = |weight| Outgoing {
            payload: vec![b'x'; PAYLOAD_MAX_LEN],
            ..message(1, weight)
        };
        let n_results = (0..QUEUE_MAX)
            .take_while(|_| queues.push(long(Weight::Result)))
            .count();
        assert!((60..64).contains(&n_results), "{n_results}");
        assert!(!queues.push(long(Weight::Progress)));
        assert_eq!(topics(&mut queues).len(), n_results);
        // And the room is there again.
        assert!(queues.push(long(Weight::Result)));
        let too_long = Outgoing {
            payload: vec![b'x'; PAYLOAD_MAX_LEN + 1],
            ..message(1, Weight::Result)
        };
        assert!(!queues.push(too_long));
    }

    #[test]
    fn a_topic_that_is_none_is_not_sent() {
        let long = "x".repeat(70_000);
        for topic in ["", "a/+", "#", "a\0b", &long] {
            let mut queues = connected();
            let named = Outgoing {
                topic: topic.to_owned(),
                ..message(1, Weight::Result)
            };
            assert!(!queues.push(named), "{topic}");
            assert_eq!(queues.push_command(topic, Vec::new()), None, "{topic}");
        }
    }

    #[test]
    fn what_was_not_confirmed_is_sent_again_in_its_order_but_commands_are_not() {
        let mut queues = connected();
        for n in 0..4 {
            queues.push(message(n, Weight::Result));
        }
        let ticket = queues.push_command("cmd", Vec::new()).unwrap();
        assert_eq!(queues.take().unwrap().topic, "cmd");
        assert_eq!(queues.take().unwrap().topic, "reflash/0");
        assert_eq!(queues.take().unwrap().topic, "reflash/1");
        let late = queues.push_command("late", Vec::new()).unwrap();
        queues.disconnect();
        assert_eq!(queues.ended(ticket), Some(Commanded::Unknown));
        assert_eq!(queues.ended(late), Some(Commanded::NotSent));
        assert_eq!(
            topics(&mut queues),
            ["reflash/0", "reflash/1", "reflash/2", "reflash/3"]
        );
        queues.confirm();
        queues.disconnect();
        assert_eq!(topics(&mut queues), ["reflash/1", "reflash/2", "reflash/3"]);
    }

    #[test]
    fn a_command_is_taken_only_when_the_broker_says_so() {
        let mut queues = connected();
        let ticket = queues.push_command("cmd", Vec::new()).unwrap();
        assert_eq!(queues.ended(ticket), None);
        queues.take();
        assert_eq!(queues.ended(ticket), None);
        queues.confirm();
        assert_eq!(queues.ended(ticket), Some(Commanded::Taken));
        // One that is taken back before it left never leaves.
        let ticket = queues.push_command("cmd", Vec::new()).unwrap();
        assert_eq!(queues.give_up(ticket), Commanded::NotSent);
        assert_eq!(queues.take(), None);
        let ticket = queues.push_command("cmd", Vec::new()).unwrap();
        queues.take();
        assert_eq!(queues.give_up(ticket), Commanded::Unknown);
    }

    #[test]
    fn without_a_connection_there_is_no_command() {
        let mut queues = Queues::default();
        assert_eq!(queues.push_command("cmd", Vec::new()), None);
        queues.connect();
        for _ in 0..COMMANDS_MAX {
            assert!(queues.push_command("cmd", Vec::new()).is_some());
        }
        assert_eq!(queues.push_command("cmd", Vec::new()), None);
    }

    #[test]
    fn a_topic_is_subscribed_to_as_long_as_somebody_listens() {
        let mut queues = connected();
        let one = queues.listen(&["a/+".to_owned(), "b".to_owned()]);
        let two = queues.listen(&["b".to_owned(), "a/#/x".to_owned()]);
        assert_eq!(queues.subscriptions_due().0, ["a/+", "b"]);
        assert_eq!(queues.is_agreed(one), None);
        queues.subscribed("a/+", true);
        queues.subscribed("b", false);
        assert_eq!(queues.is_agreed(one), Some(false));
        queues.subscribed("b", true);
        assert_eq!(queues.is_agreed(one), Some(true));
        // What is no topic filter is refused without asking the broker, which would hang up.
        assert_eq!(queues.is_agreed(two), Some(false));
        queues.unlisten(one);
        assert_eq!(queues.subscriptions_due(), (Vec::new(), vec!["a/+".to_owned()]));
        queues.disconnect();
        assert_eq!(queues.subscriptions_due().0, ["b"]);
    }

    #[test]
    fn who_listens_hears_its_own_topics_and_loses_the_oldest() {
        let mut queues = connected();
        let one = queues.listen(&["home/+/update".to_owned()]);
        let said = |topic: &str, n: usize| Incoming {
            topic: topic.to_owned(),
            payload: n.to_string().into_bytes(),
            retained: false,
        };
        queues.tell(&said("home/other", 0));
        assert_eq!(queues.hear(one), None);
        for n in 0..=HEARD_MAX {
            queues.tell(&said("home/a/update", n));
        }
        assert_eq!(queues.hear(one), Some(said("home/a/update", 1)));
    }
}
