use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::views::OfferView;
use model::feed::NamedPart;
use model::id::FamilyId;
use model::version::Versions;
use proto::content_disposition;
use store::ImageError;

use super::judge::NOTES_MAX_LEN_BYTES;
use super::testing::{House, app, mbin, mini, unit};
use super::*;

const MODERN: &str = "C6_1_5_46_72_P1_1_1_5_48.mbin";

fn feed(is_private: bool) -> Source {
    Source::Feed {
        name: "komfovent-C6".to_owned(),
        url: "https://vendor.example/".to_owned(),
        is_private,
    }
}

async fn house() -> House {
    House::new(Settings::default()).await
}

#[tokio::test]
async fn an_upload_is_inspected_approved_by_who_brought_it_and_kept_once() {
    let house = house().await;
    let bytes = app("esp32c6", Some("2.0.0"), 1);
    let added = house.upload("ir_remote_v2.0.0.bin", bytes.clone()).await;
    assert_eq!((added.state, added.is_new), (State::Approved, true));
    let view = house.view("ir_remote_v2.0.0.bin").await.unwrap();
    assert_eq!(view.approved_by.as_deref(), Some("ada"));
    assert_eq!(
        (view.family.as_deref(), view.chip.as_deref()),
        (Some("ir-remote"), Some("esp32c6"))
    );
    assert_eq!(
        (view.name.as_str(), view.version_source.as_str()),
        ("2.0.0", "image")
    );
    assert_eq!(view.latest_for, ["esp32c6"]);
    let again = house.upload("copy.bin", bytes.clone()).await;
    assert_eq!((again.digest, again.is_new), (added.digest, false));
    let list = house.repository.list().await.unwrap();
    assert_eq!(list.firmware.len(), 1);
    assert_eq!(list.firmware[0].also_named, ["copy.bin"]);
    assert_eq!(list.used_bytes, bytes.len() as u64);
    assert!(list.free_bytes.is_some_and(|free| free > 0));
}

/// F14: each of these is shown with its reason and never offered to anybody.
#[tokio::test]
async fn what_is_no_firmware_is_shown_refused_and_never_the_newest() {
    let house = house().await;
    let good = app("esp32c6", Some("1.0.0"), 1);
    let mut bad_sum = good.clone();
    let last = bad_sum.len() - 40;
    bad_sum[last] ^= 1;
    for (file_name, bytes) in [
        (
            "ir_remote_v9.0.0.bin",
            b"placeholder for version 9.0.0\n".to_vec(),
        ),
        ("empty_v9.0.1.bin", Vec::new()),
        ("one_v9.0.2.bin", vec![0xE9]),
        ("cut_v9.0.3.bin", good[..good.len() / 2].to_vec()),
        ("sum_v9.0.4.bin", bad_sum),
        ("page_v9.0.5.bin", b"<!DOCTYPE html><html></html>".to_vec()),
        ("firmware.mbin", mbin(1)),
        ("C6_1_5_46_99.mbin", mbin(1)[..1000].to_vec()),
    ] {
        let added = house.upload(file_name, bytes).await;
        assert_eq!(added.state, State::Refused, "{file_name}");
        assert!(
            !added.refusals.is_empty() && !added.refusals[0].next_step.is_empty(),
            "{file_name}"
        );
    }
    assert_eq!(house.offer(&mini("esp32c6", "0.9")).await, None);
    house.upload("ir_remote_v1.0.0.bin", good).await;
    let offer = house.offer(&mini("esp32c6", "0.9")).await.unwrap();
    assert_eq!((offer.name.as_str(), offer.why_not), ("1.0.0", None));
    for view in house.repository.list().await.unwrap().firmware {
        assert_eq!(
            view.latest_for.is_empty(),
            view.state == State::Refused,
            "{}",
            view.file_name
        );
    }
}

