"""How a device stands between two versions, in one word."""

from collections.abc import Mapping
from typing import Any

from .client import ENDINGS, Device
from .coordinator import Hub

RUNNING = (
    "queued",
    "waiting",
    "downloading",
    "looking",
    "preparing",
    "uploading",
    "rebooting",
    "verifying",
    "soaking",
    "restoring",
    "putting_back",
)
"""States of a job that has not ended."""

IDLE = "idle"
"""Nothing was ever installed, as far as the server knows."""

STANDINGS = (IDLE, *RUNNING, *sorted(ending.replace("-", "_") for ending in ENDINGS))


def standing_of(hub: Hub, device: Device) -> str | None:
    """Return the state of its update: the one that runs, the one it waits for, or how the last one ended."""
    if (progress := hub.running.get(device.id)) is not None:
        return _known(progress.state)
    if (member := hub.standing(device.id)) is not None:
        return _known(member.state)
    if device.last_update is not None:
        return _known(device.last_update.outcome)
    return IDLE


def standing_attributes(hub: Hub, device: Device) -> Mapping[str, Any]:
    """Return why, what to do, and how far it is."""
    if (progress := hub.running.get(device.id)) is not None:
        return {"reason": None, "next_step": None, "percent": progress.percent}
    if (member := hub.standing(device.id)) is not None:
        return {"reason": member.reason, "next_step": member.next_step, "percent": member.percent}
    last = device.last_update
    return {
        "reason": last.reason if last else None,
        "next_step": last.next_step if last else None,
        "percent": None,
    }


def _known(state: str) -> str | None:
    """Return a state as it is written here; a newer server may have others, which have no name yet."""
    word = state.replace("-", "_")
    return word if word in STANDINGS else None
