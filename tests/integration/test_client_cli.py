"""The commands of plain clients on a dev chain."""

import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.anvil import Anvil
from tests.commands import forgotten_logging
from tests.integration.test_admin_cli import User
from tests.qr import scanned

from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import derive

pytestmark = pytest.mark.anvil
OTHER: Final = "nOKUqvjA3kwlcXOy3vhPvL1TBVsDVU8sLIjAUZ3ckHc="


@pytest.fixture
def user(anvil: Anvil) -> Iterator[User]:
    with forgotten_logging():
        yield User(anvil)


async def add_gateway(user: User) -> None:
    """Register node-1, the gateway."""
    await user("tag", "define", "gateway", by=0)
    await user.register(1, "--endpoint", "192.0.2.1:51820")
    await user("node", "tag", "node-1", "gateway", by=0)


def private_key_of(config: str) -> str:
    found = re.search(r"^PrivateKey = (\S+)$", config, re.MULTILINE)
    assert found is not None
    return found[1]


async def test_a_client_joins_by_an_invitation(user: User, tmp_path: Path) -> None:
    await add_gateway(user)
    code = (await user("invite", "create", "phone-1", "--json", by=0)).json["code"]
    settings: Any = {"CONTRACT_ADDRESS": "", "NETWORK": ""}
    ran = await user("client", "join", code, "--gateway", "node-1", by=2, **settings)
    assert ran.out.startswith("# phone-1, a client of node-1\n[Interface]\nPrivateKey = ")
    info = (await user("node", "info", "phone-1", "--json")).json
    assert (info["endpoint"] or info["uri_endpoint"], info["granted"]) == ("via:node-1", True)
    assert info["owner"] == user.anvil.accounts[2].lower()
    assert info["public_key"] == str(derive(PrivateKey.parse(private_key_of(ran.out))))
    assert private_key_of(ran.out) not in ran.err

    before = await user.nonces()
    again = await user("client", "join", code, "--gateway", "node-1", by=2, code=1, **settings)
    assert "the invitation was redeemed: ask its minter for another one; nothing was sent" in again.error
    code = (await user("invite", "create", "phone-2", "--json", by=0)).json["code"]
    none = await user("client", "join", code, "--gateway", "phone-1", by=2, code=1, **settings)
    assert "--gateway: " in none.error
    lost = await user("client", "join", code, "--gateway", "node-1", "--dry-run", by=2, code=2, **settings)
    assert "need --public-key" in lost.error
    assert await user.nonces() == before
    await user("client", "join", code, "--gateway", "node-1", "--public-key", OTHER, by=2, **settings)
    assert (await user("node", "info", "phone-2", "--json")).json["public_key"] == OTHER


async def test_a_client_is_added_and_its_configuration_printed_again(user: User, tmp_path: Path) -> None:
    await add_gateway(user)
    ran = await user("client", "add", "phone-1", "--gateway", "node-1", by=0)
    assert ran.out.startswith("# phone-1, a client of node-1\n[Interface]\nPrivateKey = ")
    assert "phone-1 is registered as token" in ran.err
    assert private_key_of(ran.out) not in ran.err
    info = (await user("node", "info", "phone-1", "--json")).json
    assert (info["uri_endpoint"], info["granted"]) == ("via:node-1", True)
    assert info["reason"] == "active (a client of node-1)"
    assert info["owner"] == user.anvil.accounts[0].lower()
    assert info["public_key"] == str(derive(PrivateKey.parse(private_key_of(ran.out))))
    assert f"Address = {info['addresses'][0]}/32, {info['addresses'][1]}/128\n" in ran.out
    gateway = (await user("node", "info", "node-1", "--json")).json
    assert f"DNS = {gateway['addresses'][0]}, vpn.internal\n" in ran.out
    assert f"PublicKey = {gateway['public_key']}\nEndpoint = 192.0.2.1:51820\n" in ran.out

    file = tmp_path / "phone-1.key"
    file.touch(mode=0o600)
    file.write_text(private_key_of(ran.out))
    again = await user("client", "config", "phone-1", "--key", str(file))
    assert again.out == ran.out
    assert "DNS" not in (await user("client", "config", "phone-1", "--key", str(file), "--no-dns")).out
    # By an exit, everything goes into the tunnel.
    refused = await user("client", "config", "phone-1", "--key", str(file), "--exit", code=1)
    assert "node-1 is not an exit" in refused.error
    await user("node", "routes", "node-1", "0.0.0.0/0", by=0)
    everything = (await user("client", "config", "phone-1", "--key", str(file), "--exit")).out
    networks = re.search(r"^AllowedIPs = .*$", ran.out, re.MULTILINE)
    assert networks is not None
    assert everything == ran.out.replace(networks[0], "AllowedIPs = 0.0.0.0/0, ::/0")
    drawn = (await user("client", "config", "phone-1", "--key", str(file), "--qr")).out
    assert scanned(drawn) == [ran.out]

    image = tmp_path / "phone-1.png"
    await user("client", "config", "phone-1", "--key", str(file), "--png", str(image))
    assert image.stat().st_mode & 0o777 == 0o600
    assert scanned_png(image) == [ran.out]
    before = image.read_bytes()
    refused = await user("client", "config", "phone-1", "--key", str(file), "--png", str(image), code=2)
    assert "exists already" in refused.error
    assert image.read_bytes() == before


