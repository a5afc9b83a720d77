"""What Home Assistant knows of one server: asked for once, then kept up by the server's events."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

from homeassistant.config_entries import ConfigEntry
from homeassistant.core import HomeAssistant, callback

from .client import (
    Device,
    Event,
    FirmwareList,
    Member,
    ReflashAuthError,
    ReflashClient,
    ReflashError,
    Rollout,
    Server,
    Stats,
)
from .dirty import Dirty
from .progress import Pace, Progress
from .registry import Registrar

_LOGGER = logging.getLogger(__name__)

POLL_S = 30.0
"""How often the devices are asked for without a cause: signal, memory and last seen are in no event."""
GATHER_S = 0.2
"""How long changes are gathered before they are asked for: events come in groups."""
GATHER_MANY_S = 2.0
"""The same where an answer is large."""
MANY_DEVICES = 100
"""From how many devices on an answer is large. Guess: it is about 150 kB then."""
SINGLY_MAX = 4
"""Up to how many changed devices are asked for one by one."""
BACK_OFF_S = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Waits before each attempt to follow again; the first is at once, so that a mere cut shows nowhere."""

type ReflashConfigEntry = ConfigEntry[Hub]


class Hub:
    """What is known of one server, and who wants to be told of it."""

    server: Server
    firmware: FirmwareList
    stats: Stats

    def __init__(self, hass: HomeAssistant, entry: ReflashConfigEntry, client: ReflashClient) -> None:
        self.hass = hass
        self.entry = entry
        self.client = client
        self.devices: dict[str, Device] = {}
        self.rollouts: dict[int, Rollout] = {}
        self.running: dict[str, Progress] = {}
        self.available = False
        self.folder: Path | None = None
        """The folder of firmware files as Home Assistant sees it; None where it is the server's `firmware_path`."""
        self._steady: dict[str, Device] = {}
        self._ended: dict[str, int] = {}
        self._listeners: dict[str | None, list[Callable[[], None]]] = {}
        self._event_listeners: list[Callable[[Event], None]] = []
        self._device_listeners: list[Callable[[], None]] = []
        self._registrar = Registrar(hass, entry)
        self._dirty = Dirty()
        self._pace = Pace(hass, self._tell_device)
        self._last: int | None = None
        self._told_shown: set[str] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        # One asks at a time: of two answers the older one could come last, and stay.
        self._asking = asyncio.Lock()

    async def async_start(self) -> None:
        """Ask for everything, and follow from then on; ReflashError where the first answer is none."""
        await self._load()
        self.available = True
        self._registrar.sync(self.server, self.shown)
        for name, work in (("events", self._follow()), ("changes", self._keep_up())):
            self._tasks.append(self.entry.async_create_background_task(self.hass, work, f"reflash {name}"))

    async def async_stop(self) -> None:
        """Follow no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self._pace.stop()

    # What is known.

    @property
    def shown(self) -> dict[str, Device]:
        """The devices that are shown: those that their owner has enrolled."""
        return {key: device for key, device in self.devices.items() if device.enrolled}

    def steady(self, device: str) -> Device | None:
        """Return a device as it was before our own update of it began: until that ends it tells nothing of use."""
        return self._steady.get(device)

    def standing(self, device: str) -> Member | None:
        """Return how a device stands in a rollout that is not over."""
        for rollout in sorted(self.rollouts.values(), key=lambda rollout: -rollout.id):
            if rollout.is_open and (member := rollout.member(device)) and not member.has_ended:
                return member
        return None

    # Who wants to be told.

    @callback
    def async_add_listener(self, listener: Callable[[], None], device: str | None = None) -> Callable[[], None]:
        """Call a listener on every change, or on those of one device; returns what ends that."""
        return _join(self._listeners.setdefault(device, []), listener)

    @callback
    def async_on_event(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call a listener with every event of the server that was not known before; returns what ends that."""
        return _join(self._event_listeners, listener)

    @callback
    def async_on_devices(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call a listener when a device may have come, gone, or learned something; returns what ends that."""
        return _join(self._device_listeners, listener)

    @callback
    def device_entry_id(self, device: str | None = None) -> str | None:
        """Return the id of a device in Home Assistant's registry, or of the server itself."""
        return self._registrar.entry_id(self.server.id if device is None else device)

    @callback
    def _tell_device(self, device: str) -> None:
        _call(self._listeners.get(device, ()))
        _call(self._listeners.get(None, ()))

    @callback
    def _tell_all(self, *, at_once: bool = False) -> None:
        # First what is there, so that entities which come find their device, and those which go are not told.
        self._registrar.sync(self.server, self.shown)
        _call(self._device_listeners)
        for device, listeners in list(self._listeners.items()):
            if device in self.running and not at_once:
                self._pace.changed(device)
            else:
                _call(listeners)

    # What is asked for.

    async def async_refresh(self) -> None:
        """Ask for everything now; ReflashError where the answer is none."""
        await self._load()
        self._tell_all()

    @callback
    def async_took(self, device: Device) -> None:
        """Take over a device as a command has answered it."""
        self._take(device)
        self._tell_all()

    @callback
    def async_took_rollout(self, rollout: Rollout) -> None:
        """Take over a rollout as a command has answered it."""
        self.rollouts[rollout.id] = rollout
        self._tell_all()

    async def _load(self) -> None:
        async with self._asking:
            await self._load_all()

    async def _load_all(self) -> None:
        server = await self.client.server()
        expected = self.entry.unique_id
        if expected is not None and server.id != expected:
            raise ReflashError("another server answers at this address", type="other-server")
        self.server = server
        await self._load_devices()
        self.firmware = await self.client.firmware()
        self.stats = await self.client.stats()
        summaries = await self.client.rollouts()
        self.rollouts = {rollout.id: self.rollouts.get(rollout.id, rollout) for rollout in summaries}
        for rollout in summaries:
            if rollout.is_open or self.rollouts[rollout.id].is_open:
                self.rollouts[rollout.id] = await self.client.rollout_of(rollout.id)
        await self._tell_server()

    async def _load_devices(self) -> None:
        devices = await self.client.devices()
        left = self.devices.keys() - {device.id for device in devices}
        for key in left:
            self._forget(key)
        for device in devices:
            self._take(device)

    @callback
    def _take(self, device: Device) -> None:
        known = self.running.get(device.id)
        progress = Progress.of_device(device)
        if known is not None and (known.job or 0) <= self._ended.get(device.id, 0):
            del self.running[device.id]
        elif progress is not None:
            self._runs(device.id, progress)
        elif known is not None and device.job is not None and (device.job.id or 0) >= (known.job or 0):
            del self.running[device.id]
        self.devices[device.id] = device
        if device.id not in self.running:
            self._steady[device.id] = device
        elif device.id not in self._steady:
            # The first look falls into an update: that it does not answer now says nothing.
            self._steady[device.id] = replace(device, state="online")

    @callback
    def _runs(self, device: str, progress: Progress) -> None:
        # How far it is and how it ended come on two ways, and the last word of the one may come after the other.
        if (progress.job or 0) > self._ended.get(device, 0):
            self.running[device] = progress

    @callback
    def _ends(self, device: str, job: object) -> None:
        # It is over when the device's new words are here: in between it would be offered what it runs already.
        if isinstance(job, int):
            self._ended[device] = max(job, self._ended.get(device, 0))
        else:
            self.running.pop(device, None)

    @callback
    def _forget(self, device: str) -> None:
        for known in (self.devices, self._steady, self.running, self._ended):
            known.pop(device, None)

    async def _tell_server(self) -> None:
        """Say which devices are shown here, so that they are not announced by MQTT as well."""
        shown = set(self.shown)
        if shown == self._told_shown:
            return
        try:
            await self.client.shown(self.entry.entry_id, sorted(shown))
        except ReflashAuthError:
            raise
        except ReflashError as error:
            _LOGGER.debug("The server was not told which devices are shown: %s", error)
            return
        self._told_shown = shown

    # What is followed.

    async def _follow(self) -> None:
        n_failures = 0
        while True:
            try:
                async with aclosing(self.client.events(self._last)) as events:
                    async for event in events:
                        await self._happened(event)
                        n_failures = 0
                reason = "it has ended the stream of events"
            except ReflashAuthError as error:
                self._gone(str(error))
                self.entry.async_start_reauth(self.hass)
                return
            except ReflashError as error:
                reason = str(error)
            if n_failures > 0:
                self._gone(reason)
            await asyncio.sleep(BACK_OFF_S[min(n_failures, len(BACK_OFF_S) - 1)])
            n_failures += 1

    @callback
    def _gone(self, reason: str) -> None:
        if self.available:
            self.available = False
            _LOGGER.warning("The Reflash server %s is gone: %s", self.server.name, reason)
            self._tell_all(at_once=True)

    async def _happened(self, event: Event) -> None:
        if event.kind == "hello":
            await self._greeted(event)
        elif event.kind == "gap":
            self._dirty.all()
        elif event.kind == "job.progress":
            self._progressed(event)
        else:
            self._last = event.seq
            self._changed(event)
        if event.seq > 0:
            _call(self._event_listeners, event)

    async def _greeted(self, event: Event) -> None:
        last = event.detail.get("last")
        if isinstance(last, int) and (self._last is None or last < self._last):
            self._last = last
        self._told_shown = None
        await self._load()
        if not self.available:
            self.available = True
            _LOGGER.info("The Reflash server %s is back", self.server.name)
        self._tell_all(at_once=True)

    @callback
    def _progressed(self, event: Event) -> None:
        if event.device is None:
            return
        progress = Progress.of_event(event)
        self._runs(event.device, progress)
        self._pace.changed(event.device)

    @callback
    def _changed(self, event: Event) -> None:
        area = event.kind.partition(".")[0]
        if event.kind == "device.removed" or (area == "device" and event.device is None):
            self._dirty.all_devices()
        elif event.device is not None:
            self._dirty.device(event.device)
        if area == "firmware":
            # What fits a device changes with it, also where that is not offered and so in no event of the device.
            self._dirty.firmware()
            self._dirty.all_devices()
        rollout = event.detail.get("rollout")
        if isinstance(rollout, int):
            self._dirty.rollout(rollout)
        if event.device is None or area != "job":
            return
        if event.kind == "job.started":
            self._runs(event.device, Progress.of_event(event))
            self._pace.changed(event.device)
        elif event.kind in JOB_ENDS:
            self._ends(event.device, event.detail.get("job"))
            self._dirty.stats()

    async def _keep_up(self) -> None:
        """Ask for what has changed, and now and then for what no event tells."""
        while True:
            if not await self._dirty.wait(POLL_S):
                self._dirty.all_devices()
            await asyncio.sleep(GATHER_MANY_S if len(self.devices) > MANY_DEVICES else GATHER_S)
            if not self.available:
                # All of it is asked for when the server is back.
                self._dirty.take()
                continue
            try:
                async with self._asking:
                    await self._fetch()
            except ReflashError as error:
                # Whoever follows finds out whether the server is gone.
                _LOGGER.debug("What has changed could not be asked for: %s", error)
                self._dirty.all()
                await asyncio.sleep(BACK_OFF_S[1])

    async def _fetch(self) -> None:
        dirty = self._dirty.take()
        if dirty.is_all_devices or len(dirty.devices) > SINGLY_MAX:
            await self._load_devices()
        else:
            for key in dirty.devices:
                await self._load_device(key)
        if dirty.is_firmware:
            self.firmware = await self.client.firmware()
        if dirty.is_stats:
            self.stats = await self.client.stats()
        if dirty.is_all_rollouts:
            dirty.rollouts |= {rollout.id for rollout in await self.client.rollouts()}
        for rollout in sorted(dirty.rollouts):
            self.rollouts[rollout] = await self.client.rollout_of(rollout)
        await self._tell_server()
        self._tell_all()

    async def _load_device(self, key: str) -> None:
        try:
            self._take(await self.client.device(key))
        except ReflashError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            self._forget(key)


JOB_ENDS = frozenset({"job.finished", "job.settled", "job.corrected"})
"""Events that tell how an update of a device has ended."""


def _call[**P](listeners: Iterable[Callable[P, None]], *arguments: P.args, **named: P.kwargs) -> None:
    """Call them all: a mistake in one must not end the following of the server, which all others live from."""
    for listener in list(listeners):
        try:
            listener(*arguments, **named)
        except Exception:
            _LOGGER.exception("What is known of the server could not be shown")


def _join[T](listeners: list[T], listener: T) -> Callable[[], None]:
    listeners.append(listener)

    @callback
    def leave() -> None:
        if listener in listeners:
            listeners.remove(listener)

    return leave
