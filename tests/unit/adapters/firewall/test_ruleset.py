"""Messages of the kernel about its rules. tests/netns/test_firewall.py uses the kernel."""

import errno
import struct

import pytest

from dstack_vpn.adapters.device import netlink
from dstack_vpn.adapters.firewall.ruleset import ends_transaction, parse_generation, refused
from dstack_vpn.errors import FirewallError

NEWGEN, NEWRULE, HEADER = 0x0A0F, 0x0A06, b"\0\0\0\0"
REPORT = netlink.message(
    NEWGEN, 0, 1, HEADER + netlink.attribute(2, b"\0\0\0\1") + netlink.attribute(1, b"\0\0\1\2")
)
RULE = netlink.message(NEWRULE, 0, 1, HEADER)


def test_the_generation_is_read() -> None:
    assert parse_generation(RULE + REPORT) == 0x102


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (b"", "reports no generation"),
        (RULE, "reports no generation"),
        (netlink.message(NEWGEN, 0, 1, HEADER + netlink.attribute(1, b"\1")), "reports no generation"),
        (netlink.message(NEWGEN, 0, 1, b"\0"), "reports no generation"),
        (REPORT[:-1], "a message is truncated"),
        (netlink.message(NEWGEN, 0, 1, HEADER + b"\xff\xff\1\0"), "an attribute is truncated"),
    ],
)
def test_a_malformed_report_is_refused(reply: bytes, told: str) -> None:
    with pytest.raises(FirewallError, match=told):
        parse_generation(reply)


def test_an_error_of_the_kernel_keeps_its_code() -> None:
    refusal = netlink.message(netlink.NLMSG_ERROR, 0, 1, struct.pack("=i", -errno.EPERM))
    with pytest.raises(netlink.NetlinkRefusalError) as caught:
        parse_generation(refusal)
    assert caught.value.code == errno.EPERM


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.EPERM, "CAP_NET_ADMIN is needed"),
        (errno.EINVAL, "this kernel lacks a part of nftables"),
        (errno.EPROTONOSUPPORT, "this kernel lacks a part of nftables"),
        (errno.ENOBUFS, "nftables: No buffer space available"),
    ],
)
def test_an_error_of_the_kernel_is_explained(code: int, told: str) -> None:
    assert told in str(refused(code))


@pytest.mark.parametrize(
    ("buffer", "ends"),
    [(REPORT, True), (RULE + REPORT, True), (RULE, False), (b"", False), (RULE[:-1], True)],
)
def test_the_end_of_a_transaction_is_found(buffer: bytes, *, ends: bool) -> None:
    assert ends_transaction(buffer) is ends
