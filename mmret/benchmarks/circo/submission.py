"""Submission files of the two closed test servers, checked against the servers' rules before they are written.

A server answers a bad file late or not at all (CIRCO by e-mail), so everything it would refuse is refused here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmret.atomic import write_text
from mmret.benchmarks.circo import scorer as circo
from mmret.benchmarks.cirr import scorer as cirr
from mmret.errors import UserError

MOST_BYTES = 5_000_000
"""CIRR's server takes 5 MB."""


def circo_submission(rankings: Mapping[str, Sequence[int]], truth: circo.Annotations) -> dict[str, list[int]]:
    """CIRCO's test file: every query once, exactly 50 distinct integer ids each, keys as strings.

    Raises UserError naming the first query that breaks a rule.
    """
    wanted = {str(q.id) for q in truth.queries}
    if set(rankings) != wanted:
        raise UserError(
            f"a CIRCO submission has all {len(wanted)} queries; {len(wanted - set(rankings))} are missing and "
            f"{len(set(rankings) - wanted)} are unknown"
        )
    known = frozenset(truth.gallery) if truth.gallery is not None else range(circo.LAST_COCO_ID + 1)
    for key, ids in rankings.items():
        if len(ids) != circo.DEPTH or len(set(ids)) != len(ids):
            raise UserError(
                f"query {key}: a CIRCO submission has exactly {circo.DEPTH} distinct ids a query, here are "
                f"{len(set(ids))} of {len(ids)}"
            )
        if bad := [i for i in ids if type(i) is not int or i not in known]:
            raise UserError(f"query {key}: {bad[0]!r} is no image id of COCO 2017 unlabeled")
    return {key: list(rankings[key]) for key in sorted(rankings, key=int)}


def cirr_submission(rankings: Mapping[str, Any], metric: str, truth: cirr.Annotations) -> dict[str, Any]:
    """One of CIRR's two test files: 50 names a pair for ``recall``, 3 members of the set for ``recall_subset``.

    The reference is never among them. ``rankings`` may hold the two header entries. Raises UserError naming the first
    pair that breaks a rule.
    """
    depth = cirr.DEPTH if metric == "recall" else cirr.SUBSET_DEPTH
    made: dict[str, Any] = {"version": cirr.VERSION, "metric": metric}
    for query in truth.queries:
        names = rankings.get(str(query.id))
        if names is None:
            raise UserError(f"a CIRR submission has all {len(truth.queries)} pairs; {query.id} is missing")
        known: Any = truth.gallery if metric == "recall" else query.members
        if len(names) != depth or len(set(names)) != len(names):
            raise UserError(f"pairid {query.id}: {metric} needs {depth} distinct names, here are {len(set(names))}")
        if query.reference in names or any(n not in known for n in names):
            raise UserError(
                f"pairid {query.id}: a name is the reference itself or not in the "
                + ("gallery" if metric == "recall" else "query's set")
            )
        made[str(query.id)] = list(names)
    if extra := set(rankings) - set(made):
        raise UserError(f"{min(extra)} is no pairid of {truth.path.name}")
    return made


def write_submission(path: Path, content: Mapping[str, Any]) -> int:
    """Write ``content`` compactly; returns its size in bytes. Raises UserError above CIRR's limit of 5 MB."""
    text = json.dumps(content, separators=(",", ":"))
    if len(text) > MOST_BYTES:
        raise UserError(f"{path.name} would be {len(text) / 1e6:.1f} MB; the server takes {MOST_BYTES / 1e6:.0f} MB")
    write_text(path, text)
    return len(text)
