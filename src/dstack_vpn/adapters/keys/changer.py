"""Changes our key by `node rotate-key`, in a process of its own.

Signing takes eth-account, which is as large as the rest of the daemon: as a process it is there for seconds,
a few times a year. What it needs to know goes in on its standard input, the account's key among it, as a TOML
file; so no secret is in an argument, in the environment or on the disk. What it says is text from elsewhere
(the endpoint's, the contract's): the last of it is shown, with all secrets taken out and nothing that could
move a cursor.
"""

import asyncio
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from dstack_vpn.core.model import TokenId
from dstack_vpn.errors import AdminError

COMMAND: Final = (sys.executable, "-I", "-B", "-m", "dstack_vpn", "node", "rotate-key")
"""Isolated: neither the environment nor the working directory says which code that is."""
SETTINGS: Final = "/dev/stdin"
MINED: Final = 120
"""Seconds that the transaction may take to be mined."""
DEADLINE: Final = 180.0
"""Seconds for all of it."""
_HEARD: Final = 4096
"""Bytes of what it says that are kept: the last ones."""
_TOLD: Final = 300
"""Characters of it that are passed on."""


class CommandKeyChanger:
    """Implements `ports.KeyChanger`."""

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
        """``settings`` is the TOML document; ``secrets`` are the texts that must not be shown."""
        self.hindrance = hindrance
        self._settings, self._environment = settings.encode(), dict(environment)
        self._secrets, self._command, self._deadline = tuple(filter(None, secrets)), command, deadline

    async def change(self, token: TokenId) -> None:
        """See `ports.KeyChanger.change`; what is not done in time, or not wanted any more, is killed."""
        child = await self._start(token)
        heard = b""
        try:
            async with asyncio.timeout(self._deadline):
                heard = await _last_of(child)
                await child.wait()
        except TimeoutError:
            raise AdminError(
                f"'node rotate-key' was not done within {self._deadline:g} s; it may yet be mined"
            ) from None
        finally:
            if child.returncode is None:
                with suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
        if child.returncode:
            raise AdminError(self._explain(heard.decode("utf-8", "replace"), child.returncode))

    async def _start(self, token: TokenId) -> asyncio.subprocess.Process:
        reader, writer = os.pipe()
        try:
            os.set_blocking(writer, False)
            if os.write(writer, self._settings) != len(self._settings):
                raise AdminError("the settings are too long to be handed to 'node rotate-key'")
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

    def _explain(self, said: str, code: int) -> str:
        """Return the failure, in one line."""
        for secret in self._secrets:
            said = re.sub(re.escape(secret), "***", said, flags=re.IGNORECASE)
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        text = errors[-1] if errors else " ".join(lines)[-_TOLD:]
        text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)[:_TOLD]
        if code < 0:
            return f"'node rotate-key' was ended by signal {-code}{text and f': {text}'}"
        return text or f"'node rotate-key' ended with code {code} and said nothing"


async def _last_of(child: asyncio.subprocess.Process) -> bytes:
    """Read what it says until it is done, and keep the end."""
    assert child.stderr is not None
    heard = b""
    while piece := await child.stderr.read(_HEARD):
        heard = (heard + piece)[-_HEARD:]
    return heard
