//! Events: live, replayed, bounded.

use std::time::Duration;

use serde_json::{Value, json};
use server::api::{ApiSettings, Limits};
use server::views::EventView;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};

use crate::house::{House, PATIENCE, Request, settings};

impl House {
    async fn happens(&self, kind: &'static str, detail: Value) {
        self.fleet.announce(kind, &detail).await;
    }
}

/// A connection whose receiving end holds little: the system would take in tens of megabytes otherwise.
async fn narrow(house: &House) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(house.address).await.unwrap()
}

/// A reader of server-sent events.
struct Reader {
    lines: tokio::io::Lines<BufReader<TcpStream>>,
}

/// One event as it came over the wire.
#[derive(Debug, Default, PartialEq)]
struct Sent {
    id: Option<i64>,
    name: Option<String>,
    data: Vec<String>,
}

impl Reader {
    async fn new(house: &House, request: Request) -> Self {
        Self::over(house.connect().await, request).await
    }

    async fn over(mut stream: TcpStream, request: Request) -> Self {
        stream.write_all(&request.bytes()).await.unwrap();
        let mut reader = Self {
            lines: BufReader::new(stream).lines(),
        };
        let status = reader.line().await.unwrap();
        assert_eq!(status, "HTTP/1.1 200 OK");
        let mut is_stream = false;
        loop {
            let line = reader.line().await.unwrap();
            if line.is_empty() {
                break;
            }
            is_stream |= line.eq_ignore_ascii_case("content-type: text/event-stream");
        }
        assert!(is_stream);
        reader
    }

    async fn line(&mut self) -> Option<String> {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
        line.expect("no line in time").unwrap_or_default()
    }

    /// The next event; none at the end of the stream.
    async fn next(&mut self) -> Option<Sent> {
        let mut sent = Sent::default();
        loop {
            let line = self.line().await?;
            if let Some(id) = line.strip_prefix("id: ") {
                sent.id = Some(id.parse().unwrap());
            } else if let Some(name) = line.strip_prefix("event: ") {
                sent.name = Some(name.to_owned());
            } else if let Some(data) = line.strip_prefix("data: ") {
                sent.data.push(data.to_owned());
            } else if line.is_empty() && !sent.data.is_empty() {
                return Some(sent);
            }
            // Everything else is the framing of chunks, a comment or a retry.
        }
    }

    async fn hello(&mut self, last: i64) {
        let hello = self.next().await.unwrap();
        assert_eq!(hello.name.as_deref(), Some("hello"));
        assert_eq!(hello.data, [json!({ "last": last }).to_string()]);
    }

    async fn seqs(&mut self, n: usize) -> Vec<i64> {
        let mut seqs = Vec::new();
        for _ in 0..n {
            let sent = self.next().await.unwrap();
            let event: EventView = serde_json::from_str(&sent.data[0]).unwrap();
            assert_eq!(sent.id, Some(event.seq));
            seqs.push(event.seq);
        }
        seqs
    }
}

