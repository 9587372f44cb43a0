"""The settings of `dstack-vpn relay`: their table, and the validated result."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from dstack_vpn.config import parsers
from dstack_vpn.config.options import OPTIONS, Option
from dstack_vpn.config.settings import Secret
from dstack_vpn.core.addresses import parse_ip, split_host_port
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.paths.peer_endpoint import split_alternatives
from dstack_vpn.core.paths.relay_url import Listen, RelayUrl
from dstack_vpn.errors import FormatError

UDP2TCP: Final = "udp2tcp"
TCP2UDP: Final = "tcp2udp"
_SHARED: Final = (
    "RELAY_MAX_CONNECTIONS",
    "RELAY_MAX_PER_SOURCE",
    "RELAY_OFFLOAD",
    "FWMARK",
    "DSTACK_SIMULATOR_ENDPOINT",
    "STATE_DIR",
    "HEALTH_CHECK_HOST",
    "HEALTH_CHECK_PORT",
    "API_TOKEN",
    "API_OPEN_TO",
    "LOG_LEVEL",
    "LOG_FORMAT",
)


def _for_a_relay(option: Option) -> Option:
    """Disable a relay's HTTP server by default: several relays may run beside a node with one."""
    return replace(option, default="0") if option.name == "HEALTH_CHECK_PORT" else option


RELAY_OPTIONS: Final[tuple[Option, ...]] = (
    Option(
        "RELAY_MODE",
        parsers.choice(UDP2TCP, TCP2UDP),
        None,
        "Direction: udp2tcp beside the WireGuard that initiates the connection, tcp2udp beside the other.",
        UDP2TCP,
    ),
    Option(
        "RELAY_LISTEN",
        str,
        None,
        "Address to listen on: address:port for udp2tcp, a tcp:// or tls:// URL for tcp2udp; "
        "default: PROXY_PORT on all IPv4 addresses.",
        "127.0.0.1:51821",
    ),
    Option(
        "PROXY_PORT", parsers.number(1, 65535), None, "Port to listen on, instead of RELAY_LISTEN.", "443"
    ),
    Option(
        "RELAY_TO",
        str,
        None,
        "Destination: for udp2tcp, the URLs of upstreams in order of preference, separated by commas; for "
        "tcp2udp, WireGuard's host:port. Put a URL with a proxy's password into RELAY_TO_FILE.",
        "tls://vpn.example.org:443",
        secret=True,
    ),
    Option(
        "RELAY_IDLE_TIMEOUT",
        parsers.seconds(180, 86_400),
        "540",
        "Seconds of silence after which a source or connection is closed. WireGuard forgets a silent session "
        "after 540.",
        "540",
    ),
    *(_for_a_relay(option) for option in OPTIONS if option.name in _SHARED),
)


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """The validated settings of a relay."""

    mode: str
    listen: SocketAddress | Listen
    """An address for udp2tcp, a URL for tcp2udp."""
    upstreams: tuple[RelayUrl, ...] = field(repr=False)
    """The upstreams of udp2tcp; else empty."""
    target: tuple[str, int] | None
    """WireGuard's host and port for tcp2udp; else None."""
    max_connections: int
    max_per_source: int
    idle_timeout: float
    """Seconds."""
    fwmark: int | None
    offload: bool
    guest_agent: str | None
    state_dir: Path
    health_check_host: str
    health_check_port: int
    api_token: Secret | None
    api_open_to: frozenset[str]
    """A subset of ``loopback`` and ``users``: a relay has no members."""
    log_level: str
    log_levels: Mapping[str, str]
    log_format: str
    exposed: tuple[str, ...] = ()
    """Secrets from the environment, which more processes can read than a file."""
    unknown: tuple[str, ...] = ()
    """Unknown variables with names similar to a setting's, each with that setting."""


def settle(values: Mapping[str, Any], levels: Mapping[str, str], problems: list[str]) -> RelaySettings | None:
    """Check the settings that depend on the mode; add errors to ``problems``."""
    mode = values["relay_mode"]
    if mode is None or problems:
        return None
    listen, to = _listen(values, mode, problems), values["relay_to"]
    if to is None:
        problems.append(f"RELAY_TO: is not set. Example: RELAY_TO={_EXAMPLES[mode]}")
    upstreams, target = _destination(mode, to or "", problems)
    if problems or listen is None:
        return None
    return RelaySettings(
        mode=mode,
        listen=listen,
        upstreams=upstreams,
        target=target,
        max_connections=values["relay_max_connections"],
        max_per_source=values["relay_max_per_source"],
        idle_timeout=float(values["relay_idle_timeout"]),
        fwmark=values["fwmark"],
        offload=values["relay_offload"],
        guest_agent=values["dstack_simulator_endpoint"],
        state_dir=values["state_dir"],
        health_check_host=values["health_check_host"],
        health_check_port=values["health_check_port"],
        api_token=values["api_token"],
        api_open_to=values["api_open_to"],
        log_level=values["log_level"],
        log_levels=levels,
        log_format=values["log_format"],
        exposed=values["exposed"],
    )


_EXAMPLES: Final = {UDP2TCP: "tls://vpn.example.org:443", TCP2UDP: "127.0.0.1:51820"}


def _listen(values: Mapping[str, Any], mode: str, problems: list[str]) -> SocketAddress | Listen | None:
    text, port = values["relay_listen"], values["proxy_port"]
    if text is None and port is None:
        problems.append("RELAY_LISTEN: is not set, and neither is PROXY_PORT. Example: PROXY_PORT=443")
        return None
    try:
        if mode == UDP2TCP:
            return _udp_address(text or f"0.0.0.0:{port}")
        return Listen.parse(text or f"tcp://0.0.0.0:{port}")
    except FormatError as error:
        example = "127.0.0.1:51821" if mode == UDP2TCP else "tls://0.0.0.0:443"
        problems.append(f"RELAY_LISTEN: {error}. Example: RELAY_LISTEN={example}")
        return None


def _udp_address(text: str) -> SocketAddress:
    if "://" in text:
        raise FormatError("udp2tcp listens on UDP: expected address:port, not a URL")
    host, port = split_host_port(text, lowest=0)
    if parse_ip(host) is None:
        raise FormatError("expected an IP address and a port")
    return SocketAddress(host, port)


def _destination(
    mode: str, text: str, problems: list[str]
) -> tuple[tuple[RelayUrl, ...], tuple[str, int] | None]:
    """Parse RELAY_TO as upstreams or as a target, by the mode."""
    if mode == TCP2UDP:
        try:
            return (), split_host_port(text) if text else None
        except FormatError as error:
            problems.append(f"RELAY_TO: {error}. Example: RELAY_TO={_EXAMPLES[mode]}")
            return (), None
    upstreams: list[RelayUrl] = []
    for number, part in enumerate(_urls(text), 1):
        try:
            upstreams.append(RelayUrl.parse(part))
        except FormatError as error:
            problems.append(f"RELAY_TO: entry {number}: {error}. Example: RELAY_TO={_EXAMPLES[mode]}")
    return tuple(dict.fromkeys(upstreams)), None


def _urls(text: str) -> list[str]:
    """Split a list of URLs, which may contain spaces and a trailing comma."""
    parts = filter(None, map(str.strip, text.split(",")))
    return split_alternatives(",".join(parts)) if text.strip(", ") else []
