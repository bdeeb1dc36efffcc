"""`mmret serve` under load: how long answers take at fixed rates, whether they are right, what a kill or a new checkpoint does.

    python bench/serve.py --lake DIR                         # makes the lake there first, 100,000 x 512: 0.6 GB; 20 minutes
    python bench/serve.py --lake DIR --minutes 1             # 9 minutes less
    python bench/serve.py --lake DIR --only both --only peer
    python bench/serve.py --lake DIR --images 2000 --seconds 5 --minutes 0.2 --kills 1        # a rehearsal

**Latencies** count from the moment at which a request was due in a Poisson process of fixed rate, whatever happened to those
before it; locust sends them (`pip install locust`). **Answers** are compared with products in numpy over every picture, and texts
are encoded by transformers alone; all of them in the parts `equal`, `kills` and `taken up`, a sample in the others. Every request
is for another text or any picture, so that nothing is answered from a cache; where all answers are compared, they are drawn
from 1,000 pictures and 300 texts. **The peer** is the same lake in faiss' exact index behind FastAPI, queries that wait searched
together. The sender runs on the same cores: its share of one is in the table. Run it where no other program does.

Columns: latencies in ms, of `kills` with the time that the server was away; `late_p99`, how late the sender was, which the
latencies contain; `server_ms`, processor time of the server a request.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from serving import lake as lakes
from serving.load import Answered, Stream, first_answer, sent
from serving.report import Report
from serving.routes import Question
from serving.server import Server, Watch, free_port, histograms
from serving.truth import State, Verdict, image_vectors, judge, stored_vectors

from mmret.ingest.pictures.images import images_by_id
from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.retriever.models.load import embedding_digest
from mmret.search.search import Page, Query, Searcher
from mmret.search.service import SearchService

_PYTHON = shlex.quote(sys.executable)
COMMAND = f"{_PYTHON} -m mmret serve --lake {{lake}} --recipe {lakes.RECIPE} --port {{port}}"
PEER = f"{_PYTHON} {shlex.quote(str(Path(__file__).with_name('serving') / 'peer.py'))} --lake {{lake}} --port {{port}}"
AT_RATE = ("by id", "by text", "both")
PARTS = ("equal", *AT_RATE, "memory", "kills", "taken up", "peer")
AIM_MS, AIM_MB, AIM_FIRST_S, AIM_SLOPE = 50.0, 1500.0, 5.0, 1.0
"""What is promised: 99 of 100 answers within so many ms, so much memory, the first answer after a start, MB a minute of growth."""
ADDED = 1000  # pictures of the shard that comes under load
_KILL_S, _TAKEN_UP_S, _PEER_S = 20.0, 60.0, 30.0  # of load: for each kill, around shard and checkpoint, for each rate of the peer
_RETRY_S = 30.0
_FLAT_AFTER_MIN = 3.0  # before that allocators still fill their pools
_POOL_IDS, _POOL_TEXTS = 1000, 300
_GATE_PICTURES = 10_000


@dataclass(frozen=True)
class Bench:
    """What all parts need; rates a second."""

    lake: Lake
    by_id: float
    by_text: float
    command: str
    report: Report

    @property
    def folder(self) -> Path:
        return self.lake.root / "checkpoints" / lakes.RECIPE

    def server(self, lake: Lake | None = None, command: str | None = None) -> Server:
        port = free_port()
        words = (command or self.command).format(lake=shlex.quote(str((lake or self.lake).root)), port=port)
        return Server(shlex.split(words), port)

    def state(self) -> State:
        ids, vectors = stored_vectors(lakes.vectors_path(self.lake, self.folder, s) for s in self.lake.partitions("images"))
        return State(embedding_digest(self.folder), ids, vectors, self.folder)

    def ids(self) -> list[str]:
        return self.lake.read("images", columns=["image_id"])["image_id"].to_pylist()

    def streams(self, kinds: str = "both", pool: bool = False) -> list[Stream]:
        """``kinds``: by id, by text or both; ``pool``: of few pictures and texts, so that every answer can be compared."""
        rng, ids = np.random.default_rng(3), self.ids()
        if pool:
            ids = rng.choice(ids, size=min(len(ids), _POOL_IDS), replace=False).tolist()
        texts = lakes.texts(rng, _POOL_TEXTS)

        def picture(rng: np.random.Generator) -> Question:
            return Question(image_id=ids[rng.integers(len(ids))])

        def text(rng: np.random.Generator) -> Question:
            return Question(text=texts[rng.integers(len(texts))] if pool else lakes.texts(rng, 1)[0])

        found = (Stream("by id", self.by_id, picture), Stream("by text", self.by_text, text))
        return [stream for stream in found if kinds in (stream.label, "both")]


def main(
    lake: Annotated[Path, typer.Option(help="folder; made where it is missing")],
    images: Annotated[int, typer.Option(min=1000)] = 100_000,
    dim: Annotated[int, typer.Option(min=8)] = 512,
    by_id: Annotated[float, typer.Option(help="queries by id a second")] = 200,
    by_text: Annotated[float, typer.Option(help="queries by text a second")] = 100,
    seconds: Annotated[float, typer.Option(help="of each part at a fixed rate")] = 60,
    minutes: Annotated[float, typer.Option(help="of both kinds, with an eye on memory")] = 10,
    kills: Annotated[int, typer.Option(help="rounds of kill -9 and a start under load", min=1)] = 4,
    only: Annotated[list[str] | None, typer.Option(help=f"parts: {', '.join(PARTS)}")] = None,
    command: Annotated[str, typer.Option(help="of the server, with {lake} and {port}")] = COMMAND,
) -> None:
    chosen = [part for part in PARTS if not only or part in only]
    if unknown := set(only or ()) - set(PARTS):
        raise typer.BadParameter(f"no part called {', '.join(unknown)}; there are {', '.join(PARTS)}")
    store = Lake(lake.resolve())
    lakes.make(store, images, dim)
    bench = Bench(store, by_id, by_text, command, Report())
    others = psutil.cpu_percent(interval=1.0)
    print(json.dumps({"machine": platform.machine(), "cores": os.cpu_count(), "used_by_others_percent": others}), flush=True)
    if {"equal", *AT_RATE, "memory"} & set(chosen):
        with started(bench, "serve") as server:
            if "equal" in chosen:
                equal(bench, server)
            for kinds in [part for part in chosen if part in AT_RATE]:
                at_rate(bench, server, "serve", kinds, seconds)
            if "memory" in chosen:
                steady(bench, server, minutes)
    if "kills" in chosen:
        killed(bench, kills)
    if "taken up" in chosen:
        taken_up(bench)
    if "peer" in chosen:
        with started(bench, "peer", PEER) as server:
            for kinds in AT_RATE:
                at_rate(bench, server, "peer", kinds, min(seconds, _PEER_S))
    print("\n" + bench.report.table())
    raise typer.Exit(any(row.get("wrong") for row in bench.report.rows))


@contextmanager
def started(bench: Bench, part: str, command: str | None = None) -> Iterator[Server]:
    """A server that is ready and has answered some of each kind, so that what follows is no first time."""
    with bench.server(command=command) as server:
        ready = server.ready()
        server.ask(Question(image_id=bench.ids()[0]))
        answered = time.monotonic() - server.started
        resident, own = server.memory()
        bench.report.add(part, "start", ready_s=ready, first_answer_s=answered, resident_mb=resident, own_mb=own)
        sent(server.address, bench.streams(), 3.0, seed=99, keep=0.0)
        yield server


def equal(bench: Bench, server: Server) -> None:
    """200 queries by id and 50 by text, one after another, each compared with brute force."""
    rng = np.random.default_rng(11)
    asked = [stream.question(rng) for stream, n in zip(bench.streams(), (200, 50), strict=True) for _ in range(n)]
    verdict = judge([(question, server.ask(question)) for question in asked], [bench.state()])
    bench.report.add("serve", "equal", checked=verdict.checked, wrong=verdict.wrong, said=verdict.said)
    bench.report.promise(f"{verdict.checked} answers equal brute force: {verdict.wrong} wrong", not verdict.wrong)


def at_rate(bench: Bench, server: Server, part: str, kinds: str, seconds: float) -> None:
    """A row for each kind, and one for each histogram of the server's: where its time went."""
    before, used = server.metrics(), server.processor_s()
    answered = sent(server.address, bench.streams(kinds), seconds, seed=AT_RATE.index(kinds), keep=0.1)
    used, after = server.processor_s() - used, server.metrics()
    rows(bench, part, kinds, answered, used)
    for row in histograms(before, after):
        figures = {"count": int(row["count"]), "ms_each": 1e3 * row["seconds"] / row["count"], "p99_under_s": row["p99_under"]}
        bench.report.add(part, f"{kinds}: {row['name']}", **figures, share_of_time=row["seconds"] / answered.wall_s)


