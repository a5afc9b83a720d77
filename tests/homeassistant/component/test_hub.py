"""Following a server: it goes, comes back, loses events, or is another."""

import asyncio
import logging
from dataclasses import replace

import pytest
from conftest import SetUp
from homeassistant.config_entries import SOURCE_REAUTH
from homeassistant.core import HomeAssistant
from homeassistant.exceptions import HomeAssistantError
from server import House, image, until

from custom_components.ir_remote_ota.client import Event, FirmwareList, ReflashAuthError, ReflashError
from custom_components.ir_remote_ota.const import DOMAIN

STATES = (
    "update.living_room_ir_firmware",
    "sensor.living_room_ir_status",
    "sensor.living_room_ir_firmware",
    "switch.living_room_ir_ota",
    "button.living_room_ir_roll_back",
    "sensor.ir_remote_update_status",
    "sensor.ir_remote_device_count",
)


async def test_a_server_that_dies_is_told_once_and_comes_back_by_itself(
    hass: HomeAssistant, two: House, set_up: SetUp, caplog: pytest.LogCaptureFixture
) -> None:
    await set_up(two)
    caplog.set_level(logging.INFO)
    caplog.clear()
    await two.kill()
    for entity_id in STATES:
        await until(lambda: hass.states.get(entity_id).state == "unavailable", entity_id)  # noqa: B023
    # Several attempts, and still one line.
    await asyncio.sleep(4)

    def lines(word: str) -> list[str]:
        own = [record for record in caplog.records if record.name.startswith("custom_components.ir_remote_ota")]
        return [record.getMessage() for record in own if word in record.getMessage()]

    assert len(lines("is gone")) == 1
    for call in (("update", "install", STATES[0]), ("switch", "turn_off", STATES[3])):
        # Home Assistant leaves out what is not available: nothing happens, and nothing breaks.
        await hass.services.async_call(call[0], call[1], {"entity_id": call[2]}, blocking=True)
    with pytest.raises(HomeAssistantError) as caught:
        await hass.services.async_call(DOMAIN, "update_all_devices", {}, blocking=True)
    assert caught.value.translation_key == "server_gone"
    await two.serve()
    for entity_id in STATES:
        await until(lambda: hass.states.get(entity_id).state != "unavailable", entity_id)  # noqa: B023
    assert len(lines("is back")) == 1
    # It follows again.
    await two.drop("mini_v2.0.0.bin", image("2.0.0"))
    await until(lambda: hass.states.get("sensor.ir_remote_updates_available").state == "2")


async def test_install_survives_a_server_that_dies_in_mid_update(
    hass: HomeAssistant, home: House, set_up: SetUp
) -> None:
    simulated = await home.remote("Living Room IR", "--boot-s", "3s")
    await home.serve()
    await home.online()
    await set_up(home)
    await home.drop("mini_v2.0.0.bin", image("2.0.0"))
    await until(lambda: hass.states.get(STATES[0]).state == "on")
    installing = hass.async_create_task(
        hass.services.async_call("update", "install", {"entity_id": STATES[0]}, blocking=True)
    )
    await until(lambda: simulated.events("received"))
    await home.kill()
    await until(lambda: hass.states.get(STATES[0]).state == "unavailable")
    await home.serve()
    await installing
    assert hass.states.get(STATES[0]).attributes["installed_version"] == "2.0.0"
    assert len(simulated.events("received")) == 1


async def test_home_assistant_that_starts_in_mid_update_shows_it(
    hass: HomeAssistant, home: House, set_up: SetUp
) -> None:
    await home.remote("Living Room IR", "--boot-s", "2s")
    await home.serve()
    await home.online()
    entry = await set_up(home)
    await home.drop("mini_v2.0.0.bin", image("2.0.0"))
    await until(lambda: hass.states.get(STATES[0]).state == "on")
    await home.client.rollout({"all": True}, "once")
    await until(lambda: hass.states.get("sensor.living_room_ir_update_state").state == "rebooting")
    assert await hass.config_entries.async_reload(entry.entry_id)
    assert hass.states.get(STATES[0]).attributes["in_progress"] is True
    assert hass.states.get("sensor.living_room_ir_status").state == "online"
    await until(lambda: hass.states.get(STATES[0]).attributes["installed_version"] == "2.0.0")
    await until(lambda: hass.states.get(STATES[0]).attributes["in_progress"] is False)
    await until(lambda: hass.states.get("sensor.living_room_ir_update_state").state == "updated")


async def test_a_token_that_is_revoked_asks_to_sign_in_again(hass: HomeAssistant, two: House, set_up: SetUp) -> None:
    made = await two.client._object("POST", "tokens", body={"name": "ha", "role": "admin"})
    entry = await set_up(two)
    hass.config_entries.async_update_entry(entry, data={**entry.data, "token": made["token"]})
    assert await hass.config_entries.async_reload(entry.entry_id)
    await two.client._ask("DELETE", "tokens", str(made["id"]))
    await two.kill()
    await two.serve()
    await until(lambda: [flow for flow in hass.config_entries.flow.async_progress() if flow["handler"] == DOMAIN])
    flow = hass.config_entries.flow.async_progress_by_handler(DOMAIN)[0]
    assert flow["context"]["source"] == SOURCE_REAUTH
    assert hass.states.get(STATES[0]).state == "unavailable"


