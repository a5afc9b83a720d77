"""The block of configuration.yaml: handed over whole at every start, its secrets kept by the server alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import SetUp
from homeassistant.config import async_hass_config_yaml
from homeassistant.config_entries import ConfigEntry, ConfigEntryState
from homeassistant.core import HomeAssistant
from homeassistant.setup import async_setup_component
from places import here, issues, nothing_left, placeholders  # noqa: F401 - fixtures
from pytest_homeassistant_custom_component.common import MockConfigEntry
from server import House

from custom_components.ir_remote_ota import yaml_import
from custom_components.ir_remote_ota.client import ReflashError
from custom_components.ir_remote_ota.const import DOMAIN
from custom_components.ir_remote_ota.managed import async_managed
from custom_components.ir_remote_ota.yaml_import import DATA_BLOCK, firmware_folder, local_path, mistakes_of

pytestmark = pytest.mark.usefixtures("here", "nothing_left")

FOUNDING = """\
ir_remote_ota:
  scan_interval: 300  # seconds
  network_range: "192.168.1.0/24"
  firmware_path: "/config/ir_remote_firmware/"
  auto_discovery: false
  update_check_interval: 3600  # seconds
  devices:
    - ip: "192.168.1.100"
      name: "Living Room IR"
    - ip: "192.168.1.101"
      name: "Bedroom IR"
