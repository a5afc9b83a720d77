"""Setting up: run the server here or connect to one, and say which of the found devices are ours."""

import asyncio
import ipaddress
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, override

import probatio as vol
from homeassistant.config_entries import (
    SOURCE_REAUTH,
    SOURCE_RECONFIGURE,
    ConfigEntry,
    ConfigFlow,
    ConfigFlowResult,
    OptionsFlow,
)
from homeassistant.core import callback
from homeassistant.helpers import issue_registry as ir
from homeassistant.helpers.selector import TextSelector, TextSelectorConfig, TextSelectorType
from homeassistant.helpers.service_info.hassio import HassioServiceInfo
from homeassistant.helpers.service_info.zeroconf import ZeroconfServiceInfo
from yarl import URL

from .choice import CONF_DEVICES, CONF_LEFT_OUT, candidates, device_schema, left_out
from .client import Device, ReflashAuthError, ReflashClient, ReflashError, ReflashUnreachable, Server
from .connection import (
    CONF_FINGERPRINT,
    async_fingerprint,
    is_foreign,
    is_too_old,
    is_untrusted,
    misfit,
    network_client,
)
from .const import (
    API_VERSION,
    CONF_MODE,
    CONF_SERVER_ID,
    CONF_TOKEN,
    CONF_URL,
    DOMAIN,
    MODE_CONNECT,
    MODE_MANAGED,
)
from .managed import ManagedError, async_managed
from .options_flow import ReflashOptionsFlow
from .yaml_import import CONF_YAML, ISSUE_YAML_UNSERVED

TITLE: Final = "Reflash"
SEARCH_S: Final = 8.0
"""How long a server that has just begun may look for devices. Guess: an announcement is answered within three seconds,
and asked for a second time."""

PASSWORD = TextSelector(TextSelectorConfig(type=TextSelectorType.PASSWORD, autocomplete="off"))
ADDRESS = TextSelector(TextSelectorConfig(type=TextSelectorType.URL))

CONNECT_SCHEMA = vol.Schema({vol.Required(CONF_URL): ADDRESS, vol.Required(CONF_TOKEN): PASSWORD})
RECONFIGURE_SCHEMA = vol.Schema({vol.Required(CONF_URL): ADDRESS, vol.Optional(CONF_TOKEN): PASSWORD})
TOKEN_SCHEMA = vol.Schema({vol.Required(CONF_TOKEN): PASSWORD})
NOTHING_SCHEMA = vol.Schema({})


