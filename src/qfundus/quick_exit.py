"""Processes that end as soon as their work is done."""

import atexit
import gc


def exit_quickly() -> None:
    """Spare this process the last search for cycles among all that PyTorch has made: it takes seconds and frees nothing.

    What must be flushed or closed at the end still is: other exit handlers run as ever.
    """
    atexit.register(gc.freeze)
