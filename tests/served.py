"""Servers of our own that stand in for a service."""

import threading
from contextlib import contextmanager


@contextmanager
def served(server):
    """Let a server answer on loopback for as long as it is needed."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
