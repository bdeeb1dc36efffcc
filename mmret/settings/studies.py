"""The paper's studies as data: every variant of every study is a recipe like any other, so a backfill reproduces them.

A profile with a section ``studies`` gets these recipes when it is loaded; :mod:`mmret.studies` compares what came out.

The paper's claims (section 4.4 and tables 5 to 7; paper.md, section 4): negatives none < + query image < + mined; the
three signals together at least as good as each alone; more pairs are better; and n mined triplets beat 70 n pairs of
another kind. A recipe that several studies share is trained once. Costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, ValidationError

from mmret.schemas import SIGNALS
from mmret.settings.base import Settings

PREFIX = "study-"
"""What the names of the recipes below begin with."""


SHORT = {"clip_image": "I", "dino_image": "D", "caption": "T"}
"""The paper's letters for the signals."""


class StudySettings(Settings):
    """The paper's ablations and scaling study, and its headline, as recipes."""

    recipe: str = Field(description="the recipe of this profile that every variant starts from")
    change: dict[str, Any] = Field({}, description="settings of that recipe that differ in the studies, for example fewer steps")
    seeds: int = Field(3, ge=1, description="runs of each variant: order, texts, negatives and the subset of pairs are drawn anew")
    pairs: int = Field(ge=16, description="of the negatives study and the largest of the scaling study (paper: 1 M)")
    volume: dict[str, Any] = Field(
        {},
        description="settings that differ in the scaling study and the headline too, such "
        "as more steps: a run has to see its pairs",
    )
    shares: tuple[float, ...] = Field((1 / 16, 1 / 4, 1), description="of pairs, in the scaling study")
    signal_pairs: int = Field(ge=1, description="of every variant of the signals study, alone and together")
    headline_pairs: int = Field(ge=1, description="n mined triplets, against times * n naive pairs")
    times: int = Field(70, ge=1, description="paper: 0.5 M mined pairs beat MagicLens on 36.7 M")
    benchmark: str = "held-out edits"
    metric: str = "R@10"


@dataclass(frozen=True)
class Variant:
    """One row of a study: what differs from the recipe the studies start from."""

    label: str
    change: dict[str, Any]


@dataclass(frozen=True)
class Study:
    """``claim``: ``rising``: every variant beats the one before; ``last``: the last is as good as each of the others."""

    name: str
    title: str
    claim: Literal["rising", "last"]
    variants: tuple[Variant, ...]


def designs(settings: StudySettings) -> tuple[Study, ...]:
    """The four studies of ``settings``."""
    full = {"pairs": settings.pairs}
    naive = settings.volume | {"pair_source": "naive", "pairs": settings.times * settings.headline_pairs, "negatives": "query"}
    return (
        Study(
            "negatives",
            "hard negatives",
            "rising",
            (
                Variant("none", full | {"negatives": "none"}),
                Variant("+ query image", full | {"negatives": "query"}),
                Variant("+ mined", full),
            ),
        ),
        Study(
            "signals",
            f"signals, {settings.signal_pairs:,} pairs each",
            "last",
            (
                *(Variant(SHORT[s], {"pairs": settings.signal_pairs, "signals": [s]}) for s in SIGNALS),
                Variant("I+D+T", {"pairs": settings.signal_pairs}),
            ),
        ),
        Study(
            "scaling",
            "mined pairs",
            "rising",
            tuple(
                Variant(f"{n:,}", settings.volume | {"pairs": n})
                for n in sorted(max(1, round(settings.pairs * share)) for share in settings.shares)
            ),
        ),
        Study(
            "headline",
            "naive or mined",
            "rising",
            (
                Variant(f"{naive['pairs']:,} naive", naive),
                Variant(f"{settings.headline_pairs:,} mined", settings.volume | {"pairs": settings.headline_pairs}),
            ),
        ),
    )


def runs(settings: StudySettings) -> Iterator[tuple[Study, Variant, int, str]]:
    """(study, variant, seed, name of its recipe) of every run. A run that an earlier study contains has that study's name, so it
    is trained once."""
    names: dict[str, str] = {}
    for study in designs(settings):
        for place, variant in enumerate(study.variants):
            for seed in range(settings.seeds):
                content = json.dumps([sorted(variant.change.items()), seed])
                yield study, variant, seed, names.setdefault(content, f"{PREFIX}{study.name}-{place}-{seed}")


def add_study_recipes(data: dict[str, Any]) -> dict[str, Any]:
    """The raw settings of a profile with the recipes of its ``studies`` added, where it has any.

    What does not validate is left for the profile's own validation to name.
    """
    given, recipes = data.get("studies"), data.get("recipes")
    if given is None or not isinstance(recipes, dict):
        return data
    try:
        settings = given if isinstance(given, StudySettings) else StudySettings.model_validate(given)
    except ValidationError:
        return data
    start = recipes.get(settings.recipe)
    if start is None:
        raise ValueError(f"studies: no recipe called {settings.recipe}; there are {', '.join(recipes)}")
    start = start if isinstance(start, dict) else start.model_dump()
    added = {name: {**start, **settings.change, **variant.change, "seed": seed} for _, variant, seed, name in runs(settings)}
    return {**data, "recipes": {**recipes, **added}}
