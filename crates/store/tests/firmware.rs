//! The firmware repository: rows, approval, and what must stay.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{device, event, fleet_row, id, open};
use model::firmware::State;
use model::id::Sha256;
use model::image::{Image, Override, Refusal};
use model::installed::Installed;
use model::version::Versions;
use serde_json::Value;
use store::{
    Change, Event, FirmwareError, FirmwareRow, FirmwareUse, FleetRow, Holder, Liveness, Quarantine, Store,
};

fn image(name: &str) -> Image {
    Image::new(name, name.as_bytes().repeat(1_000))
}

fn firmware_row(image: &Image, state: State) -> FirmwareRow {
    FirmwareRow {
        state,
        ..common::firmware_row(image)
    }
}

fn file_of(folder: &Path, image: &Image) -> PathBuf {
    let hex = image.sha256().to_string();
    folder.join("images/sha256").join(&hex[..2]).join(&hex)
}

async fn put(store: &Store, image: &Image) {
    store.put_image(image, 5).await.unwrap();
    store
        .put_firmware(&firmware_row(image, State::Waiting))
        .await
        .unwrap();
}

fn installed(digest: Option<Sha256>) -> Installed {
    Installed {
        digest,
        label: Versions::one("firmware", "1.0"),
        label_moves: true,
    }
}

async fn lease(store: &Store, hardware: &str) -> i64 {
    let holder = Holder::this_process().unwrap();
    let grant = store
        .acquire_lease(&id(hardware), &holder, common::now(), |_| Liveness::Dead)
        .await;
    grant.unwrap().epoch()
}

/// A job that is finished at once.
async fn finish_job(store: &Store, hardware: &str, image: &Image, proven: Option<&Installed>) {
    let epoch = lease(store, hardware).await;
    let last = Event {
        finished: true,
        installed: proven.map_or(Change::Keep, Change::Set),
        ..event("done", &Value::Null)
    };
    store
        .start_job(&id(hardware), epoch, image.sha256(), None, &last)
        .await
        .unwrap();
}

#[track_caller]
fn check_in_use(removed: Result<(), FirmwareError>, expected: &FirmwareUse) {
    match removed {
        Err(FirmwareError::InUse { by, .. }) => assert_eq!(by, *expected),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_image_comes_back_as_it_was_put_the_newest_first() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let plain = firmware_row(&image("a.bin"), State::Waiting);
    let full = FirmwareRow {
        refusals: vec![Refusal {
            rule: "placeholder".to_owned(),
            text: "It is a placeholder.".to_owned(),
            next_step: "Take another one.".to_owned(),
            overriding: Override::Never,
        }],
        origin: Some("http://127.0.0.1/".to_owned()),
        added_ms: 9,
        approved_by: Some("Ann".to_owned()),
        approved_ms: Some(10),
        notes: Some("# New\n".to_owned()),
        ..firmware_row(&image("b.bin"), State::Refused)
    };
    for row in [&plain, &full] {
        assert_eq!(store.firmware_row(row.digest).await.unwrap(), None);
        store.put_firmware(row).await.unwrap();
        assert_eq!(store.firmware_row(row.digest).await.unwrap().as_ref(), Some(row));
    }
    assert_eq!(store.firmware().await.unwrap(), [full, plain]);
}

#[tokio::test]
async fn only_what_waits_is_approved_and_an_approval_outlives_another_look() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    for (name, state, approvable) in [
        ("waiting", State::Waiting, true),
        ("quarantined", State::Quarantined, true),
        ("blocked", State::Blocked, false),
        ("refused", State::Refused, false),
    ] {
        let row = firmware_row(&image(name), state);
        store.put_firmware(&row).await.unwrap();
        let approved = store.approve_firmware(row.digest, "Ann", 7).await;
        if !approvable {
            assert!(
                matches!(approved, Err(FirmwareError::NotApprovable { state: found, .. }) if found == state),
                "{approved:?}"
            );
            assert_eq!(store.firmware_row(row.digest).await.unwrap(), Some(row));
            continue;
        }
        approved.unwrap();
        store.approve_firmware(row.digest, "Bob", 8).await.unwrap();
        let seen_again = FirmwareRow {
            added_ms: 99,
            file_name: "renamed.bin".to_owned(),
            ..row.clone()
        };
        store.put_firmware(&seen_again).await.unwrap();
        let expected = FirmwareRow {
            state: State::Approved,
            approved_by: Some("Ann".to_owned()),
            approved_ms: Some(7),
            added_ms: row.added_ms,
            ..seen_again.clone()
        };
        assert_eq!(store.firmware_row(row.digest).await.unwrap(), Some(expected));
        let alarmed = FirmwareRow {
            state: State::Blocked,
            ..seen_again
        };
        store.put_firmware(&alarmed).await.unwrap();
        let stored = store.firmware_row(row.digest).await.unwrap().unwrap();
        assert_eq!(
            stored.state,
            State::Blocked,
            "an alarm counts more than an approval"
        );
    }
    let unknown = store.approve_firmware(Sha256::of(b"?"), "Ann", 7).await;
    assert!(matches!(unknown, Err(FirmwareError::Unknown(_))), "{unknown:?}");
}

