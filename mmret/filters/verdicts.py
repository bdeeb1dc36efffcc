"""Table ``verdicts``: what a filter says of each text, or of each hard negative, of the training triplets, and why.

Sixteen partitions a filter, by the first digit of ``pair_id``, each written once whole and known by its version, which is that of
the filter and of all that it read. Cost: a pass over the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.hashing import hash64
from mmret.lake import Lake
from mmret.schemas import VERDICTS

DIGITS = "0123456789abcdef"


@dataclass(frozen=True)
class Verdicts:
    """What one filter says: ``rows`` are of VERDICTS; ``note`` says why nothing, or little, was judged, or is None."""

    filter: str
    model: str
    rows: pa.Table
    note: str | None = None

    @property
    def dropped(self) -> pa.Table:
        return self.rows.filter(pc.equal(self.rows["verdict"], "drop"))


def partition_of(name: str, digit: str) -> str:
    return f"{name}-{digit}"


def missing(lake: Lake, name: str, model: str) -> list[str]:
    """Digits whose partition of filter ``name`` is not of version ``model``."""
    facts = {digit: lake.facts("verdicts", partition_of(name, digit)) for digit in DIGITS}
    return [digit for digit, known in facts.items() if known is None or known.inputs != model]


def kept_with(then: Lake, filters: Iterable[str]) -> dict[str, pa.Table]:
    """What ``filters`` drop by the verdicts that are kept with ``then``, a lake as it was when a recipe was trained on it."""
    partitions = then.partitions("verdicts")
    drop = pc.field("verdict") == "drop"
    return {
        name: then.read("verdicts", [p for p in partitions if p in {partition_of(name, d) for d in DIGITS}], filters=drop)
        for name in filters
    }


def write(lake: Lake, verdicts: Verdicts, digits: Iterable[str]) -> int:
    """Write the partitions ``digits``; returns how many rows those are."""
    first, count = pc.utf8_slice_codeunits(verdicts.rows["pair_id"], 0, 1), 0
    for digit in digits:
        own = verdicts.rows.filter(pc.equal(first, digit)).combine_chunks()
        count += len(own)
        lake.write("verdicts", partition_of(verdicts.filter, digit), own, verdicts.model, note=verdicts.note)
    return count


def read(lake: Lake, name: str, model: str) -> Verdicts:
    """What filter ``name`` said in version ``model``."""
    partitions = [p for digit in DIGITS if lake.facts("verdicts", p := partition_of(name, digit))]
    rows = lake.read("verdicts", partitions, filters=(pc.field("filter") == name) & (pc.field("model") == model))
    facts = lake.facts("verdicts", partitions[0]) if partitions else None
    return Verdicts(name, model, rows, facts.notes.get("note") if facts else None)


@dataclass
class Dropped:
    """How much :func:`without` took out of some rows."""

    texts: int = 0
    negatives: int = 0
    rows: int = 0
    by_filter: dict[str, int] = field(default_factory=dict)


def without(rows: pa.Table, verdicts: Mapping[str, pa.Table]) -> tuple[pa.Table, Dropped]:
    """``rows`` (columns ``pair_id, texts, hard_negatives``, and ``negative_captions`` where there are some), in their order, less
    what ``verdicts`` (rows to drop, by filter) say. A row that loses all its texts is left out; one that never had any stays.
    Only rows of split ``train`` lose anything.
    """
    done = Dropped(by_filter={name: len(own) for name, own in verdicts.items()})
    tables = [own.select(["pair_id", "text", "candidate_id"]) for own in verdicts.values()]
    if not tables or not sum(map(len, tables)) or not len(rows):
        return rows, done
    every = pa.concat_tables(tables)
    texts, negatives = every.filter(pc.is_valid(every["text"])), every.filter(pc.is_valid(every["candidate_id"]))
    before = np.diff(_starts(rows["texts"]))
    rows, done.texts = _less(rows, ["texts"], texts["pair_id"], texts["text"])
    with_captions = [name for name in ("hard_negatives", "negative_captions") if name in rows.column_names]
    if with_captions:
        rows, done.negatives = _less(rows, with_captions, negatives["pair_id"], negatives["candidate_id"])
    left = (np.diff(_starts(rows["texts"])) > 0) | (before == 0)
    done.rows = int((~left).sum())
    return rows.filter(pa.array(left)), done


def _less(rows: pa.Table, columns: list[str], pairs: pa.ChunkedArray, values: pa.ChunkedArray) -> tuple[pa.Table, int]:
    """``rows`` whose lists ``columns``, of one length, are without the entries at which the first of them is one of ``values`` of
    the pair beside it."""
    gone = {hash64(f"{pair}\x1f{value}") for pair, value in zip(pairs.to_pylist(), values.to_pylist(), strict=True)}
    starts = _starts(rows[columns[0]])
    entries = pc.list_flatten(rows[columns[0]])
    row = np.repeat(np.arange(len(rows)), np.diff(starts))
    training = pc.equal(rows["split"], "train") if "split" in rows.column_names else pa.array([True] * len(rows))
    suspect = pc.and_(pc.fill_null(pc.is_in(rows["pair_id"], value_set=pc.unique(pairs)), False), training)
    look = np.flatnonzero(suspect.to_numpy(zero_copy_only=False)[row])
    keep = np.ones(len(entries), bool)
    asked = zip(rows["pair_id"].take(pa.array(row[look])).to_pylist(), entries.take(pa.array(look)).to_pylist(), strict=True)
    keep[look] = [hash64(f"{pair}\x1f{value}") not in gone for pair, value in asked]
    offsets = np.concatenate([[0], np.cumsum(keep)])[starts]
    for name in columns:
        flat = pc.list_flatten(rows[name])
        flat = flat.combine_chunks() if isinstance(flat, pa.ChunkedArray) else flat
        if len(flat) != len(keep):  # a column that these rows do not fill
            continue
        lists = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), flat.filter(pa.array(keep)))
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(place), lists.cast(rows.schema.field(place).type))
    return rows, int((~keep).sum())


def _starts(column: pa.ChunkedArray) -> np.ndarray:
    counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def table(name: str, model: str, columns: Mapping[str, object], count: int) -> pa.Table:
    """Rows of VERDICTS: ``columns`` by name, the others null."""
    filled = {"filter": pa.array([name] * count, pa.string()), "model": pa.array([model] * count, pa.string()), **columns}
    return pa.table([filled.get(f.name, pa.nulls(count, f.type)) for f in VERDICTS], names=VERDICTS.names).cast(VERDICTS)
