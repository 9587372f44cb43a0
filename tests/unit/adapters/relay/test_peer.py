from dstack_vpn.adapters.relay.engine import Engine
from dstack_vpn.adapters.relay.peer import LoopbackRelay
from dstack_vpn.core.paths.destination import Destinations
from dstack_vpn.core.paths.relay_url import RelayUrl


async def test_a_thousand_relays_of_one_node_share_no_port() -> None:
    engine, upstream = Engine(), RelayUrl.parse("tcp://192.0.2.1:443")
    relays = [LoopbackRelay(engine, [upstream], mark=None, destinations=Destinations()) for _ in range(1000)]
    try:
        assert len({relay.address for relay in relays}) == len(relays)
    finally:
        for relay in relays:
            relay.close()
