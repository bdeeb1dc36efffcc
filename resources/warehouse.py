"""DuckDB over the lake, for checks and for SQL in assets. It is in memory and has views only, so it needs no lock or refresh."""

from typing import Any

import dagster as dg

from resources.lake import LakeResource


class Warehouse(dg.ConfigurableResource):
    """A fresh connection with one view per table of the lake."""

    lake: LakeResource

    def connect(self) -> Any:
        from mmret.warehouse import connect

        return connect(self.lake.open())