class ReflashConfigFlow(ConfigFlow, domain=DOMAIN):
    """Makes an entry for a server."""

    VERSION = 1

    # The server, from when it has been reached on.
    _client: ReflashClient
    _server: Server
    _role: str
    _failure: ManagedError

    def __init__(self) -> None:
        """Begin with nothing."""
        self._where: dict[str, Any] = {}
        self._is_using_managed = False
        self._task: asyncio.Task[None] | None = None
        self._found: list[Device] = []
        self._detail = ""
        self._form = ""

    @staticmethod
    @callback
    @override
    def async_get_options_flow(config_entry: ConfigEntry) -> OptionsFlow:
        """Return what *Configure* opens."""
        return ReflashOptionsFlow()

    @callback
    @override
    def async_remove(self) -> None:
        """Let go of the server that was started for this flow; the entry holds it by now, if there is one."""
        if self._task is not None:
            self._task.cancel()
        if self._is_using_managed:
            self._is_using_managed = False
            self.hass.async_create_task(async_managed(self.hass).async_leave(), "reflash leaves its server")

    # By hand.

    @override
    async def async_step_user(self, user_input: dict[str, Any] | None = None) -> ConfigFlowResult:
        """Ask where the server is to be."""
        if any(entry.data.get(CONF_MODE) == MODE_MANAGED for entry in self._async_current_entries(False)):
            return await self.async_step_connect()
        return self.async_show_menu(step_id="user", menu_options=["managed", "connect"])

    # A server of our own.

    async def async_step_managed(self, user_input: dict[str, Any] | None = None) -> ConfigFlowResult:
        """Start the server here, or take over the one that runs already."""
        if self._task is None:
            self._task = self.hass.async_create_task(self._async_run_here(), "reflash starts a server")
        if not self._task.done():
            return self.async_show_progress(step_id="managed", progress_action="managed", progress_task=self._task)
        task, self._task = self._task, None
        try:
            await task
        except ManagedError as error:
            self._failure = error
            return self.async_show_progress_done(next_step_id="managed_failed")
        return self.async_show_progress_done(next_step_id="search")

    async def async_step_managed_failed(self, user_input: dict[str, Any] | None = None) -> ConfigFlowResult:
        """Say why it does not run, and what to use in its place."""
        return self.async_abort(
            reason=self._failure.key, description_placeholders={"detail": self._failure.detail or "–"}
        )

    async def _async_run_here(self) -> None:
        self._client = await async_managed(self.hass).async_use()
        self._is_using_managed = True
        try:
            server = await self._client.server()
        except ReflashError as error:
            key = "server_too_old" if is_too_old(error) else "start_failed"
            raise ManagedError(key, error.detail) from error
        if (why := misfit(server)) is not None:
            raise ManagedError(why, server.version)
        self._server, self._role = server, "admin"
        self._where = {CONF_MODE: MODE_MANAGED}

    async def async_step_search(self, user_input: dict[str, Any] | None = None) -> ConfigFlowResult:
        """Give a server that has just begun the time to find something."""
        if self._task is None:
            self._task = self.hass.async_create_task(self._async_search(), "reflash looks for devices")
        if not self._task.done():
            return self.async_show_progress(step_id="search", progress_action="search", progress_task=self._task)
        self._task = None
        return self.async_show_progress_done(next_step_id="reached")

    async def _async_search(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(SEARCH_S):
                # Where no network is configured there is nothing to be scanned, and announcements come in all the same.
                with suppress(ReflashError):
                    await self._client.scan()
                await asyncio.sleep(SEARCH_S)

    # A server elsewhere.

    async def async_step_connect(self, user_input: dict[str, Any] | None = None) -> ConfigFlowResult:
        """Ask for address and token."""
        return await self._async_form("connect", CONNECT_SCHEMA, user_input)

    async def async_step_token(self, user_input: dict[str, Any] | None = None) -> ConfigFlowResult:
        """Ask for the token of a server whose address is known."""
        return await self._async_form("token", TOKEN_SCHEMA, user_input)

    async def _async_form(
        self, step_id: str, schema: vol.Schema, user_input: dict[str, Any] | None
    ) -> ConfigFlowResult:
        errors: dict[str, str] = {}
        if user_input is not None:
            self._where = {CONF_MODE: MODE_CONNECT, **self._where, **user_input}
            if (error := await self._async_reach()) is None:
                return await self.async_step_reached()
            if error == "certificate":
                self._form = step_id
                return await self.async_step_certificate()
            errors["base"] = error
        return self.async_show_form(
            step_id=step_id,
            data_schema=self.add_suggested_values_to_schema(schema, {CONF_URL: self._where.get(CONF_URL)}),
            errors=errors,
            description_placeholders=self._placeholders(),
        )

    async def async_step_certificate(self, user_input: dict[str, Any] | None = None) -> ConfigFlowResult:
        """Ask whether a certificate that nobody known has signed is the server's."""
        if user_input is not None:
            if (error := await self._async_reach()) is None:
                return await self.async_step_reached()
            self._where.pop(CONF_FINGERPRINT, None)
            self._detail = self._detail or error
            return await self._async_form_again(error)
        return self.async_show_form(
            step_id="certificate", data_schema=NOTHING_SCHEMA, description_placeholders=self._placeholders()
        )

    async def _async_form_again(self, error: str) -> ConfigFlowResult:
        schema = {"connect": CONNECT_SCHEMA, "reconfigure": RECONFIGURE_SCHEMA}.get(self._form, TOKEN_SCHEMA)
        return self.async_show_form(
            step_id=self._form,
            data_schema=self.add_suggested_values_to_schema(schema, {CONF_URL: self._where.get(CONF_URL)}),
            errors={"base": error},
            description_placeholders=self._placeholders(),
        )

    async def _async_reach(self) -> str | None:
        """Ask the server who it is; None where it is one of ours and will have us, else what is wrong."""
        self._detail = ""
        place = normal_url(self._where[CONF_URL])
        if place is None:
            return "invalid_url"
        self._where[CONF_URL] = str(place).rstrip("/")
        if place.scheme == "http" and self._where.get(CONF_TOKEN) and not self._may_speak_openly(place):
            return "plain_http"
        client = network_client(self.hass, self._where)
        try:
            server = await client.server()
            who = await client.whoami()
        except ReflashAuthError:
            return "invalid_auth"
        except ReflashUnreachable as error:
            self._detail = error.detail
            return await self._async_why_unreachable(error)
        except ReflashError as error:
            self._detail = error.detail
            if is_foreign(error):
                return "not_reflash"
            return "server_too_old" if is_too_old(error) else "refused"
        if not server.id:
            return "not_reflash"
        if (why := misfit(server)) is not None:
            self._detail = server.version
            return why
        if who.role not in ("operator", "admin"):
            return "role_too_small"
        self._client, self._server, self._role = client, server, who.role
        return None

    async def _async_why_unreachable(self, error: ReflashUnreachable) -> str:
        if not is_untrusted(error):
            return "cannot_connect"
        shown = await async_fingerprint(self._where[CONF_URL])
        if shown is None:
            return "cannot_connect"
        self._where[CONF_FINGERPRINT] = shown
        return "certificate"

    def _may_speak_openly(self, place: URL) -> bool:
        """Return whether nobody but this machine, or the Supervisor's own network, hears the token."""
        return self.source == "hassio" or is_loopback(place)

    async def async_step_reached(self, user_input: dict[str, Any] | None = None) -> ConfigFlowResult:
        """Go on with a server that answers: mend the entry, or make one."""
        await self.async_set_unique_id(self._server.id, raise_on_progress=False)
        where = {**self._where, CONF_SERVER_ID: self._server.id}
        if self.source in (SOURCE_REAUTH, SOURCE_RECONFIGURE):
            self._abort_if_unique_id_mismatch(reason="wrong_server")
            entry = self._get_reauth_entry() if self.source == SOURCE_REAUTH else self._get_reconfigure_entry()
            kept = {key: entry.data[key] for key in (CONF_YAML,) if key in entry.data}
            return self.async_update_reload_and_abort(entry, data={**kept, **where})
        self._abort_if_unique_id_configured(updates=where)
        self._where = where
        return await self.async_step_devices()

    # What is ours.

    async def async_step_devices(self, user_input: dict[str, Any] | None = None) -> ConfigFlowResult:
        """Show what was found, all of it ticked, and enrol what stays so."""
        errors: dict[str, str] = {}
        try:
            if user_input is not None:
                if ticked := user_input.get(CONF_DEVICES, []):
                    await self._client.enroll(ticked)
                return self._create(left_out(self._found, ticked))
            self._found = candidates(await self._client.devices(), []) if self._role == "admin" else []
        except ReflashError as error:
            self._detail = error.detail
            errors["base"] = "refused"
        if self._role != "admin":
            # Whose token may not enrol sees no list; an administrator does that in Reflash.
            return self._create([])
        return self.async_show_form(
            step_id="devices" if self._found else "no_devices",
            data_schema=device_schema(self._found) if self._found else NOTHING_SCHEMA,
            errors=errors,
            description_placeholders=self._placeholders(),
        )

    async def async_step_no_devices(self, user_input: dict[str, Any] | None = None) -> ConfigFlowResult:
        """Nothing was found so far; what turns up later comes as a repair."""
        return self._create([])

    def _create(self, not_ours: list[str]) -> ConfigFlowResult:
        is_managed = self._where[CONF_MODE] == MODE_MANAGED
        return self.async_create_entry(
            title=TITLE if is_managed or not self._server.name else f"{TITLE} ({self._server.name})",
            data=self._where,
            options={CONF_LEFT_OUT: not_ours},
        )

    # Found, announced, or written down.

    @override
    async def async_step_zeroconf(self, discovery_info: ZeroconfServiceInfo) -> ConfigFlowResult:
        """Take note of a server, or of a device that could be updated; at most one card comes of all of them."""
        if not discovery_info.type.startswith("_reflash."):
            await self._async_handle_discovery_without_unique_id()
            self.context["title_placeholders"] = {"name": TITLE}
            return await self.async_step_user()
        told = discovery_info.properties
        server_id, api = told.get("id"), told.get("api")
        if not server_id or not discovery_info.port:
            return self.async_abort(reason="not_reflash")
        if str(api) != str(API_VERSION):
            return self.async_abort(
                reason="server_too_old", description_placeholders={"detail": str(told.get("version"))}
            )
        # An entry's address is not changed here: whoever else announces this id would be shown its token.
        await self.async_set_unique_id(server_id)
        self._abort_if_unique_id_configured()
        if self._async_in_progress(include_uninitialized=True):
            return self.async_abort(reason="already_in_progress")
        scheme = "https" if is_true(told.get("tls")) else "http"
        url = URL.build(scheme=scheme, host=discovery_info.host, port=discovery_info.port)
        self._where = {CONF_URL: str(url)}
        self.context["title_placeholders"] = {"name": told.get("name") or discovery_info.host}
        return await self.async_step_token()

    @override
    async def async_step_hassio(self, discovery_info: HassioServiceInfo) -> ConfigFlowResult:
        """Take the server of an app, whose token the Supervisor hands us."""
        told = discovery_info.config
        self._where = {
            CONF_MODE: MODE_CONNECT,
            CONF_URL: str(URL.build(scheme="http", host=str(told["host"]), port=int(told["port"]))),
            CONF_TOKEN: told.get(CONF_TOKEN),
        }
        if (error := await self._async_reach()) is not None:
            return self.async_abort(
                reason="cannot_connect" if error in ("certificate", "invalid_url") else error,
                description_placeholders=self._placeholders(),
            )
        await self.async_set_unique_id(self._server.id)
        self._abort_if_unique_id_configured(updates={CONF_URL: self._where[CONF_URL], CONF_TOKEN: told.get(CONF_TOKEN)})
        self.context["title_placeholders"] = {"name": discovery_info.name}
        self._detail = discovery_info.name
        return await self.async_step_hassio_confirm()

    async def async_step_hassio_confirm(self, user_input: dict[str, Any] | None = None) -> ConfigFlowResult:
        """Ask whether that app is to be used."""
        if user_input is not None:
            return await self.async_step_reached()
        return self.async_show_form(
            step_id="hassio_confirm", data_schema=NOTHING_SCHEMA, description_placeholders=self._placeholders()
        )

    async def async_step_import(self, _: dict[str, Any]) -> ConfigFlowResult:
        """Run a server for the block in configuration.yaml; its devices need no list."""
        if self._async_current_entries(False):
            return self.async_abort(reason="already_configured")
        try:
            await self._async_run_here()
        except ManagedError as error:
            ir.async_create_issue(
                self.hass,
                DOMAIN,
                ISSUE_YAML_UNSERVED,
                is_fixable=False,
                severity=ir.IssueSeverity.ERROR,
                translation_key=f"{ISSUE_YAML_UNSERVED}_{error.key}",
                translation_placeholders={"detail": error.detail or "–"},
            )
            return self.async_abort(reason=error.key, description_placeholders={"detail": error.detail or "–"})
        ir.async_delete_issue(self.hass, DOMAIN, ISSUE_YAML_UNSERVED)
        await self.async_set_unique_id(self._server.id, raise_on_progress=False)
        self._abort_if_unique_id_configured()
        self._where[CONF_SERVER_ID] = self._server.id
        return self._create([])

    # Mending.

    async def async_step_reauth(self, entry_data: Mapping[str, Any]) -> ConfigFlowResult:
        """Ask for a new token, as the server does not take the old one any more."""
        self._where = {key: entry_data[key] for key in (CONF_URL, CONF_FINGERPRINT) if key in entry_data}
        return await self.async_step_reauth_confirm()

    async def async_step_reauth_confirm(self, user_input: dict[str, Any] | None = None) -> ConfigFlowResult:
        """Ask for it."""
        return await self._async_form("reauth_confirm", TOKEN_SCHEMA, user_input)

    async def async_step_reconfigure(self, user_input: dict[str, Any] | None = None) -> ConfigFlowResult:
        """Ask where the same server is now; one that ran here may have moved elsewhere."""
        entry = self._get_reconfigure_entry()
        if user_input is None:
            self._where = {CONF_URL: entry.data.get(CONF_URL, "")}
        elif CONF_TOKEN not in user_input and CONF_TOKEN in entry.data:
            if (place := normal_url(user_input[CONF_URL])) is not None and not _is_same_host(place, entry.data):
                # A token is not shown to another place than the one that it was given for.
                return await self._async_missing_token(user_input)
            user_input = {**user_input, CONF_TOKEN: entry.data[CONF_TOKEN]}
        return await self._async_form("reconfigure", RECONFIGURE_SCHEMA, user_input)

    async def _async_missing_token(self, user_input: dict[str, Any]) -> ConfigFlowResult:
        self._where, self._form = dict(user_input), "reconfigure"
        return await self._async_form_again("token_needed")

    def _placeholders(self) -> dict[str, str]:
        fingerprint = str(self._where.get(CONF_FINGERPRINT, ""))
        return {
            "url": str(self._where.get(CONF_URL, "")),
            "detail": self._detail or "–",
            "fingerprint": ":".join(fingerprint[at : at + 2] for at in range(0, len(fingerprint), 2)).upper(),
        }


def normal_url(text: str) -> URL | None:
    """Return the address of a server as a URL; None for what is none, or holds more than a place."""
    text = text.strip()
    if "://" not in text:
        text = f"https://{text}"
        if (place := normal_url(text)) is not None and is_loopback(place):
            return place.with_scheme("http")
    try:
        url = URL(text)
        # The port is read when it is asked for.
        is_good = url.scheme in ("http", "https") and bool(url.host) and url.port is not None and url.user is None
    except ValueError:
        return None
    return url.with_query(None).with_fragment(None) if is_good else None


def is_loopback(place: URL) -> bool:
    """Return whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(place.host or "").is_loopback
    except ValueError:
        return place.host == "localhost"


def is_true(word: Any) -> bool:
    """Return whether a word of an announcement says yes."""
    return str(word).lower() in ("1", "true", "yes")


def _is_same_host(place: URL, data: Mapping[str, Any]) -> bool:
    before = normal_url(data.get(CONF_URL, ""))
    return before is not None and place.host == before.host