"""


def write(hass: HomeAssistant, block: str, secrets: str = "") -> None:
    Path(hass.config.path("configuration.yaml")).write_text(block)
    Path(hass.config.path("secrets.yaml")).write_text(secrets)


async def begin(hass: HomeAssistant, block: str = FOUNDING, secrets: str = "") -> None:
    """As Home Assistant begins with that file."""
    write(hass, block, secrets)
    config = await async_hass_config_yaml(hass)
    assert await async_setup_component(hass, DOMAIN, config)
    await hass.async_block_till_done()


def the_entry(hass: HomeAssistant) -> ConfigEntry[Any]:
    (entry,) = hass.config_entries.async_entries(DOMAIN)
    return entry


async def block_of_server(hass: HomeAssistant) -> dict[str, Any]:
    client = async_managed(hass).client
    answer = await client._object("GET", "configuration", "home-assistant")
    return dict(answer)


async def test_the_founding_documents_block_alone_sets_everything_up(hass: HomeAssistant) -> None:
    await begin(hass)
    entry = the_entry(hass)
    assert entry.state is ConfigEntryState.LOADED
    names = {device.name: device for device in await async_managed(hass).client.devices()}
    assert set(names) == {"Living Room IR", "Bedroom IR"}
    assert all(device.configured for device in names.values())
    # A path below /config is one of Home Assistant's folder, wherever that is.
    assert (await async_managed(hass).client.server()).firmware_path == hass.config.path("ir_remote_firmware")
    assert Path(hass.config.path("ir_remote_firmware")).is_dir()
    assert issues(hass, "yaml") == []
    # What is listed is nothing that somebody has to look at.
    assert issues(hass, "new_devices") == []


async def test_secrets_reach_the_server_and_nothing_else(hass: HomeAssistant) -> None:
    block = FOUNDING + "      password: !secret bedroom\n  ota_password: !secret all_of_them\n"
    await begin(hass, block, "bedroom: tulip-and-rose\nall_of_them: daffodil-bed\n")
    told = await block_of_server(hass)
    assert set(told["secrets"]) == {"devices[1].password", "ota_password"}
    entry = the_entry(hass)
    for kept in (json.dumps(dict(entry.data)), json.dumps(dict(entry.options)), json.dumps(told)):
        assert "tulip" not in kept
        assert "daffodil" not in kept


async def test_it_is_handed_over_at_every_start_and_taken_back_when_it_is_gone(hass: HomeAssistant) -> None:
    await begin(hass)
    entry = the_entry(hass)
    assert entry.data["yaml"] is True
    hass.data[DATA_BLOCK] = {"devices": [{"ip": "192.168.1.100", "name": "Living Room IR"}]}
    await hass.config_entries.async_reload(entry.entry_id)
    told = await block_of_server(hass)
    assert [device["name"] for device in told["block"]["devices"]] == ["Living Room IR"]
    hass.data[DATA_BLOCK] = None
    await hass.config_entries.async_reload(entry.entry_id)
    assert "devices" not in (await block_of_server(hass))["block"]
    assert entry.data["yaml"] is False


async def test_all_mistakes_are_one_repair_with_their_lines(hass: HomeAssistant) -> None:
    await begin(hass, FOUNDING.replace("scan_interval", "scan_intervall").replace('- ip: "192.168.1.101"', "- ipp: x"))
    entry = the_entry(hass)
    # Everything else works on.
    assert entry.state is ConfigEntryState.LOADED
    (issue,) = issues(hass, "yaml")
    mistakes = placeholders(issue)["mistakes"]
    assert "did you mean `scan_interval`?" in mistakes
    assert "configuration.yaml:2, `scan_intervall`" in mistakes
    assert "configuration.yaml:10, `devices[1].ipp`" in mistakes
    assert issue.is_fixable


async def test_no_mistake_shows_a_password(hass: HomeAssistant) -> None:
    block = FOUNDING + "      password: [tulip-and-rose]\n  ota_password: { daffodil-bed: 1 }\n"
    await begin(hass, block)
    (issue,) = issues(hass, "yaml")
    assert "tulip" not in str(issue)
    assert "daffodil" not in str(issue)


async def test_a_block_that_is_mended_takes_the_repair_away(hass: HomeAssistant) -> None:
    await begin(hass, FOUNDING.replace("scan_interval", "scan_intervall"))
    assert issues(hass, "yaml")
    write(hass, FOUNDING)
    assert await yaml_import.async_read_again(hass)
    entry = the_entry(hass)
    assert await yaml_import.async_import(hass, entry, entry.runtime_data.client)
    assert issues(hass, "yaml") == []


async def test_a_file_that_cannot_be_read_changes_nothing(hass: HomeAssistant) -> None:
    await begin(hass)
    before = hass.data[DATA_BLOCK]
    for wrong in ("ir_remote_ota: [", "ir_remote_ota: 7\n", "ir_remote_ota:\n  a: !secret nowhere\n"):
        write(hass, wrong)
        assert not await yaml_import.async_read_again(hass)
        assert hass.data[DATA_BLOCK] is before
    write(hass, "")
    assert await yaml_import.async_read_again(hass)
    assert hass.data[DATA_BLOCK] is None


async def test_an_empty_block_is_a_block(hass: HomeAssistant) -> None:
    await begin(hass, "ir_remote_ota:\n")
    assert the_entry(hass).data["yaml"] is True


async def test_without_a_block_there_is_no_entry_and_no_repair(hass: HomeAssistant) -> None:
    await begin(hass, "")
    assert hass.config_entries.async_entries(DOMAIN) == []
    assert DATA_BLOCK in hass.data


async def test_a_server_elsewhere_gets_the_block_without_our_paths(
    hass: HomeAssistant, home: House, set_up: SetUp
) -> None:
    await home.serve()
    assert await async_setup_component(hass, DOMAIN, {})
    hass.data[DATA_BLOCK] = {
        "firmware_path": "/config/ir_remote_firmware/",
        "auto_discovery": False,
        "devices": [{"ip": f"{home.net}.9", "name": "Attic IR"}],
    }
    entry = await set_up(home)
    assert entry.data["yaml"] is True
    assert {device.name for device in await home.client.devices()} == {"Attic IR"}
    assert (await home.client.server()).firmware_path == str(home.firmware_path)
    assert entry.runtime_data.folder == Path(hass.config.path("ir_remote_firmware"))
    # And it is taken back there as well.
    hass.data[DATA_BLOCK] = None
    await hass.config_entries.async_reload(entry.entry_id)
    assert entry.data["yaml"] is False
    told = await home.client._object("GET", "configuration", "home-assistant")
    assert not (told.get("block") or {}).get("devices")


async def test_without_a_block_a_server_elsewhere_is_left_alone(
    hass: HomeAssistant, home: House, set_up: SetUp
) -> None:
    await home.serve()
    await home.client.import_block({"devices": [{"ip": f"{home.net}.9", "name": "Of another Home Assistant"}]})
    await set_up(home)
    assert {device.name for device in await home.client.devices()} == {"Of another Home Assistant"}


async def test_a_token_that_may_not_is_told(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    await home.serve()
    async with home.client._session.post(
        f"{home.url}/api/v1/tokens",
        json={"name": "op", "role": "operator"},
        headers={"Authorization": f"Bearer {home.token}"},
    ) as answer:
        token = (await answer.json())["token"]
    server = await home.client.server()
    data = {"mode": "connect", "url": home.url, "token": token, "server_id": server.id}
    entry = MockConfigEntry(domain=DOMAIN, unique_id=server.id, data=data)
    entry.add_to_hass(hass)
    # An entry that is there already is set up along with it.
    assert await async_setup_component(hass, DOMAIN, {DOMAIN: {}})
    assert entry.state is ConfigEntryState.LOADED
    (issue,) = issues(hass, "yaml")
    assert "admin" in placeholders(issue)["mistakes"]


async def test_the_block_is_the_managed_servers_where_there_are_two(
    hass: HomeAssistant, home: House, set_up: SetUp
) -> None:
    await begin(hass)
    await home.serve()
    await set_up(home)
    assert await home.client.devices() == []


def test_a_path_of_a_container_is_one_of_the_configuration(hass: HomeAssistant) -> None:
    inside = Path(hass.config.path("fw"))
    assert local_path(hass, "/config/fw/") == inside
    assert local_path(hass, "fw") == inside
    assert local_path(hass, "/config") == Path(hass.config.config_dir)
    assert local_path(hass, "/configuration/fw") == Path("/configuration/fw")
    hass.data[DATA_BLOCK] = {"firmware_path": 7}
    assert firmware_folder(hass) == Path(hass.config.path("ir_remote_firmware"))


def test_a_folder_elsewhere_is_not_made(hass: HomeAssistant, tmp_path: Path) -> None:
    entry = MockConfigEntry(domain=DOMAIN, data={"mode": "managed"})
    hass.data[DATA_BLOCK] = {"firmware_path": str(tmp_path / "share")}
    body = yaml_import._body(hass, entry, {"devices": ({"ip": "192.168.1.7"},), "at": None})
    assert body == {"devices": [{"ip": "192.168.1.7"}], "at": None, "firmware_path": str(tmp_path / "share")}
    assert not (tmp_path / "share").exists()


def test_many_mistakes_are_told_in_part() -> None:
    mistakes = [{"path": f"devices[{at}].ip", "text": "is no address"} for at in range(30)]
    told = mistakes_of(ReflashError("30 mistakes", problem={"mistakes": mistakes}), {"devices": []})
    assert told.count("\n") == 20
    assert told.endswith("… 10")


def test_an_error_without_a_list_is_told_as_it_is() -> None:
    assert mistakes_of(ReflashError("no disk", next_step="make room"), None) == "- no disk (make room)"
    assert mistakes_of(ReflashError("no disk"), None) == "- no disk"
    told = mistakes_of(ReflashError("x", problem={"mistakes": [{"text": "all of it"}]}), None)
    assert told == "- all of it"
