"""Vectors of many pictures, captions, or both, from a checkpoint into Parquet or Lance.

Rows are worked on in parts of fixed size, in the order the source lists them. A part is a file in ``<out>.work``, written
beside and renamed; begun again, finished parts whose rows are still the source's are kept. Only when all are there does
``out`` appear. A row that cannot be embedded stays, without a vector and with a reason. Cost: the model's forward pass per
row; memory, per process: the model, one batch of pictures and one part of vectors.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import closing
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mmret.atomic import remove_abandoned, replacing_folder, write_text
from mmret.errors import UserError
from mmret.hashing import fingerprint
from mmret.retriever.embed_parts import EmbedInput, EmbedOptions, EmbedPrecision, PartWork, part_path
from mmret.retriever.embed_workers import device_names, embed_in_processes

__all__ = ["EmbedInput", "EmbedOptions", "EmbedPrecision", "embed"]


def embed(sources: Sequence[str], checkpoint: str | Path, out: Path, options: EmbedOptions = EmbedOptions()) -> dict[str, int]:
    """Embed every row of ``sources`` (folders, manifests, tars, Parquet files with pictures or texts in them) into ``out``.

    ``out``: for ``parquet`` a folder of files that reads as one data set, for ``lance`` a Lance data set; columns
    ``source, path, caption, reason, vector`` (float32 or float16, unit length; null where there is a reason). Of ``int8`` also
    ``scale`` (float32): the vector is ``vector * scale``. Of ``binary`` the vector is the bits of the signs as uint8, the first
    dimension the highest bit (:mod:`mmret.quantise`). Several processes write the same rows in the same order, on devices of one
    kind the same bytes.

    Returns counts: ``rows, embedded, truncated, kept`` (rows of parts that an earlier run had finished), and one by reason.
    Raises UserError where ``out`` exists, a source cannot be read, the model gives a vector that is zero or not finite or has
    fewer dimensions than are asked for, and where one of several processes ends.

    Example: ``embed(["pictures/"], "lakes/demo/checkpoints/demo", Path("vectors"))``.
    """
    from mmret.retriever.models.load import embedding_digest

    if out.exists():
        raise UserError(f"{out} exists already: give another --out, or delete it")
    devices = device_names(options)
    work = out.with_name(f"{out.name}.work")
    identity = fingerprint(embedding_digest(checkpoint), [str(s) for s in sources], options.decisive())
    mark = work / "identity"
    if not (mark.is_file() and mark.read_text() == identity):
        shutil.rmtree(work, ignore_errors=True)
        write_text(mark, identity)
    remove_abandoned(work.glob(".*.tmp"))
    counts = {"rows": 0, "embedded": 0, "truncated": 0, "kept": 0}
    parts = 0
    if len(devices) == 1:
        made = PartWork(sources, checkpoint, work, options, devices[0]).run(count().__next__)
    else:
        made = embed_in_processes(sources, checkpoint, work, options, devices)
    with closing(made):
        for facts in made:
            parts = max(parts, facts.number + 1)
            counts["rows"] += facts.rows
            counts["truncated"] += facts.truncated
            counts["kept"] += facts.rows * facts.kept
            counts["embedded"] += facts.rows - sum(facts.reasons.values())
            for reason, rows in facts.reasons.items():
                counts[reason] = counts.get(reason, 0) + rows
    _finish(work, out, options, parts)
    return counts


def _finish(work: Path, out: Path, options: EmbedOptions, parts: int) -> None:
    """Make ``out`` of the parts and drop the work folder. Raises UserError where there is no row at all."""
    if not parts:
        shutil.rmtree(work, ignore_errors=True)
        raise UserError("the sources hold no row: nothing was written")
    paths = [part_path(work, number) for number in range(parts)]
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
