"""A node's own key expires while it runs: with a scripted key change, and the real command."""

import asyncio
import itertools
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.anvil import Anvil, key_of, running_anvil
from tests.fake_chain import FakeServer, registry
from tests.integration.conftest import MakeRig
from tests.integration.support import Rig, eventually

from dstack_vpn.adapters import keyfile
from dstack_vpn.adapters.contracts import calls
from dstack_vpn.adapters.keys.keyring import make_next, next_of, old_of
from dstack_vpn.core.model import TokenId
from dstack_vpn.core.wireguard import key_age as keyage
from dstack_vpn.core.wireguard.key_age import SHORTEST
from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.daemon.device import key_expiry as renewal_module
from dstack_vpn.daemon.device.key_expiry import KeyExpiry
from dstack_vpn.errors import AdminError, EndpointError
from dstack_vpn.wiring import daemon as wiring
from dstack_vpn.wiring.snapshot import take
from dstack_vpn.wiring.trust_metrics import trust_families

HOUR = 3600
SECRET = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"
"""The key of anvil's account 1, which is public."""
HOLDER = 1


@dataclass
class Scripted:
    """Implements `ports.KeyChanger` with a function of the test."""

    work: Callable[[TokenId], Any]
    hindrance: str | None = None
    calls: list[float] = field(default_factory=list)

    async def change(self, token: TokenId) -> None:
        self.calls.append(time.monotonic())
        await asyncio.sleep(0)
        await self.work(token)


_looks: list[float] = []
"""The times at which nodes of this process checked the age of their keys."""


async def a_dozen_looks() -> None:
    """Wait until the node has checked the age 12 times, and acted on all checks except the last."""
    before = len(_looks)
    await eventually(lambda: len(_looks) >= before + 12, "a dozen checks")


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> Callable[[Scripted | None], None]:
    """Check the age every 20 ms from the start, optionally with a scripted key change."""

    look = KeyExpiry._check

    async def counted(self: KeyExpiry) -> Any:
        found = await look(self)
        _looks.append(time.monotonic())
        return found

    monkeypatch.setattr(KeyExpiry, "_check", counted)
    monkeypatch.setattr(renewal_module, "EVERY", 0.02)
    monkeypatch.setattr(keyage, "START", 0.0)

    def with_(changer: Scripted | None = None) -> None:
        if changer is not None:
            monkeypatch.setattr(wiring, "changer_of", lambda settings: changer)

    return with_


def current(folder: Path) -> Path:
    return folder / "wireguard.key"


def in_use(folder: Path) -> PrivateKey:
    return PrivateKey.parse(current(folder).read_text().strip())


def written(path: Path, ago: float) -> None:
    """Move a file's modification time back by ``ago`` seconds."""
    then = path.stat().st_mtime - ago
    os.utime(path, (then, then))


def key_expiry(rig: Rig) -> KeyExpiry:
    assert rig.node.key_expiry is not None
    return rig.node.key_expiry


async def with_an_old_key(
    server: FakeServer, make_rig: MakeRig, folder: Path, *, age: float = 2 * HOUR
) -> tuple[Rig, PrivateKey]:
    """Return a node with token 1, which the chain dates in 2023, and its key. Token 2 is a peer."""
    key = keyfile.make(current(folder))
    written(current(folder), age)
    chain = server.chain
    await chain.mine(registry.mint(chain.accounts[HOLDER], "us", str(derive(key))))
    await chain.mint(2)
    environment = {"WIREGUARD_PRIVATE_KEY": "generate", "NODE_ID": "us", "KEY_MAX_AGE": str(HOUR * 1000)}
    return make_rig(server.ws, chain.contract, environment=environment, resync_interval=0.2), key


def announcing(server: FakeServer, folder: Path) -> Scripted:
    """Return a key change that announces a new key, as `node rotate-key` does."""

    async def work(token: TokenId) -> None:
        new, _ = make_next(current(folder))
        await server.chain.mine(registry.update_key(token, str(new)))

    return Scripted(work)


def refusing(problem: str = "the account has no funds") -> Scripted:
    async def work(token: TokenId) -> None:
        raise AdminError(problem)

    return Scripted(work)


Hurry = Callable[[Scripted | None], None]


