"""What the logbook says of updates: one sentence for each event."""

from collections.abc import Callable

from homeassistant.components.logbook.const import LOGBOOK_ENTRY_ENTITY_ID, LOGBOOK_ENTRY_MESSAGE, LOGBOOK_ENTRY_NAME
from homeassistant.core import Event, HomeAssistant, callback

from .const import DOMAIN, EVENT_ROLLOUT_FINISHED, EVENT_UPDATE_FAILED, EVENT_UPDATE_FINISHED


@callback
def async_describe_events(
    hass: HomeAssistant,
    async_describe_event: Callable[[str, str, Callable[[Event], dict[str, str | None]]], None],
) -> None:
    """Say how each of our events is told; the logbook has no translations, so this is English as everywhere in it."""

    @callback
    def finished(event: Event) -> dict[str, str | None]:
        told = event.data
        message = f"runs {told.get('to') or 'its new firmware'}"
        if told.get("from"):
            message += f", after {told['from']}"
        if told.get("outcome") == "updated-label-unchanged":
            message += " (the device still reports its old label)"
        return _entry(event, message)

    @callback
    def failed(event: Event) -> dict[str, str | None]:
        told = event.data
        message = f"was not updated to {told.get('to') or 'its new firmware'}"
        if reason := told.get("reason") or told.get("outcome"):
            message += f": {reason}"
        if told.get("next_step"):
            message += f". {told['next_step']}"
        return _entry(event, message)

    @callback
    def rollout_finished(event: Event) -> dict[str, str | None]:
        counts = event.data.get("counts")
        told = ", ".join(f"{n} {state.replace('-', ' ')}" for state, n in counts.items()) if counts else "no device"
        return {
            LOGBOOK_ENTRY_NAME: "Reflash",
            LOGBOOK_ENTRY_MESSAGE: f"finished rollout {event.data.get('rollout_id')}: {told}",
        }

    async_describe_event(DOMAIN, EVENT_UPDATE_FINISHED, finished)
    async_describe_event(DOMAIN, EVENT_UPDATE_FAILED, failed)
    async_describe_event(DOMAIN, EVENT_ROLLOUT_FINISHED, rollout_finished)


def _entry(event: Event, message: str) -> dict[str, str | None]:
    return {
        LOGBOOK_ENTRY_NAME: event.data.get("name"),
        LOGBOOK_ENTRY_MESSAGE: message,
        LOGBOOK_ENTRY_ENTITY_ID: event.data.get("entity_id"),
    }
