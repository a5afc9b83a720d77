"""Who the server is, and who asks it."""

from dataclasses import dataclass, field
from typing import Self

from .reading import Json, flag, number, opt_text, text


@dataclass(frozen=True, slots=True)
class Server:
    """The server, as it tells of itself."""

    id: str
    name: str
    version: str
    api: int
    managed: bool
    firmware_path: str | None
    page: str | None
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def read(cls, raw: Json) -> Self:
        """Read its JSON."""
        return cls(
            id=text(raw, "id"),
            name=text(raw, "name"),
            version=text(raw, "version"),
            api=number(raw, "api"),
            managed=flag(raw, "managed"),
            firmware_path=opt_text(raw, "firmware_path"),
            page=opt_text(raw, "page"),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class WhoAmI:
    """Who asks, and what he may do: `viewer`, `operator` or `admin`."""

    actor: str
    role: str
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def read(cls, raw: Json) -> Self:
        """Read its JSON."""
        return cls(actor=text(raw, "actor"), role=text(raw, "role"), raw=raw)