/// F15, F16.
#[tokio::test]
async fn the_newest_is_the_newest_of_those_that_fit_the_device() {
    let house = house().await;
    house.upload("ir_remote_v1.1.0.bin", app("esp32", None, 1)).await;
    house
        .upload("ir_remote_v3.0.0.bin", app("esp32c6", None, 2))
        .await;
    house.upload(MODERN, mbin(3)).await;
    let name = |offer: Option<OfferView>| offer.map(|offer| (offer.name, offer.why_not));
    assert_eq!(
        name(house.offer(&mini("esp32", "1.0")).await),
        Some(("1.1.0".to_owned(), None))
    );
    assert_eq!(
        name(house.offer(&mini("esp32c6", "1.0")).await),
        Some(("3.0.0".to_owned(), None))
    );
    assert_eq!(name(house.offer(&mini("esp32s3", "1.0")).await), None);
    let mut small = mini("esp32", "1.0");
    small.slot_bytes = Some(1024);
    let (_, why_not) = name(house.offer(&small).await).unwrap();
    assert!(why_not.unwrap().contains("slot of 1,024 bytes"));
    // What is known of one kind of device is not said of another.
    small.slot_bytes = Some(1024 * 1024);
    assert_eq!(name(house.offer(&small).await), Some(("1.1.0".to_owned(), None)));
}

/// A plain sketch shares its image format with the remote: nothing tells whose an image is, so it is offered none.
#[tokio::test]
async fn a_plain_sketch_is_offered_nothing_by_itself() {
    let house = house().await;
    house
        .upload("ir_remote_v3.0.0.bin", app("esp32c6", None, 2))
        .await;
    let mut sketch = mini("esp32c6", "1.0");
    sketch.id = model::id::DeviceId::weak(&FamilyId::new("arduino"), "192.0.2.41");
    assert_eq!(house.offer(&sketch).await, None);
}

/// T10, T16: how far an image goes at once depends on the way it came.
#[tokio::test]
async fn only_what_its_owner_brings_or_https_carries_is_approved_at_once() {
    let index = |is_private| Source::Index {
        url: "https://index.example/".to_owned(),
        is_private,
    };
    for (source, plain, signed) in [
        (Source::Upload, State::Approved, State::Waiting),
        (Source::Folder, State::Approved, State::Waiting),
        (feed(true), State::Approved, State::Waiting),
        (feed(false), State::Quarantined, State::Quarantined),
        (index(true), State::Waiting, State::Waiting),
        (index(false), State::Quarantined, State::Quarantined),
        (Source::Push, State::Waiting, State::Waiting),
        (Source::RunningOn, State::Waiting, State::Waiting),
    ] {
        for (require_signature, expected) in [(false, plain), (true, signed)] {
            let house = House::new(Settings {
                require_signature,
                ..Settings::default()
            })
            .await;
            let image = Image::new(MODERN, mbin(1));
            let added = house.repository.add(&image, &source, "somebody").await.unwrap();
            assert_eq!(added.state, expected, "{source:?}");
            let device = unit("C6", "C6 1.3.44.70", None);
            assert_eq!(
                house.offer(&device).await.is_some(),
                expected == State::Approved,
                "{source:?}"
            );
            house.repository.approve(&added.digest, "ada").await.unwrap();
            assert!(
                house.offer(&device).await.is_some(),
                "{source:?} after its approval"
            );
            let view = house.view(MODERN).await.unwrap();
            let who = if expected == State::Approved {
                "somebody"
            } else {
                "ada"
            };
            assert_eq!((view.approved_by.as_deref(), view.refusals.len()), (Some(who), 0));
        }
    }
}

