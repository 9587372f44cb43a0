"""The commands of `policy` on a real dev chain, checked with foundry's cast."""

import asyncio
import base64
import ipaddress
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from tests.anvil import Anvil
from tests.commands import forgotten_logging
from tests.integration.test_admin_cli import DEPLOYED, KEYS, User, in_terminal, reply_by_cast
from tests.integration.test_contract_cli import FIRST, deploy_other
from tests.integration.test_keystore_cli import PASSWORD
from tests.integration.test_withheld_cli import send_by_cast

from dstack_vpn.adapters.contracts import calls
from dstack_vpn.adapters.contracts.abi import address_word
from dstack_vpn.cli import policy_setting
from dstack_vpn.core.chain.account import keccak256
from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import derive

pytestmark = pytest.mark.anvil
POLICY = """{
  // servers by role
  "grants": [
    {"src": ["tag:web"], "dst": ["tag:db"], "ip": ["tcp:5432"]},
    {"src": ["node:node-3"], "dst": ["*"], "ip": ["*"]},

    {"src": ["tag:web"], "dst": ["192.168.7.0/24"], "ip": ["icmp:*"]},
  ],
  "tests": [
    {"src": "tag:web", "accept": ["node:node-2:tcp:5432"], "deny": ["node:node-2:tcp:22"]},
  ],
}
"""


@pytest.fixture
def user(anvil: Anvil) -> Iterator[User]:
    with forgotten_logging():
        yield User(anvil)


@pytest.fixture
def keystore(tmp_path: Path) -> str:
    """Return the path of a keystore of account 0."""
    document = Account.encrypt(bytes.fromhex(KEYS[0][2:]), PASSWORD, kdf="pbkdf2", iterations=10)
    path = tmp_path / "owner.json"
    path.touch(0o600)
    path.write_text(json.dumps(document))
    return str(path)


@pytest.fixture
async def network(user: User) -> User:
    """Return a user of a registry: node-1 is web, node-2 is db with a network."""
    await user.anvil.send(calls.multicall([calls.define_tag("web"), calls.define_tag("db")]))
    for number in (1, 2, 3):
        await user.register(number)
    await user.anvil.send(calls.set_tags(1, 0b01))
    await user.anvil.send(calls.set_tags(2, 0b10))
    await user.anvil.send(calls.set_routes(2, ["192.168.7.0/24"]))
    return user


def written(folder: Path, content: str | bytes, name: str = "policy.json") -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def grants(*listed: tuple[str, str, str], tests: list[Any] | None = None) -> str:
    found = [{"src": [src], "dst": [dst], "ip": [ip]} for src, dst, ip in listed]
    return json.dumps({"grants": found, "tests": tests or []})


# -- check -----------------------------------------------------------------------------------------


async def test_a_good_policy_is_checked_and_counted(network: User, tmp_path: Path) -> None:
    before = await network.nonces()
    file = written(tmp_path, POLICY)
    ran = await network("policy", "check", file)
    assert ran.out == (f"{file}: grants: 3, tests: 1 (all pass), pairs of members that may talk: 3 of 6\n")
    assert ran.err == ""
    found = (await network("policy", "check", file, "--json")).json
    assert (found["valid"], found["grants"], found["tests"], found["members"]) == (True, 3, 1, 3)
    assert (found["pairs"], found["failures"], found["warnings"]) == (3, [], [])
    crlf = written(tmp_path, POLICY.replace("\n", "\r\n"), "crlf.json")
    assert (await network("policy", "check", crlf, "--json")).json == found
    assert await network.nonces() == before


