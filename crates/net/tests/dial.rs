//! Which addresses can be reached, how failures are named, and what the counters say.
#![expect(
    clippy::disallowed_methods,
    reason = "the peers of these tests are plain sockets"
)]
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use net::{DialError, Dialer, Networks, Outgoing, Presence, SEND_BUFFER_LEN_BYTES, TcpOptions, present};
use socket2::SockRef;
use tokio::io::Interest;

use common::{LOOPBACK, SOON, listener, loopback_dialer, refusing, serve};

const CONNECT_WAIT: Duration = Duration::from_secs(2);

#[tokio::test]
async fn no_spelling_of_an_address_gets_past_the_networks() {
    let (listener, addr) = listener(None);
    listener.set_nonblocking(true).unwrap();
    let dialer = Dialer::new(Networks::private(), None);
    for ip in [
        "127.0.0.1",
        "::ffff:127.0.0.1",
        "0.0.0.0",
        "::ffff:0.0.0.0",
        "::",
        "::1",
        "127.1.2.3",
        "169.254.169.254",
        "255.255.255.255",
        "224.0.0.251",
    ] {
        let peer = SocketAddr::new(ip.parse().unwrap(), addr.port());
        let tcp = dialer
            .tcp(peer, TcpOptions::default(), CONNECT_WAIT)
            .await
            .unwrap_err();
        let udp = dialer.udp(peer).await.unwrap_err();
        assert!(matches!(tcp, DialError::NotAllowed { .. }), "{ip}: {tcp}");
        assert!(matches!(udp, DialError::NotAllowed { .. }), "{ip}: {udp}");
    }
    assert_eq!(
        listener.accept().unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock,
        "somebody came through"
    );
}

#[tokio::test]
async fn a_number_as_host_name_does_not_get_past_the_networks() {
    // 2130706433 is 127.0.0.1 to many resolvers.
    let Ok(addresses) = net::resolve("2130706433").await else {
        return;
    };
    let dialer = Dialer::new(Networks::private(), None);
    assert!(
        addresses.iter().all(|address| !dialer.allows(*address)),
        "{addresses:?}"
    );
}

#[tokio::test]
async fn a_mapped_address_is_dialed_as_the_plain_one() {
    let (_listener, addr) = listener(None);
    let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), addr.port());
    let stream = loopback_dialer()
        .tcp(mapped, TcpOptions::default(), CONNECT_WAIT)
        .await
        .unwrap();
    assert_eq!(stream.peer_addr().unwrap(), addr);
}

#[tokio::test]
async fn a_closed_port_refuses() {
    let (_bound, addr) = refusing();
    let error = loopback_dialer()
        .tcp(addr, TcpOptions::default(), CONNECT_WAIT)
        .await
        .unwrap_err();
    assert!(
        matches!(error, DialError::Refused { addr: refused } if refused == addr),
        "{error}"
    );
}

#[tokio::test]
async fn a_silent_host_times_out() {
    let (_listener, _waiting, addr) = silent_listener();
    let after = Duration::from_millis(200);
    let error = loopback_dialer()
        .tcp(addr, TcpOptions::default(), after)
        .await
        .unwrap_err();
    assert!(
        matches!(error, DialError::TimedOut { after: waited, .. } if waited == after),
        "{error}"
    );
}

#[tokio::test]
async fn connections_come_from_the_configured_address() {
    let (listener, addr) = listener(None);
    let source = "127.0.0.9".parse().unwrap();
    let dialer = Dialer::new(Networks::only(LOOPBACK), Some(source));
    let _stream = dialer
        .tcp(addr, TcpOptions::default(), CONNECT_WAIT)
        .await
        .unwrap();
    assert_eq!(listener.accept().unwrap().1.ip(), source);
    let socket = dialer.udp(addr).await.unwrap();
    assert_eq!(socket.local_addr().unwrap().ip(), source);
}

#[tokio::test]
async fn a_source_address_that_is_not_ours_is_named() {
    let dialer = Dialer::new(Networks::only(LOOPBACK), Some("192.0.2.1".parse().unwrap()));
    let (_bound, addr) = refusing();
    let error = dialer
        .tcp(addr, TcpOptions::default(), CONNECT_WAIT)
        .await
        .unwrap_err();
    assert!(matches!(error, DialError::Bind { .. }), "{error}");
    assert!(error.to_string().contains("192.0.2.1"), "{error}");
}

