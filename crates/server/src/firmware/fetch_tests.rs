use super::*;
use crate::firmware::testing::{Site, Step, answer, disposition, head, mbin, serve, serve_tls};

const MODERN: &str = "C6_1_5_46_72_P1_1_1_5_48.mbin";
const LEN_BYTES: RangeInclusive<u64> = 100 * 1024..=10 * 1024 * 1024;

fn read_name(name: &str) -> Option<Vec<NamedPart>> {
    let is_vendors = name.starts_with("C6_") && name.strip_suffix(".mbin").is_some();
    (is_vendors && !name.contains(' ')).then(Vec::new)
}

/// Bounds that a test can wait for.
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

async fn fetch_by(fetcher: &Fetcher, url: &Url, etag: Option<&str>) -> Result<Fetched, FetchError> {
    fetcher
        .fetch(Wanted {
            url,
            hosts: &Hosts::of([url]),
            len_bytes: &LEN_BYTES,
            naming: Naming::Needed(read_name),
            etag,
        })
        .await
}

async fn fetch(site: &Site) -> Result<Fetched, FetchError> {
    fetch_by(
        &Fetcher::new(limits()),
        &site.url("/firmware.php?file=mbin"),
        None,
    )
    .await
}

fn file(fetched: Result<Fetched, FetchError>) -> Download {
    match fetched {
        Ok(Fetched::File(download)) => download,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_file_comes_whole_with_its_name_and_mark() {
    let site = serve(|_| {
        let (name, value) = disposition(MODERN);
        answer("200 OK", &[(name, &value), ("etag", "\"one\"")], &mbin(1))
    })
    .await;
    let download = file(fetch(&site).await);
    assert_eq!(download.bytes, mbin(1));
    assert_eq!(download.file_name.as_deref(), Some(MODERN));
    assert_eq!(download.etag.as_deref(), Some("\"one\""));
    assert_eq!(download.way, Way::Open);
    let head = &site.asked()[0].to_ascii_lowercase();
    assert!(head.starts_with("get /firmware.php?file=mbin http/1.1"), "{head}");
    assert!(
        !head.contains("if-none-match") && head.contains("accept-encoding: identity"),
        "{head}"
    );
}

#[tokio::test]
async fn over_tls_nobody_on_the_way_can_change_it() {
    let (site, root) = serve_tls(|_| {
        let (name, value) = disposition(MODERN);
        answer("200 OK", &[(name, &value)], &mbin(1))
    })
    .await;
    let url = site.url("/");
    let trusting = Fetcher::new(limits()).trusting(root);
    assert_eq!(file(fetch_by(&trusting, &url, None).await).way, Way::Private);
    // Without the certificate the server cannot prove who it is (F8).
    let (_other, other_root) = serve_tls(|_| Vec::new()).await;
    let doubting = Fetcher::new(limits()).trusting(other_root);
    let error = fetch_by(&doubting, &url, None).await.unwrap_err();
    assert!(matches!(error, FetchError::Tls { .. }), "{error:?}");
    assert!(error.is_before_tls());
}

#[tokio::test]
async fn what_has_not_changed_is_not_sent_again() {
    let site = serve(|head| {
        let known = head.to_ascii_lowercase().contains("if-none-match: \"one\"");
        answer(if known { "304 Not Modified" } else { "500 Oh" }, &[], b"")
    })
    .await;
    let fetcher = Fetcher::new(limits());
    let found = fetch_by(&fetcher, &site.url("/"), Some("\"one\"")).await;
    assert!(matches!(found, Ok(Fetched::Unchanged)), "{found:?}");
    // Nobody asked for that answer.
    let silly = serve(|_| answer("304 Not Modified", &[], b"")).await;
    let found = fetch_by(&fetcher, &silly.url("/"), None).await;
    assert!(
        matches!(found, Err(FetchError::Status { status: 304 })),
        "{found:?}"
    );
}

/// F8, F9, T15, T18: each of these servers gives nothing, and says why.
#[expect(clippy::too_many_lines, reason = "it is a table")]
#[tokio::test]
async fn a_server_that_misbehaves_gives_nothing_and_a_reason() {
    let (name, value) = disposition(MODERN);
    let named = move |more: &[(&str, &str)], body: Vec<u8>, rest: Vec<Step>| {
        let mut headers = vec![(name, value.as_str())];
        headers.extend(more);
        let mut steps = vec![Step::Send([head("200 OK", &headers), body].concat())];
        steps.extend(rest);
        steps
    };
    let whole = mbin(1);
    let len = whole.len().to_string();
    let part = |n: usize| whole[..n].to_vec();
    let html = b"<!DOCTYPE html><html>Welcome to the guest network".to_vec();
    let denied = ("x-deny-reason", "host_not_allowed");
    let cases: Vec<(&str, Vec<Step>, &str)> = vec![
        ("404", answer("404 Not Found", &[], b"no"), "HTTP 404"),
        ("500", answer("500 Oh", &[], b"no"), "HTTP 500"),
        ("204", answer("204 No Content", &[], b""), "HTTP 204"),
        ("206", answer("206 Partial Content", &[], &whole), "HTTP 206"),
        (
            "403",
            answer("403 Forbidden", &[denied], b"Host not allowed"),
            "denies the download (host_not_allowed)",
        ),
        (
            "401",
            answer("401 No", &[], b""),
            "denies the download (HTTP 401)",
        ),
        (
            "portal",
            answer("200 OK", &[("content-type", "text/html; charset=utf-8")], &html),
            "login page",
        ),
        (
            "page",
            named(
                &[("content-length", "150000")],
                [html.clone(), vec![b' '; 150_000 - html.len()]].concat(),
                vec![],
            ),
            "login page",
        ),
        (
            "no name",
            answer("200 OK", &[], &whole),
            "does not say which file",
        ),
        (
            "gzip",
            named(
                &[("content-length", &len), ("content-encoding", "gzip")],
                whole.clone(),
                vec![],
            ),
            "compressed",
        ),
        (
            "announced too long",
            named(&[("content-length", "10485761")], vec![], vec![Step::Hang]),
            "10485761 bytes or more",
        ),
        (
            "announced too short",
            named(&[("content-length", "102399")], vec![], vec![Step::Hang]),
            "102399 bytes",
        ),
        (
            "absurd",
            named(
                &[("content-length", "18446744073709551615")],
                vec![],
                vec![Step::Hang],
            ),
            "",
        ),
        (
            "no length",
            named(&[("connection", "close")], whole.clone(), vec![]),
            "how long the file is",
        ),
        (
            "endless",
            named(
                &[("transfer-encoding", "chunked")],
                vec![],
                vec![Step::Repeat(
                    [b"40000\r\n".to_vec(), vec![7; 0x40000], b"\r\n".to_vec()].concat(),
                    Duration::ZERO,
                )],
            ),
            "bytes or more",
        ),
        (
            "small chunks",
            named(
                &[("transfer-encoding", "chunked")],
                b"1\r\nx\r\n0\r\n\r\n".to_vec(),
                vec![],
            ),
            "1 bytes",
        ),
        (
            "slow",
            named(
                &[("content-length", &len)],
                vec![],
                vec![Step::Repeat(vec![7], Duration::from_millis(20))],
            ),
            "less than 3413 bytes a second",
        ),
        ("silent head", vec![Step::Hang], "took longer than 2 s"),
        (
            "cut at 0 %",
            named(&[("content-length", &len)], vec![], vec![]),
            "cut short",
        ),
        (
            "cut at 1 %",
            named(&[("content-length", &len)], part(whole.len() / 100), vec![]),
            "cut short",
        ),
        (
            "cut at 50 %",
            named(&[("content-length", &len)], part(whole.len() / 2), vec![]),
            "cut short",
        ),
        (
            "cut at 99 %",
            named(&[("content-length", &len)], part(whole.len() - 1), vec![]),
            "cut short",
        ),
        (
            "stalled at 50 %",
            named(
                &[("content-length", &len)],
                part(whole.len() / 2),
                vec![Step::Hang],
            ),
            "less than",
        ),
        (
            "chunks cut",
            named(
                &[("transfer-encoding", "chunked")],
                [b"24000\r\n".to_vec(), part(0x24000), b"\r\n".to_vec()].concat(),
                vec![],
            ),
            "cut short",
        ),
        (
            "no http",
            vec![Step::Send(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec())],
            "",
        ),
    ];
    for (what, steps, said) in cases {
        let site = serve(move |_| steps.clone()).await;
        match fetch(&site).await {
            Ok(fetched) => panic!("{what}: {fetched:?}"),
            Err(error) => assert!(error.to_string().contains(said), "{what}: {error}"),
        }
    }
}

#[tokio::test]
async fn a_file_that_comes_whole_without_an_end_of_the_connection_is_whole() {
    let site = serve(|_| {
        let (name, value) = disposition(MODERN);
        let mut steps = answer("200 OK", &[(name, &value)], &mbin(1));
        steps.push(Step::Hang);
        steps
    })
    .await;
    assert_eq!(file(fetch(&site).await).bytes, mbin(1));
}

#[tokio::test]
async fn a_steady_trickle_ends_with_the_time_for_all_of_it() {
    let site = serve(|_| {
        let (name, value) = disposition(MODERN);
        vec![
            Step::Send(head("200 OK", &[(name, &value), ("content-length", "9000000")])),
            Step::Repeat(vec![7; 512], Duration::from_millis(20)),
        ]
    })
    .await;
    let mut limits = limits();
    limits.total = Duration::from_secs(1);
    let began = std::time::Instant::now();
    let error = fetch_by(&Fetcher::new(limits), &site.url("/"), None)
        .await
        .unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(matches!(error, FetchError::TimedOut { .. }), "{error:?}");
}

/// T17: 200 names that are not the vendor's; none of them comes through, and none becomes a path.
#[tokio::test]
async fn only_the_vendors_own_names_are_taken() {
    let mut names: Vec<String> = [
        "",
        ".",
        "..",
        "firmware.mbin",
        "C6_1_5_46_72.bin",
        "C6_1_5_46_72.mbin.exe",
        "passwd",
        "%2e%2e%2fx.mbin",
        "C6_1 5_46_72.mbin",
        "x/C6_1_5_46_72.mbin/",
        "C6_\u{202e}nibm.27.mbin",
        "C6_\0.mbin",
        "C6_\u{7f}.mbin",
        "C6_..mbin/..",
        "C6_..\\..\\x.mbin/../..",
        "NUL",
        "CON.mbin",
        "~/C6.mbin ",
        "$(reboot).mbin",
        "`id`.mbin",
    ]
    .map(str::to_owned)
    .to_vec();
    names.push(format!("C6_{}.mbin", "1".repeat(300)));
    for n in 1..=60 {
        names.push(format!("{}etc/passwd", "../".repeat(n)));
        names.push(format!("{}windows\\win.ini", "..\\".repeat(n)));
        names.push(format!("/{}x.bin", "a/".repeat(n)));
    }
    assert!(names.len() >= 200, "{}", names.len());
    let served = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let to_serve = std::sync::Arc::clone(&served);
    let site = serve(move |_| {
        let name = to_serve.lock().unwrap().clone();
        let escaped: String = name
            .bytes()
            .flat_map(|byte| ["%".to_owned(), hex::encode([byte])])
            .collect();
        let value = format!("attachment; filename*=UTF-8''{escaped}");
        answer("200 OK", &[("content-disposition", &value)], &mbin(1))
    })
    .await;
    let fetcher = Fetcher::new(limits());
    let url = site.url("/");
    for name in names {
        served.lock().unwrap().clone_from(&name);
        let error = match fetch_by(&fetcher, &url, None).await {
            Ok(answer) => panic!("{name:?}: {answer:?}"),
            Err(error) => error,
        };
        let is_about_the_name = matches!(error, FetchError::NoName { .. } | FetchError::OtherName { .. });
        assert!(is_about_the_name, "{name:?}: {error}");
    }
    // What is right in the last component is taken, and nothing of the rest.
    served.lock().unwrap().clone_from(&format!("../../srv/{MODERN}"));
    assert_eq!(
        file(fetch_by(&fetcher, &url, None).await).file_name.as_deref(),
        Some(MODERN)
    );
}

#[tokio::test]
async fn redirects_are_followed_five_times_and_no_further() {
    // The path counts down.
    let site = serve(|head| {
        let left: u32 = head
            .split('/')
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        if left == 0 {
            let (name, value) = disposition(MODERN);
            return answer("200 OK", &[(name, &value)], &mbin(1));
        }
        answer("301 Moved", &[("location", &format!("/{}", left - 1))], b"")
    })
    .await;
    let fetcher = Fetcher::new(limits());
    assert_eq!(
        file(fetch_by(&fetcher, &site.url("/5"), None).await).bytes,
        mbin(1)
    );
    assert_eq!(site.asked().len(), 6);
    let error = fetch_by(&fetcher, &site.url("/6"), None).await.unwrap_err();
    assert!(matches!(error, FetchError::Redirects { n: 5 }), "{error:?}");
    assert_eq!(site.asked().len(), 12);
}

/// T22: wherever a redirect leads but to the named host, nobody is asked.
#[tokio::test]
async fn a_redirect_to_anybody_else_reaches_nobody() {
    let inner = serve(|_| answer("200 OK", &[], b"secret of the router")).await;
    let port = inner.address.port();
    for location in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://0x7f.1:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://0.0.0.0:{port}/"),
        format!("http://127.0.0.2:{port}/"),
        format!("//127.0.0.1:{port}/"),
        format!("http://user:password@127.0.0.1:{port}/"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://192.168.1.1/".to_owned(),
        "http://www.example.com/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "gopher://127.0.0.1/".to_owned(),
        String::new(),
    ] {
        let to = location.clone();
        let site = serve(move |head| {
            if head.starts_with("GET /start") {
                answer("302 Found", &[("location", &to)], b"")
            } else {
                answer("404 Gone", &[], b"")
            }
        })
        .await;
        let fetched = fetch_by(&Fetcher::new(limits()), &site.url("/start"), None).await;
        assert!(fetched.is_err(), "{location}");
    }
    assert_eq!(inner.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_redirect_from_https_to_http_is_not_followed() {
    let plain = serve(|_| answer("200 OK", &[], b"")).await;
    let to = plain.url("/").to_string();
    let (site, root) = serve_tls(move |_| answer("302 Found", &[("location", &to)], b"")).await;
    let (start, there) = (site.url("/"), plain.url("/"));
    let found = Fetcher::new(limits())
        .trusting(root)
        .fetch(Wanted {
            url: &start,
            hosts: &Hosts::of([&start, &there]),
            len_bytes: &LEN_BYTES,
            naming: Naming::Known,
            etag: None,
        })
        .await;
    assert!(matches!(found, Err(FetchError::Downgrade)), "{found:?}");
    assert!(plain.asked().is_empty());
}

#[tokio::test]
async fn addresses_that_are_no_download_are_not_asked() {
    let site = serve(|_| answer("200 OK", &[], b"")).await;
    let port = site.address.port();
    for url in [
        format!("http://user@127.0.0.1:{port}/"),
        format!("http://:secret@127.0.0.1:{port}/"),
        "ftp://127.0.0.1/".to_owned(),
        "data:text/plain,hello".to_owned(),
    ] {
        let url: Url = url.parse().unwrap();
        let error = fetch_by(&Fetcher::new(limits()), &url, None).await.unwrap_err();
        assert!(matches!(error, FetchError::Address { .. }), "{url}: {error:?}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    assert!(site.asked().is_empty());
}

#[tokio::test]
async fn a_name_that_nobody_knows_and_a_port_where_nobody_listens_are_told_apart() {
    let fetcher = Fetcher::new(limits());
    let unknown = "http://no-such-host.invalid/".parse().unwrap();
    let error = fetch_by(&fetcher, &unknown, None).await.unwrap_err();
    assert!(matches!(error, FetchError::Lookup { .. }), "{error:?}");
    let site = serve(|_| Vec::new()).await;
    let url = site.url("/");
    drop(site);
    let error = fetch_by(&fetcher, &url, None).await.unwrap_err();
    assert!(matches!(error, FetchError::Connect { .. }), "{error:?}");
}

fn hosts(url: &str) -> Hosts {
    Hosts::of([&url.parse().unwrap()])
}

#[test]
fn the_list_of_hosts_holds_the_named_one_and_its_naked_domain() {
    for (named, asked, right) in [
        ("https://www.komfovent.com/a", "https://www.komfovent.com/b", true),
        ("https://www.komfovent.com/a", "https://komfovent.com/b", true),
        ("https://komfovent.com/a", "https://www.komfovent.com/b", true),
        ("http://www.komfovent.com/a", "https://WWW.Komfovent.com./b", true),
        (
            "https://www.komfovent.com/a",
            "https://evil.komfovent.com/b",
            false,
        ),
        (
            "https://www.komfovent.com/a",
            "https://komfovent.com.evil.example/b",
            false,
        ),
        ("https://www.komfovent.com/a", "https://xkomfovent.com/b", false),
        ("https://www.komfovent.com/a", "https://com/b", false),
        ("https://www.komfovent.com/a", "http://127.0.0.1/b", false),
        ("http://127.0.0.1:8000/a", "http://127.0.0.1:8000/b", true),
        ("http://127.0.0.1:8000/a", "http://127.0.0.1:22/b", false),
        ("http://nas:8000/a", "http://nas:8001/b", false),
        (
            "http://127.0.0.1:8000/a",
            "http://www.127.0.0.1.nip.example:8000/b",
            false,
        ),
    ] {
        assert_eq!(
            hosts(named).contain(&asked.parse().unwrap()),
            right,
            "{named} {asked}"
        );
    }
}

const CHILD: &str = "REFLASH_TEST_NAMES_LEAD_HOME";

/// The child of the next test: for it `downloads.vendor.example` is this machine.
#[tokio::test]
async fn child_asks_for_a_name_that_leads_home() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let site = serve(|_| answer("200 OK", &[], &mbin(1))).await;
    let url = |host: &str| -> Url { format!("http://{host}:{}/", site.address.port()).parse().unwrap() };
    for host in ["downloads.vendor.example", "DOWNLOADS.vendor.example."] {
        let fetched = fetch_by(&Fetcher::new(limits()), &url(host), None).await;
        assert!(matches!(fetched, Err(FetchError::Private { .. })), "{fetched:?}");
    }
    assert_eq!(site.asked(), [] as [String; 0]);
    // It would have come through by a name that means this machine.
    let fetched = fetch_by(&Fetcher::new(limits()), &url("localhost"), None).await;
    assert!(matches!(fetched, Err(FetchError::NoName { .. })), "{fetched:?}");
    println!("was a child");
}

/// T22: whoever answers for the vendor's name cannot send us to an address of the home.
#[test]
fn a_name_that_leads_home_reaches_nobody() {
    let hosts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        hosts.path(),
        "127.0.0.1 localhost\n127.0.0.1 downloads.vendor.example\n",
    )
    .unwrap();
    let inside = |script: &str| {
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(hosts.path());
        command
    };
    let mount = "mount --bind \"$0\" /etc/hosts";
    if !inside(mount).output().is_ok_and(|output| output.status.success()) {
        println!("skipped: no permission to give names another meaning here");
        return;
    }
    let output = inside(&format!("{mount} && exec \"$@\""))
        .arg(std::env::current_exe().unwrap())
        .args(["child_asks_for_a_name_that_leads_home", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("was a child"), "{said}");
}

#[test]
fn a_vendors_name_never_leads_into_the_home() {
    let check = |url: &str, addresses: &[&str], right: bool| {
        let url: Url = url.parse().unwrap();
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        assert_eq!(judge(&url.host().unwrap(), addresses).is_ok(), right, "{url}");
    };
    for address in [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "198.18.0.1",
        "192.0.2.1",
        "::1",
        "::",
        "fe80::1",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2001:db8::1",
        "2001::1",
    ] {
        check("https://www.komfovent.com/", &[address], false);
        check("https://www.komfovent.com/", &["81.7.100.1", address], false);
    }
    check(
        "https://www.komfovent.com/",
        &["81.7.100.1", "2a00:1450::1"],
        true,
    );
    // Its owner has named a host in the home: then that is right, but a name still does not lead to this machine.
    check("http://192.168.1.5/", &["192.168.1.5"], true);
    check("http://127.0.0.1/", &["127.0.0.1"], true);
    check("http://nas.local/", &["192.168.1.5"], true);
    check("http://nas/", &["192.168.1.5"], true);
    check("http://nas.local/", &["127.0.0.1"], false);
    check("http://nas.local/", &["169.254.169.254"], false);
    check("http://localhost/", &["127.0.0.1"], true);
}

#[test]
fn https_is_tried_first_and_http_only_where_it_is_written() {
    let urls = |url: &str| -> Vec<String> {
        attempts(&url.parse().unwrap())
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(urls("https://a.example/x?y"), ["https://a.example/x?y"]);
    assert_eq!(
        urls("http://a.example/x?y"),
        ["https://a.example/x?y", "http://a.example/x?y"]
    );
    assert_eq!(urls("http://127.0.0.1:8080/x"), ["http://127.0.0.1:8080/x"]);
}