def rows(bench: Bench, part: str, what: str, answered: Answered, used: float) -> None:
    """A row for each kind of query; processor times and what was compared are of all kinds together."""
    verdict = compared(answered, [bench.state()])
    figures = {"server_ms": 1e3 * used / len(answered.due), "server_share": used / answered.wall_s}
    figures |= {"sender_share": answered.sender_processor_s / answered.wall_s, "checked": verdict.checked, "wrong": verdict.wrong}
    for label in sorted(set(answered.label)):
        name, own = what if what == label else f"{what}: {label}", answered.figures(label)
        bench.report.add(part, name, **own, **figures)
        if part == "serve":
            words = f"{name}: 99 of 100 within {own['p99']:.1f} ms (promised {AIM_MS:.0f})"
            words += f", {own['errors']} errors, {verdict.wrong} wrong"
            bench.report.promise(words, own["p99"] < AIM_MS and not own["errors"] and not verdict.wrong)
    if answered.failures or verdict.said:
        bench.report.add(part, f"{what}: said", failures=few(answered.failures), wrong_answers=verdict.said)


def compared(answered: Answered, states: list[State]) -> Verdict:
    return judge([(question, body) for question, body, _ in answered.kept], states)


def few(said: list[str]) -> list[str]:
    return list(dict.fromkeys(said))[:5]


