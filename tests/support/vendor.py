"""A vendor that counts: it keeps what it was sent in a file, outlives our processes, and remembers who was paid."""

import json
import sqlite3
import time
from pathlib import Path

from qfundus.quantum.backends import open_backend
from qfundus.quantum.jobs.price import Price
from qfundus.quantum.jobs.vendors import Offer, run_works
from qfundus.quantum.jobs.work import Estimates, Work


class CountingVendor:
    """Runs nothing until it is asked for results; `delay` seconds pass until a job is done."""

    def __init__(self, folder: Path, delay: float = 0.0, offer: Offer | None = None) -> None:
        self._database = sqlite3.connect(
            folder / "vendor.db", isolation_level=None, timeout=30, check_same_thread=False
        )
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS sent (id INTEGER PRIMARY KEY, token TEXT, works BLOB, at REAL, state TEXT)"
        )
        self.delay, self.offered = delay, offer or Offer(20, "monday", price=Price(task=1.0))
        self.trouble: list[Exception] = []

    @property
    def paid(self) -> list[str]:
        return [token for (token,) in self._database.execute("SELECT token FROM sent WHERE state != 'cancelled'")]

    def offer(self) -> Offer:
        return self.offered

    def submit(self, works, token) -> str:
        if self.trouble:
            raise self.trouble.pop()
        packed = json.dumps([work.to_bytes().hex() for work in works])
        done = self._database.execute(
            "INSERT INTO sent (token, works, at, state) VALUES (?, ?, ?, 'sent')", (token, packed, time.time())
        )
        return str(done.lastrowid)

    def find(self, token) -> str | None:
        row = self._database.execute("SELECT id FROM sent WHERE token = ?", (token,)).fetchone()
        return str(row[0]) if row else None

    def look(self, vendor_job):
        at, state = self._database.execute("SELECT at, state FROM sent WHERE id = ?", (vendor_job,)).fetchone()
        if state == "cancelled":
            return "cancelled", "It was called back."
        if state == "broken":
            return "failed", "The machine broke."
        return ("done" if time.time() >= at + self.delay else "waiting"), ""

    def collect(self, vendor_job) -> list[Estimates]:
        (packed,) = self._database.execute("SELECT works FROM sent WHERE id = ?", (vendor_job,)).fetchone()
        works = [Work.from_bytes(bytes.fromhex(work)) for work in json.loads(packed)]
        return run_works(open_backend("exact"), works, "")

    def cancel(self, vendor_job) -> None:
        self._database.execute("UPDATE sent SET state = 'cancelled' WHERE id = ?", (vendor_job,))

    def break_all(self) -> None:
        self._database.execute("UPDATE sent SET state = 'broken' WHERE state = 'sent'")
