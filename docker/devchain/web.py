"""The demo's web server, at an address that the container may not have yet."""

import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

IP_FREEBIND = 15  # linux/in.h; Python 3.13 has no name for it


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"hello over the VPN\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Do not log requests."""


class Server(ThreadingHTTPServer):
    def server_bind(self) -> None:
        # The address exists only while the tunnel does, and is reachable only through it.
        self.socket.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
        super().server_bind()


if __name__ == "__main__":
    print(f"serving at {sys.argv[1]}:{sys.argv[2]}", flush=True)
    Server((sys.argv[1], int(sys.argv[2])), Answer).serve_forever()
