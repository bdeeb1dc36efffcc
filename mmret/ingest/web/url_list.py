"""A table of addresses as a source, ``urls:FILE``: its pictures are fetched into the folder ``FILE.pictures`` beside it.

Every line is a row: the file that was fetched, or a reason. Files are named by the hash of their address, so a run that was broken
off goes on where it stopped and a longer table fetches what is new; what failed for good is not asked for again
(:mod:`mmret.ingest.web.failures`), what may succeed another time is, after ``again_after_hours``. Memory is a batch of lines;
fetching costs what the network does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from mmret.curation.opted_out import OPTED_OUT
from mmret.errors import UserError
from mmret.ingest.addresses import is_address
from mmret.ingest.object_store.path import object_path
from mmret.ingest.opt_out.entries import OptOuts
from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.remarks import Remarks
from mmret.ingest.rows import Row, encodable, text_columns, to_json
from mmret.ingest.tables.columns import meaning, plain_name
from mmret.ingest.web.address_tables import TABLE_SUFFIXES, address_in, address_records, column_of_addresses
from mmret.ingest.web.failures import Failures, file_of
from mmret.ingest.web.fetched import fetched_folder
from mmret.ingest.web.object_addresses import fetch_objects
from mmret.ingest.web.refused import Wanted
from mmret.lake.configuration import URL_LIST
from mmret.progress import advance
from mmret.settings import DownloadSettings
from mmret.storage import is_object_address

_BATCH = 512
"""Lines whose pictures are fetched together; what a crash loses of what failed."""


@dataclass(frozen=True)
class Withheld:
    """What a table names and is not fetched.

    ``opt_outs``: the entries of ``corpus.opt_out``. ``sealed``: by root and path, size and time of the files that are sealed as
    opted out: their pictures may be known by their content alone. ``lines``: nothing is fetched for lines after so many, for the
    corpus takes no more rows; None: any number.
    """

    opt_outs: OptOuts = field(default_factory=OptOuts)
    sealed: Mapping[tuple[str, str], tuple[int | None, int | None]] = field(default_factory=dict)
    lines: int | None = None


class UrlList:
    """The source; its rows are those of the table, in order. Listing them fetches what is not there yet and is not ``withheld``."""

    def __init__(self, root: str, settings: DownloadSettings, withheld: Withheld | None = None):
        """Raises UserError for a file that is not there or in which no column holds addresses."""
        name = root.removeprefix(URL_LIST)
        self._path = object_path(name) if is_object_address(name) else Path(name).expanduser().absolute()
        self.root = f"{URL_LIST}{self._path}"
        self.remarks = Remarks()
        self._settings = settings
        self._withheld = withheld or Withheld()
        self._folder = fetched_folder(self.root)
        if not self._path.is_file():
            kinds = ", ".join(TABLE_SUFFIXES)
            raise UserError(f"there is no file {self._path}: urls: stands before a table of addresses ({kinds})")
        self._column = column_of_addresses(self._path)

    def open(self, path: str) -> tuple[BinaryIO, int]:
        return self._folder.reader.open(path)

    def rows(self) -> Iterator[Row]:
        """All rows but those that are not fetched because the corpus takes no more; what is neither there nor known to fail is
        fetched first, ``_BATCH`` lines at a time."""
        self.remarks.clear()
        self._folder.make()
        try:
            yield from self._rows()
        finally:
            self._folder.close()

    def _rows(self) -> Iterator[Row]:
        done = 0
        records = address_records(self._path)
        with Failures(self._folder, self._settings) as failures:
            while batch := list(islice(records, _BATCH)):
                lines = [self._line(number, record) for number, record in batch]
                taken = len(lines) if self._withheld.lines is None else max(0, self._withheld.lines - done)
                self._fetch([row for row, entry in lines[:taken] if row.reason is None and entry is None], failures)
                for row, entry in lines:
                    found = row if row.reason is not None else self._as_found(row, entry, failures)
                    if found is not None:
                        yield found
                done += len(lines)
                advance("pictures fetched", done, None)

    def _line(self, number: int, record: Mapping[str, Any] | str) -> tuple[Row, str | None]:
        """The row of one line, and the entry of an opt-out list that means it. Its ``source`` is the address, its path that of the
        file to be."""
        line = Row(f"{self._path.name}:{number}")
        if isinstance(record, str):
            return line.refuse("bad_manifest_row", record), None
        address = address_in(record.get(self._column))
        if not is_address(address) or not encodable(address):
            said = f"{self._column} is no address: {repr(record.get(self._column))[:100]}"
            return line.refuse("bad_address", said), None
        others = {name: value for name, value in record.items() if name != self._column}
        try:
            texts = _with_own_source(text_columns(others), others)
        except Unreadable as why:
            return line.refuse(why.reason, why.detail), None
        row = Row(path=file_of(address), **{**texts, "source": address})
        return row, self._opted_out(row, others)

    def _opted_out(self, row: Row, others: Mapping[str, Any]) -> str | None:
        """The entry that means ``row`` by its address, its path or a hash that the table gives."""
        listed = self._withheld.opt_outs
        if not listed:
            return None
        for name, value in others.items():
            kind, digest = plain_name(str(name)), value.strip().lower() if isinstance(value, str) else ""
            if kind == "sha256" and re.fullmatch(r"[0-9a-f]{64}", digest) and (entry := listed.ids.get(digest[:32])):
                return entry
            if kind == "md5" and (entry := listed.md5.get(digest)):
                return entry
        return listed.match(self.root, row.path, row.source, row.extra, None)

    def _fetch(self, rows: list[Row], failures: Failures) -> None:
        """Fetch the files of ``rows`` that are not there; what is refused goes to ``failures``."""
        missing = {row.path: row.source or "" for row in rows if self._is_wanted(row.path, failures)}
        if missing:
            from mmret.ingest.web.download import download

            wanted = [Wanted(address, self._folder.place_for(path)) for path, address in missing.items()]
            objects = [each for each in wanted if is_object_address(each.address)]
            others = [each for each in wanted if not is_object_address(each.address)]
            refused = (fetch_objects(objects, self._settings) if objects else {}) | download(others, self._settings)
            self._folder.publish()
            failures.add((address, refused[address]) for address in missing.values() if address in refused)

    def _is_wanted(self, path: str, failures: Failures) -> bool:
        withheld = (self.root, path) in self._withheld.sealed or failures.lasting(path) is not None
        return not withheld and self._folder.find(path) is None

    def _as_found(self, row: Row, entry: str | None, failures: Failures) -> Row | None:
        """``row`` with what is known of its file; None where nothing is. A picture that opted out after it was sealed is listed as
        it was, though its file is gone."""
        if found := self._folder.find(row.path):
            return replace(row, size=found.size, mtime_ns=found.time_ns)
        if sealed := self._withheld.sealed.get((self.root, row.path)):
            return replace(row, size=sealed[0], mtime_ns=sealed[1])
        if entry is not None:
            return row.refuse(OPTED_OUT, entry)
        if why := failures.last(row.path):
            return row.refuse(why.reason, f"{row.source}: {why.detail}"[:500])
        return None


def _with_own_source(texts: dict[str, str | None], columns: Mapping[str, Any]) -> dict[str, str | None]:
    """``texts`` with the table's own source in extra: the row's is its address."""
    if texts["source"] is None:
        return texts
    name = next(name for name in meaning(tuple(columns)).source if columns.get(name) is not None)
    extra = json.loads(texts["extra"] or "{}")
    return {**texts, "extra": to_json({name: columns[name], **extra})}
