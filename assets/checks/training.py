"""What must hold of trained checkpoints, and what deserves a look in how they answer. Reads their training logs, some tens of rows
each, and the rows of their evaluations."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from assets.checks.sql import Check, named_first
from mmret.lake import Lake
from mmret.settings import EvaluateSettings, Profile

_ENDS = 0.1
"""Share of a log's rows, at the beginning and at the end, whose mean losses are compared."""


def _losses(lake: Lake) -> Iterator[tuple[str, list[float]]]:
    """Recipe and the losses of its log, for every recorded checkpoint whose log is there."""
    from mmret.retriever.train.log import LOG, read_log

    for row in lake.read("checkpoints", columns=["recipe", "folder"]).to_pylist():
        try:
            folder = lake.storage.local_folder(row["folder"])
        except FileNotFoundError:
            continue
        if (folder / LOG).is_file():
            yield row["recipe"], read_log(folder)["loss"].to_pylist()


def _not_finite(lake: Lake, *_: Any) -> list[tuple[str, int]]:
    bad = ((recipe, sum(loss is None or not math.isfinite(loss) for loss in losses)) for recipe, losses in _losses(lake))
    return [(recipe, count) for recipe, count in bad if count]


def _not_fallen(lake: Lake, *_: Any) -> list[tuple[str, float, float]]:
    found = []
    for recipe, losses in _losses(lake):
        end = max(1, int(len(losses) * _ENDS))
        first, last = sum(losses[:end]) / end, sum(losses[-end:]) / end
        if len(losses) > 1 and not last < first:
            found.append((recipe, round(first, 4), round(last, 4)))
    return found


loss_is_finite = Check(
    "checkpoints",
    "loss_is_finite",
    "No row of a training log has a loss that is no number. Shown: recipe, rows.",
    _not_finite,
    partitions=named_first,
)
loss_fell = Check(
    "checkpoints",
    "loss_fell",
    "The loss at the end of training, a mean over the last tenth of the log, is below "
    "that at its beginning. Shown: recipe, first, last.",
    _not_fallen,
    warn=True,
    partitions=named_first,
)


def _robust(name: str, description: str, of: str, metric: str, limit: Callable[[EvaluateSettings], float]) -> Check:
    """A check that warns of recipes whose ``metric`` of the probes beginning with ``of`` is above a limit of the settings."""

    def beyond(lake: Lake, _: Any, profile: Profile) -> list[tuple[str, str, float]]:
        from mmret.benchmarks.robustness_figures import beyond

        return beyond(lake.read("evaluations").to_pylist(), of, metric, 100 * limit(profile.evaluate))

    return Check(
        "evaluations", name, f"{description} Shown: recipe, questions, percent.", beyond, warn=True, partitions=named_first
    )


answers_keep_when_reworded = _robust(
    "answers_keep_when_reworded",
    "At most the share evaluate.max_spread of held-out queries is found among the first ten by some wordings and not by all.",
    "robustness: wordings of ",
    "spread R@10",
    lambda settings: settings.max_spread,
)
targets_come_before_hard_negatives = _robust(
    "targets_come_before_hard_negatives",
    "At most the share evaluate.max_negatives_first of held-out queries has a hard negative before its target.",
    "robustness: hard negatives of ",
    "before target",
    lambda settings: settings.max_negatives_first,
)
