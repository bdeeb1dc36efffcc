"""Parts of ``mmret embed``: so many rows of the sources as one Parquet file of vectors, by one process.

Parts are claimed by number, one after the other, so that several processes can share the sources without sending them to each
other: each lists the rows itself and passes over those of the others. Cost: the model's forward pass per row. Memory: the model,
one batch of pictures, and one part of vectors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmret.atomic import replacing
from mmret.errors import UserError
from mmret.ingest.pictures.decode import Unreadable, open_rgb
from mmret.progress import advance
from mmret.quantise import shorten, to_binary, to_int8
from mmret.retriever.models.usable import DAMAGED
from mmret.retriever.records import Record, numbered_records
from mmret.storage import StorageUnreachable
from mmret.unit_vectors import UnusableVectors

EmbedInput = Literal["image", "text", "composed"]
EmbedPrecision = Literal["float32", "float16", "int8", "binary"]


@dataclass(frozen=True)
class EmbedOptions:
    """``query``: as queries, with an MLLM's task instruction, instead of as candidates. ``part_rows``: what a crash costs.

    ``dimensions``: the first so many, of unit length again; None: all. ``precision``: of the vectors written; ``dtype`` is what
    the model computes in. ``devices``: a process on each; ``processes``: so many, over the devices in turn, or sharing the
    processor's cores. With neither, one process on ``device``.
    """

    what: EmbedInput = "image"
    format: Literal["parquet", "lance"] = "parquet"
    query: bool = False
    batch_size: int = 64
    part_rows: int = 8192
    device: str = "auto"
    dtype: str | None = None
    dimensions: int | None = None
    precision: EmbedPrecision = "float32"
    devices: tuple[str, ...] = ()
    processes: int | None = None

    def decisive(self) -> dict[str, Any]:
        """Those that decide what is written, as plain values; those added later are left out at their default, so that a run
        that an older version began goes on."""
        values = {**self.__dict__, "device": None, "batch_size": None}
        later = {"dimensions": values.pop("dimensions"), "precision": values.pop("precision")}
        del values["devices"], values["processes"]
        return values | {k: v for k, v in later.items() if v != type(self).__dataclass_fields__[k].default}


@dataclass(frozen=True)
class PartFacts:
    """One finished part. ``kept``: an earlier run had finished it; ``truncated``: texts that were cut; ``reasons``: rows without a
    vector by reason."""

    number: int
    rows: int
    kept: bool
    truncated: int
    reasons: dict[str, int]


class PartWork:
    """The parts that one process makes: :meth:`run` works on them, ``rows`` are then those of all parts, whoever made them.

    ``device``: where the model lies; it is loaded at the first part that is not there yet.
    """

    def __init__(self, sources: Sequence[str], checkpoint: str | Path, work: Path, options: EmbedOptions, device: str):
        self.sources, self.checkpoint, self.work, self.options, self.device = sources, checkpoint, work, options, device
        self.rows = 0
        self._retriever: Any = None
        self._keywords: dict[str, str] = {}

    def run(self, claim: Callable[[], int]) -> Iterator[PartFacts]:
        """Make the part that ``claim`` names, and go on until it names one behind the last row. Numbers only rise.

        Raises UserError where a source cannot be read, the model cannot be loaded or gives a vector that is zero or not finite,
        and where it has fewer dimensions than are asked for.
        """
        done = 0
        for number, rows in self._claimed(claim):
            path = part_path(self.work, number)
            table, kept = _finished_part(path, rows), True
            if table is None:
                retriever, kept = self._load(), False
                before = retriever.truncated
                table = embed_part(rows, retriever, str(self.checkpoint), self.options, self._keywords, done)
                cut = retriever.truncated - before
                with replacing(path) as aside:
                    pq.write_table(table.replace_schema_metadata({"truncated": str(cut)}), aside, compression="zstd")
            else:
                cut = int((pq.read_schema(path).metadata or {}).get(b"truncated", b"0"))
            done += len(rows)
            reasons = Counter(reason for reason in table["reason"].to_pylist() if reason)
            yield PartFacts(number, len(rows), kept, cut, dict(reasons))

    def _claimed(self, claim: Callable[[], int]) -> Iterator[tuple[int, list[Record]]]:
        options, claimed, rows = self.options, claim(), []
        records = numbered_records(
            self.sources, options.what != "text", options.what != "image", lambda: claimed * options.part_rows
        )
        for number, record in records:
            self.rows = number + 1
            if record is None or number < claimed * options.part_rows:
                continue
            rows.append(record)
            if len(rows) == options.part_rows:
                yield claimed, rows
                claimed, rows = claim(), []
        if rows:
            yield claimed, rows

    def _load(self) -> Any:
        if self._retriever is None:
            from mmret.retriever.models.kinds import picture_options
            from mmret.retriever.models.load import Retriever, query_options

            options = self.options
            self._retriever = Retriever.load(self.checkpoint, self.device, options.dtype)
            there = self._retriever.dim
            if (options.dimensions or 0) > there:
                raise UserError(
                    f"vectors of {self.checkpoint} have {there} dimensions: {options.dimensions} cannot be kept, give 1 to {there}"
                )
            if options.query:
                by_image = options.what == "image"
                told = picture_options(self.checkpoint) if by_image else query_options(self.checkpoint, options.what == "composed")
                self._keywords = told
        return self._retriever


def part_path(work: Path, number: int) -> Path:
    """Where part ``number`` lies while the run is not finished."""
    return work / f"part-{number:06d}.parquet"


def _finished_part(path: Path, rows: Sequence[Record]) -> pa.Table | None:
    """The table of an earlier run's part, without vectors; None where it is missing, damaged or of other rows."""
    try:
        table = pq.read_table(path, columns=["source", "path", "caption", "reason"], partitioning=None)
    except (FileNotFoundError, pa.ArrowInvalid, OSError):
        return None
    same = (
        table["source"].to_pylist() == [r.source for r in rows]
        and table["path"].to_pylist() == [r.path for r in rows]
        and table["caption"].to_pylist() == [r.caption for r in rows]
    )
    return table if same else None


