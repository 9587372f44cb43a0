"""The guest agent's keys and quotes, and its malformed replies."""

from pathlib import Path

import pytest
from tests.guest_agent import Agent, serving
from tests.quotes import NOW, Made

from dstack_vpn.adapters.attest.verify import Judgement, verify
from dstack_vpn.adapters.keys.guest_agent import GuestAgent
from dstack_vpn.core.attest.measurements import Expected
from dstack_vpn.core.attest.quote import report_data
from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import AgentError


async def test_a_key_is_the_same_at_each_start_and_each_instances_own(tmp_path: Path) -> None:
    agent = Agent()
    with serving(agent, tmp_path) as path:
        first = await GuestAgent(path).wireguard_key()
        again = await GuestAgent(path).wireguard_key()
        agent.instance_id = "44" * 20
        replica = await GuestAgent(path).wireguard_key()
    assert first.reveal() == again.reveal()
    assert derive(replica) != derive(first)
    key = first.reveal()
    # RFC 7748, section 5: clamping sets and clears these bits.
    assert (key[0] & 7, key[31] & 0xC0) == (0, 0x40)
    assert ("GetKey", {"path": "dstack-vpn/wireguard/" + "33" * 20, "purpose": "wireguard"}) in agent.asked


async def test_its_attestation_can_be_checked(tmp_path: Path) -> None:
    agent = Agent()
    with serving(agent, tmp_path) as path:
        client = GuestAgent(path)
        key = derive(await client.wireguard_key())
        said = await client.attestation(key)
    assert said["report_data"] == report_data(key).hex()
    own = {name: [said[name.replace("-", "_")]] for name in ("compose-hash", "app-id", "instance-id")}
    expected = Expected.parse(Made(b"", agent.authority).expected | own)
    by = Judgement(agent.authority.parsed(), NOW.timestamp(), root=agent.authority.anchor)
    finding = verify(bytes.fromhex(said["quote"]), said["event_log"], key, expected=expected, by=by)
    assert finding.valid, finding


@pytest.mark.parametrize(
    ("method", "answer", "problem"),
    [
        ("Info", {"app_id": "x"}, "returned no instance id"),
        ("Info", {"instance_id": "../../other"}, "returned no instance id"),
        ("Info", {"instance_id": ""}, "returned no instance id"),
        ("GetKey", {}, "not a valid key of 32 bytes"),
        ("GetKey", {"key": "ab" * 31}, "not a valid key of 32 bytes"),
        ("GetKey", {"key": "00" * 32}, "not a valid key of 32 bytes"),
        ("GetKey", {"key": 7}, "not a valid key of 32 bytes"),
        ("GetKey", [], "not a JSON object"),
        ("GetKey", b"<html>", "does not reply to GetKey"),
        ("GetKey", b"[" * 100_000, "does not reply to GetKey"),
        ("GetKey", b" " * (1 << 21), "does not reply to GetKey"),
    ],
)
async def test_what_is_no_key_is_refused_and_not_shown(
    method: str, answer: object, problem: str, tmp_path: Path
) -> None:
    agent = Agent(replace={method: answer})
    with serving(agent, tmp_path) as path, pytest.raises(AgentError, match=problem) as raised:
        await GuestAgent(path).wireguard_key()
    assert "abab" not in str(raised.value)


async def test_an_agent_without_a_quote_or_without_a_socket_is_named(tmp_path: Path) -> None:
    key = derive(await _key(tmp_path))
    agent = Agent(replace={"GetQuote": {"quote": "xyz"}})
    with serving(agent, tmp_path / "other") as path, pytest.raises(AgentError, match="has no quote"):
        await GuestAgent(path).attestation(key)
    with pytest.raises(AgentError, match=r"no\.sock does not reply to Info"):
        await GuestAgent(str(tmp_path / "no.sock")).wireguard_key()


async def _key(folder: Path) -> PrivateKey:
    (folder / "other").mkdir()
    with serving(Agent(), folder) as path:
        return await GuestAgent(path).wireguard_key()
