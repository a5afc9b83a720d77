"""Beginning and waiting, while answers and events are lost."""

import asyncio
from typing import Any

import pytest
from conftest import SetUp
from homeassistant.core import HomeAssistant
from homeassistant.exceptions import HomeAssistantError
from server import House, image, until

from custom_components.ir_remote_ota import flash
from custom_components.ir_remote_ota.client import Event, ReflashError, ReflashUnreachable, Rollout

LIVING = "update.living_room_ir_firmware"


@pytest.fixture
async def hub(hass: HomeAssistant, home: House, set_up: SetUp) -> Any:
    await home.remote("Living Room IR")
    await home.serve()
    await home.online()
    entry = await set_up(home)
    await home.drop("mini_v2.0.0.bin", image("2.0.0"))
    await until(lambda: hass.states.get(LIVING).state == "on")
    return entry.runtime_data


async def install(hass: HomeAssistant) -> None:
    await hass.services.async_call("update", "install", {"entity_id": LIVING}, blocking=True)


async def test_a_lost_answer_does_not_begin_twice(hass: HomeAssistant, home: House, hub: Any) -> None:
    begin = hub.client.rollout
    keys = []

    async def lossy(wanted: dict[str, Any], key: str) -> Rollout:
        keys.append(key)
        rollout = await begin(wanted, key)
        if len(keys) == 1:
            raise ReflashUnreachable("the answer was lost")
        return rollout

    hub.client.rollout = lossy
    await install(hass)
    assert keys == [keys[0]] * 2
    assert len(await home.client.rollouts()) == 1
    assert hass.states.get(LIVING).attributes["installed_version"] == "2.0.0"


async def test_where_no_event_comes_the_server_is_asked(
    hass: HomeAssistant, hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flash, "ASK_AGAIN_S", 0.3)

    async def deaf(_event: Event) -> None:
        pass

    monkeypatch.setattr(hub, "_happened", deaf)
    async with asyncio.timeout(20):
        await install(hass)


async def test_a_server_that_stays_away_ends_the_waiting(
    hass: HomeAssistant, home: House, hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flash, "ASK_AGAIN_S", 0.2)
    monkeypatch.setattr(flash, "GONE_S", 0.6)
    installing = hass.async_create_task(install(hass))
    await until(lambda: hub.running)
    await home.kill()
    with pytest.raises(HomeAssistantError) as caught:
        await installing
    assert caught.value.translation_key == "server_gone_meanwhile"


async def test_an_update_that_is_cancelled_ends_install_with_an_error(
    hass: HomeAssistant, home: House, set_up: SetUp
) -> None:
    await home.remote("Living Room IR", "--rate", "20000")
    await home.serve()
    await home.online()
    await set_up(home)
    await home.drop("mini_v2.0.0.bin", image("2.0.0", 200_000))
    await until(lambda: hass.states.get(LIVING).state == "on")
    installing = hass.async_create_task(install(hass))
    await until(lambda: hass.states.get("sensor.living_room_ir_update_state").state == "uploading")
    rollout = (await home.client.rollouts())[0]
    await home.client._ask("POST", "rollouts", str(rollout.id), "abort", body={"force": True})
    with pytest.raises(HomeAssistantError) as caught:
        await installing
    assert caught.value.translation_key == "update_failed"
    # Nothing has failed: a person has ended it.
    assert hass.states.get("sensor.ir_remote_update_status").state != "failed"


async def test_release_notes_come_without_what_cannot_be_had(hass: HomeAssistant, hub: Any) -> None:
    from custom_components.ir_remote_ota.notes import async_notes

    async def refuse(*_: Any) -> None:
        raise ReflashError("gone", status=404)

    await install(hass)
    device = next(iter(hub.devices.values()))
    assert "- " in await async_notes(hub, device)
    hub.client.notes = hub.client.job = refuse
    notes = await async_notes(hub, device)
    assert "**Last update:**" in notes
    assert "- " not in notes


async def test_a_skip_that_the_server_refuses_is_not_shown_as_one(
    hass: HomeAssistant, hub: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(*_: Any) -> None:
        raise ReflashError("this needs the role operator", status=403)

    hub.client.skip = refuse
    await hass.services.async_call("update", "skip", {"entity_id": LIVING}, blocking=True)
    await until(lambda: hass.states.get(LIVING).attributes["skipped_version"] is None)
    assert hass.states.get(LIVING).state == "on"
    assert "role operator" in caplog.text


async def test_what_a_small_role_may_not_do_is_said(hass: HomeAssistant, hub: Any, home: House) -> None:
    made = await home.client._object("POST", "tokens", body={"name": "ha", "role": "viewer"})
    hass.config_entries.async_update_entry(hub.entry, data={**hub.entry.data, "token": made["token"]})
    assert await hass.config_entries.async_reload(hub.entry.entry_id)
    switch = {"entity_id": "switch.living_room_ir_ota"}
    devices = {"device_id": hub.entry.runtime_data.device_entry_id(next(iter(hub.devices)))}
    for domain, name, data in (
        ("update", "install", {"entity_id": LIVING}),
        ("switch", "turn_off", switch),
        ("ir_remote_ota", "update_all_devices", {}),
        ("ir_remote_ota", "disable_ota", devices),
        ("ir_remote_ota", "check_updates", {}),
    ):
        with pytest.raises(HomeAssistantError) as caught:
            await hass.services.async_call(domain, name, data, blocking=True)
        assert caught.value.translation_key == "refused"
        assert "operator" in str(caught.value)
