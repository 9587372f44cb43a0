"""Carries a plan out on the device, which changes nothing atomically, and counts what came of it.

Removals go first and alone: whatever fails afterwards, what was revoked is out. Grants that fail are undone
and tried one by one, so that a single bad peer keeps nobody else out.
"""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from dstack_vpn.bridge.tunnel import Tunnel
from dstack_vpn.core.happenings import PeerRefused, PlanFailed
from dstack_vpn.core.keys import PublicKey
from dstack_vpn.core.model import TokenId
from dstack_vpn.core.plan import Plan, Step
from dstack_vpn.errors import DeviceError, DeviceGoneError
from dstack_vpn.ports import Announce, nobody

_log = structlog.get_logger(component="device")


@dataclass(slots=True)
class Carrier:
    """What stands between a plan and the device."""

    tunnel: Tunnel
    done: Callable[[tuple[Step, ...]], None]
    """Told of the steps that the device has acknowledged."""
    token_of: Callable[[PublicKey], TokenId | None]
    announce: Announce = nobody
    plans: int = 0
    """Plans that the device took whole."""
    failed: int = 0
    """Plans that it did not."""
    rolled_back: int = 0
    """Of these, the plans whose grants were taken back to try them one by one."""

    async def carry_out(self, steps: Plan) -> None:
        """Carry a plan out; raises `DeviceError`."""
        if not steps:
            return
        rolled_back = self.rolled_back
        try:
            await self._in_order(steps)
        except DeviceError as error:
            self.failed += 1
            self.announce(PlanFailed(len(steps.steps), str(error), self.rolled_back > rolled_back))
            raise
        self.plans += 1

    async def _in_order(self, steps: Plan) -> None:
        removals, others = steps.removals, steps.others
        if removals:
            await self.tunnel.device.apply([step.change for step in removals])
            self.done(removals)
        if not others:
            return
        try:
            await self.tunnel.device.apply([change for step in others for change in step.changes])
        except DeviceGoneError:
            raise
        except DeviceError as error:
            _log.error("plan.failed", problem=str(error), steps=len(others))
            await self._one_by_one(others)
            raise
        self.done(others)

    async def _one_by_one(self, steps: tuple[Step, ...]) -> None:
        """A batch was refused: take it back, then find out which of its steps is at fault."""
        self.rolled_back += 1
        await self.tunnel.device.apply(Plan(steps).undo)
        _log.warning("plan.rolled_back", steps=len(steps))
        for step in steps:
            try:
                await self.tunnel.device.apply(step.changes)
            except DeviceGoneError:
                raise
            except DeviceError as error:
                key = step.change.public_key
                _log.error("peer.refused", peer=str(key), problem=str(error))
                self.announce(PeerRefused(key, self.token_of(key), str(error)))
                await self.tunnel.device.apply(Plan((step,)).undo)
            else:
                self.done((step,))
