"""The daemon's command line, with less patience, for tests that would wait for nothing but the time
to pass.

Within a session, UDP is left after 5 s without an answer instead of 15. It is then probed about
every 7 s, and not after 30, 60, 120 s and so on. Answers to a probe are taken for 5 s, so none ends
another, as with the real times. The unit tests of `core.paths.selector` hold these.

WireGuard makes new keys when it has heard nothing for 15 s. A real daemon probes UDP long after
that; here it does not come to that.

A daemon whose key is due waits for 1 to 2 s after its start instead of 10 to 20, and looks every
0.5 s instead of every 5. The unit tests of `core.wireguard.key_age` hold the real times.
"""

from unittest.mock import patch

from dstack_vpn.__main__ import main
from dstack_vpn.core.paths import selector
from dstack_vpn.core.wireguard import key_age
from dstack_vpn.daemon.device import key_expiry

if __name__ == "__main__":
    with (
        patch.multiple(selector, NO_ANSWER=5.0, PROBE=(7.0, 7.0)),
        patch.object(key_age, "START", 1.0),
        patch.object(key_expiry, "EVERY", 0.5),
    ):
        main()
