//! Rollouts: stored whole, changed together, kept while they are needed.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use common::children::{Killed, can_inject, child, childs_folder, fill, run_on_disk, told_seqs};
use common::{DIGEST, device, event, firmware_row, id, member, new_rollout, open, outside};
use model::id::{JobId, RolloutId, Sha256};
use model::image::Image;
use serde_json::{Value, json};
use sqlx::Connection as _;
use store::{
    FirmwareError, FirmwareUse, Holder, JournalError, Liveness, MemberRow, NewRollout, RolloutChange,
    RolloutError, RolloutRow, Store, StoreErrorKind, WholeRollout,
};

/// A store with these devices in it.
async fn devices(folder: &Path, names: &[&str]) -> Store {
    let store = open(folder).await;
    for name in names {
        store
            .upsert_device(&id(name), common::ADDRESS, None, 1)
            .await
            .unwrap();
    }
    store
}

/// A rollout over these devices, all of them queued.
async fn create(store: &Store, names: &[&str]) -> RolloutId {
    let members = queued(names);
    store.create_rollout(&new_rollout(&[]), &members).await.unwrap()
}

fn queued(names: &[&str]) -> Vec<MemberRow> {
    (0..)
        .zip(names)
        .map(|(idx, name)| member(name, idx, &json!("queued")))
        .collect()
}

async fn whole(store: &Store, id: RolloutId) -> WholeRollout {
    store.rollout(id).await.unwrap().unwrap()
}

fn numbers(rows: &[RolloutRow]) -> Vec<i64> {
    rows.iter().map(|row| row.id.0).collect()
}

#[tokio::test]
async fn a_rollout_comes_back_as_it_was_put() {
    let folder = tempfile::tempdir().unwrap();
    let store = devices(folder.path(), &["a", "b"]).await;
    let first = store.create_rollout(&new_rollout(&[]), &[]).await.unwrap();
    let (plan, state) = (json!([1.5, null, "ü\u{0}"]), json!({"wave": 0}));
    let full = NewRollout {
        asked: None,
        name: None,
        kind: "rollback",
        plan: &plan,
        state: &state,
        created_ms: -5,
        created_by: "it's \"Ann\"",
        predecessor: Some(first),
        images: &[],
    };
    // In another order than that of the devices' names, and with a gap.
    let members = [
        member("b", 0, &json!({"at": "queued"})),
        member("a", 900, &json!(7)),
    ];
    let second = store.create_rollout(&full, &members).await.unwrap();
    let state = json!({"wave": 1});
    let changed = [member("a", 900, &json!({"at": "running", "since": 5}))];
    store.save_rollout(second, &state, None, &changed).await.unwrap();
    store.close().await;

    let store = open(folder.path()).await;
    let expected = WholeRollout {
        row: RolloutRow {
            id: second,
            name: None,
            kind: "rollback".to_owned(),
            state,
            n_members: 2,
            created_ms: -5,
            created_by: "it's \"Ann\"".to_owned(),
            ended_ms: None,
            predecessor: Some(first),
        },
        plan,
        members: vec![members[0].clone(), changed[0].clone()],
    };
    assert_eq!(whole(&store, second).await, expected);
    assert_eq!(
        store.rollouts(9, None).await.unwrap(),
        [expected.row, whole(&store, first).await.row]
    );
    assert_eq!(whole(&store, first).await.row.name.as_deref(), Some("autumn"));
    assert_eq!(store.rollout(RolloutId(3)).await.unwrap(), None);
}

