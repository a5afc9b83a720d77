//! Tokens, the audit, events, settings, answers to requests, feeds.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{audit_entry, open, outside, tamper};
use model::access::Role;
use model::id::Sha256;
use serde_json::{Value, json};
use store::{ANSWERS_KEPT_MS, Answered, AuditCheck, FeedRow, Store, StoreErrorKind};

#[tokio::test]
async fn a_token_is_found_by_its_whole_digest_until_it_is_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let first = store
        .create_token("first", Role::Admin, [1; 32], 5)
        .await
        .unwrap();
    let mut nearly = [1; 32];
    nearly[31] = 2;
    let second = store
        .create_token("second", Role::Viewer, nearly, 6)
        .await
        .unwrap();
    let found = store.token_by_hash(&[1; 32]).await.unwrap().unwrap();
    assert_eq!(
        (
            found.id,
            found.name.as_str(),
            found.role,
            found.created_ms,
            found.used_ms
        ),
        (first, "first", Role::Admin, 5, None)
    );
    nearly[31] = 3;
    assert_eq!(store.token_by_hash(&nearly).await.unwrap(), None);
    assert_eq!(store.token_by_hash(&[0; 32]).await.unwrap(), None);
    store.touch_token(first, 9).await.unwrap();
    let tokens = store.tokens().await.unwrap();
    let used: Vec<_> = tokens.iter().map(|token| (token.id, token.used_ms)).collect();
    assert_eq!(used, [(first, Some(9)), (second, None)]);

    assert!(store.revoke_token(second).await.unwrap());
    assert!(!store.revoke_token(second).await.unwrap());
    assert!(!store.revoke_token(77).await.unwrap());
    nearly[31] = 2;
    assert_eq!(store.token_by_hash(&nearly).await.unwrap(), None);
    assert_eq!(store.tokens().await.unwrap().len(), 1);
    let third = store
        .create_token("third", Role::Operator, nearly, 7)
        .await
        .unwrap();
    assert!(third > second, "a number is never given twice");
    let again = store.create_token("again", Role::Admin, [1; 32], 8).await;
    assert_eq!(again.unwrap_err().kind, StoreErrorKind::Corrupt);
    assert!(!store.is_lost(), "a refused write is no lost one");
}

/// An audit of five entries.
async fn audited(folder: &std::path::Path) -> Store {
    let store = open(folder).await;
    for (seq, action) in (1..).zip(["one", "two", "three", "four", "five"]) {
        assert_eq!(store.append_audit(&audit_entry(action)).await.unwrap(), seq);
    }
    store
}

#[tokio::test]
async fn the_audit_tells_what_was_done_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let empty = AuditCheck {
        n_rows: 0,
        broken_at: None,
    };
    assert_eq!(store.verify_audit().await.unwrap(), empty);
    store.close().await;
    let store = audited(folder.path()).await;
    let rows = store.audit(1, 3).await.unwrap();
    let told: Vec<_> = rows.iter().map(|row| (row.seq, row.entry.clone())).collect();
    assert_eq!(
        told,
        [
            (2, audit_entry("two")),
            (3, audit_entry("three")),
            (4, audit_entry("four"))
        ]
    );
    let whole = AuditCheck {
        n_rows: 5,
        broken_at: None,
    };
    assert_eq!(store.verify_audit().await.unwrap(), whole);
}

#[tokio::test]
async fn one_row_of_the_audit_edited_deleted_or_moved_is_found_where_it_was() {
    let cases: [(&'static str, i64); 17] = [
        ("update audit set at_ms = 8 where seq = 3", 3),
        ("update audit set actor = 'else' where seq = 1", 1),
        ("update audit set source = '' where seq = 2", 2),
        ("update audit set action = 'else' where seq = 5", 5),
        ("update audit set target = 'else' where seq = 4", 4),
        (
            "update audit set detail = '{\"a\":\"\u{e9}\",\"b\":2}' where seq = 3",
            3,
        ),
        (
            "update audit set hash = lower(hex(randomblob(32))) where seq = 3",
            3,
        ),
        // The boundary between two texts moves, and the texts together stay the same.
        (
            "update audit set actor = actor || '1', source = substr(source, 2) where seq = 3",
            3,
        ),
        ("delete from audit where seq = 1", 1),
        ("delete from audit where seq = 3", 3),
        ("delete from audit where seq = 5", 5),
        ("delete from audit where seq > 2", 3),
        ("delete from audit", 1),
        (
            "update audit set seq = 99 where seq = 3; update audit set seq = 3 where seq = 4; \
             update audit set seq = 4 where seq = 99",
            3,
        ),
        ("update audit set seq = seq - 1 where seq = 1", 0),
        (
            "insert into audit select 6, at_ms, actor, source, action, target, detail, hash from audit where seq = 5",
            6,
        ),
        ("update log_head set seq = 4 where log = 'audit'", 5),
    ];
    for (sql, broken_at) in cases {
        let folder = tempfile::tempdir().unwrap();
        let store = audited(folder.path()).await;
        tamper(folder.path(), sql).await;
        let check = store.verify_audit().await.unwrap();
        assert_eq!(check.broken_at, Some(broken_at), "{sql}");
    }
}

#[tokio::test]
async fn a_row_forged_with_its_own_hash_breaks_the_chain_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = audited(folder.path()).await;
    let rows = store.audit(1, 2).await.unwrap();
    let entry = &rows[1].entry;
    let forged = |action: &str| {
        let texts = [
            &*entry.actor,
            &entry.source,
            action,
            &entry.target,
            &entry.detail.to_string(),
        ];
        Sha256::of(format!("{}\n{}", rows[0].hash, json!([3, 7, texts])).as_bytes()).to_string()
    };
    assert_eq!(forged("three"), rows[1].hash, "anybody can compute it");
    let mut connection = outside(folder.path()).await;
    sqlx::query("update audit set action = 'else', hash = $1 where seq = 3")
        .bind(forged("else"))
        .execute(&mut connection)
        .await
        .unwrap();
    assert_eq!(store.verify_audit().await.unwrap().broken_at, Some(4));
}

