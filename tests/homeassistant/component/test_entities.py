"""What stands in Home Assistant for each device, and under which names."""

from typing import Any

import pytest
from conftest import SetUp
from homeassistant.const import EntityCategory
from homeassistant.core import HomeAssistant
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers import area_registry as ar
from homeassistant.helpers import device_registry as dr
from homeassistant.helpers import entity_registry as er
from pytest_homeassistant_custom_component.common import MockConfigEntry
from server import House, image, until

OF_A_REMOTE = {
    "update": {"firmware"},
    "sensor": {
        "firmware", "status", "free_memory", "uptime", "last_update", "update_state", "last_seen", "signal",
        "ip_address",
    },
    "switch": {"ota", "force_update"},
    "button": {"force_update", "roll_back"},
}  # fmt: skip
OF_THE_SERVER = {
    "latest_firmware", "firmware_available", "update_status", "device_count", "updates_available", "success_rate",
    "compliance",
}  # fmt: skip


def ids(slug: str, entities: dict[str, set[str]]) -> set[str]:
    return {f"{platform}.{slug}_{key}" for platform, keys in entities.items() for key in keys}


def registered(hass: HomeAssistant, entry: MockConfigEntry) -> set[str]:
    entries = er.async_entries_for_config_entry(er.async_get(hass), entry.entry_id)
    return {one.entity_id for one in entries if one.domain != "calendar"}


async def test_two_remotes_have_the_founding_documents_entities(hass: HomeAssistant, two: House, set_up: SetUp) -> None:
    entry = await set_up(two)
    expected = ids("living_room_ir", OF_A_REMOTE) | ids("bedroom_ir", OF_A_REMOTE)
    assert registered(hass, entry) == expected | ids("ir_remote", {"sensor": OF_THE_SERVER})
    for slug in ("living_room_ir", "bedroom_ir"):
        assert hass.states.get(f"sensor.{slug}_firmware").state == "1.0"
        assert hass.states.get(f"sensor.{slug}_status").state == "online"
        assert hass.states.get(f"switch.{slug}_ota").state == "on"
        assert int(hass.states.get(f"sensor.{slug}_free_memory").state) > 0
        assert hass.states.get(f"sensor.{slug}_uptime").attributes["device_class"] == "uptime"
        assert hass.states.get(f"sensor.{slug}_update_state").state == "idle"
        assert hass.states.get(f"sensor.{slug}_last_update").state == "unknown"
        assert hass.states.get(f"update.{slug}_firmware").state == "off"
        # Not there unless their owner asks for them.
        for entity_id in (f"switch.{slug}_force_update", f"sensor.{slug}_signal", f"sensor.{slug}_ip_address"):
            assert hass.states.get(entity_id) is None
            assert er.async_get(hass).async_get(entity_id).disabled
    assert hass.states.get("sensor.ir_remote_device_count").state == "2"
    assert hass.states.get("sensor.ir_remote_latest_firmware").state == "unknown"
    assert hass.states.get("sensor.ir_remote_firmware_available").state == "unknown"
    assert hass.states.get("sensor.ir_remote_update_status").state == "idle"
    for entity_id in ("switch.living_room_ir_ota", "button.living_room_ir_roll_back", "update.living_room_ir_firmware"):
        assert er.async_get(hass).async_get(entity_id).entity_category is EntityCategory.CONFIG


async def test_ids_are_the_same_in_german_and_with_areas(hass: HomeAssistant, two: House, set_up: SetUp) -> None:
    hass.config.language = "de"
    area = ar.async_get(hass).async_create("Wohnzimmer")
    server = await two.client.server()
    living = await two.device("Living Room IR")
    # The device is in an area before its entities come, as after a restart.
    known = MockConfigEntry(domain="ir_remote_ota", unique_id="earlier")
    known.add_to_hass(hass)
    entry = await set_up(two)
    device = dr.async_get(hass).async_get_device_by_identifier(("ir_remote_ota", living.id), entry.entry_id)
    dr.async_get(hass).async_update_device(device.id, area_id=area.id)
    assert await hass.config_entries.async_reload(entry.entry_id)
    expected = ids("living_room_ir", OF_A_REMOTE) | ids("bedroom_ir", OF_A_REMOTE)
    assert registered(hass, entry) == expected | ids("ir_remote", {"sensor": OF_THE_SERVER})
    assert hass.states.get("sensor.living_room_ir_free_memory").name == "Living Room IR Freier Speicher"
    assert server.id == entry.unique_id


