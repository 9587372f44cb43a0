import socket

import pytest

from dstack_vpn.adapters.device.addresses import (
    check_keepalive,
    check_port,
    pack_cidr,
    pack_endpoint,
    pack_ip,
)
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.errors import DeviceError


def test_values_become_bytes() -> None:
    assert pack_ip("10.77.0.2") == (socket.AF_INET, bytes([10, 77, 0, 2]))
    assert pack_cidr("10.77.0.0/16") == (socket.AF_INET, bytes([10, 77, 0, 0]), 16)
    assert pack_cidr("::/0") == (socket.AF_INET6, bytes(16), 0)
    assert pack_endpoint(SocketAddress("::1", 7)) == (socket.AF_INET6, bytes(15) + b"\1", 7)


HOSTILE = ["", "x", "10.0.0.1\n", "10.0.0.1\0", "10.1", "fe80::1%lo", "::1%\nx", "\uff11.1.1.1", "[::1]"]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(DeviceError, match="not an IP address"):
        pack_ip(text)
    with pytest.raises(DeviceError):
        pack_cidr(f"{text}/32")
    with pytest.raises(DeviceError):
        pack_endpoint(SocketAddress(text, 1))


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.0",
        "10.0.0.0/",
        "10.0.0.0/33",
        "::/129",
        "::/-1",
        "::/1\n",
        "::/\u0663",
        "::/0000",
        "10.0.0.1/24",
    ],
)
def test_what_is_no_prefix_is_refused(text: str) -> None:
    with pytest.raises(DeviceError, match="prefix"):
        pack_cidr(text)


def test_numbers_have_bounds() -> None:
    assert (check_port(0), check_port(65535), check_keepalive(65535)) == (0, 65535, 65535)
    for number in (-1, 65536):
        with pytest.raises(DeviceError):
            check_port(number)
        with pytest.raises(DeviceError):
            check_keepalive(number)
    with pytest.raises(DeviceError):
        pack_endpoint(SocketAddress("1.1.1.1", 0))
