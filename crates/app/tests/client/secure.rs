//! Tokens and passwords: where they go, and where they never are.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::PrivateKeyDer;
use serde_json::json;

use crate::fake::Fake;
use crate::fleet::serve;
use crate::support::{Ended, reflash, run};

/// A secret that is nowhere else.
const CANARY: &str = "canary-91c2-KEEP-OUT";
const CANARY_ENV: &str = "REFLASH_TEST_CANARY";

#[track_caller]
fn keeps_the_secret(ended: &Ended) {
    assert!(!ended.stdout.contains(CANARY), "{}", ended.stdout);
    assert!(!ended.stderr.contains(CANARY), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_goes_to_the_server_and_nowhere_else() {
    let fake = Fake::start(serve);
    let file = fake.file("token", format!("{CANARY}\n").as_bytes());
    let by_file = |arguments: &[&str]| {
        let mut command = fake.command(arguments);
        command.arg("--token-file").arg(&file);
        command
    };
    let by_env = |arguments: &[&str]| {
        let mut command = fake.command(arguments);
        command.env("REFLASH_TOKEN", CANARY);
        command
    };
    for mut command in [
        by_file(&["device", "list"]),
        by_env(&["device", "list"]),
        by_env(&["device", "show", "nobody"]),
    ] {
        let ended = run({
            command.env("REFLASH_LOG", "trace");
            command
        })
        .await;
        assert!(
            ended.stderr.contains("TRACE") || ended.stderr.contains("DEBUG"),
            "the log was on"
        );
        keeps_the_secret(&ended);
        let asked = fake.take();
        assert_eq!(
            asked[0].header("authorization"),
            Some(format!("Bearer {CANARY}").as_str())
        );
    }
    // Without one, none is made up.
    run(fake.command(&["device", "list"])).await;
    assert_eq!(fake.take()[0].header("authorization"), None);
}

#[tokio::test]
async fn a_token_is_not_sent_where_others_could_read_it() {
    for (server, more, code) in [
        ("http://192.0.2.1:8927", &[][..], 64),
        ("http://reflash.example", &[], 64),
        ("ftp://127.0.0.1", &[], 64),
        ("http://user:secret@127.0.0.1", &[], 64),
        ("http://127.0.0.1:1", &["--ca", "x.pem"], 64),
        ("https://127.0.0.1:1", &["--ca", "no-such-file.pem"], 3),
        ("https://127.0.0.1:1", &["--ca", "Cargo.toml"], 1),
        ("https://127.0.0.1:1", &["--token-file", "no-such-file"], 3),
        // It may go there, and nobody is there.
        ("http://127.0.0.1:1", &[], 1),
    ] {
        let mut command = reflash(["device", "list", "--server", server]);
        command.args(more);
        if !more.contains(&"--token-file") {
            command.env("REFLASH_TOKEN", CANARY);
        }
        let ended = run(command).await;
        assert_eq!(ended.code, Some(code), "{server}: {ended:#?}");
        assert!(
            ended.took < Duration::from_secs(4),
            "{server}: nobody was asked: {ended:#?}"
        );
        assert!(ended.stderr.contains("next:"), "{server}: {ended:#?}");
        assert!(!ended.stderr.contains("secret@"), "{ended:#?}");
        keeps_the_secret(&ended);
    }
}

#[tokio::test]
async fn what_no_token_can_be_is_not_sent() {
    let mut command = reflash(["device", "list", "--server", "http://127.0.0.1:1"]);
    command.env("REFLASH_TOKEN", format!("{CANARY}\u{1}\n{CANARY}"));
    let ended = run(command).await;
    assert_eq!(ended.code, Some(64), "{ended:#?}");
    keeps_the_secret(&ended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_only_in_the_question() {
    let fake = Fake::start(serve);
    let file = fake.file("password", format!("{CANARY}\r\n").as_bytes());
    let file = file.to_str().unwrap();
    for (arguments, line, body) in [
        (
            &["device", "password", "living room ir", "--password-file", file][..],
            "PUT /devices/a0b1c2d3e4f5/password",
            json!({ "password": CANARY }),
        ),
        (
            &[
                "device",
                "password",
                "living room ir",
                "--password-env",
                CANARY_ENV,
                "--json",
            ],
            "PUT /devices/a0b1c2d3e4f5/password",
            json!({ "password": CANARY }),
        ),
        (
            &[
                "device",
                "add",
                "192.168.1.60",
                "--username",
                "user",
                "--password-env",
                CANARY_ENV,
            ],
            "POST /devices",
            json!({ "host": "192.168.1.60", "username": "user", "password": CANARY }),
        ),
    ] {
        let mut command = fake.command(arguments);
        command.env(CANARY_ENV, CANARY).env("REFLASH_LOG", "trace");
        let ended = run(command).await;
        assert_eq!(ended.code, Some(0), "{ended:#?}");
        keeps_the_secret(&ended);
        let asked = fake.take_changes();
        assert_eq!((asked[0].line().as_str(), asked[0].json()), (line, body));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_password_is_taken_as_an_argument_or_made_up() {
    let fake = Fake::start(serve);
    for (arguments, code) in [
        (&["device", "password", "living room ir"][..], 64),
        (&["device", "password", "living room ir", CANARY], 64),
        (
            &["device", "password", "living room ir", "--password", CANARY],
            64,
        ),
        (&["device", "add", "192.168.1.60", "--password", CANARY], 64),
        (&["device", "list", "--token", CANARY], 64),
        (
            &[
                "device",
                "password",
                "living room ir",
                "--password-env",
                "REFLASH_NO_SUCH_VARIABLE",
            ],
            3,
        ),
        (
            &[
                "device",
                "password",
                "living room ir",
                "--password-file",
                "no-such-file",
            ],
            3,
        ),
        (
            &[
                "device",
                "password",
                "living room ir",
                "--password-file",
                "/dev/null",
            ],
            64,
        ),
    ] {
        let ended = run(fake.command(arguments)).await;
        assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:#?}");
        assert!(fake.take_changes().is_empty(), "{arguments:?}");
    }
}

// ---- TLS

/// A server with a certificate that nobody has signed but itself; it answers with an empty list of devices.
struct Secured {
    url: String,
    fingerprint: String,
    certificate: PathBuf,
    folder: tempfile::TempDir,
}

impl Secured {
    fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let certificate = folder.path().join("server.pem");
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        let fingerprint = crate::support::sha256(made.cert.der());
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        #[expect(clippy::disallowed_methods, reason = "the fake server's own door")]
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                let mut connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut tls = rustls::Stream::new(&mut connection, &mut stream);
                let mut head = [0; 4096];
                // Those who do not trust us leave before they ask.
                if tls.read(&mut head).is_ok_and(|n| n > 0) {
                    let _ =
                        tls.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]");
                    tls.conn.send_close_notify();
                    let _ = tls.flush();
                }
            }
        });
        Self {
            url,
            fingerprint,
            certificate,
            folder,
        }
    }

    fn list(&self, more: &[&str]) -> Command {
        let mut command = reflash(["device", "list", "--json", "--server", &self.url]);
        command.args(more).env("REFLASH_TOKEN", CANARY);
        command
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_counts_only_if_its_owner_said_so() {
    let secured = Secured::start();
    let other = Secured::start();
    let certificate = secured.certificate.to_str().unwrap();
    let colons: Vec<String> = secured
        .fingerprint
        .as_bytes()
        .chunks(2)
        .map(|pair| String::from_utf8_lossy(pair).to_uppercase())
        .collect();
    for good in [
        &["--ca", certificate][..],
        &["--fingerprint", &secured.fingerprint],
        &["--fingerprint", &colons.join(":")],
    ] {
        let ended = run(secured.list(good)).await;
        assert_eq!(ended.code, Some(0), "{good:?}: {ended:#?}");
        assert_eq!(ended.json(), json!([]));
    }
    let empty = secured.folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    for bad in [
        &[][..],
        &["--ca", other.certificate.to_str().unwrap()],
        &["--fingerprint", &other.fingerprint],
        &["--ca", empty.to_str().unwrap()],
    ] {
        let ended = run(secured.list(bad)).await;
        assert_eq!(
            (ended.code, ended.stderr.as_str()),
            (Some(1), ""),
            "{bad:?}: {ended:#?}"
        );
        assert!(ended.json()["next_step"].is_string(), "{bad:?}");
        keeps_the_secret(&ended);
    }
    let ended = run(secured.list(&[])).await;
    let next_step = ended.json()["next_step"].as_str().unwrap().to_owned();
    assert!(next_step.contains("--fingerprint"), "{next_step}");
}
