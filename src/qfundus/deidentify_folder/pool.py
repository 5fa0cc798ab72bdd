"""Inputs worked on side by side, in processes that hostile files may crash."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path

from qfundus.deidentify_folder.desk import Desk, Entry
from qfundus.deidentify_folder.manifest import FileOutcome
from qfundus.dicom.policy import Policy
from qfundus.errors import Discard
from qfundus.ingestion.isolation import end_with_parent
from qfundus.security.keys import SiteKey

_BATCH = 16  # inputs a worker takes at a time where one takes a millisecond: handing it over takes a fraction of one
_AHEAD = 4  # batches a worker may lie ahead, so that memory does not grow with the number of inputs
_desk: Desk | None = None  # of this worker process


def _open_desk(policy: Policy, key: SiteKey, drafts: Path, quarantine: Path) -> None:
    global _desk  # noqa: PLW0603  (a pool's initialiser has no other way to leave something for its tasks)
    end_with_parent()
    _desk = Desk(policy, key, drafts, quarantine)


def _process_batch(batch: list[Entry]) -> list[FileOutcome]:
    assert _desk is not None  # noqa: S101  (set by the initialiser)
    return [_desk.process(entry) for entry in batch]


def work_in_order(entries: Iterator[Entry], desk: Desk, workers: int) -> Iterator[tuple[Entry, FileOutcome]]:
    """Yield each input with its outcome, in the order of inputs, at most a few batches ahead."""
    if workers == 1 and not desk.policy.policy.options.clean_pixel_data:
        # Without decoders nothing can bring the process down: no need for another one.
        yield from ((entry, entry.known or desk.process(entry)) for entry in entries)
        return
    # Where pixels are looked at, each takes so long that what was done should be known at once.
    size = 1 if desk.policy.policy.options.clean_pixel_data else _BATCH
    batches = iter(lambda: list(islice(entries, size)), [])
    waiting: deque[tuple[list[Entry], Future[list[FileOutcome]]]] = deque()
    pool = _pool(desk, workers)
    try:
        while True:
            while len(waiting) < workers * _AHEAD and (batch := next(batches, None)):
                waiting.append((batch, _submit(pool, batch)))
            if not waiting:
                return
            batch, future = waiting.popleft()
            try:
                outcomes = future.result()
            except BrokenProcessPool:
                pool.shutdown()
                outcomes, pool = _one_by_one(_unknown(batch), desk), _pool(desk, workers)
                waiting = deque((again, _submit(pool, again)) for again, _ in waiting)
            fresh = iter(outcomes)
            yield from ((entry, entry.known or next(fresh)) for entry in batch)
    finally:
        pool.shutdown(cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, batch: list[Entry]) -> Future[list[FileOutcome]]:
    try:
        return pool.submit(_process_batch, _unknown(batch))
    except BrokenProcessPool as broken:  # by a batch before this one, whose turn comes first
        failed: Future[list[FileOutcome]] = Future()
        failed.set_exception(broken)
        return failed


def _unknown(batch: list[Entry]) -> list[Entry]:
    return [entry for entry in batch if entry.known is None]


def _pool(desk: Desk, workers: int) -> ProcessPoolExecutor:
    made_of = (desk.policy.policy, desk.key, desk.drafts, desk.quarantine)
    return ProcessPoolExecutor(workers, initializer=_open_desk, initargs=made_of)


def _one_by_one(batch: list[Entry], desk: Desk) -> list[FileOutcome]:
    """Work on a batch whose process died, each input in a process of its own: the one that kills it is held."""
    outcomes: list[FileOutcome] = []
    for entry in batch:
        with _pool(desk, 1) as pool:
            try:
                outcomes += pool.submit(_process_batch, [entry]).result()
            except BrokenProcessPool:
                why = Discard("decoder_crashed", "A decoder crashed on its pixels.")
                outcomes.append(desk.hold(entry.source, entry.item, entry.item.read(), why))
    return outcomes
