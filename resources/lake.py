"""The lake and its settings as Dagster resources.

``MMRET_LAKE`` names the lake of this code location, a folder or an address (default: ``lakes/demo`` of this checkout). The
settings are those the lake was last run with (``lake.yaml``); a launchpad may override any of them for one run, by the same
dotted names as ``--set``.
"""

import os
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from mmret.lake import Lake
from mmret.lake.configuration import resolve
from mmret.settings import Profile

CHECKOUT = Path(__file__).resolve().parents[1]


def lake_folder() -> str:
    """The lake this process works on, asked for whenever it is used: nothing of it is read when the code location is loaded."""
    return os.environ.get("MMRET_LAKE") or str(CHECKOUT / "lakes" / "demo")


class LakeResource(dg.ConfigurableResource):
    """Opens the lake; holds no connection, so it is safe in every step and thread."""

    folder: str | None = Field(None, description="folder or address of the lake; without it: MMRET_LAKE when the run begins")

    def open(self) -> Lake:
        return Lake(self.folder or lake_folder())


class ProfileResource(dg.ConfigurableResource):
    """The validated settings of a run: what the lake remembers, then ``overrides``."""

    overrides: dict[str, Any] = Field({}, description="settings by dotted name for this run only, for example {'mine.k': 20}")

    def of(self, lake: Lake) -> Profile:
        return resolve(lake, overrides=self.overrides)[0]
