"""Which arms are compared, read from a file: an arm is a lake and what differs from the recipe that all begin with.

The files beside this one are the comparisons that come with the project. Costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from mmret.errors import UserError
from mmret.settings import Recipe
from mmret.studies.statistics import Claim

FOLDER = Path(__file__).resolve().parent


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Beforehand(_Data):
    """A checkpoint that arms need, such as a teacher: ``recipe`` of the lakes' profile with ``change``. It is trained once a lake,
    and what it costs is in no figure of an arm; it is printed beside them."""

    recipe: str
    change: dict[str, Any] = {}


class Arm(_Data):
    """``recipe``: settings that differ. ``before``: names of checkpoints of the plan that are made first, in this order."""

    name: str
    lake: Literal["words", "plain", "near"] = "words"
    recipe: dict[str, Any] = {}
    before: tuple[str, ...] = ()


class Study(_Data):
    """``time``: ``equal``: every arm has as many steps as cost what ``--steps`` of the file's first arm cost; ``steps``: as many
    steps. An arm whose recipe says ``steps`` has those."""

    name: str
    claim: Claim = "over_first"
    time: Literal["equal", "steps"] = "equal"
    arms: tuple[Arm, ...]

    @field_validator("arms")
    @classmethod
    def _several(cls, arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
        names = [arm.name for arm in arms]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"a study compares arms of different names, and has {names}")
        return arms


class Plan(_Data):
    """``recipe``: of the lakes' profile, what all arms begin with; ``change``: what differs from it in all of them."""

    recipe: str = "demo"
    change: dict[str, Any] = {}
    before: dict[str, Beforehand] = {}
    studies: tuple[Study, ...]

    @model_validator(mode="before")
    @classmethod
    def _arms_by_name(cls, data: Any) -> Any:
        """Where a study has only a name, it means the arm of that name in a study before."""
        named: dict[str, Any] = {}
        for study in data.get("studies") or [] if isinstance(data, dict) else []:
            arms = study.get("arms") if isinstance(study, dict) else None
            for place, arm in enumerate(arms if isinstance(arms, list) else []):
                if isinstance(arm, str):
                    if arm not in named:
                        raise ValueError(f"no study before has an arm called '{arm}'")
                    arms[place] = named[arm]
                elif isinstance(arm, dict) and named.setdefault(arm.get("name"), arm) is not arm:
                    raise ValueError(f"two arms are called '{arm.get('name')}': name the first alone where it is meant again")
        return data

    @model_validator(mode="after")
    def _made_before(self) -> Plan:
        for study in self.studies:
            for arm in study.arms:
                if unknown := [name for name in arm.before if name not in self.before]:
                    raise ValueError(f"arm '{arm.name}' needs {unknown}, which `before` of the file does not say how to make")
        return self

    def arms(self) -> Iterator[tuple[Study, Arm]]:
        """Each arm once, with the first study that has it."""
        seen: set[str] = set()
        for study in self.studies:
            for arm in study.arms:
                if arm.name not in seen:
                    seen.add(arm.name)
                    yield study, arm

    def recipe_of(self, arm: Arm, start: Recipe, seed: int = 0, **more: Any) -> Recipe:
        """The recipe of a run. Raises UserError where the arm's settings are none."""
        return changed(start, arm.name, {"evaluate_every": None} | self.change | arm.recipe | {"seed": seed} | more)


def changed(start: Recipe, name: str, change: dict[str, Any]) -> Recipe:
    """``start`` with ``change``. Raises UserError with ``name`` where that is no recipe."""
    try:
        return Recipe.model_validate(start.model_dump() | change)
    except ValidationError as error:
        raise UserError(f"'{name}' is no recipe: {error}") from None


def read_plan(file: Path) -> Plan:
    """The plan in ``file``, or that of the name among the project's own. Raises UserError with the place that is wrong."""
    own = FOLDER / f"{file}.yaml"
    path = own if own.is_file() else file
    try:
        return Plan.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        there = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
        raise UserError(f"cannot read the arms {path}: {error.strerror}; there are {there}, or a file of your own") from None
    except (ValidationError, yaml.YAMLError) as error:
        raise UserError(f"{path}: {error}") from None
