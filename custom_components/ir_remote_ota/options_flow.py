"""What *Configure* opens: add a device, bring firmware, and say how and when updates are done."""

from typing import Any, Final, override

import probatio as vol
from homeassistant.config_entries import ConfigEntryState, ConfigFlowResult, OptionsFlow
from homeassistant.helpers.selector import (
    BooleanSelector,
    DurationSelector,
    FileSelector,
    FileSelectorConfig,
    NumberSelector,
    NumberSelectorConfig,
    NumberSelectorMode,
    SelectOptionDict,
    SelectSelector,
    SelectSelectorConfig,
    TextSelector,
    TextSelectorConfig,
    TextSelectorType,
    TimeSelector,
)

from .client import Firmware, ReflashError, Window
from .coordinator import Hub
from .notifications import CONF_NOTIFY
from .upload import ACCEPTED, async_uploaded_file

MENU: Final = ["add_device", "firmware", "policy", "windows", "settings"]
FAMILIES: Final = ["ir-remote", "arduino", "komfovent"]
"""The families of devices that the server knows (docs/guide/devices.md)."""
DAYS: Final = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
NEW_WINDOW: Final = "+"
"""Stands for a window that is yet to be made; no window is called so, as the server takes letters and digits."""

PASSWORD = TextSelector(TextSelectorConfig(type=TextSelectorType.PASSWORD, autocomplete="off"))
TEXT = TextSelector()

ADD_SCHEMA = vol.Schema(
    {
        vol.Required("host"): TEXT,
        vol.Required("family", default=FAMILIES[0]): SelectSelector(
            SelectSelectorConfig(options=FAMILIES, translation_key="family")
        ),
        vol.Optional("name"): TEXT,
        vol.Optional("chip"): TEXT,
        vol.Optional("username"): TEXT,
        vol.Optional("password"): PASSWORD,
    }
)
FIRMWARE_SCHEMA = vol.Schema({vol.Required("file"): FileSelector(FileSelectorConfig(accept=ACCEPTED))})


def number(least: int, most: int, unit: str | None = None) -> NumberSelector:
    """Return a field for a whole number."""
    config = NumberSelectorConfig(min=least, max=most, step=1, mode=NumberSelectorMode.BOX)
    if unit is not None:
        config["unit_of_measurement"] = unit
    return NumberSelector(config)


POLICY_FIELDS: Final[dict[str, Any]] = {
    "canary": number(0, 1000),
    "canary_soak_s": number(0, 7 * 86400, "s"),
    "at_once": TEXT,
    "max_failures": TEXT,
    "soak_s": number(0, 86400, "s"),
    "rollback": SelectSelector(SelectSelectorConfig(options=["on_boot_loop", "never"], translation_key="rollback")),
    "require_signature": BooleanSelector(),
}
"""The policy's keys (docs/guide/configuration.md, policy), as far as the server lets them be changed."""

SETTINGS_FIELDS: Final[dict[str, Any]] = {
    "auto_discovery": BooleanSelector(),
    "auto_enroll": BooleanSelector(),
    "scan_interval_s": number(30, 86400, "s"),
}


