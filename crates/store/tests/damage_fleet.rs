//! What becomes of a server's books, its images and its back-ups when the disk is full, locked or read-only, and when the process
//! is killed at any step.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::children::{Killed, can_inject, child, childs_folder, fill, run_on_disk, told_seqs};
use common::{ADDRESS, audit_entry, device, event, firmware_row, fleet_row, id, open, outside, poll};
use model::image::Image;
use serde_json::{Value, json};
use sqlx::Connection as _;
use store::{
    BackupError, FirmwareError, Holder, ImageError, OpenError, Poll, RestoreError, ServerLockError, Store,
    StoreErrorKind, lock_server, process_is_alive,
};

/// The names of all that lies in a folder of images, unfinished or not.
fn image_files(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for below in fs::read_dir(folder.join("images/sha256")).into_iter().flatten() {
        for entry in fs::read_dir(below.unwrap().path()).unwrap() {
            names.push(entry.unwrap().file_name().into_string().unwrap());
        }
    }
    names
}

#[tokio::test]
async fn child_keeps_books_on_a_full_disk() {
    let Some(folder) = childs_folder() else { return };
    println!("was a child");
    let store = device(&folder, "a").await;
    let old = folder.join("old.db");
    store.back_up(&old).await.unwrap();
    let whole = fs::read(&old).unwrap();
    let filler = fill(&folder);

    let text = json!("x".repeat(3_000));
    let (mut n_events, mut n_audited) = (0, 0);
    let error = loop {
        match store.append_event("x", None, &text, 1).await {
            Ok(seq) => n_events = seq,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind, StoreErrorKind::Full, "{error:?}");
    let error = loop {
        match store.append_audit(&audit_entry(&"x".repeat(3_000))).await {
            Ok(seq) => n_audited = seq,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind, StoreErrorKind::Full, "{error:?}");
    let mut n_polls = 0;
    let error = loop {
        match store.save_polls(&[poll("a", n_polls + 1)]).await {
            Ok(()) => n_polls += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind, StoreErrorKind::Full, "{error:?}");
    for _ in 0..3 {
        let image = Image::new("a.bin", vec![1; 50_000]);
        let put = store.put_image(&image, 1).await;
        assert!(matches!(put, Err(ImageError::Full { .. })), "{put:?}");
        assert_eq!(
            image_files(&folder),
            [] as [&str; 0],
            "nothing unfinished is left"
        );
        let refused = store.back_up(&old).await;
        assert!(matches!(refused, Err(BackupError::Full { .. })), "{refused:?}");
        assert!(
            fs::read(&old).unwrap() == whole,
            "the back-up before is still there"
        );
    }
    assert!(!store.is_lost(), "a full disk loses nothing");
    assert_eq!(store.last_event().await.unwrap(), n_events);

    fs::remove_file(&filler).unwrap();
    // In the other order than they failed, so that each goes on by itself.
    store.save_polls(&[poll("a", n_polls + 1)]).await.unwrap();
    assert_eq!(
        i64::try_from(store.samples(&id("a"), 0, 10_000).await.unwrap().len()).unwrap(),
        n_polls + 1
    );
    assert_eq!(
        store.append_audit(&audit_entry("x")).await.unwrap(),
        n_audited + 1
    );
    assert_eq!(
        store.append_event("x", None, &text, 1).await.unwrap(),
        n_events + 1
    );
    assert_eq!(store.verify_audit().await.unwrap().broken_at, None);
    store.back_up(&old).await.unwrap();
    let leftovers: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains(".part"))
        .collect();
    assert_eq!(leftovers, [] as [&str; 0]);

    store.close().await;
    fill(&folder);
    let refused = Store::restore(&folder, &old).await;
    assert!(matches!(refused, Err(RestoreError::Full { .. })), "{refused:?}");
    fs::remove_file(&filler).unwrap();
    let store = open(&folder).await;
    assert_eq!(
        store.last_event().await.unwrap(),
        n_events + 1,
        "nothing was restored"
    );
}

#[test]
fn a_full_disk_refuses_every_book_and_is_forgiven_when_there_is_room() {
    run_on_disk("size=1500k", "child_keeps_books_on_a_full_disk");
}

#[tokio::test]
async fn child_is_a_server_on_a_disk_that_cannot_be_written() {
    let Some(folder) = childs_folder() else { return };
    println!("was a child");
    let state = folder.join("state");
    let elsewhere = tempfile::tempdir().unwrap();
    let backup = elsewhere.path().join("a.db");
    let store = device(&state, "a").await;
    store.back_up(&backup).await.unwrap();
    store.close().await;
    fs::copy(&backup, folder.join("a.db")).unwrap();
    let remounted = Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(&folder)
        .status();
    assert!(remounted.unwrap().success());

    let opened = Store::open(&state).await;
    let Err(error @ OpenError::Folder { .. }) = opened else {
        panic!("{opened:?}");
    };
    assert!(
        error.to_string().contains("make it readable and writable"),
        "{error}"
    );
    let locked = lock_server(&state);
    assert!(matches!(locked, Err(ServerLockError::Io { .. })), "{locked:?}");
    let restored = Store::restore(&state, &backup).await;
    assert!(matches!(restored, Err(RestoreError::Io { .. })), "{restored:?}");

    let well = device(&elsewhere.path().join("well"), "a").await;
    let refused = well.back_up(&folder.join("b.db")).await;
    assert!(matches!(refused, Err(BackupError::Io { .. })), "{refused:?}");
    assert!(!well.is_lost());
    // A back-up on a disk that cannot be written, as on a stick, can be restored.
    well.close().await;
    Store::restore(&elsewhere.path().join("well"), &folder.join("a.db"))
        .await
        .unwrap();
    assert_eq!(
        open(&elsewhere.path().join("well"))
            .await
            .fleet()
            .await
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn a_disk_that_cannot_be_written_is_refused_in_words_by_all() {
    run_on_disk("size=2m", "child_is_a_server_on_a_disk_that_cannot_be_written");
}

#[tokio::test]
async fn looks_at_a_locked_database_are_busy_then_go_on_and_hold_nobody_up_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    store.save_polls(&[poll("a", 1)]).await.unwrap();
    let mut locker = outside(folder.path()).await;
    let lock = locker.begin_with("begin immediate").await.unwrap();
    let (journal, entry) = (store.clone(), audit_entry("x"));
    let polls = [poll("a", 2)];
    let (saved, audited) = tokio::join!(store.save_polls(&polls), journal.append_audit(&entry));
    assert_eq!(saved.unwrap_err().kind, StoreErrorKind::Busy);
    assert_eq!(audited.unwrap_err().kind, StoreErrorKind::Busy);
    assert_eq!(
        store.samples(&id("a"), 0, 9).await.unwrap().len(),
        1,
        "reading goes on all the while"
    );
    assert!(!store.is_lost());
    lock.rollback().await.unwrap();
    store.save_polls(&polls).await.unwrap();
    assert_eq!(store.append_audit(&entry).await.unwrap(), 1);
}

#[tokio::test]
async fn looks_and_the_journal_take_turns() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = store.clone();
        writers.spawn(async move {
            for at_ms in 1..=50 {
                store.save_polls(&[poll("a", at_ms)]).await.unwrap();
                store.append_event("x", None, &Value::Null, 1).await.unwrap();
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    assert_eq!(store.last_event().await.unwrap(), 200);
    assert_eq!(store.samples(&id("a"), 0, 100).await.unwrap().len(), 50);
}

#[tokio::test]
async fn looks_given_up_half_way_leave_no_trace_and_no_lock() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let polls = [poll("a", 7)];
    for n_polls in 0..40 {
        let mut saving = Box::pin(store.save_polls(&polls));
        for _ in 0..n_polls {
            let polled =
                std::future::poll_fn(|context| std::task::Poll::Ready(saving.as_mut().poll(context)));
            if polled.await.is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    store.append_audit(&audit_entry("x")).await.unwrap();
    store.save_polls(&[poll("a", 8)]).await.unwrap();
    open(folder.path())
        .await
        .append_audit(&audit_entry("x"))
        .await
        .unwrap();
    assert_eq!(store.verify_audit().await.unwrap().n_rows, 2);
}

#[tokio::test]
async fn child_looks_and_then_writes_the_audit() {
    let Some(folder) = childs_folder() else { return };
    println!("\nwas a child");
    let store = open(&folder).await;
    // The second connection is made with the first look.
    store.save_polls(&[poll("a", 1)]).await.unwrap();
    for (nth, mark) in (2..).zip(["looks", "more looks"]) {
        let _ = fs::File::open(folder.join(format!("mark {mark}")));
        store.save_polls(&[poll("a", nth)]).await.unwrap();
    }
    let _ = fs::File::open(folder.join("mark audit"));
    store.append_audit(&audit_entry("x")).await.unwrap();
    let _ = fs::File::open(folder.join("mark end"));
}

#[tokio::test]
async fn looks_do_not_wait_for_the_disk_and_the_audit_does() {
    if !can_inject() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    device(folder.path(), "a").await.close().await;
    let trace = folder.path().join("trace");
    let wrapper = [
        "strace",
        "-f",
        "-qq",
        "-o",
        trace.to_str().unwrap(),
        "-e",
        "trace=openat,fsync,fdatasync",
    ];
    let output = child(&wrapper, "child_looks_and_then_writes_the_audit", folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let trace = fs::read_to_string(&trace).unwrap();
    let between = |from: &str, to: &str| {
        let from = trace.find(&format!("mark {from}\"")).unwrap();
        let to = trace.find(&format!("mark {to}\"")).unwrap();
        trace[from..to].matches("sync(").count()
    };
    assert_eq!(between("looks", "audit"), 0, "{trace}");
    assert!(between("audit", "end") > 0, "{trace}");
}

#[tokio::test]
async fn child_keeps_books_until_it_is_killed() {
    let Some(folder) = childs_folder() else { return };
    let store = open(&folder).await;
    println!();
    // Ends by itself if nobody kills it.
    for seq in 1..20_000 {
        let polls = ["a", "b"].map(|name| Poll {
            restarts: u32::try_from(seq).unwrap(),
            ..poll(name, seq)
        });
        store.save_polls(&polls).await.unwrap();
        store.append_audit(&audit_entry("x")).await.unwrap();
        let written = store.append_event("x", None, &json!(seq), seq).await.unwrap();
        println!("seq {written}");
    }
}

#[tokio::test]
async fn a_kill_between_any_two_writes_leaves_whole_books() {
    for n_told in [1, 2, 17, 120] {
        let folder = tempfile::tempdir().unwrap();
        device(folder.path(), "a").await.close().await;
        device(folder.path(), "b").await.close().await;
        let mut command = child(&[], "child_keeps_books_until_it_is_killed", folder.path());
        let mut writer = Killed(command.spawn().unwrap());
        let lines = BufReader::new(writer.0.stdout.take().unwrap()).lines();
        let mut told = told_seqs(lines.map_while(Result::ok));
        let mut last_told = told.by_ref().nth(n_told - 1).unwrap();
        writer.0.kill().unwrap();
        last_told = told.last().unwrap_or(last_told);

        let store = open(folder.path()).await;
        let events = store.events_after(0, 100_000).await.unwrap();
        let n_events = i64::try_from(events.len()).unwrap();
        assert!(n_events >= last_told, "{n_events} events, told {last_told}");
        for (seq, event) in (1..).zip(&events) {
            assert_eq!((event.seq, &event.detail), (seq, &json!(seq)));
        }
        let check = store.verify_audit().await.unwrap();
        assert_eq!(check.broken_at, None);
        assert!(i64::try_from(check.n_rows).unwrap() >= n_events);
        let restarts: Vec<u32> = store
            .fleet()
            .await
            .unwrap()
            .iter()
            .map(|row| row.restarts)
            .collect();
        assert_eq!(
            restarts[0], restarts[1],
            "looks are stored together or not at all"
        );
        assert_eq!(
            store.append_event("x", None, &Value::Null, 1).await.unwrap(),
            n_events + 1
        );
    }
}

/// Kills a child at its nth call that changes files, for every n until it ends by itself; `check` looks at what it left.
async fn kill_at_every_step(name: &str, prepare: impl AsyncFn(&Path), check: impl AsyncFn(&Path, bool)) {
    if !can_inject() {
        return;
    }
    let mut n_killed = 0;
    // One kind of call at a time, because calls are counted by thread: else the first of one thread would hide the next's.
    for calls in [
        "fsync",
        "fdatasync",
        "rename,renameat,renameat2",
        "link,linkat",
        "unlink,unlinkat",
        "mkdir",
        "ftruncate",
        "write,pwrite64",
    ] {
        for nth in 1..=100 {
            let folder = tempfile::tempdir().unwrap();
            prepare(folder.path()).await;
            let inject = format!("inject={calls}:signal=KILL:when={nth}");
            let wrapper = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject];
            let output = child(&wrapper, name, folder.path())
                .stderr(Stdio::null())
                .output()
                .unwrap();
            let stdout = String::from_utf8_lossy(&output.stdout);
            assert!(!stdout.contains("panicked"), "{stdout}");
            let done = stdout.contains("seq 1");
            check(folder.path(), done).await;
            if output.status.success() {
                assert!(done, "{stdout}");
                break;
            }
            n_killed += 1;
        }
    }
    assert!(n_killed >= 5, "{n_killed} were killed");
}

fn kept_image() -> Image {
    Image::new("a.bin", vec![0xe9; 300_000])
}

#[tokio::test]
async fn child_puts_an_image() {
    let Some(folder) = childs_folder() else { return };
    let store = open(&folder).await;
    store.put_image(&kept_image(), 1).await.unwrap();
    println!("\nseq 1");
}

#[tokio::test]
async fn a_kill_at_any_step_leaves_an_image_whole_or_not_at_all() {
    kill_at_every_step(
        "child_puts_an_image",
        async |folder| device(folder, "a").await.close().await,
        async |folder, done| {
            let store = open(folder).await;
            let image = kept_image();
            let read = store.image(image.sha256(), "a.bin").await.unwrap();
            assert!(read.is_some() || !done, "what was told is there");
            store.sweep_images().await.unwrap();
            let left = image_files(folder);
            assert_eq!(left.len(), usize::from(read.is_some()), "{left:?}");
            store.put_image(&image, 1).await.unwrap();
            assert!(store.image(image.sha256(), "a.bin").await.unwrap().is_some());
        },
    )
    .await;
}

#[tokio::test]
async fn child_removes_an_image() {
    let Some(folder) = childs_folder() else { return };
    let store = open(&folder).await;
    store.remove_firmware(kept_image().sha256()).await.unwrap();
    println!("\nseq 1");
}

#[tokio::test]
async fn a_kill_at_any_step_of_a_removal_leaves_no_row_without_its_file() {
    kill_at_every_step(
        "child_removes_an_image",
        async |folder| {
            let store = open(folder).await;
            store.put_image(&kept_image(), 1).await.unwrap();
            store.put_firmware(&firmware_row(&kept_image())).await.unwrap();
            store.close().await;
        },
        async |folder, done| {
            let store = open(folder).await;
            let image = kept_image();
            let row = store.firmware_row(image.sha256()).await.unwrap();
            let file = store.image(image.sha256(), "a.bin").await.unwrap();
            assert!(row.is_none() || file.is_some());
            assert!(!done || file.is_none());
            // What is left of it can be removed.
            let again = store.remove_firmware(image.sha256()).await;
            assert!(
                matches!(again, Ok(()) | Err(FirmwareError::Unknown(_))),
                "{again:?}"
            );
            assert_eq!(image_files(folder), [] as [&str; 0]);
        },
    )
    .await;
}

fn backup_in(folder: &Path) -> PathBuf {
    folder.join("backups/reflash-1970-01-01.db")
}

#[tokio::test]
async fn child_backs_up() {
    let Some(folder) = childs_folder() else { return };
    let store = open(&folder).await;
    let made = store.back_up_daily(5, 7).await.unwrap();
    assert_eq!(made, Some(backup_in(&folder)));
    println!("\nseq 1");
}

#[tokio::test]
async fn a_kill_at_any_step_leaves_a_back_up_whole_or_not_at_all() {
    kill_at_every_step(
        "child_backs_up",
        async |folder| device(folder, "a").await.close().await,
        async |folder, done| {
            let backup = backup_in(folder);
            assert!(backup.exists() || !done);
            if backup.exists() {
                let restored = tempfile::tempdir().unwrap();
                Store::restore(restored.path(), &backup).await.unwrap();
                assert_eq!(open(restored.path()).await.fleet().await.unwrap().len(), 1);
            }
            // The next day's one takes away what was left unfinished.
            let store = open(folder).await;
            store.back_up_daily(86_400_005, 7).await.unwrap().unwrap();
            let names = fs::read_dir(folder.join("backups")).unwrap();
            let n_unfinished = names
                .filter(|entry| {
                    let name = entry.as_ref().unwrap().file_name();
                    name.as_encoded_bytes().starts_with(b".part")
                })
                .count();
            assert_eq!(n_unfinished, 0);
        },
    )
    .await;
}

#[tokio::test]
async fn child_restores() {
    let Some(folder) = childs_folder() else { return };
    Store::restore(&folder, &backup_in(&folder)).await.unwrap();
    println!("\nseq 1");
}

#[tokio::test]
async fn a_kill_at_any_step_of_a_restore_leaves_the_old_the_new_or_a_refusal_and_loses_nothing() {
    kill_at_every_step(
        "child_restores",
        async |folder| {
            let store = device(folder, "old").await;
            store.back_up_daily(5, 7).await.unwrap();
            store.upsert_device(&id("new"), ADDRESS, None, 1).await.unwrap();
            store.close().await;
        },
        async |folder, done| {
            match Store::open(folder).await {
                Ok(store) => {
                    let n_devices = store.fleet().await.unwrap().len();
                    assert!(n_devices == 1 || (n_devices == 2 && !done), "{n_devices}");
                    store.close().await;
                }
                Err(error @ OpenError::Corrupt { .. }) => {
                    assert!(!done);
                    assert!(error.to_string().contains("a restore was interrupted"), "{error}");
                }
                Err(error) => panic!("{error:?}"),
            }
            Store::restore(folder, &backup_in(folder)).await.unwrap();
            assert_eq!(open(folder).await.fleet().await.unwrap().len(), 1);
            // The one that was there lies beside, whole.
            let mut found = false;
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.join("reflash.db").exists() {
                    found |= open(&path).await.fleet().await.unwrap().len() == 2;
                }
            }
            assert!(found);
        },
    )
    .await;
}

#[tokio::test]
async fn a_damaged_database_is_replaced_by_a_back_up_and_kept_beside() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let backup = store.back_up_daily(5, 7).await.unwrap().unwrap();
    store.put_fleet_row(&fleet_row("b")).await.unwrap();
    store.close().await;
    let database = folder.path().join("reflash.db");
    for damaged in [vec![0xa5; 8192], Vec::new()] {
        fs::write(&database, &damaged).unwrap();
        fs::write(folder.path().join("reflash.db-wal"), b"its log").unwrap();
        let opened = Store::open(folder.path()).await;
        assert!(matches!(opened, Err(OpenError::Corrupt { .. })), "{opened:?}");
        let aside = Store::restore(folder.path(), &backup)
            .await
            .unwrap()
            .aside
            .unwrap();
        assert_eq!(fs::read(aside.join("reflash.db")).unwrap(), damaged);
        assert_eq!(fs::read(aside.join("reflash.db-wal")).unwrap(), b"its log");
        let store = open(folder.path()).await;
        assert_eq!(store.fleet().await.unwrap().len(), 1);
        store.close().await;
    }
}

#[tokio::test]
async fn a_job_begun_while_its_image_is_removed_is_refused_or_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let image = kept_image();
    let holder = Holder::this_process().unwrap();
    let grant = store
        .acquire_lease(&id("a"), &holder, common::now(), process_is_alive)
        .await;
    let epoch = grant.unwrap().epoch();
    store.put_image(&image, 1).await.unwrap();
    store.put_firmware(&firmware_row(&image)).await.unwrap();
    let state = Value::Null;
    let first = event("look", &state);
    let device_id = id("a");
    let (begun, removed) = tokio::join!(
        store.start_job(&device_id, epoch, image.sha256(), None, &first),
        store.remove_firmware(image.sha256())
    );
    begun.unwrap();
    // Whichever was first: a refused removal left the file.
    let kept = store.image(image.sha256(), "a.bin").await.unwrap().is_some();
    assert_eq!(kept, removed.is_err(), "{removed:?}");
}
