use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use model::id::FamilyId;

use super::super::settings::{Index, Settings};
use super::super::testing::{
    House, Site, Step, answer, app, disposition, head, mbin, mini, serve, serve_tls, unit,
};
use super::*;

const MODERN: &str = "C6_1_5_46_72_P1_1_1_5_48.mbin";
const WEEK_MS: i64 = 7 * 24 * 3_600_000;

/// What the vendor's server answers, to be changed in mid-test.
type Answers = Arc<Mutex<Vec<Step>>>;

fn file_answer(file_name: &str, bytes: &[u8]) -> Vec<Step> {
    let (name, value) = disposition(file_name);
    answer("200 OK", &[(name, &value)], bytes)
}

/// A vendor, and a house with a unit of his, whose feed is the vendor's.
struct Vendor {
    house: House,
    site: Site,
    answers: Answers,
}

fn limits() -> Limits {
    Limits {
        connect: Duration::from_secs(2),
        head: Duration::from_secs(2),
        total: Duration::from_secs(5),
        window: Duration::from_millis(300),
        window_len_bytes: 1024,
        n_redirects: 5,
    }
}

fn settings(url: &Url) -> Settings {
    let urls = BTreeMap::from([("C6".to_owned(), url.to_string())]);
    Settings {
        feed_urls: BTreeMap::from([(FamilyId::new("komfovent"), urls)]),
        limits: limits(),
        ..Settings::default()
    }
}

async fn vendor(tls: bool) -> Vendor {
    let answers: Answers = Arc::new(Mutex::new(file_answer(MODERN, &mbin(1))));
    let given = Arc::clone(&answers);
    let says = move |head: &str| {
        let known = head.to_ascii_lowercase().contains("if-none-match: \"one\"");
        if known {
            return answer("304 Not Modified", &[], b"");
        }
        given.lock().unwrap().clone()
    };
    let (site, root) = if tls {
        let (site, root) = serve_tls(says).await;
        (site, Some(root))
    } else {
        (serve(says).await, None)
    };
    let trusting = |limits: Limits| match root {
        Some(root) => Fetcher::new(limits).trusting(root),
        None => Fetcher::new(limits),
    };
    let settings = settings(&site.url("/firmware.php?file=mbin"));
    let house = House::with(tempfile::tempdir().unwrap(), settings, trusting).await;
    house.put(&unit("C6", "C6 1.3.44.70", None)).await;
    Vendor { house, site, answers }
}

impl Vendor {
    fn says(&self, steps: Vec<Step>) {
        *self.answers.lock().unwrap() = steps;
    }

    async fn look(&self) -> FeedView {
        let mut feeds = self.house.repository.check_feeds(&[]).await.unwrap();
        assert_eq!(feeds.len(), 1);
        feeds.remove(0)
    }

    async fn offered(&self) -> Option<String> {
        self.house
            .offer(&unit("C6", "C6 1.3.44.70", None))
            .await
            .map(|offer| offer.name)
    }

    async fn names(&self) -> Vec<String> {
        let list = self.house.repository.list().await.unwrap();
        list.firmware.into_iter().map(|view| view.file_name).collect()
    }
}

/// `test_check_for_update`; F7 of the mission: the metadata of a look.
#[tokio::test]
async fn a_look_brings_the_vendors_file_and_what_is_known_of_it() {
    let vendor = vendor(true).await;
    let feed = vendor.look().await;
    assert_eq!(
        (feed.name.as_str(), feed.error.as_deref()),
        ("komfovent-C6", None)
    );
    assert_eq!(feed.filename.as_deref(), Some(MODERN));
    assert_eq!(feed.controller_version, Some([0, 1, 5, 46, 72]));
    assert_eq!(feed.panel_version, Some([0, 1, 1, 5, 48]));
    assert!(feed.last_checked_at.is_some_and(|at| at > 1_700_000_000_000));
    assert_eq!(feed.last_ok_at, feed.last_checked_at);
    let path = feed.file_path.unwrap();
    assert!(path.starts_with('/'), "{path}");
    assert_eq!(std::fs::read(path).unwrap(), mbin(1));
    assert!(!feed.url.contains('?'), "{}", feed.url);
    let view = vendor.house.view(MODERN).await.unwrap();
    assert_eq!((view.state, view.source.as_str()), (State::Approved, "feed"));
    assert_eq!(view.origin.as_deref(), Some(feed.url.as_str()));
    assert_eq!(view.approved_by.as_deref(), Some("feed komfovent-C6"));
    assert_eq!(vendor.offered().await.as_deref(), Some("1.5.46.72 / P 1.1.5.48"));
}

