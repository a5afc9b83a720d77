//! What can go wrong at a simulated device, by name.

use std::{fmt, net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, bail};

use crate::Mac;

/// A fault; see [`Fault::list`] for what each one does.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the sentence of each is in LIST, where users see it")]
pub enum Fault {
    WrongPassword,
    Silent,
    Dead,
    SwallowedInvitation,
    NoCallBack,
    DropAfter(u32),
    DropOnceAfter(u32),
    StallAt(u32),
    StallOnceAt(u32),
    RebootAt(u32),
    Md5CheckFailed,
    ErrorText(String),
    EarlyError(u32),
    OkLost,
    OkLostNoFlash,
    OkNoReboot,
    OkInErrorText,
    KeepsOld,
    LabelUnchanged,
    OtherVersion(String),
    NeverReturns,
    ReturnsButCrashes,
    CrashesOnce,
    OtherDeviceReturns,
    HttpFail,
    HttpReset,
    HttpEarlyError(u16),
    SlotTooSmall,
    Slow(u32),
    DuplicateChipId,
    NoStatusApi,
    NonsenseStatus(Nonsense),
    StatusHuge,
    StatusTruncated,
    StatusWrongTypes,
    StatusNotUtf8,
    StatusSlow,
    StatusRedirect(String),
    EndlessHeaders,
    MacClone(Mac),
    Announces(Ipv4Addr),
    MoveTo(Ipv4Addr, Duration),
    Vanish(Duration),
    Return(Duration),
    UptimeFrozen,
    OtaOff,
    OtaStaysOff(EnableAnswer),
    BadNonce(u16),
    DowngradeNonce,
    DropUdp(u64),
    DropAnswer(u64),
    LostAuthOk,
    SlowAuth(f64),
    SplitAcks,
    GluedAcks,
    NoWebUpdate,
    NoMqttTrigger,
    MqttSilent,
    MqttRejects(String),
    MqttNeverPulls,
    MqttPullsTwice,
    MqttWrongDigest,
    MqttOtherId,
    MqttNoFlash,
    MqttNoDone,
    MqttNonsenseProgress,
    MqttLostAt(u32),
}

/// What comes in place of a status page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nonsense {
    /// 16 MiB of valid JSON.
    Huge,
    /// Bytes that are no UTF-8.
    Binary,
    /// The right keys with values of wrong types.
    Types,
    /// A body that does not end.
    Endless,
    /// Status 200 and nothing.
    Empty,
    /// A page for people.
    Html,
}

/// How a device that will not switch OTA on answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnableAnswer {
    /// It says success.
    Success,
    /// It says HTTP 500.
    Error,
}

/// Where [`Fault::StatusRedirect`] leads without an argument: to whoever asks.
const REDIRECT: &str = "http://127.0.0.1/api/status";
/// Bytes a second of [`Fault::Slow`] without an argument. A matter of taste: a 1.25 MB image takes about a minute.
const SLOW_BYTES_PER_S: u32 = 20_000;

/// What [`Fault::MqttRejects`] says without an argument.
const REJECTION: &str = "not now";

