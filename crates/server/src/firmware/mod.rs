//! The firmware repository: images from the watch folder, from uploads and from vendors, and which of them is offered to whom.

pub mod fetch;
#[cfg(test)]
pub(crate) mod testing;
