"""Repairs that mend what they tell of."""

from typing import Any

import probatio as vol
from homeassistant.components.repairs import RepairsFlow, RepairsFlowResult
from homeassistant.config_entries import ConfigEntryState
from homeassistant.core import HomeAssistant
from homeassistant.helpers import issue_registry as ir
from homeassistant.helpers.selector import (
    FileSelector,
    FileSelectorConfig,
    SelectOptionDict,
    SelectSelector,
    SelectSelectorConfig,
    TextSelector,
    TextSelectorConfig,
    TextSelectorType,
)

from .choice import CONF_DEVICES, CONF_LEFT_OUT, candidates, device_schema, left_out
from .client import ReflashError
from .const import DOMAIN
from .coordinator import Hub, ReflashConfigEntry
from .issues import (
    CONF_MENDED,
    KIND_BOOT_LOOP,
    KIND_FIRMWARE,
    KIND_HALTED,
    KIND_NEW_DEVICES,
    KIND_NO_WAY_BACK,
    KIND_PASSWORD,
    has_no_way_back,
)
from .upload import ACCEPTED, async_uploaded_file
from .yaml_import import ISSUE_YAML, async_import, async_read_again

CONF_PASSWORD = "password"  # noqa: S105 - the name of a field
CONF_DEVICE = "device"
CONF_FILE = "file"

PASSWORD = TextSelector(TextSelectorConfig(type=TextSelectorType.PASSWORD, autocomplete="off"))
NOTHING_SCHEMA = vol.Schema({})


class MendFlow(RepairsFlow):
    """What all of them share: an entry whose server answers, and how its refusals are told."""

    def __init__(self, entry: ReflashConfigEntry, told: dict[str, Any]) -> None:
        """Remember what is to be mended."""
        self.entry = entry
        self.told = told

    @property
    def hub(self) -> Hub:
        """Return what is known of its server."""
        return self.entry.runtime_data

    async def async_step_init(self, user_input: dict[str, str] | None = None) -> RepairsFlowResult:
        """Begin, unless nobody is there to mend anything."""
        if self.entry.state is not ConfigEntryState.LOADED:
            return self.async_abort(reason="not_loaded")
        return await self.async_begin()

    async def async_begin(self) -> RepairsFlowResult:
        """Show the first form."""
        raise NotImplementedError

    def form(self, step_id: str, schema: vol.Schema, error: ReflashError | None = None) -> RepairsFlowResult:
        """Show a form, with what the server says against what was just tried."""
        issue = ir.async_get(self.hass).async_get_issue(DOMAIN, self.issue_id)
        placeholders = dict(issue.translation_placeholders or {}) if issue else {}
        return self.async_show_form(
            step_id=step_id,
            data_schema=schema,
            errors={"base": "refused"} if error else {},
            description_placeholders={**placeholders, "detail": _told(error)},
        )

    def done(self) -> RepairsFlowResult:
        """Say that it is mended."""
        return self.async_create_entry(data={})

    def remember(self, **options: Any) -> None:
        """Keep something in the entry's options."""
        self.hass.config_entries.async_update_entry(self.entry, options={**self.entry.options, **options})


class RollBackFlow(MendFlow):
    """A device keeps restarting: bring back what it ran before."""

    async def async_begin(self) -> RepairsFlowResult:
        """Ask first."""
        return await self.async_step_confirm()

    async def async_step_confirm(self, user_input: dict[str, Any] | None = None) -> RepairsFlowResult:
        """Roll back."""
        error = None
        if user_input is not None:
            body = {"kind": "rollback", "devices": [self.told["device"]]}
            try:
                self.hub.async_took_rollout(await self.hub.client.rollout(body, key=self.flow_id))
            except ReflashError as refused:
                error = refused
            else:
                return self.done()
        return self.form("confirm", NOTHING_SCHEMA, error)


class HaltedFlow(MendFlow):
    """A rollout has halted: let it go on, or end it."""

    async def async_begin(self) -> RepairsFlowResult:
        """Ask which."""
        issue = ir.async_get(self.hass).async_get_issue(DOMAIN, self.issue_id)
        return self.async_show_menu(
            step_id="init",
            menu_options=["resume", "abort"],
            description_placeholders=dict(issue.translation_placeholders or {}) if issue else {},
        )

    async def async_step_resume(self, user_input: dict[str, Any] | None = None) -> RepairsFlowResult:
        """Let it go on."""
        return await self._async_steer("resume", user_input)

    async def async_step_abort(self, user_input: dict[str, Any] | None = None) -> RepairsFlowResult:
        """End it."""
        return await self._async_steer("abort", user_input)

    async def _async_steer(self, act: str, user_input: dict[str, Any] | None) -> RepairsFlowResult:
        error = None
        if user_input is not None:
            client, rollout = self.hub.client, self.told["rollout"]
            try:
                steered = await (client.resume(rollout) if act == "resume" else client.abort(rollout))
            except ReflashError as refused:
                error = refused
            else:
                self.hub.async_took_rollout(steered)
                return self.done()
        return self.form(act, NOTHING_SCHEMA, error)


