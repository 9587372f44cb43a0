"""The behaviour of every `Link` with a real interface; `ip` confirms its state."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import pytest
from structlog.testing import capture_logs
from tests import netns_support
from tests.conformance.device.conftest import NAME, new_link
from tests.netns_support import Namespace, claim

from dstack_vpn.adapters.device.interface import Interface
from dstack_vpn.adapters.device.link import KernelLink, UserspaceLink
from dstack_vpn.core.exit_routing import BY_EXIT, BY_MAIN, TABLE, exit_obstacles
from dstack_vpn.core.model import SetPeer
from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import DeviceError
from dstack_vpn.ports import LinkSettings

pytestmark = pytest.mark.netns

AnyRealLink = KernelLink | UserspaceLink
SETTINGS = LinkSettings(
    NAME,
    1380,
    frozenset({"10.77.0.2/32", "fd77::2/128"}),
    frozenset({"10.77.0.0/16", "fd77::/48"}),
)
SECRET = PrivateKey(bytes(range(32)))
PEER = SetPeer(PublicKey(b"\1" * 32), None, 0, frozenset({"10.77.0.9/32"}))


@pytest.fixture
def inside(backend: str, namespace: Namespace | None) -> Namespace:
    if namespace is None:
        pytest.skip("has no interface")
    # A default route out of the host, as usual: leaked packets would take it.
    namespace.run("ip", "link", "add", "uplink", "type", "veth", "peer", "beyond")
    for end in ("uplink", "beyond"):
        namespace.run("ip", "link", "set", end, "up")
    for address, default in (("10.9.0.1/24", "default"), ("fd99::1/64", "::/0")):
        namespace.run("ip", "address", "add", address, "dev", "uplink")
        namespace.run("ip", "route", "add", default, "dev", "uplink")
    return namespace


@pytest.fixture
async def link(backend: str, inside: Namespace) -> AsyncIterator[KernelLink | UserspaceLink]:
    link = fresh(backend)
    yield link
    await link.stop(keep=False)


def fresh(backend: str) -> KernelLink | UserspaceLink:
    link = new_link(backend)
    assert isinstance(link, KernelLink | UserspaceLink)
    return link


def addresses(inside: Namespace) -> frozenset[str]:
    rows = inside.run("ip", "-oneline", "address", "show", "dev", NAME).splitlines()
    return frozenset(row.split()[3] for row in rows)


def routes(inside: Namespace) -> set[tuple[str, str]]:
    """Return our routes: the interface or ``blackhole``, and the destination."""
    found = set()
    for family in ("-4", "-6"):
        for row in inside.run("ip", family, "route", "show", "proto", "118").splitlines():
            words = row.split()
            found.add(("blackhole", words[1]) if words[0] == "blackhole" else (words[2], words[0]))
    return found


EVERYTHING = {(where, to) for where in (NAME, "blackhole") for to in ("10.77.0.0/16", "fd77::/48")}


def way(inside: Namespace, address: str) -> str:
    """Return the interface by which a packet would leave, or an empty string."""
    told = inside.run("ip", "route", "get", address, check=False).split()
    return told[told.index("dev") + 1] if "dev" in told else ""


async def test_everything_asked_for_is_there_and_nothing_else(link: AnyRealLink, inside: Namespace) -> None:
    await link.start()
    await link.configure(SETTINGS)
    assert addresses(inside) == SETTINGS.addresses
    assert routes(inside) == EVERYTHING
    assert "mtu 1380" in inside.run("ip", "link", "show", NAME)
    assert await link.is_up()
    assert not await link.configure(SETTINGS), "it was so already"
    assert (addresses(inside), routes(inside)) == (SETTINGS.addresses, EVERYTHING)
    for edit in (("address", "flush", "dev", NAME), ("route", "flush", "dev", NAME)):
        inside.run("ip", *edit)
        assert await link.configure(SETTINGS)
        assert (addresses(inside), routes(inside)) == (SETTINGS.addresses, EVERYTHING)


async def test_an_edit_of_addresses_and_routes_is_reported(link: AnyRealLink, inside: Namespace) -> None:
    await link.start()
    await link.configure(SETTINGS)
    for edit in (
        ("address", "flush", "dev", NAME),
        ("address", "add", "192.0.2.7/24", "dev", NAME),
        ("-4", "route", "flush", "dev", NAME),
        ("-6", "route", "flush", "dev", NAME),
    ):
        with suppress(TimeoutError):
            while True:  # our own changes are reported as well
                await asyncio.wait_for(link.edited(), 0.05)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            reported = group.create_task(link.edited())
            await asyncio.sleep(0)
            assert not reported.done()
            inside.run("ip", *edit)
        assert await link.configure(SETTINGS)


async def test_what_is_stale_goes(link: AnyRealLink, inside: Namespace) -> None:
    await link.start()
    await link.configure(SETTINGS)
    inside.run("ip", "address", "add", "192.0.2.7/24", "dev", NAME)
    inside.run("ip", "link", "set", NAME, "down")
    assert not await link.is_up()
    other = LinkSettings(NAME, 1420, frozenset({"10.78.0.2/32"}), frozenset({"10.78.0.0/16"}))
    await link.configure(other)
    assert addresses(inside) == {"10.78.0.2/32"}
    assert routes(inside) == {(NAME, "10.78.0.0/16"), ("blackhole", "10.78.0.0/16")}
    assert await link.is_up()


async def test_nothing_leaks_when_the_interface_goes(link: AnyRealLink, inside: Namespace) -> None:
    await link.start()
    assert {way(inside, "10.77.0.9"), way(inside, "fd77::9")} == {"uplink"}
    await link.configure(SETTINGS)
    assert {way(inside, "10.77.0.9"), way(inside, "fd77::9")} == {NAME}
    inside.run("ip", "link", "delete", NAME)
    async with asyncio.timeout(10):
        await link.gone()
    assert not await link.is_up()
    assert {way(inside, "10.77.0.9"), way(inside, "fd77::9")} <= {"", "lo"}
    assert way(inside, "192.0.2.1") == "uplink"


async def test_a_deleted_interface_is_made_anew(link: AnyRealLink, inside: Namespace) -> None:
    await link.start()
    await link.configure(SETTINGS)
    inside.run("ip", "link", "delete", NAME)
    async with asyncio.timeout(10):
        await link.gone()
    device = await link.start()
    await device.configure(SECRET, 51820)
    await link.configure(SETTINGS)
    assert (addresses(inside), routes(inside)) == (SETTINGS.addresses, EVERYTHING)
    assert "listening port: 51820" in inside.run("wg", "show", NAME)


async def test_starting_twice_is_starting_once(link: AnyRealLink) -> None:
    assert await link.start() is await link.start()


async def test_another_one_takes_over_what_was_kept(
    link: AnyRealLink, backend: str, inside: Namespace
) -> None:
    device = await link.start()
    await device.configure(SECRET, 51820)
    await link.configure(SETTINGS)
    await device.apply([PEER])
    before = await device.read()
    await link.stop(keep=True)
    assert (addresses(inside), routes(inside)) == (SETTINGS.addresses, EVERYTHING)
    successor = fresh(backend)
    assert await (await successor.start()).read() == before
    await successor.configure(SETTINGS)
    assert (addresses(inside), routes(inside)) == (SETTINGS.addresses, EVERYTHING)
    await successor.stop(keep=False)


async def test_stopping_leaves_nothing(link: AnyRealLink, inside: Namespace) -> None:
    await link.start()
    await link.configure(SETTINGS)
    await link.stop(keep=False)
    assert NAME not in inside.run("ip", "link", "show")
    assert routes(inside) == set()
    assert inside.run("ls", "/run/wireguard") == ""
    await link.stop(keep=False)


async def test_a_neighbours_blackhole_stays(link: AnyRealLink, inside: Namespace) -> None:
    inside.run("ip", "route", "add", "blackhole", "10.77.0.0/16", "proto", "118", "metric", "77")
    await link.start()
    await link.configure(SETTINGS)
    await link.stop(keep=False)
    assert routes(inside) == {("blackhole", "10.77.0.0/16")}


NETWORKS = frozenset({"10.90.0.0/24", "fd90::/48"})


async def test_networks_behind_nodes_give_way_to_routes_of_others(
    link: AnyRealLink, inside: Namespace
) -> None:
    await link.start()
    settings = replace(SETTINGS, networks=NETWORKS)
    assert await link.configure(settings)
    assert not await link.configure(settings)
    assert routes(inside) == EVERYTHING | {(where, to) for where in (NAME, "blackhole") for to in NETWORKS}
    assert {way(inside, "10.90.0.9"), way(inside, "fd90::9")} == {NAME}
    for to in NETWORKS:
        inside.run("ip", "route", "add", to, "dev", "uplink", "metric", "5000")
    assert {way(inside, "10.90.0.9"), way(inside, "fd90::9")} == {"uplink"}
    found = await link.survey(NETWORKS)
    assert {r.prefix for r in found.routes if r.device == "uplink"} >= NETWORKS
    assert "10.9.0.1/24" in {each.cidr for each in found.addresses if each.device == "uplink"}
    # They stay until this process knows which ones it wants.
    assert not await link.configure(replace(SETTINGS, networks=None))
    assert await link.configure(SETTINGS)
    assert routes(inside) == EVERYTHING
    assert {way(inside, "10.90.0.9"), way(inside, "fd90::9")} == {"uplink"}
    for to in NETWORKS:
        inside.run("ip", "route", "del", to, "dev", "uplink")
    await link.configure(settings)
    inside.run("ip", "link", "delete", NAME)
    assert {way(inside, "10.90.0.9"), way(inside, "fd90::9")} <= {"", "lo"}, "nothing leaks"
    await link.stop(keep=False)
    assert routes(inside) == set()


async def test_a_host_without_ipv6_is_served_with_one_warning(link: AnyRealLink, inside: Namespace) -> None:
    for scope in ("all", "default"):
        inside.run("sh", "-c", f"echo 1 > /proc/sys/net/ipv6/conf/{scope}/disable_ipv6")
    with capture_logs() as logs:
        await link.start()
        await link.configure(SETTINGS)
        assert not await link.configure(SETTINGS), "it was so already, as far as it can be"
    assert link.without_ipv6
    assert addresses(inside) == {"10.77.0.2/32"}
    assert {(NAME, "10.77.0.0/16"), ("blackhole", "10.77.0.0/16")} <= routes(inside)
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["device.no_ipv6"]


@pytest.mark.parametrize(
    "kind",
    [
        ("link", "add", NAME, "type", "veth", "peer", "other"),
        ("link", "add", NAME, "type", "bridge"),
        ("tuntap", "add", "dev", NAME, "mode", "tun"),
    ],
    ids=["veth", "bridge", "tun"],
)
async def test_an_interface_of_another_kind_is_left_alone(
    link: AnyRealLink, inside: Namespace, kind: tuple[str, ...]
) -> None:
    inside.run("ip", *kind)
    inside.run("ip", "address", "add", "10.99.0.1/24", "dev", NAME)
    before = inside.run("ip", "-j", "address", "show", "dev", NAME)
    with pytest.raises(DeviceError, match=NAME):
        await link.start()
    with capture_logs() as logs:
        await link.stop(keep=False)
    assert inside.run("ip", "-j", "address", "show", "dev", NAME) == before
    assert [entry["event"] for entry in logs] == ["device.left_alone"]
    inside.run("ip", "link", "delete", NAME)


async def test_an_interface_that_takes_our_name_while_we_run_is_left_alone(
    link: AnyRealLink, inside: Namespace
) -> None:
    await link.start()
    await link.configure(SETTINGS)
    inside.run("ip", "link", "delete", NAME)
    inside.run("ip", "link", "add", NAME, "type", "bridge")
    with pytest.raises(DeviceError, match=f"another interface has the name {NAME}"):
        await link.configure(SETTINGS)
    await link.stop(keep=False)
    assert NAME in inside.run("ip", "link", "show", "type", "bridge")
    assert routes(inside) == set()
    inside.run("ip", "link", "delete", NAME)


@pytest.mark.parametrize("to", ["10.77.0.0/16", "10.77.5.0/24", "fd77::/48"])
async def test_a_route_that_others_take_while_we_run_is_named_and_stays(
    link: AnyRealLink, inside: Namespace, to: str
) -> None:
    show = ("ip", "-6" if ":" in to else "-4", "route", "show", to)
    await link.start()
    await link.configure(SETTINGS)
    assert link.obstacle() is None
    for own in (r for r in (to,) if r in SETTINGS.routes):
        inside.run("ip", "route", "del", own, "dev", NAME)
    inside.run("ip", "route", "add", to, "dev", "uplink", "proto", "static")
    for _ in range(2):
        await link.configure(SETTINGS)
        assert f"the route {to} dev uplink proto static" in str(link.obstacle())
    assert "uplink" in inside.run(*show)
    inside.run("ip", "route", "del", to, "dev", "uplink")
    await link.configure(SETTINGS)
    assert link.obstacle() is None
    assert routes(inside) == EVERYTHING
    inside.run("ip", "route", "add", to, "dev", "uplink", "proto", "static", "metric", "2000")
    await link.configure(SETTINGS)
    await link.stop(keep=False)
    assert "uplink" in inside.run(*show), "and after the end"


async def test_a_tunnel_of_others_is_refused_and_one_with_our_key_is_taken_over(
    link: AnyRealLink, backend: str, inside: Namespace
) -> None:
    device = await link.start()
    await device.configure(SECRET, 51820)
    await device.apply([PEER])
    await link.stop(keep=True)
    inside.run("ip", "link", "set", NAME, "alias", "")
    before = inside.run("wg", "show", NAME, "dump")
    stranger = fresh(backend)
    with pytest.raises(DeviceError, match=r"did not set up \(public key j0DFrbaPJWJK5bIU6nZ6bsl.*, 1 peer\)"):
        await stranger.start()
    await stranger.stop(keep=False)
    assert inside.run("wg", "show", NAME, "dump") == before
    owner = type(stranger)(claim(NAME, "another", derive(SECRET)))
    if isinstance(owner, UserspaceLink):
        owner = UserspaceLink(claim(NAME, "another", derive(SECRET)), netns_support.wireguard_go() or "")
    assert len((await (await owner.start()).read()).peers) == 1
    await owner.stop(keep=False)
    assert NAME not in inside.run("ip", "link")


async def test_a_blank_tunnel_is_used_and_left_blank(
    link: AnyRealLink, backend: str, inside: Namespace
) -> None:
    made = await link.start()
    await made.apply([])
    await link.stop(keep=True)
    inside.run("ip", "link", "set", NAME, "alias", "")
    for keep in (True, False):
        user = fresh(backend)
        device = await user.start()
        await device.configure(SECRET, 51820)
        await device.apply([PEER])
        await user.configure(SETTINGS)
        await user.stop(keep=keep)
    assert inside.run("wg", "show", NAME, "dump").split()[:2] == ["(none)", "(none)"]
    assert str(PEER.public_key) not in inside.run("wg", "show", NAME)
    assert not addresses(inside)
    assert not routes(inside)
    assert "alias" not in inside.run("ip", "link", "show", NAME)
    inside.run("ip", "link", "delete", NAME)


async def test_settings_for_another_interface_are_refused(link: AnyRealLink) -> None:
    await link.start()
    with pytest.raises(DeviceError, match="wg9"):
        await link.configure(LinkSettings("wg9", 1420, frozenset(), frozenset()))


async def test_a_setting_that_the_kernel_refuses_is_a_sentence(link: AnyRealLink) -> None:
    await link.start()
    with pytest.raises(DeviceError, match="can't set the MTU of wg0 to 2147483647"):
        await link.configure(LinkSettings(NAME, 2147483647, frozenset(), frozenset()))


async def test_nobody_waits_for_a_link_that_was_stopped(link: AnyRealLink) -> None:
    await link.start()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(link.gone())
        await asyncio.sleep(0)
        await link.stop(keep=False)


# -- EXIT_NODE -------------------------------------------------------------------------------------

EXIT = replace(SETTINGS, exit_mark=77)
OUTSIDE = ("198.51.100.1", "2001:db8::1")


def marked_way(inside: Namespace, address: str) -> str:
    told = inside.run("ip", "route", "get", address, "mark", "77", check=False).split()
    return told[told.index("dev") + 1] if "dev" in told else ""


def rules_of(inside: Namespace) -> list[str]:
    """Return our rules as ``ip`` lists them."""
    listed = inside.run("ip", "-4", "rule") + inside.run("ip", "-6", "rule")
    return [line for line in listed.splitlines() if "proto 118" in line]


async def test_an_exit_takes_everything_without_the_mark(link: AnyRealLink, inside: Namespace) -> None:
    await link.start()
    await link.configure(EXIT)
    assert not await link.configure(EXIT), "it was so already"
    for address in OUTSIDE:
        assert (way(inside, address), marked_way(inside, address)) == (NAME, "uplink")
    for address in ("10.9.0.2", "fd99::2"):
        assert way(inside, address) == "uplink", "the networks of the host are not the exit's"
    assert way(inside, "10.77.3.4") == marked_way(inside, "10.77.3.4") == NAME
    inside.run("ip", "rule", "add", "priority", "30000", "from", "10.9.0.9", "lookup", "100")
    for edit in (
        ("-4", "rule", "delete", "priority", str(BY_EXIT)),
        ("-6", "rule", "delete", "priority", str(BY_EXIT)),
        ("-6", "rule", "delete", "priority", str(BY_MAIN)),
        ("-4", "route", "flush", "table", str(TABLE)),
    ):
        with suppress(TimeoutError):
            while True:
                await asyncio.wait_for(link.edited(), 0.05)
        inside.run("ip", *edit)
        await asyncio.wait_for(link.edited(), 5)
        assert await link.configure(EXIT)
        for address in OUTSIDE:
            assert (way(inside, address), marked_way(inside, address)) == (NAME, "uplink")
    await link.configure(replace(EXIT, exit_mark=78))
    assert marked_way(inside, OUTSIDE[0]) == NAME
    assert len(rules_of(inside)) == 4
    await link.configure(SETTINGS)
    assert rules_of(inside) == []
    assert not inside.run("ip", "route", "show", "table", str(TABLE), check=False)
    assert way(inside, OUTSIDE[0]) == "uplink"
    assert "30000:" in inside.run("ip", "rule"), "another program's rule stays"


async def test_the_rules_outlive_the_interface_but_not_a_stop(link: AnyRealLink, inside: Namespace) -> None:
    await link.start()
    await link.configure(EXIT)
    await link.stop(keep=True)
    assert way(inside, OUTSIDE[0]) == NAME
    again = fresh("kernel" if isinstance(link, KernelLink) else "userspace")
    await again.start()
    await again.configure(EXIT)
    inside.run("ip", "link", "delete", NAME)
    for address in OUTSIDE:
        assert (way(inside, address), marked_way(inside, address)) == ("", "uplink")
    await again.gone()
    await again.start()
    assert await again.configure(EXIT)
    assert way(inside, OUTSIDE[0]) == NAME
    await again.stop(keep=False)
    assert rules_of(inside) == []
    assert way(inside, OUTSIDE[0]) == "uplink"


async def test_the_survey_reports_rules_and_routes(link: AnyRealLink, inside: Namespace) -> None:
    await link.start()
    await link.configure(EXIT)
    interface = Interface(NAME)
    try:
        facts = await interface.routing_facts()
        index = await interface.index()
        assert not list(exit_obstacles(replace(facts, strict=None), NAME, index))
        inside.run("ip", "rule", "add", "priority", "5000", "not", "fwmark", "0xca6c", "table", "51820")
        inside.run("ip", "route", "add", "blackhole", "192.0.2.0/24", "table", str(TABLE))
        found = [str(each) for each in exit_obstacles(await interface.routing_facts(), NAME, index)]
        assert any("5000: not from all fwmark 0xca6c lookup 51820" in problem for problem in found)
        assert any("blackhole 192.0.2.0/24" in problem for problem in found)
        for value, strict in ((1, True), (0, False), (2, True)):
            inside.run("sysctl", "-qw", f"net.ipv4.conf.all.rp_filter={value}")
            for name in ("uplink", "beyond", NAME):
                inside.run("sysctl", "-qw", f"net.ipv4.conf.{name}.rp_filter=0")
            assert bool((await interface.routing_facts()).strict) is strict
        inside.run("sysctl", "-qw", "net.ipv4.conf.all.src_valid_mark=1")
        assert (await interface.routing_facts()).strict is None
    finally:
        await interface.close()


async def test_an_exit_on_a_host_without_ipv6(link: AnyRealLink, inside: Namespace) -> None:
    inside.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
    await link.start()
    await link.configure(EXIT)
    assert not await link.configure(EXIT), "it was so already"
    assert (way(inside, OUTSIDE[0]), marked_way(inside, OUTSIDE[0])) == (NAME, "uplink")
    await link.configure(SETTINGS)
    assert rules_of(inside) == []
