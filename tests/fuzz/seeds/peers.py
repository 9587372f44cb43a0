"""Seeds of the data of devices, relays and DNS clients."""

import struct
from collections.abc import Iterable
from typing import Any, Final

import dns.edns
import dns.message
from tests.fuzz.zone import PLAN
from tests.scripted import key

from dstack_vpn.adapters.device import netlink, wgnetlink
from dstack_vpn.adapters.device.netlink import attribute, generic, nested
from dstack_vpn.core.model import SetPeer, SocketAddress
from dstack_vpn.core.wireguard import framing

# -- devices ---------------------------------------------------------------------------------------


def for_uapi() -> Iterable[bytes]:
    device = ["private_key=" + "11" * 32, "listen_port=51820", "fwmark=7"]
    peer = ["preshared_key=" + "00" * 32, "protocol_version=1", "endpoint=[fe80::1%eth0]:51820"]
    peer += ["last_handshake_time_sec=1700000000", "last_handshake_time_nsec=5", "tx_bytes=77", "rx_bytes=88"]
    peer += ["persistent_keepalive_interval=25", "allowed_ip=10.77.0.3/32", "allowed_ip=fd00::3/128"]
    other = ["endpoint=192.0.2.1:1", "allowed_ip=10.77.0.4/32"]
    lines = [*device, "public_key=" + "22" * 32, *peer, "public_key=" + "33" * 32, *other, "errno=0", "", ""]
    for cut, some in (
        (100, lines),
        (700, lines),
        (9, [*device, "errno=0", "", ""]),
        (3, ["errno=-22", "", ""]),
    ):
        yield cut.to_bytes(2, "big") + "\n".join(some).encode()


def for_uapi_status() -> Iterable[str]:
    yield from ("errno=0\n\n", "errno=-98\n\n", "errno=22\n", "errno=-999999999\n\n")


def _peer_attributes(number: int, *addresses: str) -> bytes:
    """Return a peer as in the kernel's dump: its settings and its statistics."""
    change = SetPeer(
        key(number), SocketAddress(addresses[0], 51820), 25, frozenset(f"{a}/{_bits(a)}" for a in addresses)
    )
    (payload,) = wgnetlink.encode_batches("wg0", [change])
    attributes = dict(netlink.parse_generic(memoryview(payload)))
    ((_, peer),) = netlink.parse_attributes(attributes[8])
    times = struct.pack("=qq", 1_700_000_000, 5)
    statistics = (
        attribute(6, times) + attribute(7, struct.pack("=Q", 34)) + attribute(8, struct.pack("=Q", 56))
    )
    return nested(0, bytes(peer) + statistics)


def _bits(address: str) -> int:
    return 128 if ":" in address else 32


def _dumps() -> list[bytes]:
    device = attribute(2, b"wg0\0") + attribute(4, key(9)) + attribute(6, struct.pack("=H", 51820))
    device += attribute(3, b"\1" * 32) + attribute(7, struct.pack("=I", 3))
    peers = (
        _peer_attributes(1, "192.0.2.1", "10.77.0.3"),
        _peer_attributes(2, "2001:db8::1", "fd00::3", "10.0.0.1"),
    )
    bare = nested(0, attribute(1, key(3)))
    return [
        generic(0, device + nested(8, b"".join([*peers, bare]))),
        generic(0, device),
        generic(0, nested(8, peers[1])),
        generic(0, attribute(2, b"wg0\0") + nested(8, peers[0])),
    ]


def for_dump() -> Iterable[bytes]:
    # A prefix without a mask, for which the decoder once raised an undocumented error.
    lacking = nested(0, attribute(1, struct.pack("=H", 2)) + attribute(2, b"\n\0\0\1"))
    return [*_dumps(), generic(0, nested(8, nested(0, attribute(1, key(1)) + nested(9, lacking))))]


def for_netlink() -> Iterable[bytes]:
    parts = [netlink.message(40, 2, 1, payload) for payload in _dumps()]
    done = netlink.message(netlink.NLMSG_DONE, 2, 1, bytes(4))
    yield b"".join([*parts, done])
    yield parts[0] + done
    yield parts[1] + parts[2] + netlink.message(netlink.NLMSG_ERROR, 0, 1, struct.pack("=i", 0) + bytes(16))
    yield netlink.message(netlink.RTM_DELLINK, 0, 0, struct.pack("=BxHiII", 0, 1, 7, 0, 0)) * 2


# -- relays ----------------------------------------------------------------------------------------


def _streams() -> list[bytes]:
    lone = framing.frame(b"\1" + bytes(147))
    equal = framing.frame(b"\4" * 96) * 70 + framing.frame(b"\4" * 32)
    mixed = b"".join(framing.frame(bytes([n & 255]) * n) for n in (0, 1, 2, 3, 0, 0, 33, 33, 33, 1, 300, 5))
    return [
        lone,
        equal,
        mixed,
        lone + mixed,
        framing.frame(b"\4" * 1400) * 3 + framing.frame(b""),
        bytes(600),
    ]


