"""How long a run takes on more machines or with more pictures: a discrete model of its steps, fed with the times of a recorded run.

    python bench/scale.py record --lake L run.json                       # the steps of a lake's runs, by Dagster's history
    python bench/scale.py record --lake L two.json --nodes 2 --cpus 1    # of a run on a cluster: what it ran on is said by hand
    python bench/scale.py measure D                                       # 8 and 32 shards on one and two namespaced nodes; root
    python bench/scale.py predict two.json --rates run.json              # the recorded total against what the model makes of it
    python bench/scale.py tables --rates run.json --node-price 2.5       # 1 M, 20 M and 1 B pictures on 1, 8 and 64 nodes

The model. A run is the runs of the stage table one after the other; in each, every shard is a chain of steps that any node may take
as soon as it has a slot free. A step takes what the stage table says of it (``Cost``), times what the recorded run took for its
stage over what the table says, and the time that its bytes take. Nodes fail at random; a step of a failed node is done again.
What it does not know: steps of one node that want the same memory, a server of a model that many ask, training on several nodes.
Cost: seconds; a table of a billion pictures (1,000 shards) half a minute.
"""

from __future__ import annotations

import heapq
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmret.cli.run_work import LAUNCH, Part, Work  # noqa: E402
from mmret.settings import Profile, load_profile  # noqa: E402
from mmret.stages import FINGERPRINTED_STAGES, RUNS, STAGES  # noqa: E402

VECTOR = 3 * 768 * 2
"""Bytes of a picture's vectors: three signals of 768 components."""
BYTES: dict[str, dict[str, float]] = {
    "images": {"image": 100_000},
    "clip_image": {"image": 100_000},
    "dino_image": {"image": 100_000},
    "caption": {"image": 200},
    "candidates": {"image so far": VECTOR},
    "neighbours": {"image": 1_500},
    "pairs": {"image": 1_100 + 2.5 * VECTOR, "image of the lake": 80 + 3 * 40 + 10},
    "triplets": {"image of the lake": 200},
    "tasks": {"image of the lake": 100},
}
"""Bytes that a partition reads per unit: pictures of about 100 kB; of mining as bench/growth.py counts them, at 768 components; of
``pairs`` and what follows captions, ids and rows of images by the shards they are linked to."""
WRITTEN: dict[str, float] = {"images": 100_000, "clip_image": 1_600, "dino_image": 1_600, "caption": 1_600, "candidates": 1_500}
WRITTEN |= {"neighbours": 1_100, "pairs": 200}
"""Bytes written per picture of the partition, where they are many."""
NOT_SHARED_OUT = ("towers", "checkpoints", "evaluations")
"""Stages that the tables leave out: they are no steps of shards."""


@dataclass(frozen=True)
class Cluster:
    """Alike nodes. Speeds in bytes a second, rates of failure per node and hour, times in seconds."""

    nodes: int = 1
    cpus: int = 1
    gpus: int = 0
    node_speed: float = 1e9
    store_speed: float = 1e11
    failures: float = 0.0
    noticed_after: float = 60.0
    overhead: float = LAUNCH.beside


@dataclass(frozen=True)
class Recorded:
    """A run as it was: ``steps`` (stage, partition, began, ended) in seconds; ``images`` by shard; what it ran on."""

    profile: str
    overrides: Mapping[str, Any]
    images: Mapping[str, int]
    steps: Sequence[tuple[str, str, float, float]]
    pictures_trained_on: int = 0
    nodes: int = 1
    cpus: int = 1
    gpus: int = 0

    @classmethod
    def read(cls, path: Path) -> Recorded:
        return cls(**json.loads(path.read_text()))

    @property
    def seconds(self) -> float:
        return max(s[3] for s in self.steps) - min(s[2] for s in self.steps)

    def settings(self) -> Profile:
        return load_profile(self.profile, dict(self.overrides))

    def work(self) -> Work:
        to_do: dict[str, dict[str, bool]] = {}
        for stage, partition, *_ in self.steps:
            to_do.setdefault(stage, {})[partition] = False
        return Work(self.images, to_do, self.pictures_trained_on)


@dataclass
class Outcome:
    """What the model says: seconds from begin to end, slot-seconds by stage, bytes read, steps done again."""

    seconds: float = 0.0
    by_stage: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    bytes_read: float = 0.0
    done_again: int = 0

    @property
    def wall(self) -> tuple[str, float]:
        """The stage that takes most of the slots' time, and its share."""
        stage = max(self.by_stage, key=self.by_stage.__getitem__)
        return stage, self.by_stage[stage] / sum(self.by_stage.values())


