"""A node on models of the deployed contract, one for each interpretation of its interface.

In all models, the old owner's key never works after a transfer, regardless of the contract's state
and of the time of the node's start. The token has no peer until the new owner sets a key.
"""

from itertools import product

import pytest
from tests.anvil import Anvil, key_of, running_anvil
from tests.integration.conftest import MakeRig
from tests.integration.support import Rig, eventually
from tests.integration.views import Behaviour, deploy_model, model_call, model_members

from dstack_vpn.core.model import SetPeer

pytestmark = pytest.mark.anvil

FLAVOURS = [
    Behaviour(burns, keeps, per_owner, first)
    for (burns, keeps), (per_owner, first) in zip(
        product([False, True], repeat=2), [(False, 1), (True, 0), (False, 0), (True, 1)], strict=True
    )
] + [
    Behaviour(transfer_keeps_key=True, first_id=1),
    Behaviour(revoke_burns=True, key_per_owner=True, first_id=0),
]


def name(flavour: Behaviour) -> str:
    flags = {
        "burns": flavour.revoke_burns,
        "keeps": flavour.transfer_keeps_key,
        "per-owner": flavour.key_per_owner,
    }
    return "-".join([*(flag for flag, on in flags.items() if on), f"from-{flavour.first_id}"])


async def transfer(anvil: Anvil, token: int, sender: int, recipient: int) -> None:
    accounts = anvil.accounts
    data = model_call("transferFrom(address,address,uint256)", accounts[sender], accounts[recipient], token)
    await anvil.send(data, sender=sender)


async def set_key(anvil: Anvil, number: int, *, sender: int) -> None:
    await anvil.send(model_call("updatePublicKey(string)", str(key_of(number))), sender=sender)


async def audited(rig: Rig) -> None:
    """Wait for a complete resync, beginning now."""
    resyncs = rig.node.chain.state.resyncs
    await eventually(lambda: rig.node.chain.state.resyncs >= resyncs + 2, "a resync")


@pytest.mark.parametrize(
    ("flavour", "scheme"),
    [*((flavour, "ws") for flavour in FLAVOURS), (FLAVOURS[1], "http"), (FLAVOURS[-2], "http")],
    ids=lambda x: x if isinstance(x, str) else name(x),
)
async def test_the_life_of_a_network(
    anvil: Anvil, flavour: Behaviour, scheme: str, make_rig: MakeRig
) -> None:
    await deploy_model(anvil, flavour)
    first, second, third = (flavour.first_id + i for i in range(3))
    await anvil.mint(1, owner=1)
    await anvil.mint(2, owner=2)
    rig = make_rig(getattr(anvil, scheme), anvil.contract, resync_interval=0.05)
    async with rig.running():
        assert rig.sessions[-1].abi.name == "dstack-access-nft", "found out by itself"
        await rig.settle(await model_members(anvil, [first, second]), "the initial peers, from the logs")
        assert rig.keys == {key_of(1), key_of(2)}
        await anvil.mint(3, owner=3)
        await rig.settle(await model_members(anvil, [first, second, third]), "a mint")
        await transfer(anvil, first, 1, 4)
        rest = await model_members(anvil, [first, second, third], suspended=[first])
        await rig.settle(rest, "a transfer")
        await set_key(anvil, 11, sender=1)  # account 1 holds no token now
        await audited(rig)
        await rig.settle(rest, "the old owner's next key")
        await set_key(anvil, 40, sender=4)
        await rig.settle(await model_members(anvil, [first, second, third]), "the new owner's key")
        assert rig.keys == {key_of(40), key_of(2), key_of(3)}
        await anvil.revoke(second)
        await rig.settle(await model_members(anvil, [first, second, third]), "a revocation")
        await audited(rig)
        assert rig.keys == {key_of(40), key_of(3)}
        granted = [change.public_key for change in rig.device.applied if isinstance(change, SetPeer)]
        assert granted.count(key_of(1)) == 1, "only before the transfer"


@pytest.mark.parametrize("flavour", FLAVOURS, ids=name)
async def test_a_node_that_starts_after_a_transfer(
    anvil: Anvil, flavour: Behaviour, make_rig: MakeRig
) -> None:
    await deploy_model(anvil, flavour)
    first, second = flavour.first_id, flavour.first_id + 1
    await anvil.mint(1, owner=1)
    await anvil.mint(2, owner=2)
    await transfer(anvil, first, 1, 4)
    rest = await model_members(anvil, [first, second], suspended=[first])
    for what in ("from the logs", "from the store"):
        rig = make_rig(anvil.ws, anvil.contract, resync_interval=0.05)
        async with rig.running():
            await rig.settle(rest, f"without the old owner's key, {what}")
            await audited(rig)
            await rig.settle(rest, f"the same after a resync, {what}")
            if flavour.transfer_keeps_key and not flavour.key_per_owner:
                assert rig.decide(first).reason == "transferred without a new key"


@pytest.mark.parametrize("flavour", FLAVOURS, ids=name)
async def test_a_transfer_and_a_revoke_while_the_daemon_was_away(
    anvil: Anvil, flavour: Behaviour, make_rig: MakeRig
) -> None:
    await deploy_model(anvil, flavour)
    first, second, third = (flavour.first_id + i for i in range(3))
    for number in (1, 2, 3):
        await anvil.mint(number, owner=number)
    async with make_rig(anvil.ws, anvil.contract).running() as rig:
        await rig.settle(await model_members(anvil, [first, second, third]), "the initial peers")
    await transfer(anvil, first, 1, 4)
    await anvil.revoke(second)
    again = make_rig(anvil.ws, anvil.contract, resync_interval=0.05)
    async with again.running():
        await again.settle(await model_members(anvil, [third]), "the third member only")
        await audited(again)
        await set_key(anvil, 40, sender=4)
        await again.settle(await model_members(anvil, [first, second, third]), "the new owner's key")
        assert again.keys == {key_of(40), key_of(3)}


async def test_the_first_block_is_searched_for_and_not_asked_for_again(make_rig: MakeRig) -> None:
    async with running_anvil(deploy=False) as anvil:
        await anvil.mine(300)
        await deploy_model(anvil, Behaviour())
        deployed = int(await anvil.rpc("eth_blockNumber"), 16)
        await anvil.mint(1)
        await anvil.mine(300)
        await anvil.mint(2)
        rig = make_rig(anvil.ws, anvil.contract)
        async with rig.running():
            await rig.settle(await model_members(anvil, [1, 2]), "the initial peers")
            asked = [
                parameters[0]["fromBlock"] for method, parameters in rig.asked if method == "eth_getLogs"
            ]
            assert asked == [hex(deployed)]
            assert rig.spent.count("eth_getCode") <= 10


async def test_a_reorg_that_takes_a_transfer_back_gives_the_key_back(anvil: Anvil, make_rig: MakeRig) -> None:
    await deploy_model(anvil, Behaviour(transfer_keeps_key=True))
    await anvil.mint(1, owner=1)
    await anvil.mine(3)
    async with make_rig(anvil.ws, anvil.contract).running() as rig:
        await transfer(anvil, 1, 1, 2)
        await rig.settle({}, "a transfer")
        await anvil.reorg(1)
        await anvil.mine()
        await rig.settle(await model_members(anvil, [1]), "the transfer is reverted")
        assert rig.keys == {key_of(1)}
