"""Updates begun from here: begin one, and wait until the truth is known."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

from .client import SUCCESSES, Device, Member, ReflashError, ReflashUnreachable, Rollout
from .coordinator import Hub
from .problems import failure, not_updated, offline, refused

ASK_AGAIN_S = 15.0
"""How long to wait for an event before the server is asked: one may be lost with a connection."""
GONE_S = 600.0
"""How long a server may be away while somebody waits. Guess: its restart takes seconds, that of its machine minutes."""
RETRY_S = 1.0
"""How long after a lost answer the same request is sent again; its key keeps it from beginning twice."""


async def async_begin(hub: Hub, wanted: dict[str, Any]) -> Rollout:
    """Begin a rollout, once, even where an answer is lost; ReflashError where the server refuses."""
    key = uuid.uuid4().hex
    try:
        rollout = await hub.client.rollout(wanted, key)
    except ReflashUnreachable:
        await asyncio.sleep(RETRY_S)
        rollout = await hub.client.rollout(wanted, key)
    hub.async_took_rollout(rollout)
    return rollout


async def async_outcome(hub: Hub, rollout: int, device: str) -> Member:
    """Wait until it is known how a device's update has ended."""

    def ended() -> Member | None:
        known = hub.rollouts.get(rollout)
        member = known.member(device) if known else None
        return member if member is not None and member.has_ended else None

    return await _known(hub, rollout, ended)


async def async_end(hub: Hub, rollout: int) -> Rollout:
    """Wait until a rollout is over, or has halted and so waits for a person."""

    def over() -> Rollout | None:
        known = hub.rollouts.get(rollout)
        return known if known is not None and (not known.is_open or known.state == "halted") else None

    return await _known(hub, rollout, over)


async def async_install(hub: Hub, device: Device, **wanted: Any) -> None:
    """Update one device and return when that is proven; raises with the reason where it is not."""
    if not device.is_online and device.id not in hub.running:
        raise offline(device)
    try:
        rollout = await async_begin(hub, {"devices": [device.id], "canary": 0, **wanted})
    except ReflashError as error:
        raise refused(error) from error
    member = await async_outcome(hub, rollout.id, device.id)
    if member.state not in SUCCESSES:
        raise not_updated(member)


async def _known[T](hub: Hub, rollout: int, answer: Callable[[], T | None]) -> T:
    changed = asyncio.Event()
    leave = hub.async_add_listener(changed.set)
    gone_s = 0.0
    try:
        while (known := answer()) is None:
            try:
                async with asyncio.timeout(ASK_AGAIN_S):
                    await changed.wait()
                changed.clear()
            except TimeoutError:
                try:
                    hub.async_took_rollout(await hub.client.rollout_of(rollout))
                    gone_s = 0.0
                except ReflashError as error:
                    gone_s += ASK_AGAIN_S
                    if gone_s >= GONE_S:
                        raise failure("server_gone_meanwhile", detail=error.detail) from error
        return known
    finally:
        leave()
