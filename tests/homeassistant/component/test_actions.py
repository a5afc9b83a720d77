"""The actions: what they accept, refuse and answer."""

from pathlib import Path
from typing import Any

import pytest
from conftest import SetUp
from homeassistant.auth.models import User
from homeassistant.core import Context, HomeAssistant
from homeassistant.exceptions import HomeAssistantError, ServiceValidationError, Unauthorized
from homeassistant.helpers import device_registry as dr
from pytest_homeassistant_custom_component.common import MockConfigEntry
from server import House, image, until

from custom_components.ir_remote_ota.const import DOMAIN


async def act(hass: HomeAssistant, name: str, **data: Any) -> Any:
    return await hass.services.async_call(DOMAIN, name, data, blocking=True, return_response=True)


def device_id(hass: HomeAssistant, entry: MockConfigEntry, name: str) -> str:
    devices = dr.async_entries_for_config_entry(dr.async_get(hass), entry.entry_id)
    return next(device.id for device in devices if device.name == name)


async def offered(hass: HomeAssistant, number: int) -> None:
    def known() -> list[Any]:
        hubs = [entry.runtime_data for entry in hass.config_entries.async_entries(DOMAIN)]
        return [(one.name, one.state, one.offered, one.latest) for hub in hubs for one in hub.devices.values()]

    await until(lambda: hass.states.get("sensor.ir_remote_updates_available").state == str(number), known)


async def test_update_device_answers_with_rollout_and_plan(hass: HomeAssistant, two: House, set_up: SetUp) -> None:
    entry = await set_up(two)
    await two.drop("mini_v2.0.0.bin", image("2.0.0"))
    await offered(hass, 2)
    living = device_id(hass, entry, "Living Room IR")
    answer = await act(hass, "update_device", device_id=living, firmware_file="mini_v2.0.0.bin")
    assert answer["rollout_id"] == 1
    planned = answer["plan"]["devices"]
    assert [(one["device_id"], one["name"], one["from"], one["to"]) for one in planned] == [
        (living, "Living Room IR", "1.0", "2.0.0")
    ]
    assert planned[0]["minutes"] >= 1
    assert answer["plan"]["sentences"]
    assert [one["device_id"] for one in answer["devices"]] == [living]
    await until(lambda: hass.states.get("update.living_room_ir_firmware").attributes["installed_version"] == "2.0.0")
    assert hass.states.get("update.bedroom_ir_firmware").attributes["installed_version"] == "1.0"


async def test_update_all_devices_leaves_out_whom_it_is_told_and_whom_it_does_not_fit(
    hass: HomeAssistant, two: House, set_up: SetUp
) -> None:
    await two.remote("Old", "--chip", "esp32")
    await two.kill()
    await two.serve()
    await two.online()
    entry = await set_up(two)
    await two.drop("mini_v2.0.0.bin", image("2.0.0"))
    await offered(hass, 2)
    answer = await act(
        hass,
        "update_all_devices",
        firmware_file="mini_v2.0.0.bin",
        exclude_devices=device_id(hass, entry, "Bedroom IR"),
        wait=True,
    )
    assert [(one["name"], one["state"]) for one in answer["devices"]] == [("Living Room IR", "updated")]
    skipped = {one["name"]: one for one in answer["plan"]["skipped"]}
    assert {name: one["reason"] for name, one in skipped.items()} == {"Bedroom IR": "excluded", "Old": "wrong-chip"}
    assert skipped["Old"]["text"]
    assert skipped["Old"]["next_step"]
    assert hass.states.get("update.living_room_ir_firmware").attributes["installed_version"] == "2.0.0"
    assert hass.states.get("update.bedroom_ir_firmware").state == "on"


NUMBERS: tuple[Any, ...] = (1.1, 2, True, None, ["a"])
NOTHINGS = ("", "  ", "unknown", "unavailable", "None", "Unknown")


@pytest.mark.parametrize("action", ["update_device", "update_all_devices", "plan_update", "rollback_device"])
async def test_what_names_no_firmware_makes_no_job(
    hass: HomeAssistant, quiet: tuple[House, MockConfigEntry], action: str
) -> None:
    home, entry = quiet
    await home.drop("mini_v2.0.0.bin", image("2.0.0"))
    more = {} if action == "update_all_devices" else {"device_id": device_id(hass, entry, "Living Room IR")}
    for values, key in ((NUMBERS, "firmware_is_number"), (NOTHINGS, "firmware_is_nothing")):
        for value in values:
            with pytest.raises(ServiceValidationError) as caught:
                await act(hass, action, firmware_file=value, **more)
            assert caught.value.translation_key == key, value
    assert await home.client.rollouts() == []


