"""Servers of our own that stand in for a service."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler


@contextmanager
def served(server):
    """Let a server answer on loopback for as long as it is needed."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class Answers(BaseHTTPRequestHandler):
    """Answers with JSON, or with bytes, and says nothing on the terminal."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _answer(self, status, body=b"", kind="application/json", **headers):
        data = json.dumps(body).encode() if isinstance(body, dict | list) else body
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