/// T16, F11.
#[tokio::test]
async fn a_known_name_or_version_with_other_bytes_from_outside_is_blocked_and_alarms() {
    for other_name in [MODERN, "C6_1_5_46_72_P1_1_1_5_48_20240101.mbin"] {
        let house = house().await;
        let first = house
            .repository
            .add(&Image::new(MODERN, mbin(1)), &feed(true), "feed")
            .await
            .unwrap();
        let mut changes = house.repository.changes();
        let second = house
            .repository
            .add(&Image::new(other_name, mbin(2)), &feed(true), "feed")
            .await
            .unwrap();
        assert_eq!(second.state, State::Blocked, "{other_name}");
        assert!(
            second.refusals[0].text.contains(&first.digest.short()),
            "{:?}",
            second.refusals
        );
        let mut alarmed = false;
        while let Ok(change) = changes.try_recv() {
            alarmed |= change.kind == ChangeKind::Alarm && change.digest == Some(second.digest);
        }
        assert!(alarmed, "{other_name}");
        let device = unit("C6", "C6 1.3.44.70", None);
        assert_eq!(
            house.offer(&device).await.unwrap().sha256,
            first.digest.to_string()
        );
        // Neither an approval nor bringing it once more helps.
        let error = house.repository.approve(&second.digest, "ada").await.unwrap_err();
        assert!(
            matches!(
                error,
                RepositoryError::NotApprovable {
                    state: State::Blocked,
                    ..
                }
            ),
            "{error}"
        );
        let again = house.upload(other_name, mbin(2)).await;
        assert_eq!(again.state, State::Blocked);
        // Its owner can take it away and bring it himself.
        house.repository.remove(&second.digest).await.unwrap();
        assert_eq!(house.upload(other_name, mbin(2)).await.state, State::Approved);
    }
}

#[tokio::test]
async fn the_same_bytes_by_a_better_way_are_approved_and_nothing_takes_an_approval_back() {
    let house = house().await;
    let image = Image::new(MODERN, mbin(1));
    let add = async |source: &Source| house.repository.add(&image, source, "x").await.unwrap().state;
    assert_eq!(add(&feed(false)).await, State::Quarantined);
    assert_eq!(add(&feed(true)).await, State::Approved);
    assert_eq!(add(&feed(false)).await, State::Approved);
    assert_eq!(house.view(MODERN).await.unwrap().refusals, []);
}

#[tokio::test]
async fn a_file_that_was_refused_for_its_name_is_taken_under_the_right_one() {
    let house = house().await;
    assert_eq!(house.upload("firmware.mbin", mbin(1)).await.state, State::Refused);
    assert_eq!(house.upload(MODERN, mbin(1)).await.state, State::Approved);
    let view = house.view(MODERN).await.unwrap();
    assert_eq!(
        (view.name.as_str(), view.also_named),
        ("1.5.46.72 / P 1.1.5.48", vec!["firmware.mbin".to_owned()])
    );
}

/// T17: under whatever name a file is uploaded, nothing is written but the image under its digest.
#[tokio::test]
async fn no_upload_is_written_anywhere_but_under_its_digest() {
    let house = house().await;
    let mut names: Vec<String> = [
        "..",
        ".",
        "/",
        "\0",
        "a\0b",
        "a\nb",
        "\u{202e}nib.x",
        "%2e%2e%2fx",
        "COM1",
        "~",
        "",
    ]
    .map(str::to_owned)
    .to_vec();
    for n in 1..=40 {
        for tail in ["etc/passwd", "x.bin", "state/reflash.db", ".", ".."] {
            names.push(format!("{}{tail}", "../".repeat(n)));
        }
    }
    names.push("/etc/cron.d/x".to_owned());
    names.push("x".repeat(300));
    assert!(names.len() >= 200);
    let files = |folder: &Path| -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.insert(path);
                }
            }
        }
        found
    };
    let bytes = app("esp32c6", None, 1);
    house.upload("first.bin", bytes.clone()).await;
    let before = files(house.root.path());
    for name in &names {
        house.upload(name, bytes.clone()).await;
        let view = &house.repository.list().await.unwrap().firmware[0];
        for name in &view.also_named {
            assert_eq!(content_disposition::last_component(name).as_ref(), Ok(name));
        }
    }
    assert_eq!(files(house.root.path()), before);
}

