"""The adapters with the real contracts: detection, and the agreement of events and state."""

import itertools
from collections.abc import Iterable

import pytest
from tests.contracts.evm import ALICE, BOB, OWNER, Chain, Contract, RawLog, Reverted, key
from tests.contracts.model import route

from dstack_vpn.adapters.contracts import (
    AccessRegistry,
    AccessRegistryV1,
    DstackAccessNft,
    describe_revert,
    detect,
    signatures,
)
from dstack_vpn.core.chain.events import RoutesUpdated, TagDefined, TagsUpdated, TokenState
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import BlockRef, Malformed
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import WrongChainError
from dstack_vpn.ports import Log, RegistryAbi

BEHAVIOURS = [(*flags, first) for *flags, first in itertools.product(*[(False, True)] * 3, (0, 1))]
each_behaviour = pytest.mark.parametrize("behaviour", BEHAVIOURS)


def observe(abi: RegistryAbi, contract: Contract, token: int) -> Node | None:
    def reply(data: bytes) -> bytes | None:
        try:
            return contract.raw(data, is_static=True)
        except Reverted:
            return None

    at = BlockRef(contract.chain.number, "0x" + "1" * 64, "0x" + "0" * 64, contract.chain.now)
    return abi.parse_token(token, [reply(data) for data in abi.token_calls(token)], at).node


def as_log(raw: RawLog) -> Log:
    return Log(raw.topics, raw.data, 1, "0x" + "1" * 64, 0, removed=False)


def decoded(abi: RegistryAbi, logs: Iterable[RawLog]) -> list[str]:
    events = [abi.decode(as_log(raw)) for raw in logs]
    return [type(event).__name__ for event in events if event]


# -- detection -------------------------------------------------------------------------------------


async def test_ours_is_detected(minted: Contract) -> None:
    assert type(await detect(minted.eth_call)) is AccessRegistry


async def test_the_first_version_is_detected(chain: Chain) -> None:
    assert type(await detect(chain.deploy("AccessRegistryV1", OWNER).eth_call)) is AccessRegistryV1


@each_behaviour
async def test_the_deployed_one_is_detected(chain: Chain, behaviour: tuple[bool, bool, bool, int]) -> None:
    contract = chain.deploy("DstackAccessNFT", behaviour)
    assert isinstance(await detect(contract.eth_call), DstackAccessNft)
    contract.send("mintNodeAccess", ALICE, "web", key(1), "")
    assert isinstance(await detect(contract.eth_call), DstackAccessNft)


async def test_another_contract_is_refused(chain: Chain) -> None:
    with pytest.raises(WrongChainError, match="CONTRACT_ADDRESS"):
        await detect(chain.deploy("Multicall3").eth_call)


@pytest.mark.parametrize("answer", [b"", None, bytes(32), bytes(31) + b"\x01", bytes(64), b"\xff" * 96])
async def test_something_that_gives_one_answer_to_everything_is_refused(answer: bytes | None) -> None:
    async def call(_data: bytes) -> bytes | None:
        return answer

    with pytest.raises(WrongChainError):
        await detect(call)


def deploy(chain: Chain, abi: AccessRegistry) -> Contract:
    return chain.deploy("AccessRegistryV1" if isinstance(abi, AccessRegistryV1) else "AccessRegistry", OWNER)


# -- ours ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abi", [AccessRegistry(), AccessRegistryV1()], ids=lambda abi: abi.name)
def test_our_events_and_state_agree(chain: Chain, abi: AccessRegistry) -> None:
    registry = deploy(chain, abi)
    registry.send("mintNodeAccess", ALICE, "web", key(1), 'data:application/json,{"endpoint":"a.org:1"}')
    assert decoded(abi, registry.raw_logs) == ["Granted"]
    registry.send("setEndpoint", 1, "b.org:2", sender=ALICE)
    assert decoded(abi, registry.raw_logs) == ["EndpointUpdated"]
    registry.send("setExpiry", 1, registry.chain.now + 9)
    assert decoded(abi, registry.raw_logs) == ["ExpiryUpdated"]
    node = observe(abi, registry, 1)
    assert node is not None
    assert (str(node.endpoint), str(node.uri_endpoint)) == ("b.org:2", "a.org:1")
    assert (node.expires_at, node.key_since.block) == (registry.chain.now + 9, registry.chain.number)
    registry.send("transferFrom", ALICE, BOB, 1, sender=ALICE)
    assert decoded(abi, registry.raw_logs) == ["Transferred", "Transferred"]
    node = observe(abi, registry, 1)
    assert node is not None
    assert (node.owner, node.public_key, node.active) == (BOB, None, True)
    registry.send("updatePublicKey", 1, key(2), sender=BOB)
    assert decoded(abi, registry.raw_logs) == ["KeyUpdated"]
    registry.send("revokeNodeAccess", 1)
    assert decoded(abi, registry.raw_logs) == ["Revoked"]
    node = observe(abi, registry, 1)
    assert node is not None
    assert not node.active
    assert observe(abi, registry, 2) is None


