//! What is said over the broker, and what it means: bytes and values in, a judgement out (PROTOCOLS.md E5).

use model::family::{Fault, FaultKind, Reach, Reason, Verdict};
use serde_json::{Value, json};

use crate::talk::unsure;

/// Longest answer that is read, bytes. Guess: ten times what a device has to say.
const ANSWER_MAX_LEN: usize = 4096;
/// Longest reason that is taken from a device, characters (RELIABILITY.md T25).
const ERROR_MAX_CHARS: usize = 200;

/// What a device is told to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command<'a> {
    pub(crate) request_id: &'a str,
    pub(crate) url: &'a str,
    pub(crate) len_bytes: u64,
    pub(crate) sha256: &'a str,
    pub(crate) md5: &'a str,
    /// The image's version; empty where it states none.
    pub(crate) version: &'a str,
    /// Until when it may begin, seconds since 1970.
    pub(crate) expires_s: i64,
}

impl Command<'_> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let command = json!({
            "request_id": self.request_id,
            "url": self.url,
            "size": self.len_bytes,
            "sha256": self.sha256,
            "md5": self.md5,
            "version": self.version,
            "expires": self.expires_s,
        });
        command.to_string().into_bytes()
    }
}

/// How far a device says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Accepted,
    Downloading,
    Installing,
    Rebooting,
    Done,
    Rejected,
    Failed,
}

/// One answer of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) request_id: String,
    pub(crate) state: State,
    /// Percent of what it is doing.
    pub(crate) progress: Option<u8>,
    /// Its words, bounded and printable.
    pub(crate) error: Option<String>,
}

impl Answer {
    /// Reads an answer; none where it is none, or in a state that we do not know. Unknown keys are as absent ones.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        if payload.len() > ANSWER_MAX_LEN {
            return None;
        }
        let value: Value = serde_json::from_slice(payload).ok()?;
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let state = match text("state")? {
            "accepted" => State::Accepted,
            "downloading" => State::Downloading,
            "installing" => State::Installing,
            "rebooting" => State::Rebooting,
            "done" => State::Done,
            "rejected" => State::Rejected,
            "failed" => State::Failed,
            _ => return None,
        };
        let progress = value.get("progress").and_then(Value::as_f64);
        Some(Self {
            request_id: text("request_id")?.to_owned(),
            state,
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it lies between 0 and 100"
            )]
            progress: progress.map(|percent| percent.clamp(0.0, 100.0) as u8),
            error: text("error").map(printable).filter(|error| !error.is_empty()),
        })
    }
}

fn printable(text: &str) -> String {
    let plain = text.trim().chars().filter(|c| !c.is_control());
    plain.take(ERROR_MAX_CHARS).collect()
}

/// What was heard of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conversation {
    request_id: String,
    said: Option<(State, Option<String>)>,
}

impl Conversation {
    pub(crate) fn new(request_id: &str) -> Self {
        Self {
            request_id: request_id.to_owned(),
            said: None,
        }
    }

    /// Takes an answer; whether it was one to this request. What the broker had kept is from some time or other, and
    /// what comes after the last word is a repetition.
    pub(crate) fn hear(&mut self, payload: &[u8], retained: bool) -> bool {
        if retained || self.ended() {
            return false;
        }
        let Some(answer) = Answer::parse(payload).filter(|answer| answer.request_id == self.request_id)
        else {
            return false;
        };
        self.said = Some((answer.state, answer.error));
        true
    }

    /// Whether the device has said its last word.
    pub(crate) fn ended(&self) -> bool {
        self.is_over() || self.refuses()
    }

