"""Fixtures that every kind of test may use: the two dev chains."""

import sys
from collections.abc import AsyncIterator

import eth_account  # noqa: F401 - first of all, because it raises the recursion limit; see below
import pytest
from hypothesis import settings
from tests.anvil import Anvil, running_anvil
from tests.fake_chain import FakeServer, serve

# How long an example takes depends on what else the machine does.
settings.register_profile("dstack-vpn", deadline=None)
settings.load_profile("dstack-vpn")

# As in the daemon, which never imports eth-account: with its 100,000, hostile JSON would crash the tests.
sys.setrecursionlimit(1000)


@pytest.fixture
async def anvil() -> AsyncIterator[Anvil]:
    """A real dev chain with the registry deployed; skips loudly where there is no anvil."""
    async with running_anvil() as chain:
        yield chain


@pytest.fixture
async def fake_chain() -> AsyncIterator[FakeServer]:
    """A scripted chain with faults on demand."""
    async with serve() as server:
        yield server