@dataclass(frozen=True)
class Rate:
    """How many times what the stage table says a step takes, and the seconds that the first one takes more, for its libraries."""

    factor: float = 1.0
    first: float = 0.0


def rates_of(recorded: Recorded) -> dict[str, Rate]:
    """By stage, from all of its steps but the first, if there are others."""
    profile, work = recorded.settings(), recorded.work()
    steps: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for stage, partition, began, ended in recorded.steps:
        steps[stage].append((ended - began, work.part(profile, stage, partition).seconds))
    found = {}
    for stage, times in steps.items():
        took, said = (sum(column) for column in zip(*(times[1:] or times), strict=True))
        factor = took / said if said else 1.0
        found[stage] = Rate(factor, max(0.0, times[0][0] - factor * times[0][1]))
    return found


def bytes_of(part: Part, images: Mapping[str, int], so_far: float, lake: float) -> tuple[float, float]:
    """Bytes that a step reads and writes."""
    units = {"image": images.get(part.partition, 0), "image so far": so_far, "image of the lake": lake}
    read = sum(units[unit] * n for unit, n in BYTES.get(part.stage, {}).items())
    return read, WRITTEN.get(part.stage, 0.0) * units["image"]


def simulate(work: Work, profile: Profile, cluster: Cluster, rates: Mapping[str, Rate], seed: int = 0) -> Outcome:
    """Play ``work`` through on ``cluster``; ``rates`` as :func:`rates_of` returns them; of a stage that they
    do not have, as the table says. ``seconds`` is infinite where a step takes
    longer than a node usually lasts: make shards smaller."""
    outcome, clock, players = Outcome(), 0.0, _Nodes(cluster, seed)
    lake, so_far, seen = float(sum(work.images.values())), {}, 0
    for shard, images in work.images.items():
        so_far[shard] = seen = seen + images
    begun: Counter[str] = Counter()
    alone = min(cluster.node_speed / max(1, cluster.cpus + cluster.gpus), cluster.store_speed / cluster.nodes)
    for run in RUNS:
        if clock == float("inf"):
            break
        chains: dict[str, list[tuple[str, float]]] = {}
        for stage in run:
            for partition in work.to_do.get(stage, {}):
                part = work.part(profile, stage, partition)
                read, written = bytes_of(part, work.images, so_far.get(partition, lake), lake)
                rate = rates.get(stage, Rate(1.0, part.first))
                first = rate.first if begun[stage] < cluster.nodes else 0.0  # then a node has the libraries
                begun[stage] += 1
                seconds = part.seconds * rate.factor + first + (read + written) / alone
                chains.setdefault(partition, []).append((stage, seconds))
                outcome.bytes_read += read
        if cluster.failures and any(s * cluster.failures > 3600 for chain in chains.values() for _, s in chain):
            for stage, seconds in (step for chain in chains.values() for step in chain):
                outcome.by_stage[stage] += seconds
            clock = float("inf")
        else:
            clock = players.play(list(chains.values()), clock, outcome)
    outcome.seconds = clock
    return outcome


def on_its_own_nodes(recorded: Recorded, overhead: float) -> Cluster:
    """What ``recorded`` ran on; its bytes are in the times of its steps already."""
    unlimited = float("inf")
    return Cluster(recorded.nodes, recorded.cpus, recorded.gpus, node_speed=unlimited, store_speed=unlimited, overhead=overhead)


def overhead_of(recorded: Recorded) -> float:
    """Seconds that a step holds a slot beside its work: those with which the model takes as long as the run did."""
    profile, work, rates = recorded.settings(), recorded.work(), rates_of(recorded)
    low, high = 0.0, recorded.seconds
    for _ in range(40):
        middle = (low + high) / 2
        if simulate(work, profile, on_its_own_nodes(recorded, middle), rates).seconds < recorded.seconds:
            low = middle
        else:
            high = middle
    return high