def steady(bench: Bench, server: Server, minutes: float) -> None:
    """Both kinds for long: latencies, and the server's memory every second."""
    with Watch(server) as watch:
        used = server.processor_s()
        answered = sent(server.address, bench.streams(), minutes * 60, seed=3, keep=0.02)
        used = server.processor_s() - used
    rows(bench, "serve", f"{minutes:g} minutes", answered, used)
    memory = watch.figures()
    bench.report.add("serve", "memory", **{f"{name}_mb": value for name, value in memory.items()})
    if memory:
        words = f"memory at most {memory['most']:.0f} MB (promised {AIM_MB:.0f}), grew by {memory['slope']:+.2f} MB a minute"
        flat = memory["slope"] < AIM_SLOPE or minutes < _FLAT_AFTER_MIN
        bench.report.promise(words, memory["most"] < AIM_MB and flat)


def killed(bench: Bench, rounds: int) -> None:
    """kill -9 at random moments under load, started again at once; clients ask again while connections are refused."""
    rng = np.random.default_rng(time.time_ns())  # other moments each time
    moments = (np.arange(rounds) + rng.uniform(0.25, 0.5, rounds)) * _KILL_S
    with bench.server() as server, ThreadPoolExecutor() as pool:
        server.ready()
        began = time.monotonic()
        load = pool.submit(sent, server.address, bench.streams(pool=True), rounds * _KILL_S, 4, 1.0, _RETRY_S)
        starts = []
        for moment in moments:
            time.sleep(max(0.0, began + moment - time.monotonic()))
            server.kill()
            starts.append(server.start().started)
        answered = load.result()
    verdict, waited = compared(answered, [bench.state()]), answered.figures()
    first = [first_answer(answered, at) for at in starts]
    figures = {"checked": verdict.checked, "wrong": verdict.wrong, "first_answer_s": [round(s, 2) for s in first]}
    figures |= {"sent_again": int((answered.attempts > 1).sum()), "failures": few(answered.failures), "said": verdict.said}
    bench.report.add("kills", f"{rounds} kills", **waited, **figures)
    words = ", ".join(f"{s:.1f}" for s in first)
    bench.report.promise(f"killed {rounds} times: first answer {words} s after the start (promised 5)", max(first) < AIM_FIRST_S)
    words = f"meanwhile {verdict.wrong} of {verdict.checked} answers wrong, {waited['errors']} requests unanswered"
    bench.report.promise(words, not verdict.wrong and not waited["errors"])