/// Name, argument (empty = none, in brackets = may be left out), what happens.
type Entry = (&'static str, &'static str, &'static str);

const LIST: &[Entry] = &[
    ("wrong-password", "", "Every authentication answer is rejected."),
    ("silent", "", "The OTA port never answers; the web server works."),
    ("dead", "", "Nothing answers at all."),
    (
        "swallowed-invitation",
        "",
        "Starts as if an earlier handshake was abandoned: the first invitation gets no answer.",
    ),
    (
        "no-call-back",
        "",
        "Says OK to the invitation and never connects.",
    ),
    (
        "drop-after",
        "BYTES",
        "Resets the connection after so many image bytes, every time.",
    ),
    (
        "drop-once-after",
        "BYTES",
        "Resets the connection after so many image bytes, the first time only.",
    ),
    (
        "stall-at",
        "BYTES",
        "Stops reading after so many image bytes and drops the connection seconds later, every time.",
    ),
    (
        "stall-once-at",
        "BYTES",
        "Stops reading after so many image bytes and drops the connection seconds later, the first time only.",
    ),
    (
        "reboot-at",
        "BYTES",
        "Loses power after so many image bytes, every time, and returns with the old firmware.",
    ),
    (
        "md5-check-failed",
        "",
        "Says MD5 Check Failed at the end of every ArduinoOTA upload.",
    ),
    (
        "error-text",
        "TEXT",
        "Says TEXT instead of OK at the end, and does not flash.",
    ),
    (
        "early-error",
        "BYTES",
        "Says Flash Write Failed after so many image bytes, with bytes of the host unread (ArduinoOTA).",
    ),
    (
        "ok-lost",
        "",
        "Flashes and restarts, but the OK is lost in a reset.",
    ),
    (
        "ok-lost-no-flash",
        "",
        "Resets in place of the verdict; neither flashes nor restarts.",
    ),
    ("ok-no-reboot", "", "Says OK; neither flashes nor restarts."),
    (
        "ok-in-error-text",
        "",
        "Says an error text that ends in OK instead of OK, and does not flash.",
    ),
    ("keeps-old", "", "Says OK and restarts with the old firmware."),
    (
        "label-unchanged",
        "",
        "Flashes, but the version label never moves.",
    ),
    (
        "other-version",
        "VERSION",
        "Reports VERSION after a flash, whatever was flashed.",
    ),
    ("never-returns", "", "Says OK, restarts and is never seen again."),
    (
        "returns-but-crashes",
        "",
        "After a flash it restarts again every two seconds of uptime, until it is flashed once more without this fault.",
    ),
    (
        "crashes-once",
        "",
        "After a flash it restarts once more after two seconds of uptime.",
    ),
    (
        "other-device-returns",
        "",
        "After a flash another device (other MAC) answers at the address.",
    ),
    (
        "http-fail",
        "",
        "The web server says FAIL with status 200 after an upload, and restarts with the old firmware.",
    ),
    (
        "http-reset",
        "",
        "The web server resets right after the last byte of an upload; it has flashed and restarts.",
    ),
    (
        "http-early-error",
        "STATUS",
        "The web server answers with this status in the middle of an upload; nothing is flashed, no restart.",
    ),
    (
        "slot-too-small",
        "",
        "Authentication succeeds, then silence, as if the image did not fit.",
    ),
    (
        "slow",
        "[BYTES_PER_S]",
        "Writes its flash at this pace (20000 unless given).",
    ),
    (
        "duplicate-chip-id",
        "",
        "Reports the chip id that every device with this fault reports.",
    ),
    ("no-status-api", "", "A plain ArduinoOTA sketch: no web server."),
    (
        "nonsense-status",
        "huge|binary|types|endless|empty|html",
        "Answers status requests with nonsense.",
    ),
    ("status-huge", "", "Answers status requests with 16 MiB of JSON."),
    (
        "status-truncated",
        "",
        "Answers status requests with the first half of what it promised, and closes the connection.",
    ),
    (
        "status-wrong-types",
        "",
        "Answers status requests with the right keys and values of wrong types.",
    ),
    (
        "status-not-utf8",
        "",
        "Answers status requests with a host name and a version that are no UTF-8.",
    ),
    (
        "status-slow",
        "",
        "Answers status requests at five bytes a second.",
    ),
    (
        "status-redirect",
        "[URL]",
        "Answers status requests with a redirect to URL (http://127.0.0.1/api/status unless given).",
    ),
    (
        "endless-headers",
        "",
        "Answers status requests with headers that do not end.",
    ),
    ("mac-clone", "MAC", "Reports MAC in place of its own."),
    (
        "announces",
        "ADDR",
        "Announces ADDR by multicast DNS in place of its own address.",
    ),
    (
        "move-to",
        "ADDR@SECONDS",
        "Has another address after so many seconds, without a restart; with --count, the others take the next ones.",
    ),
    (
        "vanish",
        "SECONDS",
        "Answers nothing any more after so many seconds, without a farewell.",
    ),
    (
        "return",
        "SECONDS",
        "Is back, restarted, so many seconds after it vanished.",
    ),
    (
        "uptime-frozen",
        "",
        "Reports the same uptime for ever, restarts included.",
    ),
    ("ota-off", "", "Boots with OTA disabled."),
    (
        "ota-stays-off",
        "[success|error]",
        "OTA is disabled and cannot be enabled, whether that is said to succeed (default) or to fail.",
    ),
    (
        "bad-nonce",
        "LEN",
        "Asks for authentication with a nonce of LEN characters.",
    ),
    (
        "downgrade-nonce",
        "",
        "Asks with a 64-digit nonce first and with 32-digit ones ever after.",
    ),
    (
        "drop-udp",
        "K",
        "The K-th datagram of the host is lost; counts from 1.",
    ),
    (
        "drop-answer",
        "K",
        "The K-th datagram of the device is lost; counts from 1.",
    ),
    (
        "lost-auth-ok",
        "",
        "The OK after a right answer is lost, but the device connects.",
    ),
    (
        "slow-auth",
        "SECONDS",
        "Takes so long to judge an authentication answer.",
    ),
    (
        "split-acks",
        "",
        "Sends its acknowledgements and its OK byte by byte.",
    ),
    (
        "glued-acks",
        "",
        "Holds acknowledgements back and sends them together, the last ones together with the OK.",
    ),
    (
        "no-web-update",
        "",
        "The web server knows no /update: it answers 404 to an upload.",
    ),
    (
        "no-mqtt-trigger",
        "",
        "Knows no command by MQTT and has no last will, as the firmware that was published.",
    ),
    (
        "mqtt-silent",
        "",
        "Hears the command to update and neither answers nor pulls.",
    ),
    (
        "mqtt-rejects",
        "[TEXT]",
        "Rejects every command to update, with TEXT (not now unless given).",
    ),
    (
        "mqtt-never-pulls",
        "",
        "Accepts the command to update and never pulls.",
    ),
    (
        "mqtt-pulls-twice",
        "",
        "Pulls the image, drops it and pulls it again.",
    ),
    (
        "mqtt-wrong-digest",
        "",
        "Computes another digest of what it pulled, says failed and does not flash.",
    ),
    ("mqtt-other-id", "", "Answers commands under another request id."),
    (
        "mqtt-no-flash",
        "",
        "Pulls the image and says done; neither flashes nor restarts.",
    ),
    ("mqtt-no-done", "", "Never says done after the restart."),
    (
        "mqtt-nonsense-progress",
        "",
        "Reports progress that runs backward, is out of range or no number.",
    ),
    (
        "mqtt-lost-at",
        "BYTES",
        "Loses the broker after so many bytes of a pull, until its next restart; the pull goes on.",
    ),
];

impl Fault {
    /// All faults: name, argument (empty = none, in brackets = may be left out), what happens in one sentence.
    pub fn list() -> &'static [Entry] {
        LIST
    }

    /// Reads `name` or `name=argument`.
    ///
    /// # Errors
    /// An unknown name (the error names the nearest known one), a missing, superfluous or unusable argument.
    pub fn parse(text: &str) -> Result<Self> {
        let (name, argument) = match text.split_once('=') {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, None),
        };
        let Some((_, shape, _)) = LIST.iter().find(|(known, ..)| *known == name) else {
            bail!("unknown fault {name:?}; did you mean {:?}?", nearest(name));
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
            "silent" => Self::Silent,
            "dead" => Self::Dead,
            "swallowed-invitation" => Self::SwallowedInvitation,
            "no-call-back" => Self::NoCallBack,
            "drop-after" => Self::DropAfter(word.parse()?),
            "drop-once-after" => Self::DropOnceAfter(word.parse()?),
            "stall-at" => Self::StallAt(word.parse()?),
            "stall-once-at" => Self::StallOnceAt(word.parse()?),
            "reboot-at" => Self::RebootAt(word.parse()?),
            "md5-check-failed" => Self::Md5CheckFailed,
            "error-text" => Self::ErrorText(word.to_owned()),
            "early-error" => Self::EarlyError(word.parse()?),
            "ok-lost" => Self::OkLost,
            "ok-lost-no-flash" => Self::OkLostNoFlash,
            "ok-no-reboot" => Self::OkNoReboot,
            "ok-in-error-text" => Self::OkInErrorText,
            "keeps-old" => Self::KeepsOld,
            "label-unchanged" => Self::LabelUnchanged,
            "other-version" => Self::OtherVersion(word.to_owned()),
            "never-returns" => Self::NeverReturns,
            "returns-but-crashes" => Self::ReturnsButCrashes,
            "crashes-once" => Self::CrashesOnce,
            "other-device-returns" => Self::OtherDeviceReturns,
            "http-fail" => Self::HttpFail,
            "http-reset" => Self::HttpReset,
            "http-early-error" => match word.parse()? {
                status @ 400..=599 => Self::HttpEarlyError(status),
                status => bail!("{status} is no error status (400 to 599)"),
            },
            "slot-too-small" => Self::SlotTooSmall,
            "slow" => match argument.map(str::parse).transpose()? {
                Some(0) => bail!("0 bytes/s never ends"),
                pace => Self::Slow(pace.unwrap_or(SLOW_BYTES_PER_S)),
            },
            "duplicate-chip-id" => Self::DuplicateChipId,
            "no-status-api" => Self::NoStatusApi,
            "nonsense-status" => Self::NonsenseStatus(match word {
                "huge" => Nonsense::Huge,
                "binary" => Nonsense::Binary,
                "types" => Nonsense::Types,
                "endless" => Nonsense::Endless,
                "empty" => Nonsense::Empty,
                "html" => Nonsense::Html,
                _ => bail!("unknown kind of nonsense {word:?}"),
            }),
            "status-huge" => Self::StatusHuge,
            "status-truncated" => Self::StatusTruncated,
            "status-wrong-types" => Self::StatusWrongTypes,
            "status-not-utf8" => Self::StatusNotUtf8,
            "status-slow" => Self::StatusSlow,
            "status-redirect" => Self::StatusRedirect(argument.unwrap_or(REDIRECT).to_owned()),
            "endless-headers" => Self::EndlessHeaders,
            "mac-clone" => Self::MacClone(word.parse()?),
            "announces" => Self::Announces(word.parse()?),
            "move-to" => {
                let (address, after) = word.split_once('@').context("no @ before the seconds")?;
                Self::MoveTo(address.parse()?, seconds(after)?)
            }
            "vanish" => Self::Vanish(seconds(word)?),
            "return" => Self::Return(seconds(word)?),
            "uptime-frozen" => Self::UptimeFrozen,
            "ota-off" => Self::OtaOff,
            "ota-stays-off" => Self::OtaStaysOff(match argument {
                None | Some("success") => EnableAnswer::Success,
                Some("error") => EnableAnswer::Error,
                Some(other) => bail!("unknown answer {other:?}"),
            }),
            // Longer than this would not fit the device's own buffer; a guess, the limit only keeps datagrams whole.
            "bad-nonce" => match word.parse()? {
                len @ 0..=1400 => Self::BadNonce(len),
                len => bail!("a nonce of {len} characters does not fit a datagram (at most 1400)"),
            },
            "downgrade-nonce" => Self::DowngradeNonce,
            "drop-udp" => Self::DropUdp(word.parse()?),
            "drop-answer" => Self::DropAnswer(word.parse()?),
            "lost-auth-ok" => Self::LostAuthOk,
            "slow-auth" => match word.parse()? {
                seconds if (0.0..=3600.0).contains(&seconds) => Self::SlowAuth(seconds),
                seconds => bail!("{seconds} s is out of range (0 to 3600)"),
            },
            "split-acks" => Self::SplitAcks,
            "glued-acks" => Self::GluedAcks,
            "no-web-update" => Self::NoWebUpdate,
            "no-mqtt-trigger" => Self::NoMqttTrigger,
            "mqtt-silent" => Self::MqttSilent,
            "mqtt-rejects" => Self::MqttRejects(argument.unwrap_or(REJECTION).to_owned()),
            "mqtt-never-pulls" => Self::MqttNeverPulls,
            "mqtt-pulls-twice" => Self::MqttPullsTwice,
            "mqtt-wrong-digest" => Self::MqttWrongDigest,
            "mqtt-other-id" => Self::MqttOtherId,
            "mqtt-no-flash" => Self::MqttNoFlash,
            "mqtt-no-done" => Self::MqttNoDone,
            "mqtt-nonsense-progress" => Self::MqttNonsenseProgress,
            "mqtt-lost-at" => Self::MqttLostAt(word.parse()?),
            _ => bail!("fault {name:?} is listed but not known"),
        })
    }
}

