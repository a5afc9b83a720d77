"""Maintenance windows as a calendar, over midnight and through changes of the clock."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from conftest import SetUp
from homeassistant.core import HomeAssistant
from homeassistant.helpers.entity_component import async_update_entity
from server import House, until

from custom_components.ir_remote_ota.calendar import Opening, _opening
from custom_components.ir_remote_ota.client import Window

CALENDAR = "calendar.ir_remote_maintenance_windows"
VILNIUS = ZoneInfo("Europe/Vilnius")


def opening(start: time, hours: int, days: set[int], timezone: ZoneInfo = VILNIUS) -> Opening:
    return Opening("night", "every night", start, timedelta(hours=hours), frozenset(days), timezone)


def spans(found: Opening, start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    return [
        (event.start_datetime_local.astimezone(UTC), event.end_datetime_local.astimezone(UTC))
        for event in found.between(start, end)
    ]


def at(day: int, hour: int, month: int = 11) -> datetime:
    return datetime(2026, month, day, hour, tzinfo=UTC)


def test_it_opens_on_its_days_by_its_own_clock() -> None:
    # 2026-11-23 is a Monday; Vilnius is two hours ahead then.
    found = spans(opening(time(2), 3, {0, 2}), at(22, 0), at(29, 0))
    assert found == [(at(23, 0), at(23, 3)), (at(25, 0), at(25, 3))]


def test_one_that_goes_over_midnight_belongs_to_the_day_on_which_it_opens() -> None:
    # On Sunday at 23:00, that is 21:00 UTC; asked for in the middle of it.
    found = spans(opening(time(23), 4, {6}), at(23, 0), at(23, 1))
    assert found == [(at(22, 21), at(23, 1))]
    assert spans(opening(time(23), 4, {6}), at(23, 1), at(23, 2)) == []


def test_it_is_open_for_its_length_while_the_clocks_are_changed() -> None:
    # On 2026-10-25 the clocks of Vilnius go back from 04:00 to 03:00.
    ((start, end),) = spans(opening(time(2), 3, {6}), at(24, 12, 10), at(25, 12, 10))
    assert end - start == timedelta(hours=3)
    assert start == datetime(2026, 10, 24, 23, tzinfo=UTC)


def test_an_hour_that_does_not_exist_is_leapt_over() -> None:
    # On 2026-03-29 the clocks of Vilnius leap from 03:00 to 04:00.
    ((start, end),) = spans(opening(time(3, 30), 1, {6}), at(28, 12, 3), at(29, 12, 3))
    assert end - start == timedelta(hours=1)
    assert start == datetime(2026, 3, 29, 1, tzinfo=UTC)


def test_an_hour_that_comes_twice_opens_it_once() -> None:
    found = spans(opening(time(3, 30), 1, {6}), at(24, 12, 10), at(25, 12, 10))
    assert found == [(datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 25, 1, 30, tzinfo=UTC))]


def test_the_calendar_of_ever_has_an_end() -> None:
    assert len(spans(opening(time(2), 3, set(range(7))), at(1, 0), at(1, 0) + timedelta(days=4000))) < 401


@pytest.mark.parametrize(
    "raw",
    [
        {"timezone": "Nowhere/Town"},
        {"start": "late"},
        {"days": None},
        {"trouble": {"rule": "window-timezone", "text": "unknown"}},
    ],
)
async def test_one_that_is_not_understood_is_left_out(hass: HomeAssistant, raw: dict[str, object]) -> None:
    known = {"name": "night", "start": "02:00", "days": ["mon"], "duration_s": 60, "timezone": "Europe/Vilnius"}
    assert await _opening(Window.read(known)) is not None
    assert await _opening(Window.read({**known, "timezone": None})) is not None
    assert await _opening(Window.read({**known, **raw})) is None


async def test_windows_are_shown_and_their_changes_as_well(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    await home.serve()
    await home.client.put_window("night", {"start": "00:00", "duration": "24h"})
    entry = await set_up(home)
    # A day long and every day: it is open now.
    state = hass.states.get(CALENDAR)
    assert (state.state, state.attributes["message"]) == ("on", "night")
    answer = await hass.services.async_call(
        "calendar",
        "get_events",
        {"entity_id": CALENDAR, "duration": {"days": 3}},
        blocking=True,
        return_response=True,
    )
    events = answer[CALENDAR]["events"]
    assert [event["summary"] for event in events] == ["night"] * len(events)
    assert len(events) >= 3
    await home.client.remove_window("night")
    await until(lambda: hass.states.get(CALENDAR).state == "off", "the window is gone")
    # While the server is away nothing is known of its windows.
    await home.kill()
    await until(lambda: not entry.runtime_data.available, "it is seen to be gone")
    await async_update_entity(hass, CALENDAR)
    assert hass.states.get(CALENDAR).state == "unavailable"
