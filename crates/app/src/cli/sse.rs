//! Server-sent events as they come, in any split (HTML standard, section 9.2).

/// The longest line that is read, bytes. Guess: a thousand times what an event of ours takes.
const MAX_LINE_LEN: usize = 1024 * 1024;

/// One event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// Its kind: empty where it says none.
    pub(super) event: String,
    /// Its data, lines joined by line ends.
    pub(super) data: String,
    /// Its number, if it has one of its own.
    pub(super) id: Option<String>,
}

/// A line was longer than anything that a server of ours sends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Takes bytes and gives events.
#[derive(Default)]
pub(super) struct Reader {
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed after it belongs to it.
    after_return: bool,
    event: String,
    data: Option<String>,
    id: Option<String>,
}

impl Reader {
    /// Takes what came, and gives the events that it completes.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Message>, TooLong> {
        let mut messages = Vec::new();
        for &byte in bytes {
            let ends_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if ends_return => {}
                b'\n' | b'\r' => messages.extend(self.end_of_line()),
                _ if self.line.len() >= MAX_LINE_LEN => return Err(TooLong),
                _ => self.line.push(byte),
            }
        }
        Ok(messages)
    }

    fn end_of_line(&mut self) -> Option<Message> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            let id = self.id.take();
            return self.data.take().map(|data| Message { event, data, id });
        }
        let line = String::from_utf8_lossy(&line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "id" => self.id = Some(value.to_owned()),
            "data" => match &mut self.data {
                Some(data) if data.len() + value.len() <= MAX_LINE_LEN => {
                    data.push('\n');
                    data.push_str(value);
                }
                // More than one line of data is nothing that our server sends.
                Some(_) => {}
                None => self.data = Some(value.to_owned()),
            },
            // A comment, which keeps the connection alive, or what nobody knows.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: &str = "retry: 3000\nevent: hello\ndata: {\"last\":7}\n\n: still here\n\nid: 8\ndata: {\"a\":\"é\"}\r\n\r\n\
        data:one\rdata: two\r\rid: 9\n\ndata\n\n";

    fn message(event: &str, data: &str, id: Option<&str>) -> Message {
        Message {
            event: event.to_owned(),
            data: data.to_owned(),
            id: id.map(str::to_owned),
        }
    }

    #[test]
    fn events_are_read_with_every_line_end() {
        let messages = Reader::default().feed(STREAM.as_bytes()).unwrap();
        assert_eq!(
            messages,
            [
                message("hello", "{\"last\":7}", None),
                message("", "{\"a\":\"é\"}", Some("8")),
                message("", "one\ntwo", None),
                message("", "", None),
            ]
        );
    }

    #[test]
    fn a_line_without_end_is_not_kept_forever() {
        let mut reader = Reader::default();
        let chunk = vec![b'x'; 64 * 1024];
        let fed = (0..17).try_for_each(|_| reader.feed(&chunk).map(|_| ()));
        assert_eq!(fed, Err(TooLong));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_events(mut cuts in prop::collection::vec(0..STREAM.len(), 0..6)) {
            cuts.sort_unstable();
            cuts.push(STREAM.len());
            let mut reader = Reader::default();
            let mut messages = Vec::new();
            let mut from = 0;
            for to in cuts {
                messages.extend(reader.feed(&STREAM.as_bytes()[from..to]).unwrap());
                from = to;
            }
            prop_assert_eq!(messages, Reader::default().feed(STREAM.as_bytes()).unwrap());
        }
    }
}
