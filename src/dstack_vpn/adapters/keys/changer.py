"""Key rotation by `node rotate-key` in a separate process.

Signing needs eth-account, which is as large as the rest of the daemon. In a separate process it is
loaded for seconds, a few times a year. The process gets its settings, including the account's key,
as a TOML file on its standard input, so no secret is in an argument, in the environment or on the
disk. Its output contains text from the endpoint and the contract. Only the end of it is reported,
without secrets and without control characters.
"""

import asyncio
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from dstack_vpn.adapters.subprocesses import end
from dstack_vpn.core.model import TokenId
from dstack_vpn.errors import AdminError

COMMAND: Final = (sys.executable, "-I", "-B", "-m", "dstack_vpn", "node", "rotate-key")
"""Isolated mode: neither the environment nor the working directory influences which code runs."""
SETTINGS: Final = "/dev/stdin"
MINED: Final = 120
"""Seconds for the transaction to be mined."""
DEADLINE: Final = 180.0
"""Seconds for the whole process."""
_KEPT: Final = 4096
"""Bytes of output that are kept: the last ones."""
_REPORTED: Final = 300
"""Characters of it that are reported."""


class CommandKeyChanger:
    """See `ports.KeyChanger`."""

    def __init__(
        self,
        settings: str,
        environment: Mapping[str, str],
        *,
        secrets: Sequence[str] = (),
        hindrance: str | None = None,
        command: Sequence[str] = COMMAND,
        deadline: float = DEADLINE,
    ) -> None:
        """Use ``settings``, a TOML document. ``secrets`` are removed from reported output."""
        self.hindrance = hindrance
        self._settings, self._environment = settings.encode(), dict(environment)
        self._secrets, self._command, self._deadline = tuple(filter(None, secrets)), command, deadline

    async def change(self, token: TokenId) -> None:
        """See `ports.KeyChanger.change`. The deadline and a cancellation kill the process."""
        child = await self._start(token)
        output = b""
        try:
            async with asyncio.timeout(self._deadline):
                output = await _last_of(child)
                await child.wait()
        except TimeoutError:
            raise AdminError(
                f"'node rotate-key' did not finish within {self._deadline:g} s; it may still be mined"
            ) from None
        finally:
            await end(child)
        if child.returncode:
            raise AdminError(self._explain(output.decode("utf-8", "replace"), child.returncode))

    async def _start(self, token: TokenId) -> asyncio.subprocess.Process:
        reader, writer = os.pipe()
        try:
            os.set_blocking(writer, False)
            if os.write(writer, self._settings) != len(self._settings):
                raise AdminError("the settings are too long to be passed to 'node rotate-key'")
            return await asyncio.create_subprocess_exec(
                *(*self._command, f"token:{token}", "--config", SETTINGS, "--timeout", str(MINED)),
                stdin=reader,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env=self._environment,
            )
        except OSError as error:
            raise AdminError(f"can't start 'node rotate-key': {error.strerror}") from error
        finally:
            os.close(reader)
            os.close(writer)

    def _explain(self, output: str, code: int) -> str:
        """Return the failure in one line."""
        for secret in self._secrets:
            output = re.sub(re.escape(secret), "***", output, flags=re.IGNORECASE)
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        text = errors[-1] if errors else " ".join(lines)[-_REPORTED:]
        text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)[:_REPORTED]
        if code < 0:
            return f"'node rotate-key' was ended by signal {-code}{text and f': {text}'}"
        return text or f"'node rotate-key' ended with code {code} and without output"


async def _last_of(child: asyncio.subprocess.Process) -> bytes:
    """Read the process's error output to its end, and return its last part."""
    assert child.stderr is not None
    output = b""
    while piece := await child.stderr.read(_KEPT):
        output = (output + piece)[-_KEPT:]
    return output
