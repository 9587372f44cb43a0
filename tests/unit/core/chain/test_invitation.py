"""The terms of an invitation, which are valid by construction."""

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from tests.unit.core.chain.invited import HOLDER, REGISTRY, TERMS

from dstack_vpn.core.chain.invitation import canonical_routes, check_label, claim_data, route_word
from dstack_vpn.core.model import ZERO_ADDRESS
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"node_id": "Web"}, "node id"),
        ({"node_id": "-web"}, "node id"),
        ({"node_id": "a" * 64}, "node id"),
        ({"node_id": "web\n"}, "node id"),
        ({"tags": 2**256}, "256 bits"),
        ({"tags": -1}, "256 bits"),
        ({"salt": 2**256}, "256 bits"),
        ({"expires_at": 2**64}, "64 bits"),
        ({"deadline": 2**64}, "64 bits"),
        ({"routes": ("fd00::/8", "10.0.0.0/8")}, "not canonical"),
        ({"minter": ZERO_ADDRESS}, "zero address"),
        ({"minter": "0x" + "A" * 40}, "lower-case"),
        ({"holder": HOLDER}, "either a holder or a one-time key"),
        ({"claimant": ZERO_ADDRESS}, "either a holder or a one-time key"),
    ],
)
def test_invalid_terms_are_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(FormatError, match=problem):
        replace(TERMS, **change)


@pytest.mark.parametrize(
    ("routes", "problem"),
    [
        (["10.0.0.1/8"], "write 10.0.0.0/8"),
        (["10.0.0.0"], "expected networks"),
        (["FD00::/8"], "write fd00::/8"),
        (["fe80::%eth0/64"], "expected networks"),
        (["somewhere"], "expected networks"),
        (["10.0.0.0/8", "10.1.0.0/16"], "10.0.0.0/8 and 10.1.0.0/16 overlap"),
        (["10.0.0.0/8", "10.0.0.0/8"], "overlap"),
        (["0.0.0.0/0", "255.0.0.0/8"], "overlap"),
        ([f"10.{i}.0.0/16" for i in range(17)], "17, but a node has at most 16"),
    ],
)
def test_routes_that_the_contract_refuses(routes: list[str], problem: str) -> None:
    with pytest.raises(FormatError, match=problem):
        canonical_routes(routes)


def test_routes_are_put_into_the_contracts_order() -> None:
    found = canonical_routes(["fd00::/8", "192.168.0.0/16", "10.0.0.0/8"])
    assert found == ("10.0.0.0/8", "192.168.0.0/16", "fd00::/8")
    words = [route_word(route) for route in found]
    assert words == sorted(words)


@pytest.mark.parametrize("text", ["10.0.0.0/8", "0.0.0.0/0", "255.255.255.255/32", "::/0", "fd00::1/128"])
def test_a_routes_word_has_family_address_and_prefix(text: str) -> None:
    word, network = route_word(text), ip_network(text)
    packed = network.network_address.packed
    assert (word[0], word[-1], word[-1 - len(packed) : -1]) == (network.version, network.prefixlen, packed)
    assert not any(word[1 : -1 - len(packed)])


def test_a_label() -> None:
    assert check_label("a" * 63, "tag") == "a" * 63
    with pytest.raises(FormatError, match="tag: expected 1 to 63"):
        check_label("", "tag")


def test_the_inputs_of_the_hashes() -> None:
    signed = TERMS.typed_data(REGISTRY)
    assert signed.domain["chainId"] == 8453
    assert [field["name"] for field in signed.types["Invitation"]] == list(signed.message)
    claim = claim_data(REGISTRY, bytes(32), HOLDER, PublicKey(bytes([1]) * 32), "vpn.example.org:51820")
    assert [field["name"] for field in claim.types["Claim"]] == list(claim.message)
    assert claim.domain == signed.domain
