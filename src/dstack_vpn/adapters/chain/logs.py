"""Conversion of logs to registry events.

Any account can cause logs of the contract. A log that does not decode is skipped with one line in
the daemon's log. The next read of the token's state returns its actual value.
"""

from typing import Final

import structlog

from dstack_vpn.adapters.chain.fields import log_address, parse_log, sequence
from dstack_vpn.adapters.chain.jsonrpc import Json
from dstack_vpn.core.chain.events import LoggedEvent
from dstack_vpn.core.model import Address
from dstack_vpn.errors import FormatError
from dstack_vpn.ports import Log, RegistryAbi

_log = structlog.get_logger()

_REMEMBERED: Final = 1024


class LogReader:
    """Converts an endpoint's logs to the registry's events."""

    def __init__(self, name: str, contract: Address, abi: RegistryAbi) -> None:
        self._name = name
        self._contract = contract
        self._abi = abi
        self._refused: dict[tuple[str, int], None] = {}
        self.foreign = 0
        """The number of logs of other contracts, or of events that were not requested."""

    @property
    def filter(self) -> dict[str, Json]:
        """The address and topics of a log filter."""
        return {"address": self._contract, "topics": [sorted(self._abi.topics)]}

    def event(self, value: Json) -> LoggedEvent | None:
        """Return the event of a log, or None for a log to skip.

        Raises `EndpointError` if the value is not a log.
        """
        if log_address(value) != self._contract:
            self._note_foreign()
            return None
        log = parse_log(value)
        if not log.topics or log.topics[0] not in self._abi.topics:
            self._note_foreign()
            return None
        try:
            event = self._abi.decode(log)
        except FormatError as error:
            self._refuse(log, error)
            return None
        if event is None:
            return None
        return LoggedEvent(log.block_number, log.block_hash, log.log_index, event, log.removed)

    def events(self, value: Json) -> list[LoggedEvent]:
        """Return the events of an ``eth_getLogs`` reply in chain order, without duplicates."""
        found = [event for event in map(self.event, sequence(value, "logs")) if event and not event.removed]
        unique = {(event.block_hash, event.log_index): event for event in found}
        return sorted(unique.values(), key=lambda event: (event.block_number, event.log_index))

    def _note_foreign(self) -> None:
        self.foreign += 1
        if self.foreign == 1:
            _log.warning(
                "chain.foreign_logs", endpoint=self._name, hint="it sends logs that were not requested"
            )

    def _refuse(self, log: Log, error: FormatError) -> None:
        key = (log.block_hash, log.log_index)
        if key in self._refused:
            return
        if len(self._refused) >= _REMEMBERED:
            del self._refused[next(iter(self._refused))]
        self._refused[key] = None
        _log.warning(
            "chain.log_refused", block=log.block_number, log_index=log.log_index, problem=str(error)[:200]
        )
