"""What has changed on the server and was not asked for yet."""

import asyncio
from dataclasses import dataclass, field


@dataclass(slots=True)
class Changes:
    """What is to be asked for."""

    devices: set[str] = field(default_factory=set)
    rollouts: set[int] = field(default_factory=set)
    is_all_devices: bool = False
    is_all_rollouts: bool = False
    is_firmware: bool = False
    is_stats: bool = False


class Dirty:
    """Gathers changes until somebody takes them."""

    def __init__(self) -> None:
        self._changes = Changes()
        self._some = asyncio.Event()

    async def wait(self, timeout_s: float) -> bool:
        """Wait for a change; returns whether there is one."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._some.wait()
        except TimeoutError:
            return False
        return True

    def take(self) -> Changes:
        """Return what has changed, and begin anew."""
        changes, self._changes = self._changes, Changes()
        self._some.clear()
        return changes

    def device(self, device: str) -> None:
        """Remember a device."""
        self._changes.devices.add(device)
        self._some.set()

    def rollout(self, rollout: int) -> None:
        """Remember a rollout."""
        self._changes.rollouts.add(rollout)
        self._some.set()

    def all_devices(self) -> None:
        """Remember all devices."""
        self._changes.is_all_devices = True
        self._some.set()

    def firmware(self) -> None:
        """Remember the firmware."""
        self._changes.is_firmware = True
        self._some.set()

    def stats(self) -> None:
        """Remember how updates went."""
        self._changes.is_stats = True
        self._some.set()

    def all(self) -> None:
        """Remember everything."""
        self.all_devices()
        self.firmware()
        self.stats()
        self._changes.is_all_rollouts = True