/// T21: nothing but names is looked up, and no path outside the folder.
#[tokio::test]
async fn an_image_is_found_by_its_names_and_never_by_a_path_of_the_machine() {
    let house = house().await;
    let remote = house
        .upload("ir_remote_v2.0.0.bin", app("esp32c6", None, 1))
        .await
        .digest;
    let unit = house.upload(MODERN, mbin(1)).await.digest;
    house.upload("other.mbin", mbin(1)).await;
    let full = remote.to_string();
    for (word, expected) in [
        (full.as_str(), Some(remote)),
        (&full.to_uppercase(), Some(remote)),
        (&full[..8], Some(remote)),
        ("2.0.0", Some(remote)),
        (" ir_remote_v2.0.0.bin ", Some(remote)),
        ("1.5.46.72 / P 1.1.5.48", Some(unit)),
        ("C6 1.5.46.72 / P1 1.1.5.48", Some(unit)),
        ("other.mbin", Some(unit)),
        (&full[..7], None),
        ("2.0", None),
        ("", None),
        ("unknown", None),
        ("unavailable", None),
        ("None", None),
        ("/etc/shadow", None),
        ("../../etc/shadow", None),
        ("/config/ir_remote_v2.0.0.bin", None),
        ("./ir_remote_v2.0.0.bin", None),
    ] {
        assert_eq!(house.repository.find(word).ok(), expected, "{word:?}");
    }
    let error = house.repository.find("/etc/shadow").unwrap_err();
    assert!(matches!(error, RepositoryError::Outside { .. }), "{error}");
}

#[tokio::test]
async fn two_images_of_one_version_are_called_differently() {
    let house = house().await;
    let old = house
        .upload("ir_remote_v2.0.0.bin", app("esp32c6", None, 1))
        .await
        .digest;
    let new = house
        .upload("ir_remote_v2.0.0.bin", app("esp32c6", None, 2))
        .await
        .digest;
    let list = house.repository.list().await.unwrap().firmware;
    let name = |digest: Sha256| {
        let view = list.iter().find(|view| view.sha256 == digest.to_string());
        view.unwrap().name.clone()
    };
    assert_ne!(name(old), name(new));
    let suffixed = [name(old), name(new)]
        .into_iter()
        .filter(|name| name.contains('('))
        .count();
    assert_eq!(suffixed, 1, "{} {}", name(old), name(new));
    assert_eq!(house.repository.find(&name(old)).unwrap(), old);
    assert_eq!(house.repository.find(&name(new)).unwrap(), new);
}

/// F18.
#[tokio::test]
async fn an_image_that_a_device_runs_or_could_go_back_to_is_not_removed() {
    let house = house().await;
    let device = mini("esp32c6", "1.0");
    house.put(&device).await;
    let image = Image::new("ir_remote_v1.0.0.bin", app("esp32c6", None, 1));
    let first = house
        .repository
        .add_running_on(&image, &device, "ada")
        .await
        .unwrap();
    let error = house.repository.remove(&first.digest).await.unwrap_err();
    assert!(error.to_string().contains("runs it"), "{error}");
    // The device goes on to another image: the first is its way back.
    let image = Image::new("ir_remote_v1.0.1.bin", app("esp32c6", None, 2));
    let second = house
        .repository
        .add_running_on(&image, &device, "ada")
        .await
        .unwrap();
    let error = house.repository.remove(&first.digest).await.unwrap_err();
    assert!(error.to_string().contains("way back"), "{error}");
    assert!(house.repository.remove(&second.digest).await.is_err());
    assert_eq!(house.repository.list().await.unwrap().firmware.len(), 2);
    let third = house
        .upload("ir_remote_v3.0.0.bin", app("esp32c6", None, 3))
        .await;
    house.repository.remove(&third.digest).await.unwrap();
    let gone = house.repository.remove(&third.digest).await.unwrap_err();
    assert!(matches!(gone, RepositoryError::NotFound { .. }), "{gone}");
}

