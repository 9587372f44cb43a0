"""Destinations of packets: a refused address is refused in every notation, as text or by DNS."""

import ipaddress
import socket
from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.adapters.relay import dial
from dstack_vpn.adapters.relay.lookup import Found, NameCache
from dstack_vpn.adapters.resolver import SystemResolver
from dstack_vpn.core.access.addressing import AddressPlan, unique_local_prefix
from dstack_vpn.core.model import Endpoint, SocketAddress
from dstack_vpn.core.paths.destination import Destinations
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.paths.relay_url import RelayUrl
from dstack_vpn.errors import FormatError, RelayError

PLAN: Final = AddressPlan(ipaddress.IPv4Network("10.77.0.0/16"), unique_local_prefix(31337, "0x" + "ab" * 20))
FOREIGN: Final = Destinations(PLAN.networks)
OPERATOR: Final = Destinations(PLAN.networks, local=True)
ODD: Final = (
    *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    *("::1/128", "::/128", "::/96", "fe80::/10", "fec0::/10", "ff00::/8", "100::/64", "::ffff:0:0:0/96"),
)
ROW: Final = (
    *("255.255.255.255", "0.1.2.3", "240.0.0.1", "169.254.169.254", "127.0.0.1", "168.63.129.16"),
    *(
        "fe80::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "fd00:ec2::254",
    ),
    *("64:ff9b:1::7f00:1", "2002:7f00:1::1", "2001:0:4136:e378:8000:63bf:80ff:fffe", "2001:db8::5efe:7f00:1"),
    "fd00:ec2::254",
)


def addresses(*networks: str) -> st.SearchStrategy[str]:
    chosen = st.sampled_from([ipaddress.ip_network(text) for text in networks])
    return chosen.flatmap(lambda net: st.ip_addresses(network=net)).map(str)


def notations(text: str) -> list[str]:
    """Return an address, and the IPv6 addresses that embed it."""
    address = ipaddress.ip_address(text)
    if address.version == 6:
        return [text]
    number = int(address)
    inside = {
        "::ffff:0:0": number,
        "64:ff9b::": number,
        "64:ff9b:1::": number,
        "2002::": number << 80,
        "2001:db8::5efe:0:0": number,
        "2001::": number ^ 0xFFFF_FFFF,
    }
    return [
        text,
        *(str(ipaddress.IPv6Address(int(ipaddress.ip_address(at)) + n)) for at, n in inside.items()),
    ]


def as_text(text: str) -> str:
    return f"[{text}]:51820" if ":" in text else f"{text}:51820"


def answered(text: str) -> Callable[..., Found]:
    """Return a resolver that has this answer for every name."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return lambda *_, **__: [(family, socket.SOCK_DGRAM, 17, "", (text, 51820))]


@given(addresses(*ODD))
def test_an_odd_address_is_refused_in_every_notation(text: str) -> None:
    for form in notations(text):
        assert FOREIGN.refusal(form) is not None, form
        with pytest.raises(FormatError):
            Endpoint.parse(as_text(form))
        with pytest.raises(FormatError):
            RelayUrl.parse(f"tcp://{as_text(form)}", local=False)


@given(addresses("10.77.0.0/16", str(PLAN.ipv6)))
def test_an_address_of_the_vpn_is_refused_in_every_notation_to_the_operator_as_well(text: str) -> None:
    for form in notations(text):
        for destinations in (FOREIGN, OPERATOR):
            assert "leads back into the tunnel" in (destinations.refusal(form) or ""), form
    for written in (as_text(text), f"192.0.2.1:1,tls://{as_text(text)}"):
        for local in (False, True):
            assert PeerEndpoint.parse(written, local=local).refusal(FOREIGN) is not None


@given(addresses("10.78.0.0/16", "192.168.0.0/16", "203.0.113.0/24", "8.8.0.0/16", "2a00::/12", "fc00::/8"))
def test_an_address_of_another_machine_is_accepted(text: str) -> None:
    assert FOREIGN.refusal(text) is None
    assert PeerEndpoint.parse(as_text(text)).refusal(FOREIGN) is None


@pytest.mark.parametrize("text", [*ROW, "10.77.0.2", "64:ff9b::10.77.0.2", "fe80::1%eth0"])
async def test_a_name_that_resolves_to_a_refused_address_leads_nowhere(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", answered(text))
    assert await SystemResolver(FOREIGN).resolve("evil.example", 51820) is None
    names = NameCache(answered(text))
    with pytest.raises(RelayError, match="no address of another machine"):
        await dial.dial(RelayUrl.parse("tcp://evil.example:443"), names, destinations=FOREIGN)


@pytest.mark.parametrize("text", ROW)
def test_an_address_of_the_red_team_is_refused(text: str) -> None:
    assert FOREIGN.refusal(text) is not None
    assert not text.startswith(("10.", "192.168.")), "private networks are what peers are reached by"


async def test_the_first_usable_address_of_a_name_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = ("10.77.0.2", "127.0.0.1", "192.0.2.7")
    found = [answered(host)()[0] for host in hosts]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert await SystemResolver(FOREIGN).resolve("db.example", 7) == SocketAddress("192.0.2.7", 7)


def test_the_operators_relay_may_be_on_this_machine() -> None:
    assert OPERATOR.refusal("127.0.0.1") is None
    assert OPERATOR.refusal("fe80::1%eth0") is None
