"""The list of found devices, of which somebody says which are his."""

from collections.abc import Iterable
from typing import Final

import probatio as vol
from homeassistant.helpers.selector import SelectOptionDict, SelectSelector, SelectSelectorConfig, SelectSelectorMode

from .client import Device

CONF_DEVICES: Final = "devices"
CONF_LEFT_OUT: Final = "left_out"
"""In an entry's options: devices of which somebody has said that they are not his; they are not asked about again."""


def candidates(devices: Iterable[Device], not_ours: Iterable[str]) -> list[Device]:
    """Return the devices that could be enrolled, by name; one that is listed somewhere is enrolled by itself."""
    refused = set(not_ours)
    found = (device for device in devices if not (device.enrolled or device.configured or device.conflict))
    return sorted((device for device in found if device.id not in refused), key=lambda device: device.name.casefold())


def device_schema(devices: list[Device]) -> vol.Schema:
    """Return a form with all of them, ticked."""
    options = [SelectOptionDict(value=device.id, label=label(device)) for device in devices]
    selector = SelectSelector(
        SelectSelectorConfig(options=options, multiple=True, mode=SelectSelectorMode.LIST, sort=False)
    )
    return vol.Schema({vol.Required(CONF_DEVICES, default=[device.id for device in devices]): selector})


def label(device: Device) -> str:
    """Return what a device is told apart by."""
    told = [device.title] if device.title and device.title not in device.name else []
    told += [word for word in (device.address, device.reported_version) if word]
    return f"{device.name} ({', '.join(told)})" if told else device.name


def left_out(devices: Iterable[Device], ticked: Iterable[str]) -> list[str]:
    """Return those that were shown and not ticked."""
    ours = set(ticked)
    return [device.id for device in devices if device.id not in ours]
