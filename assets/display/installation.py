"""``assets/definitions.yaml``: what of the definitions differs from one installation to the next. Read once a process.

It is a file beside the code, because definitions may depend neither on the environment nor on a lake.
"""

from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import dagster as dg
import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from mmret.errors import UserError
from mmret.settings.base import Settings
from mmret.stages import TABLE

FILE = Path(__file__).resolve().parents[1] / "definitions.yaml"


def _owner(name: str) -> str:
    if not (name.startswith("team:") and len(name) > 5) and "@" not in name.strip("@"):
        raise ValueError("an owner is team:NAME or an e-mail address")
    return name


def _asset(name: str) -> str:
    known = [table for stage in TABLE for table in stage.tables]
    if name not in known:
        raise ValueError(f"no asset is called {name}; there are {', '.join(known)}")
    return name


class Limit(Settings):
    """Days since the last materialisation of any partition."""

    warn: float | None = Field(None, gt=0)
    fail: float = Field(gt=0)

    @model_validator(mode="after")
    def _in_order(self) -> "Limit":
        if self.warn is not None and self.warn >= self.fail:
            raise ValueError("warn must be fewer days than fail")
        return self

    def policy(self) -> dg.FreshnessPolicy:
        warn = None if self.warn is None else timedelta(days=self.warn)
        return dg.FreshnessPolicy.time_window(fail_window=timedelta(days=self.fail), warn_window=warn)


class Source(Settings):
    """A repository that has this checkout at its root."""

    url: str | None = None
    branch: str = "main"
    platform: Literal["github", "gitlab"] | None = None

    @model_validator(mode="after")
    def _known_platform(self) -> "Source":
        if self.url and not self.platform and not any(name in self.url for name in ("github", "gitlab")):
            raise ValueError("set platform to github or gitlab: the url does not tell")
        return self


class Installation(Settings):
    owners: list[Annotated[str, AfterValidator(_owner)]] = []
    freshness: dict[Annotated[str, AfterValidator(_asset)], Limit | None] = {}
    source: Source = Source()

    def freshness_policy(self, table: str) -> dg.FreshnessPolicy | None:
        limit = self.freshness.get(table)
        return limit.policy() if limit else None


def read_installation(file: Path) -> Installation:
    """Raises UserError that names the file and the entry where one is wrong."""
    try:
        return Installation(**(yaml.safe_load(file.read_text()) or {}))
    except (yaml.YAMLError, TypeError) as error:
        raise UserError(f"{file} is not the YAML that it should be: {error}") from None
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(map(str, wrong["loc"]))
        raise UserError(f"{file}: {where}: {wrong['msg'].removeprefix('Value error, ')}") from None


@cache
def installation() -> Installation:
    """Of this checkout."""
    return read_installation(FILE)