async def test_another_server_at_the_address_is_not_taken_for_ours(
    hass: HomeAssistant, two: House, set_up: SetUp
) -> None:
    entry = await set_up(two)
    hub = entry.runtime_data
    hass.config_entries.async_update_entry(entry, unique_id="somebody else")
    with pytest.raises(ReflashError) as caught:
        await hub.async_refresh()
    assert caught.value.type == "other-server"


async def test_the_server_is_told_which_devices_are_shown(hass: HomeAssistant, two: House, set_up: SetUp) -> None:
    entry = await set_up(two)
    told: list[list[str]] = []
    client = entry.runtime_data.client

    async def shown(_entry_id: str, ids: list[str]) -> None:
        told.append(ids)

    client.shown = shown
    await two.remote("Attic", list_it=False)
    added = await two.client.add_device({"host": f"{two.net}.3", "name": "Attic"})
    await until(lambda: told and added.id in told[-1])
    assert len(told[-1]) == 3


async def test_a_mistake_in_a_listener_does_not_end_the_following(
    hass: HomeAssistant, two: House, set_up: SetUp, caplog: pytest.LogCaptureFixture
) -> None:
    entry = await set_up(two)

    def broken() -> None:
        raise ValueError("oops")

    leave = entry.runtime_data.async_add_listener(broken)
    await two.drop("mini_v2.0.0.bin", image("2.0.0"))
    await until(lambda: hass.states.get("sensor.ir_remote_updates_available").state == "2")
    leave()
    leave()
    assert "oops" in caplog.text


async def test_a_missed_past_is_asked_for_anew(hass: HomeAssistant, two: House, set_up: SetUp) -> None:
    entry = await set_up(two)
    hub = entry.runtime_data
    await two.drop("mini_v2.0.0.bin", image("2.0.0"))
    await until(lambda: hub.shown and all(device.offered for device in hub.shown.values()))
    hub.devices.clear()
    hub.rollouts.clear()
    await hub._happened(Event(seq=0, at_ms=0, kind="gap", device=None))
    await until(lambda: len(hub.devices) == 2)


async def test_no_answer_while_signed_out_is_an_error_of_its_own(
    hass: HomeAssistant, two: House, set_up: SetUp
) -> None:
    entry = await set_up(two)
    client = entry.runtime_data.client

    async def plan(_body: object) -> None:
        raise ReflashAuthError("revoked", status=401)

    client.plan = plan
    with pytest.raises(HomeAssistantError) as caught:
        await hass.services.async_call(DOMAIN, "plan_update", {}, blocking=True, return_response=True)
    assert caught.value.translation_key == "not_signed_in"


async def test_what_no_event_tells_is_asked_for_now_and_then(
    hass: HomeAssistant, two: House, set_up: SetUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("custom_components.ir_remote_ota.coordinator.POLL_S", 0.3)
    entry = await set_up(two)
    hub = entry.runtime_data
    seen = {device.last_seen_ms for device in hub.devices.values()}
    # The server looks at its devices every 5 s, and tells nobody where nothing has changed.
    await until(lambda: not seen & {device.last_seen_ms for device in hub.devices.values()})


async def test_a_question_that_fails_is_put_again(
    hass: HomeAssistant, two: House, set_up: SetUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = await set_up(two)
    hub = entry.runtime_data
    ask = hub.client.firmware
    n_asked = 0

    async def limited() -> FirmwareList:
        nonlocal n_asked
        n_asked += 1
        if n_asked == 1:
            raise ReflashError("too many requests", status=429)
        return await ask()

    monkeypatch.setattr(hub.client, "firmware", limited)
    await two.drop("mini_v2.0.0.bin", image("2.0.0"))
    await until(lambda: hass.states.get("sensor.ir_remote_latest_firmware").state.endswith("mini_v2.0.0.bin"))
    assert n_asked >= 2
    assert hass.states.get(STATES[0]).state != "unavailable"


async def test_a_device_that_is_gone_when_it_is_asked_for_is_forgotten(
    hass: HomeAssistant, two: House, set_up: SetUp
) -> None:
    entry = await set_up(two)
    hub = entry.runtime_data
    key = next(iter(hub.devices))
    hub.devices["gone"] = replace(hub.devices[key], id="gone", name="Gone", mac=None)
    await hub._happened(Event(seq=9_999, at_ms=0, kind="device.changed", device="gone"))
    await until(lambda: "gone" not in hub.devices)
    # A late word on how far an update was does not make it run again.
    detail = {"job": 7, "state": "soaking"}
    await hub._happened(Event(seq=10_000, at_ms=0, kind="job.started", device=key, detail=detail))
    assert key in hub.running
    await hub._happened(
        Event(seq=10_001, at_ms=0, kind="job.finished", device=key, detail={**detail, "state": "failed"})
    )
    # It is over when what the device runs now is known.
    await until(lambda: key not in hub.running)
    await hub._happened(Event(seq=0, at_ms=0, kind="job.progress", device=key, detail=detail))
    await hub._happened(Event(seq=0, at_ms=0, kind="job.progress", device=None, detail=detail))
    assert key not in hub.running


async def test_a_server_that_is_not_told_what_is_shown_is_told_again(
    hass: HomeAssistant, two: House, set_up: SetUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = await set_up(two)
    hub = entry.runtime_data
    told: list[list[str]] = []

    async def shown(_entry_id: str, ids: list[str]) -> None:
        told.append(ids)
        if len(told) == 1:
            raise ReflashError("no such route", status=404)

    monkeypatch.setattr(hub.client, "shown", shown)
    hub._told_shown = None
    for _ in range(3):
        await hub.async_refresh()
    assert len(told) == 2
