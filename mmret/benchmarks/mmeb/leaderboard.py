"""Writes the JSON of the MMEB-V2 leaderboard from a run on its image sets, as VLM2Vec's ``report_score_v2.py`` does.

Scores are fractions of 1. Video and visual-document sets are not run here; they are given as ``FILE_N/A``, as the leaderboard
asks, so that nobody takes the result for a score of all 78 sets. One publishes it by a pull request to the leaderboard's space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from mmret.benchmarks.common.runs import COMPOSED, BenchmarkRun
from mmret.benchmarks.common.scores import mean
from mmret.benchmarks.mmeb import scorer as mmeb
from mmret.benchmarks.mmeb.ranking_metrics import evaluate
from mmret.errors import UserError

MAIN_METRIC = {"image": "hit@1", "visdoc": "ndcg_linear@5", "video": "hit@1"}
MISSING = "FILE_N/A"


def modality_sets() -> dict[str, list[str]]:
    """Names of the 78 sets of MMEB-V2 by modality (36 image, 24 visdoc, 18 video), as the leaderboard spells them."""
    others = yaml.safe_load((mmeb.PROTOCOL.with_name("protocol_v2.yaml")).read_text(encoding="utf-8"))
    return {"image": list(mmeb.published_sets()), "visdoc": others["visdoc"], "video": others["video"]}


def set_scores(rankings: Sequence[Sequence[int]]) -> dict[str, float]:
    """Every leaderboard metric of one set, from candidate positions best first; position 0 is the ground truth."""
    return evaluate([{"prediction": ranking, "label": [0]} for ranking in rankings])


def leaderboard_json(run: BenchmarkRun, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The report of an MMEB run. ``metadata`` needs ``model_name`` and ``url``; the rest of the form is optional.

    Raises UserError for another benchmark's run, for a run without some of its pictures and for missing metadata.
    """
    if run.benchmark != "mmeb":
        raise UserError(f"the MMEB leaderboard takes MMEB runs, not {run.benchmark}")
    if missing := [key for key in ("model_name", "url") if not metadata.get(key)]:
        raise UserError(f"the leaderboard's form needs {' and '.join(missing)}")
    if run.partial and "pictures are missing" in run.partial:
        raise UserError(f"a run without some of its pictures cannot be reported: {run.partial}")
    composed = next(v for v in run.variants if v.name == COMPOSED)
    lists = composed.predictions["predictions.json"]
    names = modality_sets()
    metrics = {modality: {n: set_scores(lists[n]) if modality == "image" and n in lists else MISSING for n in sets}
               for modality, sets in names.items()}  # fmt: skip
    return {"metadata": {"data_source": "Self-Reported", **metadata}, "metrics": metrics}


def overall(per_set: Mapping[str, Mapping[str, float]]) -> dict[str, float | None]:
    """Mean main metric of each modality and over all sets given, from ``{modality: {set: fraction}}``."""
    values = {modality: mean(list(sets.values())) for modality, sets in per_set.items()}
    return values | {"overall": mean([v for sets in per_set.values() for v in sets.values()])}
