//! What a simulated unit can be told to do wrong.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::pages::{self, Language};

/// One way to misbehave; see [`Fault::list`]. A unit may have several at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Every password is wrong.
    WrongPassword,
    /// The upload is refused with this text in the status cell (none: the panel error seen in practice).
    ErrorStatus(Option<String>),
    /// The controller is flashed, the panel is not, and one status text says both.
    MixedStatus,
    /// The connection is reset at this percentage of each upload; nothing is flashed.
    CutAt(u8),
    /// The same for the first upload only.
    CutOnceAt(u8),
    /// The unit flashes and restarts, but its reply never arrives.
    ReplyLost,
    /// The unit reports success and comes back with the old versions.
    KeepsOld,
    /// The unit reports success for both, and the panel stays as it was.
    PanelNotUpdated,
    /// Uploads are read at this many bytes per second.
    Slow(u32),
    /// The restart takes this long.
    RestartLong(Duration),
    /// The unit does not come back after flashing.
    NeverReturns,
    /// After flashing the unit is at its factory address, and gone from its own.
    AddressReset,
    /// Modbus connections are accepted, requests are not answered.
    ModbusSilent,
    /// HTTP connections are accepted, requests are not answered.
    HttpSilent,
    /// The unit speaks another language; the structure of its texts stays.
    Localised(Language),
    /// After a wrong password the login page comes with its error text still hidden.
    HiddenError,
    /// Somebody else is logged in: a right login gets the login page until anybody logs out.
    SessionTaken,
    /// The silence while flashing takes this long.
    Stall(Duration),
    /// The settings page has no serial number.
    NoSerial,
}

