//! Any file name and any content: no panic, and what is accepted has the vendor's name and a size that fits.
#![no_main]

use std::sync::{Arc, OnceLock};

use families::Ways;
use families::fuzzing::{Controller, Name, Panel};
use libfuzzer_sys::fuzz_target;
use model::family::Family;
use model::image::{Image, Inspection};
use net::{Dialer, Networks, Site};

fn family() -> &'static Arc<dyn Family> {
    static FAMILY: OnceLock<Arc<dyn Family>> = OnceLock::new();
    FAMILY.get_or_init(|| {
        let site = Site {
            dialer: Arc::new(Dialer::new(Networks::private(), None)),
            callback: None,
            pull: None,
        };
        families::all(&site, &Ways::default())
            .into_iter()
            .find(|family| family.id().as_str() == "komfovent")
            .expect("it is in the registry")
    })
}

fuzz_target!(|input: (&str, u32, &[u8])| {
    let (file_name, word, bytes) = input;
    if let Some(name) = Name::parse(file_name) {
        assert!(file_name.ends_with(".mbin") && file_name.is_ascii());
        assert_eq!(
            Controller::unpack(name.controller.pack()).is_none(),
            name.controller.pack() == 0
        );
        assert_eq!(name.controller.to_string().parse(), Ok(name.controller));
    }
    if let Some(controller) = Controller::unpack(word) {
        assert_eq!(controller.pack(), word);
    }
    if let Some(panel) = Panel::unpack(word) {
        assert_eq!(panel.pack(), word);
    }
    // Large files are made of few bytes: the content is opaque.
    let content = bytes.repeat(1 + usize::try_from(word % 4096).unwrap_or(0));
    match family().inspect(&Image::new(file_name, content)) {
        Inspection::NotMine => assert!(!file_name.ends_with(".mbin")),
        Inspection::Accepted(info) => {
            assert!(Name::parse(file_name).is_some());
            assert!((100 * 1024..=10 * 1024 * 1024).contains(&info.len_bytes));
        }
        Inspection::Refused(_, refusals) => assert!(!refusals.is_empty()),
    }
});