def for_frames() -> Iterable[bytes]:
    return [*_streams(), b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"]


def for_stream() -> Iterable[bytes]:
    for index, stream in enumerate(for_frames()):
        sizes = [1, 1, 2, len(stream) // 3, 97, 1, 300][: 1 + index % 7]
        for way in range(4):
            head = bytes([way << 5 | len(sizes) << 1 | index & 1])
            yield head + b"".join(n.to_bytes(2, "big") for n in sizes) + stream
        yield bytes([(index % 4) << 5 | index & 1]) + stream


# -- DNS -------------------------------------------------------------------------------------------


def _query(name: str, kind: str, **more: Any) -> bytes:
    return bytes(dns.message.make_query(name, kind, id=0x9FF8, **more).to_wire())


def for_dns() -> Iterable[bytes]:
    ipv6 = PLAN.ipv6_of(2)
    assert ipv6 is not None
    yield _query("web-1.vpn.internal", "A", use_edns=0, payload=1232)
    yield _query("WEB-1.vpn.internal", "AAAA", want_dnssec=True)
    yield _query("own.vpn.internal", "TXT")
    yield _query("b.c.vpn.internal", "A")
    yield _query("gone.vpn.internal", "A")
    yield _query("x" * 63 + ".vpn.internal", "ANY", use_edns=0, options=[dns.edns.ECSOption("192.0.2.0", 24)])
    yield _query("vpn.internal", "SOA")
    yield _query("vpn.internal", "NS", use_edns=1)
    yield _query("3.0.77.10.in-addr.arpa", "PTR")
    yield _query("77.10.in-addr.arpa", "SOA")
    yield _query(ipv6.reverse_pointer, "PTR", use_edns=0)
    yield _query("example.org", "HTTPS")
    yield _query("web-1.vpn.internal", "A", rdclass="CH")


RECORDS: Final = (
    "example.org. 300 IN A 192.0.2.1",
    "example.org. 300 IN AAAA 2001:db8::1",
    "example.org. 300 IN CNAME a.b.example.org.",
    "example.org. 300 IN MX 10 mail.example.org.",
    'example.org. 300 IN TXT "v=spf1 -all" "\\255"',
    "example.org. 300 IN SOA ns.example.org. root.example.org. 7 3600 600 86400 1",
    "_sip._tcp.example.org. 300 IN SRV 1 2 443 sip.example.org.",
    "example.org. 300 IN HTTPS 1 . alpn=h2,h3 port=443 ipv4hint=192.0.2.1",
    "example.org. 300 IN NAPTR 1 2 u sip !^.*$!sip:x@example.org! .",
    "example.org. 300 IN CAA 0 issue ca.example.org",
    "example.org. 300 IN RRSIG A 13 2 300 20261224000000 20261124000000 7 example.org. c2lnbmVk",
    "example.org. 300 IN NSEC a.example.org. A RRSIG NSEC",
    "example.org. 300 IN LOC 52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m",
)


def for_dns_answer() -> Iterable[bytes]:
    for start in range(0, len(RECORDS), 2):
        records = "\n".join(RECORDS[start : start + 3])
        header = "id 7\nopcode QUERY\nrcode NOERROR\nflags QR RD RA AD\nedns 0\neflags DO\npayload 1232\n"
        yield dns.message.from_text(f"{header};QUESTION\nexample.org. IN ANY\n;ANSWER\n{records}\n").to_wire()
    nothing = "id 7\nopcode QUERY\nrcode NXDOMAIN\nflags QR RD RA\n;QUESTION\nEXAMPLE.org. IN ANY\n"
    yield dns.message.from_text(f"{nothing};AUTHORITY\n{RECORDS[5]}\n").to_wire()
    yield b"\0\7\x80\5" + bytes(8)


def for_dns_forward() -> Iterable[bytes]:
    yield _query("example.org", "A", want_dnssec=True)
    yield _query(
        "_dmarc.example.org", "TXT", use_edns=0, payload=4096, options=[dns.edns.CookieOption(b"\1" * 8, b"")]
    )
    yield _query(".", "DNSKEY")
    long = dns.message.make_query(".".join(["a" * 63] * 3 + ["b" * 61]), "A", id=0x9FF8).to_wire()
    mapping = b"\xc0\x0c" + struct.pack("!HHIHH", 26, 1, 0, 6, 0) + b"\xc0\x0c\xc0\x0c"
    # 200 of these records once crashed the daemon. PX (RFC 2163) is never written compressed.
    yield long[:10] + b"\0\2" + long[12:] + mapping * 2
    yield (
        long[:10]
        + b"\0\xc8"
        + long[12:]
        + b"".join(mapping[:12] + n.to_bytes(2, "big") + mapping[14:] for n in range(20))
    )
