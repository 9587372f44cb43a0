"""The relay compared with Mullvad's udp-over-tcp, and with no relay.

Measurements are paired: the programs take turns within one run, for several rounds, and the result
is the median of the rounds' ratios. Each benchmark prints its own table.
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
