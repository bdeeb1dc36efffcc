"""What asking a model about candidates would cost, before anything is spent: teacher and filter ``judge`` of the trained recipes.

They ask some twenty questions a triplet, by far the most of what a lake asks. Where there are no triplets yet, each pair is taken
for one with as many texts and hard negatives as the settings allow. Sends nothing. Cost: the keys of the questions of
``TRIPLETS`` triplets at most, some 0.1 ms each, and a look-up.
"""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc

from mmret.annotate.backends.load import load_candidate_judge
from mmret.annotate.candidate_judge import candidate_request
from mmret.annotate.estimate import Estimate, estimate_questions
from mmret.annotate.store import AnswerStore
from mmret.hashing import uniform
from mmret.lake import Lake
from mmret.settings import Profile
from mmret.settings.recipe_links import asks_judge

TRIPLETS = 1000
"""Triplets of a lake that are looked at; of a larger lake, a sample by hash whose figures are scaled up."""
_COLUMNS = ["pair_id", "query_id", "target_id", "texts", "hard_negatives", "split"]


def estimate_judging(lake: Lake, profile: Profile) -> Estimate | None:
    """Requests, tokens and cost of what the trained recipes ask the judge; None where none asks it. A question that several ask
    counts once.

    >>> estimate_judging(lake, profile).cost
    """
    recipes = [profile.recipes[name] for name in profile.train]
    teaching = [r for r in recipes if asks_judge(profile.recipes, r.teacher)]
    asking = teaching or [r for r in recipes if "judge" in r.filters]
    if not asking:
        return None
    # the filter's questions are among the teacher's, which are of the rows that a recipe chooses
    most = None if any(r.pairs is None for r in asking) else max(r.pairs or 0 for r in asking)
    annotator, settings = load_candidate_judge(profile.annotate), profile.annotate
    facts = [found for shard in lake.partitions("triplets") if (found := lake.facts("triplets", shard))]
    total = sum(found.rows for found in facts)
    rows = _triplets(lake, min(1.0, TRIPLETS / total)) if total else _expected(lake, profile)
    requests = {
        (q, text, c): candidate_request(q, text, c, settings.seed) for row in rows for q, text, c in _questions(row, bool(teaching))
    }
    found = estimate_questions(list(requests.values()), annotator, settings, AnswerStore(lake.storage))
    train = sum(found.notes.get("train", found.rows) for found in facts) if total else _pairs(lake)
    return found.scale(min(train, train if most is None else most) / len(rows)) if rows else found


def _triplets(lake: Lake, share: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for shard in lake.partitions("triplets"):
        table = lake.read("triplets", shard, columns=_COLUMNS, filters=pc.field("split") == "train")
        rows += [row for row in table.to_pylist() if share >= 1 or uniform("estimate questions", row["pair_id"]) < share]
    return rows


def _expected(lake: Lake, profile: Profile) -> list[dict[str, Any]]:
    """A triplet such as the lake's pairs may become, where it has some."""
    texts = [f"{'word ' * 10}{n}" for n in range(profile.annotate.instructions_per_pair)]
    negatives = ["query", *(f"negative {n}" for n in range(1, profile.mine.hard_negatives))][: profile.mine.hard_negatives]
    row = {"query_id": "query", "target_id": "target", "texts": texts, "hard_negatives": negatives}
    return [row] if _pairs(lake) else []


def _pairs(lake: Lake) -> int:
    return sum(facts.rows for shard in lake.partitions("pairs") if (facts := lake.facts("pairs", shard)))


def _questions(row: dict[str, Any], teaching: bool) -> list[tuple[str, str, str]]:
    """What is asked of a triplet: by a teacher each text with each candidate; by the filter each text with the target, and the
    first one with each mined negative."""
    query, target, texts = row["query_id"], row["target_id"], list(dict.fromkeys(row["texts"] or []))
    negatives = list(dict.fromkeys(n for n in row["hard_negatives"] or [] if n not in (query, target)))
    if teaching:
        return [(query, text, candidate) for text in texts for candidate in (target, query, *negatives)]
    return [(query, text, target) for text in texts] + [(query, texts[0], n) for n in negatives if texts]
