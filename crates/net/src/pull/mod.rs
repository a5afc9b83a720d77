//! What devices fetch themselves: images at addresses that work once, and the broker by which they are told.
//!
//! The listener is of its own, and open only while an offer is. It serves the image of the offer to exactly the device
//! that it was made for, once; whoever else comes is dropped and counted.

mod door;
mod transfer;

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::image::Image;
use tokio::sync::oneshot;

use crate::mqtt::Bus;
use crate::{DialError, Dialer};
use door::{Arrived, Door};

pub use door::Counts;
pub use transfer::{Ended, Taken, Transferred};

/// A port to ask the system for its own address with; nothing is sent there (RFC 863, discard).
const NO_PORT: u16 = 9;
/// Devices remembered as heard at the broker. Guess: ten times as many as anybody has.
const HEARD_MAX: usize = 4096;

/// Where devices fetch images, as its owner configured it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullSettings {
    /// The address to listen on.
    pub bind: IpAddr,
    /// The port; 0 = any free one.
    pub port: u16,
    /// The name or address by which devices reach us; none = the address that we have on the way to them.
    pub host: Option<String>,
}

/// The broker and the listener for devices that fetch their image.
pub struct PullSite {
    bus: Bus,
    settings: PullSettings,
    door: Arc<Door>,
    /// Seconds since 1970: this crate reads no clock.
    now_s: Box<dyn Fn() -> i64 + Send + Sync>,
    /// Devices that were heard at the broker, by what their hardware calls them.
    heard: Mutex<HashSet<String>>,
}

/// Why there is no offer.
#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    /// At most one at a time to an address.
    #[error("{ip} is offered an image already: another update of this device is under way")]
    AlreadyOffered {
        /// The device.
        ip: IpAddr,
    },
    /// The listener cannot be opened; the next offer tries again.
    #[error("listening for devices on {bind} port {port}")]
    Bind {
        /// The address to listen on.
        bind: IpAddr,
        /// The port; 0 = any free one.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// Our own address on the way to the device is not known.
    #[error("finding our address on the way to the device")]
    Address(#[source] DialError),
    /// The accept loop is gone: the program is ending.
    #[error("no longer listening for devices")]
    Closed,
}

/// An open offer; dropping it closes the door for its device.
#[derive(Debug)]
pub struct Offer {
    /// Where the device finds it.
    pub url: String,
    ip: IpAddr,
    id: u64,
    image: Image,
    arrival: Option<oneshot::Receiver<Arrived>>,
    door: Arc<Door>,
}

impl PullSite {
    /// A listener as configured, and its accept loop, which the caller must run.
    ///
    /// `now_s` tells the time in seconds since 1970. Nothing is opened before the first offer.
    pub fn new(
        bus: Bus,
        settings: PullSettings,
        now_s: impl Fn() -> i64 + Send + Sync + 'static,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        let (door, accept_loop) = Door::new();
        let site = Self {
            bus,
            settings,
            door,
            now_s: Box::new(now_s),
            heard: Mutex::default(),
        };
        (Arc::new(site), accept_loop)
    }

    /// The owner's broker.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Seconds since 1970.
    pub fn now_s(&self) -> i64 {
        (self.now_s)()
    }

    /// Offers this image to the device at this address, once and for so long, under a path that holds the token.
    pub async fn offer(
        &self,
        image: &Image,
        dialer: &Dialer,
        device: IpAddr,
        token: [u8; 16],
        lasts: Duration,
    ) -> Result<Offer, OfferError> {
        let device = device.to_canonical();
        let host = match &self.settings.host {
            Some(host) => in_url(host),
            None => our_address(dialer, device).await.map_err(OfferError::Address)?,
        };
        let path = format!("/image/{:032x}", u128::from_be_bytes(token));
        let listen = SocketAddr::new(self.settings.bind, self.settings.port);
        let (port, id, arrival) = self.door.offer(listen, device, &path, lasts)?;
        Ok(Offer {
            url: format!("http://{host}:{port}{path}"),
            ip: device,
            id,
            image: image.clone(),
            arrival: Some(arrival),
            door: Arc::clone(&self.door),
        })
    }

    /// Who came and got nothing, so far.
    pub fn counts(&self) -> Counts {
        self.door.counts()
    }

    /// A device of this hardware was heard at the broker, or is gone from there.
    pub fn note(&self, hardware: &str, is_there: bool) {
        let mut heard = self.heard();
        if !is_there {
            heard.remove(hardware);
        } else if heard.len() < HEARD_MAX {
            heard.insert(hardware.to_owned());
        }
    }

    /// Whether a device of this hardware was heard at the broker.
    pub fn has_heard(&self, hardware: &str) -> bool {
        self.heard().contains(hardware)
    }

    fn heard(&self) -> MutexGuard<'_, HashSet<String>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The address that we have on the way to the device, as part of a URL.
async fn our_address(dialer: &Dialer, device: IpAddr) -> Result<String, DialError> {
    let peer = SocketAddr::new(device, NO_PORT);
    let socket = dialer.udp(peer).await?;
    let address = socket
        .local_addr()
        .map_err(|source| DialError::Io { addr: peer, source })?;
    Ok(in_url(&address.ip().to_canonical().to_string()))
}

/// A name or an address as a URL has it.
fn in_url(host: &str) -> String {
    if host.parse::<Ipv6Addr>().is_ok() {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

impl Offer {
    /// The device's request; waits for ever where it does not come, or came before.
    ///
    /// Safe to drop and to call again: the door stays open in between.
    pub async fn taken(&mut self) -> Taken {
        if let Some(arrival) = self.arrival.as_mut()
            && let Ok(arrived) = arrival.await
        {
            self.arrival = None;
            return Taken::new(arrived, self.image.clone());
        }
        std::future::pending().await
    }

    /// Closes the door unless the device has come; the request of one that was quicker.
    ///
    /// Without one, no byte of the image has left and none will.
    pub fn withdraw(mut self) -> Option<Taken> {
        self.door.withdraw(self.ip, self.id);
        let arrived = self.arrival.take()?.try_recv().ok()?;
        Some(Taken::new(arrived, self.image.clone()))
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.door.withdraw(self.ip, self.id);
    }
}

impl std::fmt::Debug for PullSite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PullSite")
            .field("settings", &self.settings)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}
