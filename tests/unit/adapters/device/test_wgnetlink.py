import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.adapters.device import netlink, wgnetlink
from dstack_vpn.adapters.device.netlink import attribute, nested
from dstack_vpn.core.model import PeerChange, PeerState, RemovePeer, SetPeer, SocketAddress
from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey
from dstack_vpn.errors import DeviceError

ONE = PublicKey(b"\1" * 32)
TWO = PublicKey(b"\2" * 32)
KEYS = st.binary(min_size=32, max_size=32).filter(any).map(PublicKey)
PREFIXES = st.ip_addresses(v=4).map(lambda a: f"{a}/32") | st.integers(0, 2**64).map(
    lambda n: f"fd00::{n % 9999 + 1}/128"
)


def fed(*payloads: bytes) -> wgnetlink.DumpParser:
    parser = wgnetlink.DumpParser()
    for payload in payloads:
        parser.feed(memoryview(payload))
    return parser


def test_the_bytes_are_those_of_the_kernels_header() -> None:
    change = SetPeer(ONE, SocketAddress("192.0.2.1", 51820), 25, frozenset({"10.0.0.1/32"}), True)
    (payload,) = wgnetlink.encode_batches("wg0", [change])
    assert payload == (
        bytes([1, 1, 0, 0])
        + struct.pack("=HH", 8, 2) + b"wg0\0"
        + struct.pack("=HH", 112, 8 | 0x8000)
        + struct.pack("=HH", 108, 0x8000)
        + struct.pack("=HH", 36, 1) + bytes(ONE)
        + struct.pack("=HHI", 8, 3, 2)
        + struct.pack("=HHH", 20, 4, 2) + bytes.fromhex("ca6cc0000201") + bytes(8)
        + struct.pack("=HHHxx", 6, 5, 25)
        + struct.pack("=HH", 32, 9 | 0x8000)
        + struct.pack("=HH", 28, 0x8000)
        + struct.pack("=HHHxx", 6, 1, 2)
        + struct.pack("=HH", 8, 2) + bytes([10, 0, 0, 1])
        + struct.pack("=HHBxxx", 5, 3, 32)
    )  # fmt: skip


def test_removals_are_alone() -> None:
    changes: list[PeerChange] = [SetPeer(ONE), RemovePeer(ONE), RemovePeer(TWO), SetPeer(ONE), SetPeer(TWO)]
    assert len(wgnetlink.encode_batches("wg0", changes)) == 4


def test_messages_stay_below_the_limit() -> None:
    many = frozenset(f"10.{n >> 8}.{n & 255}.0/24" for n in range(5000))
    payloads = wgnetlink.encode_batches("wg0", [SetPeer(ONE, allowed_ips=many, replace_allowed_ips=True)])
    assert all(len(payload) < 65536 for payload in payloads)
    assert len(payloads) > 1
    # Only the first part contains the replace flag.
    flags = attribute(3, struct.pack("=I", 2))
    assert [flags in payload for payload in payloads] == [True] + [False] * (len(payloads) - 1)


@given(
    st.dictionaries(
        KEYS,
        st.tuples(
            st.frozensets(PREFIXES, max_size=5),
            st.none() | st.builds(SocketAddress, st.ip_addresses(v=4).map(str), st.integers(1, 65535)),
            st.integers(0, 65535),
        ),
        max_size=5,
    )
)
def test_what_is_set_reads_the_same(
    peers: dict[PublicKey, tuple[frozenset[str], SocketAddress | None, int]],
) -> None:
    # A set message and a dump use the same attributes and differ only in the device.
    changes = [SetPeer(key, endpoint, keepalive, ips) for key, (ips, endpoint, keepalive) in peers.items()]
    state = fed(*wgnetlink.encode_batches("wg0", changes)).state()
    assert state.peers == {
        key: PeerState(key, ips, endpoint, keepalive) for key, (ips, endpoint, keepalive) in peers.items()
    }


def prefix(address: bytes) -> bytes:
    return nested(
        0,
        attribute(1, struct.pack("=H", 2)) + attribute(2, address) + attribute(3, b"\x20"),
    )