def taken_up(bench: Bench) -> None:
    """A shard of new pictures, then another checkpoint, under load: each answer must be right for the state that it names."""
    copy = lakes.linked_copy(bench.lake, bench.lake.root.with_name(f".{bench.lake.root.name}.work"))
    with bench.server(copy) as server, ThreadPoolExecutor() as pool:
        server.ready()
        states = known_states(copy)
        load = pool.submit(sent, server.address, bench.streams(pool=True), _TAKEN_UP_S, 5)
        began = time.monotonic()
        time.sleep(0.15 * _TAKEN_UP_S)
        added = lakes.add_shard(copy, "shard-99999", ADDED, seed=99)
        at_shard = time.monotonic()
        time.sleep(max(0.0, began + 0.5 * _TAKEN_UP_S - time.monotonic()))
        lakes.swap_checkpoint(copy)
        at_swap = time.monotonic()
        answered = load.result()
        after, words = server.ask(Question(text="a red boat")), server.last_words()
    files = images_by_id(copy, added)
    for state in list(states):  # the new pictures too, by whichever checkpoint
        vectors = image_vectors(state.folder, [files[i] for i in added])
        states.append(State(state.checkpoint, [*state.ids, *added], np.concatenate([state.vectors, vectors]), state.folder))
    verdict, waited, last = compared(answered, states), answered.figures(), states[-1]
    named = [(body["checkpoint"], body["gallery"], at) for _, body, at in answered.kept]
    shard_s = min((at - at_shard for _, gallery, at in named if gallery == len(last.ids)), default=float("nan"))
    swap_s = min((at - at_swap for checkpoint, _, at in named if checkpoint == last.checkpoint), default=float("nan"))
    figures = {"checked": verdict.checked, "wrong": verdict.wrong, "shard_s": shard_s, "checkpoint_s": swap_s}
    done = (after["checkpoint"], after["gallery"]) == last.key
    figures |= {"answers": {f"{digest} {n}": count for (digest, n), count in verdict.states.items()}}
    figures |= {"failures": few(answered.failures), "said": verdict.said} | ({} if done else {"server_said": words})
    bench.report.add("taken up", "shard, checkpoint", **waited, **figures)
    words = f"a new shard answers {shard_s:.1f} s after it is there, a new checkpoint after {swap_s:.1f} s, under load"
    bench.report.promise(words, done and max(shard_s, swap_s) < _TAKEN_UP_S)
    words = f"meanwhile {verdict.wrong} of {verdict.checked} answers wrong, {waited['errors']} errors"
    bench.report.promise(words, not verdict.wrong and not waited["errors"])
    lakes.remove(copy)


def known_states(lake: Lake) -> list[State]:
    """The lake's gallery by the first checkpoint, and by the other; the folders are copied aside, for a place may be taken."""
    states = []
    for folder in (lake.root / "checkpoints" / lakes.RECIPE, lake.root / lakes.OTHER):
        ids, vectors = stored_vectors(lakes.vectors_path(lake, folder, s) for s in lake.partitions("images"))
        states.append(State(embedding_digest(folder), ids, vectors, lakes.kept_aside(lake, folder)))
    return states


def gate() -> dict[str, float | list[float]]:
    """Answers over HTTP against brute force, and processor time of the search service over that of a product of numpy a query."""
    with tempfile.TemporaryDirectory() as folder:
        store = Lake(folder)
        lakes.make(store, _GATE_PICTURES, 512)
        bench = Bench(store, 1, 1, COMMAND, Report())
        ratios = service_over_products(bench)
        asked = [stream.question(np.random.default_rng(n)) for stream in bench.streams() for n in range(50)]
        with bench.server() as server:
            server.ready()
            before = judge([(question, server.ask(question)) for question in asked], [bench.state()])
            server.kill()
            server.start().ready()
            after = judge([(question, server.ask(question)) for question in asked], [bench.state()])
    return {
        "pictures": _GATE_PICTURES,
        "answers": before.checked + after.checked,
        "wrong_answers": before.wrong + after.wrong,
        "service_over_numpy_processor": ratios,
    }


def service_over_products(bench: Bench, at_once: int = 128, turns: int = 7) -> list[float]:
    """Processor time of queries by id that wait together, over that of one float32 product and its ten best a query."""
    profile, state = resolve(bench.lake)[0], bench.state()
    service = SearchService(Searcher(bench.lake, profile), [lakes.RECIPE])
    service.start()
    rng, ratios = np.random.default_rng(0), []
    try:
        for turn in range(turns):
            places = rng.integers(len(state.ids), size=at_once)
            started = time.process_time()
            waiting = [service.submit(Query(image_id=state.ids[place]), Page(k=10)) for place in places]
            found = [future.result(timeout=300) for future in waiting]
            own, started = time.process_time() - started, time.process_time()
            for place, result in zip(places, found, strict=True):
                scores = state.vectors @ state.vectors[place]
                scores[place] = -np.inf
                best = np.argpartition(scores, len(scores) - 10)[-10:]
                assert {state.ids[i] for i in best} == {hit["image_id"] for hit in result.hits}
            if turn:  # the first also loads
                ratios.append(own / (time.process_time() - started))
    finally:
        service.stop()
    return ratios


if __name__ == "__main__":
    typer.run(main)
