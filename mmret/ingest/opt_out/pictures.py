"""Which pictures of a lake have opted out. A picture is its content: named once, it is out wherever it lies, under any name.

A row stays out as long as the entry that it was taken out for is listed, so nothing of the picture has to be kept to know it again.
Cost: nothing without lists; otherwise one pass over seven columns of the manifest, some microseconds a row. Where a list has MD5
sums, or 32 digits that are no picture's id, every stored picture is read once: the sums are kept in ``fingerprints/md5``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmret.curation.opted_out import OPTED_OUT
from mmret.ingest.opt_out.entries import OptOuts
from mmret.ingest.pictures.decode import Unreadable
from mmret.ingest.pictures.images import read_images
from mmret.ingest.remarks import Remarks
from mmret.ingest.rows import Reader, Row
from mmret.ingest.selection import LEFT_OUT, SELECTION_REASONS
from mmret.lake import Lake

_COLUMNS = ["root", "path", "source", "extra", "image_id", "reason", "detail"]
_BATCH_ROWS = 16_384
_SUMS = pa.schema([("image_id", pa.string()), ("md5", pa.string())])


class OptedOut:
    """The pictures of a lake that ``listed`` opts out, by id, each with the text of the entry that means it.

    >>> OptedOut(lake, read_opt_outs(profile.corpus.opt_out)).pictures
    """

    def __init__(self, lake: Lake, listed: OptOuts):
        self.listed = listed
        self.pictures: dict[str, str] = {}
        self._entries: set[str] = set()
        if not listed:
            return
        never_read = (pc.field("reason") == OPTED_OUT) & pc.field("image_id").is_null()
        self._entries |= set(lake.read("corpus_manifest", columns=["detail"], filters=never_read)["detail"].to_pylist())
        here: set[str] = set()
        for row in _rows(lake):
            image_id = row["image_id"]
            if row["reason"] == OPTED_OUT and row["detail"] in listed.entries:
                self._take(image_id, row["detail"])
            elif found := self._match(row, image_id):
                self._take(image_id, found)
            elif image_id in listed.md5:
                here.add(image_id)
        self._sums = {digest: text for digest, text in listed.md5.items() if digest not in self.pictures and digest not in here}
        if self._sums:
            for partition in lake.partitions("images"):
                sums = picture_sums(lake, partition)
                for row in sums.filter(pc.is_in(sums["md5"], value_set=pa.array(list(self._sums), pa.string()))).to_pylist():
                    self._take(row["image_id"], self._sums[row["md5"]])

    def _match(self, row: dict[str, Any], image_id: str | None) -> str | None:
        return self.listed.match(row["root"], row["path"], row["source"], row["extra"], image_id)

    def _take(self, image_id: str, entry: str) -> None:
        self.pictures.setdefault(image_id, entry)
        self._entries.add(entry)

    def note(self, entry: str | None) -> None:
        """Note an entry that means a row whose picture was never read."""
        if entry is not None:
            self._entries.add(entry)

    def entry_of(self, root: str, row: Row, image_id: str, source: Reader) -> str | None:
        """The entry that means a row that is about to be sealed, or None; its picture counts as out from then on."""
        if not self.listed:
            return None
        found = self.pictures.get(image_id) or self.listed.match(root, row.path, row.source, row.extra, image_id)
        if found is None and self._sums:
            found = self._sums.get(_md5(source, row) or "")
        if found is not None:
            self._take(image_id, found)
        return found

    def remark(self, lists: tuple[str, ...]) -> dict[str, Remarks]:
        """Entries that mean no picture of the corpus, counted, by the name under which remarks have them."""
        unused = [text for text in self.listed.entries if text not in self._entries]
        remarks = Remarks()
        if unused:
            remarks.add("opt_out_without_picture", unused[0], "no picture of the corpus is meant by it", len(unused))
        return {", ".join(lists): remarks} if lists else {}


def _rows(lake: Lake) -> Iterator[dict[str, Any]]:
    """Rows of pictures that are in the lake, would be, or were, of every partition."""
    reason = pc.field("reason")
    live = (reason.is_null() | reason.isin([r for r in (*SELECTION_REASONS, *LEFT_OUT) if r])) & pc.field("image_id").is_valid()
    for partition in lake.partitions("corpus_manifest"):
        for batch in lake.read("corpus_manifest", partition, _COLUMNS, live).to_batches(_BATCH_ROWS):
            yield from batch.to_pylist()


def picture_sums(lake: Lake, partition: str) -> pa.Table:
    """``image_id, md5`` of the stored pictures of a partition; only those that are not known yet are read."""
    key = f"fingerprints/md5/{partition}.parquet"
    known = _known_sums(lake, key)
    wanted = lake.read("images", partition, ["image_id"])["image_id"]
    missing = wanted.filter(pc.invert(pc.is_in(wanted, value_set=known["image_id"].combine_chunks())))
    if not len(missing):
        return known
    made = [
        {"image_id": image_id, "md5": hashlib.md5(data, usedforsecurity=False).hexdigest()}
        for batch in read_images(lake, partition, ids=set(missing.to_pylist()))
        for image_id, data in zip(batch["image_id"].to_pylist(), batch["data"].to_pylist(), strict=True)
    ]
    known = known.filter(pc.is_in(known["image_id"], value_set=wanted.combine_chunks()))
    sums = pa.concat_tables([known, pa.Table.from_pylist(made, _SUMS)])
    with lake.storage.replacing(key) as aside:
        pq.write_table(sums, aside, compression="zstd")
    return sums


def _known_sums(lake: Lake, key: str) -> pa.Table:
    try:
        with lake.storage.open(key) as file:
            return pq.read_table(file, partitioning=None)
    except FileNotFoundError:
        return _SUMS.empty_table()


def _md5(source: Reader, row: Row) -> str | None:
    try:
        stream, size = source.open(row.path)
        with stream:
            return hashlib.md5(stream.read(size), usedforsecurity=False).hexdigest()
    except (Unreadable, OSError):  # then it is refused as what it is
        return None
