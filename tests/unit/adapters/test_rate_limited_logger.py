import time
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from dstack_vpn.adapters.rate_limited_logger import RateLimitedLogger


def test_what_happens_again_and_again_is_logged_once_with_its_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    capture = LogCapture()
    log: Any = structlog.wrap_logger(structlog.PrintLogger(), processors=[capture])
    quiet = RateLimitedLogger(log)
    for _ in range(1000):
        quiet.warning("relay.limit", source="192.0.2.1")
    assert len(capture.entries) == 1
    now[0] += 3600
    quiet.warning("relay.limit", source="192.0.2.1")
    assert len(capture.entries) == 2
    assert 999 in capture.entries[1].values()
