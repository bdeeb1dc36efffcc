"""Training on two machines, which are two network namespaces of this one: what is lost, what is equal, what it costs. Root, Linux.

    python bench/two_nodes_train.py [--ways sum,ddp,fsdp,mllm] [--lake L] [--no-ray] [--exchange] [--rate 1gbit]

A line of JSON for each: the loss curve of one process against two on two nodes (under torchrun, for each way of exchanging
gradients, and for an MLLM that is divided); the same run with one training process killed (``kill -9``) under way; the same by
Ray's workers, undisturbed, and with a whole node killed under way and started anew. ``--exchange``: seconds and bytes of a step by
``bench/exchange.py`` over the link between the two, which ``--rate`` makes slower. Models are tiny; some eight minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import yaml
from safetensors.numpy import load_file

from mmret.retriever.train.log import read_log
from tests.cluster.namespaces import Host, hosts, ray_cluster
from tests.retriever.mllm_folders import qwen2_vl
from tests.small_runs import first, run

PATIENCE_S = 1800  # on a machine that does much else
ROOT = Path(__file__).resolve().parents[1]
ZONE, SUBNET, PORT = "trn", "10.79.0", 29511
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "eth0",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
    "PYTHONPATH": str(ROOT),
}
CLIP = "base: towers/clip, batch_size: 32, chunk_size: 24, learning_rate: 1.0e-3, temperature: 0.05"
MLLM = "kind: mllm, batch_size: 6, chunk_size: 4, mined_negatives: 1, learning_rate: 1.0e-3, temperature: 0.1"
EVERY = "checkpoint_every: 10, log_every: 1"
RECIPES = {
    "sum": f"{CLIP}, {EVERY}, steps: 40, parallel: sum",
    "ddp": f"{CLIP}, {EVERY}, steps: 40, parallel: ddp",
    "fsdp": f"{CLIP}, {EVERY}, steps: 40, parallel: fsdp",
    "mllm": f"{MLLM}, {EVERY}, steps: 40, parallel: fsdp",
}


def a_lake(folder: Path, ready: Path | None = None) -> Path:
    """180 scenes up to triplets, untrained, or a copy of a lake that is ready, with the recipes of :data:`RECIPES`."""
    if ready is None:
        run([*first(folder / "lake"), "--set", "train=[]"], 1200)
    else:
        shutil.copytree(ready, folder / "lake")
    recipes = {**RECIPES, "mllm": f"{RECIPES['mllm']}, base: {qwen2_vl(folder / 'qwen2_vl')}"}
    written = folder / "lake" / "lake.yaml"
    settings = yaml.safe_load(written.read_text())
    settings["overrides"] |= {f"recipes.{name}": yaml.safe_load(f"{{{fields}}}") for name, fields in recipes.items()}
    written.write_text(yaml.safe_dump(settings))
    return folder / "lake"


class Bench:
    """One lake that is copied for each run, and what the runs of one process gave."""

    def __init__(self, folder: Path, ready: Path | None = None):
        self.folder, self.lake = folder, a_lake(folder, ready)
        self.alone: dict[str, Path] = {}
        self.undisturbed: dict[str, Path] = {}

    def copy(self, name: str) -> Path:
        return Path(shutil.copytree(self.lake, self.folder / name))

    def one_process(self, recipe: str) -> Path:
        if RECIPES[recipe].startswith(CLIP):  # one process exchanges nothing, so these are one recipe
            recipe = "sum"
        if recipe not in self.alone:
            lake = self.copy(f"{recipe}-alone")
            line = [sys.executable, "-m", "mmret", "train", "--lake", str(lake), "--recipe", recipe]
            subprocess.run(line, env={**os.environ, **ONE_THREAD}, check=True, capture_output=True, cwd=ROOT)
            self.alone[recipe] = lake / "checkpoints" / recipe
        return self.alone[recipe]

    def torchrun(self, machines: list[Host], recipe: str, kill: bool = False) -> dict[str, Any]:
        """Two processes, one on each machine; with ``kill`` the second one's is killed at the first state."""
        lake = self.copy(f"{recipe}-{'killed' if kill else 'whole'}")
        log, running, began = self.folder / f"{lake.name}.log", [], time.monotonic()
        for host in machines:
            training = ["-m", "mmret", "train", "--lake", str(lake), "--recipe", recipe]
            running.append(host.start([*launcher(machines, host, lake.name), *training], log, ONE_THREAD))
        if kill:
            wait_for_state(lake, recipe, running)
            kill_trainer(machines[1])
        ended = [process.wait(PATIENCE_S) for process in running]
        assert ended == [0, 0], f"{ended}: {log.read_text()[-3000:]}"
        return self.judged(recipe, lake, began, "torchrun" + (", one process killed" if kill else ""))

    def by_ray(self, machines: list[Host], recipe: str, kill: bool = False) -> dict[str, Any]:
        """Two workers of a Ray cluster, one on each machine; with ``kill`` the second machine is lost at the first state, and comes
        back."""
        lake = self.copy(f"{recipe}-ray-{'killed' if kill else 'whole'}")
        log = self.folder / f"{lake.name}.log"
        with ray_cluster(machines, env=ONE_THREAD) as cluster:
            began = time.monotonic()
            line = [
                sys.executable,
                "-m",
                "mmret",
                "train",
                "--lake",
                str(lake),
                "--recipe",
                recipe,
                "--on",
                f"ray:{cluster.address}",
            ]
            process = machines[0].start([*line, "--workers", "2"], log, {**ONE_THREAD, **cluster.env})
            if kill:
                wait_for_state(lake, recipe, [process])
                lose(machines[1])
                cluster.add_node(machines[1])
            ended = process.wait(PATIENCE_S)
            assert ended == 0, f"{ended}: {log.read_text()[-3000:]}"
            return self.judged(recipe, lake, began, "ray" + (", one machine lost" if kill else ""))

    def judged(self, recipe: str, lake: Path, began: float, how: str) -> dict[str, Any]:
        """The run against that of one process, and against the first undisturbed one of two."""
        seconds = time.monotonic() - began
        made, alone = lake / "checkpoints" / recipe, self.one_process(recipe)
        assert not (lake / "checkpoints" / f"{recipe}.work").exists()
        whole = self.undisturbed.setdefault(recipe, made)
        curves = [read_log(folder)["loss"].to_numpy() for folder in (made, alone)]
        return {
            "recipe": recipe,
            "how": how,
            "seconds": round(seconds, 1),
            "steps": len(curves[0]),
            "loss": [round(float(curves[0][n]), 4) for n in (0, -1)],
            "largest_difference_of_losses_to_one_process": float(np.max(np.abs(curves[0] / curves[1] - 1))),
            "mean_difference_of_weights_to_one_process": mean_difference(made, alone),
            "bit_equal_to_two_undisturbed": equal(made, whole),
        }


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(next(folder.glob("*model.safetensors")))


