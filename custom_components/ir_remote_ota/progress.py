"""How far running updates are, told at most once a second for each device."""

from collections.abc import Callable
from dataclasses import dataclass

from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers.event import async_call_later

from .client import Device, Event

TOLD_EVERY_S = 1.0
"""Every change of an entity is a row in the recorder and a message to each browser (INTERFACES.md 5, Manners)."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running update is; `percent` only while the image is uploaded."""

    rollout: int | None
    job: int | None
    state: str
    percent: int | None

    @classmethod
    def of_event(cls, event: Event) -> Progress:
        """Read it from an event of a job."""
        rollout, job, percent = (event.detail.get(key) for key in ("rollout", "job", "percent"))
        state = event.detail.get("state")
        return cls(
            rollout=rollout if isinstance(rollout, int) else None,
            job=job if isinstance(job, int) else None,
            state=state if isinstance(state, str) else "looking",
            percent=percent if isinstance(percent, int) else None,
        )

    @classmethod
    def of_device(cls, device: Device) -> Progress | None:
        """Read it from what the server says of a device; None where no update runs."""
        job = device.job
        if job is None or not job.running:
            return None
        return cls(rollout=job.rollout, job=job.id, state=job.state, percent=job.percent)


class Pace:
    """Tells of each device at once, and then at most once a second; the last word is always told."""

    def __init__(self, hass: HomeAssistant, tell: Callable[[str], None]) -> None:
        self._hass = hass
        self._tell = tell
        self._resting: dict[str, Callable[[], None]] = {}
        self._again: set[str] = set()

    @callback
    def changed(self, device: str) -> None:
        """Take note of a change that may wait."""
        if device in self._resting:
            self._again.add(device)
            return

        @callback
        def rested(_now: object) -> None:
            del self._resting[device]
            if device in self._again:
                self._again.discard(device)
                self.changed(device)

        self._resting[device] = async_call_later(self._hass, TOLD_EVERY_S, rested)
        self._tell(device)

    @callback
    def stop(self) -> None:
        """Tell nothing any more."""
        for cancel in self._resting.values():
            cancel()
        self._resting.clear()
        self._again.clear()
