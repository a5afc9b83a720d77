"""Home Assistant's registries: a device for the server and for each thing that it updates."""

from collections.abc import Mapping
from typing import Any

from homeassistant.config_entries import ConfigEntry
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers import device_registry as dr
from homeassistant.helpers import entity_registry as er
from homeassistant.util import slugify

from .client import Device, Server
from .const import DOMAIN

STATUS = "status"
"""The key of an entity that every device has from its first day on: it tells the device's first name."""


def unique_id(server_id: str, device: str, key: str) -> str:
    """Return the identity of a device's entity; the server's own entities have its id as device."""
    return f"{server_id}_{device}_{key}"


@callback
def object_id_base(hass: HomeAssistant, server_id: str, device: Device) -> str:
    """Return what the ids of a device's entities begin with: its first name, whatever it is called by now."""
    registry = er.async_get(hass)
    entity_id = registry.async_get_entity_id("sensor", DOMAIN, unique_id(server_id, device.id, STATUS))
    entry = registry.async_get(entity_id) if entity_id else None
    if entry is not None and entry.suggested_object_id and entry.suggested_object_id.endswith(f"_{STATUS}"):
        return entry.suggested_object_id.removesuffix(f"_{STATUS}")
    return slugify(device.name)


class Registrar:
    """Keeps the device registry as the server's inventory is."""

    def __init__(self, hass: HomeAssistant, entry: ConfigEntry[Any]) -> None:
        self._hass = hass
        self._entry = entry
        self._ids: dict[str, str] = {}
        self._written: dict[str, Any] = {}

    @callback
    def entry_id(self, device: str) -> str | None:
        """Return the id of a device in the registry."""
        return self._ids.get(device)

    @callback
    def sync(self, server: Server, devices: Mapping[str, Device]) -> None:
        """Add what came, rename what was renamed, and remove what is gone."""
        page = server.page if server.page and server.page.startswith(("http://", "https://")) else None
        hub = {
            "identifiers": {(DOMAIN, server.id)},
            "entry_type": dr.DeviceEntryType.SERVICE,
            "name": "Reflash",
            "model": server.name or None,
            "sw_version": server.version or None,
            "configuration_url": page,
        }
        self._write(server.id, hub)
        self._remove_others({server.id, *devices})
        for device in devices.values():
            self._write(device.id, self._described(server, device, page))

    def _described(self, server: Server, device: Device, page: str | None) -> dict[str, Any]:
        connections = {(dr.CONNECTION_NETWORK_MAC, dr.format_mac(device.mac))} if device.mac else set()
        return {
            "identifiers": {(DOMAIN, device.id)},
            "connections": connections,
            "name": device.name,
            "model": device.title or device.family,
            "model_id": device.model,
            "sw_version": device.installed.text if device.installed else device.reported_version,
            "hw_version": device.chip,
            "configuration_url": f"{page.rstrip('/')}/#/device/{device.id}" if page else None,
            "via_device_id": self._ids[server.id],
        }

    def _write(self, device: str, described: dict[str, Any]) -> None:
        if self._written.get(device) == described:
            return
        registry = dr.async_get(self._hass)
        entry = registry.async_get_or_create(config_entry_id=self._entry.entry_id, **described)
        self._ids[device] = entry.id
        self._written[device] = described

    def _remove_others(self, kept: set[str]) -> None:
        registry = dr.async_get(self._hass)
        for entry in dr.async_entries_for_config_entry(registry, self._entry.entry_id):
            names = {name for domain, name in entry.identifiers if domain == DOMAIN}
            if not names & kept:
                registry.async_remove_device(entry.id)
                for name in names:
                    self._ids.pop(name, None)
                    self._written.pop(name, None)
