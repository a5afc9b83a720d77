//! Any file is read without a panic, and what is accepted is an application image known to its last byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::esp_image::{Chip, Kind, read};

fuzz_target!(|bytes: &[u8]| {
    let reading = read(bytes);
    if reading.accepted() {
        let image = reading.image.as_ref().expect("an accepted file is an image");
        assert_eq!(reading.kind, Kind::App);
        assert!(image.descriptor.is_some() && image.chip.name().is_some());
        assert!(image.end == bytes.len() || image.signature.is_some());
    }
    for refusal in &reading.refusals {
        assert!(!refusal.text.contains(char::is_control) && !refusal.next_step.contains(char::is_control));
    }
    if let Some(image) = reading.image {
        assert!(
            image
                .fits(Some(image.chip), None, Some(image.len_bytes))
                .is_empty()
        );
        let revision = u16::from(bytes[0]);
        let _ = image.fits(Chip::parse("esp32c6"), Some(revision), Some(0x14_0000));
    }
});
