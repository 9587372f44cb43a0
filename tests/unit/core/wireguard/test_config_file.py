import base64
import contextlib
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.core.model import Peer, SocketAddress
from dstack_vpn.core.wireguard.config_file import ConfPeer, WgConfig, parse, render
from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey
from dstack_vpn.errors import FormatError

PRIVATE = PrivateKey(bytes(range(32)))
EXAMPLE = """\
# Written by dstack-vpn, which replaces it: edits are lost.
[Interface]
PrivateKey = AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=
ListenPort = 51820
Address = 10.77.0.2/32
Address = fd00::2/128
MTU = 1420

# node-b (token 2)
[Peer]
PublicKey = AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=
AllowedIPs = 10.77.0.3/32, fd00::3/128
Endpoint = 192.0.2.1:51820
PersistentKeepalive = 25

# node-c (token 10)
[Peer]
PublicKey = AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=
Endpoint = [2001:db8::1]:51820
"""


def key(number: int) -> PublicKey:
    return PublicKey(bytes([number]) * 32)


def example() -> WgConfig:
    allowed = frozenset({"fd00::3/128", "10.77.0.3/32"})
    peers = (
        ConfPeer(Peer(key(3), frozenset(), SocketAddress("2001:db8::1", 51820)), "node-c", 10),
        ConfPeer(Peer(key(2), allowed, SocketAddress("192.0.2.1", 51820), 25), "node-b", 2),
    )
    return WgConfig(PRIVATE, 51820, frozenset({"fd00::2/128", "10.77.0.2/32"}), 1420, peers)


def test_it_is_written_in_one_order_only() -> None:
    assert render(example()) == EXAMPLE


def test_a_text_can_stand_for_the_key() -> None:
    assert "PrivateKey = (hidden)\n" in render(example(), "(hidden)")


prefixes = st.one_of(
    st.ip_addresses(v=4).map(lambda a: f"{a}/32"), st.ip_addresses(v=6).map(lambda a: f"{a}/128")
)
endpoints = st.builds(SocketAddress, st.ip_addresses().map(str), st.integers(1, 65535))
keys = st.binary(min_size=32, max_size=32).filter(any)
node_ids = st.from_regex(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", fullmatch=True)
peers = st.builds(
    Peer,
    keys.map(PublicKey),
    st.frozensets(prefixes, max_size=4),
    st.none() | endpoints,
    st.integers(0, 65535),
)
entries = st.builds(ConfPeer, peers) | st.builds(ConfPeer, peers, node_ids, st.integers(0, 2**256 - 1))
configs = st.builds(
    WgConfig,
    keys.map(PrivateKey),
    st.integers(0, 65535),
    st.frozensets(prefixes, max_size=3),
    st.none() | st.integers(0, 65535),
    st.lists(entries, max_size=6, unique_by=lambda entry: entry.peer.public_key).map(tuple),
)


@given(configs)
def test_what_was_written_is_read_back(config: WgConfig) -> None:
    text = render(config)
    found = parse(text)
    assert set(found.peers) == set(config.peers)
    assert render(found) == text
    assert (found.private_key, found.listen_port, found.addresses, found.mtu) == (
        config.private_key,
        config.listen_port,
        config.addresses,
        config.mtu,
    )


@given(st.text() | st.text(alphabet="[]=#\n InterfacePeerPublicKey0/.,:off"))
def test_no_text_makes_anything_but_a_format_error(text: str) -> None:
    with contextlib.suppress(FormatError):
        parse(text)


@given(st.text(), st.text())
def test_a_broken_file_makes_nothing_but_a_format_error(junk: str, more: str) -> None:
    for line in EXAMPLE.splitlines():
        with contextlib.suppress(FormatError):
            parse(EXAMPLE.replace(line, f"{line.partition('=')[0]}={junk}\n{more}"))


def test_peoples_edits_are_understood() -> None:
    edited = EXAMPLE.replace("PublicKey = ", "publickey=").replace("51820\nAddress", "51820  # ours\nADDRESS")
    assert render(parse(edited + "\n# the end\n")) == EXAMPLE
    assert parse(EXAMPLE.replace("Keepalive = 25", "Keepalive = off")).peers[0].peer.keepalive == 0


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("[Interface]", "[interFace", r"line 2: expected \[Interface\]"),
        ("# node-b", "[Interface]\n# node-b", "exactly one"),
        ("MTU = 1420", "PostUp = reboot", "line 7: not a setting"),
        ("MTU = 1420", "MTU", "line 7: not a setting"),
        ("MTU = 1420", "MTU = 1e3", "line 2: MTU: expected a number"),
        ("MTU = 1420", "MTU = 99999", "line 2: configuration: expected a number"),
        ("MTU = 1420", "MTU = 1\nMTU = 2", "MTU is given more than once"),
        ("[Interface]", "MTU = 3\n[Interface]", "line 2: not a setting"),
        ("PublicKey = AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=\n", "", "line 10: PublicKey is missing"),
        (
            "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM",
            "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI",
            "a peer",
        ),
        ("10.77.0.3/32", "10.77.0.3/24", "AllowedIPs: expected"),
        ("10.77.0.2/32", "nowhere", "Address: expected"),
        ("fd00::2/128", "fe80::1%x/64", "Address: expected"),
        ("192.0.2.1:51820", "example.org:1", "Endpoint: expected"),
        ("192.0.2.1:51820", "192.0.2.1:0", "Endpoint: expected"),
        ("192.0.2.1:51820", "[192.0.2.1]:1", "Endpoint: expected"),
        ("[2001:db8::1]:51820", "2001:db8::1:51820", "Endpoint: expected"),
        ("# node-b", "# -node-b", "node id"),
    ],
)
def test_a_problem_names_its_place(old: str, new: str, problem: str) -> None:
    assert old in EXAMPLE
    with pytest.raises(FormatError, match=problem):
        parse(EXAMPLE.replace(old, new, 1))


