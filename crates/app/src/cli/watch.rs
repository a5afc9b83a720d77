//! Watching a rollout to its end: events as they come, the rollout read again and again, through restarts of the server.

mod draw;
mod view;
mod words;

use std::collections::{BTreeMap, VecDeque};
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use engine::Stop;
use futures_util::stream::{self, StreamExt as _};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reqwest::Response;
use serde_json::{Value, json};
use server::views::{EventView, JobDetailView, RolloutView};
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep_until, timeout};

use self::draw::{Terminal, block};
use self::view::{Reread, View};
use super::client::{Ask, Client, NoAnswer, ServerArguments, read};
use super::show::{safe, spoken};
use super::sse::{Message, Reader};
use super::standing::{Kind, kind_of};
use super::{say, say_json_line, show};
use crate::error::{Exit, Trouble};

/// How long nothing may come from a server that says every 15 s that it is there (`heartbeat` in the server's API).
const SILENT_AFTER: Duration = Duration::from_secs(45);
/// How soon after an event the rollout is read again, so that many events make one look.
const SOON: Duration = Duration::from_millis(200);
/// How often it is read though nothing was heard of it, with events and without them.
const READ_EVERY: Duration = Duration::from_secs(15);
const READ_EVERY_WITHOUT_EVENTS: Duration = Duration::from_secs(2);
/// How long until events are asked for again.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);
/// How often a server that is gone is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a server may be gone. Guess: an upgrade of the machine, with its restart.
const GONE_FOR: Duration = Duration::from_mins(10);
/// How often the block is drawn again when nothing happens, for the time that it shows.
const DRAW_EVERY: Duration = Duration::from_secs(1);
/// How many lines of what happened are kept for the block.
const N_EVENTS: usize = 20;
/// How many jobs are asked for at once when all is over.
const N_JOBS_AT_ONCE: usize = 4;

/// Watches until there is nothing more to see, and tells how it ended.
pub(super) async fn watch(
    client: &Client,
    server: &ServerArguments,
    rollout: Value,
    stopped: Receiver<Stop>,
) -> Result<Exit, Trouble> {
    let (view, lines) = View::new(read(&rollout)?);
    let id = view.rollout.summary.id;
    let screen = Screen::new(server.json);
    let mut follower = Follower {
        client,
        id,
        screen: &screen,
        view,
        value: rollout,
        events: VecDeque::new(),
        stream: None,
        last_id: None,
        gone: None,
    };
    follower.tell(lines);
    let end = tokio::select! {
        // Dropping it ends the watching and nothing else: it has only read.
        end = follower.follow() => Some(end),
        () = left(stopped, &screen, id) => None,
    };
    screen.finish();
    match end {
        Some(end) => end?,
        None => return Ok(Exit::Failed),
    }
    let Follower { view, value, .. } = follower;
    if server.json {
        say_json_line(&value);
    } else {
        let jobs = jobs(client, &view.rollout).await;
        let _ = say(&words::ended(&view.rollout, &jobs));
    }
    Ok(exit(&view.rollout))
}

/// What the shell is told of a rollout that was watched.
fn exit(rollout: &RolloutView) -> Exit {
    let kinds: Vec<Kind> = rollout
        .members
        .iter()
        .map(|member| kind_of(&member.state))
        .collect();
    let is_fine = kinds
        .iter()
        .all(|kind| matches!(kind, Kind::Good | Kind::Nothing));
    if rollout.summary.state != "finished" || !is_fine || rollout.summary.ok == Some(false) {
        Exit::Failed
    } else if kinds.contains(&Kind::Good) {
        Exit::Done
    } else {
        Exit::Nothing
    }
}

/// Waits for two interrupts, and says after the first what they do not do.
async fn left(mut stopped: Receiver<Stop>, screen: &Screen, id: i64) {
    if stopped.wait_for(|stop| *stop != Stop::No).await.is_ok() {
        screen.notice(&format!(
            "The rollout goes on in the server. Interrupt once more to stop watching.\n  \
            watch it again: reflash rollout watch {id}\n  abort it: reflash rollout abort {id}\n"
        ));
        if stopped.wait_for(|stop| *stop == Stop::Leave).await.is_ok() {
            return;
        }
    }
    // Without anybody who tells of interrupts, none comes.
    std::future::pending::<()>().await;
}

