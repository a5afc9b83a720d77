"""The pulse of `failed`, and what happens on Home Assistant's bus."""

import asyncio
from typing import Any

import pytest
from conftest import SetUp
from freezegun.api import FrozenDateTimeFactory
from homeassistant.core import HomeAssistant
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers import device_registry as dr
from pytest_homeassistant_custom_component.common import async_capture_events, async_fire_time_changed
from server import House, image, until
from test_update import history

from custom_components.ir_remote_ota.client import Event as Happened
from custom_components.ir_remote_ota.const import (
    DOMAIN,
    EVENT_ROLLOUT_FINISHED,
    EVENT_UPDATE_FAILED,
    EVENT_UPDATE_FINISHED,
)
from custom_components.ir_remote_ota.pulse import FailurePulse

STATUS = "sensor.ir_remote_update_status"
# Nothing is tried twice with a wrong password, so this fails soon.
BROKEN = ("--fault", "wrong-password")


async def update_all(hass: HomeAssistant) -> None:
    with pytest.raises(HomeAssistantError):
        await hass.services.async_call(DOMAIN, "update_all_devices", {"wait": True}, blocking=True)


async def offered(hass: HomeAssistant, number: int) -> None:
    await until(lambda: hass.states.get("sensor.ir_remote_updates_available").state == str(number), "offers")


async def test_failures_of_a_rollout_are_one_pulse_that_names_the_devices(
    hass: HomeAssistant, home: House, set_up: SetUp
) -> None:
    home.policy = "canary: 0, soak: 1s, max_failures: 5"
    for name in ("Living Room IR", "Bedroom IR"):
        await home.remote(name, *BROKEN)
    await home.serve()
    await home.online()
    entry = await set_up(home)
    failed = async_capture_events(hass, EVENT_UPDATE_FAILED)
    ended = async_capture_events(hass, EVENT_ROLLOUT_FINISHED)
    await home.drop("mini_v2.0.0.bin", image("2.0.0"))
    await offered(hass, 2)
    seen = history(hass, STATUS)
    await update_all(hass)
    await until(lambda: hass.states.get(STATUS).state == "failed")
    state = hass.states.get(STATUS)
    assert sorted(state.attributes["device_name"].split(", ")) == ["Bedroom IR", "Living Room IR"]
    assert len(state.attributes["devices"]) == 2
    assert state.attributes["reason"]
    assert state.attributes["next_step"]
    await until(lambda: hass.states.get(STATUS).state != "failed")
    assert [one.state for one in seen].count("failed") == 1
    # A device is told by its id in Home Assistant, and with everything that a notification wants to say.
    devices = dr.async_entries_for_config_entry(dr.async_get(hass), entry.entry_id)
    living = next(device.id for device in devices if device.name == "Living Room IR")
    told = next(event.data for event in failed if event.data["name"] == "Living Room IR")
    assert told["device_id"] == living
    assert told["entity_id"] == "update.living_room_ir_firmware"
    assert (told["from"], told["to"], told["rollout_id"]) == ("1.0", "2.0.0", 1)
    assert told["outcome"]
    assert told["reason"]
    assert told["next_step"]
    assert len(failed) == 2
    assert [(event.data["rollout_id"], event.data["ok"], sum(event.data["counts"].values())) for event in ended] == [
        (1, False, 2)
    ]


async def test_a_restart_of_server_or_home_assistant_tells_no_failure_again(
    hass: HomeAssistant, home: House, set_up: SetUp
) -> None:
    await home.remote("Living Room IR", *BROKEN)
    await home.serve()
    await home.online()
    entry = await set_up(home)
    await home.drop("mini_v2.0.0.bin", image("2.0.0"))
    await offered(hass, 1)
    await update_all(hass)
    await until(lambda: hass.states.get(STATUS).state == "failed")
    seen = history(hass, STATUS)
    failed = async_capture_events(hass, EVENT_UPDATE_FAILED)
    # In the middle of the pulse.
    await home.kill()
    await until(lambda: hass.states.get(STATUS).state == "unavailable")
    await home.serve()
    await until(lambda: hass.states.get(STATUS).state not in {"unavailable", "failed"})
    assert await hass.config_entries.async_reload(entry.entry_id)
    await asyncio.sleep(1)
    states = [one.state for one in seen if one is not None]
    assert "failed" not in states[states.index("unavailable") :]
    assert failed == []


