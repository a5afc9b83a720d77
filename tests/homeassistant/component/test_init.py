"""An entry's life: set up, refused, unloaded, removed, and what becomes of its devices and its server."""

import os
import signal
from typing import Any
from unittest.mock import patch

import pytest
from conftest import SetUp
from homeassistant.config_entries import ConfigEntryState
from homeassistant.core import HomeAssistant
from homeassistant.helpers import device_registry as dr
from places import here, issues, nothing_left, placeholders  # noqa: F401 - fixtures
from pytest_homeassistant_custom_component.common import MockConfigEntry
from server import House, until

from custom_components.ir_remote_ota import async_remove_config_entry_device
from custom_components.ir_remote_ota.client import ReflashClient, ReflashError, Server
from custom_components.ir_remote_ota.const import DOMAIN
from custom_components.ir_remote_ota.coordinator import Hub
from custom_components.ir_remote_ota.managed import async_managed

pytestmark = pytest.mark.usefixtures("here", "nothing_left")


def entry_for(hass: HomeAssistant, house: House, server_id: str, **more: Any) -> MockConfigEntry:
    data = {"mode": "connect", "url": house.url, "token": house.token, "server_id": server_id, **more}
    entry = MockConfigEntry(domain=DOMAIN, title="Reflash", unique_id=server_id, data=data)
    entry.add_to_hass(hass)
    return entry


async def managed_entry(hass: HomeAssistant) -> MockConfigEntry:
    """An entry for a server of our own, whose id is known from an earlier start."""
    server = async_managed(hass)
    told = await (await server.async_use()).server()
    await server.async_leave()
    entry = MockConfigEntry(domain=DOMAIN, title="Reflash", unique_id=told.id, data={"mode": "managed"})
    entry.add_to_hass(hass)
    return entry


async def test_a_server_that_is_away_is_waited_for(hass: HomeAssistant, home: House) -> None:
    await home.serve()
    server = await home.client.server()
    await home.kill()
    entry = entry_for(hass, home, server.id)
    assert not await hass.config_entries.async_setup(entry.entry_id)
    assert entry.state is ConfigEntryState.SETUP_RETRY
    await home.serve()
    await hass.config_entries.async_reload(entry.entry_id)
    assert entry.state is ConfigEntryState.LOADED


async def test_another_server_at_its_place_is_not_taken_for_it(hass: HomeAssistant, home: House) -> None:
    await home.serve()
    entry = entry_for(hass, home, "f" * 32)
    with patch.object(ReflashClient, "import_block") as handed:
        assert not await hass.config_entries.async_setup(entry.entry_id)
    assert entry.state is ConfigEntryState.SETUP_RETRY
    assert entry.error_reason_translation_key == "other_server"
    # Above all it is not handed the secrets of the block.
    handed.assert_not_called()


@pytest.mark.parametrize(("api", "key"), [(0, "server_too_old"), (2, "integration_too_old")])
async def test_a_server_of_another_time_is_a_repair_until_it_is_not(
    hass: HomeAssistant, home: House, api: int, key: str
) -> None:
    await home.serve()
    server = await home.client.server()
    entry = entry_for(hass, home, server.id)
    with patch.object(ReflashClient, "server", return_value=Server.read({**server.raw, "api": api})):
        assert not await hass.config_entries.async_setup(entry.entry_id)
    assert entry.state is ConfigEntryState.SETUP_RETRY
    (issue,) = issues(hass, key)
    assert placeholders(issue)["version"] == server.version
    await hass.config_entries.async_reload(entry.entry_id)
    assert entry.state is ConfigEntryState.LOADED
    assert issues(hass, key) == []


async def test_a_server_from_before_the_contract_is_too_old(hass: HomeAssistant, home: House) -> None:
    await home.serve()
    entry = entry_for(hass, home, (await home.client.server()).id)
    with patch.object(ReflashClient, "server", side_effect=ReflashError("no such route", status=404, type="not-found")):
        assert not await hass.config_entries.async_setup(entry.entry_id)
    assert entry.error_reason_translation_key == "server_too_old"
    assert issues(hass, "server_too_old")
    await hass.config_entries.async_remove(entry.entry_id)
    assert issues(hass, "server_too_old") == []


async def test_a_setup_that_fails_holds_no_server_of_our_own(hass: HomeAssistant) -> None:
    entry = await managed_entry(hass)
    with patch.object(Hub, "async_start", side_effect=ReflashError("no disk")):
        assert not await hass.config_entries.async_setup(entry.entry_id)
    assert entry.state is ConfigEntryState.SETUP_RETRY
    assert async_managed(hass)._process is None
    with patch.object(hass.config_entries, "async_forward_entry_setups", side_effect=ValueError):
        await hass.config_entries.async_reload(entry.entry_id)
    assert entry.state is ConfigEntryState.SETUP_ERROR
    assert async_managed(hass)._process is None


