"""What somebody who helps may see: no secrets, no hardware addresses, no places in the network."""

from typing import Any, Final

from homeassistant.components.diagnostics import REDACTED, async_redact_data
from homeassistant.core import HomeAssistant
from homeassistant.helpers import device_registry as dr

from .connection import CONF_FINGERPRINT
from .const import CONF_MODE, CONF_SERVER_ID, CONF_TOKEN, CONF_URL, DOMAIN, MODE_MANAGED
from .coordinator import Hub, ReflashConfigEntry
from .managed import async_managed

SECRET: Final = {
    CONF_TOKEN,
    CONF_URL,
    CONF_SERVER_ID,
    CONF_FINGERPRINT,
    "address",
    "created_by",
    "approved_by",
    "host_name",
    "identity",
    "ip",
    "host",
    "mac",
    "ota_password",
    "page",
    "password",
    "peer",
    "serial",
    "ssid",
    "unique_id",
    "username",
    "left_out",
    "mended",
}
"""Keys whose values are taken out, wherever they stand."""


async def async_get_config_entry_diagnostics(hass: HomeAssistant, entry: ReflashConfigEntry) -> dict[str, Any]:
    """Return what is known of an entry and its server."""
    hub = entry.runtime_data
    aliases = _aliases(hub)
    told = {
        "entry": {"data": dict(entry.data), "options": dict(entry.options)},
        "available": hub.available,
        "server": hub.server.raw,
        "process": _process(hass, entry),
        "devices": {aliases[device.id]: device.raw for device in hub.devices.values()},
        "firmware": hub.firmware.raw,
        "rollouts": [rollout.raw for rollout in hub.rollouts.values()],
        "stats": hub.stats.raw,
    }
    return _hidden(told, _words(hub))


async def async_get_device_diagnostics(
    hass: HomeAssistant, entry: ReflashConfigEntry, device: dr.DeviceEntry
) -> dict[str, Any]:
    """Return what is known of one device; of the hub, what is known of the entry."""
    hub = entry.runtime_data
    key = next((key for domain, key in device.identifiers if domain == DOMAIN and key in hub.devices), None)
    if key is None:
        return await async_get_config_entry_diagnostics(hass, entry)
    told = {
        "server": hub.server.raw,
        "device": hub.devices[key].raw,
        "rollouts": [
            {"id": rollout.id, "state": rollout.state, "member": member.__class__.__name__, "how": member.state}
            for rollout in hub.rollouts.values()
            if (member := rollout.member(key)) is not None
        ],
    }
    return _hidden(told, _words(hub))


def _process(hass: HomeAssistant, entry: ReflashConfigEntry) -> dict[str, Any] | None:
    if entry.data[CONF_MODE] != MODE_MANAGED:
        return None
    server = async_managed(hass)
    return {"running": server.pid is not None, "adopted": server.adopted, "starts": server.n_starts}


def _aliases(hub: Hub) -> dict[str, str]:
    """Return a word for each device that tells nothing of it; its own key is mostly its hardware address."""
    return {key: f"device {at}" for at, key in enumerate(sorted(hub.devices), 1)}


def _words(hub: Hub) -> dict[str, str]:
    """Return what is exchanged wherever it stands in a text, and by what."""
    words: dict[str, str] = {hub.server.id: REDACTED, hub.server.name: REDACTED}
    for key, alias in _aliases(hub).items():
        device = hub.devices[key]
        words[key] = alias
        if device.mac:
            colons = ":".join(device.mac[at : at + 2] for at in range(0, len(device.mac), 2))
            words |= dict.fromkeys((device.mac, colons, colons.upper(), device.mac.upper()), alias)
        words |= {word: REDACTED for word in (device.address, device.host_name) if word}
    words.pop("", None)
    return words


def _hidden(told: dict[str, Any], words: dict[str, str]) -> dict[str, Any]:
    redacted: dict[str, Any] = _exchanged(async_redact_data(told, SECRET), words)
    return redacted


def _exchanged(node: Any, words: dict[str, str]) -> Any:
    if isinstance(node, dict):
        return {_exchanged(key, words): _exchanged(value, words) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_exchanged(value, words) for value in node]
    if isinstance(node, str):
        # The longest first, so that no part of one is left over.
        for word in sorted(words, key=len, reverse=True):
            node = node.replace(word, words[word])
    return node
