"""A node on a real dev chain: the device has the peers of the chain's state."""

from typing import Any

import pytest
from tests.anvil import Anvil, key_of, running_anvil
from tests.integration.conftest import MakeRig
from tests.integration.support import ECONOMY, OWN_KEY, Rig, eventually
from tests.integration.views import addresses, calldata, members

from dstack_vpn.adapters.chain import session

pytestmark = pytest.mark.anvil


@pytest.fixture(params=["ws", "http", "economy"])
def scheme(request: pytest.FixtureRequest) -> str:
    """Return the endpoint's scheme, or ``economy``: a WebSocket with FOLLOW=economy."""
    name: str = request.param
    return name


@pytest.fixture
def rig(anvil: Anvil, scheme: str, make_rig: MakeRig) -> Rig:
    return rig_of(anvil, scheme, make_rig)


def rig_of(anvil: Anvil, scheme: str, make_rig: MakeRig, **options: Any) -> Rig:
    if scheme == "economy":
        return make_rig(anvil.ws, anvil.contract, environment=ECONOMY, **options)
    return make_rig(getattr(anvil, scheme), anvil.contract, **options)


async def update_key(anvil: Anvil, token: int, number: int, *, sender: int = 1) -> None:
    await anvil.send(calldata("updatePublicKey(uint256,string)", token, str(key_of(number))), sender=sender)


async def set_endpoint(anvil: Anvil, token: int, endpoint: str) -> None:
    await anvil.send(calldata("setEndpoint(uint256,string)", token, endpoint), sender=1)


async def transfer(anvil: Anvil, token: int) -> None:
    """Transfer a token from account 1 to account 2."""
    _, sender, recipient, *_ = anvil.accounts
    await anvil.send(calldata("transferFrom(address,address,uint256)", sender, recipient, token), sender=1)


async def test_a_mint_and_a_revoke(anvil: Anvil, rig: Rig) -> None:
    await anvil.mint(1)
    async with rig.running():
        await rig.settle(await members(anvil), "the initial peers")
        await anvil.mint(2)
        await rig.settle(await members(anvil), "a mint")
        await anvil.revoke(1)
        await rig.settle(await members(anvil), "a revoke")
        assert rig.keys == {key_of(2)}


async def test_our_own_token_is_no_peer_but_our_address(anvil: Anvil, rig: Rig) -> None:
    await anvil.mint(1)
    async with rig.running():
        await anvil.send(
            calldata(
                "mintNodeAccess(address,string,string,string)", anvil.accounts[1], "me", str(OWN_KEY), ""
            )
        )
        await eventually(lambda: rig.link.settings and rig.link.settings.addresses, "the node's address")
        assert rig.link.settings is not None
        assert rig.link.settings.addresses == addresses(anvil.contract, 2)
        await rig.settle(await members(anvil), "no peer for the node's own token")
        assert rig.keys == {key_of(1)}


async def test_a_transfer_and_the_new_holders_key(anvil: Anvil, rig: Rig) -> None:
    await anvil.mint(1)
    await anvil.mint(2)
    async with rig.running():
        await rig.settle(await members(anvil), "the initial peers")
        await transfer(anvil, 1)
        await rig.settle(await members(anvil), "a transfer")
        assert rig.keys == {key_of(2)}
        await update_key(anvil, 1, 30, sender=2)
        await rig.settle(await members(anvil), "the key of the new holder")
        assert rig.keys == {key_of(2), key_of(30)}


async def test_a_rotated_key(anvil: Anvil, rig: Rig) -> None:
    await anvil.mint(1)
    async with rig.running():
        await update_key(anvil, 1, 30)
        await rig.settle(await members(anvil), "a rotated key")
        assert rig.keys == {key_of(30)}


