"""A node's own token, identified from its settings."""

import json
import os
import subprocess
import sys

import pytest

from dstack_vpn import config
from dstack_vpn.core.access.control import NodeIdentity
from dstack_vpn.wiring.keys import identity_of

SECRET = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"
ACCOUNT = "0x70997970c51812dc3a010c7d01b50e0d17dc79c8"


@pytest.mark.parametrize(
    ("environment", "identity"),
    [
        ({}, NodeIdentity()),
        ({"NODE_ID": "web-1"}, NodeIdentity("web-1")),
        ({"CONTRACT_PRIVATE_KEY": SECRET}, NodeIdentity()),  # the account may be a minter's
        ({"CONTRACT_PRIVATE_KEY": SECRET, "KEY_MAX_AGE": "3600000"}, NodeIdentity(None, ACCOUNT)),
        (
            {"NODE_ID": "web-1", "CONTRACT_PRIVATE_KEY": SECRET, "KEY_MAX_AGE": "3600000"},
            NodeIdentity("web-1", ACCOUNT),
        ),
    ],
)
def test_the_node_id_or_the_account_that_changes_the_key(
    environment: dict[str, str], identity: NodeIdentity
) -> None:
    base = {"NETWORK": "local", "RPC_URL": "http://127.0.0.1:9", "WIREGUARD_PRIVATE_KEY": "generate"}
    settings = config.load({}, base | environment)
    assert identity_of(settings) == identity


def test_no_library_that_signs_is_loaded_for_it() -> None:
    code = (
        "import sys, json; from dstack_vpn.core.chain.account import address_of; "
        f"print(json.dumps([address_of('{SECRET}'), sorted(m for m in sys.modules if m.startswith('eth_'))]))"
    )
    done = subprocess.run(
        (sys.executable, "-c", code),
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),  # noqa: TID251  # the child's
    )
    assert json.loads(done.stdout) == [ACCOUNT, []]
