"""The block `ir_remote_ota:` of configuration.yaml, handed to the server whole at every start."""

import logging
from pathlib import Path
from typing import Any, Final

import probatio as vol
from homeassistant.config import async_hass_config_yaml
from homeassistant.config_entries import SOURCE_IMPORT, ConfigEntry
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers import issue_registry as ir
from homeassistant.util.hass_dict import HassKey

from .client import ReflashClient, ReflashError
from .const import CONF_MODE, DOMAIN, MODE_MANAGED

_LOGGER = logging.getLogger(__name__)

CONF_FIRMWARE_PATH: Final = "firmware_path"
CONF_YAML: Final = "yaml"
"""In an entry: whether its server has been handed a block, so that it is taken back when the block is gone."""

FIRMWARE_FOLDER: Final = "ir_remote_firmware"
"""The folder of firmware in the configuration, where the block names none: the founding document's."""
CONTAINER_CONFIG: Final = "/config"
"""What the configuration's folder is called in a container, and in every example; elsewhere it has another name."""

ISSUE_YAML: Final = "yaml"
ISSUE_YAML_UNSERVED: Final = "yaml_unserved"

N_MISTAKES: Final = 20
"""So many mistakes are told in one message."""

CONFIG_SCHEMA: Final = vol.Schema({DOMAIN: vol.Any(None, dict)}, extra=vol.ALLOW_EXTRA)
"""The server's parser knows the keys; a second opinion here would only be an older one."""

DATA_BLOCK: Final[HassKey[dict[str, Any] | None]] = HassKey(f"{DOMAIN}_yaml")
"""The block as it was read, with its secrets: in memory only."""


@callback
def async_setup(hass: HomeAssistant, config: dict[str, Any]) -> None:
    """Remember the block, and set up a server for it where there is none."""
    block = config[DOMAIN] or {} if DOMAIN in config else None
    hass.data[DATA_BLOCK] = block
    if block is not None and not hass.config_entries.async_entries(DOMAIN, include_ignore=False):
        hass.async_create_task(
            hass.config_entries.flow.async_init(DOMAIN, context={"source": SOURCE_IMPORT}, data={}),
            "reflash from configuration.yaml",
        )
    if block is None:
        ir.async_delete_issue(hass, DOMAIN, ISSUE_YAML_UNSERVED)


def firmware_folder(hass: HomeAssistant) -> Path:
    """Return the folder of this machine into which firmware is dropped."""
    block = hass.data.get(DATA_BLOCK) or {}
    named = block.get(CONF_FIRMWARE_PATH)
    return local_path(hass, named) if isinstance(named, str) and named else Path(hass.config.path(FIRMWARE_FOLDER))


def local_path(hass: HomeAssistant, path: str) -> Path:
    """Return a path of this machine, where a leading `/config` means Home Assistant's configuration."""
    if path == CONTAINER_CONFIG or path.startswith(CONTAINER_CONFIG + "/"):
        path = path.removeprefix(CONTAINER_CONFIG).lstrip("/")
    return Path(hass.config.path(path))


def issue_id(entry: ConfigEntry) -> str:
    """Return the name of the repair for mistakes in the block."""
    return f"{ISSUE_YAML}_{entry.entry_id}"


async def async_import(hass: HomeAssistant, entry: ConfigEntry, client: ReflashClient) -> bool:
    """Hand the block to the server of an entry; False where that refuses it, which becomes one repair.

    A block that is gone, or belongs to another entry, is taken back.
    """
    block = hass.data.get(DATA_BLOCK) if _is_for(hass, entry) else None
    body = await hass.async_add_executor_job(_body, hass, entry, block)
    try:
        if body is not None:
            await client.import_block(body)
        elif entry.data.get(CONF_YAML):
            await client.forget_block()
    except ReflashError as error:
        _LOGGER.error("The block `%s` of configuration.yaml is not in effect: %s", DOMAIN, error.detail)
        ir.async_create_issue(
            hass,
            DOMAIN,
            issue_id(entry),
            is_fixable=True,
            severity=ir.IssueSeverity.ERROR,
            translation_key=ISSUE_YAML,
            translation_placeholders={"mistakes": mistakes_of(error, block)},
            data={"kind": ISSUE_YAML, "entry_id": entry.entry_id},
        )
        return False
    ir.async_delete_issue(hass, DOMAIN, issue_id(entry))
    if entry.data.get(CONF_YAML, False) != (block is not None):
        hass.config_entries.async_update_entry(entry, data={**entry.data, CONF_YAML: block is not None})
    return True


