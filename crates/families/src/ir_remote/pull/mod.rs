//! One push that the device does itself: told by the broker, it fetches the image from us (PROTOCOLS.md E5).

pub(crate) mod words;

use std::net::IpAddr;
use std::time::Duration;

use model::chain::{chain, sentence};
use model::family::{Fault, FaultKind, Reach, Reason, Verdict};
use model::id::FamilyId;
use model::image::{Image, Inspection};
use model::progress::{Progress, PushPhase};
use net::Site;
use net::mqtt::{Commanded, Incoming, Listening};
use net::pull::{Ended, Offer, PullSite, Taken};
use tokio::time::Instant;

use self::words::{Command, Conversation};
use super::version_in_name;
use crate::esp::image::{FIRMWARE, inspect};
use crate::talk::cancelled;

/// How long the device may take to begin: the command and the address are good for so long (RELIABILITY.md T27).
const START_WAIT: Duration = Duration::from_mins(1);
/// How long the broker may take to agree and to take the command. Guess: it is on the same network.
const BROKER_WAIT: Duration = Duration::from_secs(10);
/// How long the device may say nothing after it has every byte: it checks and writes the whole image.
const VERDICT_WAIT: Duration = Duration::from_secs(30);
/// And in all, whatever it says in between, as with espota.
const VERDICT_LIMIT: Duration = Duration::from_mins(5);
/// How long after a broken transfer, or after its last word, the device is still listened to and served.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How often a cancel is noticed. Taste.
const TICK: Duration = Duration::from_millis(100);

/// The device to be told.
pub(super) struct Told<'a> {
    /// Where it is.
    pub(super) address: IpAddr,
    /// Its MAC, twelve hexadecimal digits.
    pub(super) mac: &'a str,
    /// What its topics begin with.
    pub(super) topic: &'a str,
}

/// Pushes once: the command leaves once, and the image once.
pub(super) async fn push(
    site: &Site,
    told: Told<'_>,
    image: &Image,
    progress: &Progress,
) -> Result<Verdict, Fault> {
    let Some(pull) = &site.pull else {
        return Err(local("there is no broker")
            .advise("Use a server whose configuration has a broker: reflash update DEVICE."));
    };
    progress
        .enter(PushPhase::Inviting)
        .map_err(|_| cancelled(Reach::Nothing))?;
    let topic = format!("{}/{}/update", told.topic, told.mac);
    let mut listening = pull.bus().listen(std::slice::from_ref(&topic));
    if !listening.ready(BROKER_WAIT).await {
        return Err(no_broker("does not let us listen to the device's answers"));
    }
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| local(&error.to_string()))?;
    let (token, id) = random.split_at(16);
    let token: [u8; 16] = token.try_into().map_err(|_| local("no token"))?;
    let offer = pull
        .offer(image, &site.dialer, told.address, token, START_WAIT)
        .await
        .map_err(|error| local(&chain(&error)))?;
    let request_id = hex::encode(id);
    command(pull, &told, &request_id, &offer, image, progress).await?;
    let push = Push {
        conversation: Conversation::new(&request_id),
        listening: &mut listening,
        image,
        progress,
    };
    push.run(offer).await
}

/// Tells the device, once: from here on it may fetch the image.
async fn command(
    pull: &PullSite,
    told: &Told<'_>,
    request_id: &str,
    offer: &Offer,
    image: &Image,
    progress: &Progress,
) -> Result<(), Fault> {
    progress
        .enter(PushPhase::AwaitingCallBack)
        .map_err(|_| cancelled(Reach::Nothing))?;
    let expires = i64::try_from(START_WAIT.as_secs()).unwrap_or(0);
    let command = Command {
        request_id,
        url: &offer.url,
        len_bytes: image.len_bytes(),
        sha256: &image.sha256().to_string(),
        md5: &image.md5().to_string(),
        version: &version(image),
        expires_s: pull.now_s().saturating_add(expires),
    };
    let topic = format!("{}/{}/cmd/update", told.topic, told.mac);
    match pull.bus().command(&topic, command.encode(), BROKER_WAIT).await {
        // What nobody confirmed may have been handed on all the same: it is waited for, and never sent again.
        Commanded::Taken | Commanded::Unknown => Ok(()),
        Commanded::NotSent => Err(no_broker("did not take the command")),
    }
}

/// The version that the image states, or its name; empty where neither does.
fn version(image: &Image) -> String {
    let Inspection::Accepted(info) = inspect(
        &FamilyId::new("ir-remote"),
        image,
        version_in_name(image.file_name()),
    ) else {
        return String::new();
    };
    let shown = info
        .shown_version()
        .and_then(|(versions, _)| versions.part(FIRMWARE));
    shown.unwrap_or_default().to_owned()
}

