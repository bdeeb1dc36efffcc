"""The queries of docs/sql.md over a synthetic lake, and how long a lake of many partitions takes to open, on two threads.

    python bench/sql.py --lake DIR                      # makes 1,000,000 images and 10,000,000 pairs first (5 GB, two minutes)
    python bench/sql.py --lake DIR --pairs 2000000 --images 200000 --shards 10
    python bench/sql.py --lake DIR --partitions 1000    # that many small partitions in every table; then opening alone

Queries are run in a process of its own as a client would, ``--rounds`` times; counts are asserted first. Pictures, vectors,
candidates and neighbours are left out: no query reads them. The last line is of a join that no question needs: all triplets with
the pictures of both sides. Opening is measured in new processes: without a catalogue, unchanged, after one more partition.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmret.lake import Lake
from mmret.schemas import DESCRIPTIONS, INSTRUCTIONS, PAIRS, SIGNALS, TABLES, TRIPLETS
from mmret.warehouse import build_catalogue, catalogue_path
from mmret.warehouse.views import TRIPLETS_WIDE

WHOLE_JOIN = """SELECT query.licence, target.licence, count(*) FROM triplets t JOIN images query ON query.image_id = t.query_id
JOIN images target ON target.image_id = t.target_id GROUP BY ALL"""
DOCS = Path(__file__).resolve().parents[1] / "docs" / "sql.md"
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
WORDS = (
    "red blue green small large circle square dog street at night with two people under a bright sky beside an old wooden "
    "table the same but without rain snow and more trees"
).split()
LICENCES = ["CC BY 2.0", "CC0", "CC BY-SA 4.0", None]


def queries() -> list[str]:
    """The worked queries of the docs, in order."""
    return re.findall(r"```sql\n(.*?)```", DOCS.read_text(), re.DOTALL)


def strings(characters: np.ndarray) -> pa.Array:
    """(n, w) uint8 as n strings of w bytes, without a copy."""
    n, width = characters.shape
    offsets = np.arange(n + 1, dtype=np.int32) * width
    return pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(characters)))


def ids(random: np.random.Generator, n: int) -> np.ndarray:
    """(n, 32) uint8: random ids of 32 hex digits, sorted."""
    drawn = random.integers(0, 256, (n, 16), np.uint8)
    drawn = drawn[np.lexsort(drawn.T[::-1])]
    return _HEX[np.stack([drawn >> 4, drawn & 15], axis=2).reshape(n, 32)]


def lists(flat: pa.Array, each: int) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(np.arange(0, len(flat) + 1, each, dtype=np.int32)), flat)


def sentences(random: np.random.Generator, n: int, words: int) -> pa.Array:
    return pa.array([" ".join(row) for row in np.array(WORDS)[random.integers(0, len(WORDS), (n, words))]])


class Synthetic:
    """Draws whole shards; ``images`` (n, 32) ids of the corpus, each shard's sorted."""

    def __init__(self, images: int, pairs: int, shards: int):
        self.random = np.random.default_rng(0)
        self.shards, self.each = shards, pairs // images
        self.images = np.concatenate([ids(self.random, images // shards) for _ in range(shards)])
        self.captions, self.described, self.asked = (sentences(self.random, 100_000, words) for words in (12, 45, 9))

    def pool(self, texts: pa.Array, n: int) -> pa.Array:
        return texts.take(pa.array(self.random.integers(0, len(texts), n)))

    def _table(self, schema: pa.Schema, n: int, **columns: Any) -> pa.Table:
        """Columns given, strings repeated, the others null."""
        made = []
        for field in schema:
            value = columns.get(field.name)
            if value is None or isinstance(value, str | int):
                value = pa.repeat(pa.scalar(value, field.type), n)
            made.append(value if isinstance(value, pa.ChunkedArray) else pa.chunked_array([value]).cast(field.type))
        return pa.table(made, schema=schema)

    def write(self, lake: Lake, number: int) -> None:
        """All tables of one shard."""
        shard, n = f"shard-{number:05d}", len(self.images) // self.shards
        own = self.images[number * n : (number + 1) * n]
        licences = pa.array([LICENCES[i] for i in self.random.integers(0, len(LICENCES), n)])
        image = {
            "image_id": strings(own),
            "shard": shard,
            "path": strings(own),
            "root": "made",
            "caption": self.pool(self.captions, n),
            "position": pa.array(np.arange(n)),
            "licence": licences,
            "source": "synthetic",
            "size": 100_000,
            "width": 256,
            "height": 256,
            "format": "JPEG",
            "mode": "RGB",
            "caption_words": 12,
            "model": "synthetic@1",
        }
        for table in ("corpus_manifest", "images", *SIGNALS):
            lake.write(table, shard, self._table(TABLES[table], n, **image), "made")
        lake.write("rejects", shard, TABLES["rejects"].empty_table(), "made")
        twins = n // 10  # a tenth of the pictures, in groups of three
        group = {"group_id": strings(own[np.arange(twins) // 3 * 3]), "pictures": 3, "first": pa.array(np.arange(twins) % 3 == 0)}
        alike = {"nearest_id": strings(own[np.arange(twins) ^ 1]), "score": pa.array(np.full(twins, 0.97, np.float32))}
        twin = {"image_id": strings(own[:twins]), "shard": shard, **group, **alike}
        lake.write("duplicates", shard, self._table(TABLES["duplicates"], twins, **twin), "made")
        rows = n * self.each
        query, target = np.repeat(own, self.each, axis=0), self.images[self.random.integers(0, len(self.images), rows)]
        pair = ids(self.random, rows)[self.random.permutation(rows)]
        negatives = strings(self.images[self.random.integers(0, len(self.images), rows * 5)])
        sets = pa.array([[s for at, s in enumerate(SIGNALS) if bit >> at & 1] for bit in range(1, 8)])
        key = {
            "pair_id": strings(pair),
            "query_id": strings(query),
            "target_id": strings(target),
            "signals": sets.take(pa.array(self.random.integers(0, 7, rows))),
            "hard_negatives": lists(negatives, 5),
            **{f"{s}_score": pa.array(self.random.uniform(0.5, 0.96, rows).astype(np.float32)) for s in SIGNALS},
        }
        asked = lists(self.pool(self.asked, rows * 3), 3)
        said = {
            "request_key": strings(pair[::-1]),
            "model": "a-model@1",
            "prompt_version": "3",
            "parser_version": "2",
            "status": "ok",
            "tokens_in": 800,
            "tokens_out": 90,
        }
        lake.write("pairs", shard, self._table(PAIRS, rows, **key), "made")
        described = self._table(DESCRIPTIONS, rows, **key, **said, text=self.pool(self.described, rows))
        lake.write("descriptions", shard, described, "made")
        lake.write("instructions", shard, self._table(INSTRUCTIONS, rows, **key, **said, texts=asked), "made")
        split = pa.array(["test" if t else "train" for t in np.repeat(self.random.random(n) < 0.03, self.each)])
        lake.write(
            "triplets",
            shard,
            self._table(
                TRIPLETS,
                rows,
                **key,
                texts=asked,
                split=split,
                query_path=strings(query),
                target_path=strings(target),
                description_model="a-model@1",
                instruction_model="a-model@1",
                licence="CC BY 2.0 | CC BY-SA 4.0",
            ),
            "made",
        )


def measure(catalogue: str, threads: int, rounds: int) -> None:
    """In a process of its own, as a client: every query ``rounds`` times; prints JSON."""
    import duckdb

    with duckdb.connect(catalogue, read_only=True) as connection:
        connection.execute(f"SET threads = {threads}; SET memory_limit = '4GB'; SET enable_progress_bar = false")
        found = []
        for query in (*queries(), WHOLE_JOIN):
            seconds, busy, rows = [], [], 0
            for _ in range(rounds):
                before, started = time.process_time(), time.perf_counter()
                rows = len(connection.execute(query).fetchall())
                seconds.append(round(time.perf_counter() - started, 3))
                busy.append(round(time.process_time() - before, 3))
            found.append({"rows": rows, "seconds": seconds, "processor": busy})
        counted = {t: connection.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("images", "pairs", "triplets")}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"counted": counted, "queries": found, "peak_gib": round(peak, 2)}))


OPENING = """
import sys, time
from mmret.lake import Lake
import duckdb, pyarrow.parquet
from mmret.warehouse import open_catalogue
busy, started = time.process_time(), time.perf_counter()
connection = open_catalogue(Lake(sys.argv[1]))
opened, opened_busy = time.perf_counter() - started, time.process_time() - busy
rows = connection.execute("SELECT sum(rows) FROM partitions WHERE table_name = 'triplets'").fetchone()[0]
print(rows, round(opened, 3), round(opened_busy, 3))
"""


def many_partitions(lake: Lake, partitions: int, rounds: int) -> None:
    """Seconds until the catalogue of a lake with ``partitions`` in every table is open, each time in a new process."""
    for table, schema in TABLES.items():
        rows = pa.table([pa.nulls(3, field.type) for field in schema], schema=schema)
        for number in range(len(lake.partitions(table)), partitions):
            lake.write(table, f"shard-{number:05d}", rows, "made")
    found: dict[str, list[list[float]]] = {}

    def opened(what: str, expected: int) -> None:
        line = [sys.executable, "-c", OPENING, str(lake.root)]
        rows, *seconds = subprocess.run(line, check=True, capture_output=True, text=True).stdout.split()
        assert int(rows) == expected, (rows, expected)
        found.setdefault(what, []).append([float(s) for s in seconds])

    expected = sum(lake.facts("triplets", p).rows for p in lake.partitions("triplets"))
    for turn in range(rounds):
        catalogue_path(lake).unlink(missing_ok=True)
        opened("without a catalogue", expected)
        opened("unchanged", expected)
        lake.write("triplets", f"one-more-{turn}", TABLES["triplets"].empty_table(), "made")
        opened("after one more partition", expected)
        opened("unchanged", expected)
        lake.remove("triplets", f"one-more-{turn}")
    print(f"{sum(len(lake.partitions(t)) for t in TABLES):,} partitions in {len(TABLES)} tables; [wall, processor] seconds")
    for what, each in found.items():
        print(f"{what}: {each}")


def gate() -> dict[str, float | list[float]]:
    """The docs' queries through the catalogue, over the same queries on views that a person would write over the Parquet files."""
    import tempfile

    import duckdb

    images, pairs, shards = 2000, 20_000, 4
    with tempfile.TemporaryDirectory() as folder:
        lake, synthetic = Lake(folder), Synthetic(images, pairs, shards)
        for number in range(shards):
            synthetic.write(lake, number)
        build_catalogue(lake)
        ours = duckdb.connect(str(catalogue_path(lake)), read_only=True)
        peer = duckdb.connect()
        for table in [t for t in TABLES if (lake.root / t).is_dir()]:
            peer.execute(
                f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{lake.root}/{table}/*.parquet', union_by_name = true)"
            )
        peer.execute(TRIPLETS_WIDE)
        asked = [q for q in queries() if _runs(peer, q)]
        costs, answers = [], []
        for turn in range(10):
            spent = []
            for connection in (peer, ours):
                connection.execute("SET threads = 1")
                started = time.process_time()
                answers.append([sorted(map(repr, connection.execute(query).fetchall())) for query in asked])
                spent.append(time.process_time() - started)
            if turn:  # the first also warms up
                costs.append(spent[1] / spent[0])
        differ = sum(len({repr(given) for given in every}) > 1 for every in zip(*answers, strict=True))
        counted = {t: ours.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("images", "triplets")}
    return {**counted, "queries": len(asked), "answers_that_differ": differ, "catalogue_over_plain_views_processor": costs}


def _runs(connection: Any, query: str) -> bool:
    """Whether the query reads tables and views alone, not what the catalogue says of files."""
    import duckdb

    try:
        connection.execute(query)
    except duckdb.CatalogException:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", required=True, help="folder to make; an existing one is measured as it is")
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument("--shards", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="times each query is run, the first with cold caches of DuckDB")
    parser.add_argument("--partitions", type=int, help="measure opening a lake with so many partitions in every table")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        return measure(given.measure, given.threads, given.rounds)
    if given.partitions:
        return many_partitions(Lake(given.lake), given.partitions, given.rounds)
    lake, started = Lake(given.lake), time.perf_counter()
    made = len(lake.partitions("triplets"))
    if made < given.shards:
        synthetic = Synthetic(given.images, given.pairs, given.shards)
        for number in range(given.shards):
            synthetic.write(lake, number)
            print(f"shard {number}: {time.perf_counter() - started:.0f} s", flush=True)
    started = time.perf_counter()
    build_catalogue(lake)
    built = time.perf_counter() - started
    line = [
        sys.executable,
        __file__,
        "--lake",
        given.lake,
        "--measure",
        str(catalogue_path(lake)),
        "--threads",
        str(given.threads),
        "--rounds",
        str(given.rounds),
    ]
    found = json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
    assert found["counted"] == {"images": given.images, "pairs": given.pairs, "triplets": given.pairs}, found["counted"]
    print(f"catalogue built in {built:.2f} s; peak memory of the client {found['peak_gib']} GiB")
    for number, each in enumerate(found["queries"], 1):
        print(f"{number:>2}  {each['rows']:>8,} rows  wall {each['seconds']}  processor {each['processor']}")


if __name__ == "__main__":
    main()
