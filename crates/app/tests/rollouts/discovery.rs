//! Devices as Home Assistant finds them at a real broker: announced, commanded, corrected, and taken away.

use std::collections::BTreeMap;
use std::time::Duration;

use net::mqtt::{Broker, Bus, Incoming, Listening, Outgoing, Weight};
use serde_json::{Value, json};
use sim::EventKind;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::broker::Mosquitto;
use crate::home::{Home, SOON};

/// How long nothing must happen before it counts as nothing: several times the pace at which devices are looked through.
const NOTHING_FOR: Duration = Duration::from_secs(3);
const AVAILABILITY: &str = "reflash/bridge/availability";

/// Somebody else at the broker: knows all that is retained there of us, and all that came.
struct Watcher {
    bus: Bus,
    listening: Listening,
    kept: BTreeMap<String, String>,
    came: Vec<Incoming>,
    _tasks: JoinSet<()>,
}

impl Watcher {
    async fn new(broker: &Mosquitto) -> Self {
        let broker = Broker::at(&format!("mqtt://{}", broker.address())).unwrap();
        let (bus, keep) = Bus::new(&broker, "watcher/availability");
        let mut tasks = JoinSet::new();
        tasks.spawn(keep);
        let topics = ["reflash/#", "homeassistant/#"].map(str::to_owned);
        let mut listening = bus.listen(&topics);
        assert!(bus.connected(SOON).await && listening.ready(SOON).await);
        Self {
            bus,
            listening,
            kept: BTreeMap::new(),
            came: Vec::new(),
            _tasks: tasks,
        }
    }

    fn take(&mut self, message: Incoming) {
        let payload = String::from_utf8(message.payload.clone()).unwrap();
        // Commands are ours and not retained.
        if !message.topic.ends_with("/set") {
            if payload.is_empty() {
                self.kept.remove(&message.topic);
            } else {
                self.kept.insert(message.topic.clone(), payload);
            }
        }
        self.came.push(message);
    }

    /// Waits until what is retained fits.
    #[track_caller]
    fn until<'a>(
        &'a mut self,
        home: &'a Home,
        what: &'a str,
        fits: impl Fn(&Self) -> bool + 'a,
    ) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let deadline = Instant::now() + SOON;
            while !fits(self) {
                let left = deadline.saturating_duration_since(Instant::now());
                match timeout(left, self.listening.next()).await {
                    Ok(message) => self.take(message),
                    Err(late) => panic!(
                        "{caller}: never {what}, {late}: {:#?}\n{}",
                        self.kept,
                        home.told()
                    ),
                }
            }
        }
    }

    /// Takes in what comes while nothing is to happen.
    async fn for_a_while(&mut self) {
        let until = Instant::now() + NOTHING_FOR;
        while let Ok(message) = timeout(
            until.saturating_duration_since(Instant::now()),
            self.listening.next(),
        )
        .await
        {
            self.take(message);
        }
    }

    fn update(&self, home: &Home, idx: usize) -> Value {
        let said = self.kept.get(&format!("reflash/{}/update", home.key(idx)));
        said.map_or(Value::Null, |said| serde_json::from_str(said).unwrap())
    }

    fn n_came(&self, topic: &str) -> usize {
        self.came.iter().filter(|message| message.topic == topic).count()
    }

    /// What is retained of our devices.
    fn of_devices(&self) -> Vec<&String> {
        self.kept.keys().filter(|topic| *topic != AVAILABILITY).collect()
    }

    fn send(&self, topic: &str, payload: &str, retain: bool) {
        let sent = self.bus.publish(Outgoing {
            topic: topic.to_owned(),
            payload: payload.as_bytes().to_vec(),
            retain,
            weight: Weight::Result,
        });
        assert!(sent);
    }
}

fn config_of(home: &Home, idx: usize) -> String {
    format!("homeassistant/device/reflash_{}/config", home.key(idx))
}

async fn home(broker: &Mosquitto, n_devices: usize, bytes_per_s: Option<u32>, more: &str) -> Home {
    let address = broker.address();
    Home::with(n_devices, |plan| {
        plan.device.rate_bytes_per_s = bytes_per_s;
        plan.device.boot = Duration::from_millis(300);
        plan.more = format!("mqtt: {{ broker: \"mqtt://{address}\"{more} }}\n");
    })
    .await
}

#[track_caller]
fn check_strict(said: &Value) {
    const KEYS: [&str; 6] = [
        "installed_version",
        "latest_version",
        "title",
        "release_summary",
        "in_progress",
        "update_percentage",
    ];
    for key in said.as_object().unwrap().keys() {
        assert!(KEYS.contains(&key.as_str()), "{key} in {said}");
    }
}

