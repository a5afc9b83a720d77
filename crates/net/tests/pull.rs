//! Who gets an image that devices fetch themselves, and who does not.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use model::family::Reach;
use model::image::Image;
use model::progress::Progress;
use net::mqtt::{Broker, Bus};
use net::pull::{Counts, Ended, Offer, OfferError, PullSettings, PullSite};
use tokio::task::JoinSet;

use common::{LOOPBACK, SOON, connect_from, loopback_dialer, try_connect_from, wait_until};

const DEVICE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 20);
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);
const TOKEN: [u8; 16] = [0xa7; 16];

fn image() -> Image {
    let bytes: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    Image::new("ir_remote_v2.0.0.bin", bytes)
}

fn site(host: Option<&str>) -> (Arc<PullSite>, JoinSet<()>) {
    let nobody = Broker::at("mqtt://127.83.2.1:1").unwrap();
    let (bus, _) = Bus::new(&nobody, "x");
    let settings = PullSettings {
        bind: LOOPBACK,
        port: 0,
        host: host.map(str::to_owned),
    };
    let (site, accept_loop) = PullSite::new(bus, settings, || 1_795_000_000);
    let mut tasks = JoinSet::new();
    tasks.spawn(accept_loop);
    (site, tasks)
}

async fn offer(site: &PullSite) -> Offer {
    offer_for(site, SOON * 6).await.unwrap()
}

async fn offer_for(site: &PullSite, lasts: Duration) -> Result<Offer, OfferError> {
    site.offer(&image(), &loopback_dialer(), DEVICE.into(), TOKEN, lasts)
        .await
}

/// Address and path of a URL.
fn parts(url: &str) -> (SocketAddr, String) {
    let rest = url.strip_prefix("http://").unwrap();
    let (at, path) = rest.split_once('/').unwrap();
    (at.parse().unwrap(), format!("/{path}"))
}

/// Asks from this address; everything that comes back.
fn ask(source: Ipv4Addr, door: SocketAddr, request: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = try_connect_from(source, door)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(request.as_bytes())?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    Ok(reply)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nUser-Agent: ESP32HTTPClient\r\n\r\n")
}

fn status(reply: &[u8]) -> String {
    let text = String::from_utf8_lossy(reply);
    text.split_whitespace().nth(1).unwrap_or("nothing").to_owned()
}

async fn blocking<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(act).await.unwrap()
}

#[tokio::test]
async fn the_device_gets_the_image_once() {
    let (site, _tasks) = site(None);
    let mut offer = offer(&site).await;
    let (door, path) = parts(&offer.url);
    assert_eq!(door.ip(), IpAddr::from(Ipv4Addr::LOCALHOST));
    assert_eq!(path, format!("/image/{}", "a7".repeat(16)));
    let device = {
        let path = path.clone();
        tokio::task::spawn_blocking(move || ask(DEVICE, door, &get(&path)).unwrap())
    };
    let progress = Progress::default();
    let transferred = offer.taken().await.transfer(&progress).await;
    assert!(matches!(transferred.ended, Ended::Whole), "{transferred:?}");
    assert_eq!(
        (transferred.reach, transferred.acked_bytes),
        (Reach::Whole, 1_200_000)
    );
    assert_eq!(progress.acked_bytes(), 1_200_000);
    let reply = device.await.unwrap();
    let head_len = reply.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8(reply[..head_len].to_vec()).unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("\r\nContent-Length: 1200000\r\n"),
        "{head}"
    );
    assert!(reply[head_len..] == image().bytes()[..], "the bytes of the offer");
    // A second time there is nothing, and it is counted.
    let again = blocking(move || ask(DEVICE, door, &get(&path)).unwrap()).await;
    assert_eq!(status(&again), "410");
    assert!(again.ends_with(b"\r\n\r\n"), "no byte of the image");
    let expected = Counts {
        again: 1,
        ..Counts::default()
    };
    assert_eq!(site.counts(), expected);
}

#[tokio::test]
async fn whoever_else_comes_is_dropped_without_a_byte() {
    let (site, _tasks) = site(None);
    let mut offer = offer(&site).await;
    let (door, path) = parts(&offer.url);
    let asked = path.clone();
    let stranger = blocking(move || ask(STRANGER, door, &get(&asked))).await;
    assert!(stranger.as_ref().map_or(true, Vec::is_empty), "{stranger:?}");
    assert_eq!(site.counts().strangers, 1);
    // It did not use the offer up.
    let device = tokio::task::spawn_blocking(move || ask(DEVICE, door, &get(&path)).unwrap());
    let transferred = offer.taken().await.transfer(&Progress::default()).await;
    assert_eq!(transferred.reach, Reach::Whole);
    assert_eq!(status(&device.await.unwrap()), "200");
}

