"""What could not be fetched, on disk beside the pictures (``failed.jsonl``), so that no listing asks again for what is gone.

A line an attempt, the last of an address counts; those before it go when the log is read. Memory stays flat: the log is held in a
temporary database, some 20 µs a line.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from mmret.ingest.spill import temporary_database
from mmret.ingest.web.fetched import FetchedFolder
from mmret.ingest.web.refused import Refused, passes
from mmret.settings import DownloadSettings


def file_of(address: str) -> str:
    """Path of the file of ``address`` below the folder of pictures."""
    name = hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{name[:2]}/{name}"


class Failures:
    """The failures of one folder of pictures, by the path that the file would have; a context manager.

    >>> with Failures(folder, settings) as failures:
    ...     failures.add([("http://example.org/a.jpg", Refused("http_404", "gone"))])
    """

    def __init__(self, folder: FetchedFolder, settings: DownloadSettings):
        self._folder, self._settings = folder, settings
        self._database = temporary_database()
        self._database.execute("CREATE TABLE failed (at INTEGER PRIMARY KEY, path TEXT UNIQUE, about TEXT, again INTEGER)")
        self._read()

    def lasting(self, path: str) -> Refused | None:
        """Why the file was not fetched, if it need not be asked for again yet."""
        return self._find("SELECT about FROM failed WHERE path = ? AND NOT again", path)

    def last(self, path: str) -> Refused | None:
        """Why the file was not fetched the last time."""
        return self._find("SELECT about FROM failed WHERE path = ?", path)

    def add(self, failed: Iterable[tuple[str, Refused]]) -> None:
        """Note addresses that could not be fetched just now."""
        lines = []
        for address, why in failed:
            about = {"address": address, "reason": why.reason, "detail": why.detail, "passes": why.passes}
            about |= {"limit": self._settings.max_bytes, "time": time.time()}
            lines.append(json.dumps(about, ensure_ascii=True) + "\n")
            self._put(file_of(address), lines[-1], again=False)
        if lines:
            self._folder.append_log(lines)

    def _read(self) -> None:
        count = 0
        for line in self._folder.read_log():
            count += 1
            try:
                about = json.loads(line)
                self._put(file_of(about["address"]), line, self._is_due(about, _refused(about)))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # cut by a crash
        kept = self._database.execute("SELECT count(*) FROM failed").fetchone()[0]
        if count > kept:
            about = self._database.execute("SELECT about FROM failed ORDER BY at")
            self._folder.replace_log(line.rstrip("\n") + "\n" for (line,) in about)

    def _is_due(self, about: dict[str, Any], why: Refused) -> bool:
        settings, age = self._settings, time.time() - float(about["time"])
        allowed = why.reason == "server_opted_out" and not settings.opt_out
        allowed |= why.reason == "private_address" and settings.inside
        allowed |= why.reason == "too_many_bytes" and settings.max_bytes > about.get("limit", 0)
        return bool(allowed or (why.passes and age > settings.again_after_hours * 3600))

    def _put(self, path: str, line: str, again: bool) -> None:
        self._database.execute("INSERT OR REPLACE INTO failed (path, about, again) VALUES (?, ?, ?)", (path, line, again))

    def _find(self, query: str, path: str) -> Refused | None:
        found = self._database.execute(query, (path,)).fetchone()
        return found and _refused(json.loads(found[0]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._database.close()


def _refused(about: dict[str, Any]) -> Refused:
    """A failure as it was written down, also by earlier versions, which called two reasons one and gave some up that pass."""
    reason = "server_opted_out" if about["reason"] == "opted_out" else str(about["reason"])
    status = reason.removeprefix("http_")
    return Refused(reason, str(about["detail"]), bool(about["passes"]) or (status.isdigit() and passes(int(status))))