#[tokio::test]
async fn rollouts_are_told_in_pages_the_newest_first_and_open_ones_whole_the_oldest_first() {
    let folder = tempfile::tempdir().unwrap();
    let store = devices(folder.path(), &["a"]).await;
    for _ in 0..5 {
        create(&store, &["a"]).await;
    }
    for ended in [2, 5] {
        store
            .save_rollout(RolloutId(ended), &json!("finished"), Some(9), &[])
            .await
            .unwrap();
    }
    let page = async |before: Option<i64>| numbers(&store.rollouts(2, before.map(RolloutId)).await.unwrap());
    assert_eq!(page(None).await, [5, 4]);
    assert_eq!(page(Some(4)).await, [3, 2]);
    assert_eq!(page(Some(2)).await, [1]);
    assert_eq!(page(Some(1)).await, [] as [i64; 0]);
    let open = store.open_rollouts().await.unwrap();
    let open: Vec<_> = open
        .iter()
        .map(|whole| (whole.row.id.0, whole.members.len()))
        .collect();
    assert_eq!(open, [(1, 1), (3, 1), (4, 1)]);
    assert_eq!(whole(&store, RolloutId(5)).await.row.ended_ms, Some(9));
}

#[tokio::test]
async fn a_rollout_that_cannot_be_stored_whole_is_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    let store = devices(folder.path(), &["a", "gone"]).await;
    store.remove_device(&id("gone")).await.unwrap();
    for stranger in ["gone", "never"] {
        let refused = store
            .create_rollout(&new_rollout(&[]), &queued(&["a", stranger]))
            .await;
        assert!(
            matches!(&refused, Err(RolloutError::UnknownDevice { device }) if *device == id(stranger).to_string()),
            "{refused:?}"
        );
    }
    let images = [*DIGEST];
    let refused = store.create_rollout(&new_rollout(&images), &queued(&["a"])).await;
    assert!(
        matches!(refused, Err(RolloutError::NoSuchImage(image)) if image == *DIGEST),
        "{refused:?}"
    );
    let orphan = NewRollout {
        predecessor: Some(RolloutId(7)),
        ..new_rollout(&[])
    };
    let refused = store.create_rollout(&orphan, &queued(&["a"])).await;
    assert!(
        matches!(refused, Err(RolloutError::Unknown(RolloutId(7)))),
        "{refused:?}"
    );
    let twice = [member("a", 0, &Value::Null), member("a", 1, &Value::Null)];
    let refused = store.create_rollout(&new_rollout(&[]), &twice).await;
    assert!(matches!(refused, Err(RolloutError::Store(_))), "{refused:?}");
    assert_eq!(store.rollouts(9, None).await.unwrap(), []);
    assert_eq!(create(&store, &["a"]).await, RolloutId(1));
    assert_eq!(whole(&store, RolloutId(1)).await.members, queued(&["a"]));
}

#[tokio::test]
async fn changes_of_several_rollouts_are_stored_all_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let store = devices(folder.path(), &["a", "b"]).await;
    let one = create(&store, &["a", "b"]).await;
    let two = create(&store, &["a", "b"]).await;
    let ended = create(&store, &["a"]).await;
    store
        .save_rollout(ended, &json!("finished"), Some(1), &[])
        .await
        .unwrap();
    let all = async || {
        let mut all = Vec::new();
        for id in [one, two, ended] {
            all.push(whole(&store, id).await);
        }
        all
    };
    let before = all().await;
    let (state, at) = (json!("running"), json!("started"));
    let good = [member("a", 0, &at), member("b", 1, &at)];
    let bad_place = [member("a", 0, &at), member("b", 0, &at)];
    let stranger = [member("a", 0, &at), member("c", 1, &at)];
    let change = |id, changed| RolloutChange {
        id,
        state: &state,
        ended_ms: None,
        changed,
    };
    for bad in [
        change(ended, &[]),
        change(RolloutId(99), &[]),
        change(two, &bad_place),
        change(two, &stranger),
    ] {
        let refused = store.save_rollouts(&[change(one, &good), bad]).await;
        match &refused {
            Err(RolloutError::Ended(id)) => assert_eq!(*id, ended),
            Err(RolloutError::Unknown(id)) => assert_eq!(id.0, 99),
            Err(RolloutError::NotAMember { rollout, .. }) => assert_eq!(*rollout, two),
            other => panic!("{other:?}"),
        }
        assert_eq!(all().await, before);
    }
    store
        .save_rollouts(&[change(one, &good), change(two, &good[..1])])
        .await
        .unwrap();
    assert_eq!(whole(&store, one).await.members, good);
    assert_eq!(
        whole(&store, two).await.members,
        [good[0].clone(), before[1].members[1].clone()]
    );
    assert_eq!(whole(&store, ended).await, before[2]);
    store.save_rollouts(&[]).await.unwrap();
}