async def test_selectors_without_a_member_are_reported(network: User, tmp_path: Path) -> None:
    file = written(tmp_path, grants(("tag:web", "node:node-9", "*"), ("tag:ops", "tag:db", "*")))
    ran = await network("policy", "check", file)
    assert ran.err.splitlines() == [
        f"warning: {file}: tag:ops is not defined in the registry",
        f"warning: {file}: node:node-9 names no member",
    ]
    await network("node", "revoke", "node-1", "--yes", by=0)
    found = (await network("policy", "check", file, "--json")).json
    assert found["warnings"][1:] == ["tag:web names no member", "node:node-9 names no member"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"grants": [\n  {"src": ["tag:Web"]}]}', ":2:3: the key 'dst' is missing"),
        ('{\r\n"grants": [],\r\n "x": 1}', ":3:7: the key 'x' is unknown (expected grants, tests)"),
        (b'{"grants": []} // \xff', ":1:19: not UTF-8"),
        ("", ":1:1: not JSON: Expecting value"),
        ('{"grants": [], "\x1b[31m": 1}', ":1:17: not JSON: Invalid control character at"),
        ('{"grants": [], "\\u001b[31m": 1}', ":1:30: the key '\\x1b[31m' is unknown"),
        ('{"grants": []}' + " " * 24_000, ":1:1: the policy has more than 24,000 bytes"),
    ],
)
async def test_a_text_is_refused_with_its_position(
    network: User, tmp_path: Path, content: str | bytes, problem: str
) -> None:
    before, file = await network.nonces(), written(tmp_path, content)
    ran = await network("policy", "check", file, code=1)
    assert ran.err.startswith(f"{file}{problem}") and ran.out == ""
    refusal = (await network("policy", "check", file, "--json", code=1)).json
    assert refusal["valid"] is False
    assert (
        problem
        == f":{refusal['refusal']['line']}:{refusal['refusal']['column']}: " + problem.split(": ", 1)[1]
    )
    assert await network.nonces() == before


async def test_failing_tests_are_listed(network: User, tmp_path: Path) -> None:
    tests = [
        {"src": "tag:web", "accept": ["node:node-2:tcp:22"]},
        {"src": "tag:web", "accept": ["tag:db:tcp:5432"]},
        {"src": "node:node-9", "deny": ["tag:db:tcp:22"]},
    ]
    file = written(tmp_path, grants(("tag:web", "tag:db", "tcp:5432"), tests=tests))
    ran = await network("policy", "check", file, code=1)
    problem = "must be allowed, but grant 1 allows other ports, but not tcp:22"
    assert ran.err.splitlines() == [
        f"{file}:1: test 1 fails: node-1 to node:node-2:tcp:22 {problem}",
        f"{file}:1: test 3 fails: node:node-9 names no member",
    ]
    assert ran.out == ""
    found = (await network("policy", "check", file, "--json", code=1)).json
    assert (found["valid"], [each["number"] for each in found["failures"]]) == (False, [1, 3])


async def test_a_registry_that_can_not_be_read_is_no_refusal(user: User, tmp_path: Path) -> None:
    file, away = written(tmp_path, POLICY), "http://127.0.0.1:9"
    for arguments in (("check", file), ("show",), ("explain", "node-1", "node-2", "icmp")):
        ran = await user("policy", *arguments, code=75, RPC_URL=away)
        assert ran.error.startswith("error: the registry can't be read: ")
    assert "can't read" in (await user("policy", "check", str(tmp_path / "none"), code=1)).error


# -- show ------------------------------------------------------------------------------------------


async def test_the_registrys_policy_is_shown_as_it_was_written(network: User, tmp_path: Path) -> None:
    missing = await network("policy", "show", code=1)
    assert "no policy, so every member reaches every other: set one" in missing.error
    text = POLICY.replace("servers", "\x1b[31mservers\u202e\tby\x9b")
    await network.anvil.send(calls.set_policy(text))
    ran = await network("policy", "show")
    assert ran.out == POLICY.replace("servers", "\\x1b[31mservers\\x202e\tby\\x9b")
    digest = "0x" + keccak256(text.encode()).hex()
    block = int(await network.anvil.rpc("eth_blockNumber"), 16)
    assert ran.err == f"policy {digest}, {len(text.encode())} bytes, read at block {block}\n"
    found = (await network("policy", "show", "--json")).json
    assert found["policy"] == {"hash": digest, "bytes": len(text.encode()), "text": text}
    assert (await reply_by_cast(network.anvil, "policyHash()(bytes32)")).strip() == digest
    await network.anvil.send(calls.set_policy(POLICY.replace("\n", "\r\n")))
    assert (await network("policy", "show")).out == POLICY
    await network.anvil.send(calls.set_policy(""))
    await network("policy", "show", code=1)