/// Announced, installed by a command, said again at a birth, and gone with the server by the broker's will.
pub(crate) async fn from_the_offer_to_the_end() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let mut home = home(&broker, 1, Some(60_000), ", discovery: true, commands: true").await;
    let mut watcher = Watcher::new(&broker).await;
    let config = config_of(&home, 0);
    watcher
        .until(&home, "announced", |watcher| watcher.kept.contains_key(&config))
        .await;
    let said: Value = serde_json::from_str(&watcher.kept[&config]).unwrap();
    assert_eq!(said["dev"]["name"], "Room 0");
    assert_eq!(said["cmps"]["update"]["payload_install"], "install");
    assert_eq!(said["cmps"]["update"]["avty_t"], AVAILABILITY);
    home.firmware(Some("1.1"), 1);
    let key = home.key(0);
    let is_offered = |watcher: &Watcher, home: &Home| watcher.update(home, 0)["latest_version"] == "1.1";
    watcher
        .until(&home, "offered", |watcher| is_offered(watcher, &home))
        .await;
    let mut now = watcher.update(&home, 0);
    assert_eq!(
        (&now["installed_version"], &now["in_progress"]),
        (&json!("1.0"), &json!(false))
    );

    let n_configs = watcher.n_came(&config);
    watcher.send("homeassistant/status", "online", false);
    watcher
        .until(&home, "said again", |watcher| watcher.n_came(&config) > n_configs)
        .await;

    watcher.send(&format!("reflash/{key}/update/set"), "install", false);
    watcher
        .until(&home, "how far it is", |watcher| {
            watcher.update(&home, 0)["update_percentage"].is_u64()
        })
        .await;
    now = watcher.update(&home, 0);
    assert_eq!(now["in_progress"], true);
    watcher
        .until(&home, "installed", |watcher| {
            let now = watcher.update(&home, 0);
            now["installed_version"] == "1.1" && now["in_progress"] == false
        })
        .await;
    assert_eq!(home.n_pushes(0), 1);
    for message in watcher
        .came
        .iter()
        .filter(|message| message.topic.ends_with("/update"))
    {
        check_strict(&serde_json::from_slice(&message.payload).unwrap());
    }
    let audited = home.get("audit?limit=1000").to_string();
    assert!(audited.contains("\"mqtt\""), "{audited}");

    watcher
        .until(&home, "online", |watcher| watcher.kept[AVAILABILITY] == "online")
        .await;
    home.kill();
    watcher
        .until(&home, "offline", |watcher| {
            watcher.kept[AVAILABILITY] == "offline"
        })
        .await;
}

/// Killed in mid-push, what is retained says that it goes on; the next server corrects that.
pub(crate) async fn never_in_progress_for_ever() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let mut home = home(&broker, 1, Some(60_000), ", discovery: true").await;
    let mut watcher = Watcher::new(&broker).await;
    home.firmware(Some("1.1"), 1);
    let rollout = home.roll_out(&json!({}));
    home.wait(0, 0, EventKind::Receiving).await;
    watcher
        .until(&home, "in progress", |watcher| {
            watcher.update(&home, 0)["in_progress"] == true
        })
        .await;
    home.kill();
    let mut later = Watcher::new(&broker).await;
    later
        .until(&home, "retained", |later| {
            later.update(&home, 0)["in_progress"] == true
        })
        .await;
    home.start().await;
    home.until(rollout, "over", |rollout| rollout["state"] == "finished")
        .await;
    later
        .until(&home, "corrected", |later| {
            later.update(&home, 0)["in_progress"] == false
        })
        .await;
    // And while nobody works on it, the next start says so by itself.
    home.kill();
    let topic = format!("reflash/{}/update", home.key(0));
    let stale = json!({ "installed_version": "1.0", "latest_version": "1.1", "in_progress": true, "update_percentage": 57 });
    later.send(&topic, &stale.to_string(), true);
    later
        .until(&home, "stale", |later| {
            later.update(&home, 0)["update_percentage"] == 57
        })
        .await;
    home.start().await;
    later
        .until(&home, "corrected", |later| {
            later.update(&home, 0)["in_progress"] == false
        })
        .await;
}

