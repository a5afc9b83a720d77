//! Which server it is, and who holds it.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use crate::house::{House, PATIENCE, Request, SERVER};

/// A parent that is attached, until it is dropped.
struct Attached {
    lines: tokio::io::Lines<BufReader<UnixStream>>,
}

impl Attached {
    async fn new(house: &House) -> Self {
        let mut stream = UnixStream::connect(house.socket()).await.unwrap();
        let request = Request::new("GET", "/api/v1/attach");
        stream.write_all(&request.bytes()).await.unwrap();
        Self {
            lines: BufReader::new(stream).lines(),
        }
    }

    async fn line(&mut self) -> Option<String> {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
        line.expect("no line in time").unwrap_or_default()
    }

    /// The first line of the stream.
    async fn first(&mut self) -> Value {
        loop {
            let line = self.line().await.unwrap();
            if line.starts_with('{') {
                return serde_json::from_str(&line).unwrap();
            }
        }
    }
}

async fn wait_for(house: &House, n_attached: usize) {
    let waited = async {
        while house.parents.n_attached() != n_attached {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_says_which_it_is_and_viewers_get_no_path() {
    let house = House::new().await;
    let server = house.get(&house.operator, "/api/v1/server").await.json();
    assert_eq!(
        (
            server["id"].as_str(),
            server["name"].as_str(),
            server["api"].as_i64()
        ),
        (Some(SERVER), Some("shed"), Some(1))
    );
    assert_eq!(server["managed"], true);
    assert_eq!(server["pid"], std::process::id());
    assert_eq!(server["version"], env!("CARGO_PKG_VERSION"));
    let path = server["firmware_path"].as_str().unwrap();
    assert!(path.starts_with('/') && path.ends_with("firmware"), "{path}");
    let for_viewers = house.get(&house.viewer, "/api/v1/server").await.json();
    assert_eq!(for_viewers["firmware_path"], Value::Null);
    assert_eq!(for_viewers["id"], SERVER);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parent_holds_the_server_until_its_stream_is_closed() {
    let mut house = House::new().await;
    let mut attached = Attached::new(&house).await;
    let first = attached.first().await;
    assert_eq!(
        (&first["attached"], first["id"].as_str()),
        (&Value::Bool(true), Some(SERVER))
    );
    assert_eq!(house.parents.n_attached(), 1);
    let second = Attached::new(&house).await;
    wait_for(&house, 2).await;
    drop(second);
    wait_for(&house, 1).await;
    // The framing of chunks tells each beat: a length, and the empty line itself.
    assert!(attached.line().await.is_some() && attached.line().await.is_some());
    // The end of the server is the end of the stream.
    house.end().await;
    while attached.line().await.is_some() {}
    assert_eq!(house.parents.n_attached(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_held_over_the_socket_and_by_its_user_only() {
    let house = House::new().await;
    let attach = Request::new("GET", "/api/v1/attach");
    assert_eq!(house.send(&attach).await.status, 401);
    for token in [&house.viewer, &house.operator] {
        let answer = house.send(&attach.clone().token(token)).await;
        assert_eq!((answer.status, answer.problem().as_str()), (403, "forbidden"));
    }
    // An administrator over the network is no parent, and neither is whoever shows a token.
    let over_network = house.send(&attach.clone().token(&house.admin)).await;
    assert_eq!(
        (over_network.status, over_network.problem().as_str()),
        (403, "local-only")
    );
    let with_token = house.send_locally(&attach.token(&house.admin)).await;
    assert_eq!(
        (with_token.status, with_token.problem().as_str()),
        (403, "local-only")
    );
    assert_eq!(house.parents.n_attached(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_parents_and_no_more() {
    let house = House::new().await;
    let mut all = Vec::new();
    for _ in 0..8 {
        let mut attached = Attached::new(&house).await;
        attached.first().await;
        all.push(attached);
    }
    let one_more = house.send_locally(&Request::new("GET", "/api/v1/attach")).await;
    assert_eq!((one_more.status, one_more.problem().as_str()), (503, "parents"));
    assert_eq!(one_more.header("retry-after"), Some("10"));
}
