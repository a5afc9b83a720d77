"""Fields of the server's JSON, read so that one odd value never harms the rest."""

from typing import Any

type Json = dict[str, Any]


def text(raw: Json, key: str) -> str:
    """Return a word that is always there; empty where it is not."""
    return opt_text(raw, key) or ""


def opt_text(raw: Json, key: str) -> str | None:
    """Return a word, or None."""
    value = raw.get(key)
    return value if isinstance(value, str) else None


def opt_int(raw: Json, key: str) -> int | None:
    """Return a whole number, or None."""
    value = raw.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number(raw: Json, key: str) -> int:
    """Return a whole number that is always there; 0 where it is not."""
    return opt_int(raw, key) or 0


def opt_number(raw: Json, key: str) -> float | None:
    """Return a number, or None."""
    value = raw.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def flag(raw: Json, key: str) -> bool:
    """Return whether something is so; what is missing is not."""
    return raw.get(key) is True


def opt_flag(raw: Json, key: str) -> bool | None:
    """Return whether something is so, or None where nobody has said."""
    value = raw.get(key)
    return value if isinstance(value, bool) else None


def block(raw: Json, key: str) -> Json | None:
    """Return an object, or None."""
    value = raw.get(key)
    return value if isinstance(value, dict) else None


def blocks(raw: Json, key: str) -> list[Json]:
    """Return a list of objects."""
    value = raw.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def words(raw: Json, key: str) -> tuple[str, ...]:
    """Return a list of words."""
    value = raw.get(key)
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def word_map(raw: Json, key: str) -> dict[str, str]:
    """Return words by name."""
    value = block(raw, key) or {}
    return {name: item for name, item in value.items() if isinstance(item, str)}


def count_map(raw: Json, key: str) -> dict[str, int]:
    """Return counts by name."""
    value = block(raw, key) or {}
    return {name: item for name, item in value.items() if isinstance(item, int)}
