"""From logs to events: whose they are, whether we understand them, and what to do with those we don't.

The contract's logs are written by strangers. One that does not decode is skipped with one clear line in our
log, and nothing else stops: the next read of that token's state says what it is.
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
    """Turns what an endpoint sends as logs into the registry's events."""

    def __init__(self, name: str, contract: Address, abi: RegistryAbi) -> None:
        self._name = name
        self._contract = contract
        self._abi = abi
        self._refused: dict[tuple[str, int], None] = {}
        self.foreign = 0
        """Logs of other contracts, or of events that we did not ask for."""

    @property
    def filter(self) -> dict[str, Json]:
        """The address and topics of a log filter."""
        return {"address": self._contract, "topics": [sorted(self._abi.topics)]}

    def event(self, value: Json) -> LoggedEvent | None:
        """The log's event; None for one to skip. Raises `EndpointError` if it is no log at all."""
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
        """The events of an ``eth_getLogs`` answer, each once, in the chain's order."""
        found = [event for event in map(self.event, sequence(value, "logs")) if event and not event.removed]
        unique = {(event.block_hash, event.log_index): event for event in found}
        return sorted(unique.values(), key=lambda event: (event.block_number, event.log_index))

    def _note_foreign(self) -> None:
        self.foreign += 1
        if self.foreign == 1:
            _log.warning(
                "chain.foreign_logs", endpoint=self._name, hint="it sends logs that we did not ask for"
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
