//! The simulated devices of the demo, each with its part.

use std::net::Ipv4Addr;
use std::time::Duration;

use families::Ways;
use sim::ir_remote::{self, Config, Fault};
use sim::{EventSink, komfovent};

use super::DemoArguments;
use crate::error::{Exit, Trouble};

/// Length of the images, bytes: about 2 s at [`RATE_BYTES_PER_S`].
const IMAGE_LEN_BYTES: usize = 512 * 1024;
/// What the simulated flash takes: a fast device, so that nobody has to wait.
const RATE_BYTES_PER_S: u32 = 300_000;
/// How long the simulated devices boot.
const BOOT: Duration = Duration::from_millis(1_500);
/// What the devices run at first.
pub(super) const OLD_VERSION: &str = "1.0.0";
/// The version that the fleet is brought to.
pub(super) const NEW_VERSION: &str = "2.0.0";
/// The devices' password. It protects nothing: they live in this process.
const PASSWORD: &str = "demo-password";
/// How often a set of free ports is looked for.
const MAX_STARTS: u8 = 5;
/// The file for the ventilation units: what it brings them to, its name tells.
const UNIT_FILE: &str = "C6_1_5_46_72_P1_1_1_5_48.mbin";
/// Its length, bytes.
const UNIT_FILE_LEN_BYTES: usize = 300 * 1024;
/// What a simulated unit reads in a second: ten times a real one (INTERFACES.md section 1).
const UNIT_RATE_BYTES_PER_S: u32 = 200_000;
/// How long a simulated unit restarts (same).
const UNIT_RESTART: Duration = Duration::from_secs(5);
/// Where the first unit is; the others follow.
const FIRST_UNIT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 130);

/// What becomes of a device in the rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// It ends with this word.
    State(&'static str),
    /// The plan leaves it out by this rule.
    LeftOut(&'static str),
}

/// One device of the demo: what happens to it, and how it must end.
struct Role {
    name: &'static str,
    story: &'static str,
    chip: &'static str,
    faults: &'static [&'static str],
    password: &'static str,
    expected: Expected,
    part: Part,
}

/// What is done with a device besides being updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Nothing.
    Plain,
    /// It is rolled back in the end.
    GoesBack,
    /// It has no power when the rollout begins.
    Away,
}

/// The roles in order; further devices play the last one again.
const ROLES: [Role; 7] = [
    Role {
        name: "Living room",
        story: "goes first, and is rolled back in the end",
        chip: "esp32c6",
        faults: &[],
        password: PASSWORD,
        expected: Expected::State("updated"),
        part: Part::GoesBack,
    },
    Role {
        name: "Kitchen",
        story: "has no power, and comes back in the middle",
        chip: "esp32c6",
        faults: &[],
        password: PASSWORD,
        expected: Expected::State("updated"),
        part: Part::Away,
    },
    Role {
        name: "Bedroom",
        story: "its version label never changes",
        chip: "esp32c6",
        faults: &["label-unchanged"],
        password: PASSWORD,
        expected: Expected::State("updated-label-unchanged"),
        part: Part::Plain,
    },
    Role {
        name: "Garage",
        story: "its password is another one",
        chip: "esp32c6",
        faults: &[],
        password: "somebody changed it",
        expected: Expected::State("refused"),
        part: Part::Plain,
    },
    Role {
        name: "Attic",
        story: "its Wi-Fi breaks off once in the middle",
        chip: "esp32c6",
        faults: &["drop-once-after=200000"],
        password: PASSWORD,
        expected: Expected::State("updated"),
        part: Part::Plain,
    },
    Role {
        name: "Cellar",
        story: "it has another chip than the image",
        chip: "esp32",
        faults: &[],
        password: PASSWORD,
        expected: Expected::LeftOut("no-firmware"),
        part: Part::Plain,
    },
    Role {
        name: "Hall",
        story: "nothing special",
        chip: "esp32c6",
        faults: &[],
        password: PASSWORD,
        expected: Expected::State("updated"),
        part: Part::Plain,
    },
];

/// A simulated device with its part in the demo.
pub(super) struct Actor {
    pub(super) name: String,
    pub(super) story: &'static str,
    pub(super) expected: Expected,
    pub(super) part: Part,
    pub(super) address: Ipv4Addr,
    pub(super) ways: Ways,
    pub(super) username: Option<&'static str>,
    /// The password that its owner believes it has.
    pub(super) password: &'static str,
    /// Keeps it running; none while it has no power.
    device: Option<Running>,
    /// What it is made of, to give it power again.
    config: Option<Config>,
}

