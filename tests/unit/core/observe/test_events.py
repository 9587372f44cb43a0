import json

import pytest

from dstack_vpn.config import COMPONENTS
from dstack_vpn.core.observe.event import Entry, Event
from dstack_vpn.core.observe.events import (
    EVENTS,
    Decided,
    DecisionsChanged,
    PeerRemoved,
    PeersChanged,
    TokenChanged,
)
from dstack_vpn.core.wireguard.keys import PublicKey

CLASS_VARIABLES = {"name", "level", "logger", "action", "unnamed"}
KEY = PublicKey(bytes(range(32)))


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_every_event_is_defined_in_full(event: type[Event]) -> None:
    assert vars(event)["__dataclass_params__"].frozen
    assert event.logger in COMPONENTS
    assert event.level in {"debug", "info", "warning", "error"}
    assert (event.__doc__ or "").endswith(".")
    named = {*event.field_names(), *event.unnamed}
    assert named == vars(event)["__dataclass_fields__"].keys() - CLASS_VARIABLES
    assert not {"kind", "timestamp", "level"} & set(event.field_names())


def test_names_are_unique() -> None:
    assert len({event.name for event in EVENTS.values()}) == len(EVENTS) == len(set(EVENTS.values()))


def test_an_event_is_shown_as_json_can_hold_it() -> None:
    removed = PeerRemoved(KEY, 7, "web-1", "0xabc", "revoked", 12, 0.00123456)
    assert Entry(1, 2.0, removed).shown() == {
        "kind": "peer.removed",
        "peer": str(KEY),
        "token": 7,
        "node": "web-1",
        "owner": "0xabc",
        "reason": "revoked",
        "block": 12,
        "latency_ms": 1.235,
        "cause": None,
    }
    assert json.dumps(removed.shown())
    assert PeersChanged(100, 0, None, None).shown()["latency_ms"] is None
    many = DecisionsChanged(1, 0, (Decided(7, "web-1", True, "active", None),))
    assert many.shown() == {"granted": 1, "refused": 0}
    assert TokenChanged("granted", 7, "web-1", None, 12, 3).shown()["cause"] == "12-3"
