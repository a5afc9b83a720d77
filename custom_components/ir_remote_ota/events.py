"""What happens to updates, as events on Home Assistant's bus."""

from collections.abc import Callable
from typing import Any

from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers import entity_registry as er

from .client import FAILURES, SUCCESSES, Event, ReflashError
from .const import DOMAIN, EVENT_ROLLOUT_FINISHED, EVENT_UPDATE_FAILED, EVENT_UPDATE_FINISHED
from .coordinator import Hub, ReflashConfigEntry
from .registry import unique_id


@callback
def watch(hass: HomeAssistant, entry: ReflashConfigEntry, hub: Hub) -> Callable[[], None]:
    """Fire an event for each update that ends; returns what ends that."""

    @callback
    def happened(event: Event) -> None:
        if event.kind in {"job.finished", "job.settled"} and event.device is not None:
            _tell_end(hass, hub, event, event.device)
        elif event.kind in {"rollout.finished", "rollout.aborted"}:
            entry.async_create_background_task(hass, _tell_rollout(hass, hub, event), "reflash rollout finished")

    return hub.async_on_event(happened)


@callback
def _tell_end(hass: HomeAssistant, hub: Hub, event: Event, device: str) -> None:
    detail = event.detail
    outcome = detail.get("state") or detail.get("outcome")
    if outcome in SUCCESSES:
        kind = EVENT_UPDATE_FINISHED
    elif outcome in FAILURES:
        kind = EVENT_UPDATE_FAILED
    else:
        # Skipped, cancelled, or its window missed: nothing was tried, so nothing has failed.
        return
    rollout_id = detail.get("rollout")
    known = hub.devices.get(device)
    rollout = hub.rollouts.get(rollout_id) if isinstance(rollout_id, int) else None
    member = rollout.member(device) if rollout else None
    registry = er.async_get(hass)
    told: dict[str, Any] = {
        "device_id": hub.device_entry_id(device),
        "name": detail.get("name") or (known.name if known else device),
        "entity_id": registry.async_get_entity_id("update", DOMAIN, unique_id(hub.server.id, device, "firmware")),
        "from": detail.get("from") or (member.runs if member else None),
        "to": detail.get("to") or (member.firmware if member else None),
        "outcome": outcome,
        "reason": detail.get("reason"),
        "next_step": detail.get("next_step"),
        "rollout_id": rollout_id,
    }
    hass.bus.async_fire(kind, told)


async def _tell_rollout(hass: HomeAssistant, hub: Hub, event: Event) -> None:
    rollout_id = event.detail.get("rollout")
    if not isinstance(rollout_id, int):
        return
    told: dict[str, Any] = {"rollout_id": rollout_id, "state": event.detail.get("state"), "ok": None, "counts": {}}
    try:
        rollout = await hub.client.rollout_of(rollout_id)
    except ReflashError:
        # That it is over is worth telling without them.
        pass
    else:
        told |= {"ok": rollout.ok, "counts": rollout.counts, "name": rollout.name}
    hass.bus.async_fire(EVENT_ROLLOUT_FINISHED, told)
