"""Fixtures: nodes on endpoints, and their log lines."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs
from tests.fake_chain import FakeServer, serve
from tests.integration.pairs import Pair, two_endpoints
from tests.integration.support import Rig

MakeRig = Callable[..., Rig]


@pytest.fixture
def make_rig(tmp_path: Path) -> MakeRig:
    """Make a `Rig` with its state in the test's folder. A second `Rig` uses the same state."""

    def make(urls: str | list[str], contract: str, **options: Any) -> Rig:
        return Rig([urls] if isinstance(urls, str) else urls, contract, tmp_path, **options)

    return make


@pytest.fixture
async def second_chain() -> AsyncIterator[FakeServer]:
    """Yield a second scripted chain with the same genesis. A test mines its blocks separately."""
    async with serve() as server:
        yield server


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Yield two endpoints of one scripted chain."""
    async with two_endpoints() as pair:
        yield pair


@pytest.fixture
def log_lines() -> Iterator[list[Any]]:
    """Collect all log lines, including those of loggers that an earlier test made and cached."""
    structlog.reset_defaults()
    for name, module in list(sys.modules.items()):
        if name.startswith("dstack_vpn") and (log := getattr(module, "_log", None)) is not None:
            vars(log).pop("bind", None)
    with capture_logs() as lines:
        yield lines
