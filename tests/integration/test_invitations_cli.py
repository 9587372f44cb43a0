"""Invitations by their commands, on a real dev chain, checked with foundry's cast."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.anvil import Anvil, key_of
from tests.commands import forgotten_logging
from tests.integration.test_admin_cli import Ran, User, in_terminal, verifier
from tests.qr import scanned

from dstack_vpn.adapters.contracts import calls, load_artifact, signatures
from dstack_vpn.adapters.contracts.abi import encode
from dstack_vpn.config import load
from dstack_vpn.core.chain.invitation_code import InvitationCode
from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import derive

pytestmark = pytest.mark.anvil

HOLDER, OTHER = "0x3c44cdddb6a900fa2b585dd299e03d12fa4293bc", "0x" + "ab" * 20


async def define(anvil: Anvil, *names: str) -> None:
    for name in names:
        await anvil.send(load_artifact().functions["defineTag(string)"] + encode(name))


async def invited(user: User, *more: str, node_id: str = "web-1", by: int = 0) -> str:
    """Return the code of a new invitation."""
    ran = await user("invite", "create", node_id, *more, by=by)
    code = ran.out.strip()
    assert InvitationCode.decode(code).invitation.node_id == node_id
    assert ran.out.count("\n") == 1
    return code


@pytest.fixture
def user(anvil: Anvil) -> Iterator[User]:
    with forgotten_logging():
        yield User(anvil)


async def test_an_invitation_is_created_without_a_transaction_and_shown(user: User) -> None:
    await define(user.anvil, "web", "db", "gateway")
    before = await user.nonces()
    options = (
        "--tags",
        "gateway,web",
        "--routes",
        "fd00::/8,10.0.0.0/8",
        "--expires",
        "90d",
        "--valid",
        "24h",
    )
    ran = await user("invite", "create", "web-1", *options, "--json", by=0)
    made = ran.json
    assert await user.nonces() == before
    code = InvitationCode.decode(made["code"])
    assert code.invitation.tags == 0b101
    assert made["routes"] == ["10.0.0.0/8", "fd00::/8"]
    assert made["expires_at"] - made["deadline"] == 89 * 86_400
    assert made["minter"] == user.anvil.accounts[0].lower()
    shown = (await user("invite", "show", made["code"], "--json")).json
    assert shown == {
        **{name: value for name, value in made.items() if name != "code"},
        "tags": ["web", "gateway"],
        "signed_by_account": True,
        "checked_on_chain": True,
        "status": "open",
    }
    hash_of = (
        "invitationHash((string,uint256,bytes32[],uint64,uint64,address,address,address,uint256))(bytes32)"
    )
    terms = code.invitation
    routes = "[0x" + "04" + "00" * 26 + "0a00000008" + ",0x" + "06" + "00" * 14 + "fd" + "00" * 15 + "08]"
    fields = (
        f"({terms.node_id},{terms.tags},{routes},{terms.expires_at},{terms.deadline},"
        f"{terms.minter},{terms.holder},{terms.claimant},{terms.salt})"
    )
    assert await verifier(user.anvil, hash_of, fields) == [made["hash"]]


async def test_a_terminal_shows_the_code_as_a_qr_code_too(user: User) -> None:
    code, shown = await in_terminal(user, b"", "invite", "create", "web-1")
    assert code == 0
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown.splitlines()]
    (text,) = [line for line in lines if line.startswith("dvi1_")]
    assert InvitationCode.decode(text).invitation.node_id == "web-1"
    drawn = [line for line in lines if line and not set(line) - set(" ▀▄█")]
    assert scanned("\n".join(drawn)) == [text]


async def test_a_narrow_terminal_names_the_width_of_the_qr_code(user: User) -> None:
    code, shown = await in_terminal(user, b"", "invite", "create", "web-1", columns=60)
    assert code == 0
    assert re.search(r"A terminal of [0-9]+ columns and [0-9]+ lines also shows a QR code", shown)
    assert "█" not in shown


async def test_a_code_is_shown_offline_without_its_secret(user: User) -> None:
    code = await invited(user, "--valid", "1h")
    key = InvitationCode.decode(code).claim_key
    assert key is not None
    for more, checked in (((), ""), (("--json",), '"checked_on_chain": false')):
        ran = await user("invite", "show", code, *more, RPC_URL="", CONTRACT_ADDRESS="")
        assert key.reveal().hex() not in ran.out and code[40:] not in ran.out
        assert "set RPC_URL to check" in ran.out and "web-1" in ran.out and checked in ran.out


async def test_a_typing_error_is_found_offline(user: User) -> None:
    code = await invited(user)
    altered = code[:80] + ("A" if code[80] != "A" else "B") + code[81:]
    for command, by in (("show", None), ("cancel", 0)):
        ran = await user("invite", command, altered, by=by, code=1, RPC_URL="http://127.0.0.1:1")
        assert "checksum is wrong" in ran.error
        assert altered[90:] not in ran.err


@pytest.mark.parametrize(
    ("options", "code", "problem"),
    [
        (("--tags", "office"), 1, "does not define 'office' (defined: web)"),
        (("--tags", "Web"), 2, "tags: expected 1 to 63 of a-z"),
        (("--routes", "10.0.0.1/8"), 2, "write 10.0.0.0/8"),
        (("--routes", "10.0.0.0/8,10.1.0.0/16"), 2, "overlap"),
        (("--expires", "1h"), 2, "would end before the invitation"),
        (("--valid", "366d"), 2, "expected a time from"),
        (("--valid", "0"), 2, "expected a time from"),
        (("--holder", "0x12"), 2, "40 hexadecimal digits"),
        (("--holder", "0x3c44CdDdB6a900fa2b585dd299e03d12FA4293BC"), 1, "checksum is wrong"),
    ],
)
async def test_nothing_is_signed_that_the_contract_refuses(
    user: User, options: tuple[str, ...], code: int, problem: str
) -> None:
    await define(user.anvil, "web")
    ran = await user("invite", "create", "web-1", *options, by=0, code=code)
    assert problem in ran.err
    assert not ran.out


async def test_only_a_minter_invites_and_only_to_a_free_node_id(user: User) -> None:
    ran = await user("invite", "create", "web-1", by=1, code=1)
    assert "is not a minter of the registry" in ran.error
    await user.anvil.send(calls.add_minter(user.anvil.accounts[1]))
    await invited(user, by=1)
    await user.anvil.send(calls.mint(user.anvil.accounts[2], "web-1", key_of(1)))
    ran = await user("invite", "create", "web-1", by=1, code=1)
    assert "the node id web-1 belongs to token 1" in ran.error
    ran = await user("invite", "create", "Web_1", by=0, code=2)
    assert "node id: expected 1 to 63" in ran.err


async def test_an_invitation_is_cancelled_once_by_a_minter(user: User) -> None:
    first, second = await invited(user), await invited(user, "--holder", HOLDER)
    before = await user.nonces()
    ran = await user("invite", "cancel", first, by=1, code=1)
    assert "is not a minter of the registry; nothing was sent" in ran.error
    assert await user.nonces() == before
    cancelled = (await user("invite", "cancel", first, "--json", by=0)).json
    assert await verifier(user.anvil, "isInvitationUsed(bytes32)(bool)", cancelled["hash"]) == ["true"]
    nonces = await user.nonces()
    for code in (first, cancelled["hash"]):
        ran = await user("invite", "cancel", code, by=0, code=1)
        assert "was already cancelled; nothing was sent" in ran.error
    assert await user.nonces() == nonces
    assert (
        (await user("invite", "show", first, "--json"))
        .json["status"]
        .startswith("the invitation was cancelled")
    )
    shown = (await user("invite", "show", second, "--json")).json
    assert (shown["status"], shown["holder"]) == ("open", HOLDER)
    ran = await user("invite", "cancel", shown["hash"], by=0)
    assert "is cancelled" in ran.out


async def test_a_hash_needs_its_contract(user: User) -> None:
    ran = await user("invite", "cancel", "0x" + "1" * 64, by=0, code=1, CONTRACT_ADDRESS="")
    assert "set CONTRACT_ADDRESS, or give the code" in ran.error


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"CONTRACT_ADDRESS": OTHER}, f"but CONTRACT_ADDRESS is {OTHER}"),
        ({"NETWORK": "base"}, "(NETWORK, CHAIN_ID) are for chain 8453"),
        ({"CHAIN_ID": "5"}, "(NETWORK, CHAIN_ID) are for chain 5"),
    ],
)
async def test_a_code_of_another_registry_is_refused(
    user: User, settings: dict[str, Any], problem: str
) -> None:
    code = await invited(user)
    before = await user.nonces()
    for command, by in (("show", None), ("cancel", 0)):
        ran = await user("invite", command, code, by=by, code=1, **settings)
        assert problem in ran.error
    assert await user.nonces() == before


async def test_a_code_names_its_registry(user: User) -> None:
    code = await invited(user)
    ran = await user("invite", "show", code, "--json", CONTRACT_ADDRESS="", NETWORK="")
    assert ran.json["status"] == "open"


async def test_the_registry_shows_why_an_invitation_is_not_open(user: User) -> None:
    anvil = user.anvil
    await anvil.send(calls.add_minter(anvil.accounts[1]))
    code = await invited(user, by=1)
    await anvil.send(calls.pause())
    assert "is paused" in (await user("invite", "show", code)).out
    await anvil.send(calls.unpause())
    await anvil.send(calls.remove_minter(anvil.accounts[1]))
    assert "is not a minter any more" in (await user("invite", "show", code)).out
    await anvil.send(calls.add_minter(anvil.accounts[1]))
    deadline = InvitationCode.decode(code).invitation.deadline
    await anvil.mine_at(deadline)
    assert (await user("invite", "show", code, "--json")).json["status"] == "open"
    await anvil.mine_at(deadline + 1)
    shown = (await user("invite", "show", code)).out
    assert re.search(r"expired at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", shown)


async def test_the_first_version_of_the_contract_has_no_invitations(user: User) -> None:
    ran = await user("invite", "create", "web-1", by=0, code=1, CONTRACT_ABI="access-registry-v1")
    assert "can't use invitations" in ran.error


# -- node join -------------------------------------------------------------------------------------

ACCESS = "getNodeAccess(uint256)(string,string,uint256,bool)"


@dataclass
class Machine:
    """A new machine with an account."""

    user: User
    home: Path
    account: int = 1

    @property
    def key_file(self) -> Path:
        return self.home / "state" / "wireguard.key"

    @property
    def settings_file(self) -> Path:
        return self.home / "etc" / "config.toml"

    async def join(self, code: str, *more: str, exit_code: int = 0, **settings: str) -> Ran:
        environment = {
            "STATE_DIR": str(self.home / "state"),
            "CONTRACT_ADDRESS": "",
            "NETWORK": "",
            **settings,
        }
        arguments = ("--settings-file", str(self.settings_file), *more)
        ran = await self.user(
            "node", "join", code, *arguments, by=self.account, code=exit_code, **environment
        )
        if self.key_file.exists():
            assert self.key_file.read_text().strip() not in ran.out + ran.err
        assert code[40:] not in ran.out + ran.err
        return ran

    async def refused(self, code: str, problem: str, **settings: str) -> None:
        """Check that a code is refused, and that nothing is changed and no gas is spent."""
        nonces, before = await self.user.nonces(), sorted(self.home.rglob("*"))
        ran = await self.join(code, exit_code=1, **settings)
        assert problem in ran.error
        assert await self.user.nonces() == nonces
        assert sorted(self.home.rglob("*")) == before


@pytest.fixture
def machine(user: User, tmp_path: Path) -> Machine:
    return Machine(user, tmp_path)


async def test_a_machine_joins_by_a_code(machine: Machine) -> None:
    user = machine.user
    await define(user.anvil, "web", "gateway")
    code = await invited(user, "--tags", "gateway", "--routes", "10.0.0.0/8", "--expires", "90d")
    ran = await machine.join(code, "--json", "--endpoint", "192.0.2.7:51820", "--vpn-cidr", "10.80.0.0/16")
    joined = ran.json
    assert (joined["token"], joined["node_id"], joined["addresses"][0]) == (1, "web-1", "10.80.0.2")
    public = derive(PrivateKey.parse(machine.key_file.read_text().strip()))
    node_id, key, _, active = await verifier(user.anvil, ACCESS, "1")
    assert (node_id, key, active) == ("web-1", str(public), "true")
    info = (await user("node", "info", "web-1", "--json")).json
    assert info["granted"] and info["owner"] == user.anvil.accounts[1].lower()
    assert info["endpoint"] == "192.0.2.7:51820" and info["expires_at"] > 0
    for topic, data in (
        (signatures.NODE_TAGS_UPDATED, f"{2:064x}"),
        (signatures.NODE_ROUTES_UPDATED, f"{32:064x}{1:064x}04{0x0A000000 << 8 | 8:062x}"),
    ):
        query = {"address": user.anvil.contract, "fromBlock": "0x0", "topics": [topic]}
        (log,) = await user.anvil.rpc("eth_getLogs", query)
        assert log["data"] == "0x" + data
    assert machine.key_file.stat().st_mode & 0o777 == machine.settings_file.stat().st_mode & 0o777 == 0o600
    shown = (await user("invite", "show", code, "--json")).json
    assert shown["status"].startswith("the invitation was redeemed")


async def test_run_accepts_the_settings_file(machine: Machine) -> None:
    await machine.join(await invited(machine.user))
    settings = load({}, {}, machine.settings_file, need=frozenset({"WIREGUARD_PRIVATE_KEY"}))
    assert (settings.node_id, settings.chain_id) == ("web-1", 31337)
    assert settings.contract_address == machine.user.anvil.contract
    assert settings.rpc_url == (machine.user.anvil.http,)
    assert settings.key_file == machine.key_file and settings.wireguard_private_key is not None
    assert settings.contract_private_key is None


async def test_the_same_command_again_recognizes_its_node(machine: Machine) -> None:
    code = await invited(machine.user)
    await machine.join(code)
    nonces = await machine.user.nonces()
    ran = await machine.join(code, exit_code=1)
    assert "exists, and is not overwritten" in ran.error
    machine.settings_file.unlink()
    ran = await machine.join(code)
    assert "web-1 was already registered by this machine as token 1" in ran.out
    assert machine.settings_file.exists()
    assert await machine.user.nonces() == nonces


async def test_an_unknown_outcome_is_settled_by_the_same_command(machine: Machine) -> None:
    code, anvil = await invited(machine.user), machine.user.anvil
    await anvil.rpc("evm_setAutomine", False)  # an RPC parameter
    ran = await machine.join(code, "--timeout", "1", exit_code=75)
    assert "Run the same command again later" in ran.err
    assert not machine.settings_file.exists()
    await anvil.mine()
    await anvil.rpc("evm_setAutomine", True)  # an RPC parameter
    assert "already registered by this machine" in (await machine.join(code)).out
    assert machine.settings_file.exists()


async def test_another_account_redeems_it_first(machine: Machine, tmp_path: Path) -> None:
    code = await invited(machine.user)
    thief = Machine(machine.user, tmp_path / "thief", account=2)
    thief.home.mkdir()
    await thief.join(code)
    await machine.refused(
        code, "the invitation was redeemed: ask its minter for another one; nothing was sent"
    )


async def test_it_is_cancelled(machine: Machine) -> None:
    code = await invited(machine.user)
    await machine.user("invite", "cancel", code, by=0)
    await machine.refused(code, "the invitation was cancelled")


async def test_it_expires(machine: Machine) -> None:
    code = await invited(machine.user, "--valid", "1h")
    await machine.user.anvil.mine_at(InvitationCode.decode(code).invitation.deadline + 1)
    await machine.refused(code, "the invitation expired at ")


async def test_it_is_altered(machine: Machine) -> None:
    code = await invited(machine.user)
    await machine.refused(code[:-1] + ("A" if code[-1] != "A" else "B"), "checksum is wrong")
    await machine.refused(code[:100], "checksum is wrong")
    real = InvitationCode.decode(code)
    for terms in (replace(real.invitation, node_id="web-2"), replace(real.invitation, tags=1)):
        await machine.refused(replace(real, invitation=terms).encode(), "the invitation was altered")


async def test_its_signer_is_not_a_minter_any_more(machine: Machine) -> None:
    anvil = machine.user.anvil
    await anvil.send(calls.add_minter(anvil.accounts[2]))
    code = await invited(machine.user, by=2)
    await anvil.send(calls.remove_minter(anvil.accounts[2]))
    await machine.refused(code, f"{anvil.accounts[2].lower()} is not a minter any more")


async def test_its_node_id_is_taken(machine: Machine) -> None:
    code, anvil = await invited(machine.user), machine.user.anvil
    await anvil.send(calls.mint(anvil.accounts[2], "web-1", key_of(1)))
    await machine.refused(code, "the node id web-1 belongs to token 1")


async def test_the_registry_is_paused(machine: Machine) -> None:
    code = await invited(machine.user)
    await machine.user.anvil.send(calls.pause())
    await machine.refused(code, "the registry is paused")


async def test_it_is_for_another_account(machine: Machine) -> None:
    holder = machine.user.anvil.accounts[2]
    code = await invited(machine.user, "--holder", holder)
    await machine.refused(code, f"is for the account {holder.lower()}")
    machine.account = 2
    await machine.join(code)
    assert (await machine.user("node", "info", "web-1", "--json")).json["owner"] == holder.lower()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"NETWORK": "base"}, "the invitation is for chain 31337"),
        ({"CHAIN_ID": "5"}, "the invitation is for chain 31337"),
        ({"CONTRACT_ADDRESS": OTHER}, f"but CONTRACT_ADDRESS is {OTHER}"),
        ({"NODE_ID": "web-2"}, "but NODE_ID is web-2"),
        ({"WIREGUARD_PRIVATE_KEY": "dstack"}, "remove WIREGUARD_PRIVATE_KEY"),
    ],
)
async def test_the_machines_settings_contradict_the_code(
    machine: Machine, settings: dict[str, str], problem: str
) -> None:
    await machine.refused(await invited(machine.user), problem, **settings)


async def test_the_endpoint_serves_another_chain_than_the_codes(machine: Machine) -> None:
    real = InvitationCode.decode(await invited(machine.user))
    other = replace(real, registry=real.registry._replace(chain_id=8453))
    await machine.refused(other.encode(), "chain 31337")
    elsewhere = replace(real, registry=real.registry._replace(contract=OTHER))
    await machine.refused(elsewhere.encode(), "no contract")


async def test_a_key_of_another_node_is_not_used_again(machine: Machine) -> None:
    await machine.join(await invited(machine.user))
    machine.settings_file.unlink()
    code = await invited(machine.user, node_id="web-2")
    await machine.refused(code, "belongs to token 1 already: choose another STATE_DIR")


async def test_an_endpoint_that_all_nodes_refuse(machine: Machine) -> None:
    code = await invited(machine.user)
    nonces = await machine.user.nonces()
    ran = await machine.join(code, "--endpoint", "10.77.0.9:51820", exit_code=1)
    assert "--endpoint: " in ran.error
    assert await machine.user.nonces() == nonces


async def test_it_starts_the_node_without_the_account(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(
        "os.execve", lambda path, command, environment: started.append((command, environment))
    )
    await machine.join(await invited(machine.user), "--run")
    ((command, environment),) = started
    assert command[-3:] == ["run", "--config", str(machine.settings_file)]
    assert "STATE_DIR" in environment and "CONTRACT_PRIVATE_KEY" not in environment
