//! What every device family must do, run over all of them.
//!
//! A family is an entry in [`entries::all`]: its images, sightings and versions, and a simulated device. A file per check.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod bench;
mod entries;
mod images;
mod notes;
mod pushes;
mod sightings;
mod undo;
mod versions;

#[test]
fn every_family_has_an_entry_and_every_entry_a_family() {
    let named: Vec<&str> = entries::all().iter().map(|entry| entry.name).collect();
    assert_eq!(named, families::NAMES);
    let families = families::all(&bench::nowhere(), &families::Ways::default());
    let ids: Vec<String> = families.iter().map(|family| family.id().to_string()).collect();
    assert_eq!(ids, named);
}

#[test]
fn every_entry_says_enough_to_be_checked() {
    for entry in entries::all() {
        assert!(!(entry.images)().is_empty(), "{}: no image", entry.name);
        assert!((entry.versions)().len() > 1, "{}: no versions", entry.name);
        let family = bench::family(entry.name, &bench::nowhere(), &families::Ways::default());
        // Who says where to look for its devices knows them by sight, and the other way round.
        let (looks, knows) = (!family.lookouts().is_empty(), !(entry.sightings)().is_empty());
        assert_eq!(looks, knows, "{}", entry.name);
    }
}
