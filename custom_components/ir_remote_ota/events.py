"""What happens to updates, as events on Home Assistant's bus."""

from collections.abc import Callable
from typing import Any

from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers import entity_registry as er

from .client import FAILURES, SUCCESSES, Event
from .const import DOMAIN, EVENT_ROLLOUT_FINISHED, EVENT_UPDATE_FAILED, EVENT_UPDATE_FINISHED
from .coordinator import Hub
from .registry import unique_id

COPIED = ("from", "to", "reason", "next_step")


@callback
def watch(hass: HomeAssistant, hub: Hub) -> Callable[[], None]:
    """Fire an event for each update and each rollout that ends; returns what ends that."""

    @callback
    def happened(event: Event) -> None:
        outcome = event.detail.get("state") or event.detail.get("outcome")
        if event.kind in {"rollout.finished", "rollout.aborted"}:
            hass.bus.async_fire(EVENT_ROLLOUT_FINISHED, _of_rollout(event))
        elif event.device is None:
            pass
        elif event.kind in {"job.finished", "job.settled"} and outcome in FAILURES:
            hass.bus.async_fire(EVENT_UPDATE_FAILED, _of_update(hass, hub, event, event.device))
        # One that was proven late was told as failed before.
        elif event.kind in {"job.finished", "job.settled", "job.corrected"} and outcome in SUCCESSES:
            hass.bus.async_fire(EVENT_UPDATE_FINISHED, _of_update(hass, hub, event, event.device))

    return hub.async_on_event(happened)


def _of_update(hass: HomeAssistant, hub: Hub, event: Event, device: str) -> dict[str, Any]:
    detail = event.detail
    known = hub.devices.get(device)
    identity = unique_id(hub.server.id, device, "firmware")
    return {
        "device_id": hub.device_entry_id(device),
        "name": detail.get("name") or (known.name if known else device),
        "entity_id": er.async_get(hass).async_get_entity_id("update", DOMAIN, identity),
        "outcome": detail.get("state") or detail.get("outcome"),
        "rollout_id": detail.get("rollout"),
        **{key: detail.get(key) for key in COPIED},
    }


def _of_rollout(event: Event) -> dict[str, Any]:
    detail = event.detail
    return {
        "rollout_id": detail.get("rollout"),
        "name": detail.get("name"),
        "state": detail.get("state"),
        "ok": detail.get("ok"),
        "counts": detail.get("counts") or {},
    }