/// T16: what came over plain HTTP is offered only once somebody has approved its digest.
#[tokio::test]
async fn over_plain_http_a_file_waits_for_the_approval_of_its_digest() {
    let vendor = vendor(false).await;
    let feed = vendor.look().await;
    assert_eq!(feed.error, None);
    let view = vendor.house.view(MODERN).await.unwrap();
    assert_eq!(
        (view.state, view.refusals[0].rule.as_str()),
        (State::Quarantined, "open-way")
    );
    assert_eq!(vendor.offered().await, None);
    vendor.look().await;
    assert_eq!(vendor.offered().await, None, "looking again is no approval");
    vendor
        .house
        .repository
        .approve(&view.sha256.parse().unwrap(), "ada")
        .await
        .unwrap();
    assert!(vendor.offered().await.is_some());
}

/// F11: the vendor's name with other bytes.
#[tokio::test]
async fn other_bytes_under_the_same_name_are_blocked_and_the_known_file_stays() {
    let vendor = vendor(true).await;
    let before = vendor.look().await;
    let mut changes = vendor.house.repository.changes();
    vendor.says(file_answer(MODERN, &mbin(2)));
    let after = vendor.look().await;
    assert!(after.error.unwrap().contains("other bytes"));
    assert_eq!(
        (after.sha256, after.last_ok_at),
        (before.sha256.clone(), before.last_ok_at)
    );
    let told: Vec<ChangeKind> = std::iter::from_fn(|| changes.try_recv().ok())
        .map(|change| change.kind)
        .collect();
    assert!(told.contains(&ChangeKind::Alarm), "{told:?}");
    let offer = vendor
        .house
        .offer(&unit("C6", "C6 1.3.44.70", None))
        .await
        .unwrap();
    assert_eq!(Some(offer.sha256), before.sha256);
    let states: Vec<State> = vendor
        .house
        .repository
        .list()
        .await
        .unwrap()
        .firmware
        .iter()
        .map(|view| view.state)
        .collect();
    assert_eq!(states.iter().filter(|state| **state == State::Blocked).count(), 1);
}

/// F8, F9: whatever the vendor's server does, what is known stays, and the reason is shown.
#[tokio::test]
async fn a_failed_look_keeps_what_is_known_and_shows_why() {
    let vendor = vendor(true).await;
    let good = vendor.look().await;
    let (name, value) = disposition("C6_1_9_9_99_P1_1_1_5_99.mbin");
    let new = mbin(9);
    let len = new.len().to_string();
    let cut = |n: usize| {
        let head = head("200 OK", &[(name, &value), ("content-length", &len)]);
        vec![Step::Send([head, new[..n].to_vec()].concat())]
    };
    let html = b"<html>log in to the guest network</html>";
    for (steps, said) in [
        (
            answer(
                "403 Forbidden",
                &[("x-deny-reason", "host_not_allowed")],
                b"Host not allowed",
            ),
            "denies",
        ),
        (answer("404 Not Found", &[], b""), "HTTP 404"),
        (answer("500 Oh", &[], b""), "HTTP 500"),
        (
            answer("200 OK", &[("content-type", "text/html")], html),
            "login page",
        ),
        (
            answer("302 Found", &[("location", "http://192.168.1.1/login")], b""),
            "",
        ),
        (cut(0), "cut short"),
        (cut(new.len() / 100), "cut short"),
        (cut(new.len() / 2), "cut short"),
        (cut(new.len() - 1), "cut short"),
        (file_answer("C6_1_9_9_99.mbin", b"short"), "5 bytes"),
        (file_answer("firmware.mbin", &new), "no name of the vendor"),
        (file_answer("C8_1_9_9_99.bin", &new), "no name of the vendor"),
    ] {
        vendor.says(steps);
        let feed = vendor.look().await;
        let error = feed.error.unwrap();
        assert!(error.contains(said), "{said}: {error}");
        assert_eq!(
            (&feed.sha256, &feed.filename),
            (&good.sha256, &good.filename),
            "{said}"
        );
        assert_eq!(feed.last_ok_at, good.last_ok_at, "{said}");
        assert!(feed.last_checked_at >= good.last_checked_at);
        assert_eq!(
            vendor.names().await,
            [MODERN],
            "{said}: nothing new became visible"
        );
    }
    let troubles = vendor.house.repository.troubles().await;
    assert!(troubles[0].text.contains("komfovent-C6"), "{troubles:?}");
    vendor.says(file_answer(MODERN, &mbin(1)));
    assert_eq!(vendor.look().await.error, None);
}

