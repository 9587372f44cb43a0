"""The lines of `doctor`."""

from dstack_vpn.cli.doctor import check_lines
from dstack_vpn.core.observe.check import failed, passed

LONG = failed(
    "rpc wss://rpc.example.org",
    "the endpoint answers, but its newest block is 312 s old and its chain id is 8453 instead of 31337",
    "take it out of RPC_URL, or set NETWORK and CHAIN_ID for the chain that it serves",
)


def test_no_line_is_longer_than_the_terminal_and_no_word_is_lost() -> None:
    lines = check_lines(LONG, 80)
    assert max(map(len, lines)) <= 80
    assert " ".join(" ".join(lines).split()) == " ".join(" ".join(check_lines(LONG, None)).split())
    assert lines[0].startswith("fail  rpc wss://rpc.example.org: the endpoint")
    assert all(line.startswith("      ") for line in lines[1:])


def test_a_pipe_gets_one_line_for_what_was_found_and_one_for_the_advice() -> None:
    assert len(check_lines(LONG, None)) == 2
    assert check_lines(passed("tun", "/dev/net/tun is there"), 80) == ["pass  tun: /dev/net/tun is there"]