#[tokio::test]
async fn the_image_that_a_device_runs_can_be_told_afterwards_and_is_not_offered_to_others() {
    let house = house().await;
    let device = mini("esp32c6", "1.0");
    house.put(&device).await;
    let mut changes = house.repository.changes();
    let image = Image::new("ir_remote_v2.0.0.bin", app("esp32c6", None, 1));
    let added = house
        .repository
        .add_running_on(&image, &device, "ada")
        .await
        .unwrap();
    assert_eq!(added.state, State::Waiting);
    let installed = house.store.installed(&device.id).await.unwrap().unwrap();
    assert_eq!(
        (installed.digest, &installed.label),
        (Some(added.digest), &device.versions)
    );
    let told =
        std::iter::from_fn(|| changes.try_recv().ok()).any(|change| change.kind == ChangeKind::Running);
    assert!(told);
    assert_eq!(
        house.view("ir_remote_v2.0.0.bin").await.unwrap().running_on,
        [device.id.key()]
    );
    let family = house.family("ir-remote");
    let view = house
        .repository
        .installed_view(&*family, &installed, &device.versions);
    assert_eq!((view.name.as_str(), view.kept), ("2.0.0", true));
    // Once the label has moved, the record says nothing more.
    let view = house
        .repository
        .installed_view(&*family, &installed, &Versions::one("firmware", "1.1"));
    assert_eq!(view.name, "1.1");
    let another = mini("esp32c6", "0.9");
    assert_eq!(house.offer(&another).await, None);
}

#[tokio::test]
async fn what_cannot_run_on_a_device_is_not_taken_for_what_it_runs() {
    let house = house().await;
    let device = mini("esp32c6", "1.0");
    house.put(&device).await;
    for (file_name, bytes, why) in [
        ("a.bin", app("esp32", None, 1), "esp32-c6"),
        ("b.bin", b"hello".to_vec(), ""),
        (MODERN, mbin(1), "no file for such a device"),
        ("c.bin", app("esp32c6", Some("2.0"), 1), "reports 1.0"),
    ] {
        let image = Image::new(file_name, bytes);
        let error = house
            .repository
            .add_running_on(&image, &device, "ada")
            .await
            .unwrap_err();
        assert!(
            matches!(error, RepositoryError::NotRunning { .. }),
            "{file_name}: {error}"
        );
        assert!(
            error.to_string().to_lowercase().contains(why),
            "{file_name}: {error}"
        );
    }
    assert_eq!(house.store.installed(&device.id).await.unwrap(), None);
    assert!(house.repository.list().await.unwrap().firmware.is_empty());
    let stranger = Device {
        id: model::id::DeviceId::from_hardware(&FamilyId::new("ir-remote"), "ffffffffffff"),
        ..device
    };
    let image = Image::new("d.bin", app("esp32c6", None, 1));
    let error = house
        .repository
        .add_running_on(&image, &stranger, "ada")
        .await
        .unwrap_err();
    assert!(matches!(error, RepositoryError::Device(_)), "{error}");
}

/// T20, T34, F17, F78: what is read back are the bytes that were inspected, or nothing.
#[tokio::test]
async fn a_stored_file_that_was_changed_is_never_used_and_can_be_mended() {
    let house = house().await;
    let bytes = app("esp32c6", None, 1);
    let digest = house.upload("ir_remote_v2.0.0.bin", bytes.clone()).await.digest;
    let hex = digest.to_string();
    let path = house
        .root
        .path()
        .join("state/images/sha256")
        .join(&hex[..2])
        .join(&hex);
    let mut changed = bytes.clone();
    changed[100] ^= 1;
    std::fs::write(&path, changed).unwrap();
    let error = house.repository.image(&digest).await.unwrap_err();
    assert!(
        matches!(error, RepositoryError::Image(ImageError::Corrupt { .. })),
        "{error}"
    );
    let device = mini("esp32c6", "1.0");
    let why_not = house.offer(&device).await.unwrap().why_not.unwrap();
    assert!(why_not.contains("damaged"), "{why_not}");
    house.upload("ir_remote_v2.0.0.bin", bytes.clone()).await;
    assert_eq!(
        house.repository.image(&digest).await.unwrap().bytes()[..],
        bytes[..]
    );
    assert_eq!(house.offer(&device).await.unwrap().why_not, None);
}

