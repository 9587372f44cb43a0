"""The networks that a node accepts, and the reasons to refuse one."""

import ipaddress
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.core.ownership import BLACKHOLE, PROTOCOL, UNICAST, AddressFact, RouteFact, blackhole_metric
from dstack_vpn.core.paths.destination import special_use
from dstack_vpn.core.paths.routes import AcceptRoutes, Surroundings
from dstack_vpn.errors import FormatError

VPN = ("10.77.0.0/16", "fd77::/48")
OURS = 7
HOST = Surroundings(
    "wg0",
    VPN,
    OURS,
    routes=(
        RouteFact("0.0.0.0/0", index=2, device="eth0"),
        RouteFact("::/0", index=2, device="eth0"),
        RouteFact("0.0.0.0/1", index=3, device="tun0"),
        RouteFact("192.168.7.0/24", index=2, device="eth0"),
        RouteFact("172.16.0.0/12", kind=BLACKHOLE),
        RouteFact("2001:db8:7::/48", index=2, device="eth0"),
        # Our own ones.
        RouteFact("10.9.0.0/24", UNICAST, PROTOCOL, 1, OURS, "wg0"),
        RouteFact("10.9.0.0/24", BLACKHOLE, PROTOCOL, blackhole_metric("wg0")),
        # Those of another instance.
        RouteFact("10.88.0.0/16", UNICAST, PROTOCOL, 0, 9, "wg9"),
    ),
    addresses=(
        AddressFact("10.77.0.2/32", OURS, "wg0"),
        AddressFact("192.0.2.5/32", 2, "eth0"),
    ),
    needed=(
        ("the RPC host rpc.example", "198.51.100.7"),
        ("the endpoint of gw-1", "2001:db8:9::1"),
        ("the name server", "::ffff:203.0.113.53"),
        ("the endpoint of web", "not an address"),
    ),
)


@pytest.mark.parametrize(
    ("prefix", "problem"),
    [
        ("10.9.0.0/24", None),
        ("10.9.0.0/16", None),
        ("172.16.5.0/24", None),
        ("10.0.0.0/8", "it overlaps 10.77.0.0/16, which has the addresses of the members"),
        ("10.77.3.0/24", "it overlaps 10.77.0.0/16, which has the addresses of the members"),
        ("fd77::5/128", "it overlaps fd77::/48, which has the addresses of the members"),
        ("0.0.0.0/0", "a default route is used only by EXIT_NODE"),
        ("::/0", "a default route is used only by EXIT_NODE"),
        ("128.0.0.0/1", "it contains the address of a metadata service (168.63.129.16)"),
        ("127.5.0.0/16", "it contains a loopback address"),
        ("169.254.169.254/32", "it contains a link-local address"),
        ("232.0.0.0/8", "it contains a multicast address"),
        ("100.64.0.0/10", "it contains the address of a metadata service (100.100.100.200)"),
        ("fe80::/64", "it contains a link-local address"),
        ("ff02::/16", "it contains a multicast address"),
        ("::1/128", "it contains a loopback address"),
        ("8000::/2", "it contains an address that is not global unicast or unique local"),
        ("4000::/3", "it contains an address that is not global unicast or unique local"),
        ("2001:db8:1::/48", None),
        ("192.168.7.128/25", "this host has the route 192.168.7.0/24 dev eth0"),
        ("192.168.0.0/16", "this host has the route 192.168.7.0/24 dev eth0"),
        ("172.16.0.0/12", "this host has the route blackhole 172.16.0.0/12"),
        ("2001:db8:7:1::/64", "this host has the route 2001:db8:7::/48 dev eth0"),
        ("10.88.1.0/24", "this host has the route 10.88.0.0/16 dev wg9 proto 118"),
        ("192.0.2.0/24", "this host has the address 192.0.2.5/32 on eth0"),
        (
            "198.51.100.0/24",
            "the RPC host rpc.example (198.51.100.7) must be reached outside of the tunnel",
        ),
        ("2001:db8:9::/48", "the endpoint of gw-1 (2001:db8:9::1) must be reached outside of the tunnel"),
        (
            "203.0.113.0/24",
            "the name server (::ffff:203.0.113.53) must be reached outside of the tunnel",
        ),
    ],
)
def test_the_reason_to_refuse_a_network(prefix: str, problem: str | None) -> None:
    assert HOST.refusal(prefix) == problem


def networks(version: int) -> st.SearchStrategy[str]:
    size = 32 if version == 4 else 128
    kind = ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network
    near = [int(ipaddress.ip_address(a)) for a in ("127.0.0.1", "169.254.1.1", "10.9.0.7", "223.255.255.255")]
    near6 = [int(ipaddress.ip_address(a)) for a in ("::1", "fe80::1", "2000::", "fdff::1", "64:ff9b::a00:1")]
    start = st.one_of(st.integers(0, 2**size - 1), st.sampled_from(near if version == 4 else near6))
    return st.builds(lambda a, n: str(kind((a, n), strict=False)), start, st.integers(0, size))


@given(st.one_of(networks(4), networks(6)), st.randoms(use_true_random=False))
def test_a_network_with_a_special_address_is_refused(prefix: str, random: Random) -> None:
    network = ipaddress.ip_network(prefix)
    first, last = int(network.network_address), int(network.broadcast_address)
    some = {first, last, (first + last) // 2, random.randint(first, last)}
    kind = type(network.network_address)
    found = {special_use(kind(number)) for number in some} - {None}
    # IPv6 addresses with an IPv4 address in them reach it by the gateway, and not by this host.
    if found and network.version == 4:
        assert Surroundings("wg0", VPN).refusal(prefix)


@given(networks(4), networks(4))
def test_a_network_is_refused_if_an_address_of_it_has_another_use(prefix: str, other: str) -> None:
    wanted, there = ipaddress.ip_network(prefix), ipaddress.ip_network(other)
    around = Surroundings("wg0", (), OURS, routes=(RouteFact(other, index=2, device="eth0"),))
    common = max(int(wanted[0]), int(there[0])) <= min(int(wanted[-1]), int(there[-1]))
    host = around.refusal(prefix)
    assert (host is not None and "this host" in host) == (
        common and there.prefixlen > 1 and Surroundings("wg0", ()).refusal(prefix) is None
    )
    needed = Surroundings("wg0", (), needed=(("it", str(there[0])),)).refusal(prefix)
    assert (needed is not None) >= (there[0] in wanted)


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("none", [], ["10.9.0.0/24"]),
        ("all", ["10.9.0.0/24", "2001:db8::/48"], ["0.0.0.0/0", "::/0"]),
        (
            "10.9.0.0/16, 2001:db8::/32",
            ["10.9.0.0/16", "10.9.7.0/24", "2001:db8:5::/48"],
            ["10.8.0.0/15", "10.10.0.0/16", "2001:db9::/48", "0.0.0.0/0"],
        ),
        ("0.0.0.0/0", ["10.9.0.0/16"], ["0.0.0.0/0", "2001:db8::/48"]),
    ],
)
def test_the_accepted_networks(text: str, yes: list[str], no: list[str]) -> None:
    accept = AcceptRoutes.parse(text)
    assert [accept.includes(prefix) for prefix in (*yes, *no)] == [True] * len(yes) + [False] * len(no)
    assert bool(accept) == (text != "none")


@pytest.mark.parametrize("text", ["", "some", "10.9.0.0/33", "10.9.0.1/24", "all,10.9.0.0/24"])
def test_a_malformed_setting_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match="expected none, all, or networks"):
        AcceptRoutes.parse(text)