async def test_endpoints_are_set_and_changed_but_never_taken_from_a_peer(anvil: Anvil, rig: Rig) -> None:
    await anvil.mint(1)
    async with rig.running():
        await set_endpoint(anvil, 1, "192.0.2.7:51820")
        await rig.settle(await members(anvil), "an endpoint")
        await set_endpoint(anvil, 1, "[2001:db8::7]:4500")
        await rig.settle(await members(anvil), "another endpoint")
        await set_endpoint(anvil, 1, "")
        await eventually(lambda: rig.decide(1).node and rig.decide(1).node.endpoint is None, "it is cleared")  # type: ignore[union-attr]  # just checked
        await rig.settle(await members(anvil), "no endpoint")
        assert rig.peers[str(key_of(1))][1] == "[2001:db8::7]:4500"


async def test_access_that_expires_ends_without_the_chain_saying_anything(anvil: Anvil, rig: Rig) -> None:
    await anvil.mint(1)
    await anvil.mint(2)
    async with rig.running():
        await rig.settle(await members(anvil), "the initial peers")
        latest = await anvil.rpc("eth_getBlockByNumber", "latest", False)
        await anvil.send(calldata("setExpiry(uint256,uint64)", 1, int(latest["timestamp"], 16) + 2))
        await eventually(lambda: rig.keys == {key_of(2)}, "the peer is removed")
        assert rig.decide(1).reason == "expired"
        await rig.settle(await members(anvil), "an expiry")


async def test_a_reorg(anvil: Anvil, rig: Rig) -> None:
    await anvil.mint(1)
    await anvil.mine(3)
    async with rig.running():
        await rig.settle(await members(anvil), "the initial peers")
        await anvil.mint(2)
        await anvil.revoke(1)
        await rig.settle(await members(anvil), "before the reorg")
        await anvil.reorg(2)
        await anvil.mine()
        await rig.settle(await members(anvil), "after the reorg")
        assert rig.keys == {key_of(1)}
        assert rig.node.chain.state.reorgs >= 1
        await anvil.mint(3)
        await rig.settle(await members(anvil), "a mint after the reorg")


@pytest.mark.parametrize("how", ["evm_revert", "anvil_rollback"])
async def test_a_chain_that_is_set_back_and_goes_on(
    anvil: Anvil, rig: Rig, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """anvil does not announce a rollback. Only the next block shows it."""
    monkeypatch.setattr(session, "LAG", 1.0)  # seconds for which a lower block counts as a lagging backend's
    await anvil.mint(1)
    await anvil.mine(3)
    async with rig.running():
        snapshot = await anvil.rpc("evm_snapshot")
        await anvil.mint(2)
        await anvil.revoke(1)
        await rig.settle(await members(anvil), "before the rollback")
        await anvil.rpc(how, snapshot if how == "evm_revert" else 2)
        await anvil.mint(3)
        if how == "evm_revert":
            await anvil.mine(2)  # a lower block counts as a lagging backend's for a while
        await rig.settle(await members(anvil), "after the rollback")
        assert rig.keys == {key_of(1), key_of(3)}


async def test_five_blocks_a_second_with_events_in_them(scheme: str, make_rig: MakeRig) -> None:
    async with running_anvil("--block-time", "0.2", "--mixed-mining") as anvil:
        rig = rig_of(anvil, scheme, make_rig, pace=0.2)
        async with rig.running():
            began = rig.tip
            for number in range(1, 15):  # enough that the removals are less than half of them
                await anvil.mint(number)
            for token in (2, 4, 6):
                await anvil.revoke(token)
                await update_key(anvil, token + 1, token + 40)
            await eventually(lambda: rig.tip >= began + 20, "all blocks have arrived")
            await rig.settle(await members(anvil), "the peers after all events")
            assert len(rig.keys) == 11
            assert len(rig.sessions) == 1, "the endpoint was never left"


async def test_twelve_hundred_logs_in_one_block(scheme: str, make_rig: MakeRig) -> None:
    async with (
        running_anvil("--gas-limit", "1000000000") as anvil,
        rig_of(anvil, scheme, make_rig).running() as rig,
    ):
        await anvil.mint_many(600, per_block=600)
        want = await members(anvil)
        assert len(want) == 600
        await rig.settle(want, "600 mints in one block")
        for token in (1, 300, 600):
            await anvil.revoke(token)
        await rig.settle(await members(anvil), "revocations after the mints")
        assert len(rig.sessions) == 1, "the endpoint was never left"