def test_a_peer_that_goes_on_in_the_next_message_is_one() -> None:
    statistics = attribute(6, struct.pack("=qq", 5, 0)) + attribute(7, struct.pack("=Q", 34))
    first = attribute(1, ONE) + statistics + nested(9, prefix(bytes([10, 0, 0, 1])))
    rest = attribute(1, ONE) + nested(9, prefix(bytes([10, 0, 0, 2])))
    device = attribute(4, TWO) + attribute(6, struct.pack("=H", 51820)) + attribute(7, struct.pack("=I", 3))
    state = fed(
        netlink.generic(0, device + nested(8, nested(0, first))),
        netlink.generic(0, nested(8, nested(0, rest))),
    ).state()
    assert (state.public_key, state.listen_port, state.fwmark) == (TWO, 51820, 3)
    assert state.peers == {
        ONE: PeerState(ONE, frozenset({"10.0.0.1/32", "10.0.0.2/32"}), last_handshake=5.0, rx_bytes=34)
    }


@given(st.binary(max_size=200))
def test_nothing_but_device_errors_escape(junk: bytes) -> None:
    with contextlib.suppress(DeviceError):
        fed(junk)
    with contextlib.suppress(DeviceError):
        fed(netlink.generic(0, nested(8, nested(0, junk))))
    with contextlib.suppress(DeviceError):
        for each in netlink.parse_messages(junk):
            netlink.check_error(each.payload)


@pytest.mark.parametrize(("said", "code"), [(-22, 22), (22, 22), (-(2**31), 71), (4096, 71)])
def test_an_errno_that_there_is_not_is_a_protocol_error(said: int, code: int) -> None:
    with pytest.raises(netlink.NetlinkRefusalError) as caught:
        netlink.check_error(memoryview(struct.pack("=i", said)))
    assert caught.value.code == code


def test_which_interfaces_have_changed() -> None:
    link = struct.pack("=BxHiII", 0, 1, 7, 0, 0)
    address = struct.pack("=BBBBI", 2, 32, 0, 0, 9)
    gone, other = netlink.message(netlink.RTM_DELLINK, 0, 0, link), netlink.message(24, 0, 0, link)
    removed = netlink.message(netlink.RTM_DELADDR, 0, 0, address)
    route = struct.pack("=8BI", 2, 16, 0, 0, 254, 3, 253, 1, 0) + netlink.attribute(1, bytes(4))
    unrouted = netlink.message(netlink.RTM_DELROUTE, 0, 0, route + netlink.attribute(4, struct.pack("=i", 5)))
    many = netlink.message(netlink.RTM_DELROUTE, 0, 0, route + netlink.attribute(9, bytes(16)))  # multipath
    found = list(netlink.interface_changes(other + gone + removed + unrouted + many))
    assert found == [(netlink.RTM_DELLINK, 7), (netlink.RTM_DELADDR, 9), (netlink.RTM_DELROUTE, 5)]
    with pytest.raises(DeviceError):
        list(netlink.interface_changes(netlink.message(netlink.RTM_DELROUTE, 0, 0, route + b"\x40\0\4\0")))
    for short in (link[:7], address[:7]):
        with pytest.raises(DeviceError):
            list(netlink.interface_changes(netlink.message(netlink.RTM_DELADDR, 0, 0, short)))


def test_sockaddr_of_both_families() -> None:
    for endpoint in (SocketAddress("192.0.2.1", 7), SocketAddress("2001:db8::1", 7)):
        assert wgnetlink.parse_sockaddr(memoryview(wgnetlink.encode_sockaddr(endpoint))) == endpoint
    assert wgnetlink.parse_sockaddr(memoryview(bytes(16))) is None
    assert len(wgnetlink.encode_sockaddr(SocketAddress("::1", 1))) == 28


def test_settings_of_the_device() -> None:
    assert wgnetlink.encode_listen_port("wg0", 1).endswith(struct.pack("=HHHxx", 6, 6, 1))
    assert wgnetlink.encode_private_key("wg0", PrivateKey(b"\3" * 32)).endswith(b"\3" * 32)
    with pytest.raises(DeviceError):
        wgnetlink.encode_listen_port("wg0", 65536)


def test_a_refusal_carries_its_errno() -> None:
    netlink.check_error(memoryview(struct.pack("=i", 0)))
    with pytest.raises(netlink.NetlinkRefusalError, match="No such device") as caught:
        netlink.check_error(memoryview(struct.pack("=i", -19)))
    assert caught.value.code == 19


def test_messages_and_their_payloads() -> None:
    buffer = netlink.message(16, 5, 7, b"abc") + b"\0" + netlink.message(3, 2, 8, b"")
    assert [(m.type, m.flags, m.sequence, bytes(m.payload)) for m in netlink.parse_messages(buffer)] == [
        (16, 5, 7, b"abc"),
        (3, 2, 8, b""),
    ]
