"""What growth by a shard costs mining: bytes and vectors read, partitions and bytes written, seconds, for each of its stages.

    python bench/growth.py                                  # 32 shards of 500 pictures, then one more
    python bench/growth.py --shards 8 --images 200 --dim 64

The vectors are made up: kinds of some 120 pictures, about 70 of them in each other's band, one in fifty with a near-duplicate. All
is counted where it happens: bytes and calls by the kernel (/proc/self/io), whatever library reads; vectors where they leave the
table. ``opened`` is the number of reads that Lance asked its storage for, which on an object store are requests.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mmret.encode.vectors as stored  # noqa: E402
import mmret.mine.lake_vectors as whole  # noqa: E402
from bench.neighbours import CLUSTER, vectors  # noqa: E402
from mmret.freshness.fingerprints import inputs_of  # noqa: E402
from mmret.hashing import fingerprint  # noqa: E402
from mmret.lake import Lake  # noqa: E402
from mmret.lake.inputs import record_inputs  # noqa: E402
from mmret.schemas import SIGNALS  # noqa: E402
from mmret.settings import Profile, load_profile  # noqa: E402
from tests.mine.lakes import add_shard, compute, pairs_by_reading_every_shard  # noqa: E402

STAGES = ("candidates", "neighbours", "pairs")
BANDS = {f"mine.bands.{signal}": {"low": 0.8, "high": 0.96} for signal in SIGNALS}


class Reads:
    """Counts of one stretch of work: vectors and their bytes, passes over the ids of a table, reads of Lance."""

    def __init__(self) -> None:
        self.counts = {"vectors": 0, "vector_bytes": 0, "shards_read_whole": 0, "opened": 0}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count the vectors that leave the lake, whole shards and rows alike."""
        reading = whole.read_vectors

        def whole_shard(lake: Lake, shard: str, signal: str) -> tuple[list[str], np.ndarray]:
            ids, values = reading(lake, shard, signal)
            self._add(values)
            self.counts["shards_read_whole"] += 1
            return ids, values

        whole.read_vectors = whole_shard
        rows = getattr(stored, "VectorRows", None)
        if rows is not None:
            take, finding = rows.take, rows.__init__

            def some(lot: Any, at: np.ndarray) -> np.ndarray:
                values = take(lot, at)
                self._add(values)
                self._asked(lot)
                return values

            def found(lot: Any, *given: Any) -> None:
                finding(lot, *given)
                self._asked(lot)

            rows.take, rows.__init__ = some, found
        try:
            yield
        finally:
            whole.read_vectors = reading
            if rows is not None:
                rows.take, rows.__init__ = take, finding

    def _add(self, values: np.ndarray) -> None:
        self.counts["vectors"] += len(values)
        self.counts["vector_bytes"] += values.nbytes

    def _asked(self, lot: Any) -> None:
        if lot._data is not None:
            self.counts["opened"] += lot._data.io_stats_incremental().read_iops


