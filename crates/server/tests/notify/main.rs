//! Telling a web hook and a broker over real sockets: what arrives, what is tried again, and what nobody may ever see.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests, and say what they leave out"
)]

mod bed;
#[path = "../../../net/tests/common/mod.rs"]
mod common;
mod receiver;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bed::{Bed, hook};
use net::mqtt::{Broker, Bus};
use receiver::{Mode, PATIENCE, Receiver};
use server::config::Form;
use server::notify::Settings;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const SECRET: &str = "cAnArY-of-the-secret";

/// Waits until this is so.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < deadline, "{caller}: never {what}");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_arrives_signed_and_in_the_promised_form() {
    let receiver = Receiver::well();
    let bed = Bed::start(hook(&receiver.url(), Some(SECRET))).await;
    bed.halts(7).await;
    let got = receiver.until(1).await.remove(0);
    let message = got.json();
    assert_eq!(
        (&message["kind"], &message["rollout"]),
        (&"halted".into(), &7.into())
    );
    let keys: BTreeSet<_> = message.as_object().unwrap().keys().map(String::as_str).collect();
    let promised = [
        "id",
        "kind",
        "title",
        "text",
        "devices",
        "n_devices",
        "rollout",
        "at",
    ];
    assert_eq!(keys, BTreeSet::from(promised));
    assert_eq!(got.header("Content-Type"), Some("application/json"));
    assert_eq!(got.header("X-Reflash-Id"), message["id"].as_str());
    assert!(got.is_signed_by(SECRET) && !got.is_signed_by("another"));
    let mut changed = got.clone();
    changed.body[10] ^= 1;
    assert!(!changed.is_signed_by(SECRET));
    assert!(got.head.starts_with("POST /hook HTTP/1.1\r\n"), "{}", got.head);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_of_plain_text_gets_the_sentences_and_their_title() {
    let receiver = Receiver::well();
    let mut settings = hook(&receiver.url(), None);
    settings.notify.webhook.as_mut().unwrap().form = Form::Text;
    let bed = Bed::start(settings).await;
    bed.halts(7).await;
    let got = receiver.until(1).await.remove(0);
    let text = String::from_utf8(got.body.clone()).unwrap();
    assert!(
        text.starts_with("Rollout 7 has halted. Too much has failed."),
        "{text}"
    );
    assert_eq!(got.header("Title"), Some("Rollout 7 has halted"));
    assert_eq!(got.header("X-Reflash-Signature"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_tells_nothing_twice_and_forgets_nothing() {
    let receiver = Receiver::well();
    let settings = hook(&receiver.url(), None);
    let mut bed = Bed::start(settings.clone()).await;
    bed.halts(1).await;
    receiver.until(1).await;
    until("stored as sent", || {
        bed.metrics
            .render(&bed.fleet)
            .contains("notifications_waiting{receiver=\"webhook\"} 0")
    })
    .await;
    bed.stop().await;
    // What happens while nobody is there is told by the next one.
    bed.halts(2).await;
    bed.go_on(settings.clone()).await;
    receiver.until(2).await;
    until("stored as sent", || {
        bed.metrics
            .render(&bed.fleet)
            .contains("notifications_waiting{receiver=\"webhook\"} 0")
    })
    .await;
    bed.stop().await;
    // Nobody took it in time: it is sent again, by the same name.
    receiver.behave(Mode::Hangs);
    bed.go_on(settings.clone()).await;
    bed.halts(3).await;
    receiver.until(3).await;
    bed.stop().await;
    receiver.behave(Mode::Says(204, String::new()));
    bed.go_on(settings).await;
    receiver.until(4).await;
    bed.halts(4).await;
    let got = receiver.until(5).await;
    let rollouts: Vec<_> = got
        .iter()
        .map(|got| got.json()["rollout"].as_i64().unwrap())
        .collect();
    assert_eq!(rollouts, [1, 2, 3, 3, 4]);
    assert_eq!(got[2].json(), got[3].json());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happened_before_anybody_was_told_stays_untold() {
    let receiver = Receiver::well();
    let mut bed = Bed::start(hook(&receiver.url(), None)).await;
    // Nobody is told for a while, over a restart.
    bed.notifier.apply(Settings::default());
    let deadline = Instant::now() + PATIENCE;
    while bed.store.setting("notify").await.unwrap().is_some() {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(10)).await;
    }
    bed.stop().await;
    bed.halts(1).await;
    bed.go_on(hook(&receiver.url(), None)).await;
    bed.halts(2).await;
    let got = receiver.until(1).await;
    assert_eq!(got[0].json()["rollout"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_hangs_holds_up_nothing_and_gets_everything_in_order() {
    let receiver = Receiver::start(Mode::Hangs);
    let mut settings = hook(&receiver.url(), None);
    settings.pace.deadline = Duration::from_millis(500);
    settings.pace.pauses = [Duration::from_millis(50); 4];
    settings.pace.now_and_then = Duration::from_millis(50);
    let bed = Bed::start(settings).await;
    for id in 1..=5 {
        let began = Instant::now();
        bed.halts(id).await;
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "an event waits for a receiver"
        );
    }
    receiver.until(3).await;
    until("told of the trouble", || !bed.notifier.troubles().is_empty()).await;
    let trouble = bed.notifier.troubles().remove(0);
    assert_eq!(trouble.rule, "webhook");
    assert!(
        trouble
            .text
            .contains("it has not answered within 0.5 s. 5 messages wait"),
        "{trouble:?}"
    );
    receiver.behave(Mode::Says(200, String::new()));
    until("all of them sent", || {
        bed.metrics
            .render(&bed.fleet)
            .contains("reflash_notifications_total{receiver=\"webhook\",result=\"sent\"} 5")
    })
    .await;
    let got = receiver.got();
    let last: Vec<_> = got[got.len() - 5..]
        .iter()
        .map(|got| got.json()["rollout"].as_i64().unwrap())
        .collect();
    assert_eq!(last, [1, 2, 3, 4, 5]);
    assert_eq!(bed.notifier.troubles(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_five_errors_its_owner_is_told_and_the_message_is_kept() {
    let receiver = Receiver::start(Mode::Says(500, "out of order".to_owned()));
    let bed = Bed::start(hook(&receiver.url(), Some(SECRET))).await;
    bed.halts(1).await;
    receiver.until(5).await;
    until("told of the trouble", || !bed.notifier.troubles().is_empty()).await;
    let trouble = bed.notifier.troubles().remove(0).text;
    let place = format!("http://{}", receiver.address);
    assert!(
        trouble.starts_with(&format!(
            "The web hook at {place} takes no messages: it answers HTTP 500. One message waits"
        )),
        "{trouble}"
    );
    let metrics = bed.metrics.render(&bed.fleet);
    assert!(
        metrics.contains("reflash_notifications_total{receiver=\"webhook\",result=\"failed\"} 5"),
        "{metrics}"
    );
    assert!(
        metrics.contains("reflash_notifications_waiting{receiver=\"webhook\"} 1"),
        "{metrics}"
    );
    // It is mended, and a test says so: what waits follows.
    receiver.behave(Mode::Says(200, String::new()));
    let tested = bed.notifier.test().await.unwrap();
    assert!(tested.ok, "{tested:?}");
    let got = receiver.until(7).await;
    assert_eq!(
        (&got[5].json()["kind"], &got[6].json()["kind"]),
        (&"test".into(), &"halted".into())
    );
    until("no trouble", || bed.notifier.troubles().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_leads_nowhere() {
    let elsewhere = Receiver::well();
    let receiver = Receiver::start(Mode::Redirects(elsewhere.url()));
    let bed = Bed::start(hook(&receiver.url(), Some(SECRET))).await;
    bed.halts(1).await;
    receiver.until(5).await;
    until("told of the trouble", || !bed.notifier.troubles().is_empty()).await;
    assert!(
        bed.notifier.troubles()[0]
            .text
            .contains("HTTP 302, which sends us somewhere else")
    );
    assert_eq!(elsewhere.got().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_a_receiver_cannot_read_does_not_keep_the_others() {
    let receiver = Receiver::start(Mode::Says(400, String::new()));
    let bed = Bed::start(hook(&receiver.url(), None)).await;
    bed.halts(1).await;
    receiver.until(5).await;
    until("given up", || {
        bed.notifier
            .troubles()
            .iter()
            .any(|trouble| trouble.rule == "messages-lost")
    })
    .await;
    receiver.behave(Mode::Says(200, String::new()));
    bed.halts(2).await;
    let got = receiver.until(6).await;
    assert_eq!(got[5].json()["rollout"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_secret_and_another_address_take_effect_at_once() {
    let (first, second) = (Receiver::start(Mode::Says(500, String::new())), Receiver::well());
    let mut settings = hook(&first.url(), Some("one"));
    settings.pace.pauses = [Duration::from_hours(1); 4];
    let bed = Bed::start(settings.clone()).await;
    bed.halts(1).await;
    first.until(1).await;
    bed.notifier.apply(hook(&second.url(), Some("two")));
    let got = second.until(1).await;
    assert!(got[0].is_signed_by("two") && !got[0].is_signed_by("one"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_address_is_not_held_up_by_what_the_old_one_says_later() {
    let (first, second) = (Receiver::start(Mode::Hangs), Receiver::well());
    let mut settings = hook(&first.url(), None);
    settings.pace.pauses = [Duration::from_hours(1); 4];
    let bed = Bed::start(settings).await;
    bed.halts(1).await;
    first.until(1).await;
    bed.notifier.apply(hook(&second.url(), None));
    first.behave(Mode::Says(500, String::new()));
    second.until(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_failures_is_two_messages() {
    let receiver = Receiver::well();
    let mut settings = hook(&receiver.url(), None);
    settings.notify.digest = Duration::from_secs(3);
    let bed = Bed::start(settings).await;
    bed.fails("d0").await;
    receiver.until(1).await;
    for n in 1..50 {
        bed.fails(&format!("d{n}")).await;
    }
    let got = receiver.until(2).await;
    let told: usize = got
        .iter()
        .map(|got| usize::try_from(got.json()["n_devices"].as_u64().unwrap()).unwrap())
        .sum();
    assert!(told <= 50 && got.len() == 2, "{got:#?}");
    assert_eq!(got[0].json()["devices"][0]["id"], "d0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_says_what_came_back_and_no_secret() {
    let receiver = Receiver::start(Mode::Says(
        200,
        format!("thanks for {SECRET} at /hook/ToKeN-CaNaRy?key=QuErY-CaNaRy"),
    ));
    let url = format!("http://{}/hook/ToKeN-CaNaRy?key=QuErY-CaNaRy", receiver.address);
    let settings = hook(&url, Some(SECRET));
    let bed = Bed::start(settings.clone()).await;
    let tested = bed.notifier.test().await.unwrap();
    assert_eq!(
        tested.receivers[0].text,
        "It answers HTTP 200: thanks for … at /hook/…?…"
    );
    receiver.behave(Mode::Says(403, SECRET.to_owned()));
    let refused = bed.notifier.test().await.unwrap();
    assert!(
        !refused.ok && refused.receivers[0].text == "It answers HTTP 403.",
        "{refused:?}"
    );
    bed.halts(1).await;
    receiver.until(7).await;
    until("told of the trouble", || !bed.notifier.troubles().is_empty()).await;
    // RELIABILITY.md T30.
    let outputs = [
        format!("{settings:?}"),
        format!("{tested:?} {refused:?}"),
        format!("{:?}", bed.notifier.troubles()),
        bed.metrics.render(&bed.fleet),
        bed.store.setting("notify").await.unwrap().unwrap().to_string(),
    ];
    for output in outputs {
        assert!(!output.to_lowercase().contains("canary"), "{output}");
    }
    let files = std::fs::read_dir(bed.path())
        .unwrap()
        .map(|file| file.unwrap().path());
    for file in files.filter(|path| path.is_file()) {
        let bytes = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).to_lowercase();
        assert!(!bytes.contains("canary"), "{}", file.display());
    }
    let nobody = Bed::start(hook(&receiver.url(), None)).await;
    nobody.notifier.apply(Settings::default());
    assert!(nobody.notifier.test().await.is_err());
}

/// The program of the guide, word for word but for its last line, which takes any port and says which.
fn receiver_of_the_guide(secret: &str) -> Option<(Child, BufReader<std::process::ChildStdout>, u16)> {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide/notifications.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let (_, program) = guide.split_once("```python\n").unwrap();
    let (program, _) = program.split_once("```").unwrap();
    let serves = "HTTPServer((\"127.0.0.1\", 8000), Receiver).serve_forever()";
    assert!(program.contains(serves), "{program}");
    let any_port =
        "s = HTTPServer((\"127.0.0.1\", 0), Receiver); print(s.server_port, flush=True); s.serve_forever()";
    let started = Command::new("python3")
        .args(["-c", &program.replace(serves, any_port)])
        .env("SECRET", secret)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = started else {
        println!("skipped: python3 is not installed");
        return None;
    };
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut port = String::new();
    stdout.read_line(&mut port).unwrap();
    Some((child, stdout, port.trim().parse().unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_receiver_of_the_guide_takes_what_is_genuine_and_nothing_else() {
    let Some((mut child, mut stdout, port)) = receiver_of_the_guide(SECRET) else {
        return;
    };
    let url = format!("http://127.0.0.1:{port}/hook");
    let bed = Bed::start(hook(&url, Some(SECRET))).await;
    let genuine = bed.notifier.test().await.unwrap();
    bed.notifier.apply(hook(&url, Some("another")));
    let forged = bed.notifier.test().await.unwrap();
    bed.notifier.apply(hook(&url, None));
    let unsigned = bed.notifier.test().await.unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let mut said = String::new();
    stdout.read_line(&mut said).unwrap();
    assert!(said.starts_with("This is a test"), "{said}");
    assert_eq!((genuine.ok, forged.ok, unsigned.ok), (true, false, false));
    assert_eq!(forged.receivers[0].text, "It answers HTTP 403.");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_is_told_once_it_is_there_and_keeps_nothing() {
    let Some(mut mosquitto) = common::mosquitto::Mosquitto::start("allow_anonymous true") else {
        return;
    };
    let broker = Broker::at(&format!("mqtt://127.0.0.1:{}", mosquitto.port)).unwrap();
    let (bus, keep) = Bus::new(&broker, "reflash/bridge/availability");
    let mut tasks = JoinSet::new();
    tasks.spawn(keep);
    let mut settings = Settings {
        topic: "reflash/event".to_owned(),
        ..Settings::default()
    };
    settings.notify.mqtt = true;
    assert!(bus.connected(PATIENCE).await);
    let bed = Bed::with(settings, Some(bus.clone())).await;
    let mut listener = mosquitto.client("listener", &["reflash/event"]);
    bed.halts(1).await;
    let (topic, payload, _) = listener.hear();
    let message: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(
        (topic.as_str(), &message["rollout"]),
        ("reflash/event", &1.into())
    );
    let tested = bed.notifier.test().await.unwrap();
    assert_eq!(
        (tested.ok, tested.receivers[0].place.as_str()),
        (true, "reflash/event")
    );
    assert_eq!(
        serde_json::from_slice::<serde_json::Value>(&listener.hear().1).unwrap()["kind"],
        "test"
    );
    // Whoever comes later hears what happens from then on, and nothing that was kept.
    let mut late = mosquitto.client("late", &["reflash/event"]);
    bed.halts(2).await;
    let (_, payload, retained) = late.hear();
    assert!(!retained && serde_json::from_slice::<serde_json::Value>(&payload).unwrap()["rollout"] == 2);
    // It is away for a while (RELIABILITY.md F80).
    mosquitto.stop();
    until("seen as gone", || !bus.is_connected()).await;
    bed.halts(3).await;
    until("told of the trouble", || !bed.notifier.troubles().is_empty()).await;
    assert_eq!(bed.notifier.troubles()[0].rule, "notify-broker");
    // Whoever is to hear it must be there before it is told: the broker forgets everything.
    mosquitto.restart();
    until("sent", || {
        bed.metrics
            .render(&bed.fleet)
            .contains("reflash_notifications_total{receiver=\"mqtt\",result=\"sent\"} 3")
    })
    .await;
    assert_eq!(bed.notifier.troubles(), []);
}