/// Without a word in the configuration nothing is announced and nothing obeyed; and so it is again when the word is taken back.
pub(crate) async fn off_by_default() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let mut home = home(&broker, 1, None, "").await;
    let mut watcher = Watcher::new(&broker).await;
    watcher
        .until(&home, "online", |watcher| {
            watcher.kept.get(AVAILABILITY).is_some_and(|is| is == "online")
        })
        .await;
    home.firmware(Some("1.1"), 1);
    watcher.send("homeassistant/status", "online", false);
    watcher.send(&format!("reflash/{}/update/set", home.key(0)), "install", false);
    watcher.for_a_while().await;
    watcher.kept.remove("homeassistant/status");
    assert!(watcher.of_devices().is_empty(), "{:?}", watcher.of_devices());
    home.is_untouched(0);

    // Announced without commands: a command does nothing, and the announcement has none.
    let path = home.folder().join("reflash.yaml");
    let off = std::fs::read_to_string(&path).unwrap();
    let on = off.replace(&broker.address(), "BROKER").replace(
        "mqtt: { broker: \"mqtt://BROKER\" }",
        "mqtt: { broker: \"mqtt://BROKER\", discovery: true }",
    );
    assert_ne!(on, off);
    home.terminate().await;
    std::fs::write(&path, on.replace("BROKER", &broker.address())).unwrap();
    home.start().await;
    let config = config_of(&home, 0);
    watcher
        .until(&home, "announced", |watcher| watcher.kept.contains_key(&config))
        .await;
    assert!(
        !watcher.kept[&config].contains("cmd_t"),
        "{}",
        watcher.kept[&config]
    );
    watcher.send(&format!("reflash/{}/update/set", home.key(0)), "install", false);
    watcher.for_a_while().await;
    home.is_untouched(0);

    // Switched off while the server was away: taken away at the next start.
    home.kill();
    std::fs::write(&path, off).unwrap();
    home.start().await;
    watcher
        .until(&home, "taken away", |watcher| !watcher.kept.contains_key(&config))
        .await;
    watcher.for_a_while().await;
    watcher.kept.remove("homeassistant/status");
    assert!(watcher.of_devices().is_empty(), "{:?}", watcher.of_devices());
}

/// A device that an entry shows is nowhere at the broker, takes no command, and comes back with the end of the entry.
pub(crate) async fn a_device_that_an_entry_shows() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let mut home = home(&broker, 2, None, ", discovery: true, commands: true").await;
    home.firmware(Some("1.1"), 1);
    let mut watcher = Watcher::new(&broker).await;
    let configs = [config_of(&home, 0), config_of(&home, 1)];
    watcher
        .until(&home, "announced", |watcher| {
            configs.iter().all(|config| watcher.kept.contains_key(config))
        })
        .await;
    home.put("home-assistant/entry1", &json!({ "devices": [home.key(0)] }))
        .is(204);
    let own = home.key(0);
    watcher
        .until(&home, "taken away", |watcher| {
            !watcher.kept.keys().any(|topic| topic.contains(&own))
        })
        .await;
    assert!(watcher.kept.contains_key(&configs[1]));
    watcher.send(&format!("reflash/{own}/update/set"), "install", false);
    watcher.for_a_while().await;
    home.is_untouched(0);
    // Whoever comes later sees nothing of it either, also after a kill.
    home.kill();
    home.start().await;
    home.until_device(0, "online", |device| device["state"] == "online")
        .await;
    let mut later = Watcher::new(&broker).await;
    later.for_a_while().await;
    assert!(
        !later.kept.keys().any(|topic| topic.contains(&own)),
        "{:#?}",
        later.kept
    );
    assert!(later.kept.contains_key(&configs[1]));
    home.delete("home-assistant/entry1").is(204);
    later
        .until(&home, "announced again", |later| {
            later.kept.contains_key(&configs[0])
        })
        .await;
}

/// What is no command of ours, or was retained, or is for nobody, does nothing.
pub(crate) async fn forged_commands() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let mut home = home(&broker, 2, None, ", discovery: true, commands: true").await;
    home.firmware(Some("1.1"), 1);
    let mut watcher = Watcher::new(&broker).await;
    let (first, second) = (home.key(0), home.key(1));
    let config = config_of(&home, 0);
    watcher
        .until(&home, "announced", |watcher| watcher.kept.contains_key(&config))
        .await;
    // The broker hands on at the start what it had kept: nobody presses a button at that moment.
    home.terminate().await;
    watcher.send(&format!("reflash/{first}/update/set"), "install", true);
    home.start().await;
    home.until_device(0, "offered", |device| device["offered"] == true)
        .await;
    for (topic, payload) in [
        (format!("reflash/{first}/update/set"), "INSTALL"),
        (
            format!("reflash/{first}/update/set"),
            "{\"firmware\":\"/etc/passwd\"}",
        ),
        (format!("reflash/{first}/rollback/set"), "install"),
        (format!("reflash/{first}/ota/set"), "maybe"),
        (format!("reflash/{first}/erase/set"), "install"),
        // Names and addresses are no ids.
        ("reflash/Room 0/update/set".to_owned(), "install"),
        (format!("reflash/{}/update/set", home.devices[0].ip()), "install"),
        (format!("reflash/{}/update/set", &first[..8]), "install"),
        ("reflash/nobody/update/set".to_owned(), "install"),
        (format!("reflash/{first}/x/update/set"), "install"),
    ] {
        watcher.send(&topic, payload, false);
    }
    watcher.for_a_while().await;
    for idx in [0, 1] {
        home.is_untouched(idx);
    }
    assert_eq!(home.get("rollouts").as_array().map(Vec::len), Some(0));
    // And one that is ours does what it says.
    watcher.send(&format!("reflash/{second}/update/set"), "install", false);
    watcher
        .until(&home, "installed", |watcher| {
            watcher.update(&home, 1)["installed_version"] == "1.1"
        })
        .await;
    home.is_untouched(0);
}