    /// Whether it says that it has installed the image.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.said, Some((State::Done | State::Rebooting, _)))
    }

    /// Whether it says that it does not, or could not.
    pub(crate) fn refuses(&self) -> bool {
        matches!(self.said, Some((State::Rejected | State::Failed, _)))
    }

    /// What this means after so much of the image has gone, and nothing more will; `how` says how that ended.
    pub(crate) fn judge(
        &self,
        reach: Reach,
        acked_bytes: u64,
        len_bytes: u64,
        how: &str,
    ) -> Result<Verdict, Fault> {
        match (&self.said, reach) {
            (Some((State::Rejected | State::Failed, error)), _) => Err(refused(reach, error.as_deref())),
            (Some((State::Done | State::Rebooting, _)), Reach::Whole) => Ok(Verdict {
                text: "done".to_owned(),
            }),
            (Some((State::Done | State::Rebooting, _)), Reach::Part) => Err(unsure(
                reach,
                Reason::MidStream,
                &format!(
                    "The device said that it was done after {acked_bytes} of {len_bytes} bytes, before it had them all."
                ),
            )),
            (Some((State::Done | State::Rebooting, _)), Reach::Nothing) => Err(Fault::before_push(
                FaultKind::Refused,
                Reason::NotUnderstood,
                "The device said that it was done, and never fetched the image.",
            )),
            (Some(_), Reach::Nothing) => Err(not_fetched(
                "The device took the update command and did not fetch the image",
                how,
            )),
            (None, Reach::Nothing) => Err(not_fetched(
                "The device neither answered the update command nor fetched the image",
                how,
            )),
            (_, Reach::Whole) if acked_bytes >= len_bytes => Err(unsure(
                reach,
                Reason::VerdictLost,
                &format!("The device has fetched all {len_bytes} bytes, and then {how} without a verdict."),
            )),
            (_, Reach::Part | Reach::Whole) => Err(unsure(
                reach,
                Reason::MidStream,
                &format!("The transfer broke off at {acked_bytes} of {len_bytes} bytes: {how}."),
            )),
        }
    }
}

fn refused(reach: Reach, error: Option<&str>) -> Fault {
    Fault {
        kind: FaultKind::Refused,
        reason: Reason::DeviceError,
        text: match error {
            Some(error) => format!("The device said \"{error}\"."),
            None => "The device refused the image without a reason.".to_owned(),
        },
        reach,
        failed_answers: 0,
        next_step: None,
        said: error.map(str::to_owned),
    }
}

