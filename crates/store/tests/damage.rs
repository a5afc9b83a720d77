//! What the store says when its folder is damaged, foreign, closed or full, and when its process is killed.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::children::{Killed, can_inject, child, childs_folder, fill, run_on_disk, told_seqs};
use common::{
    ADDRESS, DIGEST, audit_entry, device, event, firmware_row, fleet_row, id, member, new_rollout, open,
    poll, tamper,
};
use model::image::Image;
use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, Connection as _};
use store::{
    Holder, ImageError, JobFilter, JournalError, LeaseGrant, OpenError, RestoreError, Retention, Store,
    StoreErrorKind, process_is_alive,
};

fn database(folder: &Path) -> PathBuf {
    folder.join("reflash.db")
}

/// A closed folder with some of everything in it.
async fn filled() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        let store = device(folder.path(), name).await;
        write_job(&store, name, 40).await;
        store.count_answer(&id(name), 1).await.unwrap();
        keep_books(&store, name, 10).await;
        store.close().await;
    }
    folder
}

/// Some of everything that a server keeps beside the journal.
async fn keep_books(store: &Store, name: &str, n_rows: i64) {
    let token: [u8; 32] = std::array::from_fn(|_| name.as_bytes()[0]);
    store
        .create_token(name, model::access::Role::Viewer, token, 1)
        .await
        .unwrap();
    store.set_setting(name, Some(&json!([1, 2]))).await.unwrap();
    let image = Image::new(name, name.as_bytes().to_vec());
    store.put_firmware(&firmware_row(&image)).await.unwrap();
    let members = [member(name, 0, &json!("queued"))];
    let rollout = store
        .create_rollout(&new_rollout(&[image.sha256()]), &members)
        .await
        .unwrap();
    store
        .save_rollout(rollout, &json!("running"), None, &members)
        .await
        .unwrap();
    for n in 1..=n_rows {
        store.save_polls(&[poll(name, n)]).await.unwrap();
        store.append_audit(&audit_entry(name)).await.unwrap();
        store
            .append_event("device.found", Some(name), &json!(n), n)
            .await
            .unwrap();
    }
}

async fn write_job(store: &Store, name: &str, n_events: i64) {
    let holder = Holder::this_process().unwrap();
    let grant = store
        .acquire_lease(&id(name), &holder, common::now(), process_is_alive)
        .await;
    let epoch = grant.unwrap().epoch();
    let job = store
        .start_job(&id(name), epoch, *DIGEST, None, &event("look", &json!(1)))
        .await
        .unwrap();
    for seq in 2..=n_events {
        store
            .append(job, epoch, &event("step", &json!(seq)))
            .await
            .unwrap();
    }
}

