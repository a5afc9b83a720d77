//! Running out of descriptors; alone in its process, because the limit is the whole process's.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod support;

use std::fs::File;
use std::net::Ipv4Addr;
use std::time::Duration;

use discovery::Scan;
use rustix::process::{Resource, getrlimit, setrlimit};

use support::{counts, look, loopback_dialer, mini, net, status_at};

#[tokio::test]
async fn a_lack_of_descriptors_is_waited_out_or_counted_and_never_a_silent_miss() {
    let device = mini(Ipv4Addr::new(127, 82, 1, 1), 0);
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(128);
    setrlimit(Resource::Nofile, limit).unwrap();
    let what = Scan {
        n_sockets: 16,
        ..Scan::new(vec![net("127.82.1.0/29")], vec![status_at(device.addr.port())])
    };
    let dialer = loopback_dialer();

    let mut hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(File::open("/dev/null").is_err());
    let seen = look(&dialer, &what).await;
    assert_eq!(counts(&seen.coverage), [6, 0, 0, 0, 0, 6, 0]);

    // One comes free while it waits: all are asked by and by.
    let (seen, ()) = tokio::join!(look(&dialer, &what), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        hoard.truncate(hoard.len() - 8);
    });
    assert_eq!(counts(&seen.coverage), [6, 6, 1, 5, 0, 0, 0]);
    assert_eq!(seen.sightings.len(), 1);
}
