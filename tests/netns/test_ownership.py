"""Daemons on hosts with foreign interfaces, routes and files, which stay unchanged.

The daemon names the conflict. It follows no chain here, because ownership needs none.
"""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from demo.node import new_key
from tests import netns_support
from tests.netns.hosts import Host, Member, hosted
from tests.netns_support import wait_until

from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import AdminError

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(not netns_support.is_usable(), reason="needs root, namespaces and TUN"),
    pytest.mark.skipif(netns_support.wireguard_go() is None, reason="needs wireguard-go"),
]
OTHER = new_key()
PEERS = (derive(new_key()), derive(new_key()))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with hosted(tmp_path / "etc") as host:
        yield host


@pytest.fixture
def member(tmp_path: Path) -> Member:
    return Member(tmp_path / "a")


def ula(member: Member) -> str:
    """Return the network's IPv6 prefix."""
    from dstack_vpn.config.settings import NETWORKS
    from dstack_vpn.core.access.addressing import unique_local_prefix

    local = NETWORKS["local"]
    assert local.contract is not None
    return str(unique_local_prefix(local.chain_id, local.contract))


# -- the interface ---------------------------------------------------------------------------------


def bridge(host: Host) -> None:
    host.link("wg0", "bridge")
    host.ip("address", "add", "10.99.0.1/24", "dev", "wg0")
    host.ip("route", "add", "10.98.0.0/24", "dev", "wg0")


def veth(host: Host) -> None:
    host.link("wg0", "veth", "peer", "beyond")


def dummy(host: Host) -> None:
    try:
        host.link("wg0", "dummy")
    except AdminError:
        pytest.skip("this kernel has no dummy interfaces")


def kept_tun(host: Host) -> None:
    host.ip("tuntap", "add", "dev", "wg0", "mode", "tun")
    host.ip("address", "add", "10.99.0.1/24", "dev", "wg0")


def held_tun(host: Host) -> None:
    script = (
        "import fcntl, os, struct, time\n"
        "tun = os.open('/dev/net/tun', os.O_RDWR)\n"
        "fcntl.ioctl(tun, 0x400454CA, struct.pack('16sH22x', b'wg0', 0x1001))\n"
        "time.sleep(600)"
    )
    host.others.append(host.namespace.popen("python3", "-c", script))
    wait_until(lambda: host.namespace.run("ip", "link", "show", "wg0", check=False), "the TUN exists")


def wireguard(host: Host) -> None:
    host.wireguard("wg0", OTHER, *PEERS)


def quick(host: Host) -> None:
    """Make an interface and a route, as wg-quick does."""
    host.wireguard("wg0", OTHER, PEERS[0])
    host.ip("route", "add", "10.9.0.0/24", "dev", "wg0")


def of_another(host: Host) -> None:
    """Make a TUN with another dstack-vpn's mark."""
    kept_tun(host)
    host.ip("link", "set", "wg0", "alias", f"dstack-vpn {'0' * 32} {derive(OTHER)}")


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (bridge, "wg0 is a bridge interface that dstack-vpn did not make: choose another INTERFACE"),
        (veth, "wg0 is a veth interface that dstack-vpn did not make"),
        (dummy, "wg0 is a dummy interface that dstack-vpn did not make"),
        (kept_tun, "wg0 is a TUN interface of another program"),
        (held_tun, "wg0 is a TUN interface of another program"),
        (wireguard, f"that dstack-vpn did not set up (public key {derive(OTHER)}, 2 peers)"),
        (quick, f"(public key {derive(OTHER)}, 1 peer)"),
        (of_another, f"wg0 was made by another dstack-vpn (public key {derive(OTHER)})"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_an_interface_of_others_is_named_and_left_alone(
    host: Host, member: Member, prepare: Callable[[Host], None], said: str
) -> None:
    prepare(host)
    assert said in member.refused(host)
    check = member.doctor(host)["host"]
    assert (check["status"], said in check["found"] + ": " + check["advice"]) == ("fail", True), check


def test_the_way_out_is_no_interface_of_ours(host: Host, member: Member) -> None:
    assert "eth0 is a veth interface" in member.refused(host, INTERFACE="eth0")


# -- routes and addresses --------------------------------------------------------------------------


def lan(address: str) -> Callable[[Host], str]:
    return lambda host: host.ip("address", "add", address, "dev", "eth0")


def route(*words: str) -> Callable[[Host], str]:
    return lambda host: host.ip("route", "add", *words)


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lan("10.77.5.1/24"), "the route 10.77.5.0/24 dev eth0 proto kernel overlaps VPN_CIDR=10.77.0.0/16"),
        (lan("10.0.0.1/8"), "the route 10.0.0.0/8 dev eth0 proto kernel overlaps VPN_CIDR"),
        (lan("10.77.5.1/32"), "eth0 has the address 10.77.5.1/32, which overlaps VPN_CIDR=10.77.0.0/16"),
        (lan("10.77.0.1/16"), "the route 10.77.0.0/16 dev eth0 proto kernel"),
        (route("10.77.0.0/16", "dev", "eth0", "proto", "static"), "10.77.0.0/16 dev eth0 proto static"),
        (route("10.64.0.0/10", "via", "192.168.5.1"), "the route 10.64.0.0/10 dev eth0 proto boot"),
        (route("10.77.0.0/16", "dev", "eth0", "metric", "100"), "metric 100 overlaps"),
        (route("blackhole", "10.77.9.0/24"), "the route blackhole 10.77.9.0/24"),
    ],
)
def test_a_network_of_the_host_that_overlaps_is_named(
    host: Host, member: Member, prepare: Callable[[Host], str], said: str
) -> None:
    prepare(host)
    text = member.refused(host)
    assert said in text
    assert "choose another VPN_CIDR, the same on all nodes" in text
    check = member.doctor(host)["host"]
    assert (check["status"], said in check["found"]) == ("fail", True), check


