//! Versions: which of two is newer does not depend on who asks.

use families::Ways;
use model::family::Family;
use model::version::{Relation, Versions};
use proptest::prelude::*;

use crate::bench::{family, nowhere};
use crate::entries;

#[track_caller]
fn check(family: &dyn Family, a: &Versions, b: &Versions) {
    let (there, back) = (family.relate(a, b), family.relate(b, a));
    assert_eq!(there, back.reversed(), "{}: {a} and {b}", family.id());
    assert_eq!(family.relate(a, b), there, "{}: it changes its mind", family.id());
}

#[test]
fn a_relation_is_the_reverse_of_the_one_from_the_other_side() {
    for entry in entries::all() {
        let family = family(entry.name, &nowhere(), &Ways::default());
        let versions = (entry.versions)();
        for a in &versions {
            for b in &versions {
                check(&*family, a, b);
            }
        }
    }
}

#[test]
fn nothing_is_newer_than_itself() {
    for entry in entries::all() {
        let family = family(entry.name, &nowhere(), &Ways::default());
        for versions in (entry.versions)() {
            let relation = family.relate(&versions, &versions);
            assert!(
                matches!(relation, Relation::Same | Relation::Unknown),
                "{}: {versions} is {relation:?} to itself",
                entry.name
            );
        }
    }
}

/// Texts that are versions, nearly versions, and anything else.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "(C6|C6M|C8|P1|v)? ?[0-9]{1,2}(\\.[0-9]{1,4}){0,4}",
        "(C6|C8) 1\\.[0-9]\\.[0-9]{1,2}\\.[0-9]{1,2}",
        "P1 1\\.1\\.5\\.[0-9]{1,2}",
        "\\PC{0,12}",
    ]
}

proptest! {
    #[test]
    fn any_two_texts_relate_the_same_from_both_sides(
        a in prop::collection::vec(text(), 0..3),
        b in prop::collection::vec(text(), 0..3),
    ) {
        for entry in entries::all() {
            let family = family(entry.name, &nowhere(), &Ways::default());
            let put = |texts: &[String]| {
                let parts = entry.parts.iter().zip(texts);
                parts.fold(Versions::default(), |versions, (part, text)| versions.and(part, text))
            };
            check(&*family, &put(&a), &put(&b));
        }
    }
}
