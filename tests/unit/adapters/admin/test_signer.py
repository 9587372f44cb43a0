"""The signer's library raises the recursion limit. Deeply nested JSON must still be refused."""

import subprocess
import sys

CODE = """
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
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "refused"), done.stderr[-300:]
