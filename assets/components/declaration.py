"""What both component types share: their attributes are the fields of the class, of which every one is checked, names and values.

Dagster's own reading of a class lets any text stand for a number or a choice, because it may be a template; here a template stands
where a text may, and `dg check yaml` and editors refuse ``precision: bflaot16``.
"""

from pathlib import Path
from typing import Any, Self

import dagster as dg
from pydantic import BaseModel, Field

from mmret.lake.configuration import URL_LIST
from mmret.paths import local_path
from mmret.storage import is_object_address
from resources.lake import LakeResource

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
LAKE = Field(
    None,
    description="folder or address of the lake that this is for; without it: whichever lake this code location serves",
)
SCHEDULE = Field(None, examples=["0 2 * * *"], description="cron line")


class Declaration(dg.Component, dg.Resolvable):
    """A component whose class is its own schema."""

    @classmethod
    def model(cls) -> type[BaseModel]:
        return cls  # type: ignore[return-value]

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> Self:
        return cls(**{name: context.resolve_value(value) for name, value in model.model_dump(exclude_unset=True).items()})


def in_project(path: str, project_root: Path) -> str:
    """``path`` of a defs.yaml, a relative one from the folder with pyproject.toml; built-in corpora as they are.

    Raises UserError for an address.
    """
    if path.startswith("shapes:"):
        return path
    kind = URL_LIST if path.startswith(URL_LIST) else ""
    return kind + str(project_root / local_path(path.removeprefix(kind), "path:"))


def lake_in_project(lake: str | None, project_root: Path) -> str | None:
    """The lake that a defs.yaml names, a relative folder from the folder with pyproject.toml; an address as it is."""
    return lake if not lake or is_object_address(lake) else in_project(lake, project_root)


def cron(name: str, job: str, schedule: str, description: str, ask: Any) -> dg.ScheduleDefinition:
    """A schedule of the job called ``job``; ``ask(context, lake)`` returns what to run, or why not. It is switched on: somebody has
    asked for it in a file."""

    @dg.schedule(
        name=name.replace("-", "_"),
        job_name=job,
        cron_schedule=schedule,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=description,
    )
    def ticking(context: dg.ScheduleEvaluationContext, lake: LakeResource) -> Any:
        return ask(context, lake.open())

    return ticking