async def test_a_success_is_told_and_is_no_pulse(hass: HomeAssistant, two: House, set_up: SetUp) -> None:
    await set_up(two)
    finished = async_capture_events(hass, EVENT_UPDATE_FINISHED)
    ended = async_capture_events(hass, EVENT_ROLLOUT_FINISHED)
    await two.drop("mini_v2.0.0.bin", image("2.0.0"))
    await offered(hass, 2)
    seen = history(hass, STATUS)
    await hass.services.async_call(DOMAIN, "update_all_devices", {"wait": True}, blocking=True)
    await until(lambda: len(ended) == 1)
    assert {(event.data["name"], event.data["outcome"], event.data["to"]) for event in finished} == {
        ("Living Room IR", "updated", "2.0.0"),
        ("Bedroom IR", "updated", "2.0.0"),
    }
    assert ended[0].data["counts"] == {"updated": 2}
    assert ended[0].data["ok"] is True
    assert {one.state for one in seen} <= {"running", "idle"}
    assert hass.states.get("sensor.ir_remote_success_rate").state == "100.0"
    await until(lambda: hass.states.get("sensor.ir_remote_compliance").state == "100.0")


# What the pulse does with time is tested without waiting for it.


def ended(device: str, rollout: int | None, state: str = "failed", kind: str = "job.finished") -> Happened:
    detail = {"rollout": rollout, "state": state, "reason": "no answer", "next_step": "Look."}
    return Happened(seq=1, at_ms=1, kind=kind, device=device, detail=detail)


class Watched:
    """A pulse, and what it has shown."""

    def __init__(self, hass: HomeAssistant, freezer: FrozenDateTimeFactory) -> None:
        self.hass, self.freezer = hass, freezer
        self.shown: list[Any] = []
        self.pulse = FailurePulse(hass, self.changed)

    def changed(self) -> None:
        self.shown.append(self.pulse.current.names if self.pulse.current else None)

    async def after(self, seconds: float) -> None:
        self.freezer.tick(seconds)
        async_fire_time_changed(self.hass)
        await self.hass.async_block_till_done()


async def test_the_pulse_gathers_ten_seconds_and_lasts_five(
    hass: HomeAssistant, freezer: FrozenDateTimeFactory
) -> None:
    watched = Watched(hass, freezer)
    watched.pulse.feed(ended("a", 7), "A")
    await watched.after(9)
    watched.pulse.feed(ended("b", 7), "B")
    watched.pulse.feed(ended("b", 7), "B")
    assert watched.shown == []
    await watched.after(2)
    assert watched.shown == [["A", "B"]]
    await watched.after(4)
    assert len(watched.shown) == 1
    await watched.after(2)
    assert watched.shown == [["A", "B"], None]
    watched.pulse.stop()


async def test_two_rollouts_are_two_pulses_with_something_between(
    hass: HomeAssistant, freezer: FrozenDateTimeFactory
) -> None:
    watched = Watched(hass, freezer)
    watched.pulse.feed(ended("a", 7), "A")
    watched.pulse.feed(ended("b", 8), "B")
    for rollout in (7, 8):
        watched.pulse.feed(ended("", rollout, kind="rollout.halted"), "")
    assert watched.shown == [["A"]]
    await watched.after(6)
    await watched.after(2)
    assert watched.shown == [["A"], None, ["B"]]
    watched.pulse.stop()


async def test_offline_skipped_and_missed_window_are_no_failures(
    hass: HomeAssistant, freezer: FrozenDateTimeFactory
) -> None:
    watched = Watched(hass, freezer)
    for state in ("skipped", "cancelled", "missed-window", "updated", "updated-label-unchanged", "already-current"):
        watched.pulse.feed(ended("a", 7, state), "A")
    watched.pulse.feed(ended("a", 7, kind="rollout.finished"), "")
    watched.pulse.feed(ended("a", 7, kind="device.offline"), "A")
    await watched.after(20)
    assert watched.shown == []


async def test_a_pulse_that_is_stopped_tells_nothing(hass: HomeAssistant, freezer: FrozenDateTimeFactory) -> None:
    watched = Watched(hass, freezer)
    watched.pulse.feed(ended("a", 7), "A")
    watched.pulse.feed(ended("", 7, kind="rollout.finished"), "")
    watched.pulse.feed(ended("b", 8), "B")
    watched.pulse.stop()
    await watched.after(20)
    assert watched.shown == [["A"]]
    assert watched.pulse.current is None
