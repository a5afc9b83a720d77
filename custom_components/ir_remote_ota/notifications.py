"""One notification for each rollout that failed or halted: replaced as it goes on, taken away when it ends well."""

from typing import Final

from homeassistant.components import persistent_notification
from homeassistant.config_entries import ConfigEntry
from homeassistant.core import CALLBACK_TYPE, HomeAssistant, callback
from homeassistant.helpers.translation import async_get_cached_translations
from homeassistant.util.hass_dict import HassKey

from .client import FAILURES, Rollout
from .const import DOMAIN
from .coordinator import Hub

CONF_NOTIFY: Final = "notify"
"""In an entry's options: whether notifications are wanted."""

DATA_TOLD: Final[HassKey[dict[str, dict[int, str]]]] = HassKey(f"{DOMAIN}_told")
"""What stands in notifications now, by entry and rollout."""

N_DEVICES: Final = 10
"""So many devices stand in one notification."""


def watch(hass: HomeAssistant, entry: ConfigEntry, hub: Hub) -> CALLBACK_TYPE:
    """Tell of rollouts that go wrong from now on; what was over before is not told again."""
    # It outlives a reload, as the notifications do.
    told = hass.data.setdefault(DATA_TOLD, {}).setdefault(entry.entry_id, {})
    over = {rollout.id for rollout in hub.rollouts.values() if not rollout.is_open} - told.keys()

    @callback
    def keep_up() -> None:
        if not entry.options.get(CONF_NOTIFY, True):
            for rollout_id in told:
                persistent_notification.async_dismiss(hass, notification_id(entry, rollout_id))
            told.clear()
            return
        for rollout in hub.rollouts.values():
            if rollout.id in over or not (rollout.is_open or rollout.members):
                # Of one that was over before we came, only the head is known; what was told of it stands.
                continue
            text = _text(hass, rollout)
            if text is None:
                if told.pop(rollout.id, None) is not None:
                    persistent_notification.async_dismiss(hass, notification_id(entry, rollout.id))
            elif told.get(rollout.id) != text:
                told[rollout.id] = text
                title = _say(hass, "title", rollout)
                persistent_notification.async_create(hass, text, title, notification_id(entry, rollout.id))
            if rollout.ok:
                # What this one has mended need not be told any more.
                for earlier in [known for known in told if known < rollout.id and _same_devices(hub, known, rollout)]:
                    del told[earlier]
                    over.add(earlier)
                    persistent_notification.async_dismiss(hass, notification_id(entry, earlier))

    keep_up()
    return hub.async_add_listener(keep_up)


@callback
def forget(hass: HomeAssistant, entry: ConfigEntry) -> None:
    """Take away every notification of an entry."""
    for rollout_id in hass.data.get(DATA_TOLD, {}).pop(entry.entry_id, {}):
        persistent_notification.async_dismiss(hass, notification_id(entry, rollout_id))


def notification_id(entry: ConfigEntry, rollout_id: int) -> str:
    """Return the name under which the notification of a rollout is replaced."""
    return f"{DOMAIN}_{entry.entry_id}_{rollout_id}"


def _same_devices(hub: Hub, earlier_id: int, rollout: Rollout) -> bool:
    """Return whether every device that failed in an earlier rollout has ended well in this one."""
    earlier = hub.rollouts.get(earlier_id)
    if earlier is None:
        return True
    failed = {member.device for member in earlier.members if member.state in FAILURES}
    return bool(failed) and failed <= {member.device for member in rollout.members}


def _text(hass: HomeAssistant, rollout: Rollout) -> str | None:
    """Return what is told of a rollout, Markdown; None where nothing went wrong."""
    failed = [member for member in rollout.members if member.state in FAILURES]
    if rollout.state != "halted" and (rollout.is_open or not failed):
        return None
    lines = []
    if rollout.state == "halted":
        cause = rollout.cause
        lines.append(_say(hass, "halted", rollout) + (f" {cause.text}" if cause else ""))
    for member in failed[:N_DEVICES]:
        line = f"- **{member.name}**: {member.text or member.reason or member.state}"
        lines.append(f"{line} {member.next_step}" if member.next_step else line)
    if len(failed) > N_DEVICES:
        lines.append(f"- … (+{len(failed) - N_DEVICES})")
    return "\n".join(lines)


SAYINGS: Final = {
    "title": "Firmware update {rollout} needs you",
    "halted": "The rollout has halted and waits: *Settings → Repairs* lets it go on or ends it.",
}
"""What is said where no translation is at hand."""


def _say(hass: HomeAssistant, what: str, rollout: Rollout) -> str:
    told = async_get_cached_translations(hass, hass.config.language, "exceptions", DOMAIN)
    saying = told.get(f"component.{DOMAIN}.exceptions.notification_{what}.message", SAYINGS[what])
    return saying.replace("{rollout}", rollout.name or str(rollout.id))