async def async_read_again(hass: HomeAssistant) -> bool:
    """Read configuration.yaml again; False where it cannot be read at all."""
    try:
        config = await async_hass_config_yaml(hass)
        CONFIG_SCHEMA(config)
    except Exception as error:  # noqa: BLE001 - whatever is wrong in that file, it is told below
        _LOGGER.error("configuration.yaml cannot be read: %s", error)
        return False
    hass.data[DATA_BLOCK] = config[DOMAIN] or {} if DOMAIN in config else None
    return True


def mistakes_of(error: ReflashError, block: dict[str, Any] | None) -> str:
    """Return what is wrong with the block as a list in Markdown, with the lines of the file where they are known."""
    mistakes = error.problem.get("mistakes")
    if not isinstance(mistakes, list) or not mistakes:
        return f"- {error.detail}" + (f" ({error.next_step})" if error.next_step else "")
    lines = []
    for mistake in mistakes[:N_MISTAKES]:
        path = str(mistake.get("path") or "")
        line = f"- {_place(block, path)}{mistake.get('text')}"
        if mistake.get("next_step"):
            line += f" ({mistake['next_step']})"
        lines.append(line)
    if len(mistakes) > N_MISTAKES:
        lines.append(f"- … {len(mistakes) - N_MISTAKES}")
    return "\n".join(lines)


def _place(block: Any, path: str) -> str:
    """Return where in the files a mistake is; as near as Home Assistant's parser remembers it."""
    node, place = block, ""
    for step in path.replace("[", ".").replace("]", "").split("."):
        if isinstance(node, dict):
            # Only keys know their lines.
            key = next((key for key in node if key == step), None)
            place = _line(key) or _line(node) or place
            node = node.get(step)
        elif isinstance(node, list) and step.isdigit() and int(step) < len(node):
            node = node[int(step)]
            place = _line(node) or place
    told = f"`{path}`: " if path else ""
    return f"{place}, {told}" if place else told


def _line(node: Any) -> str:
    file, line = getattr(node, "__config_file__", None), getattr(node, "__line__", None)
    return f"{Path(file).name}:{line}" if file and line else ""


def _is_for(hass: HomeAssistant, entry: ConfigEntry) -> bool:
    """Return whether the block is this entry's: that of the server which we run, else the first one's."""
    entries = hass.config_entries.async_entries(DOMAIN, include_ignore=False, include_disabled=False)
    managed = [entry for entry in entries if entry.data.get(CONF_MODE) == MODE_MANAGED]
    return (managed or entries)[0].entry_id == entry.entry_id


def _body(hass: HomeAssistant, entry: ConfigEntry, block: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what is handed over; None for nothing."""
    if entry.data[CONF_MODE] != MODE_MANAGED:
        # Over there our paths mean nothing: what lies in the folder is uploaded instead.
        return None if block is None else {key: _plain(it) for key, it in block.items() if key != CONF_FIRMWARE_PATH}
    folder = firmware_folder(hass)
    if folder.is_relative_to(hass.config.config_dir):
        folder.mkdir(parents=True, exist_ok=True)
    return {**_plain(block or {}), CONF_FIRMWARE_PATH: str(folder)}


def _plain(node: Any) -> Any:
    """Return the block without what Home Assistant's parser notes at its parts."""
    if isinstance(node, dict):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(value) for value in node]
    if node is None or isinstance(node, bool | int | float):
        return node
    return str(node)
