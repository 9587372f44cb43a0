"""The daemon's command line with shorter times, for tests that would only wait.

Within a session, the daemon leaves UDP after 5 s without a reply instead of 15 s. It then probes
UDP about every 7 s, instead of after 30, 60, 120 s and so on. Replies to a probe count for 5 s, so
that probes do not overlap, as with the real times. The unit tests of `core.paths.selector` check
the real times.

WireGuard begins a new session after 15 s without a packet. A real daemon probes UDP long after
that. Here the probe is earlier, and WireGuard does not begin a new session.

A daemon whose key is due waits for 1 to 2 s after its start instead of 10 to 20 s, and checks the
age every 0.5 s instead of every 5 s. The unit tests of `core.wireguard.key_age` check the real
times.

A network returns to its gateway after the gateway was alive for 3 s instead of 30 s.
"""

from unittest.mock import patch

from dstack_vpn.__main__ import main
from dstack_vpn.core.access import gateways
from dstack_vpn.core.paths import selector
from dstack_vpn.core.wireguard import key_age
from dstack_vpn.daemon.device import key_expiry

if __name__ == "__main__":
    with (
        patch.multiple(selector, NO_ANSWER=5.0, PROBE=(7.0, 7.0)),
        patch.object(gateways, "RETURN", 3.0),
        patch.object(key_age, "START", 1.0),
        patch.object(key_expiry, "EVERY", 0.5),
    ):
        main()
