//! Devices, password answers and image files.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use common::{ADDRESS, device, id, open};
use model::family::Notes;
use model::id::{DeviceId, FamilyId, Sha256};
use model::image::Image;
use model::installed::Installed;
use model::version::Versions;
use serde_json::json;
use store::{ImageError, InventoryError};

const ELSEWHERE: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

#[tokio::test]
async fn a_device_keeps_its_name_its_notes_and_its_enrolment_when_it_moves() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    assert_eq!(store.device(&id("a")).await.unwrap(), None);
    store
        .upsert_device(&id("a"), ADDRESS, Some("Hall"), 1)
        .await
        .unwrap();
    assert!(!store.device(&id("a")).await.unwrap().unwrap().enrolled());
    store.enroll(&id("a"), 5).await.unwrap();
    store.enroll(&id("a"), 9).await.unwrap();
    let notes = Notes(json!({"form": "sha256", "n": 7}));
    store.save_notes(&id("a"), &notes).await.unwrap();
    store.upsert_device(&id("a"), ELSEWHERE, None, 20).await.unwrap();
    store.close().await;

    let store = open(folder.path()).await;
    let row = store.device(&id("a")).await.unwrap().unwrap();
    assert_eq!((row.address, row.seen_wall_ms), (ELSEWHERE, 20));
    assert_eq!(row.name.as_deref(), Some("Hall"));
    assert_eq!(row.enrolled_wall_ms, Some(5), "the first time stays");
    assert_eq!(row.notes, notes);
    assert_eq!(store.devices_at(ADDRESS).await.unwrap(), []);
    assert_eq!(store.devices_at(ELSEWHERE).await.unwrap(), [row]);
}

#[tokio::test]
async fn notes_of_any_json_come_back_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    for value in [
        json!(5),
        json!("5"),
        json!(null),
        json!(-0.5),
        json!([1, {"a": true}]),
    ] {
        let notes = Notes(value);
        store.save_notes(&id("a"), &notes).await.unwrap();
        assert_eq!(store.device(&id("a")).await.unwrap().unwrap().notes, notes);
    }
}

#[tokio::test]
async fn a_weak_identity_is_never_the_hardware_one_of_the_same_text() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "aabbccddeeff").await;
    store.enroll(&id("aabbccddeeff"), 1).await.unwrap();
    let weak = DeviceId::weak(&FamilyId::new("test"), "aabbccddeeff");
    assert_eq!(store.device(&weak).await.unwrap(), None);
    store.upsert_device(&weak, ADDRESS, None, 2).await.unwrap();
    let row = store.device(&weak).await.unwrap().unwrap();
    assert!(!row.enrolled());
    assert_eq!(row.id, weak);
    assert_eq!(store.devices_at(ADDRESS).await.unwrap().len(), 2);
}

#[tokio::test]
async fn nothing_is_stored_of_a_device_that_is_not_known() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let unknown = |result| matches!(result, Err(InventoryError::UnknownDevice { .. }));
    assert!(unknown(store.enroll(&id("a"), 1).await));
    assert!(unknown(store.save_notes(&id("a"), &Notes::default()).await));
    assert!(unknown(store.set_installed(&id("a"), None, 1).await));
    assert!(unknown(store.unlock(&id("a")).await));
    assert!(unknown(store.count_answer(&id("a"), 1).await.map(drop)));
}

#[tokio::test]
async fn what_a_device_runs_is_recorded_and_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    assert_eq!(store.installed(&id("a")).await.unwrap(), None);
    for digest in [Some(Sha256::of(b"x")), None] {
        let installed = Installed {
            digest,
            label: Versions::one("controller", "1.3").and("panel", "1.1"),
            label_moves: false,
        };
        store.set_installed(&id("a"), Some(&installed), 1).await.unwrap();
        assert_eq!(store.installed(&id("a")).await.unwrap(), Some(installed));
    }
    store.set_installed(&id("a"), None, 2).await.unwrap();
    assert_eq!(store.installed(&id("a")).await.unwrap(), None);
}

#[tokio::test]
async fn failed_answers_count_until_the_unlock_and_accepted_ones_never() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let other = device(folder.path(), "b").await;
    for wall_ms in 1..=5 {
        store.count_answer(&id("a"), wall_ms * 100).await.unwrap();
    }
    let taken = store.count_answer(&id("a"), 600).await.unwrap();
    assert_eq!(
        store.failed_answers_since(&id("a"), 0).await.unwrap(),
        6,
        "counted before it is sent"
    );
    store.answer_accepted(taken).await.unwrap();
    assert_eq!(
        other.failed_answers_since(&id("a"), 0).await.unwrap(),
        5,
        "seen by every process"
    );
    assert_eq!(
        store.failed_answers_since(&id("a"), 300).await.unwrap(),
        3,
        "from 300 ms on"
    );
    assert_eq!(
        store.failed_answers_since(&id("b"), 0).await.unwrap(),
        0,
        "of this device alone"
    );

    other.count_answer(&id("b"), 100).await.unwrap();
    store.unlock(&id("a")).await.unwrap();
    assert_eq!(store.failed_answers_since(&id("a"), 0).await.unwrap(), 0);
    assert_eq!(
        store.failed_answers_since(&id("b"), 0).await.unwrap(),
        1,
        "b stays counted"
    );
    store.count_answer(&id("a"), 50).await.unwrap();
    assert_eq!(
        store.failed_answers_since(&id("a"), 0).await.unwrap(),
        1,
        "though the clock was set back"
    );
}

