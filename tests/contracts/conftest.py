import pytest
from tests.contracts.evm import ALICE, OWNER, Chain, Contract, key


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture
def registry(chain: Chain) -> Contract:
    return chain.deploy("AccessRegistry", OWNER)


@pytest.fixture
def minted(registry: Contract) -> Contract:
    """The registry with one node of Alice's."""
    registry.send("mintNodeAccess", ALICE, "web", key(1), "ipfs://x")
    return registry