async def test_ids_survive_a_new_name(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    home.policy += ", auto_enroll: true"
    home.more = ""
    await home.remote("Nobody", list_it=False)
    await home.serve()
    device = await home.client.add_device({"host": f"{home.net}.1", "name": "Old Name"})
    entry = await set_up(home)
    before = registered(hass, entry)
    assert "sensor.old_name_status" in before
    await home.client.patch_device(device.id, {"name": "New Name"})
    registry = dr.async_get(hass)
    known = registry.async_get_device_by_identifier(("ir_remote_ota", device.id), entry.entry_id)
    await until(lambda: registry.async_get(known.id).name == "New Name")
    assert await hass.config_entries.async_reload(entry.entry_id)
    assert registered(hass, entry) == before
    # What comes only now is called as the others are.
    er.async_get(hass).async_remove("sensor.old_name_free_memory")
    assert await hass.config_entries.async_reload(entry.entry_id)
    assert registered(hass, entry) == before


async def test_a_device_that_nobody_named_is_called_by_its_mac(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    await home.remote("", "--mac", "A0:B1:C2:D3:E4:F5", list_it=False)
    await home.serve()
    await home.client.add_device({"host": f"{home.net}.1"})
    entry = await set_up(home)
    assert ids("ir_remote_mini_d3e4f5", OF_A_REMOTE) <= registered(hass, entry)


async def test_devices_hang_on_the_server_and_lead_to_its_page(hass: HomeAssistant, two: House, set_up: SetUp) -> None:
    entry = await set_up(two)
    devices = dr.async_entries_for_config_entry(dr.async_get(hass), entry.entry_id)
    hub = next(device for device in devices if device.entry_type is dr.DeviceEntryType.SERVICE)
    living = next(device for device in devices if device.name == "Living Room IR")
    assert (hub.name, hub.sw_version) == ("Reflash", (await two.client.server()).version)
    assert living.via_device_id == hub.id
    assert (living.model, living.hw_version, living.sw_version) == ("IR Remote Mini", "esp32c6", "1.0")
    key = (await two.device("Living Room IR")).id
    assert living.configuration_url == f"{two.url}/#/device/{key}"


async def test_a_device_that_comes_is_added_and_one_that_goes_is_removed(
    hass: HomeAssistant, two: House, set_up: SetUp
) -> None:
    entry = await set_up(two)
    await two.remote("Attic", list_it=False)
    added = await two.client.add_device({"host": f"{two.net}.3", "name": "Attic"})
    await until(lambda: hass.states.get("update.attic_firmware"))
    assert ids("attic", OF_A_REMOTE) <= registered(hass, entry)
    await until(lambda: hass.states.get("sensor.ir_remote_device_count").state == "3")
    await two.client.remove_device(added.id)
    await until(lambda: hass.states.get("update.attic_firmware") is None)
    assert not {one for one in registered(hass, entry) if "attic" in one}
    names = {device.name for device in dr.async_entries_for_config_entry(dr.async_get(hass), entry.entry_id)}
    assert names == {"Reflash", "Living Room IR", "Bedroom IR"}
    # It comes again, under its old names.
    await two.client.add_device({"host": f"{two.net}.3", "name": "Attic"})
    await until(lambda: hass.states.get("update.attic_firmware"))


async def test_what_is_not_enrolled_is_not_shown(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    await home.remote("", list_it=False)
    await home.serve()
    added = await home.client.add_device({"host": f"{home.net}.1", "name": "Attic"})
    await set_up(home)
    assert hass.states.get("sensor.ir_remote_device_count").state == "1"
    await home.client._ask("DELETE", "devices", added.id, "enroll")
    await until(lambda: hass.states.get("update.attic_firmware") is None)
    await home.client.enroll([added.id])
    await until(lambda: hass.states.get("update.attic_firmware"))


async def test_a_ventilation_unit_needs_no_python_of_its_own(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    await home.unit("Ventilation")
    await home.serve()
    await home.online()
    entry = await set_up(home)
    found = {one for one in registered(hass, entry) if "ventilation" in one}
    of_a_unit = {
        "update": {"firmware"},
        "sensor": {"firmware", "panel_firmware", "status", "update_state", "last_update", "last_seen", "ip_address"},
        "switch": {"force_update"},
        "button": {"force_update", "roll_back"},
    }
    assert found == ids("ventilation", of_a_unit)
    assert hass.states.get("sensor.ventilation_firmware").state.endswith("1.3.44.70")
    assert hass.states.get("sensor.ventilation_panel_firmware").state.endswith("1.1.5.46")
    assert hass.states.get("sensor.ventilation_panel_firmware").name == "Ventilation Panel firmware"


async def test_a_unit_that_is_too_old_cannot_be_installed_and_says_why(
    hass: HomeAssistant, home: House, set_up: SetUp
) -> None:
    await home.unit("Ventilation", "--controller", "C6_1_3_28_10", "--panel", "P1_1_1_5_10")
    await home.serve()
    await home.online()
    await set_up(home)
    state = hass.states.get("update.ventilation_firmware")
    # Progress and release notes, and neither install nor a specific version.
    assert state.attributes["supported_features"] == 4 | 16
    assert state.attributes["release_summary"]
    with pytest.raises(HomeAssistantError):
        await hass.services.async_call(
            "update", "install", {"entity_id": "update.ventilation_firmware", "version": "1"}, blocking=True
        )


async def test_buttons_force_an_update_and_roll_back(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    simulated = await home.remote("Living Room IR")
    await home.serve()
    await home.online()
    await set_up(home)

    async def press(key: str) -> None:
        data: dict[str, Any] = {"entity_id": f"button.living_room_ir_{key}"}
        await hass.services.async_call("button", "press", data, blocking=True)

    with pytest.raises(HomeAssistantError) as caught:
        await press("roll_back")
    assert caught.value.translation_key == "refused"
    for version in ("2.0.0", "3.0.0"):
        await home.drop(f"mini_v{version}.bin", image(version))
        await until(lambda: hass.states.get("update.living_room_ir_firmware").state == "on")
        await press("force_update")
    await press("force_update")
    assert len(simulated.events("received")) == 3
    await press("roll_back")
    assert hass.states.get("update.living_room_ir_firmware").attributes["installed_version"] == "2.0.0"


async def test_the_switch_that_forces_an_update(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    simulated = await home.remote("Living Room IR", "--rate", "30000")
    await home.serve()
    await home.online()
    entry = await set_up(home)
    switch = "switch.living_room_ir_force_update"
    er.async_get(hass).async_update_entity(switch, disabled_by=None)
    assert await hass.config_entries.async_reload(entry.entry_id)
    await home.drop("mini_v2.0.0.bin", image("2.0.0"))
    await until(lambda: hass.states.get("update.living_room_ir_firmware").state == "on")

    async def turn(state: str) -> None:
        await hass.services.async_call("switch", f"turn_{state}", {"entity_id": switch}, blocking=True)

    assert hass.states.get(switch).state == "off"
    await turn("off")
    await turn("on")
    await until(lambda: hass.states.get(switch).state == "on")
    # An image that is on its way arrives.
    await until(lambda: hass.states.get("sensor.living_room_ir_update_state").state == "uploading")
    await turn("off")
    await until(lambda: hass.states.get(switch).state == "off")
    await until(lambda: hass.states.get("update.living_room_ir_firmware").attributes["installed_version"] == "2.0.0")
    assert len(simulated.events("received")) == 1
    await home.client.pin((await home.device("Living Room IR")).id, "1.0")
    with pytest.raises(HomeAssistantError) as caught:
        await turn("on")
    assert caught.value.translation_key == "refused"


async def test_ota_is_the_wanted_state_and_stays_over_a_restart_of_the_device(
    hass: HomeAssistant, home: House, set_up: SetUp
) -> None:
    simulated = await home.remote("Living Room IR")
    await home.serve()
    await home.online()
    await set_up(home)
    switch = "switch.living_room_ir_ota"
    await hass.services.async_call("switch", "turn_off", {"entity_id": switch}, blocking=True)
    assert hass.states.get(switch).state == "off"
    await simulated.end(kill=True)
    home.programs.remove(simulated)
    await until(lambda: hass.states.get("sensor.living_room_ir_status").state == "offline")
    assert hass.states.get(switch).state == "off"
    await home.remote("Living Room IR", host=1, list_it=False)
    await until(lambda: hass.states.get("sensor.living_room_ir_status").state == "online")
    assert hass.states.get(switch).state == "off"
    assert (await home.device("Living Room IR")).ota_wanted is False