/// Name, argument (empty = none, in brackets = may be left out), what happens.
type Entry = (&'static str, &'static str, &'static str);

const LIST: &[Entry] = &[
    ("wrong-password", "", "Every login is refused."),
    (
        "error-status",
        "[TEXT]",
        "The upload ends with an error status, or with TEXT, and nothing is flashed.",
    ),
    (
        "mixed-status",
        "",
        "One status says that the controller was flashed and the panel failed; only the controller is new.",
    ),
    (
        "cut-at",
        "PERCENT",
        "Every upload is reset at this share; nothing is flashed.",
    ),
    (
        "cut-once-at",
        "PERCENT",
        "The first upload is reset at this share; nothing is flashed.",
    ),
    (
        "reply-lost",
        "",
        "Flashes and restarts, but the reply never arrives.",
    ),
    (
        "keeps-old",
        "",
        "Reports success and comes back with the old versions.",
    ),
    (
        "panel-not-updated",
        "",
        "Reports success for both, and the panel keeps its old version.",
    ),
    ("slow", "BYTES_PER_S", "Reads uploads at this pace."),
    ("restart-long", "SECONDS", "The restart takes this long."),
    ("never-returns", "", "Stays away after flashing."),
    (
        "address-reset",
        "",
        "After flashing the unit is at 192.168.0.60, and gone from its own address.",
    ),
    (
        "modbus-silent",
        "",
        "Accepts Modbus connections and answers nothing.",
    ),
    ("http-silent", "", "Accepts HTTP connections and answers nothing."),
    (
        "localised",
        "[pl|lt]",
        "The texts are Polish (or Lithuanian); their structure stays.",
    ),
    (
        "hidden-error",
        "",
        "The login page after a wrong password looks as before: its error text stays hidden.",
    ),
    (
        "session-taken",
        "",
        "Another client is logged in: a right login gets the login page until somebody logs out.",
    ),
    ("stall", "SECONDS", "Stays silent for this long while flashing."),
    ("no-serial", "", "The settings page has no serial number."),
];

impl Fault {
    /// All faults: name, argument (empty = none, in brackets = may be left out), what happens in one sentence.
    pub fn list() -> &'static [Entry] {
        LIST
    }

    /// Reads `name` or `name=argument`.
    ///
    /// # Errors
    /// An unknown name, a missing, superfluous or unusable argument.
    pub fn parse(text: &str) -> Result<Self> {
        let (name, argument) = match text.split_once('=') {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, None),
        };
        let Some((_, shape, _)) = LIST.iter().find(|(known, ..)| *known == name) else {
            let known: Vec<&str> = LIST.iter().map(|(known, ..)| *known).collect();
            bail!("unknown fault {name:?} (known: {})", known.join(", "));
        };
        match argument {
            Some(_) if shape.is_empty() => bail!("fault {name} takes no argument"),
            None if !shape.is_empty() && !shape.starts_with('[') => {
                bail!("fault {name} needs an argument: {name}={shape}")
            }
            _ => {}
        }
        Self::from_parts(name, argument).with_context(|| format!("fault {text:?} (expected {name}={shape})"))
    }

    /// The fault of a name in [`LIST`] and an argument that it allows.
    fn from_parts(name: &str, argument: Option<&str>) -> Result<Self> {
        let word = argument.unwrap_or_default();
        Ok(match name {
            "wrong-password" => Self::WrongPassword,
            "error-status" => {
                ensure!(
                    pages::fits_status(word),
                    "the status cell holds 118 windows-1252 characters, no markup"
                );
                Self::ErrorStatus(argument.map(str::to_owned))
            }
            "mixed-status" => Self::MixedStatus,
            "cut-at" => Self::CutAt(percent(word)?),
            "cut-once-at" => Self::CutOnceAt(percent(word)?),
            "reply-lost" => Self::ReplyLost,
            "keeps-old" => Self::KeepsOld,
            "panel-not-updated" => Self::PanelNotUpdated,
            "slow" => match word.parse()? {
                0 => bail!("0 bytes/s never ends"),
                rate => Self::Slow(rate),
            },
            "restart-long" => Self::RestartLong(seconds(word)?),
            "never-returns" => Self::NeverReturns,
            "address-reset" => Self::AddressReset,
            "modbus-silent" => Self::ModbusSilent,
            "http-silent" => Self::HttpSilent,
            "localised" => Self::Localised(match argument {
                None | Some("pl") => Language::Polish,
                Some("lt") => Language::Lithuanian,
                Some(other) => bail!("no texts in {other:?}"),
            }),
            "hidden-error" => Self::HiddenError,
            "session-taken" => Self::SessionTaken,
            "stall" => Self::Stall(seconds(word)?),
            "no-serial" => Self::NoSerial,
            _ => bail!("fault {name:?} is listed but not known"),
        })
    }

    /// The name, without its argument.
    pub fn name(&self) -> &'static str {
        match self {
            Self::WrongPassword => "wrong-password",
            Self::ErrorStatus(_) => "error-status",
            Self::MixedStatus => "mixed-status",
            Self::CutAt(_) => "cut-at",
            Self::CutOnceAt(_) => "cut-once-at",
            Self::ReplyLost => "reply-lost",
            Self::KeepsOld => "keeps-old",
            Self::PanelNotUpdated => "panel-not-updated",
            Self::Slow(_) => "slow",
            Self::RestartLong(_) => "restart-long",
            Self::NeverReturns => "never-returns",
            Self::AddressReset => "address-reset",
            Self::ModbusSilent => "modbus-silent",
            Self::HttpSilent => "http-silent",
            Self::Localised(_) => "localised",
            Self::HiddenError => "hidden-error",
            Self::SessionTaken => "session-taken",
            Self::Stall(_) => "stall",
            Self::NoSerial => "no-serial",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn percent(text: &str) -> Result<u8> {
    let percent = text
        .parse()
        .with_context(|| format!("{text:?} is no percentage"))?;
    ensure!(percent <= 100, "{percent} % is more than all");
    Ok(percent)
}

fn seconds(text: &str) -> Result<Duration> {
    let seconds: f64 = text
        .parse()
        .with_context(|| format!("{text:?} is no number of seconds"))?;
    Duration::try_from_secs_f64(seconds).with_context(|| format!("{text:?} seconds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Arguments that fit a shape in the list.
    fn examples(shape: &str) -> Vec<&str> {
        match shape.trim_matches(['[', ']']) {
            "PERCENT" | "SECONDS" | "BYTES_PER_S" => vec!["42"],
            "TEXT" => vec!["Status: no"],
            choice => choice.split('|').collect(),
        }
    }

    #[test]
    fn every_listed_fault_parses_with_its_argument_and_only_so() {
        for (name, shape, sentence) in Fault::list() {
            assert!(sentence.ends_with('.'), "{name}: {sentence}");
            let takes_none = shape.is_empty() || shape.starts_with('[');
            assert_eq!(Fault::parse(name).is_ok(), takes_none, "{name}");
            if shape.is_empty() {
                assert_eq!(Fault::parse(name).unwrap().name(), *name);
                Fault::parse(&format!("{name}=1")).unwrap_err();
                continue;
            }
            for example in examples(shape) {
                assert_eq!(Fault::parse(&format!("{name}={example}")).unwrap().name(), *name);
            }
        }
    }

    #[test]
    fn arguments_arrive() {
        assert_eq!(Fault::parse("cut-at=37").unwrap(), Fault::CutAt(37));
        assert_eq!(Fault::parse("slow=5000").unwrap(), Fault::Slow(5000));
        assert_eq!(
            Fault::parse("stall=0.5").unwrap(),
            Fault::Stall(Duration::from_millis(500))
        );
        assert_eq!(
            Fault::parse("error-status=a=b").unwrap(),
            Fault::ErrorStatus(Some("a=b".into()))
        );
    }

    #[test]
    fn unknown_names_and_wrong_arguments_are_refused() {
        let too_long = format!("error-status={}", "x".repeat(119));
        for text in [
            "",
            "explodes",
            "cut-at",
            "cut-at=101",
            "cut-at=-1",
            "cut-at=half",
            "slow=0",
            "slow",
            "stall=-1",
            "stall=NaN",
            "restart-long",
            "keeps-old=1",
            "localised=xx",
            "error-status=日本",
            "error-status=</td>",
            &too_long,
        ] {
            assert!(Fault::parse(text).is_err(), "{text:?} was taken");
        }
    }
}