@pytest.mark.parametrize("first_version", [True, False])
async def test_a_contract_without_a_policy_is_named(
    user: User, tmp_path: Path, *, first_version: bool
) -> None:
    await deploy_older(user, first_version=first_version)
    name = "access-registry-v1" if first_version else "dstack-access-nft"
    error = (await user("policy", "show", code=1)).error
    assert f"the contract is a {name}, which has no policy: set POLICY_FILE" in error
    await user.register(1)
    await user.register(2)
    file = written(tmp_path, grants(("node:node-1", "node:node-2", "icmp:*")))
    assert (await user("policy", "check", file, "--json")).json["pairs"] == 1
    explain = ("policy", "explain", "node-1", "node-2")
    assert "there is no policy" in (await user(*explain, "tcp:22")).out
    assert "grant 1 allows it" in (await user(*explain, "icmp", POLICY_FILE=file)).out
    assert "POLICY_FILE" in (await user(*explain, "tcp:22", POLICY_FILE=file, code=1)).out


async def deploy_older(user: User, *, first_version: bool) -> None:
    anvil = user.anvil
    if first_version:
        await deploy_other(anvil, FIRST, address_word(anvil.accounts[0]))
    else:
        await deploy_other(anvil, DEPLOYED, 0, 1, 0, 1)


# -- explain ---------------------------------------------------------------------------------------


async def test_a_connection_is_explained_by_its_grant_and_line(network: User) -> None:
    await network.anvil.send(calls.set_policy(POLICY))
    explain = ("policy", "explain")
    allowed = await network(*explain, "node-1", "node-2", "tcp:5432")
    first, policy, grant = allowed.out.splitlines()
    assert first.startswith("allowed: node-1 (10.77.0.2, fd")
    assert first.endswith(", tcp:5432")
    assert policy.startswith("the registry's policy 0x")
    assert policy.endswith("... allows it: grant 1 allows it")
    assert grant == '  grant 1, line 4: {"src": ["tag:web"], "dst": ["tag:db"], "ip": ["tcp:5432"]},'
    denied = await network(*explain, "1", "token:2", "tcp:22", code=1)
    assert "denied: node-1" in denied.out and "grant 1 allows other ports, but not tcp:22" in denied.out
    assert "grant 1, line 4: " in denied.out
    found = (await network(*explain, "10.77.0.2", "192.168.7.9", "icmp:*", "--json")).json
    (policy_found,) = found["policies"]
    assert (found["allowed"], found["src"], found["dst"]) == (True, "node-1 (10.77.0.2)", "192.168.7.9")
    assert [(g["number"], g["line"]) for g in policy_found["grants"]] == [(3, 7)]
    for arguments, reason in (
        (("node-2", "node-1", "icmp"), "no grant has node-2 as a source"),
        (("10.77.9.9", "node-1", "icmp"), "the source 10.77.9.9 is not a member's"),
        (("node-3", "1.1.1.1", "udp:53"), "the destination 1.1.1.1 is not a member's"),
    ):
        ran = await network(*explain, *arguments, code=1)
        assert ran.out.startswith("denied: ") and reason in ran.out, ran


async def test_a_node_without_access_is_denied(network: User) -> None:
    await network.anvil.send(calls.set_policy(POLICY))
    await network("node", "revoke", "node-2", "--yes", by=0)
    ran = await network("policy", "explain", "node-3", "node-2", "icmp", code=1)
    assert "node-2 has no access: revoked" in ran.out
    unknown = await network("policy", "explain", "node-3", "node-9", "icmp", code=1)
    assert unknown.error == "error: the registry has no node node-9"


async def test_without_a_policy_members_reach_each_other(network: User) -> None:
    ran = await network("policy", "explain", "node-2", "node-1", "udp:1")
    assert "the network allows it: there is no policy" in ran.out
    await network("policy", "explain", "node-2", "10.77.9.9", "udp:1", code=1)


async def test_each_of_two_policies_must_allow_it(network: User, tmp_path: Path) -> None:
    await network.anvil.send(calls.set_policy(POLICY))
    beside = written(tmp_path, grants(("*", "tag:db", "tcp:1-6000")))
    explain = ("policy", "explain", "node-1", "node-2")
    ran = await network(*explain, "tcp:5432", POLICY_FILE=beside)
    assert "the registry's policy" in ran.out and f"POLICY_FILE {beside} allows it" in ran.out
    ran = await network(*explain, "tcp:22", code=1, POLICY_FILE=beside)
    assert "... denies it: " in ran.out and f"POLICY_FILE {beside} allows it: grant 1" in ran.out
    found = (await network(*explain, "tcp:5432", "--json", code=1, POLICY_FILE=denying(tmp_path))).json
    assert [each["allowed"] for each in found["policies"]] == [True, False]
    ran = await network(*explain, "tcp:22", "--file", beside)
    assert f"{beside} allows it" in ran.out and "registry's" not in ran.out
    await network(*explain, "tcp:22", "--file", beside, code=1, POLICY_FILE=denying(tmp_path))
    refused = await network(*explain, "tcp:22", "--file", written(tmp_path, "{", "bad"), code=1)
    assert refused.err.startswith(f"{tmp_path}/bad:1:2: not JSON: ")