async def test_without_a_program_an_entry_says_so(hass: HomeAssistant) -> None:
    entry = await managed_entry(hass)
    with (
        patch("custom_components.ir_remote_ota.program.program_folders", return_value=[]),
        patch.dict(os.environ, {"PATH": "/nonexistent"}),
    ):
        assert not await hass.config_entries.async_setup(entry.entry_id)
    assert entry.error_reason_translation_key == "managed_no_program"


async def test_a_reload_leaves_one_server(hass: HomeAssistant) -> None:
    entry = await managed_entry(hass)
    assert await hass.config_entries.async_setup(entry.entry_id)
    assert async_managed(hass)._n_users == 1
    await hass.config_entries.async_reload(entry.entry_id)
    assert entry.state is ConfigEntryState.LOADED
    assert async_managed(hass)._n_users == 1


async def test_a_killed_server_is_back_by_itself(hass: HomeAssistant) -> None:
    entry = await managed_entry(hass)
    assert await hass.config_entries.async_setup(entry.entry_id)
    await hass.async_block_till_done()
    hub, server = entry.runtime_data, async_managed(hass)
    before = server.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    await until(lambda: not hub.available, "it is seen to be gone")
    await until(lambda: hub.available, "it is back")
    assert server.pid not in (None, before)
    assert hass.states.get("sensor.ir_remote_device_count").state == "0"


async def test_platforms_that_do_not_unload_keep_everything(hass: HomeAssistant, two: House, set_up: SetUp) -> None:
    entry = await set_up(two)
    with patch.object(hass.config_entries, "async_unload_platforms", return_value=False):
        assert not await hass.config_entries.async_unload(entry.entry_id)
    assert entry.runtime_data.available


async def test_removing_an_entry_takes_back_what_the_server_was_told(
    hass: HomeAssistant, two: House, set_up: SetUp
) -> None:
    entry = await set_up(two)
    hass.config_entries.async_update_entry(entry, data={**entry.data, "yaml": True})
    asked = []

    async def ask(_self: ReflashClient, method: str, *path: str, **_: Any) -> None:
        asked.append((method, path))

    with patch.object(ReflashClient, "_ask", ask):
        await hass.config_entries.async_remove(entry.entry_id)
    assert ("DELETE", ("home-assistant", entry.entry_id)) in asked
    assert ("DELETE", ("configuration", "home-assistant")) in asked
    # The devices of the server are its own.
    assert len(await two.client.devices()) == 2


async def test_removing_an_entry_whose_server_is_away_works(hass: HomeAssistant, two: House, set_up: SetUp) -> None:
    entry = await set_up(two)
    await two.kill()
    await hass.config_entries.async_remove(entry.entry_id)
    assert hass.config_entries.async_entries(DOMAIN) == []


async def test_a_managed_entry_that_is_removed_leaves_its_data_and_no_server(hass: HomeAssistant) -> None:
    entry = await managed_entry(hass)
    assert await hass.config_entries.async_setup(entry.entry_id)
    await hass.config_entries.async_remove(entry.entry_id)
    assert async_managed(hass)._process is None
    assert (async_managed(hass).folder / "reflash.db").exists()


def device_of(hass: HomeAssistant, entry: MockConfigEntry, key: str) -> dr.DeviceEntry:
    devices = dr.async_entries_for_config_entry(dr.async_get(hass), entry.entry_id)
    return next(device for device in devices if (DOMAIN, key) in device.identifiers)


async def test_the_server_and_a_listed_device_cannot_be_removed(hass: HomeAssistant, two: House, set_up: SetUp) -> None:
    entry = await set_up(two)
    hub = entry.runtime_data
    assert not await async_remove_config_entry_device(hass, entry, device_of(hass, entry, hub.server.id))
    living = await two.device("Living Room IR")
    assert not await async_remove_config_entry_device(hass, entry, device_of(hass, entry, living.id))


async def test_a_device_that_was_added_is_forgotten_by_the_server_too(
    hass: HomeAssistant, home: House, set_up: SetUp
) -> None:
    await home.remote("Cellar IR", host=9, list_it=False)
    await home.serve()
    device = await home.client.add_device({"host": f"{home.net}.9", "family": "ir-remote", "name": "Cellar IR"})
    entry = await set_up(home)
    shown = device_of(hass, entry, device.id)
    with patch.object(ReflashClient, "remove_device", side_effect=ReflashError("an update is not over")):
        assert not await async_remove_config_entry_device(hass, entry, shown)
    assert await async_remove_config_entry_device(hass, entry, shown)
    assert await home.client.devices() == []


async def test_a_device_that_the_server_no_longer_knows_may_go(hass: HomeAssistant, two: House, set_up: SetUp) -> None:
    entry = await set_up(two)
    stale = dr.async_get(hass).async_get_or_create(config_entry_id=entry.entry_id, identifiers={(DOMAIN, "gone")})
    assert await async_remove_config_entry_device(hass, entry, stale)
