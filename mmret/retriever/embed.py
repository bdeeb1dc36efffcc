"""Vectors of many pictures, captions, or both, from a checkpoint into Parquet or Lance.

Rows are worked on in parts of fixed size, in the order the source lists them. A part is a file in ``<out>.work``, written
beside and renamed; begun again, finished parts whose rows are still the source's are kept. Only when all are there does
``out`` appear. A row that cannot be embedded stays, without a vector and with a reason. Cost: the model's forward pass per
row; memory: one batch of pictures and one part of vectors.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmret.atomic import replacing, replacing_folder, write_text
from mmret.errors import UserError
from mmret.hashing import fingerprint
from mmret.ingest.pictures.decode import Unreadable, open_rgb
from mmret.progress import advance
from mmret.retriever.models.usable import DAMAGED
from mmret.retriever.records import Record, open_records
from mmret.unit_vectors import UnusableVectors

EmbedInput = Literal["image", "text", "composed"]


@dataclass(frozen=True)
class EmbedOptions:
    """``query``: as queries, with an MLLM's task instruction, instead of as candidates. ``part_rows``: what a crash costs."""

    what: EmbedInput = "image"
    format: Literal["parquet", "lance"] = "parquet"
    query: bool = False
    batch_size: int = 64
    part_rows: int = 8192
    device: str = "auto"
    dtype: str | None = None


def embed(sources: Sequence[str], checkpoint: str | Path, out: Path, options: EmbedOptions = EmbedOptions()) -> dict[str, int]:
    """Embed every row of ``sources`` (folders, manifests, tars, Parquet files with pictures or texts in them) into ``out``.

    ``out``: for ``parquet`` a folder of files that reads as one data set, for ``lance`` a Lance data set; columns
    ``source, path, caption, reason, vector`` (float32, unit length; null where there is a reason). Returns counts:
    ``rows, embedded, truncated, kept`` (rows of parts that an earlier run had finished), and one by reason. Raises
    UserError where ``out`` exists, a source cannot be read, or the model gives a vector that is zero or not finite.

    Example: ``embed(["pictures/"], "lakes/demo/checkpoints/demo", Path("vectors"))``.
    """
    from mmret.retriever.models.load import Retriever, embedding_digest, query_options

    if out.exists():
        raise UserError(f"{out} exists already: give another --out, or delete it")
    work = out.with_name(f"{out.name}.work")
    asked = {**options.__dict__, "device": None, "batch_size": None}
    identity = fingerprint(embedding_digest(checkpoint), [str(s) for s in sources], asked)
    mark = work / "identity"
    if not (mark.is_file() and mark.read_text() == identity):
        shutil.rmtree(work, ignore_errors=True)
        write_text(mark, identity)
    keywords = query_options(checkpoint, options.what == "composed") if options.query and options.what != "image" else {}
    retriever: Any = None
    counts = {"rows": 0, "embedded": 0, "truncated": 0, "kept": 0}
    records = open_records(sources, pictures=options.what != "text", texts=options.what != "image")
    number = -1
    for number, rows in enumerate(_batches(records, options.part_rows)):
        path = work / f"part-{number:06d}.parquet"
        kept = _finished_part(path, rows)
        if kept is None:
            retriever = retriever or Retriever.load(checkpoint, options.device, options.dtype)
            before = retriever.truncated
            kept = _embed_part(rows, retriever, str(checkpoint), options, keywords, counts["rows"])
            cut = retriever.truncated - before
            with replacing(path) as aside:
                pq.write_table(kept.replace_schema_metadata({"truncated": str(cut)}), aside, compression="zstd")
        else:
            cut = int((pq.read_schema(path).metadata or {}).get(b"truncated", b"0"))
            counts["kept"] += len(rows)
        counts["rows"] += len(rows)
        counts["truncated"] += cut
        for reason in kept["reason"].to_pylist():
            counts[reason or "embedded"] = counts.get(reason or "embedded", 0) + 1
    _finish(work, out, options, number + 1)
    return counts


def _batches(records: Iterator[Record], size: int) -> Iterator[list[Record]]:
    while rows := list(islice(records, size)):
        yield rows


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


def _embed_part(
    rows: Sequence[Record], retriever: Any, checkpoint: str, options: EmbedOptions, keywords: dict[str, str], done: int
) -> pa.Table:
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
    there = np.array([reason is None for reason in reasons])
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), retriever.dim, mask=pa.array(~there))
    return pa.table(
        {
            "source": [r.source for r in rows],
            "path": pa.array([r.path for r in rows], pa.string()),
            "caption": pa.array([r.caption for r in rows], pa.string()),
            "reason": pa.array(reasons, pa.string()),
            "vector": flat,
        }
    )


def _open_picture(row: Record) -> tuple[Any, str | None]:
    try:
        return open_rgb(row.read()), None
    except Unreadable as error:
        return None, error.reason
    except OSError:
        return None, "unreadable_file"


def _finish(work: Path, out: Path, options: EmbedOptions, parts: int) -> None:
    """Make ``out`` of the parts and drop the work folder. Raises UserError where there is no row at all."""
    if not parts:
        shutil.rmtree(work, ignore_errors=True)
        raise UserError("the sources hold no row: nothing was written")
    paths = [work / f"part-{number:06d}.parquet" for number in range(parts)]
    for path in work.glob("part-*.parquet"):
        if path not in paths:  # of a source that was longer before
            path.unlink()
    out.parent.mkdir(parents=True, exist_ok=True)
    if options.format == "parquet":
        (work / "identity").unlink()
        work.rename(out)
        return
    import lance

    schema = pq.read_schema(paths[0]).remove_metadata()
    batches = (batch for path in paths for batch in pq.ParquetFile(path).iter_batches(batch_size=4096))
    with replacing_folder(out) as aside:
        lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches), aside)
    shutil.rmtree(work)