def denying(folder: Path) -> str:
    return written(folder, '{"grants": []}', "nothing.json")


async def test_a_policy_that_nodes_can_not_use_explains_nothing(network: User) -> None:
    await network.anvil.send(calls.set_policy('{"grants": [\x1b]}'))
    ran = await network("policy", "explain", "node-1", "node-2", "icmp", code=75)
    assert "the registry's policy can't be used (line 1, column 13: not JSON" in ran.error
    await network.anvil.send(calls.set_policy(POLICY))
    await network("policy", "explain", "node-1", "node-2", "icmp", code=1)


@pytest.mark.parametrize(
    "flow", ["tcp", "tcp:0", "tcp:70000", "tcp:1-2", "tcp:*", "*", "gre:1", "icmp:8", ""]
)
async def test_a_malformed_port_is_refused(user: User, flow: str) -> None:
    assert (await user("policy", "explain", "node-1", "node-2", flow, code=2)).error


# -- set and remove --------------------------------------------------------------------------------


async def policy_by_cast(anvil: Anvil) -> str:
    """Return the registry's policy by cast, from the ABI's bytes."""
    data = bytes.fromhex((await reply_by_cast(anvil, "policy()")).strip()[2:])
    length = int.from_bytes(data[32:64], "big")
    assert len(data) == 64 + (length + 31) // 32 * 32
    return data[64 : 64 + length].decode()


async def policy_of(user: User) -> str | None:
    ran = json.loads((await user("policy", "show", "--json")).out)
    text = ran["policy"]["text"]
    assert isinstance(text, str)
    return text


async def test_a_policy_is_set_with_its_consequences(network: User, tmp_path: Path) -> None:
    text = POLICY.replace("\n", "\r\n")
    ran = await network("policy", "set", written(tmp_path, text), "--yes", by=0)
    assert "+" not in ran.err
    assert "4 pairs of members lose access:\n" in ran.err
    lost = "tcp:0-5431, tcp:5433-65535, udp:*, icmp:*, other protocols"
    assert f"  - node-1 to node-2: {lost}\n" in ran.err
    for src, dst in ((1, 3), (2, 1), (2, 3)):
        assert f"  - node-{src} to node-{dst}: *\n" in ran.err
    lost = "  - node-1 to 192.168.7.0/24: tcp:*, udp:*, other protocols\n"
    assert f"Access to networks that members lose:\n{lost}" in ran.err
    assert ran.out.startswith("the policy is set: 3 grants\ntransaction 0x")
    assert await policy_by_cast(network.anvil) == text == await policy_of(network)

    other = grants(
        ("tag:web", "tag:db", "tcp:5432"), ("tag:db", "tag:web", "tcp:22"), ("*", "node:node-3", "icmp:*")
    )
    done = await network("policy", "set", written(tmp_path, other), "--yes", "--json", by=0)
    found = done.json
    assert (found["grants"], found["tests"], found["bytes"]) == (3, 0, len(other))
    assert pairs_in(found["gained"]) == {
        ("node-2", "node-1"): ["tcp:22"],
        ("node-1", "node-3"): ["icmp:*"],
        ("node-2", "node-3"): ["icmp:*"],
    }
    assert pairs_in(found["lost"]) == {("node-3", "node-1"): ["*"], ("node-3", "node-2"): ["*"]}
    assert found["gained_networks"] == {"rights": 0, "listed": []}
    assert [(each["src"], each["dst"], each["ports"]) for each in found["lost_networks"]["listed"]] == [
        ("node-1", ["192.168.7.0/24"], ["icmp:*"]),
        ("node-3", ["192.168.7.0/24"], ["*"]),
    ]
    assert await policy_by_cast(network.anvil) == other
    assert "  + node-2 to node-1: tcp:22\n" in done.err

    before = await network.nonces()
    again = await network("policy", "set", written(tmp_path, other), "--yes", by=0)
    assert "the registry has this policy already" in again.out
    assert await network.nonces() == before


