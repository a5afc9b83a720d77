use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::time::Instant;

use super::super::settings::{Pace, Settings};
use super::super::testing::{House, app, mbin, mini, until};
use super::*;
use crate::views::FirmwareView;

/// A house with a watch folder that is being watched, until it is dropped.
struct Watched {
    house: House,
    folder: PathBuf,
    _running: tokio::task::JoinSet<()>,
}

/// Quick, so that a test need not wait; a rescan alone would be too late for what it waits for.
fn quick() -> Pace {
    Pace {
        settle: Duration::from_millis(100),
        settle_doubtful: Duration::from_secs(2),
        rescan: Duration::from_millis(500),
    }
}

async fn watched_with(pace: Pace, prepare: impl FnOnce(&Path)) -> Watched {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("firmware");
    prepare(&folder);
    let settings = Settings {
        folder: Some(folder.clone()),
        pace,
        ..Settings::default()
    };
    let house = House::with(root, settings, super::super::fetch::Fetcher::new).await;
    let mut running = tokio::task::JoinSet::new();
    let repository = house.repository.clone();
    running.spawn(async move { run(&repository).await });
    let watched = Watched {
        house,
        folder,
        _running: running,
    };
    until("the folder is read", async || {
        watched.view().trouble.as_deref() != Some("It has not been read yet.")
    })
    .await;
    watched
}

async fn watched() -> Watched {
    watched_with(quick(), |folder| fs::create_dir(folder).unwrap()).await
}

impl Watched {
    fn drop_file(&self, name: &str, bytes: &[u8]) {
        fs::write(self.folder.join(name), bytes).unwrap();
    }

    fn view(&self) -> crate::views::FolderView {
        self.house.repository.folder().unwrap()
    }

    async fn comes(&self, name: &str) -> FirmwareView {
        until(&format!("{name} comes"), async || {
            self.house.view(name).await.is_some()
        })
        .await;
        self.house.view(name).await.unwrap()
    }

    async fn count(&self) -> usize {
        self.house.repository.list().await.unwrap().firmware.len()
    }

    async fn is_ignored(&self, name: &str, because: &str) {
        until(&format!("{name} is ignored"), async || {
            let ignored = self.view().ignored;
            ignored
                .iter()
                .any(|note| note.text.contains(name) && note.text.contains(because))
        })
        .await;
    }
}

/// F1 of the mission; a placeholder is shown with its reason, and the newest is right.
#[tokio::test]
async fn a_dropped_file_is_inspected_and_offered_within_two_seconds() {
    let watched = watched_with(Pace::default(), |folder| fs::create_dir(folder).unwrap()).await;
    let device = mini("esp32c6", "1.0");
    watched.drop_file("ir_remote_v9.0.0.bin", b"placeholder for version 9.0.0\n");
    watched.drop_file("ir_remote_v1.5.0.bin", &app("esp32c6", None, 1));
    watched.drop_file("ir_remote_v2.0.0.bin", &app("esp32c6", None, 2));
    let dropped = Instant::now();
    until("2.0.0 is offered", async || {
        let offer = watched.house.offer(&device).await;
        offer.is_some_and(|offer| offer.name == "2.0.0" && offer.why_not.is_none())
    })
    .await;
    let took = dropped.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    let placeholder = watched.comes("ir_remote_v9.0.0.bin").await;
    assert_eq!(placeholder.state, State::Refused);
    assert!(!placeholder.refusals.is_empty() && placeholder.latest_for.is_empty());
    let newest = watched.comes("ir_remote_v2.0.0.bin").await;
    assert_eq!(
        (newest.latest_for, newest.approved_by.as_deref()),
        (vec!["esp32c6".to_owned()], Some("folder"))
    );
}

#[tokio::test]
async fn files_that_lay_in_the_folder_before_the_start_are_taken() {
    let watched = watched_with(quick(), |folder| {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("ir_remote_v2.0.0.bin"), app("esp32c6", None, 2)).unwrap();
    })
    .await;
    watched.comes("ir_remote_v2.0.0.bin").await;
    assert_eq!(watched.view().n_files, 1);
}