#[tokio::test]
async fn what_is_not_the_request_for_the_image_gets_none_of_it() {
    let (site, _tasks) = site(None);
    let mut offer = offer(&site).await;
    let (door, path) = parts(&offer.url);
    let other = path.replace("a7a7", "a7a8");
    let long = format!("GET {path} HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(10_000));
    let refused = [
        (get("/"), "404"),
        (get(&other), "404"),
        (get(&format!("{path}/")), "404"),
        (get(&path[..path.len() - 1]), "404"),
        (format!("HEAD {path} HTTP/1.1\r\n\r\n"), "405"),
        (format!("POST {path} HTTP/1.1\r\n\r\n"), "405"),
        (format!("GET {path}\r\n\r\n"), "400"),
        (format!("GET {path} HTTP/9.1\r\n\r\n"), "400"),
        (long, "400"),
    ];
    let n_refused = refused.len() as u64;
    for (request, expected) in refused {
        let reply = blocking(move || ask(DEVICE, door, &request)).await;
        // What was not read makes the end a reset, which may be quicker than the answer.
        let Ok(reply) = reply else { continue };
        assert_eq!(status(&reply), expected);
    }
    assert_eq!(site.counts().refused, n_refused);
    let device = tokio::task::spawn_blocking(move || ask(DEVICE, door, &get(&path)).unwrap());
    let transferred = offer.taken().await.transfer(&Progress::default()).await;
    assert_eq!(transferred.reach, Reach::Whole);
    assert_eq!(status(&device.await.unwrap()), "200");
}

#[tokio::test]
async fn an_offer_that_has_ended_is_gone_and_so_is_the_listener() {
    let (site, _tasks) = site(None);
    let short = offer_for(&site, Duration::ZERO).await.unwrap();
    let (door, path) = parts(&short.url);
    let reply = blocking(move || ask(DEVICE, door, &get(&path)).unwrap()).await;
    assert_eq!(status(&reply), "410");
    assert_eq!(site.counts().again, 1);
    assert!(short.withdraw().is_none());
    blocking(move || {
        wait_until("the listener closes", move || {
            try_connect_from(DEVICE, door).is_err()
        });
    })
    .await;
    // The next one opens it again.
    let offer = offer(&site).await;
    let (door, _) = parts(&offer.url);
    drop(blocking(move || connect_from(DEVICE, door)).await);
}

#[tokio::test]
async fn there_is_one_offer_to_a_device_and_many_to_many() {
    let (site, _tasks) = site(Some("reflash.lan"));
    let first = offer(&site).await;
    assert!(first.url.starts_with("http://reflash.lan:"), "{}", first.url);
    let second = offer_for(&site, SOON).await;
    assert!(matches!(second, Err(OfferError::AlreadyOffered { .. })));
    let other = site
        .offer(&image(), &loopback_dialer(), STRANGER.into(), [1; 16], SOON)
        .await
        .unwrap();
    drop(first);
    let again = offer(&site).await;
    assert_ne!(again.url, other.url);
}

#[tokio::test]
async fn a_device_that_hangs_up_early_has_a_part() {
    let (site, _tasks) = site(None);
    let mut offer = offer(&site).await;
    let (door, path) = parts(&offer.url);
    let device = tokio::task::spawn_blocking(move || {
        let mut stream: TcpStream = connect_from(DEVICE, door);
        stream.write_all(get(&path).as_bytes()).unwrap();
        stream.read_exact(&mut [0; 5000]).unwrap();
    });
    let transferred = offer.taken().await.transfer(&Progress::default()).await;
    device.await.unwrap();
    assert!(
        matches!(transferred.ended, Ended::Broke(_) | Ended::Closed),
        "{transferred:?}"
    );
    assert_eq!(transferred.reach, Reach::Part);
}

#[tokio::test]
async fn a_cancel_before_the_last_byte_holds_it_back() {
    let (site, _tasks) = site(None);
    let mut offer = offer(&site).await;
    let (door, path) = parts(&offer.url);
    let device = tokio::task::spawn_blocking(move || {
        let mut stream = connect_from(DEVICE, door);
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(get(&path).as_bytes()).unwrap();
        let mut got = Vec::new();
        let ended = stream.read_to_end(&mut got);
        (got.len(), ended.is_err())
    });
    let progress = Progress::default();
    let taken = offer.taken().await;
    assert!(progress.cancel());
    let transferred = taken.transfer(&progress).await;
    assert!(matches!(transferred.ended, Ended::Cancelled), "{transferred:?}");
    assert_eq!(transferred.reach, Reach::Nothing);
    let (n_got, reset) = device.await.unwrap();
    assert!(n_got == 0 && reset, "{n_got} bytes, reset: {reset}");
}