fn request(house: &House) -> Request {
    Request::new("GET", "/api/v1/events").token(&house.viewer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_is_told_at_once_and_what_was_before_is_not() {
    let house = House::new().await;
    house.happens("device.found", json!({})).await;
    let mut reader = Reader::new(&house, request(&house)).await;
    reader.hello(1).await;
    house.happens("device.online", json!({})).await;
    house.happens("device.offline", json!({})).await;
    assert_eq!(reader.seqs(2).await, [2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_back_misses_nothing_and_gets_nothing_twice() {
    let house = House::new().await;
    // More than one page of the store.
    for n in 0..600 {
        house.happens("device.online", json!({ "n": n })).await;
    }
    let mut reader = Reader::new(&house, request(&house).header("Last-Event-ID", "100")).await;
    reader.hello(600).await;
    assert_eq!(reader.seqs(500).await, (101..=600).collect::<Vec<_>>());
    house.happens("device.offline", json!({})).await;
    assert_eq!(reader.seqs(1).await, [601]);

    let mut from_query = request(&house);
    "/api/v1/events?after=599".clone_into(&mut from_query.path);
    let mut reader = Reader::new(&house, from_query).await;
    reader.hello(601).await;
    assert_eq!(reader.seqs(2).await, [600, 601]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_was_told_late_is_fetched_from_the_store() {
    let house = House::new().await;
    let mut reader = Reader::new(&house, request(&house)).await;
    reader.hello(0).await;
    house.happens("a", json!({})).await;
    assert_eq!(reader.seqs(1).await, [1]);
    // Stored and never told.
    house.store.append_event("b", None, &json!({}), 1).await.unwrap();
    house.happens("c", json!({})).await;
    assert_eq!(reader.seqs(2).await, [2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_of_another_life_is_answered_with_a_gap() {
    let house = House::new().await;
    house.happens("a", json!({})).await;
    let mut reader = Reader::new(&house, request(&house).header("Last-Event-ID", "1000")).await;
    reader.hello(1).await;
    let gap = reader.next().await.unwrap();
    assert_eq!(gap.name.as_deref(), Some("gap"));
    house.happens("b", json!({})).await;
    assert_eq!(reader.seqs(1).await, [2]);

    let bad = request(&house).header("Last-Event-ID", "x");
    assert_eq!(house.send(&bad).await.problem(), "last-event-id");
}

/// RELIABILITY.md T26.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_text_of_a_device_breaks_out_of_its_line() {
    let house = House::new().await;
    let mut reader = Reader::new(&house, request(&house)).await;
    reader.hello(0).await;
    let payloads = [
        "a\nid: 999",
        "a\r\ndata: x",
        "a\rb",
        "\u{0}",
        "\u{1b}[2J",
        "\u{2028}\u{2029}",
        "\n\nevent: gap\ndata: {}\n\n",
        "<script>",
    ];
    for payload in payloads {
        house.happens("device.found", json!({ "name": payload })).await;
    }
    for (payload, seq) in payloads.iter().zip(1..) {
        let sent = reader.next().await.unwrap();
        assert_eq!((sent.id, sent.name, sent.data.len()), (Some(seq), None, 1));
        let event: EventView = serde_json::from_str(&sent.data[0]).unwrap();
        assert_eq!(event.detail["name"], *payload);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_who_is_too_slow_is_cut_off_and_can_replay() {
    let house = House::new().await;
    let mut reader = Reader::over(narrow(&house).await, request(&house)).await;
    reader.hello(0).await;
    house.happens("a", json!({})).await;
    assert_eq!(reader.seqs(1).await, [1]);
    // More than the sockets between us hold (4 MiB) and than the fleet remembers (1024 events).
    let large = json!({ "text": "x".repeat(16_000) });
    for _ in 0..1400 {
        house.happens("b", large.clone()).await;
    }
    let mut n_read = 1;
    while let Some(sent) = reader.next().await {
        n_read += 1;
        assert_eq!(sent.id, Some(n_read));
    }
    assert!(n_read < 1401, "nobody was cut off");
    let again = request(&house).header("Last-Event-ID", &n_read.to_string());
    let mut reader = Reader::new(&house, again).await;
    reader.hello(1401).await;
    let n_rest = usize::try_from(1401 - n_read).unwrap();
    assert_eq!(reader.seqs(n_rest).await.last(), Some(&1401));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_who_takes_nothing_is_cut_off() {
    let hasty = Limits {
        stall: Duration::from_millis(300),
        ..Limits::default()
    };
    let house = House::with(settings(), hasty).await;
    let large = json!({ "text": "x".repeat(100_000) });
    for _ in 0..80 {
        house.happens("b", large.clone()).await;
    }
    let request = request(&house).header("Last-Event-ID", "0");
    let mut stream = narrow(&house).await;
    stream.write_all(&request.bytes()).await.unwrap();
    // It has begun, and then nothing is read for five times as long as the server waits after its last byte went out.
    let mut waiting = vec![0; 80 * 100_000];
    let mut n_waiting = stream.peek(&mut waiting).await.unwrap();
    loop {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let n_now = stream.peek(&mut waiting).await.unwrap_or(n_waiting);
        if n_now == n_waiting {
            break;
        }
        n_waiting = n_now;
    }
    let mut bytes = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut bytes);
    // However it ends, it ends; a stream that lives goes on for ever.
    drop(
        tokio::time::timeout(PATIENCE, read)
            .await
            .expect("the stream goes on"),
    );
    let n_bytes = bytes.len();
    assert!(n_bytes < 80 * 100_000, "{n_bytes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_stream_says_that_it_lives_and_ends_with_the_server() {
    let lively = ApiSettings {
        heartbeat: Duration::from_millis(50),
        ..settings()
    };
    let mut house = House::with(lively, Limits::default()).await;
    let mut reader = Reader::new(&house, request(&house)).await;
    reader.hello(0).await;
    loop {
        let line = reader.line().await.unwrap();
        if line.starts_with(':') {
            break;
        }
    }
    house.end().await;
    assert_eq!(reader.next().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_token_has_so_many_streams_and_no_more() {
    let house = House::new().await;
    let mut readers = Vec::new();
    for _ in 0..16 {
        readers.push(Reader::new(&house, request(&house)).await);
    }
    let refused = house.send(&request(&house)).await;
    assert_eq!((refused.status, refused.problem().as_str()), (503, "streams"));
    let mut other = Reader::new(
        &house,
        Request::new("GET", "/api/v1/events").token(&house.operator),
    )
    .await;
    other.hello(0).await;
}
