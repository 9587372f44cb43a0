"""The containers, with the real engine. `make test-docker` sets up the engine and the images."""

import os
from collections.abc import Iterator

import pytest
from scripts.stack import Stack, running

PROJECT = f"dvpn-test-{os.getpid()}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/compose/" in item.nodeid:
            item.add_marker(pytest.mark.docker)
            item.add_marker(pytest.mark.timeout(300))
    items.sort(key=shares_stack)


def shares_stack(item: pytest.Item) -> bool:
    """Return whether a test uses the shared stack.

    The health checks of a running stack take most of a processor, and it runs until the end. These
    tests are therefore the last ones.
    """
    return "stack" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The local profile, running and healthy."""
    with running(Stack(PROJECT), build=False) as stack:
        yield stack