/// A push under way: the device has been told.
struct Push<'a> {
    conversation: Conversation,
    listening: &'a mut Listening,
    image: &'a Image,
    progress: &'a Progress,
}

impl Push<'_> {
    async fn run(mut self, mut offer: Offer) -> Result<Verdict, Fault> {
        let until = Instant::now() + START_WAIT;
        let mut how = format!("nothing came for {} s", START_WAIT.as_secs());
        let taken = loop {
            // Each arm only waits: what it waits for stays where it is when another is quicker.
            tokio::select! {
                taken = offer.taken() => break Some(taken),
                message = self.listening.next() => {
                    if self.hear(&message) && self.conversation.ended() {
                        "it ended it".clone_into(&mut how);
                        break offer.withdraw();
                    }
                }
                () = tokio::time::sleep(TICK) => {
                    if self.progress.phase() == PushPhase::Cancelled || Instant::now() >= until {
                        break offer.withdraw();
                    }
                }
            }
        };
        match taken {
            Some(taken) => self.serve(taken).await,
            // The door is closed and nobody had come: nothing has left, and nothing will.
            None if self.progress.phase() == PushPhase::Cancelled => Err(cancelled(Reach::Nothing)),
            None => self.judge(Reach::Nothing, 0, &how),
        }
    }

    fn hear(&mut self, message: &Incoming) -> bool {
        self.conversation.hear(&message.payload, message.retained)
    }

    fn judge(&self, reach: Reach, acked_bytes: u64, how: &str) -> Result<Verdict, Fault> {
        self.conversation
            .judge(reach, acked_bytes, self.image.len_bytes(), how)
    }

    /// Sends the image and waits for the verdict.
    async fn serve(mut self, taken: Taken) -> Result<Verdict, Fault> {
        let progress = self.progress;
        let mut transfer = std::pin::pin!(taken.transfer(progress));
        let mut until = None;
        let transferred = loop {
            // The transfer is only polled here; the others only wait.
            tokio::select! {
                transferred = &mut transfer => break transferred,
                message = self.listening.next() => {
                    if self.hear(&message) && self.conversation.ended() {
                        // It has said its last word; what is on its way may still be counted.
                        until = Some(Instant::now() + LAST_WORDS);
                    }
                }
                () = at(until) => {
                    let reach = if progress.phase() == PushPhase::LastByte { Reach::Whole } else { Reach::Part };
                    return self.judge(reach, progress.acked_bytes(), "the device ended it");
                }
            }
        };
        let how = match &transferred.ended {
            Ended::Cancelled => return Err(cancelled(transferred.reach)),
            Ended::Whole => {
                let how = self.verdict().await;
                return self.judge(transferred.reach, transferred.acked_bytes, how);
            }
            Ended::Closed => "the device closed the connection".to_owned(),
            Ended::Broke(error) => format!("the connection broke ({error})"),
            Ended::Stalled => "the device took nothing more".to_owned(),
        };
        // Why, only the device can tell.
        self.listen(Instant::now() + LAST_WORDS, Duration::MAX).await;
        self.judge(transferred.reach, transferred.acked_bytes, &how)
    }

    /// Waits for the device's last word after it has every byte; how that ended where it did not come.
    async fn verdict(&mut self) -> &'static str {
        self.listen(Instant::now() + VERDICT_LIMIT, VERDICT_WAIT).await;
        "it said nothing more"
    }

    /// Listens until its last word, until then, or until it has said nothing for that long.
    async fn listen(&mut self, until: Instant, silence: Duration) {
        let silent_at = |now: Instant| now.checked_add(silence).map_or(until, |at| at.min(until));
        let mut end = silent_at(Instant::now());
        while !self.conversation.ended() {
            // Safe to drop: a message that was not taken stays in line.
            let Ok(message) = tokio::time::timeout_at(end, self.listening.next()).await else {
                return;
            };
            if self.hear(&message) {
                end = silent_at(Instant::now());
            }
        }
    }
}

async fn at(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

fn local(what: &str) -> Fault {
    let text = sentence(&format!("the device cannot be told to fetch its image: {what}"));
    Fault::before_push(FaultKind::Refused, Reason::Local, text)
}

fn no_broker(what: &str) -> Fault {
    Fault::before_push(
        FaultKind::Unreachable,
        Reason::NoAnswer,
        format!("The broker {what}, so the device was not told."),
    )
    .advise("Look at the broker and at the block mqtt of the configuration: reflash doctor.")
}
