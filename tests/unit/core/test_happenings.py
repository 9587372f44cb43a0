from dataclasses import fields, is_dataclass
from typing import get_args

import pytest

from dstack_vpn.core.happenings import (
    KINDS,
    Decided,
    DecisionsChanged,
    Happening,
    PeerRemoved,
    PeersChanged,
    plain,
)
from dstack_vpn.core.histogram import Histogram
from dstack_vpn.core.keys import PublicKey

KEY = PublicKey(bytes(range(32)))


def test_every_kind_is_its_own_and_frozen() -> None:
    kinds = get_args(Happening)
    assert len(set(KINDS)) == len(kinds)
    for kind in kinds:
        assert is_dataclass(kind)
        assert "kind" not in {field.name for field in fields(kind)}
        assert vars(kind)["__dataclass_params__"].frozen


def test_a_happening_is_plain_to_json() -> None:
    removed = PeerRemoved(KEY, 7, "web-1", "0xabc", "revoked", 12, 0.00123456)
    assert plain(removed) == {
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
    assert plain(PeersChanged(100, 0, None, None))["latency_ms"] is None
    many = DecisionsChanged(1, 0, (Decided(7, "web-1", True, "active", None),))
    assert plain(many) == {"kind": "access.decided_many", "granted": 1, "refused": 0}


@pytest.mark.parametrize(("value", "bucket"), [(0.5, 0), (1.0, 0), (1.5, 1), (2.0, 1), (9.0, 2)])
def test_a_histogram_counts_up_to_and_with_its_bounds(value: float, bucket: int) -> None:
    histogram = Histogram((1, 2))
    histogram.observe(value)
    assert histogram.counts.index(1) == bucket
    assert histogram.total == value


def test_buckets_are_cumulative() -> None:
    histogram = Histogram((1, 2))
    for value in (0.5, 1.5, 3.0, 4.0):
        histogram.observe(value)
    assert histogram.cumulative == [("1.0", 1.0), ("2.0", 2.0), ("+Inf", 4.0)]
