//! Back-ups are made, kept for a week, refused where they are damaged, and restored.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use common::{ADDRESS, device, fleet_row, id, open, tamper};
use model::image::Image;
use serde_json::json;
use store::{BackupError, OpenError, RestoreError, Restored, Store, TimetableKind, TimetableRow};

const DAY_MS: i64 = 86_400_000;
/// 2026-11-22 12:00 UTC.
const NOON_MS: i64 = 1_795_348_800_000;

/// All files below a folder with their bytes, the locks left out.
fn content(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_none_or(|extension| extension != "lock") {
                files.push((path.clone(), fs::read(path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A window that was made while the server ran.
fn night() -> TimetableRow {
    TimetableRow {
        kind: TimetableKind::Window,
        name: "night".to_owned(),
        entry: json!({"start": "02:00", "duration": "3h"}),
        changed_ms: 5,
        changed_by: "admin".to_owned(),
    }
}

/// A closed folder with two devices, and a back-up from before the second.
async fn drilled() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "first").await;
    store
        .set_setting("a", Some(&json!({"kept": true})))
        .await
        .unwrap();
    store.save_timetable(&night()).await.unwrap();
    store
        .put_image(&Image::new("a.bin", vec![1; 5_000]), 5)
        .await
        .unwrap();
    let backup = store.back_up_daily(NOON_MS, 7).await.unwrap().unwrap();
    store
        .upsert_device(&id("second"), ADDRESS, None, 1)
        .await
        .unwrap();
    store.close().await;
    (folder, backup)
}

async fn devices(folder: &Path) -> Vec<String> {
    let store = open(folder).await;
    let fleet = store.fleet().await.unwrap();
    store.close().await;
    fleet.into_iter().map(|row| row.id.hardware).collect()
}

/// The schema of this program.
const NEWEST: i64 = 6;

#[tokio::test]
async fn a_back_up_is_restored_and_what_was_there_is_kept_beside() {
    let (folder, backup) = drilled().await;
    let folder = folder.path();
    assert_eq!(devices(folder).await, ["first", "second"]);
    let restored = Store::restore(folder, &backup).await.unwrap();
    let aside = folder.join("replaced-1");
    let expected = Restored {
        aside: Some(aside.clone()),
        schema: NEWEST,
    };
    assert_eq!(restored, expected);
    let store = open(folder).await;
    assert_eq!(store.setting("a").await.unwrap(), Some(json!({"kept": true})));
    assert_eq!(store.timetable().await.unwrap(), [night()]);
    let image = Image::new("a.bin", vec![1; 5_000]);
    assert!(store.image(image.sha256(), "a.bin").await.unwrap().is_some());
    store.close().await;
    assert_eq!(devices(folder).await, ["first"]);
    assert_eq!(devices(&aside).await, ["first", "second"], "nothing is lost");

    let again = Store::restore(folder, &aside.join("reflash.db")).await.unwrap();
    assert_eq!(again.aside, Some(folder.join("replaced-2")));
    assert_eq!(
        devices(folder).await,
        ["first", "second"],
        "and there is a way forth again"
    );
}

#[tokio::test]
async fn a_back_up_moves_to_another_machine() {
    let (_folder, backup) = drilled().await;
    let parent = tempfile::tempdir().unwrap();
    let new = parent.path().join("state/reflash");
    let restored = Store::restore(&new, &backup).await.unwrap();
    assert_eq!(restored.aside, None);
    assert_eq!(devices(&new).await, ["first"]);
    for entry in fs::read_dir(&new).unwrap() {
        let path = entry.unwrap().path();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
    }
    assert_eq!(fs::metadata(&new).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_back_up_of_an_older_schema_is_brought_up_to_date() {
    let (folder, backup) = drilled().await;
    let old = folder.path().join("old.db");
    fs::copy(&backup, &old).unwrap();
    // As a program of the first schema would have left it.
    let mut connection =
        sqlx::ConnectOptions::connect(&sqlx::sqlite::SqliteConnectOptions::new().filename(&old))
            .await
            .unwrap();
    sqlx::raw_sql(
        "delete from schema_version where version > 1; \
         drop table lease_asked; alter table lease drop column renewed_boot_ns; \
         drop table timetable; drop table schedule_turn; \
         drop index job_unverified; drop index job_image; drop index job_device; drop index job_rollout; drop index job_ended; \
         alter table job drop column rollout; alter table job drop column outcome; \
         alter table job drop column ending; alter table job drop column ended_ms; \
         drop table rollout_image; drop table rollout_member; drop table rollout; \
         drop table sample; drop table token; drop table log_head; drop table audit; drop table fleet_event; \
         drop table setting; drop table request_answer; drop table firmware; drop table feed; \
         drop index device_number; alter table device drop column number; \
         alter table device drop column given_as; alter table device drop column sources; \
         alter table device drop column first_seen_ms; alter table device drop column enrolled_by; \
         alter table device drop column snapshot; alter table device drop column online; \
         alter table device drop column restarts; alter table device drop column tags; \
         alter table device drop column group_name; alter table device drop column pinned; \
         alter table device drop column skipped; alter table device drop column username; \
         alter table device drop column sealed_password; alter table device drop column chip; \
         alter table device drop column slot_bytes; alter table device drop column ota_wanted; \
         alter table device drop column before_installed; alter table device drop column removed",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    sqlx::Connection::close(connection).await.unwrap();
    assert_eq!(Store::restore(folder.path(), &old).await.unwrap().schema, 1);
    assert_eq!(devices(folder.path()).await, ["first"]);
}

#[tokio::test]
async fn a_damaged_back_up_is_refused_before_anything_is_moved() {
    let (folder, backup) = drilled().await;
    let folder = folder.path();
    let whole = fs::read(&backup).unwrap();
    let mut cases = vec![
        Vec::new(),
        b"garbage, and not even a page of it".to_vec(),
        vec![0; 4096],
        whole[..50].to_vec(),
        whole[..4096].to_vec(),
        whole[..whole.len() - 4096].to_vec(),
    ];
    for page in (4096..whole.len()).step_by(4096) {
        let mut damaged = whole.clone();
        damaged[page] = 0xff;
        cases.push(damaged);
    }
    let bad = folder.join("bad.db");
    let before = content(folder);
    for damaged in cases {
        fs::write(&bad, &damaged).unwrap();
        let refused = Store::restore(folder, &bad).await;
        let Err(error @ RestoreError::Damaged { .. }) = refused else {
            panic!("{refused:?}");
        };
        assert!(error.to_string().contains("take another one"), "{error}");
        fs::remove_file(&bad).unwrap();
        assert!(content(folder) == before, "the folder was changed");
    }
    let refused = Store::restore(folder, &bad).await;
    assert!(matches!(refused, Err(RestoreError::Io { .. })), "{refused:?}");
    assert!(content(folder) == before, "the folder was changed");
}

#[tokio::test]
async fn an_index_that_does_not_fit_its_table_is_damage_too() {
    let (folder, backup) = drilled().await;
    let bad = folder.path().join("bad.db");
    fs::copy(&backup, &bad).unwrap();
    let mut connection =
        sqlx::ConnectOptions::connect(&sqlx::sqlite::SqliteConnectOptions::new().filename(&bad))
            .await
            .unwrap();
    // The index then holds rows by other columns than it says.
    sqlx::raw_sql(
        "pragma writable_schema = on; \
         update sqlite_schema set sql = 'CREATE INDEX device_address on device (family)' where name = 'device_address'",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    sqlx::Connection::close(connection).await.unwrap();
    let refused = Store::restore(folder.path(), &bad).await;
    assert!(
        matches!(refused, Err(RestoreError::Damaged { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_database_of_somebody_else_or_of_a_newer_program_is_refused() {
    let (folder, backup) = drilled().await;
    let theirs = folder.path().join("theirs.db");
    let mut connection = sqlx::ConnectOptions::connect(
        &sqlx::sqlite::SqliteConnectOptions::new()
            .filename(&theirs)
            .create_if_missing(true),
    )
    .await
    .unwrap();
    sqlx::raw_sql("create table theirs (a text)")
        .execute(&mut connection)
        .await
        .unwrap();
    sqlx::Connection::close(connection).await.unwrap();
    let refused = Store::restore(folder.path(), &theirs).await;
    assert!(
        matches!(refused, Err(RestoreError::Damaged { .. })),
        "{refused:?}"
    );

    let newer = tempfile::tempdir().unwrap();
    fs::copy(&backup, newer.path().join("reflash.db")).unwrap();
    tamper(newer.path(), "insert into schema_version (version) values (99)").await;
    let refused = Store::restore(folder.path(), &newer.path().join("reflash.db")).await;
    assert!(
        matches!(
            refused,
            Err(RestoreError::NewerSchema {
                found: 99,
                known: NEWEST,
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(devices(folder.path()).await, ["first", "second"]);
}

#[tokio::test]
async fn a_folder_in_use_is_not_restored_into() {
    let (folder, backup) = drilled().await;
    let folder = folder.path();
    let (store, other) = (open(folder).await, open(folder).await);
    for user in [store, other] {
        let refused = Store::restore(folder, &backup).await;
        assert!(matches!(refused, Err(RestoreError::InUse { .. })), "{refused:?}");
        assert_eq!(user.fleet().await.unwrap().len(), 2);
        user.close().await;
    }
    Store::restore(folder, &backup).await.unwrap();
}

#[tokio::test]
async fn an_interrupted_restore_is_told_and_run_again() {
    // After each step of the last phase: the copy is ready, the database is gone, its log is gone.
    for n_moved in 0..=2 {
        let (folder, backup) = drilled().await;
        let folder = folder.path();
        fs::write(folder.join("reflash.db-wal"), b"the latest").unwrap();
        fs::copy(&backup, folder.join("reflash.db.restoring")).unwrap();
        fs::create_dir(folder.join("replaced-1")).unwrap();
        for name in ["reflash.db", "reflash.db-wal"].iter().take(n_moved) {
            fs::rename(folder.join(name), folder.join("replaced-1").join(name)).unwrap();
        }
        let before = content(folder);
        let opened = Store::open(folder).await;
        let Err(error @ OpenError::Corrupt { .. }) = opened else {
            panic!("{opened:?}");
        };
        assert!(error.to_string().contains("restore was interrupted"), "{error}");
        assert!(content(folder) == before, "no database was made");
        Store::restore(folder, &backup).await.unwrap();
        assert_eq!(devices(folder).await, ["first"], "{n_moved} moved");
        assert!(!folder.join("reflash.db.restoring").exists());
    }
}

#[tokio::test]
async fn a_back_up_is_for_this_user_only_and_replaces_a_file_whole() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let to = elsewhere.path().join("it's a \"back-up\".db");
    fs::write(&to, b"an older one").unwrap();
    store.back_up(&to).await.unwrap();
    assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(names(elsewhere.path()).len(), 1, "nothing else is left there");
    let restored = tempfile::tempdir().unwrap();
    Store::restore(restored.path(), &to).await.unwrap();
    assert_eq!(devices(restored.path()).await, ["a"]);
}

#[tokio::test]
async fn a_back_up_is_never_written_onto_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let link = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(folder.path(), link.path().join("state")).unwrap();
    for to in [
        folder.path().join("reflash.db"),
        folder.path().join("reflash.db-wal"),
        folder.path().join("reflash.db.restoring"),
        folder.path().join("images/../reflash.db"),
        link.path().join("state/reflash.db"),
    ] {
        fs::create_dir_all(folder.path().join("images")).unwrap();
        let refused = store.back_up(&to).await;
        assert!(
            matches!(refused, Err(BackupError::OntoItself { .. })),
            "{refused:?}"
        );
    }
    for to in [
        folder.path().join("missing/a.db"),
        PathBuf::from("/"),
        PathBuf::new(),
    ] {
        let refused = store.back_up(&to).await;
        assert!(matches!(refused, Err(BackupError::Io { .. })), "{refused:?}");
    }
    assert_eq!(store.fleet().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_week_of_daily_back_ups_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let store = device(folder.path(), "a").await;
    let backups = folder.path().join("backups");
    fs::create_dir(&backups).unwrap();
    let kept_by_hand = [
        "before-the-move.db",
        "reflash-2026-1-1.db",
        "reflash-2026-11-01.db.old",
    ];
    for name in kept_by_hand {
        fs::write(backups.join(name), b"mine").unwrap();
    }
    fs::write(backups.join(".part-killed"), b"half").unwrap();
    for day in 0..10 {
        let made = store.back_up_daily(NOON_MS + day * DAY_MS, 7).await.unwrap();
        let made = made.unwrap();
        assert!(
            made.ends_with(format!(
                "reflash-2026-{}.db",
                [
                    "11-22", "11-23", "11-24", "11-25", "11-26", "11-27", "11-28", "11-29", "11-30", "12-01"
                ][usize::try_from(day).unwrap()]
            )),
            "{}",
            made.display()
        );
        let again = store
            .back_up_daily(NOON_MS + day * DAY_MS + DAY_MS / 3, 7)
            .await
            .unwrap();
        assert_eq!(again, None, "one a day");
    }
    let mut expected: Vec<String> = ["11-25", "11-26", "11-27", "11-28", "11-29", "11-30", "12-01"]
        .map(|day| format!("reflash-2026-{day}.db"))
        .to_vec();
    expected.extend(kept_by_hand.map(str::to_owned));
    expected.sort();
    assert_eq!(names(&backups), expected);

    // The clock was lost: today's is kept although it sorts as the oldest.
    let made = store.back_up_daily(0, 7).await.unwrap().unwrap();
    assert!(made.exists() && made.ends_with("reflash-1970-01-01.db"));
    assert_eq!(names(&backups).len(), expected.len());
    store.back_up_daily(DAY_MS, 0).await.unwrap().unwrap();
    let daily = names(&backups)
        .into_iter()
        .filter(|name| !kept_by_hand.contains(&name.as_str()));
    assert_eq!(
        daily.collect::<Vec<_>>(),
        ["reflash-1970-01-02.db"],
        "at least the one just made"
    );
    let beyond = store.back_up_daily(i64::MAX, 7).await;
    assert!(matches!(beyond, Err(BackupError::Io { .. })), "{beyond:?}");
}

#[tokio::test]
async fn a_back_up_made_amid_writes_is_one_moment() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    for n in 0..200 {
        store.put_fleet_row(&fleet_row(&n.to_string())).await.unwrap();
    }
    let writer = store.clone();
    let mut writing = tokio::task::JoinSet::new();
    writing.spawn(async move {
        for n in 0..200 {
            // Two devices change in one transaction.
            let polls: Vec<_> = [n, (n + 100) % 200]
                .map(|device: i64| store::Poll {
                    id: id(&device.to_string()),
                    address: None,
                    at_ms: 1_000 + n,
                    online: true,
                    snapshot: None,
                    restarts: u32::try_from(n % 100).unwrap() + 1,
                    sample: None,
                })
                .into();
            writer.save_polls(&polls).await.unwrap();
        }
    });
    let to = folder.path().join("backups.db");
    for _ in 0..5 {
        store.back_up(&to).await.unwrap();
        let copy = tempfile::tempdir().unwrap();
        Store::restore(copy.path(), &to).await.unwrap();
        let fleet = open(copy.path()).await.fleet().await.unwrap();
        assert_eq!(fleet.len(), 200);
        let restarts = |n: usize| {
            let name = n.to_string();
            fleet.iter().find(|row| row.id.hardware == name).unwrap().restarts
        };
        for n in 0..100 {
            assert_eq!(restarts(n), restarts(n + 100), "device {n}");
        }
    }
    while let Some(ended) = writing.join_next().await {
        ended.unwrap();
    }
}
