"""What a run has still to do, in the seconds of the stage table (:mod:`mmret.stages`): the ground for the time left.

The survey of the lake says which partitions are to be computed; the table says what each costs on two cores with profile
``demo``. Of a model that the table was not measured with (another encoder, retriever or annotator) it says nothing. Costs the
survey: a Parquet footer a partition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mmret.annotate.kinds import TABLES, backend_of, engine_asked
from mmret.freshness.survey import survey
from mmret.lake import Lake
from mmret.settings import Profile, Recipe, captioning
from mmret.stage_declaration import Unit
from mmret.stages import STAGES

CHECKS = "checks"
ASKED = "asked "
"""How the names of paces begin that a model sets which answers requests, and not this machine."""
_CHECKS_SECONDS, _CHECKS_SECONDS_AN_IMAGE = 1.0, 0.0002
_BATCH, _WHOLE_TOWER = 256, 20.0  # of the recipe that the table was measured with; what training the whole tower takes instead


class Part(NamedTuple):
    """One partition of a stage. ``loop``: seconds of the loop that reports; ``beside``: others; ``first``: once a run."""

    stage: str
    partition: str
    pace: str
    """Parts of one name have a pace in common, in this run and in later ones: those of one stage, and of one model."""
    loop: float
    beside: float
    first: float
    needs: str
    """What its stage needs, as in the table."""
    known: bool
    """Whether the table was measured with what computes it. If not, the seconds are only shares."""

    @property
    def seconds(self) -> float:
        return self.loop + self.beside


LAUNCH = Part("launch", "", "launch", 0.0, 0.3, 0.0, "cpu", True)
"""Of a Dagster run, whatever it does."""


@dataclass(frozen=True)
class Work:
    """What a run finds to do. ``images``: of each shard, oldest first; ``to_do``: by stage the partitions to be computed, and
    whether each was there before; ``pictures_trained_on``: by the towers, each time."""

    images: Mapping[str, int]
    to_do: Mapping[str, Mapping[str, bool]]
    pictures_trained_on: int = 0

    @classmethod
    def of(cls, lake: Lake, profile: Profile, until: str | None = None) -> Work:
        """What ``mmret run`` would do now, up to the stage ``until``. Call it when the corpus is listed."""
        images = {shard: facts.rows for shard in lake.shards() if (facts := lake.facts("corpus_manifest", shard))}
        to_do: dict[str, dict[str, bool]] = {}
        names = list(STAGES)
        wanted = names[: names.index(until) + 1] if until else names
        for status in survey(lake, profile):
            other = STAGES[status.table].partitions == "recipe" and status.partition not in profile.train
            if status.table in wanted and status.state != "current" and not other:
                there = status.state != "missing" and _by_this_model(lake, profile, status.table, status.partition)
                to_do.setdefault(status.table, {})[status.partition] = there
        return cls(images, to_do, _pictures_trained_on(lake, profile) if "towers" in to_do else 0)

    def parts(self, profile: Profile) -> Iterator[Part]:
        """All that is to do, in the order it is done in within a stage."""
        for stage, partitions in self.to_do.items():
            for partition, again in partitions.items():
                yield self.part(profile, stage, partition, again)

    def part(self, profile: Profile, stage: str, partition: str, again: bool = False) -> Part:
        """What ``partition`` of ``stage`` costs; ``again``: it was there before."""
        cost = STAGES[stage].cost
        pace, known = _pace_of(profile, stage, partition, again and STAGES[stage].partitions == "shard")
        needs = STAGES[stage].needs
        if cost is None:
            return Part(stage, partition, pace, 0.0, 0.0, 0.0, needs, known)
        loop = cost.seconds * self._units(profile, cost.unit, partition)
        if not known:
            return Part(stage, partition, pace, loop, 0.0, 0.0, needs, known)
        beside = cost.beside + sum(seconds * self._units(profile, unit, partition) for seconds, unit in cost.more)
        return Part(stage, partition, pace, loop, beside, cost.first, needs, known)

    def checks(self) -> float:
        """Seconds of the checks at the end."""
        return _CHECKS_SECONDS + _CHECKS_SECONDS_AN_IMAGE * sum(self.images.values())

    def _units(self, profile: Profile, unit: Unit, partition: str) -> float:
        shards = list(self.images)
        at = shards.index(partition) if partition in self.images else 0
        images = self.images.get(partition, 0)
        match unit:
            case "image":
                return images
            case "image pair":
                return images * (sum(self.images[s] for s in shards[:at]) + images / 2)
            case "earlier shard":
                return at
            case "later shard":
                return len(shards) - at - 1
            case "image of the lake":
                return sum(self.images.values())
            case "picture trained on":
                return self.pictures_trained_on
            case "step":
                return _steps(profile.recipes[partition])


def _steps(recipe: Recipe) -> float:
    return recipe.steps * recipe.batch_size / _BATCH * (_WHOLE_TOWER if recipe.trainable == "all" else 1)


def _pace_of(profile: Profile, stage: str, partition: str, again: bool) -> tuple[str, bool]:
    """The name of what sets the pace of a partition, and whether the table of stages was measured with it."""
    name, known = stage, True
    if stage in profile.encoders:
        model = profile.encoders[stage].model
        name, known = f"{stage} {model}", model.startswith("towers/")
    elif asked := _model_asked(profile, stage):
        if stage == "instructions" and profile.annotate.one_step:
            name = f"{stage} read"  # from the answers of the descriptions
        else:  # a question about descriptions takes as long as one about instructions, until seen
            name, known = f"{ASKED}{asked.backend} {asked.model}", again
    elif stage == "checkpoints":
        name, known = f"{stage} {partition}", _from_towers(profile, partition)
    elif stage == "evaluations":
        name, known = stage, _from_towers(profile, partition)
    return f"{name} again" if again else name, known


class _Asked(NamedTuple):
    backend: str
    model: str


def _model_asked(profile: Profile, stage: str) -> _Asked | None:
    """The model whose answers ``stage`` waits for; None where it asks none."""
    if stage == "written_captions" and profile.captions.asks_model:
        asked = captioning(profile.captions, profile.annotate)
        return _Asked(asked.backend, asked.vision.model) if asked.vision else None
    table = next((table for table in TABLES if table == stage), None)
    engine = engine_asked(table, profile.annotate) if table else None
    return _Asked(backend_of(table, profile.annotate), engine.model) if table and engine else None


def _by_this_model(lake: Lake, profile: Profile, stage: str, partition: str) -> bool:
    """Whether the answers behind a partition of texts are those of the model that is asked now, so that most are known."""
    asked = _model_asked(profile, stage)
    if asked is None:
        return True
    facts = lake.facts(stage, partition)
    return bool(facts and asked.model in (facts.notes.get("model") or ""))


def _from_towers(profile: Profile, recipe: str) -> bool:
    """Whether a recipe trains the lake's own towers, perhaps by way of other recipes."""
    seen: set[str] = set()
    while recipe in profile.recipes and recipe not in seen:
        seen.add(recipe)
        base = profile.recipes[recipe].base
        if base.startswith("towers/"):
            return True
        recipe = base.removeprefix("checkpoints/")
    return False


def _pictures_trained_on(lake: Lake, profile: Profile) -> int:
    """Pictures that go through a tower, forward and backward, while they are trained."""
    settings = profile.towers
    if settings is None:
        return 0
    from mmret.towers.corpus import distinct_words
    from mmret.towers.train import steps

    captions = [c for c in lake.read("corpus_manifest", columns=["caption"])["caption"].to_pylist() if c]
    images, words = min(len(captions), settings.max_images), distinct_words(captions[: settings.max_images])
    passes = (settings.epochs, settings.dino_epochs)
    return settings.batch_size * sum(steps(epochs, images, words, settings) for epochs in passes)
