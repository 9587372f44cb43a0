"""A scripted chain without an EVM, for what a real dev chain won't do on demand.

`FakeChain` has the registry's semantics as a Python state machine, real ``removed: true`` on a reorg, and
faults to order; `serve` puts it behind HTTP and WebSocket on one port. The conformance suite holds it to
anvil.
"""

from tests.fake_chain.chain import Block, FakeChain
from tests.fake_chain.faults import Fault, Faults, Lies
from tests.fake_chain.server import FakeServer, serve

__all__ = ["Block", "FakeChain", "FakeServer", "Fault", "Faults", "Lies", "serve"]