class PasswordFlow(MendFlow):
    """A device has turned a password down: it is never tried a second time, so somebody has to say the right one."""

    async def async_begin(self) -> RepairsFlowResult:
        """Ask for it."""
        return await self.async_step_password()

    async def async_step_password(self, user_input: dict[str, Any] | None = None) -> RepairsFlowResult:
        """Keep it; the next update uses it."""
        error = None
        if user_input is not None:
            device = self.told["device"]
            try:
                await self.hub.client.set_password(device, user_input[CONF_PASSWORD])
            except ReflashError as refused:
                error = refused
            else:
                self.remember(**{CONF_MENDED: {**self.entry.options.get(CONF_MENDED, {}), device: self.told["job"]}})
                return self.done()
        return self.form("password", vol.Schema({vol.Required(CONF_PASSWORD): PASSWORD}), error)


class NewDevicesFlow(MendFlow):
    """Devices were found: say which are ours."""

    async def async_begin(self) -> RepairsFlowResult:
        """Show the list."""
        return await self.async_step_devices()

    async def async_step_devices(self, user_input: dict[str, Any] | None = None) -> RepairsFlowResult:
        """Enrol what is ticked, and remember what is not."""
        error = None
        not_ours = self.entry.options.get(CONF_LEFT_OUT, [])
        found = candidates(self.hub.devices.values(), not_ours)
        if user_input is not None:
            ticked = user_input[CONF_DEVICES]
            try:
                if ticked:
                    await self.hub.client.enroll(ticked)
                self.remember(**{CONF_LEFT_OUT: [*not_ours, *left_out(found, ticked)]})
                await self.hub.async_refresh()
            except ReflashError as refused:
                error = refused
            else:
                return self.done()
        return self.form("devices", device_schema(found), error)


class ApproveFlow(MendFlow):
    """An image waits for somebody's word."""

    async def async_begin(self) -> RepairsFlowResult:
        """Ask first."""
        return await self.async_step_confirm()

    async def async_step_confirm(self, user_input: dict[str, Any] | None = None) -> RepairsFlowResult:
        """Approve it by its digest, as a name can be given to other bytes."""
        error = None
        if user_input is not None:
            try:
                await self.hub.client.approve(self.told["sha256"])
                await self.hub.async_refresh()
            except ReflashError as refused:
                error = refused
            else:
                return self.done()
        return self.form("confirm", NOTHING_SCHEMA, error)


class WayBackFlow(MendFlow):
    """An update could not be undone: bring the image that a device runs now."""

    async def async_begin(self) -> RepairsFlowResult:
        """Ask for it."""
        return await self.async_step_image()

    async def async_step_image(self, user_input: dict[str, Any] | None = None) -> RepairsFlowResult:
        """Register it."""
        error = None
        if user_input is not None:
            try:
                name, image = await async_uploaded_file(self.hass, user_input[CONF_FILE])
                await self.hub.client.upload(name, image, running_on=user_input[CONF_DEVICE])
                await self.hub.async_refresh()
            except ReflashError as refused:
                error = refused
            else:
                return self.done()
        stuck = [device for device in self.hub.shown.values() if has_no_way_back(device)]
        options = [SelectOptionDict(value=device.id, label=device.name) for device in stuck]
        schema = vol.Schema(
            {
                vol.Required(CONF_DEVICE): SelectSelector(SelectSelectorConfig(options=options)),
                vol.Required(CONF_FILE): FileSelector(FileSelectorConfig(accept=ACCEPTED)),
            }
        )
        return self.form("image", schema, error)


class YamlFlow(MendFlow):
    """The block in configuration.yaml had mistakes: read it again."""

    async def async_begin(self) -> RepairsFlowResult:
        """Ask first."""
        return await self.async_step_confirm()

    async def async_step_confirm(self, user_input: dict[str, Any] | None = None) -> RepairsFlowResult:
        """Read it again; what is wrong still is told anew."""
        if user_input is not None:
            if not await async_read_again(self.hass):
                return self.async_abort(reason="yaml_unreadable")
            if await async_import(self.hass, self.entry, self.hub.client):
                return self.done()
        return self.form("confirm", NOTHING_SCHEMA)


FLOWS: dict[str, type[MendFlow]] = {
    ISSUE_YAML: YamlFlow,
    KIND_BOOT_LOOP: RollBackFlow,
    KIND_FIRMWARE: ApproveFlow,
    KIND_HALTED: HaltedFlow,
    KIND_NEW_DEVICES: NewDevicesFlow,
    KIND_NO_WAY_BACK: WayBackFlow,
    KIND_PASSWORD: PasswordFlow,
}


async def async_create_fix_flow(
    hass: HomeAssistant, issue_id: str, data: dict[str, str | int | float | None] | None
) -> RepairsFlow:
    """Return what mends a repair."""
    told = data or {}
    entry = hass.config_entries.async_get_known_entry(str(told["entry_id"]))
    return FLOWS[str(told["kind"])](entry, told)


def _told(error: ReflashError | None) -> str:
    if error is None:
        return "–"
    return f"{error.detail} ({error.next_step})" if error.next_step else error.detail