/// A time from 0 to a day; more is no rehearsal.
fn seconds(text: &str) -> Result<Duration> {
    match text.parse()? {
        seconds if (0.0..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        seconds => bail!("{seconds} s is out of range (0 to 86400)"),
    }
}

/// The name, without its argument.
///
/// Variants are named after the names, which a test holds them to.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variant = format!("{self:?}");
        for (i, letter) in variant.chars().take_while(|letter| *letter != '(').enumerate() {
            if i > 0 && letter.is_ascii_uppercase() {
                f.write_str("-")?;
            }
            write!(f, "{}", letter.to_ascii_lowercase())?;
        }
        Ok(())
    }
}

/// The known name that is fewest edits away.
fn nearest(name: &str) -> &'static str {
    LIST.iter()
        .map(|(known, ..)| *known)
        .min_by_key(|known| n_edits(name, known))
        .unwrap_or_default()
}

/// Edit distance (insert, delete, replace one byte).
fn n_edits(a: &str, b: &str) -> usize {
    let b = b.as_bytes();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An argument that fits the shape in the list.
    fn example(shape: &str) -> &str {
        match shape.trim_matches(['[', ']']) {
            "BYTES" => "20000",
            "BYTES_PER_S" => "5000",
            "STATUS" => "500",
            "LEN" => "17",
            "K" => "2",
            "SECONDS" => "0.5",
            "MAC" => "a0:b1:c2:00:00:01",
            "ADDR" => "127.0.0.9",
            "ADDR@SECONDS" => "127.0.0.9@0.5",
            "URL" => "http://127.0.0.1/",
            "TEXT" | "VERSION" => "9.9",
            choice => choice.split('|').next().unwrap(),
        }
    }

    #[test]
    fn every_listed_fault_parses_with_its_argument_and_only_so() {
        for (name, shape, sentence) in Fault::list() {
            assert!(sentence.ends_with('.'), "{name}: {sentence}");
            if shape.is_empty() {
                assert_eq!(Fault::parse(name).unwrap().to_string(), *name);
                Fault::parse(&format!("{name}=1")).unwrap_err();
                continue;
            }
            let fault = Fault::parse(&format!("{name}={}", example(shape))).unwrap();
            assert_eq!(fault.to_string(), *name);
            assert_eq!(Fault::parse(name).is_ok(), shape.starts_with('['), "{name}");
        }
    }

    #[test]
    fn each_choice_of_nonsense_and_of_enable_answers_parses() {
        for kind in ["huge", "binary", "types", "endless", "empty", "html"] {
            Fault::parse(&format!("nonsense-status={kind}")).unwrap();
        }
        Fault::parse("nonsense-status=fine").unwrap_err();
        assert_eq!(
            Fault::parse("ota-stays-off=error").unwrap(),
            Fault::OtaStaysOff(EnableAnswer::Error)
        );
        assert_eq!(Fault::parse("slow").unwrap(), Fault::Slow(20_000));
    }

    #[test]
    fn an_unknown_name_is_an_error_that_names_the_nearest_known_one() {
        let text = format!("{:#}", Fault::parse("drop-aftr=100").unwrap_err());
        assert!(text.contains("\"drop-after\""), "{text}");
        let text = format!("{:#}", Fault::parse("oklost").unwrap_err());
        assert!(text.contains("\"ok-lost\""), "{text}");
    }

    #[test]
    fn arguments_out_of_range_are_refused() {
        for text in [
            "drop-after=-1",
            "drop-after=many",
            "slow=0",
            "http-early-error=200",
            "bad-nonce=1401",
            "slow-auth=NaN",
            "vanish=-1",
            "return=86401",
            "move-to=127.0.0.9",
            "move-to=here@1",
            "mac-clone=a0:b1",
        ] {
            Fault::parse(text).unwrap_err();
        }
    }
}
