"""Files that somebody has given to a form."""

from typing import Final

from homeassistant.components.file_upload import process_uploaded_file
from homeassistant.core import HomeAssistant

from .client import ReflashError

ACCEPTED: Final = ".bin,.mbin"
"""What a firmware file ends in."""
MAX_BYTES: Final = 16 << 20
"""The largest image that the server takes (docs/guide/configuration.md, `image_bytes`)."""


async def async_uploaded_file(hass: HomeAssistant, file_id: str) -> tuple[str, bytes]:
    """Return name and bytes of a file; ReflashError where there is none, or it is too large to be firmware."""
    return await hass.async_add_executor_job(_read, hass, file_id)


def _read(hass: HomeAssistant, file_id: str) -> tuple[str, bytes]:
    try:
        with process_uploaded_file(hass, file_id) as path:
            if path.stat().st_size > MAX_BYTES:
                raise ReflashError("the file is larger than 16 MiB and no firmware")
            return path.name, path.read_bytes()
    except ValueError as error:
        raise ReflashError("the file is not there any more", next_step="choose it again") from error
