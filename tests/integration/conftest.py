"""Nodes for the tests of this folder, and their log lines."""

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
    """A `Rig` whose state is in the test's own folder, so that a second one continues the first."""

    def make(urls: str | list[str], contract: str, **options: Any) -> Rig:
        return Rig([urls] if isinstance(urls, str) else urls, contract, tmp_path, **options)

    return make


@pytest.fixture
async def second_chain() -> AsyncIterator[FakeServer]:
    """Another endpoint of the same scripted chain: same genesis, and whatever the test mines on it."""
    async with serve() as server:
        yield server


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Two endpoints of one scripted chain."""
    async with two_endpoints() as pair:
        yield pair


@pytest.fixture
def log_lines() -> Iterator[list[Any]]:
    """Every log line from here on, also where another test made the loggers keep what they first found."""
    structlog.reset_defaults()
    for name, module in list(sys.modules.items()):
        if name.startswith("dstack_vpn") and (log := getattr(module, "_log", None)) is not None:
            vars(log).pop("bind", None)
    with capture_logs() as lines:
        yield lines