/// The jobs of the devices that have ended, for their evidence. What cannot be had is left out.
async fn jobs(client: &Client, rollout: &RolloutView) -> BTreeMap<String, JobDetailView> {
    let members = rollout.members.iter().filter_map(|member| {
        let ended = !matches!(kind_of(&member.state), Kind::Waits | Kind::Runs);
        Some((member.device.clone(), member.job.filter(|_| ended)?))
    });
    stream::iter(members)
        .map(|(device, job)| async move {
            let value = client.ask(Ask::get(["jobs", &job.to_string()])).await.ok()?;
            Some((device, read::<JobDetailView>(&value).ok()?))
        })
        .buffer_unordered(N_JOBS_AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await
}

/// The events as they come.
struct Stream {
    response: Response,
    reader: Reader,
}

impl Stream {
    /// What came; none when nothing will come any more.
    async fn next(&mut self) -> Option<Vec<Message>> {
        let chunk = timeout(SILENT_AFTER, self.response.chunk()).await.ok()?.ok()??;
        self.reader.feed(&chunk).ok()
    }
}

struct Follower<'a> {
    client: &'a Client,
    id: i64,
    screen: &'a Screen,
    view: View,
    /// The rollout as the server told it last.
    value: Value,
    events: VecDeque<String>,
    stream: Option<Stream>,
    /// The number of the last event, to begin there again.
    last_id: Option<String>,
    /// Since when the server is gone.
    gone: Option<Instant>,
}

impl Follower<'_> {
    async fn follow(&mut self) -> Result<(), Trouble> {
        let mut connect_at = Instant::now();
        let mut read_at = Instant::now();
        loop {
            self.draw();
            if self.view.is_over() && self.gone.is_none() {
                return Ok(());
            }
            let now = Instant::now();
            if self.stream.is_none() && self.gone.is_none() && connect_at <= now {
                // What happened before the first event of this connection is read.
                self.connect().await;
                connect_at = Instant::now() + RECONNECT_AFTER;
                read_at = Instant::now();
            }
            if read_at <= Instant::now() {
                self.reread().await?;
                read_at = Instant::now() + self.read_every();
                continue;
            }
            let mut wake_at = read_at.min(now + DRAW_EVERY);
            if self.stream.is_none() && self.gone.is_none() {
                wake_at = wake_at.min(connect_at);
            }
            let stream = &mut self.stream;
            let heard = tokio::select! {
                // A chunk that is not taken stays in the connection, and what was taken is in the reader.
                messages = async {
                    match stream {
                        Some(stream) => stream.next().await,
                        None => std::future::pending().await,
                    }
                } => messages,
                () = sleep_until(wake_at) => continue,
            };
            let Some(messages) = heard else {
                self.stream = None;
                connect_at = Instant::now() + RECONNECT_AFTER;
                read_at = Instant::now();
                continue;
            };
            for message in messages {
                match self.hear(&message) {
                    Reread::No => {}
                    Reread::Soon => read_at = read_at.min(Instant::now() + SOON),
                    Reread::Now => {
                        self.reread().await?;
                        read_at = Instant::now() + self.read_every();
                    }
                }
            }
        }
    }

    fn read_every(&self) -> Duration {
        match (self.gone, &self.stream) {
            (Some(_), _) => LOOK_EVERY,
            (None, Some(_)) => READ_EVERY,
            (None, None) => READ_EVERY_WITHOUT_EVENTS,
        }
    }

    /// Asks for the events; where there are none, the rollout is only read.
    async fn connect(&mut self) {
        let mut ask = Ask::get(["events"]).header("accept", "text/event-stream");
        if let Some(last_id) = &self.last_id {
            ask = ask.header("last-event-id", last_id.as_str());
        }
        if let Ok(response) = self.client.stream(ask).await {
            self.stream = Some(Stream {
                response,
                reader: Reader::default(),
            });
        }
    }

    /// Reads the rollout; a server that is gone is waited for.
    async fn reread(&mut self) -> Result<(), Trouble> {
        let answer = self
            .client
            .try_ask(Ask::get(["rollouts", &self.id.to_string()]))
            .await;
        match answer {
            Ok(value) => {
                let rollout: RolloutView = read(&value)?;
                self.value = value;
                if self.gone.take().is_some() {
                    self.announce("server.back", "The server is back.");
                }
                let lines = self.view.reread(rollout);
                self.tell(lines);
                Ok(())
            }
            Err(NoAnswer::Gone(trouble)) => {
                self.stream = None;
                let since = self.gone.unwrap_or_else(Instant::now);
                if self.gone.is_none() {
                    self.gone = Some(since);
                    self.announce("server.gone", "Server gone, waiting: it goes on when it is back.");
                }
                if since.elapsed() < GONE_FOR {
                    return Ok(());
                }
                Err(Trouble::new(
                    trouble.exit,
                    format!("{} It was waited for {}.", trouble.what, spoken(GONE_FOR)),
                    format!(
                        "Start the server; then watch again with `reflash rollout watch {}`.",
                        self.id
                    ),
                ))
            }
            Err(NoAnswer::Refused(trouble)) => Err(trouble),
        }
    }

    /// Takes one event.
    fn hear(&mut self, message: &Message) -> Reread {
        if let Some(id) = &message.id {
            self.last_id = Some(id.clone());
        }
        match message.event.as_str() {
            "hello" => {
                // Whoever has heard no event yet begins after the last one.
                if self.last_id.is_none() {
                    let hello: Value = serde_json::from_str(&message.data).unwrap_or_default();
                    self.last_id = hello["last"].as_i64().map(|last| last.to_string());
                }
                return Reread::No;
            }
            "gap" => return Reread::Now,
            _ => {}
        }
        let Ok(event) = serde_json::from_str::<EventView>(&message.data) else {
            return Reread::Soon;
        };
        let heard = self.view.event(&event);
        if heard.ours {
            self.screen.event(&message.data);
        }
        self.tell(heard.lines);
        heard.reread
    }

    /// Tells something about the server, which is no event of it.
    fn announce(&mut self, kind: &str, text: &str) {
        self.screen
            .event(&json!({ "kind": kind, "text": text }).to_string());
        self.tell(vec![text.to_owned()]);
    }

    fn tell(&mut self, lines: Vec<String>) {
        for line in lines {
            self.screen.line(&line);
            self.events.push_back(line);
        }
        let n_old = self.events.len().saturating_sub(N_EVENTS);
        self.events.drain(..n_old);
    }

    fn draw(&self) {
        if self.screen.live {
            let gone = self
                .gone
                .map(|since| format!("server gone, waiting for {} s", since.elapsed().as_secs()));
            let text = block(&self.view, &self.events, gone.as_deref(), terminal());
            self.screen.bar.set_message(text);
            self.screen.bar.tick();
        }
    }
}

