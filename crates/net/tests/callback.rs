//! Who gets in through the call-back listener, and who does not.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use net::{Callback, CallbackError, SEND_BUFFER_LEN_BYTES};
use socket2::SockRef;
use tokio::task::JoinSet;

use common::{LOOPBACK, SOON, connect_from, listener, try_connect_from, wait_until};

const DEVICE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 20);
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);

/// Longer than a connection over loopback takes to be handed over, for what must not happen.
const A_WHILE: Duration = Duration::from_millis(200);

fn start() -> (Arc<Callback>, JoinSet<()>) {
    let (callback, accept_loop) = Callback::new(LOOPBACK, 0);
    let mut tasks = JoinSet::new();
    tasks.spawn(accept_loop);
    (callback, tasks)
}

fn door(port: u16) -> SocketAddr {
    SocketAddr::new(LOOPBACK, port)
}

/// Whether a connection from this address is closed or reset without a byte.
fn is_dropped(source: Ipv4Addr, door: SocketAddr) -> bool {
    let first_byte = try_connect_from(source, door).and_then(|mut stream| {
        stream.set_read_timeout(Some(SOON))?;
        stream.read(&mut [0])
    });
    match first_byte {
        Ok(n_bytes) => n_bytes == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

async fn blocking<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(act).await.unwrap()
}

#[tokio::test]
async fn strangers_are_dropped_and_waited_past() {
    let (callback, _tasks) = start();
    let mut invited = callback.expect(DEVICE.into()).await.unwrap();
    let door = door(invited.port);
    let device = blocking(move || {
        for _ in 0..3 {
            assert!(is_dropped(STRANGER, door));
        }
        connect_from(DEVICE, door)
    })
    .await;
    let stream = invited.peer(SOON).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap(), device.local_addr().unwrap());
    assert_eq!(callback.strangers(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_strangers_a_second_do_not_delay_the_device() {
    let (callback, _tasks) = start();
    let mut invited = callback.expect(DEVICE.into()).await.unwrap();
    let door = door(invited.port);
    let over = Arc::new(AtomicBool::new(false));
    let flood = std::thread::spawn({
        let over = Arc::clone(&over);
        move || {
            let since = Instant::now();
            let mut n_strangers = 0_u32;
            while !over.load(Ordering::Relaxed) {
                drop(try_connect_from(STRANGER, door));
                n_strangers += 1;
                let due = since + Duration::from_millis(n_strangers.into());
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            u64::from(n_strangers)
        }
    });
    blocking({
        let callback = Arc::clone(&callback);
        move || wait_until("the flood has begun", || callback.strangers() >= 500)
    })
    .await;
    let since = Instant::now();
    let _device = blocking(move || connect_from(DEVICE, door)).await;
    invited.peer(SOON).await.expect("the device gets in");
    let waited = since.elapsed();
    over.store(true, Ordering::Relaxed);
    let n_strangers = flood.join().unwrap();
    blocking(move || wait_until("all are counted", || callback.strangers() == n_strangers)).await;
    // The device waits for its first byte for about a second (../shared/PROTOCOLS.md B1a).
    assert!(waited < Duration::from_millis(500), "{waited:?}");
}

#[tokio::test]
async fn fifteen_hundred_devices_that_call_back_at_once_all_get_in() {
    raise_descriptor_limit();
    let (callback, _tasks) = start();
    let addresses: Vec<Ipv4Addr> = (0..1500_u16)
        .map(u16::to_be_bytes)
        .map(|[high, low]| Ipv4Addr::new(127, 1, high, low))
        .collect();
    let mut invitations = Vec::new();
    for address in &addresses {
        invitations.push(callback.expect((*address).into()).await.unwrap());
    }
    let door = door(invitations[0].port);
    // This blocks the only thread, so that all of them wait in the listener's queue at the same time.
    let devices: Vec<TcpStream> = addresses
        .iter()
        .map(|address| connect_from(*address, door))
        .collect();
    for (invited, device) in invitations.iter_mut().zip(&devices) {
        let stream = invited.peer(SOON).await.expect("no device is lost");
        assert_eq!(stream.peer_addr().unwrap(), device.local_addr().unwrap());
    }
    assert_eq!(callback.strangers(), 0);
}

#[tokio::test]
async fn a_second_invitation_to_an_address_is_refused_while_the_first_is_open() {
    let (callback, _tasks) = start();
    let first = callback.expect(DEVICE.into()).await.unwrap();
    let error = callback.expect(DEVICE.into()).await.unwrap_err();
    assert!(
        matches!(error, CallbackError::AlreadyInvited { ip } if ip == IpAddr::V4(DEVICE)),
        "{error}"
    );
    // The refused one must not have closed the door of the first.
    let mapped: IpAddr = DEVICE.to_ipv6_mapped().into();
    assert!(
        callback.expect(mapped).await.is_err(),
        "the other spelling is the same device"
    );
    drop(first);
    callback.expect(DEVICE.into()).await.expect("free again");
}

#[tokio::test]
async fn dropping_the_invitation_closes_the_door() {
    let (callback, _tasks) = start();
    let invited = callback.expect(DEVICE.into()).await.unwrap();
    let door = door(invited.port);
    drop(invited);
    assert!(blocking(move || is_dropped(DEVICE, door)).await);
    assert_eq!(callback.strangers(), 1);
}

#[tokio::test]
async fn a_second_connection_of_the_same_device_is_dropped() {
    let (callback, _tasks) = start();
    let mut invited = callback.expect(DEVICE.into()).await.unwrap();
    let door = door(invited.port);
    let first = blocking(move || {
        let first = connect_from(DEVICE, door);
        assert!(is_dropped(DEVICE, door));
        first
    })
    .await;
    let stream = invited.peer(SOON).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap(), first.local_addr().unwrap());
    assert_eq!(callback.strangers(), 1);
    assert!(blocking(move || is_dropped(DEVICE, door)).await);
    assert!(
        invited.peer(A_WHILE).await.is_none(),
        "an invitation is for one connection"
    );
    assert_eq!(callback.strangers(), 2);
}

#[tokio::test]
async fn a_device_that_came_before_anybody_looked_is_let_in() {
    let (callback, _tasks) = start();
    let mut invited = callback.expect(DEVICE.into()).await.unwrap();
    let door = door(invited.port);
    assert!(invited.peer(Duration::ZERO).await.is_none());
    let _device = blocking(move || connect_from(DEVICE, door)).await;
    assert!(invited.peer(SOON).await.is_some());
}

#[tokio::test]
async fn a_device_that_is_let_in_gets_the_socket_options_of_a_push() {
    let (callback, _tasks) = start();
    let mut invited = callback.expect(DEVICE.into()).await.unwrap();
    let door = door(invited.port);
    let mut device = blocking(move || connect_from(DEVICE, door)).await;
    let stream = invited.peer(SOON).await.unwrap();
    assert!(stream.nodelay().unwrap());
    // Linux doubles what is asked for, to have room for its own bookkeeping (socket(7)).
    assert!(SockRef::from(&stream).send_buffer_size().unwrap() <= 2 * SEND_BUFFER_LEN_BYTES);
    device.write_all(b"OK").unwrap();
    let mut buffer = [0; 2];
    assert_eq!(net::Outgoing::new(stream).read(&mut buffer).await.unwrap(), 2);
}

#[tokio::test]
async fn a_taken_port_is_named_and_tried_again_with_the_next_invitation() {
    let (occupant, addr) = listener(None);
    let (callback, accept_loop) = Callback::new(LOOPBACK, addr.port());
    let mut tasks = JoinSet::new();
    tasks.spawn(accept_loop);
    let error = callback.expect(DEVICE.into()).await.unwrap_err();
    assert!(
        matches!(error, CallbackError::Bind { port, .. } if port == addr.port()),
        "{error}"
    );
    assert!(error.to_string().contains(&addr.port().to_string()), "{error}");
    drop(occupant);
    let invited = callback
        .expect(DEVICE.into())
        .await
        .expect("the failed attempt left no trace");
    assert_eq!(invited.port, addr.port());
}

#[tokio::test]
async fn without_its_accept_loop_nobody_is_invited() {
    let (callback, accept_loop) = Callback::new(LOOPBACK, 0);
    drop(accept_loop);
    assert!(matches!(
        callback.expect(DEVICE.into()).await,
        Err(CallbackError::Closed)
    ));
    assert!(matches!(
        callback.expect(DEVICE.into()).await,
        Err(CallbackError::Closed)
    ));
}

/// The usual limit of 1,024 open files is too low for 1,500 devices and our ends of their connections.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};

    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}
