"""Buttons: install again, and go back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from homeassistant.components.button import ButtonEntity
from homeassistant.const import EntityCategory, Platform
from homeassistant.core import HomeAssistant
from homeassistant.helpers.entity_platform import AddConfigEntryEntitiesCallback

from .client import Device
from .coordinator import Hub, ReflashConfigEntry
from .entity import DeviceEntity, Wanted, follow_devices
from .flash import async_install

PARALLEL_UPDATES = 0


@dataclass(frozen=True)
class Press:
    """A button, and what it wants of the server."""

    key: str
    wanted: dict[str, Any]


PRESSES = (Press("force_update", {"force": True}), Press("roll_back", {"kind": "rollback"}))


async def async_setup_entry(
    hass: HomeAssistant, entry: ReflashConfigEntry, async_add_entities: AddConfigEntryEntitiesCallback
) -> None:
    """Add them for each device."""
    hub = entry.runtime_data

    def make(device: Device, press: Press) -> Callable[[], DeviceButton]:
        return lambda: DeviceButton(hub, device, press)

    def wanted(device: Device) -> list[Wanted]:
        return [(press.key, True, make(device, press)) for press in PRESSES]

    follow_devices(hub, Platform.BUTTON, async_add_entities, wanted)


class DeviceButton(DeviceEntity, ButtonEntity):
    """A button that updates its device."""

    _attr_entity_category = EntityCategory.CONFIG

    def __init__(self, hub: Hub, device: Device, press: Press) -> None:
        super().__init__(hub, device, Platform.BUTTON, press.key)
        self._press = press

    async def async_press(self) -> None:
        """Do it, and return when it is proven."""
        await async_install(self.hub, self.device, **self._press.wanted)