/// Opens a damaged folder: refused in words, and the file is as it was.
#[track_caller]
fn check_corrupt(opened: Result<Store, OpenError>, folder: &Path, before: &[u8]) {
    match opened {
        Err(error @ OpenError::Corrupt { .. }) => {
            let text = error.to_string();
            assert!(text.contains("move the file away"), "{text}");
            assert!(text.contains("restore"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert!(
        fs::read(database(folder)).unwrap() == before,
        "the file was changed"
    );
}

#[tokio::test]
async fn a_database_that_is_no_database_is_refused_and_left_as_it_is() {
    let whole = fs::read(database(filled().await.path())).unwrap();
    let mut no_magic = whole.clone();
    no_magic[3] ^= 0x20;
    let mut no_root = whole.clone();
    // The type of the schema's first page (sqlite.org/fileformat2.html, 1.6): there is no type 0.
    no_root[100] = 0;
    let cases = [
        Vec::new(),
        vec![0; 4096],
        b"garbage, and not even a page of it".to_vec(),
        vec![0xa5; 100_000],
        no_magic,
        no_root,
        whole[..50].to_vec(),
        whole[..4096].to_vec(),
        whole[..whole.len() / 2].to_vec(),
        whole[..whole.len() - 4096].to_vec(),
    ];
    for bytes in cases {
        let folder = tempfile::tempdir().unwrap();
        fs::write(database(folder.path()), &bytes).unwrap();
        check_corrupt(Store::open(folder.path()).await, folder.path(), &bytes);
        check_corrupt(Store::open(folder.path()).await, folder.path(), &bytes);
    }
}

#[tokio::test]
async fn one_damaged_page_anywhere_is_found_before_it_is_used() {
    let whole = fs::read(database(filled().await.path())).unwrap();
    for page in (4096..whole.len()).step_by(4096) {
        let mut bytes = whole.clone();
        bytes[page] = 0xff;
        let folder = tempfile::tempdir().unwrap();
        fs::write(database(folder.path()), &bytes).unwrap();
        check_corrupt(Store::open(folder.path()).await, folder.path(), &bytes);
    }
}

#[tokio::test]
async fn an_empty_database_file_is_called_empty() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(database(folder.path()), b"").unwrap();
    let error = Store::open(folder.path()).await.unwrap_err();
    assert!(error.to_string().contains("the file is empty"), "{error}");
}

#[tokio::test]
async fn flipped_bytes_are_an_error_or_a_value_and_never_a_panic() {
    let whole = fs::read(database(filled().await.path())).unwrap();
    // xorshift64: the same flips in each run.
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % below as u64).unwrap()
    };
    let mut n_refused = 0;
    for _ in 0..150 {
        let mut bytes = whole.clone();
        for _ in 0..=next(20) {
            let at = next(bytes.len());
            bytes[at] ^= 1 << next(8);
        }
        let folder = tempfile::tempdir().unwrap();
        fs::write(database(folder.path()), &bytes).unwrap();
        match Store::open(folder.path()).await {
            Err(_) => {
                n_refused += 1;
                assert!(
                    fs::read(database(folder.path())).unwrap() == bytes,
                    "the file was changed"
                );
            }
            Ok(store) => use_all(&store).await,
        }
    }
    println!("{n_refused} of 150 were refused at the door");
    assert!(n_refused > 0);
}

/// Reads and writes everything; errors are fine.
async fn use_all(store: &Store) {
    for name in ["a", "b", "c"] {
        let _ = store.device(&id(name)).await;
        let _ = store.installed(&id(name)).await;
        let _ = store.pending_undo(&id(name)).await;
        let _ = store.failed_answers_since(&id(name), 0).await;
        if let Ok(Some(open)) = store.open_job(&id(name)).await {
            let _ = store.events(open.job).await;
            let _ = store.append(open.job, 1, &event("step", &Value::Null)).await;
        }
    }
    let _ = store.devices_at(ADDRESS).await;
    let _ = store.pending_undos().await;
    let _ = store.devices_with_open_jobs().await;
    let _ = store.jobs(&JobFilter::latest(100)).await;
    let _ = store.outcome_counts(0).await;
    let _ = store.rollouts(100, None).await;
    if let Ok(open) = store.open_rollouts().await {
        for whole in open {
            let _ = store.rollout(whole.row.id).await;
            let _ = store.jobs_of(whole.row.id, &id("a")).await;
            let _ = store
                .save_rollout(whole.row.id, &Value::Null, Some(1), &whole.members)
                .await;
        }
    }
    let _ = store.job_row(model::id::JobId(1)).await;
    let _ = store.fleet().await;
    let _ = store.samples(&id("a"), 0, 100).await;
    let _ = store.save_polls(&[poll("a", 99), poll("b", 99)]).await;
    let _ = store.put_fleet_row(&fleet_row("c")).await;
    let _ = store.replace_device(&id("b"), &id("c")).await;
    let _ = store.remove_device(&id("c")).await;
    let _ = store.tokens().await;
    let _ = store.token_by_hash(&[b'a'; 32]).await;
    let _ = store.append_audit(&audit_entry("x")).await;
    let _ = store.audit(0, 100).await;
    let _ = store.verify_audit().await;
    let _ = store.append_event("x", None, &Value::Null, 1).await;
    let _ = store.events_after(0, 100).await;
    let _ = store.last_event().await;
    let _ = store.setting("a").await;
    let _ = store.firmware().await;
    let _ = store
        .remove_firmware(Image::new("a", b"a".to_vec()).sha256())
        .await;
    let _ = store.back_up(&store.folder().join("copy.db")).await;
    let _ = store.housekeep(i64::MAX / 2, &Retention::default()).await;
}

#[tokio::test]
async fn a_schema_that_is_no_text_is_refused_by_all() {
    let folder = filled().await;
    let backup = folder.path().join("bad.db");
    tamper(
        folder.path(),
        "pragma writable_schema = on; \
         update sqlite_schema set sql = replace(sql, 'family text', 'family t' || cast(x'ff' as text) || 'xt') \
         where name = 'device'",
    )
    .await;
    fs::copy(database(folder.path()), &backup).unwrap();
    let whole = fs::read(&backup).unwrap();
    check_corrupt(Store::open(folder.path()).await, folder.path(), &whole);
    let elsewhere = tempfile::tempdir().unwrap();
    let restored = Store::restore(elsewhere.path(), &backup).await;
    assert!(
        matches!(restored, Err(RestoreError::Damaged { .. })),
        "{restored:?}"
    );
}

#[tokio::test]
async fn a_damaged_row_is_a_typed_error() {
    let folder = filled().await;
    let path = database(folder.path());
    let mut bytes = fs::read(&path).unwrap();
    // A device's row holds its family, its hardware and its strength one after another.
    let row = b"testahardware";
    let at = bytes.windows(row.len()).position(|window| window == row).unwrap();
    bytes[at + 5] = b'H';
    fs::write(&path, bytes).unwrap();
    let store = open(folder.path()).await;
    let error = store.devices_at(ADDRESS).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Corrupt);
}