async def test_an_old_key_is_changed_once_and_no_peer_goes(
    fake_chain: FakeServer, make_rig: MakeRig, tmp_path: Path, hurry: Hurry
) -> None:
    changer = announcing(fake_chain, tmp_path)
    hurry(changer)
    rig, old = await with_an_old_key(fake_chain, make_rig, tmp_path)
    async with rig.running():
        await eventually(lambda: in_use(tmp_path) != old, "a new key")
        new = in_use(tmp_path)
        await eventually(lambda: rig.device.public_key == derive(new), "the new key on the device")
        await eventually(
            lambda: (key_expiry(rig).report().age or HOUR) < HOUR / 2, "a young key, by its file's time"
        )
        assert rig.component("key") == "ok: "
        assert rig.component("membership") == "ok: "
        assert rig.keys == {key_of(2)}
        names = [entry.event.name for entry in rig.node.event_log.latest()]
        assert (names.count("key.changed"), names.count("key.change_failed")) == (1, 0)
        await a_dozen_looks()  # the registry dates every key as old
        assert len(changer.calls) == 1
    assert in_use(tmp_path) == new


async def test_a_young_key_is_left_alone_and_so_is_one_that_only_the_registry_calls_old(
    fake_chain: FakeServer, make_rig: MakeRig, tmp_path: Path, hurry: Hurry
) -> None:
    changer = announcing(fake_chain, tmp_path)
    hurry(changer)
    rig, _ = await with_an_old_key(fake_chain, make_rig, tmp_path, age=0.8 * HOUR)
    async with rig.running():
        await eventually(lambda: key_expiry(rig).report().age is not None, "the key's age")
        await a_dozen_looks()
        assert not changer.calls
        written(current(tmp_path), 0.2 * HOUR)
        await eventually(lambda: changer.calls, "a key change")


async def test_a_failure_leaves_the_old_key_and_is_told(
    fake_chain: FakeServer, make_rig: MakeRig, tmp_path: Path, hurry: Hurry, log_lines: list[Any]
) -> None:
    changer = refusing()
    hurry(changer)
    rig, old = await with_an_old_key(fake_chain, make_rig, tmp_path)
    async with rig.running():
        await eventually(lambda: key_expiry(rig).report().failures, "a failed change")
        assert rig.component("key").startswith(
            "warning: our key is 2 hours old, and KEY_MAX_AGE allows 60 min"
        )
        assert rig.component("key").endswith("; the first try to change it failed: the account has no funds")
        assert rig.health().ready
        rig.node.event_logger.flush()
        (line,) = (line for line in log_lines if line["event"] == "key.change_failed")
        assert line["problem"] == "the account has no funds"
        assert line["again_in"] >= SHORTEST
        await a_dozen_looks()
        assert len(changer.calls) == 1, "not at every look"
        assert rig.device.public_key == derive(old)
        key_expiry(rig).changer = announcing(fake_chain, tmp_path)
        key_expiry(rig).schedule = replace(key_expiry(rig).schedule, ready_at=0.0)
        await eventually(lambda: in_use(tmp_path) != old, "the next attempt")
        await eventually(lambda: rig.component("key") == "ok: ", "the key's component is ok")
        families = list(trust_families(rig.node.reporter.collect()))
        samples = [sample for family in families for sample in family.samples]
        metrics = {s.name: s.value for s in samples if not s.labels}
        assert metrics["dstack_vpn_key_max_age_seconds"] == HOUR
        assert 0 <= metrics["dstack_vpn_key_age_seconds"] < HOUR
        tries = {s.labels["outcome"]: s.value for s in samples if s.labels}
        assert tries == {"announced": 1, "failed": 1}


@pytest.mark.parametrize("change", ["revoked", "expired", "handed over"])
async def test_who_is_no_member_changes_nothing(
    fake_chain: FakeServer, make_rig: MakeRig, tmp_path: Path, hurry: Hurry, change: str
) -> None:
    changer = announcing(fake_chain, tmp_path)
    hurry(changer)
    rig, old = await with_an_old_key(fake_chain, make_rig, tmp_path)
    chain = fake_chain.chain
    await chain.mine(
        {
            "revoked": registry.revoke(1),
            "expired": registry.set_expiry(1, 1_700_000_001),
            "handed over": registry.transfer(1, chain.accounts[5]),
        }[change]
    )
    async with rig.running():
        await eventually(lambda: rig.component("membership").startswith("failed"), "the node is not a member")
        await a_dozen_looks()
        assert not changer.calls
        assert key_expiry(rig).report().age is None
        assert in_use(tmp_path) == old


