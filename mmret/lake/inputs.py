"""What a partition was computed from: the parts of its fingerprint, kept so that a later change has a name.

A partition's file records the fingerprint alone; the parts behind it lie in ``<lake>/inputs/<fingerprint>.json``, written once
per fingerprint. Costs a few hundred bytes a partition.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mmret.hashing import fingerprint
from mmret.lake.store import Facts, Lake

LINKED = "linked_shards"
"""Key in the notes of ``neighbours`` and ``pairs``: the shards whose images their rows name."""


@dataclass(frozen=True)
class Inputs:
    """All that one partition is computed from."""

    table: str
    version: str
    settings: Any
    upstream: tuple[tuple[str, str, Facts], ...]
    """(table, partition, facts) of everything it reads; the digest of the facts enters the fingerprint."""
    decisions: str | None = None
    """Fingerprint of the review decisions that the stage follows, if it follows any."""

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change when, and only when, one of the parts does."""
        read = [(table, partition, facts.digest) for table, partition, facts in self.upstream]
        return fingerprint(self.table, self.version, self.settings, read, *([self.decisions] if self.decisions else []))


def record_inputs(lake: Lake, inputs: Inputs) -> None:
    """Keep the parts behind a fingerprint."""
    key = _key(inputs.fingerprint)
    if not lake.storage.exists(key):
        lake.storage.write(key, json.dumps(recorded(inputs), separators=(",", ":")).encode())


def recorded(inputs: Inputs) -> dict[str, Any]:
    """The parts of ``inputs`` as they are kept and as :func:`read_inputs` returns them: plain values."""
    upstream: dict[str, dict[str, list[Any]]] = {}
    for table, partition, facts in inputs.upstream:
        upstream.setdefault(table, {})[partition] = [facts.digest, facts.rows]
    parts = {"table": inputs.table, "version": inputs.version, "settings": inputs.settings, "upstream": upstream}
    return json.loads(json.dumps(parts | {"decisions": inputs.decisions}, default=str))


def read_inputs(lake: Lake, fingerprint: str) -> dict[str, Any] | None:
    """The parts behind ``fingerprint``: table, version, settings, upstream ``{table: {partition: [digest, rows]}}`` and, unless
    they are of an older version, decisions; None where they were not kept."""
    kept, _ = lake.storage.read_with_token(_key(fingerprint))
    try:
        return None if kept is None else json.loads(kept)
    except ValueError:
        return None


def linked_shards(lake: Lake, table: str, partition: str) -> list[str]:
    """The shards that the rows of a partition point to, from its notes; all shards if an old version wrote it without that note."""
    facts, shards = lake.facts(table, partition), lake.shards()
    linked = facts.notes.get(LINKED) if facts else None
    if linked is None:
        return shards
    named = set(linked)
    return [shard for shard in shards if shard in named]


def _key(fingerprint: str) -> str:
    return f"inputs/{fingerprint}.json"
