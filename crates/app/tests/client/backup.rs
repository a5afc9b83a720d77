//! Back-ups of the whole state folder.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use model::image::Image;
use store::Store;

use crate::support::{reflash, run};

fn backup(state: &Path, arguments: &[&str]) -> Command {
    let mut command = reflash(["backup"]);
    command.args(arguments).arg("--state").arg(state);
    command
}

/// A state folder with an image, a key and a token in it.
async fn state(folder: &Path) -> Image {
    let store = Store::open(folder).await.unwrap();
    let image = Image::new("a.bin", &b"an image"[..]);
    store.put_image(&image, 1).await.unwrap();
    for (name, text) in [("secret.key", "the key"), ("token", "the token")] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    image
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_back_up_brings_everything_to_another_machine() {
    let home = tempfile::tempdir().unwrap();
    let (old, copy, new) = (
        home.path().join("old"),
        home.path().join("usb/copy"),
        home.path().join("new"),
    );
    let image = state(&old).await;
    let ended = run(backup(&old, &["create", copy.to_str().unwrap()])).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:#?}");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&copy), 0o700);
    assert_eq!(mode(&copy.join("secret.key")), 0o600);
    assert_eq!(mode(&copy.join("reflash.db")), 0o600);
    let left: Vec<_> = std::fs::read_dir(home.path().join("usb")).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing unfinished is left: {left:?}");

    let ended = run(backup(
        &new,
        &["restore", copy.to_str().unwrap(), "--yes", "--json"],
    ))
    .await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:#?}");
    assert_eq!(
        std::fs::read_to_string(new.join("secret.key")).unwrap(),
        "the key"
    );
    let store = Store::open(&new).await.unwrap();
    let restored = store.image(image.sha256(), "a.bin").await.unwrap().unwrap();
    assert_eq!(restored.sha256(), image.sha256());
    assert_eq!(store.image_names(image.sha256()).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_restore_replaces_is_kept_aside() {
    let home = tempfile::tempdir().unwrap();
    let (old, copy) = (home.path().join("old"), home.path().join("copy"));
    state(&old).await;
    run(backup(&old, &["create", copy.to_str().unwrap()])).await;
    std::fs::write(old.join("secret.key"), "another key").unwrap();
    let restore = ["restore", copy.to_str().unwrap(), "--yes", "--json"];
    let ended = run(backup(&old, &restore)).await;
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(
        std::fs::read_to_string(old.join("secret.key")).unwrap(),
        "the key"
    );
    let aside = ended.json()["kept_aside"].as_str().unwrap().to_owned();
    let aside = Path::new(&aside);
    assert_eq!(
        std::fs::read_to_string(aside.join("secret.key")).unwrap(),
        "another key"
    );
    assert!(aside.join("reflash.db").is_file());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_says_beforehand_what_it_replaces_and_where_that_is_kept() {
    let home = tempfile::tempdir().unwrap();
    let (old, copy) = (home.path().join("old"), home.path().join("copy"));
    state(&old).await;
    run(backup(&old, &["create", copy.to_str().unwrap()])).await;
    for (nth, arguments) in [(1, &["--yes"][..]), (2, &[]), (2, &["--yes"])] {
        let restore = [&["restore", copy.to_str().unwrap()], arguments].concat();
        let ended = run(backup(&old, &restore)).await;
        let told: Vec<_> = ended.stderr.split_whitespace().collect();
        let (told, kept) = (told.join(" "), format!("{}/replaced-{nth}", old.display()));
        assert!(
            told.contains(&format!("replaces the database in {}", old.display())) && told.contains(&kept),
            "{ended:#?}"
        );
        let done = arguments.contains(&"--yes");
        assert_eq!(ended.code, Some(if done { 0 } else { 64 }), "{ended:#?}");
        assert_eq!(Path::new(&kept).join("reflash.db").is_file(), done, "{ended:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_restored_without_a_yes_from_nothing_or_into_a_folder_in_use() {
    let home = tempfile::tempdir().unwrap();
    let (old, copy) = (home.path().join("old"), home.path().join("copy"));
    state(&old).await;
    let copy_name = copy.to_str().unwrap();
    let nothing = home.path().join("nothing");
    for (state, arguments, code, hint) in [
        (&nothing, &["create", copy_name][..], 3, "--state"),
        (&old, &["create", old.to_str().unwrap()], 1, "not empty"),
        (&old, &["restore", copy_name], 64, "--yes"),
        (&old, &["restore", copy_name, "--yes"], 3, "no back-up"),
        (&old, &["restore", "Cargo.toml", "--yes"], 1, "no back-up"),
    ] {
        let ended = run(backup(state, arguments)).await;
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(code), ""),
            "{arguments:?}: {ended:#?}"
        );
        assert!(ended.stderr.contains(hint), "{arguments:?}: {ended:#?}");
    }
    assert!(!nothing.exists(), "looking makes no folder");
    let store = Store::open(&old).await.unwrap();
    let ended = run(backup(&old, &["create", copy_name])).await;
    assert_eq!(ended.code, Some(0), "a server may run meanwhile: {ended:#?}");
    let ended = run(backup(&old, &["restore", copy_name, "--yes"])).await;
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(ended.stderr.contains("in use"), "{ended:#?}");
    drop(store);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_daily_copies_are_listed_and_can_be_restored() {
    let home = tempfile::tempdir().unwrap();
    let old = home.path().join("old");
    state(&old).await;
    let ended = run(backup(&old, &["list"])).await;
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let store = Store::open(&old).await.unwrap();
    let made = store.back_up_daily(1_700_000_000_000, 7).await.unwrap().unwrap();
    drop(store);
    let ended = run(backup(&old, &["list", "--json"])).await;
    assert_eq!(ended.json()[0]["file"], made.to_str().unwrap(), "{ended:#?}");
    let ended = run(backup(&old, &["list"])).await;
    assert!(ended.stdout.contains("reflash-2023-11-14.db"), "{ended:#?}");
    let ended = run(backup(&old, &["restore", made.to_str().unwrap(), "--yes"])).await;
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(
        std::fs::read_to_string(old.join("secret.key")).unwrap(),
        "the key"
    );
}