def scanned_png(image: Path) -> list[str]:
    """Return the texts of the QR codes in a grey image, whose pixels are bits."""
    data, at, parts, size = image.read_bytes(), 8, b"", (0, 0)
    while at < len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            size = int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big")
            assert body[8:] == bytes([1, 0, 0, 0, 0])
        parts += body if kind == b"IDAT" else b""
        at += 12 + length
    row, raw = -(-size[0] // 8) + 1, zlib.decompress(parts)
    rows = [raw[y * row + 1 : (y + 1) * row] for y in range(size[1])]
    # The first row of each module is not filtered; the others repeat it.
    pixels = [[line[x // 8] >> 7 - x % 8 & 1 for x in range(4, size[0], 8)] for line in rows[::8]]
    pixels += [[1] * len(pixels[0])] * (len(pixels) % 2)
    blocks = {(0, 0): "█", (0, 1): "▀", (1, 0): "▄", (1, 1): " "}
    pairs = zip(pixels[::2], pixels[1::2], strict=True)
    lines = ("".join(map(blocks.__getitem__, zip(*pair, strict=True))) for pair in pairs)
    return scanned("\n".join(lines))


async def test_clients_are_listed_with_their_gateway_and_state(user: User) -> None:
    await add_gateway(user)
    holder = user.anvil.accounts[2]
    done = (
        await user("client", "add", "phone-1", "--gateway", "node-1", "--to", holder, "--json", by=0)
    ).json
    assert done["config"].startswith("# phone-1")
    assert done["gateway"] == "node-1"
    (found,) = (await user("client", "list", "--json")).json["clients"]
    assert (found["node_id"], found["gateway"], found["granted"]) == ("phone-1", "node-1", True)
    assert found["owner"] == holder.lower()
    await user("node", "tag", "node-1", "--none", by=0)
    (found,) = (await user("client", "list", "--json")).json["clients"]
    assert not found["granted"]
    assert "it does not have the tag 'gateway'" in found["reason"]
    assert "phone-1" in (await user("client", "list")).out


async def test_bad_input_sends_nothing(user: User, tmp_path: Path) -> None:
    await add_gateway(user)
    await user.register(2, "--endpoint", "192.0.2.2:51820")
    await user.register(3)
    await user("node", "tag", "node-3", "gateway", by=0)
    phone = await user("client", "add", "phone-1", "--gateway", "node-1", by=0)
    await user("node", "tag", "phone-1", "gateway", by=0)
    before = await user.nonces()
    for problem, name, gateway in (
        ("there is no node node-9", "phone-2", "node-9"),
        ("node-2: it does not have the tag 'gateway'", "phone-2", "node-2"),
        ("node-3 has no UDP endpoint", "phone-2", "node-3"),
        ("phone-1: it is a client of another gateway", "phone-2", "phone-1"),
        ("the registry already has a node phone-1", "phone-1", "node-1"),
        ("the registry already has a node node-2", "node-2", "node-1"),
    ):
        ran = await user("client", "add", name, "--gateway", gateway, by=0, code=1)
        assert problem in ran.error
        assert not ran.out
    lost = await user("client", "add", "phone-2", "--gateway", "node-1", "--dry-run", by=0, code=2)
    assert "a new private key would be lost" in lost.error
    file = tmp_path / "phone-1.key"
    file.touch(mode=0o600)
    for problem, name, text in (
        ("the private key is not that of phone-1", "phone-1", OTHER),
        ("--key: ", "phone-1", "not a key"),
        ("node-1 is not a client", "node-1", private_key_of(phone.out)),
        ("the registry has no node nobody", "nobody", private_key_of(phone.out)),
    ):
        file.write_text(text)
        ran = await user("client", "config", name, "--key", str(file), code=1)
        assert problem in ran.error
        assert text not in ran.error
    assert await user.nonces() == before


async def test_a_transaction_for_a_wallet_names_the_clients_own_key(user: User) -> None:
    await add_gateway(user)
    arguments = ("client", "add", "phone-1", "--gateway", "node-1", "--public-key", OTHER)
    before = await user.nonces()
    dry = await user(*arguments, "--dry-run", by=0)
    assert "gas" in dry.out
    refused = await user(*arguments, "--calldata", code=2)
    assert "--to" in refused.error
    shown = await user(*arguments, "--calldata", "--to", user.anvil.accounts[1], "--json")
    assert OTHER.encode().hex() in json.dumps(shown.json)
    assert await user.nonces() == before
    done = await user(*arguments, by=0)
    assert "PrivateKey" not in done.out
    assert "client config phone-1" in done.err


async def test_a_configuration_with_the_networks_behind_the_gateway(user: User) -> None:
    await add_gateway(user)
    none = await user("client", "add", "phone-1", "--gateway", "node-1", "--networks", by=0, code=1)
    assert "--networks: node-1 has no networks behind it" in none.error
    await user("node", "routes", "node-1", "192.168.7.0/24", "fd07::/64", by=0)
    ran = await user("client", "add", "phone-1", "--gateway", "node-1", "--networks", by=0)
    (allowed,) = re.findall(r"^AllowedIPs = (.*)$", ran.out, re.MULTILINE)
    assert {"192.168.7.0/24", "fd07::/64"} < set(allowed.split(", "))
    ran = await user("client", "add", "phone-2", "--gateway", "node-1", by=0)
    assert "192.168.7.0/24" not in ran.out