def pairs_in(found: dict[str, Any]) -> dict[tuple[str, str], list[str]]:
    listed = {(each["src"], each["dst"]): each["ports"] for each in found["listed"]}
    assert found["pairs"] == len(listed)
    return listed


async def test_networks_and_the_internet_are_listed(network: User, tmp_path: Path) -> None:
    await network.anvil.send(calls.set_routes(2, ["10.0.0.0/8", "192.168.0.0/16"]))
    await network.register(4)
    await network.anvil.send(calls.set_routes(4, ["0.0.0.0/0"]))
    policy = grants(("tag:web", "192.168.7.0/24", "tcp:443"), ("node:node-3", "autogroup:internet", "*"))
    ran = await network("policy", "set", written(tmp_path, policy), "--dry-run", by=0)
    lines = ran.out.splitlines()
    first = lines.index("Access to networks that members lose:") + 1
    # The VPN's own prefix is in 10.0.0.0/8, so no member has access to that.
    assert sorted(line for line in lines[first:] if line.startswith("  - ")) == [
        f"  - node-1 to {', '.join(sorted_rest())}, autogroup:internet: *",
        "  - node-1 to 192.168.7.0/24: tcp:0-442, tcp:444-65535, udp:*, icmp:*, other protocols",
        "  - node-2 to autogroup:internet: *",
        "  - node-3 to 192.168.0.0/16: *",
        "  - node-4 to 192.168.0.0/16: *",
    ]
    await network.anvil.send(calls.set_policy(policy))
    ran = await network("policy", "remove", "--dry-run", "--json", by=0)
    found = ran.json["gained_networks"]
    assert found["rights"] == 5
    assert {"src": "node-3", "dst": ["192.168.0.0/16"], "ports": ["*"]} in found["listed"]


def sorted_rest() -> list[str]:
    """Return 192.168.0.0/16 without 192.168.7.0/24."""
    whole, part = ipaddress.IPv4Network("192.168.0.0/16"), ipaddress.IPv4Network("192.168.7.0/24")
    return list(map(str, sorted(whole.address_exclude(part))))


async def test_a_policy_is_removed(network: User) -> None:
    await network.anvil.send(calls.set_policy(POLICY))
    ran = await network("policy", "remove", "--yes", by=0)
    assert "4 pairs of members gain access:\n" in ran.err and "  + node-2 to node-3: *\n" in ran.err
    assert "lose" not in ran.err
    assert ran.out.startswith("the policy is removed\n")
    assert await policy_by_cast(network.anvil) == ""
    before = await network.nonces()
    assert "the registry has no policy" in (await network("policy", "remove", "--yes", by=0, code=1)).error
    assert await network.nonces() == before


async def test_a_dry_run_shows_the_pairs_and_sends_nothing(network: User, tmp_path: Path) -> None:
    before, file = await network.nonces(), written(tmp_path, POLICY)
    ran = await network("policy", "set", file, "--dry-run", by=0)
    assert "4 pairs of members lose access:\n" in ran.out
    assert "gas          " in ran.out and "Nothing was sent." in ran.err
    sender = network.anvil.accounts[0]
    found = (await network("policy", "set", file, "--dry-run", "--sender", sender, "--json")).json
    assert (found["lost"]["pairs"], found["gained"]["pairs"], found["grants"]) == (4, 0, 3)
    estimate = {name: found[name] for name in ("from", "to", "data")}
    assert found["gas"] == int(await network.anvil.rpc("eth_estimateGas", estimate), 16)
    assert await network.nonces() == before
    await network("policy", "show", code=1)


async def test_another_wallet_sets_and_removes_the_policy(network: User, tmp_path: Path) -> None:
    administrator = network.anvil.accounts[1]
    await network.anvil.send(calls.add_policy_administrator(administrator))
    file = written(tmp_path, POLICY)
    given = ("--calldata", "--sender", administrator, "--json")
    found = (await network("policy", "set", file, *given)).json
    assert found["lost"]["pairs"] == 4
    assert await send_by_cast(network.anvil, found, administrator) == "0x1"
    assert await policy_by_cast(network.anvil) == POLICY
    text = await network("policy", "remove", "--calldata")  # without an account
    assert "4 pairs of members gain access:" in text.err
    data = dict(line.split(maxsplit=1) for line in text.out.splitlines())["data"]
    transaction = {"to": network.anvil.contract, "value": "0", "data": data}
    assert await send_by_cast(network.anvil, transaction, administrator) == "0x1"
    assert await policy_by_cast(network.anvil) == ""