#[tokio::test]
async fn a_server_that_has_gone_or_is_nobody_we_know_is_a_reason_too() {
    let Vendor { house, site, .. } = vendor(false).await;
    drop(site);
    let feed = house.repository.check_feeds(&[]).await.unwrap().remove(0);
    assert!(feed.error.unwrap().contains("connecting"));
    for (url, said) in [
        ("https://no-such-host.invalid/x", "looking up"),
        ("not an address", "no address"),
        ("https://user:secret@localhost/x", "no address"),
    ] {
        let mut settings = settings(&"http://127.0.0.1/".parse().unwrap());
        settings.feed_urls.values_mut().for_each(|urls| {
            urls.insert("C6".to_owned(), url.to_owned());
        });
        let house = House::new(settings).await;
        house.put(&unit("C6", "C6 1.3.44.70", None)).await;
        let feed = house.repository.check_feeds(&[]).await.unwrap().remove(0);
        let error = feed.error.unwrap();
        assert!(error.contains(said), "{url}: {error}");
        assert!(
            !error.contains("secret") && !feed.url.contains("secret"),
            "{error} {}",
            feed.url
        );
    }
}

/// Nobody else's certificate is taken for the vendor's.
#[tokio::test]
async fn a_vendor_that_cannot_prove_who_he_is_gives_nothing() {
    let (site, _root) = serve_tls(|_| file_answer(MODERN, &mbin(1))).await;
    let house = House::with(tempfile::tempdir().unwrap(), settings(&site.url("/")), |limits| {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        Fetcher::new(limits).trusting(reqwest::Certificate::from_der(made.cert.der()).unwrap())
    })
    .await;
    house.put(&unit("C6", "C6 1.3.44.70", None)).await;
    let feed = house.repository.check_feeds(&[]).await.unwrap().remove(0);
    assert!(feed.error.unwrap().contains("cannot prove"));
    assert!(house.repository.list().await.unwrap().firmware.is_empty());
}

#[tokio::test]
async fn what_has_not_changed_is_asked_for_by_its_mark_as_long_as_the_file_is_there() {
    let vendor = vendor(true).await;
    let (name, value) = disposition(MODERN);
    let marked = answer("200 OK", &[(name, &value), ("etag", "\"one\"")], &mbin(1));
    vendor.says(marked.clone());
    let first = vendor.look().await;
    vendor.says(answer("500 Oh", &[], b""));
    let second = vendor.look().await;
    assert_eq!(
        (second.error, &second.sha256),
        (None, &first.sha256),
        "304: the file is used again"
    );
    // The file has gone: then it is fetched once more.
    std::fs::remove_file(first.file_path.unwrap()).unwrap();
    vendor.says(marked);
    let third = vendor.look().await;
    assert!(third.error.is_none() && third.file_path.is_some());
    let asked = vendor.site.asked();
    let with_mark: Vec<bool> = asked
        .iter()
        .map(|head| head.to_ascii_lowercase().contains("if-none-match"))
        .collect();
    assert_eq!(with_mark, [false, true, false]);
}

#[tokio::test]
async fn only_downloads_for_units_that_there_are_are_looked_at() {
    let site = serve(|_| file_answer(MODERN, &mbin(1))).await;
    let house = House::new(settings(&site.url("/"))).await;
    assert_eq!(house.repository.check_feeds(&[]).await.unwrap(), []);
    house.put(&mini("esp32c6", "1.0")).await;
    assert_eq!(house.repository.check_feeds(&[]).await.unwrap(), []);
    house.put(&unit("C6M", "C6M 1.4.47.71", None)).await;
    house.put(&unit("C6", "C6 1.3.44.70", None)).await;
    assert_eq!(house.repository.check_feeds(&[]).await.unwrap().len(), 1);
    assert_eq!(site.asked().len(), 1, "one file for both types");
}

