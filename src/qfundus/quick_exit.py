"""Processes that end as soon as their work is done."""

import atexit
import gc


def exit_quickly() -> None:
    """Spare this process the last search for garbage among all that PyTorch has made, which takes seconds.

    What must be flushed or closed at the end still is: other exit handlers run as ever.
    """
    atexit.register(gc.freeze)
