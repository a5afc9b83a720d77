//! The table: one entry for each family.

mod esp;
mod komfovent;

use std::future::Future;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::pin::Pin;

use families::Ways;
use model::image::Image;
use model::outcome::Ending;
use model::sighting::{Certainty, Sighting};
use model::version::Versions;

pub(crate) type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the checks must know of a family.
pub(crate) struct Entry {
    /// Its name in [`families::NAMES`].
    pub(crate) name: &'static str,
    /// Good images, each newer than what [`Entry::start`] runs; what their format is called in `ImageInfo::kind`.
    pub(crate) images: fn() -> Vec<Image>,
    pub(crate) kind: &'static str,
    /// What their format shows of a file that was cut.
    pub(crate) cuts: Cuts,
    /// Whether a file is told by its name alone, because nothing is known of what is in it.
    pub(crate) is_opaque: bool,
    /// What discovery may see of its devices, and how far that tells.
    pub(crate) sightings: fn() -> Vec<(Sighting, Certainty)>,
    /// Versions as its devices and images state them, odd ones included.
    pub(crate) versions: fn() -> Vec<Versions>,
    /// Any versions whatever: up to three texts, put into its parts.
    pub(crate) parts: &'static [&'static str],
    /// What its owner says of the chip, for devices that do not tell.
    pub(crate) chip: Option<&'static str>,
    /// A simulated device.
    pub(crate) start: fn(Wish) -> Later<Box<dyn Simulated>>,
    /// The device's password.
    pub(crate) password: &'static str,
    /// The best that a push can end in, with its reason.
    pub(crate) best: (Ending, Option<&'static str>),
    /// Shows that a driver behaves by the notes that an earlier one left; fails if it does not.
    pub(crate) remembers: fn() -> Later<()>,
}

/// What a format shows of a file that was cut.
#[derive(Clone, Debug)]
pub(crate) enum Cuts {
    /// Every cut.
    All,
    /// Cuts to these lengths; a longer rest is taken with this warning.
    To(Range<usize>, &'static str),
}

/// What a simulated device is to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Faultless, as it comes.
    Good,
    /// Faultless, and something about it has to be changed before a push and put back after it, if that ever is so.
    ToBePutBack,
    /// Each transfer is cut there.
    CutAt(Cut),
}

/// Where a transfer is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Before the first byte of the image is taken.
    AtOnce,
    /// After the first bytes, as few as the simulator can tell.
    First,
    /// In the middle.
    Half,
    /// So that the last byte is not taken.
    Last,
}

impl Cut {
    pub(crate) const ALL: [Self; 4] = [Self::AtOnce, Self::First, Self::Half, Self::Last];
}

/// A simulated device, as the checks see it.
pub(crate) trait Simulated: Send + Sync {
    /// Its address.
    fn ip(&self) -> Ipv4Addr;
    /// The way to it. Whatever can be put back after a push is asked for.
    fn ways(&self) -> Ways;
    /// How many pushes it has seen: `receiving` events.
    fn n_pushes(&self) -> usize;
    /// Whether it runs this image, by its own account.
    fn runs(&self, image: &Image) -> bool;
    /// What a push may change about it beside the image: equal texts, equal devices.
    fn standing(&self) -> String;
}

/// The table, in the order of [`families::NAMES`].
pub(crate) fn all() -> Vec<Entry> {
    vec![esp::ir_remote(), esp::arduino(), komfovent::komfovent()]
}