async def test_a_policy_administrator_sets_it_and_others_are_refused(network: User, tmp_path: Path) -> None:
    anvil, file, before = network.anvil, written(tmp_path, POLICY), await network.nonces()
    advice = f"contract policy-administrator add {anvil.accounts[1].lower()}"
    for arguments in (("set", file, "--yes"), ("set", file, "--dry-run")):
        error = (await network("policy", *arguments, by=1, code=1)).error
        assert "is not a policy administrator, and nothing was sent" in error and advice in error
    withheld = ("set", file, "--calldata", "--sender", anvil.accounts[1])
    assert advice in (await network("policy", *withheld, code=1)).error
    assert await network.nonces() == before
    await network("contract", "policy-administrator", "add", anvil.accounts[1], by=0)
    await network("policy", "set", file, "--yes", by=1)
    assert await policy_by_cast(anvil) == POLICY
    assert advice not in (await network("policy", "remove", "--yes", by=1)).err
    await network("contract", "policy-administrator", "remove", anvil.accounts[1], by=0)
    before = await network.nonces()
    await network("policy", "set", file, "--yes", by=1, code=1)
    assert await network.nonces() == before


async def test_a_refused_policy_costs_nothing(network: User, tmp_path: Path) -> None:
    before = await network.nonces()
    failing = grants(tests=[{"src": "tag:web", "accept": ["tag:db:tcp:5432"]}])
    for content, problem in (
        (failing, ":1: test 1 fails: node-1 to tag:db:tcp:5432 must be allowed, but no grant has node-1"),
        ("{", ":1:2: not JSON: "),
        (b"{ // \xff", ":1:6: not UTF-8"),
        ('{"grants": []}' + " " * (24_001 - 14), ":1:1: the policy has more than 24,000 bytes"),
    ):
        file = written(tmp_path, content)
        for flag in ("--yes", "--dry-run", "--calldata"):
            ran = await network("policy", "set", file, flag, by=0, code=1)
            assert ran.err.startswith(f"{file}{problem}") and ran.out == ""
    ran = await network("policy", "set", written(tmp_path, POLICY), by=0, code=1)  # without a terminal
    assert "this changes who may talk to whom, and there is no terminal" in ran.error
    away = await network(
        "policy", "set", written(tmp_path, POLICY), "-y", by=0, code=75, RPC_URL="http://127.0.0.1:9"
    )
    assert "the registry can't be read" in away.error
    assert await network.nonces() == before
    await network("policy", "show", code=1)


async def test_a_terminal_asks_and_has_colours(network: User, tmp_path: Path) -> None:
    before, file = await network.nonces(), written(tmp_path, POLICY)
    code, shown = await in_terminal(network, b"n\n", "policy", "set", file)
    assert code == 1
    assert "Set this policy (3 grants, " in shown and "cancelled: nothing was changed" in shown
    assert "\x1b[31m  - node-2 to node-3: *\x1b[0m" in shown
    assert await network.nonces() == before
    code, shown = await in_terminal(network, b"y\n", "policy", "set", file)
    assert code == 0, shown
    assert await policy_by_cast(network.anvil) == POLICY
    code, shown = await in_terminal(network, b"y\n", "policy", "remove")
    assert code == 0, shown
    assert "\x1b[32m  + node-2 to node-3: *\x1b[0m" in shown
    assert await policy_by_cast(network.anvil) == ""


