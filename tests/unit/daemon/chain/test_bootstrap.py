"""The first reading of the registry."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.scripted import ScriptedSource, grant
from tests.unit.daemon.conftest import Bench, eventually

from dstack_vpn.core.chain.events import TokenState
from dstack_vpn.core.model import BlockRef, TokenId
from dstack_vpn.errors import EndpointError


@dataclass
class _StumblingSource(ScriptedSource):
    """A source whose first readings of tokens fail."""

    stumbles: int = 1

    async def read_tokens(self, tokens: Sequence[TokenId], at: BlockRef) -> list[TokenState]:
        if self.stumbles:
            self.stumbles -= 1
            raise EndpointError("too many requests")
        return await ScriptedSource.read_tokens(self, tokens, at)


async def test_a_first_reading_that_breaks_off_is_begun_anew(bench: Bench) -> None:
    bench.chain.mine(grant(1))
    bench.source = _StumblingSource(bench.chain, enumerates=False)
    async with bench.running():
        await eventually(lambda: bench.tokens() == {1})