fn not_fetched(what: &str, how: &str) -> Fault {
    Fault::before_push(
        FaultKind::Unreachable,
        Reason::NoCallBack,
        format!("{what}: {how}."),
    )
    .advise(
        "See whether the device reaches this machine: server.pull, the firewall, and the device's broker.",
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEN: u64 = 1000;

    fn said(state: &str, error: &str) -> Conversation {
        let mut conversation = Conversation::new("r1");
        let answer = json!({ "request_id": "r1", "state": state, "progress": 7, "error": error });
        assert!(conversation.hear(answer.to_string().as_bytes(), false));
        conversation
    }

    #[test]
    fn a_command_holds_what_the_contract_names() {
        let command = Command {
            request_id: "r1",
            url: "http://192.168.1.2:40124/image/00",
            len_bytes: 1_251_632,
            sha256: "ab",
            md5: "cd",
            version: "2.0.0",
            expires_s: 1_795_000_000,
        };
        let told: Value = serde_json::from_slice(&command.encode()).unwrap();
        let expected = json!({
            "request_id": "r1", "url": "http://192.168.1.2:40124/image/00", "size": 1_251_632, "sha256": "ab",
            "md5": "cd", "version": "2.0.0", "expires": 1_795_000_000,
        });
        assert_eq!(told, expected);
    }

    #[test]
    fn an_answer_is_read_or_passed_over() {
        let answer = |text: &str| Answer::parse(text.as_bytes());
        assert_eq!(
            answer(r#"{"request_id":"r1","state":"failed","progress":140,"error":"no\u0007 room","x":1}"#),
            Some(Answer {
                request_id: "r1".to_owned(),
                state: State::Failed,
                progress: Some(100),
                error: Some("no room".to_owned()),
            })
        );
        for none in [
            "",
            "online",
            "[]",
            "null",
            r#"{"state":"done"}"#,
            r#"{"request_id":"r1"}"#,
            r#"{"request_id":1,"state":"done"}"#,
            r#"{"request_id":"r1","state":"DONE"}"#,
            r#"{"request_id":"r1","state":["done"]}"#,
        ] {
            assert_eq!(answer(none), None, "{none}");
        }
        let long = format!(
            r#"{{"request_id":"r1","state":"done","error":"{}"}}"#,
            "x".repeat(ANSWER_MAX_LEN)
        );
        assert_eq!(answer(&long), None);
        let error = format!(
            r#"{{"request_id":"r1","state":"failed","error":"{}"}}"#,
            "é".repeat(400)
        );
        assert_eq!(
            answer(&error).unwrap().error.unwrap().chars().count(),
            ERROR_MAX_CHARS
        );
    }

    #[test]
    fn what_was_kept_and_what_is_to_another_request_is_not_heard() {
        // RELIABILITY.md T27.
        let mut conversation = Conversation::new("r1");
        assert!(!conversation.hear(br#"{"request_id":"r0","state":"done"}"#, false));
        assert!(!conversation.hear(br#"{"request_id":"r1","state":"done"}"#, true));
        assert!(!conversation.ended());
        assert!(conversation.hear(br#"{"request_id":"r1","state":"accepted"}"#, false));
        assert!(!conversation.ended());
        assert!(conversation.hear(br#"{"request_id":"r1","state":"failed","error":"a"}"#, false));
        // The last word stands.
        assert!(!conversation.hear(br#"{"request_id":"r1","state":"done"}"#, false));
        assert!(conversation.refuses());
    }

    #[test]
    fn a_verdict_counts_only_with_every_byte() {
        for state in ["done", "rebooting"] {
            assert!(said(state, "").judge(Reach::Whole, LEN, LEN, "x").is_ok());
            let fault = said(state, "").judge(Reach::Part, 400, LEN, "x").unwrap_err();
            assert_eq!((fault.kind, fault.reason), (FaultKind::Unsure, Reason::MidStream));
            let fault = said(state, "").judge(Reach::Nothing, 0, LEN, "x").unwrap_err();
            assert_eq!((fault.kind, fault.reach), (FaultKind::Refused, Reach::Nothing));
        }
    }

    #[test]
    fn nothing_is_sure_once_a_byte_has_left() {
        let silent = Conversation::new("r1");
        let mut others = vec![silent];
        others.extend(["accepted", "downloading", "installing"].map(|state| said(state, "")));
        for conversation in others {
            let fault = conversation.judge(Reach::Nothing, 0, LEN, "x").unwrap_err();
            assert_eq!(
                (fault.kind, fault.reason),
                (FaultKind::Unreachable, Reason::NoCallBack)
            );
            assert_eq!(fault.reach, Reach::Nothing);
            let fault = conversation.judge(Reach::Part, 400, LEN, "x").unwrap_err();
            assert_eq!((fault.kind, fault.reason), (FaultKind::Unsure, Reason::MidStream));
            let fault = conversation.judge(Reach::Whole, LEN, LEN, "x").unwrap_err();
            assert_eq!(
                (fault.kind, fault.reason),
                (FaultKind::Unsure, Reason::VerdictLost)
            );
            let fault = conversation.judge(Reach::Whole, LEN - 1, LEN, "x").unwrap_err();
            assert_eq!((fault.kind, fault.reason), (FaultKind::Unsure, Reason::MidStream));
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_device_s_words() {
        for state in ["rejected", "failed"] {
            for reach in [Reach::Nothing, Reach::Part, Reach::Whole] {
                let fault = said(state, "digest differs")
                    .judge(reach, 0, LEN, "x")
                    .unwrap_err();
                assert_eq!(
                    (fault.kind, fault.reason, fault.reach),
                    (FaultKind::Refused, Reason::DeviceError, reach)
                );
                assert_eq!(fault.said.as_deref(), Some("digest differs"));
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_none(payload in prop::collection::vec(any::<u8>(), 0..200), retained: bool) {
            let mut conversation = Conversation::new("r1");
            prop_assert!(!conversation.hear(&payload, retained) || !retained);
        }
    }
}
