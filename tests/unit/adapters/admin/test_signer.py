"""The signer: structured messages, and the recursion limit that its library raises.

Deeply nested JSON must still be refused.
"""

import subprocess
import sys
from dataclasses import replace

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from tests.unit.core.chain.invited import CODE, REGISTRY

from dstack_vpn.adapters.admin.signer import Signer, signer_of, typed_hash

NESTED = """
from dstack_vpn.adapters.admin.signer import Signer
Signer("11" * 32)
from dstack_vpn.adapters.chain.jsonrpc import decode
from dstack_vpn.errors import EndpointError
try:
    decode("[" * 200_000)
except EndpointError:
    print("refused")
"""


def test_deeply_nested_json_is_refused_after_signing() -> None:
    done = subprocess.run([sys.executable, "-c", NESTED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "refused"), done.stderr[-300:]


def test_a_signed_invitation_names_its_signer() -> None:
    signer, document = Signer("11" * 32), CODE.invitation.typed_data(REGISTRY)
    signature = signer.sign_typed(document)
    assert signer_of(document, signature) == signer.address
    altered = replace(CODE.invitation, node_id="web-2").typed_data(REGISTRY)
    assert signer_of(altered, signature) != signer.address
    assert typed_hash(altered) != typed_hash(document)


@pytest.mark.parametrize("signature", [b"", b"x", bytes(65), bytes([255]) * 65, bytes(700)])
def test_a_malformed_signature_has_no_signer(signature: bytes) -> None:
    assert signer_of(CODE.invitation.typed_data(REGISTRY), signature) is None


def test_the_hash_is_that_of_the_library() -> None:
    document = CODE.invitation.typed_data(REGISTRY)
    message = encode_typed_data(dict(document.domain), dict(document.types), dict(document.message))
    assert typed_hash(document) == bytes(Account.from_key("11" * 32).sign_message(message).message_hash)
