"""Keystores: eth-account's own, the test vectors of the specification, and damaged ones."""

import copy
import json
import traceback
from typing import Any, Literal

import pytest
from eth_account import Account

from dstack_vpn.adapters.admin.keystore import decrypt
from dstack_vpn.errors import ConfigError

# Ethereum's "Web3 Secret Storage Definition", test vector of PBKDF2.
VECTOR: dict[str, Any] = {
    "crypto": {
        "cipher": "aes-128-ctr",
        "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
        "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
        "kdf": "pbkdf2",
        "kdfparams": {
            "c": 262144,
            "dklen": 32,
            "prf": "hmac-sha256",
            "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd",
        },
        "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2",
    },
    "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
    "version": 3,
}
KEY = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d"
PASSWORD = "testpassword"


def quick(kdf: Literal["scrypt", "pbkdf2"] = "scrypt", password: str = PASSWORD) -> dict[str, Any]:
    """Return a keystore with few iterations."""
    return dict(Account.encrypt(bytes.fromhex(KEY), password, kdf=kdf, iterations=2))


def problem(document: object, password: str = PASSWORD) -> str:
    with pytest.raises(ConfigError) as caught:
        decrypt(document if isinstance(document, str) else json.dumps(document), password)
    shown = "".join(traceback.format_exception(caught.value))
    assert password not in shown and KEY not in shown
    return str(caught.value)


def test_the_vector_of_the_specification() -> None:
    assert decrypt(json.dumps(VECTOR), PASSWORD) == KEY


@pytest.mark.parametrize("kdf", ["scrypt", "pbkdf2"])
@pytest.mark.parametrize("password", [PASSWORD, "p\u00e4ss w\u00f6rd"])
def test_keystores_of_eth_account(kdf: Literal["scrypt", "pbkdf2"], password: str) -> None:
    assert decrypt(json.dumps(quick(kdf, password)), password) == KEY


def test_a_wrong_password_is_named() -> None:
    assert "the password is wrong" in problem(quick(), "another password")


def test_a_stated_address_must_be_the_keys() -> None:
    assert "another address" in problem({**quick(), "address": "aa" * 20})


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "{}", '{"version":3}', '{"version":3,"crypto":[]}', "[" * 3000]
)
def test_another_file_is_refused(content: str) -> None:
    assert "expected Web3 secret storage" in problem(content)
    assert "expected Web3 secret storage" in problem({**quick(), "version": 4})


@pytest.mark.parametrize(
    "parameters",
    [
        {"n": 1 << 40},
        {"r": 1 << 40},
        {"p": 1000},
        {"c": 1 << 40},
        {"n": -2},
        {"n": "2"},
        {"n": 2.0},
        {"n": True},
    ],
)
def test_expensive_parameters_are_refused_before_they_cost(parameters: dict[str, Any]) -> None:
    document = quick()
    document["crypto"]["kdfparams"].update(parameters)
    assert "missing or too large" in problem(document)


@pytest.mark.parametrize("field", ["ciphertext", "mac", "kdf", "cipherparams", "kdfparams"])
@pytest.mark.parametrize("value", [None, "zz", "", {}, 7])
def test_a_damaged_field_is_no_traceback(field: str, value: object) -> None:
    document = copy.deepcopy(quick())
    document["crypto"][field] = value
    assert "--keystore: " in problem(document)
