"""The types of arguments, which the core's parsers check before a command starts.

Error messages do not quote the argument, which may contain any characters.
"""

import ipaddress
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import click

from dstack_vpn.config.parsers import address
from dstack_vpn.core.model import ENDPOINT_LENGTH, parse_node_id
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.policy.selectors import Ports, Protocol
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError

if TYPE_CHECKING:
    from dstack_vpn.wiring.node import NodeName

_RELATIVE: Final = re.compile(r"\+([0-9]{1,9})([smhdw])", re.ASCII)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_UNIX: Final = re.compile(r"[0-9]{1,20}", re.ASCII)
_LAST: Final = 2**64 - 1
_DATE_LENGTH: Final = 40


class Checked(click.ParamType[Any]):
    """An argument that ``parse`` converts; it raises `ValueError`, such as `FormatError`."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's
        """See `click.ParamType.convert`."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def parse_account(text: str) -> str:
    """Check an address, and return it unchanged: its case is a checksum. Raises `FormatError`."""
    address(text)
    return text


def parse_endpoint(text: str) -> PeerEndpoint | None:
    """Parse an endpoint; return None for the empty text. Raises `FormatError`."""
    return PeerEndpoint.parse(text) if text else None


def parse_contract_endpoint(text: str) -> PeerEndpoint | None:
    """Parse an endpoint that fits into the contract's field; raises `FormatError`."""
    peer_endpoint = parse_endpoint(text)
    if peer_endpoint is not None and len(str(peer_endpoint)) > ENDPOINT_LENGTH:
        raise FormatError(
            f"endpoint: {len(str(peer_endpoint))} characters exceed the contract's limit of "
            f"{ENDPOINT_LENGTH}: use fewer relays or pins, or a token URI (node register --endpoint)"
        )
    return peer_endpoint


def parse_token_uri(text: str) -> str:
    """Check that a URI is printable ASCII; raises `FormatError`."""
    if not text.isascii() or not text.isprintable() or " " in text:
        raise FormatError("token URI: expected printable ASCII without blanks")
    if len(text) > 2048:
        raise FormatError("token URI: longer than 2048 characters")
    return text


Moment: TypeAlias = Callable[[float], int]
"""Returns an expiry for the current time (both in Unix seconds); 0 is never."""


def parse_moment(text: str) -> Moment:
    """Parse Unix seconds, ISO 8601 (UTC by default), ``+30d`` or ``never``.

    Raises `FormatError`.
    """
    if text == "never":
        return lambda _: 0
    if found := _RELATIVE.fullmatch(text):
        span = int(found[1]) * _SECONDS[found[2]]
        return lambda now: int(now) + span
    moment = int(text) if _UNIX.fullmatch(text) else _parse_date(text)
    if not 0 < moment <= _LAST:
        raise FormatError("time: expected a time after 1970; write 'never' for access without an end")
    return lambda _: moment


def _parse_date(text: str) -> int:
    try:
        date = datetime.fromisoformat(text[:_DATE_LENGTH])
    except ValueError:
        date = None
    if date is None or len(text) > _DATE_LENGTH:
        raise FormatError("time: expected Unix seconds, ISO 8601, +30d, +12h, or never")
    return int((date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp())


def parse_name(text: str) -> "NodeName":
    """Parse a node id or a token id; raises `FormatError`."""
    from dstack_vpn.wiring import node as wiring

    return wiring.node_name(text)


Subject: TypeAlias = "PublicKey | ipaddress.IPv4Address | ipaddress.IPv6Address | NodeName"


def parse_subject(text: str) -> Subject:
    """Parse the subject of a decision: a key, a tunnel address, or a node; raises `FormatError`."""
    with suppress(ValueError):
        return PublicKey.parse(text)
    with suppress(ValueError):
        return parse_named(text)
    raise FormatError("expected a node id, a token id, a public key or a tunnel address")


def parse_named(text: str) -> Subject:
    """Parse a tunnel address or a node; raises `FormatError`."""
    parsers: tuple[Callable[[str], Subject], ...] = (ipaddress.ip_address, parse_name)
    for parse in parsers:
        with suppress(ValueError):
            return parse(text)
    raise FormatError("expected a node id, a token id or a tunnel address")


def parse_flow(text: str) -> Ports:
    """Parse the protocol and the destination port of a connection; raises `FormatError`."""
    ports = Ports.parse("icmp:*" if text == "icmp" else text)
    if ports.protocol is None or (ports.first != ports.last and ports.protocol is not Protocol.ICMP):
        raise FormatError("expected one port, such as tcp:5432 or udp:53, or icmp")
    return ports


ACCOUNT: Final = Checked("address", parse_account)
ENDPOINT: Final = Checked("endpoint", parse_endpoint)
CONTRACT_ENDPOINT: Final = Checked("endpoint", parse_contract_endpoint)
FLOW: Final = Checked("protocol and port", parse_flow)
KEY: Final = Checked("key", PublicKey.parse)
MOMENT: Final = Checked("time", parse_moment)
NAME: Final = Checked("node", parse_name)
NAMED: Final = Checked("node", parse_named)
NODE_ID: Final = Checked("node id", parse_node_id)
SUBJECT: Final = Checked("subject", parse_subject)
TOKEN_URI: Final = Checked("uri", parse_token_uri)
