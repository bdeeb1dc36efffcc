"""What each of two gloo processes does in ``test_parallel``: gradients of one step, whole runs, and a run that dies.

RANK=0 WORLD_SIZE=2 ... python -m tests.retriever.two_processes FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import torch

from mmret import progress
from mmret.retriever.train.data import TrainingSet
from mmret.retriever.train.kinds import EMBEDDERS
from mmret.retriever.train.loop import train
from mmret.retriever.train.parallel import Group
from mmret.retriever.train.state import States
from mmret.retriever.train.trainer import Trainer
from mmret.settings import Recipe
from tests.retriever.runs import ring


class Killed(Exception):
    pass


def dying(task, done, total, note=""):
    if done >= 3:
        raise Killed


def main(folder: Path, group: Group) -> None:
    """Every case of ``cases.json``: gradients to ``<case>-<rank>.pt``, checkpoints to ``<case>`` and ``<case>-broken``."""
    for name, case in json.loads((folder / "cases.json").read_text()).items():
        recipe = Recipe.model_validate(case["recipe"])
        triplets = pq.read_table(folder / case["triplets"])

        def load(ids):
            return {i: (folder / "pictures" / i).read_bytes() for i in ids}

        embedder = EMBEDDERS[recipe.kind].load(recipe, case["base"], group)
        embedder.model.double()
        near = ring(triplets)
        data = TrainingSet(triplets, recipe, near)
        (folder / "frozen" / name).mkdir(parents=True, exist_ok=True)
        embedder.open(data, load, folder / "frozen" / name)
        trainer = Trainer(recipe, data, embedder, States(folder / "work" / f"{name}-{group.rank}", "x"), group)
        embedder.model.train()
        batch = data.batch(0)
        loss = trainer.backward(batch, embedder.read(batch))
        gradients = {n: p.grad for n, p in embedder.model.named_parameters() if p.grad is not None}
        made = {"loss": loss, "gradients": trainer.exchange.whole(gradients), "made_once": trainer.kept.made_once}
        torch.save(made, folder / f"{name}-{group.rank}.pt")
        if case["whole_run"]:
            train(recipe, triplets, load, case["base"], folder / name, group=group, neighbours=near)
            try:
                with progress.reporting(dying):
                    train(recipe, triplets, load, case["base"], folder / f"{name}-broken", group=group, neighbours=near)
            except Killed:
                group.wait()
            recipe = recipe.model_copy(update={"parallel": case["goes_on_by"]})
            train(recipe, triplets, load, case["base"], folder / f"{name}-broken", group=group, neighbours=near)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with Group.join() as joined:
        main(Path(sys.argv[1]), joined)
