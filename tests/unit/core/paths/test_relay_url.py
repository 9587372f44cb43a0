"""Relay URLs and endpoints with alternatives: their meaning, and the error for each wrong part."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.core.model import Endpoint
from dstack_vpn.core.paths.peer_endpoint import RELAYS, PeerEndpoint
from dstack_vpn.core.paths.relay_url import Listen, RelayUrl
from dstack_vpn.errors import FormatError

PIN = "ab" * 32
hosts = st.sampled_from(["vpn.example.org", "192.0.2.7", "[2001:db8::7]"])
ports = st.integers(1, 65535)
pins = st.lists(st.binary(min_size=32, max_size=32).map(bytes.hex), max_size=3, unique=True)


@st.composite
def urls(draw: st.DrawFn) -> str:
    where = f"{draw(hosts)}:{draw(ports)}"
    if draw(st.booleans()):
        return f"tcp://{where}"
    sni = draw(st.sampled_from([None, "gateway.example.org"]))
    found = draw(pins)
    options = ([f"sni={sni}"] if sni else []) + (
        ["pin=" + ",".join(f"sha256:{p}" for p in found)] if found else []
    )
    return f"tls://{where}" + ("?" + "&".join(options) if options else "")


@given(urls())
def test_a_url_means_what_it_says_when_it_is_written_out(text: str) -> None:
    upstream = RelayUrl.parse(text, local=False)
    assert RelayUrl.parse(str(upstream), local=False) == upstream


@given(st.none() | st.tuples(hosts, ports), st.lists(urls(), max_size=RELAYS, unique=True))
def test_an_endpoint_keeps_all_its_alternatives(udp: tuple[str, int] | None, relays: list[str]) -> None:
    parts = ([] if udp is None else [f"{udp[0]}:{udp[1]}"]) + relays
    if not parts or len(text := ",".join(parts)) > 1024:
        return
    peer_endpoint = PeerEndpoint.parse(text)
    assert (peer_endpoint.udp is None) == (udp is None)
    assert peer_endpoint.relays == tuple(
        dict.fromkeys(RelayUrl.parse(relay, local=False) for relay in relays)
    )
    assert PeerEndpoint.parse(str(peer_endpoint)) == peer_endpoint


@given(st.text(max_size=80))
def test_nonsense_is_a_format_error_and_nothing_else(text: str) -> None:
    for parse in (RelayUrl.parse, Listen.parse, PeerEndpoint.parse):
        with contextlib.suppress(FormatError):
            parse(text)


@pytest.mark.parametrize("text", ["vpn.example.org:51820", "udp://vpn.example.org:51820"])
def test_plain_udp_can_be_written_both_ways(text: str) -> None:
    assert PeerEndpoint.parse(text) == PeerEndpoint(Endpoint("vpn.example.org", 51820))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tcp://vpn.example.org", "port"),
        ("tcp://vpn.example.org:0", "port"),
        ("tcp://user@vpn.example.org:1", "nothing but options"),
        ("tcp://vpn.example.org:1/path", "nothing but options"),
        ("tcp://vpn.example.org:1#x", "nothing but options"),
        ("http://vpn.example.org:1", "expected tcp://"),
        ("tcp://vpn.example.org:1?pin=sha256:" + PIN, "pin has a meaning with tls://"),
        ("tls://vpn.example.org:1?pin=" + PIN, "pin: expected sha256:"),
        ("tls://vpn.example.org:1?sni=a&sni=b", "twice"),
        ("tls://vpn.example.org:1?sni=a b", "without spaces"),
        ("tls://vpn.example.org:1?ca=/etc/passwd", "'ca' is not an option"),
        ("tls://vpn.example.org:1?via=http://proxy:1", "'via' is not an option"),
        ("tcp://127.0.0.1:22", "loopback"),
        ("tcp://localhost:22", ""),
        ("tcp://[::1]:22", ""),
        ("tcp://0.0.0.0:22", ""),
        ("tls://" + "a" * 2000 + ":1", "characters"),
    ],
)
def test_what_somebody_else_wrote_is_refused_with_the_part_that_is_wrong(text: str, said: str) -> None:
    with pytest.raises(FormatError) as caught:
        RelayUrl.parse(text, local=False)
    assert said in str(caught.value)
    with pytest.raises(FormatError):
        PeerEndpoint.parse(f"192.0.2.1:1,{text}")


def test_the_operator_may_name_files_proxies_and_this_machine() -> None:
    text = "tls://localhost:443?ca=/etc/ca.pem&via=socks5://u:p@127.0.0.1:1080"
    upstream = PeerEndpoint.parse(text, local=True).relays[0]
    assert (upstream.ca, upstream.via) == ("/etc/ca.pem", "socks5://u:p@127.0.0.1:1080")
    assert "u:p" not in repr(upstream) + str(upstream)


def test_a_gateway_is_an_endpoint_of_its_own() -> None:
    found = PeerEndpoint.parse("via:gw-1")
    assert found == PeerEndpoint(via="gw-1")
    assert str(found) == "via:gw-1"
    with pytest.raises(FormatError, match="only the registry"):
        PeerEndpoint.parse("via:gw-1", local=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a.example:1,b.example:2", "one UDP address"),
        (",".join(f"tcp://a.example:{port}" for port in range(1, 7)), "alternatives"),
        ("a.example:1,tcp://", "alternative 2"),
        ("a.example:1,", "alternative 2"),
        ("", "expected"),
        ("via:", "via: needs the node id of a gateway"),
        ("via:gw-1,192.0.2.1:51820", "via: needs the node id of a gateway, and nothing else"),
        ("via:via:gw-1", "via: needs"),
        ("192.0.2.1:51820,via:gw-1", "alternative 2"),
    ],
)
def test_alternatives_have_bounds_and_the_wrong_one_is_named(text: str, said: str) -> None:
    with pytest.raises(FormatError) as caught:
        PeerEndpoint.parse(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tcp://vpn.example.org:443", "IP address"),
        ("tcp://0.0.0.0:443?cert=/c", "tls:// only"),
        ("tls://0.0.0.0:443?cert=c", "absolute path"),
        ("tls://0.0.0.0:443?cert=dstack&key=/k", "key without a cert file"),
        ("0.0.0.0:443", "expected tcp://"),
    ],
)
def test_what_cannot_be_listened_on_is_refused(text: str, said: str) -> None:
    with pytest.raises(FormatError) as caught:
        Listen.parse(text)
    assert said in str(caught.value)
