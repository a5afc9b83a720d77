"""The platform that `notify:` sets up under the name that it is given."""

import json
from typing import Any

from homeassistant.components.notify.legacy import BaseNotificationService
from homeassistant.core import HomeAssistant


async def async_get_service(hass: HomeAssistant, config: Any, discovery_info: Any = None) -> Told:
    """What `notify.NAME` runs."""
    return Told(hass.config.path("notified.jsonl"))


class Told(BaseNotificationService):
    """Appends each message to a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def send_message(self, message: str = "", **words: Any) -> None:
        """One message, one line."""
        with open(self.path, "a", encoding="utf-8") as told:
            told.write(json.dumps({"message": message, **{key: value for key, value in words.items() if value}}) + "\n")