/// Copies the files of a folder that is in use by another program, so that our own locks in it stay.
fn copy(from: &Path, to: &Path, names: &[&str]) {
    for name in names {
        let copied = Command::new("cp").arg(from.join(name)).arg(to).status().unwrap();
        assert!(copied.success());
    }
}

#[tokio::test]
async fn a_damaged_database_is_refused_though_its_log_is_whole() {
    let from = tempfile::tempdir().unwrap();
    let store = device(from.path(), "a").await;
    write_job(&store, "a", 10).await;
    let to = tempfile::tempdir().unwrap();
    copy(from.path(), to.path(), &["reflash.db", "reflash.db-wal"]);
    let log = fs::read(to.path().join("reflash.db-wal")).unwrap();
    assert!(!log.is_empty());
    let bytes = vec![0xa5; 8192];
    // The first page is in the log, so the damage may only be found behind it; the log is never played into the file.
    fs::write(database(to.path()), &bytes).unwrap();
    check_corrupt(Store::open(to.path()).await, to.path(), &bytes);
    assert!(
        fs::read(to.path().join("reflash.db-wal")).unwrap() == log,
        "the log was changed"
    );
}

#[tokio::test]
async fn a_lost_log_loses_the_latest_and_breaks_nothing() {
    let from = tempfile::tempdir().unwrap();
    let store = device(from.path(), "a").await;
    write_job(&store, "a", 10).await;
    let to = tempfile::tempdir().unwrap();
    copy(from.path(), to.path(), &["reflash.db"]);
    let late = open(to.path()).await;
    let events = match late.open_job(&id("a")).await.unwrap() {
        None => Vec::new(),
        Some(open) => late.events(open.job).await.unwrap(),
    };
    let all = store.events(model::id::JobId(1)).await.unwrap();
    assert_eq!(events[..], all[..events.len()]);
}

#[tokio::test]
async fn a_log_without_its_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("reflash.db-wal"), b"somebody's journal").unwrap();
    let opened = Store::open(folder.path()).await;
    assert!(matches!(opened, Err(OpenError::Corrupt { .. })), "{opened:?}");
    assert!(!database(folder.path()).exists());
}

#[tokio::test]
async fn a_creation_that_was_killed_is_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["reflash.db.new", "reflash.db.new-wal", "reflash.db.new-journal"] {
        fs::write(folder.path().join(name), b"half").unwrap();
    }
    device(folder.path(), "a").await;
    assert!(!folder.path().join("reflash.db.new").exists());
}

