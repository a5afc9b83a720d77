"""Home Assistant in the test, and everything else for real: the server's program and simulated devices."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_socket
from homeassistant.config_entries import ConfigEntryState
from homeassistant.core import HomeAssistant
from pytest_homeassistant_custom_component.common import MockConfigEntry
from server import House, house

import custom_components.ir_remote_ota  # noqa: F401 - before the custom_components of the test's own Home Assistant
from custom_components.ir_remote_ota.const import CONF_MODE, CONF_TOKEN, CONF_URL, DOMAIN, MODE_CONNECT

type SetUp = Callable[[House], Awaitable[MockConfigEntry]]


@pytest.fixture(autouse=True)
def _integrations(enable_custom_integrations: Any, socket_enabled: Any) -> None:
    """Ours is loaded, and 127.0.0.1 and the sockets of folders can be reached: nothing else can."""
    pytest_socket.socket_allow_hosts(["127.0.0.1"], allow_unix_socket=True)


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    """A house without devices and without a running server."""
    async with house(tmp_path / "house") as found:
        yield found


@pytest.fixture
async def set_up(hass: HomeAssistant) -> AsyncIterator[SetUp]:
    """Sets up an entry for a house whose server runs, and unloads it in the end."""
    entries: list[MockConfigEntry] = []

    async def add(found: House) -> MockConfigEntry:
        server = await found.client.server()
        entry = MockConfigEntry(
            domain=DOMAIN,
            title="Reflash",
            unique_id=server.id,
            data={CONF_MODE: MODE_CONNECT, CONF_URL: found.url, CONF_TOKEN: found.token, "server_id": server.id},
        )
        entry.add_to_hass(hass)
        entries.append(entry)
        assert await hass.config_entries.async_setup(entry.entry_id)
        await hass.async_block_till_done()
        return entry

    yield add
    for entry in entries:
        if entry.state is ConfigEntryState.LOADED:
            await hass.config_entries.async_unload(entry.entry_id)
    await hass.async_block_till_done()


@pytest.fixture
async def two(home: House) -> House:
    """A house with the two remotes of the founding document, both online."""
    await home.remote("Living Room IR")
    await home.remote("Bedroom IR")
    await home.serve()
    await home.online()
    return home


@pytest.fixture
async def quiet(home: House, set_up: SetUp) -> tuple[House, MockConfigEntry]:
    """A house with one remote that nobody touches, and its entry."""
    await home.remote("Living Room IR")
    await home.serve()
    await home.online()
    return home, await set_up(home)
