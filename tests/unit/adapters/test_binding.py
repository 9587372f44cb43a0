"""Reasons why a process can't listen on a port."""

import errno

import pytest

from dstack_vpn.adapters.binding import refusal


@pytest.mark.parametrize(
    ("error", "port", "said"),
    [
        (
            OSError(errno.EACCES, "x"),
            53,
            "Permission denied: ports below 1024 need CAP_NET_BIND_SERVICE here",
        ),
        (OSError(errno.EACCES, "x"), 5353, "Permission denied"),
        (OSError(errno.EADDRINUSE, "x"), 53, "Address already in use"),
        (OSError("no number"), 53, "no number"),
    ],
)
def test_a_refusal_says_what_a_low_port_needs(error: OSError, port: int, said: str) -> None:
    assert refusal(error, port) == said
