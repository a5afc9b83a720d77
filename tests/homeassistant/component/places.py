"""Where a server of Home Assistant's own runs in a test, and how its entry is made."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_socket
from homeassistant.config_entries import ConfigEntryState
from homeassistant.core import HomeAssistant
from homeassistant.helpers import issue_registry as ir
from server import PROGRAM

from custom_components.ir_remote_ota import config_flow, program
from custom_components.ir_remote_ota.const import DOMAIN
from custom_components.ir_remote_ota.managed import async_managed


@pytest.fixture
def here(hass: HomeAssistant, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A configuration whose path is short enough for a socket, the program, and no long search."""
    folder = tempfile.mkdtemp(prefix="rf-")
    pytest_socket.socket_allow_hosts(["127.0.0.1"], allow_unix_socket=True)
    monkeypatch.setattr(hass.config, "config_dir", folder)
    monkeypatch.setattr(config_flow, "SEARCH_S", 0.1)
    monkeypatch.setattr(program, "program_folders", lambda: [Path(PROGRAM).resolve().parent])
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def nothing_left(hass: HomeAssistant, here: Path) -> AsyncIterator[None]:
    """Whatever was set up ends, and with it the servers of our own."""
    yield
    for entry in hass.config_entries.async_entries(DOMAIN):
        if entry.state is ConfigEntryState.LOADED:
            await hass.config_entries.async_unload(entry.entry_id)
    for flow in hass.config_entries.flow.async_progress():
        hass.config_entries.flow.async_abort(flow["flow_id"])
    await hass.async_block_till_done()
    assert async_managed(hass)._process is None


def issues(hass: HomeAssistant, kind: str) -> list[ir.IssueEntry]:
    """The repairs of a kind."""
    found = ir.async_get(hass).issues.values()
    return [issue for issue in found if issue.domain == DOMAIN and issue.active and issue.translation_key == kind]


def placeholders(issue: ir.IssueEntry) -> dict[str, Any]:
    """What a repair says."""
    return dict(issue.translation_placeholders or {})