async def test_a_policy_that_changes_during_the_question_is_not_replaced(
    network: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, file = asyncio.get_running_loop(), written(tmp_path, POLICY)

    def meanwhile(question: str, *, yes: bool) -> None:
        assert yes and question.startswith("Set this policy")
        change = network.anvil.send(calls.set_policy('{"grants": []}'))
        asyncio.run_coroutine_threadsafe(change, loop).result()

    monkeypatch.setattr(policy_setting, "confirm", meanwhile)
    before = await network.nonces()
    ran = await network("policy", "set", file, "--yes", by=0, code=1)
    assert "policy has changed since the pairs were compared, and nothing was sent" in ran.error
    after = await network.nonces()
    assert int(after[0], 16) - int(before[0], 16) == 1  # the other change
    assert await policy_by_cast(network.anvil) == '{"grants": []}'


async def test_a_keystores_account_sets_the_policy(network: User, keystore: str, tmp_path: Path) -> None:
    arguments = ("policy", "set", written(tmp_path, POLICY), "--yes", "--keystore", keystore)
    await network(*arguments, CONTRACT_KEYSTORE_PASSWORD=PASSWORD)
    assert await policy_by_cast(network.anvil) == POLICY


async def test_a_policy_may_have_24_000_bytes(network: User, tmp_path: Path) -> None:
    text = '{"grants": [] /* ' + "ü" * 11_990 + "*/}"
    text += " " * (24_000 - len(text.encode()))
    done = await network("policy", "set", written(tmp_path, text), "--yes", "--json", by=0)
    assert (done.json["bytes"], len(text.encode())) == (24_000, 24_000)
    assert await policy_of(network) == text
    before = await network.nonces()
    await network("policy", "set", written(tmp_path, text + " "), "--yes", by=0, code=1)
    assert await network.nonces() == before


async def test_twenty_pairs_are_listed_or_all(network: User, tmp_path: Path) -> None:
    for number in (4, 5, 6):
        await network.register(number)
    closed = denying(tmp_path)
    ran = await network("policy", "set", closed, "--dry-run", by=0)
    assert ran.out.startswith("30 pairs of members lose access:\n  - node-1 to node-2: *\n")
    assert ran.out.count(" to node-") == 20 and "  and 10 more (--all lists them)\n" in ran.out
    ran = await network("policy", "set", closed, "--dry-run", "--all", by=0)
    assert ran.out.count(" to node-") == 30 and "more" not in ran.out
    found = (await network("policy", "set", closed, "--dry-run", "--json", by=0)).json
    assert (found["lost"]["pairs"], len(found["lost"]["listed"])) == (30, 20)


async def test_an_unusable_policy_is_replaced(network: User, tmp_path: Path) -> None:
    await network.anvil.send(calls.set_policy("\x1b[31mnot a policy"))
    ran = await network("policy", "set", written(tmp_path, grants(("*", "node:node-1", "*"))), "-y", by=0)
    assert "the registry's policy can't be used (line 1, column 1: not JSON" in ran.err
    assert "2 pairs of members gain access" in ran.err
    same = grants(("node:node-2", "node:node-1", "*"), ("node:node-3", "node:node-1", "*"))
    ran = await network("policy", "set", written(tmp_path, same), "-y", by=0)
    assert "No pair of members gains or loses access." in ran.err


@pytest.mark.parametrize("first_version", [True, False])
async def test_an_older_contract_is_refused_before_a_transaction(
    user: User, tmp_path: Path, *, first_version: bool
) -> None:
    await deploy_older(user, first_version=first_version)
    before = await user.nonces()
    for arguments in (("set", written(tmp_path, '{"grants": []}'), "--yes"), ("remove", "--yes")):
        assert (
            "which has no policy: set POLICY_FILE" in (await user("policy", *arguments, by=0, code=1)).error
        )
    assert await user.nonces() == before


# -- plan ------------------------------------------------------------------------------------------


async def test_the_plan_leaves_out_peers_without_a_grant(network: User) -> None:
    """The node is node-3, by its key."""
    private = PrivateKey(bytes(range(1, 33)))
    key = ("--public-key", str(derive(private)))
    await network("node", "update-key", "node-3", *key, by=1)
    own: Any = {
        "WIREGUARD_PRIVATE_KEY": base64.b64encode(bytes(range(1, 33))).decode(),
        "INTERFACE": "dvpn-none",
    }

    async def peers() -> dict[str, str]:
        found = json.loads((await network("plan", "--json", **own)).out)
        return {each["node_id"]: each["reason"] for each in (*found["changes"], *found["no_peers"])}

    assert await peers() == {"node-1": "active", "node-2": "active", "node-3": "own key"}
    await network.anvil.send(calls.set_policy(grants(("tag:web", "node:node-3", "tcp:22"))))
    reason = "no grant of the policy connects this node with it"
    assert await peers() == {"node-1": "active", "node-2": reason, "node-3": "own key"}
    await network.anvil.send(calls.set_tags(1, 0))
    assert (await peers())["node-1"] == reason
