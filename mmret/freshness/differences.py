"""What changed between two recorded inputs of a partition, in words: a code version, a setting, what it reads.

Compares what lies in ``inputs/<fingerprint>.json`` (:mod:`mmret.lake.inputs`); costs nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mmret.lake.inputs import Inputs, recorded
from mmret.stages import STAGES

_MAX_VALUE_CHARACTERS = 60  # of a setting's value
NOT_RECORDED = "computed from other inputs (which ones was not recorded)"


@dataclass(frozen=True)
class Differences:
    """Lines of what changed: ``own``, code versions, settings and decisions of people; ``upstream``, tables that are read."""

    own: tuple[str, ...]
    upstream: tuple[str, ...]


def differences(before: dict[str, Any] | None, now: Inputs) -> list[str]:
    """What changed between the recorded inputs ``before`` and ``now``, in words, one line a difference."""
    if before is None:
        return [NOT_RECORDED]
    found = compare_inputs(before, recorded(now))
    return [*found.own, *found.upstream] or ["computed from other inputs"]


def compare_inputs(before: dict[str, Any], after: dict[str, Any]) -> Differences:
    """What changed between two recorded inputs, as :func:`mmret.lake.inputs.read_inputs` returns them."""
    own = []
    if before["version"] != after["version"]:
        own.append(f"code version {before['version']} → {after['version']}")
    own += _changed(STAGES[after["table"]].settings, before["settings"], after["settings"])
    if before.get("decisions", after.get("decisions")) != after.get("decisions"):
        own.append("the decisions of people changed")
    upstream = []
    for table in dict.fromkeys((*before["upstream"], *after["upstream"])):
        old, new = before["upstream"].get(table, {}), after["upstream"].get(table, {})
        if added := [p for p in new if p not in old]:
            upstream.append(f"{table}: new {_named(added)}")
        if changed := [p for p in new if p in old and old[p][0] != new[p][0]]:
            upstream.append(f"{table}: {_named(changed)} changed")
        if gone := [p for p in old if p not in new]:
            upstream.append(f"{table}: {_named(gone)} no longer read")
    return Differences(tuple(own), tuple(upstream))


def _named(partitions: list[str]) -> str:
    return partitions[0] if len(partitions) == 1 else f"{len(partitions)} partitions"


def _changed(name: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys((*old, *new))
        return [line for key in keys for line in _changed(f"{name}.{key}", old.get(key), new.get(key))]
    if old == new:
        return []
    before, after = (
        text if len(text := json.dumps(v, ensure_ascii=False)) <= _MAX_VALUE_CHARACTERS else text[: _MAX_VALUE_CHARACTERS - 1] + "…"
        for v in (old, new)
    )
    return [f"{name}: {before} → {after}"]
