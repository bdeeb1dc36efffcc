"""Takes pictures that opted out after an import out of released triplets: no stage computes those, so they are changed in place.

A withdrawn entry does not bring a triplet back by itself: its partition counts as incomplete, so that `mmret import`, run again,
makes it anew. Cost: nothing where nothing was imported; otherwise the ids of the imported triplets are read.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from mmret.curation.opted_out import OPTED_OUT, without_opted_out
from mmret.ingest.selection import SELECTION_REASONS
from mmret.lake import IMPORT_PREFIX, Facts, Lake
from mmret.schemas import CORPUS_MANIFEST

_WITHDRAWN = "an opt-out was withdrawn: to be imported again"


def imported_partitions(lake: Lake) -> list[str]:
    """Partitions that were imported, in order."""
    return [p for p in lake.partitions("corpus_manifest") if p.startswith(IMPORT_PREFIX)]


def mark_imported(lake: Lake, opted_out: Mapping[str, str]) -> list[str]:
    """Note in the manifests of imported partitions which pictures are out; returns the partitions whose pictures are to be stored
    anew (:func:`mmret.ingest.stage.ingest_shard`)."""
    changed = []
    for partition in imported_partitions(lake):
        facts = lake.facts("corpus_manifest", partition)
        rows = lake.read("corpus_manifest", partition).to_pylist()
        live = [row for row in rows if row["reason"] in SELECTION_REASONS]
        out = [row for row in live if row["image_id"] in opted_out and row["reason"] != OPTED_OUT]
        if any(row["reason"] == OPTED_OUT and row["image_id"] not in opted_out for row in live):
            _write_again(lake, "triplets", partition, lake.read("triplets", partition), inputs=_WITHDRAWN)
        if out:
            for row in out:
                row["reason"], row["detail"] = OPTED_OUT, opted_out[row["image_id"]]
            lake.write("corpus_manifest", partition, pa.Table.from_pylist(rows, CORPUS_MANIFEST), facts.inputs, **facts.notes)
            changed.append(partition)
    return changed


def filter_imported(lake: Lake) -> int:
    """Drop the pairs, texts and triplets of imported partitions whose pictures are out, and such hard negatives; returns how many
    triplets went. Call it after the manifests say which pictures those are."""
    gone = 0
    for partition in imported_partitions(lake):
        if lake.facts("triplets", partition) is None:
            continue
        pairs = lake.read("pairs", partition)
        kept = without_opted_out(pairs, lake)
        if kept.equals(pairs):
            continue
        ids = kept["pair_id"].combine_chunks()
        for table in ("descriptions", "instructions"):
            rows = lake.read(table, partition)
            _write_again(lake, table, partition, rows.filter(pc.is_in(rows["pair_id"], value_set=ids)))
        before = lake.read("triplets", partition)
        triplets = without_opted_out(before, lake)
        dropped = before.num_rows - triplets.num_rows
        notes = lake.facts("triplets", partition).notes
        splits = {split: pc.sum(pc.equal(triplets["split"], split)).as_py() or 0 for split in ("train", "test")}
        counts = notes.get("counts", {})
        counts |= {"triplets": triplets.num_rows, "opted out": counts.get("opted out", 0) + dropped}
        _write_again(lake, "triplets", partition, triplets, **splits, counts=counts)
        _write_again(lake, "pairs", partition, kept)  # last: until then the partition is taken up again
        gone += dropped
    return gone


def _write_again(lake: Lake, table: str, partition: str, rows: pa.Table, inputs: str | None = None, **notes: object) -> Facts:
    facts = lake.facts(table, partition)
    return lake.write(table, partition, rows, facts.inputs if inputs is None else inputs, **(facts.notes | notes))