async fn lease(store: &Store, name: &str) -> i64 {
    let holder = Holder::this_process().unwrap();
    let grant = store
        .acquire_lease(&id(name), &holder, common::now(), |_| Liveness::Dead)
        .await;
    grant.unwrap().epoch()
}

#[tokio::test]
async fn a_job_begins_only_in_an_open_rollout_with_its_device_and_under_its_lease() {
    let folder = tempfile::tempdir().unwrap();
    let store = devices(folder.path(), &["a", "b"]).await;
    let open_one = create(&store, &["a"]).await;
    let ended = create(&store, &["a"]).await;
    store
        .save_rollout(ended, &Value::Null, Some(1), &[])
        .await
        .unwrap();
    let of_b = create(&store, &["b"]).await;
    let epoch = lease(&store, "a").await;
    let first = event("look", &Value::Null);
    for rollout in [ended, of_b, RolloutId(77)] {
        let refused = store
            .start_job(&id("a"), epoch, *DIGEST, Some(rollout), &first)
            .await;
        assert!(
            matches!(refused, Err(JournalError::NotInRollout(told)) if told == rollout),
            "{refused:?}"
        );
    }
    let late = store
        .start_job(&id("a"), epoch - 1, *DIGEST, Some(open_one), &first)
        .await;
    assert!(matches!(late, Err(JournalError::Fenced)), "{late:?}");
    assert_eq!(store.open_job(&id("a")).await.unwrap(), None);
    let job = store
        .start_job(&id("a"), epoch, *DIGEST, Some(open_one), &first)
        .await
        .unwrap();
    assert_eq!(job, JobId(1), "no refused one took a number");
    assert_eq!(
        store.job_row(job).await.unwrap().unwrap().0.rollout,
        Some(open_one)
    );
    // It goes on though the rollout ends: what is under way is told to its end.
    store
        .save_rollout(open_one, &Value::Null, Some(2), &[])
        .await
        .unwrap();
    let fenced = store.append(job, epoch - 1, &first).await;
    assert!(matches!(fenced, Err(JournalError::Fenced)), "{fenced:?}");
    store.append(job, epoch, &first).await.unwrap();
}

async fn put_image(store: &Store, name: &str) -> Sha256 {
    let image = Image::new(name, name.as_bytes().to_vec());
    store.put_image(&image, 1).await.unwrap();
    store.put_firmware(&firmware_row(&image)).await.unwrap();
    image.sha256()
}

#[tokio::test]
async fn an_image_that_an_open_rollout_needs_is_not_removed() {
    let folder = tempfile::tempdir().unwrap();
    let store = devices(folder.path(), &["a"]).await;
    let images = [put_image(&store, "new").await, put_image(&store, "old").await];
    let other = put_image(&store, "other").await;
    // Twice the same image is once.
    let needs = [images[0], images[1], images[0]];
    let rollout = store
        .create_rollout(&new_rollout(&needs), &queued(&["a"]))
        .await
        .unwrap();
    let second = store
        .create_rollout(&new_rollout(&images[..1]), &queued(&["a"]))
        .await
        .unwrap();
    let check_kept = async |image: Sha256, expected: RolloutId| match store.remove_firmware(image).await {
        Err(FirmwareError::InUse { by, .. }) => {
            assert_eq!(by, FirmwareUse::Rollout(expected));
            assert!(store.image(image, "a.bin").await.unwrap().is_some());
        }
        other => panic!("{other:?}"),
    };
    check_kept(images[0], rollout).await;
    check_kept(images[1], rollout).await;
    store.remove_firmware(other).await.unwrap();
    store
        .save_rollout(rollout, &Value::Null, Some(1), &[])
        .await
        .unwrap();
    check_kept(images[0], second).await;
    store.remove_firmware(images[1]).await.unwrap();
}

