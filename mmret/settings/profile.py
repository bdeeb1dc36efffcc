"""A profile: the settings of every stage together, from a YAML file in ``resources/profiles/`` and dotted overrides.

Example: ``load_profile("demo", {"mine.k": 20})``. Costs some milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from mmret.errors import UserError
from mmret.paths import local_path
from mmret.schemas import SIGNALS
from mmret.settings.alarms import AlarmSettings
from mmret.settings.annotation import AnnotateSettings, QualitySettings
from mmret.settings.base import Settings, Signal
from mmret.settings.captions import CaptionSettings, captioning
from mmret.settings.corpus import CorpusSettings, HistorySettings, IngestSettings, LeakSettings, LicenceSettings
from mmret.settings.mining import DuplicateSettings, MineSettings
from mmret.settings.recipe_links import check_links, in_training_order
from mmret.settings.scoring import ScorerSettings
from mmret.settings.similarity import EncoderSettings, TowerSettings
from mmret.settings.studies import StudySettings, add_study_recipes
from mmret.settings.training import EvaluateSettings, Recipe

PROFILES = Path(__file__).resolve().parents[2] / "resources" / "profiles"


class AutomationSettings(Settings):
    """What the sensors of the Dagster UI wait for; `mmret run` waits for nothing."""

    settle_seconds: int = Field(60, ge=0, description="a watched source is sealed once it has not changed for so long")
    new_pairs: int = Field(
        10_000,
        ge=1,
        description="training starts by itself once there are so many triplets that the last checkpoint of the recipe has not seen",
    )


class Profile(Settings):
    name: str
    description: str = ""
    corpus: CorpusSettings = CorpusSettings()
    ingest: IngestSettings = IngestSettings()
    captions: CaptionSettings = CaptionSettings()
    leaks: LeakSettings = LeakSettings()
    licences: LicenceSettings = LicenceSettings()
    history: HistorySettings = HistorySettings()
    towers: TowerSettings | None = None
    encoders: dict[Signal, EncoderSettings]
    mine: MineSettings = MineSettings()
    duplicates: DuplicateSettings = DuplicateSettings()
    scores: dict[str, ScorerSettings] = Field({}, description="scores of pictures by name (docs/filters.md)")
    annotate: AnnotateSettings = AnnotateSettings()
    quality: QualitySettings = QualitySettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    recipes: dict[str, Recipe]
    studies: StudySettings | None = Field(None, description="recipes are added for them: study-<study>-<variant>-<seed>")
    automation: AutomationSettings = AutomationSettings()
    alarms: AlarmSettings = AlarmSettings()
    train: tuple[str, ...] = Field((), description="recipes that `mmret run` trains; the others wait to be asked for")
    threads: int | None = Field(None, description="CPU threads of torch; None: as many as there are cores")

    @model_validator(mode="before")
    @classmethod
    def _with_studies(cls, data: Any) -> Any:
        return add_study_recipes(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _complete(self) -> Profile:
        if missing := [s for s in SIGNALS if s not in self.encoders]:
            raise ValueError(f"encoders: no model for {', '.join(missing)}")
        if self.captions.asks_model:
            captioning(self.captions, self.annotate)
        if unknown := [r for r in self.train if r not in self.recipes]:
            raise ValueError(f"train: no recipe called {', '.join(unknown)}; there are {', '.join(self.recipes)}")
        check_links(self.recipes, has_judge=self.annotate.vision is not None)
        return self

    def in_training_order(self, names: Iterable[str]) -> list[str]:
        """Recipes ``names``, each behind those of them whose checkpoints it needs, else in the order given."""
        return in_training_order(self.recipes, self.train, names)


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The loader written in C where PyYAML has it: every step of a graph reads its settings."""


def profile_names() -> list[str]:
    return sorted(p.stem for p in PROFILES.glob("*.yaml"))


def load_profile(name: str, overrides: dict[str, Any] | None = None) -> Profile:
    """Read profile ``name`` (a name in ``resources/profiles`` or a path to a YAML file) and apply dotted overrides.

    Raises UserError naming the key, for an unknown profile or key or a value out of range.
    """
    path = local_path(name, "the profile") if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"no profile '{name}': there are {', '.join(profile_names())}, or give the path of a YAML file")
    try:
        data = yaml.load(path.read_text(), Loader=_LOADER)
    except yaml.YAMLError as error:
        raise UserError(f"profile {path} is not valid YAML: {error}") from None
    data = {"name": path.stem, **data}
    for key, value in (overrides or {}).items():
        _set(data, key, value)
    try:
        return Profile.model_validate(data)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise UserError("settings that do not fit:\n" + "\n".join(lines)) from None


def parse_override(text: str) -> tuple[str, Any]:
    """``"mine.k=20"`` to ``("mine.k", 20)``; the value is read as YAML."""
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise UserError(f"--set {text}: expected key=value, for example mine.k=20")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"--set {text}: the value is not valid YAML") from None


def _set(data: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise UserError(f"--set {dotted}: '{parent}' has no keys of its own")
    data[last] = deepcopy(value)  # a later override of one of its parts is no change of this one
