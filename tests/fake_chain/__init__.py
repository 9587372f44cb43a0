"""A scripted chain without an EVM, for behaviour that a real dev chain does not have on demand.

`FakeChain` is a state machine with the registry's semantics. It sends ``removed: true`` on a reorg,
and has faults on demand. `serve` serves it by HTTP and WebSocket on one port. The conformance suite
compares it with anvil.
"""

from tests.fake_chain.chain import Block, FakeChain
from tests.fake_chain.faults import Fault, Faults, Lies
from tests.fake_chain.server import FakeServer, serve

__all__ = ["Block", "FakeChain", "FakeServer", "Fault", "Faults", "Lies", "serve"]