#[tokio::test]
async fn a_rollout_begun_while_its_image_is_removed_is_refused_or_keeps_it() {
    for _ in 0..10 {
        let folder = tempfile::tempdir().unwrap();
        let store = devices(folder.path(), &["a"]).await;
        let images = [put_image(&store, "a.bin").await];
        let (wanted, members) = (new_rollout(&images), queued(&["a"]));
        let (created, removed) = tokio::join!(
            store.create_rollout(&wanted, &members),
            store.remove_firmware(images[0])
        );
        assert_ne!(created.is_ok(), removed.is_ok(), "{created:?} {removed:?}");
        let kept = store.image(images[0], "a.bin").await.unwrap().is_some();
        assert_eq!(kept, created.is_ok());
    }
}

#[tokio::test]
async fn rollouts_survive_a_back_up_and_its_restore() {
    let folder = tempfile::tempdir().unwrap();
    let store = devices(folder.path(), &["a", "b"]).await;
    let rollout = create(&store, &["a", "b"]).await;
    let epoch = lease(&store, "a").await;
    let first = event("look", &Value::Null);
    let job = store
        .start_job(&id("a"), epoch, *DIGEST, Some(rollout), &first)
        .await
        .unwrap();
    let before = (whole(&store, rollout).await, store.job_row(job).await.unwrap());
    let backup = store.back_up_daily(5, 7).await.unwrap().unwrap();
    store
        .save_rollout(
            rollout,
            &json!("later"),
            Some(9),
            &[member("a", 0, &json!("later"))],
        )
        .await
        .unwrap();
    store.close().await;
    Store::restore(folder.path(), &backup).await.unwrap();
    let store = open(folder.path()).await;
    assert_eq!(
        (whole(&store, rollout).await, store.job_row(job).await.unwrap()),
        before
    );
    assert_eq!(store.open_rollouts().await.unwrap(), [before.0]);
}

#[tokio::test]
async fn a_rollout_that_has_lost_a_member_is_damage_and_not_a_smaller_rollout() {
    let folder = tempfile::tempdir().unwrap();
    let store = devices(folder.path(), &["a", "b"]).await;
    let rollout = create(&store, &["a", "b"]).await;
    store.close().await;
    common::tamper(folder.path(), "delete from rollout_member where idx = 1").await;
    let store = open(folder.path()).await;
    let error = store.rollout(rollout).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Corrupt);
    assert_eq!(
        store.open_rollouts().await.unwrap_err().kind,
        StoreErrorKind::Corrupt
    );
}

#[tokio::test]
async fn a_change_to_a_locked_database_is_busy_and_then_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = devices(folder.path(), &["a"]).await;
    let rollout = create(&store, &["a"]).await;
    let mut locker = outside(folder.path()).await;
    let lock = locker.begin_with("begin immediate").await.unwrap();
    let saved = store.save_rollout(rollout, &json!("x"), Some(1), &[]).await;
    assert!(
        matches!(&saved, Err(RolloutError::Store(error)) if error.kind == StoreErrorKind::Busy),
        "{saved:?}"
    );
    assert_eq!(whole(&store, rollout).await.row.ended_ms, None);
    assert!(!store.is_lost());
    lock.rollback().await.unwrap();
    store
        .save_rollout(rollout, &json!("x"), Some(1), &[])
        .await
        .unwrap();
}