async def test_while_the_chain_is_away_nothing_is_tried(
    fake_chain: FakeServer, make_rig: MakeRig, tmp_path: Path, hurry: Hurry
) -> None:
    changer = announcing(fake_chain, tmp_path)
    hurry(changer)
    rig, _ = await with_an_old_key(fake_chain, make_rig, tmp_path, age=0.8 * HOUR)
    async with rig.running():
        await eventually(lambda: key_expiry(rig).report().age is not None, "the key's age")
        rig.node.chain.state.down(EndpointError("away"))
        written(current(tmp_path), HOUR)
        await eventually(lambda: (key_expiry(rig).report().age or 0) > HOUR, "the age still increases")
        await a_dozen_looks()
        assert not changer.calls
        rig.node.chain.state.connected(rig.sessions[-1].name)
        await eventually(lambda: changer.calls, "a key change after the outage")


async def test_without_an_account_health_and_log_remind_of_it(
    fake_chain: FakeServer, make_rig: MakeRig, tmp_path: Path, hurry: Hurry, log_lines: list[Any]
) -> None:
    hurry(None)
    rig, old = await with_an_old_key(fake_chain, make_rig, tmp_path)
    async with rig.running():
        await eventually(lambda: rig.component("key").startswith("warning"), "a warning")
        assert "run 'dstack-vpn node rotate-key' on this machine" in rig.component("key")
        assert "CONTRACT_PRIVATE_KEY_FILE" in rig.component("key")
        assert rig.health().ready
        assert rig.health().healthy
        await a_dozen_looks()
        assert [line["event"] for line in log_lines].count("key.old") == 1
        assert in_use(tmp_path) == old


async def test_a_reorg_takes_a_new_key_back_and_it_is_announced_again_after_a_while(
    fake_chain: FakeServer, make_rig: MakeRig, tmp_path: Path, hurry: Hurry
) -> None:
    fake_chain.chain.finality = 50
    changer = announcing(fake_chain, tmp_path)
    hurry(changer)
    rig, old = await with_an_old_key(fake_chain, make_rig, tmp_path)
    async with rig.running():
        await eventually(lambda: rig.device.public_key != derive(old), "a new key")
        new = in_use(tmp_path)
        await fake_chain.chain.reorg(1)
        await eventually(lambda: in_use(tmp_path) == old, "the old key again")
        await a_dozen_looks()
        assert len(changer.calls) == 1, "it may yet come by itself"
        key_expiry(rig).schedule = replace(key_expiry(rig).schedule, ready_at=0.0)
        await eventually(lambda: in_use(tmp_path) not in {old, new}, "a second new key")
        assert len(changer.calls) == 2


async def test_killed_between_announcing_and_taking(
    fake_chain: FakeServer, make_rig: MakeRig, tmp_path: Path, hurry: Hurry
) -> None:
    changer = announcing(fake_chain, tmp_path)
    hurry(changer)
    rig, old = await with_an_old_key(fake_chain, make_rig, tmp_path)
    await changer.work(1)
    assert in_use(tmp_path) == old
    async with rig.running():
        await eventually(lambda: in_use(tmp_path) != old, "the announced key")
        await eventually(lambda: rig.device.public_key == derive(in_use(tmp_path)), "its public key")
        await a_dozen_looks()
        assert not changer.calls


async def test_two_with_the_same_key_do_not_take_turns(
    fake_chain: FakeServer, make_rig: MakeRig, tmp_path: Path, hurry: Hurry
) -> None:
    """A copy of the machine announced another key. This node announces none."""
    changer = announcing(fake_chain, tmp_path)
    hurry(changer)
    rig, old = await with_an_old_key(fake_chain, make_rig, tmp_path, age=0.8 * HOUR)
    async with rig.running():
        await eventually(lambda: key_expiry(rig).report().age is not None, "the key's age")
        await fake_chain.chain.mine(registry.update_key(1, str(key_of(77))))
        await eventually(lambda: rig.component("membership").startswith("failed"), "the node is not a member")
        written(current(tmp_path), HOUR)
        await a_dozen_looks()
        assert not changer.calls
        assert in_use(tmp_path) == old