#[tokio::test]
async fn a_file_that_is_still_being_copied_is_looked_at_again_when_it_grows() {
    let watched = watched().await;
    let whole = app("esp32c6", None, 1);
    let mut file = fs::File::create(watched.folder.join("ir_remote_v2.0.0.bin")).unwrap();
    file.write_all(&whole[..10_000]).unwrap();
    let half = watched.comes("ir_remote_v2.0.0.bin").await;
    assert_eq!(half.state, State::Refused);
    file.write_all(&whole[10_000..]).unwrap();
    drop(file);
    until("it is whole", async || {
        let view = watched.house.view("ir_remote_v2.0.0.bin").await;
        view.is_some_and(|view| view.state == State::Approved)
    })
    .await;
    until("the half is forgotten", async || watched.count().await == 1).await;
}

/// Nothing in the vendor's format tells a part from the whole, so a part that is odd is waited for.
#[tokio::test]
async fn half_of_a_vendors_file_is_never_offered() {
    let watched = watched().await;
    let whole = mbin(1);
    let name = "C6_1_5_46_72_P1_1_1_5_48.mbin";
    let mut file = fs::File::create(watched.folder.join(name)).unwrap();
    file.write_all(&whole[..120_000]).unwrap();
    // Another file that comes later is taken first.
    watched.drop_file("ir_remote_v2.0.0.bin", &app("esp32c6", None, 1));
    watched.comes("ir_remote_v2.0.0.bin").await;
    assert!(watched.house.view(name).await.is_none());
    file.write_all(&whole[120_000..]).unwrap();
    drop(file);
    let taken = watched.comes(name).await;
    assert_eq!(
        (taken.len_bytes, taken.state),
        (whole.len() as u64, State::Approved)
    );
}

#[tokio::test]
async fn an_odd_file_that_does_not_change_any_more_is_taken_after_all() {
    let watched = watched().await;
    watched.drop_file("C6_1_5_46_72.mbin", &mbin(1)[..120_000]);
    let taken = watched.comes("C6_1_5_46_72.mbin").await;
    assert_eq!((taken.state, taken.warnings.len()), (State::Approved, 1));
}

#[tokio::test]
async fn new_bytes_under_an_old_name_are_a_new_image_and_the_old_one_stays() {
    let watched = watched().await;
    watched.drop_file("ir_remote_v2.0.0.bin", &app("esp32c6", None, 1));
    let old = watched.comes("ir_remote_v2.0.0.bin").await;
    watched.drop_file("ir_remote_v2.0.0.bin", &app("esp32c6", None, 2));
    until("there are two", async || watched.count().await == 2).await;
    let offer = watched.house.offer(&mini("esp32c6", "1.0")).await.unwrap();
    assert_ne!(offer.sha256, old.sha256, "the new bytes win");
    let old = watched
        .house
        .repository
        .get(&old.sha256.parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (old.state, old.name),
        (State::Approved, format!("2.0.0 ({})", &old.sha256[..8]))
    );
}

#[tokio::test]
async fn a_file_that_is_taken_out_of_the_folder_stays_in_the_repository() {
    let watched = watched().await;
    watched.drop_file("ir_remote_v2.0.0.bin", &app("esp32c6", None, 1));
    let view = watched.comes("ir_remote_v2.0.0.bin").await;
    let digest: Sha256 = view.sha256.parse().unwrap();
    let path = watched.folder.join("ir_remote_v2.0.0.bin");
    assert_eq!(
        watched.house.repository.find(path.to_str().unwrap()).unwrap(),
        digest
    );
    // While it lies there, removing it would only bring it back.
    let error = watched.house.repository.remove(&digest).await.unwrap_err();
    assert!(matches!(error, RepositoryError::InFolder { .. }), "{error}");
    watched.drop_file("placeholder.bin", b"nothing");
    watched.comes("placeholder.bin").await;
    fs::remove_file(&path).unwrap();
    fs::remove_file(watched.folder.join("placeholder.bin")).unwrap();
    until("the folder is empty", async || watched.view().n_files == 0).await;
    until("what was refused is forgotten", async || {
        watched.house.view("placeholder.bin").await.is_none()
    })
    .await;
    assert!(watched.house.view("ir_remote_v2.0.0.bin").await.is_some());
    watched.house.repository.remove(&digest).await.unwrap();
}