def equal(a: Path, b: Path) -> bool:
    ours, theirs = weights(a), weights(b)
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def mean_difference(a: Path, b: Path) -> float:
    ours, theirs = weights(a), weights(b)
    return float(np.mean([np.abs(ours[name] - theirs[name]).mean() for name in ours]))


def wait_for_state(lake: Path, recipe: str, running: list[subprocess.Popen]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not list((lake / "checkpoints" / f"{recipe}.work").glob("state-*.pt")):
        assert time.monotonic() < end and all(process.poll() is None for process in running), "no state was written"
        time.sleep(0.05)


def kill_trainer(host: Host) -> None:
    for process in host.processes():
        with suppress(Exception):
            line = process.cmdline()
            if "mmret" in line and "torch.distributed.run" not in line:
                process.kill()
                return
    raise AssertionError(f"no training process runs on {host.name}")


def lose(host: Host) -> None:
    """Everything on the machine ends at once."""
    for process in host.processes():
        with suppress(Exception):
            process.kill()


@contextmanager
def named(machines: list[Host]) -> Iterator[None]:
    """Give the machines names that they know of each other, and no name server: asking one that is out of reach takes minutes."""
    folders = [Path("/etc/netns") / host.name for host in machines]  # what `ip netns exec` lays over /etc
    try:
        for folder in folders:
            folder.mkdir(parents=True)
            known = "".join(f"{host.address} {host.name}\n" for host in machines)
            (folder / "hosts").write_text(f"127.0.0.1 localhost\n{known}")
            (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        yield
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def launcher(machines: list[Host], host: Host, name: str) -> list[str]:
    """torchrun on ``host``. Namespaces share a host name, from which torchrun tells who is the first: so it is told."""
    at = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{machines[0].address}:{PORT}", "--rdzv-id", name]
    at += ["--rdzv-conf", f"is_host={int(host is machines[0])}", "--local-addr", host.address, "--max-restarts", "3"]
    return [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *at]


def exchange(machines: list[Host], folder: Path, rate: str | None) -> dict[str, Any]:
    """``bench/exchange.py`` in one process on each machine, over a link of ``rate``."""
    if rate:
        for host in machines:
            shape = ["tc", "-n", host.name, "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "1mb"]
            subprocess.run([*shape, "latency", "100ms"], check=True)
    log, running = folder / f"exchange-{rate}.log", []
    for host in machines:
        script = [str(ROOT / "bench" / "exchange.py"), "--device", "eth0", "--folder", str(folder / "exchange")]
        running.append(host.start([*launcher(machines, host, f"exchange-{rate}"), *script], log, ONE_THREAD))
    ended = [process.wait(PATIENCE_S) for process in running]
    if rate:
        for host in machines:
            subprocess.run(["tc", "-n", host.name, "qdisc", "del", "dev", "eth0", "root"], check=False)
    assert ended == [0, 0], f"{ended}: {log.read_text()[-3000:]}"
    found = next(line for line in log.read_text().splitlines() if line.startswith("{"))
    return {"link": rate or "unlimited", **json.loads(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ways", default="sum,ddp,fsdp,mllm")
    parser.add_argument("--lake", type=Path, help="a small lake with triplets, which is copied; else one is made first")
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--exchange", action="store_true")
    parser.add_argument("--rate", help="of the link for --exchange, as tc writes it")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="two-nodes-") as scratch, hosts(ZONE, 2, SUBNET) as machines, named(machines):
        if given.exchange:
            print(json.dumps(exchange(machines, Path(scratch), given.rate)), flush=True)
            return
        bench = Bench(Path(scratch), given.lake)
        for recipe in given.ways.split(","):
            for kill in (False, True):
                print(json.dumps(bench.torchrun(machines, recipe, kill)), flush=True)
        for kill in () if given.no_ray else (False, True):
            print(json.dumps(bench.by_ray(machines, given.ways.split(",")[0], kill)), flush=True)


if __name__ == "__main__":
    main()