def embed_part(
    rows: Sequence[Record], retriever: Any, checkpoint: str, options: EmbedOptions, keywords: dict[str, str], done: int
) -> pa.Table:
    """The table of ``rows``: source, path, caption, reason, vector and, of int8, scale; see :func:`mmret.retriever.embed.embed`.

    ``done``: rows before them, for the progress that is told.
    """
    vectors = np.zeros((len(rows), retriever.dim), np.float32)
    reasons: list[str | None] = [row.reason for row in rows]
    with ThreadPoolExecutor(8) as pool:
        for start in range(0, len(rows), options.batch_size):
            places = [p for p in range(start, min(start + options.batch_size, len(rows))) if reasons[p] is None]
            pictures: list[Any] = [None] * len(places)
            if options.what != "text":
                for n, opened in enumerate(pool.map(_open_picture, (rows[p] for p in places))):
                    pictures[n], reasons[places[n]] = opened
            good = [n for n, p in enumerate(places) if reasons[p] is None]
            if good:
                images = [pictures[n] for n in good] if options.what != "text" else None
                texts = [rows[places[n]].caption or "" for n in good] if options.what != "image" else None
                try:
                    found = retriever.encode(images, texts, options.batch_size, **keywords)
                except UnusableVectors as error:
                    row = rows[places[good[error.row]]]
                    name = f"{row.path or row.caption} of {row.source}"
                    raise UserError(f"{checkpoint} gave {name} {error.kind}: {DAMAGED}") from None
                vectors[[places[n] for n in good]] = found
            advance("embed", done + min(start + options.batch_size, len(rows)), None)
    return pa.table(
        {
            "source": [r.source for r in rows],
            "path": pa.array([r.path for r in rows], pa.string()),
            "caption": pa.array([r.caption for r in rows], pa.string()),
            "reason": pa.array(reasons, pa.string()),
            **_vector_columns(vectors, np.array([reason is None for reason in reasons], bool), options),
        }
    )


def _vector_columns(vectors: np.ndarray, there: np.ndarray, options: EmbedOptions) -> dict[str, pa.Array]:
    """``vectors`` (n, dim) float32 as asked for, null where not ``there`` (n,)."""
    sound = shorten(vectors[there], options.dimensions or vectors.shape[1])
    if options.precision == "int8":
        codes, own = to_int8(sound)
        scales = np.zeros(len(there), np.float32)
        scales[there] = own
        return {"vector": _fixed_lists(codes, there), "scale": pa.array(scales, mask=~there)}
    if options.precision == "binary":
        return {"vector": _fixed_lists(to_binary(sound), there)}
    return {"vector": _fixed_lists(sound.astype(options.precision, copy=False), there)}


def _fixed_lists(sound: np.ndarray, there: np.ndarray) -> pa.FixedSizeListArray:
    """Rows of ``sound`` (m, d) where ``there`` (n,), null elsewhere."""
    spread = np.zeros((len(there), sound.shape[1]), sound.dtype)
    spread[there] = sound
    return pa.FixedSizeListArray.from_arrays(pa.array(spread.ravel()), sound.shape[1], mask=pa.array(~there))


def _open_picture(row: Record) -> tuple[Any, str | None]:
    try:
        return open_rgb(row.read()), None
    except Unreadable as error:
        return None, error.reason
    except StorageUnreachable:  # no picture's fault
        raise
    except OSError:
        return None, "unreadable_file"