/// How large the terminal is, and what it shows.
fn terminal() -> Terminal {
    let size = rustix::termios::tcgetwinsize(std::io::stderr()).ok();
    let size = size.filter(|size| size.ws_col > 0 && size.ws_row > 0);
    let (columns, rows) = size.map_or((80, 24), |size| (size.ws_col.into(), size.ws_row.into()));
    Terminal {
        columns,
        rows,
        unicode: shows_unicode(|name| std::env::var(name).ok()),
    }
}

/// Whether the locale has more letters than ASCII (POSIX: the first of these that is set counts).
fn shows_unicode(variable: impl Fn(&str) -> Option<String>) -> bool {
    ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .filter_map(variable)
        .find(|value| !value.is_empty())
        .is_some_and(|value| {
            let value = value.to_lowercase();
            value.contains("utf-8") || value.contains("utf8")
        })
}

/// Where it is shown: a block on a terminal, lines elsewhere, JSON for programs.
struct Screen {
    json: bool,
    /// Whether there is a terminal that a block can be drawn on.
    live: bool,
    /// Whether each change gets a line on standard output.
    lines: bool,
    bar: ProgressBar,
}

impl Screen {
    fn new(json: bool) -> Self {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let live = !json && std::io::stderr().is_terminal() && !is_dumb;
        let target = if live {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(ProgressStyle::with_template("{msg}").expect("the template is right"));
        Self {
            json,
            live,
            lines: !json && (!live || !std::io::stdout().is_terminal()),
            bar,
        }
    }

    /// A change, for people.
    fn line(&self, line: &str) {
        if self.lines {
            // A reader that is gone does not end the rollout.
            let _ = say(&format!("{}\n", safe(line)));
        }
    }

    /// An event, for programs: JSON in one line.
    fn event(&self, text: &str) {
        if self.json {
            let _ = say(&format!("{}\n", show::safe_json(text)));
        }
    }

    /// Something that whoever sits before it has to know.
    fn notice(&self, text: &str) {
        self.bar.suspend(|| {
            let _ = write!(std::io::stderr(), "{text}");
        });
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_locale_says_what_a_terminal_shows() {
        for (set, shows) in [
            (&[][..], false),
            (&[("LANG", "en_US.UTF-8")], true),
            (&[("LANG", "C.utf8")], true),
            (&[("LC_ALL", "C"), ("LANG", "en_US.UTF-8")], false),
            (&[("LC_ALL", ""), ("LC_CTYPE", "de_DE.UTF-8")], true),
            (&[("LANG", "de_DE.ISO-8859-1")], false),
        ] {
            let value = |name: &str| {
                let found = set.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(shows_unicode(value), shows, "{set:?}");
        }
    }
}
