"""A node on a registry with hostile texts.

A hostile text changes no peer and stops nothing. The node logs one line that does not quote the
text, and the decision about the token has the reason.
"""

import base64
from dataclasses import dataclass
from typing import Any

import pytest
from tests.anvil import Anvil, key_of
from tests.integration.conftest import MakeRig
from tests.integration.hostile import check_line, lines_about, unharmed
from tests.integration.support import Peers, Rig, eventually
from tests.integration.views import Behaviour, deploy_model, model_call, model_members, raw_mint

GOOD = str(key_of(50))


@dataclass(frozen=True)
class Hostile:
    """A mint's texts, and the expected reason and problem."""

    node_id: bytes = b"web"
    key: bytes = GOOD.encode()
    reason: str = ""
    problem: str = ""


def bad_key(key: bytes, problem: str) -> Hostile:
    return Hostile(key=key, reason="malformed key", problem=problem)


def bad_name(node_id: bytes, problem: str = "node id: expected 1 to 63") -> Hostile:
    return Hostile(node_id=node_id, reason="malformed node id", problem=problem)


_NOT_A_KEY = "not a WireGuard key"
CASES = {
    "key with a newline in it": bad_key(GOOD[:-1].encode() + b"\n", _NOT_A_KEY),
    "key and a newline": bad_key(GOOD.encode() + b"\n", "key: 45 bytes, of at most 44"),
    "key and a section": bad_key(GOOD.encode() + b"\n[Peer]\nAllowedIPs = 0.0.0.0/0", "of at most 44"),
    "key of 31 bytes": bad_key(base64.b64encode(bytes(range(31))), _NOT_A_KEY),
    "key of 33 bytes": bad_key(base64.b64encode(bytes(range(33))), _NOT_A_KEY),
    "key without padding": bad_key(GOOD.rstrip("=").encode(), _NOT_A_KEY),
    "key in non-canonical base64": bad_key(GOOD[:-2].encode() + b"B=", _NOT_A_KEY),
    "key in URL-safe base64": bad_key(b"-_" + GOOD[2:].encode(), _NOT_A_KEY),
    "key of zeros": bad_key(base64.b64encode(bytes(32)), "all-zero key"),
    "key that is a space": bad_key(b" ", _NOT_A_KEY),
    "key that is no UTF-8": bad_key(b"\xff\xfe" + GOOD[2:].encode(), "key: not plain ASCII"),
    "name with a newline": bad_name(b"web\nPostUp = reboot"),
    "name with an escape sequence": bad_name(b"web\x1b[2J"),
    "name with a zero byte": bad_name(b"web\x00"),
    "name in quotes": bad_name(b'"web"'),
    "name that is a path": bad_name(b"../../etc/passwd"),
    "name that is shell text": bad_name(b"$(reboot);`id`"),
    "name that is a page": bad_name(b"<script>alert(1)</script>"),
    "name that is empty": bad_name(b""),
    "name of 64 characters": bad_name(b"a" * 64, "node id: 64 bytes, of at most 63"),
    "name that is no UTF-8": bad_name(b"web\xc3\x28", "node id: not plain ASCII"),
    "name that only looks like one": bad_name("w\u0435b".encode(), "node id: not plain ASCII"),
}


# -- the model of the deployed contract, which validates nothing -----------------------------------


@pytest.mark.anvil
@pytest.mark.parametrize("behaviour", [Behaviour(), Behaviour(key_per_owner=True)], ids=["token", "owner"])
async def test_hostile_mints_on_the_deployed_contract(
    anvil: Anvil, behaviour: Behaviour, make_rig: MakeRig, log_lines: list[Any]
) -> None:
    await deploy_model(anvil, behaviour)
    await anvil.mint(1, owner=1)
    await anvil.mint(2, owner=2)
    rig = make_rig(anvil.ws, anvil.contract)
    async with rig.running():
        before = await model_members(anvil, [1, 2])
        await rig.settle(before, "two honest nodes")
        for token, (name, case) in enumerate(CASES.items(), 3):
            log_lines.clear()
            await anvil.send(raw_mint(f"0x{token:040x}", case.node_id, case.key))
            await eventually(lambda: rig.decide(token).reason == case.reason, f"{name}: the decision")  # noqa: B023  # used in the same iteration
            assert case.problem in rig.decide(token).detail, name
            await unharmed(rig, before)
            (line,) = lines_about(log_lines, rig)
            check_line(line, token, case.problem)
        await anvil.mint(4, owner=4)
        everybody = await model_members(anvil, [1, 2, len(CASES) + 3])
        await rig.settle(everybody, "an honest mint after the hostile ones")
        await eventually((rig.state_dir / "wg0.conf").exists, "the wg-quick file")
    assert "PostUp" not in (rig.state_dir / "wg0.conf").read_text()
    await starts_over(rig, anvil, make_rig, everybody)


async def starts_over(rig: Rig, anvil: Anvil, make_rig: MakeRig, want: Peers) -> None:
    """Check nodes that read the hostile texts from the store, and from the logs alone."""
    async with make_rig(anvil.http, anvil.contract).running() as again:
        await again.settle(want, "from the store")
    (rig.state_dir / "registry.sqlite").unlink()
    async with make_rig(anvil.http, anvil.contract, resync_interval=0.05).running() as anew:
        await anew.settle(want, "from the logs")
        await eventually(lambda: anew.node.chain.state.resyncs >= 2, "resyncs")
        await anew.settle(want, "after resyncs")


@pytest.mark.anvil
async def test_a_holder_who_sets_a_hostile_key_is_out_and_nobody_else(
    anvil: Anvil, make_rig: MakeRig, log_lines: list[Any]
) -> None:
    await deploy_model(anvil, Behaviour())
    await anvil.mint(1, owner=1)
    await anvil.mint(2, owner=2)
    async with make_rig(anvil.ws, anvil.contract).running() as rig:
        await rig.settle(await model_members(anvil, [1, 2]), "two honest nodes")
        log_lines.clear()
        await anvil.send(model_call("updatePublicKey(string)", GOOD + "\n[Peer]"), sender=1)
        await rig.settle(await model_members(anvil, [2]), "one honest node")
        await rig.quiet()
        (line,) = lines_about(log_lines, rig)
        check_line(line, 1, "of at most 44")
