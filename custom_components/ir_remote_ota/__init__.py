"""Reflash: firmware updates for the devices in a home, by a server that this integration runs or reaches."""

import logging
from contextlib import suppress

from homeassistant.core import HomeAssistant
from homeassistant.exceptions import ConfigEntryAuthFailed, ConfigEntryNotReady
from homeassistant.helpers import device_registry as dr
from homeassistant.helpers import issue_registry as ir
from homeassistant.helpers.typing import ConfigType

from . import actions, events, folder, issues, notifications, yaml_import
from .client import ReflashAuthError, ReflashClient, ReflashError, Server
from .connection import async_close, async_open, is_too_old, misfit, network_client
from .const import CONF_MODE, DOMAIN, MODE_CONNECT, PLATFORMS
from .coordinator import Hub, ReflashConfigEntry
from .managed import ManagedError

_LOGGER = logging.getLogger(__name__)

CONFIG_SCHEMA = yaml_import.CONFIG_SCHEMA


async def async_setup(hass: HomeAssistant, config: ConfigType) -> bool:
    """Register the actions, and take in the block of configuration.yaml."""
    actions.async_setup(hass)
    yaml_import.async_setup(hass, config)
    return True


async def async_setup_entry(hass: HomeAssistant, entry: ReflashConfigEntry) -> bool:
    """Reach the server of an entry, and show what it knows."""
    try:
        client = await async_open(hass, entry.data)
    except ManagedError as error:
        raise _not_ready(f"managed_{error.key}", error.detail) from error
    try:
        hub = await _async_connect(hass, entry, client)
    except BaseException:
        await async_close(hass, entry.data)
        raise
    entry.runtime_data = hub
    try:
        await hass.config_entries.async_forward_entry_setups(entry, PLATFORMS)
    except BaseException:
        await hub.async_stop()
        await async_close(hass, entry.data)
        raise
    entry.async_on_unload(events.watch(hass, hub))
    entry.async_on_unload(issues.watch(hass, entry, hub))
    entry.async_on_unload(notifications.watch(hass, entry, hub))
    if entry.data[CONF_MODE] == MODE_CONNECT:
        entry.async_on_unload(folder.FolderWatch(hass, hub, yaml_import.firmware_folder(hass)).start())
    return True


async def _async_connect(hass: HomeAssistant, entry: ReflashConfigEntry, client: ReflashClient) -> Hub:
    """Make sure that it is the right server and speaks as we do, hand it the block, and ask it for everything."""
    hub = Hub(hass, entry, client)
    try:
        _check(hass, entry, await client.server())
        await yaml_import.async_import(hass, entry, client)
        if entry.data[CONF_MODE] == MODE_CONNECT:
            hub.folder = yaml_import.firmware_folder(hass)
        await hub.async_start()
    except ReflashAuthError as error:
        raise ConfigEntryAuthFailed(
            translation_domain=DOMAIN,
            translation_key="not_signed_in",
            translation_placeholders={"detail": error.detail},
        ) from error
    except ReflashError as error:
        if is_too_old(error):
            issues.tell_misfit(hass, entry, "server_too_old", "–")
            raise _not_ready("server_too_old", error.detail) from error
        raise _not_ready("server_gone", error.detail) from error
    return hub


def _check(hass: HomeAssistant, entry: ReflashConfigEntry, server: Server) -> None:
    if server.id != entry.unique_id:
        raise _not_ready("other_server", server.name)
    if (why := misfit(server)) is not None:
        issues.tell_misfit(hass, entry, why, server.version)
        raise _not_ready(why, server.version)
    ir.async_delete_issue(hass, DOMAIN, issues.misfit_id(entry))


def _not_ready(key: str, detail: str) -> ConfigEntryNotReady:
    return ConfigEntryNotReady(
        translation_domain=DOMAIN, translation_key=key, translation_placeholders={"detail": detail or "–"}
    )


async def async_unload_entry(hass: HomeAssistant, entry: ReflashConfigEntry) -> bool:
    """Show nothing any more; a server of our own ends once what it writes is written."""
    if not await hass.config_entries.async_unload_platforms(entry, PLATFORMS):
        return False
    await entry.runtime_data.async_stop()
    await async_close(hass, entry.data)
    return True


async def async_remove_entry(hass: HomeAssistant, entry: ReflashConfigEntry) -> None:
    """Take back what the server was told of us; its firmware, its history and the devices stay as they are."""
    issues.forget(hass, entry)
    notifications.forget(hass, entry)
    if entry.data[CONF_MODE] != MODE_CONNECT:
        return
    client = network_client(hass, entry.data)
    with suppress(ReflashError):
        await client.forget_shown(entry.entry_id)
        if entry.data.get(yaml_import.CONF_YAML):
            await client.forget_block()


async def async_remove_config_entry_device(
    hass: HomeAssistant, entry: ReflashConfigEntry, device_entry: dr.DeviceEntry
) -> bool:
    """Forget a device; not the server itself, nor one that stands in a configuration, where alone it can go."""
    hub = entry.runtime_data
    keys = {key for domain, key in device_entry.identifiers if domain == DOMAIN}
    if hub.server.id in keys:
        return False
    for key in keys & hub.devices.keys():
        if hub.devices[key].configured:
            return False
        try:
            await hub.client.remove_device(key)
        except ReflashError as error:
            _LOGGER.warning("%s is not removed: %s", hub.devices[key].name, error.detail)
            return False
    return True
