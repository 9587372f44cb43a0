"""A running node's own key changes on the chain."""

from pathlib import Path

from tests.anvil import key_of
from tests.fake_chain import FakeServer, registry
from tests.integration.conftest import MakeRig
from tests.integration.support import Rig, eventually

from dstack_vpn.adapters import keyfile
from dstack_vpn.adapters.keys.keyring import next_of, old_of
from dstack_vpn.core.model import RemovePeer
from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import derive


async def with_two_members(
    chain_server: FakeServer, make_rig: MakeRig, folder: Path
) -> tuple[Rig, PrivateKey]:
    """Return a node with token 1 and a generated key, and the key. Token 2 is a peer's."""
    current = keyfile.make(folder / "wireguard.key")
    chain = chain_server.chain
    await chain.mine(registry.mint(chain.accounts[1], "us", str(derive(current))))
    await chain.mint(2)
    environment = {"WIREGUARD_PRIVATE_KEY": "generate", "NODE_ID": "us"}
    return make_rig(chain_server.ws, chain.contract, environment=environment, resync_interval=0.2), current


def in_use(folder: Path) -> PrivateKey:
    return PrivateKey.parse((folder / "wireguard.key").read_text().strip())


async def test_the_key_changes_with_the_registry_and_no_peer_goes(
    fake_chain: FakeServer, make_rig: MakeRig, tmp_path: Path
) -> None:
    rig, old = await with_two_members(fake_chain, make_rig, tmp_path)
    async with rig.running():
        await eventually(lambda: rig.keys == {key_of(2)}, "the other member")
        new = keyfile.make(next_of(tmp_path / "wireguard.key"))
        await fake_chain.chain.mine_empty(1)
        assert rig.device.public_key == derive(old), "the registry decides when"
        await fake_chain.chain.mine(registry.update_key(1, str(derive(new))))
        await eventually(lambda: rig.device.public_key == derive(new), "the new key on the device")
        await eventually(lambda: in_use(tmp_path) == new, "the new key on the disk")
        assert rig.component("membership") == "ok: "
        assert rig.keys == {key_of(2)}
        assert not [c for c in rig.device.applied if isinstance(c, RemovePeer)], "nobody went"
        assert derive(new) not in {c.public_key for c in rig.device.applied}, "we are no peer of ours"
        assert rig.link.settings is not None
        assert rig.link.settings.addresses, "the address has stayed"
        assert old_of(tmp_path / "wireguard.key").exists(), "the change is not final"
        await fake_chain.chain.mine_empty(5)
        await eventually(lambda: not old_of(tmp_path / "wireguard.key").exists(), "the old key is removed")
        assert not next_of(tmp_path / "wireguard.key").exists()


async def test_a_reorg_takes_the_key_back(fake_chain: FakeServer, make_rig: MakeRig, tmp_path: Path) -> None:
    rig, old = await with_two_members(fake_chain, make_rig, tmp_path)
    fake_chain.chain.finality = 50
    async with rig.running():
        await eventually(lambda: rig.keys == {key_of(2)}, "the other member")
        new = keyfile.make(next_of(tmp_path / "wireguard.key"))
        await fake_chain.chain.mine(registry.update_key(1, str(derive(new))))
        await eventually(lambda: in_use(tmp_path) == new, "the new key")
        await fake_chain.chain.reorg(1)
        await eventually(lambda: rig.device.public_key == derive(old), "the old key on the device")
        await eventually(lambda: in_use(tmp_path) == old, "the old key on the disk")
        await fake_chain.chain.mine(registry.update_key(1, str(derive(new))))
        await eventually(lambda: in_use(tmp_path) == new, "the new key again")


async def test_a_daemon_that_was_down_takes_the_key_at_its_start(
    fake_chain: FakeServer, make_rig: MakeRig, tmp_path: Path
) -> None:
    """The key changed on the chain while the daemon was stopped."""
    rig, _ = await with_two_members(fake_chain, make_rig, tmp_path)
    new = keyfile.make(next_of(tmp_path / "wireguard.key"))
    await fake_chain.chain.mine(registry.update_key(1, str(derive(new))))
    async with rig.running():
        await eventually(lambda: in_use(tmp_path) == new, "the new key")
        await eventually(lambda: rig.device.public_key == derive(new), "the new key on the device")
        assert rig.component("membership") == "ok: "
