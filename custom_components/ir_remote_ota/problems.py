"""What went wrong, as Home Assistant tells it: in the user's language, with what to do next."""

from homeassistant.exceptions import HomeAssistantError, ServiceValidationError

from .client import Device, Member, ReflashAuthError, ReflashError, ReflashUnreachable
from .const import DOMAIN


def failure(key: str, **placeholders: str) -> HomeAssistantError:
    """Return an error of what was tried."""
    return HomeAssistantError(translation_domain=DOMAIN, translation_key=key, translation_placeholders=placeholders)


def mistake(key: str, **placeholders: str) -> ServiceValidationError:
    """Return an error of what was asked for."""
    return ServiceValidationError(translation_domain=DOMAIN, translation_key=key, translation_placeholders=placeholders)


def refused(error: ReflashError) -> HomeAssistantError:
    """Return what the server said, or that it said nothing."""
    if isinstance(error, ReflashUnreachable):
        return failure("server_gone", detail=error.detail)
    if isinstance(error, ReflashAuthError):
        return failure("not_signed_in", detail=error.detail)
    return failure("refused", detail=error.detail, next_step=error.next_step or "")


def not_updated(member: Member) -> HomeAssistantError:
    """Return how an update has ended that did not succeed."""
    return failure(
        "update_failed",
        name=member.name,
        outcome=member.state.replace("-", " "),
        reason=member.reason or member.state.replace("-", " "),
        text=member.text or "",
        next_step=member.next_step or "",
    )


def offline(device: Device) -> HomeAssistantError:
    """Return that a device does not answer, and how to have it updated when it does."""
    return failure("device_offline", name=device.name)
