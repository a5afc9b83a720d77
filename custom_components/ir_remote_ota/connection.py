"""How an entry reaches its server: through the socket of the one that we run, or over the network."""

import asyncio
import hashlib
import ssl
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
from homeassistant.core import HomeAssistant
from homeassistant.helpers.aiohttp_client import async_get_clientsession
from yarl import URL

from .client import ReflashClient, ReflashError, Server
from .const import API_VERSION, CONF_MODE, CONF_TOKEN, CONF_URL, MODE_MANAGED
from .managed import async_managed

CONF_FINGERPRINT: Final = "fingerprint"
"""SHA-256 of the one certificate that is trusted, hexadecimal; missing where it is that of a known authority."""

CERTIFICATE_S: Final = 10.0
"""How long a server may take to show its certificate. Guess."""


async def async_open(hass: HomeAssistant, where: Mapping[str, Any]) -> ReflashClient:
    """Return the client of an entry, and start the server where we run it; ManagedError where that fails."""
    if where[CONF_MODE] == MODE_MANAGED:
        return await async_managed(hass).async_use()
    return network_client(hass, where)


async def async_close(hass: HomeAssistant, where: Mapping[str, Any]) -> None:
    """Say that a client of `async_open` is no longer used."""
    if where[CONF_MODE] == MODE_MANAGED:
        await async_managed(hass).async_leave()


def network_client(hass: HomeAssistant, where: Mapping[str, Any]) -> ReflashClient:
    """Return a client of a server elsewhere."""
    fingerprint = where.get(CONF_FINGERPRINT)
    return ReflashClient(
        async_get_clientsession(hass),
        where[CONF_URL],
        where.get(CONF_TOKEN),
        ssl=aiohttp.Fingerprint(bytes.fromhex(fingerprint)) if fingerprint else True,
    )


def misfit(server: Server) -> str | None:
    """Return why this integration and that server do not speak with one another: a key of the translations."""
    if server.api < API_VERSION:
        return "server_too_old"
    if server.api > API_VERSION:
        return "integration_too_old"
    return None


def is_foreign(error: ReflashError) -> bool:
    """Return whether what answers there is another program."""
    return error.type == "not-reflash"


def is_too_old(error: ReflashError) -> bool:
    """Return whether the server does not know its own name: those before the first contract do not."""
    return error.status == 404 and not is_foreign(error)


def is_untrusted(error: BaseException | None) -> bool:
    """Return whether a connection failed because of a certificate that nobody known has signed."""
    while error is not None:
        if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
            return True
        error = error.__cause__
    return False


async def async_fingerprint(url: str) -> str | None:
    """Return the SHA-256 of the certificate that a server shows, for a person to compare; no token is sent for it."""
    place = URL(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(CERTIFICATE_S):
            _, writer = await asyncio.open_connection(place.host, place.port, ssl=context)
    except OSError, TimeoutError:
        return None
    try:
        connection: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
        shown = connection.getpeercert(binary_form=True) if connection is not None else None
    finally:
        writer.transport.abort()
    return hashlib.sha256(shown).hexdigest() if shown else None