#[tokio::test]
async fn what_was_pushed_by_hand_is_taken_in_as_a_way_back_and_not_offered() {
    let house = house().await;
    let device = mini("esp32c6", "1.0");
    house.put(&device).await;
    let image = Image::new("mine.bin", app("esp32c6", None, 1));
    house.store.put_image(&image, 1).await.unwrap();
    let installed = Installed {
        digest: Some(image.sha256()),
        label: device.versions.clone(),
        label_moves: false,
    };
    house
        .store
        .set_installed(&device.id, Some(&installed), 1)
        .await
        .unwrap();
    let view = house.view("mine.bin").await.unwrap();
    assert_eq!((view.state, view.source.as_str()), (State::Waiting, "push"));
    assert_eq!(view.running_on, [device.id.key()]);
    assert_eq!(house.offer(&device).await, None);
}

#[tokio::test]
async fn release_notes_are_kept_bounded_and_plain() {
    let house = house().await;
    let digest = house
        .upload("ir_remote_v2.0.0.bin", app("esp32c6", None, 1))
        .await
        .digest;
    assert_eq!(house.repository.notes(&digest).await.unwrap(), None);
    let long = format!(
        "# 2.0.0\n\n- new\u{1b}[2J\u{0}\n{}",
        "\u{e9}".repeat(NOTES_MAX_LEN_BYTES)
    );
    house.repository.set_notes(&digest, &long).await.unwrap();
    let notes = house.repository.notes(&digest).await.unwrap().unwrap();
    assert!(notes.len() <= NOTES_MAX_LEN_BYTES && notes.len() > NOTES_MAX_LEN_BYTES - 4);
    assert!(notes.starts_with("# 2.0.0\n\n- new[2J\n"), "{:?}", &notes[..40]);
    assert!(house.view("ir_remote_v2.0.0.bin").await.unwrap().has_notes);
    house.repository.set_notes(&digest, " \n").await.unwrap();
    assert!(!house.view("ir_remote_v2.0.0.bin").await.unwrap().has_notes);
}

/// `test_store_save_and_load` of the founding document.
#[tokio::test]
async fn images_and_what_is_known_of_them_survive_a_restart() {
    let house = house().await;
    let kept = house.upload(MODERN, mbin(1)).await;
    house.upload("firmware.mbin", mbin(2)).await;
    house
        .repository
        .set_notes(&kept.digest, "Better air.")
        .await
        .unwrap();
    let before = house.repository.list().await.unwrap().firmware;
    let house = house.restarted(Settings::default()).await;
    assert_eq!(house.repository.list().await.unwrap().firmware, before);
    assert_eq!(
        house.repository.notes(&kept.digest).await.unwrap().as_deref(),
        Some("Better air.")
    );
    assert_eq!(
        house.repository.image(&kept.digest).await.unwrap().bytes()[..],
        mbin(1)[..]
    );
}

/// `test_store_handles_missing_file`.
#[tokio::test]
async fn an_empty_repository_opens_and_a_missing_file_is_told() {
    let house = house().await;
    assert!(house.repository.list().await.unwrap().firmware.is_empty());
    let digest = house.upload(MODERN, mbin(1)).await.digest;
    std::fs::remove_dir_all(house.root.path().join("state/images")).unwrap();
    let house = house.restarted(Settings::default()).await;
    let error = house.repository.image(&digest).await.unwrap_err();
    assert!(matches!(error, RepositoryError::NotFound { .. }), "{error}");
    let offer = house.offer(&unit("C6", "C6 1.3.44.70", None)).await.unwrap();
    assert!(offer.why_not.unwrap().contains("missing"));
}

