"""A table of addresses as a source, ``urls:FILE``: its pictures are fetched into the folder ``FILE.pictures`` beside it.

Every line is a row: the file that was fetched, or a reason. Files are named by the hash of their address, so a run that was broken
off goes on where it stopped and a longer table fetches what is new; what failed for good is not asked for again
(``failed.jsonl``), what may succeed another time is, after ``again_after_hours``. Memory is a batch of lines; fetching costs what
the network does.
"""

from __future__ import annotations

import csv
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from mmret.errors import UserError
from mmret.ingest.addresses import is_address
from mmret.ingest.folders.folder import Folder
from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.remarks import Remarks
from mmret.ingest.rows import Row, text_columns
from mmret.ingest.tables.columns import unique_names
from mmret.ingest.tables.manifest_files import read_manifest
from mmret.ingest.tables.records import Record
from mmret.ingest.tables.text_files import encoding_of, plain_suffix, read_head
from mmret.ingest.web.download import Refused, Wanted, download
from mmret.lake.configuration import URL_LIST
from mmret.progress import advance
from mmret.settings import DownloadSettings

_BATCH = 512
"""Lines whose pictures are fetched together; what a crash loses of what failed."""
_SAMPLE = 200
_FAILED = "failed.jsonl"
_TEXT = (".csv", ".tsv", ".tab", ".txt")
_TABLES = (".parquet", ".jsonl", ".ndjson")


def pictures_folder(root: str) -> Path:
    """Where the pictures of the source ``root`` (``urls:FILE``) lie.

    >>> str(pictures_folder("urls:/data/laion.parquet"))
    '/data/laion.parquet.pictures'
    """
    return Path(f"{root.removeprefix(URL_LIST)}.pictures")


class UrlList:
    """The source; its rows are those of the table, in order. Listing them fetches what is not there yet."""

    def __init__(self, root: str, settings: DownloadSettings):
        """Raises UserError for a file that is not there or in which no column holds addresses."""
        self._path = Path(root.removeprefix(URL_LIST)).expanduser().absolute()
        self.root = f"{URL_LIST}{self._path}"
        self.remarks = Remarks()
        self._settings = settings
        self._folder = pictures_folder(self.root)
        if not self._path.is_file():
            raise UserError(f"there is no file {self._path}: urls: stands before a table of addresses ({_kinds()})")
        self._column = self._column_of_addresses()

    def open(self, path: str) -> tuple[BinaryIO, int]:
        return Folder(self._folder).open(path)

    def rows(self) -> Iterator[Row]:
        """All rows; those whose file is neither there nor known to fail are fetched first, ``_BATCH`` at a time."""
        self.remarks.clear()
        try:
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"{self._folder}, where the pictures go, cannot be made: {error.strerror}") from None
        failed, done = self._failed_before(), 0
        records = _records(self._path)
        while batch := list(islice(records, _BATCH)):
            lines = [self._line(number, record) for number, record in batch]
            self._fetch([row for row in lines if row.reason is None], failed)
            for row in lines:
                yield self._with_file(row, failed) if row.reason is None else row
            done += len(lines)
            advance("pictures fetched", done, None)

    def _line(self, number: int, record: Mapping[str, Any] | str) -> Row:
        """The row of one line; its ``source`` is the address, its path that of the file to be."""
        line = Row(f"{self._path.name}:{number}")
        if isinstance(record, str):
            return line.refuse("bad_manifest_row", record)
        address = _address_in(record.get(self._column))
        if not is_address(address):
            return line.refuse("bad_address", f"{self._column} is no address: {repr(record.get(self._column))[:100]}")
        try:
            texts = text_columns({name: value for name, value in record.items() if name != self._column})
        except Unreadable as why:
            return line.refuse(why.reason, why.detail)
        return Row(path=file_of(address), **{**texts, "source": address})

    def _fetch(self, rows: list[Row], failed: dict[str, Refused]) -> None:
        """Fetch the files of ``rows`` that are not there; what is refused goes to ``failed``, by path, and onto disk."""
        missing = {row.path: row.source or "" for row in rows if row.path not in failed and not (self._folder / row.path).is_file()}
        if not missing:
            return
        refused = download([Wanted(address, self._folder / path) for path, address in missing.items()], self._settings)
        lines = []
        for path, address in missing.items():
            if why := refused.get(address):
                failed[path] = why
                about = {"address": address, "reason": why.reason, "detail": why.detail, "passes": why.passes}
                about |= {"limit": self._settings.max_bytes, "time": time.time()}
                lines.append(json.dumps(about, ensure_ascii=True))
        if lines:
            with open(self._folder / _FAILED, "a", encoding="utf-8") as log:
                log.writelines(f"{line}\n" for line in lines)

    def _failed_before(self) -> dict[str, Refused]:
        """What earlier listings could not fetch and need not be asked for again yet, by path."""
        found: dict[str, Refused] = {}
        try:
            lines = (self._folder / _FAILED).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return found
        for line in lines:
            try:
                about = json.loads(line)
                path, why = file_of(about["address"]), Refused(about["reason"], about["detail"], about["passes"])
                age = time.time() - float(about["time"])
            except (ValueError, KeyError, TypeError):
                continue  # cut by a crash
            found.pop(path, None)
            allowed = why.reason == "opted_out" and not self._settings.opt_out
            allowed |= why.reason == "private_address" and self._settings.inside
            allowed |= why.reason == "too_many_bytes" and self._settings.max_bytes > about.get("limit", 0)
            if not allowed and not (why.passes and age > self._settings.again_after_hours * 3600):
                found[path] = why
        return found

    def _with_file(self, row: Row, failed: Mapping[str, Refused]) -> Row:
        if why := failed.get(row.path):
            return row.refuse(why.reason, f"{row.source}: {why.detail}"[:500])
        found = (self._folder / row.path).stat()
        return replace(row, size=found.st_size, mtime_ns=found.st_mtime_ns)

    def _column_of_addresses(self) -> str:
        """The column whose first values are most often addresses of the web."""
        counts: Counter[str] = Counter()
        seen: tuple[str, ...] = ()
        for _, record in islice(_records(self._path), _SAMPLE):
            if isinstance(record, Mapping):
                seen = seen or tuple(map(str, record))
                counts.update(name for name, value in record.items() if is_address(_address_in(value)))
        if not counts:
            found = f"found {', '.join(seen[:20])}" if seen else "it has no row"
            raise UserError(f"{self._path} has no column of addresses (http:// or https://): {found}")
        return counts.most_common(1)[0][0]