#[tokio::test]
async fn a_new_folder_and_its_files_are_for_this_user_only() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("state/reflash");
    let store = device(&folder, "a").await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    let mut n_files = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        n_files += 1;
    }
    assert!(n_files >= 3, "database, log and lock");
    store.close().await;
    fs::set_permissions(database(&folder), fs::Permissions::from_mode(0o644)).unwrap();
    open(&folder).await;
    assert_eq!(mode(&database(&folder)), 0o600, "a looser one is tightened");
}

#[tokio::test]
async fn a_folder_that_cannot_be_one_is_refused_in_words() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, b"").unwrap();
    for folder in [file.clone(), file.join("below")] {
        let opened = Store::open(&folder).await;
        let Err(error @ OpenError::Folder { .. }) = opened else {
            panic!("{opened:?}");
        };
        assert!(error.to_string().contains("--state"), "{error}");
    }
}

#[tokio::test]
async fn many_open_a_new_folder_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut openers = tokio::task::JoinSet::new();
    for opener in 0..12 {
        let path = folder.path().to_owned();
        openers.spawn(async move {
            let store = device(&path, &format!("device {opener}")).await;
            store.close().await;
        });
    }
    while let Some(ended) = openers.join_next().await {
        ended.unwrap();
    }
    assert_eq!(
        open(folder.path()).await.devices_at(ADDRESS).await.unwrap().len(),
        12
    );
}

#[tokio::test]
async fn a_write_given_up_half_way_leaves_no_trace_and_no_lock() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    for n_polls in 0..40 {
        let (a, name) = (id("a"), format!("name {n_polls}"));
        let mut writing = Box::pin(store.upsert_device(&a, ADDRESS, Some(&name), n_polls));
        for _ in 0..n_polls {
            let mut polled_once = false;
            let once = std::future::poll_fn(|context| {
                if polled_once {
                    return std::task::Poll::Ready(false);
                }
                polled_once = true;
                context.waker().wake_by_ref();
                match writing.as_mut().poll(context) {
                    std::task::Poll::Ready(result) => {
                        result.unwrap();
                        std::task::Poll::Ready(true)
                    }
                    std::task::Poll::Pending => std::task::Poll::Pending,
                }
            });
            if once.await {
                break;
            }
        }
    }
    let other = open(folder.path()).await;
    other.upsert_device(&id("b"), ADDRESS, None, 1).await.unwrap();
    store
        .upsert_device(&id("a"), ADDRESS, Some("last"), 99)
        .await
        .unwrap();
    let row = store.device(&id("a")).await.unwrap().unwrap();
    assert_eq!((row.name.as_deref(), row.seen_wall_ms), (Some("last"), 99));
}

#[tokio::test]
async fn a_database_that_stays_locked_is_busy_and_then_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let mut locker = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(database(folder.path()))
        .connect()
        .await
        .unwrap();
    let lock = locker.begin_with("begin immediate").await.unwrap();
    let began = std::time::Instant::now();
    let error = store.upsert_device(&id("b"), ADDRESS, None, 1).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Busy, "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert!(
        store.device(&id("a")).await.unwrap().is_some(),
        "reading goes on all the while"
    );
    lock.rollback().await.unwrap();
    store.upsert_device(&id("b"), ADDRESS, None, 1).await.unwrap();
    // A lock that goes soon enough is waited out.
    let lock = locker.begin_with("begin immediate").await.unwrap();
    let c = id("c");
    let (unlocked, written) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            lock.rollback().await
        },
        store.upsert_device(&c, ADDRESS, None, 1)
    );
    unlocked.unwrap();
    written.unwrap();
}

#[tokio::test]
async fn child_writes_events_until_it_is_killed() {
    let Some(folder) = childs_folder() else { return };
    let store = device(&folder, "a").await;
    let holder = Holder::this_process().unwrap();
    let grant = store
        .acquire_lease(&id("a"), &holder, common::now(), process_is_alive)
        .await;
    let epoch = grant.unwrap().epoch();
    let job = store
        .start_job(&id("a"), epoch, *DIGEST, None, &event("look", &json!(1)))
        .await;
    let job = job.unwrap();
    println!("\nseq 1");
    // Ends by itself if nobody kills it.
    for seq in 2..100_000 {
        let written = store
            .append(job, epoch, &event("step", &json!(seq)))
            .await
            .unwrap();
        println!("seq {written}");
    }
}

