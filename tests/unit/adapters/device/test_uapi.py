import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.adapters.device import uapi
from dstack_vpn.core.model import PeerState, RemovePeer, SetPeer, SocketAddress
from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import DeviceError

ONE = PublicKey(b"\1" * 32)
TWO = PublicKey(b"\2" * 32)
SECRET = PrivateKey(bytes(range(32)))
ANSWER = b"""\
private_key=%b
listen_port=51820
fwmark=7
public_key=%b
preshared_key=%b
protocol_version=1
endpoint=[2001:db8::1]:51820
last_handshake_time_sec=1700000000
last_handshake_time_nsec=500000000
tx_bytes=12
rx_bytes=34
persistent_keepalive_interval=25
allowed_ip=10.77.0.3/32
allowed_ip=fd00::3/128
public_key=%b
preshared_key=%b
protocol_version=1
endpoint=[fe80::1%%eth0]:9
last_handshake_time_sec=0
last_handshake_time_nsec=0
tx_bytes=0
rx_bytes=0
persistent_keepalive_interval=0
errno=0

""" % (SECRET.reveal().hex().encode(), ONE.hex().encode(), b"0" * 64, TWO.hex().encode(), b"0" * 64)


def parsed(*pieces: bytes) -> uapi.GetParser:
    parser = uapi.GetParser()
    for piece in pieces:
        parser.feed(piece)
    return parser


def test_a_change_says_only_what_it_is_given() -> None:
    assert uapi.encode_batches([SetPeer(ONE)]) == [b"set=1\npublic_key=%b\n\n" % (b"01" * 32)]
    assert uapi.encode_batches([RemovePeer(ONE)]) == [b"set=1\npublic_key=%b\nremove=true\n\n" % (b"01" * 32)]
    whole = SetPeer(ONE, SocketAddress("::1", 7), 25, frozenset({"fd00::1/128", "10.0.0.1/32"}), True)
    assert uapi.encode_batches([whole])[0].splitlines()[2:] == [
        b"endpoint=[::1]:7",
        b"persistent_keepalive_interval=25",
        b"replace_allowed_ips=true",
        b"allowed_ip=10.0.0.1/32",
        b"allowed_ip=fd00::1/128",
        b"",
    ]


def test_batches_are_small_and_keep_the_order() -> None:
    changes = [SetPeer(PublicKey(n.to_bytes(32, "big")), keepalive=0) for n in range(1, 3000)]
    batches = uapi.encode_batches(changes)
    assert all(len(batch) <= uapi.OPERATION_BYTES + 10 for batch in batches)
    assert b"".join(b.removeprefix(b"set=1\n").removesuffix(b"\n") for b in batches) == b"".join(
        map(uapi.encode_change, changes)
    )
    assert uapi.encode_batches([]) == []


def test_no_peer_shares_an_operation_with_a_keepalive_before_it() -> None:
    woken, quiet = SetPeer(ONE, keepalive=25), SetPeer(TWO, keepalive=0)
    assert len(uapi.encode_batches([quiet, woken, woken])) == 1
    assert len(uapi.encode_batches([woken, quiet])) == 2
    assert len(uapi.encode_batches([woken, RemovePeer(TWO)])) == 2


@pytest.mark.parametrize(
    "bad",
    [
        SetPeer(TWO, SocketAddress("1.1.1.1\nremove=true", 1)),
        SetPeer(TWO, SocketAddress("fe80::1%\n", 1)),
        SetPeer(TWO, SocketAddress("1.1.1.1", 65536)),
        SetPeer(TWO, keepalive=65536),
        SetPeer(TWO, allowed_ips=frozenset({"10.0.0.1/32\n"})),
    ],
)
def test_a_bad_value_anywhere_sends_nothing(bad: SetPeer) -> None:
    with pytest.raises(DeviceError):
        uapi.encode_batches([SetPeer(ONE), bad])


def test_the_device_is_read() -> None:
    state = parsed(ANSWER).state()
    assert state.public_key == derive(SECRET)
    assert (state.listen_port, state.fwmark) == (51820, 7)
    assert state.peers == {
        ONE: PeerState(
            ONE,
            frozenset({"10.77.0.3/32", "fd00::3/128"}),
            SocketAddress("2001:db8::1", 51820),
            25,
            1700000000.5,
            34,
            12,
        ),
        TWO: PeerState(TWO, frozenset(), SocketAddress("fe80::1", 9)),
    }


@given(st.lists(st.integers(1, len(ANSWER) - 1), max_size=12).map(sorted))
def test_pieces_of_any_size_are_the_same(cuts: list[int]) -> None:
    edges = [0, *cuts, len(ANSWER)]
    pieces = [ANSWER[a:b] for a, b in itertools.pairwise(edges)]
    assert parsed(*pieces).state() == parsed(ANSWER).state()


def test_a_device_without_key_and_peers() -> None:
    state = parsed(b"errno=0\n\n").state()
    assert (state.public_key, state.listen_port, state.peers) == (None, 0, {})


@pytest.mark.parametrize("answer", [b"", ANSWER[:-10], b"listen_port=1\n"])
def test_an_answer_that_breaks_off_is_no_state(answer: bytes) -> None:
    with pytest.raises(DeviceError, match="incomplete description"):
        parsed(answer).state()


def test_a_refused_read_says_why() -> None:
    with pytest.raises(DeviceError, match="errno 5"):
        parsed(b"errno=-5\n\n").state()


@given(st.binary() | st.binary().map(lambda junk: ANSWER.replace(b"=", b"=" + junk, 3)))
def test_nothing_but_device_errors_escape(junk: bytes) -> None:
    with contextlib.suppress(DeviceError):
        parsed(junk).state()


def test_an_error_never_quotes_the_private_key() -> None:
    with pytest.raises(DeviceError) as caught:
        parsed(ANSWER.replace(b"private_key=00", b"private_key=zz"))
    assert "0102" not in repr(caught.value)
    assert caught.value.__suppress_context__


def test_the_private_key_is_not_kept() -> None:
    parser = parsed(ANSWER)
    assert SECRET.reveal().hex() not in repr(vars(parser))


@pytest.mark.parametrize(("answer", "code"), [(b"errno=0\n\n", 0), (b"errno=-98\n\n", 98)])
def test_the_status_is_read(answer: bytes, code: int) -> None:
    assert uapi.parse_status(answer) == code


@pytest.mark.parametrize("answer", [b"", b"\n\n", b"errno\n\n", b"errno=x\n\n", b"oops=0\n\n"])
def test_an_answer_that_is_none_is_refused(answer: bytes) -> None:
    with pytest.raises(DeviceError):
        uapi.parse_status(answer)


def test_a_refusal_is_a_sentence() -> None:
    assert str(uapi.refusal(98)) == "WireGuard: the UDP port is in use by another program (errno 98)"
    assert "errno 1" in str(uapi.refusal(1))


@pytest.mark.parametrize("errno", [b"--5", b"5-", b"9" * 30, b"9" * 5000])
def test_an_errno_that_is_no_number_of_an_errno_is_refused(errno: bytes) -> None:
    with pytest.raises(DeviceError):
        uapi.parse_status(b"errno=%b\n\n" % errno)
    parser = uapi.GetParser()
    with pytest.raises(DeviceError):
        parser.feed(b"errno=%b\n\n" % errno)