def test_tags_and_routes_are_read(registry: Contract) -> None:
    abi = AccessRegistry()
    registry.send("mintNodeAccess", ALICE, "web", key(1), "")
    registry.send("defineTag", "gateway")
    assert [abi.decode(as_log(raw)) for raw in registry.raw_logs] == [TagDefined(0, "gateway")]
    events = []
    for function, value in (("setTags", 1), ("setRoutes", [route("10.0.0.0/8"), route("fd00::/8")])):
        registry.send(function, 1, value)
        events += [abi.decode(as_log(raw)) for raw in registry.raw_logs]
    assert events == [TagsUpdated(1, 1), RoutesUpdated(1, ("10.0.0.0/8", "fd00::/8"))]
    node = observe(abi, registry, 1)
    assert node is not None
    assert (node.tags, node.routes) == (1, ("10.0.0.0/8", "fd00::/8"))
    registry.send("transferFrom", ALICE, BOB, 1, sender=ALICE)
    node = observe(abi, registry, 1)
    assert node is not None
    assert (node.tags, node.routes) == (0, ())


@pytest.mark.parametrize("abi", [AccessRegistry(), AccessRegistryV1()], ids=lambda abi: abi.name)
def test_our_pages(chain: Chain, abi: AccessRegistry) -> None:
    registry = deploy(chain, abi)
    for number in range(1, 6):
        registry.send("mintNodeAccess", ALICE, f"n{number}", key(number), "")
    at = BlockRef(1, "", "", 0)
    pages = [abi.parse_page(registry.raw(abi.page_call(offset, 2)), at) for offset in (0, 2, 4, 6)]
    assert [total for _, total in pages] == [5] * 4
    observed = [x for page, _ in pages for x in page]
    assert observed == [TokenState(i, observe(abi, registry, i)) for i in range(1, 6)]


def test_a_revert_is_named(minted: Contract) -> None:
    with pytest.raises(Reverted) as caught:
        minted.send("mintNodeAccess", BOB, "web", key(2), "", sender=OWNER)
    assert describe_revert(caught.value.data) == 'NodeIdTaken("web", 1)'


# -- deployed, in every reading of its interface ---------------------------------------------------


@each_behaviour
def test_reading_a_token_again_tells_what_it_is(
    chain: Chain, behaviour: tuple[bool, bool, bool, int]
) -> None:
    abi, contract = DstackAccessNft(), chain.deploy("DstackAccessNFT", behaviour)
    burns, keeps_key, per_owner, first = behaviour
    contract.send("mintNodeAccess", ALICE, "web", key(1), "")
    assert decoded(abi, contract.raw_logs) == ["Granted"]
    node = observe(abi, contract, first)
    assert node is not None
    assert (node.owner, node.public_key, node.active) == (ALICE, PublicKey.parse(key(1)), True)
    contract.send("transferFrom", ALICE, BOB, first, sender=ALICE)
    assert set(decoded(abi, contract.raw_logs)) == {"Transferred"}
    node = observe(abi, contract, first)
    assert node is not None
    assert (node.owner, node.public_key is not None) == (BOB, keeps_key and not per_owner)
    contract.send("updatePublicKey", key(2), sender=BOB)
    assert decoded(abi, contract.raw_logs) == ["OwnerKeyUpdated"]
    node = observe(abi, contract, first)
    assert node is not None
    assert node.public_key == PublicKey.parse(key(2))
    contract.send("revokeNodeAccess", first)
    assert set(decoded(abi, contract.raw_logs)) == {"Revoked"}
    node = observe(abi, contract, first)
    assert node is None if burns else node is not None and not node.active


def test_a_contract_that_checks_nothing_mints_nonsense(chain: Chain) -> None:
    contract = chain.deploy("DstackAccessNFT", BEHAVIOURS[0])
    contract.send("mintNodeAccess", ALICE, "a\n[Peer]", "x" * 1000, "data:application/json,{}")
    node = observe(DstackAccessNft(), contract, 0)
    assert node is not None
    assert isinstance(node.node_id, Malformed)
    assert isinstance(node.public_key, Malformed)


def test_every_change_of_a_page_raises_the_revision(registry: Contract) -> None:
    abi = AccessRegistry()
    registry.send("defineTag", "gateway")
    changes = (
        ("mintNodeAccess", (ALICE, "web", key(1), "data:,"), OWNER),
        ("setEndpoint", (1, "b.org:2"), ALICE),
        ("setExpiry", (1, registry.chain.now + 90), OWNER),
        ("setTags", (1, 1), OWNER),
        ("setRoutes", (1, [route("10.0.0.0/8")]), OWNER),
        ("transferFrom", (ALICE, BOB, 1), ALICE),
        ("transferFrom", (BOB, BOB, 1), BOB),
        ("updatePublicKey", (1, key(2)), BOB),
        ("revokeNodeAccess", (1,), OWNER),
    )
    seen = [abi.parse_revision(registry.raw(signatures.REVISION))]
    for function, arguments, sender in changes:
        registry.send(function, *arguments, sender=sender)
        seen.append(abi.parse_revision(registry.raw(signatures.REVISION)))
    assert seen == list(range(seen[0], seen[0] + len(changes) + 1))
