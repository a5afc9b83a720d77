"""Firmware that is dropped into a folder here, for a server elsewhere."""

from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
from conftest import SetUp
from homeassistant.core import HomeAssistant
from homeassistant.util import dt as dt_util
from places import here, nothing_left  # noqa: F401 - fixtures
from pytest_homeassistant_custom_component.common import async_fire_time_changed
from server import House, image, until

from custom_components.ir_remote_ota import folder as subject
from custom_components.ir_remote_ota.client import ReflashClient, ReflashError, ReflashUnreachable
from custom_components.ir_remote_ota.coordinator import Hub
from custom_components.ir_remote_ota.folder import FolderWatch

pytestmark = pytest.mark.usefixtures("here", "nothing_left")


@pytest.fixture
async def hub(home: House, set_up: SetUp) -> Hub:
    await home.serve()
    entry = await set_up(home)
    found: Hub = entry.runtime_data
    return found


@pytest.fixture
def dropped(hass: HomeAssistant) -> Path:
    folder = Path(hass.config.path("ir_remote_firmware"))
    folder.mkdir()
    return folder


@pytest.fixture
def watch(hass: HomeAssistant, hub: Hub, dropped: Path) -> FolderWatch:
    return FolderWatch(hass, hub, dropped)


async def test_a_file_is_brought_by_itself(hass: HomeAssistant, home: House, hub: Hub, dropped: Path) -> None:
    (dropped / "mini_v2.0.0.bin").write_bytes(image("2.0.0"))
    for look in (1, 2, 3):
        async_fire_time_changed(hass, dt_util.utcnow() + timedelta(seconds=11 * look))
        await hass.async_block_till_done()
    await until(lambda: hub.firmware.firmware, "the server has it")
    (kept,) = (await home.client.firmware()).firmware
    assert (kept.file_name, kept.source) == ("mini_v2.0.0.bin", "upload")


async def test_a_file_that_is_still_copied_is_waited_for(home: House, watch: FolderWatch, dropped: Path) -> None:
    whole = image("2.0.0")
    file = dropped / "mini_v2.0.0.bin"
    with patch.object(ReflashClient, "upload") as upload:
        for length in (1000, 2000, len(whole)):
            file.write_bytes(whole[:length])
            await watch.async_look()
        upload.assert_not_called()
        await watch.async_look()
    assert [call.args for call in upload.call_args_list] == [("mini_v2.0.0.bin", whole)]


async def test_the_digest_comes_first(home: House, hub: Hub, watch: FolderWatch, dropped: Path) -> None:
    await home.client.upload("known.bin", image("2.0.0"))
    await hub.async_refresh()
    (dropped / "another_name.bin").write_bytes(image("2.0.0"))
    with patch.object(ReflashClient, "upload") as upload:
        for _ in range(3):
            await watch.async_look()
    upload.assert_not_called()


async def test_what_is_refused_is_not_brought_again_until_it_changes(
    watch: FolderWatch, dropped: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = dropped / "mini_v2.0.0.bin"
    file.write_bytes(b"no firmware")
    with patch.object(ReflashClient, "upload", side_effect=ReflashError("this is text")) as upload:
        for _ in range(4):
            await watch.async_look()
        assert upload.call_count == 1
        assert "this is text" in caplog.text
        file.write_bytes(b"no firmware either")
        for _ in range(3):
            await watch.async_look()
        assert upload.call_count == 2


async def test_what_the_server_does_not_offer_is_said(
    watch: FolderWatch, dropped: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (dropped / "mini_v2.0.0.bin").write_bytes(b"\x00" * 5000)
    for _ in range(3):
        await watch.async_look()
    assert "mini_v2.0.0.bin" in caplog.text


async def test_a_server_that_is_away_is_tried_again(watch: FolderWatch, hub: Hub, dropped: Path) -> None:
    (dropped / "mini_v2.0.0.bin").write_bytes(image("2.0.0"))
    with patch.object(ReflashClient, "upload", side_effect=ReflashUnreachable("gone")) as upload:
        for _ in range(3):
            await watch.async_look()
        assert upload.call_count == 2
        hub.available = False
        await watch.async_look()
        assert upload.call_count == 2
        hub.available = True


async def test_only_firmware_inside_of_the_folder_is_read(
    watch: FolderWatch, dropped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "secrets.bin"
    outside.write_bytes(b"secret")
    (dropped / "link.bin").symlink_to(outside)
    (dropped / "broken.bin").symlink_to(dropped / "nowhere")
    (dropped / ".hidden.bin").write_bytes(b"x")
    (dropped / "notes.txt").write_bytes(b"x")
    (dropped / "empty.bin").write_bytes(b"")
    (dropped / "folder.bin").mkdir()
    monkeypatch.setattr(subject, "MAX_BYTES", 10)
    (dropped / "large.bin").write_bytes(b"x" * 11)
    with patch.object(ReflashClient, "upload") as upload:
        for _ in range(3):
            await watch.async_look()
    upload.assert_not_called()


async def test_a_folder_that_is_not_there_is_none(hass: HomeAssistant, hub: Hub, tmp_path: Path) -> None:
    watch = FolderWatch(hass, hub, tmp_path / "share")
    await watch.async_look()
    assert watch._seen == {}


async def test_a_file_that_cannot_be_read_is_said_once(
    watch: FolderWatch, dropped: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (dropped / "mini_v2.0.0.bin").write_bytes(image("2.0.0"))
    with patch.object(Path, "read_bytes", side_effect=PermissionError("not yours")):
        for _ in range(4):
            await watch.async_look()
    assert caplog.text.count("not yours") == 1


async def test_looks_do_not_overtake_each_other(watch: FolderWatch) -> None:
    watch._is_looking = True
    with patch.object(subject, "_list") as listed:
        await watch.async_look()
    listed.assert_not_called()
