"""What every stage is computed from, and therefore when it has to be computed again.

One row per stage: the settings and the upstream partitions it reads. The fingerprint a partition *would* be computed from
(:func:`wanted`) is compared with the one recorded in its file. Upstream enters by the digest of its content, so a change that
alters nothing (a merge that found no better neighbour) stops there. Costs one Parquet footer per upstream partition.

``towers`` deliberately does not depend on the corpus: an encoder is trained once and pinned, or else a new shard would turn
every vector stale. Raise ``towers.seed`` or delete the folder to train them anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from mmret.annotate.backends.load import depends_on
from mmret.annotate.retry import unfinished
from mmret.curation.decisions import fingerprint_of
from mmret.encode import VERSION
from mmret.encode.revision import local_weights
from mmret.hashing import fingerprint
from mmret.lake import IMPORTED, Facts, Lake
from mmret.retriever.train.rows import also_reads
from mmret.schemas import SIGNALS
from mmret.settings import HOW_A_RECIPE_RUNS, MineSettings, Profile, Recipe
from mmret.towers import TOWERS_VERSION

UNPARTITIONED = "all"
"""Partition name of a table that has only one."""

Scope = Literal["same", "all", "up_to", "from"] | str
"""Which partitions of an upstream table are read; ``only:<name>`` is that one."""


@dataclass(frozen=True)
class Stage:
    """``version`` is raised when the code changes what the stage computes."""

    table: str
    version: str
    settings: Callable[[Profile, str], Any]
    upstream: tuple[tuple[str, Scope], ...] = ()
    also: Callable[[Profile, str], tuple[tuple[str, Scope], ...]] = lambda profile, partition: ()
    """Upstream that only some partitions read."""
    people: Callable[[Lake, Profile, str], str | None] = lambda lake, profile, partition: None
    """What people wrote that the stage heeds; None, where it heeds nothing, leaves the fingerprint as it is without."""
    unfinished: Callable[[Profile, Facts], bool] = lambda profile, facts: False
    """Whether a partition made from today's inputs is to be tried again all the same: requests of it got no answer."""


def _unanswered(profile: Profile, facts: Facts) -> bool:
    return unfinished(facts.notes, profile.annotate.retries)


def _encoder(signal: str) -> Stage:
    def settings(profile: Profile, _: str) -> Any:
        encoder = profile.encoders[signal]
        weights = local_weights(encoder.model, encoder.revision)
        return encoder.model_dump(exclude={"batch_size", "device"}) | ({"weights": weights} if weights else {})

    return Stage(signal, VERSION, settings, (("images", "same"), ("towers", "all")))


def _searched(mine: MineSettings) -> Any:
    """What candidates depend on; the settings of an index only where there is one."""
    settings = mine.model_dump(include={"k", "bands", "signals"})
    index = mine.index.model_dump(exclude={"checked", "recall_floor"})
    return settings if mine.index.kind == "exact" else settings | {"index": index}


def _recipe(profile: Profile, name: str) -> Any:
    recipe = profile.recipes[name]
    settings = recipe.model_dump(exclude=HOW_A_RECIPE_RUNS)
    if recipe.as_of is not None:
        settings["as_of"] = recipe.as_of
    if not profile.licences.keeps_all():
        settings["licences"] = profile.licences.model_dump()
    return settings | {"held_out": profile.evaluate.held_out} if recipe.pair_source == "naive" else settings


def _also(recipe: Recipe) -> tuple[tuple[str, Scope], ...]:
    """Tables some recipes read too, and the checkpoint that a recipe of base ``checkpoints/<recipe>`` goes on from."""
    base = recipe.base.removeprefix("checkpoints/")
    return (*((table, "all") for table in also_reads(recipe)), *([("checkpoints", f"only:{base}")] if base != recipe.base else []))