fn image(name: &str) -> Image {
    Image::new(name, vec![0xe9; 100_000])
}

fn file_of(folder: &Path, image: &Image) -> PathBuf {
    let hex = image.sha256().to_string();
    folder.join("images/sha256").join(&hex[..2]).join(&hex)
}

#[track_caller]
fn check_mode(path: &Path, expected: u32) {
    let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, expected, "{mode:o} {}", path.display());
}

/// What lies beside the image in its folder.
fn n_files_beside(path: &Path) -> usize {
    fs::read_dir(path.parent().unwrap()).unwrap().count() - 1
}

#[tokio::test]
async fn an_image_comes_back_as_it_was_under_any_name() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let image = image("a.bin");
    assert!(store.image(image.sha256(), "a.bin").await.unwrap().is_none());
    store.put_image(&image, 7).await.unwrap();
    let renamed = Image::new("b.bin", image.bytes().clone());
    store.put_image(&renamed, 9).await.unwrap();
    store.put_image(&image, 11).await.unwrap();
    let read = store.image(image.sha256(), "c.bin").await.unwrap().unwrap();
    assert_eq!((read.bytes(), read.file_name()), (image.bytes(), "c.bin"));
    let names = store.image_names(image.sha256()).await.unwrap();
    let names: Vec<_> = names
        .iter()
        .map(|name| (name.file_name.as_str(), name.first_seen_wall_ms, name.len_bytes))
        .collect();
    assert_eq!(names, [("a.bin", 7, 100_000), ("b.bin", 9, 100_000)]);
}

#[tokio::test]
async fn images_are_for_this_user_only() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let image = image("a.bin");
    store.put_image(&image, 7).await.unwrap();
    let path = file_of(folder.path(), &image);
    check_mode(&path, 0o600);
    for folder in path.ancestors().skip(1).take(3) {
        check_mode(folder, 0o700);
    }
}

#[tokio::test]
async fn a_damaged_image_is_told_and_replaced_by_the_whole_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let image = image("a.bin");
    store.put_image(&image, 7).await.unwrap();
    let path = file_of(folder.path(), &image);
    let mut flipped = image.bytes().to_vec();
    flipped[99_999] ^= 1;
    for damaged in [
        flipped,
        Vec::new(),
        image.bytes()[..50_000].to_vec(),
        vec![1; 17 << 20],
    ] {
        fs::write(&path, &damaged).unwrap();
        let read = store.image(image.sha256(), "a.bin").await;
        assert!(
            matches!(&read, Err(ImageError::Corrupt { digest, path: told }) if *digest == image.sha256() && *told == path),
            "{read:?}"
        );
        assert_eq!(fs::read(&path).unwrap(), damaged, "reading changes nothing");
        store.put_image(&image, 8).await.unwrap();
        let read = store.image(image.sha256(), "a.bin").await.unwrap().unwrap();
        assert_eq!(read.bytes(), image.bytes());
    }
}

#[tokio::test]
async fn a_whole_image_is_not_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let image = image("a.bin");
    store.put_image(&image, 7).await.unwrap();
    let path = file_of(folder.path(), &image);
    let inode = |path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let before = inode(&path);
    store.put_image(&image, 8).await.unwrap();
    assert_eq!(inode(&path), before);
}

#[tokio::test]
async fn one_image_put_by_many_at_once_is_whole_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let image = image("a.bin");
    let mut putters = tokio::task::JoinSet::new();
    for putter in 0..8 {
        let store = open(folder.path()).await;
        let image = image.clone();
        putters.spawn(async move {
            store.put_image(&image, putter).await.unwrap();
            let read = store.image(image.sha256(), "a.bin").await.unwrap().unwrap();
            assert_eq!(read.bytes(), image.bytes());
        });
    }
    while let Some(ended) = putters.join_next().await {
        ended.unwrap();
    }
    assert_eq!(n_files_beside(&file_of(folder.path(), &image)), 0);
}

#[tokio::test]
async fn what_a_killed_process_left_unfinished_goes_with_the_next_image() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let image = image("a.bin");
    let path = file_of(folder.path(), &image);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path.with_file_name(".part-xyz"), b"half").unwrap();
    store.put_image(&image, 7).await.unwrap();
    assert_eq!(n_files_beside(&path), 0);
}

#[tokio::test]
async fn an_image_whose_place_cannot_be_written_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    fs::write(folder.path().join("images"), b"a file").unwrap();
    let put = store.put_image(&image("a.bin"), 7).await;
    assert!(matches!(put, Err(ImageError::Io { .. })), "{put:?}");
}
