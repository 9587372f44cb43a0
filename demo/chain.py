"""The demo's dev chain: anvil in a namespace, with the registry contract on it.

This process connects to it over a socket that was opened inside the namespace. Accounts are anvil's
own and unlocked, so nothing here signs. Each chain has its own home directory, because anvil would
fill the user's with old states. anvil writes its blocks there at an orderly shutdown, and continues
the same chain at the next start.
"""

import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from demo.namespaces import Namespace, wait_until
from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.adapters.contracts import calls
from dstack_vpn.core.model import Address, TokenId
from dstack_vpn.errors import AdminError

PORT: Final = 8545
_GAS: Final = 10_000_000
_TIMEOUT: Final = 10.0
_TRANSFER: Final = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
"""ERC-721's ``Transfer(address,address,uint256)``."""


@dataclass(frozen=True)
class Mined:
    """A block with a transaction of ours, and when it was sent (Unix seconds)."""

    block: int
    ordered: float
    """Just before the transaction was sent; anvil mines it at once."""
    receipt: dict[str, Any]

    @property
    def minted(self) -> TokenId:
        """The token that the transaction minted."""
        (log,) = (log for log in self.receipt["logs"] if log["topics"][0] == _TRANSFER)
        return int(log["topics"][3], 16)


class InsideConnection(http.client.HTTPConnection):
    """An HTTP connection whose socket belongs to a namespace."""

    def __init__(self, inside: Callable[[], socket.socket], host: str, port: int, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout)
        self._inside = inside
        self._timeout = timeout

    def connect(self) -> None:
        """Connect from inside the namespace."""
        self.sock = self._inside()
        self.sock.settimeout(self._timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.connect((self.host, self.port))


class LabChain:
    """anvil; `stop` and `start` produce an outage."""

    def __init__(
        self, namespace: Namespace, program: Path, address: str, home: Path, options: Sequence[str] = ()
    ) -> None:
        self.namespace, self.address, self.home, self.options = namespace, address, home, options
        self._program = program
        self._process: subprocess.Popen[str] | None = None
        self._connection = InsideConnection(namespace.socket, address, PORT, _TIMEOUT)
        self._ids = itertools.count(1)
        self.accounts: list[Address] = []
        self.contract: Address = ""

    @property
    def url(self) -> str:
        """Return the URL for daemons."""
        return f"ws://{self.address}:{PORT}"

    @property
    def log(self) -> Path:
        """Return the path of anvil's log."""
        return self.home / "anvil.log"

    def start(self) -> None:
        """Start it, and wait until it replies; raises `AdminError`."""
        self.home.mkdir(mode=0o700, exist_ok=True)
        # A file, not a pipe: anvil logs every call, and blocks if a pipe is full.
        with self.log.open("ab") as log:
            self._process = self.namespace.popen(
                *(self._program, "--host", self.address, "--port", str(PORT), "--prune-history", "1000"),
                *("--slots-in-an-epoch", "1", "--state", self.home / "state.json"),
                *self.options,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.defpath, "HOME": str(self.home), "FOUNDRY_HOME": str(self.home)},
                start_new_session=True,
            )
        wait_until(self._answers, f"anvil answers (its log: {self.log})", 20.0)
        self.accounts = [account.lower() for account in self.rpc("eth_accounts")]

    def stop(self) -> None:
        """Stop it in order, so that it writes its blocks."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(_TIMEOUT)
            self._process = None
        self.disconnect()

    def signal(self, number: signal.Signals) -> None:
        """Send anvil a signal; after SIGKILL, `start` continues from the last written state."""
        if self._process is not None:
            self._process.send_signal(number)
            if number == signal.SIGKILL:
                self._process.wait(_TIMEOUT)
                self._process = None
                self.disconnect()

    def disconnect(self) -> None:
        """Close our own connection; the next call opens another."""
        self._connection.close()

    def rpc(self, method: str, *params: Any) -> Any:  # noqa: ANN401 - JSON
        """Call a method; raises `AdminError` if it fails."""
        body = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        try:
            self._connection.request("POST", "/", json.dumps(body), {"Content-Type": "application/json"})
            reply = json.loads(self._connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            raise AdminError(f"anvil: {method}: {error}") from error
        if "error" in reply:
            raise AdminError(f"anvil: {method}: {reply['error']}")
        return reply["result"]

    def send(self, data: bytes, *, sender: int = 0, to: str | None = None) -> Mined:
        """Send a transaction, by default to the registry; raises `AdminError` if it reverts."""
        transaction = {"from": self.accounts[sender], "data": "0x" + data.hex(), "gas": hex(_GAS)}
        if target := self.contract if to is None else to:
            transaction["to"] = target
        ordered = SystemClock().now()
        receipt = self.rpc("eth_sendTransactionSync", transaction)
        if receipt["status"] != "0x1":
            raise AdminError("the transaction was reverted")
        return Mined(int(receipt["blockNumber"], 16), ordered, receipt)

    def deploy(self) -> None:
        """Deploy the registry, owned by account 0."""
        mined = self.send(calls.deploy(self.accounts[0]), to="")
        self.contract = mined.receipt["contractAddress"].lower()

    def reorg(self, depth: int) -> Mined:
        """Replace the last blocks by empty ones."""
        ordered = SystemClock().now()
        self.rpc("anvil_reorg", depth, [])
        return Mined(int(self.rpc("eth_blockNumber"), 16), ordered, {})

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise AdminError(
                f"anvil exited at once. Its output:\n{self.log.read_text(errors='replace')[-2000:]}"
            )
        try:
            return bool(self.rpc("web3_clientVersion"))
        except AdminError:
            return False


def real_anvil(found: Path) -> Path:
    """Return the binary behind npm's wrapper, which needs node and starts 0.3 s later."""
    binaries = sorted(found.resolve().parents[1].glob("anvil-*/bin/anvil"))
    return binaries[0] if binaries else found
