"""Maintenance windows as a calendar: when updates may begin."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Final, override

from homeassistant.components.calendar import CalendarEntity, CalendarEvent
from homeassistant.const import Platform
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers.entity_platform import AddConfigEntryEntitiesCallback
from homeassistant.util import dt as dt_util

from .client import Event, ReflashError, Window
from .coordinator import Hub, ReflashConfigEntry
from .entity import HubEntity

_LOGGER = logging.getLogger(__name__)

PARALLEL_UPDATES = 0
SCAN_INTERVAL = timedelta(minutes=15)
"""How often the windows are asked for, besides whenever the server tells of a change: its file may have changed."""

WINDOWS: Final = "maintenance_windows"
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
N_DAYS: Final = 400
"""So many days are told of one window at most; nobody looks further."""


@dataclass(frozen=True, slots=True)
class Opening:
    """When a window opens by its own clock."""

    name: str
    opens: str
    start: time
    duration: timedelta
    days: frozenset[int]
    timezone: tzinfo

    def between(self, start: datetime, end: datetime) -> Iterator[CalendarEvent]:
        """Yield when it is open within a time."""
        # One that opened the day before may still be open, as it may go over midnight.
        day = start.astimezone(self.timezone).date() - timedelta(days=1)
        for _ in range(N_DAYS):
            # In real time: a window is open for its length, also while the clocks are changed.
            opened = _instant(datetime.combine(day, self.start, self.timezone))
            if opened >= end:
                return
            closed = opened + self.duration
            if day.weekday() in self.days and closed > start:
                yield CalendarEvent(
                    start=opened.astimezone(self.timezone),
                    end=closed.astimezone(self.timezone),
                    summary=self.name,
                    description=self.opens,
                    uid=f"{self.name}-{day.isoformat()}",
                )
            day += timedelta(days=1)


async def async_setup_entry(
    hass: HomeAssistant, entry: ReflashConfigEntry, async_add_entities: AddConfigEntryEntitiesCallback
) -> None:
    """Add the one calendar of a server."""
    async_add_entities([WindowCalendar(entry.runtime_data)], update_before_add=True)


class WindowCalendar(HubEntity, CalendarEntity):
    """All windows of a server."""

    _attr_should_poll = True

    def __init__(self, hub: Hub) -> None:
        """Begin without a window."""
        super().__init__(hub, Platform.CALENDAR, WINDOWS)
        self._openings: list[Opening] = []

    @override
    async def async_added_to_hass(self) -> None:
        """Ask again whenever the server tells of a change."""
        await super().async_added_to_hass()
        self.async_on_remove(self.hub.async_on_event(self._happened))

    @callback
    def _happened(self, event: Event) -> None:
        if not event.kind.startswith("window."):
            return
        task = self.hass.async_create_background_task(self._async_ask_again(), "reflash windows")

        @callback
        def end() -> None:
            # A late answer would begin to wait for the next opening anew.
            task.cancel()

        self.async_on_remove(end)

    async def _async_ask_again(self) -> None:
        await self.async_update()
        self.async_write_ha_state()

    async def async_update(self) -> None:
        """Ask for the windows."""
        try:
            windows = await self.hub.client.windows()
        except ReflashError as error:
            # Whether the server is gone is found out elsewhere, and shown as unavailable.
            _LOGGER.debug("The windows could not be asked for: %s", error)
            return
        openings = [await _opening(window) for window in windows]
        self._openings = [opening for opening in openings if opening is not None]

    @property
    @override
    def event(self) -> CalendarEvent | None:
        """Return the window that is open, or opens next."""
        now = dt_util.utcnow()
        # A window opens at least once a week, and one that is open now has begun by yesterday.
        events = [event for opening in self._openings for event in opening.between(now, now + timedelta(days=8))]
        return min(events, key=lambda event: event.start_datetime_local, default=None)

    @override
    async def async_get_events(
        self, hass: HomeAssistant, start_date: datetime, end_date: datetime
    ) -> list[CalendarEvent]:
        """Return all openings within a time."""
        events = [event for opening in self._openings for event in opening.between(start_date, end_date)]
        return sorted(events, key=lambda event: event.start_datetime_local)


def _instant(local: datetime) -> datetime:
    """Return when a clock shows a time; where that hour is leapt over, the end of the leap."""
    opened = local.astimezone(UTC)
    if opened.astimezone(local.tzinfo).replace(tzinfo=None) == local.replace(tzinfo=None):
        return opened
    # The later of the two readings of a time that does not exist is the one before the leap.
    instant = local.replace(fold=1).astimezone(UTC)
    after = opened.astimezone(local.tzinfo).utcoffset()
    while instant.astimezone(local.tzinfo).utcoffset() != after:
        instant += timedelta(minutes=1)
    return instant


async def _opening(window: Window) -> Opening | None:
    """Return when a window opens; None for one that never does, or is not understood."""
    named = window.raw.get("timezone")
    timezone = await dt_util.async_get_time_zone(named) if isinstance(named, str) else dt_util.get_default_time_zone()
    start = dt_util.parse_time(str(window.raw.get("start")))
    days = window.raw.get("days")
    if timezone is None or start is None or not isinstance(days, list) or window.raw.get("trouble"):
        return None
    return Opening(
        name=window.name,
        opens=window.opens,
        start=start,
        duration=timedelta(seconds=window.duration_s),
        days=frozenset(DAYS.index(day) for day in days if day in DAYS),
        timezone=timezone,
    )