async def test_an_endpoint_that_does_not_tell_the_time_is_not_asked_at_every_look(
    fake_chain: FakeServer,
    make_rig: MakeRig,
    tmp_path: Path,
    hurry: Hurry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(renewal_module, "ASK_AGAIN", 0.3)
    changer = announcing(fake_chain, tmp_path)
    hurry(changer)
    rig, _ = await with_an_old_key(fake_chain, make_rig, tmp_path)
    async with rig.running(settled=False):
        source, asked = rig.node.chain.source, []
        to = source.to

        def away(name: str) -> Any:
            asked.append(time.monotonic())
            raise EndpointError("away")

        monkeypatch.setattr(source, "to", away)
        await eventually(lambda: len(asked) >= 3, "three requests")
        assert min(b - a for a, b in itertools.pairwise(asked)) >= 0.3
        assert not changer.calls
        monkeypatch.setattr(source, "to", to)
        await eventually(lambda: changer.calls, "a key change")


# -- the real command, on a real chain -------------------------------------------------------------


async def on_anvil(anvil: Anvil, make_rig: MakeRig, folder: Path, **more: str) -> tuple[Rig, PrivateKey]:
    key = keyfile.make(current(folder))
    written(current(folder), 2 * HOUR)
    await anvil.send(calls.mint(anvil.accounts[HOLDER], "us", derive(key)))
    await anvil.mint(2)
    environment: Mapping[str, str] = {
        "WIREGUARD_PRIVATE_KEY": "generate",
        "CONTRACT_PRIVATE_KEY": SECRET,
        "KEY_MAX_AGE": str(HOUR * 1000),
        **more,
    }
    return make_rig(anvil.ws + "/?key=api-key-0123", anvil.contract, environment=environment), key


def two_hours_ago() -> tuple[str, str]:
    return "--timestamp", str(int(time.time()) - 2 * HOUR)  # noqa: TID251  # anvil's clock


@pytest.mark.anvil
async def test_the_command_changes_it_and_no_secret_shows(
    make_rig: MakeRig, tmp_path: Path, hurry: Hurry, log_lines: list[Any]
) -> None:
    hurry(None)
    async with running_anvil(*two_hours_ago()) as anvil:
        rig, old = await on_anvil(anvil, make_rig, tmp_path)
        children: list[bytes] = []
        async with rig.running():
            await eventually(lambda: watched(children) or in_use(tmp_path) != old, "a new key")
            await eventually(lambda: rig.device.public_key == derive(in_use(tmp_path)), "its public key")
            await eventually(lambda: rig.component("key") == "ok: ", "the key's component is ok")
            assert key_expiry(rig).report().announced == 1
            assert rig.keys == {key_of(2)}
            assert rig.component("membership") == "ok: "
            stats = json.dumps(take(rig.node, None, {}).stats(), default=str)
        assert old_of(current(tmp_path)).exists() or not next_of(current(tmp_path)).exists()
        assert children, "its process was seen"
        for text in (stats, json.dumps(log_lines, default=str), str(children)):
            assert SECRET not in text
            assert "api-key-0123" not in text


def watched(seen: list[bytes]) -> bool:
    """Record the arguments and environments of this process's children that change keys."""
    for task in Path("/proc/self/task").iterdir():
        try:
            for child in (task / "children").read_text().split():
                line = Path("/proc", child, "cmdline").read_bytes()
                if b"rotate-key" in line:
                    seen.extend((line, Path("/proc", child, "environ").read_bytes()))
        except OSError:
            continue
    return False


@pytest.mark.anvil
@pytest.mark.parametrize("trouble", ["no funds", "not the holder"])
async def test_what_the_chain_refuses_leaves_the_old_key(
    make_rig: MakeRig, tmp_path: Path, hurry: Hurry, trouble: str
) -> None:
    hurry(None)
    async with running_anvil(*two_hours_ago()) as anvil:
        rig, old = await on_anvil(anvil, make_rig, tmp_path)
        if trouble == "no funds":
            await anvil.rpc("anvil_setBalance", anvil.accounts[HOLDER], "0x0")
        else:
            # Without NODE_ID, this account would mean that token 1 is not the node's.
            rig.environment = {**rig.environment, "CONTRACT_PRIVATE_KEY": "0x" + "17" * 32, "NODE_ID": "us"}
        async with rig.running():
            await eventually(lambda: key_expiry(rig).report().failures == 1, "a failed change")
            reason = rig.component("key")
            assert reason.startswith("warning: ")
            assert {"no funds": "has 0", "not the holder": "the contract refused"}[trouble] in reason
            assert rig.device.public_key == derive(old)
            assert in_use(tmp_path) == old
            assert rig.component("membership") == "ok: "
