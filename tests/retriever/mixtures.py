"""A table of rows of every task over the pictures of the session's triplets, and mixtures of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmret.hashing import content_id
from mmret.retriever.train.rows import MIXTURE_COLUMNS
from mmret.schemas import TASKS
from mmret.tasks import COMPOSED, MADE_TASKS, TASK_NAMES

ALL = dict.fromkeys(TASK_NAMES, 1.0)
COLOURS, THINGS = ("red", "blue", "green"), ("square", "circle", "hat", "tone")


def captions(ids: list[str]) -> dict[str, str]:
    """Twelve captions for twenty-four pictures: every one is that of two."""
    return {i: f"a {COLOURS[n % 3]} {THINGS[n % 4]}" for n, i in enumerate(sorted(ids))}


def made_rows(triplets: pa.Table) -> pa.Table:
    """Table ``tasks`` (schema TASKS) that goes with ``triplets``: rows of all tasks but ``composed``, some without negatives."""
    ids = sorted({i for r in triplets.to_pylist() for i in (r["query_id"], r["target_id"], *r["hard_negatives"])})
    said, rng, rows = captions(ids), np.random.default_rng(8), {}
    for row in triplets.to_pylist():
        for task in MADE_TASKS:
            own = task in ("text_to_image", "image_to_text")
            query, target = row["query_id"], row["query_id"] if own else row["target_id"]
            pair = task == "image_text_to_image_text"
            negatives = [i for i in row["hard_negatives"][1:] if said[i] not in (said[target], said[query])][: rng.integers(0, 4)]
            task_id = content_id(f"{task}:{query}:{target}".encode())
            rows[task_id] = {
                "task_id": task_id,
                "task": task,
                "query_id": query,
                "target_id": target,
                "texts": row["texts"] if pair else [said[query]] if task.startswith("text") else [],
                "query_caption": said[query],
                "target_caption": said[target],
                "hard_negatives": negatives,
                "negative_captions": [said[i] for i in negatives],
                "pair_id": row["pair_id"] if pair else None,
                "signals": row["signals"],
                "split": row["split"],
                "licence": row["licence"],
            }
    return pa.Table.from_pylist(list(rows.values()), TASKS)


def mixture(triplets: pa.Table) -> pa.Table:
    """What :func:`mmret.retriever.train.rows.training_rows` gives for a recipe of all tasks."""
    made, composed = made_rows(triplets), triplets.append_column("task", pa.array([COMPOSED] * len(triplets)))
    parts = [t.select([c for c in MIXTURE_COLUMNS.names if c in t.column_names]) for t in (composed, made)]
    return pa.concat_tables(parts, promote_options="default").select(MIXTURE_COLUMNS.names).cast(MIXTURE_COLUMNS)


def of_task(table: pa.Table, task: str) -> pa.Table:
    return table.filter(pc.equal(table["task"], task))
