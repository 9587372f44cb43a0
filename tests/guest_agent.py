"""A fake dstack guest agent with the simulator's protocol, on a Unix socket.

Its quotes are from `tests.quotes`. Keys are derived as by the real agent: the same path and purpose
give the same key, and others give different keys.
"""

import hashlib
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.quotes import Authority, Made


@dataclass
class Agent:
    """The agent's replies, and the requests that it received."""

    instance_id: str = "33" * 20
    secret: bytes = b"the app's own"
    authority: Authority = field(default_factory=Authority)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    replace: dict[str, Any] = field(default_factory=dict)
    """Replies by method, instead of the correct ones."""

    def answer(self, method: str, request: dict[str, Any]) -> Any:
        self.asked.append((method, request))
        if method in self.replace:
            return self.replace[method]
        match method:
            case "Info":
                return {
                    "app_id": "11" * 20,
                    "instance_id": self.instance_id,
                    "compose_hash": "22" * 32,
                    "app_name": "test",
                }
            case "GetKey":
                text = f"{request['path']}|{request['purpose']}".encode()
                return {"key": hashlib.sha256(self.secret + text).hexdigest(), "signature_chain": []}
            case "GetQuote":
                data = bytes.fromhex(request["report_data"]).ljust(64, b"\0")
                made = Made(data, self.authority)
                return {"quote": made.quote().hex(), "event_log": made.event_log, "vm_config": "{}"}
            case _:
                return {"error": "no such method"}


@contextmanager
def serving(agent: Agent, folder: Path) -> Iterator[str]:
    """Serve the agent on a socket in ``folder``; yield the socket's path."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = agent.answer(self.path.strip("/"), request)
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *_: object) -> None:
            pass

    path = str(folder / "dstack.sock")
    with socketserver.ThreadingUnixStreamServer(path, Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield path
        finally:
            server.shutdown()
            thread.join()