#[tokio::test]
async fn a_kill_between_any_two_writes_leaves_all_that_was_told_and_no_gap() {
    for n_told in [1, 2, 17, 150] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = child(&[], "child_writes_events_until_it_is_killed", folder.path());
        let mut writer = Killed(command.spawn().unwrap());
        let lines = BufReader::new(writer.0.stdout.take().unwrap()).lines();
        let mut told = told_seqs(lines.map_while(Result::ok));
        let mut last_told = told.by_ref().nth(n_told - 1).unwrap();
        writer.0.kill().unwrap();
        last_told = told.last().unwrap_or(last_told);

        // Not even reaped, and already its lease is free.
        let store = open(folder.path()).await;
        let open_job = store.open_job(&id("a")).await.unwrap().unwrap();
        let events = store.events(open_job.job).await.unwrap();
        let n_events = i64::try_from(events.len()).unwrap();
        assert!(n_events >= last_told, "{n_events} events, told {last_told}");
        for (seq, row) in (1..).zip(&events) {
            assert_eq!((row.seq, &row.state), (seq, &json!(seq)));
        }
        assert_eq!(open_job.state, json!(n_events));
        let holder = Holder::this_process().unwrap();
        let grant = store
            .acquire_lease(&id("a"), &holder, common::now(), process_is_alive)
            .await
            .unwrap();
        assert_eq!(grant, LeaseGrant::TookOverDead { epoch: 2 });
        let next = store
            .append(open_job.job, 2, &event("settle", &Value::Null))
            .await;
        assert_eq!(next.unwrap(), n_events + 1);
    }
}

#[tokio::test]
async fn child_on_a_full_disk() {
    let Some(folder) = childs_folder() else { return };
    println!("was a child");
    let filler = fill(&folder);
    let opened = Store::open(&folder).await;
    assert!(matches!(opened, Err(OpenError::Full { .. })), "{opened:?}");
    fs::remove_file(&filler).unwrap();

    let store = device(&folder, "a").await;
    let holder = Holder::this_process().unwrap();
    let grant = store
        .acquire_lease(&id("a"), &holder, common::now(), process_is_alive)
        .await;
    let epoch = grant.unwrap().epoch();
    let state = json!("x".repeat(3_000));
    let first = event("look", &state);
    let job = store
        .start_job(&id("a"), epoch, *DIGEST, None, &first)
        .await
        .unwrap();
    fill(&folder);
    let mut n_events = 1;
    let error = loop {
        match store.append(job, epoch, &first).await {
            Ok(seq) => n_events = seq,
            Err(error) => break error,
        }
    };
    let JournalError::Store(error) = error else {
        panic!("{error:?}");
    };
    assert_eq!(error.kind, StoreErrorKind::Full, "{error:?}");
    let put = store.put_image(&Image::new("a.bin", vec![1; 10_000]), 1).await;
    assert!(matches!(put, Err(ImageError::Full { .. })), "{put:?}");
    assert_eq!(
        files_below(&folder.join("images/sha256")),
        [] as [PathBuf; 0],
        "no part of it stays"
    );
    assert_eq!(
        i64::try_from(store.events(job).await.unwrap().len()).unwrap(),
        n_events
    );

    fs::remove_file(&filler).unwrap();
    assert_eq!(
        store.append(job, epoch, &first).await.unwrap(),
        n_events + 1,
        "it goes on when there is room"
    );
    store.close().await;
    fill(&folder);
    let opened = Store::open(&folder).await;
    let Err(error) = opened else {
        // What is there can be read; what is not cannot be written.
        let state = json!("x".repeat(200_000));
        let written = opened.unwrap().append(job, epoch, &event("step", &state)).await;
        assert!(matches!(written, Err(JournalError::Store(error)) if error.kind == StoreErrorKind::Full));
        return;
    };
    assert!(matches!(error, OpenError::Full { .. }), "{error:?}");
}

/// All files in a folder and the folders in it.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

#[test]
fn a_full_disk_refuses_changes_nothing_and_is_forgiven_when_there_is_room() {
    run_on_disk("size=600k", "child_on_a_full_disk");
}

