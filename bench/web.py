"""The web page over a synthetic lake of a million triplets: how long a person waits, and how much memory it takes.

    python bench/web.py --lake DIR                      # makes the lake there first, if it is not there (about 0.7 GB)
    python bench/web.py --lake DIR --triplets 100000
    python bench/web.py --lake DIR --browser            # also in Chromium: from the address to the first pictures
    python bench/web.py --lake DIR --first-search       # of a lake with a checkpoint: the first search of a server just started

Counts are asserted before anything is timed. Each figure is the median of ``REPEATS`` calls after one that is not counted, wall
clock; processor time of the process is given beside it, since other work may share the cores. The texts, scores and ids are drawn
from a seed; pictures are a few hundred small PNGs under many ids.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import pyarrow as pa
import typer
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmret.ingest.pictures import image_table
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.schemas import IMAGES, SIGNALS, TABLES
from mmret.web.browse import PAGE, Filters, choices, count, page
from mmret.web.lineage import lineage
from mmret.web.site import open_site
from mmret.web.tables import run_query

REPEATS = 5
_SHARD = 100_000  # triplets
_WORDS = np.array("red blue green small large wooden stone old new open closed left right bird boat house tree person dog".split())


def main(
    lake: Annotated[Path, typer.Option(help="folder; made where it is missing")],
    triplets: Annotated[int, typer.Option(min=1000)] = 1_000_000,
    browser: Annotated[bool, typer.Option("--browser")] = False,
    first: Annotated[bool, typer.Option("--first-search")] = False,
) -> None:
    if first:
        return first_search(lake)
    store = Lake(lake)
    make(store, triplets)
    triplets = sum(store.facts("triplets", s).rows for s in store.partitions("triplets"))
    started = time.perf_counter()
    site = open_site(store, resolve(store)[0])
    print(json.dumps({"triplets": triplets, "open_s": round(time.perf_counter() - started, 2)}))
    tables = site.tables
    assert count(tables, Filters()) == triplets
    middle = page(tables, Filters(), triplets // PAGE // 2)

    def first_of(filters: Filters, number: int = 0) -> list[dict[str, Any]]:
        rows = page(tables, filters, number)
        site.thumbnails.prepare([i for r in rows for i in (r["query_id"], r["target_id"])])
        return rows

    shard = store.partitions("triplets")[-1]
    sql = "SELECT pair_id FROM pairs WHERE caption_score > 0.9 LIMIT 10000"
    for name, work in {
        "first page": lambda: first_of(Filters()),
        "page in the middle": lambda: first_of(Filters(), triplets // PAGE // 2),
        "count of all": lambda: count(tables, Filters()),
        "choices of the filters": lambda: choices(tables),
        "one shard, first page": lambda: first_of(Filters(shard=shard)),
        "two score ranges, first page": lambda: first_of(Filters(scores={"caption": (0.9, 0.95), "dino_image": (0.8, 0.9)})),
        "two score ranges, count": lambda: count(tables, Filters(scores={"caption": (0.9, 0.95), "dino_image": (0.8, 0.9)})),
        "text, first page": lambda: first_of(Filters(text="wooden bird")),
        "text, count": lambda: count(tables, Filters(text="wooden bird")),
        "text that nothing has": lambda: first_of(Filters(text="submarine")),
        "most alike by caption first": lambda: first_of(Filters(order="-caption")),
        "lineage of one": lambda: lineage(tables, middle[0]["pair_id"]),
        "free SQL, 10,000 pairs": lambda: run_query(tables, sql, 200_000),
    }.items():
        report(name, work)
    print(json.dumps({"peak_memory_mb": round(peak_mb())}))
    if browser:
        in_chromium(lake)


def gate() -> dict[str, float | list[float]]:
    """Processor time of a page of the browser over the bare query of the same rows; counts are asserted."""
    import tempfile

    import duckdb

    triplets = 6000
    with tempfile.TemporaryDirectory() as folder:
        store = Lake(folder)
        make(store, triplets)
        tables = open_site(store, resolve(store)[0]).tables
        files = f"read_parquet('{store.root}/triplets/*.parquet')"
        bare = duckdb.connect()
        costs = []
        for turn in range(7):
            started = time.process_time()
            rows = page(tables, Filters(text="wooden bird"))
            own, started = time.process_time() - started, time.process_time()
            for _ in range(3):
                peer = bare.execute(
                    f"SELECT * FROM {files} WHERE texts::VARCHAR ILIKE '%wooden bird%' ORDER BY pair_id LIMIT {PAGE}"
                )
                found = peer.fetchall()
            if turn:  # the first also warms up
                costs.append(3 * own / (time.process_time() - started))
        return {
            "triplets": count(tables, Filters()),
            "rows_of_a_page": len(rows),
            "rows_of_the_query": len(found),
            "page_over_bare_query_processor": costs,
        }


def report(name: str, work: Callable[[], Any]) -> None:
    """Median wall and processor seconds of ``work``."""
    work()
    wall, busy = [], []
    for _ in range(REPEATS):
        before, started = sum(psutil.Process().cpu_times()[:2]), time.perf_counter()
        work()
        wall.append(time.perf_counter() - started)
        busy.append(sum(psutil.Process().cpu_times()[:2]) - before)
    figures = {"wall_s": round(statistics.median(wall), 3), "cpu_s": round(statistics.median(busy), 3)}
    print(json.dumps({"what": name, **figures}), flush=True)


def peak_mb() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make(lake: Lake, triplets: int) -> None:
    """Tables and pictures, three triplets to a query picture, shards of ``_SHARD``; shards that are there are kept."""
    pool = [_png(np.random.default_rng([1, n])) for n in range(300)]
    table = lake.lance("images", IMAGES)
    known: list[str] = []
    for number, start in enumerate(range(0, triplets, _SHARD)):
        rows, shard, rng = min(_SHARD, triplets - start), f"shard-{number:05d}", np.random.default_rng([0, number])
        ids = [rng.bytes(16).hex() for _ in range(-(-rows // 3))]
        known = (known + ids)[-2 * _SHARD :]
        if shard in lake.partitions("triplets"):
            continue
        images = _images(rng, shard, ids)
        for first in range(0, len(ids), 8192):
            part = images.slice(first, 8192)
            data = pa.array([pool[i] for i in rng.integers(len(pool), size=part.num_rows)], pa.large_binary())
            table.add(part.append_column("data", data).cast(IMAGES))
        lake.write("images", shard, images, "bench")
        lake.write("corpus_manifest", shard, _filled("corpus_manifest", images, len(ids)), "bench")
        encoded = images.append_column("model", pa.array(["bench"] * len(ids)))
        for signal in SIGNALS:
            lake.write(signal, shard, _filled(signal, encoded, len(ids)), "bench")
        for name, made in _annotations(rng, ids, known, rows).items():
            lake.write(name, shard, made, "bench")
        print(f"made {shard}", file=sys.stderr, flush=True)
    image_table.index(table)
    table.optimize()


def _png(rng: np.random.Generator) -> bytes:
    out = io.BytesIO()
    Image.fromarray(rng.integers(256, size=(4, 4, 3), dtype=np.uint8)).resize((96, 96)).save(out, "PNG")
    return out.getvalue()


def _texts(rng: np.random.Generator, n: int, words: int) -> list[str]:
    return [" ".join(row) for row in _WORDS[rng.integers(len(_WORDS), size=(n, words))]]


def _filled(table: str, given: pa.Table, n: int) -> pa.Table:
    """``given`` with the columns of ``table``, null where it has none."""
    schema = TABLES[table]
    columns = [given[f.name].cast(f.type) if f.name in given.column_names else pa.nulls(n, f.type) for f in schema]
    return pa.table(columns, schema=schema)


def _images(rng: np.random.Generator, shard: str, ids: list[str]) -> pa.Table:
    n = len(ids)
    return _filled(
        "images",
        pa.table(
            {
                "image_id": ids,
                "shard": [shard] * n,
                "position": list(range(n)),
                "path": [f"{i}.png" for i in ids],
                "root": ["bench"] * n,
                "caption": _texts(rng, n, 8),
                "caption_words": [8] * n,
                "width": [96] * n,
                "height": [96] * n,
                "format": ["PNG"] * n,
                "mode": ["RGB"] * n,
                "licence": ["CC0-1.0"] * n,
            }
        ),
        n,
    )


def _annotations(rng: np.random.Generator, ids: list[str], known: list[str], n: int) -> dict[str, pa.Table]:
    query = np.repeat(np.array(ids), 3)[:n]
    target = np.array(known)[rng.integers(len(known), size=n)]
    negatives = np.array(known)[rng.integers(len(known), size=(n, 5))]
    pairs = [rng.bytes(16).hex() for _ in range(n)]
    texts = np.array(_texts(rng, 3 * n, 7)).reshape(n, 3)
    columns = {
        "pair_id": pairs,
        "query_id": query,
        "target_id": target,
        "texts": list(texts),
        "signals": [["clip_image", "caption"]] * n,
        "hard_negatives": [[q, *row] for q, row in zip(query, negatives, strict=True)],
        "split": ["train"] * n,
        "query_path": query,
        "target_path": target,
        "licence": ["CC0-1.0"] * n,
        "text": _texts(rng, n, 30),
        "model": ["bench"] * n,
        "prompt_version": ["1"] * n,
        "parser_version": ["1"] * n,
        "status": ["ok"] * n,
        **{f"{s}_score": rng.uniform(0.5, 1, n).astype(np.float32) for s in SIGNALS},
    }
    made = pa.table(
        {
            k: pa.array([list(v) for v in values] if isinstance(values[0], np.ndarray | list) else values)
            for k, values in columns.items()
        }
    )
    return {name: _filled(name, made, n) for name in ("pairs", "descriptions", "instructions", "triplets")}


def first_search(lake: Path) -> None:
    """Seconds until a server that was just started answers a text with both checkpoints, over the page's own socket.

    One server after another: ``listens_s`` from its start; ``answered_s`` and ``both_answered_s``, with their pictures named,
    from the request of the page, which is sent as soon as it listens.
    """
    from tests.web.test_browser import served

    for _ in range(REPEATS):
        began = time.perf_counter()
        with served(lake) as address:
            times = {"listens_s": time.perf_counter() - began, **_answered(address)}
        print(json.dumps({k: round(v, 2) for k, v in times.items()} | {"load": round(os.getloadavg()[0], 1)}), flush=True)


def _answered(address: str) -> dict[str, float]:
    import re
    import threading
    import uuid

    import httpx
    import socketio

    from mmret.web.answer import MAX_RESULTS

    pictures, times, done = [0], [], threading.Event()
    started = time.perf_counter()

    def came(_: str, data: Any = None, *more: Any) -> None:
        pictures[0] += len(re.findall(r"/pictures/[0-9a-f]{32}/", json.dumps(data)))
        times.extend([time.perf_counter() - started] * (min(2, pictures[0] // MAX_RESULTS) - len(times)))
        if len(times) == 2:
            done.set()

    page_ = httpx.get(f"{address}/search?text=a+large+red+circle", timeout=60)
    client_id = re.search(r"client_id.{1,10}?([0-9a-f-]{36})", page_.text)[1]
    tab = {"tab_id": uuid.uuid4().hex, "document_id": uuid.uuid4().hex, "old_tab_id": ""}
    about = httpx.QueryParams({"client_id": client_id, "implicit_handshake": "true", "next_message_id": 0, **tab})
    client = socketio.Client(reconnection=False)
    client.on("*", came)
    client.connect(f"{address}/?{about}", socketio_path="/_nicegui_ws/socket.io", transports=["websocket"])
    answered = done.wait(120)
    client.disconnect()
    assert answered, "no answer in two minutes"
    return {"answered_s": times[0], "both_answered_s": times[1]}


def in_chromium(lake: Path) -> None:
    """Seconds from the address to the first pictures, and from a key to the next page's, in a browser."""
    from tests.browser import Watched, chromium
    from tests.web.test_browser import served

    shown = "[...document.querySelectorAll('.triplet img')].slice(0, 8).filter(i => i.naturalWidth > 0).length == 8"
    with chromium() as browser, served(lake) as address:
        for visit in range(3):
            page_ = Watched(browser, address).page
            started = time.perf_counter()
            page_.goto(address)
            page_.wait_for_function(shown, timeout=60_000)
            arrived = time.perf_counter() - started
            started = time.perf_counter()
            page_.keyboard.press("n")
            page_.get_by_text(f"{PAGE + 1} to {2 * PAGE}").wait_for(timeout=60_000)
            page_.wait_for_function(shown, timeout=60_000)
            print(
                json.dumps(
                    {
                        "visit": visit + 1,
                        "first_pictures_s": round(arrived, 2),
                        "next_page_s": round(time.perf_counter() - started, 2),
                        "load": round(os.getloadavg()[0], 1),
                    }
                )
            )


if __name__ == "__main__":
    typer.run(main)