async def test_a_path_outside_of_the_folder_makes_no_job(
    hass: HomeAssistant, quiet: tuple[House, MockConfigEntry]
) -> None:
    home, _ = quiet
    await home.drop("mini_v2.0.0.bin", image("2.0.0"))
    await offered(hass, 1)
    for path in ("/etc/passwd.bin", "/config/../etc/mini_v2.0.0.bin", "/config/other/mini_v2.0.0.bin", "../x.bin"):
        with pytest.raises(HomeAssistantError) as caught:
            await act(hass, "update_all_devices", firmware_file=path)
        assert caught.value.translation_key in {"firmware_is_outside", "refused"}
    assert await home.client.rollouts() == []


async def test_config_means_home_assistants_folder(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    hass.config.config_dir = str(home.folder)
    await home.remote("Living Room IR")
    await home.serve()
    await home.online()
    await set_up(home)
    await home.drop("mini_v2.0.0.bin", image("2.0.0"))
    await home.drop("mini_v3.0.0.bin", image("3.0.0"))
    await until(lambda: hass.states.get("update.living_room_ir_firmware").attributes["latest_version"] == "3.0.0")
    assert hass.states.get("sensor.ir_remote_latest_firmware").state == str(home.firmware_path / "mini_v3.0.0.bin")
    assert hass.states.get("sensor.ir_remote_firmware_available").state == "3.0.0"
    answer = await act(hass, "update_all_devices", firmware_file="/config/firmware/mini_v2.0.0.bin", wait=True)
    assert answer["devices"][0]["state"] == "updated"
    assert hass.states.get("update.living_room_ir_firmware").attributes["installed_version"] == "2.0.0"
    # There is no such file, so it means the newest approved of each device.
    answer = await act(hass, "update_all_devices", firmware_file="/config/firmware/latest.bin", wait=True)
    assert answer["plan"]["devices"][0]["to"] == "3.0.0"
    # What the sensor says is what the founding document's automation sends.
    word = hass.states.get("sensor.ir_remote_latest_firmware").state
    answer = await act(hass, "update_all_devices", firmware_file=word)
    assert answer["rollout_id"] is None
    assert answer["plan"]["skipped"][0]["reason"] == "already-current"
    assert hass.states.get("sensor.ir_remote_firmware_available").state == "unknown"


async def test_latest_bin_is_a_file_where_there_is_one(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    await home.remote("Living Room IR")
    await home.serve()
    await home.online()
    await set_up(home)
    old = image("2.0.0")
    await home.drop("mini_v2.0.0.bin", old)
    await home.drop("mini_v3.0.0.bin", image("3.0.0"))
    (home.firmware_path / "latest.bin").symlink_to("mini_v2.0.0.bin")
    await home.knows("latest.bin")
    answer = await act(hass, "plan_update", firmware_file=str(home.firmware_path / "latest.bin"))
    assert [one["to"] for one in answer["devices"]] == ["2.0.0"]


async def test_a_file_of_home_assistants_folder_is_named_to_a_server_elsewhere(
    hass: HomeAssistant, two: House, set_up: SetUp, tmp_path: Path
) -> None:
    entry = await set_up(two)
    entry.runtime_data.folder = tmp_path / "here"
    await two.client.upload("mini_v2.0.0.bin", image("2.0.0"))
    await offered(hass, 2)
    answer = await act(hass, "plan_update", firmware_file=str(tmp_path / "here" / "mini_v2.0.0.bin"))
    assert {one["to"] for one in answer["devices"]} == {"2.0.0"}


async def test_plan_update_changes_nothing(hass: HomeAssistant, two: House, set_up: SetUp) -> None:
    entry = await set_up(two)
    await two.drop("mini_v2.0.0.bin", image("2.0.0"))
    await offered(hass, 2)
    answer = await act(
        hass, "plan_update", device_id=device_id(hass, entry, "Bedroom IR"), firmware_file="2.0.0", force=True
    )
    assert [one["name"] for one in answer["devices"]] == ["Bedroom IR"]
    assert answer["devices"][0]["way_back"] is False
    assert await two.client.rollouts() == []


async def test_a_failed_rollout_ends_wait_with_an_error_that_names_the_device(
    hass: HomeAssistant, home: House, set_up: SetUp
) -> None:
    await home.remote("Living Room IR", "--fault", "wrong-password")
    await home.serve()
    await home.online()
    await set_up(home)
    await home.drop("mini_v2.0.0.bin", image("2.0.0"))
    await offered(hass, 1)
    with pytest.raises(HomeAssistantError) as caught:
        await act(hass, "update_all_devices", wait=True)
    assert caught.value.translation_key == "rollout_failed"
    assert "Living Room IR" in str(caught.value)


async def test_an_offline_device_is_refused_and_can_be_queued(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    simulated = await home.remote("Living Room IR")
    await home.serve()
    await home.online()
    entry = await set_up(home)
    await home.drop("mini_v2.0.0.bin", image("2.0.0"))
    await offered(hass, 1)
    await simulated.end(kill=True)
    home.programs.remove(simulated)
    await until(lambda: hass.states.get("sensor.living_room_ir_status").state == "offline")
    living = device_id(hass, entry, "Living Room IR")
    with pytest.raises(HomeAssistantError) as caught:
        await act(hass, "update_device", device_id=living)
    assert caught.value.translation_key == "left_out"
    answer = await act(hass, "update_device", device_id=living, when_back={"hours": 1})
    assert answer["rollout_id"] == 1
    await until(lambda: hass.states.get("sensor.living_room_ir_update_state").state == "waiting")
    await home.remote("Living Room IR", host=1, list_it=False)
    await until(lambda: hass.states.get("update.living_room_ir_firmware").attributes["installed_version"] == "2.0.0")


async def test_rollback_device_brings_back_what_ran_before(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    await home.remote("Living Room IR")
    await home.serve()
    await home.online()
    entry = await set_up(home)
    living = device_id(hass, entry, "Living Room IR")
    with pytest.raises(HomeAssistantError) as caught:
        await act(hass, "rollback_device", device_id=living)
    assert caught.value.translation_key == "left_out"
    for version in ("2.0.0", "3.0.0"):
        await home.drop(f"mini_v{version}.bin", image(version))
        await offered(hass, 1)
        await act(hass, "update_device", device_id=living, wait=True)
    answer = await act(hass, "rollback_device", device_id=living, wait=True)
    assert answer["devices"][0]["state"] == "updated"
    assert hass.states.get("update.living_room_ir_firmware").attributes["installed_version"] == "2.0.0"


async def test_ota_is_switched_by_actions_and_by_the_switch(hass: HomeAssistant, two: House, set_up: SetUp) -> None:
    entry = await set_up(two)
    living = device_id(hass, entry, "Living Room IR")
    assert await act(hass, "disable_ota", device_id=living) == {"ota": False, "devices": ["Living Room IR"]}
    assert hass.states.get("switch.living_room_ir_ota").state == "off"
    assert (await two.device("Living Room IR")).ota_wanted is False
    await act(hass, "enable_ota", device_id=[living])
    assert hass.states.get("switch.living_room_ir_ota").state == "on"
    for service, state in (("turn_off", "off"), ("turn_on", "on")):
        await hass.services.async_call("switch", service, {"entity_id": "switch.bedroom_ir_ota"}, blocking=True)
        assert hass.states.get("switch.bedroom_ir_ota").state == state


async def test_check_updates_says_what_is_offered(hass: HomeAssistant, two: House, set_up: SetUp) -> None:
    await set_up(two)
    assert await act(hass, "check_updates") == {"updates_available": 0, "devices": []}
    await two.drop("mini_v2.0.0.bin", image("2.0.0"))
    await offered(hass, 2)
    answer = await act(hass, "check_updates")
    assert answer["updates_available"] == 2
    assert {"name": "Bedroom IR", "from": "1.0", "to": "2.0.0"} in answer["devices"]


async def test_what_is_no_device_of_ours_is_refused(hass: HomeAssistant, quiet: tuple[House, MockConfigEntry]) -> None:
    _, entry = quiet
    for wrong in ("nobody", device_id(hass, entry, "Reflash")):
        with pytest.raises(ServiceValidationError) as caught:
            await act(hass, "update_device", device_id=wrong)
        assert caught.value.translation_key == "not_a_device"


async def test_only_administrators_and_automations(
    hass: HomeAssistant, quiet: tuple[House, MockConfigEntry], hass_read_only_user: User
) -> None:
    with pytest.raises(Unauthorized):
        await hass.services.async_call(
            DOMAIN, "check_updates", {}, blocking=True, context=Context(user_id=hass_read_only_user.id)
        )


async def test_actions_are_there_without_a_server_and_say_so(hass: HomeAssistant) -> None:
    from homeassistant.setup import async_setup_component

    assert await async_setup_component(hass, DOMAIN, {})
    with pytest.raises(ServiceValidationError) as caught:
        await act(hass, "update_all_devices")
    assert caught.value.translation_key == "no_server"


async def test_two_servers_answer_together(hass: HomeAssistant, two: House, set_up: SetUp, tmp_path: Path) -> None:
    from server import house

    await set_up(two)
    async with house(tmp_path / "other") as other:
        await other.remote("Shed IR")
        await other.serve()
        await other.online()
        await set_up(other)
        # The second server's own entities have a number.
        assert hass.states.get("sensor.ir_remote_device_count").state == "2"
        assert hass.states.get("sensor.ir_remote_device_count_2").state == "1"
        for home in (two, other):
            await home.drop("mini_v2.0.0.bin", image("2.0.0"))
        await offered(hass, 2)
        await until(lambda: hass.states.get("sensor.ir_remote_updates_available_2").state == "1")
        answer = await act(hass, "plan_update")
        assert sorted(len(plan["devices"]) for plan in answer["plans"]) == [1, 2]
        answer = await act(hass, "update_all_devices", wait=True)
        assert len(answer["rollouts"]) == 2
        for entry in hass.config_entries.async_entries(DOMAIN):
            if entry.runtime_data.server.id == (await other.client.server()).id:
                await hass.config_entries.async_unload(entry.entry_id)
