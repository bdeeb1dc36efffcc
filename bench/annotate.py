"""The annotation stages without a model: what our own side costs per request, and whether its memory stays flat.

    python bench/annotate.py                    20,000 pairs in one shard: requests/s, first and second run
    python bench/annotate.py --lake s3://bucket/prefix    the same in an object store
    python bench/annotate.py --memory           memory at 10,000 and at 200,000 pairs, or so many as are given, in shards of 10,000
    python bench/annotate.py --servers          throughput of two healthy servers, alone and beside a third that is dead or hangs

The first two use the back-end that costs nothing (captions), through all that a stage does on a lake: read pairs and captions, key,
look up, answer, store, parse, write the partition. Each measurement is a process of its own. The last asks local servers that take
50 ms an answer, so it is time spent waiting that is compared.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pyarrow as pa

from mmret.__main__ import COLLECT_AFTER
from mmret.annotate.backends.captions import CaptionsAnnotator, analyse, frames
from mmret.annotate.protocol import Request
from mmret.annotate.stage import describe_shard, instruct_shard
from mmret.hashing import pair_id, uniform
from mmret.lake import Lake
from mmret.schemas import CORPUS_MANIFEST, IMAGES_INDEX, PAIRS
from mmret.settings import AnnotateSettings

SHARD = 10_000
WORDS = [
    ["red", "blue", "green", "small", "old", "wooden", "bright", "striped"],
    ["dog", "house", "bicycle", "woman", "cup", "tree", "boat", "child", "lamp", "horse", "mug", "bridge"],
    ["standing", "lying", "running", "floating", "waiting", "turned"],
    ["on a table", "in the snow", "beside a river", "under a bridge", "in front of a wall", "at night", "in a field"],
    ["", " with a hat", " and a ball", " without wheels", " holding flowers", " in the rain"],
]


def caption(i: int) -> str:
    """One of 24,192 captions, by hash."""
    a, b, c, d, e = (words[int(uniform("caption", i, k) * len(words))] for k, words in enumerate(WORDS))
    return f"A {a} {b} {c} {d}{e}."


def build(root: Path | str, pairs: int, shard: int = SHARD) -> Lake:
    """A lake that holds what the stages read: ``pairs`` pairs over as many images, in shards."""
    lake = Lake(root)
    for at, start in enumerate(range(0, pairs, shard)):
        ids = [f"{i:032x}" for i in range(start, min(pairs, start + shard))]
        name = f"shard-{at:05d}"
        images = {"image_id": ids, "shard": [name] * len(ids), "caption": [caption(int(i, 16)) for i in ids]}
        lake.write("corpus_manifest", name, _filled({"image_id": ids, "shard": images["shard"]}, CORPUS_MANIFEST), "bench")
        lake.write("images", name, _filled(images, IMAGES_INDEX), "bench")
        targets = [ids[int(uniform("target", i) * len(ids))] for i in ids]
        pairs_of = {"pair_id": list(map(pair_id, ids, targets)), "query_id": ids, "target_id": targets}
        lake.write("pairs", name, _filled(pairs_of, PAIRS), "bench")
    return lake


def _filled(columns: dict[str, list], schema: pa.Schema) -> pa.Table:
    rows = len(next(iter(columns.values())))
    return pa.table({f.name: columns.get(f.name, pa.nulls(rows, f.type)) for f in schema}, schema=schema)


def measure(root: str, turn: str) -> dict:
    """Both stages over every shard of the lake: what they took.

    ``start_s``: what libraries and dictionary take to load, and a shard of 16 pairs before. ``own_mb``, ``mapped_mb``: largest
    resident memory of the process's own and of mapped files (libraries, answers) behind a shard."""
    lake, settings, annotator = Lake(root), AnnotateSettings(), CaptionsAnnotator()
    found: dict = {"start_s": round(_start(), 2)}
    own = mapped = 0
    for table, stage in (("descriptions", describe_shard), ("instructions", instruct_shard)):
        wall, processor = time.perf_counter(), time.process_time()
        facts = []
        for shard in lake.partitions("pairs"):
            facts.append(stage(lake, shard, annotator, settings, turn)[0])
            own, mapped = (max(most, now) for most, now in zip((own, mapped), resident(), strict=True))
        rows = sum(f.rows for f in facts)
        found[table] = {
            "requests": rows,
            "sent": sum(f.notes["requests_sent"] for f in facts),
            "ok": sum(f.notes["ok"] for f in facts),
            "per_second": round(rows / (time.perf_counter() - wall)),
            "per_processor_second": round(rows / (time.process_time() - processor)),
        }
    found |= {"own_mb": own, "mapped_mb": mapped}
    found["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return found


def resident() -> tuple[int, int]:
    """Resident memory in MB: the process's own, and that of mapped files; 0 where the system does not tell."""
    try:
        told = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    except OSError:
        return 0, 0
    return int(told["RssAnon"].split()[0]) // 1024, int(told["RssFile"].split()[0]) // 1024


def _start() -> float:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        small = build(Path(folder), 16)
        for stage in (describe_shard, instruct_shard):
            stage(small, "shard-00000", CaptionsAnnotator(), AnnotateSettings(), "start")
    return time.perf_counter() - began


def gate() -> dict[str, float | list[float]]:
    """Processor time of the first run, with all that a stage does, over that of writing the same answers alone; what was sent."""
    pairs, costs, again = 2000, [], []
    bare = CaptionsAnnotator()
    for turn in range(5):
        with tempfile.TemporaryDirectory() as folder:
            lake = build(Path(folder), pairs, pairs)
            captions = dict(zip(*lake.read("images", columns=["image_id", "caption"]).to_pydict().values(), strict=True))
            asked = [
                Request(
                    "describe",
                    row["pair_id"],
                    row["query_id"],
                    row["target_id"],
                    captions[row["query_id"]],
                    captions[row["target_id"]],
                )
                for row in lake.read("pairs").to_pylist()
            ]
            _forget()
            began = time.process_time()
            answers = dict(bare.answers(asked))
            alone = time.process_time() - began
            _forget()
            first, second = (measure(folder, name)["descriptions"] for name in ("first run", "second run"))
            took, took_again = (each["requests"] / each["per_processor_second"] for each in (first, second))
            if turn:  # the first also warms up
                costs.append(took / alone)
                again.append(took_again / took)
    return {
        "requests": first["requests"],
        "answers": len(answers),
        "sent_first": first["sent"],
        "sent_again": second["sent"],
        "usable": first["ok"],
        "stage_over_bare_annotator_processor": costs,
        "second_over_first_run_processor": again,
    }


def _forget() -> None:
    """Have every caption read and compared again."""
    analyse.read.cache_clear()
    frames._difference.cache_clear()


def run(root: Path | str, turn: str) -> dict:
    done = subprocess.run([sys.executable, __file__, "--measure", str(root), turn], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def throughput(pairs: int, address: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = f"{address}/{uuid.uuid4().hex[:8]}" if address else folder
        lake = build(place, pairs, pairs)
        for turn in ("first run", "second run"):
            print(turn, run(place, turn))
        if address:
            lake.storage.delete_below("")


def memory(sizes: list[int]) -> None:
    for pairs in sizes:
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder), pairs)
            print(f"{pairs:,} pairs", run(Path(folder), "first run"))


def servers(requests: int = 2000, rounds: int = 3) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.annotate.server import HANG, RudeServer
    from tests.annotate.test_openai_server import _answer, _describe, _nobody, _settings

    def rate(*urls: str) -> float:
        began = time.perf_counter()
        rows = _describe(_settings(*urls, concurrency=8, timeout_s=2.0, deadline_s=20.0), requests)
        assert {r["status"] for r in rows} == {"ok"}
        return requests / (time.perf_counter() - began)

    with RudeServer(_answer, delay=0.05) as a, RudeServer(_answer, delay=0.05) as b, RudeServer(lambda body, n: HANG) as c:
        for _ in range(rounds):
            healthy, dead, hanging = rate(a.url, b.url), rate(a.url, b.url, _nobody()), rate(a.url, b.url, c.url)
            print(
                f"two healthy servers {healthy:.0f} requests/s; with a third that is dead {dead / healthy:.0%}, "
                f"that hangs {hanging / healthy:.0%}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--lake", help="address in an object store below which the lake is made; default: a local folder")
    parser.add_argument("--memory", type=int, nargs="*", help="numbers of pairs; default: 10000 200000")
    parser.add_argument("--servers", action="store_true")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        gc.set_threshold(*COLLECT_AFTER)  # as the command does
        print(json.dumps(measure(*given.measure)))
    elif given.memory is not None:
        memory(given.memory or [10_000, 200_000])
    elif given.servers:
        servers()
    else:
        throughput(given.pairs, given.lake)
