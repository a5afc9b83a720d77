"""The folder of firmware on this machine, for a server elsewhere: what is dropped into it is brought there."""

import hashlib
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from homeassistant.core import CALLBACK_TYPE, HomeAssistant
from homeassistant.helpers.event import async_track_time_interval

from .client import ReflashError, ReflashUnreachable
from .coordinator import Hub
from .upload import MAX_BYTES

_LOGGER = logging.getLogger(__name__)

LOOK_EVERY: Final = timedelta(seconds=10)
"""The server itself reads its folder so often, since network shares tell of no changes."""
SUFFIXES: Final = frozenset({".bin", ".mbin"})
N_FILES: Final = 1000
"""So many files are looked at; the server keeps to the same number."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a file looked like: while that changes, it is still being copied."""

    mtime_ns: int
    len_bytes: int


class FolderWatch:
    """Brings new files of a folder to a server: first its digest is compared, then the file is sent."""

    def __init__(self, hass: HomeAssistant, hub: Hub, folder: Path) -> None:
        """Prepare; nothing is read yet."""
        self.hass = hass
        self.hub = hub
        self.folder = folder
        self._seen: dict[Path, Seen] = {}
        self._done: dict[Path, Seen] = {}
        self._is_looking = False

    def start(self) -> CALLBACK_TYPE:
        """Look now and then; returns what ends that."""
        return async_track_time_interval(self.hass, self.async_look, LOOK_EVERY, cancel_on_shutdown=True)

    async def async_look(self, _now: datetime | None = None) -> None:
        """Look once, and bring what has come and was the same at the last look."""
        if self._is_looking or not self.hub.available:
            return
        self._is_looking = True
        try:
            found = await self.hass.async_add_executor_job(_list, self.folder)
            still = [path for path, seen in found.items() if self._seen.get(path) == seen]
            self._seen = found
            self._done = {path: seen for path, seen in self._done.items() if found.get(path) == seen}
            for path in still:
                if path not in self._done and await self._async_bring(path):
                    self._done[path] = found[path]
        finally:
            self._is_looking = False

    async def _async_bring(self, path: Path) -> bool:
        """Bring a file; returns whether that need not be tried again."""
        try:
            image = await self.hass.async_add_executor_job(path.read_bytes)
        except OSError as error:
            _LOGGER.warning("%s cannot be read: %s", path, error)
            return True
        digest = hashlib.sha256(image).hexdigest()
        if any(known.sha256 == digest for known in self.hub.firmware.firmware):
            return True
        try:
            brought = await self.hub.client.upload(path.name, image)
        except ReflashUnreachable as error:
            _LOGGER.debug("%s could not be brought, and is tried again: %s", path, error)
            return False
        except ReflashError as error:
            # The file has to change before it is worth another try.
            _LOGGER.warning("The server does not take %s: %s", path, error.detail)
            return True
        for refusal in brought.refusals:
            _LOGGER.warning("The server does not offer %s: %s", path, refusal.text)
        return True


def _list(folder: Path) -> dict[Path, Seen]:
    """Return the firmware files of a folder; what leads out of it is not followed."""
    found: dict[Path, Seen] = {}
    try:
        root = folder.resolve(strict=True)
        entries = sorted(root.iterdir())[:N_FILES]
    except OSError:
        # It need not be there, and a share may be away for a while.
        return found
    for path in entries:
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        try:
            if not path.resolve(strict=True).is_relative_to(root):
                continue
            stat = path.stat()
        except OSError:
            continue
        if path.is_file() and 0 < stat.st_size <= MAX_BYTES:
            found[path] = Seen(stat.st_mtime_ns, stat.st_size)
    return found
