"""The relay against Mullvad's udp-over-tcp, and against no relay at all.

Everything is measured in pairs: the contenders take turns within one run, for several rounds, and
what counts is the median of the ratios of the rounds. Each part prints a table of its own.
"""

from collections.abc import Callable
from typing import Any, Final

from benchmarks.relay import failover, idle, latency, throughput, tunnel

ALL: Final[dict[str, Callable[[], dict[str, Any]]]] = {
    "relay-throughput": throughput.against_mullvad,
    "relay-variants": throughput.variants,
    "relay-latency": latency.lone_datagrams,
    "relay-tunnel": tunnel.tunnel,
    "relay-idle": idle.idle,
    "relay-failover": failover.failover,
}
