"""The pulse of `failed`: failures of one rollout are one change of state, and it does not stay.

An automation that waits for `to: "failed"` runs once for each, and never because something came back.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers.event import async_call_later

from .client import FAILURES, Event

GATHER_S = 10.0
"""How long the failures of one rollout are gathered (INTERFACES.md 5)."""
PULSE_S = 5.0
"""How long the state is `failed` (INTERFACES.md 5)."""
GAP_S = 1.0
"""How long it is something else between two pulses, so that the second one is a change. Guess."""

ROLLOUT_ENDS = frozenset({"rollout.finished", "rollout.halted", "rollout.aborted"})
"""After these no further failure of the rollout is to be waited for."""


@dataclass(slots=True)
class Failed:
    """Devices of one rollout whose updates have failed."""

    ids: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    next_steps: list[str] = field(default_factory=list)

    def add(self, device: str, name: str, reason: str, next_step: str) -> None:
        """Add one device; what is said already is not said again."""
        for known, value in (
            (self.ids, device),
            (self.names, name),
            (self.reasons, reason),
            (self.next_steps, next_step),
        ):
            if value and value not in known:
                known.append(value)


class FailurePulse:
    """Gathers failures and shows them, one group after the other."""

    def __init__(self, hass: HomeAssistant, changed: Callable[[], None]) -> None:
        self.current: Failed | None = None
        self._hass = hass
        self._changed = changed
        self._gathering: dict[object, tuple[Failed, Callable[[], None]]] = {}
        self._queue: deque[Failed] = deque()
        self._resting: Callable[[], None] | None = None

    @callback
    def feed(self, event: Event, name: str) -> None:
        """Take note of an event; `name` is what its device is called."""
        detail = event.detail
        rollout = detail.get("rollout")
        if event.kind in ROLLOUT_ENDS:
            self._gathered(rollout)
            return
        state = detail.get("state") or detail.get("outcome")
        if event.kind not in {"job.finished", "job.settled"} or state not in FAILURES or event.device is None:
            return
        group = self._gathering.get(rollout)
        if group is None:

            @callback
            def over(_now: object) -> None:
                self._gathered(rollout)

            group = self._gathering[rollout] = (Failed(), async_call_later(self._hass, GATHER_S, over))
        reason = detail.get("reason") or state
        group[0].add(event.device, name, str(reason), str(detail.get("next_step") or ""))

    @callback
    def _gathered(self, rollout: object) -> None:
        group = self._gathering.pop(rollout, None)
        if group is not None:
            group[1]()
            self._queue.append(group[0])
            self._show_next()

    @callback
    def _show_next(self) -> None:
        if self._resting is not None or not self._queue:
            return
        self.current = self._queue.popleft()
        self._resting = async_call_later(self._hass, PULSE_S, self._over)
        self._changed()

    @callback
    def _over(self, _now: object) -> None:
        self.current = None
        self._resting = async_call_later(self._hass, GAP_S, self._rested)
        self._changed()

    @callback
    def _rested(self, _now: object) -> None:
        self._resting = None
        self._show_next()

    @callback
    def cut(self) -> None:
        """Show no longer what is shown: who comes back must not come back into it."""
        if self.current is not None and self._resting is not None:
            self._resting()
            self._over(None)

    @callback
    def stop(self) -> None:
        """Show nothing any more."""
        for _, cancel in self._gathering.values():
            cancel()
        if self._resting is not None:
            self._resting()
        self._gathering.clear()
        self._queue.clear()
        self._resting = None
        self.current = None