#[tokio::test]
async fn a_udp_socket_hears_its_peer_only() {
    let device = UdpSocket::bind((LOOPBACK, 0)).unwrap();
    let stranger = UdpSocket::bind((LOOPBACK, 0)).unwrap();
    let socket = loopback_dialer().udp(device.local_addr().unwrap()).await.unwrap();
    let ours = socket.local_addr().unwrap();
    stranger.send_to(b"OK", ours).unwrap();
    device.send_to(b"AUTH", ours).unwrap();
    let mut buffer = [0; 16];
    let n_bytes = tokio::time::timeout(SOON, socket.recv(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&buffer[..n_bytes], b"AUTH");
}

#[tokio::test]
async fn acknowledged_is_what_the_peer_took_not_what_the_system_took() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (addr, device) = serve(Some(2048), move |mut stream| {
        wait.recv().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all.len() as u64
    });
    let options = TcpOptions {
        send_buffer: Some(SEND_BUFFER_LEN_BYTES),
    };
    let stream = loopback_dialer().tcp(addr, options, CONNECT_WAIT).await.unwrap();
    assert!(SockRef::from(&stream).send_buffer_size().unwrap() <= 2 * SEND_BUFFER_LEN_BYTES);
    let outgoing = Outgoing::new(stream);
    // The device reads nothing: the system takes what fits, and the device's window takes less than that.
    while tokio::time::timeout(Duration::from_millis(300), outgoing.write(&[7; 1024]))
        .await
        .is_ok()
    {}
    let (handed, acked) = (outgoing.handed(), outgoing.acked());
    assert!(handed > 4096, "{handed}");
    if cfg!(target_os = "linux") {
        assert!(acked < handed / 2, "{acked} of {handed}");
    }
    go.send(()).unwrap();
    outgoing.write_all(&[7; 10_000]).await.unwrap();
    let since = std::time::Instant::now();
    while outgoing.acked() < outgoing.handed() {
        assert!(since.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    drop(outgoing);
    assert_eq!(device.join().unwrap(), handed + 10_000);
}

#[tokio::test]
async fn a_few_bytes_wake_nobody_who_wants_more_but_the_end_does() {
    let (said, say) = std::sync::mpsc::channel::<&[u8]>();
    let (addr, device) = serve(None, move |mut stream| {
        for bytes in say {
            stream.write_all(bytes).unwrap();
        }
    });
    let stream = loopback_dialer()
        .tcp(addr, TcpOptions::default(), CONNECT_WAIT)
        .await
        .unwrap();
    let outgoing = Outgoing::new(stream);
    let is_told = async |wait: Duration| {
        let ready = outgoing.ready(Interest::READABLE);
        tokio::time::timeout(wait, ready).await.is_ok()
    };
    let mut buffer = [0; 64];
    outgoing.readable_from(8);
    said.send(b"1460").unwrap();
    if cfg!(target_os = "linux") {
        assert!(
            !is_told(Duration::from_millis(300)).await,
            "four bytes were told of"
        );
    }
    outgoing.readable_from(1);
    assert!(
        is_told(SOON).await,
        "bytes that lay there were not told of once they were wanted"
    );
    assert_eq!(outgoing.try_read(&mut buffer).unwrap(), 4);
    // What is told lasts until nothing more is found.
    assert!(outgoing.try_read(&mut buffer).is_err());
    outgoing.readable_from(8);
    said.send(b"14601460").unwrap();
    assert!(is_told(SOON).await, "as many as were wanted were not told of");
    assert_eq!(outgoing.try_read(&mut buffer).unwrap(), 8);
    assert!(outgoing.try_read(&mut buffer).is_err());
    said.send(b"OK").unwrap();
    drop(said);
    assert!(is_told(SOON).await, "the end was not told of");
    assert_eq!(outgoing.try_read(&mut buffer).unwrap(), 2);
    device.join().unwrap();
}

#[tokio::test]
async fn an_open_udp_port_is_listening() {
    let device = UdpSocket::bind((LOOPBACK, 0)).unwrap();
    let peer = device.local_addr().unwrap();
    assert_eq!(
        present(&loopback_dialer(), peer).await.unwrap(),
        Presence::Listening
    );
}

#[tokio::test]
async fn a_closed_udp_port_is_not_listening() {
    // Connected elsewhere: the port is taken, and closed to everybody else.
    let bound = UdpSocket::bind((LOOPBACK, 0)).unwrap();
    bound.connect((LOOPBACK, 9)).unwrap();
    let peer = bound.local_addr().unwrap();
    assert_eq!(
        present(&loopback_dialer(), peer).await.unwrap(),
        Presence::NotListening
    );
}

#[tokio::test]
async fn a_host_that_says_nothing_is_gone() {
    // The same number may be taken for UDP: then another one.
    let (_tcp, _waiting, _udp, peer) = std::iter::repeat_with(silent_listener)
        .take(20)
        .find_map(|(tcp, waiting, addr)| Some((tcp, waiting, UdpSocket::bind(addr).ok()?, addr)))
        .unwrap();
    assert_eq!(present(&loopback_dialer(), peer).await.unwrap(), Presence::Gone);
}

#[tokio::test]
async fn presence_is_not_guessed_for_an_address_out_of_reach() {
    let dialer = Dialer::new(Networks::private(), None);
    let error = present(&dialer, SocketAddr::new(LOOPBACK, 3232))
        .await
        .unwrap_err();
    assert!(matches!(error, DialError::NotAllowed { .. }), "{error}");
}

/// A port whose queue is full: the system drops attempts to connect without a word, as an absent host would.
fn silent_listener() -> (socket2::Socket, Vec<socket2::Socket>, SocketAddr) {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::new(LOOPBACK, 0).into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    loop {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let connected = socket.connect_timeout(&addr.into(), Duration::from_millis(100));
        waiting.push(socket);
        if connected.is_err() {
            return (listener, waiting, addr);
        }
        assert!(waiting.len() < 64, "the queue never fills");
    }
}
