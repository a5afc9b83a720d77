"""What somebody who helps may see: nothing that is secret, and nothing that tells a device or a place."""

import json
from typing import Any

import pytest
from conftest import SetUp
from homeassistant.core import HomeAssistant
from homeassistant.helpers import device_registry as dr
from places import here, nothing_left  # noqa: F401 - fixtures
from server import House, image

from custom_components.ir_remote_ota.const import DOMAIN
from custom_components.ir_remote_ota.diagnostics import (
    async_get_config_entry_diagnostics,
    async_get_device_diagnostics,
)

pytestmark = pytest.mark.usefixtures("here", "nothing_left")


async def secrets_of(house: House) -> list[str]:
    """What must not be found anywhere."""
    server = await house.client.server()
    found = [house.token, house.url, server.id]
    for device in await house.client.devices():
        mac = device.mac or ""
        colons = ":".join(mac[at : at + 2] for at in range(0, len(mac), 2))
        found += [mac, mac.upper(), colons, colons.upper(), device.address or ""]
    return [secret for secret in found if secret]


async def test_nothing_secret_is_in_it(hass: HomeAssistant, two: House, set_up: SetUp) -> None:
    await two.drop("mini_v2.0.0.bin", image("2.0.0"))
    entry = await set_up(two)
    rollout = await two.client.rollout({"devices": ["Living Room IR"], "window": None}, key="once")
    await two.client.abort(rollout.id)
    await entry.runtime_data.async_refresh()
    told = json.dumps(await async_get_config_entry_diagnostics(hass, entry), default=str)
    for secret in await secrets_of(two):
        assert secret not in told
    # What helps is there.
    assert "mini_v2.0.0.bin" in told
    assert '"device 1"' in told
    assert "IR Remote Mini" in told


async def test_one_devices_tells_of_it_alone(hass: HomeAssistant, two: House, set_up: SetUp) -> None:
    entry = await set_up(two)
    living = await two.device("Living Room IR")
    devices = dr.async_entries_for_config_entry(dr.async_get(hass), entry.entry_id)
    device = next(device for device in devices if (DOMAIN, living.id) in device.identifiers)
    told = json.dumps(await async_get_device_diagnostics(hass, entry, device), default=str)
    for secret in await secrets_of(two):
        assert secret not in told
    assert "Living Room IR" in told
    assert "Bedroom IR" not in told
    hub = next(device for device in devices if (DOMAIN, entry.runtime_data.server.id) in device.identifiers)
    assert "devices" in await async_get_device_diagnostics(hass, entry, hub)


async def test_one_that_runs_here_tells_of_its_process(hass: HomeAssistant) -> None:
    from test_init import managed_entry

    entry = await managed_entry(hass)
    assert await hass.config_entries.async_setup(entry.entry_id)
    told: dict[str, Any] = await async_get_config_entry_diagnostics(hass, entry)
    assert told["process"] == {"running": True, "adopted": False, "starts": 2}
