"""Free ports on loopback."""

import socket

LOOPBACK = "127.0.0.1"


def is_free(port: int) -> bool:
    """Return whether nothing listens on a port and it can be bound."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def choose_ports(wanted: dict[str, int]) -> dict[str, int]:
    """Keep each wanted port where it is free, else take the next free one above it."""
    chosen: dict[str, int] = {}
    for name, port in wanted.items():
        while port in chosen.values() or not is_free(port):
            port += 1  # noqa: PLW2901  (the search is the loop's purpose)
        chosen[name] = port
    return chosen


def loopback_name() -> str:
    """Name this host for Airflow: its parts look for each other on loopback, not by the machine's name."""
    return LOOPBACK