#[tokio::test]
async fn a_change_given_up_half_way_leaves_no_trace_and_no_lock() {
    let folder = tempfile::tempdir().unwrap();
    let store = devices(folder.path(), &["a", "b"]).await;
    let rollout = create(&store, &["a", "b"]).await;
    let states: Vec<Value> = (0..30).map(|n| json!(n)).collect();
    for (n_polls, state) in states.iter().enumerate() {
        let changed = [member("a", 0, state), member("b", 1, state)];
        let mut saving = Box::pin(store.save_rollout(rollout, state, None, &changed));
        for _ in 0..n_polls {
            let polled =
                std::future::poll_fn(|context| std::task::Poll::Ready(saving.as_mut().poll(context)));
            if polled.await.is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(saving);
        let now = whole(&store, rollout).await;
        assert_eq!(now.members[0].state, now.members[1].state);
    }
    let last = [member("b", 1, &json!("last"))];
    let other = open(folder.path()).await;
    other
        .save_rollout(rollout, &json!("last"), None, &last)
        .await
        .unwrap();
    assert_eq!(whole(&store, rollout).await.members[1], last[0]);
}

const N_MANY: u32 = 1_000;

/// A folder with a rollout of many members.
async fn many(folder: &Path) -> (Store, RolloutId, Vec<MemberRow>) {
    let store = open(folder).await;
    let names: Vec<String> = (0..N_MANY).map(|n| format!("{n:04}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in &names {
        // A look's write would be sooner, but only a row makes a device.
        store
            .upsert_device(&id(name), common::ADDRESS, None, 1)
            .await
            .unwrap();
    }
    let members = queued(&names);
    let rollout = create(&store, &names).await;
    (store, rollout, members)
}

#[tokio::test]
async fn a_thousand_members_are_saved_and_read_and_their_time_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (store, rollout, mut members) = many(folder.path()).await;
    for member in &mut members {
        member.state = json!({"at": "ended", "outcome": {"ending": "updated", "text": "x".repeat(120)}});
    }
    let begin = std::time::Instant::now();
    store
        .save_rollout(rollout, &json!("running"), None, &members)
        .await
        .unwrap();
    let saved = begin.elapsed();
    let begin = std::time::Instant::now();
    let read = whole(&store, rollout).await;
    println!(
        "{N_MANY} members saved in {saved:?}, read in {:?}",
        begin.elapsed()
    );
    assert_eq!(read.members, members);
}

#[tokio::test]
async fn child_saves_a_thousand_members() {
    let Some(folder) = childs_folder() else { return };
    println!("\nwas a child");
    let (store, rollout, members) = many(&folder).await;
    let _ = fs::File::open(folder.join("mark save"));
    store
        .save_rollout(rollout, &json!("running"), None, &members)
        .await
        .unwrap();
    let _ = fs::File::open(folder.join("mark end"));
}

#[tokio::test]
async fn a_thousand_members_are_one_durable_commit() {
    if !can_inject() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
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
    let output = child(&wrapper, "child_saves_a_thousand_members", folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let trace = fs::read_to_string(&trace).unwrap();
    let from = trace.find("mark save\"").unwrap();
    let to = trace.find("mark end\"").unwrap();
    let n_syncs = trace[from..to].matches("sync(").count();
    // The commit; and where the log has grown long, its way into the database: the log, the database, the new log.
    assert!((1..=4).contains(&n_syncs), "{n_syncs}");
}

#[tokio::test]
async fn child_saves_two_rollouts_until_it_is_killed() {
    let Some(folder) = childs_folder() else { return };
    let store = open(&folder).await;
    println!();
    // Ends by itself if nobody kills it.
    for seq in 1..20_000 {
        let state = json!(seq);
        let members = [member("a", 0, &state), member("b", 1, &state)];
        let changes = [1, 2].map(|rollout| RolloutChange {
            id: RolloutId(rollout),
            state: &state,
            ended_ms: None,
            changed: &members,
        });
        store.save_rollouts(&changes).await.unwrap();
        println!("seq {seq}");
    }
}

#[tokio::test]
async fn a_kill_between_any_two_writes_leaves_all_rollouts_at_the_same_moment() {
    for n_told in [1, 2, 17, 120] {
        let folder = tempfile::tempdir().unwrap();
        let store = devices(folder.path(), &["a", "b"]).await;
        for _ in 0..2 {
            create(&store, &["a", "b"]).await;
        }
        store.close().await;
        let mut command = child(&[], "child_saves_two_rollouts_until_it_is_killed", folder.path());
        let mut writer = Killed(command.spawn().unwrap());
        let lines = BufReader::new(writer.0.stdout.take().unwrap()).lines();
        let mut told = told_seqs(lines.map_while(Result::ok));
        let mut last_told = told.by_ref().nth(n_told - 1).unwrap();
        writer.0.kill().unwrap();
        last_told = told.last().unwrap_or(last_told);

        let store = open(folder.path()).await;
        let open = store.open_rollouts().await.unwrap();
        let states: Vec<&Value> = open
            .iter()
            .flat_map(|whole| {
                let members = whole.members.iter().map(|member| &member.state);
                members.chain([&whole.row.state])
            })
            .collect();
        assert_eq!(states.len(), 6);
        assert!(states.iter().all(|state| **state == *states[0]), "{states:?}");
        let seq = states[0].as_i64().unwrap();
        assert!(seq >= last_told, "{seq}, told {last_told}");
    }
}

#[tokio::test]
async fn child_creates_rollouts_on_a_full_disk() {
    let Some(folder) = childs_folder() else { return };
    println!("was a child");
    let store = device(&folder, "a").await;
    let filler = fill(&folder);
    let plan = json!("x".repeat(3_000));
    let wanted = NewRollout {
        plan: &plan,
        ..new_rollout(&[])
    };
    let mut last = RolloutId(0);
    let error = loop {
        match store.create_rollout(&wanted, &queued(&["a"])).await {
            Ok(rollout) => last = rollout,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&error, RolloutError::Store(error) if error.kind == StoreErrorKind::Full),
        "{error:?}"
    );
    assert!(!store.is_lost());
    let n_open = i64::try_from(store.open_rollouts().await.unwrap().len()).unwrap();
    assert_eq!(n_open, last.0);
    fs::remove_file(&filler).unwrap();
    let next = store.create_rollout(&wanted, &queued(&["a"])).await.unwrap();
    assert_eq!(next.0, last.0 + 1, "it goes on when there is room");
}

#[test]
fn a_full_disk_refuses_a_rollout_whole_and_is_forgiven_when_there_is_room() {
    run_on_disk("size=1m", "child_creates_rollouts_on_a_full_disk");
}

#[tokio::test]
async fn child_saves_until_a_write_fails() {
    let Some(folder) = childs_folder() else { return };
    println!("\nwas a child");
    let store = open(&folder).await;
    for seq in 1..=5 {
        match store.save_rollout(RolloutId(1), &json!(seq), None, &[]).await {
            Ok(()) => println!("seq {seq}"),
            Err(RolloutError::Store(error)) => {
                assert_eq!(error.kind, StoreErrorKind::Io, "{error:?}");
                println!("not written");
                let again = store.save_rollout(RolloutId(1), &json!(0), None, &[]).await;
                assert!(
                    matches!(&again, Err(RolloutError::Store(error)) if error.kind == StoreErrorKind::Io),
                    "a write after a lost one: {again:?}"
                );
                assert!(store.is_lost());
                return;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[tokio::test]
async fn after_a_failed_fsync_no_rollout_is_written_and_all_that_was_told_is_there() {
    if !can_inject() {
        return;
    }
    let mut n_failed = 0;
    for nth in 1..=8 {
        let folder = tempfile::tempdir().unwrap();
        let store = devices(folder.path(), &["a"]).await;
        create(&store, &["a"]).await;
        store.close().await;
        let inject = format!("inject=fdatasync,fsync:error=EIO:when={nth}");
        let wrapper = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject];
        let output = child(&wrapper, "child_saves_until_a_write_fails", folder.path())
            .output()
            .unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && stdout.contains("was a child"),
            "{stdout}"
        );
        n_failed += usize::from(stdout.contains("not written"));
        let last_told = told_seqs(stdout.lines().map(str::to_owned)).last().unwrap_or(0);
        let store = open(folder.path()).await;
        let found = whole(&store, RolloutId(1)).await.row.state;
        assert!(found.as_i64().unwrap_or(0) >= last_told, "{found}: {stdout}");
    }
    assert!(n_failed > 0, "no change was hit");
}