def file_of(address: str) -> str:
    """Path of the file of ``address`` below the folder of pictures."""
    name = hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{name[:2]}/{name}"


def _address_in(value: Any) -> str:
    """The address in a cell, or ""; of a list the first."""
    if isinstance(value, list | tuple) and value:
        value = value[0]
    return value.strip() if isinstance(value, str) else ""


def _records(path: Path) -> Iterator[Record]:
    """Lines of the table with their numbers. Raises UserError for a file of another kind."""
    suffix = plain_suffix(path)
    if suffix in _TABLES:
        return read_manifest(path)
    if suffix in _TEXT:
        return _text_records(path, suffix)
    raise UserError(f"{path} is no table of addresses that can be read: those are {_kinds()}")


def _kinds() -> str:
    return ", ".join((*_TABLES, *_TEXT))


def _text_records(path: Path, suffix: str) -> Iterator[Record]:
    """Lines of separated text. Without a header, as CC3M and CC12M have none: an address, and the first other field as caption."""
    with open(path, encoding=encoding_of(read_head(path)), errors="replace", newline="") as file:
        csv.field_size_limit(2**24)
        first = file.readline().lstrip("\ufeff")
        separator = "\t" if "\t" in first or suffix != ".csv" else ","
        file.seek(0)
        names: list[str] | None = None
        reader = csv.reader(file, delimiter=separator, quoting=csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE)
        try:
            for fields in reader:
                fields = [field.lstrip("\ufeff") for field in fields]
                if not any(field.strip() for field in fields) or fields[0].startswith("#"):
                    continue
                if names is None:
                    headed = not any(is_address(field) for field in fields)
                    names = unique_names(fields) if headed else _bare_names(fields)
                    if headed and len(fields) > 1:
                        continue
                if len(fields) > len(names):
                    yield reader.line_num, f"{len(fields)} fields instead of {len(names)}"
                else:
                    yield reader.line_num, dict(zip(names, fields, strict=False))
        except csv.Error as error:
            yield reader.line_num, f"cannot be read on: {error}"


def _bare_names(fields: list[str]) -> list[str]:
    at = next(i for i, field in enumerate(fields) if is_address(field))
    names = [f"column_{i + 1}" for i in range(len(fields))]
    names[at] = "url"
    others = [i for i in range(len(fields)) if i != at]
    if others:
        names[others[0]] = "caption"
    return names