class _Nodes:
    """The slots of a cluster, each with the time from which it is free, and the times at which its nodes fail."""

    def __init__(self, cluster: Cluster, seed: int):
        self.cluster, self._rng = cluster, np.random.default_rng(seed)
        self._free = {"cpu": [(0.0, node) for node in range(cluster.nodes) for _ in range(cluster.cpus)]}
        self._free["gpu"] = [(0.0, node) for node in range(cluster.nodes) for _ in range(cluster.gpus)] or self._free["cpu"]
        self._fails = [self._next_failure(0.0) for _ in range(cluster.nodes)]

    def play(self, chains: list[list[tuple[str, float]]], begin: float, outcome: Outcome) -> float:
        """Do the steps (stage, seconds) of every chain, one after the other; returns when the last one has ended."""
        ready = [(begin, at, 0) for at in range(len(chains))]
        heapq.heapify(ready)
        end = begin
        while ready:
            since, at, step = heapq.heappop(ready)
            stage, seconds = chains[at][step]
            slots = self._free["gpu" if STAGES[stage].needs == "gpu" else "cpu"]
            free, node = heapq.heappop(slots)
            start = max(since, free)
            while self._fails[node] <= start:
                self._fails[node] = self._next_failure(self._fails[node])
            done = start + seconds + self.cluster.overhead
            if self._fails[node] < done:
                done, again = self._fails[node] + self.cluster.noticed_after, True
            else:
                again = False
            outcome.done_again += again
            outcome.by_stage[stage] += done - start
            heapq.heappush(slots, (done, node))
            if again or step + 1 < len(chains[at]):
                heapq.heappush(ready, (done, at, step if again else step + 1))
            end = max(end, done)
        return end

    def _next_failure(self, after: float) -> float:
        return after + self._rng.exponential(3600 / self.cluster.failures) if self.cluster.failures else float("inf")