STAGES: dict[str, Stage] = {
    s.table: s
    for s in [
        Stage("images", "1", lambda p, _: p.ingest.model_dump(), (("corpus_manifest", "same"),)),
        Stage("leaks", "1", lambda p, _: p.leaks.model_dump(), (("images", "all"), ("clip_image", "all"))),
        Stage("towers", TOWERS_VERSION, lambda p, _: p.towers.model_dump() if p.towers else None),
        *map(_encoder, SIGNALS),
        Stage("candidates", "1", lambda p, _: _searched(p.mine), (*((s, "up_to") for s in SIGNALS), ("towers", "all"))),
        Stage("neighbours", "1", lambda p, _: p.mine.k, (("candidates", "from"),)),
        Stage(
            "pairs",
            "1",
            lambda p, _: p.mine.model_dump(exclude={"tile", "device", "bands", "index"}),
            (("neighbours", "same"), ("leaks", "all")),
        ),
        Stage(
            "descriptions", "1", lambda p, _: depends_on(p.annotate, "descriptions"), (("pairs", "same"),), unfinished=_unanswered
        ),
        Stage(
            "instructions",
            "1",
            lambda p, _: depends_on(p.annotate, "instructions"),
            (("descriptions", "same"), ("pairs", "same")),
            unfinished=_unanswered,
        ),
        Stage(
            "triplets",
            "1",
            lambda p, _: p.evaluate.held_out,
            (("pairs", "same"), ("descriptions", "same"), ("instructions", "same")),
        ),
        Stage(
            "checkpoints",
            "1",
            _recipe,
            (("triplets", "all"), ("towers", "all")),
            also=lambda p, recipe: _also(p.recipes[recipe]),
            people=lambda lake, p, recipe: fingerprint_of(lake, p.recipes[recipe].decisions),
        ),
        Stage(
            "evaluations",
            "2",
            lambda p, _: p.evaluate.model_dump(),
            (("checkpoints", "same"), ("images", "all"), ("triplets", "all")),
        ),
    ]
}


def _scoped(lake: Lake, table: str, scope: Scope, partition: str) -> Iterable[str]:
    if scope == "same":
        return [partition]
    if scope.startswith("only:"):
        return [scope.removeprefix("only:")]
    if table in ("towers", "leaks"):
        return [UNPARTITIONED]
    shards = lake.shards()
    if scope == "all":
        return [*shards, *(p for p in lake.partitions(table) if p.startswith(IMPORTED))]
    return [s for s in shards if (s <= partition if scope == "up_to" else s >= partition)]


@dataclass(frozen=True)
class Inputs:
    """All that one partition is computed from: the parts of its fingerprint, kept apart so that a change can be named."""

    table: str
    version: str
    settings: Any
    upstream: tuple[tuple[str, str, Facts], ...]
    """(table, partition, facts) of everything it reads."""
    decided: str | None = None
    """Fingerprint of what people wrote that it heeds."""

    @property
    def fingerprint(self) -> str:
        seen = [(t, p, f.digest) for t, p, f in self.upstream]
        return fingerprint(self.table, self.version, self.settings, seen, *([self.decided] if self.decided else []))


def reads(lake: Lake, profile: Profile, table: str, partition: str = UNPARTITIONED) -> list[tuple[str, str]]:
    """(table, partition) of everything that ``partition`` of ``table`` is computed from, there or not."""
    stage = STAGES[table]
    return [
        (upstream, part)
        for upstream, scope in (*stage.upstream, *stage.also(profile, partition))
        for part in _scoped(lake, upstream, scope, partition)
    ]


def inputs_of(lake: Lake, profile: Profile, table: str, partition: str = UNPARTITIONED) -> Inputs | None:
    """What ``partition`` of ``table`` would be computed from now; None while an upstream partition is missing."""
    stage = STAGES[table]
    seen = []
    for upstream, part in reads(lake, profile, table, partition):
        facts = lake.facts(upstream, part)
        if facts is None:
            return None
        seen.append((upstream, part, facts))
    return Inputs(table, stage.version, stage.settings(profile, partition), tuple(seen), stage.people(lake, profile, partition))


def wanted(lake: Lake, profile: Profile, table: str, partition: str = UNPARTITIONED) -> str | None:
    """Fingerprint that ``partition`` of ``table`` would be computed from now; None while an upstream partition is missing."""
    inputs = inputs_of(lake, profile, table, partition)
    return inputs and inputs.fingerprint


def current(lake: Lake, profile: Profile, table: str, partition: str = UNPARTITIONED) -> Facts | None:
    """The recorded facts of a partition if it need not be computed again, else None."""
    facts = lake.facts(table, partition)
    if facts is None or facts.inputs != wanted(lake, profile, table, partition) or STAGES[table].unfinished(profile, facts):
        return None
    return facts