#[tokio::test]
async fn a_download_can_be_asked_for_by_name_and_an_unknown_name_is_told() {
    let site = serve(|_| file_answer(MODERN, &mbin(1))).await;
    let house = House::new(settings(&site.url("/"))).await;
    let named = |name: &str| vec![name.to_owned()];
    let feeds = house
        .repository
        .check_feeds(&named("komfovent-C6"))
        .await
        .unwrap();
    assert_eq!(feeds[0].filename.as_deref(), Some(MODERN));
    // A family's name stands for those of its downloads that are in use.
    house.put(&unit("C6", "C6 1.3.44.70", None)).await;
    assert_eq!(
        house
            .repository
            .check_feeds(&named("komfovent"))
            .await
            .unwrap()
            .len(),
        1
    );
    assert_eq!(site.asked().len(), 2);
    let error = house
        .repository
        .check_feeds(&named("komfovent-C9"))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("komfovent-C6, komfovent-C8"),
        "{error}"
    );
}

/// `test_weekly_schedule`: by the wall clock, and the time of the last look survives a restart.
#[tokio::test]
async fn feeds_are_looked_at_weekly_also_across_restarts() {
    let site = serve(|_| file_answer(MODERN, &mbin(1))).await;
    let settings = settings(&site.url("/"));
    let house = House::new(settings.clone()).await;
    house.put(&unit("C6", "C6 1.3.44.70", None)).await;
    let start_ms = 1_800_000_000_000;
    house.repository.check_due(start_ms).await.unwrap();
    house.repository.check_due(start_ms + 60_000).await.unwrap();
    house.repository.check_due(start_ms + WEEK_MS - 1).await.unwrap();
    assert_eq!(site.asked().len(), 1);
    let house = house.restarted(settings).await;
    house.repository.check_due(start_ms + WEEK_MS - 1).await.unwrap();
    assert_eq!(site.asked().len(), 1, "a restart is no reason to look");
    let later_ms = start_ms + WEEK_MS + WEEK_MS / 20;
    house.repository.check_due(later_ms).await.unwrap();
    house.repository.check_due(later_ms + 60_000).await.unwrap();
    assert_eq!(site.asked().len(), 2);
}

#[tokio::test]
async fn after_a_failure_the_next_look_comes_within_hours_and_ever_later() {
    let vendor = vendor(true).await;
    vendor.says(answer("500 Oh", &[], b""));
    let hour_ms = 3_600_000;
    let mut looked_at = Vec::new();
    let mut n_asked = 0;
    for half_hour in 0..40 {
        vendor
            .house
            .repository
            .check_due(1_800_000_000_000 + half_hour * hour_ms / 2)
            .await
            .unwrap();
        if vendor.site.asked().len() > n_asked {
            n_asked = vendor.site.asked().len();
            looked_at.push(half_hour);
        }
    }
    let pauses: Vec<i64> = looked_at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // In half hours: at least 1, 2, 4 hours, and not much more.
    for (pause, at_least) in pauses.iter().zip([2, 4, 8]) {
        assert!((at_least..=at_least + 1).contains(pause), "{pauses:?}");
    }
    assert!(pauses.len() >= 3, "{pauses:?}");
}

#[tokio::test]
async fn as_many_files_of_a_feed_are_kept_as_its_owner_wants() {
    let vendor = vendor(true).await;
    vendor.house.put(&unit("C6", "C6 1.3.44.70", None)).await;
    let repository = &vendor.house.repository;
    let file_name = |n: u8| format!("C6_1_5_46_{}_P1_1_1_5_48.mbin", 70 + n);
    let mut n = 0;
    for (n_kept, n_left) in [(5, 4), (2, 2), (1, 1)] {
        repository.apply(Settings {
            n_kept,
            ..Settings::clone(&repository.settings())
        });
        for _ in 0..4 {
            n += 1;
            vendor.says(file_answer(&file_name(n), &mbin(n)));
            assert_eq!(vendor.look().await.error, None);
        }
        assert_eq!(vendor.names().await.len(), n_left, "{n_kept}");
    }
}

