//! What comes from the broker: commands, where the owner takes them from there.

use std::time::Duration;

use model::chain::chain;
use serde_json::{Value, json};
use store::AuditEntry;

use super::Announcer;
use super::payload::Command;
use crate::views::{RolloutKind, WantedRollout};

/// As the audit names whoever may publish at the broker.
const ACTOR: &str = "mqtt";
/// How long Home Assistant takes to forget that an update goes on, after it has sent the command. Guess.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

impl Announcer {
    /// Does what commands say, one after the other; nothing where they are not taken.
    pub(super) async fn obey(&self) {
        let inner = &self.inner;
        if !inner.settings.commands {
            return;
        }
        let mut commands = inner.parts.bus.listen(&inner.topics.commands());
        loop {
            let message = commands.next().await;
            // It is from some time or other: whoever retained it meant that moment, and not every start of ours.
            if message.retained {
                tracing::warn!(topic = message.topic, "a retained command is ignored");
                continue;
            }
            let Some((device, command)) = inner.topics.command_in(&message.topic, &message.payload) else {
                tracing::warn!(topic = message.topic, "what came as a command is none");
                continue;
            };
            if !self.takes_commands(device) {
                tracing::warn!(device, "a command for a device that is not announced is ignored");
                continue;
            }
            self.carry_out(device, command).await;
            self.say_again(device);
            tokio::time::sleep(AGAIN_AFTER).await;
            self.say_again(device);
        }
    }

    /// Only what is announced is commanded: a topic is no way to a device that somebody else shows or that is not enrolled.
    fn takes_commands(&self, device: &str) -> bool {
        let parts = &self.inner.parts;
        // By its id, and not by a name or address that the fleet would understand as well.
        let known = parts.fleet.device(device).ok().filter(|known| known.id == device);
        known.is_some_and(|known| known.enrolled) && !parts.home_assistant.shows(device)
    }

    fn say_again(&self, device: &str) {
        self.state().again.insert(device.to_owned());
        self.inner.due.notify_one();
    }

    async fn carry_out(&self, device: &str, command: Command) {
        let parts = &self.inner.parts;
        let wanted = |kind| WantedRollout {
            devices: vec![device.to_owned()],
            kind,
            ..WantedRollout::default()
        };
        let (action, done) = match command {
            Command::Install => (
                "rollout.create",
                self.roll_out(&wanted(RolloutKind::Update)).await,
            ),
            Command::RollBack => (
                "rollout.create",
                self.roll_out(&wanted(RolloutKind::Rollback)).await,
            ),
            Command::Ota(on) => {
                let set = parts.fleet.set_ota(device, on, ACTOR).await;
                let set = set.map(|_| json!({ "enabled": on }));
                (
                    "device.ota",
                    set.map_err(|error| format!("{} {}", error.text, error.next_step)),
                )
            }
        };
        let detail = match &done {
            Ok(detail) => detail.clone(),
            Err(text) => json!({ "refused": text }),
        };
        tracing::info!(device, action, %detail, "a command came by the broker");
        {
            let mut state = self.state();
            match done {
                Ok(_) => state.not_begun.remove(device),
                Err(text) => state.not_begun.insert(device.to_owned(), text),
            };
        }
        let entry = AuditEntry {
            at_ms: parts.clock.now().wall_ms,
            actor: ACTOR.to_owned(),
            source: "mqtt".to_owned(),
            action: action.to_owned(),
            target: device.to_owned(),
            detail,
        };
        if let Err(error) = parts.store.append_audit(&entry).await {
            tracing::error!(
                error = chain(&error),
                "a command by the broker could not be written down"
            );
        }
    }

    async fn roll_out(&self, wanted: &WantedRollout) -> Result<Value, String> {
        let made = self.inner.parts.rollouts.create(wanted, ACTOR, None).await;
        let made = made.map_err(|error| chain(&error))?;
        Ok(json!({ "rollout": made.summary.id }))
    }
}