#[tokio::test]
async fn a_removed_image_goes_with_its_file_and_its_names_stay() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let (image, other) = (image("a.bin"), image("b.bin"));
    put(&store, &image).await;
    put(&store, &other).await;
    let used = image.len_bytes() + other.len_bytes();
    assert_eq!(store.images_len_bytes().await.unwrap(), used);
    store.remove_firmware(image.sha256()).await.unwrap();
    assert!(!file_of(folder.path(), &image).exists());
    assert_eq!(store.firmware_row(image.sha256()).await.unwrap(), None);
    assert_eq!(store.image_names(image.sha256()).await.unwrap().len(), 1);
    assert_eq!(store.images_len_bytes().await.unwrap(), other.len_bytes());
    assert_eq!(store.firmware().await.unwrap().len(), 1);
    let again = store.remove_firmware(image.sha256()).await;
    assert!(matches!(again, Err(FirmwareError::Unknown(_))), "{again:?}");
    put(&store, &image).await;
    assert!(
        store.image(image.sha256(), "a.bin").await.unwrap().is_some(),
        "and can come again"
    );
}

#[tokio::test]
async fn an_image_that_a_device_runs_or_could_go_back_to_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let images = ["one", "two", "three", "four"].map(image);
    for image in &images {
        put(&store, image).await;
    }
    let [one, two, three, four] = &images;
    // Given as the image that runs, so that no job knows of it.
    store
        .set_installed(&id("a"), Some(&installed(Some(one.sha256()))), 1)
        .await
        .unwrap();
    let runs = FirmwareUse::Runs {
        device: id("a").key(),
    };
    let way_back = FirmwareUse::WayBack {
        device: id("a").key(),
    };
    check_in_use(store.remove_firmware(one.sha256()).await, &runs);

    finish_job(&store, "a", two, Some(&installed(Some(two.sha256())))).await;
    check_in_use(store.remove_firmware(two.sha256()).await, &runs);
    check_in_use(store.remove_firmware(one.sha256()).await, &way_back);

    // A push whose end was not proven: it runs the third one or still the second.
    finish_job(&store, "a", three, Some(&installed(None))).await;
    check_in_use(store.remove_firmware(three.sha256()).await, &way_back);
    check_in_use(store.remove_firmware(two.sha256()).await, &way_back);
    store.remove_firmware(one.sha256()).await.unwrap();

    finish_job(&store, "a", four, Some(&installed(Some(four.sha256())))).await;
    check_in_use(store.remove_firmware(four.sha256()).await, &runs);
    check_in_use(store.remove_firmware(three.sha256()).await, &way_back);
    check_in_use(store.remove_firmware(two.sha256()).await, &way_back);
    // The same image again changes nothing.
    finish_job(&store, "a", four, Some(&installed(Some(four.sha256())))).await;
    check_in_use(store.remove_firmware(two.sha256()).await, &way_back);
    for image in &images[1..] {
        assert!(
            file_of(folder.path(), image).exists(),
            "a refusal removes nothing"
        );
        assert!(store.firmware_row(image.sha256()).await.unwrap().is_some());
    }
    store.remove_device(&id("a")).await.unwrap();
    for image in &images[1..] {
        store.remove_firmware(image.sha256()).await.unwrap();
    }
    assert_eq!(store.images_len_bytes().await.unwrap(), 0);
}