def made_up(profile: Profile, images: int, shard: int) -> Work:
    """A first run over ``images`` pictures in shards of ``shard``, up to the training set."""
    names = {f"shard-{at:05d}": min(shard, images - at * shard) for at in range(-(-images // shard))}
    stages = [s for n, s in FINGERPRINTED_STAGES.items() if n not in NOT_SHARED_OUT and s.cost is not None]
    to_do = {s.name: dict.fromkeys(names if s.partitions == "shard" else ["all"], False) for s in stages}
    return Work(names, {k: v for k, v in to_do.items() if k not in ("written_captions", "scores")})


app = typer.Typer(add_completion=False, help=__doc__.split("\n")[0])


@app.command()
def record(lake: Annotated[Path, typer.Option()], out: Path, nodes: int = 1, cpus: int = 1, gpus: int = 0) -> None:
    """Write the steps of the lake's last run of every partition, as Dagster's history has them."""
    from assets.runner.run import dagster_instance
    from mmret.lake import Lake
    from mmret.lake.configuration import resolve

    store = Lake(lake)
    configuration = resolve(store)[1]
    found: dict[tuple[str, str], tuple[float, float]] = {}
    with dagster_instance(store) as instance:
        # the database of a cluster has the runs of other lakes too; a lake that was moved takes its own history along
        own = Path(instance.root_directory).resolve() == (store.scratch / ".dagster").resolve()
        found_runs = instance.get_run_records()
        runs = [run for run in found_runs if own or run.dagster_run.tags.get("mmret/lake", store.address) == store.address]
        for run in reversed(runs):
            partition = run.dagster_run.tags.get("dagster/partition", "all")
            for step in instance.get_run_step_stats(run.dagster_run.run_id):
                stage, _, inside = step.step_key.partition("[")
                if stage in FINGERPRINTED_STAGES and step.start_time and step.end_time:
                    found[stage, inside.rstrip("]") or partition] = step.start_time, step.end_time
    if not found:
        raise SystemExit(f"{lake} has no history of steps: run `mmret run --lake {lake}` first")
    images = {s: facts.rows for s in store.shards() if (facts := store.facts("corpus_manifest", s))}
    zero = min(began for began, _ in found.values())
    seconds = {where: (round(began - zero, 2), round(ended - zero, 2)) for where, (began, ended) in found.items()}
    steps = sorted(((*where, *when) for where, when in seconds.items()), key=lambda s: s[2])
    trained_on = max((row["steps"] * 64 for row in store.read("towers").to_pylist()), default=0)
    made = Recorded(configuration["profile"], configuration["overrides"], images, steps, trained_on, nodes, cpus, gpus)
    out.write_text(json.dumps(asdict(made)) + "\n")
    print(f"{len(steps)} steps of {len(images)} shards, {made.seconds:.0f} s, in {out}")


@app.command()
def measure(
    folder: Path,
    shards: Annotated[str, typer.Option(help="of the runs on each number of nodes")] = "8,32",
    nodes: Annotated[str, typer.Option(help="of one core each")] = "1,2",
    images: Annotated[int, typer.Option(help="of a shard")] = 40,
) -> None:
    """Run the graph on Ray clusters of hosts in network namespaces and record each run; root, Postgres, some minutes each."""
    from tests.cluster.namespaces import hosts, postgres_on, ray_cluster
    from tests.small_runs import TINY

    folder.mkdir(parents=True, exist_ok=True)
    settings = [part for each in (*TINY, "train=[]") for part in ("--set", each)]
    for count in map(int, nodes.split(",")):
        with hosts("scl", count, "10.78.0") as made, postgres_on(made[0]) as postgres, ray_cluster(made, env=postgres) as cluster:
            for number in map(int, shards.split(",")):
                lake = folder.resolve() / f"{number}-shards-{count}-nodes"
                source = ["--images", f"shapes:{number * images}?seed=3", "--shard-size", str(images)]
                line = [sys.executable, "-W", "ignore", "-m", "mmret", "run", "--lake", str(lake), *source, *settings]
                done = made[0].run([*line, "--on", f"ray:{cluster.address}", "--json"], env=cluster.env, timeout=3600)
                if done.returncode:
                    raise SystemExit(done.stderr[-3000:])
                os.environ |= {**postgres, "DAGSTER_HOME": str(lake / ".dagster-cluster")}
                record(lake, folder / f"{lake.name}.json", count)
                del os.environ["DAGSTER_HOME"]  # the next lake has its own


@app.command()
def predict(
    recorded: Path,
    rates: Annotated[Path, typer.Option(help="a recorded run, another one")],
    overhead: Annotated[float | None, typer.Option(help="seconds a step beside its work; without it those of RATES")] = None,
) -> None:
    """What the model makes of a recorded run by the rates of another, and by how much it is off."""
    run, other = Recorded.read(recorded), Recorded.read(rates)
    beside = overhead_of(other) if overhead is None else overhead
    predicted = simulate(run.work(), run.settings(), on_its_own_nodes(run, beside), rates_of(other))
    said = {"recorded_s": round(run.seconds, 1), "predicted_s": round(predicted.seconds, 1)}
    print(json.dumps({**said, "off": round(predicted.seconds / run.seconds - 1, 3), "overhead_s": round(beside, 2)}))
    for stage, seconds in predicted.by_stage.items():
        took = sum(ended - began for name, _, began, ended in run.steps if name == stage)
        print(json.dumps({"stage": stage, "recorded_s": round(took, 2), "predicted_s": round(seconds, 2)}))


@app.command()
def tables(
    rates: Annotated[Path | None, typer.Option(help="a recorded run; without it the stage table's own times")] = None,
    cpus: int = 16,
    gpus: int = 1,
    node_price: Annotated[float, typer.Option(help="per hour")] = 0.0,
    failures: Annotated[float, typer.Option(help="of a node, per hour")] = 0.001,
    faster: Annotated[list[str] | None, typer.Option(help="stage=factor, by what a node is faster than the recorded one")] = None,
) -> None:
    """1 M, 20 M and 1 B pictures on 1, 8 and 64 nodes."""
    profile = load_profile("demo")
    known = rates_of(Recorded.read(rates)) if rates else {}
    for stage, _, factor in (given.partition("=") for given in faster or []):
        known[stage] = Rate(known.get(stage, Rate()).factor / float(factor), known.get(stage, Rate()).first)
    print("| images | shards | nodes | hours | price | TB read | wall | its share of the time |\n|---|---|---|---|---|---|---|---|")
    for images, shard in ((10**6, 50_000), (20 * 10**6, 100_000), (10**9, 10**6)):
        work = made_up(profile, images, shard)
        for nodes in (1, 8, 64):
            cluster = Cluster(nodes, cpus, gpus, failures=failures)
            found = simulate(work, profile, replace(cluster, overhead=5.0 if nodes > 1 else 0.3), known)
            hours, (stage, share) = found.seconds / 3600, found.wall
            row = (f"{images:,}", len(work.images), nodes, f"{hours:,.1f}", f"{hours * nodes * node_price:,.0f}")
            print("| " + " | ".join(map(str, (*row, f"{found.bytes_read / 1e12:,.1f}", stage, f"{share:.0%}"))) + " |", flush=True)


def gate() -> dict[str, float | list[float]]:
    """Figures for ``bench/gates.py``: of a made-up corpus its shards, and the time of eight nodes over that of one."""
    profile = load_profile("demo")
    work = made_up(profile, images=800_000, shard=50_000)
    one, eight = (simulate(work, profile, Cluster(nodes, cpus=4, gpus=1), {}).seconds for nodes in (1, 8))
    return {"shards": len(work.images), "eight_nodes_over_one": eight / one}


if __name__ == "__main__":
    app()