enum Running {
    IrRemote(#[expect(dead_code, reason = "it runs until this is dropped")] ir_remote::Device),
    Komfovent(#[expect(dead_code, reason = "it runs until this is dropped")] komfovent::Device),
}

impl Actor {
    /// The name of its family.
    pub(super) fn family(&self) -> &'static str {
        if self.config.is_some() {
            "ir-remote"
        } else {
            "komfovent"
        }
    }

    /// Pulls its plug.
    pub(super) fn unplug(&mut self) {
        self.device = None;
    }

    /// Gives it power again.
    pub(super) async fn plug_in(&mut self, events: &EventSink) -> Result<(), Trouble> {
        let Some(config) = self.config.clone() else {
            return Ok(());
        };
        let device = ir_remote::start(config, events.clone())
            .await
            .map_err(|error| not_started(&error))?;
        self.device = Some(Running::IrRemote(device));
        Ok(())
    }
}

/// The images of the demo, with their file names.
pub(super) struct Images {
    pub(super) old: (&'static str, Vec<u8>),
    pub(super) new: (&'static str, Vec<u8>),
    pub(super) unit: (&'static str, Vec<u8>),
}

impl Images {
    pub(super) fn of(seed: u8) -> Result<Self, Trouble> {
        let chip = "esp32c6".parse().map_err(|error| not_started(&error))?;
        let image = |version, seed| sim::firmware::image(chip, Some(version), IMAGE_LEN_BYTES, seed);
        Ok(Self {
            old: ("ir_remote_v1.0.0.bin", image(OLD_VERSION, seed.wrapping_add(1))),
            new: ("ir_remote_v2.0.0.bin", image(NEW_VERSION, seed)),
            unit: (UNIT_FILE, sim::firmware::mbin(UNIT_FILE_LEN_BYTES, seed)),
        })
    }
}

/// Starts the simulated devices; those of a family on the same free ports.
pub(super) async fn cast(arguments: &DemoArguments, events: &EventSink) -> Result<Vec<Actor>, Trouble> {
    let mut n_starts = 0;
    loop {
        n_starts += 1;
        match try_cast(arguments, events).await {
            Ok(actors) => return Ok(actors),
            // A port that is free at the first address may be taken at the next.
            Err(_) if n_starts < MAX_STARTS => {}
            Err(error) => return Err(not_started(&error)),
        }
    }
}

fn not_started(error: &anyhow::Error) -> Trouble {
    Trouble::new(
        Exit::Failed,
        format!("The simulated devices could not be started: {error:#}."),
        "The demo needs the addresses from 127.0.0.2 upwards, as Linux has them.",
    )
}

async fn try_cast(arguments: &DemoArguments, events: &EventSink) -> anyhow::Result<Vec<Actor>> {
    let mut actors: Vec<Actor> = Vec::new();
    for idx in 0..arguments.devices {
        let role = ROLES.get(usize::from(idx)).unwrap_or(&ROLES[ROLES.len() - 1]);
        let mut config = Config::new(Ipv4Addr::new(127, 0, 0, 2 + idx));
        config.ota_port = actors.first().map_or(0, |first| first.ways.ota_port);
        config.http_port = actors.first().map_or(0, |first| first.ways.http_port);
        config.password = Some(role.password.to_owned());
        config.chip = role.chip.parse()?;
        OLD_VERSION.clone_into(&mut config.version);
        config.rate_bytes_per_s = Some(RATE_BYTES_PER_S);
        config.boot = BOOT;
        config.faults = role
            .faults
            .iter()
            .map(|fault| Fault::parse(fault))
            .collect::<anyhow::Result<_>>()?;
        let n_extra = (usize::from(idx) + 1).saturating_sub(ROLES.len());
        let device = ir_remote::start(config.clone(), events.clone()).await?;
        config.ota_port = device.ota_port();
        config.http_port = device.http_port();
        actors.push(Actor {
            name: if n_extra == 0 {
                role.name.to_owned()
            } else {
                format!("{} {}", role.name, n_extra + 1)
            },
            story: role.story,
            expected: role.expected,
            part: role.part,
            address: device.ip(),
            ways: Ways {
                ota_port: device.ota_port(),
                http_port: device.http_port(),
                ..Ways::default()
            },
            username: None,
            password: PASSWORD,
            device: Some(Running::IrRemote(device)),
            config: Some(config),
        });
    }
    if arguments.komfovent > 0 {
        let mut config = komfovent::Config::new(FIRST_UNIT);
        config.rate_bytes_per_s = UNIT_RATE_BYTES_PER_S;
        config.restart = UNIT_RESTART;
        let units = komfovent::start_many(config, usize::from(arguments.komfovent), events.clone())?;
        for (idx, device) in units.into_iter().enumerate() {
            actors.push(Actor {
                name: if idx == 0 {
                    "Ventilation".to_owned()
                } else {
                    format!("Ventilation {}", idx + 1)
                },
                story: "a ventilation unit with controller and panel",
                expected: Expected::State("updated"),
                part: Part::Plain,
                address: device.ip(),
                ways: Ways {
                    http_port: device.http_port(),
                    modbus_port: device.modbus_port(),
                    ..Ways::default()
                },
                username: Some("user"),
                password: "user",
                device: Some(Running::Komfovent(device)),
                config: None,
            });
        }
    }
    Ok(actors)
}
