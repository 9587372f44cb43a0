"""Doctor's checks of a peer's path: advice on the MTU, and the endpoint in use."""

import pytest

from dstack_vpn.adapters.doctor.peers import LEAST_MTU, _advice
from dstack_vpn.config import load
from dstack_vpn.core.model import Endpoint
from dstack_vpn.wiring.doctor import SESSION, _in_use

NOW = 1_800_000_000.0


def test_the_mtu_that_is_advised_is_one_that_settings_take() -> None:
    assert _advice(1340) == "set MTU=1340"
    assert load({}, {"MTU": str(LEAST_MTU)}).mtu == LEAST_MTU
    assert _advice(LEAST_MTU) == f"set MTU={LEAST_MTU}"
    small = _advice(1240)
    assert "MTU=" not in small
    assert "raise the path's MTU by 40 bytes, or reach the peer by a relay (TRANSPORT=tcp)" in small


@pytest.mark.parametrize(
    ("change", "used"),
    [
        ({}, Endpoint("192.0.2.9", 4000)),
        ({"endpoint": "[2001:db8::9]:4000"}, Endpoint("2001:db8::9", 4000)),
        ({"endpoint": None}, None),
        ({"endpoint": "127.0.0.1:4000"}, None),
        ({"transport": "tcp"}, None),
        ({"last_handshake": None}, None),
        ({"last_handshake": NOW - SESSION - 60}, None),
    ],
)
def test_a_peer_that_roamed_is_sought_where_it_is(change: dict[str, object], used: Endpoint | None) -> None:
    peer = {"endpoint": "192.0.2.9:4000", "transport": "udp", "last_handshake": NOW - 5}
    assert _in_use(peer | change, NOW) == used
    assert _in_use(None, NOW) is None