#[tokio::test]
async fn child_on_a_disk_without_inodes() {
    let Some(folder) = childs_folder() else { return };
    println!("was a child");
    let mut n_files = 0;
    while fs::write(folder.join(format!("file {n_files}")), b"").is_ok() {
        n_files += 1;
    }
    let opened = Store::open(&folder).await;
    assert!(matches!(opened, Err(OpenError::Full { .. })), "{opened:?}");
}

#[test]
fn a_disk_without_inodes_is_a_full_one() {
    run_on_disk("size=1m,nr_inodes=10", "child_on_a_disk_without_inodes");
}

#[tokio::test]
async fn child_on_a_disk_that_cannot_be_written() {
    let Some(folder) = childs_folder() else { return };
    println!("was a child");
    device(&folder, "a").await.close().await;
    let remounted = Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(&folder)
        .status()
        .unwrap();
    assert!(remounted.success());
    let opened = Store::open(&folder).await;
    assert!(matches!(opened, Err(OpenError::Folder { .. })), "{opened:?}");
    let opened = Store::open(&folder.join("below")).await;
    assert!(matches!(opened, Err(OpenError::Folder { .. })), "{opened:?}");
}

#[test]
fn a_disk_that_cannot_be_written_is_refused_in_words() {
    run_on_disk("size=1m", "child_on_a_disk_that_cannot_be_written");
}

#[tokio::test]
async fn child_writes_until_a_write_fails() {
    let Some(folder) = childs_folder() else { return };
    println!("\nwas a child");
    let Ok(store) = Store::open(&folder).await else {
        println!("not opened");
        return;
    };
    let Ok(()) = store.upsert_device(&id("a"), ADDRESS, None, 1).await else {
        println!("not stored");
        return;
    };
    let holder = Holder::this_process().unwrap();
    let Ok(grant) = store
        .acquire_lease(&id("a"), &holder, common::now(), process_is_alive)
        .await
    else {
        println!("not leased");
        return;
    };
    let (epoch, first) = (grant.epoch(), event("look", &Value::Null));
    let Ok(job) = store.start_job(&id("a"), epoch, *DIGEST, None, &first).await else {
        println!("not begun");
        return;
    };
    println!("seq 1");
    for _ in 2..=5 {
        match store.append(job, epoch, &first).await {
            Ok(seq) => println!("seq {seq}"),
            Err(error) => {
                let JournalError::Store(error) = error else {
                    panic!("{error:?}");
                };
                assert_eq!(error.kind, StoreErrorKind::Io, "{error:?}");
                println!("not written");
                // The disk is well again, and still nothing is written: what it holds is not known.
                let again = store.append(job, epoch, &first).await;
                let refused =
                    matches!(again, Err(JournalError::Store(error)) if error.kind == StoreErrorKind::Io);
                assert!(refused, "a write after a lost one");
                assert!(store.is_lost());
                let soon = store.save_polls(&[poll("a", 9)]).await;
                assert_eq!(soon.unwrap_err().kind, StoreErrorKind::Io);
                return;
            }
        }
    }
}

#[tokio::test]
async fn after_a_failed_fsync_nothing_more_is_written_and_all_that_was_told_is_there() {
    if !can_inject() {
        return;
    }
    let mut n_failed_appends = 0;
    for nth in 1..=14 {
        let folder = tempfile::tempdir().unwrap();
        let inject = format!("inject=fdatasync,fsync:error=EIO:when={nth}");
        let wrapper = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject];
        let output = child(&wrapper, "child_writes_until_a_write_fails", folder.path())
            .output()
            .unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && stdout.contains("was a child"),
            "{stdout}"
        );
        n_failed_appends += usize::from(stdout.contains("not written"));
        let last_told = told_seqs(stdout.lines().map(str::to_owned)).last().unwrap_or(0);

        let store = open(folder.path()).await;
        let n_events = match store.open_job(&id("a")).await.unwrap() {
            None => 0,
            Some(open) => store.events(open.job).await.unwrap().len(),
        };
        assert!(
            i64::try_from(n_events).unwrap() >= last_told,
            "{n_events} of {last_told}: {stdout}"
        );
    }
    assert!(n_failed_appends > 0, "no append was hit");
}