def system_io() -> dict[str, int]:
    """Bytes that this process has read and written so far, whether from disk or cache, and how many reads that took."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return {"bytes_read": int(lines["rchar"]), "reads": int(lines["syscr"]), "bytes_written": int(lines["wchar"])}


def mine(lake: Lake, profile: Profile) -> dict[str, dict[str, float]]:
    """Compute what is missing or stale of every stage, as a run does; per stage its partitions and what they cost."""
    spent: dict[str, dict[str, float]] = {}
    for tables in (STAGES[:1], STAGES[1:]):
        for shard in lake.shards():
            for table in tables:
                inputs, facts = inputs_of(lake, profile, table, shard), lake.facts(table, shard)
                if facts is not None and facts.inputs == inputs.fingerprint:
                    continue
                record_inputs(lake, inputs)
                reads, before, began = Reads(), system_io(), time.perf_counter()
                with reads.watching():
                    compute(lake, profile.mine, table, shard, inputs.fingerprint)
                seconds = time.perf_counter() - began
                counts = {"partitions": 1, "seconds": seconds, **reads.counts}
                counts |= {name: n - before[name] for name, n in system_io().items()}
                row = spent.setdefault(table, dict.fromkeys(counts, 0))
                for name, n in counts.items():
                    row[name] += n
    return spent


def shard(at: int, images: int, dim: int, kinds: int) -> tuple[str, list[str], dict[str, np.ndarray]]:
    """Name, ids and vectors of shard ``at``; the kinds are those of every shard."""
    ids = [f"{at * images + n:032x}"[::-1] for n in range(images)]
    return f"shard-{at:05d}", ids, {s: vectors(images, dim, 100 * at + n, kinds) for n, s in enumerate(SIGNALS)}


def changed_lists(before: Lake, after: Lake) -> dict[str, float]:
    """Shares of lists (query, signal, side of the band), queries, pairs, negatives of ``before`` that ``after`` has otherwise."""
    counts = {"lists": [0, 0], "queries": [0, 0], "pairs": [0, 0], "negatives": [0, 0]}
    for name in before.partitions("neighbours"):
        old, new = (_lists(lake, name) for lake in (before, after))
        counts["lists"][0] += sum(new.get(key) != targets for key, targets in old.items())
        counts["lists"][1] += len(old)
        counts["queries"][0] += len({key[0] for key, targets in old.items() if new.get(key) != targets})
        counts["queries"][1] += len({key[0] for key in old})
        pairs = [{r["pair_id"]: r["hard_negatives"] for r in lake.read("pairs", name).to_pylist()} for lake in (before, after)]
        counts["pairs"][0] += len(pairs[0].keys() - pairs[1].keys())
        counts["pairs"][1] += len(pairs[0])
        counts["negatives"][0] += sum(pairs[1].get(pair) != found for pair, found in pairs[0].items())
        counts["negatives"][1] += len(pairs[0])
    return {f"{name}_changed": round(some / max(1, of), 4) for name, (some, of) in counts.items()}


def _lists(lake: Lake, name: str) -> dict[tuple, list]:
    rows = lake.read("neighbours", name).group_by(["query_id", "signal", "above_band"]).aggregate([("target_id", "list")])
    keys = zip(*(rows[c].to_pylist() for c in ("query_id", "signal", "above_band")), strict=True)
    return dict(zip(keys, rows["target_id_list"].to_pylist(), strict=True))


def grow(folder: Path, shards: int, images: int, dim: int) -> tuple[Lake, Lake, dict[str, dict], dict[str, dict], Profile]:
    """A lake of ``shards`` and the same one grown by a shard; what each of the two runs cost."""
    profile = load_profile("demo", BANDS)
    kinds = max(1, shards * images // CLUSTER)
    lake = Lake(folder / "lake")
    for at in range(shards):
        add_shard(lake, *shard(at, images, dim, kinds))
    first = mine(lake, profile)
    shutil.copytree(lake.root, folder / "grown")
    grown = Lake(folder / "grown")
    add_shard(grown, *shard(shards, images, dim, kinds))
    return lake, grown, first, mine(grown, profile), profile


def gate() -> dict[str, float | list[float]]:
    """Six shards and one more: pairs equal to those by the vectors of every shard, how many were read, and that nothing is left."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        _, grown, first, growth, profile = grow(Path(folder), 6, 150, 32)
        other = sum(not grown.read("pairs", s).equals(pairs_by_reading_every_shard(grown, s, profile.mine)) for s in grown.shards())
        rows = sum(grown.facts("images", s).rows for s in grown.shards())
        pairs = sum(grown.facts("pairs", s).rows for s in grown.shards())
        return {
            "partitions_otherwise": other,
            "pairs": pairs,
            "shards_read_whole_for_pairs": first["pairs"]["shards_read_whole"] + growth["pairs"]["shards_read_whole"],
            "times_a_vector_is_read_at_first": first["pairs"]["vectors"] / (len(SIGNALS) * (rows - 150)),
            "times_a_vector_is_read_on_growth": growth["pairs"]["vectors"] / (len(SIGNALS) * rows),
            "partitions_left": sum(row["partitions"] for row in mine(grown, profile).values()),
        }


def main(
    shards: Annotated[int, typer.Option(help="before growth")] = 32,
    images: Annotated[int, typer.Option(help="in each")] = 500,
    dim: int = 256,
    folder: Annotated[Path | None, typer.Option(help="where the lakes are made and left")] = None,
) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        lake, grown, first, growth, _ = grow(folder or Path(made), shards, images, dim)
        for name, run in (("first", first), ("growth", growth)):
            for stage, counts in run.items():
                print(json.dumps({"run": name, "stage": stage} | {k: round(v, 2) for k, v in counts.items()}), flush=True)
        print(json.dumps(changed_lists(lake, grown)))
        print(json.dumps({f"digest_of_{t}": fingerprint([grown.facts(t, s).digest for s in grown.shards()]) for t in STAGES}))


if __name__ == "__main__":
    typer.run(main)