def test_a_route_within_the_ipv6_prefix_is_named(host: Host, member: Member) -> None:
    prefix = ula(member)
    host.ip("route", "add", prefix, "dev", "eth0")
    assert f"the route {prefix} dev eth0" in member.refused(host)
    host.ip("route", "del", prefix, "dev", "eth0")
    host.ip("address", "add", prefix.replace("/48", "1/64"), "dev", "eth0")
    assert "overlaps the network's IPv6 prefix" in member.refused(host)


def test_an_rpc_host_within_the_range_is_refused(host: Host, member: Member) -> None:
    text = member.refused(host, RPC_URL="http://10.77.3.4:8545,ws://192.168.5.9:8546")
    assert "the RPC host 10.77.3.4 is within VPN_CIDR=10.77.0.0/16" in text
    assert "192.168.5.9" not in text
    text = member.refused(host, PEER_ENDPOINTS="b=10.77.3.5:51820")
    assert "the endpoint of b in PEER_ENDPOINTS (10.77.3.5) is within" in text


def test_a_busy_host_is_as_it_was_after_a_start_and_a_stop(host: Host, member: Member) -> None:
    host.link("docker0", "bridge")
    host.ip("address", "add", "172.17.0.1/16", "dev", "docker0")
    host.ip("address", "add", "10.76.255.1/24", "dev", "docker0")
    for words in (
        ("10.78.0.0/16", "via", "192.168.5.1"),
        ("0.0.0.0/1", "via", "192.168.5.1"),
        ("unreachable", "10.0.0.0/8"),
        ("fd00::/8", "via", "fd99::1"),
        ("10.77.0.0/16", "via", "192.168.5.1", "table", "100"),
    ):
        host.ip("route", "add", *words)
    host.wireguard("wg1", OTHER, *PEERS)
    host.ip("tuntap", "add", "dev", "tun7", "mode", "tun")
    chain = "chain FORWARD { type filter hook forward priority filter; policy drop;\n}"
    rules = f"table ip filter {{\n{chain}\n}}\n"
    host.namespace.run("nft", "-f", "-", text=rules)
    (host.etc / "wg1.conf").write_text("[Interface]\nPostUp = echo\n")
    before = host.state()
    for settings in ({}, {"KEEP_INTERFACE": "1"}, {}):
        daemon = member.start(host, **settings)
        daemon.wait_up()
        assert "dstack-vpn" in host.ip("link", "show", "wg0")
        assert host.ip("route", "show", "10.77.0.0/16", "dev", "wg0")
        assert member.doctor(host)["host"]["status"] == "pass"
        assert daemon.end() == 0
        if not settings:
            assert host.state() == before


# -- the wg-quick file -----------------------------------------------------------------------------


def test_a_hand_written_file_is_left_as_it_is(host: Host, member: Member) -> None:
    file = host.etc / "wg0.conf"
    file.write_text(
        "[Interface]\nPrivateKey = AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\nPostUp = echo up\n"
    )
    file.chmod(0o640)
    text = member.refused(host, WIREGUARD_CONFIG=str(file))
    assert f"{file} was not written by dstack-vpn, and is left as it is: move it away" in text


# -- the node's own interfaces ---------------------------------------------------------------------


def test_what_a_killed_daemon_leaves_is_taken_up(host: Host, member: Member) -> None:
    """The next daemon recognizes the mark, also without wireguard-go, and with another key."""
    before = host.state()
    for kills, key in ((False, member.key), (True, member.key), (True, new_key())):
        daemon = member.start(host)
        daemon.wait_up()
        daemon.end(signal.SIGKILL)
        if kills:
            pid = host.namespace.pid_of("wireguard-go")
            assert pid is not None
            host.namespace.run("kill", "-9", str(pid))
            wait_until(lambda: host.namespace.pid_of("wireguard-go") is None, "wireguard-go has ended")
        member.key = key
    daemon = member.start(host)
    daemon.wait_up()
    assert daemon.end() == 0
    assert host.state() == before