/// `test_latest_version_from_store`.
#[tokio::test]
async fn the_latest_version_of_a_unit_is_the_newest_kept_file_for_its_controller() {
    let house = house().await;
    for (name, mark) in [
        "C6_1_3_28_38_20180428.mbin",
        MODERN,
        "C6_1_5_44_70_P1_1_1_5_46.mbin",
        "C8_1_1_14_90_P1_1_1_5_46.mbin",
    ]
    .into_iter()
    .zip(1..)
    {
        house.upload(name, mbin(mark)).await;
    }
    for (model, installed, latest) in [
        ("C6", "C6 1.3.44.70", "1.5.46.72 / P 1.1.5.48"),
        ("C6M", "C6M 1.4.47.71", "1.5.46.72 / P 1.1.5.48"),
        ("C8", "C8 1.1.14.27", "1.1.14.90 / P 1.1.5.46"),
    ] {
        let offer = house.offer(&unit(model, installed, None)).await.unwrap();
        assert_eq!((offer.name.as_str(), offer.why_not), (latest, None), "{model}");
    }
    let list = house.repository.list().await.unwrap().firmware;
    let newest = |model: &str| -> Vec<&str> {
        let newest = list
            .iter()
            .filter(|view| view.latest_for.iter().any(|named| named == model));
        newest.map(|view| view.file_name.as_str()).collect()
    };
    assert_eq!(newest("C6"), [MODERN]);
    assert_eq!(newest("C6M"), [MODERN]);
    assert_eq!(newest("C8"), ["C8_1_1_14_90_P1_1_1_5_46.mbin"]);
}

/// `test_update_available_detection`: the last number of controller or panel decides (F8 of the mission).
#[tokio::test]
async fn an_update_is_offered_when_controller_or_panel_is_newer() {
    let house = house().await;
    house.upload(MODERN, mbin(1)).await;
    for (controller, panel, is_offered) in [
        ("C6 1.3.44.70", Some("P1 1.1.5.46"), true),
        ("C6 1.5.46.71", Some("P1 1.1.5.48"), true),
        ("C6 1.5.46.72", Some("P1 1.1.5.47"), true),
        ("C6 1.5.46.73", Some("P1 1.1.5.47"), true),
        ("C6 1.5.46.71", Some("P1 1.1.5.49"), true),
        ("C6 1.5.46.72", Some("P1 1.1.5.48"), false),
        ("C6 1.2.44.72", Some("P1 1.1.5.48"), false),
        ("C6 1.5.46.73", Some("P1 1.1.5.48"), false),
        ("C6 1.5.46.72", Some("P1 1.1.5.49"), false),
        ("C6 1.5.46.72", None, false),
        ("C6 1.3.44.70", None, true),
    ] {
        let offer = house.offer(&unit("C6", controller, panel)).await.unwrap();
        assert_eq!(
            offer.why_not.is_none(),
            is_offered,
            "{controller} {panel:?}: {:?}",
            offer.why_not
        );
    }
}

/// `test_unsupported_old_firmware`: the last number decides, and a C8 has no minimum.
#[tokio::test]
async fn a_unit_with_firmware_that_is_too_old_is_shown_the_update_and_the_reason_why_not() {
    let house = house().await;
    house.upload(MODERN, mbin(1)).await;
    house.upload("C8_1_1_14_90_P1_1_1_5_46.mbin", mbin(2)).await;
    for (model, controller, is_offered) in [
        ("C6", "C6 1.3.17.14", false),
        ("C6", "C6 1.3.17.15", true),
        ("C6", "C6 1.2.44.70", true),
        ("C6M", "C6M 1.4.1.9", false),
        ("C8", "C8 1.1.3.13", true),
    ] {
        let offer = house.offer(&unit(model, controller, None)).await.unwrap();
        assert_eq!(
            offer.why_not.is_none(),
            is_offered,
            "{controller}: {:?}",
            offer.why_not
        );
        if let Some(why_not) = offer.why_not {
            assert!(
                why_not.contains("v1.3.15") && why_not.contains("by hand"),
                "{why_not}"
            );
        }
    }
}

/// The stored numbers are those of the founding document.
#[test]
fn names_of_files_tell_stored_versions() {
    let families = testing::families();
    let feeds: Vec<_> = families.iter().flat_map(|family| family.downloads()).collect();
    let parts = (feeds[0].read_name)(MODERN).unwrap();
    assert_eq!(
        parts,
        [
            NamedPart {
                part: "controller",
                numbers: [0, 1, 5, 46, 72]
            },
            NamedPart {
                part: "panel",
                numbers: [0, 1, 1, 5, 48]
            },
        ]
    );
}
