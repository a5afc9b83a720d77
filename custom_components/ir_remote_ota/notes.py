"""The release notes of a device: what is new, what an update takes, and how the last one went."""

from homeassistant.helpers.translation import async_get_translations

from .client import Device, ReflashError
from .const import DOMAIN
from .coordinator import Hub

LABELS = f"component.{DOMAIN}.entity.update.firmware.state_attributes"
"""Where the translations of the few words between the server's sentences are."""


async def async_notes(hub: Hub, device: Device) -> str:
    """Return them as Markdown."""
    texts = await async_get_translations(hub.hass, hub.hass.config.language, "entity", {DOMAIN})

    def line(label: str, text: str) -> str:
        return f"**{texts.get(f'{LABELS}.{label}.name', label)}:** {text}"

    parts = []
    if device.why_not:
        why_not = _plain(" ".join(filter(None, (device.why_not, device.remedy))))
        parts.append(f'<ha-alert alert-type="warning">{why_not}</ha-alert>')
    elif device.latest is not None and device.latest.why_not:
        parts.append(f'<ha-alert alert-type="info">{_plain(device.latest.why_not)}</ha-alert>')
    if device.estimate_s is not None and device.offered:
        parts.append(line("minutes", str(max(1, round(device.estimate_s / 60)))))
    if device.way_back:
        parts.append(line("way_back", _plain(", ".join(device.way_back))))
    if (last := device.last_update) is not None and last.text:
        parts.append(line("last_update", _plain(" ".join(filter(None, (last.text, last.next_step))))))
        parts.extend(await _evidence(hub, last.job))
    if device.latest is not None and (notes := await _of_image(hub, device.latest.sha256)):
        parts.append(notes)
    return "\n\n".join(parts)


async def _of_image(hub: Hub, sha256: str) -> str | None:
    try:
        return await hub.client.notes(sha256)
    except ReflashError:
        # What is known of the device is worth showing without them.
        return None


async def _evidence(hub: Hub, job: int | None) -> list[str]:
    if job is None:
        return []
    try:
        evidence = (await hub.client.job(job)).evidence
    except ReflashError:
        return []
    told = [(name, value) for name, value in evidence.items() if isinstance(value, str | int | float)]
    return ["\n".join(f"- {name.replace('_', ' ')}: {_plain(str(value))}" for name, value in told)] if told else []


def _plain(text: str) -> str:
    """Return text in which nothing is markup: names and versions are whatever a device says."""
    for character in "\\`*_{}[]<>#|":
        text = text.replace(character, f"&#{ord(character)};")
    return text