def test_a_problem_never_quotes_the_key() -> None:
    with pytest.raises(FormatError) as caught:
        parse(EXAMPLE.replace("AAECAwQF", "AAECAwQF!"))
    assert "AAECAwQF" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "config",
    [
        WgConfig(PRIVATE, 65536),
        WgConfig(PRIVATE, 1, frozenset({"10.0.0.1/32\nPostUp = reboot"})),
        WgConfig(PRIVATE, 1, frozenset({"fe80::1%\nPostUp = reboot/64"})),
        WgConfig(PRIVATE, 1, mtu=-1),
        WgConfig(PRIVATE, 1, peers=(ConfPeer(Peer(key(1), frozenset()), "a\nPostUp = reboot", 1),)),
        WgConfig(PRIVATE, 1, peers=(ConfPeer(Peer(key(1), frozenset({"::/0\n"}))),)),
        WgConfig(PRIVATE, 1, peers=(ConfPeer(Peer(key(1), frozenset(), SocketAddress("1.1.1.1\n", 1))),)),
        WgConfig(PRIVATE, 1, peers=(ConfPeer(Peer(key(1), frozenset(), SocketAddress("fe80::1%\n", 1))),)),
        WgConfig(PRIVATE, 1, peers=(ConfPeer(Peer(key(1), frozenset(), keepalive=70000)),)),
    ],
)
def test_nothing_that_could_break_out_of_its_line_is_written(config: WgConfig) -> None:
    with pytest.raises(FormatError):
        render(config)
    with pytest.raises(FormatError):
        render(example(), "x\nPostUp = reboot")


@pytest.mark.skipif(shutil.which("wg-quick") is None, reason="needs wg-quick")
def test_wg_quick_understands_it(tmp_path: Path) -> None:
    path = tmp_path / "wg7.conf"
    path.write_text(render(example()))
    path.chmod(0o600)
    stripped = subprocess.run(["wg-quick", "strip", path], capture_output=True, text=True, check=True).stdout
    kept = [line for line in EXAMPLE.splitlines() if not line.startswith(("Address", "MTU", "#"))]
    assert [line for line in stripped.splitlines() if line and not line.startswith("#")] == [
        x for x in kept if x
    ]


def test_the_key_is_that_of_the_interface() -> None:
    key = parse(EXAMPLE).private_key
    assert key is not None
    assert base64.b64encode(key.reveal()).decode() in EXAMPLE


def test_a_key_that_is_kept_off_the_disk_is_not_written() -> None:
    text = render(replace(parse(EXAMPLE), private_key=None))
    assert "PrivateKey =" not in text
    assert parse(text).private_key is None
    assert "PrivateKey" not in render(parse(text), "***")
