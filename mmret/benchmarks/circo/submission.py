"""CIRCO's submission file, checked against the closed server's rules before it is written.

A server answers a bad file late or not at all (CIRCO by e-mail), so everything it would refuse is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmret.benchmarks.circo import scorer as circo
from mmret.errors import UserError


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
