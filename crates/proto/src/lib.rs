//! BYTES: sans-IO codecs and image headers that several vendors share.
//!
//! Bytes in, decisions out: no socket, clock, random number or log in here, and nothing of ours is imported.
#![warn(missing_docs)]

pub mod content_disposition;
pub mod esp_image;
pub mod espota;
pub mod multipart;
pub mod web_update;
