//! Running out of descriptors; alone in its process, because the limit is the whole process's.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod common;

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use net::Callback;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::task::JoinSet;

use common::{LOOPBACK, SOON, connect_from};

#[tokio::test]
async fn the_accept_loop_outlives_a_lack_of_descriptors() {
    const DEVICE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 20);
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(256);
    setrlimit(Resource::Nofile, limit).unwrap();

    let (callback, accept_loop) = Callback::new(LOOPBACK, 0);
    let mut tasks = JoinSet::new();
    tasks.spawn(accept_loop);
    let mut invited = callback.expect(DEVICE.into()).await.unwrap();
    // Nothing else runs on this thread until the next await, so the device waits in the queue.
    let _device = connect_from(DEVICE, SocketAddr::new(LOOPBACK, invited.port));
    let hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(!hoard.is_empty() && File::open("/dev/null").is_err());
    assert!(invited.peer(Duration::from_millis(200)).await.is_none());
    drop(hoard);
    assert!(invited.peer(SOON).await.is_some());
}