#[tokio::test]
async fn a_long_audit_is_walked_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    for n in 0..1_003 {
        store.append_audit(&audit_entry(&n.to_string())).await.unwrap();
    }
    let check = store.verify_audit().await.unwrap();
    assert_eq!((check.n_rows, check.broken_at), (1_003, None));
    tamper(folder.path(), "update audit set actor = '' where seq = 1002").await;
    let check = store.verify_audit().await.unwrap();
    assert_eq!((check.n_rows, check.broken_at), (1_001, Some(1_002)));
}

#[tokio::test]
async fn two_processes_write_one_chain() {
    let folder = tempfile::tempdir().unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = open(folder.path()).await;
        writers.spawn(async move {
            for _ in 0..10 {
                store.append_audit(&audit_entry("x")).await.unwrap();
                store.append_event("x", None, &Value::Null, 1).await.unwrap();
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    let store = open(folder.path()).await;
    let check = store.verify_audit().await.unwrap();
    assert_eq!((check.n_rows, check.broken_at), (40, None));
    let seqs: Vec<i64> = store
        .events_after(0, 100)
        .await
        .unwrap()
        .iter()
        .map(|event| event.seq)
        .collect();
    assert_eq!(seqs, (1..=40).collect::<Vec<_>>());
}

#[tokio::test]
async fn events_are_numbered_without_gaps_and_told_after_any() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    assert_eq!(store.last_event().await.unwrap(), 0);
    for seq in 1..=5 {
        let device = (seq % 2 == 0).then_some("a0b1c2d3e4f5");
        let appended = store
            .append_event("device.found", device, &json!({"n": seq}), seq * 10)
            .await;
        assert_eq!(appended.unwrap(), seq);
    }
    assert_eq!(store.last_event().await.unwrap(), 5);
    let events = store.events_after(3, 1).await.unwrap();
    let told: Vec<_> = events
        .iter()
        .map(|event| (event.seq, event.at_ms, event.device.as_deref(), &event.detail))
        .collect();
    assert_eq!(told, [(4, 40, Some("a0b1c2d3e4f5"), &json!({"n": 4}))]);
    assert_eq!(store.events_after(5, 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_setting_is_set_replaced_and_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    assert_eq!(store.setting("a").await.unwrap(), None);
    for value in [json!(5), json!("5"), json!(null), json!({"a": [1]})] {
        store.set_setting("a", Some(&value)).await.unwrap();
        assert_eq!(store.setting("a").await.unwrap(), Some(value));
    }
    assert_eq!(store.setting("b").await.unwrap(), None);
    store.set_setting("a", None).await.unwrap();
    assert_eq!(store.setting("a").await.unwrap(), None);
}

fn answered(body: &str) -> Answered {
    Answered {
        fingerprint: "POST /devices 1234".to_owned(),
        status: 201,
        body: body.to_owned(),
    }
}

#[tokio::test]
async fn the_first_answer_to_a_key_is_told_to_its_actor_for_a_day() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    assert_eq!(store.answer_to("k", "ann").await.unwrap(), None);
    store
        .save_answer("k", "ann", &answered("one"), 1_000)
        .await
        .unwrap();
    store
        .save_answer("k", "ann", &answered("two"), 2_000)
        .await
        .unwrap();
    store
        .save_answer("k", "bob", &answered("three"), 3_000)
        .await
        .unwrap();
    assert_eq!(store.answer_to("k", "ann").await.unwrap(), Some(answered("one")));
    assert_eq!(
        store.answer_to("k", "bob").await.unwrap(),
        Some(answered("three"))
    );
    assert_eq!(store.answer_to("other", "ann").await.unwrap(), None);
    store
        .save_answer("k", "ann", &answered("next day"), 1_000 + ANSWERS_KEPT_MS)
        .await
        .unwrap();
    assert_eq!(
        store.answer_to("k", "ann").await.unwrap(),
        Some(answered("next day"))
    );
    assert_eq!(
        store.answer_to("k", "bob").await.unwrap(),
        Some(answered("three"))
    );
}

#[tokio::test]
async fn a_feed_comes_back_as_it_was_put() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let new = FeedRow {
        name: "komfovent-C6".to_owned(),
        url: "http://127.0.0.1/c6".to_owned(),
        last_checked_ms: None,
        last_ok_ms: None,
        error: None,
        file_name: None,
        digest: None,
        etag: None,
        detail: Value::Null,
    };
    store.put_feed(&new).await.unwrap();
    assert_eq!(store.feeds().await.unwrap(), std::slice::from_ref(&new));
    let seen = FeedRow {
        last_checked_ms: Some(8),
        last_ok_ms: Some(7),
        error: Some("no answer".to_owned()),
        file_name: Some("C6.mbin".to_owned()),
        digest: Some(Sha256::of(b"x")),
        etag: Some("\"1\"".to_owned()),
        detail: json!({"a": 1}),
        ..new.clone()
    };
    let other = FeedRow {
        name: "a".to_owned(),
        ..new
    };
    store.put_feed(&seen).await.unwrap();
    store.put_feed(&other).await.unwrap();
    assert_eq!(store.feeds().await.unwrap(), [other, seen]);
}
