"""What a stage declares of itself: the tables it reads, what a partition costs, when it runs. Data alone, costs nothing.

The stages themselves are rows of :mod:`mmret.stages`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from mmret.lake import Facts, Lake
from mmret.settings import Profile

Partitioning = Literal["whole", "shard", "recipe"]
Scope = Literal["same", "all", "up_to", "from", "linked", "named"]
"""Which partitions of a table are read. ``same``: the one of the same name; ``all``; ``up_to`` and ``from``: the shards up to
this one, or from it on; ``linked``: the shards that rows of table ``via`` in the same partition point to; ``named``: the
partition called ``via``."""


class Reads(NamedTuple):
    """A table that a stage reads."""

    table: str
    scope: Scope = "same"
    via: str = ""
    pinned: bool = False
    """The stage goes on with what the table was when it first ran: later content does not enter the fingerprint."""
    if_any: bool = False
    """Only where the table has rows of the partition: one without is no part of the fingerprint, as if the table were none."""
    columns: tuple[str, ...] | Callable[[Profile, str], tuple[str, ...]] = ()
    """The columns that are read, if not all, or a function of (profile, partition) that returns them: a change of others makes
    nothing stale. Only for tables in :data:`mmret.schemas.READ_BY_COLUMN`."""

    def columns_of(self, profile: Profile, partition: str) -> tuple[str, ...]:
        """The columns that a partition reads; empty: all."""
        return self.columns(profile, partition) if callable(self.columns) else self.columns


Unit = Literal["image", "image pair", "earlier shard", "later shard", "image of the lake", "picture trained on", "step"]
"""``image``: one of the partition; ``image pair``: with one of the same or an earlier shard; ``step``: of the recipe, as if with
batches of 256 and most of the image tower frozen; ``picture trained on``: by the towers, each time."""


class Cost(NamedTuple):
    """What a partition costs, fitted to recorded runs of profile ``demo`` on two cores (``tests/cli/recorded_runs``); a time left
    starts from it.

    ``seconds`` per ``unit`` of the loop that reports, ``beside`` for the partition whatever it holds, ``more`` per other units, and
    ``first`` once a run, for libraries and models.
    """

    seconds: float
    unit: Unit
    beside: float = 0.2
    more: tuple[tuple[float, Unit], ...] = ()
    first: float = 0.0


class Memory(NamedTuple):
    """What a step has in memory at most: ``fixed`` GiB for libraries, model and batches, and bytes per ``image`` of the partition
    and per image ``of_lake``. Nothing else grows with the corpus. Of vectors, neighbours, pairs and triplets measured
    with profile ``demo``, of others estimated; a model of billions of parameters takes more, which a deployment says for itself
    (docs/cluster.md)."""

    fixed: float
    image: int = 0
    of_lake: int = 0

    def bytes(self, images: int, images_of_lake: int) -> int:
        """Of a partition of ``images`` in a lake of ``images_of_lake``."""
        return int(self.fixed * 2**30) + self.image * images + self.of_lake * images_of_lake


class Resources(NamedTuple):
    """What a step asks a cluster for, one partition a step. ``gpus`` are asked for where the cluster has any, and ``cores`` up to
    those of its largest node: a step runs with fewer, and longer."""

    memory: Memory
    cores: float = 1.0
    gpus: float = 0.0


def _nothing(*_: Any) -> tuple[Reads, ...]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage. ``name`` is that of its asset and of the table it writes, ``group`` the asset group.

    ``version`` is raised when the code changes what the stage computes: its partitions are then computed again everywhere.
    """

    name: str
    version: str
    partitions: Partitioning
    group: Literal["corpus", "embeddings", "mining", "annotation", "training"]
    run: str
    """Stages of one ``run`` are launched together, partition by partition; one run begins when the one before has ended."""
    needs: Literal["cpu", "gpu", "vlm"]
    settings: str
    """Dotted name of the settings it reads, as a person writes it."""
    fingerprint_settings: Callable[[Profile, str], Any]
    """Function of (profile, partition) that returns the values of those settings that change its results."""
    reads: tuple[Reads, ...] = ()
    """Tables whose content it is computed from; their digests enter the fingerprint."""
    conditional_reads: Callable[[Profile, str], tuple[Reads, ...]] = _nothing
    """Function of (profile, partition) that returns tables that only some partitions are computed from."""
    lookups: tuple[str, ...] = ()
    """Tables it opens for things that cannot change its results: pictures by id, file sizes, results of an earlier run."""
    also_writes: tuple[str, ...] = ()
    trigger: Literal["first", "when missing or stale", "after enough new pairs", "after a new checkpoint"] = "when missing or stale"
    """When automation materialises it. ``first``: at the beginning of every run; that stage has no fingerprint."""
    decisions: Callable[[Lake, Profile, str], str | None] = lambda lake, profile, partition: None
    """Function of (lake, profile, partition): fingerprint of the review decisions that the stage follows, or None."""
    needs_retry: Callable[[Profile, Facts], bool] = lambda profile, facts: False
    """Whether a partition is to be computed again although its inputs are the same, because some of its requests got no answer."""
    resources: Resources
    """What one of its steps takes; on one machine nobody asks."""
    cost: Cost | None = None
    applies: Callable[[Lake, Profile, str], bool] = lambda lake, profile, partition: True
    """Function of (lake, profile, partition): whether the stage has anything to do with the partition. If not, it is current
    without a file, and whoever reads it waits for nothing."""

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that it writes; the assets have the same names."""
        return (self.name, *self.also_writes)
