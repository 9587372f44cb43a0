"""The use of RPC endpoints by day, in a file of the state directory.

After a restart the budget of the day continues. A lost or damaged file only makes it begin again.
"""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dstack_vpn.adapters.store.private import write_private
from dstack_vpn.core.chain.usage import Usage
from dstack_vpn.core.chain.usage_days import KEPT, UsageDay, UsageDays
from dstack_vpn.errors import FormatError, StoreError

_MOST: Final = 256
"""The limit of endpoints of a day, of methods of an endpoint, and of characters of a name."""


class UsageFile:
    """See `ports.UsageMemory`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def load(self) -> UsageDays:
        """See `ports.UsageMemory.load`."""
        return await asyncio.to_thread(self._load)

    async def save(self, days: UsageDays) -> None:
        """See `ports.UsageMemory.save`."""
        text = json.dumps({str(day.number): [day.seconds, _plain(day)] for day in days.days})
        try:
            await asyncio.to_thread(write_private, self._path, text)
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror}") from error

    def _load(self) -> UsageDays:
        try:
            return parse(json.loads(self._path.read_text()))
        except FileNotFoundError:
            return UsageDays()
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise StoreError(f"{self._path}: {error}") from error


def _plain(day: UsageDay) -> dict[str, dict[str, list[int]]]:
    return {
        endpoint: {method: [each.count, each.sent, each.received] for method, each in methods.items()}
        for endpoint, methods in day.usage.items()
    }


def parse(document: Any) -> UsageDays:  # noqa: ANN401 - decoded JSON
    """Parse the file's content; raises `ValueError` or `TypeError`."""
    days = []
    for number, (seconds, endpoints) in _bounded(document, KEPT).items():
        usage = {
            endpoint: {method: _usage(*numbers) for method, numbers in _bounded(methods, _MOST).items()}
            for endpoint, methods in _bounded(endpoints, _MOST).items()
        }
        days.append(UsageDay(_count(int(number)), _seconds(seconds), usage))
    return UsageDays(tuple(sorted(days, key=lambda day: day.number)))


def _bounded(value: Any, most: int) -> Mapping[str, Any]:  # noqa: ANN401 - decoded JSON
    if not isinstance(value, dict) or len(value) > most or any(len(name) > _MOST for name in value):
        raise FormatError(f"expected an object with up to {most} short names")
    return value


def _usage(count: int, sent: int, received: int) -> Usage:
    return Usage(_count(count), _count(sent), _count(received))


def _count(value: int) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise FormatError("expected a number from 0 to 2^63")
    return value


def _seconds(value: float) -> float:
    if type(value) not in {int, float} or not 0 <= value < 2**53:
        raise FormatError("expected a number of seconds")
    return float(value)
