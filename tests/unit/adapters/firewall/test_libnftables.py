"""The library's messages, and its absence. tests/netns/test_firewall.py calls it."""

import pytest

from dstack_vpn.adapters.firewall.libnftables import Libnftables, explain, is_available
from dstack_vpn.errors import FirewallError


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("netlink: Error: cache initialization failed: Operation not permitted", "CAP_NET_ADMIN is needed"),
        (
            "Error: Could not process rule: Operation not supported",
            "another one, or without a policy set LEAK_PROTECTION=off",
        ),
        (
            "Error: syntax error, unexpected newline\nbogus text\n          ^\n",
            "nftables refuses the rules: Error: syntax error, unexpected newline",
        ),
        (
            "netlink: Error: Unknown set 'x'\nError: No such file or directory\n",
            "nftables refuses the rules: Error: No such file or directory",
        ),
        ("netlink: Error: Unknown set 'x'\n", "nftables refuses the rules: netlink: Error: Unknown set 'x'"),
        ("", "nftables refuses the rules: no message"),
    ],
)
def test_messages_are_reduced_to_the_line_that_helps(said: str, told: str) -> None:
    assert explain(said).partition(": set LEAK")[0].endswith(told)


@pytest.mark.parametrize("library", ["libmissing.so.9", "libc.so.6"])
def test_a_library_that_is_missing_or_another_one_is_refused(library: str) -> None:
    assert is_available(library) == (library == "libc.so.6")
    with pytest.raises(FirewallError, match="libnftables is not installed: apt install nftables"):
        Libnftables(library).run("list tables")


def test_a_context_that_was_not_made_can_be_closed() -> None:
    nftables = Libnftables("libmissing.so.9")
    nftables.close()
    assert not nftables.is_available