#[tokio::test]
async fn an_image_that_a_job_brings_or_a_device_is_pinned_to_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let (brought, pinned) = (image("brought"), image("pinned"));
    put(&store, &brought).await;
    put(&store, &pinned).await;
    let epoch = lease(&store, "a").await;
    let job = store
        .start_job(
            &id("a"),
            epoch,
            brought.sha256(),
            None,
            &event("look", &Value::Null),
        )
        .await
        .unwrap();
    store
        .put_fleet_row(&FleetRow {
            pinned: Some(pinned.sha256().to_string()),
            ..fleet_row("b")
        })
        .await
        .unwrap();
    check_in_use(
        store.remove_firmware(brought.sha256()).await,
        &FirmwareUse::Job(job),
    );
    let stays = FirmwareUse::Pinned {
        device: id("b").key(),
    };
    check_in_use(store.remove_firmware(pinned.sha256()).await, &stays);
}

#[tokio::test]
async fn the_way_back_of_every_device_counts() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    device(folder.path(), "b").await;
    let images = ["one", "two", "three"].map(image);
    for image in &images {
        put(&store, image).await;
        finish_job(&store, "a", image, None).await;
    }
    finish_job(&store, "b", &images[0], None).await;
    let of_b = FirmwareUse::WayBack {
        device: id("b").key(),
    };
    check_in_use(store.remove_firmware(images[0].sha256()).await, &of_b);
    finish_job(&store, "b", &images[1], None).await;
    finish_job(&store, "b", &images[2], None).await;
    store.remove_firmware(images[0].sha256()).await.unwrap();
}

#[tokio::test]
async fn what_killed_processes_left_is_swept_and_whole_images_stay() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    assert_eq!(store.sweep_images().await.unwrap(), 0);
    assert_eq!(store.images_len_bytes().await.unwrap(), 0);
    let (kept, nameless) = (image("a.bin"), image("b.bin"));
    put(&store, &kept).await;
    // As after a restored back-up: nobody knows its name, and a device may run it.
    let file = file_of(folder.path(), &nameless);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, nameless.bytes()).unwrap();
    fs::write(file.with_file_name(".part-1"), b"half").unwrap();
    fs::write(file_of(folder.path(), &kept).with_file_name(".part-2"), b"half").unwrap();
    assert_eq!(store.sweep_images().await.unwrap(), 2);
    assert_eq!(store.sweep_images().await.unwrap(), 0);
    assert!(file.exists() && file_of(folder.path(), &kept).exists());
    assert_eq!(
        store.images_len_bytes().await.unwrap(),
        kept.len_bytes() + nameless.len_bytes()
    );
}

#[tokio::test]
async fn a_quarantine_outlives_another_look_and_ends_with_an_approval() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let row = firmware_row(&image("a"), State::Approved);
    store.put_firmware(&row).await.unwrap();
    let quarantine = Quarantine {
        since_ms: 7,
        devices: vec!["Hall".to_owned(), "Attic".to_owned()],
    };
    assert!(store.quarantine_firmware(row.digest, &quarantine).await.unwrap());
    let later = Quarantine {
        since_ms: 8,
        devices: Vec::new(),
    };
    let again = store.quarantine_firmware(row.digest, &later).await.unwrap();
    assert!(!again, "the first stays");
    assert!(!store.quarantine_firmware(Sha256::of(b"?"), &later).await.unwrap());
    // The same file comes again, and its owner would trust its way.
    store.put_firmware(&row).await.unwrap();
    drop(store);
    let store = open(folder.path()).await;
    let stored = store.firmware_row(row.digest).await.unwrap().unwrap();
    assert_eq!(
        (stored.state, stored.quarantine),
        (State::Approved, Some(quarantine))
    );
    store.approve_firmware(row.digest, "Ann", 9).await.unwrap();
    let stored = store.firmware_row(row.digest).await.unwrap().unwrap();
    assert_eq!((stored.state, stored.quarantine), (State::Approved, None));
}
