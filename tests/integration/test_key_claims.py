"""A key is public before its transaction is mined: another member copies it from the mempool."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.anvil import Anvil, key_of, running_anvil
from tests.integration.conftest import MakeRig
from tests.integration.support import Rig, eventually
from tests.integration.test_admin_cli import Ran, User
from tests.integration.views import Behaviour, addresses, deploy_model

from dstack_vpn.adapters import keyfile
from dstack_vpn.adapters.contracts import calls
from dstack_vpn.adapters.keys.keyring import FileKeyRing
from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey
from dstack_vpn.core.wireguard.x25519 import derive

pytestmark = pytest.mark.anvil
US, THIEF = 1, 2
"""Tokens, and the accounts that hold them."""


async def with_a_thief(anvil: Anvil, make_rig: MakeRig, folder: Path) -> tuple[Rig, PrivateKey]:
    key = keyfile.make(folder / "wireguard.key")
    await anvil.send(calls.mint(anvil.accounts[US], "us", derive(key)))
    await anvil.mint(2, owner=THIEF)
    environment = {"WIREGUARD_PRIVATE_KEY": "generate", "NODE_ID": "us"}
    return make_rig(anvil.ws, anvil.contract, environment=environment), key


async def rotate(anvil: Anvil, folder: Path, *more: str, code: int = 0) -> Ran:
    user = User(anvil)
    return await user(
        *("node", "rotate-key", "us", *more),
        by=US,
        code=code,
        WIREGUARD_PRIVATE_KEY="generate",
        STATE_DIR=str(folder),
    )


async def pending_key(anvil: Anvil) -> PublicKey:
    """Return the key in the pending transaction, which is public."""
    while True:
        block: dict[str, Any] = await anvil.rpc("eth_getBlockByNumber", "pending", True)  # an RPC parameter
        for transaction in block["transactions"]:
            data = bytes.fromhex(transaction["input"][2:])
            if transaction["from"].lower() == anvil.accounts[US].lower():
                length = int.from_bytes(data[68:100], "big")
                return PublicKey.parse(data[100 : 100 + length].decode())
        await asyncio.sleep(0.02)


async def front_run(anvil: Anvil, key: PublicKey) -> None:
    """Register the key for the thief's token, in the same block and before."""
    transaction = {"from": anvil.accounts[THIEF], "to": anvil.contract, "gas": hex(400_000)}
    data = "0x" + calls.update_key(THIEF, key).hex()
    await anvil.rpc("eth_sendTransaction", transaction | {"data": data, "gasPrice": hex(500 * 10**9)})
    await anvil.mine()


async def copy_first(anvil: Anvil) -> PublicKey:
    """The attack."""
    copied = await asyncio.wait_for(pending_key(anvil), 20)
    await front_run(anvil, copied)
    return copied


def in_use(folder: Path) -> PrivateKey:
    return PrivateKey.parse((folder / "wireguard.key").read_text().strip())


async def test_a_key_that_was_copied_from_the_mempool_is_in_use_all_the_same(
    make_rig: MakeRig, tmp_path: Path
) -> None:
    async with running_anvil("--order", "fees") as anvil:
        rig, old = await with_a_thief(anvil, make_rig, tmp_path)
        async with rig.running():
            await eventually(lambda: rig.keys == {key_of(2)}, "the other member")
            await anvil.rpc("evm_setAutomine", False)  # an RPC parameter
            _, copied = await asyncio.gather(rotate(anvil, tmp_path), copy_first(anvil))
            await anvil.rpc("evm_setAutomine", True)  # an RPC parameter
            await eventually(lambda: rig.device.public_key == copied, "the new key")
            await eventually(lambda: rig.keys == set(), "the copy is no peer of ours")
            assert derive(old) != copied
            await eventually(lambda: derive(in_use(tmp_path)) == rig.device.public_key, "on the disk, too")
            assert rig.component("membership") == "ok: "


@pytest.mark.parametrize("deployed", [False, True], ids=["ours", "deployed"])
@pytest.mark.parametrize("first", ["thief", "owner"])
async def test_a_third_node_reaches_the_owner_of_a_copied_key(
    make_rig: MakeRig, *, first: str, deployed: bool
) -> None:
    """With either contract, and whichever of the two registers the key first."""
    tokens = {"thief": (THIEF, 1 if first == "thief" else 2), "owner": (US, 2 if first == "thief" else 1)}
    async with running_anvil() as anvil:
        if deployed:
            await deploy_model(anvil, Behaviour())
        for name in sorted(tokens, key=lambda name: tokens[name][1]):
            await anvil.send(calls.mint(anvil.accounts[tokens[name][0]], name, key_of(1)))
        async with make_rig(anvil.ws, anvil.contract).running() as rig:
            both, owners = addresses(anvil.contract, 1) | addresses(anvil.contract, 2), tokens["owner"][1]
            await eventually(lambda: rig.peers == {str(key_of(1)): (both, None)}, "both addresses")
            assert all(rig.decide(token).granted for token in (1, 2))
            await anvil.send(calls.revoke(tokens["thief"][1]))
            alone = {str(key_of(1)): (addresses(anvil.contract, owners), None)}
            await eventually(lambda: rig.peers == alone, "the owner's address alone")


async def test_keys_whose_outcome_is_unknown_wait_until_one_is_seen(
    make_rig: MakeRig, tmp_path: Path
) -> None:
    """Two attempts time out. The first is mined later, and then the second."""
    async with running_anvil() as anvil:
        rig, old = await with_a_thief(anvil, make_rig, tmp_path)
        async with rig.running():
            await eventually(lambda: rig.keys == {key_of(2)}, "the other member")
            await anvil.rpc("evm_setAutomine", False)  # an RPC parameter
            for _ in range(2):
                ran = await rotate(anvil, tmp_path, "--timeout", "1", code=75)
                assert "The new key is kept in" in ran.err
            waiting = FileKeyRing(tmp_path / "wireguard.key").others().keys()
            assert len(waiting) == 2
            assert rig.device.public_key == derive(old)
            await anvil.mine()
            await eventually(lambda: rig.device.public_key in waiting, "the last one that was mined")
            await eventually(lambda: derive(in_use(tmp_path)) == rig.device.public_key, "on the disk, too")
            assert rig.component("membership") == "ok: "
