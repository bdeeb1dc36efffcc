"""CIRR's two submission files, checked against the closed server's rules before they are written.

A server answers a bad file late or not at all, so everything it would refuse is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmret.benchmarks.cirr import scorer as cirr
from mmret.errors import UserError


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
