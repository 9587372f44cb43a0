"""Fixtures for all tests: the two dev chains. The process is set up like a user's."""

import signal
import sys
from collections.abc import AsyncIterator

import eth_account  # noqa: F401 - imported first, because it raises the recursion limit; see below
import pytest
from hypothesis import settings
from tests.anvil import Anvil, running_anvil
from tests.fake_chain import FakeServer, serve

# No deadline, because an example's time depends on the machine's other load.
settings.register_profile("dstack-vpn", deadline=None)
settings.load_profile("dstack-vpn")

# The daemon never imports eth-account, and has this limit. With eth-account's limit of 100,000,
# hostile JSON would crash the tests.
sys.setrecursionlimit(1000)

# A shell without job control starts background jobs with an ignored SIGINT, which programs inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
async def anvil() -> AsyncIterator[Anvil]:
    """A real dev chain with the registry; skips the test with a message if anvil is missing."""
    async with running_anvil() as chain:
        yield chain


@pytest.fixture
async def fake_chain() -> AsyncIterator[FakeServer]:
    """A fake chain server with faults on demand."""
    async with serve() as server:
        yield server