#[tokio::test]
async fn old_files_of_a_feed_are_cleaned_up_but_for_what_is_run() {
    let vendor = vendor(true).await;
    vendor.house.put(&unit("C6", "C6 1.3.44.70", None)).await;
    let file_name = |n: u8| format!("C6_1_5_46_{}_P1_1_1_5_48.mbin", 70 + n);
    vendor.says(file_answer(&file_name(0), &mbin(10)));
    let first = vendor.look().await.sha256.unwrap();
    let device = unit("C6", "C6 1.3.44.70", None);
    let installed = model::installed::Installed {
        digest: Some(first.parse().unwrap()),
        label: device.versions.clone(),
        label_moves: true,
    };
    vendor
        .house
        .store
        .set_installed(&device.id, Some(&installed), 1)
        .await
        .unwrap();
    let mine = vendor.house.upload("C6_1_1_1_20.mbin", mbin(99)).await;
    for n in 1..=6 {
        vendor.says(file_answer(&file_name(n), &mbin(10 + n)));
        assert_eq!(vendor.look().await.error, None);
    }
    let mut names = vendor.names().await;
    names.sort();
    let mut expected = vec![
        "C6_1_1_1_20.mbin".to_owned(),
        file_name(0),
        file_name(4),
        file_name(5),
        file_name(6),
    ];
    expected.sort();
    assert_eq!(
        names, expected,
        "the newest three, what is run, and what its owner brought"
    );
    assert!(vendor.house.repository.image(&mine.digest).await.is_ok());
}

/// `firmware check komfovent --output FILE`: without a repository.
#[tokio::test]
async fn a_download_can_be_tried_without_a_repository() {
    let site = serve(|_| file_answer(MODERN, &mbin(1))).await;
    let families = super::super::testing::families();
    let feeds: Vec<Feed> = families.iter().flat_map(|family| family.downloads()).collect();
    let url = site.url("/?file=mbin").to_string();
    let file = fetch_once(&feeds[0], Some(&url), limits()).await.unwrap();
    assert_eq!(
        (file.image.file_name(), &file.image.bytes()[..]),
        (MODERN, &mbin(1)[..])
    );
    assert_eq!((file.is_private, file.parts.len()), (false, 2));
    let error = fetch_once(&feeds[0], Some("nonsense"), limits())
        .await
        .unwrap_err();
    assert!(matches!(error, FetchError::Address { .. }), "{error}");
}

/// An index and its images on one server, by path.
async fn indexed(tls: bool, index: impl Fn(&str) -> String) -> (House, Site) {
    let good = app("esp32c6", None, 1);
    let text = index(&Sha256::of(&good).to_string());
    let says = move |head: &str| {
        let path = head.split(' ').nth(1).unwrap_or_default();
        match path {
            "/index.json" => answer("200 OK", &[("content-type", "application/json")], text.as_bytes()),
            "/good.bin" => answer("200 OK", &[], &good),
            _ => answer("404 Not Found", &[], b""),
        }
    };
    let (site, root) = if tls {
        let (site, root) = serve_tls(says).await;
        (site, Some(root))
    } else {
        (serve(says).await, None)
    };
    let settings = Settings {
        indexes: vec![Index {
            url: site.url("/index.json").to_string(),
            public_key: None,
        }],
        limits: limits(),
        ..Settings::default()
    };
    let house = House::with(tempfile::tempdir().unwrap(), settings, |limits| match root {
        Some(root) => Fetcher::new(limits).trusting(root),
        None => Fetcher::new(limits),
    })
    .await;
    (house, site)
}