/// T17: nothing outside the folder is read, whatever lies in it.
#[tokio::test]
async fn links_out_of_the_folder_and_what_is_no_file_are_left_out() {
    let watched = watched().await;
    let outside = watched.house.root.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret.bin"), app("esp32c6", None, 1)).unwrap();
    let link = |target: &Path, name: &str| symlink(target, watched.folder.join(name)).unwrap();
    link(&outside.join("secret.bin"), "absolute.bin");
    link(Path::new("../outside/secret.bin"), "relative.bin");
    link(&outside, "dir");
    link(Path::new("dir/secret.bin"), "through.bin");
    link(Path::new("loop.bin"), "loop.bin");
    link(Path::new("/proc/self/exe"), "magic.bin");
    fs::create_dir(watched.folder.join("folder.bin")).unwrap();
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        watched.folder.join("pipe.bin"),
        rustix::fs::Mode::RUSR,
    )
    .unwrap();
    let huge = fs::File::create(watched.folder.join("huge.bin")).unwrap();
    huge.set_len(16 * 1024 * 1024 + 1).unwrap();
    watched.drop_file("a\nb.bin", &app("esp32c6", None, 3));
    watched.drop_file(".hidden.bin", &app("esp32c6", None, 4));
    watched.drop_file("notes.txt", b"not for us");
    for (name, because) in [
        ("absolute.bin", "leads out of the folder"),
        ("relative.bin", "leads out of the folder"),
        ("through.bin", "leads out of the folder"),
        ("loop.bin", "leads nowhere"),
        ("magic.bin", "cannot be read"),
        ("folder.bin", "not a plain file"),
        ("pipe.bin", "not a plain file"),
        ("huge.bin", "no firmware has more"),
        ("a?b.bin", "its name"),
    ] {
        watched.is_ignored(name, because).await;
    }
    // A good file, last of all, is still found, and is the only one.
    watched.drop_file("ir_remote_v2.0.0.bin", &app("esp32c6", None, 2));
    watched.comes("ir_remote_v2.0.0.bin").await;
    assert_eq!(watched.count().await, 1);
}

#[tokio::test]
async fn latest_bin_is_another_name_of_the_file_that_it_stands_for() {
    let watched = watched().await;
    watched.drop_file("ir_remote_v2.0.0.bin", &app("esp32c6", None, 1));
    symlink("ir_remote_v2.0.0.bin", watched.folder.join("latest.bin")).unwrap();
    let view = watched.comes("ir_remote_v2.0.0.bin").await;
    let digest: Sha256 = view.sha256.parse().unwrap();
    until("the alias is known", async || {
        watched
            .house
            .repository
            .find("latest.bin")
            .is_ok_and(|found| found == digest)
    })
    .await;
    assert_eq!(watched.count().await, 1);
    assert_eq!(watched.comes("ir_remote_v2.0.0.bin").await.name, "2.0.0");
}

