"""Ranking metrics as MMEB-V2 reports them: hit, precision, recall, F1, MAP, MRR and nDCG at k.

The definitions of ``RankingMetrics`` in TIGER-AI-Lab/VLM2Vec, equal on rankings with a candidate listed twice as well:
there it counts twice in MAP and nDCG, which can exceed 1; ``distinct`` keeps only its first place. One fault is not
repeated: grades stay with their labels (there ``list(set(...))`` may pair them wrongly, differently from run to run).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmret.benchmarks.common.scores import mean

KS = (1, 5, 10)


def evaluate(cases: Sequence[Mapping[str, Any]], ks: Sequence[int] = KS, distinct: bool = False) -> dict[str, float]:
    """Means over ``cases`` of every metric, keyed ``hit@1``; fractions of 1, as on the leaderboard.

    A case has ``prediction`` (ids best first), ``label`` (the relevant ids) and, for graded relevance, ``rel_scores``
    (a grade a label, else None). ``distinct``: drop repeated candidates first.
    """
    rows = []
    for case in cases:
        ranking = list(dict.fromkeys(case["prediction"])) if distinct else case["prediction"]
        rows.append(metrics(ranking, case["label"], case.get("rel_scores"), ks))
    return {name: mean([row[name] for row in rows]) or 0.0 for name in rows[0]} if rows else {}


def metrics(
    ranking: Sequence[Any], label: Sequence[Any], grades: Sequence[float] | None = None, ks: Sequence[int] = KS
) -> dict[str, float]:
    """All metrics of one ranking. Without labels recall is 1 and everything else 0, as in the reference code."""
    gain = dict.fromkeys(label, 1.0) if grades is None else dict(zip(label, grades, strict=True))
    found: dict[str, float] = {}
    for k in ks:
        hits = [item in gain for item in ranking[:k]]
        count = len(set(ranking[:k]) & gain.keys())
        precision = count / k
        recall = count / len(gain) if gain else 1.0
        first = next((i for i, hit in enumerate(hits, start=1) if hit), 0)
        found[f"hit@{k}"] = float(count > 0)
        found[f"precision@{k}"], found[f"recall@{k}"] = precision, recall
        found[f"f1@{k}"] = 2 * precision * recall / (precision + recall) if count else 0.0
        found[f"map@{k}"] = _average_precision(hits, min(len(gain), k))
        found[f"mrr@{k}"] = 1 / first if first else 0.0
        found[f"ndcg_linear@{k}"] = ndcg(ranking, gain, k)
        found[f"ndcg_exponential@{k}"] = ndcg(ranking, gain, k, exponential=True)
    return found


def _average_precision(hits: Sequence[bool], relevant: int) -> float:
    total, count = 0.0, 0
    for position, hit in enumerate(hits, start=1):
        if hit:
            count += 1
            total += count / position
    return total / relevant if relevant else 0.0


def ndcg(ranking: Sequence[Any], gain: Mapping[Any, float], k: int, exponential: bool = False) -> float:
    """nDCG at ``k``; a repeated candidate counts each time.

    ``gain``: relevant id -> grade, which counts as it is or, if ``exponential``, as 2^grade - 1.
    """

    def dcg(values: Sequence[float]) -> float:
        return sum((2**v - 1 if exponential else v) / math.log2(i + 2) for i, v in enumerate(values))

    ideal = dcg(sorted(gain.values(), reverse=True)[:k])
    return dcg([gain.get(item, 0.0) for item in ranking[:k]]) / ideal if ideal > 0 else 0.0
