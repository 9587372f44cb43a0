"""The parts of a registration of many nodes that a development chain does not show."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.anvil import key_of
from tests.unit.adapters.contracts.oracle import event_log

from dstack_vpn.adapters.admin.reading import RegistrySnapshot
from dstack_vpn.adapters.admin.registry import Access, Action, Administrator
from dstack_vpn.adapters.admin.signer import Keyless
from dstack_vpn.adapters.admin.transactions import Receipt
from dstack_vpn.config import load
from dstack_vpn.core.chain.enrolment import Enrolment
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import BlockRef
from dstack_vpn.errors import AdminError, UnknownOutcomeError
from dstack_vpn.ports import Log
from dstack_vpn.wiring import enrolment

CONTRACT, HOLDER, OTHER = ("0x" + digits * 20 for digits in ("c0", "aa", "bb"))
WANTED = [Enrolment(f"node-{number}", HOLDER, key_of(number)) for number in (1, 2)]
EMPTY = RegistrySnapshot(Registry(), BlockRef(1, "0x" + "1" * 64, "0x" + "0" * 64, 1_000), "x", True)


def granted(token: int, address: str = CONTRACT) -> tuple[str, Log]:
    return address, event_log("NodeAccessGranted", token, f"node-{token}", HOLDER, str(key_of(token)))


@dataclass(frozen=True)
class Scripted(Administrator):
    """An administrator whose only transaction has a scripted receipt."""

    logs: Sequence[tuple[str, Log]] = ()
    sent: list[bytes] = field(default_factory=list)

    async def administer(self, data: bytes, action: Action | None) -> Receipt:
        self.sent.append(data)
        return Receipt("0x12", 1, 1, 1, None, tuple(self.logs))


@pytest.fixture
def enrol(monkeypatch: pytest.MonkeyPatch) -> "Enrol":
    async def no_tags(access: Access, action: Action) -> tuple[list[str | None], int]:
        return [], 1

    async def empty(access: Access) -> RegistrySnapshot:
        return EMPTY

    monkeypatch.setattr(enrolment, "tags", no_tags)
    monkeypatch.setattr(Access, "list", empty)
    return Enrol()


class Enrol:
    def __call__(self, *logs: tuple[str, Log]) -> enrolment.Enrolled:
        steps: list[str] = []
        access = Access((), 31337, CONTRACT, None)
        admin = Scripted(access, Keyless(None), steps.append, 1.0, logs=logs)
        return asyncio.run(enrolment.enrol(admin, WANTED))


def test_tokens_are_those_of_the_contracts_logs(enrol: Enrol) -> None:
    done = enrol(granted(1), granted(2), granted(3, OTHER))
    assert done.registered == [(1, "node-1"), (2, "node-2")]


@pytest.mark.parametrize("logs", [(), (granted(1),), (granted(1), granted(2, OTHER))])
def test_a_receipt_without_all_nodes_is_an_unknown_outcome(
    enrol: Enrol, logs: tuple[tuple[str, Log], ...]
) -> None:
    with pytest.raises(UnknownOutcomeError, match=r"of 2 new nodes\n0 of 2 .* Run the same command again"):
        enrol(*logs)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nodes.csv"
    path.write_bytes(b"x" * (8 << 20) + b"x")
    settings = load({}, {"NETWORK": "local"})
    with pytest.raises(AdminError, match="larger than 8388608 bytes"):
        enrolment.read_file(settings, path)