class ReflashOptionsFlow(OptionsFlow):
    """Changes what the server keeps; of all this only the choice of notifications is ours."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._detail = "–"
        self._windows: list[Window] = []
        self._window: Window | None = None
        self._brought: Firmware | None = None

    @property
    def _hub(self) -> Hub:
        hub: Hub = self.config_entry.runtime_data
        return hub

    @override
    def add_suggested_values_to_schema(self, data_schema: vol.Schema, suggested_values: Any) -> vol.Schema:
        """Show what was typed again, but never a password."""
        values = {key: value for key, value in (suggested_values or {}).items() if key != "password"}
        return super().add_suggested_values_to_schema(data_schema, values)

    async def async_step_init(self, user_input: dict[str, Any] | None = None) -> ConfigFlowResult:
        """Ask what is wanted."""
        if self.config_entry.state is not ConfigEntryState.LOADED:
            return self.async_abort(reason="not_loaded")
        return self.async_show_menu(step_id="init", menu_options=MENU)

    async def async_step_add_device(self, user_input: dict[str, Any] | None = None) -> ConfigFlowResult:
        """Add a device at a place that is known; it is asked who it is, and enrolled."""
        if user_input is not None:
            try:
                device = await self._hub.client.add_device(user_input)
                await self._hub.async_refresh()
            except ReflashError as error:
                return self._form("add_device", ADD_SCHEMA, user_input, error)
            self._detail = device.name
            return self._end()
        return self._form("add_device", ADD_SCHEMA)

    async def async_step_firmware(self, user_input: dict[str, Any] | None = None) -> ConfigFlowResult:
        """Bring an image."""
        if user_input is not None:
            try:
                name, image = await async_uploaded_file(self.hass, user_input["file"])
                self._brought = await self._hub.client.upload(name, image)
                await self._hub.async_refresh()
            except ReflashError as error:
                return self._form("firmware", FIRMWARE_SCHEMA, None, error)
            return await self.async_step_brought()
        return self._form("firmware", FIRMWARE_SCHEMA)

    async def async_step_brought(self, user_input: dict[str, Any] | None = None) -> ConfigFlowResult:
        """Say what the server makes of it."""
        if user_input is not None or self._brought is None:
            return self._end()
        image = self._brought
        remarks = [*(refusal.text for refusal in image.refusals)]
        return self.async_show_form(
            step_id="brought",
            data_schema=vol.Schema({}),
            description_placeholders={
                "firmware": image.name,
                "file_name": image.file_name,
                "state": image.state,
                "remarks": " ".join(remarks),
            },
        )

    async def async_step_policy(self, user_input: dict[str, Any] | None = None) -> ConfigFlowResult:
        """Change how updates are done."""
        try:
            policy = (await self._hub.client.settings()).get("policy")
        except ReflashError as error:
            return self._refused(error)
        if not isinstance(policy, dict):
            return self.async_abort(reason="policy_in_file")
        fields = {key: field for key, field in POLICY_FIELDS.items() if key in policy}
        schema = schema_of(fields, policy)
        if user_input is not None:
            try:
                # What was emptied is left to the configuration again.
                await self._hub.client.patch_settings({"policy": {key: whole(user_input.get(key)) for key in fields}})
            except ReflashError as error:
                return self._form("policy", schema, user_input, error)
            return self._end()
        return self._form("policy", schema, policy)

    async def async_step_windows(self, user_input: dict[str, Any] | None = None) -> ConfigFlowResult:
        """Ask which window is meant, if there is one already."""
        if user_input is not None:
            self._window = next((window for window in self._windows if window.name == user_input["window"]), None)
            return await self.async_step_window()
        try:
            self._windows = await self._hub.client.windows()
        except ReflashError as error:
            return self._refused(error)
        if not self._windows:
            return await self.async_step_window()
        options = [
            SelectOptionDict(value=window.name, label=f"{window.name}: {window.opens}") for window in self._windows
        ]
        options.append(SelectOptionDict(value=NEW_WINDOW, label=NEW_WINDOW))
        selector = SelectSelector(SelectSelectorConfig(options=options, sort=False))
        return self._form("windows", vol.Schema({vol.Required("window", default=NEW_WINDOW): selector}))

    async def async_step_window(self, user_input: dict[str, Any] | None = None) -> ConfigFlowResult:
        """Make, change or remove a window."""
        window = self._window
        schema = window_schema(is_new=window is None)
        if user_input is not None:
            name = window.name if window else user_input["name"]
            try:
                if user_input.get("remove"):
                    await self._hub.client.remove_window(name)
                else:
                    await self._hub.client.put_window(name, wanted_window(user_input, window))
            except ReflashError as error:
                return self._form("window", schema, user_input, error)
            return self._end()
        return self._form("window", schema, told_window(window) if window else {"days": DAYS})

    async def async_step_settings(self, user_input: dict[str, Any] | None = None) -> ConfigFlowResult:
        """Change how devices are looked for, and whether failures are told."""
        try:
            settings = await self._hub.client.settings()
        except ReflashError as error:
            return self._refused(error)
        fields = {key: field for key, field in SETTINGS_FIELDS.items() if key in settings}
        schema = schema_of(fields, settings).extend({vol.Required(CONF_NOTIFY): BooleanSelector()})
        options = self.config_entry.options
        if user_input is not None:
            try:
                await self._hub.client.patch_settings({key: whole(user_input.get(key)) for key in fields})
            except ReflashError as error:
                return self._form("settings", schema, user_input, error)
            return self.async_create_entry(data={**options, CONF_NOTIFY: user_input[CONF_NOTIFY]})
        return self._form("settings", schema, {**settings, CONF_NOTIFY: options.get(CONF_NOTIFY, True)})

    def _form(
        self,
        step_id: str,
        schema: vol.Schema,
        shown: dict[str, Any] | None = None,
        error: ReflashError | None = None,
    ) -> ConfigFlowResult:
        if error is not None:
            self._detail = f"{error.detail} ({error.next_step})" if error.next_step else error.detail
        return self.async_show_form(
            step_id=step_id,
            data_schema=self.add_suggested_values_to_schema(schema, shown),
            errors={"base": "refused"} if error else {},
            description_placeholders={"detail": self._detail},
        )

    def _refused(self, error: ReflashError) -> ConfigFlowResult:
        return self.async_abort(reason="refused", description_placeholders={"detail": error.detail})

    def _end(self) -> ConfigFlowResult:
        return self.async_create_entry(data=dict(self.config_entry.options))


def schema_of(fields: dict[str, Any], known: dict[str, Any]) -> vol.Schema:
    """Return a form with those fields that the server knows; each may be left empty."""
    return vol.Schema({vol.Optional(key): field for key, field in fields.items() if key in known})


def window_schema(*, is_new: bool) -> vol.Schema:
    """Return the form of a window."""
    fields: dict[Any, Any] = {vol.Required("name"): TEXT} if is_new else {}
    fields |= {
        vol.Required("start"): TimeSelector(),
        vol.Required("duration"): DurationSelector(),
        vol.Required("days"): SelectSelector(
            SelectSelectorConfig(options=DAYS, multiple=True, translation_key="days", sort=False)
        ),
    }
    if not is_new:
        fields[vol.Optional("remove")] = BooleanSelector()
    return vol.Schema(fields)


def wanted_window(user_input: dict[str, Any], window: Window | None) -> dict[str, Any]:
    """Return the body that makes a window."""
    duration = user_input["duration"]
    seconds = sum(
        int(duration.get(unit, 0)) * length
        for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60), ("seconds", 1))
    )
    wanted = {"start": user_input["start"], "duration": str(seconds), "days": user_input["days"]}
    if window is not None and window.raw.get("timezone"):
        wanted["timezone"] = window.raw["timezone"]
    return wanted


def told_window(window: Window) -> dict[str, Any]:
    """Return a window as the form shows it."""
    minutes, seconds = divmod(window.duration_s, 60)
    hours, minutes = divmod(minutes, 60)
    return {
        "start": window.raw.get("start"),
        "duration": {"hours": hours, "minutes": minutes, "seconds": seconds},
        "days": window.raw.get("days"),
    }


def whole(value: Any) -> Any:
    """Return a number of a form, which gives each as a fraction, as the whole number that the server wants."""
    return int(value) if isinstance(value, float) else value
