"""Which image is meant by `firmware_file`: what is no name of one is refused before anything happens."""

from http import HTTPStatus
from pathlib import Path, PurePath
from typing import Any

from .client import ReflashError
from .coordinator import Hub
from .problems import mistake, refused

NOTHING = frozenset({"", "unknown", "unavailable", "none"})
"""What a template makes of a sensor that knows nothing just now."""
LATEST = "latest.bin"
"""The name for the newest approved image of each device, unless a file is really called so."""
CONFIG = "/config"
"""Home Assistant's configuration folder, as it is called in its container."""


def named(value: Any) -> str:
    """Return the word for an image as it was given; a mistake where it is none."""
    # A template turns the version "1.10" into the number 1.1: which image was meant cannot be known any more.
    if not isinstance(value, str):
        raise mistake("firmware_is_number", value=str(value))
    word = value.strip()
    if word.lower() in NOTHING:
        raise mistake("firmware_is_nothing", value=word or '""')
    return word


async def async_resolved(hub: Hub, config_dir: str, word: str) -> str | None:
    """Return what a server calls the image; None for the newest approved one of each device."""
    if PurePath(word).name == LATEST and not await _async_has(hub, LATEST):
        return None
    if "/" not in word:
        return word
    path = _in_home_assistant(config_dir, word)
    if path is None:
        raise mistake("firmware_is_outside", value=word)
    folder = hub.server.firmware_path
    if folder is not None and path.is_relative_to(folder):
        return str(path)
    # The server has a folder of its own, into which the files of this one are brought.
    if hub.folder is not None and path.parent == hub.folder:
        return path.name
    # The server opens no file outside of its folder, and says so.
    return word


def _in_home_assistant(config_dir: str, word: str) -> Path | None:
    path = PurePath(word)
    if ".." in path.parts:
        return None
    if path.is_relative_to(CONFIG):
        return Path(config_dir) / path.relative_to(CONFIG)
    return Path(path)


async def _async_has(hub: Hub, name: str) -> bool:
    try:
        await hub.client.image(name)
    except ReflashError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise refused(error) from error
        return False
    return True