/// T10: what an index brings is not offered before its owner has approved it.
#[tokio::test]
async fn images_of_an_index_come_with_their_notes_and_wait_for_approval() {
    for (tls, state) in [(true, State::Waiting), (false, State::Quarantined)] {
        let (house, site) = indexed(tls, |sha256| {
            format!(r##"{{"firmware": [{{"file_name": "ir_remote_v2.0.0.bin", "url": "good.bin", "sha256": "{sha256}", "version": "2.0.0", "notes": "# New"}}]}}"##)
        })
        .await;
        let feeds = house.repository.check_feeds(&[]).await.unwrap();
        assert_eq!(feeds[0].error, None);
        assert!(feeds[0].name.starts_with("index-"));
        let view = house.view("ir_remote_v2.0.0.bin").await.unwrap();
        assert_eq!(
            (view.state, view.source.as_str(), view.has_notes),
            (state, "index", true)
        );
        let device = mini("esp32c6", "1.0");
        assert_eq!(house.offer(&device).await, None);
        house.repository.check_feeds(&[]).await.unwrap();
        assert_eq!(site.asked().len(), 3, "what is known is not fetched again");
        house
            .repository
            .approve(&view.sha256.parse().unwrap(), "ada")
            .await
            .unwrap();
        assert!(house.offer(&device).await.is_some());
    }
}

/// F10, T17, T22: none of these entries brings anything, and the good one beside it comes all the same.
#[tokio::test]
async fn an_entry_of_an_index_that_lies_or_leads_astray_brings_nothing() {
    let inner = serve(|_| answer("200 OK", &[], b"internal")).await;
    let inner_url = inner.url("/good.bin").to_string();
    let wrong = Sha256::of(b"another").to_string();
    for (file_name, url, sha256, said) in [
        ("a.bin", "good.bin", wrong.as_str(), "digest mismatch"),
        ("a.bin", "missing.bin", &wrong, "HTTP 404"),
        ("../a.bin", "good.bin", &wrong, "no name"),
        ("..", "good.bin", &wrong, "no name"),
        ("a.bin", inner_url.as_str(), &wrong, "not among the hosts"),
        (
            "a.bin",
            "http://169.254.169.254/a.bin",
            &wrong,
            "not among the hosts",
        ),
        ("a.bin", "file:///etc/passwd", &wrong, "no address"),
    ] {
        let (house, _site) = indexed(false, |good| {
            format!(
                r#"[{{"file_name": "{file_name}", "url": "{url}", "sha256": "{sha256}"}},
                    {{"file_name": "good.bin", "url": "good.bin", "sha256": "{good}"}}]"#
            )
        })
        .await;
        let error = house
            .repository
            .check_feeds(&[])
            .await
            .unwrap()
            .remove(0)
            .error
            .unwrap();
        assert!(error.contains(said), "{file_name} {url}: {error}");
        let names: Vec<String> = house
            .repository
            .list()
            .await
            .unwrap()
            .firmware
            .into_iter()
            .map(|view| view.file_name)
            .collect();
        assert_eq!(names, ["good.bin"], "{file_name} {url}");
    }
    assert!(inner.asked().is_empty());
}

#[tokio::test]
async fn an_index_that_cannot_be_read_is_a_reason() {
    let deep = "[".repeat(100_000);
    for text in [
        "",
        "{}",
        "null",
        "[{}]",
        "[1]",
        r#"[{"file_name":"a.bin","url":"b","sha256":"zz"}]"#,
        &deep,
    ] {
        let (house, _site) = indexed(false, |_| text.to_owned()).await;
        let error = house.repository.check_feeds(&[]).await.unwrap().remove(0).error;
        assert!(error.is_some(), "{}", &text[..text.len().min(40)]);
    }
}

#[test]
fn indexes_are_told_apart_by_their_hosts_and_numbers() {
    let index = |url: &str| Index {
        url: url.to_owned(),
        public_key: None,
    };
    let indexes = [
        index("https://a.example/1"),
        index("https://b.example/"),
        index("https://a.example/2"),
        index("?"),
    ];
    assert_eq!(
        super::index::names(&indexes),
        [
            "index-a.example",
            "index-b.example",
            "index-a.example-2",
            "index-unreadable"
        ]
    );
}

#[tokio::test]
async fn without_an_interval_nobody_is_asked_unasked() {
    let site = serve(|_| file_answer(MODERN, &mbin(1))).await;
    let mut settings = settings(&site.url("/"));
    settings.check_every = BTreeMap::from([(FamilyId::new("komfovent"), Duration::ZERO)]);
    let house = House::new(settings).await;
    house.put(&unit("C6", "C6 1.3.44.70", None)).await;
    house.repository.check_due(1_800_000_000_000).await.unwrap();
    assert!(site.asked().is_empty());
    house.repository.check_feeds(&[]).await.unwrap();
    assert_eq!(site.asked().len(), 1);
}