#[tokio::test]
async fn notes_beside_a_file_are_its_release_notes_and_follow_their_changes() {
    let watched = watched().await;
    watched.drop_file("ir_remote_v2.0.0.md", b"# First");
    watched.drop_file("ir_remote_v2.0.0.bin", &app("esp32c6", None, 1));
    let digest: Sha256 = watched
        .comes("ir_remote_v2.0.0.bin")
        .await
        .sha256
        .parse()
        .unwrap();
    let say = async |expected: &str| {
        until(expected, async || {
            watched.house.repository.notes(&digest).await.unwrap().as_deref() == Some(expected)
        })
        .await;
    };
    say("# First").await;
    watched.drop_file("ir_remote_v2.0.0.md", b"# Second, and longer");
    say("# Second, and longer").await;
    // A link to somebody's secrets is no release notes.
    let secret = watched.house.root.path().join("secret");
    fs::write(&secret, "canary").unwrap();
    symlink(&secret, watched.folder.join("ir_remote_v3.0.0.md")).unwrap();
    watched.drop_file("ir_remote_v3.0.0.bin", &app("esp32c6", None, 3));
    assert!(!watched.comes("ir_remote_v3.0.0.bin").await.has_notes);
}

#[tokio::test]
async fn a_folder_that_is_missing_is_a_reason_and_not_an_end() {
    let watched = watched_with(quick(), |_| ()).await;
    assert!(watched.view().trouble.unwrap().contains("does not exist"));
    let troubles = watched.house.repository.troubles().await;
    assert_eq!(troubles[0].rule, "firmware-folder");
    let mut changes = watched.house.repository.changes();
    fs::create_dir(&watched.folder).unwrap();
    until("it is found", async || watched.view().trouble.is_none()).await;
    watched.drop_file("ir_remote_v2.0.0.bin", &app("esp32c6", None, 1));
    watched.comes("ir_remote_v2.0.0.bin").await;
    // Unmounted: what was taken stays.
    fs::rename(&watched.folder, watched.house.root.path().join("away")).unwrap();
    until("it is missed", async || watched.view().trouble.is_some()).await;
    assert_eq!(watched.count().await, 1);
    // Another one in its place is watched just so.
    fs::create_dir(&watched.folder).unwrap();
    watched.drop_file("ir_remote_v3.0.0.bin", &app("esp32c6", None, 3));
    watched.comes("ir_remote_v3.0.0.bin").await;
    let told: Vec<ChangeKind> = std::iter::from_fn(|| changes.try_recv().ok())
        .map(|change| change.kind)
        .collect();
    assert!(
        told.iter().filter(|kind| **kind == ChangeKind::Folder).count() >= 3,
        "{told:?}"
    );
}

#[tokio::test]
async fn a_path_that_is_no_folder_is_a_reason() {
    let watched = watched_with(quick(), |folder| fs::write(folder, "x").unwrap()).await;
    assert!(watched.view().trouble.unwrap().contains("not a folder"));
}

#[tokio::test]
async fn another_folder_of_the_configuration_is_watched_without_a_restart() {
    let watched = watched().await;
    watched.drop_file("ir_remote_v2.0.0.bin", &app("esp32c6", None, 1));
    watched.comes("ir_remote_v2.0.0.bin").await;
    let settings = |folder: Option<PathBuf>| Settings {
        folder,
        pace: quick(),
        ..Settings::default()
    };
    let repository = &watched.house.repository;
    repository.apply(settings(None));
    assert_eq!(repository.folder(), None);
    let other = watched.house.root.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("ir_remote_v3.0.0.bin"), app("esp32c6", None, 3)).unwrap();
    repository.apply(settings(Some(other)));
    watched.comes("ir_remote_v3.0.0.bin").await;
    assert_eq!(watched.count().await, 2, "what came from the old one stays");
    watched.drop_file("ir_remote_v4.0.0.bin", &app("esp32c6", None, 4));
    fs::write(
        watched.house.root.path().join("other/ir_remote_v5.0.0.bin"),
        app("esp32c6", None, 5),
    )
    .unwrap();
    watched.comes("ir_remote_v5.0.0.bin").await;
    assert!(watched.house.view("ir_remote_v4.0.0.bin").await.is_none());
}