def test_a_tunnel_with_our_key_is_ours_without_a_mark(host: Host, member: Member) -> None:
    """An earlier release, or wg-quick with the node's file, made the tunnel. It is adopted."""
    before = host.state()
    host.wireguard("wg0", member.key, port=51820)
    (host.etc / "wg0.key").unlink()
    daemon = member.start(host)
    daemon.wait_up()
    assert daemon.has("device.adopted")
    assert daemon.end() == 0
    assert host.state() == before


def test_a_blank_wireguard_is_used_and_left_blank(host: Host, member: Member) -> None:
    """A container that holds a node's network makes such a device before the node starts."""
    host.wireguard("wg0", None)
    for number in (signal.SIGKILL, signal.SIGTERM):
        daemon = member.start(host)
        daemon.wait_up()
        assert str(member.public_key) in host.namespace.run("wg", "show", "wg0")
        daemon.end(number)
    assert host.others[0].poll() is None
    assert "(none)\t(none)" in host.namespace.run("wg", "show", "wg0", "dump")
    assert "dstack-vpn" not in host.ip("link", "show", "wg0")
    assert not host.ip("route", "show", "table", "all", "proto", "118")


# -- two daemons -----------------------------------------------------------------------------------


@pytest.fixture
def first(host: Host, member: Member) -> Iterator[Member]:
    """Yield the member of a daemon that runs already."""
    daemon = member.start(host)
    daemon.wait_up()
    yield member
    assert daemon.end() == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "runs with INTERFACE=wg0 in this network namespace"),
        ({"VPN_CIDR": "10.78.0.0/16"}, "runs with INTERFACE=wg0 in this network namespace"),
        ({"INTERFACE": "wg1"}, "the route 10.77.0.0/16 dev wg0 proto 118 is another dstack-vpn's"),
        ({"INTERFACE": "wg1", "VPN_CIDR": "10.77.5.0/24"}, "the route 10.77.0.0/16 dev wg0"),
        ({"INTERFACE": "wg1", "VPN_CIDR": "10.78.0.0/16"}, "overlaps the network's IPv6 prefix"),
    ],
)
def test_a_second_daemon_in_the_namespace_is_refused(
    host: Host, first: Member, tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    assert said in Member(tmp_path / "b").refused(host, LISTEN_PORT="51821", **settings)


def test_a_socket_directory_of_its_own_does_not_part_them(host: Host, first: Member, tmp_path: Path) -> None:
    with netns_support.Namespace("o") as other:
        mixed = [host.namespace.command("x")[1], other.command("x")[2]]
        text = Member(tmp_path / "b").refused(host, "nsenter", *mixed, "--", LISTEN_PORT="51821")
        assert "runs with INTERFACE=wg0 in this network namespace (" not in text
        assert "another dstack-vpn (process " in text


def test_another_network_beside_it_is_no_matter(host: Host, first: Member, tmp_path: Path) -> None:
    other = Member(tmp_path / "b")
    before = host.state()
    contract = "0x" + "ab" * 20
    daemon = other.start(
        host, INTERFACE="wg1", VPN_CIDR="10.78.0.0/16", LISTEN_PORT="51821", CONTRACT_ADDRESS=contract
    )
    daemon.wait_up()
    assert daemon.end() == 0
    assert host.state() == before


def test_namespaces_that_share_a_socket_directory(host: Host, first: Member, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with hosted(tmp_path / "b" / "etc") as other:
        mixed = [other.namespace.command("x")[1], host.namespace.command("x")[2]]
        member = Member(tmp_path / "b" / "home")
        text = member.refused(other, "nsenter", *mixed, "--")
        assert "a WireGuard of another network namespace listens at /var/run/wireguard/wg0.sock" in text
        assert "give this one a /var/run/wireguard of its own" in text
        daemon = member.start(other, "nsenter", *mixed, "--", INTERFACE="wg1")
        daemon.wait_up()
        assert daemon.end() == 0
        daemon = member.start(other)
        daemon.wait_up()
        assert daemon.end() == 0


def test_two_that_start_at_once_do_not_both_stay(host: Host, tmp_path: Path) -> None:
    daemons = [Member(tmp_path / name).start(host) for name in "ab"]
    wait_until(lambda: any(d.process.poll() is not None for d in daemons), "one of them has ended", 30)
    codes = [daemon.process.poll() for daemon in daemons]
    assert sorted(codes, key=str) == [78, None]
    left = daemons[codes.index(None)]
    left.wait_up()
    assert left.end() == 0