/// T20: bytes are read once; a file that changes under the reader is one of the two, or not taken.
#[tokio::test]
async fn a_file_that_is_rewritten_all_the_time_is_never_taken_as_a_mixture() {
    let pace = Pace {
        rescan: Duration::from_millis(10),
        ..Pace::default()
    };
    let watched = watched_with(pace, |folder| fs::create_dir(folder).unwrap()).await;
    // Of equal length, so that only the content tells; opaque, so that no inspection does.
    let versions = [mbin(1), mbin(2)];
    let right = versions.clone().map(|bytes| Sha256::of(&bytes).to_string());
    let path = watched.folder.join("C6_1_5_46_72.mbin");
    let writer = tokio::task::spawn_blocking(move || {
        let mut file = fs::File::create(&path).unwrap();
        for n in 0..400 {
            for chunk in versions[n % 2].chunks(8192) {
                file.write_all(chunk).unwrap();
                std::thread::yield_now();
            }
            std::io::Seek::rewind(&mut file).unwrap();
        }
    });
    writer.await.unwrap();
    watched.comes("C6_1_5_46_72.mbin").await;
    for view in watched.house.repository.list().await.unwrap().firmware {
        assert!(right.contains(&view.sha256), "{view:?}");
    }
}

/// F17: a file that changes while it is being read is not taken, whatever was read of it.
#[test]
fn a_file_that_changes_while_it_is_read_is_not_taken() {
    use std::os::unix::fs::FileExt as _;
    use std::sync::atomic::{AtomicBool, Ordering};

    // As long as a file may be, so that reading it takes a while.
    const LEN: usize = 16 * 1024 * 1024;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    let whole = vec![1; LEN];
    fs::write(&path, &whole).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let change = |byte: u8| {
        for at in [0, LEN as u64 - 1] {
            file.write_at(&[byte], at).unwrap();
        }
    };
    let at_once = Pace {
        settle: Duration::ZERO,
        ..quick()
    };
    let mut n_left = 0;
    for round in 0..60 {
        change(1);
        // Times of files are only as fine as the system's ticks.
        std::thread::sleep(Duration::from_millis(15));
        let reading = folder::list(folder.path()).unwrap();
        let (due, _) = folder::Folder::default().read(reading, Duration::from_hours(1), &at_once);
        let (ready, go) = (AtomicBool::new(false), AtomicBool::new(false));
        let read = std::thread::scope(|scope| {
            scope.spawn(|| {
                ready.store(true, Ordering::SeqCst);
                while !go.load(Ordering::SeqCst) {
                    std::hint::spin_loop();
                }
                let began = Instant::now();
                while began.elapsed() < Duration::from_micros(100 * round) {
                    std::hint::spin_loop();
                }
                change(2);
            });
            while !ready.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            go.store(true, Ordering::SeqCst);
            folder::read(folder.path(), &due[0]).unwrap()
        });
        match read {
            None => n_left += 1,
            Some(bytes) => assert!(bytes == whole, "a mixture was taken in round {round}"),
        }
    }
    assert!(n_left > 0, "no change came in time");
}

#[tokio::test]
async fn a_part_that_was_taken_after_all_is_forgotten_when_the_rest_comes() {
    let pace = Pace {
        settle_doubtful: Duration::from_millis(300),
        ..quick()
    };
    let watched = watched_with(pace, |folder| fs::create_dir(folder).unwrap()).await;
    let whole = mbin(1);
    let mut file = fs::File::create(watched.folder.join("C6_1_5_46_72.mbin")).unwrap();
    file.write_all(&whole[..120_000]).unwrap();
    let part = watched.comes("C6_1_5_46_72.mbin").await;
    assert_eq!(part.len_bytes, 120_000);
    file.write_all(&whole[120_000..]).unwrap();
    drop(file);
    until("only the whole is left", async || {
        let list = watched.house.repository.list().await.unwrap().firmware;
        list.len() == 1 && list[0].len_bytes == whole.len() as u64
    })
    .await;
}
